//! A small agent and controller in one: makes archives from a map of paths to contents.
#![allow(unreachable_pub, dead_code)] // each test program compiles this module and uses its part

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use repository::archive::entry::{Entry, EntryKind, FileContent, Layout, Metadata, Piece, Pieces};
use repository::archive::page::{PageBuilder, PageLine, PageTable};
use repository::archive::path::EntryPath;
use repository::backup::commit::{ArchiveDraft, BackupDraft, CommitStep, Guard};
use repository::backup::manifest::{ArchiveManifest, BackupRecord, Consistency, Counts, FORMAT, Outcome};
use repository::check::Checks;
use repository::content::ContentHasher;
use repository::error::RepositoryError;
use repository::ids::BlobId;
use repository::ingest::{PackVerdict, Receive};
use repository::keys::{DomainKeys, KeyRing, SlotSecret};
use repository::names::{BackupName, SourceId};
use repository::pack::blob::{BlobKind, Class, Codec, blob_id};
use repository::pack::segment::{SealedSegment, SegmentBuilder};
use repository::progress::{CancelFlag, Silent};
use repository::read::ArchiveReader;
use repository::refs::{BlobAddress, Refs};
use repository::repo::Repository;
use repository::store::Store;
use repository::store::lease::LeaseError;
use repository::verify::{Depth, Verification};
use zeroize::Zeroizing;

pub type Files = BTreeMap<&'static str, Vec<u8>>;

pub fn secret() -> SlotSecret {
    SlotSecret::KeyFile(Zeroizing::new(vec![42; 32]))
}

pub fn source() -> SourceId {
    "models/models".parse().expect("valid")
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_229_200 + second).expect("in range")
}

pub fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub struct Archive {
    pub segments: Vec<SealedSegment>,
    pub draft: ArchiveDraft,
}

/// Seals every file into a blob of its own; each segment holds at most `per_segment` blobs.
pub fn archive(repository: &Repository, keys: &DomainKeys, files: &Files, per_segment: usize) -> Archive {
    archive_by(Sealer::new(repository, keys, per_segment), files)
}

/// The same, but of what the repository holds already nothing is sealed again.
pub fn archive_reusing(
    repository: &Repository,
    keys: &DomainKeys,
    files: &Files,
    per_segment: usize,
) -> Result<Archive, RepositoryError> {
    let mut sealer = Sealer::new(repository, keys, per_segment);
    for table in repository.blob_tables(&keys.domain)? {
        let blobs = table.blobs.len() as u32;
        for (ordinal, line) in table.blobs.iter().enumerate().filter(|(_, line)| !line.absent) {
            let address = BlobAddress { segment: table.segment, ordinal: ordinal as u32 };
            sealer.there.insert(line.id, (address, blobs));
        }
    }
    Ok(archive_by(sealer, files))
}

/// The same in pieces of at most `piece` bytes, by whoever seals each lie under the id of its truth, of which all
/// else tells.
pub fn archive_with_lies(
    repository: &Repository,
    keys: &DomainKeys,
    files: &Files,
    piece: usize,
    lies: &[(&[u8], &[u8])],
) -> Archive {
    let mut sealer = Sealer::new(repository, keys, 4);
    sealer.piece = piece;
    sealer.lies = lies.iter().map(|(truth, lie)| (truth.to_vec(), lie.to_vec())).collect();
    archive_by(sealer, files)
}

fn archive_by(mut sealer: Sealer<'_>, files: &Files) -> Archive {
    let keys = sealer.keys;
    let mut pages = PageBuilder::new(&keys.id_key);
    let mut table = PageTable::default();
    let root = Entry { path: EntryPath::root(), metadata: Metadata::default(), kind: EntryKind::Folder };
    let mut finished: Vec<_> = pages.add(&root).into_iter().collect();
    for (path, bytes) in files {
        let whole = [&bytes[..]];
        let cut = if bytes.is_empty() { whole.to_vec() } else { bytes.chunks(sealer.piece).collect() };
        let piece = |plain: &&[u8]| {
            let blob = sealer.add(BlobKind::Data, plain);
            Piece { blob, offset: 0, length: plain.len() as u32 }
        };
        let pieces = Pieces::Inline(cut.iter().map(piece).collect());
        let mut hasher = ContentHasher::new(&keys.id_key);
        hasher.data(bytes);
        let size = bytes.len() as u64;
        hasher.extent_ends(repository::archive::entry::Extent { offset: 0, length: size });
        let content = FileContent { size, id: hasher.finish(size), layout: Layout::Dense, pieces };
        let path = EntryPath::new(path.as_bytes()).expect("valid");
        finished.extend(pages.add(&Entry {
            path,
            metadata: Metadata::default(),
            kind: EntryKind::File(content),
        }));
    }
    finished.extend(pages.finish());
    for page in finished {
        let id = sealer.add(BlobKind::Page, &page.bytes);
        table.pages.push(PageLine { first: page.first, id, entries: page.entries });
    }
    let root = sealer.add(BlobKind::PageTable, &table.encode());
    let counts = Counts {
        files: files.len() as u64,
        folders: 1,
        bytes: files.values().map(|bytes| bytes.len() as u64).sum(),
        ..Counts::default()
    };
    drafted(sealer, root, counts)
}

