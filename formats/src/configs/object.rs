//! Objects of a Kubernetes cluster, by the path that a backup gives them:
//! `kubernetes/NAMESPACE/KIND/NAME.json`, `KIND.GROUP` outside of the core group.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    api_version: String,
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

/// True if a file at this path is an object.
pub(super) fn is_one(path: &[u8]) -> bool {
    names(path).is_some()
}

/// Namespace, kind and name of the object at this path.
fn names(path: &[u8]) -> Option<(&str, &str, &str)> {
    let path = std::str::from_utf8(path).ok()?;
    let mut parts = path.strip_prefix("kubernetes/")?.strip_suffix(".json")?.split('/');
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (namespace, kind, name, None) => Some((namespace, kind, name)),
        _ => None,
    }
}

/// Says what is wrong with the object of this path. What is in it is not told.
pub(super) fn look(path: &[u8], text: &[u8]) -> Result<(), String> {
    let (namespace, full_kind, name) = names(path).expect("it is the path of an object");
    let Ok(Object { api_version, kind, metadata }) = serde_json::from_slice(text) else {
        return Err("it is no object of Kubernetes: apiVersion, kind, metadata.namespace and metadata.name"
            .to_owned());
    };
    let group = api_version.split_once('/').map(|(group, _)| group);
    let found = group.map_or(kind.clone(), |group| format!("{kind}.{group}"));
    if found != full_kind {
        return Err(format!("it is no {full_kind}"));
    }
    if metadata.namespace != namespace {
        return Err(format!("it is not of the namespace {namespace}"));
    }
    match metadata.name == name {
        true => Ok(()),
        false => Err(format!("it is not called {name}")),
    }
}
