//! A state folder that was made anew.

use jiff::Timestamp;
use serde::Serialize;

use crate::output::words::counted;

/// What `nsctl repository rebuild --state` did, or would do.
#[derive(Debug, Serialize)]
pub(crate) struct State {
    pub(crate) state: String,
    pub(crate) repository: String,
    pub(crate) plan: bool,
    #[serde(skip)]
    pub(crate) has_key: bool,
    pub(crate) copy: Option<Copy>,
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) backups: u64,
    pub(crate) newer_backups: u64,
    pub(crate) agents: Option<u64>,
    pub(crate) schedules: Option<u64>,
    pub(crate) jobs: Option<u64>,
    pub(crate) missing: Vec<&'static str>,
    pub(crate) aside: Option<String>,
}

/// The copy of the catalog that was taken.
#[derive(Debug, Serialize)]
pub(crate) struct Copy {
    pub(crate) backup: String,
    pub(crate) at: Timestamp,
}

/// A copy that could not be taken.
#[derive(Debug, Serialize)]
pub(crate) struct Unreadable {
    pub(crate) of: String,
    pub(crate) reason: String,
}

impl State {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut lines = Vec::new();
        let verb = if self.plan { "would be made" } else { "was made" };
        lines.push(format!("The state folder {} {verb} from {}.", self.state, self.repository));
        lines.push(match (&self.copy, self.has_key) {
            (Some(copy), _) => {
                let newer = counted(self.newer_backups, "backup is newer", "backups are newer");
                format!("  from the copy beside backup {} ({}); {newer}", copy.backup, copy.at)
            }
            (None, true) => {
                "  from the manifests alone: no backup has a copy of the catalog that can be read".into()
            }
            (None, false) => {
                "  from the manifests alone: the copies of the catalog are sealed, and no key was given"
                    .into()
            }
        });
        let backups = counted(self.backups, "backup", "backups");
        lines.push(match (self.jobs, self.agents, self.schedules) {
            (Some(jobs), Some(agents), Some(schedules)) => format!(
                "  known again: {backups}, {}, {}, {}",
                counted(jobs, "job", "jobs"),
                counted(agents, "agent", "agents"),
                counted(schedules, "schedule", "schedules")
            ),
            _ => format!("  the repository holds {backups}"),
        });
        if let Some(aside) = &self.aside {
            lines.push(format!("  what was in the folder is now in {aside}: delete it when all is well"));
        }
        lines.push("Not there any more:".to_owned());
        lines.extend(self.missing.iter().map(|line| format!("  - {line}")));
        if !self.plan {
            lines.push(match self.copy {
                Some(_) => "Start the controller: its agents come back by themselves.".to_owned(),
                None => "Give the controller its key (`key` in its configuration), start it, and invite the agents: \
                         `nsctl agent invite`."
                    .to_owned(),
            });
        }
        lines.join("\n")
    }
}
