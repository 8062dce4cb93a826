//! Makes very many small backups without agents: several sources, of which some files change each time.
#![allow(unreachable_pub, dead_code)] // each test program compiles this module and uses its part

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use repository::archive::entry::{Entry, EntryKind, Extent, FileContent, Layout, Metadata, Piece, Pieces};
use repository::archive::page::{PageBuilder, PageLine, PageTable};
use repository::archive::path::EntryPath;
use repository::backup::commit::{ArchiveDraft, BackupDraft, CommitStep, Guard};
use repository::backup::manifest::{ArchiveManifest, BackupRecord, Consistency, Counts, FORMAT, Outcome};
use repository::content::ContentHasher;
use repository::ids::BlobId;
use repository::ingest::Receive;
use repository::keys::{DomainKeys, KeyRing};
use repository::listed::ListMark;
use repository::names::SourceId;
use repository::pack::blob::{BlobKind, Class, Codec, blob_id};
use repository::pack::segment::{SealedSegment, SegmentBuilder};
use repository::refs::{BlobAddress, Refs};
use repository::repo::Repository;
use repository::store::lease::LeaseError;
use repository::work::{WorkId, WorkKind};

/// Files of a source, and how many of them change from one backup to the next.
pub const FILES: usize = 40;
pub const CHANGED: usize = 3;
/// Bytes of a file.
const FILE: usize = 600;
/// Seconds between two backups.
const APART: i64 = 3_600;

/// One source as it is now, and where its contents lie in the repository.
pub struct Source {
    id: SourceId,
    pub keys: DomainKeys,
    files: Vec<(Entry, BlobAddress, u32)>,
    listed: Option<ListMark>,
}

/// All sources and the repository that they go into.
pub struct Many {
    pub repository: Arc<Repository>,
    pub keys: KeyRing,
    pub sources: Vec<Source>,
    first: Timestamp,
    made: usize,
}

impl Many {
    /// Backups of these sources, an hour between two of them, the first at `first`.
    pub fn new(repository: Arc<Repository>, keys: KeyRing, sources: &[&str], first: Timestamp) -> Self {
        let source = |id: &&str| {
            let id: SourceId = id.parse().expect("valid");
            Source { keys: keys.domain_keys(&id), id, files: Vec::new(), listed: None }
        };
        let sources = sources.iter().map(source).collect();
        Self { repository, keys, sources, first, made: 0 }
    }

    /// What agents and controller do for one backup, one after the other.
    pub fn back_up(&mut self) -> BackupRecord {
        self.made += 1;
        let now = self.first + SignedDuration::from_secs(self.made as i64 * APART);
        let name = self.repository.reserve_name(now, &Default::default()).expect("a name");
        let job = format!("job-{}", self.made);
        let id: WorkId = job.parse().expect("valid");
        let work = self.repository.begin_work(&id, WorkKind::Backup, &[], now).expect("begun");
        let mut archives = Vec::new();
        for source in &mut self.sources {
            let listed = self.repository.blob_tables_for(&id, &source.keys.domain, source.listed.as_ref());
            let listed = listed.expect("listed");
            if self.made > 2 {
                // What the last backup has brought, and nothing else.
                assert_eq!((listed.goes_on, listed.tables.len()), (true, 2));
            }
            source.listed = Some(listed.mark);
            let (segments, archive) = source.next_archive(&self.repository, self.made, now);
            segments.iter().for_each(|segment| source.send(&self.repository, segment));
            let refs = archive.refs.as_ref().expect("it has data");
            assert_eq!(self.repository.resolve_for(&id, &source.keys.domain, refs).expect("resolved"), []);
            archives.push(archive);
        }
        let draft =
            BackupDraft { name, job, started_at: now, ended_at: now, pin: None, archives, catalog: None };
        let record = self.repository.commit(&draft, &self.keys, now, &Unwatched).expect("committed");
        work.end();
        record
    }
}

