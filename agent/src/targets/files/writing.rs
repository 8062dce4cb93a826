//! The thread that hashes and writes contents, while the restore's own fetches what comes next and makes the files.
//!
//! Must stay true: pieces are written in the order in which they come; a file is given back, in the order in which they
//! were begun, only when all of it is written; what waits is bounded in bytes (each blob counted whole, since a piece
//! keeps all of it), in pieces and in files (each is open); after an error nothing more is written, and whoever cleans
//! up stops it first; when this goes, so has the thread.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use repository::archive::path::EntryPath;
use repository::ids::{BlobId, ContentId};

use super::disk::Pen;
use super::error::{RestoreError, failed};
use super::sink::Sink;

/// So much goes to the thread at once: waking it costs more than writing a small file.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_FILES: usize = 32;
/// One blob may be what a file is made of, again and again.
const BATCH_PIECES: usize = 256;
/// So many batches wait for it.
const QUEUE: usize = 2;
/// The most files that are open at a time.
const MAX_FILES: usize = 128;

/// A file whose content is written.
pub(super) struct Ended {
    pub(super) file: OwnedFd,
    /// Which content it is, and where its last byte ends.
    pub(super) content: (ContentId, u64),
}

/// A file that is being written.
struct Open {
    file: OwnedFd,
    path: EntryPath,
    sink: Sink,
}

enum Work {
    Begin(Box<Open>),
    Piece(Pen, Bytes),
    End,
}

/// What the thread says of a batch.
type Done = Result<Vec<Ended>, RestoreError>;

/// Files on their way, each with what is to be done with it at its end.
pub(super) struct Writing<T> {
    thread: Option<Thread>,
    batch: Vec<Work>,
    bytes: usize,
    files: usize,
    /// The blob that the last piece came from.
    last: Option<BlobId>,
    /// Written, in order.
    ended: VecDeque<Ended>,
    /// Begun and not yet given back, in order.
    waiting: VecDeque<T>,
}