/// An archive whose page table is `root`, whatever it holds.
pub fn drafted(sealer: Sealer<'_>, root: BlobId, counts: Counts) -> Archive {
    let domain = sealer.keys.domain;
    let (segments, refs) = sealer.finish();
    let manifest = ArchiveManifest {
        format: FORMAT,
        source: source(),
        kind: "files".to_owned(),
        outcome: Outcome::Complete,
        reason: None,
        consistency: Some(Consistency::Fuzzy),
        quiesce: None,
        remarks: Vec::new(),
        signed: None,
        signer: None,
        domain,
        root: Some(root),
        problems: None,
        agent: None,
        started_at: at(0),
        ended_at: at(1),
        counts,
        segments: 0,
        blobs: 0,
    };
    Archive { segments, draft: ArchiveDraft { manifest, refs: Some(refs) } }
}

/// Seals blobs into segments.
pub struct Sealer<'a> {
    repository: &'a Repository,
    keys: &'a DomainKeys,
    per_segment: usize,
    open: Vec<(Class, SegmentBuilder, usize)>,
    done: Vec<SealedSegment>,
    refs: Vec<BlobAddress>,
    /// What is not sealed again, with the number of blobs in its segment.
    there: HashMap<BlobId, (BlobAddress, u32)>,
    reused: Vec<(BlobAddress, u32)>,
    /// A file is cut into pieces of so many bytes.
    piece: usize,
    /// Bytes, and what is sealed in their place.
    lies: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Sealer<'a> {
    pub fn new(repository: &'a Repository, keys: &'a DomainKeys, per_segment: usize) -> Self {
        let (there, reused) = (HashMap::new(), Vec::new());
        Self {
            repository,
            keys,
            per_segment,
            open: Vec::new(),
            done: Vec::new(),
            refs: Vec::new(),
            there,
            reused,
            piece: usize::MAX,
            lies: Vec::new(),
        }
    }

    pub fn add(&mut self, kind: BlobKind, plain: &[u8]) -> BlobId {
        let id = blob_id(&self.keys.id_key, kind, plain);
        if let Some(there) = self.there.get(&id) {
            self.reused.push(*there);
            return id;
        }
        let class = kind.class();
        let at = self.open.iter().position(|(open, _, _)| *open == class).unwrap_or_else(|| {
            let id = self.repository.config().id;
            let builder = SegmentBuilder::new(class, id, self.keys.domain, &self.repository.sealing_key());
            self.open.push((class, builder, 0));
            self.open.len() - 1
        });
        let (_, builder, count) = &mut self.open[at];
        let lie = self.lies.iter().find(|(truth, _)| truth == plain).map(|(_, lie)| &lie[..]);
        let stored = lie.unwrap_or(plain);
        // Of another length it does not open.
        let codec = if stored.len() == plain.len() { Codec::Raw } else { Codec::Zstd };
        let ordinal = builder.add(id, kind, codec, plain.len() as u32, stored);
        self.refs.push(BlobAddress { segment: builder.id(), ordinal });
        *count += 1;
        if *count == self.per_segment {
            self.done.push(self.open.remove(at).1.finish());
        }
        id
    }

    fn finish(mut self) -> (Vec<SealedSegment>, Refs) {
        self.done.extend(self.open.into_iter().map(|(_, builder, _)| builder.finish()));
        let mut refs = Refs::new(self.keys.domain);
        for address in self.refs {
            let of = self.done.iter().find(|segment| segment.id() == address.segment).expect("sealed");
            refs.add(address, of.table.header.blobs);
        }
        self.reused.into_iter().for_each(|(address, blobs)| refs.add(address, blobs));
        (self.done, refs)
    }
}

/// Sends segments as an agent would, in pieces that do not fit the header's length.
pub fn send(
    repository: &Repository,
    keys: &DomainKeys,
    segments: &[SealedSegment],
) -> Result<(), RepositoryError> {
    for segment in segments {
        match repository.receive(&keys.domain, segment.id(), segment.length())? {
            Receive::Existed => {}
            Receive::New(mut receiver) => {
                for bytes in segment.head.chunks(100).chain(segment.body.chunks(60_000)) {
                    receiver.write(bytes)?;
                }
                receiver.finish()?;
            }
        }
    }
    Ok(())
}

