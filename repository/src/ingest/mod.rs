//! Taking in segments: what agents send becomes packs, exclusively and durably, without any key.
//!
//! Must stay true: a segment is answered for only when its pack is durable; a pack's bytes were hashed as
//! they went to storage and its structure was checked; a blob is offered for re-use only while a sound pack
//! holds it. Packs that no index names yet (a job in progress, or one that a crash ended) are found again
//! by [`Repository::find_unindexed`], so no journal is kept.

mod packs;
mod segment;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backup::manifest::Outcome;
use crate::error::RepositoryError;
use crate::ids::{BlobId, DomainId, PackId, SegmentId};
use crate::index::{DomainIndex, IndexedPack};
use crate::index_files::{IndexFiles, LoadedIndex};
use crate::layout;
use crate::listed::{ListMark, RestOfList};
use crate::pack::blob::{BlobKind, BlobLine};
use crate::pack::segment::FULL_BODY;
use crate::refs::{BlobAddress, Refs};
use crate::repo::Repository;
use crate::signed::Sha256;
use crate::store::{ListedKind, ObjectPath, StoreError};
use crate::work::WorkId;

pub(crate) use packs::{domain_of, survey, survey_at};
use segment::Expected;
pub use segment::SegmentReceiver;

/// The longest segment that is taken in, in bytes: a full one and one more blob.
pub const MAX_SEGMENT: u64 = (FULL_BODY as u64 + crate::pack::blob::MAX_PLAIN as u64) + (4 << 20);
/// Where more packs of one folder are asked for, the folder is listed.
const ASKED_ONE_BY_ONE: usize = 8;

/// A domain's index with what was taken in since.
#[derive(Default)]
pub(crate) struct DomainState {
    pub(crate) index: DomainIndex,
    pub(crate) unindexed: Vec<IndexedPack>,
    /// Index files that the next one stands for: they could not be read, and their packs were found again.
    pub(crate) damaged: Vec<Sha256>,
    /// The index files that count.
    pub(crate) files: IndexFiles,
    /// Packs of the index that were not there when they were asked for. What they hold is not offered; they
    /// are asked for again before the next offer.
    pub(crate) gone: HashSet<PackId>,
}

impl DomainState {
    /// Lets the index choose packs that are there and carry no mark, where it has a choice.
    fn prefer_sound(&mut self, marked: &HashSet<PackId>) {
        self.index.set_unsound(self.gone.union(marked).copied().collect());
    }
}

/// The blobs of one segment, by ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobTable {
    /// The segment.
    pub segment: SegmentId,
    /// Its lines, absent ones included.
    pub blobs: Vec<BlobLine>,
}

/// What a verification of depth `hashed` or deeper says of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackVerdict {
    /// Which pack.
    pub pack: PackId,
    /// It is there and its bytes are right.
    pub is_sound: bool,
}

/// The answer to an announced segment.
pub enum Receive {
    /// It is durable already.
    Existed,
    /// Its bytes are awaited.
    New(SegmentReceiver),
}

impl Repository {
    /// Every blob of a domain that is there to be used again: in a pack that is not known to be gone or
    /// damaged. What has gone since is found by [`Repository::resolve`].
    pub fn blob_tables(&self, domain: &DomainId) -> Result<Vec<BlobTable>, RepositoryError> {
        Ok(self.tables(domain, None, None)?.tables)
    }

    /// The same for this work: what a mark of prune that waits for it names is there for it. And without what
    /// came with an earlier list, if all of that still counts.
    pub fn blob_tables_for(
        &self,
        work: &WorkId,
        domain: &DomainId,
        earlier: Option<&ListMark>,
    ) -> Result<RestOfList, RepositoryError> {
        self.tables(domain, Some(work), earlier)
    }

