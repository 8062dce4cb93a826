//! A domain's index as files: read, written, merged.
//!
//! Each commit writes a small file for what its domain has taken in. Small files are merged into larger ones
//! as in a log-structured merge tree, so that there are some dozens at most, whatever was backed up, and each
//! line is written some few times. Must stay true: at no moment is a pack in no file: the merged file is
//! durable before those that it replaces go, it names all of them that are still there, and a crash between
//! leaves files that count for nothing. A file's name is its content's digest, and the same packs may come
//! again (a merged pack that was taken away is made anew, bit for bit): so no file is ever written under a
//! name that another one replaces, it would count for nothing from its first moment. A reader who finds a
//! file gone that was listed lists again.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::RepositoryError;
use crate::ids::DomainId;
use crate::index::{DomainIndex, IndexFile, IndexedPack, MAX_INDEX_FILE};
use crate::ingest::DomainState;
use crate::layout;
use crate::repo::Repository;
use crate::signed::Sha256;
use crate::store::StoreError;
use crate::verify::read_again;

/// About how long an index file gets, in bytes.
const INDEX_FILE: u64 = 32 << 20;
/// Files shorter than this are of the lowest tier; each tier above it is [`FAN`] times as long.
const LOWEST_TIER: u64 = 8 << 10;
/// So many files of a tier become one.
const FAN: usize = 8;
/// Files above these tiers (4 MiB and more) are not merged any more.
const TIERS: u32 = 4;
/// How often a list is read again whose files have gone meanwhile. Then they count as gone: whatever they
/// said is in a newer file, or in the packs.
const LISTS: usize = 4;

/// The index files of a domain that count, and what lies beside them.
#[derive(Debug, Default)]
pub(crate) struct IndexFiles {
    pub(crate) live: Vec<FileLength>,
    /// Those that another one stands for.
    pub(crate) replaced: Vec<Sha256>,
    /// Names that a file stands for, whether or not they are still there: no new file may get one of them.
    /// Some of those that this process replaced are not named any more; they cost 32 bytes each.
    pub(crate) spent: HashSet<Sha256>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileLength {
    pub(crate) name: Sha256,
    pub(crate) bytes: u64,
}

/// A domain's index, and the index files that could not be used for it.
pub(crate) struct LoadedIndex {
    pub(crate) index: DomainIndex,
    /// Files that are not what their names say.
    pub(crate) damaged: Vec<Sha256>,
    /// Files that the medium does not give. They may come back, so nothing stands for them.
    pub(crate) unreadable: Vec<Sha256>,
    pub(crate) files: IndexFiles,
}

impl LoadedIndex {
    /// True if every file could be used.
    pub(crate) fn is_whole(&self) -> bool {
        self.damaged.is_empty() && self.unreadable.is_empty()
    }
}

/// A file's tier; `None` for those that stay as they are.
fn tier(bytes: u64) -> Option<u32> {
    (0..TIERS).find(|tier| bytes < LOWEST_TIER * (FAN as u64).pow(*tier))
}

/// Which files a new one of `bytes` bytes takes in: where its tier is full, all of that tier and those below,
/// and so on upwards.
fn taken_in(live: &[FileLength], bytes: u64) -> Vec<FileLength> {
    let (mut taken, mut all) = (Vec::new(), bytes);
    while let Some(own) = tier(all) {
        let rest = |file: &&FileLength| !taken.contains(*file);
        let beside = live.iter().filter(rest).filter(|file| tier(file.bytes) == Some(own)).count();
        if beside + 1 < FAN {
            break;
        }
        let more = live.iter().filter(rest).filter(|file| tier(file.bytes).is_some_and(|tier| tier <= own));
        let more: Vec<FileLength> = more.copied().collect();
        all += more.iter().map(|file| file.bytes).sum::<u64>();
        taken.extend(more);
    }
    taken
}

impl Repository {
    /// Writes an index file for the packs that have none, and merges older ones into it.
    pub(crate) fn index_what_is_not(
        &self,
        domain: DomainId,
        state: &mut DomainState,
    ) -> Result<(), RepositoryError> {
        if state.unindexed.is_empty() {
            return Ok(());
        }
        let mut packs = state.unindexed.clone();
        let mut replaces = [state.files.replaced.as_slice(), &state.damaged].concat();
        for file in taken_in(&state.files.live, packs.iter().map(IndexedPack::encoded_length).sum()) {
            match self.read_index_file(&domain, &file.name) {
                Ok(Some(read)) => {
                    packs.extend(read.packs);
                    replaces.push(file.name);
                }
                // It stays, and whoever verifies tells of it.
                Ok(None) => {
                    tracing::warn!(name = %file.name, "an index file is damaged or gone; it is not merged")
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "an index file cannot be read; it is not merged this time");
                }
            }
        }
        let mut seen = HashSet::new();
        packs.retain(|pack| seen.insert(pack.id));
        self.write_and_replace(domain, packs, replaces, state)?;
        state.unindexed.clear();
        state.damaged.clear();
        Ok(())
    }

