//! What the configuration says of restores.

use runtime::config::{Duration, Problem};
use serde::{Deserialize, Serialize};

/// Settings of restores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restores {
    /// How long the backup of what a restore replaces is pinned.
    pub keep_safety_backup: Duration,
}

impl Default for Restores {
    fn default() -> Self {
        Self { keep_safety_backup: Duration::from_days(7) }
    }
}

impl Restores {
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.keep_safety_backup < Duration::from_secs(3_600) {
            let reason = "a safety backup is kept for an hour at least, so that a restore can be taken back";
            return Err(Problem::new("restores.keep_safety_backup", reason));
        }
        Ok(())
    }
}
