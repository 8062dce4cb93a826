//! What the tests work with: a repository's keys, a wire that keeps segments in memory and counts, and
//! sources that count what is read.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proto::{Failure, v1};
use repository::ids::{RepositoryId, SegmentId};
use repository::keys::{DomainKeys, KeyRing, SlotSecret};
use repository::pack::blob::Class;
use repository::pack::segment::SealedSegment;
use repository::refs::{BlobAddress, Refs};
use repository::repo::Repository;
use repository::store::local::LocalStore;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::cache::{CacheOwner, CacheReader, CacheWriter, Day};
use crate::pipeline::{
    self, ArchiveJob, ArchiveProgress, Archived, Caches, Input, KnownBlobs, KnownBlobsBuilder, PipelineError,
    Uplink,
};
use crate::restore::{ArchiveEntries, ArchiveKeys, BlobMapBuilder, RemoteBlobs, Window};
use crate::restore::{BlobStream, Fetched};
use crate::sources::files::{Excludes, FilesSource};
use crate::sources::{Body, Content, Item, Opened, ReadError, Source, SourceEntry, SourceError, Stamp};
use crate::targets::CancelFlag;
use crate::targets::files::{
    Allowance, NoFaults, Place, RestoreRequest, Selection, Tools, plan, restore, survey,
};

/// A moment so late that every file of the test is old enough to be trusted.
const LATER: i64 = 4_000_000_000;

pub(super) struct Bench {
    pub(super) keys: KeyRing,
    pub(super) repository: RepositoryId,
    pub(super) domain: DomainKeys,
    pub(super) wire: Wire,
    pub(super) reads: Arc<Reads>,
    pub(super) today: Day,
    pub(super) read_start: i64,
    pub(super) folder: TempDir,
}

/// Keeps segments and counts.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) segments: Mutex<BTreeMap<SegmentId, SealedSegment>>,
    pub(super) in_flight: AtomicUsize,
    pub(super) most_in_flight: AtomicUsize,
    pub(super) fails: AtomicBool,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub(super) opened: AtomicUsize,
    pub(super) bytes: AtomicUsize,
}

impl Uplink for Wire {
    fn put(&self, segment: &SealedSegment) -> Result<bool, Failure> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let fails = self.fails.load(Ordering::SeqCst);
        let old = self.segments.lock().expect("locks").insert(segment.id(), segment.clone());
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if fails { Err(Failure::invalid("the disk of the test is full")) } else { Ok(old.is_some()) }
    }
}

impl Wire {
    /// What `ListBlobs` would say.
    pub(super) fn known(&self) -> KnownBlobs {
        let mut builder = KnownBlobsBuilder::default();
        for (id, segment) in &*self.segments.lock().expect("locks") {
            let ids: Vec<_> = segment.table.lines.iter().map(|line| line.id).collect();
            let lengths: Vec<_> = segment.table.lines.iter().map(|line| line.plain_length).collect();
            builder.add(*id, &ids, &lengths, &[]).expect("a segment lists itself");
        }
        builder.finish(KnownBlobs::default())
    }

    /// Bytes of all segments of a class.
    pub(super) fn bytes(&self, class: Class) -> u64 {
        let segments = self.segments.lock().expect("locks");
        segments
            .values()
            .filter(|segment| segment.table.header.class == class)
            .map(SealedSegment::length)
            .sum()
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        // In memory where there is such a place: every restore waits for its file system to be durable.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = memory.expect("a temporary folder");
        let store = LocalStore::open_or_make(&folder.path().join("repository")).expect("a store");
        let secret = SlotSecret::KeyFile(zeroize::Zeroizing::new(vec![7; 32]));
        let made =
            Repository::init(Arc::new(store), &secret, jiff::Timestamp::UNIX_EPOCH).expect("a repository");
        std::fs::create_dir(folder.path().join("data")).expect("a folder");
        Self {
            repository: made.repository.config().id,
            domain: made.keys.domain_keys(&"models/models".parse().expect("a source")),
            keys: made.keys,
            wire: Wire::default(),
            reads: Arc::default(),
            today: Day(20_000),
            read_start: LATER,
            folder,
        }
    }

