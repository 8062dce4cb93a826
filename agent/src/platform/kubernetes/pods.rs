//! Pods: which live, what they mount, who keeps them, and which is our own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::workload::{WorkloadId, WorkloadKind};
use super::{PlatformError, failed};
use crate::kubernetes::{Chosen, Cluster, Place, Resource, text_at};

fn resource() -> Resource {
    Resource::pods()
}

/// A pod as the API gives it. Environments stand in it: it is not shown.
#[derive(Clone)]
pub(super) struct Pod(Value);

/// The pods of a namespace that a label selector chooses.
pub(super) async fn list(
    cluster: &Cluster,
    namespace: &str,
    labels: &str,
) -> Result<Vec<Pod>, PlatformError> {
    let chosen = Chosen { labels, ..Chosen::default() };
    let listed = cluster.list(&resource(), namespace, &chosen).await.map_err(failed)?;
    Ok(listed.into_iter().map(Pod).collect())
}

impl Pod {
    pub(super) fn object(&self) -> &Value {
        &self.0
    }

    pub(super) fn name(&self) -> &str {
        text_at(&self.0, "/metadata/name")
    }

    pub(super) fn uid(&self) -> &str {
        text_at(&self.0, "/metadata/uid")
    }

    /// False once it has ended: one that is told to go lives until it is gone.
    pub(super) fn lives(&self) -> bool {
        !matches!(text_at(&self.0, "/status/phase"), "Succeeded" | "Failed")
    }

    /// True if it has this claim mounted and may write.
    pub(super) fn mounts(&self, claim: &str) -> bool {
        volumes(&self.0).any(|volume| {
            text_at(volume, "/persistentVolumeClaim/claimName") == claim
                && volume.pointer("/persistentVolumeClaim/readOnly").and_then(Value::as_bool) != Some(true)
        })
    }

    /// Why a container of it does not run, where it does not just now begin to.
    pub(super) fn waits_for(&self) -> Option<String> {
        let containers = ["/status/initContainerStatuses", "/status/containerStatuses"];
        let all = containers.iter().filter_map(|pointer| self.0.pointer(pointer)?.as_array()).flatten();
        let reasons = all.map(|one| (text_at(one, "/name"), text_at(one, "/state/waiting/reason")));
        let mut bad =
            reasons.filter(|(_, reason)| !matches!(*reason, "" | "ContainerCreating" | "PodInitializing"));
        bad.next().map(|(name, reason)| format!("the container {name} of {} waits: {reason}", self.name()))
    }
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten()
}

/// True if its controller has this uid.
pub(super) fn is_owned_by(object: &Value, uid: &str) -> bool {
    controller(object).is_some_and(|owner| text_at(owner, "/uid") == uid)
}

/// True for a job that makes no pod any more.
pub(super) fn is_over(job: &Value) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    let is_end = |one: &Value| {
        matches!(text_at(one, "/type"), "Complete" | "Failed") && text_at(one, "/status") == "True"
    };
    conditions.into_iter().flatten().any(is_end)
        || job.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true)
}

fn controller(object: &Value) -> Option<&Value> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

/// The workload that keeps a pod, up through ReplicaSets and Jobs; none: nothing that can be stopped.
pub(super) async fn keeper(
    cluster: &Cluster,
    namespace: &str,
    pod: &Value,
) -> Result<Option<WorkloadId>, PlatformError> {
    let Some((kind, name)) = owner(pod) else { return Ok(None) };
    let (between, kept_by) = match kind.as_str() {
        "StatefulSet" => {
            let namespace = namespace.to_owned();
            return Ok(Some(WorkloadId { namespace, kind: WorkloadKind::StatefulSet, name }));
        }
        "ReplicaSet" => (
            Resource::new("apps", "v1", "ReplicaSet", "replicasets"),
            ("Deployment", WorkloadKind::Deployment),
        ),
        "Job" => (Resource::new("batch", "v1", "Job", "jobs"), ("CronJob", WorkloadKind::CronJob)),
        _ => return Ok(None),
    };
    let place = Place { resource: &between, namespace, name: &name };
    let Some(object) = cluster.get(&place).await.map_err(failed)? else { return Ok(None) };
    Ok(owner(&object).filter(|(kind, _)| kind == kept_by.0).map(|(_, name)| WorkloadId {
        namespace: namespace.to_owned(),
        kind: kept_by.1,
        name,
    }))
}

fn owner(object: &Value) -> Option<(String, String)> {
    let owner = controller(object)?;
    Some((text_at(owner, "/kind").to_owned(), text_at(owner, "/name").to_owned()))
}

/// The pod in which the agent runs.
pub(super) struct OwnPod {
    namespace: String,
    pod: Value,
}

