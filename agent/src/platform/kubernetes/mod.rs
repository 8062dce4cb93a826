//! Workloads of a cluster, by its API: found by annotation, scaled to 0 and back, or suspended.
//!
//! Must stay true: what a workload was is noted on the object itself before it is stopped, and goes only when it
//! is that again, so that whoever comes after a crash finds what to do, from the cluster alone; a workload is
//! stopped when its pods are gone; the agent's own is never stopped; what something else would start again, an
//! autoscaler or a GitOps controller, is refused before anything is stopped.

mod pods;
mod workload;

use std::path::Path;
use std::time::Duration;

use runtime::steps;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::docker::Health;
use super::{Application, Found, Handle, Other, PlatformError};
use crate::config::KubernetesConfig;
use crate::kubernetes::{Change, Chosen, Cluster, Place, Resource, Trouble, text_at};
use crate::kubernetes::{PRIOR, STOPPED_BY};
use crate::steps::Step;
use pods::{OwnPod, Pod};
pub(crate) use workload::{Held, WorkloadId, WorkloadKind};
use workload::{STOP_FOR, State, Workload};

/// Between two looks at something that changes.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A job that was begun just before its CronJob was suspended is there after so long.
const JOB_COMES: Duration = Duration::from_secs(2);

/// The workloads of a cluster.
pub(super) struct Workloads<'a> {
    cluster: Cluster,
    settings: &'a KubernetesConfig,
    /// The agent's name.
    agent: &'a str,
}

/// How often a note is written anew whose object has changed meanwhile.
const NOTES: usize = 20;

fn failed(trouble: Trouble) -> PlatformError {
    PlatformError::Kubernetes(format!("does not let itself be used: {trouble}; {}", trouble.hint()))
}

/// Of the first questions: whoever has not said that there are workloads may have given no rights.
fn not_looked(trouble: Trouble) -> PlatformError {
    match trouble {
        Trouble::Forbidden { .. } => PlatformError::Cluster(format!("{trouble}; {}", trouble.hint())),
        trouble => failed(trouble),
    }
}

fn hpas() -> Resource {
    Resource::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
}

impl<'a> Workloads<'a> {
    pub(super) fn of(cluster: Cluster, settings: &'a KubernetesConfig, agent: &'a str) -> Self {
        Self { cluster, settings, agent }
    }

    fn namespaces(&self) -> Vec<String> {
        match self.settings.namespaces.as_slice() {
            [] => vec![self.cluster.namespace().to_owned()],
            named => named.to_vec(),
        }
    }

    /// Adds what uses the component, and who else has the folder.
    pub(super) async fn using(
        &self,
        component: &str,
        folder: Option<&Path>,
        found: &mut Found,
    ) -> Result<(), PlatformError> {
        let mut all = Vec::new();
        for namespace in self.namespaces() {
            for kind in WorkloadKind::ALL {
                let listed = self.cluster.list(&kind.resource(), &namespace, &Chosen::default()).await;
                let of_kind =
                    listed.map_err(not_looked)?.into_iter().filter_map(|one| Workload::new(kind, one));
                all.extend(of_kind);
            }
        }
        // Its own pod says what lies on the folder, and what it must not stop.
        let own =
            match folder.is_some() || self.namespaces().iter().any(|one| one == self.cluster.namespace()) {
                true => OwnPod::look(&self.cluster, self.settings.pod.as_deref()).await?,
                false => None,
            };
        let ours = match &own {
            Some(own) => pods::keeper(&self.cluster, own.namespace(), own.object()).await?,
            None => None,
        };
        let chosen: Vec<&Workload> = all.iter().filter(|one| one.stops_for(component)).collect();
        for one in &chosen {
            if ours.as_ref().is_some_and(|ours| one.id == *ours) {
                let what = format!("{}, which has to be stopped for {component}", one.id);
                return Err(PlatformError::Ourselves(what));
            }
            if let Some(by) = one.holder() {
                return Err(held(one, by));
            }
            if one.runs() {
                may_stop(one)?;
                self.no_autoscaler(one).await?;
            }
            found.applications.push(application(one, &all, String::new()));
        }
        if let (Some(own), Some(folder)) = (&own, folder) {
            let writers = own.writers_of(folder);
            if writers.len() > 1 {
                let what = format!("one pod with what writes there (the containers {})", writers.join(", "));
                return Err(PlatformError::Ourselves(what));
            }
            let Some(claim) = own.claim_of(folder) else { return Ok(()) };
            let others = self.others(own, &claim, &chosen).await?;
            found.others.extend(others);
        }
        Ok(())
    }

