//! What results look like in JSON and YAML, and as tables: a schema of its own, see docs/json.md.
//!
//! Must stay true: fields are only ever added; times are RFC 3339 in UTC, bytes and counts are
//! integers, what is not there is `null`. The wire and the repository's files may change without a
//! change here.

pub(crate) mod agent;
pub(crate) mod alert;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod difference;
pub(crate) mod entry;
pub(crate) mod health;
pub(crate) mod invites;
pub(crate) mod job;
pub(crate) mod plan;
pub(crate) mod proven;
pub(crate) mod rebuilt;
pub(crate) mod retention;
pub(crate) mod schedule;
pub(crate) mod signer;
pub(crate) mod token;

use proto::v1;

/// `None` for an empty text.
fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The checked time of a message's field, `None` if it is missing or none.
macro_rules! time {
    ($field:expr) => {
        $field.and_then(|wire| proto::convert::from_wire_time("time", wire).ok())
    };
}
use time;

fn outcome(outcome: v1::Outcome) -> &'static str {
    match outcome {
        v1::Outcome::Complete => "complete",
        v1::Outcome::Incomplete => "incomplete",
        v1::Outcome::Failed => "failed",
        v1::Outcome::Unspecified => "unknown",
    }
}

fn consistency(consistency: v1::Consistency) -> &'static str {
    match consistency {
        v1::Consistency::Snapshot => "snapshot",
        v1::Consistency::Quiesced => "quiesced",
        v1::Consistency::Bracketed => "bracketed",
        v1::Consistency::Fuzzy => "fuzzy",
        v1::Consistency::Unspecified => "unknown",
    }
}

fn depth(depth: v1::Depth) -> &'static str {
    match depth {
        v1::Depth::Listed => "listed",
        v1::Depth::Hashed => "hashed",
        v1::Depth::Opened => "opened",
        v1::Depth::Drilled => "drilled",
        v1::Depth::Unspecified => "unknown",
    }
}
