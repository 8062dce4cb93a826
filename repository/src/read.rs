//! Reading an archive back: its entries, the blobs behind them, the keys that an agent needs to restore.
//!
//! Must stay true: nothing is handed out that was not opened under its seal and found to be what its id
//! says; and memory does not grow with the archive beyond its table of blobs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::ahead::{self, Ahead};
use crate::archive::entry::{Entry, EntryKind, Piece, Pieces};
use crate::archive::page::{PageTable, decode_page, decode_pieces};
use crate::archive::path::EntryPath;
use crate::backup::manifest::{ArchiveManifest, BackupRecord};
use crate::codec::Malformed;
use crate::content::IdKey;
use crate::cut::decompress;
use crate::error::RepositoryError;
use crate::ids::{BlobId, DomainId, PackId, SegmentId};
use crate::index::{BlobPlace, DomainIndex};
use crate::ingest::lock;
use crate::keys::KeyRing;
use crate::layout;
use crate::names::SourceId;
use crate::pack::blob::{BlobKind, BlobLine, blob_id};
use crate::pack::seal::{BlobCipher, SegmentContext, SegmentKey};
use crate::refs::{BlobAddress, Refs};
use crate::repo::Repository;
use crate::store::{ObjectPath, StoreError};

/// How many bytes of opened blobs are kept for the next piece.
const CACHE: usize = 8 << 20;

/// A segment, ready to be opened by whoever restores.
#[derive(Debug, Clone)]
pub struct OpenedSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Its key.
    pub key: SegmentKey,
    /// The blobs that the archive needs of it, by ordinal.
    pub blobs: Vec<(u32, BlobLine)>,
}

/// Reads one archive.
pub struct ArchiveReader {
    repository: Arc<Repository>,
    keys: KeyRing,
    id_key: IdKey,
    source: SourceId,
    manifest: ArchiveManifest,
    refs: Refs,
    index: DomainIndex,
    by_id: HashMap<BlobId, BlobAddress>,
    ciphers: HashMap<SegmentId, Arc<BlobCipher>>,
    recent: Recent,
    ahead: Option<Ahead>,
    /// The index as it was when a pack was not where it had been.
    newer: Mutex<Option<DomainIndex>>,
}

impl ArchiveReader {
    /// Opens an archive: checks the manifest and the refs against the record, and loads the domain's index.
    pub fn open(
        repository: &Arc<Repository>,
        keys: &KeyRing,
        record: &BackupRecord,
        source: &SourceId,
    ) -> Result<Self, RepositoryError> {
        let refs = repository.refs(record, source)?;
        let manifest = repository.archive(record, source)?;
        let index = repository.index_for(&refs)?.index;
        Ok(Self::with(repository, keys, source, manifest, refs, index))
    }

    /// The reader of an archive whose parts were read already.
    pub(crate) fn with(
        repository: &Arc<Repository>,
        keys: &KeyRing,
        source: &SourceId,
        manifest: ArchiveManifest,
        refs: Refs,
        index: DomainIndex,
    ) -> Self {
        Self {
            repository: repository.clone(),
            id_key: keys.domain_keys_by_id(refs.domain()).id_key,
            keys: keys.clone(),
            source: source.clone(),
            manifest,
            by_id: index.by_id(&refs),
            refs,
            index,
            ciphers: HashMap::new(),
            recent: Recent::default(),
            ahead: None,
            newer: Mutex::default(),
        }
    }

    /// The archive's manifest.
    pub fn manifest(&self) -> &ArchiveManifest {
        &self.manifest
    }

    /// The domain of its blobs.
    pub fn domain(&self) -> DomainId {
        self.refs.domain()
    }

    /// The key that its ids are made with.
    pub fn id_key(&self) -> &IdKey {
        &self.id_key
    }

    /// Which blobs it needs.
    pub fn refs(&self) -> &Refs {
        &self.refs
    }

    /// The page table's blob.
    pub fn root(&self) -> Result<BlobId, RepositoryError> {
        self.manifest.root.ok_or_else(|| {
            let path = layout::manifest(&ObjectPath::new(layout::REPOSITORY), &self.source);
            RepositoryError::Damaged {
                path,
                source: Malformed::new("archive manifest", "it names no page table"),
            }
        })
    }