    /// Who else has the claim mounted, runs, and would not be stopped.
    async fn others(
        &self,
        own: &OwnPod,
        claim: &str,
        chosen: &[&Workload],
    ) -> Result<Vec<Other>, PlatformError> {
        let mut others = Vec::new();
        for pod in pods::list(&self.cluster, own.namespace(), "").await? {
            if !pod.lives() || pod.uid() == own.uid() || !pod.mounts(claim) {
                continue;
            }
            let keeper = pods::keeper(&self.cluster, own.namespace(), pod.object()).await?;
            let name = match keeper {
                Some(keeper) if chosen.iter().any(|one| one.id == keeper) => continue,
                Some(keeper) => keeper.to_string(),
                None => format!("the pod {}/{}", own.namespace(), pod.name()),
            };
            if !others.iter().any(|other: &Other| other.name == name) {
                others.push(Other { name, mark: "the annotation", key: STOP_FOR });
            }
        }
        Ok(others)
    }

    async fn no_autoscaler(&self, one: &Workload) -> Result<(), PlatformError> {
        if one.id.kind == WorkloadKind::CronJob {
            return Ok(());
        }
        let all = self.cluster.list(&hpas(), &one.id.namespace, &Chosen::default()).await.map_err(failed)?;
        let kind = one.id.kind.resource().kind;
        let scales = |hpa: &&Value| {
            text_at(hpa, "/spec/scaleTargetRef/kind") == kind
                && text_at(hpa, "/spec/scaleTargetRef/name") == one.id.name
        };
        let Some(hpa) = all.iter().find(scales) else { return Ok(()) };
        let (name, namespace) = (text_at(hpa, "/metadata/name"), &one.id.namespace);
        Err(PlatformError::Kept {
            name: one.id.to_string(),
            keeper: format!(
                "the autoscaler {name} scales it: `kubectl get hpa {name} -n {namespace} -o yaml > {name}.yaml`, delete \
                 it, restore, then apply the file again"
            ),
        })
    }

    /// Notes what it is, stops it, and returns when its pods are gone. One that does not run is fine.
    pub(super) async fn stop(&self, held: &Held) -> Result<(), PlatformError> {
        let one = self.noted(held).await?;
        let (id, state) = (&held.id, one.state());
        steps::reached(Step::WorkloadNoted).await;
        if state.runs() {
            match state {
                State::Replicas(_) => self.patch(id, "/scale", &json!({ "spec": { "replicas": 0 } })).await?,
                State::Suspended(_) => self.patch(id, "", &json!({ "spec": { "suspend": true } })).await?,
            }
        }
        steps::reached(Step::WorkloadTold).await;
        self.await_gone(id).await
    }