struct Thread {
    /// None: it is asked to end.
    batches: Option<SyncSender<Vec<Work>>>,
    done: Receiver<Done>,
    is_over: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl<T> Writing<T> {
    pub(super) fn new() -> Self {
        Self {
            thread: None,
            batch: Vec::new(),
            bytes: 0,
            files: 0,
            last: None,
            ended: VecDeque::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The next pieces belong to this file.
    pub(super) fn begin(&mut self, file: OwnedFd, path: EntryPath, sink: Sink) -> Result<(), RestoreError> {
        self.files += 1;
        self.add(Work::Begin(Box::new(Open { file, path, sink })))
    }

    /// The next piece of the file: `range` of a blob.
    pub(super) fn piece(
        &mut self,
        pen: Pen,
        id: &BlobId,
        blob: &Bytes,
        range: Range<usize>,
    ) -> Result<(), RestoreError> {
        if self.last.as_ref() != Some(id) {
            self.bytes += blob.len();
            self.last = Some(*id);
        }
        self.add(Work::Piece(pen, blob.slice(range)))
    }

    /// The file has all its pieces.
    pub(super) fn end(&mut self, then: T) -> Result<(), RestoreError> {
        self.waiting.push_back(then);
        self.add(Work::End)
    }

    /// The next file that is written; waits for it where too many are open, and where `all` are wanted.
    pub(super) fn next(&mut self, all: bool) -> Result<Option<(Ended, T)>, RestoreError> {
        self.take_done()?;
        if self.ended.is_empty() && (all || self.waiting.len() >= MAX_FILES) {
            self.settle()?;
        }
        let Some(ended) = self.ended.pop_front() else { return Ok(None) };
        Ok(Some((ended, self.waiting.pop_front().expect("each that ends was waited for"))))
    }

    fn add(&mut self, work: Work) -> Result<(), RestoreError> {
        self.batch.push(work);
        let is_full =
            self.bytes >= BATCH_BYTES || self.files >= BATCH_FILES || self.batch.len() >= BATCH_PIECES;
        if is_full {
            self.hand_over()?;
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), RestoreError> {
        // What is done is taken first: the thread has room to say what becomes of those that it has.
        self.take_done()?;
        (self.bytes, self.files, self.last) = (0, 0, None);
        let batch = std::mem::take(&mut self.batch);
        let thread = self.thread.get_or_insert_with(Thread::start);
        let batches = thread.batches.as_ref().expect("it is asked to end only when this goes");
        if batches.send(batch).is_err() {
            // It has met an error, and said so.
            self.take_done()?;
            return Err(gone());
        }
        Ok(())
    }

    /// Writes nothing more, and returns when nothing is being written.
    pub(super) fn stop(&mut self) {
        self.thread = None;
        self.batch.clear();
    }

    /// Takes what is done already.
    fn take_done(&mut self) -> Result<(), RestoreError> {
        let Some(thread) = &self.thread else { return Ok(()) };
        while let Ok(done) = thread.done.try_recv() {
            self.ended.extend(done?);
        }
        Ok(())
    }

    /// Waits until all files that have all their pieces are written.
    fn settle(&mut self) -> Result<(), RestoreError> {
        if !self.batch.is_empty() {
            self.hand_over()?;
        }
        while self.ended.len() < self.waiting.len() {
            let thread = self.thread.as_ref().expect("it has something to write");
            let done = thread.done.recv().map_err(|_| gone())?;
            self.ended.extend(done?);
        }
        Ok(())
    }
}

impl Thread {
    fn start() -> Self {
        let (batches, coming) = sync_channel(QUEUE);
        // Room for all that may be unread: it never waits for whoever waits for it.
        let (done, said) = sync_channel(QUEUE + 2);
        let is_over = Arc::new(AtomicBool::new(false));
        let is_asked_to_end = Arc::clone(&is_over);
        let handle = thread::spawn(move || write(&coming, &done, &is_asked_to_end));
        Self { batches: Some(batches), done: said, is_over, handle: Some(handle) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.batches = None;
        self.is_over.store(true, Ordering::Relaxed);
        // One that has panicked has said so.
        let _ = self.handle.take().map(JoinHandle::join);
    }
}

/// It ends only when it is asked to, or after an error that it has told.
fn gone() -> RestoreError {
    RestoreError::refused(
        "the staging folder",
        "the thread that writes has died: this is a fault of the program",
    )
}

/// Until nothing more comes, or something has failed.
fn write(batches: &Receiver<Vec<Work>>, done: &SyncSender<Done>, is_over: &AtomicBool) {
    let mut current = None;
    for batch in batches {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let ended = write_batch(batch, &mut current);
        let has_failed = ended.is_err();
        if done.send(ended).is_err() || has_failed {
            return;
        }
    }
}

fn write_batch(batch: Vec<Work>, current: &mut Option<Box<Open>>) -> Done {
    let mut ended = Vec::new();
    for work in batch {
        match (work, &mut *current) {
            (Work::Begin(open), current) => *current = Some(open),
            (Work::Piece(pen, bytes), Some(open)) => {
                let Open { file, path, sink } = &mut **open;
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (offset, part) = sink.take(path, &mut rest)?;
                    pen.write_at(&*file, part, offset).map_err(failed("write", &*path))?;
                }
            }
            (Work::End, current) => {
                let Open { file, path, sink } = *current.take().expect("what ends was begun");
                ended.push(Ended { file, content: sink.finish(&path)? });
            }
            (Work::Piece(..), None) => unreachable!("a piece belongs to what was begun"),
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use repository::archive::entry::{FileContent, Layout, Pieces};
    use repository::content::{ContentHasher, IdKey};

    use super::super::disk::{Disk, NoFaults};
    use super::*;

    fn pen() -> Pen {
        Disk::new(&NoFaults).pen().expect("nothing fails")
    }

    fn begin(writing: &mut Writing<usize>, file: File, size: usize) -> Result<(), RestoreError> {
        let key = IdKey::new([7; 32]);
        let content = FileContent {
            size: size as u64,
            layout: Layout::Dense,
            id: ContentHasher::new(&key).finish(0),
            pieces: Pieces::Inline(Vec::new()),
        };
        writing.begin(file.into(), EntryPath::new(b"a/file").expect("a path"), Sink::new(&content, &key))
    }

    fn make(folder: &Path, n: usize) -> File {
        File::create_new(folder.join(n.to_string())).expect("made")
    }

    #[test]
    fn files_come_back_in_order_and_no_more_are_open_than_may_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let blob = Bytes::from((0..=255).cycle().take(300_000).collect::<Vec<u8>>());
        let (mut writing, mut back, mut blobs) = (Writing::new(), 0, 0);
        // Small ones, some without a byte, and a large one of many batches among them.
        let lengths: Vec<usize> =
            (0..1_000).map(|n| if n == 500 { 30_000_000 } else { n % 7 * 1_000 }).collect();
        for (n, length) in lengths.iter().enumerate() {
            begin(&mut writing, make(folder.path(), n), *length).expect("begun");
            let mut left = *length;
            while left > 0 {
                let part = left.min(blob.len());
                // Of the large one, each piece is of a blob of its own.
                blobs += u8::from(*length > blob.len());
                writing.piece(pen(), &BlobId::new([blobs; 32]), &blob, 0..part).expect("taken");
                left -= part;
            }
            writing.end(n).expect("ended");
            assert!(writing.waiting.len() <= MAX_FILES);
            while let Some((_, of)) = writing.next(false).expect("written") {
                assert_eq!(of, back);
                back += 1;
            }
        }
        while let Some((_, of)) = writing.next(true).expect("written") {
            assert_eq!(of, back);
            back += 1;
        }
        assert_eq!(back, lengths.len());
        for (n, length) in lengths.iter().enumerate() {
            let found = fs::read(folder.path().join(n.to_string())).expect("read");
            let expected: Vec<u8> =
                std::iter::repeat_n(&blob[..], 101).flatten().copied().take(*length).collect();
            assert!(found == expected, "{n}");
        }
    }

    #[test]
    fn what_cannot_be_written_ends_it_and_nothing_after_it_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let blob = Bytes::from(vec![1; 1 << 20]);
        let mut writing = Writing::new();
        let mut failed = None;
        for n in 0..100 {
            let file = make(folder.path(), n);
            let file = if n == 3 { File::open(folder.path().join("3")).expect("opened") } else { file };
            let result = begin(&mut writing, file, blob.len())
                .and_then(|()| writing.piece(pen(), &BlobId::new([2; 32]), &blob, 0..blob.len()))
                .and_then(|()| writing.end(n))
                .and_then(|()| writing.next(false));
            if let Err(error) = result {
                failed = Some((n, error));
                break;
            }
        }
        let (at, error) = failed.expect("it is told");
        assert!(at <= 3 + 2 * (QUEUE + 2), "only after {at} files");
        assert_eq!(error.to_string(), "cannot write a/file");
        drop(writing);
        let length = |n: usize| fs::metadata(folder.path().join(n.to_string())).expect("there").len();
        assert_eq!((length(2), (3..=at).map(length).sum::<u64>()), (1 << 20, 0));
    }
}