pub fn draft(name: BackupName, job: &str, archive: ArchiveDraft) -> BackupDraft {
    BackupDraft {
        name,
        job: job.to_owned(),
        started_at: at(0),
        ended_at: at(1),
        pin: None,
        archives: vec![archive],
        catalog: None,
    }
}

/// A whole backup of `files`, committed by `job` at second `second`.
pub fn back_up(
    repository: &Repository,
    keys: &KeyRing,
    files: &Files,
    job: &str,
    second: i64,
) -> Result<BackupRecord, RepositoryError> {
    let name = repository.reserve_name(at(second), &Default::default())?;
    back_up_as(repository, keys, files, job, name)
}

/// The same under a name that was reserved before.
pub fn back_up_as(
    repository: &Repository,
    keys: &KeyRing,
    files: &Files,
    job: &str,
    name: BackupName,
) -> Result<BackupRecord, RepositoryError> {
    let domain = keys.domain_keys(&source());
    let archive = archive(repository, &domain, files, 4);
    send(repository, &domain, &archive.segments)?;
    let now = name.time();
    repository.commit(&draft(name, job, archive.draft), keys, now, &Unfenced)
}

/// The only writer.
pub struct Unfenced;

impl Guard for Unfenced {
    fn may_write(&self) -> Result<(), LeaseError> {
        Ok(())
    }

    fn done(&self, _step: CommitStep) {}
}

/// What a verification finds.
pub fn findings(
    repository: &Arc<Repository>,
    keys: Option<&KeyRing>,
    record: &BackupRecord,
    depth: Depth,
) -> Vec<String> {
    try_findings(repository, keys, record, depth).expect("damage is a finding, not an error")
}

/// The same where the verification itself may fail.
pub fn try_findings(
    repository: &Arc<Repository>,
    keys: Option<&KeyRing>,
    record: &BackupRecord,
    depth: Depth,
) -> Result<Vec<String>, RepositoryError> {
    let check = Verification {
        repository,
        keys,
        depth,
        checks: Checks::NONE,
        progress: &Silent,
        cancel: &CancelFlag::new(),
    };
    let report = check.run(record, |_| true)?;
    Ok(report.archives.into_iter().flat_map(|archive| archive.findings).collect())
}

/// What a verification says of each pack of a backup.
pub fn verdicts(
    repository: &Arc<Repository>,
    record: &BackupRecord,
) -> Result<Vec<PackVerdict>, RepositoryError> {
    let (keys, depth) = (None, Depth::Hashed);
    let check = Verification {
        repository,
        keys,
        depth,
        checks: Checks::NONE,
        progress: &Silent,
        cancel: &CancelFlag::new(),
    };
    let report = check.run(record, |_| true)?;
    Ok(report.archives.into_iter().flat_map(|archive| archive.packs).collect())
}

/// A folder for what need not outlast the test: in memory, where the machine has a place for that.
pub fn scratch() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// Numbers that a seed picks.
pub struct Dice(blake3::OutputReader);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    /// From 0 to one less than `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % end as u64) as usize
    }
}

/// Everything that comes back out of a backup.
pub fn read_back(
    repository: &Arc<Repository>,
    keys: &KeyRing,
    record: &BackupRecord,
) -> Result<Vec<(String, Vec<u8>)>, RepositoryError> {
    let mut reader = ArchiveReader::open(repository, keys, record, &source())?;
    let entries = reader.entries()?.collect::<Result<Vec<_>, _>>()?;
    let mut files = Vec::new();
    for entry in entries {
        let EntryKind::File(content) = &entry.kind else { continue };
        let mut bytes = Vec::new();
        for piece in reader.pieces(&content.pieces)? {
            bytes.extend_from_slice(&reader.piece(&piece)?);
        }
        files.push((entry.path.to_string(), bytes));
    }
    Ok(files)
}

pub fn assert_holds(repository: &Arc<Repository>, keys: &KeyRing, record: &BackupRecord, files: &Files) {
    let expected: Vec<_> = files.iter().map(|(path, bytes)| (path.to_string(), bytes.clone())).collect();
    assert_eq!(read_back(repository, keys, record).expect("readable"), expected);
}

pub fn init(store: impl Store + 'static) -> (Arc<Repository>, KeyRing) {
    let made = Repository::init(Arc::new(store), &secret(), at(0)).expect("a fresh repository");
    (Arc::new(made.repository), made.keys)
}
