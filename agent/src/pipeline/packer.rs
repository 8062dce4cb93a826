//! The packer: puts what the reader ordered and the workers made together again, in path order.
//!
//! A file in a bundle can be written down only when its bundle is full and has its id; until then it and
//! all that follows it waits. The reader ends a bundle early enough for this to stay short.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender};

use repository::archive::entry::{Entry, EntryKind, MAX_INLINE_PIECES, Metadata, Piece};
use repository::archive::page::{Page, PageBuilder, PageLine, PageTable, encode_pieces};
use repository::archive::path::EntryPath;
use repository::cut::SMALL_FILE;
use repository::ids::BlobId;
use repository::pack::blob::BlobKind;

use super::orders::{Coming, FileHead, Order, Processed, Seen};
use super::problems::Problems;
use super::sealer::Sealer;
use super::{ArchiveJob, Archived, Counts, Stopped, Told};
use crate::cache::{CacheWriter, PendingCache, Record, StoredContent};

/// Builds the archive.
pub(super) struct Packer<'a> {
    sealer: Sealer<'a>,
    empty: SyncSender<Vec<u8>>,
    pages: PageBuilder,
    table: PageTable,
    cache: Option<CacheWriter>,
    waiting: Vec<Waiting>,
    file: FilePieces,
    bundles: HashMap<BlobId, Live>,
    counts: Counts,
    problems: Problems,
}

/// An entry that waits for the bundle of this or of an earlier entry.
enum Waiting {
    Done(Done),
    Bundled { file: FileHead, offset: u32, length: u32 },
}

/// An entry of which everything is known.
enum Done {
    Plain(Entry),
    File { path: EntryPath, metadata: Metadata, size: u64, content: StoredContent, seen: Option<Seen> },
}

/// The large file that is being told.
#[derive(Default)]
struct FilePieces {
    pieces: Vec<Piece>,
    lists: Vec<BlobId>,
    listed: usize,
}

