//! Restore pods: who stands in for which sidecar, what has to stand meanwhile, and what is in the way.
//!
//! Must stay true: what something else would start again, what an agent's restore holds, and a pod that would go on
//! to write are told before anything is stopped; nothing but the named workloads is scaled. See
//! `docs/decisions/0054-a-restore-pod-stands-in-for-a-sidecar.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use proto::v1;
use proto::workload::{PRIOR, STOPPED_BY, annotation, keeper, loses_volumes, text_at};
use repository::names::SourceId;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{Api, ApiTrouble, Kind, WorkloadId};
use super::hold::Ran;
use crate::config::RestorePod;
use crate::identity::SourceBounds;

/// Between two looks at something that changes.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A restore pod's Deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodId {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) deployment: String,
}

impl PodId {
    /// As a workload.
    pub(crate) fn workload(&self) -> WorkloadId {
        let (namespace, name) = (self.namespace.clone(), self.deployment.clone());
        WorkloadId { namespace, kind: Kind::Deployment, name }
    }
}

/// What stopping for a restore would mean.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// What is stopped, and what rests, in the order in which it is started.
    pub(crate) stops: Vec<v1::Application>,
    /// What runs now.
    pub(crate) runs: Vec<Ran>,
    pub(crate) obstacles: Vec<String>,
}

/// One restore pod and the way to its cluster.
#[derive(Clone)]
pub(crate) struct StandIn {
    pub(crate) pod: RestorePod,
    pub(crate) api: Api,
    /// One restore at a time in a namespace.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// Who waits for something here gives it up then.
    given_up: CancellationToken,
}

/// All restore pods of the configuration. Cheap to clone; by itself there are none.
#[derive(Clone, Default)]
pub struct RestorePods(Arc<Inner>);

impl std::fmt::Debug for RestorePods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RestorePods").field(&self.0.pods).finish()
    }
}

#[derive(Default)]
struct Inner {
    pods: Vec<(RestorePod, SourceBounds)>,
    api: Option<Api>,
    /// By namespace: two restore pods may stand in for the same workload.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl RestorePods {
    /// Those of the configuration, which was checked, by this client.
    pub fn new(pods: &[RestorePod], client: Option<Client>) -> Self {
        let read = |pod: &RestorePod| {
            (pod.clone(), SourceBounds::new(&pod.sources).expect("the configuration was checked"))
        };
        let pods = pods.iter().map(read).collect();
        Self(Arc::new(Inner { pods, api: client.map(Api::new), turns: Mutex::default() }))
    }

    /// The one that restores this source in place.
    pub(crate) fn of(&self, source: &SourceId) -> Option<StandIn> {
        let (pod, _) = self.0.pods.iter().find(|(_, sources)| sources.allow(source))?;
        self.stand_in(pod)
    }

    /// The one with this Deployment, if it is still configured.
    pub(crate) fn called(&self, id: &PodId) -> Option<StandIn> {
        let (pod, _) = self.0.pods.iter().find(|(pod, _)| id_of(pod) == *id)?;
        self.stand_in(pod)
    }

    /// True if there is none.
    pub(crate) fn are_none(&self) -> bool {
        self.0.pods.is_empty()
    }

    fn stand_in(&self, pod: &RestorePod) -> Option<StandIn> {
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(pod.namespace.clone()).or_default().clone();
        Some(StandIn { pod: pod.clone(), api: self.0.api.clone()?, turn, given_up: CancellationToken::new() })
    }
}

fn unclear(trouble: &ApiTrouble) -> String {
    format!("it cannot be said what uses the volume: {trouble}")
}

fn id_of(pod: &RestorePod) -> PodId {
    PodId { namespace: pod.namespace.clone(), deployment: pod.deployment.clone() }
}

impl StandIn {
    pub(crate) fn id(&self) -> PodId {
        id_of(&self.pod)
    }

    /// The same, whose waiting can be given up.
    pub(crate) fn given_up_with(&self, given_up: CancellationToken) -> Self {
        Self { given_up, ..self.clone() }
    }

    /// An error once the waiting was given up.
    pub(crate) fn goes_on(&self) -> Result<(), String> {
        match self.given_up.is_cancelled() {
            false => Ok(()),
            true => Err("it was cancelled".to_owned()),
        }
    }

