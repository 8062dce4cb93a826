//! Quotas as they are written: how much agents may send, and how fast.

use runtime::config::{Problem, Size};
use serde::{Deserialize, Serialize};

/// A slower line than this would not bring a segment within the time that a stream is given.
const LEAST_RATE: u64 = 64 << 10;

/// The limits of some agents. The first whose pattern fits an agent's name counts for it; what is left out
/// has no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Names of agents, with `*` and `?`.
    pub agents: String,
    /// Sealed bytes that are new in one archive.
    pub bytes_per_archive: Option<Size>,
    /// Sealed bytes that are new on one day (UTC), of all archives together.
    pub bytes_per_day: Option<Size>,
    /// Entries of one archive.
    pub entries_per_archive: Option<u64>,
    /// Bytes in a second. What comes faster is not refused, it waits.
    pub rate: Option<Size>,
}

pub(super) fn check(quotas: &[Quota]) -> Result<(), Problem> {
    for (place, quota) in quotas.iter().enumerate() {
        let problem = |key: &str, reason: &str| Err(Problem::new(format!("quotas[{place}].{key}"), reason));
        if quota.agents.is_empty() || glob::Pattern::new(&quota.agents).is_err() {
            return problem("agents", "write names of agents, with * and ? as wildcards, e.g. \"node-*\"");
        }
        if quota.rate.is_some_and(|rate| rate.bytes() < LEAST_RATE) {
            return problem("rate", "bytes in a second, at least 64KiB");
        }
    }
    Ok(())
}
