//! What an object would become, and how that differs from what it is. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::select::{Name, Part};
use crate::kubernetes::{Conflict, MANAGER, text_at};

/// Where the keys of ConfigMaps and Secrets lie.
const KEYED: [&str; 2] = ["data", "binaryData"];
/// So many differences of one object are told.
const TOLD: usize = 20;

/// What is applied: the archived object in its new place, or the live one with some keys of the archived one.
/// An error says what is missing.
pub(super) fn desired(
    archived: &Value,
    live: Option<&Value>,
    part: &Part,
    target: &Name,
) -> Result<Value, String> {
    let mut desired = match part {
        Part::Whole => archived.clone(),
        Part::Keys(keys) => {
            // All of what is live: what we applied before and apply no more would go.
            let mut desired = live.unwrap_or(archived).clone();
            if live.is_none() {
                KEYED.iter().for_each(|field| drop(desired.as_object_mut().map(|all| all.remove(*field))));
            }
            for key in keys {
                let found = KEYED.iter().find_map(|field| Some((*field, archived.get(*field)?.get(key)?)));
                let (field, value) =
                    found.ok_or_else(|| format!("the backup has no key {key} of {target}"))?;
                for other in KEYED {
                    if let Some(all) = desired.get_mut(other).and_then(Value::as_object_mut) {
                        all.remove(key);
                    }
                }
                if desired.get(field).is_none_or(|all| !all.is_object()) {
                    desired[field] = Value::Object(Map::new());
                }
                desired[field][key] = value.clone();
            }
            desired
        }
    };
    desired["metadata"]["namespace"] = Value::String(target.namespace.clone());
    Ok(desired)
}

/// Keys that are live and not in what is applied: a whole ConfigMap or Secret has the keys that it had.
pub(super) fn surplus(desired: &Value, live: &Value, target: &Name) -> Vec<(&'static str, String)> {
    if !target.has_keys() {
        return Vec::new();
    }
    let keys = |object: &Value, field: &str| -> BTreeSet<String> {
        object
            .get(field)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect()
    };
    let of_field = |field: &'static str| {
        let gone: Vec<String> = keys(live, field).difference(&keys(desired, field)).cloned().collect();
        gone.into_iter().map(move |key| (field, key))
    };
    KEYED.into_iter().flat_map(of_field).collect()
}

