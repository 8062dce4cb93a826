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
    /// Every source in which it was seen.
    pub(crate) places: Vec<String>,
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
        let place = |source: v1::SourceId| format!("{}/{}", source.component, source.name);
        Self {
            id: wire.id,
            address: some(wire.address),
            source: wire.source.map(place),
            places: wire.places.into_iter().map(place).collect(),
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

    /// Where it was seen: last, and before.
    fn seen_in(&self) -> String {
        let last = self.source.as_deref().unwrap_or_default();
        let before: Vec<&str> =
            self.places.iter().map(String::as_str).filter(|place| *place != last).collect();
        match before.as_slice() {
            [] => or_dash(last),
            before => format!("{}, before in {}", or_dash(last), before.join(", ")),
        }
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

    /// What was seen without a key where this one was: it stands beside what is stated of the key.
    pub(crate) fn keyless_of(&self, signer: &Signer) -> Vec<&Signer> {
        let is_beside =
            |one: &&Signer| one.id != signer.id && one.height > 0 && signer.places.contains(&one.id);
        self.signers.iter().filter(is_beside).collect()
    }

    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut rows = Rows::new(&["VALIDATOR", "SEEN IN", ">HEIGHT", "SINCE", "STATED BY", "REASON"]);
        for one in &self.signers {
            rows.row([
                one.name().to_owned(),
                one.seen_in(),
                one.height.to_string(),
                one.seen_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                or_dash(one.stated_by.as_deref().unwrap_or_default()),
                or_dash(one.reason.as_deref().unwrap_or_default()),
            ]);
        }
        rows.finish_or("no backup has seen a validator's state yet")
    }
}
