//! What the API refuses, in words that hold no value of an object.

use kube::core::Status;

use super::resource::{Place, Verb};

/// A field that somebody else has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// As the API names it: `.data.LOG_LEVEL`.
    pub(crate) field: String,
    pub(crate) manager: String,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} belongs to {}", self.field.trim_start_matches('.'), self.manager)
    }
}

/// The API does not do what it is asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("there is no Kubernetes API to ask: {0}")]
    NoCluster(String),
    #[error("the Kubernetes API does not answer: {0}")]
    Silent(String),
    #[error("the Kubernetes API does not know who the agent is: its token is refused")]
    Unknown,
    #[error("the agent may not {verb} {place}: its role lacks {verb} on {resource} there", verb = .verb.words())]
    Forbidden { verb: Verb, place: String, resource: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Conflicts(Vec<Conflict>),
    #[error("the cluster serves no {0}")]
    NoKind(String),
    #[error("objects of {0} lie in no namespace")]
    NotInNamespaces(String),
    #[error("there are more than {most} {what}")]
    TooMany { what: String, most: usize },
    #[error("the Kubernetes API does not {verb} {place}: {cause}", verb = .verb.words())]
    Refused { verb: Verb, place: String, cause: String, code: u16 },
}

impl Trouble {
    pub(super) fn of(error: &kube::Error, verb: Verb, place: &Place<'_>) -> Self {
        let kube::Error::Api(status) = error else { return Self::silent(error) };
        match status.code {
            401 => Self::Unknown,
            403 => Self::Forbidden {
                verb,
                place: place.to_string(),
                resource: match place.name.split_once('/') {
                    Some((_, sub)) => format!("{}/{sub}", place.resource.full_plural()),
                    None => place.resource.full_plural(),
                },
            },
            409 if !conflicts(status).is_empty() => Self::Conflicts(conflicts(status)),
            code => Self::Refused { verb, place: place.to_string(), cause: cause(status), code },
        }
    }

    pub(super) fn silent(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Silent(cause(status)),
            // An answer that cannot be understood may be quoted where it cannot be.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Silent("what it says is no JSON".to_owned())
            }
            error => Self::Silent(proto::failure::chain(error)),
        }
    }

    /// What somebody can do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::NoCluster(_) => {
                "run the agent in a pod with a service account, or name a `kubeconfig` under `kubernetes` in its \
                 configuration"
            }
            Self::Silent(_) => "see to the cluster's API server and the network between",
            Self::Unknown => "see to the agent's service account, or to the user of its `kubeconfig`",
            Self::Forbidden { .. } => {
                "give the agent's service account this right by a Role and a RoleBinding in that namespace"
            }
            Self::Conflicts(_) => {
                "change it where it is managed, or take the fields over with --force-conflicts"
            }
            Self::NoKind(_) | Self::NotInNamespaces(_) => {
                "write `kinds` as GROUP/VERSION/KIND of what `kubectl api-resources --namespaced` lists"
            }
            Self::TooMany { .. } => "choose fewer by `labels`",
            Self::Refused { .. } => "see to what the API server says of it",
        }
    }
}

/// The code of what the API has answered, if it has.
pub(super) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn conflicts(status: &Status) -> Vec<Conflict> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let conflicts = causes
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|cause| Conflict { field: cause.field.clone(), manager: manager(&cause.message) });
    conflicts.collect()
}

/// Out of `conflict with "kubectl-edit" using v1 at …`.
fn manager(message: &str) -> String {
    message.split('"').nth(1).unwrap_or("another manager").to_owned()
}

/// The reason, and which fields it is about. The message may hold what stands in them.
fn cause(status: &Status) -> String {
    let details = status.details.as_ref();
    let causes = details.map(|details| details.causes.as_slice()).unwrap_or_default();
    let fields: Vec<String> =
        causes.iter().take(10).map(|cause| format!("{} ({})", cause.field, cause.reason)).collect();
    let reason = if status.reason.is_empty() { "no reason given" } else { &status.reason };
    match fields.as_slice() {
        [] => format!("{reason} ({})", status.code),
        fields => format!("{reason}: {}", fields.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Resource;
    use super::*;

    fn answer(json: serde_json::Value) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value(json).expect("as the API writes it")))
    }

    #[test]
    fn what_a_role_lacks_is_named_by_verb_resource_and_namespace() {
        let secrets = Resource::secrets();
        let place = Place { resource: &secrets, namespace: "shop", name: "" };
        let error = answer(serde_json::json!({ "code": 403, "reason": "Forbidden", "message": "no" }));
        assert_eq!(
            Trouble::of(&error, Verb::List, &place).to_string(),
            "the agent may not list secrets in the namespace shop: its role lacks list on secrets there"
        );
        let deployments = Resource::new("apps", "v1", "Deployment", "deployments");
        let scale = Place { resource: &deployments, namespace: "shop", name: "web/scale" };
        let told = Trouble::of(&error, Verb::Patch, &scale).to_string();
        assert!(told.ends_with("its role lacks patch on deployments.apps/scale there"), "{told}");
    }

    #[test]
    fn conflicts_are_told_with_their_owner_and_values_are_not() {
        let secrets = Resource::secrets();
        let place = Place { resource: &secrets, namespace: "shop", name: "db" };
        let error = answer(serde_json::json!({
            "code": 409, "reason": "Conflict", "message": "hunter2",
            "details": { "causes": [{
                "reason": "FieldManagerConflict", "field": ".data.password",
                "message": "conflict with \"kubectl-edit\" using v1 at 2026-11-26T12:00:00Z",
            }] },
        }));
        assert_eq!(
            Trouble::of(&error, Verb::Apply, &place).to_string(),
            "data.password belongs to kubectl-edit"
        );
        let error = answer(serde_json::json!({
            "code": 422, "reason": "Invalid", "message": "data: Invalid value: \"hunter2\"",
            "details": { "causes": [{
                "reason": "FieldValueForbidden", "field": "data", "message": "Invalid value: \"hunter2\"",
            }] },
        }));
        let told = Trouble::of(&error, Verb::Apply, &place).to_string();
        assert!(told.ends_with("Invalid: data (FieldValueForbidden)"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}
