//! What a person gave up: a place in the order of which neither its line nor its backup is to be had.
//!
//! Must stay true: it stops what keeps everything for what is unknown (`prune`), and lets the chain go on past
//! a newest line that nobody can read; it deletes nothing, and a line that comes back is a line again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::RepositoryError;
use crate::layout;
use crate::repo::Repository;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::Listed;

/// `chain/<sequence>.given-up.json`: a person does without whatever had this sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GivenUpNote {
    /// The place in the order.
    pub(crate) sequence: u64,
    /// When.
    pub(crate) at: Timestamp,
    /// What the next line names as the one before it, if there is one; else it names this note.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) stands_for: Option<Sha256>,
}

/// A place that was given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenUp {
    /// What the next line names as the one before it.
    pub(crate) digest: Sha256,
}

impl Repository {
    /// The places that were given up, of those notes that can be read and that this repository's key signed.
    pub(crate) fn given_up(&self, chain: &[Listed]) -> Result<BTreeMap<u64, GivenUp>, RepositoryError> {
        let mut found = BTreeMap::new();
        for sequence in chain.iter().filter_map(|listed| layout::given_up_named(&listed.name)) {
            let file = match self.store.read(&layout::given_up(sequence), MAX_JSON) {
                Err(error) if error.is_not_found() || error.is_unreadable() => continue,
                other => other?,
            };
            let note = self.config.signing_key.verify::<GivenUpNote>(&file).ok();
            if let Some(note) = note.filter(|note| note.sequence == sequence) {
                found.insert(sequence, GivenUp { digest: note.stands_for.unwrap_or(Sha256::of(&file)) });
            }
        }
        Ok(found)
    }
}
