//! Workloads as the API gives them, and what their metadata says. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kubernetes::{PRIOR, Resource, STOPPED_BY, text_at};

/// Which components a workload is stopped for, comma-separated, or `all`.
pub(super) const STOP_FOR: &str = "neurashield.backup/stop-for";
/// Names of workloads that it is started after.
const START_AFTER: &str = "neurashield.backup/start-after";
/// What can be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkloadKind {
    Deployment,
    StatefulSet,
    CronJob,
}

impl WorkloadKind {
    pub(super) const ALL: [Self; 3] = [Self::Deployment, Self::StatefulSet, Self::CronJob];

    pub(super) fn resource(self) -> Resource {
        match self {
            Self::Deployment => Resource::new("apps", "v1", "Deployment", "deployments"),
            Self::StatefulSet => Resource::new("apps", "v1", "StatefulSet", "statefulsets"),
            Self::CronJob => Resource::new("batch", "v1", "CronJob", "cronjobs"),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::CronJob => "cronjob",
        }
    }
}

/// Where a workload lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct WorkloadId {
    pub(crate) namespace: String,
    pub(crate) kind: WorkloadKind,
    pub(crate) name: String,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind.word(), self.name)
    }
}

/// A workload that a restore stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) id: WorkloadId,
    /// What it was: what its note says, for the case that somebody takes that off.
    pub(crate) prior: String,
    /// The restore; empty before one has begun.
    pub(crate) by: String,
}

/// A workload as the API gives it. Environments stand in it: it is not shown.
#[derive(Clone)]
pub(super) struct Workload {
    pub(super) id: WorkloadId,
    object: Value,
}

impl Workload {
    /// None: it has no name.
    pub(super) fn new(kind: WorkloadKind, object: Value) -> Option<Self> {
        let of = |pointer| Some(text_at(&object, pointer).to_owned()).filter(|text| !text.is_empty());
        let id = WorkloadId { namespace: of("/metadata/namespace")?, kind, name: of("/metadata/name")? };
        Some(Self { id, object })
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.object.pointer("/metadata/annotations")?.get(name)?.as_str()
    }

    pub(super) fn uid(&self) -> &str {
        text_at(&self.object, "/metadata/uid")
    }

    pub(super) fn version(&self) -> &str {
        text_at(&self.object, "/metadata/resourceVersion")
    }

    /// True if an annotation says that it is stopped for this component.
    pub(super) fn stops_for(&self, component: &str) -> bool {
        let names =
            |text: &str| text.split(',').any(|one| matches!(one.trim(), "all") || one.trim() == component);
        self.annotation(STOP_FOR).is_some_and(names)
    }

    /// As the object says now: `3` replicas, or whether a CronJob is suspended.
    pub(super) fn state(&self) -> State {
        match self.id.kind {
            WorkloadKind::CronJob => {
                let suspended = self.object.pointer("/spec/suspend").and_then(Value::as_bool);
                State::Suspended(suspended.unwrap_or(false))
            }
            // Without a number it is one.
            _ => State::Replicas(number(&self.object, "/spec/replicas").unwrap_or(1)),
        }
    }

    /// How it was before it was stopped, if that was noted.
    pub(super) fn prior(&self) -> Option<State> {
        State::parse(self.id.kind, self.annotation(PRIOR)?)
    }

    /// The agent and the restore that have stopped it.
    pub(super) fn holder(&self) -> Option<&str> {
        self.annotation(STOPPED_BY)
    }

    /// True if its volumes go with its replicas.
    pub(super) fn loses_volumes(&self) -> bool {
        proto::workload::loses_volumes(&self.object)
    }

    /// True if its controller has seen that it is to have none, and has none.
    pub(super) fn is_seen_down(&self) -> bool {
        let of = |pointer| number(&self.object, pointer).unwrap_or(0);
        self.id.kind == WorkloadKind::CronJob
            || (of("/status/observedGeneration") >= of("/metadata/generation") && of("/status/replicas") == 0)
    }

    /// True if it runs, or would but for a restore that has stopped it.
    pub(super) fn runs(&self) -> bool {
        self.state().runs() || self.prior().is_some_and(State::runs)
    }

