//! An archive's entries, in order, page by page.

use repository::archive::entry::Entry;
use repository::archive::page::{PageLine, PageTable, decode_page};
use repository::codec::Malformed;
use repository::ids::BlobId;

use crate::targets::{BlobError, BlobReader};

/// Pages that are fetched ahead.
const AHEAD: usize = 4;

/// The next entry cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntriesError {
    #[error("cannot get a page of the archive's entries")]
    Blob(#[from] BlobError),
    #[error("a page of the archive's entries is wrong")]
    Malformed(#[from] Malformed),
}

impl EntriesError {
    /// Nobody could fetch it: that says nothing about the archive.
    pub(crate) fn is_broken_off(&self) -> bool {
        matches!(self, Self::Blob(BlobError::Fetch { .. }))
    }
}

/// All entries of an archive. Ends after its first error.
pub(crate) struct ArchiveEntries<R> {
    blobs: R,
    pages: Vec<PageLine>,
    next_page: usize,
    page: std::vec::IntoIter<Entry>,
}

impl<R: BlobReader> ArchiveEntries<R> {
    /// The entries of the archive with this page table.
    pub(crate) fn open(mut blobs: R, root: &BlobId) -> Result<Self, EntriesError> {
        let table = PageTable::decode(&blobs.blob(root)?)?;
        Ok(Self { blobs, pages: table.pages, next_page: 0, page: Vec::new().into_iter() })
    }

    fn turn(&mut self) -> Result<(), EntriesError> {
        let ahead = (self.next_page + AHEAD).min(self.pages.len());
        let upcoming: Vec<BlobId> = self.pages[self.next_page..ahead].iter().map(|page| page.id).collect();
        self.blobs.hint(&upcoming);
        let line = &self.pages[self.next_page];
        let entries = decode_page(&self.blobs.blob(&line.id)?)?;
        let fits = entries.first().is_some_and(|entry| entry.path == line.first);
        if !fits || entries.len() as u64 != line.entries {
            return Err(Malformed::new("page", "it is not what its table says").into());
        }
        self.page = entries.into_iter();
        self.next_page += 1;
        Ok(())
    }
}

impl<R: BlobReader> Iterator for ArchiveEntries<R> {
    type Item = Result<Entry, EntriesError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            if self.next_page == self.pages.len() {
                return None;
            }
            if let Err(error) = self.turn() {
                self.next_page = self.pages.len();
                return Some(Err(error));
            }
        }
    }
}
