//! What the controller asks the API server of workloads: objects as JSON, one call at a time.
//!
//! Must stay true: no value of an object is part of an error, nor of a log; every call may be repeated, since it
//! sets what it says.

use std::fmt;
use std::time::Duration;

use http::{Request, header};
use kube::Client;
use proto::workload::{MANAGER, text_at};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// So long is waited before a call that came to nothing is repeated.
const AGAIN: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
/// More pods, or autoscalers, of one namespace are not looked at.
const MOST: u32 = 20_000;

/// What can be scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
        }
    }

    /// As objects name it.
    pub(super) fn object(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        }
    }
}

/// Where a workload lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct WorkloadId {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its name.
    pub(crate) name: String,
}

impl WorkloadId {
    /// Of `deployment/NAME` or `statefulset/NAME`, as the configuration has it.
    pub(super) fn of(namespace: &str, text: &str) -> Option<Self> {
        let (kind, name) = text.split_once('/')?;
        let kind = match kind {
            "deployment" => Kind::Deployment,
            "statefulset" => Kind::StatefulSet,
            _ => return None,
        };
        Some(Self { namespace: namespace.to_owned(), kind, name: name.to_owned() })
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.kind.object().to_lowercase(), self.name)
    }
}

/// The API server does not do what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiTrouble {
    /// A right is missing.
    #[error(
        "the controller may not {0}: its role lacks that (the chart gives it for what `restore` of its `joins` names)"
    )]
    Forbidden(String),
    /// It was refused.
    #[error("the Kubernetes API does not {0}: {1}")]
    Refused(String, String),
    /// There is no answer that can be understood.
    #[error("the Kubernetes API does not answer: {0}")]
    Silent(String),
}

impl ApiTrouble {
    /// True if the same call may go better later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Silent(_))
    }
}

/// The API server.
#[derive(Clone)]
pub(crate) struct Api(Client);

impl Api {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// The workload, if it is there.
    pub(crate) async fn workload(&self, id: &WorkloadId) -> Result<Option<Value>, ApiTrouble> {
        let request = Request::get(path(id)).body(Vec::new());
        self.found(request, &format!("get {id}")).await
    }

    /// Selects its pods, as `labelSelector` takes it.
    pub(crate) async fn selector(&self, id: &WorkloadId) -> Result<String, ApiTrouble> {
        let request = Request::get(format!("{}/scale", path(id))).body(Vec::new());
        let scale = self.ask(request, &format!("get the scale of {id}")).await?;
        match text_at(&scale, "/status/selector") {
            // It would choose every pod of the namespace.
            "" => Err(ApiTrouble::Silent(format!("it does not say which pods are those of {id}"))),
            selector => Ok(selector.to_owned()),
        }
    }

    /// Gives it this number of replicas; `tried`: only says whether it would.
    pub(crate) async fn scale(&self, id: &WorkloadId, replicas: i64, tried: bool) -> Result<(), ApiTrouble> {
        let dry = if tried { "&dryRun=All" } else { "" };
        let request = Request::patch(format!("{}/scale?fieldManager={MANAGER}{dry}", path(id)))
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(json!({ "spec": { "replicas": replicas } }).to_string().into_bytes());
        self.ask(request, &format!("scale {id}")).await.map(drop)
    }

    /// The pods of a namespace that a label selector chooses; empty: all.
    pub(crate) async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Value>, ApiTrouble> {
        let chosen = match selector {
            "" => String::new(),
            selector => {
                let mut query = form_urlencoded::Serializer::new(String::new());
                query.append_pair("labelSelector", selector);
                format!("&{}", query.finish())
            }
        };
        let from = format!("/api/v1/namespaces/{namespace}/pods?limit={MOST}{chosen}");
        self.list(from, &format!("list pods in the namespace {namespace}")).await
    }

    /// The autoscalers of a namespace.
    pub(crate) async fn autoscalers(&self, namespace: &str) -> Result<Vec<Value>, ApiTrouble> {
        let from =
            format!("/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers?limit={MOST}");
        self.list(from, &format!("list horizontalpodautoscalers in the namespace {namespace}")).await
    }

