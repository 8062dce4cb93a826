//! The agent's settings: what may be written, what it means where it is left out, what is refused.
//!
//! Must stay true: whatever is accepted here has an effect. A key whose meaning this release cannot serve is
//! an error that says so; a source that silently does less than it was told is a lost backup.

mod applications;
mod discovery;
mod drills;
mod environment;
mod hooks;
mod kubernetes;
mod limits;
mod look_here;
mod node;
mod sources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use runtime::config::{Problem, Secret, SecretSource, Settings};
use serde::{Deserialize, Serialize};

pub use applications::{ApplicationConfig, DockerConfig};
pub use discovery::{Discovery, Place, discover};
pub use drills::{Drills, Opener};
pub use environment::Environment;
pub use hooks::{Hook, Hooks, OnFailure};
pub(crate) use kubernetes::IN_CLUSTER;
pub use kubernetes::{KubernetesConfig, ObjectKind, Objects};
pub use limits::{Limits, WindowConfig};
pub use look_here::LookHere;
pub use node::NodeRpc;
pub use sources::{Kind, SourceConfig, SourceData};

/// Where the file lies unless told otherwise.
pub const USUAL_FILE: &str = "/etc/neurashield/agent.yaml";

/// Settings of the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// What the agent is called; the host's name unless configured.
    pub name: String,
    /// The controller's address, `https://host:port`.
    pub controller: String,
    /// The folder of identity and caches.
    pub state: PathBuf,
    /// How to join the first time.
    pub join: Join,
    /// What to back up; where it is empty, [`discover`] looks for the usual places.
    pub sources: Vec<SourceConfig>,
    /// What uses it: stopped before a restore in place, and started after.
    pub applications: Vec<ApplicationConfig>,
    /// How containers are reached.
    pub docker: DockerConfig,
    /// How a Kubernetes cluster is reached.
    pub kubernetes: KubernetesConfig,
    /// Where the doctor looks for data that no source covers, beside the usual places.
    pub look_here: LookHere,
    /// What is restored into a scratch folder and opened there, to prove that it can be.
    pub drills: Drills,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            name: runtime::host::hostname(),
            controller: String::new(),
            state: "/var/lib/neurashield-agent".into(),
            join: Join::default(),
            sources: Vec::new(),
            applications: Vec::new(),
            docker: DockerConfig::default(),
            kubernetes: KubernetesConfig::default(),
            look_here: LookHere::default(),
            drills: Drills::default(),
        }
    }
}

impl Settings for AgentConfig {
    const SECTION: &'static str = "agent";
    const SECTIONS: &'static [&'static str] = &["controller", "agent"];

    fn check(&self) -> Result<(), Problem> {
        check_name("name", &self.name)?;
        check_controller(&self.controller)?;
        absolute("state", &self.state)?;
        self.join.check()?;
        self.look_here.check()?;
        self.kubernetes.check()?;
        self.drills.check()?;
        self.check_scratch()?;
        let mut seen = BTreeSet::new();
        for (place, source) in self.sources.iter().enumerate() {
            let path = format!("sources[{place}]");
            source.check(&path)?;
            if !seen.insert((&source.component, &source.name)) {
                let reason = format!(
                    "the component `{}` has a source `{}` already; give this one another name",
                    source.component, source.name
                );
                return Err(Problem::new(format!("{path}.name"), reason));
            }
        }
        applications::check(&self.applications, &self.docker)
    }
}

impl AgentConfig {
    /// What nothing of a drill may lie in or around.
    pub(crate) fn folders(&self) -> Vec<&Path> {
        let folders = self.sources.iter().filter_map(|source| match &source.data {
            SourceData::Folder { path } | SourceData::Node { path: Some(path), .. } => Some(path.as_path()),
            _ => None,
        });
        folders.chain([self.state.as_path()]).collect()
    }

    /// What is restored for a drill must not end up in what is backed up, around it, or in our own state.
    fn check_scratch(&self) -> Result<(), Problem> {
        let Some(scratch) = &self.drills.scratch else { return Ok(()) };
        match self
            .folders()
            .into_iter()
            .find(|taken| scratch.starts_with(taken) || taken.starts_with(scratch))
        {
            None => Ok(()),
            Some(taken) => {
                let taken = taken.display();
                let reason = format!("{taken} is in use: choose a folder neither in it nor around it");
                Err(Problem::new("drills.scratch", reason))
            }
        }
    }
}

/// What an agent without an identity shows to the controller.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Join {
    /// A one-time token.
    pub token: Option<Secret>,
    /// The file that holds it.
    pub token_file: Option<PathBuf>,
    /// Join by the service account of the pod instead.
    pub service_account: bool,
    /// Where the pod mounts the account's token, as `token`, and the certificate of the controller's authority,
    /// as `ca.crt`.
    pub service_account_folder: Option<PathBuf>,
}

/// Where the chart mounts them.
const USUAL_ACCOUNT_FOLDER: &str = "/var/run/secrets/neurashield";

impl Join {
    /// Where the token is; needed, and read, only while the agent has no identity.
    pub fn token(&self) -> Option<SecretSource> {
        SecretSource::from_pair(self.token.as_ref(), self.token_file.as_ref())
    }

    /// The folder of token and certificate, where the agent joins by a service account.
    pub fn account_folder(&self) -> Option<&Path> {
        let usual = Path::new(USUAL_ACCOUNT_FOLDER);
        self.service_account.then(|| self.service_account_folder.as_deref().unwrap_or(usual))
    }

    fn check(&self) -> Result<(), Problem> {
        let set = [self.token.is_some(), self.token_file.is_some(), self.service_account];
        if set.iter().filter(|is_set| **is_set).count() > 1 {
            return Err(Problem::new(
                "join",
                "set one of token, token_file and service_account, not several",
            ));
        }
        if self.service_account_folder.is_some() && !self.service_account {
            let reason = "set service_account: true as well; by itself it does nothing";
            return Err(Problem::new("join.service_account_folder", reason));
        }
        self.token_file.iter().try_for_each(|file| absolute("join.token_file", file))?;
        let folder = self.service_account_folder.as_deref();
        folder.map_or(Ok(()), |folder| absolute("join.service_account_folder", folder))
    }
}

fn check_controller(address: &str) -> Result<(), Problem> {
    const HELP: &str = "write the controller's address as https://host:port, e.g. https://backup.example.org:8443 \
                        (environment: NEURASHIELD_CONTROLLER)";
    let host = address.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
    match host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
        true => Err(Problem::new("controller", HELP)),
        false => Ok(()),
    }
}

/// Names stand in paths, certificates and commands: `[a-z0-9][a-z0-9._-]{0,62}`.
fn check_name(path: &str, name: &str) -> Result<(), Problem> {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let fits = name.len() <= 63
        && name.starts_with(plain)
        && name.chars().all(|letter| plain(letter) || "._-".contains(letter));
    match fits {
        true => Ok(()),
        false => {
            Err(Problem::new(path, "names have 1 to 63 letters: a-z, 0-9, and after the first also . _ -"))
        }
    }
}

fn absolute(path: &str, value: &Path) -> Result<(), Problem> {
    match value.is_absolute() {
        true => Ok(()),
        false => Err(Problem::new(path, "write an absolute path, starting with /")),
    }
}

#[cfg(test)]
mod tests;
