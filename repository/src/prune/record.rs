//! What prune writes down between its two phases: marks, sealed marks, and what they mean for writers.
//!
//! A *mark* (`gc/<number>.mark.json`) names packs that nothing needs. From then on they do not exist for
//! new work. Work that had begun before may have been told of them: the mark names it, they are still there
//! for it, and prune waits until all of it has ended. Then the mark is *sealed* (`gc/<number>.sealed.json`)
//! under the commit mutex: what it names is taken away, and exists for nobody.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::layout;
use crate::repo::Repository;
use crate::signed::MAX_JSON;
use crate::store::ObjectPath;
use crate::work::WorkId;

/// More packs than this are left to the next mark, so that a record stays far below the limit of JSON.
pub(super) const MAX_MARKED: usize = 100_000;

/// `gc/<number>.mark.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When, by the controller's clock.
    pub(super) at: Timestamp,
    /// The packs that nothing needs.
    pub(super) packs: Vec<PackId>,
    /// How long they are together.
    pub(super) bytes: u64,
    /// The work that was under way.
    pub(super) waits_for: Vec<WorkId>,
}

/// `gc/<number>.sealed.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    /// When, by the controller's clock.
    pub(super) at: Timestamp,
    /// The packs that are taken away; none once all of them are in the trash.
    pub(super) packs: Vec<PackId>,
    /// How many they were.
    pub(super) count: u64,
    /// How long they are together.
    pub(super) bytes: u64,
}

/// What lies in `gc/` under one number.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) mark: Option<Mark>,
    pub(super) sealed: Option<Sealed>,
}

impl Record {
    /// The packs that do not exist for `work`.
    fn taken(self, work: Option<&WorkId>) -> Vec<PackId> {
        match (self.sealed, self.mark) {
            (Some(sealed), _) => sealed.packs,
            (None, Some(mark)) if !work.is_some_and(|work| mark.waits_for.contains(work)) => mark.packs,
            _ => Vec::new(),
        }
    }
}

impl Repository {
    /// The packs that prune has marked, as `work` has to see it.
    pub(crate) fn taken_by_prune(&self, work: Option<&WorkId>) -> Result<HashSet<PackId>, RepositoryError> {
        Ok(self.gc_records()?.into_values().flat_map(|record| record.taken(work)).collect())
    }

    /// Everything in `gc/`, by number. A record that cannot be understood is as good as none: what it named
    /// and was not moved yet is there, and is marked anew.
    pub(super) fn gc_records(&self) -> Result<BTreeMap<u64, Record>, RepositoryError> {
        let mut records: BTreeMap<u64, Record> = BTreeMap::new();
        for listed in self.store.list(Some(&layout::gc()))? {
            let Some(number) = layout::gc_number(&listed.name) else { continue };
            let record = records.entry(number).or_default();
            let path = layout::gc().join(&listed.name);
            if path == layout::gc_mark(number) {
                record.mark = self.read_record(&path)?;
            } else if path == layout::gc_sealed(number) {
                record.sealed = self.read_record(&path)?;
            }
        }
        Ok(records)
    }

    fn read_record<T: DeserializeOwned>(&self, path: &ObjectPath) -> Result<Option<T>, RepositoryError> {
        let bytes = match self.store.read(path, MAX_JSON) {
            // Gone since it was listed.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) if error.is_unreadable() => {
                tracing::warn!(%path, %error, "a record of prune cannot be read; it is passed over");
                return Ok(None);
            }
            other => other?,
        };
        let read = serde_json::from_slice(&bytes);
        if let Err(error) = &read {
            tracing::warn!(%path, %error, "a record of prune cannot be understood; it is passed over");
        }
        Ok(read.ok())
    }
}

pub(super) fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("our own types have a JSON form")
}