    fn tables(
        &self,
        domain: &DomainId,
        work: Option<&WorkId>,
        earlier: Option<&ListMark>,
    ) -> Result<RestOfList, RepositoryError> {
        let marked = self.not_to_build_on(work)?;
        let state = self.domain(domain)?;
        let mut state = lock(&state);
        self.look_again(&mut state)?;
        let left_out: BTreeSet<PackId> = state.gone.iter().chain(&marked).copied().collect();
        let mark = ListMark::new(state.index.generation(), &left_out, state.index.packs().len());
        let known = mark.known_from(earlier);
        let tables = state.index.tables(known, |pack| !left_out.contains(&pack.id));
        let tables = tables.map(|(segment, blobs)| BlobTable { segment, blobs }).collect();
        Ok(RestOfList { goes_on: known > 0, tables, mark })
    }

    /// Begins to take in a segment of `length` bytes.
    pub fn receive(
        &self,
        domain: &DomainId,
        segment: SegmentId,
        length: u64,
    ) -> Result<Receive, RepositoryError> {
        let state = self.domain(domain)?;
        if lock(&state).index.segment(&segment).is_some() {
            return Ok(Receive::Existed);
        }
        if length > MAX_SEGMENT {
            return Err(RepositoryError::Rejected { segment, why: "it is longer than any segment may be" });
        }
        let expected = Expected { repository: self.config.id, domain: *domain, segment, length };
        let receiver = SegmentReceiver::begin(&self.store, expected, state, self.parity)?;
        Ok(Receive::New(receiver))
    }

    /// Which blobs of `refs` no usable pack holds, at this moment: the store is asked for every pack that
    /// they need.
    pub fn resolve(&self, domain: &DomainId, refs: &Refs) -> Result<Vec<BlobAddress>, RepositoryError> {
        self.missing(domain, refs, None)
    }

    /// The same for this work: what a mark of prune that waits for it names is there for it.
    pub fn resolve_for(
        &self,
        work: &WorkId,
        domain: &DomainId,
        refs: &Refs,
    ) -> Result<Vec<BlobAddress>, RepositoryError> {
        self.missing(domain, refs, Some(work))
    }

    pub(crate) fn missing(
        &self,
        domain: &DomainId,
        refs: &Refs,
        work: Option<&WorkId>,
    ) -> Result<Vec<BlobAddress>, RepositoryError> {
        let marked = self.not_to_build_on(work)?;
        let state = self.domain(domain)?;
        let mut asked = HashSet::new();
        loop {
            let needed = {
                let mut state = lock(&state);
                // Anew each time: others who ask meanwhile may build on other packs than this work may.
                state.prefer_sound(&marked);
                // Where one is gone, another may hold the same segment.
                let mut needed = state.index.packs_of(refs);
                needed.retain(|pack, _| asked.insert(*pack));
                if needed.is_empty() {
                    return Ok(state.index.missing_from(refs, |pack| state.index.is_sound(&pack.id)));
                }
                needed
            };
            let gone = self.not_there(&needed)?;
            let mut state = lock(&state);
            for pack in needed.keys() {
                match gone.contains(pack) {
                    true => state.gone.insert(*pack),
                    false => state.gone.remove(pack),
                };
            }
        }
    }

    /// Which of these packs are not where they should be, or not as long as they should be. Asks for each by
    /// itself, or lists its folder where many of one folder are asked for: never more than a few calls for
    /// each of the 256 folders.
    fn not_there(&self, packs: &BTreeMap<PackId, u64>) -> Result<HashSet<PackId>, RepositoryError> {
        let mut folders: BTreeMap<u8, Vec<(&PackId, u64)>> = BTreeMap::new();
        for (pack, length) in packs {
            folders.entry(pack.as_bytes()[0]).or_default().push((pack, *length));
        }
        let mut asked: Vec<(&PackId, u64)> = Vec::new();
        for wanted in folders.into_values() {
            if wanted.len() <= ASKED_ONE_BY_ONE {
                asked.extend(wanted);
                continue;
            }
            let folder = layout::pack(wanted[0].0).parent().expect("packs lie in folders");
            let listed = self.store.list(Some(&folder))?;
            let listed: HashMap<String, ListedKind> =
                listed.into_iter().map(|listed| (listed.name, listed.kind)).collect();
            let is_shown = |pack: &PackId, size: u64| {
                listed.get(&pack.to_string()) == Some(&ListedKind::Object { size })
            };
            // A list may lag: what it does not show is asked for by name.
            asked.extend(wanted.into_iter().filter(|(pack, length)| !is_shown(pack, *length)));
        }
        let paths: Vec<ObjectPath> = asked.iter().map(|(pack, _)| layout::pack(pack)).collect();
        let mut gone = HashSet::new();
        for ((pack, length), size) in asked.into_iter().zip(self.store.sizes(&paths)) {
            match size {
                Ok(size) if size == length => {}
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => drop(gone.insert(*pack)),
            }
        }
        Ok(gone)
    }

