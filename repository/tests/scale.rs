//! Very many backups in one repository: what one costs must not depend on how many there are.
//!
//! In the gate some hundred backups, whose calls to the store are counted: those of the last are those of an
//! early one. `NEURASHIELD_BACKUPS=10000` is the real thing, as the suite `scale` runs it: times too, in a
//! folder of `TMPDIR`, and what the repository weighs. docs/scale.md says what the figures were.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use repository::archive::entry::{Entry, EntryKind, Extent, FileContent, Layout, Metadata, Piece, Pieces};
use repository::archive::page::{PageBuilder, PageLine, PageTable};
use repository::archive::path::EntryPath;
use repository::backup::commit::{ArchiveDraft, BackupDraft};
use repository::backup::manifest::{ArchiveManifest, BackupRecord, Consistency, Counts, FORMAT, Outcome};
use repository::content::ContentHasher;
use repository::ids::BlobId;
use repository::keys::{DomainKeys, KeyRing};
use repository::names::SourceId;
use repository::pack::blob::{BlobKind, Class, Codec, blob_id};
use repository::pack::segment::{SealedSegment, SegmentBuilder};
use repository::progress::{CancelFlag, Silent};
use repository::refs::{BlobAddress, Refs};
use repository::repo::Repository;
use repository::store::Store;
use repository::store::faulty::FaultyStore;
use repository::store::local::LocalStore;
use repository::store::memory::MemoryStore;
use repository::verify::{Depth, Verification};
use support::*;

const COMPONENTS: [&str; 5] = ["blockchain", "configs", "database", "ipfs", "models"];
const FILES: usize = 40;
const CHANGED: usize = 3;
/// Backups of an hour each, so that a year of them fits into names and retention.
const APART: i64 = 3_600;
/// How much more the last backup may cost than the hundredth.
const GROWTH: f64 = 1.2;
/// How many backups around the one that is named a figure is the median of.
const AROUND: usize = 41;

/// One source as it is now, and where its contents lie in the repository.
struct Source {
    id: SourceId,
    keys: DomainKeys,
    files: Vec<(Entry, BlobAddress, u32)>,
}

/// All sources and the repository that they go into.
struct Scene {
    repository: Arc<Repository>,
    keys: KeyRing,
    sources: Vec<Source>,
    made: usize,
}

impl Scene {
    fn new(store: impl Store + 'static) -> Self {
        let (repository, keys) = init(store);
        let source = |component: &&str| {
            let id: SourceId = format!("{component}/main").parse().expect("valid");
            Source { keys: keys.domain_keys(&id), id, files: Vec::new() }
        };
        let sources = COMPONENTS.iter().map(source).collect();
        Self { repository, keys, sources, made: 0 }
    }

    /// What agents and controller do for one backup, one after the other.
    fn back_up(&mut self) -> BackupRecord {
        self.made += 1;
        let now = at(self.made as i64 * APART);
        let name = self.repository.reserve_name(now, &Default::default()).expect("a name");
        let mut archives = Vec::new();
        for source in &mut self.sources {
            let known = self.repository.blob_tables(&source.keys.domain).expect("listed");
            assert!(self.made == 1 || !known.is_empty());
            let (segments, archive) = source.next_archive(&self.repository, self.made, now);
            send(&self.repository, &source.keys, &segments).expect("taken in");
            let refs = archive.refs.as_ref().expect("it has data");
            assert_eq!(self.repository.resolve(&source.keys.domain, refs).expect("resolved"), []);
            archives.push(archive);
        }
        let job = format!("job-{}", self.made);
        let draft = BackupDraft { name, job, started_at: now, ended_at: now, pin: None, archives };
        let record = self.repository.commit(&draft, &self.keys, now, &Unfenced).expect("committed");
        assert_eq!(record.sequence, self.made as u64);
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
            let plain = noise(&format!("{}{nth}{at}", self.id), 600);
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
            domain: self.keys.domain,
            root: Some(root),
            problems: None,
            agent: None,
            started_at: now,
            ended_at: now,
            counts: Counts { files: FILES as u64, folders: 1, ..Counts::default() },
            segments: 0,
            blobs: 0,
        }
    }
}

/// The calls since the last time, by operation.
fn counted(store: &FaultyStore<impl Store>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call in store.take_calls() {
        *counts.entry(format!("{:?}", call.operation)).or_default() += 1;
    }
    counts
}

fn wanted() -> Option<usize> {
    std::env::var("NEURASHIELD_BACKUPS")
        .ok()
        .map(|text| text.parse().expect("NEURASHIELD_BACKUPS is a number"))
}

/// CPU time of this thread; everything runs on it.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let nanos = text.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}

/// What a backup cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    calls: usize,
}

