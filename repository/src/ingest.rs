//! Taking in segments: what agents send becomes packs, exclusively and durably, without any key.
//!
//! Must stay true: a segment is answered for only when its pack is durable; a pack's bytes were hashed as
//! they went to storage and its structure was checked; a blob is offered for re-use only while a sound pack
//! holds it. Packs that no index names yet (a job in progress, or one that a crash ended) are found again
//! by [`Repository::find_unindexed`], so no journal is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;

use crate::backup::manifest::Outcome;
use crate::codec::Decoder;
use crate::error::RepositoryError;
use crate::ids::{BlobId, DomainId, PackId, SegmentId};
use crate::index::{DomainIndex, IndexedPack};
use crate::index_files::{IndexFiles, LoadedIndex};
use crate::layout;
use crate::listed::{ListMark, RestOfList};
use crate::pack::blob::{BlobKind, BlobLine};
use crate::pack::file::{self, PlacedSegment};
use crate::pack::segment::{FULL_BODY, SegmentHeader, SegmentTable};
use crate::parity::{Strength, keep_parity};
use crate::refs::{BlobAddress, Refs};
use crate::repo::Repository;
use crate::signed::Sha256;
use crate::store::{ListedKind, ObjectPath, Store, StoreError, Upload};
use crate::work::WorkId;

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
        let mut receiver = SegmentReceiver {
            expected: Expected { repository: self.config.id, domain: *domain, segment, length },
            upload: self.store.upload()?,
            hash: digest::Context::new(&digest::SHA256),
            head: Vec::new(),
            head_length: SegmentHeader::LEN,
            received: 0,
            state,
            parity: self.parity.map(|strength| Box::new(NewParity { store: self.store.clone(), strength })),
        };
        receiver.store(&file::header(1))?;
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
            let mut needed = {
                let mut state = lock(&state);
                state.prefer_sound(&marked);
                state.index.packs_of(refs)
            };
            // Where one is gone, another may hold the same segment.
            needed.retain(|pack, _| asked.insert(*pack));
            if needed.is_empty() {
                break;
            }
            let gone = self.not_there(&needed)?;
            let mut state = lock(&state);
            for pack in needed.keys() {
                match gone.contains(pack) {
                    true => state.gone.insert(*pack),
                    false => state.gone.remove(pack),
                };
            }
        }
        let state = lock(&state);
        Ok(state.index.missing_from(refs, |pack| state.index.is_sound(&pack.id)))
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

    /// Finds packs that no index names, so that what they hold is used again, and replaces index files that
    /// are damaged. To be called once by the one writer, before the first job. Returns how many packs it
    /// found.
    pub fn find_unindexed(&self) -> Result<usize, RepositoryError> {
        let listed: HashMap<PackId, u64> = self.list_packs()?.into_iter().collect();
        let domains = self.domains_on_disk()?;
        let mut known = HashSet::new();
        for domain in &domains {
            let state = self.domain(domain)?;
            let mut state = lock(&state);
            known.extend(state.index.packs().iter().map(|pack| pack.id));
            let gone = state.index.packs().iter().filter(|pack| listed.get(&pack.id) != Some(&pack.length));
            state.gone = gone.map(|pack| pack.id).collect();
        }
        let mut found = 0;
        let marked = self.quarantined()?;
        for (pack, length) in listed {
            // What repair has replaced and not yet put away is not to come back.
            if known.contains(&pack) || marked.contains(&pack) {
                continue;
            }
            let indexed = match survey(&*self.store, pack, length) {
                Ok(indexed) => indexed,
                Err(error) if error.is_damage() => {
                    tracing::warn!(%pack, "a pack that no index names is damaged; it is left alone");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(domain) = domain_of(&indexed) else { continue };
            let state = self.domain(&domain)?;
            let mut state = lock(&state);
            state.index.add(indexed.clone());
            state.unindexed.push(indexed);
            found += 1;
        }
        for domain in domains {
            let state = self.domain(&domain)?;
            let mut state = lock(&state);
            if !state.damaged.is_empty() {
                tracing::warn!(%domain, "an index file is damaged; it is replaced by what the packs say");
                self.index_what_is_not(domain, &mut state)?;
            }
        }
        Ok(found)
    }

    /// Makes a domain's index again from the packs, replacing every index file it has. Returns how many
    /// packs it names.
    pub fn rebuild_index(&self) -> Result<usize, RepositoryError> {
        // Read before the packs are: a file that appears meanwhile is not among them and stays.
        let mut replaced = BTreeMap::new();
        for domain in self.domains_on_disk()? {
            replaced.insert(domain, self.index_names(&domain)?);
        }
        let mut domains: BTreeMap<DomainId, Vec<IndexedPack>> = BTreeMap::new();
        let mut doubtful: Vec<IndexedPack> = Vec::new();
        let marked = self.quarantined()?;
        for (pack, length) in self.list_packs()? {
            match survey(&*self.store, pack, length) {
                Ok(indexed) if marked.contains(&pack) => doubtful.push(indexed),
                Ok(indexed) => {
                    let domain = domain_of(&indexed).expect("a pack that was surveyed holds a segment");
                    domains.entry(domain).or_default().push(indexed);
                }
                Err(error) if error.is_damage() => {
                    tracing::warn!(%pack, "its own tables are damaged; what the index says of it is kept")
                }
                Err(error) => return Err(error),
            }
        }
        for domain in replaced.keys() {
            doubtful.extend(self.load_index(domain)?.index.packs().iter().cloned());
        }
        keep_what_nothing_else_tells(&mut domains, doubtful);
        let count = domains.values().map(Vec::len).sum();
        for (domain, packs) in domains {
            let replaced = replaced.remove(&domain).unwrap_or_default();
            self.write_index(domain, packs, &replaced)?;
            self.delete_replaced(&domain, replaced);
        }
        self.domains.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(count)
    }

    /// The domain's index, loaded once and then kept: the controller has a handful of domains, and each
    /// blob costs about 50 bytes.
    pub(crate) fn domain(&self, domain: &DomainId) -> Result<Arc<Mutex<DomainState>>, RepositoryError> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = domains.get(domain) {
            return Ok(state.clone());
        }
        let LoadedIndex { index, damaged, files } = self.load_index(domain)?;
        let state = DomainState { index, damaged, files, ..DomainState::default() };
        let state = Arc::new(Mutex::new(state));
        domains.insert(*domain, state.clone());
        Ok(state)
    }

    /// The index that `refs` are resolved with. Where the index files do not have everything, the packs are
    /// asked themselves: slower, but a lost index never stands between a user and a restore.
    pub(crate) fn index_for(&self, refs: &Refs) -> Result<LoadedIndex, RepositoryError> {
        let mut loaded = self.load_index(&refs.domain())?;
        loaded.index.set_unsound(self.quarantined()?);
        if loaded.damaged.is_empty() && loaded.index.missing(refs).is_empty() {
            return Ok(loaded);
        }
        let known: HashSet<PackId> = loaded.index.packs().iter().map(|pack| pack.id).collect();
        for (pack, length) in self.list_packs()?.into_iter().filter(|(pack, _)| !known.contains(pack)) {
            match survey(&*self.store, pack, length) {
                Ok(pack) if domain_of(&pack) == Some(refs.domain()) => loaded.index.add(pack),
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(loaded)
    }

    pub(crate) fn domains_on_disk(&self) -> Result<Vec<DomainId>, RepositoryError> {
        let listed = self.store.list(Some(&layout::indexes()))?;
        Ok(listed.iter().filter_map(|listed| listed.name.parse().ok()).collect())
    }

    /// Every pack with its length in bytes.
    pub(crate) fn list_packs(&self) -> Result<Vec<(PackId, u64)>, RepositoryError> {
        let mut packs = Vec::new();
        for folder in self.store.list(Some(&layout::packs()))? {
            let is_ours = folder.name.len() == 2 && crate::ids::unhex(&folder.name).is_some();
            if folder.kind != ListedKind::Folder || !is_ours {
                continue;
            }
            for listed in self.store.list(Some(&layout::packs().join(&folder.name)))? {
                if let (Ok(id), ListedKind::Object { size }) = (listed.name.parse(), listed.kind) {
                    packs.push((id, size));
                }
            }
        }
        Ok(packs)
    }
}

/// Adds those packs whose segments no other pack has: damaged ones, and lost ones that an index file still
/// tells of. Their tables hold the ids by which a later backup makes up for them.
fn keep_what_nothing_else_tells(
    domains: &mut BTreeMap<DomainId, Vec<IndexedPack>>,
    doubtful: Vec<IndexedPack>,
) {
    let ids = |pack: &IndexedPack| -> Vec<SegmentId> {
        pack.segments.iter().map(|placed| placed.table.header.context.segment).collect()
    };
    let mut told: HashSet<SegmentId> = domains.values().flatten().flat_map(ids).collect();
    for pack in doubtful {
        let Some(domain) = domain_of(&pack) else { continue };
        if ids(&pack).into_iter().any(|segment| !told.contains(&segment)) {
            told.extend(ids(&pack));
            domains.entry(domain).or_default().push(pack);
        }
    }
}

pub(crate) fn domain_of(pack: &IndexedPack) -> Option<DomainId> {
    pack.segments.first().map(|placed| placed.table.header.context.domain)
}

/// Reads a pack's headers and tables.
pub(crate) fn survey(store: &dyn Store, pack: PackId, length: u64) -> Result<IndexedPack, RepositoryError> {
    survey_at(store, &layout::pack(&pack), pack, length)
}

/// The same for a pack that lies elsewhere.
pub(crate) fn survey_at(
    store: &dyn Store,
    path: &ObjectPath,
    pack: PackId,
    length: u64,
) -> Result<IndexedPack, RepositoryError> {
    enum Failure {
        Store(StoreError),
        Malformed(crate::codec::Malformed),
    }
    impl From<crate::codec::Malformed> for Failure {
        fn from(error: crate::codec::Malformed) -> Self {
            Failure::Malformed(error)
        }
    }
    let read = |offset: u64, count: u64| {
        if offset.checked_add(count).is_none_or(|end| end > length) {
            return Err(crate::codec::Malformed::new("pack", "it ends too early").into());
        }
        store.read_range(path, offset, count).map_err(Failure::Store)
    };
    match file::survey(length, read) {
        Ok(segments) => Ok(IndexedPack { id: pack, length, segments }),
        Err(Failure::Store(error)) => Err(error.into()),
        Err(Failure::Malformed(source)) => Err(RepositoryError::Damaged { path: path.clone(), source }),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Expected {
    repository: crate::ids::RepositoryId,
    domain: DomainId,
    segment: SegmentId,
    length: u64,
}

/// Writes one segment into a pack of its own as its bytes arrive. Dropped, it leaves nothing.
pub struct SegmentReceiver {
    expected: Expected,
    upload: Box<dyn Upload>,
    hash: digest::Context,
    head: Vec<u8>,
    head_length: usize,
    received: u64,
    state: Arc<Mutex<DomainState>>,
    parity: Option<Box<NewParity>>,
}

/// What the pack gets when it is durable.
struct NewParity {
    store: Arc<dyn Store>,
    strength: Strength,
}

impl SegmentReceiver {
    /// The next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RepositoryError> {
        self.received += bytes.len() as u64;
        if self.received > self.expected.length {
            return Err(self.rejected("it is longer than was announced"));
        }
        self.collect_head(bytes)?;
        self.store(bytes)
    }

    /// Makes the pack durable. The segment must be whole, well-formed and in its place.
    pub fn finish(self) -> Result<PackId, RepositoryError> {
        let table = self.check()?;
        let pack = PackId::try_from(self.hash.finish().as_ref()).expect("SHA-256 has 32 bytes");
        match self.upload.finish(&layout::pack(&pack)) {
            // The same bytes under the same name: an earlier answer was lost.
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(parity) = &self.parity {
            keep_parity(&*parity.store, &pack, parity.strength)?;
        }
        let offset = file::HEADER as u64;
        let segments = vec![PlacedSegment { offset, table }];
        let indexed = IndexedPack { id: pack, length: offset + self.received, segments };
        let mut state = lock(&self.state);
        state.gone.remove(&pack);
        if state.index.segment(&self.expected.segment).is_none() {
            state.index.add(indexed.clone());
            state.unindexed.push(indexed);
        }
        Ok(pack)
    }

    fn rejected(&self, why: &'static str) -> RepositoryError {
        RepositoryError::Rejected { segment: self.expected.segment, why }
    }

    fn store(&mut self, bytes: &[u8]) -> Result<(), RepositoryError> {
        self.hash.update(bytes);
        Ok(self.upload.write(bytes)?)
    }

    /// Keeps the bytes of header and table; once the header is there, it tells how long the table is.
    fn collect_head(&mut self, bytes: &[u8]) -> Result<(), RepositoryError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.head.len() < self.head_length {
            let (taken, left) = rest.split_at(rest.len().min(self.head_length - self.head.len()));
            self.head.extend_from_slice(taken);
            rest = left;
            if self.head.len() == SegmentHeader::LEN && self.head_length == SegmentHeader::LEN {
                let header = SegmentHeader::decode(&mut Decoder::new("segment", &self.head));
                let header = header.map_err(|_| self.rejected("its header is malformed"))?;
                self.head_length += header.blobs as usize * BlobLine::LEN;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<SegmentTable, RepositoryError> {
        if self.received != self.expected.length {
            return Err(self.rejected("it is shorter than was announced"));
        }
        let table = SegmentTable::decode(&mut Decoder::new("segment", &self.head));
        let table = table.map_err(|_| self.rejected("its table is malformed"))?;
        let context = &table.header.context;
        if context.repository != self.expected.repository {
            return Err(self.rejected("it belongs to another repository"));
        }
        if context.domain != self.expected.domain || context.segment != self.expected.segment {
            return Err(self.rejected("it is not the segment that was announced"));
        }
        if table.segment_length() != self.expected.length {
            return Err(self.rejected("its length is not what its header says"));
        }
        if table.lines.iter().any(|line| line.absent) {
            return Err(self.rejected("a fresh segment cannot lack blobs"));
        }
        Ok(table)
    }
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