    /// The full names of those that it is started after.
    pub(super) fn after(&self, all: &[Workload]) -> Vec<String> {
        let named = self.annotation(START_AFTER).unwrap_or_default().split(',').map(str::trim);
        let full = |name: &str| {
            let called = |one: &&Workload| {
                let id = &one.id;
                let short = format!("{}/{}", id.kind.word(), id.name);
                id.namespace == self.id.namespace && (id.name == name || short == name)
                    || id.to_string() == name
            };
            all.iter().find(called).map_or_else(|| name.to_owned(), |one| one.id.to_string())
        };
        named.filter(|name| !name.is_empty()).map(full).collect()
    }

    /// Selects its pods, as `labelSelector` takes it.
    pub(super) fn pods(&self) -> String {
        let labels = self.object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
        let mut parts: Vec<String> = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let more = self.object.pointer("/spec/selector/matchExpressions").and_then(Value::as_array);
        parts.extend(more.into_iter().flatten().filter_map(expression));
        parts.join(",")
    }

    /// True if its pods have a check of their readiness.
    pub(super) fn is_checked(&self) -> bool {
        let containers = self.object.pointer("/spec/template/spec/containers").and_then(Value::as_array);
        containers.into_iter().flatten().any(|one| one.get("readinessProbe").is_some())
    }

    /// Why not all of its replicas are ready; none: they are.
    pub(super) fn lacks(&self) -> Option<String> {
        let State::Replicas(wanted) = self.state() else { return None };
        let of = |pointer| number(&self.object, pointer).unwrap_or(0);
        if of("/status/observedGeneration") < of("/metadata/generation") {
            return Some("its controller has not seen the change yet".to_owned());
        }
        let ready = of("/status/readyReplicas");
        (ready < wanted).then(|| format!("{ready} of {wanted} replicas are ready"))
    }

    /// Who would start it again while it has to stand, and what to do about that.
    pub(super) fn keeper(&self) -> Option<String> {
        proto::workload::keeper(&self.object)
    }
}

/// Whether and how much of a workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Replicas(i64),
    Suspended(bool),
}

impl State {
    pub(super) fn runs(self) -> bool {
        matches!(self, Self::Replicas(1..) | Self::Suspended(false))
    }

    pub(super) fn parse(kind: WorkloadKind, text: &str) -> Option<Self> {
        match (kind, text) {
            (WorkloadKind::CronJob, "suspended") => Some(Self::Suspended(true)),
            (WorkloadKind::CronJob, "scheduled") => Some(Self::Suspended(false)),
            (WorkloadKind::CronJob, _) => None,
            (_, number) => number.parse().ok().filter(|count| *count >= 0).map(Self::Replicas),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicas(count) => write!(f, "{count}"),
            Self::Suspended(true) => f.write_str("suspended"),
            Self::Suspended(false) => f.write_str("scheduled"),
        }
    }
}

fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

