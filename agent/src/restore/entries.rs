//! An archive's entries, in order, page by page.

use repository::archive::entry::Entry;
use repository::archive::page::{PageTable, decode_page};
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

/// All entries of an archive. Ends after its first error.
pub(crate) struct ArchiveEntries<R> {
    blobs: R,
    pages: Vec<BlobId>,
    next_page: usize,
    page: std::vec::IntoIter<Entry>,
}

impl<R: BlobReader> ArchiveEntries<R> {
    /// The entries of the archive with this page table.
    pub(crate) fn open(mut blobs: R, root: &BlobId) -> Result<Self, EntriesError> {
        let table = PageTable::decode(&blobs.blob(root)?)?;
        let pages = table.pages.into_iter().map(|page| page.id).collect();
        Ok(Self { blobs, pages, next_page: 0, page: Vec::new().into_iter() })
    }

    fn turn(&mut self, page: BlobId) -> Result<(), EntriesError> {
        let ahead = (self.next_page + AHEAD).min(self.pages.len());
        self.blobs.hint(&self.pages[self.next_page..ahead]);
        let plain = self.blobs.blob(&page)?;
        self.page = decode_page(&plain)?.into_iter();
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
            let page = *self.pages.get(self.next_page)?;
            if let Err(error) = self.turn(page) {
                self.next_page = self.pages.len();
                return Some(Err(error));
            }
        }
    }
}
