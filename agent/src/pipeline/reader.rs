//! The reader: walks, decides what has to be read, reads, cuts and hashes.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use repository::archive::entry::{Entry, EntryKind, Layout, Metadata};
use repository::archive::path::EntryPath;
use repository::check::{CheckedFile, ContentCheck, Feed, Finding, Severity};
use repository::cut::{Chunker, MAX_CHUNK, SMALL_FILE};
use repository::ids::BlobId;
use tokio_util::sync::CancellationToken;

use super::bundle::Bundle;
use super::contents::{ContentMeter, Measured};
use super::ledger::Ledger;
use super::orders::{Coming, FileHead, Job, Order, Seen};
use super::progress::ArchiveProgress;
use super::{ArchiveJob, Input, PipelineError, StageEnd, Stopped, Told};
use crate::cache::rules::{self, Verdict, Why};
use crate::cache::{CacheReader, Record, StoredContent};
use crate::sources::{
    Body, Content, Item, Opened, Problem, ProblemKind, ReadError, SourceEntry, Stamp, StampClock,
};

/// Large files are read through a buffer of this size: two of the largest chunks, so that no read is
/// shorter than one of them.
const READ_BUFFER: usize = 2 * MAX_CHUNK;
/// A file that changed while it was read is read so often.
const ATTEMPTS: usize = 2;
/// So many bytes of files that are not read are told the packer at once.
const REUSED_AT_ONCE: usize = 16 << 10;
/// About what an entry takes in memory beside its path.
const ENTRY_BYTES: usize = 256;
/// Room for a small file.
static ROOM: [u8; SMALL_FILE as usize] = [0; SMALL_FILE as usize];

/// The reader's ends of the channels.
pub(super) struct Links {
    pub(super) orders: SyncSender<Order>,
    pub(super) jobs: SyncSender<Job>,
    /// Buffers for plaintext; all that there are go round through here.
    pub(super) empty: Receiver<Vec<u8>>,
}

/// What the reader counts.
#[derive(Debug, Default)]
pub(super) struct ReadTotals {
    pub(super) read_bytes: u64,
    pub(super) reused_files: u64,
    pub(super) told: Told,
}

/// Reads one source.
pub(super) struct Reader<'a> {
    job: &'a ArchiveJob,
    ledger: &'a Ledger,
    cache: CacheReader,
    links: Links,
    progress: &'a ArchiveProgress,
    cancel: &'a CancellationToken,
    chunker: Chunker,
    buffer: Vec<u8>,
    bundle: Option<Bundle>,
    /// Files that are not read and that the packer was not told of, and how many bytes they take.
    reused: Vec<(Metadata, Record)>,
    reused_bytes: usize,
    check: Option<Box<dyn ContentCheck>>,
    /// Files of which there is no entry: a hard link to one of them would lead nowhere.
    lost: HashSet<EntryPath>,
    totals: ReadTotals,
}

/// A regular file that has to be read.
struct ToRead {
    path: EntryPath,
    metadata: Metadata,
    clock: StampClock,
    record: Option<Record>,
    /// Its content should be the recorded one: it is read only to make sure.
    is_recheck: bool,
}

/// Why a file gave no content.
enum FileEnd {
    Read(ReadError),
    Stage(StageEnd),
}

impl From<ReadError> for FileEnd {
    fn from(error: ReadError) -> Self {
        FileEnd::Read(error)
    }
}

impl From<StageEnd> for FileEnd {
    fn from(end: StageEnd) -> Self {
        FileEnd::Stage(end)
    }
}

impl From<Stopped> for FileEnd {
    fn from(stopped: Stopped) -> Self {
        FileEnd::Stage(stopped.into())
    }
}

