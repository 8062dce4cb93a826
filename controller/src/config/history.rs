//! How long it is known what jobs did.

use jiff::SignedDuration;
use runtime::config::{Duration, Problem};
use serde::{Deserialize, Serialize};

/// How long it is known what jobs did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// A job that has ended is kept for this long, with everything that was told of it.
    pub keep: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { keep: Duration::from_days(400) }
    }
}

impl History {
    /// The same for calculating.
    pub fn kept_for(&self) -> SignedDuration {
        SignedDuration::try_from(self.keep.get()).unwrap_or(SignedDuration::MAX)
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        // What retention and alerts look back at has to be there.
        let bounds = Duration::from_days(31)..=Duration::from_days(36_500);
        match bounds.contains(&self.keep) {
            true => Ok(()),
            false => Err(Problem::new("history.keep", "31d or more, and 36500d at most, e.g. 400d")),
        }
    }
}
