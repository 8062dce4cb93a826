//! How far workloads are that were told to stop or to start: what is left of them, what they lack, what they wait for.
//!
//! Must stay true: nothing is changed here; what an object says of itself is told shortened.

use proto::workload::text_at;
use serde_json::Value;

use super::api::{ApiTrouble, WorkloadId};
use super::restore_pods::{StandIn, lives, replicas};

impl StandIn {
    /// Why a pod of the workload does not run, as far as the API says; nothing: it does not say.
    pub(crate) async fn waits_for(&self, id: &WorkloadId) -> Result<Waits, ApiTrouble> {
        let selector = self.api.selector(id).await?;
        let pods = self.api.pods(&id.namespace, &selector).await?;
        if let Some(waits) = pods.iter().find_map(waits_of) {
            return Ok(waits);
        }
        if pods.is_empty()
            && let Some(object) = self.api.workload(id).await?
            && let Some(why) = condition(&object, "ReplicaFailure", "True")
        {
            return Ok(Waits { why: format!("no pod is made: {why}"), is_hopeless: false });
        }
        Ok(Waits::default())
    }

    /// What is left of a workload that has no replicas any more; none: nothing.
    pub(crate) async fn left_of(&self, id: &WorkloadId) -> Result<Option<String>, ApiTrouble> {
        let Some(object) = self.api.workload(id).await? else { return Ok(None) };
        if replicas(&object) > 0 {
            return Ok(Some("replicas that somebody has asked for again".to_owned()));
        }
        let of = |pointer| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        if of("/status/observedGeneration") < of("/metadata/generation") || of("/status/replicas") > 0 {
            return Ok(Some("replicas".to_owned()));
        }
        let selector = self.api.selector(id).await?;
        let pods = self.api.pods(&id.namespace, &selector).await?;
        let left = pods.iter().find(|pod| lives(pod));
        Ok(left.map(|pod| format!("the pod {}", text_at(pod, "/metadata/name"))))
    }

    /// Why not all of a workload's replicas are ready; none: they are.
    pub(crate) async fn lacks(&self, id: &WorkloadId) -> Result<Option<String>, ApiTrouble> {
        let Some(object) = self.api.workload(id).await? else { return Ok(Some("it is gone".to_owned())) };
        let of = |pointer| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        if of("/status/observedGeneration") < of("/metadata/generation") {
            return Ok(Some("its controller has not seen the change yet".to_owned()));
        }
        let (ready, wanted) = (of("/status/readyReplicas"), replicas(&object));
        match wanted {
            0 => Ok(Some("it is told not to run".to_owned())),
            _ if ready >= wanted => Ok(None),
            _ => Ok(Some(format!("{ready} of {wanted} replicas are ready"))),
        }
    }
}

/// Why a pod does not run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Waits {
    /// For people; empty: nothing is said.
    pub(crate) why: String,
    /// It will not by itself, or not soon.
    pub(crate) is_hopeless: bool,
}

fn waits_of(pod: &Value) -> Option<Waits> {
    const HOPELESS: [&str; 6] = [
        "ErrImageNeverPull",
        "ImagePullBackOff",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "CrashLoopBackOff",
    ];
    let name = text_at(pod, "/metadata/name");
    let containers = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let all = containers.iter().filter_map(|pointer| pod.pointer(pointer)?.as_array()).flatten();
    let mut reasons = all.map(|one| text_at(one, "/state/waiting/reason"));
    if let Some(reason) =
        reasons.find(|reason| !matches!(*reason, "" | "PodInitializing" | "ContainerCreating"))
    {
        let why = format!("its pod {name} waits: {reason}");
        return Some(Waits { why, is_hopeless: HOPELESS.contains(&reason) });
    }
    let scheduled = condition(pod, "PodScheduled", "False");
    let why = scheduled.map(|why| format!("its pod {name} has no node: {why}"));
    let why = why.or_else(|| {
        (text_at(pod, "/status/phase") == "Pending")
            .then(|| format!("its pod {name} is being made: `kubectl describe pod` tells what it waits for"))
    });
    why.map(|why| Waits { why, is_hopeless: false })
}

/// What the condition of this type says, where it has this status. Bounded: it is somebody else's text.
fn condition(object: &Value, kind: &str, status: &str) -> Option<String> {
    const TOLD: usize = 300;
    let all = object.pointer("/status/conditions").and_then(Value::as_array)?;
    let is_it = |one: &&Value| text_at(one, "/type") == kind && text_at(one, "/status") == status;
    let told = text_at(all.iter().find(is_it)?, "/message");
    Some(told.chars().take(TOLD).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn why_a_pod_does_not_run_is_told_and_whether_it_ever_will() {
        let waiting = |reason: &str| {
            json!({ "metadata": { "name": "p" }, "status": { "phase": "Pending", "containerStatuses": [
                { "state": { "waiting": { "reason": reason } } },
            ] } })
        };
        assert!(waits_of(&waiting("ErrImageNeverPull")).expect("it waits").is_hopeless);
        assert!(!waits_of(&waiting("ContainerCreating")).expect("it waits").is_hopeless);
        let unscheduled = json!({ "metadata": { "name": "p" }, "status": { "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" },
        ] } });
        let told = waits_of(&unscheduled).expect("it waits");
        assert!(told.why.contains("0/1 nodes are available") && !told.is_hopeless, "{told:?}");
        assert_eq!(waits_of(&json!({ "status": { "phase": "Running" } })), None);
    }
}
