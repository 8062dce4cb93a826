//! How much a verification reads.

use jiff::SignedDuration;
use repository::verify::plan::Goal;
use runtime::config::{Duration, Problem, Size};
use serde::{Deserialize, Serialize};

/// How much a verification reads. Without a budget it is all that the backup needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verifying {
    /// The bytes to read in one run, what was never read first, then what was read longest ago.
    pub budget: Option<Size>,
    /// Every pack of the repository is read again within this time, budget or not.
    pub everything_within: Duration,
}

impl Default for Verifying {
    fn default() -> Self {
        Self { budget: None, everything_within: Duration::from_days(30) }
    }
}

impl Verifying {
    /// As runs are planned.
    pub fn goal(&self) -> Goal {
        let within = SignedDuration::try_from(self.everything_within.get()).unwrap_or(SignedDuration::MAX);
        Goal { budget: self.budget.map(Size::bytes), within }
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.budget.is_some_and(|budget| budget.bytes() == 0) {
            return Err(Problem::new(
                "verification.budget",
                "more than nothing, e.g. 200GiB, or leave it out",
            ));
        }
        if self.everything_within < Duration::from_days(1) {
            return Err(Problem::new("verification.everything_within", "a day or more, e.g. 30d"));
        }
        Ok(())
    }
}