    /// Asks once more for the packs of a domain that were gone: somebody may have brought them back.
    fn look_again(&self, state: &mut DomainState) -> Result<(), RepositoryError> {
        if state.gone.is_empty() {
            return Ok(());
        }
        let packs = state.index.packs().iter().filter(|pack| state.gone.contains(&pack.id));
        state.gone = self.not_there(&packs.map(|pack| (pack.id, pack.length)).collect())?;
        Ok(())
    }

    /// What kind of blob `id` is, if `refs` name it.
    pub fn kind_of(
        &self,
        domain: &DomainId,
        refs: &Refs,
        id: &BlobId,
    ) -> Result<Option<BlobKind>, RepositoryError> {
        let state = self.domain(domain)?;
        let state = lock(&state);
        let address = state.index.by_id(refs).get(id).copied();
        Ok(address.and_then(|address| state.index.place(&address)).map(|place| place.line.kind))
    }

    /// Keeps in mind which packs a verification found damaged, so that no backup builds on them, and which
    /// it found sound again. Only for the one writer.
    pub fn keep_verdicts(&self, verdicts: &[PackVerdict]) -> Result<(), RepositoryError> {
        let marked = self.quarantined()?;
        for PackVerdict { pack, is_sound } in verdicts {
            if *is_sound && marked.contains(pack) {
                self.store.delete(&layout::quarantined(pack))?;
            } else if !is_sound && !marked.contains(pack) {
                match self.store.create(&layout::quarantined(pack), b"{}\n") {
                    Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The packs that carry a mark.
    pub(crate) fn quarantined(&self) -> Result<HashSet<PackId>, RepositoryError> {
        let listed = self.store.list(Some(&layout::quarantine()))?;
        Ok(listed.iter().filter_map(|listed| listed.name.parse().ok()).collect())
    }

    /// Packs that a verification found damaged or that prune has marked.
    fn not_to_build_on(&self, work: Option<&WorkId>) -> Result<HashSet<PackId>, RepositoryError> {
        let mut marked = self.taken_by_prune(work)?;
        marked.extend(self.quarantined()?);
        Ok(marked)
    }

    /// The domain's index, loaded once and then kept: the controller has a handful of domains, and each
    /// blob costs about 50 bytes.
    pub(crate) fn domain(&self, domain: &DomainId) -> Result<Arc<Mutex<DomainState>>, RepositoryError> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = domains.get(domain) {
            return Ok(state.clone());
        }
        let LoadedIndex { index, damaged, files, .. } = self.load_index(domain)?;
        let state = DomainState { index, damaged, files, ..DomainState::default() };
        let state = Arc::new(Mutex::new(state));
        domains.insert(*domain, state.clone());
        Ok(state)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outcome of a backup with these archives; `None` if there is nothing worth committing.
pub fn outcome_of(archives: impl IntoIterator<Item = Outcome>) -> Option<Outcome> {
    let outcomes: Vec<Outcome> = archives.into_iter().collect();
    if outcomes.iter().all(|outcome| *outcome == Outcome::Failed) {
        None
    } else if outcomes.iter().all(|outcome| *outcome == Outcome::Complete) {
        Some(Outcome::Complete)
    } else {
        Some(Outcome::Incomplete)
    }
}
