//! The second phase: a mark whose time has come is sealed, and what it names goes to the trash.
//!
//! Must stay true: the second walk, the sealed list and the smaller index exclude commits; the index that
//! no longer names a pack is durable before the pack moves; the fence is read again before each batch. All
//! of it may be repeated: a pack that has moved already is passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::plan::{self, Decision, Standing};
use super::record::{Mark, Sealed, json};
use super::walk::Live;
use super::{Amount, BATCH, Phase, PruneStep, Watch};
use crate::error::RepositoryError;
use crate::ids::{DomainId, PackId};
use crate::index::{DomainIndex, IndexedPack};
use crate::ingest::{domain_of, lock, survey, survey_at};
use crate::layout;
use crate::pack::file::MAX_PACK;
use crate::parity::id_of;
use crate::refs::BlobAddress;
use crate::repo::Repository;
use crate::store::{ListedKind, ObjectPath, StoreError};

/// All domains at one moment.
pub(super) struct View {
    pub(super) domains: BTreeMap<DomainId, Decision>,
    there: HashMap<PackId, u64>,
}

impl View {
    fn unused(&self) -> HashMap<PackId, DomainId> {
        let unused = |(domain, decision): (&DomainId, &Decision)| {
            let domain = *domain;
            decision.unused().map(move |(pack, _)| (pack, domain)).collect::<Vec<_>>()
        };
        self.domains.iter().flat_map(unused).collect()
    }

    /// Something is needed that lies in no sound pack: what is in the trash may be the last that has it.
    pub(super) fn needs_the_trash(&self) -> bool {
        self.domains.values().any(|decision| !(decision.lost.is_empty() && decision.doubtful.is_empty()))
    }
}

/// What came of a look through the trash for what is needed.
pub(super) struct Brought {
    pub(super) packs: u64,
    /// Packs there that could not be read.
    pub(super) unread: u64,
}

impl Repository {
    /// Decides for every domain.
    pub(super) fn view(&self, live: &Live) -> Result<View, RepositoryError> {
        let (there, unknown) = self.adopt_unknown()?;
        if unknown > 0 {
            tracing::warn!(packs = unknown, "packs that cannot be understood are left alone");
        }
        let damaged = self.quarantined()?;
        let standing = |pack: &IndexedPack| match there.get(&pack.id) {
            Some(length) if *length == pack.length && damaged.contains(&pack.id) => Standing::Damaged,
            Some(length) if *length == pack.length => Standing::Sound,
            _ => Standing::Gone,
        };
        let mut domains = BTreeMap::new();
        for domain in self.all_domains()? {
            let state = self.domain(&domain)?;
            let state = lock(&state);
            domains.insert(domain, plan::decide(state.index.packs(), &live.of(domain), standing));
        }
        Ok(View { domains, there })
    }

    fn all_domains(&self) -> Result<BTreeSet<DomainId>, RepositoryError> {
        let mut all: BTreeSet<DomainId> = self.domains_on_disk()?.into_iter().collect();
        all.extend(lock(&self.domains).keys());
        Ok(all)
    }

