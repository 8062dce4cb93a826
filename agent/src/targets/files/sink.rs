//! Lays a stream of data into a file's extents, and hashes it on the way.

use repository::archive::entry::{Extent, FileContent};
use repository::archive::path::EntryPath;
use repository::content::{ContentHasher, IdKey};
use repository::ids::ContentId;

use super::error::RestoreError;

/// The way of one file's data.
pub(super) struct Sink {
    hasher: ContentHasher,
    size: u64,
    /// Not yet full, the next one last; of it `filled` bytes are done.
    extents: Vec<Extent>,
    filled: u64,
    /// Where the last written byte ends.
    length: u64,
}

impl Sink {
    pub(super) fn new(content: &FileContent, id_key: &IdKey) -> Self {
        let mut extents = content.layout.extents(content.size);
        extents.reverse();
        Self { hasher: ContentHasher::new(id_key), size: content.size, extents, filled: 0, length: 0 }
    }

    /// Where the next bytes go, and as many of `data` as go there.
    pub(super) fn take<'d>(
        &mut self,
        path: &EntryPath,
        data: &mut &'d [u8],
    ) -> Result<(u64, &'d [u8]), RestoreError> {
        let Some(extent) = self.extents.last().copied() else {
            return Err(RestoreError::archive(path, "its pieces are longer than the file"));
        };
        let room = usize::try_from(extent.length - self.filled).unwrap_or(usize::MAX);
        let (part, rest) = data.split_at(data.len().min(room));
        *data = rest;
        let offset = extent.offset + self.filled;
        self.hasher.data(part);
        self.filled += part.len() as u64;
        self.length = offset + part.len() as u64;
        if self.filled == extent.length {
            self.hasher.extent_ends(extent);
            self.extents.pop();
            self.filled = 0;
        }
        Ok((offset, part))
    }

    /// Which content it was, and where its last byte ended.
    pub(super) fn finish(self, path: &EntryPath) -> Result<(ContentId, u64), RestoreError> {
        if !self.extents.is_empty() {
            return Err(RestoreError::archive(path, "its pieces are shorter than the file"));
        }
        Ok((self.hasher.finish(self.size), self.length))
    }
}