    /// The folder that is backed up.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(super) fn job(&self) -> ArchiveJob {
        ArchiveJob {
            repository: self.repository,
            domain: self.domain.domain,
            id_key: self.domain.id_key.clone(),
            gear_key: self.domain.gear_key.clone(),
            public_key: self.keys.sealing_public()[0],
            room: Arc::default(),
            segment_bytes: 0,
            today: self.today,
            read_start: self.read_start,
            threads: None,
            is_before_restore: false,
        }
    }

    /// Backs up the data folder and keeps the cache.
    pub(super) fn backup(&self) -> Archived {
        self.reads.opened.store(0, Ordering::SeqCst);
        self.reads.bytes.store(0, Ordering::SeqCst);
        let files = FilesSource::folder(&self.data(), Excludes::none()).expect("the folder opens");
        let source = Counted { inner: Box::new(files), reads: self.reads.clone() };
        let mut archived = self.archive(Box::new(source), &CancellationToken::new()).expect("an archive");
        archived.cache.take().expect("a cache").commit().expect("the cache is kept");
        archived
    }

    pub(super) fn archive(
        &self,
        source: Box<dyn Source>,
        cancel: &CancellationToken,
    ) -> Result<Archived, PipelineError> {
        let owner = CacheOwner { repository: self.repository, domain: self.domain.domain };
        let caches = Caches {
            old: CacheReader::open(&self.cache(), &owner),
            new: Some(CacheWriter::begin(&self.cache(), &owner).expect("a cache")),
        };
        let progress = ArchiveProgress::default();
        pipeline::run(
            &self.job(),
            Input { source, check: None },
            caches,
            self.wire.known(),
            &self.wire,
            &progress,
            cancel,
        )
    }

    /// A reader of what `refs` allow to be read, and of nothing else.
    pub(super) fn blobs(&self, refs: &Refs) -> RemoteBlobs<Shelf> {
        let keys = ArchiveKeys {
            repository: self.repository,
            domain: self.domain.domain,
            id_key: self.domain.id_key.clone(),
        };
        let mut map = BlobMapBuilder::new(keys);
        let mut segments = BTreeMap::new();
        for (id, blobs) in refs.segments() {
            let segment = self.wire.segments.lock().expect("locks")[&id].clone();
            assert_eq!(segment.table.lines.len(), blobs as usize, "refs know the size of the table");
            let key = self.keys.segment_key(&segment.table.header).expect("our key");
            let lines = refs.ordinals(&id).map(|ordinal| {
                let line = &segment.table.lines[ordinal as usize];
                v1::BlobLine {
                    ordinal,
                    blob_id: line.id.as_bytes().to_vec().into(),
                    kind: u32::from(line.kind.code()),
                    codec: u32::from(line.codec.code()),
                    plain_length: line.plain_length,
                    stored_length: line.stored_length,
                }
            });
            let opened = v1::OpenedSegment {
                segment_id: id.as_bytes().to_vec().into(),
                key: key.expose().to_vec().into(),
                blobs: lines.collect(),
            };
            map.add(&opened).expect("a sound segment");
            segments.insert(id, segment);
        }
        RemoteBlobs::new(Arc::new(map.finish()), Shelf { segments, asked: VecDeque::new() }, Window::CONTENTS)
    }

    /// Restores the archive to a new folder and compares it with the data folder, byte for byte.
    pub(super) fn assert_comes_back(&self, archived: &Archived) {
        let target = self.folder.path().join(format!("restored-{}", archived.root));
        let entries =
            || ArchiveEntries::open(self.blobs(&archived.refs), &archived.root).expect("a page table");
        let request = RestoreRequest {
            restore_id: "test".into(),
            place: Place::NewFolder { path: target.clone() },
            selection: Selection::Whole,
            keeps_older: false,
            signer_height: None,
            signer_seen: None,
            signer_seen_here: None,
            leaves_keys: false,
            stays: None,
        };
        let (id_key, cancel) = (&self.domain.id_key, CancelFlag::default());
        let tools = Tools { id_key, progress: &(), cancel: &cancel, steps: &NoFaults };
        let allowance = Allowance::all(&plan(&survey(&request, id_key, entries()).expect("a plan")));
        restore(&request, allowance, entries(), &mut self.blobs(&archived.refs), tools).expect("a restore");
        assert_equal(&self.data(), &target);
        std::fs::remove_dir_all(target).expect("removes");
    }
}

/// Sealed blobs straight from the segments.
pub(super) struct Shelf {
    segments: BTreeMap<SegmentId, SealedSegment>,
    asked: VecDeque<BlobAddress>,
}

impl BlobStream for Shelf {
    fn ask(&mut self, address: BlobAddress) -> Result<(), String> {
        self.asked.push_back(address);
        Ok(())
    }

    fn receive(&mut self, expected: BlobAddress) -> Result<Fetched, String> {
        assert_eq!(self.asked.pop_front(), Some(expected));
        let segment = &self.segments[&expected.segment];
        let (offset, length) = segment.table.body_range(expected.ordinal).expect("it is there");
        Ok(Fetched::Sealed(segment.body[offset as usize..][..length as usize].to_vec().into()))
    }
}

fn assert_equal(one: &Path, two: &Path) {
    use std::os::unix::fs::MetadataExt;
    let names = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .expect("lists")
            .map(|entry| entry.expect("lists").file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(two), "in {}", one.display());
    for name in names(one) {
        let (one, two) = (one.join(&name), two.join(&name));
        let stat = [&one, &two].map(|path| path.symlink_metadata().expect("stat"));
        let facts = stat.each_ref().map(|stat| (stat.mode(), stat.nlink(), stat.mtime(), stat.mtime_nsec()));
        assert_eq!(facts[0].0, facts[1].0, "{}", one.display());
        if stat[0].is_dir() {
            assert_equal(&one, &two);
        } else if stat[0].is_symlink() {
            assert_eq!(one.read_link().expect("reads"), two.read_link().expect("reads"));
        } else {
            assert_eq!(facts[0], facts[1], "{}", one.display());
            assert_eq!(stat[0].len(), stat[1].len(), "{}", one.display());
            let same = std::fs::read(&one).expect("reads") == std::fs::read(&two).expect("reads");
            assert!(same, "{} differs", one.display());
        }
    }
}

/// A source that counts what is read of it.
struct Counted {
    inner: Box<dyn Source>,
    reads: Arc<Reads>,
}

impl Source for Counted {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        Ok(self.inner.next()?.map(|item| match item {
            Item::Entry(SourceEntry { path, metadata, body: Body::File { stamp, clock, content } }) => {
                let content = Box::new(CountedContent { inner: content, reads: self.reads.clone() });
                Item::Entry(SourceEntry { path, metadata, body: Body::File { stamp, clock, content } })
            }
            other => other,
        }))
    }
}

struct CountedContent {
    inner: Box<dyn Content>,
    reads: Arc<Reads>,
}

impl Content for CountedContent {
    fn open(&mut self) -> Result<Opened, ReadError> {
        self.reads.opened.fetch_add(1, Ordering::SeqCst);
        self.inner.open()
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let count = self.inner.read(buffer)?;
        self.reads.bytes.fetch_add(count, Ordering::SeqCst);
        Ok(count)
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        self.inner.close()
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
