//! Gets the content of a regular file, from what is live or from its pieces, has it written, and proves that it is the
//! right one.
//!
//! Must stay true: a file is done only when the bytes that were written have the content's id.

use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use repository::archive::entry::{Entry, FileContent, Metadata, Piece, Pieces};
use repository::archive::page::decode_pieces;
use repository::archive::path::EntryPath;
use repository::ids::{BlobId, ContentId};

use super::disk::Disk;
use super::error::{RestoreError, failed};
use super::here::{Here, LiveFile};
use super::incoming::{AHEAD_BLOBS, Incoming};
use super::request::Tools;
use super::sink::Sink;
use super::writing::{Ended, Writing};
use crate::targets::BlobReader;

/// A file whose content is written: what is left to do.
pub(super) struct Written {
    pub(super) file: OwnedFd,
    pub(super) path: EntryPath,
    pub(super) metadata: Metadata,
}

/// What a file that is being written must become.
struct Expected {
    path: EntryPath,
    metadata: Metadata,
    id: ContentId,
    size: u64,
}

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
    writing: Writing<Expected>,
}

impl<'a> ContentWriter<'a> {
    pub(super) fn new(
        disk: Disk<'a>,
        tools: Tools<'a>,
        blobs: &'a mut dyn BlobReader,
        here: Here<'a>,
    ) -> Self {
        Self {
            disk,
            tools,
            blobs,
            last: None,
            here,
            written: 0,
            from_here: 0,
            again: 0,
            writing: Writing::new(),
        }
    }

    /// Has the entry's `content` written into the new and empty `file`; holes stay holes. If it is not done at once,
    /// [`Self::written`] gives it back later.
    pub(super) fn write<I, E>(
        &mut self,
        file: OwnedFd,
        entry: &Entry,
        (content, metadata): (&FileContent, Metadata),
        incoming: &Incoming<'_, I>,
    ) -> Result<Option<Written>, RestoreError>
    where
        I: Iterator<Item = Result<Entry, E>>,
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = &entry.path;
        let expected = Expected { path: path.clone(), metadata, id: content.id, size: content.size };
        if let Some(live) = self.here.find(entry) {
            if let Some(content) = self.copy(&file, path, content, &live)? {
                return self.check(Ended { file, content }, expected).map(Some);
            }
            self.disk.set_length(&file, 0).map_err(failed("set the length of", path))?;
        }
        let ahead = || incoming.blobs_ahead();
        self.writing.begin(file, path.clone(), Sink::new(content, self.tools.id_key))?;
        match &content.pieces {
            Pieces::Inline(pieces) => self.pieces(path, pieces, ahead)?,
            Pieces::Listed(lists) => {
                for (n, list) in lists.iter().enumerate() {
                    let lists_ahead = || lists[n + 1..].iter().copied();
                    let bytes = self.blob(path, list, lists_ahead())?;
                    let pieces = decode_pieces(&bytes).map_err(|error| {
                        RestoreError::archive(path, format!("its list of pieces: {error}"))
                    })?;
                    self.pieces(path, &pieces, lists_ahead)?;
                }
            }
        }
        self.writing.end(expected)?;
        Ok(None)
    }

    /// The next file that is written, in the order in which they were begun; waits for it where too many are open, and
    /// where `all` are wanted.
    pub(super) fn written(&mut self, all: bool) -> Result<Option<Written>, RestoreError> {
        let next = self.writing.next(all)?;
        next.map(|(ended, expected)| self.check(ended, expected)).transpose()
    }

    /// Writes nothing more.
    pub(super) fn stop(&mut self) {
        self.writing.stop();
    }

    fn check(&self, ended: Ended, expected: Expected) -> Result<Written, RestoreError> {
        let Expected { path, metadata, id, size } = expected;
        let (found, length) = ended.content;
        if length < size {
            // A hole at the end is made by the length alone.
            self.disk.set_length(&ended.file, size).map_err(failed("set the length of", &path))?;
        }
        if found != id {
            return Err(RestoreError::archive(&path, "its content is not what was backed up"));
        }
        Ok(Written { file: ended.file, path, metadata })
    }

    /// Copies what is live; if it is the content, its id and where its last byte ends.
    fn copy(
        &mut self,
        file: impl AsFd,
        path: &EntryPath,
        content: &FileContent,
        live: &LiveFile,
    ) -> Result<Option<(ContentId, u64)>, RestoreError> {
        let Self { disk, tools, here, blobs, .. } = self;
        let (mut sink, mut copied) = (Sink::new(content, tools.id_key), 0);
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
                self.written += copied;
                self.from_here += copied;
                return Ok(Some((id, length)));
            }
        }
        self.again += copied;
        Ok(None)
    }

    fn pieces<A: Iterator<Item = BlobId>>(
        &mut self,
        path: &EntryPath,
        pieces: &[Piece],
        ahead: impl Fn() -> A,
    ) -> Result<(), RestoreError> {
        for (n, piece) in pieces.iter().enumerate() {
            if self.tools.cancel.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let bytes =
                self.blob(path, &piece.blob, pieces[n + 1..].iter().map(|p| p.blob).chain(ahead()))?;
            let end = piece.offset as usize + piece.length as usize;
            if end > bytes.len() {
                return Err(RestoreError::archive(path, "a piece of it lies outside of its blob"));
            }
            let pen = self.disk.pen().map_err(failed("write", path))?;
            self.writing.piece(pen, &piece.blob, &bytes, piece.offset as usize..end)?;
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
