//! What of an object is kept: what somebody has written, and nothing that the cluster adds. Pure.

use repository::archive::entry::Timestamp;
use serde_json::{Map, Value, json};

use crate::kubernetes::{PRIOR, Resource, STOPPED_BY, text_at};

/// What of the metadata is kept. Owners are not: a cluster removes what belongs to an owner that it does not
/// know, and the ids of owners are others after a restore.
const KEPT: [&str; 4] = ["name", "namespace", "labels", "annotations"];

/// Annotations that a cluster writes for itself begin so.
const ADDED: [&str; 4] = [
    "deployment.kubernetes.io/revision",
    "pv.kubernetes.io/",
    "volume.kubernetes.io/",
    "volume.beta.kubernetes.io/storage-provisioner",
];

/// The object without what the cluster adds.
pub(crate) fn tidied(object: Value, resource: &Resource) -> Value {
    let object = per_kind(object, resource);
    let Value::Object(mut fields) = object else { return Value::Null };
    fields.remove("status");
    let metadata = match fields.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    let kept = metadata.into_iter().filter(|(name, value)| {
        KEPT.contains(&name.as_str())
            && !value.is_null()
            && value.as_object().is_none_or(|map| !map.is_empty())
    });
    fields.insert("metadata".to_owned(), Value::Object(kept.collect()));
    // Objects of a list do not say it.
    fields.insert("apiVersion".to_owned(), json!(resource.api_version()));
    fields.insert("kind".to_owned(), json!(resource.kind));
    Value::Object(fields)
}

/// Without what a cluster fills in for this one object, and as it was before a restore has stopped it.
fn per_kind(mut object: Value, resource: &Resource) -> Value {
    let prior = text_at(&object, &format!("/metadata/annotations/{}", PRIOR.replace('/', "~1"))).to_owned();
    if let Some(all) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        all.retain(|name, _| {
            ![PRIOR, STOPPED_BY].contains(&name.as_str())
                && !ADDED.iter().any(|added| name.starts_with(added))
        });
    }
    let kind = (resource.group.as_str(), resource.kind.as_str());
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return object };
    match kind {
        ("", "Service") => {
            // A service without an address of its own has said so.
            if spec.get("clusterIP").and_then(Value::as_str) != Some("None") {
                spec.remove("clusterIP");
                spec.remove("clusterIPs");
            }
            spec.remove("healthCheckNodePort");
            let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
                port.remove("nodePort");
            }
        }
        ("", "PersistentVolumeClaim") => drop(spec.remove("volumeName")),
        ("apps", "Deployment" | "StatefulSet") => {
            if let Ok(replicas) = prior.parse::<u32>() {
                spec.insert("replicas".to_owned(), json!(replicas));
            }
        }
        ("batch", "CronJob") if prior == "scheduled" => {
            spec.insert("suspend".to_owned(), json!(false));
        }
        _ => {}
    }
    object
}

/// The bytes of its file; the same object gives the same ones.
pub(super) fn written(object: Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(&object).expect("JSON can be written as JSON");
    bytes.push(b'\n');
    bytes
}

/// When it was last changed, as far as its metadata says.
pub(super) fn changed(object: &Value) -> Timestamp {
    let managed = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let times = managed.into_iter().flatten().map(|one| text_at(one, "/time"));
    let all = times.chain([text_at(object, "/metadata/creationTimestamp")]);
    let newest = all.filter_map(|text| text.parse::<jiff::Timestamp>().ok()).max();
    Timestamp { seconds: newest.map_or(0, jiff::Timestamp::as_second), nanoseconds: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Value {
        json!({
            "metadata": {
                "name": "app", "namespace": "shop", "uid": "u", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-11-26T01:00:00Z", "labels": { "app": "shop" }, "annotations": {},
                "ownerReferences": [{ "uid": "o" }], "finalizers": ["x/y"],
                "managedFields": [{ "manager": "kubectl-edit", "time": "2026-11-26T02:00:00Z" }],
            },
            "data": { "LEVEL": "info" }, "immutable": true, "status": { "phase": "x" },
        })
    }

    #[test]
    fn what_the_cluster_adds_is_not_kept() {
        let deployments = Resource::new("apps", "v1", "Deployment", "deployments");
        assert_eq!(
            tidied(map(), &deployments),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "immutable": true, "data": { "LEVEL": "info" },
                "metadata": { "name": "app", "namespace": "shop", "labels": { "app": "shop" } },
            })
        );
    }

    #[test]
    fn what_a_restore_has_stopped_is_kept_as_it_was() {
        let stopped = json!({
            "metadata": { "name": "web", "annotations": { PRIOR: "3", STOPPED_BY: "a/r", "own": "1" } },
            "spec": { "replicas": 0 },
        });
        let deployments = Resource::new("apps", "v1", "Deployment", "deployments");
        let kept = tidied(stopped, &deployments);
        assert_eq!(kept["spec"]["replicas"], 3);
        assert_eq!(kept["metadata"]["annotations"], json!({ "own": "1" }));
    }

    #[test]
    fn addresses_and_volumes_of_one_cluster_are_not_kept() {
        let service = json!({ "metadata": { "name": "a" }, "spec": {
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{ "port": 80, "nodePort": 30080 }],
        } });
        let services = Resource::new("", "v1", "Service", "services");
        assert_eq!(tidied(service, &services)["spec"], json!({ "ports": [{ "port": 80 }] }));
        let claim =
            json!({ "metadata": { "name": "a" }, "spec": { "volumeName": "pvc-1", "accessModes": [] } });
        let claims = Resource::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");
        assert_eq!(tidied(claim, &claims)["spec"], json!({ "accessModes": [] }));
    }

    #[test]
    fn an_object_that_was_not_changed_is_the_same_file() {
        let mut other = map();
        other["metadata"]["resourceVersion"] = json!("8");
        let of = |object| written(tidied(object, &Resource::config_maps()));
        assert_eq!(of(map()), of(other));
        assert!(of(map()).ends_with(b"}\n"));
    }

    #[test]
    fn the_newest_change_is_the_time_of_the_file() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().expect("a time").as_second();
        assert_eq!(changed(&map()).seconds, at("2026-11-26T02:00:00Z"));
        let made = json!({ "metadata": { "creationTimestamp": "2026-11-26T01:00:00Z" } });
        assert_eq!(changed(&made).seconds, at("2026-11-26T01:00:00Z"));
        assert_eq!(changed(&json!({})).seconds, 0);
    }
}
