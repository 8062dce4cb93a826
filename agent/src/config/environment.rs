//! Which environments of processes a source holds.

use runtime::config::Problem;
use serde::{Deserialize, Serialize};

/// Environments: the agent's own, and those that containers were made with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Environment {
    /// That of the agent's process.
    pub agent: bool,
    /// Containers by their names.
    pub containers: Vec<String>,
    /// Containers with all of these labels, each `KEY` or `KEY=VALUE`.
    pub container_labels: Vec<String>,
}

impl Environment {
    /// For people.
    pub(crate) fn location(&self) -> String {
        let own = self.agent.then(|| "of the agent".to_owned());
        let containers = self.containers.iter().map(|name| format!("of the container {name}"));
        let labels = (!self.container_labels.is_empty())
            .then(|| format!("of containers labelled {}", self.container_labels.join(", ")));
        let all: Vec<String> = own.into_iter().chain(containers).chain(labels).collect();
        format!("the environment {}", all.join(", "))
    }

    pub(super) fn check(&self, path: &str) -> Result<(), Problem> {
        if !self.agent && self.containers.is_empty() && self.container_labels.is_empty() {
            let why = "say whose: `agent: true`, `containers` (names) or `container_labels`";
            return Err(Problem::new(path, why));
        }
        let is_name = |name: &String| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits)
        };
        for (place, name) in self.containers.iter().enumerate() {
            if !is_name(name) {
                return Err(Problem::new(
                    format!("{path}.containers[{place}]"),
                    "this is no name of a container",
                ));
            }
        }
        for (place, label) in self.container_labels.iter().enumerate() {
            if label.is_empty() || label.starts_with('=') {
                return Err(Problem::new(
                    format!("{path}.container_labels[{place}]"),
                    "write KEY or KEY=VALUE",
                ));
            }
        }
        Ok(())
    }
}
