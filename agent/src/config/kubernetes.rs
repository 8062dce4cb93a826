//! How the agent reaches a Kubernetes cluster, and which of its objects a source holds.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use runtime::config::{Duration, Problem};
use serde::{Deserialize, Serialize};

use super::absolute;

/// Set in every pod that may ask the API.
pub(crate) const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
/// Where a pod finds the token of its service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How the cluster is reached, and how its workloads are stopped and started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesConfig {
    /// Whether workloads are looked for. Unset: if the agent runs in a pod with a service account, or has a
    /// `kubeconfig`.
    pub enabled: Option<bool>,
    /// The file that says how the API is reached; unset: as from a pod of the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The pod in which the agent runs, if it does; unset: the one that is called as its host is.
    pub pod: Option<String>,
    /// Where workloads are looked for; empty: in the agent's own namespace.
    pub namespaces: Vec<String>,
    /// How long a workload may take to become ready.
    pub health_limit: Duration,
    /// How long its pods may take to be gone, and a job that runs to end.
    pub stop_limit: Duration,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            kubeconfig: None,
            pod: None,
            namespaces: Vec::new(),
            health_limit: Duration::from_secs(300),
            stop_limit: Duration::from_secs(180),
        }
    }
}

impl KubernetesConfig {
    /// True if workloads are looked for.
    pub fn is_asked(&self) -> bool {
        let in_pod = || std::env::var_os(IN_CLUSTER).is_some() && PathBuf::from(TOKEN).exists();
        self.enabled.unwrap_or_else(|| self.kubeconfig.is_some() || in_pod())
    }

    /// True in a pod that may not ask the API, if nobody has said that this is as it should be: then workloads that
    /// use the data cannot be seen.
    pub(crate) fn is_blind(&self) -> bool {
        self.enabled.is_none() && std::env::var_os(IN_CLUSTER).is_some() && !self.is_asked()
    }

    /// True if somebody has said that there is a cluster whose workloads matter.
    pub(crate) fn is_configured(&self) -> bool {
        self.enabled.is_some() || self.kubeconfig.is_some() || !self.namespaces.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if let Some(file) = &self.kubeconfig {
            absolute("kubernetes.kubeconfig", file)?;
        }
        check_namespaces("kubernetes.namespaces", &self.namespaces)
    }
}

/// Which objects of a cluster a source holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// The namespaces in which they lie.
    pub namespaces: Vec<String>,
    /// Only objects with these labels, as `kubectl get -l` takes them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub labels: String,
    /// Secrets, too: all of them.
    #[serde(default)]
    pub secrets: bool,
    /// These Secrets and no others, for whoever may not list all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_names: Vec<String>,
    /// What containers of pods with these labels are given as environment, by their specs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pod_env: bool,
    /// Other kinds, beside ConfigMaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<ObjectKind>,
}

/// A kind by its group and version: `apps/v1/Deployment`; without a group, `v1/Service`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKind {
    /// Empty: the core group.
    pub group: String,
    /// Its version.
    pub version: String,
    /// Its name.
    pub kind: String,
}

impl TryFrom<String> for ObjectKind {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        const HOW: &str = "write a kind as GROUP/VERSION/KIND, e.g. apps/v1/Deployment, or VERSION/KIND without a \
                           group, e.g. v1/Service";
        let parts: Vec<&str> = text.split('/').collect();
        let (group, version, kind) = match parts.as_slice() {
            [version, kind] => ("", *version, *kind),
            [group, version, kind] if !group.is_empty() => (*group, *version, *kind),
            _ => return Err(HOW),
        };
        let fits = |text: &str, more: &str| {
            text.chars().all(|letter| letter.is_ascii_alphanumeric() || more.contains(letter))
        };
        let is_domain = group.is_empty()
            || group.split('.').all(|part| !part.is_empty() && !part.starts_with('-') && fits(part, "-"));
        let is_right = is_domain
            && fits(version, "")
            && fits(kind, "")
            && version.starts_with('v')
            && kind.starts_with(|letter: char| letter.is_ascii_uppercase());
        match is_right {
            true => Ok(Self { group: group.into(), version: version.into(), kind: kind.into() }),
            false => Err(HOW),
        }
    }
}

impl From<ObjectKind> for String {
    fn from(kind: ObjectKind) -> Self {
        kind.to_string()
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_str() {
            "" => write!(f, "{}/{}", self.version, self.kind),
            group => write!(f, "{group}/{}/{}", self.version, self.kind),
        }
    }
}

impl Objects {
    pub(super) fn check(&self, path: &str) -> Result<(), Problem> {
        if self.namespaces.is_empty() {
            return Err(Problem::new(format!("{path}.namespaces"), "name the namespaces, one or more"));
        }
        check_namespaces(&format!("{path}.namespaces"), &self.namespaces)?;
        self.check_secrets(path)?;
        let ours =
            |kind: &ObjectKind| kind.group.is_empty() && matches!(kind.kind.as_str(), "ConfigMap" | "Secret");
        let mut seen = BTreeSet::new();
        for (place, kind) in self.kinds.iter().enumerate() {
            if kind.group.is_empty() && matches!(kind.kind.as_str(), "Pod" | "Event" | "Endpoints")
                || kind.group == "batch" && kind.kind == "Job"
                || kind.group == "apps" && kind.kind == "ReplicaSet"
            {
                let reason = "such objects are made by others and cannot be put back: name what makes them";
                return Err(Problem::new(format!("{path}.kinds[{place}]"), reason));
            }
            let reason = match (ours(kind), seen.insert((&kind.group, &kind.kind))) {
                (true, _) => "ConfigMaps are always held, and Secrets by `secrets: true`",
                (false, false) => "this kind is in the list already",
                (false, true) => continue,
            };
            return Err(Problem::new(format!("{path}.kinds[{place}]"), reason));
        }
        Ok(())
    }
}

impl Objects {
    /// True if it holds the Secret of this name.
    pub(crate) fn has_secret(&self, name: &str) -> bool {
        self.secrets || self.secret_names.iter().any(|named| named == name)
    }

    fn check_secrets(&self, path: &str) -> Result<(), Problem> {
        let problem = |reason: &str| Err(Problem::new(format!("{path}.secret_names"), reason));
        let fits =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter);
        let is_name = |name: &String| (1..=253).contains(&name.len()) && name.chars().all(fits);
        match self.secret_names.as_slice() {
            [] => Ok(()),
            _ if self.secrets => problem("`secrets: true` takes all of them: name some, or take all"),
            _ if self.namespaces.len() != 1 => {
                problem("Secrets are named in a source of one namespace: write a source for each")
            }
            named if !named.iter().all(is_name) => problem("these are names of Secrets: a-z, 0-9, - and ."),
            _ => Ok(()),
        }
    }
}

pub(super) fn check_namespaces(path: &str, namespaces: &[String]) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for (place, name) in namespaces.iter().enumerate() {
        let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        let is_name = (1..=63).contains(&name.len())
            && name.starts_with(plain)
            && name.ends_with(plain)
            && name.chars().all(|letter| plain(letter) || letter == '-');
        if !is_name || !seen.insert(name) {
            let reason = "a namespace is named once, with 1 to 63 letters: a-z, 0-9, and - between them";
            return Err(Problem::new(format!("{path}[{place}]"), reason));
        }
    }
    Ok(())
}