/// Where the data of a file that was read is.
#[derive(Clone, Copy)]
enum Placed {
    /// At the bundle's end, from here on.
    InBundle { offset: usize },
    /// Ordered already: in blobs of its own.
    OwnBlobs,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        job: &'a ArchiveJob,
        ledger: &'a Ledger,
        cache: CacheReader,
        links: Links,
        progress: &'a ArchiveProgress,
        cancel: &'a CancellationToken,
    ) -> Self {
        let chunker = Chunker::new(&job.gear_key);
        let (buffer, totals) = (Vec::new(), ReadTotals::default());
        Self {
            job,
            ledger,
            cache,
            links,
            progress,
            cancel,
            chunker,
            buffer,
            bundle: None,
            reused: Vec::new(),
            reused_bytes: 0,
            check: None,
            lost: HashSet::new(),
            totals,
        }
    }

    /// Reads all of it.
    pub(super) fn run(mut self, input: Input) -> Result<ReadTotals, StageEnd> {
        let Input { mut source, check } = input;
        self.check = check;
        while let Some(item) = source.next().map_err(|error| StageEnd::Failed(error.into()))? {
            self.go_on()?;
            match item {
                Item::Problem(mut problem) => {
                    if problem.kind == ProblemKind::Damaged {
                        problem.kind = self.of_damage();
                    }
                    self.order(Order::Problem(problem))?;
                }
                Item::Entry(SourceEntry { path, metadata, body }) => {
                    self.progress.add_entry();
                    match body {
                        Body::Plain(EntryKind::HardLink { to }) if self.lost.contains(&to) => {
                            self.other_name_of_lost(path)?;
                        }
                        Body::Plain(kind) => self.entry(Entry { path, metadata, kind })?,
                        Body::File { stamp, clock, content } => {
                            self.file(path, metadata, (stamp, clock), content)?;
                        }
                    }
                }
            }
        }
        self.totals.told = Told {
            quiesce: source.quiesce(),
            remarks: source.remarks(),
            signed: source.signed(),
            signer: source.signer(),
        };
        // Files that were not read again were not given to it.
        for Finding { path, what: cause, .. } in
            self.check.as_mut().map(|check| check.held_back()).unwrap_or_default()
        {
            let path = EntryPath::new(&path).unwrap_or_default();
            self.order(Order::Problem(Problem { path, kind: ProblemKind::Suspect, cause }))?;
        }
        self.end_bundle()?;
        self.order(Order::End)?;
        Ok(self.totals)
    }

    fn go_on(&self) -> Result<(), StageEnd> {
        if self.cancel.is_cancelled() { Err(StageEnd::Failed(PipelineError::Cancelled)) } else { Ok(()) }
    }

    /// Tells the packer, and before it what came before.
    fn order(&mut self, order: Order) -> Result<(), Stopped> {
        self.tell_reused()?;
        self.links.orders.send(order).map_err(|_| Stopped)
    }

    fn tell_reused(&mut self) -> Result<(), Stopped> {
        if self.reused.is_empty() {
            return Ok(());
        }
        self.reused_bytes = 0;
        self.links.orders.send(Order::Reused(std::mem::take(&mut self.reused))).map_err(|_| Stopped)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), StageEnd> {
        let bytes = weight(&entry.path, &entry.metadata);
        self.order(Order::Entry(entry))?;
        self.waits(bytes)
    }

    /// An entry of about `bytes` has been ordered; it waits for the open bundle, if there is one.
    fn waits(&mut self, bytes: usize) -> Result<(), StageEnd> {
        if let Some(bundle) = &mut self.bundle {
            bundle.waits(bytes);
            if bundle.is_full() {
                self.end_bundle()?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: EntryPath,
        metadata: Metadata,
        (stamp, clock): (Stamp, StampClock),
        mut content: Box<dyn Content>,
    ) -> Result<(), StageEnd> {
        let record = self.cache.find(&path);
        let verdict = record.as_ref().map(|record| self.judge(record, &stamp));
        if let (Some(Verdict::Reuse), Some(record)) = (verdict, &record) {
            self.totals.reused_files += 1;
            self.progress.add_bytes(stamp.size);
            return self.reuse(metadata, record.clone());
        }
        let is_recheck = verdict == Some(Verdict::Read(Why::ItsDay));
        let file = ToRead { path, metadata, clock, record, is_recheck };
        match self.read_file(&file, content.as_mut()) {
            Ok(()) => Ok(()),
            Err(FileEnd::Stage(end)) => Err(end),
            Err(FileEnd::Read(error)) => {
                let kind = if error.vanished { ProblemKind::Vanished } else { ProblemKind::Unreadable };
                self.lost.insert(file.path.clone());
                let problem = Problem { path: file.path, kind, cause: error.source.to_string() };
                Ok(self.order(Order::Problem(problem))?)
            }
        }
    }

    fn other_name_of_lost(&mut self, path: EntryPath) -> Result<(), StageEnd> {
        let cause = "it is another name of a file that could not be read".to_owned();
        Ok(self.order(Order::Problem(Problem { path, kind: ProblemKind::Unreadable, cause }))?)
    }

    fn judge(&self, record: &Record, stamp: &Stamp) -> Verdict {
        let known = |id: &_| self.ledger.known().contains(id);
        rules::judge(record, stamp, self.job.today, known, |id| self.cache.is_thin(id))
    }

    fn reuse(&mut self, metadata: Metadata, record: Record) -> Result<(), StageEnd> {
        let StoredContent { layout, pieces, lists, .. } = &record.content;
        let extents = if let Layout::Sparse(extents) = layout { extents.len() } else { 0 };
        let bytes =
            weight(&record.path, &metadata) + pieces.len() * 40 + lists.len() * BlobId::LEN + extents * 16;
        self.reused.push((metadata, record));
        self.reused_bytes += bytes;
        if self.reused_bytes > REUSED_AT_ONCE {
            self.tell_reused()?;
        }
        self.waits(bytes)
    }

    /// Reads a file, twice if it changes meanwhile, and orders its entry.
    fn read_file(&mut self, file: &ToRead, content: &mut dyn Content) -> Result<(), FileEnd> {
        for attempt in 1..=ATTEMPTS {
            let opened = content.open()?;
            let (measured, placed) = self.read_once(&file.path, &opened, content)?;
            let closed = content.close().inspect_err(|_| self.take_back(&placed))?;
            if opened.is_stream {
                let stamp = Stamp { size: measured.size, ..closed };
                return Ok(self.file_was_read(file, measured, placed, Some(stamp))?);
            }
            let unchanged = closed == opened.stamp && measured.whole;
            if unchanged || attempt == ATTEMPTS {
                let stamp = unchanged.then_some(opened.stamp);
                return Ok(self.file_was_read(file, measured, placed, stamp)?);
            }
            self.take_back(&placed);
        }
        unreachable!("the last attempt returns")
    }

    /// Reads it, and lets the check judge it.
    fn read_once(
        &mut self,
        path: &EntryPath,
        opened: &Opened,
        content: &mut dyn Content,
    ) -> Result<(Measured, Placed), FileEnd> {
        let file = CheckedFile { path: path.as_bytes(), length: opened.stamp.size, is_proven: false };
        let mut check = self.check.take();
        let wants_it = check.as_mut().is_some_and(|check| check.file(file));
        let feed = check.as_mut().filter(|_| wants_it).map(|check| Feed::new(check.as_mut(), file.path));
        let read = self.read_all(opened, content, ContentMeter::new(&self.job.id_key, opened, feed));
        self.check = check;
        read
    }

    fn read_all(
        &mut self,
        opened: &Opened,
        content: &mut dyn Content,
        mut meter: ContentMeter<'_>,
    ) -> Result<(Measured, Placed), FileEnd> {
        let data: u64 = opened.layout.extents(opened.stamp.size).iter().map(|extent| extent.length).sum();
        let placed = if data <= SMALL_FILE {
            self.read_small(data as usize, content, &mut meter)?
        } else {
            self.read_large(content, &mut meter)?;
            Placed::OwnBlobs
        };
        Ok((meter.finish(), placed))
    }

    fn read_small(
        &mut self,
        data: usize,
        content: &mut dyn Content,
        meter: &mut ContentMeter<'_>,
    ) -> Result<Placed, FileEnd> {
        if self.bundle.is_none() {
            let buffer = self.links.empty.recv().map_err(|_| Stopped)?;
            self.bundle = Some(Bundle::new(buffer));
        }
        let plain = &mut self.bundle.as_mut().expect("it was just made sure of").plain;
        let offset = plain.len();
        // By copying: `resize` writes byte by byte where its checks are on.
        plain.extend_from_slice(&ROOM[..data]);
        let mut end = offset;
        while end < plain.len() {
            match content.read(&mut plain[end..]) {
                Ok(0) => break,
                Ok(count) => end += count,
                Err(error) => {
                    plain.truncate(offset);
                    return Err(error.into());
                }
            }
        }
        plain.truncate(end);
        meter.data(&plain[offset..]);
        self.was_read(end - offset);
        Ok(Placed::InBundle { offset })
    }

    fn read_large(&mut self, content: &mut dyn Content, meter: &mut ContentMeter<'_>) -> Result<(), FileEnd> {
        self.order(Order::FileBegins)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BUFFER, 0);
        let result = self.cut_file(&mut buffer, content, meter);
        self.buffer = buffer;
        result
    }

    fn cut_file(
        &mut self,
        buffer: &mut [u8],
        content: &mut dyn Content,
        meter: &mut ContentMeter<'_>,
    ) -> Result<(), FileEnd> {
        let (mut start, mut end, mut at_end) = (0, 0, false);
        loop {
            if !at_end && end - start < MAX_CHUNK {
                self.go_on()?;
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                let count = content.read(&mut buffer[end..])?;
                meter.data(&buffer[end..end + count]);
                self.was_read(count);
                end += count;
                at_end = count == 0;
                continue;
            }
            if start == end {
                return Ok(());
            }
            let longest = (end - start).min(MAX_CHUNK);
            let length = self.chunker.cut(&buffer[start..start + longest]);
            let mut plain = self.links.empty.recv().map_err(|_| Stopped)?;
            plain.clear();
            plain.extend_from_slice(&buffer[start..start + length]);
            let coming = self.hand_out(plain)?;
            self.order(Order::Piece(coming))?;
            start += length;
        }
    }

    fn was_read(&mut self, count: usize) {
        self.totals.read_bytes += count as u64;
        self.progress.add_bytes(count as u64);
    }

    fn hand_out(&self, plain: Vec<u8>) -> Result<Coming, Stopped> {
        let (reply, coming) = sync_channel(1);
        self.links.jobs.send(Job { plain, reply }).map_err(|_| Stopped)?;
        Ok(coming)
    }

    /// Forgets what was read of a file. A large file's blobs stay: garbage that nothing refers to.
    fn take_back(&mut self, placed: &Placed) {
        if let (Placed::InBundle { offset }, Some(bundle)) = (placed, &mut self.bundle) {
            bundle.plain.truncate(*offset);
        }
    }

    /// Orders the entry of a file. `stamp` is `None` if it changed while it was read.
    fn file_was_read(
        &mut self,
        file: &ToRead,
        measured: Measured,
        placed: Placed,
        stamp: Option<Stamp>,
    ) -> Result<(), StageEnd> {
        let is_lost = self.is_lost(&measured.findings);
        let trusted = |stamp: &Stamp| !is_lost && rules::old_enough(stamp, file.clock, self.job.read_start);
        let seen = stamp.map(|stamp| Seen { stamp, trusted: trusted(&stamp), read_on: self.job.today });
        if seen.is_none() {
            let cause = "it was written to while it was read, both times".to_owned();
            let problem = Problem { path: file.path.clone(), kind: ProblemKind::Changed, cause };
            self.order(Order::Problem(problem))?;
        }
        self.compare(file, &measured, seen)?;
        // What changed while it was read may be anything.
        if seen.is_some() {
            self.tell(file, &measured.findings)?;
        }
        let Placed::InBundle { offset } = placed else {
            return self.own_blobs_were_read(file, measured, seen);
        };
        if let (Some(record), Some(seen)) = (self.same_content(file, &measured), seen) {
            self.take_back(&placed);
            let Seen { stamp, trusted, read_on } = seen;
            let record = Record { stamp, trusted, read_on, ..record };
            return self.reuse(file.metadata.clone(), record);
        }
        let bundle = self.bundle.as_mut().expect("a small file lies in the bundle");
        let (offset, length) = (offset as u32, (bundle.plain.len() - offset) as u32);
        if length == 0 {
            self.order(Order::FileBegins)?;
            return self.own_blobs_were_read(file, measured, seen);
        }
        let head = head(file, measured, seen);
        self.order(Order::Bundled { file: head, offset, length })?;
        self.waits(weight(&file.path, &file.metadata))
    }

    fn own_blobs_were_read(
        &mut self,
        file: &ToRead,
        measured: Measured,
        seen: Option<Seen>,
    ) -> Result<(), StageEnd> {
        let pieces = measured.size / (1 << 20) + 1;
        let bytes = weight(&file.path, &file.metadata) + pieces as usize * 40;
        self.order(Order::FileEnds(head(file, measured, seen)))?;
        self.waits(bytes)
    }

    /// True if the file is none any more, by what the check has found.
    fn is_lost(&self, findings: &[Finding]) -> bool {
        self.check.as_ref().is_some_and(|check| check.makes_incomplete())
            && findings.iter().any(|finding| finding.severity == Severity::Broken)
    }

    /// What is damaged already makes an archive incomplete; but one that is made before a restore holds all that
    /// there is to lose, and the restore is what mends it.
    fn of_damage(&self) -> ProblemKind {
        if self.job.is_before_restore { ProblemKind::Suspect } else { ProblemKind::Unreadable }
    }

    fn tell(&mut self, file: &ToRead, findings: &[Finding]) -> Result<(), Stopped> {
        for finding in findings {
            let (path, cause) = (file.path.clone(), finding.what.clone());
            let is_lost = self.is_lost(std::slice::from_ref(finding));
            let kind = if is_lost { self.of_damage() } else { ProblemKind::Suspect };
            self.order(Order::Problem(Problem { path, kind, cause }))?;
        }
        Ok(())
    }

    /// A content that changed under an unchanged stamp is worth a word: what writes it hides it from us.
    fn compare(&mut self, file: &ToRead, measured: &Measured, seen: Option<Seen>) -> Result<(), Stopped> {
        if let (true, Some(record), Some(seen)) = (file.is_recheck, &file.record, seen)
            && record.stamp == seen.stamp
            && record.content.id != measured.id
        {
            let cause = "its content changed while its size and times stayed the same: it is backed up as it is \
                         now, and earlier backups may have missed the change; a program that writes through \
                         mapped memory should be stopped or paused for its backup";
            let problem =
                Problem { path: file.path.clone(), kind: ProblemKind::Changed, cause: cause.to_owned() };
            self.order(Order::Problem(problem))?;
        }
        Ok(())
    }

    /// The recorded content, if it is the one just read and may still be used: then an unchanged file
    /// stays where it lies, however it came to be read.
    fn same_content(&self, file: &ToRead, measured: &Measured) -> Option<Record> {
        let record = file.record.as_ref()?;
        let content = &record.content;
        let same = content.id == measured.id
            && record.stamp.size == measured.size
            && content.blobs().all(|id| self.ledger.known().contains(id))
            && !content.pieces.iter().any(|piece| self.cache.is_thin(&piece.blob));
        same.then(|| record.clone())
    }

    fn end_bundle(&mut self) -> Result<(), StageEnd> {
        let Some(bundle) = self.bundle.take() else { return Ok(()) };
        if bundle.plain.is_empty() {
            self.bundle = Some(Bundle::new(bundle.plain));
            return Ok(());
        }
        let coming = self.hand_out(bundle.plain)?;
        Ok(self.order(Order::BundleEnds(coming))?)
    }
}

fn head(file: &ToRead, measured: Measured, seen: Option<Seen>) -> FileHead {
    let Measured { id, layout, size, .. } = measured;
    FileHead { path: file.path.clone(), metadata: file.metadata.clone(), size, id, layout, seen }
}

fn weight(path: &EntryPath, metadata: &Metadata) -> usize {
    let xattrs: usize = metadata.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    ENTRY_BYTES + path.as_bytes().len() + xattrs
}
