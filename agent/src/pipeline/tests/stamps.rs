//! Files whose `stat` does not tell the truth, night after night over the real pipeline: what a backup holds
//! is what was there when it was made, or was told to be in doubt.

use std::sync::{Arc, Mutex};

use repository::archive::entry::{EntryKind, Layout, Metadata, Pieces, Timestamp};
use repository::archive::path::EntryPath;
use tokio_util::sync::CancellationToken;

use super::bench::Bench;
use crate::cache::Day;
use crate::cache::rules::RECHECK_DAYS;
use crate::restore::ArchiveEntries;
use crate::sources::{
    Body, Content, Item, Opened, ProblemKind, ReadError, Source, SourceEntry, SourceError, Stamp, StampClock,
};
use crate::targets::BlobReader;

const DAY: i64 = 86_400;
/// When the first night begins.
const FIRST: i64 = 20_000 * DAY + 3_600;

/// A file as the system shows it.
#[derive(Clone)]
struct Shown {
    bytes: Vec<u8>,
    stamp: Stamp,
    clock: StampClock,
}

/// A file, and the nights on which it is backed up.
struct Scene {
    bench: Bench,
    file: Arc<Mutex<Shown>>,
}

/// What one night gave.
struct Night {
    /// What the archive holds.
    bytes: Vec<u8>,
    /// Whether somebody was told that the file changed.
    told: bool,
    was_read: bool,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanoseconds: 0 }
}

impl Scene {
    /// A file of ten bytes that was written at `written`.
    fn set(written: i64) -> Self {
        let stamp = Stamp { inode: 1, size: 10, mtime: at(written), ctime: at(written) };
        let shown = Shown { bytes: b"version  1".to_vec(), stamp, clock: StampClock::Ours };
        Self { bench: Bench::new(), file: Arc::new(Mutex::new(shown)) }
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.file.lock().expect("nobody panicked"));
    }

    fn bytes(&self) -> Vec<u8> {
        self.file.lock().expect("nobody panicked").bytes.clone()
    }

    /// Backs the file up, `start` seconds after the first night began.
    fn night(&mut self, start: i64) -> Night {
        self.bench.read_start = FIRST + start;
        self.bench.today = Day(u32::try_from((FIRST + start) / DAY).expect("a day"));
        let source = Box::new(OneFile { file: Arc::clone(&self.file), given: false });
        let mut archived = self.bench.archive(source, &CancellationToken::new()).expect("an archive");
        archived.cache.take().expect("a cache").commit().expect("the cache is kept");
        let mut entries =
            ArchiveEntries::open(self.bench.blobs(&archived.refs), &archived.root).expect("an archive");
        let entry = entries.next().expect("a file").expect("readable");
        let EntryKind::File(content) = &entry.kind else { panic!("it is a file") };
        let Pieces::Inline(pieces) = &content.pieces else { panic!("it is small") };
        let mut blobs = self.bench.blobs(&archived.refs);
        let mut bytes = Vec::new();
        for piece in pieces {
            let blob = blobs.blob(&piece.blob).expect("it is there");
            bytes.extend_from_slice(&blob[piece.offset as usize..][..piece.length as usize]);
        }
        let told = archived.problems.kept().iter().any(|problem| problem.kind == ProblemKind::Changed);
        Night { bytes, told, was_read: archived.counts.reused_files == 0 }
    }
}

struct OneFile {
    file: Arc<Mutex<Shown>>,
    given: bool,
}

impl Source for OneFile {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let shown = self.file.lock().expect("nobody panicked").clone();
        let content = Box::new(Reading { file: Arc::clone(&self.file), at: 0 });
        let path = EntryPath::new(b"file").expect("valid");
        let body = Body::File { stamp: shown.stamp, clock: shown.clock, content };
        Ok(Some(Item::Entry(SourceEntry { path, metadata: Metadata::default(), body })))
    }
}

struct Reading {
    file: Arc<Mutex<Shown>>,
    at: usize,
}

impl Content for Reading {
    fn open(&mut self) -> Result<Opened, ReadError> {
        self.at = 0;
        Ok(Opened {
            stamp: self.file.lock().expect("nobody panicked").stamp,
            layout: Layout::Dense,
            is_stream: false,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let shown = self.file.lock().expect("nobody panicked");
        let rest = &shown.bytes[self.at.min(shown.bytes.len())..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        drop(shown);
        self.at += count;
        Ok(count)
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        Ok(self.file.lock().expect("nobody panicked").stamp)
    }
}

#[test]
fn a_file_that_nobody_touches_is_read_once_and_then_on_its_day() {
    let mut scene = Scene::set(FIRST - 3_600);
    let read = (0..=i64::from(RECHECK_DAYS)).filter(|night| scene.night(night * DAY).was_read).count();
    assert!((2..=3).contains(&read), "the first night, and its day: {read}");
}

#[test]
fn a_change_in_the_same_grain_of_the_clock_is_in_the_next_backup() {
    let mut scene = Scene::set(FIRST);
    scene.night(0);
    scene.change(|file| file.bytes = b"version  2".to_vec());
    let night = scene.night(DAY);
    assert_eq!(night.bytes, b"version  2");
    assert!(!scene.night(2 * DAY).told, "nothing was missed");
}

#[test]
fn a_modification_time_that_was_set_back_hides_nothing() {
    let mut scene = Scene::set(FIRST - 3_600);
    scene.night(0);
    scene.change(|file| {
        file.bytes = b"version  2".to_vec();
        file.stamp.ctime = at(FIRST + 500);
    });
    assert_eq!(scene.night(DAY).bytes, b"version  2");
}

#[test]
fn a_clock_that_jumped_back_makes_files_of_the_future_be_read_each_night() {
    let mut scene = Scene::set(FIRST + 40 * DAY);
    scene.night(0);
    for night in 1..=3 {
        scene.change(|file| file.bytes = format!("version {night:2}").into_bytes());
        assert_eq!(scene.night(night * DAY).bytes, scene.bytes(), "night {night}");
    }
}

#[test]
fn a_servers_clock_that_is_hours_behind_hides_nothing() {
    let mut scene = Scene::set(FIRST - 5 * 3_600);
    scene.change(|file| file.clock = StampClock::Foreign);
    scene.night(0);
    // The server's clock says what it said when the file was read.
    scene.change(|file| file.bytes = b"version  2".to_vec());
    assert_eq!(scene.night(DAY).bytes, b"version  2");
}

#[test]
fn what_changes_behind_its_stamp_is_found_within_thirty_nights_and_told() {
    // Mapped memory leaves the times as they are, and so does a file system whose change time lies.
    for ctime in [FIRST - 3_600, 0] {
        let mut scene = Scene::set(FIRST - 3_600);
        scene.change(|file| file.stamp.ctime = at(ctime));
        scene.night(0);
        scene.change(|file| file.bytes = b"version  2".to_vec());
        let nights: Vec<Night> =
            (1..=i64::from(RECHECK_DAYS)).map(|night| scene.night(night * DAY)).collect();
        let found = nights.iter().position(|night| night.told).expect("it is told within thirty nights");
        assert_eq!(nights.iter().filter(|night| night.told).count(), 1, "once");
        assert!(nights[..found].iter().all(|night| night.bytes == b"version  1"));
        assert!(nights[found..].iter().all(|night| night.bytes == b"version  2"));
    }
}