    /// True if they stand in for a workload that is the same.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        self.workloads().any(|own| other.workloads().any(|one| one == own))
    }

    /// What has to stand for it, in the order in which it is started.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = WorkloadId> {
        let named = self.pod.workloads.iter();
        named.filter_map(|text| WorkloadId::of(&self.pod.namespace, text))
    }

    /// What would be stopped, and what is in the way. Changes nothing.
    pub(crate) async fn look(&self) -> Look {
        let mut look = Look::default();
        if let Err(trouble) = self.look_at_all(&mut look).await {
            look.obstacles.push(unclear(&trouble));
        }
        look
    }

    /// The same, where an API server that does not answer is waited for, as long as a workload is that stops.
    pub(crate) async fn look_patiently(&self) -> Look {
        let began = Instant::now();
        loop {
            let mut look = Look::default();
            match self.look_at_all(&mut look).await {
                Ok(()) => return look,
                Err(trouble)
                    if trouble.is_passing()
                        && began.elapsed() < self.pod.stop_limit.get()
                        && self.goes_on().is_ok() =>
                {
                    tokio::time::sleep(LOOK_AGAIN).await
                }
                Err(trouble) => {
                    look.obstacles.push(unclear(&trouble));
                    return look;
                }
            }
        }
    }

    async fn look_at_all(&self, look: &mut Look) -> Result<(), ApiTrouble> {
        let autoscalers = self.api.autoscalers(&self.pod.namespace).await?;
        let mut stopped_pods = BTreeSet::new();
        for id in self.workloads() {
            let Some(object) = self.api.workload(&id).await? else {
                look.obstacles.push(format!(
                    "there is no {id}, which is stopped for the restore: see `workloads` of its restore pod"
                ));
                continue;
            };
            let replicas = replicas(&object);
            look.stops.push(v1::Application {
                name: id.to_string(),
                kind: "workload".to_owned(),
                running: replicas > 0,
                checked: is_checked(&object),
            });
            if let Some(by) = annotation(&object, STOPPED_BY) {
                let prior = annotation(&object, PRIOR).unwrap_or("unknown");
                look.obstacles.push(format!(
                    "{id} is stopped by a restore (AGENT/RESTORE: {by}): wait for its end; if it is long over, make it \
                     what it was ({prior}) and take the annotations {PRIOR} and {STOPPED_BY} off"
                ));
            }
            if replicas > 0 {
                look.obstacles.extend(kept(&id, &object, &autoscalers));
                look.runs.push(Ran { id: id.clone(), replicas });
            }
            // It is asked for without being done, so that a right that is missing is missing now.
            self.api.scale(&id, 0, true).await?;
            let selector = self.api.selector(&id).await?;
            let pods = self.api.pods(&id.namespace, &selector).await?;
            stopped_pods.extend(pods.iter().map(|pod| text_at(pod, "/metadata/uid").to_owned()));
        }
        self.look_at_pod(look, &stopped_pods).await
    }

    /// The restore pod's Deployment, and who else has its claims mounted.
    async fn look_at_pod(&self, look: &mut Look, stopped_pods: &BTreeSet<String>) -> Result<(), ApiTrouble> {
        let id = self.id().workload();
        let Some(object) = self.api.workload(&id).await? else {
            look.obstacles.push(format!("there is no {id}, in whose pod the restore would run"));
            return Ok(());
        };
        if replicas(&object) > 0 && !look.runs.is_empty() {
            look.obstacles.push(format!(
                "the restore pod {id} runs already, beside what it stands in for: if no restore uses it, `kubectl scale \
                 deployment/{} -n {} --replicas=0`",
                id.name, id.namespace
            ));
        }
        self.api.scale(&id, 1, true).await?;
        let claims: Vec<&str> = writable_claims(&object, "/spec/template/spec/volumes").collect();
        if claims.is_empty() {
            look.obstacles.push(format!("the restore pod {id} mounts no claim that it may write"));
        }
        let own = self.api.selector(&id).await?;
        let own: BTreeSet<String> = self.api.pods(&id.namespace, &own).await?.iter().map(uid).collect();
        for pod in self.api.pods(&id.namespace, "").await?.iter().filter(|pod| lives(pod)) {
            let uid = uid(pod);
            let shared = writable_claims(pod, "/spec/volumes").find(|claim| claims.contains(claim));
            if let Some(claim) = shared.filter(|_| !stopped_pods.contains(&uid) && !own.contains(&uid)) {
                look.obstacles.push(format!(
                    "the pod {}/{} has the claim {claim} mounted and would not be stopped: stop it, or name its workload \
                     among the `workloads` of the restore pod {id}",
                    id.namespace,
                    text_at(pod, "/metadata/name")
                ));
            }
        }
        Ok(())
    }

    /// How many replicas it is told to have; none: it is gone.
    pub(crate) async fn replicas(&self, id: &WorkloadId) -> Result<Option<i64>, ApiTrouble> {
        Ok(self.api.workload(id).await?.map(|object| replicas(&object)))
    }
}