    /// The page table.
    pub fn page_table(&mut self) -> Result<PageTable, RepositoryError> {
        let root = self.root()?;
        let plain = self.blob_of_kind(&root, BlobKind::PageTable)?;
        PageTable::decode(&plain).map_err(|source| self.damaged_blob(&root, source))
    }

    /// The entries of one page.
    pub fn page(&mut self, id: &BlobId) -> Result<Vec<Entry>, RepositoryError> {
        let plain = self.blob_of_kind(id, BlobKind::Page)?;
        decode_page(&plain).map_err(|source| self.damaged_blob(id, source))
    }

    /// All entries in order.
    pub fn entries(&mut self) -> Result<Entries<'_>, RepositoryError> {
        self.entries_from(&EntryPath::root())
    }

    /// The entries from `from` on, in order.
    pub fn entries_from(&mut self, from: &EntryPath) -> Result<Entries<'_>, RepositoryError> {
        let table = self.page_table()?;
        let next_page = table.page_of(from);
        Ok(Entries { reader: self, table, next_page, page: Vec::new().into_iter(), from: from.clone() })
    }

    /// The entry at `path`.
    pub fn entry(&mut self, path: &EntryPath) -> Result<Option<Entry>, RepositoryError> {
        match self.entries_from(path)?.next().transpose()? {
            Some(entry) if entry.path == *path => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// Gives `visit` what lies directly in `folder`, in order and a page at a time: there may be a million.
    /// Skips from page to page past what lies deeper.
    pub fn children<E: From<RepositoryError>>(
        &mut self,
        folder: &EntryPath,
        mut visit: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = self.page_table()?;
        let depth = folder.names().count() + 1;
        let mut last: Option<EntryPath> = None;
        let mut at = table.page_of(folder);
        while let Some(line) = table.pages.get(at) {
            if line.first > *folder && !line.first.is_within(folder) {
                break;
            }
            let entries = self.page(&line.id)?;
            let child = |entry: &Entry| entry.path.is_within(folder) && entry.path.names().count() == depth;
            for entry in entries.into_iter().filter(child) {
                last = Some(entry.path.clone());
                visit(entry)?;
            }
            at += 1;
            // Pages that begin and end below the last child hold no other one.
            let Some(last) = &last else { continue };
            while table.pages.get(at + 1).is_some_and(|after| after.first.is_within(last)) {
                at += 1;
            }
        }
        Ok(())
    }

    /// All pieces of a file's content.
    pub fn pieces(&mut self, pieces: &Pieces) -> Result<Vec<Piece>, RepositoryError> {
        match pieces {
            Pieces::Inline(pieces) => Ok(pieces.clone()),
            Pieces::Listed(lists) => {
                let mut all = Vec::new();
                for id in lists {
                    all.extend(self.piece_list(id)?);
                }
                Ok(all)
            }
        }
    }

    /// The pieces that one list blob names.
    pub fn piece_list(&mut self, id: &BlobId) -> Result<Vec<Piece>, RepositoryError> {
        let plain = self.blob_of_kind(id, BlobKind::Pieces)?;
        decode_pieces(&plain).map_err(|source| self.damaged_blob(id, source))
    }

    /// The plaintext of a piece.
    pub fn piece(&mut self, piece: &Piece) -> Result<Bytes, RepositoryError> {
        let plain = self.blob_of_kind(&piece.blob, BlobKind::Data)?;
        let (start, end) = (piece.offset as usize, piece.offset as usize + piece.length as usize);
        if end > plain.len() {
            return Err(self.damaged_blob(&piece.blob, Malformed::new("piece", "it reaches past its blob")));
        }
        Ok(plain.slice(start..end))
    }

    /// The plaintext of a blob of whatever kind, opened and its id recomputed; of data that was expected, see there.
    pub fn blob(&mut self, id: &BlobId) -> Result<Bytes, RepositoryError> {
        if let Some(plain) = self.recent.get(id) {
            return Ok(plain);
        }
        let address = *self.by_id.get(id).ok_or(RepositoryError::BlobMissing(*id))?;
        let opened = self.ahead.as_mut().and_then(|ahead| ahead.take(id));
        self.go_ahead();
        let plain = match opened {
            Some(plain) => plain,
            None => self.open_somewhere(self.place(&address)?)?,
        };
        let plain = Bytes::from(plain);
        self.recent.put(*id, plain.clone());
        Ok(plain)
    }

    /// These blobs will be asked for, in this order and before whatever was expected so far: threads begin to
    /// open them. Whoever expects data recomputes the id of each content of it ([`Proven::ByContent`]).
    pub(crate) fn expect(&mut self, blobs: impl Iterator<Item = BlobId>) {
        let mut blobs = blobs.filter(|blob| self.recent.get(blob).is_none()).peekable();
        if blobs.peek().is_some() {
            let start = || Ahead::start(&self.repository.store, &self.id_key);
            self.ahead.get_or_insert_with(start).expect(blobs);
        }
        self.go_ahead();
    }

    /// What was expected will not be asked for.
    pub(crate) fn expect_nothing(&mut self) {
        self.ahead.iter_mut().for_each(Ahead::forget);
    }

    fn go_ahead(&mut self) {
        while let Some(blob) = self.ahead.as_mut().and_then(Ahead::next) {
            // What cannot be begun is opened, and told of, when it is asked for.
            let place = self.by_id.get(&blob).and_then(|address| self.index.place(address));
            let Some(place) = place.filter(|place| place.line.plain_length <= ahead::MAX_PLAIN) else {
                continue;
            };
            let (Ok((context, cipher)), Some(ahead)) = (self.cipher(&place), &mut self.ahead) else {
                continue;
            };
            ahead.begin(ahead::Order { place, context, cipher });
        }
    }

    /// Opens a blob at this place, or at another one where this one turns out to be damaged or cannot be read.
    fn open_somewhere(&mut self, first: BlobPlace) -> Result<Vec<u8>, RepositoryError> {
        let failed = match self.open_at(&first) {
            Err(error) if error.is_damage() || is_unreadable(&error) => error,
            other => return other,
        };
        let mut others = self.index.places(&first.address);
        others.extend(self.index.copies(&first.address).iter().filter_map(|copy| self.index.place(copy)));
        for place in others.into_iter().filter(|place| place.pack != first.pack) {
            if let Ok(plain) = self.open_at(&place) {
                tracing::warn!(blob = %first.line.id, pack = %first.pack, "damaged; read from another pack");
                return Ok(plain);
            }
        }
        Err(failed)
    }

    pub(crate) fn open_at(&mut self, place: &BlobPlace) -> Result<Vec<u8>, RepositoryError> {
        let sealed = self.read(place)?;
        self.unseal(place, sealed)
    }

    /// Takes these packs for damaged: what lies elsewhere as well is read there.
    pub(crate) fn avoid(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.index.avoid(packs);
        self.by_id = self.index.by_id(&self.refs);
    }

    /// The sealed bytes of a blob, for whoever restores. Only blobs of this archive.
    pub fn sealed(&self, address: &BlobAddress) -> Result<Vec<u8>, RepositoryError> {
        let place = self.place(address)?;
        if !self.by_id.contains_key(&place.line.id) {
            return Err(RepositoryError::BlobMissing(place.line.id));
        }
        self.read(&place).or_else(|error| {
            let others = self.index.places(address).into_iter().filter(|other| other.pack != place.pack);
            others.into_iter().find_map(|other| self.read(&other).ok()).ok_or(error)
        })
    }

    /// The keys and tables of every segment that the archive needs.
    pub fn segments(&self) -> impl Iterator<Item = Result<OpenedSegment, RepositoryError>> + '_ {
        let mut needed: BTreeMap<SegmentId, Vec<u32>> = BTreeMap::new();
        for address in self.by_id.values() {
            needed.entry(address.segment).or_default().push(address.ordinal);
        }
        needed.into_iter().filter_map(|(segment, mut ordinals)| {
            let (pack, placed) = self.index.segment(&segment)?;
            let lines = self.index.lines(&segment)?;
            ordinals.sort_unstable();
            let line = |ordinal: u32| lines.get(ordinal as usize).map(|line| (ordinal, *line));
            let blobs: Vec<(u32, BlobLine)> = ordinals.into_iter().filter_map(line).collect();
            let first = blobs.first().map(|(_, line)| line.id)?;
            let damaged = |_| RepositoryError::BlobDamaged { id: first, pack: pack.id };
            let key = self.keys.segment_key(&placed.table.header).map_err(damaged);
            Some(key.map(|key| OpenedSegment { segment, key, blobs }))
        })
    }

    pub(crate) fn place(&self, address: &BlobAddress) -> Result<BlobPlace, RepositoryError> {
        let of_refs = || self.by_id.iter().find(|(_, known)| **known == *address).map(|(id, _)| *id);
        self.index
            .place(address)
            .ok_or_else(|| RepositoryError::BlobMissing(of_refs().unwrap_or(BlobId::new([0; 32]))))
    }

    /// Where the blob with this id is read from.
    pub(crate) fn address(&self, id: &BlobId) -> Option<BlobAddress> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn index(&self) -> &DomainIndex {
        &self.index
    }

    fn read(&self, place: &BlobPlace) -> Result<Vec<u8>, RepositoryError> {
        match self.read_at(&layout::pack(&place.pack), place) {
            Err(error) if error.is_not_found() => self.read_moved(&place.address, place, error),
            // The pack is too short: what it lacks is lost, not out of reach.
            Err(StoreError::Failed { source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(RepositoryError::BlobDamaged { id: place.line.id, pack: place.pack })
            }
            other => Ok(other?),
        }
    }

    fn read_at(&self, pack: &ObjectPath, place: &BlobPlace) -> Result<Vec<u8>, StoreError> {
        self.repository.store.read_range(pack, place.offset, u64::from(place.line.stored_length))
    }

    /// Prune took the pack away since it was looked up: it lies in the trash for days, and what is needed of
    /// it lies in another pack, which the index of now names.
    fn read_moved(
        &self,
        address: &BlobAddress,
        place: &BlobPlace,
        missing: StoreError,
    ) -> Result<Vec<u8>, RepositoryError> {
        if let Some(path) = self.repository.trashed(&place.pack)? {
            match self.read_at(&path, place) {
                Err(error) if error.is_not_found() => {}
                other => return Ok(other?),
            }
        }
        let mut newer = lock(&self.newer);
        for is_loaded_now in [false, true] {
            if is_loaded_now {
                *newer = Some(self.repository.index_for(&self.refs)?.index);
            }
            let moved = newer.as_ref().and_then(|index| index.place(address));
            let Some(moved) = moved.filter(|moved| moved.pack != place.pack) else { continue };
            match self.read_at(&layout::pack(&moved.pack), &moved) {
                Err(error) if error.is_not_found() => {}
                other => return Ok(other?),
            }
        }
        Err(missing.into())
    }

    /// Opens sealed bytes and proves that they are the blob they should be.
    pub(crate) fn unseal(&mut self, place: &BlobPlace, sealed: Vec<u8>) -> Result<Vec<u8>, RepositoryError> {
        let damaged = |_| RepositoryError::BlobDamaged { id: place.line.id, pack: place.pack };
        let (context, cipher) = self.cipher(place)?;
        let ordinal = place.address.ordinal;
        open_blob(&context, &cipher, ordinal, &place.line, sealed, &self.id_key, Proven::ById)
            .map_err(damaged)
    }

    /// What the blobs of the place's segment are opened with.
    fn cipher(&mut self, place: &BlobPlace) -> Result<(SegmentContext, Arc<BlobCipher>), RepositoryError> {
        let damaged = || RepositoryError::BlobDamaged { id: place.line.id, pack: place.pack };
        let segment = place.address.segment;
        let (_, placed) = self.index.segment(&segment).ok_or_else(damaged)?;
        let header = &placed.table.header;
        let cipher = match self.ciphers.entry(segment) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(Arc::new(BlobCipher::new(&self.keys.segment_key(header).map_err(|_| damaged())?)))
            }
        };
        Ok((header.context, Arc::clone(cipher)))
    }

    fn blob_of_kind(&mut self, id: &BlobId, kind: BlobKind) -> Result<Bytes, RepositoryError> {
        let address = *self.by_id.get(id).ok_or(RepositoryError::BlobMissing(*id))?;
        if self.place(&address)?.line.kind != kind {
            return Err(
                self.damaged_blob(id, Malformed::new("blob", "it is of another kind than it should be"))
            );
        }
        self.blob(id)
    }

    pub(crate) fn damaged_blob(&self, id: &BlobId, why: Malformed) -> RepositoryError {
        tracing::warn!(blob = %id, error = %why, "a blob opens and does not make sense");
        let place = self.by_id.get(id).and_then(|address| self.index.place(address));
        place.map_or(RepositoryError::BlobMissing(*id), |place| RepositoryError::BlobDamaged {
            id: *id,
            pack: place.pack,
        })
    }
}