    /// Every pack that is there. Those that no index knows are taken into it first; how many could not be
    /// understood is told.
    fn adopt_unknown(&self) -> Result<(HashMap<PackId, u64>, u64), RepositoryError> {
        let there: HashMap<PackId, u64> = self.list_packs()?.into_iter().collect();
        let mut unknown: HashSet<PackId> = there.keys().copied().collect();
        for domain in self.all_domains()? {
            let state = self.domain(&domain)?;
            lock(&state).index.packs().iter().for_each(|pack| {
                unknown.remove(&pack.id);
            });
        }
        let mut strange = 0;
        for id in unknown {
            match survey(&*self.store, id, there[&id]) {
                Ok(pack) => self.adopt(pack)?,
                Err(error) if error.is_of_one_object() => strange += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((there, strange))
    }

    fn adopt(&self, pack: IndexedPack) -> Result<(), RepositoryError> {
        let domain = domain_of(&pack).expect("a pack that was surveyed holds a segment");
        let state = self.domain(&domain)?;
        let mut state = lock(&state);
        if !state.index.knows(&pack.id) {
            state.index.add(pack.clone());
            state.unindexed.push(pack);
        }
        Ok(())
    }

    /// Seals what is still unused of `packs`, and takes it out of the index. `None` if work that the mark
    /// waits for has begun again.
    pub(super) fn seal(
        &self,
        number: u64,
        mark: &Mark,
        live: &mut Live,
        watch: &dyn Watch,
    ) -> Result<Option<Sealed>, RepositoryError> {
        let _no_commit = lock(&self.commits);
        watch.may_write().map_err(RepositoryError::Fenced)?;
        if self.register.lock().records().any(|record| mark.waits_for.contains(&record.id)) {
            return Ok(None);
        }
        self.walk_new(live)?;
        let view = self.view(live)?;
        let unused = view.unused();
        let mut packs = Vec::new();
        for pack in &mark.packs {
            // What is not there was moved by a run that was cut off; a list alone may lag.
            let is_taken =
                unused.contains_key(pack) || (!view.there.contains_key(pack) && self.is_pack_gone(pack)?);
            if is_taken {
                packs.push(*pack);
            }
        }
        let bytes = packs.iter().filter_map(|pack| view.there.get(pack)).sum();
        let sealed = Sealed { at: watch.now(), count: packs.len() as u64, bytes, packs };
        // Replaced: a run that was cut off may have left one, and what is needed again must not be on it.
        let path = layout::gc_sealed(number);
        self.with_room(watch, || Ok(self.store.replace(&path, &json(&sealed))?))?;
        watch.done(PruneStep::Sealed);
        let mut domains: BTreeMap<DomainId, HashSet<PackId>> = BTreeMap::new();
        for pack in &sealed.packs {
            if let Some(domain) = unused.get(pack) {
                domains.entry(*domain).or_default().insert(*pack);
            }
        }
        for (domain, gone) in &domains {
            self.publish_without(*domain, gone, watch)?;
        }
        watch.done(PruneStep::IndexPublished);
        Ok(Some(sealed))
    }

    fn is_pack_gone(&self, pack: &PackId) -> Result<bool, RepositoryError> {
        match self.store.size(&layout::pack(pack)) {
            Ok(_) => Ok(false),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes an index without these packs, in the files and in memory.
    pub(super) fn publish_without(
        &self,
        domain: DomainId,
        gone: &HashSet<PackId>,
        watch: &dyn Watch,
    ) -> Result<(), RepositoryError> {
        let state = self.domain(&domain)?;
        let mut state = lock(&state);
        state.unindexed.retain(|pack| !gone.contains(&pack.id));
        // A copy whose run was cut off before it was indexed, and that has been found again.
        self.with_room(watch, || self.index_what_is_not(domain, &mut state))?;
        let mut replaces = state.files.replaced.clone();
        let (mut left, mut known) = (Vec::new(), HashSet::new());
        for file in &state.files.live {
            // One that is damaged is replaced at the next start; one that cannot be read names packs that will
            // be gone, which does no harm.
            let read = match self.read_index_file(&domain, &file.name) {
                Err(RepositoryError::Store(error)) if error.is_unreadable() => None,
                read => read?,
            };
            let Some(read) = read else { continue };
            if read.packs.iter().any(|pack| gone.contains(&pack.id)) {
                let stays = |pack: &IndexedPack| !gone.contains(&pack.id) && known.insert(pack.id);
                left.extend(read.packs.into_iter().filter(stays));
                replaces.push(file.name);
            }
        }
        if replaces.len() > state.files.replaced.len() {
            self.with_room(watch, || {
                self.write_and_replace(domain, left.clone(), replaces.clone(), &mut state)
            })?;
            watch.done(PruneStep::OldIndexDeleted);
        }
        state.gone.retain(|pack| !gone.contains(pack));
        let left = state.index.packs().iter().filter(|pack| !gone.contains(&pack.id)).cloned();
        state.index = DomainIndex::new(left);
        Ok(())
    }

    /// Moves what a sealed mark names to the trash.
    pub(super) fn discard(
        &self,
        number: u64,
        sealed: &Sealed,
        watch: &dyn Watch,
    ) -> Result<Amount, RepositoryError> {
        let trash = layout::trash_of(number);
        let mut moved = 0;
        for batch in sealed.packs.chunks(BATCH) {
            if watch.is_cancelled() {
                return Err(RepositoryError::Cancelled);
            }
            watch.may_write().map_err(RepositoryError::Fenced)?;
            for pack in batch {
                self.with_room(watch, || self.discard_one(pack, &trash.join(pack)))?;
            }
            moved += batch.len() as u64;
            watch.done(PruneStep::BatchTrashed);
            watch.progress(Phase::Removing, moved, sealed.count);
        }
        // Named no more: what is in the trash is in the trash.
        let rest = Sealed { packs: Vec::new(), ..sealed.clone() };
        self.with_room(watch, || Ok(self.store.replace(&layout::gc_sealed(number), &json(&rest))?))?;
        self.store.delete(&layout::gc_mark(number))?;
        watch.done(PruneStep::Trashed);
        Ok(Amount { packs: sealed.count, bytes: sealed.bytes })
    }

    fn discard_one(&self, pack: &PackId, to: &ObjectPath) -> Result<(), RepositoryError> {
        let from = layout::pack(pack);
        match self.store.rename(&from, to) {
            // Moved by a run that was cut off.
            Err(StoreError::NotFound { .. }) => {}
            // Under both names: a move in two steps was cut off between them.
            Err(StoreError::AlreadyExists { .. }) => self.store.delete(&from)?,
            other => other?,
        }
        // It can be made again from the pack, should that be brought back.
        self.trash_parity(pack)?;
        Ok(self.store.delete(&layout::quarantined(pack))?)
    }

    /// Packs in the trash that hold what is needed and lies in no sound pack: back to their place. In the
    /// normal course there are none; a writer that overslept its lease can make one needed, and so can rot in
    /// the pack that took over what they held. For what a damaged pack may still have, only whole ones count.
    /// Where one cannot be read, it may be the one: then nothing may leave the trash in this run.
    pub(super) fn bring_back(&self, view: &View, watch: &dyn Watch) -> Result<Brought, RepositoryError> {
        let all = |some: fn(&Decision) -> &Vec<BlobAddress>| -> HashSet<BlobAddress> {
            view.domains.values().flat_map(|decision| some(decision).iter().copied()).collect()
        };
        let (lost, doubtful) = (all(|decision| &decision.lost), all(|decision| &decision.doubtful));
        let mut brought = Brought { packs: 0, unread: 0 };
        for (_, folder) in self.trash_folders()? {
            for listed in self.store.list(Some(&folder))? {
                let (Ok(id), ListedKind::Object { size }) = (listed.name.parse::<PackId>(), listed.kind)
                else {
                    continue;
                };
                let path = folder.join(id);
                let pack = match survey_at(&*self.store, &path, id, size) {
                    Err(error) if error.is_damage() => continue,
                    Err(error) if error.is_of_one_object() => {
                        brought.unread += 1;
                        continue;
                    }
                    other => other?,
                };
                let holds = |some: &HashSet<BlobAddress>| {
                    pack.segments.iter().any(|placed| {
                        let segment = placed.table.header.context.segment;
                        let lines = placed.table.lines.iter().zip(0u32..).filter(|(line, _)| !line.absent);
                        lines.into_iter().any(|(_, ordinal)| some.contains(&BlobAddress { segment, ordinal }))
                    })
                };
                let mut is_whole = || match self.store.read(&path, MAX_PACK) {
                    Err(error) if error.is_unreadable() => {
                        brought.unread += 1;
                        Ok(false)
                    }
                    read => Ok::<_, StoreError>(id_of(&read?) == id),
                };
                let is_wanted = holds(&lost) || holds(&doubtful) && is_whole()?;
                if !is_wanted {
                    continue;
                }
                watch.may_write().map_err(RepositoryError::Fenced)?;
                match self.store.rename(&path, &layout::pack(&id)) {
                    Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                tracing::error!(pack = %id, "a pack in the trash is needed; it was brought back");
                let domain = domain_of(&pack).expect("a pack that was surveyed holds a segment");
                self.adopt(pack)?;
                self.index_anew(domain)?;
                brought.packs += 1;
            }
        }
        Ok(brought)
    }

    /// All of a domain's packs in index files that stand for every one there is, so that none of them can be
    /// mistaken for one that was replaced before.
    fn index_anew(&self, domain: DomainId) -> Result<(), RepositoryError> {
        let state = self.domain(&domain)?;
        let mut state = lock(&state);
        let names = self.index_names(&domain)?;
        let packs = state.index.packs().to_vec();
        self.write_and_replace(domain, packs, names, &mut state)?;
        state.unindexed.clear();
        state.damaged.clear();
        Ok(())
    }

    /// What lies in the trash, by number.
    pub(super) fn trash_folders(&self) -> Result<BTreeMap<u64, ObjectPath>, RepositoryError> {
        let listed = self.store.list(Some(&layout::trash()))?;
        let numbers = listed.iter().filter_map(|listed| layout::gc_number(&listed.name));
        Ok(numbers.map(|number| (number, layout::trash_of(number))).collect())
    }

    /// Where a pack lies that prune took away and did not delete yet.
    pub(crate) fn trashed(&self, pack: &PackId) -> Result<Option<ObjectPath>, RepositoryError> {
        for (_, folder) in self.trash_folders()? {
            let path = folder.join(pack);
            match self.store.size(&path) {
                Ok(_) => return Ok(Some(path)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Deletes what a mark took for good.
    pub(super) fn empty_trash(&self, number: u64, watch: &dyn Watch) -> Result<Amount, RepositoryError> {
        let folder = layout::trash_of(number);
        let mut deleted = Amount::default();
        let listed = self.store.list(Some(&folder))?;
        for batch in listed.chunks(BATCH) {
            if watch.is_cancelled() {
                return Err(RepositoryError::Cancelled);
            }
            watch.may_write().map_err(RepositoryError::Fenced)?;
            for listed in batch {
                if let ListedKind::Object { size } = listed.kind {
                    self.store.delete(&folder.join(&listed.name))?;
                    deleted.add(size);
                }
            }
            watch.done(PruneStep::Purged);
        }
        self.store.delete_folder(&folder)?;
        // The record last: as long as it is there, the next run comes here again.
        self.store.delete(&layout::gc_mark(number))?;
        self.store.delete(&layout::gc_sealed(number))?;
        watch.done(PruneStep::TrashDeleted);
        Ok(deleted)
    }

    /// For a disk with no byte free: deletes packs of which nothing is needed, and only then writes that they
    /// are gone. Until then the index names packs that are not there; nothing that lives refers to them, and
    /// writers look whether a pack is there. Says how much it was.
    pub(super) fn delete_dead_at_once(
        &self,
        live: &mut Live,
        watch: &dyn Watch,
    ) -> Result<Amount, RepositoryError> {
        let _no_commit = lock(&self.commits);
        self.walk_new(live)?;
        let view = self.view(live)?;
        let mut deleted = Amount::default();
        for (domain, decision) in &view.domains {
            for batch in decision.dead.chunks(BATCH) {
                if watch.is_cancelled() {
                    return Err(RepositoryError::Cancelled);
                }
                watch.may_write().map_err(RepositoryError::Fenced)?;
                for (pack, length) in batch {
                    self.store.delete(&layout::pack(pack))?;
                    self.trash_parity(pack)?;
                    self.store.delete(&layout::quarantined(pack))?;
                    deleted.add(*length);
                }
                watch.done(PruneStep::Purged);
            }
            if !decision.dead.is_empty() {
                self.publish_without(*domain, &decision.dead.iter().map(|(pack, _)| *pack).collect(), watch)?;
            }
        }
        Ok(deleted)
    }
}
