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
    ///
    /// Who seals a mark writes the second record beside the first and later deletes the first before the
    /// second. They are therefore read the other way round, and the second is asked for by name: who reads
    /// while prune goes on never sees a mark without the seal that has set part of it free again.
    pub(super) fn gc_records(&self) -> Result<BTreeMap<u64, Record>, RepositoryError> {
        let mut is_marked: BTreeMap<u64, bool> = BTreeMap::new();
        for listed in self.store.list(Some(&layout::gc()))? {
            let Some(number) = layout::gc_number(&listed.name) else { continue };
            *is_marked.entry(number).or_default() |=
                layout::gc().join(&listed.name) == layout::gc_mark(number);
        }
        let read = |(number, is_marked)| {
            let sealed = self.read_record(&layout::gc_sealed(number))?;
            let mark = if is_marked { self.read_record(&layout::gc_mark(number))? } else { None };
            Ok((number, Record { mark, sealed }))
        };
        is_marked.into_iter().map(read).collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::keys::SlotSecret;
    use crate::store::Store;
    use crate::store::faulty::{FaultyStore, Operation};
    use crate::store::memory::MemoryStore;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn pack(nth: u8) -> PackId {
        PackId::new([nth; 32])
    }

    fn scene() -> (FaultyStore<MemoryStore>, Repository) {
        let store = FaultyStore::new(MemoryStore::new());
        let secret = SlotSecret::KeyFile(zeroize::Zeroizing::new(vec![1; 32]));
        let made = Repository::init(Arc::new(store.clone()), &secret, AT).expect("a fresh repository");
        let mark = Mark {
            at: AT,
            packs: vec![pack(1), pack(2)],
            bytes: 2,
            waits_for: vec!["job-1".parse().expect("an id")],
        };
        store.create(&layout::gc_mark(1), &json(&mark)).expect("marked");
        (store, made.repository)
    }

    fn taken(repository: &Repository, work: &str) -> HashSet<PackId> {
        repository.taken_by_prune(Some(&work.parse().expect("an id"))).expect("read")
    }

    #[test]
    fn a_mark_counts_for_later_work_and_a_seal_for_all_and_for_nothing_that_it_has_set_free() {
        let (store, repository) = scene();
        assert_eq!(taken(&repository, "job-1"), HashSet::new());
        assert_eq!(taken(&repository, "job-2"), HashSet::from([pack(1), pack(2)]));
        let sealed = Sealed { at: AT, packs: vec![pack(2)], count: 1, bytes: 1 };
        store.create(&layout::gc_sealed(1), &json(&sealed)).expect("sealed");
        for work in ["job-1", "job-2"] {
            assert_eq!(taken(&repository, work), HashSet::from([pack(2)]));
        }
    }

    /// A backup once saw the mark, then prune deleted both records, and the backup took for marked what the
    /// seal had set free and it was building on.
    #[test]
    fn the_seal_is_read_before_the_mark_that_goes_first() {
        let (store, repository) = scene();
        let sealed = Sealed { at: AT, packs: Vec::new(), count: 0, bytes: 0 };
        store.create(&layout::gc_sealed(1), &json(&sealed)).expect("sealed");
        store.take_calls();
        assert_eq!(taken(&repository, "job-2"), HashSet::new());
        let reads = store.take_calls().into_iter().filter(|call| call.operation == Operation::Read);
        let reads: Vec<String> = reads.map(|call| call.path).collect();
        assert_eq!(reads, [layout::gc_sealed(1).to_string(), layout::gc_mark(1).to_string()]);
    }
}