/// A sealed blob did not turn out to be what its table says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] crate::pack::seal::SealBroken),
    /// It opens and does not decompress.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It decompresses to something else.
    #[error("its content is not what its id says")]
    WrongId,
}

/// How it is proven that a blob's plaintext is the right one. That it is what was sealed under its id is proven in any
/// case: the id is part of what the seal holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// Its id is recomputed.
    ById,
    /// Of data, whoever takes it recomputes the id of the whole content that it is a piece of; of all else, its id is.
    ByContent,
}

/// Opens, decompresses and proves a sealed blob: the one way back from sealed bytes to plaintext.
pub fn open_blob(
    context: &SegmentContext,
    cipher: &BlobCipher,
    ordinal: u32,
    line: &BlobLine,
    sealed: Vec<u8>,
    id_key: &IdKey,
    proven: Proven,
) -> Result<Vec<u8>, OpenError> {
    let stored = context.open(cipher, ordinal, line, sealed)?;
    let plain = decompress(line.codec, stored, line.plain_length)?;
    let is_left_to_content = proven == Proven::ByContent && line.kind == BlobKind::Data;
    if !is_left_to_content && blob_id(id_key, line.kind, &plain) != line.id {
        return Err(OpenError::WrongId);
    }
    Ok(plain)
}