    async fn list(&self, from: String, what: &str) -> Result<Vec<Value>, ApiTrouble> {
        let mut answer = self.ask(Request::get(from).body(Vec::new()), what).await?;
        if !text_at(&answer, "/metadata/continue").is_empty() {
            return Err(ApiTrouble::Refused(what.to_owned(), format!("there are more than {MOST}")));
        }
        let items = answer.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
        Ok(items.unwrap_or_default())
    }

    async fn found(
        &self,
        request: http::Result<Request<Vec<u8>>>,
        what: &str,
    ) -> Result<Option<Value>, ApiTrouble> {
        match self.answer(request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if code(&error) == Some(404) => Ok(None),
            Err(error) => Err(trouble(&error, what)),
        }
    }

    async fn ask(&self, request: http::Result<Request<Vec<u8>>>, what: &str) -> Result<Value, ApiTrouble> {
        self.answer(request).await.map_err(|error| trouble(&error, what))
    }

    async fn answer(&self, request: http::Result<Request<Vec<u8>>>) -> Result<Value, kube::Error> {
        let request = request.map_err(kube::Error::HttpError)?;
        let mut waits = AGAIN.into_iter();
        loop {
            let asked = tokio::time::timeout(ANSWER, self.0.request_text(request.clone())).await;
            let error = match asked {
                Ok(Ok(text)) => return serde_json::from_str(&text).map_err(kube::Error::SerdeError),
                Ok(Err(error)) => error,
                Err(late) => kube::Error::Service(late.into()),
            };
            let is_passing = code(&error).is_none_or(|code| code == 409 || code == 429 || code >= 500);
            match waits.next() {
                Some(wait) if is_passing => tokio::time::sleep(wait).await,
                _ => return Err(error),
            }
        }
    }
}

/// Its names were checked when the configuration was read.
fn path(id: &WorkloadId) -> String {
    format!("/apis/apps/v1/namespaces/{}/{}/{}", id.namespace, id.kind.plural(), id.name)
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The reason of a refusal; its message may hold what stands in the object.
fn trouble(error: &kube::Error, what: &str) -> ApiTrouble {
    match error {
        kube::Error::Api(status) if status.code == 429 || status.code >= 500 => {
            ApiTrouble::Silent(format!("{} ({})", status.reason, status.code))
        }
        kube::Error::Api(status) if status.code == 403 => ApiTrouble::Forbidden(what.to_owned()),
        kube::Error::Api(status) => {
            let reason = if status.reason.is_empty() { "no reason given" } else { &status.reason };
            ApiTrouble::Refused(what.to_owned(), format!("{reason} ({})", status.code))
        }
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            ApiTrouble::Silent("what it says is no JSON".to_owned())
        }
        error => ApiTrouble::Silent(proto::failure::chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_lies_where_the_api_has_it() {
        let id = WorkloadId::of("shop", "statefulset/db").expect("a workload");
        assert_eq!(path(&id), "/apis/apps/v1/namespaces/shop/statefulsets/db");
        assert_eq!(id.to_string(), "shop/statefulset/db");
        assert_eq!(WorkloadId::of("shop", "cronjob/x"), None);
    }

    #[test]
    fn what_is_refused_is_told_without_what_stands_in_the_object() {
        let answer = |code: u16, reason: &str| {
            let status = json!({ "code": code, "reason": reason, "message": "hunter2" });
            kube::Error::Api(Box::new(serde_json::from_value(status).expect("as the API writes it")))
        };
        let forbidden = trouble(&answer(403, "Forbidden"), "scale shop/deployment/web").to_string();
        assert!(forbidden.contains("may not scale shop/deployment/web"), "{forbidden}");
        let refused = trouble(&answer(422, "Invalid"), "scale shop/deployment/web").to_string();
        assert!(refused.contains("Invalid (422)") && !refused.contains("hunter2"), "{refused}");
    }
}
