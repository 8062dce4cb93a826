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
use crate::steps::Step;
use pods::{OwnPod, Pod};
use workload::{PRIOR, STOP_FOR, STOPPED_BY, State, Workload};
pub(crate) use workload::{WorkloadId, WorkloadKind};

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
    PlatformError::Cluster(format!("{trouble}; {}", trouble.hint()))
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
        let own = OwnPod::look(&self.cluster, self.settings.pod.as_deref()).await?;
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
            if one.runs() {
                if let Some(keeper) = one.keeper() {
                    return Err(PlatformError::Kept { name: one.id.to_string(), keeper });
                }
                self.no_autoscaler(one).await?;
            }
            if let Some(by) = one.annotation(STOPPED_BY).filter(|_| one.prior().is_some()) {
                found.remarks.push(format!(
                    "{} was stopped by a restore of the agent {by} and not started since: it is started after this one",
                    one.id
                ));
            }
            found.applications.push(Application {
                name: one.id.to_string(),
                handle: Handle::Workload(one.id.clone()),
                after: one.after(&all),
                runs: one.runs(),
                is_checked: one.is_checked(),
            });
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
    pub(super) async fn stop(&self, id: &WorkloadId) -> Result<(), PlatformError> {
        let one = self.noted(id).await?;
        let state = one.state();
        steps::reached(Step::WorkloadNoted).await;
        if state.runs() {
            match state {
                State::Replicas(_) => self.patch(id, "/scale", &json!({ "spec": { "replicas": 0 } })).await?,
                State::Suspended(_) => self.patch(id, "", &json!({ "spec": { "suspend": true } })).await?,
            }
        }
        steps::reached(Step::WorkloadTold).await;
        let limit = self.settings.stop_limit.get();
        let (began, mut last) = (Instant::now(), None);
        loop {
            let left = self.pods_of(&one).await?;
            let is_settled =
                id.kind != WorkloadKind::CronJob || began.elapsed() >= JOB_COMES || !state.runs();
            match left.first() {
                None if is_settled => return Ok(()),
                first => last = first.map(|pod| pod.name().to_owned()).or(last),
            }
            if began.elapsed() >= limit {
                let pod = last.unwrap_or_default();
                return Err(PlatformError::Kubernetes(format!(
                    "still has the pod {pod} of {id} after {} s: see to it, or give it more time by \
                     `kubernetes.stop_limit`",
                    limit.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The workload, with a note of what it is if it runs.
    async fn noted(&self, id: &WorkloadId) -> Result<Workload, PlatformError> {
        let mut tries = 0;
        loop {
            let one = self.get(id).await?.ok_or_else(|| gone(id))?;
            let state = one.state();
            if !state.runs() {
                return Ok(one);
            }
            // The version makes sure that it is still what is noted.
            let note = json!({ "metadata": {
                "resourceVersion": one.version(),
                "annotations": { PRIOR: state.to_string(), STOPPED_BY: self.agent },
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

    /// The pods that have not ended.
    async fn pods_of(&self, one: &Workload) -> Result<Vec<Pod>, PlatformError> {
        let namespace = &one.id.namespace;
        let mut left = Vec::new();
        if one.id.kind == WorkloadKind::CronJob {
            let jobs = Resource::new("batch", "v1", "Job", "jobs");
            let jobs = self.cluster.list(&jobs, namespace, &Chosen::default()).await.map_err(failed)?;
            for job in jobs.iter().filter(|job| pods::is_owned_by(job, one.uid())) {
                let selector = format!("batch.kubernetes.io/job-name={}", text_at(job, "/metadata/name"));
                left.extend(pods::list(&self.cluster, namespace, &selector).await?);
            }
        } else {
            left = pods::list(&self.cluster, namespace, &one.pods()).await?;
        }
        left.retain(Pod::lives);
        Ok(left)
    }

    /// Makes it what it was. One about which nothing is noted is left as it is.
    pub(super) async fn start(&self, id: &WorkloadId) -> Result<(), PlatformError> {
        let one = self.get(id).await?.ok_or_else(|| gone(id))?;
        let Some(prior) = one.prior() else { return Ok(()) };
        if one.state() != prior {
            match prior {
                State::Replicas(count) => {
                    self.patch(id, "/scale", &json!({ "spec": { "replicas": count } })).await?;
                }
                State::Suspended(suspend) => {
                    self.patch(id, "", &json!({ "spec": { "suspend": suspend } })).await?;
                }
            }
        }
        steps::reached(Step::WorkloadScaled).await;
        let forget = json!({ "metadata": { "annotations": { PRIOR: null, STOPPED_BY: null } } });
        self.patch(id, "", &forget).await
    }

    /// How one does that was started.
    pub(super) async fn health(&self, id: &WorkloadId) -> Result<Health, PlatformError> {
        let Some(one) = self.get(id).await? else { return Ok(Health::Bad("it is gone".to_owned())) };
        let Some(lacks) = one.lacks() else { return Ok(Health::Good) };
        let pods = self.pods_of(&one).await?;
        let waits = pods.iter().find_map(Pod::waits_for);
        Ok(match waits {
            Some(reason) => Health::Bad(format!("{lacks}: {reason}")),
            None => Health::Unknown(lacks),
        })
    }

    /// What this agent has stopped and nothing else knows of, since its state was lost.
    pub(super) async fn left(&self) -> Result<Vec<Application>, PlatformError> {
        let mut left = Vec::new();
        for namespace in self.namespaces() {
            for kind in WorkloadKind::ALL {
                let listed = self.cluster.list(&kind.resource(), &namespace, &Chosen::default()).await;
                let all: Vec<Workload> =
                    listed.map_err(failed)?.into_iter().filter_map(|one| Workload::new(kind, one)).collect();
                let ours =
                    |one: &&Workload| one.annotation(STOPPED_BY) == Some(self.agent) && one.prior().is_some();
                left.extend(all.iter().filter(ours).map(|one| Application {
                    name: one.id.to_string(),
                    handle: Handle::Workload(one.id.clone()),
                    after: one.after(&all),
                    runs: true,
                    is_checked: one.is_checked(),
                }));
            }
        }
        Ok(left)
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

fn gone(id: &WorkloadId) -> PlatformError {
    PlatformError::Kubernetes(format!("has no {id} any more"))
}