/// Files and bytes below a folder.
fn weight(folder: &Path) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).expect("listed") {
        let entry = entry.expect("read");
        if entry.file_type().expect("known").is_dir() {
            let (more_files, more_bytes) = weight(&entry.path());
            (files, bytes) = (files + more_files, bytes + more_bytes);
        } else {
            (files, bytes) = (files + 1, bytes + entry.metadata().expect("known").len());
        }
    }
    (files, bytes)
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let (began, before) = (Instant::now(), cpu());
    let done = act();
    println!("{what}: {:.1} ms, CPU {:.1} ms", ms(began.elapsed()), ms(cpu() - before));
    done
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[test]
fn a_late_backup_makes_the_calls_that_an_early_one_makes() {
    let store = FaultyStore::new(MemoryStore::new());
    let mut scene = Scene::new(store.clone());
    let mut calls = Vec::new();
    for _ in 0..240 {
        store.take_calls();
        scene.back_up();
        calls.push(counted(&store));
    }
    let sum = |from: usize| calls[from..from + 64].iter().map(|of_one| of_one.values().sum::<usize>()).sum();
    let (early, late): (usize, usize) = (sum(40), sum(176));
    // Index files are merged at times, so that a few calls more or less are no growth.
    assert!(
        late * 100 <= early * 104,
        "64 backups: {early} calls early, {late} late; the last: {:?}",
        calls[239]
    );
    assert_eq!(calls[239].get("List"), calls[39].get("List"), "nothing is listed that grows");
    let most = calls.iter().map(|of_one| of_one.values().sum::<usize>()).max().unwrap_or(0);
    assert!(most < 500, "a backup with merges in it made {most} calls");
    let newest = &scene.repository.list().expect("listed").backups[0];
    let opened = findings(&scene.repository, Some(&scene.keys), newest, Depth::Opened);
    assert_eq!(opened, Vec::<String>::new());
    let restarted = Repository::open(scene.repository.store().clone()).expect("opens");
    assert_eq!(restarted.find_unindexed().expect("searched"), 0, "the merged index names every pack");
    for source in &scene.sources {
        let files = store.list(Some(&repository::layout::index(&source.keys.domain))).expect("listed");
        assert!(files.len() < 28, "{} index files", files.len());
    }
}

#[test]
fn the_ten_thousandth_backup_costs_what_the_hundredth_does() {
    let Some(wanted) = wanted() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let store = FaultyStore::new(LocalStore::open_or_make(folder.path()).expect("a store"));
    let mut scene = Scene::new(store.clone());
    let mut costs = Vec::with_capacity(wanted);
    for _ in 0..wanted + AROUND / 2 {
        store.take_calls();
        let (began, before) = (Instant::now(), cpu());
        scene.back_up();
        costs.push(Cost { wall: began.elapsed(), cpu: cpu() - before, calls: store.take_calls().len() });
    }
    let around = |nth: usize, of: fn(&Cost) -> f64| {
        let about = &costs[nth - AROUND / 2..(nth + AROUND / 2).min(costs.len())];
        let mut values: Vec<f64> = about.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("backup: wall ms, CPU ms, calls (median of {AROUND}); mean CPU ms of the hundred before it");
    for nth in [100, 1_000, 3_000, 10_000, 30_000].into_iter().filter(|nth| *nth <= wanted) {
        let mean = costs[nth - 100..nth].iter().map(|cost| ms(cost.cpu)).sum::<f64>() / 100.0;
        println!(
            "{nth}: {:.1}, {:.1}, {}; {mean:.1}",
            around(nth, |cost| ms(cost.wall)),
            around(nth, |cost| ms(cost.cpu)),
            around(nth, |cost| cost.calls as f64)
        );
    }
    let worst = costs.iter().map(|cost| cost.calls).max().unwrap_or(0);
    println!("most calls of one backup: {worst}");
    let (files, bytes) = weight(folder.path());
    println!(
        "each backup takes {} files and {} bytes",
        files / costs.len() as u64,
        bytes / costs.len() as u64
    );

    let opened = Arc::new(timed("open", || Repository::open(Arc::new(store.clone())).expect("opens")));
    timed("start: find what no index names", || opened.find_unindexed().expect("searched"));
    timed("start: complete the chain", || opened.complete_chain(&scene.keys, at(0)).expect("completed"));
    store.take_calls();
    let listing = timed("list, every description proven", || opened.list().expect("listed"));
    println!("calls to list: {:?}", counted(&store));
    assert_eq!(listing.backups.len(), costs.len());
    let check = Verification {
        repository: &opened,
        keys: None,
        depth: Depth::Listed,
        progress: &Silent,
        cancel: &CancelFlag::new(),
    };
    let report =
        timed("verify the newest, listed", || check.run(&listing.backups[0], |_| true).expect("done"));
    println!("calls to verify: {:?}", counted(&store));
    assert!(report.is_intact());

    for (what, of) in [("CPU", (|cost| ms(cost.cpu)) as fn(&Cost) -> f64), ("wall", |cost| ms(cost.wall))] {
        let (early, late) = (around(100, of), around(wanted, of));
        println!("{what} of the last one: {:.2} × that of the hundredth", late / early);
        assert!(late <= early * GROWTH, "{what}: {late:.1} ms after {early:.1} ms");
    }
}