/// The entries of an archive, in order, a page at a time.
pub struct Entries<'a> {
    reader: &'a mut ArchiveReader,
    table: PageTable,
    next_page: usize,
    page: std::vec::IntoIter<Entry>,
    from: EntryPath,
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<Option<Entry>, RepositoryError> {
        loop {
            if let Some(entry) = self.page.by_ref().find(|entry| entry.path >= self.from) {
                return Ok(Some(entry));
            }
            let Some(line) = self.table.pages.get(self.next_page) else { return Ok(None) };
            self.next_page += 1;
            let entries = self.reader.page(&line.id)?;
            let fits = entries.first().is_some_and(|entry| entry.path == line.first)
                && entries.len() as u64 == line.entries;
            if !fits {
                return Err(self
                    .reader
                    .damaged_blob(&line.id, Malformed::new("page", "it is not what its table says")));
            }
            self.page = entries.into_iter();
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            // An error ends the iteration: what follows a gap is not the archive.
            self.next_page = self.table.pages.len();
        }
        result.transpose()
    }
}

/// Blobs that were opened last, within a limit of bytes: bundles are asked for once for each small file.
#[derive(Default)]
struct Recent {
    blobs: std::collections::VecDeque<(BlobId, Bytes)>,
    bytes: usize,
}

impl Recent {
    fn get(&mut self, id: &BlobId) -> Option<Bytes> {
        self.blobs.iter().rev().find(|(known, _)| known == id).map(|(_, plain)| plain.clone())
    }

    fn put(&mut self, id: BlobId, plain: Bytes) {
        self.bytes += plain.len();
        self.blobs.push_back((id, plain));
        while self.bytes > CACHE {
            let Some((_, oldest)) = self.blobs.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

/// What kind of entry this is, in one word for people and JSON.
pub fn kind_word(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Folder => "folder",
        EntryKind::File(_) => "file",
        EntryKind::Symlink { .. } => "symlink",
        EntryKind::HardLink { .. } => "hardlink",
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::Device { .. } => "device",
    }
}

/// The storage is there and does not give it.
fn is_unreadable(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::Store(StoreError::Failed { .. }))
}
