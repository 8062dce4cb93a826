//! The archive's entries as they come in, checked for what a restore relies on.
//!
//! Must stay true: what leaves here stands in the [`Order`] of an archive, and is no staging folder. So no
//! entry can be written twice, or through another entry that is a link.

use std::collections::VecDeque;

use repository::archive::entry::{Entry, EntryKind, FileContent, Layout, Pieces};
use repository::archive::order::Order;
use repository::archive::path::EntryPath;
use repository::ids::BlobId;

use super::area::is_staging;
use super::error::RestoreError;

/// How many entries are looked at ahead of the one that is written.
const AHEAD_ENTRIES: usize = 256;
/// How many blobs a reader is told of in advance; also ends the look ahead.
pub(super) const AHEAD_BLOBS: usize = 64;

/// The entries, checked, with a look ahead.
pub(super) struct Incoming<'a, I> {
    entries: I,
    ended: bool,
    order: Order,
    /// Each with whether its content is likely to be fetched.
    ahead: VecDeque<(Entry, bool)>,
    is_fetched: Box<dyn FnMut(&Entry) -> bool + 'a>,
    /// How many blobs the entries in `ahead` need.
    ahead_blobs: usize,
}

impl<'a, I, E> Incoming<'a, I>
where
    I: Iterator<Item = Result<Entry, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    /// Of what will be asked for, only blobs of entries are told in advance that `is_fetched` says yes to.
    pub(super) fn new(entries: I, is_fetched: impl FnMut(&Entry) -> bool + 'a) -> Self {
        let (order, ahead, is_fetched) = (Order::default(), VecDeque::new(), Box::new(is_fetched));
        Self { entries, ended: false, order, ahead, is_fetched, ahead_blobs: 0 }
    }

    /// The next entry; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, RestoreError> {
        while !self.ended && self.ahead.len() < AHEAD_ENTRIES && self.ahead_blobs < AHEAD_BLOBS {
            match self.entries.next() {
                Some(entry) => {
                    let entry = entry.map_err(|error| RestoreError::Entries(Box::new(error)))?;
                    self.check(&entry)?;
                    let is_fetched = (self.is_fetched)(&entry);
                    self.ahead_blobs += if is_fetched { blobs(&entry).count() } else { 0 };
                    self.ahead.push_back((entry, is_fetched));
                }
                None => {
                    self.ended = true;
                    if self.order.is_empty() {
                        return Err(RestoreError::archive(&EntryPath::root(), "the archive is empty"));
                    }
                }
            }
        }
        let Some((next, is_fetched)) = self.ahead.pop_front() else { return Ok(None) };
        self.ahead_blobs -= if is_fetched { blobs(&next).count() } else { 0 };
        Ok(Some(next))
    }

    /// The blobs that the entries after the current one will need.
    pub(super) fn blobs_ahead(&self) -> impl Iterator<Item = BlobId> {
        self.ahead.iter().filter(|(_, is_fetched)| *is_fetched).flat_map(|(entry, _)| blobs(entry))
    }

    fn check(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        let path = &entry.path;
        let refuse = |cause: &str| Err(RestoreError::archive(path, cause));
        if let Err(cause) = self.order.check(entry) {
            return refuse(cause);
        }
        match &entry.kind {
            // It would be ours alone, and what it holds would be believed.
            EntryKind::Folder if path.name().is_some_and(is_staging) => {
                return refuse("it has the name of a staging folder, of which no backup is made");
            }
            EntryKind::File(content) if !is_layout(content) => return refuse("its extents are not in order"),
            _ => {}
        }
        if entry.metadata.mode > 0o7777 || entry.metadata.mtime.nanoseconds > 999_999_999 {
            return refuse("its mode or time is out of range");
        }
        Ok(())
    }
}

/// The blobs that an entry names, each once as long as they follow each other.
fn blobs(entry: &Entry) -> impl Iterator<Item = BlobId> {
    let (inline, listed) = match &entry.kind {
        EntryKind::File(FileContent { pieces: Pieces::Inline(pieces), .. }) => (&pieces[..], &[][..]),
        EntryKind::File(FileContent { pieces: Pieces::Listed(blobs), .. }) => (&[][..], &blobs[..]),
        _ => (&[][..], &[][..]),
    };
    inline.chunk_by(|a, b| a.blob == b.blob).map(|same| same[0].blob).chain(listed.iter().copied())
}

/// True if the extents rise, do not touch and lie within the file.
fn is_layout(content: &FileContent) -> bool {
    let Layout::Sparse(extents) = &content.layout else { return true };
    let mut free_from = 0;
    extents.iter().all(|extent| {
        let end = extent.offset.checked_add(extent.length);
        let fits = extent.length > 0
            && (extent.offset > free_from || (extent.offset == 0 && free_from == 0))
            && end.is_some_and(|end| end <= content.size);
        free_from = end.unwrap_or(u64::MAX);
        fits
    })
}