    /// Writes index files for `packs`, and deletes those that they replace.
    pub(crate) fn write_and_replace(
        &self,
        domain: DomainId,
        packs: Vec<IndexedPack>,
        replaces: Vec<Sha256>,
        state: &mut DomainState,
    ) -> Result<(), RepositoryError> {
        let written = self.write_index(domain, packs, &replaces, &state.files.spent)?;
        state.files.spent.extend(&replaces);
        state.files.live.retain(|file| !replaces.contains(&file.name));
        state.files.live.extend(written);
        state.files.replaced = self.delete_replaced(&domain, replaces);
        Ok(())
    }

    /// Deletes index files that others stand for, and returns those that are still there. What cannot be
    /// deleted counts for nothing, and the next file names it again.
    pub(crate) fn delete_replaced(&self, domain: &DomainId, replaced: Vec<Sha256>) -> Vec<Sha256> {
        let delete = |name: &Sha256| self.store.delete(&layout::index_file(domain, name));
        let stays = |name: &Sha256| match delete(name) {
            Ok(()) => false,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "an index file that another one replaces cannot be deleted");
                true
            }
        };
        replaced.into_iter().filter(stays).collect()
    }

    /// Writes index files for `packs`, each of a size that is read with ease; the last one replaces what is
    /// to be replaced, so that at no moment a pack is in no file. None gets a name that is spent.
    pub(crate) fn write_index(
        &self,
        domain: DomainId,
        packs: Vec<IndexedPack>,
        replaces: &[Sha256],
        spent: &HashSet<Sha256>,
    ) -> Result<Vec<FileLength>, RepositoryError> {
        let mut files = vec![Vec::new()];
        let mut length = 0;
        for pack in packs {
            length += pack.encoded_length();
            if length > INDEX_FILE && files.last().is_some_and(|file| !file.is_empty()) {
                files.push(Vec::new());
                length = pack.encoded_length();
            }
            files.last_mut().expect("there is one from the start").push(pack);
        }
        let last = files.len() - 1;
        let all_replaced: HashSet<&Sha256> = replaces.iter().collect();
        let mut written = Vec::with_capacity(files.len());
        for (nth, packs) in files.into_iter().enumerate() {
            let replaces = if nth == last { replaces.to_vec() } else { Vec::new() };
            let is_spent = |name: &Sha256| spent.contains(name) || all_replaced.contains(name);
            written.push(self.write_index_file(IndexFile { domain, replaces, packs }, is_spent)?);
        }
        Ok(written)
    }

    fn write_index_file(
        &self,
        mut index: IndexFile,
        is_spent: impl Fn(&Sha256) -> bool,
    ) -> Result<FileLength, RepositoryError> {
        let mut bytes = index.encode();
        while is_spent(&Sha256::of(&bytes)) {
            // It stands for the one of old that said the same, which makes it another one.
            index.replaces.push(Sha256::of(&bytes));
            bytes = index.encode();
        }
        let written = FileLength { name: Sha256::of(&bytes), bytes: bytes.len() as u64 };
        let path = layout::index_file(&index.domain, &written.name);
        match self.store.create(&path, &bytes) {
            Err(StoreError::AlreadyExists { .. }) => {
                // The name is the content's: whatever else lies there, and what cannot be read, is a torn or
                // rotten copy of it.
                if !read_again(|| self.store.read(&path, MAX_INDEX_FILE)).is_ok_and(|there| there == bytes) {
                    self.store.replace(&path, &bytes)?;
                }
            }
            other => other?,
        }
        Ok(written)
    }

    /// A domain's index as its files give it; those that are damaged are left out and named.
    pub(crate) fn load_index(&self, domain: &DomainId) -> Result<LoadedIndex, RepositoryError> {
        let mut read: HashMap<Sha256, Option<(IndexFile, u64)>> = HashMap::new();
        let mut unreadable = BTreeSet::new();
        for _ in 0..LISTS {
            let names = self.index_names(domain)?;
            read.retain(|name, _| names.contains(name));
            unreadable.retain(|name| names.contains(name));
            let mut is_whole = true;
            for name in names {
                if read.contains_key(&name) || unreadable.contains(&name) {
                    continue;
                }
                match read_again(|| self.store.read(&layout::index_file(domain, &name), MAX_INDEX_FILE)) {
                    Ok(bytes) => {
                        read.insert(name, decode(domain, &name, &bytes));
                    }
                    Err(error) if error.is_not_found() => is_whole = false,
                    Err(error) if error.is_unreadable() => {
                        unreadable.insert(name);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if is_whole {
                break;
            }
        }
        let files = || read.iter().filter_map(|(name, file)| Some((name, file.as_ref()?)));
        let replaced: HashSet<Sha256> = files().flat_map(|(_, (file, _))| file.replaces.clone()).collect();
        let is_damaged = |name: &&Sha256| read[*name].is_none() && !replaced.contains(*name);
        let damaged = read.keys().filter(is_damaged).copied().collect();
        let live = files().filter(|(name, _)| !replaced.contains(*name));
        let live = live.map(|(name, (_, bytes))| FileLength { name: *name, bytes: *bytes }).collect();
        let files = IndexFiles {
            live,
            replaced: read.keys().filter(|name| replaced.contains(*name)).copied().collect(),
            spent: replaced.clone(),
        };
        let counts = |(name, file): (Sha256, Option<(IndexFile, u64)>)| {
            (!replaced.contains(&name)).then_some(file?.0.packs)
        };
        let index = DomainIndex::new(read.into_iter().filter_map(counts).flatten());
        unreadable.retain(|name| !replaced.contains(name));
        let unreadable = unreadable.into_iter().collect();
        Ok(LoadedIndex { index, damaged, unreadable, files })
    }

    /// `None` if it is not what its name says, or not there.
    pub(crate) fn read_index_file(
        &self,
        domain: &DomainId,
        name: &Sha256,
    ) -> Result<Option<IndexFile>, RepositoryError> {
        match self.store.read(&layout::index_file(domain, name), MAX_INDEX_FILE) {
            Ok(bytes) => Ok(decode(domain, name, &bytes).map(|(file, _)| file)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn index_names(&self, domain: &DomainId) -> Result<Vec<Sha256>, RepositoryError> {
        let listed = self.store.list(Some(&layout::index(domain)))?;
        let name = |name: &str| crate::ids::unhex(name).and_then(|bytes| bytes.try_into().ok()).map(Sha256);
        Ok(listed.iter().filter_map(|listed| name(&listed.name)).collect())
    }
}

fn decode(domain: &DomainId, name: &Sha256, bytes: &[u8]) -> Option<(IndexFile, u64)> {
    let file = IndexFile::decode(bytes).ok()?;
    (Sha256::of(bytes) == *name && file.domain == *domain).then_some((file, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{BlobId, PackId, RepositoryId, SegmentId};
    use crate::keys::SlotSecret;
    use crate::pack::blob::{BlobKind, BlobLine, Class, Codec};
    use crate::pack::file::PlacedSegment;
    use crate::pack::seal::{SealedKey, SegmentContext};
    use crate::pack::segment::{SegmentHeader, SegmentTable};
    use crate::store::memory::MemoryStore;

    const DOMAIN: DomainId = DomainId::new([7; 16]);

    fn repository() -> Repository {
        let secret = SlotSecret::KeyFile(zeroize::Zeroizing::new(vec![1; 32]));
        Repository::init(Arc::new(MemoryStore::new()), &secret, jiff::Timestamp::UNIX_EPOCH)
            .expect("a fresh repository")
            .repository
    }

    fn pack(nth: u8, segments: usize, lines: u32) -> IndexedPack {
        let segment = SegmentId::new([nth; 16]);
        let context = SegmentContext { repository: RepositoryId::new([1; 16]), domain: DOMAIN, segment };
        let key = SealedKey { epoch: 1, encapsulated: [0; 32], sealed: [0; 48] };
        let header = SegmentHeader { class: Class::Data, context, key, blobs: lines, body_length: 0 };
        let line = BlobLine {
            id: BlobId::new([nth; 32]),
            kind: BlobKind::Data,
            codec: Codec::Raw,
            absent: true,
            plain_length: 1,
            stored_length: 17,
        };
        let table = SegmentTable { header, lines: vec![line; lines as usize] };
        let length = table.segment_length();
        let segments = vec![PlacedSegment { offset: 0, table }; segments];
        IndexedPack { id: PackId::new([nth; 32]), length, segments }
    }

    fn names(repository: &Repository) -> Vec<u8> {
        let loaded = repository.load_index(&DOMAIN).expect("loaded");
        assert_eq!(loaded.damaged, []);
        let mut packs: Vec<u8> = loaded.index.packs().iter().map(|pack| pack.id.as_bytes()[0]).collect();
        packs.sort_unstable();
        packs
    }

    fn take_in(repository: &Repository, state: &mut DomainState, packs: &[u8]) {
        state.unindexed.extend(packs.iter().map(|nth| pack(*nth, 1, 1)));
        repository.index_what_is_not(DOMAIN, state).expect("written");
    }

    #[test]
    fn a_pack_that_comes_again_bit_for_bit_is_indexed_though_its_file_of_old_was_replaced() {
        let repository = repository();
        let state = repository.domain(&DOMAIN).expect("a domain");
        let mut state = state.lock().expect("unpoisoned");
        take_in(&repository, &mut state, &[1]);
        // The next file stands for the first one: once because the process replaced it, then because a
        // later process read that it had.
        for later in [false, true] {
            let first = state.files.live.iter().map(|file| file.name).collect();
            repository.write_and_replace(DOMAIN, vec![pack(2, 1, 1)], first, &mut state).expect("written");
            assert_eq!(names(&repository), [2], "pack 1 was taken away");
            if later {
                state.files = repository.load_index(&DOMAIN).expect("loaded").files;
            }
            take_in(&repository, &mut state, &[1]);
            assert_eq!(names(&repository), [1, 2]);
        }
    }

    #[test]
    fn an_index_of_several_files_may_be_made_again_any_number_of_times() {
        let repository = repository();
        // Three packs are longer than one index file.
        let packs = || (1..=3).map(|nth| pack(nth, 5, 65_000)).collect::<Vec<_>>();
        let state = repository.domain(&DOMAIN).expect("a domain");
        let mut state = state.lock().expect("unpoisoned");
        for _ in 0..3 {
            let replaced = repository.index_names(&DOMAIN).expect("listed");
            repository.write_and_replace(DOMAIN, packs(), replaced, &mut state).expect("written");
            assert_eq!(names(&repository), [1, 2, 3]);
            assert_eq!(repository.index_names(&DOMAIN).expect("listed").len(), 2);
        }
    }

    #[test]
    fn files_stay_few_and_each_line_is_written_few_times() {
        let (mut live, mut written) = (Vec::new(), 0);
        for nth in 0..20_000u64 {
            let taken = taken_in(&live, 700);
            let bytes = 700 + taken.iter().map(|file| file.bytes).sum::<u64>();
            live.retain(|file| !taken.contains(file));
            live.push(FileLength { name: Sha256::of(&nth.to_le_bytes()), bytes });
            written += bytes;
            assert!(
                live.len() <= TIERS as usize * (FAN - 1) + (nth as usize * 700) / (4 << 20),
                "{}",
                live.len()
            );
        }
        assert_eq!(live.iter().map(|file| file.bytes).sum::<u64>(), 20_000 * 700);
        assert!(written < 20_000 * 700 * 8, "each line was written {} times", written / 20_000 / 700);
    }

    #[test]
    fn a_large_file_is_left_as_it_is() {
        let large = FileLength { name: Sha256::of(b"large"), bytes: 30 << 20 };
        let small = |nth: u8| FileLength { name: Sha256::of(&[nth]), bytes: 100 };
        let live: Vec<_> = (0..7).map(small).chain([large]).collect();
        assert_eq!(taken_in(&live, 100).len(), 7);
        assert_eq!(taken_in(&live, 40 << 20), []);
        assert_eq!(taken_in(&live[1..], 100), []);
    }
}
