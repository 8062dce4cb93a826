//! The Kubernetes API, as far as the agent asks it: objects as JSON, one call at a time.
//!
//! The client gives the connection: address, authority, the service account's token and its renewal. What goes
//! over it is JSON here, and not a type of each kind: any kind can be asked for, and an answer that cannot be
//! understood is never written into a log, where the values of a Secret would stand.
//!
//! Must stay true: no value of an object is part of an error; what is refused is told with the verb, the
//! resource and the namespace that a role has to name.

mod resource;
mod trouble;

use std::time::Duration;

use http::{Method, Request, header};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

pub(crate) use resource::{Place, Resource, Verb, text_at};
pub(crate) use trouble::{Conflict, Trouble};

use crate::config::KubernetesConfig;

pub(crate) use proto::workload::{MANAGER, PRIOR, STOPPED_BY};

const CONNECT: Duration = Duration::from_secs(10);
/// How long one answer may take. Less than a cancelled task has for its end.
const ANSWER: Duration = Duration::from_secs(45);
/// So long is waited before a call that came to nothing is repeated.
const AGAIN: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
/// Objects in one answer.
const PAGE: u32 = 100;
/// How often a list is begun again whose rest the API no longer knows.
const LISTINGS: usize = 3;
/// More objects of one kind in one namespace are not listed.
const MOST_OBJECTS: usize = 200_000;

/// What an answer is asked to be.
const WHOLE: &str = "application/json";
const ONLY_METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// How an object is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Server-side apply: what is given is set, and becomes ours.
    Apply {
        /// Fields that others have set are taken from them.
        force: bool,
    },
    /// A JSON merge patch.
    Merge,
}