/// A merge patch that takes these keys away.
pub(super) fn without(surplus: &[(&'static str, String)]) -> Value {
    let mut patch = Map::new();
    for (field, key) in surplus {
        let keys = patch.entry(*field).or_insert_with(|| Value::Object(Map::new()));
        keys[key] = Value::Null;
    }
    Value::Object(patch)
}

/// Who else has set these keys, as the live object's metadata says.
pub(super) fn owners(live: &Value, surplus: &[(&'static str, String)]) -> Vec<Conflict> {
    let managed = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    let managed: Vec<&Value> = managed.into_iter().flatten().collect();
    let mut owners = Vec::new();
    for (field, key) in surplus {
        let has = |one: &&&Value| {
            let of = one.get("fieldsV1").and_then(|fields| fields.get(format!("f:{field}")));
            of.and_then(|fields| fields.get(format!("f:{key}"))).is_some()
        };
        let names = managed.iter().filter(has).map(|one| text_at(one, "/manager"));
        owners.extend(
            names
                .filter(|name| *name != MANAGER)
                .map(|name| Conflict { field: format!("{field}.{key}"), manager: name.to_owned() }),
        );
    }
    owners
}

/// True if we have applied it.
pub(super) fn is_ours(live: &Value) -> bool {
    let managed = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    managed.into_iter().flatten().any(|one| text_at(one, "/manager") == MANAGER)
}

/// The names of what differs between two tidied objects, never a value.
pub(super) fn differences(before: &Value, after: &Value) -> Vec<String> {
    let mut names = Vec::new();
    differ(before, after, String::new(), &mut names);
    let more = names.len().saturating_sub(TOLD);
    names.truncate(TOLD);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names
}

fn differ(before: &Value, after: &Value, at: String, names: &mut Vec<String>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                let name = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                differ(&of(before), &of(after), name, names);
            }
        }
        // A field that is there and empty is the same as none.
        (Value::Null, Value::Object(map)) | (Value::Object(map), Value::Null) => match map.is_empty() {
            true => {}
            false => map.keys().for_each(|key| names.push(format!("{at}.{key}"))),
        },
        _ => names.push(at),
    }
}

/// Why an object that is there cannot become what it was.
pub(super) fn fixed(desired: &Value, live: &Value, changed: &[String]) -> Option<String> {
    const AGAIN: &str = "delete it, after a look at what uses it, then restore again";
    let is_immutable = live.get("immutable").and_then(Value::as_bool) == Some(true);
    let of_data = |name: &String| {
        KEYED.iter().any(|field| name == field || name.starts_with(&format!("{field}.")))
            || name == "immutable"
    };
    if is_immutable && changed.iter().any(of_data) {
        return Some(format!("it is immutable and holds something else: {AGAIN}"));
    }
    let kinds = (text_at(live, "/type"), text_at(desired, "/type"));
    if text_at(live, "/kind") == "Secret" && kinds.0 != kinds.1 {
        return Some(format!(
            "its type is {} and was {}, which cannot be changed: {AGAIN}",
            kinds.0, kinds.1
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name() -> Name {
        Name { namespace: "shop".into(), kind: "ConfigMap".into(), name: "app".into() }
    }

    fn map(data: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "app", "namespace": "shop" }, "data": data,
        })
    }

    fn keys(all: &[&str]) -> Part {
        Part::Keys(all.iter().map(|key| (*key).to_owned()).collect())
    }

    #[test]
    fn a_single_key_leaves_all_others_as_they_are() {
        let (archived, live) = (map(json!({ "A": "1", "B": "2" })), map(json!({ "A": "x", "C": "3" })));
        let desired = desired(&archived, Some(&live), &keys(&["A"]), &name()).expect("it is there");
        assert_eq!(desired["data"], json!({ "A": "1", "C": "3" }));
        assert_eq!(surplus(&desired, &live, &name()), []);
        assert_eq!(differences(&live, &desired), ["data.A"]);
    }

    #[test]
    fn a_single_key_of_an_object_that_is_gone_comes_alone() {
        let mut archived = map(json!({ "A": "1", "B": "2" }));
        archived["binaryData"] = json!({ "D": "AAAA" });
        let of = |all: &[&str]| desired(&archived, None, &keys(all), &name());
        assert_eq!(of(&["B"]).expect("it is there")["data"], json!({ "B": "2" }));
        let both = of(&["B", "D"]).expect("they are there");
        assert_eq!((&both["data"], &both["binaryData"]), (&json!({ "B": "2" }), &json!({ "D": "AAAA" })));
        assert_eq!(of(&["X"]).unwrap_err(), "the backup has no key X of shop/ConfigMap/app");
    }

    #[test]
    fn a_whole_object_has_the_keys_that_it_had_and_goes_where_it_is_told() {
        let target = Name { namespace: "copy".into(), ..name() };
        let (archived, live) = (map(json!({ "A": "1" })), map(json!({ "A": "1", "C": "3" })));
        let desired = desired(&archived, Some(&live), &Part::Whole, &target).expect("it is there");
        assert_eq!(text_at(&desired, "/metadata/namespace"), "copy");
        let surplus = surplus(&desired, &live, &target);
        assert_eq!(surplus, [("data", "C".to_owned())]);
        assert_eq!(without(&surplus), json!({ "data": { "C": null } }));
        // Of other kinds a cluster adds fields by itself.
        let deployment = Name { kind: "Deployment.apps".into(), ..name() };
        assert_eq!(super::surplus(&desired, &live, &deployment), []);
    }

    #[test]
    fn whoever_else_has_set_a_key_is_named() {
        let mut live = map(json!({ "C": "3" }));
        live["metadata"]["managedFields"] = json!([
            { "manager": "kubectl-edit", "fieldsV1": { "f:data": { ".": {}, "f:C": {} } } },
            { "manager": MANAGER, "fieldsV1": { "f:data": { "f:C": {} } } },
            { "manager": "helm", "fieldsV1": { "f:data": { "f:D": {} } } },
        ]);
        let owners = owners(&live, &[("data", "C".to_owned())]);
        let told: Vec<String> = owners.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["data.C belongs to kubectl-edit"]);
    }

    #[test]
    fn differences_are_told_by_name_and_not_by_value() {
        let before = map(json!({ "A": "hunter2", "B": "2" }));
        let mut after = map(json!({ "A": "hunter3", "B": "2", "C": "3" }));
        after["metadata"]["labels"] = json!({ "app": "x" });
        after["binaryData"] = json!({});
        assert_eq!(differences(&before, &after), ["data.A", "data.C", "metadata.labels.app"]);
        let many: Map<String, Value> = (0..30).map(|n| (format!("k{n:02}"), json!("x"))).collect();
        let told = differences(&map(json!({})), &map(Value::Object(many)));
        assert_eq!((told.len(), told[20].as_str()), (21, "10 more"));
    }

    #[test]
    fn what_cannot_be_changed_is_refused_with_what_to_do() {
        let mut live = map(json!({ "A": "1" }));
        live["immutable"] = json!(true);
        let other = map(json!({ "A": "2" }));
        let changed = differences(&live, &other);
        assert!(fixed(&other, &live, &changed).expect("refused").starts_with("it is immutable and holds"));
        assert_eq!(fixed(&live, &live, &[]), None);
        assert_eq!(fixed(&live, &live, &["metadata.labels.a".to_owned()]), None, "labels may change");
        let secret = |kind: &str| json!({ "kind": "Secret", "type": kind });
        let told = fixed(&secret("Opaque"), &secret("kubernetes.io/tls"), &[]).expect("refused");
        assert!(told.starts_with("its type is kubernetes.io/tls and was Opaque"), "{told}");
    }
}