impl OwnPod {
    /// None: it runs in none. A pod's host is called as the pod is, unless it is the node itself.
    pub(super) async fn look(cluster: &Cluster, called: Option<&str>) -> Result<Option<Self>, PlatformError> {
        if std::env::var_os(crate::config::IN_CLUSTER).is_none() {
            return Ok(None);
        }
        let name = called.map_or_else(runtime::host::hostname, str::to_owned);
        let (resource, namespace) = (resource(), cluster.namespace());
        let place = Place { resource: &resource, namespace, name: &name };
        match cluster.get(&place).await.map_err(failed)? {
            Some(pod) => Ok(Some(Self { namespace: namespace.to_owned(), pod })),
            // Who does not know what it is in cannot keep from stopping it.
            None => Err(PlatformError::Kubernetes(format!(
                "has no pod {name} in the namespace {namespace}, in which the agent seems to run: name it by \
                 `kubernetes.pod` (NEURASHIELD_KUBERNETES__POD, from `metadata.name`)"
            ))),
        }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn object(&self) -> &Value {
        &self.pod
    }

    pub(super) fn uid(&self) -> &str {
        text_at(&self.pod, "/metadata/uid")
    }

    /// The claim whose volume is mounted where this folder lies.
    pub(super) fn claim_of(&self, folder: &Path) -> Option<String> {
        let name = self.volume_of(folder)?;
        let volume = volumes(&self.pod).find(|volume| text_at(volume, "/name") == name)?;
        let claim = text_at(volume, "/persistentVolumeClaim/claimName");
        (!claim.is_empty()).then(|| claim.to_owned())
    }

    /// The containers of this pod that write to the volume in which this folder lies; more than one: the agent has
    /// neighbours that nobody can stop without it.
    pub(super) fn writers_of(&self, folder: &Path) -> Vec<&str> {
        let Some(name) = self.volume_of(folder) else { return Vec::new() };
        let writes = |mount: &Value| {
            text_at(mount, "/name") == name && mount.get("readOnly").and_then(Value::as_bool) != Some(true)
        };
        let writing = self.containers().filter(|one| mounts(one).any(writes));
        writing.map(|one| text_at(one, "/name")).collect()
    }

    fn volume_of(&self, folder: &Path) -> Option<&str> {
        let within = self.containers().flat_map(mounts).filter_map(|mount| {
            let path = PathBuf::from(text_at(mount, "/mountPath"));
            folder.starts_with(&path).then(|| (path, text_at(mount, "/name")))
        });
        // The innermost one hides those around it.
        within.max_by_key(|(path, _)| path.components().count()).map(|(_, name)| name)
    }

    fn containers(&self) -> impl Iterator<Item = &Value> {
        self.pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten()
    }
}

fn mounts(container: &Value) -> impl Iterator<Item = &Value> {
    container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_lies_on_the_claim_that_is_mounted_there() {
        let pod = json!({ "spec": {
            "containers": [
                { "name": "agent", "volumeMounts": [
                    { "name": "all", "mountPath": "/data" }, { "name": "chain", "mountPath": "/data/chain" },
                ] },
                { "name": "geth", "volumeMounts": [
                    { "name": "chain", "mountPath": "/root" },
                    { "name": "all", "mountPath": "/all", "readOnly": true },
                ] },
            ],
            "volumes": [
                { "name": "all", "persistentVolumeClaim": { "claimName": "data" } },
                { "name": "chain", "persistentVolumeClaim": { "claimName": "chain-0" } },
            ],
        } });
        let own = OwnPod { namespace: "shop".into(), pod };
        let of = |folder: &str| own.claim_of(Path::new(folder));
        assert_eq!(of("/data/models").as_deref(), Some("data"));
        assert_eq!(of("/data/chain/geth").as_deref(), Some("chain-0"));
        assert_eq!(of("/etc"), None);
        // A sidecar of what writes there has a neighbour.
        let writers = |folder: &str| own.writers_of(Path::new(folder));
        assert_eq!(writers("/data/chain/geth"), ["agent", "geth"]);
        assert_eq!(writers("/data/models"), ["agent"]);
    }

    #[test]
    fn a_pod_lives_until_it_has_ended_and_says_why_it_does_not_run() {
        let pod = |phase: &str, reason: &str| {
            Pod(json!({ "metadata": { "name": "web-1" }, "status": {
                "phase": phase,
                "containerStatuses": [{ "name": "web", "state": { "waiting": { "reason": reason } } }],
            } }))
        };
        assert!(pod("Running", "").lives() && pod("Pending", "").lives());
        assert!(!pod("Succeeded", "").lives() && !pod("Failed", "").lives());
        assert_eq!(pod("Pending", "ContainerCreating").waits_for(), None);
        let told = pod("Running", "CrashLoopBackOff").waits_for().expect("it waits");
        assert_eq!(told, "the container web of web-1 waits: CrashLoopBackOff");
    }

    #[test]
    fn a_job_is_over_when_it_says_so_and_not_between_two_pods() {
        let job = |kind: &str, status: &str| json!({ "status": { "conditions": [{ "type": kind, "status": status }] } });
        assert!(is_over(&job("Complete", "True")) && is_over(&job("Failed", "True")));
        assert!(
            !is_over(&job("Failed", "False"))
                && !is_over(&job("FailureTarget", "True"))
                && !is_over(&json!({}))
        );
        assert!(is_over(&json!({ "spec": { "suspend": true } })));
    }

    #[test]
    fn a_claim_that_is_only_read_is_not_in_the_way() {
        let pod = |read_only: bool| {
            let claim = json!({ "claimName": "data", "readOnly": read_only });
            Pod(json!({ "spec": { "volumes": [{ "name": "d", "persistentVolumeClaim": claim }] } }))
        };
        assert!(pod(false).mounts("data") && !pod(true).mounts("data") && !pod(false).mounts("other"));
    }
}
