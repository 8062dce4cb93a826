//! The contents of an archive's files: bytes that are there, and blocks that are read as they come.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use repository::archive::entry::Layout;
use repository::cut::SMALL_FILE;

use super::Shared;
use super::rpc::Trouble;
use super::walk::Walk;
use crate::sources::{Content, Opened, ReadError, Stamp};

/// The size of what nobody has counted: more than any node has.
const UNKNOWN: u64 = i64::MAX as u64;

/// A file whose bytes are known.
pub(crate) struct Text {
    bytes: Vec<u8>,
    read: usize,
    stamp: Stamp,
}

impl Text {
    pub(crate) fn new(bytes: Vec<u8>, stamp: Stamp) -> Self {
        let stamp = Stamp { size: bytes.len() as u64, ..stamp };
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

/// All blocks, in one file. Its beginning is read when it is opened, so that a small one is a small file.
pub(super) struct BlocksFile {
    shared: Arc<Mutex<Shared>>,
    stamp: Stamp,
    walk: Option<Walk>,
    held: Vec<u8>,
    read: usize,
}

impl BlocksFile {
    pub(super) fn new(shared: &Arc<Mutex<Shared>>, stamp: Stamp) -> Self {
        Self { shared: Arc::clone(shared), stamp, walk: None, held: Vec::new(), read: 0 }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the next block; at the end what came of it is told.
    fn more(&mut self) -> Result<(), ReadError> {
        let Some(walk) = &mut self.walk else { return Ok(()) };
        match walk.next(&mut self.held) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let walk = self.walk.take().expect("it was just used");
                self.shared().ended(walk);
                Ok(())
            }
            Err(trouble) => Err(self.lost(trouble)),
        }
    }

    fn lost(&self, trouble: Trouble) -> ReadError {
        self.shared().gone = Some(trouble.clone());
        ReadError { vanished: false, source: io::Error::other(trouble) }
    }
}

impl Content for BlocksFile {
    fn open(&mut self) -> Result<Opened, ReadError> {
        let begun = self.shared().begin();
        let (header, walk) = begun.map_err(|trouble| self.lost(trouble))?;
        self.held = header;
        self.walk = Some(walk);
        while self.walk.is_some() && self.held.len() as u64 <= SMALL_FILE {
            self.more()?;
        }
        let is_stream = self.walk.is_some();
        self.stamp.size = if is_stream { UNKNOWN } else { self.held.len() as u64 };
        Ok(Opened { stamp: self.stamp, layout: Layout::Dense, is_stream })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        while self.read == self.held.len() && self.walk.is_some() {
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
