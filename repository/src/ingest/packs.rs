//! The packs themselves asked what they hold: where no index names them, or the index is lost.
//!
//! Must stay true: a pack's own tables are enough to make the index again; a pack that is damaged or marked
//! brings nothing back by which a sound one would be passed over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::PoisonError;

use crate::error::RepositoryError;
use crate::ids::{DomainId, PackId, SegmentId};
use crate::index::IndexedPack;
use crate::index_files::LoadedIndex;
use crate::ingest::lock;
use crate::layout;
use crate::pack::file;
use crate::refs::Refs;
use crate::repo::Repository;
use crate::store::{ListedKind, ObjectPath, Store, StoreError};

impl Repository {
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
                Err(error) if error.is_of_one_object() => {
                    tracing::warn!(%pack, "a pack that no index names is damaged or cannot be read; it is left alone");
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

    /// Makes a domain's index again from the packs, replacing every index file it has, but for those that
    /// cannot be read while some pack cannot either. Returns how many packs it names.
    pub fn rebuild_index(&self) -> Result<usize, RepositoryError> {
        // Read before the packs are: a file that appears meanwhile is not among them and stays.
        let mut replaced = BTreeMap::new();
        for domain in self.domains_on_disk()? {
            replaced.insert(domain, self.index_names(&domain)?);
        }
        let mut domains: BTreeMap<DomainId, Vec<IndexedPack>> = BTreeMap::new();
        let mut doubtful: Vec<IndexedPack> = Vec::new();
        let marked = self.quarantined()?;
        let mut all_told = true;
        for (pack, length) in self.list_packs()? {
            match survey(&*self.store, pack, length) {
                Ok(indexed) if marked.contains(&pack) => doubtful.push(indexed),
                Ok(indexed) => {
                    let domain = domain_of(&indexed).expect("a pack that was surveyed holds a segment");
                    domains.entry(domain).or_default().push(indexed);
                }
                Err(error) if error.is_of_one_object() => {
                    tracing::warn!(%pack, "its own tables cannot be had; what the index says of it is kept");
                    all_told = false;
                }
                Err(error) => return Err(error),
            }
        }
        let mut spent = HashSet::new();
        for (domain, replaced) in &mut replaced {
            let loaded = self.load_index(domain)?;
            if !all_told {
                // It may be the one that knows what the packs do not say, and the disk may give it again.
                replaced.retain(|name| !loaded.unreadable.contains(name));
            }
            doubtful.extend(loaded.index.packs().iter().cloned());
            spent.extend(loaded.files.spent);
        }
        keep_what_nothing_else_tells(&mut domains, doubtful);
        let count = domains.values().map(Vec::len).sum();
        for (domain, packs) in domains {
            let replaced = replaced.remove(&domain).unwrap_or_default();
            self.write_index(domain, packs, &replaced, &spent)?;
            self.delete_replaced(&domain, replaced);
        }
        self.domains.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(count)
    }

    /// The index that `refs` are resolved with. Where the index files do not have everything, the packs are
    /// asked themselves: slower, but a lost index never stands between a user and a restore.
    pub(crate) fn index_for(&self, refs: &Refs) -> Result<LoadedIndex, RepositoryError> {
        let mut loaded = self.load_index(&refs.domain())?;
        loaded.index.set_unsound(self.quarantined()?);
        if loaded.is_whole() && loaded.index.missing(refs).is_empty() {
            return Ok(loaded);
        }
        let known: HashSet<PackId> = loaded.index.packs().iter().map(|pack| pack.id).collect();
        for (pack, length) in self.list_packs()?.into_iter().filter(|(pack, _)| !known.contains(pack)) {
            match survey(&*self.store, pack, length) {
                Ok(pack) if domain_of(&pack) == Some(refs.domain()) => loaded.index.add(pack),
                Ok(_) => {}
                Err(error) if error.is_of_one_object() => {}
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
