//! What of an object is kept: what somebody has written, and nothing that the cluster adds. Pure.

use repository::archive::entry::Timestamp;
use serde_json::{Map, Value, json};

use crate::kubernetes::{Resource, text_at};

/// What of the metadata is kept. Owners are not: a cluster removes what belongs to an owner that it does not
/// know, and the ids of owners are others after a restore.
const KEPT: [&str; 4] = ["name", "namespace", "labels", "annotations"];

/// The object without what the cluster adds.
pub(crate) fn tidied(object: Value, resource: &Resource) -> Value {
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
