//! What goes wrong on the way.

use std::fs;
use std::io;
use std::sync::atomic::Ordering;

use repository::archive::entry::{Entry, EntryKind, Layout, Metadata, Timestamp};
use repository::archive::path::EntryPath;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, noise};
use crate::pipeline::{Archived, PipelineError};
use crate::restore::ArchiveEntries;
use crate::sources::files::{Excludes, FilesSource};
use crate::sources::{
    Body, Content, Item, Opened, ProblemKind, ReadError, Source, SourceEntry, SourceError, Stamp, StampClock,
};

/// A file that behaves as it is told to.
#[derive(Clone)]
struct Scripted {
    bytes: Vec<u8>,
    /// Reads fail after so many bytes.
    fails_after: Option<usize>,
    vanishes: bool,
    /// How many closes tell another stamp than the open did.
    changes: u64,
    opened: u64,
    at: usize,
}

impl Scripted {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, fails_after: None, vanishes: false, changes: 0, opened: 0, at: 0 }
    }

    fn stamp(&self, mtime: u64) -> Stamp {
        let mtime = Timestamp { seconds: mtime as i64, nanoseconds: 0 };
        Stamp { inode: 1, size: self.bytes.len() as u64, mtime, ctime: mtime }
    }
}

impl Content for Scripted {
    fn open(&mut self) -> Result<Opened, ReadError> {
        if self.vanishes {
            return Err(ReadError { vanished: true, source: io::ErrorKind::NotFound.into() });
        }
        self.at = 0;
        self.opened += 1;
        Ok(Opened { stamp: self.stamp(2 * self.opened), layout: Layout::Dense, is_stream: false })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        if self.fails_after.is_some_and(|limit| self.at >= limit) {
            return Err(ReadError { vanished: false, source: io::Error::other("the disk has a scratch") });
        }
        let limit = self.fails_after.unwrap_or(usize::MAX);
        let count = buffer.len().min(self.bytes.len() - self.at).min(limit);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        let changed = u64::from(self.opened <= self.changes);
        Ok(self.stamp(2 * self.opened + changed))
    }
}