    /// Returns when nothing of it is left that could write.
    pub(super) async fn await_gone(&self, id: &WorkloadId) -> Result<(), PlatformError> {
        let limit = self.settings.stop_limit.get();
        let began = Instant::now();
        loop {
            let last = match self.left_of(id, began).await {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => what,
                // One question without an answer is no reason to give up.
                Err(error) if began.elapsed() >= limit => return Err(error),
                Err(error) => error.to_string(),
            };
            if began.elapsed() >= limit {
                return Err(PlatformError::Kubernetes(format!(
                    "still has {last} of {id} after {} s: see to it, or give it more time by `kubernetes.stop_limit`",
                    limit.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What is left of a workload that is told to stop; none: nothing.
    async fn left_of(&self, id: &WorkloadId, began: Instant) -> Result<Option<String>, PlatformError> {
        let one = self.get(id).await?.ok_or_else(|| gone(id))?;
        if one.state().runs() {
            return Err(PlatformError::StillRuns(id.to_string()));
        }
        if !one.is_seen_down() {
            return Ok(Some("replicas".to_owned()));
        }
        if id.kind == WorkloadKind::CronJob {
            // A job whose pod comes later, or comes again, is not over.
            let jobs = self.jobs_of(&one).await?;
            if let Some(job) = jobs.iter().find(|job| !pods::is_over(job)) {
                return Ok(Some(format!("the job {}", text_at(job, "/metadata/name"))));
            }
            if began.elapsed() < JOB_COMES {
                return Ok(Some("a job that may just begin".to_owned()));
            }
        }
        Ok(self.pods_of(&one).await?.first().map(|pod| format!("the pod {}", pod.name())))
    }

    /// The workload, with a note of what it is if it runs.
    async fn noted(&self, of: &Held) -> Result<Workload, PlatformError> {
        let (id, mut tries) = (&of.id, 0);
        let ours = self.mark(of);
        loop {
            let one = self.get(id).await?.ok_or_else(|| gone(id))?;
            if let Some(by) = one.holder().filter(|by| *by != ours) {
                return Err(held(&one, by));
            }
            let state = one.state();
            if !state.runs() {
                return Ok(one);
            }
            may_stop(&one)?;
            // The version makes sure that it is still what is noted.
            let note = json!({ "metadata": {
                "resourceVersion": one.version(),
                "annotations": { PRIOR: state.to_string(), STOPPED_BY: ours },
            } });
            let resource = id.kind.resource();
            let place = Place { resource: &resource, namespace: &id.namespace, name: &id.name };
            match self.cluster.patch(&place, (Change::Merge, false), &note).await {
                Ok(_) => return Ok(one),
                Err(Trouble::Refused { code: 409, .. }) if tries < NOTES => {
                    tries += 1;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(trouble) => return Err(failed(trouble)),
            }
        }
    }

    /// Who holds it: this agent, for this restore.
    fn mark(&self, held: &Held) -> String {
        format!("{}/{}", self.agent, held.by)
    }

    async fn jobs_of(&self, one: &Workload) -> Result<Vec<Value>, PlatformError> {
        let jobs = Resource::new("batch", "v1", "Job", "jobs");
        let mut jobs =
            self.cluster.list(&jobs, &one.id.namespace, &Chosen::default()).await.map_err(failed)?;
        jobs.retain(|job| pods::is_owned_by(job, one.uid()));
        Ok(jobs)
    }

    /// The pods that have not ended.
    async fn pods_of(&self, one: &Workload) -> Result<Vec<Pod>, PlatformError> {
        let namespace = &one.id.namespace;
        let mut left = match one.id.kind {
            WorkloadKind::CronJob => {
                let jobs = self.jobs_of(one).await?;
                let mut all = pods::list(&self.cluster, namespace, "").await?;
                let of_job =
                    |pod: &Pod, job: &Value| pods::is_owned_by(pod.object(), text_at(job, "/metadata/uid"));
                all.retain(|pod| jobs.iter().any(|job| of_job(pod, job)));
                all
            }
            _ => pods::list(&self.cluster, namespace, &one.pods()).await?,
        };
        left.retain(Pod::lives);
        Ok(left)
    }

    /// Makes it what it was, by its note or, where that was taken off, by what is on record. One that runs is left as
    /// it is, and so is one that another restore holds.
    pub(super) async fn start(&self, held: &Held) -> Result<(), PlatformError> {
        let id = &held.id;
        let one = self.get(id).await?.ok_or_else(|| gone(id))?;
        if let Some(by) = one.holder().filter(|by| *by != self.mark(held)) {
            tracing::warn!(workload = %id, by, "is held by another restore, which starts it");
            return Ok(());
        }
        let prior = one.prior().or_else(|| State::parse(id.kind, &held.prior));
        match prior {
            Some(State::Replicas(count)) if !one.state().runs() && count > 0 => {
                self.patch(id, "/scale", &json!({ "spec": { "replicas": count } })).await?;
            }
            Some(State::Suspended(false)) if !one.state().runs() => {
                self.patch(id, "", &json!({ "spec": { "suspend": false } })).await?;
            }
            _ => {}
        }
        steps::reached(Step::WorkloadScaled).await;
        if one.holder().is_none() {
            return Ok(());
        }
        let forget = json!({ "metadata": { "annotations": { PRIOR: null, STOPPED_BY: null } } });
        self.patch(id, "", &forget).await
    }

    /// How one does that was started.
    pub(super) async fn health(&self, held: &Held) -> Result<Health, PlatformError> {
        let id = &held.id;
        let Some(one) = self.get(id).await? else { return Ok(Health::Bad("it is gone".to_owned())) };
        if one.holder().is_some_and(|by| by != self.mark(held)) {
            // Another restore has stopped it since, and starts it.
            return Ok(Health::Good);
        }
        if !one.state().runs() {
            return Ok(Health::Bad("it is told not to run".to_owned()));
        }
        let Some(lacks) = one.lacks() else { return Ok(Health::Good) };
        let pods = self.pods_of(&one).await?;
        let waits = pods.iter().find_map(Pod::waits_for);
        Ok(match waits {
            Some(reason) => Health::Bad(format!("{lacks}: {reason}")),
            None => Health::Unknown(lacks),
        })
    }

    /// What this agent has stopped and has no record of. What cannot be looked at is told.
    pub(super) async fn left(&self) -> Vec<Application> {
        let (mut left, ours) = (Vec::new(), format!("{}/", self.agent));
        for namespace in self.namespaces() {
            for kind in WorkloadKind::ALL {
                let listed = match self.cluster.list(&kind.resource(), &namespace, &Chosen::default()).await {
                    Ok(listed) => listed,
                    Err(trouble) => {
                        tracing::warn!(
                            namespace,
                            "cannot look for workloads that restores have stopped: {trouble}"
                        );
                        continue;
                    }
                };
                let all: Vec<Workload> =
                    listed.into_iter().filter_map(|one| Workload::new(kind, one)).collect();
                for one in all.iter() {
                    match one.holder().map(|by| (by, by.strip_prefix(&ours))) {
                        Some((_, Some(by))) => left.push(application(one, &all, by.to_owned())),
                        Some((by, None)) => {
                            tracing::warn!(workload = %one.id, by, "is stopped by a restore of another agent");
                        }
                        None => {}
                    }
                }
            }
        }
        left
    }

    async fn get(&self, id: &WorkloadId) -> Result<Option<Workload>, PlatformError> {
        let resource = id.kind.resource();
        let place = Place { resource: &resource, namespace: &id.namespace, name: &id.name };
        let found = self.cluster.get(&place).await.map_err(failed)?;
        Ok(found.and_then(|object| Workload::new(id.kind, object)))
    }

    async fn patch(&self, id: &WorkloadId, sub: &str, body: &Value) -> Result<(), PlatformError> {
        let (resource, name) = (id.kind.resource(), format!("{}{sub}", id.name));
        let place = Place { resource: &resource, namespace: &id.namespace, name: &name };
        self.cluster.patch(&place, (Change::Merge, false), body).await.map(drop).map_err(failed)
    }
}

fn application(one: &Workload, all: &[Workload], by: String) -> Application {
    let prior = one.prior().unwrap_or_else(|| one.state()).to_string();
    Application {
        name: one.id.to_string(),
        handle: Handle::Workload(Held { id: one.id.clone(), prior, by }),
        after: one.after(all),
        runs: one.runs(),
        is_checked: one.is_checked(),
    }
}

/// Refuses what something else would start again, and what loses its volumes when it stops.
fn may_stop(one: &Workload) -> Result<(), PlatformError> {
    let name = one.id.to_string();
    if one.loses_volumes() {
        let keeper = "its volumes are deleted when it is scaled down: set \
                      `spec.persistentVolumeClaimRetentionPolicy.whenScaled` to Retain";
        return Err(PlatformError::Kept { name, keeper: keeper.to_owned() });
    }
    match one.keeper() {
        Some(keeper) => Err(PlatformError::Kept { name, keeper }),
        None => Ok(()),
    }
}

fn held(one: &Workload, by: &str) -> PlatformError {
    let prior = one.annotation(PRIOR).unwrap_or("unknown");
    PlatformError::Kubernetes(format!(
        "has {}, which is stopped by a restore (AGENT/RESTORE: {by}): wait for its end; if it is long over, make it \
         what it was ({prior}) and take the annotations {PRIOR} and {STOPPED_BY} off",
        one.id
    ))
}

fn gone(id: &WorkloadId) -> PlatformError {
    PlatformError::Kubernetes(format!("has no {id} any more"))
}
