//! Validators.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::time;
use crate::output::table::{Rows, or_dash};
use crate::output::words::age;

/// All that are known.
#[derive(Debug, Serialize)]
pub(crate) struct Signers {
    pub(crate) signers: Vec<Signer>,
}

/// One, and how far it has signed.
#[derive(Debug, Serialize)]
pub(crate) struct Signer {
    pub(crate) id: String,
    pub(crate) address: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) height: i64,
    pub(crate) round: i64,
    pub(crate) step: i32,
    pub(crate) seen_at: Option<Timestamp>,
    pub(crate) stated_at: Option<Timestamp>,
    pub(crate) stated_by: Option<String>,
    pub(crate) reason: Option<String>,
}

impl From<v1::Signer> for Signer {
    fn from(wire: v1::Signer) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: wire.id,
            address: some(wire.address),
            source: wire.source.map(|source| format!("{}/{}", source.component, source.name)),
            height: wire.height,
            round: wire.round,
            step: wire.step,
            seen_at: time!(wire.seen_at),
            stated_at: time!(wire.stated_at),
            stated_by: some(wire.stated_by),
            reason: some(wire.reason),
        }
    }
}

impl Signer {
    pub(crate) fn name(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.id)
    }
}

impl Signers {
    /// The highest that is known of what `which` may mean.
    pub(crate) fn highest_of(&self, which: &str) -> Option<i64> {
        let is_it = |one: &&Signer| {
            let names = [Some(&one.id), one.address.as_ref(), one.source.as_ref()];
            names.into_iter().flatten().any(|name| name.eq_ignore_ascii_case(which))
        };
        self.signers.iter().filter(is_it).map(|one| one.height).max()
    }

    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut rows = Rows::new(&["VALIDATOR", "SEEN IN", ">HEIGHT", "SINCE", "STATED BY", "REASON"]);
        for one in &self.signers {
            rows.row([
                one.name().to_owned(),
                or_dash(one.source.as_deref().unwrap_or_default()),
                one.height.to_string(),
                one.seen_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                or_dash(one.stated_by.as_deref().unwrap_or_default()),
                or_dash(one.reason.as_deref().unwrap_or_default()),
            ]);
        }
        rows.finish_or("no backup has seen a validator's state yet")
    }
}