/// Gives files with these names, in this order, then hard links; then fails if told to.
struct Listed {
    files: std::vec::IntoIter<(&'static str, Scripted)>,
    links: std::vec::IntoIter<(&'static str, &'static str)>,
    fails: bool,
}

impl Listed {
    fn new(files: Vec<(&'static str, Scripted)>) -> Box<Self> {
        Box::new(Self { files: files.into_iter(), links: Vec::new().into_iter(), fails: false })
    }
}

impl Source for Listed {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let path = |name: &str| EntryPath::new(name.as_bytes()).expect("valid");
        let Some((name, content)) = self.files.next() else {
            if let Some((name, to)) = self.links.next() {
                let body = Body::Plain(EntryKind::HardLink { to: path(to) });
                let entry = SourceEntry { path: path(name), metadata: Metadata::default(), body };
                return Ok(Some(Item::Entry(entry)));
            }
            let source = io::Error::other("the disk is gone");
            return if self.fails { Err(SourceError::Read { folder: "x".into(), source }) } else { Ok(None) };
        };
        let body =
            Body::File { stamp: content.stamp(2), clock: StampClock::Ours, content: Box::new(content) };
        Ok(Some(Item::Entry(SourceEntry { path: path(name), metadata: Metadata::default(), body })))
    }
}

fn entries(bench: &Bench, archived: &Archived) -> Vec<Entry> {
    let entries = ArchiveEntries::open(bench.blobs(&archived.refs), &archived.root).expect("a page table");
    entries.collect::<Result<_, _>>().expect("entries")
}

fn names(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.path.to_string()).collect()
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_left_out_and_its_neighbours_are_whole() {
    let bench = Bench::new();
    let good = || Scripted::new(noise(1, 5_000));
    let scratched = |length| Scripted { fails_after: Some(3_000), ..Scripted::new(noise(2, length)) };
    let files = vec![
        ("a", good()),
        ("b small", scratched(10_000)),
        ("c large", scratched(9 << 20)),
        ("d gone", Scripted { vanishes: true, ..good() }),
        ("e", Scripted::new(noise(3, 300_000))),
        ("f", good()),
    ];
    let archived = bench.archive(Listed::new(files), &CancellationToken::new()).expect("an archive");
    let told: Vec<_> =
        archived.problems.kept().iter().map(|problem| (problem.path.to_string(), problem.kind)).collect();
    let unreadable = ProblemKind::Unreadable;
    let expected = [("b small", unreadable), ("c large", unreadable), ("d gone", ProblemKind::Vanished)];
    assert_eq!(told, expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert_eq!((archived.problems.unreadable, archived.problems.vanished), (2, 1));
    assert!(archived.problems_blob.is_some());
    let entries = entries(&bench, &archived);
    assert_eq!(names(&entries), ["a", "e", "f"]);
    let contents: Vec<_> = entries.iter().map(|entry| content(&bench, &archived, entry)).collect();
    assert!(contents == [noise(1, 5_000), noise(3, 300_000), noise(1, 5_000)], "the contents differ");
}

#[test]
fn another_name_of_a_file_that_cannot_be_read_is_told_too() {
    let bench = Bench::new();
    let scratched = Scripted { fails_after: Some(10), ..Scripted::new(noise(2, 100)) };
    let files = vec![("a", scratched), ("b", Scripted::new(noise(1, 100)))];
    let mut source = Listed::new(files);
    source.links = vec![("y", "a"), ("z", "b")].into_iter();
    let archived = bench.archive(source, &CancellationToken::new()).expect("an archive");
    assert_eq!(names(&entries(&bench, &archived)), ["b", "z"], "no link leads nowhere");
    assert_eq!(archived.problems.unreadable, 2);
}

fn content(bench: &Bench, archived: &Archived, entry: &Entry) -> Vec<u8> {
    use crate::targets::BlobReader;
    use repository::archive::entry::Pieces;
    let EntryKind::File(content) = &entry.kind else { panic!("{} is no file", entry.path) };
    let Pieces::Inline(pieces) = &content.pieces else { panic!("few pieces") };
    let mut blobs = bench.blobs(&archived.refs);
    let slices = pieces.iter().map(|piece| {
        let blob = blobs.blob(&piece.blob).expect("it is there");
        blob[piece.offset as usize..][..piece.length as usize].to_vec()
    });
    slices.collect::<Vec<_>>().concat()
}

#[test]
fn a_file_that_changes_once_is_read_again_and_one_that_changes_twice_is_told() {
    let bench = Bench::new();
    let changing = |seed, length, changes| Scripted { changes, ..Scripted::new(noise(seed, length)) };
    let files = vec![
        ("a", changing(1, 1_000, 1)),
        ("b", changing(2, 1_000, 9)),
        ("c", changing(3, 5 << 20, 1)),
        ("d", changing(4, 5 << 20, 9)),
    ];
    let archived = bench.archive(Listed::new(files), &CancellationToken::new()).expect("an archive");
    let told: Vec<_> = archived.problems.kept().iter().map(|problem| problem.path.to_string()).collect();
    assert_eq!((told, archived.problems.changed), (vec!["b".to_owned(), "d".to_owned()], 2));
    let entries = entries(&bench, &archived);
    assert_eq!(names(&entries), ["a", "b", "c", "d"]);
    let whole = entries.iter().zip(1..).all(|(entry, seed)| {
        let read = content(&bench, &archived, entry);
        read == noise(seed, read.len())
    });
    assert!(whole, "each content is what was read last, once");
}

#[test]
fn a_source_that_fails_is_no_archive() {
    let bench = Bench::new();
    let files = vec![("a", Scripted::new(noise(1, 5_000))), ("b", Scripted::new(noise(2, 5 << 20)))];
    let source = Box::new(Listed { fails: true, ..*Listed::new(files) });
    let error = bench.archive(source, &CancellationToken::new()).expect_err("no archive");
    assert!(matches!(error, PipelineError::Source(_)), "{error}");
}

#[test]
fn a_wire_that_fails_ends_the_pipeline_with_its_reason() {
    let bench = Bench::new();
    bench.wire.fails.store(true, Ordering::SeqCst);
    for n in 0..60 {
        fs::write(bench.data().join(format!("{n}")), noise(n, 2 << 20)).expect("writes");
    }
    let source = FilesSource::folder(&bench.data(), Excludes::none()).expect("opens");
    let error = bench.archive(Box::new(source), &CancellationToken::new()).expect_err("no archive");
    let PipelineError::Upload(failure) = error else { panic!("{error}") };
    assert_eq!(failure.what, "the disk of the test is full");
    assert!(!bench.cache().exists(), "no cache of an archive that does not exist");
}

#[test]
fn a_cancelled_archive_ends_and_keeps_no_cache() {
    let bench = Bench::new();
    fs::write(bench.data().join("a"), noise(1, 40 << 20)).expect("writes");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let source = FilesSource::folder(&bench.data(), Excludes::none()).expect("opens");
    let error = bench.archive(Box::new(source), &cancel).expect_err("no archive");
    assert!(matches!(error, PipelineError::Cancelled), "{error}");
    assert_eq!(fs::read_dir(bench.folder.path()).expect("lists").count(), 2, "data and repository");
}

#[test]
fn two_segments_at_most_are_on_their_way() {
    let bench = Bench::new();
    for n in 0..40 {
        fs::write(bench.data().join(format!("{n}")), noise(n, 4 << 20)).expect("writes");
    }
    let archived = bench.backup();
    assert!(bench.wire.segments.lock().expect("locks").len() >= 10);
    assert!(bench.wire.most_in_flight.load(Ordering::SeqCst) <= 2);
    bench.assert_comes_back(&archived);
}
