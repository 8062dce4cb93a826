//! Joining by service accounts of a Kubernetes cluster, as it is written.

use std::collections::BTreeSet;
use std::path::PathBuf;

use runtime::config::{Duration, Problem};
use serde::{Deserialize, Serialize};

use crate::config::absolute;
use crate::identity::{SourceBounds, name_pattern};

/// Agents of one account that are many and not yet out of hand.
const USUAL_AGENTS: u32 = 100;

/// What the controller does with a Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Whom the agents' tokens are meant for: `audience` of their projected volume. A token for anybody else,
    /// the API server included, is refused.
    pub audience: String,
    /// How the API server is reached by a controller outside of the cluster. A pod knows it.
    pub kubeconfig: Option<PathBuf>,
    /// Who may join without a token of ours.
    pub agents: Vec<AccountRule>,
    /// Deployments of agents at 0 replicas, each in the place of a sidecar while its volume is restored.
    pub restore_pods: Vec<RestorePod>,
    /// Config maps that get the certificate of this controller's authority, so that agents know whom they join.
    pub authority: Vec<AuthorityMap>,
}

/// Pods that run as one service account may join as these agents. The first rule that fits counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRule {
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub service_account: String,
    /// The agent's name, or a pattern for the names that agents choose.
    pub name: String,
    /// What they may serve, as patterns `component/source`; anything where it is left out.
    #[serde(default)]
    pub sources: Vec<String>,
    /// How many agents of different names may join by it.
    #[serde(default = "usual_agents")]
    pub most: u32,
}

/// A Deployment at 0 replicas whose pod mounts what a sidecar has mounted and joins as the same agent: it restores the
/// volume in place while what uses it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePod {
    /// Its namespace, and that of what it stands in for.
    pub namespace: String,
    /// The Deployment.
    pub deployment: String,
    /// Whose folders it restores, as patterns `component/source`.
    pub sources: Vec<String>,
    /// What is stopped meanwhile, as `deployment/NAME` or `statefulset/NAME`, in the order in which it is started.
    pub workloads: Vec<String>,
    /// How long the pods of a workload, and its own, may take to be gone.
    #[serde(default = "usual_stop")]
    pub stop_limit: Duration,
    /// How long its pod may take until its agent has joined.
    #[serde(default = "usual_start")]
    pub start_limit: Duration,
    /// How long a workload may take to become ready.
    #[serde(default = "usual_start")]
    pub health_limit: Duration,
}

/// A config map that exists, in the namespace of agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityMap {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub config_map: String,
}

impl Default for Kubernetes {
    fn default() -> Self {
        let audience = "neurashield-backup".to_owned();
        Self {
            audience,
            kubeconfig: None,
            agents: Vec::new(),
            restore_pods: Vec::new(),
            authority: Vec::new(),
        }
    }
}

impl Kubernetes {
    /// True if the API server is never asked.
    pub fn is_unused(&self) -> bool {
        self.agents.is_empty() && self.authority.is_empty() && self.restore_pods.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        self.kubeconfig.iter().try_for_each(|file| absolute("kubernetes.kubeconfig", file))?;
        if self.audience.is_empty() {
            return Err(Problem::new("kubernetes.audience", "write whom the agents' tokens are meant for"));
        }
        for (place, rule) in self.agents.iter().enumerate() {
            let problem = |key: &str, reason: String| {
                Err(Problem::new(format!("kubernetes.agents[{place}].{key}"), reason))
            };
            if !is_object_name(&rule.namespace) {
                return problem("namespace", NO_NAME.to_owned());
            }
            if !is_object_name(&rule.service_account) {
                return problem("service_account", NO_NAME.to_owned());
            }
            if rule.name.is_empty() {
                return problem("name", "write the agent's name, or a pattern, e.g. node-*".to_owned());
            }
            if let Err(error) = name_pattern(&rule.name) {
                return problem("name", error.to_string());
            }
            if let Err(error) = SourceBounds::new(&rule.sources) {
                return problem("sources", error.to_string());
            }
            if rule.most == 0 {
                return problem("most", "at least 1".to_owned());
            }
        }
        for (place, pod) in self.restore_pods.iter().enumerate() {
            pod.check(&format!("kubernetes.restore_pods[{place}]"))?;
            let is_same =
                |one: &RestorePod| (&one.namespace, &one.deployment) == (&pod.namespace, &pod.deployment);
            if self.restore_pods[..place].iter().any(is_same) {
                let reason = "this Deployment is in the list already";
                return Err(Problem::new(format!("kubernetes.restore_pods[{place}].deployment"), reason));
            }
        }
        for (place, map) in self.authority.iter().enumerate() {
            let path = |key: &str| format!("kubernetes.authority[{place}].{key}");
            if !is_object_name(&map.namespace) {
                return Err(Problem::new(path("namespace"), NO_NAME));
            }
            if !is_object_name(&map.config_map) {
                return Err(Problem::new(path("config_map"), NO_NAME));
            }
        }
        Ok(())
    }
}

impl RestorePod {
    fn check(&self, path: &str) -> Result<(), Problem> {
        let problem = |key: &str, reason: &str| Err(Problem::new(format!("{path}.{key}"), reason));
        if !is_object_name(&self.namespace) {
            return problem("namespace", NO_NAME);
        }
        if !is_object_name(&self.deployment) {
            return problem("deployment", NO_NAME);
        }
        if self.sources.is_empty() {
            return problem("sources", "name what it restores, e.g. models/shop");
        }
        if let Err(error) = SourceBounds::new(&self.sources) {
            return problem("sources", &error.to_string());
        }
        let is_workload = |text: &String| {
            let parts = text.split_once('/');
            parts.is_some_and(|(kind, name)| {
                matches!(kind, "deployment" | "statefulset") && is_object_name(name)
            })
        };
        let mut seen = BTreeSet::new();
        let itself = format!("deployment/{}", self.deployment);
        let is_good = |one: &String| is_workload(one) && *one != itself;
        match self.workloads.iter().all(|one| is_good(one) && seen.insert(one)) && !self.workloads.is_empty()
        {
            true => Ok(()),
            false => problem(
                "workloads",
                "name each that has the volume mounted once, as deployment/NAME or statefulset/NAME",
            ),
        }
    }
}

const NO_NAME: &str = "write a name as Kubernetes knows it: a-z, 0-9, - and . inside, at most 253 letters";

/// These stand in paths of requests to the API server.
fn is_object_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    name.len() <= 253
        && name.starts_with(plain)
        && name.ends_with(plain)
        && !name.contains("..")
        && name.chars().all(|letter| plain(letter) || "-.".contains(letter))
}

fn usual_stop() -> Duration {
    Duration::from_secs(180)
}

fn usual_start() -> Duration {
    Duration::from_secs(300)
}

fn usual_agents() -> u32 {
    USUAL_AGENTS
}