/// A cluster whose API answers.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster that the configuration means: that of its file, or the one in which we run.
    pub(crate) async fn connect(config: &KubernetesConfig) -> Result<Self, Trouble> {
        let unclear = |error: &dyn std::error::Error| Trouble::NoCluster(proto::failure::chain(error));
        let mut settings = match &config.kubeconfig {
            Some(file) => {
                let read = Kubeconfig::read_from(file).map_err(|error| unclear(&error))?;
                let chosen = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
                chosen.map_err(|error| unclear(&error))?
            }
            None => kube::Config::incluster().map_err(|error| unclear(&error))?,
        };
        settings.connect_timeout = Some(CONNECT);
        settings.read_timeout = Some(ANSWER);
        settings.write_timeout = Some(ANSWER);
        // Its own may go on for a quarter of an hour.
        settings.default_retry = false;
        let namespace = settings.default_namespace.clone();
        let client = Client::try_from(settings).map_err(|error| unclear(&error))?;
        Ok(Self { client, namespace })
    }

    /// Our own namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The object, if it is there.
    pub(crate) async fn get(&self, place: &Place<'_>) -> Result<Option<Value>, Trouble> {
        let request = Request::get(place.path("")).header(header::ACCEPT, WHOLE).body(Vec::new());
        match self.ask(request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if trouble::code(&error) == Some(404) => Ok(None),
            Err(error) => Err(Trouble::of(&error, Verb::Get, place)),
        }
    }

    /// Objects of the kind in the namespace, whole. For kinds of which there are few.
    pub(crate) async fn list(
        &self,
        resource: &Resource,
        namespace: &str,
        chosen: &Chosen<'_>,
    ) -> Result<Vec<Value>, Trouble> {
        self.pages(resource, namespace, chosen, WHOLE, Some).await
    }

    /// What `of` makes of the metadata of each object of the kind in the namespace.
    pub(crate) async fn list_metadata<T>(
        &self,
        resource: &Resource,
        namespace: &str,
        chosen: &Chosen<'_>,
        of: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<T>, Trouble> {
        self.pages(resource, namespace, chosen, ONLY_METADATA, of).await
    }

    async fn pages<T>(
        &self,
        resource: &Resource,
        namespace: &str,
        chosen: &Chosen<'_>,
        accept: &str,
        of: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<T>, Trouble> {
        let place = Place { resource, namespace, name: "" };
        let mut all = Vec::new();
        let (mut rest, mut listings) = (String::new(), 1);
        loop {
            let query = chosen.query(&rest);
            let request = Request::get(place.path(&query)).header(header::ACCEPT, accept).body(Vec::new());
            let mut page = match self.ask(request).await {
                // The rest of a list is kept for minutes.
                Err(error) if trouble::code(&error) == Some(410) && listings < LISTINGS => {
                    (all, rest, listings) = (Vec::new(), String::new(), listings + 1);
                    continue;
                }
                answer => answer.map_err(|error| Trouble::of(&error, Verb::List, &place))?,
            };
            let items = page.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
            all.extend(items.unwrap_or_default().into_iter().filter_map(&of));
            rest = text_at(&page, "/metadata/continue").to_owned();
            if rest.is_empty() || chosen.first.is_some() {
                return Ok(all);
            }
            if all.len() > MOST_OBJECTS {
                return Err(Trouble::TooMany { what: place.to_string(), most: MOST_OBJECTS });
            }
        }
    }

    /// Changes the object, or makes it where that is what `change` does. `tried` changes nothing and says
    /// what would come of it.
    pub(crate) async fn patch(
        &self,
        place: &Place<'_>,
        (change, tried): (Change, bool),
        body: &Value,
    ) -> Result<Value, Trouble> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("fieldManager", MANAGER);
        if let Change::Apply { force } = change {
            query.append_pair("force", if force { "true" } else { "false" });
        }
        if tried {
            query.append_pair("dryRun", "All");
        }
        let (verb, kind) = match change {
            Change::Apply { .. } => (Verb::Apply, "application/apply-patch+yaml"),
            Change::Merge => (Verb::Patch, "application/merge-patch+json"),
        };
        let request = Request::patch(place.path(&query.finish()))
            .header(header::ACCEPT, WHOLE)
            .header(header::CONTENT_TYPE, kind)
            .body(body.to_string().into_bytes());
        self.ask(request).await.map_err(|error| Trouble::of(&error, verb, place))
    }

    /// Removes the object that has this uid; one that is gone is fine.
    pub(crate) async fn delete(&self, place: &Place<'_>, uid: &str) -> Result<(), Trouble> {
        let options = serde_json::json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": uid },
        });
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(place.path(""))
            .header(header::CONTENT_TYPE, WHOLE)
            .body(options.to_string().into_bytes());
        match self.ask(request).await {
            Err(error) if !matches!(trouble::code(&error), Some(404 | 409)) => {
                Err(Trouble::of(&error, Verb::Delete, place))
            }
            _ => Ok(()),
        }
    }

    /// The kind that is called `kind` in this group and version, as the API serves it.
    pub(crate) async fn kind(&self, group: &str, version: &str, kind: &str) -> Result<Resource, Trouble> {
        let path = match group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let named = || format!("{group}/{version}/{kind}");
        let listed = match self.ask(Request::get(path).body(Vec::new())).await {
            Ok(listed) => listed,
            Err(error) if trouble::code(&error) == Some(404) => return Err(Trouble::NoKind(named())),
            Err(error) => return Err(Trouble::silent(&error)),
        };
        let served = listed.get("resources").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let of_kind = |one: &&Value| text_at(one, "/kind") == kind && !text_at(one, "/name").contains('/');
        let found = served.iter().find(of_kind).ok_or_else(|| Trouble::NoKind(named()))?;
        if found.get("namespaced").and_then(Value::as_bool) != Some(true) {
            return Err(Trouble::NotInNamespaces(named()));
        }
        Ok(Resource::new(group, version, kind, text_at(found, "/name")))
    }

    async fn ask(&self, request: http::Result<Request<Vec<u8>>>) -> Result<Value, kube::Error> {
        let request = request.map_err(kube::Error::HttpError)?;
        let mut waits = AGAIN.into_iter();
        loop {
            // Every call may be repeated: it sets what it says, or is about one version or one uid.
            let asked = tokio::time::timeout(ANSWER, self.client.request_text(request.clone())).await;
            let error = match asked {
                Ok(Ok(text)) => return serde_json::from_str(&text).map_err(kube::Error::SerdeError),
                Ok(Err(error)) => error,
                Err(late) => kube::Error::Service(late.into()),
            };
            let is_passing = trouble::code(&error).is_none_or(|code| code == 429 || code >= 500);
            match waits.next() {
                Some(wait) if is_passing => tokio::time::sleep(wait).await,
                _ => return Err(error),
            }
        }
    }
}

/// Which objects of a list.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chosen<'a> {
    /// A label selector; empty: all.
    pub(crate) labels: &'a str,
    /// A field selector; empty: all.
    pub(crate) fields: &'a str,
    /// No more than so many.
    pub(crate) first: Option<u32>,
}

impl Chosen<'_> {
    fn query(&self, rest: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &self.first.unwrap_or(PAGE).to_string());
        let pairs = [("labelSelector", self.labels), ("fieldSelector", self.fields), ("continue", rest)];
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        query.finish()
    }
}
