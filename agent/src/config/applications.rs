//! What uses the data: the programs that a restore stops before it swaps, and starts again after.
//!
//! Must stay true: a command stands in the agent's own configuration and comes from nowhere else.

use std::collections::BTreeSet;
use std::path::PathBuf;

use runtime::config::{Duration, Problem};
use serde::{Deserialize, Serialize};

use super::{absolute, check_name};

/// Where a Docker Engine listens unless told otherwise.
const USUAL_SOCKET: &str = "/var/run/docker.sock";

/// A program that uses components: known by its commands, or a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationConfig {
    /// What it is called in plans and reports.
    pub name: String,
    /// The components that it uses.
    pub uses: Vec<String>,
    /// A container of this name or id, in place of commands.
    #[serde(default)]
    pub container: Option<String>,
    /// Stops it, and returns when it is stopped. Program and arguments, by no shell.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Starts it.
    #[serde(default)]
    pub start: Vec<String>,
    /// Ends with 0 if it runs.
    #[serde(default)]
    pub is_running: Vec<String>,
    /// Ends with 0 if it works. Where there is none, it is enough that it runs.
    #[serde(default)]
    pub healthy: Vec<String>,
    /// Started after these, and stopped before them.
    #[serde(default)]
    pub after: Vec<String>,
    /// How long each command may take.
    #[serde(default = "a_minute")]
    pub time_limit: Duration,
    /// How long it may take to become healthy.
    #[serde(default = "two_minutes")]
    pub health_limit: Duration,
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}

fn two_minutes() -> Duration {
    Duration::from_secs(120)
}

/// How containers are found, stopped and started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DockerConfig {
    /// Whether the engine is asked. Unset: if its socket is there.
    pub enabled: Option<bool>,
    /// The engine's Unix socket.
    pub socket: PathBuf,
    /// How long a container may take to become healthy, and to stop before it is killed.
    pub health_limit: Duration,
    /// How long a container may take to stop before the engine kills it.
    pub stop_limit: Duration,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            socket: USUAL_SOCKET.into(),
            health_limit: two_minutes(),
            stop_limit: a_minute(),
        }
    }
}

impl DockerConfig {
    /// The socket of the engine that is asked.
    pub fn engine(&self) -> Option<&PathBuf> {
        let is_asked = self.enabled.unwrap_or_else(|| self.socket.exists());
        is_asked.then_some(&self.socket)
    }
}

pub(super) fn check(applications: &[ApplicationConfig], docker: &DockerConfig) -> Result<(), Problem> {
    absolute("docker.socket", &docker.socket)?;
    let mut seen = BTreeSet::new();
    for (place, application) in applications.iter().enumerate() {
        let path = format!("applications[{place}]");
        application.check(&path)?;
        if !seen.insert(&application.name) {
            return Err(Problem::new(format!("{path}.name"), "there is another application of this name"));
        }
        // Those it is started after stand before it: so there is an order, and everybody sees it.
        if let Some(later) = application.after.iter().find(|name| !seen.contains(name)) {
            let reason = format!("`{later}` has to stand in the list before what is started after it");
            return Err(Problem::new(format!("{path}.after"), reason));
        }
    }
    Ok(())
}

impl ApplicationConfig {
    fn check(&self, path: &str) -> Result<(), Problem> {
        check_name(&format!("{path}.name"), &self.name)?;
        if self.uses.is_empty() {
            return Err(Problem::new(format!("{path}.uses"), "name the components that it uses"));
        }
        for (place, component) in self.uses.iter().enumerate() {
            check_name(&format!("{path}.uses[{place}]"), component)?;
        }
        let needed = [("stop", &self.stop), ("start", &self.start), ("is_running", &self.is_running)];
        match &self.container {
            Some(_) if needed.iter().any(|(_, command)| !command.is_empty()) => {
                Err(Problem::new(format!("{path}.container"), "set a container or commands, not both"))
            }
            Some(_) => Ok(()),
            None => match needed.iter().find(|(_, command)| command.is_empty()) {
                Some((name, _)) => {
                    let reason = "it takes stop, start and is_running, each a list of program and arguments";
                    Err(Problem::new(format!("{path}.{name}"), reason))
                }
                None => Ok(()),
            },
        }
    }
}