impl Source {
    /// Changes some files and makes the archive that an agent would: new contents in a segment of data, the
    /// page and the page table in one of metadata, all else by the places it has.
    fn next_archive(
        &mut self,
        repository: &Repository,
        nth: usize,
        now: Timestamp,
    ) -> (Vec<SealedSegment>, ArchiveDraft) {
        let (first, changed) = if self.files.is_empty() { (0, FILES) } else { (nth * CHANGED, CHANGED) };
        let builder = |class| {
            SegmentBuilder::new(class, repository.config().id, self.keys.domain, &repository.sealing_key())
        };
        let mut data = builder(Class::Data);
        for at in (first..first + changed).map(|at| at % FILES) {
            let plain = noise(&format!("{} {nth} {at}", self.id));
            let id = blob_id(&self.keys.id_key, BlobKind::Data, &plain);
            let ordinal = data.add(id, BlobKind::Data, Codec::Raw, plain.len() as u32, &plain);
            let address = BlobAddress { segment: data.id(), ordinal };
            let entry = (self.entry(at, id, &plain), address, changed as u32);
            match self.files.get_mut(at) {
                Some(file) => *file = entry,
                None => self.files.push(entry),
            }
        }
        let mut metadata = builder(Class::Metadata);
        let mut add = |kind, plain: &[u8]| {
            let id = blob_id(&self.keys.id_key, kind, plain);
            metadata.add(id, kind, Codec::Raw, plain.len() as u32, plain);
            id
        };
        let mut pages = PageBuilder::new(&self.keys.id_key);
        let root = Entry { path: EntryPath::root(), metadata: Metadata::default(), kind: EntryKind::Folder };
        let entries = std::iter::once(&root).chain(self.files.iter().map(|(entry, ..)| entry));
        let mut finished: Vec<_> = entries.filter_map(|entry| pages.add(entry)).collect();
        finished.extend(pages.finish());
        let mut table = PageTable::default();
        for page in finished {
            let id = add(BlobKind::Page, &page.bytes);
            table.pages.push(PageLine { first: page.first, id, entries: page.entries });
        }
        let blobs = table.pages.len() as u32 + 1;
        let root = add(BlobKind::PageTable, &table.encode());
        let mut refs = Refs::new(self.keys.domain);
        self.files.iter().for_each(|(_, address, blobs)| refs.add(*address, *blobs));
        (0..blobs).for_each(|ordinal| refs.add(BlobAddress { segment: metadata.id(), ordinal }, blobs));
        let manifest = self.manifest(root, now);
        (vec![data.finish(), metadata.finish()], ArchiveDraft { manifest, refs: Some(refs) })
    }

    fn entry(&self, at: usize, blob: BlobId, plain: &[u8]) -> Entry {
        let mut hasher = ContentHasher::new(&self.keys.id_key);
        hasher.data(plain);
        let size = plain.len() as u64;
        hasher.extent_ends(Extent { offset: 0, length: size });
        let pieces = Pieces::Inline(vec![Piece { blob, offset: 0, length: size as u32 }]);
        let content = FileContent { size, id: hasher.finish(size), layout: Layout::Dense, pieces };
        let path = EntryPath::new(format!("file-{at:02}").as_bytes()).expect("valid");
        Entry { path, metadata: Metadata::default(), kind: EntryKind::File(content) }
    }

    fn manifest(&self, root: BlobId, now: Timestamp) -> ArchiveManifest {
        ArchiveManifest {
            format: FORMAT,
            source: self.id.clone(),
            kind: "files".to_owned(),
            outcome: Outcome::Complete,
            reason: None,
            consistency: Some(Consistency::Fuzzy),
            quiesce: None,
            remarks: Vec::new(),
            signed: None,
            signer: None,
            domain: self.keys.domain,
            root: Some(root),
            problems: None,
            agent: None,
            started_at: now,
            ended_at: now,
            counts: Counts {
                files: FILES as u64,
                folders: 1,
                bytes: FILES as u64 * FILE as u64,
                ..Counts::default()
            },
            segments: 0,
            blobs: 0,
        }
    }

    fn send(&self, repository: &Repository, segment: &SealedSegment) {
        let receiving = repository.receive(&self.keys.domain, segment.id(), segment.length());
        let Receive::New(mut receiver) = receiving.expect("wanted") else { panic!("it is new") };
        receiver.write(&segment.head).and_then(|()| receiver.write(&segment.body)).expect("written");
        receiver.finish().expect("taken in");
    }
}

fn noise(seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; FILE];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

struct Unwatched;

impl Guard for Unwatched {
    fn may_write(&self) -> Result<(), LeaseError> {
        Ok(())
    }

    fn done(&self, _step: CommitStep) {}
}