/// How much of a bundle this archive needs.
#[derive(Default)]
struct Live {
    needed: u64,
    total: u64,
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        job: &ArchiveJob,
        sealer: Sealer<'a>,
        empty: SyncSender<Vec<u8>>,
        cache: Option<CacheWriter>,
    ) -> Self {
        Self {
            sealer,
            empty,
            pages: PageBuilder::new(&job.id_key),
            table: PageTable::default(),
            cache,
            waiting: Vec::new(),
            file: FilePieces::default(),
            bundles: HashMap::new(),
            counts: Counts::default(),
            problems: Problems::default(),
        }
    }

    /// Follows the orders to their end.
    pub(super) fn run(mut self, orders: Receiver<Order>) -> Result<Archived, Stopped> {
        for order in orders {
            if let Order::End = order {
                return self.finish();
            }
            self.follow(order)?;
        }
        Err(Stopped)
    }

    fn follow(&mut self, order: Order) -> Result<(), Stopped> {
        match order {
            Order::Entry(entry) => self.in_turn(Done::Plain(entry)),
            Order::Reused(files) => {
                for (metadata, record) in files {
                    let Record { path, stamp, trusted, read_on, content } = record;
                    let seen = Some(Seen { stamp, trusted, read_on });
                    self.in_turn(Done::File { path, metadata, size: stamp.size, content, seen })?;
                }
                Ok(())
            }
            Order::Bundled { file, offset, length } => {
                self.waiting.push(Waiting::Bundled { file, offset, length });
                Ok(())
            }
            Order::BundleEnds(coming) => self.bundle_ends(coming),
            Order::FileBegins => {
                self.file = FilePieces::default();
                Ok(())
            }
            Order::Piece(coming) => self.piece(coming),
            Order::FileEnds(file) => self.file_ends(file),
            Order::Problem(problem) => {
                self.problems.add(problem);
                Ok(())
            }
            Order::End => unreachable!("it was looked for before"),
        }
    }

    fn in_turn(&mut self, done: Done) -> Result<(), Stopped> {
        if self.waiting.is_empty() {
            return self.emit(done);
        }
        self.waiting.push(Waiting::Done(done));
        Ok(())
    }

    /// Seals the data blob if it is new and gives its memory back.
    fn data(&mut self, coming: Coming) -> Result<(BlobId, u32), Stopped> {
        let processed: Processed = coming.recv().map_err(|_| Stopped)?;
        let length = u32::try_from(processed.plain.len()).expect("a data blob is at most 4 MiB");
        if let Some((codec, stored)) = processed.to_seal() {
            self.sealer.seal(processed.id, BlobKind::Data, codec, length, stored)?;
        }
        // The reader may have ended; then nobody needs the memory any more.
        let _ = self.empty.try_send(processed.plain);
        Ok((processed.id, length))
    }

    fn bundle_ends(&mut self, coming: Coming) -> Result<(), Stopped> {
        let (bundle, total) = self.data(coming)?;
        self.bundles.entry(bundle).or_default().total = u64::from(total);
        for waiting in std::mem::take(&mut self.waiting) {
            let done = match waiting {
                Waiting::Done(done) => done,
                Waiting::Bundled { file, offset, length } => {
                    read_file(file, vec![Piece { blob: bundle, offset, length }], Vec::new())
                }
            };
            self.emit(done)?;
        }
        Ok(())
    }

    fn piece(&mut self, coming: Coming) -> Result<(), Stopped> {
        let (blob, length) = self.data(coming)?;
        self.file.pieces.push(Piece { blob, offset: 0, length });
        // One more than an entry may list itself: from now on they all go to lists.
        if self.file.pieces.len() - self.file.listed > MAX_INLINE_PIECES {
            self.list(self.file.listed + MAX_INLINE_PIECES)?;
        }
        Ok(())
    }

    fn list(&mut self, end: usize) -> Result<(), Stopped> {
        let plain = encode_pieces(&self.file.pieces[self.file.listed..end]);
        let id = self.sealer.metadata(BlobKind::Pieces, &plain)?;
        self.file.lists.push(id);
        self.file.listed = end;
        Ok(())
    }

    fn file_ends(&mut self, file: FileHead) -> Result<(), Stopped> {
        if !self.file.lists.is_empty() && self.file.listed < self.file.pieces.len() {
            self.list(self.file.pieces.len())?;
        }
        let FilePieces { pieces, lists, .. } = std::mem::take(&mut self.file);
        self.in_turn(read_file(file, pieces, lists))
    }

    /// Writes an entry down: all its blobs are known or claimed, all entries before it are written.
    fn emit(&mut self, done: Done) -> Result<(), Stopped> {
        let (entry, remember) = match done {
            Done::Plain(entry) => (entry, None),
            Done::File { path, metadata, size, content, seen } => {
                self.sealer.need(content.blobs());
                self.count_bundle(&content);
                let kind = EntryKind::File(content.entry_content(size));
                let entry = Entry { path, metadata, kind };
                (entry, seen.map(|seen| (seen, content)))
            }
        };
        self.count(&entry.kind);
        if let Some(page) = self.pages.add(&entry) {
            self.page(page)?;
        }
        if let Some((Seen { stamp, trusted, read_on }, content)) = remember {
            self.remember(&Record { path: entry.path, stamp, trusted, read_on, content });
        }
        Ok(())
    }

    fn count(&mut self, kind: &EntryKind) {
        let counts = &mut self.counts;
        match kind {
            EntryKind::Folder => counts.folders += 1,
            EntryKind::File(content) => {
                counts.files += 1;
                counts.bytes += content.size;
            }
            EntryKind::Symlink { .. } | EntryKind::HardLink { .. } => counts.links += 1,
            EntryKind::Fifo | EntryKind::Socket | EntryKind::Device { .. } => counts.specials += 1,
        }
    }

    fn count_bundle(&mut self, content: &StoredContent) {
        let [piece] = content.pieces[..] else { return };
        if u64::from(piece.length) > SMALL_FILE {
            return;
        }
        let live = self.bundles.entry(piece.blob).or_default();
        live.needed += u64::from(piece.length);
        if live.total == 0 {
            live.total = self.sealer.known_length(&piece.blob).map_or(0, u64::from);
        }
    }

    fn page(&mut self, page: Page) -> Result<(), Stopped> {
        let id = self.sealer.metadata(BlobKind::Page, &page.bytes)?;
        self.table.pages.push(PageLine { first: page.first, id, entries: page.entries });
        Ok(())
    }

    fn remember(&mut self, record: &Record) {
        let Some(cache) = &mut self.cache else { return };
        if let Err(error) = cache.push(record) {
            tracing::warn!(%error, "cannot write the no-change cache: the next backup reads everything again");
            self.cache = None;
        }
    }

    fn finish(mut self) -> Result<Archived, Stopped> {
        assert!(self.waiting.is_empty(), "the reader ends its last bundle");
        let pages = std::mem::replace(&mut self.pages, PageBuilder::new(self.sealer.id_key()));
        if let Some(page) = pages.finish() {
            self.page(page)?;
        }
        let root = self.sealer.metadata(BlobKind::PageTable, &self.table.encode())?;
        let problems_blob = match self.problems.encode() {
            Some(plain) => Some(self.sealer.metadata(BlobKind::Problems, &plain)?),
            None => None,
        };
        let cache = self.finish_cache();
        let Self { sealer, counts, problems, .. } = self;
        let refs = sealer.finish()?;
        Ok(Archived { root, counts, problems, problems_blob, refs, told: Told::default(), cache })
    }

    fn finish_cache(&mut self) -> Option<PendingCache> {
        let thin: Vec<BlobId> =
            self.bundles.iter().filter(|(_, live)| live.needed * 2 < live.total).map(|(id, _)| *id).collect();
        match self.cache.take()?.finish(&thin) {
            Ok(pending) => Some(pending),
            Err(error) => {
                tracing::warn!(%error, "cannot write the no-change cache: the next backup reads everything again");
                None
            }
        }
    }
}

fn read_file(file: FileHead, pieces: Vec<Piece>, lists: Vec<BlobId>) -> Done {
    let FileHead { path, metadata, size, id, layout, seen } = file;
    Done::File { path, metadata, size, content: StoredContent { id, layout, pieces, lists }, seen }
}
