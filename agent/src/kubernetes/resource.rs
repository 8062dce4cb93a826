//! Kinds of objects, and where an object lies at the API.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What of a name, and its subresource, stands in a path as something else.
const NAME: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'/');

/// A kind that has a place in namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Resource {
    /// Empty: the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    /// As objects name it, e.g. `ConfigMap`.
    pub(crate) kind: String,
    /// As paths and roles name it, e.g. `configmaps`.
    pub(crate) plural: String,
}

impl Resource {
    pub(crate) fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        let [group, version, kind, plural] = [group, version, kind, plural].map(str::to_owned);
        Self { group, version, kind, plural }
    }

    pub(crate) fn config_maps() -> Self {
        Self::new("", "v1", "ConfigMap", "configmaps")
    }

    /// The one kind here that lies in no namespace: a [`Place`] with an empty one.
    pub(crate) fn namespaces() -> Self {
        Self::new("", "v1", "Namespace", "namespaces")
    }

    pub(crate) fn pods() -> Self {
        Self::new("", "v1", "Pod", "pods")
    }

    pub(crate) fn secrets() -> Self {
        Self::new("", "v1", "Secret", "secrets")
    }

    /// As an object's `apiVersion` says it.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// What no other kind of any group has: `ConfigMap`, `Deployment.apps`.
    pub(crate) fn full_kind(&self) -> String {
        match self.group.as_str() {
            "" => self.kind.clone(),
            group => format!("{}.{group}", self.kind),
        }
    }

    /// As roles and `kubectl` name it: `configmaps`, `deployments.apps`.
    pub(crate) fn full_plural(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

/// Where an object lies, or all of a kind in a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) resource: &'a Resource,
    /// Empty: of the cluster itself.
    pub(crate) namespace: &'a str,
    /// With a subresource if one is meant; empty: all of them.
    pub(crate) name: &'a str,
}

impl Place<'_> {
    pub(super) fn path(&self, query: &str) -> String {
        let Resource { group, version, plural, .. } = self.resource;
        let namespace = match self.namespace {
            "" => String::new(),
            named => format!("namespaces/{named}/"),
        };
        let mut path = match group.as_str() {
            "" => format!("/api/{version}/{namespace}{plural}"),
            group => format!("/apis/{group}/{version}/{namespace}{plural}"),
        };
        for (mark, part) in [('/', self.name), ('?', query)] {
            if !part.is_empty() {
                path.push(mark);
                match mark {
                    '/' => path.extend(utf8_percent_encode(part, NAME)),
                    _ => path.push_str(part),
                }
            }
        }
        path
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plural, namespace) = (self.resource.full_plural(), self.namespace);
        match self.name {
            "" if namespace.is_empty() => write!(f, "{plural}"),
            "" => write!(f, "{plural} in the namespace {namespace}"),
            name => write!(f, "{plural} {name} in the namespace {namespace}"),
        }
    }
}

/// What is done with an object, as a role has to allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Patch,
    /// What is not there yet is made by the same call.
    Apply,
    Delete,
}

impl Verb {
    /// The words of a role.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Apply => "create and patch",
            Self::Delete => "delete",
        }
    }
}

/// The text at this JSON pointer; empty if there is none.
pub(crate) fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_lie_where_the_api_has_them() {
        let secrets = Resource::secrets();
        let deployments = Resource::new("apps", "v1", "Deployment", "deployments");
        let of = |resource, name| Place { resource, namespace: "shop", name };
        assert_eq!(of(&secrets, "db").path(""), "/api/v1/namespaces/shop/secrets/db");
        assert_eq!(of(&secrets, "").path("limit=1"), "/api/v1/namespaces/shop/secrets?limit=1");
        assert_eq!(
            of(&deployments, "web/scale").path("dryRun=All"),
            "/apis/apps/v1/namespaces/shop/deployments/web/scale?dryRun=All"
        );
        assert_eq!(of(&deployments, "web").to_string(), "deployments.apps web in the namespace shop");
        let roles = Resource::new("rbac.authorization.k8s.io", "v1", "Role", "roles");
        assert!(of(&roles, "system:a b?#").path("").ends_with("/roles/system:a%20b%3F%23"));
        assert_eq!(deployments.api_version(), "apps/v1");
        assert_eq!(
            (deployments.full_kind(), secrets.full_kind()),
            ("Deployment.apps".into(), "Secret".into())
        );
    }
}
