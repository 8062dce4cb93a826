//! The deepest look: every entry, every file's content, every blob, as a restore would need them.
//!
//! Must stay true: whatever a restore would refuse is a finding here. Contents are hashed over their
//! pieces in order, so that not only each piece is right but also what they make together.

use std::collections::{BTreeSet, HashSet};

use super::{full, lost_line};
use crate::archive::entry::{Entry, EntryKind, Extent, FileContent, Pieces};
use crate::archive::page::PageTable;
use crate::archive::path::EntryPath;
use crate::backup::manifest::Counts;
use crate::content::ContentHasher;
use crate::error::RepositoryError;
use crate::ids::{BlobId, PackId};
use crate::progress::CancelFlag;
use crate::read::ArchiveReader;
use crate::refs::{BlobAddress, Refs};

/// Proves one archive.
pub(super) struct Contents<'a> {
    pub(super) reader: ArchiveReader,
    pub(super) cancel: &'a CancelFlag,
    /// Packs that are told already: what does not open in them needs no line of its own.
    pub(super) bad_packs: &'a BTreeSet<PackId>,
    pub(super) findings: Vec<String>,
}

/// What the walk over the entries met.
#[derive(Default)]
struct Walk {
    counts: Counts,
    lost: Vec<EntryPath>,
    last: Option<EntryPath>,
    /// A page could not be read, so the counts are not the archive's.
    has_gaps: bool,
    opened: HashSet<BlobId>,
}

impl Contents<'_> {
    /// How many entries were read, and everything that is wrong.
    pub(super) fn prove(mut self, refs: &Refs) -> Result<(u64, Vec<String>), RepositoryError> {
        let mut walk = Walk::default();
        match self.reader.page_table() {
            Ok(table) => self.pages(&table, &mut walk)?,
            Err(error) if error.is_damage() => {
                walk.has_gaps = true;
                self.findings.push("no entry can be listed: the page table is damaged".to_owned());
            }
            Err(error) => return Err(error),
        }
        if !walk.lost.is_empty() {
            self.findings.push(lost_line(&walk.lost));
        }
        let told = self.reader.manifest().counts;
        if !walk.has_gaps && (walk.counts.entries(), walk.counts.bytes) != (told.entries(), told.bytes) {
            self.findings.push("the entries are not those that the manifest counts".to_owned());
        }
        self.all_blobs(refs, &walk.opened)?;
        Ok((walk.counts.entries(), self.findings))
    }

    fn pages(&mut self, table: &PageTable, walk: &mut Walk) -> Result<(), RepositoryError> {
        for (at, line) in table.pages.iter().enumerate() {
            let entries = match self.reader.page(&line.id) {
                Ok(entries) => entries,
                Err(error) if error.is_damage() => {
                    let end =
                        table.pages.get(at + 1).map_or("the end".to_owned(), |next| next.first.to_string());
                    let from = format!("{} entries from {} to {end}", line.entries, line.first);
                    self.findings.push(format!("{from} cannot be listed"));
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
            for entry in &entries {
                self.go_on()?;
                count(&mut walk.counts, entry);
                if !self.is_restorable(entry, walk)? {
                    walk.lost.push(entry.path.clone());
                }
            }
            walk.last = entries.last().map(|entry| entry.path.clone()).or_else(|| walk.last.take());
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), RepositoryError> {
        if self.cancel.is_cancelled() { Err(RepositoryError::Cancelled) } else { Ok(()) }
    }

    fn is_restorable(&mut self, entry: &Entry, walk: &mut Walk) -> Result<bool, RepositoryError> {
        let result = match &entry.kind {
            EntryKind::File(content) => self.is_content_right(content, walk),
            EntryKind::HardLink { to } => self.reader.entry(to).map(|first| {
                let is_file =
                    |kind: &EntryKind| !matches!(kind, EntryKind::Folder | EntryKind::HardLink { .. });
                first.is_some_and(|first| is_file(&first.kind))
            }),
            _ => Ok(true),
        };
        match result {
            Err(error) if error.is_damage() => Ok(false),
            // The disk does not give a pack's bytes: that was told of the pack.
            Err(RepositoryError::Store(_)) if !self.bad_packs.is_empty() => Ok(false),
            other => other,
        }
    }

    fn is_content_right(&mut self, content: &FileContent, walk: &mut Walk) -> Result<bool, RepositoryError> {
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
            for piece in pieces {
                self.go_on()?;
                let plain = self.reader.piece(&piece)?;
                walk.opened.insert(piece.blob);
                if !hash.data(&plain) {
                    return Ok(false);
                }
            }
        }
        Ok(hash.finish(content.size) == Some(content.id))
    }

    /// Opens whatever the entries did not lead to: the problems list, and blobs of entries that are lost.
    fn all_blobs(&mut self, refs: &Refs, opened: &HashSet<BlobId>) -> Result<(), RepositoryError> {
        for (segment, _) in refs.segments() {
            for ordinal in refs.ordinals(&segment) {
                self.go_on()?;
                let address = BlobAddress { segment, ordinal };
                let Some(place) = self.reader.index().place(&address) else { continue };
                if opened.contains(&place.line.id) {
                    continue;
                }
                let sealed = self.reader.sealed(&address);
                match sealed.and_then(|sealed| self.reader.unseal(&address, &place, sealed)) {
                    Ok(_) => {}
                    Err(_) if self.bad_packs.contains(&place.pack) => {}
                    Err(error) if error.is_damage() => self.findings.push(full(&error)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
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

    /// False if there is more data than the extents have room for.
    fn data(&mut self, mut bytes: &[u8]) -> bool {
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
