//! The deepest look: every entry, every file's content, every blob, as a restore would need them.
//!
//! Must stay true: whatever a restore would refuse is a finding here. Contents are hashed over their
//! pieces in order, so that not only each piece is right but also what they make together; a piece whose own id is
//! wrong is told, too.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;

use super::{Lost, Memory, full, lost_line};
use crate::archive::entry::{Entry, EntryKind, Extent, FileContent, Pieces};
use crate::archive::page::PageTable;
use crate::archive::path::EntryPath;
use crate::backup::manifest::Counts;
use crate::check::{CheckedFile, ContentCheck, Feed, Finding, Severity};
use crate::content::ContentHasher;
use crate::error::RepositoryError;
use crate::ids::{BlobId, PackId, SegmentId};
use crate::index::BlobPlace;
use crate::progress::CancelFlag;
use crate::read::ArchiveReader;
use crate::refs::{BlobAddress, Refs};

/// So many findings of a check are kept of each sort; those that fail a verification are counted beyond.
const MAX_FOUND: usize = 1000;

/// So often a check may want files once more, and so many of them.
const MAX_AGAIN: usize = 16;
const MAX_FILES_AGAIN: usize = 20_000;

/// Proves one archive.
pub(super) struct Contents<'a> {
    pub(super) reader: ArchiveReader,
    pub(super) cancel: &'a CancelFlag,
    /// Packs that are told already: what does not open in them needs no line of its own.
    pub(super) bad_packs: &'a BTreeSet<PackId>,
    /// No blob is known to be damaged or gone.
    pub(super) is_whole: bool,
    pub(super) memory: &'a Memory<'a>,
    pub(super) check: Checking,
    pub(super) findings: Vec<String>,
}

/// The check of what the files hold, and what it has found.
#[derive(Default)]
pub(super) struct Checking {
    check: Option<Box<dyn ContentCheck>>,
    broken: Vec<String>,
    told: Vec<String>,
    /// Findings that fail the verification, beyond those kept.
    more: u64,
    /// Files that the check will say something of in the end.
    undecided: u64,
}

impl Checking {
    pub(super) fn new(check: Option<Box<dyn ContentCheck>>) -> Self {
        Self { check, ..Self::default() }
    }

    fn add(&mut self, findings: Vec<Finding>) {
        let fails = self.check.as_ref().is_none_or(|check| check.fails_verification());
        for finding in findings {
            match finding.severity {
                Severity::Broken if fails && self.broken.len() == MAX_FOUND => self.more += 1,
                Severity::Broken if fails => self.broken.push(finding.to_string()),
                _ if self.told.len() == MAX_FOUND => {}
                _ => self.told.push(finding.to_string()),
            }
        }
    }

    /// What speaks against files so far, or may.
    fn doubts(&self) -> u64 {
        self.broken.len() as u64 + self.more + self.undecided
    }
}

/// What the look at an archive's contents has shown.
pub(super) struct Proven {
    pub(super) entries: u64,
    pub(super) lost: Lost,
    pub(super) findings: Vec<String>,
    /// What is worth knowing and does no harm.
    pub(super) told: Vec<String>,
}

/// What is known of a file before it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Nothing,
    /// Its bytes are right, as far as the packs are; whether its check passed is not known.
    Bytes,
    /// Its bytes are right and its check passed.
    All,
}

/// What the walk over the entries met.
#[derive(Default)]
struct Walk {
    counts: Counts,
    lost: Lost,
    last: Option<EntryPath>,
    /// A page could not be read, so the counts are not the archive's.
    has_gaps: bool,
    opened: HashSet<BlobId>,
    /// Of contents that are not what they should be: which of them is to blame shows by their ids.
    doubted: HashSet<BlobId>,
}

