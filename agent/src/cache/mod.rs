//! The no-change cache: what the last archive of a source knew of each file, so that a file that did not
//! change is neither read nor sent again.
//!
//! One file per source, its records in path order like the walk, so that using it is a merge of two
//! sorted streams and takes the memory of one block. It is an optimisation and never the truth: lost,
//! damaged or from another repository it is ignored, and what it would have saved is read again.
//!
//! Must stay true: a record is used only as [`rules`] allow it; a file's record is written only when its
//! stamp was the same before and after it was read; a new cache takes the old one's place only after the
//! controller accepted the archive that it describes.

mod draft;
mod file;
mod notation;
pub(crate) mod rules;

pub(crate) use draft::sweep;
pub(crate) use file::{CacheReader, CacheWriter, PendingCache};
pub(crate) use notation::decode_records as decode_block;

use repository::archive::entry::{FileContent, Layout, MAX_INLINE_PIECES, Piece, Pieces};
use repository::archive::path::EntryPath;
use repository::ids::{BlobId, ContentId, DomainId, RepositoryId};

use crate::sources::Stamp;

/// Days since 1970-01-01 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(pub(crate) u32);

/// What a cache belongs to; another repository or domain cannot use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheOwner {
    pub(crate) repository: RepositoryId,
    pub(crate) domain: DomainId,
}

/// One regular file as the last archive recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: EntryPath,
    /// Before and after the read.
    pub(crate) stamp: Stamp,
    /// Its times were old enough when it was read that no later change could have left them equal.
    pub(crate) trusted: bool,
    /// When its content was really read.
    pub(crate) read_on: Day,
    pub(crate) content: StoredContent,
}

/// A file's content with every blob that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredContent {
    pub(crate) id: ContentId,
    pub(crate) layout: Layout,
    /// All of them, also where `lists` is not empty: an agent cannot read a list back.
    pub(crate) pieces: Vec<Piece>,
    /// The blobs of kind `pieces`; empty when the entry lists its pieces itself.
    pub(crate) lists: Vec<BlobId>,
}

impl StoredContent {
    /// As the archive's entry has it, for a file of `size` bytes.
    pub(crate) fn entry_content(&self, size: u64) -> FileContent {
        let pieces = if self.lists.is_empty() {
            assert!(self.pieces.len() <= MAX_INLINE_PIECES, "longer lists of pieces have blobs of their own");
            Pieces::Inline(self.pieces.clone())
        } else {
            Pieces::Listed(self.lists.clone())
        };
        FileContent { size, id: self.id, layout: self.layout.clone(), pieces }
    }

    /// Every blob that a restore of this content fetches.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &BlobId> {
        self.lists.iter().chain(self.pieces.iter().map(|piece| &piece.blob))
    }
}

#[cfg(test)]
mod tests;