fn expression(one: &Value) -> Option<String> {
    let key = one.get("key")?.as_str()?;
    let values: Vec<&str> =
        one.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let values = values.join(",");
    Some(match one.get("operator")?.as_str()? {
        "In" => format!("{key} in ({values})"),
        "NotIn" => format!("{key} notin ({values})"),
        "Exists" => key.to_owned(),
        "DoesNotExist" => format!("!{key}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload(kind: WorkloadKind, metadata: Value, more: Value) -> Workload {
        let mut object = json!({ "metadata": { "name": "web", "namespace": "shop" } });
        for (into, from) in [("/metadata", metadata), ("", more)] {
            let into = object.pointer_mut(into).and_then(Value::as_object_mut).expect("an object");
            into.extend(from.as_object().expect("an object").clone());
        }
        Workload::new(kind, object).expect("it has a name")
    }

    fn noted(annotations: Value) -> Workload {
        workload(WorkloadKind::Deployment, json!({ "annotations": annotations }), json!({}))
    }

    #[test]
    fn an_annotation_says_for_which_components_a_workload_is_stopped() {
        let some = noted(json!({ STOP_FOR: "models, ipfs" }));
        assert!(some.stops_for("models") && some.stops_for("ipfs") && !some.stops_for("configs"));
        assert!(noted(json!({ STOP_FOR: "all" })).stops_for("configs"));
        assert!(!noted(json!({})).stops_for("models"));
    }

    #[test]
    fn what_was_noted_before_a_stop_counts_as_running() {
        let scaled = |replicas: i64, annotations: Value| {
            workload(
                WorkloadKind::StatefulSet,
                json!({ "annotations": annotations }),
                json!({ "spec": { "replicas": replicas } }),
            )
        };
        assert!(scaled(2, json!({})).runs() && !scaled(0, json!({})).runs());
        let stopped = scaled(0, json!({ PRIOR: "3" }));
        assert_eq!((stopped.runs(), stopped.prior()), (true, Some(State::Replicas(3))));
        assert_eq!(scaled(0, json!({ PRIOR: "three" })).prior(), None);
        let job = |suspend: bool, annotations: Value| {
            let spec = json!({ "spec": { "suspend": suspend } });
            workload(WorkloadKind::CronJob, json!({ "annotations": annotations }), spec)
        };
        assert!(job(false, json!({})).runs() && !job(true, json!({})).runs());
        assert!(job(true, json!({ PRIOR: "scheduled" })).runs());
        for state in [State::Suspended(true), State::Suspended(false)] {
            assert_eq!(State::parse(WorkloadKind::CronJob, &state.to_string()), Some(state));
        }
    }

    #[test]
    fn what_loses_its_volumes_or_is_not_yet_down_is_known() {
        let spec = |policy: &str| {
            let policy = json!({ "whenScaled": policy });
            let spec = json!({ "spec": { "persistentVolumeClaimRetentionPolicy": policy } });
            workload(WorkloadKind::StatefulSet, json!({}), spec)
        };
        assert!(spec("Delete").loses_volumes() && !spec("Retain").loses_volumes());
        let down = |generation: i64, replicas: i64| {
            let status = json!({ "status": { "observedGeneration": generation, "replicas": replicas } });
            workload(WorkloadKind::Deployment, json!({ "generation": 3 }), status)
        };
        assert!(down(3, 0).is_seen_down() && !down(2, 0).is_seen_down() && !down(3, 1).is_seen_down());
    }

    #[test]
    fn pods_are_selected_as_the_workload_selects_them() {
        let selector = json!({ "spec": { "selector": {
            "matchLabels": { "app": "web", "tier": "front" },
            "matchExpressions": [
                { "key": "track", "operator": "In", "values": ["a", "b"] },
                { "key": "old", "operator": "DoesNotExist" },
            ],
        } } });
        let web = workload(WorkloadKind::Deployment, json!({}), selector);
        assert_eq!(web.pods(), "app=web,tier=front,track in (a,b),!old");
    }

    #[test]
    fn dependencies_are_named_short_or_in_full() {
        let named = |name: &str| {
            let mut one = noted(json!({}));
            one.id.name = name.into();
            one
        };
        let all = [named("db"), named("cache")];
        let after = |text: &str| noted(json!({ START_AFTER: text })).after(&all);
        let both = ["shop/deployment/db", "shop/deployment/cache"];
        assert_eq!(after("db, deployment/cache"), both);
        assert_eq!(after("shop/deployment/db,shop/deployment/cache"), both);
        assert_eq!(after("gone"), ["gone"]);
    }

    #[test]
    fn it_is_well_when_its_controller_has_seen_it_and_all_are_ready() {
        let status = |generation: i64, ready: i64| {
            workload(
                WorkloadKind::Deployment,
                json!({ "generation": 2 }),
                json!({ "spec": { "replicas": 2 }, "status": { "observedGeneration": generation, "readyReplicas": ready } }),
            )
        };
        assert_eq!(status(2, 2).lacks(), None);
        assert_eq!(status(2, 1).lacks().as_deref(), Some("1 of 2 replicas are ready"));
        assert!(status(1, 2).lacks().expect("old").contains("not seen the change"));
    }
}
