//! The contents of a dump's files: a text that is there, and a collection that is read as it comes.

use std::io;
use std::sync::Arc;

use repository::archive::entry::Layout;
use repository::cut::SMALL_FILE;

use super::ahead::Ahead;
use super::server::{Server, Trouble};
use crate::sources::{Content, Opened, ReadError, Stamp};

/// Documents that are asked for at once; the server gives fewer where they are large.
const BATCH: u32 = 1_000;
/// The size of what nobody has counted: more than any collection has.
const UNKNOWN: u64 = i64::MAX as u64;

/// A file whose bytes are known.
pub(super) struct Text {
    bytes: Vec<u8>,
    read: usize,
    stamp: Stamp,
}

impl Text {
    pub(super) fn new(bytes: Vec<u8>, stamp: Stamp) -> Self {
        Self { bytes, read: 0, stamp }
    }
}

impl Content for Text {
    fn open(&mut self) -> Result<Opened, ReadError> {
        self.read = 0;
        Ok(Opened { stamp: self.stamp, layout: Layout::Dense, is_stream: false })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        Ok(copy(&self.bytes, &mut self.read, buffer))
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        Ok(self.stamp)
    }
}

/// The documents of a collection, one after the other. Its first ones are read when it is opened, so that a
/// small one is a small file; a large one is a stream.
pub(super) struct Documents {
    server: Arc<Server>,
    database: String,
    collection: String,
    stamp: Stamp,
    /// None once its end was reached.
    ahead: Option<Ahead>,
    held: Vec<u8>,
    read: usize,
}

impl Documents {
    /// The documents of which `ahead` has begun.
    pub(super) fn new(
        server: &Arc<Server>,
        database: String,
        collection: String,
        stamp: Stamp,
        ahead: Ahead,
    ) -> Self {
        let server = Arc::clone(server);
        Self { server, database, collection, stamp, ahead: Some(ahead), held: Vec::new(), read: 0 }
    }

    /// Begins to read a collection.
    pub(super) fn begin(server: &Server, database: &str, collection: &str) -> Ahead {
        server.read_ahead(database, collection, BATCH)
    }

    /// Adds the next batch; at the end what was read goes.
    fn more(&mut self) -> Result<(), ReadError> {
        let Some(ahead) = &mut self.ahead else { return Ok(()) };
        match self.server.next_of(ahead).map_err(not_read)? {
            None => self.ahead = None,
            Some(batch) if self.held.is_empty() => self.held = batch,
            Some(batch) => self.held.extend_from_slice(&batch),
        }
        Ok(())
    }
}

impl Content for Documents {
    fn open(&mut self) -> Result<Opened, ReadError> {
        // One that was opened before is read from its beginning, and so is one that has waited for long.
        let is_fresh = self.held.is_empty() && self.ahead.as_ref().is_some_and(|ahead| !ahead.is_stale());
        if !is_fresh {
            self.ahead = Some(Self::begin(&self.server, &self.database, &self.collection));
            (self.held, self.read) = (Vec::new(), 0);
        }
        while self.ahead.is_some() && self.held.len() as u64 <= SMALL_FILE {
            self.more()?;
        }
        let is_stream = self.ahead.is_some();
        self.stamp.size = if is_stream { UNKNOWN } else { self.held.len() as u64 };
        Ok(Opened { stamp: self.stamp, layout: Layout::Dense, is_stream })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        while self.read == self.held.len() && self.ahead.is_some() {
            self.held.clear();
            self.read = 0;
            self.more()?;
        }
        Ok(copy(&self.held, &mut self.read, buffer))
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        Ok(self.stamp)
    }
}

fn copy(bytes: &[u8], read: &mut usize, buffer: &mut [u8]) -> usize {
    let rest = &bytes[*read..];
    let count = rest.len().min(buffer.len());
    buffer[..count].copy_from_slice(&rest[..count]);
    *read += count;
    count
}

fn not_read(trouble: Trouble) -> ReadError {
    ReadError { vanished: trouble.is_vanished, source: io::Error::other(trouble) }
}
