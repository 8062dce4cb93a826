//! Writes the content of a regular file from its pieces, and proves that it is the right one.

use std::os::fd::AsFd;

use bytes::Bytes;
use repository::archive::entry::{Entry, Extent, FileContent, Piece, Pieces};
use repository::archive::page::decode_pieces;
use repository::archive::path::EntryPath;
use repository::content::ContentHasher;
use repository::ids::BlobId;

use super::disk::Disk;
use super::error::{RestoreError, failed};
use super::here::{Here, LiveFile};
use super::incoming::{AHEAD_BLOBS, Incoming};
use super::request::Tools;
use crate::targets::BlobReader;

/// Fetches blobs, and keeps the last one: neighbours of a bundle follow each other.
pub(super) struct ContentWriter<'a> {
    disk: Disk<'a>,
    tools: Tools<'a>,
    blobs: &'a mut dyn BlobReader,
    last: Option<(BlobId, Bytes)>,
    here: Here<'a>,
    /// Bytes written so far.
    pub(super) written: u64,
    /// Of them those that were copied from what is live.
    pub(super) from_here: u64,
    /// Bytes that were told as written and have to be written once more.
    again: u64,
}

impl<'a> ContentWriter<'a> {
    pub(super) fn new(
        disk: Disk<'a>,
        tools: Tools<'a>,
        blobs: &'a mut dyn BlobReader,
        here: Here<'a>,
    ) -> Self {
        Self { disk, tools, blobs, last: None, here, written: 0, from_here: 0, again: 0 }
    }

    /// Writes the entry's `content` into the new and empty `file`; holes stay holes.
    pub(super) fn write<I, E>(
        &mut self,
        file: impl AsFd,
        entry: &Entry,
        content: &FileContent,
        incoming: &Incoming<'_, I>,
    ) -> Result<(), RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = &entry.path;
        if let Some(live) = self.here.find(entry) {
            if self.copy(&file, path, content, &live)? {
                return Ok(());
            }
            self.disk.set_length(&file, 0).map_err(failed("set the length of", path))?;
        }
        let ahead = || incoming.blobs_ahead();
        let mut sink = Sink::new(content, self.tools);
        match &content.pieces {
            Pieces::Inline(pieces) => self.pieces(&file, path, pieces, &mut sink, ahead)?,
            Pieces::Listed(lists) => {
                for (n, list) in lists.iter().enumerate() {
                    let lists_ahead = || lists[n + 1..].iter().copied();
                    let bytes = self.blob(path, list, lists_ahead())?;
                    let pieces = decode_pieces(&bytes).map_err(|error| {
                        RestoreError::archive(path, format!("its list of pieces: {error}"))
                    })?;
                    self.pieces(&file, path, &pieces, &mut sink, lists_ahead)?;
                }
            }
        }
        let (id, length) = sink.finish(path)?;
        self.end_at(&file, path, length, content.size)?;
        if id != content.id {
            return Err(RestoreError::archive(path, "its content is not what was backed up"));
        }
        Ok(())
    }

    /// Copies what is live, and says whether it is the content.
    fn copy(
        &mut self,
        file: impl AsFd,
        path: &EntryPath,
        content: &FileContent,
        live: &LiveFile,
    ) -> Result<bool, RestoreError> {
        let Self { disk, tools, here, blobs, .. } = self;
        let (mut sink, mut copied) = (Sink::new(content, *tools), 0);
        let is_whole = here.read(live, content, |mut part| {
            if tools.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            blobs.meanwhile();
            copied += part.len() as u64;
            tools.progress.bytes_written(part.len() as u64);
            while !part.is_empty() {
                let (offset, piece) = sink.take(path, &mut part)?;
                disk.write_at(&file, piece, offset).map_err(failed("write", path))?;
            }
            Ok(())
        })?;
        if is_whole {
            let (id, length) = sink.finish(path)?;
            if id == content.id {
                self.end_at(&file, path, length, content.size)?;
                self.written += copied;
                self.from_here += copied;
                return Ok(true);
            }
        }
        self.again += copied;
        Ok(false)
    }

    /// A hole at the end is made by the length alone.
    fn end_at(&self, file: impl AsFd, path: &EntryPath, written: u64, size: u64) -> Result<(), RestoreError> {
        if written < size {
            self.disk.set_length(file, size).map_err(failed("set the length of", path))?;
        }
        Ok(())
    }

    fn pieces<A: Iterator<Item = BlobId>>(
        &mut self,
        file: impl AsFd,
        path: &EntryPath,
        pieces: &[Piece],
        sink: &mut Sink,
        ahead: impl Fn() -> A,
    ) -> Result<(), RestoreError> {
        for (n, piece) in pieces.iter().enumerate() {
            if self.tools.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let bytes =
                self.blob(path, &piece.blob, pieces[n + 1..].iter().map(|p| p.blob).chain(ahead()))?;
            let end = piece.offset as usize + piece.length as usize;
            let Some(mut slice) = bytes.get(piece.offset as usize..end) else {
                return Err(RestoreError::archive(path, "a piece of it lies outside of its blob"));
            };
            while !slice.is_empty() {
                let (offset, part) = sink.take(path, &mut slice)?;
                self.disk.write_at(&file, part, offset).map_err(failed("write", path))?;
            }
            self.written += u64::from(piece.length);
            let told = self.again.min(piece.length.into());
            self.again -= told;
            self.tools.progress.bytes_written(u64::from(piece.length) - told);
        }
        Ok(())
    }

    fn blob(
        &mut self,
        path: &EntryPath,
        id: &BlobId,
        ahead: impl Iterator<Item = BlobId>,
    ) -> Result<Bytes, RestoreError> {
        if let Some((last, bytes)) = &self.last
            && last == id
        {
            return Ok(bytes.clone());
        }
        let mut upcoming = vec![*id];
        for next in ahead {
            if upcoming.len() == AHEAD_BLOBS {
                break;
            }
            if upcoming.last() != Some(&next) {
                upcoming.push(next);
            }
        }
        self.blobs.hint(&upcoming);
        let bytes =
            self.blobs.blob(id).map_err(|source| RestoreError::Blob { path: path.clone(), source })?;
        self.last = Some((*id, bytes.clone()));
        Ok(bytes)
    }
}

/// Lays a stream of data into a file's extents, and hashes it on the way.
struct Sink {
    hasher: ContentHasher,
    size: u64,
    /// Not yet full, the next one last; of it `filled` bytes are done.
    extents: Vec<Extent>,
    filled: u64,
    /// Where the last written byte ends.
    length: u64,
}

impl Sink {
    fn new(content: &FileContent, tools: Tools<'_>) -> Self {
        let mut extents = content.layout.extents(content.size);
        extents.reverse();
        Self { hasher: ContentHasher::new(tools.id_key), size: content.size, extents, filled: 0, length: 0 }
    }

    /// Where the next bytes go, and as many of `data` as go there.
    fn take<'d>(&mut self, path: &EntryPath, data: &mut &'d [u8]) -> Result<(u64, &'d [u8]), RestoreError> {
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
    fn finish(self, path: &EntryPath) -> Result<(repository::ids::ContentId, u64), RestoreError> {
        if !self.extents.is_empty() {
            return Err(RestoreError::archive(path, "its pieces are shorter than the file"));
        }
        Ok((self.hasher.finish(self.size), self.length))
    }
}