impl Contents<'_> {
    /// How many entries were read, and everything that is wrong.
    pub(super) fn prove(mut self, refs: &Refs) -> Result<Proven, RepositoryError> {
        let mut walk = Walk::default();
        let told = self.reader.manifest().counts;
        match self.reader.page_table() {
            Ok(table) => self.pages(&table, &mut walk)?,
            Err(error) if self.is_loss(&error) => {
                walk.has_gaps = true;
                walk.lost.unnamed = told.entries();
                self.findings.push("no entry can be listed: the page table is damaged".to_owned());
            }
            Err(error) => return Err(error),
        }
        if !walk.lost.entries.is_empty() {
            self.findings.push(lost_line(&walk.lost.entries));
        }
        if !walk.has_gaps && (walk.counts.entries(), walk.counts.bytes) != (told.entries(), told.bytes) {
            self.findings.push("the entries are not those that the manifest counts".to_owned());
        }
        let is_all = !walk.has_gaps && walk.lost.is_empty();
        if is_all {
            self.again(&mut walk)?;
        }
        if let Some(check) = self.check.check.as_mut() {
            let findings = if is_all { check.end() } else { check.held_back() };
            self.check.add(findings);
        }
        walk.opened.retain(|blob| !walk.doubted.contains(blob));
        self.all_blobs(refs, &walk.opened)?;
        let Checking { broken, told, more, .. } = self.check;
        self.findings.extend(broken);
        self.findings.extend((more > 0).then(|| format!("{more} more files are not what they should be")));
        Ok(Proven { entries: walk.counts.entries(), lost: walk.lost, findings: self.findings, told })
    }

    fn pages(&mut self, table: &PageTable, walk: &mut Walk) -> Result<(), RepositoryError> {
        for (at, line) in table.pages.iter().enumerate() {
            let entries = match self.reader.page(&line.id) {
                Ok(entries) => entries,
                Err(error) if self.is_loss(&error) => {
                    let end =
                        table.pages.get(at + 1).map_or("the end".to_owned(), |next| next.first.to_string());
                    let from = format!("{} entries from {} to {end}", line.entries, line.first);
                    self.findings.push(format!("{from} cannot be listed"));
                    walk.lost.unnamed += line.entries;
                    walk.has_gaps = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let fits = entries.first().is_some_and(|entry| entry.path == line.first)
                && entries.len() as u64 == line.entries
                && walk.last.as_ref().is_none_or(|last| *last < line.first);
            if !fits {
                self.findings.push(format!("the page that begins with {} is not in its place", line.first));
                walk.has_gaps = true;
            }
            entries.iter().for_each(|entry| count(&mut walk.counts, entry));
            let before = (walk.lost.entries.len(), self.check.doubts());
            match self.memory.page(&line.id) {
                Some(at) => self.page_again(&entries, at, walk)?,
                None => {
                    self.page_anew(&entries, walk)?;
                    if (walk.lost.entries.len(), self.check.doubts()) == before {
                        self.memory.witness.page(&line.id);
                    }
                }
            }
            walk.last = entries.last().map(|entry| entry.path.clone()).or_else(|| walk.last.take());
        }
        Ok(())
    }

    /// Gives the check the files that it wants once more.
    fn again(&mut self, walk: &mut Walk) -> Result<(), RepositoryError> {
        self.reader.expect_nothing();
        let mut files = 0;
        for _ in 0..MAX_AGAIN {
            let wanted = self.check.check.as_mut().map(|check| check.again()).unwrap_or_default();
            files += wanted.len();
            if wanted.is_empty() || files > MAX_FILES_AGAIN {
                break;
            }
            for path in wanted {
                self.go_on()?;
                let Ok(path) = EntryPath::new(&path) else { continue };
                let entry = match self.reader.entry(&path) {
                    Err(error) if self.is_loss(&error) => None,
                    other => other?,
                };
                if let Some(Entry { kind: EntryKind::File(content), .. }) = entry
                    && let Err(error) = self.file(&path, &content, Trust::All, walk)
                    && !self.is_loss(&error)
                {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn page_anew(&mut self, entries: &[Entry], walk: &mut Walk) -> Result<(), RepositoryError> {
        self.reader.expect_nothing();
        self.reader.expect(entries.iter().flat_map(blobs_of));
        for (nth, entry) in entries.iter().enumerate() {
            self.go_on()?;
            if !self.is_restorable(entry, Trust::Nothing, walk)? {
                walk.lost.entries.push(entry.path.clone());
                // Its other pieces are not asked for.
                self.reader.expect_nothing();
                self.reader.expect(entries[nth + 1..].iter().flat_map(blobs_of));
            }
        }
        Ok(())
    }

    /// A page whose entries were proven before: they are what they were unless a blob of theirs is damaged
    /// or gone, and are read again only for a check that compares files. Whether the blobs open is looked at
    /// pack by pack.
    fn page_again(
        &mut self,
        entries: &[Entry],
        proven_at: Timestamp,
        walk: &mut Walk,
    ) -> Result<(), RepositoryError> {
        let in_this_run = proven_at >= self.memory.since;
        for entry in entries {
            self.go_on()?;
            let EntryKind::File(content) = &entry.kind else { continue };
            let trust = match self.is_in_doubt(content, in_this_run, walk)? {
                true => Trust::Nothing,
                false if proven_at == Timestamp::MIN => Trust::Bytes,
                false => Trust::All,
            };
            if !self.is_restorable(entry, trust, walk)? {
                walk.lost.entries.push(entry.path.clone());
            }
        }
        Ok(())
    }

    fn is_in_doubt(
        &mut self,
        content: &FileContent,
        in_this_run: bool,
        walk: &mut Walk,
    ) -> Result<bool, RepositoryError> {
        let lists = if let Pieces::Listed(lists) = &content.pieces { lists.clone() } else { Vec::new() };
        if lists.iter().any(|list| !self.is_sound(list)) {
            return Ok(true);
        }
        if self.is_whole && !in_this_run {
            return Ok(false);
        }
        let pieces = match self.reader.pieces(&content.pieces) {
            Err(error) if self.is_loss(&error) => return Ok(true),
            other => other?,
        };
        let is_in_doubt = pieces.iter().any(|piece| !self.is_sound(&piece.blob));
        if in_this_run && !is_in_doubt {
            walk.opened.extend(lists);
            walk.opened.extend(pieces.iter().map(|piece| piece.blob));
        }
        Ok(is_in_doubt)
    }

    /// True if the blob lies in a pack that nothing is known against.
    fn is_sound(&self, blob: &BlobId) -> bool {
        let place = self.reader.address(blob).and_then(|address| self.reader.index().place(&address));
        place.is_some_and(|place| !self.bad_packs.contains(&place.pack))
    }

    /// True if bytes are wrong or gone, and not just out of reach. Where the disk does not give the bytes of
    /// a pack, that was told of the pack.
    fn is_loss(&self, error: &RepositoryError) -> bool {
        error.is_damage() || (matches!(error, RepositoryError::Store(_)) && !self.bad_packs.is_empty())
    }

    fn go_on(&self) -> Result<(), RepositoryError> {
        if self.cancel.is_cancelled() { Err(RepositoryError::Cancelled) } else { Ok(()) }
    }

    fn is_restorable(
        &mut self,
        entry: &Entry,
        trust: Trust,
        walk: &mut Walk,
    ) -> Result<bool, RepositoryError> {
        let result = match &entry.kind {
            EntryKind::File(content) => self.file(&entry.path, content, trust, walk),
            EntryKind::HardLink { to } => self.reader.entry(to).map(|first| {
                let is_file =
                    |kind: &EntryKind| !matches!(kind, EntryKind::Folder | EntryKind::HardLink { .. });
                first.is_some_and(|first| is_file(&first.kind))
            }),
            _ => Ok(true),
        };
        match result {
            Err(error) if self.is_loss(&error) => Ok(false),
            other => other,
        }
    }

    /// False if its content is not what its id says. One whose bytes are trusted is read only as far as the
    /// check wants it.
    fn file(
        &mut self,
        path: &EntryPath,
        content: &FileContent,
        trust: Trust,
        walk: &mut Walk,
    ) -> Result<bool, RepositoryError> {
        let reads_all = trust == Trust::Nothing;
        let Some(mut check) = self.check.check.take() else {
            return if reads_all { self.is_content_proven(content, (None, true), walk) } else { Ok(true) };
        };
        let is_proven = trust == Trust::All || (trust == Trust::Bytes && !check.reads_little());
        let wants_it = check.file(CheckedFile { path: path.as_bytes(), length: content.size, is_proven });
        let mut feed = wants_it.then(|| Feed::new(check.as_mut(), path.as_bytes()));
        let is_right = match reads_all || wants_it {
            true => self.is_content_proven(content, (feed.as_mut(), reads_all), walk),
            false => Ok(true),
        };
        let found = feed.map(|feed| feed.end(content.size)).unwrap_or_default();
        self.check.undecided += u64::from(wants_it && check.is_undecided());
        self.check.check = Some(check);
        if let Ok(true) = is_right {
            self.check.add(found);
        }
        is_right
    }

    fn is_content_proven(
        &mut self,
        content: &FileContent,
        how: (Option<&mut Feed<'_>>, bool),
        walk: &mut Walk,
    ) -> Result<bool, RepositoryError> {
        let proven = self.is_content_right(content, how, walk);
        // Where a piece is gone or does not open, nothing has proven the others either.
        if !matches!(proven, Ok(true))
            && let Ok(pieces) = self.reader.pieces(&content.pieces)
        {
            walk.doubted.extend(pieces.iter().map(|piece| piece.blob));
        }
        proven
    }

    fn is_content_right(
        &mut self,
        content: &FileContent,
        (mut feed, reads_all): (Option<&mut Feed<'_>>, bool),
        walk: &mut Walk,
    ) -> Result<bool, RepositoryError> {
        let extents = content.layout.extents(content.size);
        let mut hash = ExtentHasher::new(ContentHasher::new(self.reader.id_key()), &extents);
        let lists = match &content.pieces {
            Pieces::Inline(_) => vec![None],
            Pieces::Listed(lists) => lists.iter().copied().map(Some).collect(),
        };
        for list in lists {
            let pieces = match (list, &content.pieces) {
                (Some(list), _) => {
                    walk.opened.insert(list);
                    self.reader.piece_list(&list)?
                }
                (None, inline) => self.reader.pieces(inline)?,
            };
            if list.is_some() && reads_all {
                self.reader.expect(pieces.iter().map(|piece| piece.blob));
            }
            for piece in pieces {
                self.go_on()?;
                let plain = self.reader.piece(&piece)?;
                walk.opened.insert(piece.blob);
                if !hash.data(&plain, feed.as_deref_mut()) {
                    return Ok(false);
                }
                if !reads_all && feed.as_ref().is_some_and(|feed| !feed.wants_more()) {
                    return Ok(true);
                }
            }
        }
        Ok(hash.finish(content.size) == Some(content.id))
    }

    /// Opens whatever the entries did not lead to: the problems list, and blobs of entries that are lost.
    /// A pack whose every blob has been opened then is proven.
    fn all_blobs(&mut self, refs: &Refs, opened: &HashSet<BlobId>) -> Result<(), RepositoryError> {
        let mut packs: BTreeSet<PackId> = self.reader.index().packs_of(refs).into_keys().collect();
        packs.retain(|pack| !self.memory.is_opened(pack) && !self.bad_packs.contains(pack));
        for (segment, _) in refs.segments() {
            for ordinal in refs.ordinals(&segment) {
                self.go_on()?;
                let address = BlobAddress { segment, ordinal };
                let Some(place) = self.reader.index().place(&address) else { continue };
                if self.is_opened(&place, opened) || self.memory.is_opened(&place.pack) {
                    continue;
                }
                match self.reader.open_at(&place) {
                    Ok(_) => {}
                    Err(_) if self.bad_packs.contains(&place.pack) => {}
                    Err(error) if self.is_loss(&error) => {
                        packs.remove(&place.pack);
                        self.findings.push(full(&error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        for pack in packs {
            if self.is_pack_proven(&pack, refs, opened)? {
                self.memory.witness.opened(&pack);
            }
        }
        Ok(())
    }

    fn is_opened(&self, place: &BlobPlace, opened: &HashSet<BlobId>) -> bool {
        opened.contains(&place.line.id) && self.reader.address(&place.line.id) == Some(place.address)
    }

    /// Opens the blobs of a pack that this archive does not need: they belong to others, which need not
    /// read the pack again then.
    fn is_pack_proven(
        &mut self,
        pack: &PackId,
        refs: &Refs,
        opened: &HashSet<BlobId>,
    ) -> Result<bool, RepositoryError> {
        let segments: Vec<SegmentId> = self
            .reader
            .index()
            .packs()
            .iter()
            .filter(|known| known.id == *pack)
            .flat_map(|known| known.segments.iter().map(|placed| placed.table.header.context.segment))
            .collect();
        for segment in segments {
            let needed: HashSet<u32> = refs.ordinals(&segment).collect();
            let known = self.reader.index().segment(&segment);
            let Some((_, placed)) = known.filter(|(known, _)| known.id == *pack) else {
                // Another pack holds the segment too, and that one was read.
                return Ok(false);
            };
            let lines = (0..).zip(&placed.table.lines).filter(|(_, line)| !line.absent);
            let spare: Vec<u32> =
                lines.map(|(ordinal, _)| ordinal).filter(|ordinal| !needed.contains(ordinal)).collect();
            for ordinal in spare {
                self.go_on()?;
                let place = self.reader.index().place(&BlobAddress { segment, ordinal });
                let Some(place) = place.filter(|place| !self.is_opened(place, opened)) else { continue };
                match self.reader.open_at(&place) {
                    Ok(_) => {}
                    Err(error) if self.is_loss(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(true)
    }
}

/// Hashes pieces, which know nothing of extents, extent by extent.
struct ExtentHasher<'a> {
    hasher: ContentHasher,
    extents: std::slice::Iter<'a, Extent>,
    current: Option<(Extent, u64)>,
}

impl<'a> ExtentHasher<'a> {
    fn new(hasher: ContentHasher, extents: &'a [Extent]) -> Self {
        Self { hasher, extents: extents.iter(), current: None }
    }

    /// False if there is more data than the extents have room for. What fits is given to `feed`, too.
    fn data(&mut self, mut bytes: &[u8], mut feed: Option<&mut Feed<'_>>) -> bool {
        while !bytes.is_empty() {
            let (extent, left) = match self.current.take() {
                Some(current) => current,
                None => match self.extents.next() {
                    Some(extent) => (*extent, extent.length),
                    None => return false,
                },
            };
            let taken = left.min(bytes.len() as u64);
            let (now, later) = bytes.split_at(taken as usize);
            self.hasher.data(now);
            if let Some(feed) = feed.as_deref_mut() {
                feed.data(extent.offset + extent.length - left, now);
            }
            bytes = later;
            if left == taken {
                self.hasher.extent_ends(extent)
            } else {
                self.current = Some((extent, left - taken))
            }
        }
        true
    }

    /// `None` if there was less data than the extents have room for.
    fn finish(mut self, size: u64) -> Option<crate::ids::ContentId> {
        let is_whole = self.current.is_none() && self.extents.next().is_none();
        is_whole.then(|| self.hasher.finish(size))
    }
}

/// The blobs that the entry's content begins with: its pieces, or the lists of them.
fn blobs_of(entry: &Entry) -> Vec<BlobId> {
    match &entry.kind {
        EntryKind::File(FileContent { pieces: Pieces::Inline(pieces), .. }) => {
            pieces.iter().map(|piece| piece.blob).collect()
        }
        EntryKind::File(FileContent { pieces: Pieces::Listed(lists), .. }) => lists.clone(),
        _ => Vec::new(),
    }
}

fn count(counts: &mut Counts, entry: &Entry) {
    match &entry.kind {
        EntryKind::Folder => counts.folders += 1,
        EntryKind::File(content) => {
            counts.files += 1;
            counts.bytes += content.size;
        }
        EntryKind::Symlink { .. } | EntryKind::HardLink { .. } => counts.links += 1,
        EntryKind::Fifo | EntryKind::Socket | EntryKind::Device { .. } => counts.specials += 1,
    }
}