/// Without a number it is one.
pub(super) fn replicas(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

fn uid(object: &Value) -> String {
    text_at(object, "/metadata/uid").to_owned()
}

/// False once it has ended: one that is told to go lives until it is gone.
pub(super) fn lives(pod: &Value) -> bool {
    !matches!(text_at(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// True if its pods have a check of their readiness.
fn is_checked(object: &Value) -> bool {
    let containers = object.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    containers.into_iter().flatten().any(|one| one.get("readinessProbe").is_some())
}

fn writable_claims<'a>(object: &'a Value, volumes: &str) -> impl Iterator<Item = &'a str> {
    let volumes = object.pointer(volumes).and_then(Value::as_array).into_iter().flatten();
    let writable = volumes.filter(|volume| {
        volume.pointer("/persistentVolumeClaim/readOnly").and_then(Value::as_bool) != Some(true)
    });
    writable.map(|volume| text_at(volume, "/persistentVolumeClaim/claimName")).filter(|name| !name.is_empty())
}

/// What would start it again, or take its volumes away.
fn kept(id: &WorkloadId, object: &Value, autoscalers: &[Value]) -> Vec<String> {
    let mut obstacles = Vec::new();
    if loses_volumes(object) {
        obstacles.push(format!(
            "{id} cannot be stopped for long enough: its volumes are deleted when it is scaled down: set \
             `spec.persistentVolumeClaimRetentionPolicy.whenScaled` to Retain"
        ));
    }
    if let Some(keeper) = keeper(object) {
        obstacles.push(format!("{id} cannot be stopped for long enough: {keeper}"));
    }
    let scales = |hpa: &&Value| {
        text_at(hpa, "/spec/scaleTargetRef/kind") == id.kind.object()
            && text_at(hpa, "/spec/scaleTargetRef/name") == id.name
    };
    if let Some(hpa) = autoscalers.iter().find(scales) {
        let (name, namespace) = (text_at(hpa, "/metadata/name"), &id.namespace);
        obstacles.push(format!(
            "{id} cannot be stopped for long enough: the autoscaler {name} scales it: `kubectl get hpa {name} -n \
             {namespace} -o yaml > {name}.yaml`, delete it, restore, then apply the file again"
        ));
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_start_a_workload_again_is_in_the_way() {
        let id = WorkloadId::of("shop", "deployment/web").expect("a workload");
        let hpa = |name: &str| json!({ "metadata": { "name": "auto" }, "spec": { "scaleTargetRef": { "kind": "Deployment", "name": name } } });
        assert_eq!(kept(&id, &json!({}), &[hpa("other")]), Vec::<String>::new());
        let told = kept(&id, &json!({}), &[hpa("web")]);
        assert!(told.len() == 1 && told[0].contains("the autoscaler auto scales it"), "{told:?}");
        let owned = json!({ "metadata": { "ownerReferences": [{ "kind": "Redis", "name": "r", "controller": true }] } });
        assert!(kept(&id, &owned, &[])[0].contains("Redis r keeps it"));
    }

    #[test]
    fn a_claim_that_is_mounted_to_be_read_is_in_nobody_s_way() {
        let pod = json!({ "spec": { "volumes": [
            { "name": "a", "persistentVolumeClaim": { "claimName": "data" } },
            { "name": "b", "persistentVolumeClaim": { "claimName": "seen", "readOnly": true } },
            { "name": "c", "emptyDir": {} },
        ] } });
        assert_eq!(writable_claims(&pod, "/spec/volumes").collect::<Vec<_>>(), ["data"]);
    }
}
