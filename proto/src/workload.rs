//! What a workload of a Kubernetes cluster says of itself, as the API gives it. Pure.
//!
//! Must stay true: agents that stop workloads, and the controller that stops them for a restore pod, ask the same
//! question, so that neither stops what the other would refuse.

use serde_json::Value;

/// Under this name the API keeps which fields we have set.
pub const MANAGER: &str = "neurashield-backup";
/// On an object that an agent's restore has stopped: how many replicas it had, or whether a CronJob was suspended.
pub const PRIOR: &str = "neurashield.backup/prior-state";
/// On the same: the agent, and its restore.
pub const STOPPED_BY: &str = "neurashield.backup/stopped-by";
/// Whoever keeps it at a number of replicas has been told to let it be.
const OWNER_PAUSED: &str = "neurashield.backup/owner-paused";

/// The names under which these tools set fields, beside those that begin with `argocd`.
const GITOPS: [&str; 4] = ["kustomize-controller", "helm-controller", "fleetagent", "kapp"];

/// The text at this JSON pointer; empty if there is none.
pub fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What the annotation of this name says.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(name)?.as_str()
}

fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(name)?.as_str()
}

/// True if its volumes go with its replicas.
pub fn loses_volumes(object: &Value) -> bool {
    text_at(object, "/spec/persistentVolumeClaimRetentionPolicy/whenScaled") == "Delete"
}

/// Who would start it again while it has to stand, and what to do about that.
pub fn keeper(object: &Value) -> Option<String> {
    if annotation(object, OWNER_PAUSED) == Some("true") {
        return None;
    }
    let then = |what: &str| {
        format!("{what}; then give it the annotation {OWNER_PAUSED}=true until the restore is done")
    };
    let argo = annotation(object, "argocd.argoproj.io/tracking-id")
        .or_else(|| label(object, "argocd.argoproj.io/instance"));
    if let Some(of) = argo {
        let application = of.split(':').next().unwrap_or(of);
        return Some(then(&format!(
            "Argo CD keeps it (application {application}): turn its automated sync off"
        )));
    }
    let flux = [
        ("kustomize.toolkit.fluxcd.io", "Kustomization", "kustomization"),
        ("helm.toolkit.fluxcd.io", "HelmRelease", "helmrelease"),
    ];
    for (group, kind, word) in flux {
        let Some(of) = label(object, &format!("{group}/name")) else { continue };
        // Flux leaves such an object alone.
        if annotation(object, &format!("{group}/reconcile")) == Some("disabled") {
            continue;
        }
        let namespace = label(object, &format!("{group}/namespace")).unwrap_or("flux-system");
        return Some(then(&format!(
            "Flux keeps it ({kind} {of}): `flux suspend {word} {of} -n {namespace}`"
        )));
    }
    let managed = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let managers = managed.into_iter().flatten().map(|one| text_at(one, "/manager"));
    let of_gitops = |name: &&str| *name != MANAGER && (name.starts_with("argocd") || GITOPS.contains(name));
    if let Some(manager) = managers.into_iter().find(of_gitops) {
        return Some(then(&format!("{manager} keeps it: pause that")));
    }
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let is_controller = |one: &&Value| one.get("controller").and_then(Value::as_bool) == Some(true);
    let owner = owners.into_iter().flatten().find(is_controller)?;
    let (kind, name) = (text_at(owner, "/kind"), text_at(owner, "/name"));
    Some(then(&format!("{kind} {name} keeps it and would start it again: stop it by that one")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(metadata: Value) -> Option<String> {
        keeper(&json!({ "metadata": metadata }))
    }

    #[test]
    fn whoever_would_start_it_again_is_named_with_what_to_do() {
        let argo = json!({ "argocd.argoproj.io/tracking-id": "shop-app:apps/Deployment:shop/web" });
        let argo = kept(json!({ "annotations": argo })).expect("kept");
        assert!(argo.contains("Argo CD keeps it (application shop-app)"), "{argo}");
        let synced = kept(json!({ "managedFields": [{ "manager": "argocd-controller" }] })).expect("kept");
        assert!(synced.contains("argocd-controller keeps it"), "{synced}");
        let flux = json!({
            "kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "gitops",
        });
        let flux = kept(json!({ "labels": flux })).expect("kept");
        assert!(flux.contains("`flux suspend kustomization shop -n gitops`"), "{flux}");
        let owned = json!([{ "kind": "Redis", "name": "cache", "controller": true }]);
        assert!(kept(json!({ "ownerReferences": owned })).expect("kept").contains("Redis cache keeps it"));
        let paused = json!({ "argocd.argoproj.io/tracking-id": "x", OWNER_PAUSED: "true" });
        assert_eq!(kept(json!({ "annotations": paused })), None);
        // Helm only writes what it is told to.
        assert_eq!(kept(json!({ "labels": { "app.kubernetes.io/managed-by": "Helm" } })), None);
    }

    #[test]
    fn what_loses_its_volumes_is_known() {
        let of = |policy: &str| json!({ "spec": { "persistentVolumeClaimRetentionPolicy": { "whenScaled": policy } } });
        assert!(loses_volumes(&of("Delete")) && !loses_volumes(&of("Retain")));
    }
}
