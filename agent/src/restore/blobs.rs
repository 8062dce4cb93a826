//! Blobs as a restore reads them: fetched ahead within a window, opened, kept for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use repository::ids::BlobId;

use super::fetch::{BlobStream, Fetched};
use super::map::BlobMap;
use crate::targets::{BlobError, BlobReader};

/// The most hints that are kept.
const MAX_HINTS: usize = 4_096;
/// The most blobs that are asked for ahead, however small they are.
const MAX_ASKED: usize = 256;

/// How much memory reading may take, in bytes of plaintext.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Asked for and not yet here.
    pub(crate) ahead: usize,
    /// Opened and kept.
    pub(crate) kept: usize,
}

impl Window {
    /// For the contents of files.
    pub(crate) const DATA: Window = Window { ahead: 32 << 20, kept: 64 << 20 };
    /// For pages, which are read in order and once.
    pub(crate) const PAGES: Window = Window { ahead: 4 << 20, kept: 8 << 20 };
}

/// The blobs of an archive, through a stream.
pub(crate) struct RemoteBlobs<S> {
    map: Arc<BlobMap>,
    stream: S,
    window: Window,
    /// To be asked for when there is room, the next one first.
    wanted: VecDeque<usize>,
    /// Asked for and not yet answered, in the order of the answers.
    asked: VecDeque<usize>,
    asked_bytes: usize,
    kept: Kept,
}

impl<S: BlobStream> RemoteBlobs<S> {
    pub(crate) fn new(map: Arc<BlobMap>, stream: S, window: Window) -> Self {
        let (wanted, asked) = (VecDeque::new(), VecDeque::new());
        Self { map, stream, window, wanted, asked, asked_bytes: 0, kept: Kept::new(window.kept) }
    }

    /// Asks for what is wanted as far as the window reaches; for one blob in any case.
    fn ask(&mut self) -> Result<(), BlobError> {
        while let Some(index) = self.wanted.front().copied() {
            let length = self.map.plain_length(index);
            let full = self.asked_bytes + length > self.window.ahead || self.asked.len() >= MAX_ASKED;
            if full && !self.asked.is_empty() {
                return Ok(());
            }
            self.wanted.pop_front();
            if self.kept.contains(index) || self.asked.contains(&index) {
                continue;
            }
            let failed = |cause| BlobError::Fetch { id: self.map.id(index), cause };
            self.stream.ask(self.map.address(index)).map_err(failed)?;
            self.asked.push_back(index);
            self.asked_bytes += length;
        }
        Ok(())
    }

    /// Takes the next answer.
    fn receive(&mut self) -> Result<(usize, Bytes), BlobError> {
        let index = self.asked.pop_front().expect("an answer is waited for only when something was asked");
        self.asked_bytes -= self.map.plain_length(index);
        let id = self.map.id(index);
        match self.stream.receive(self.map.address(index)) {
            Ok(Fetched::Sealed(sealed)) => {
                let opened = self.map.open(index, sealed);
                let plain = opened.map_err(|error| BlobError::Damaged { id, cause: error.to_string() })?;
                let plain = Bytes::from(plain);
                self.kept.add(index, plain.clone());
                Ok((index, plain))
            }
            Ok(Fetched::Problem(cause)) => Err(BlobError::Damaged { id, cause }),
            Ok(Fetched::Missing) => Err(BlobError::Missing(id)),
            Err(cause) => Err(BlobError::Fetch { id, cause }),
        }
    }
}

impl<S: BlobStream> BlobReader for RemoteBlobs<S> {
    fn hint(&mut self, upcoming: &[BlobId]) {
        self.wanted.clear();
        self.wanted.extend(upcoming.iter().take(MAX_HINTS).filter_map(|id| self.map.find(id)));
    }

    fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError> {
        let index = self.map.find(id).ok_or(BlobError::Missing(*id))?;
        if let Some(plain) = self.kept.get(index) {
            self.ask()?;
            return Ok(plain);
        }
        if !self.asked.contains(&index) {
            self.wanted.retain(|wanted| *wanted != index);
            self.wanted.push_front(index);
        }
        loop {
            self.ask()?;
            let (received, plain) = self.receive()?;
            if received == index {
                return Ok(plain);
            }
        }
    }
}

/// Opened blobs, the one used longest ago leaving first.
struct Kept {
    limit: usize,
    bytes: usize,
    tick: u64,
    blobs: HashMap<usize, (u64, Bytes)>,
    by_use: BTreeMap<u64, usize>,
}

impl Kept {
    fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, tick: 0, blobs: HashMap::new(), by_use: BTreeMap::new() }
    }

    fn contains(&self, index: usize) -> bool {
        self.blobs.contains_key(&index)
    }

    fn get(&mut self, index: usize) -> Option<Bytes> {
        self.tick += 1;
        let (used, plain) = self.blobs.get_mut(&index)?;
        self.by_use.remove(used);
        *used = self.tick;
        self.by_use.insert(self.tick, index);
        Some(plain.clone())
    }

    fn add(&mut self, index: usize, plain: Bytes) {
        self.tick += 1;
        self.bytes += plain.len();
        self.by_use.insert(self.tick, index);
        self.blobs.insert(index, (self.tick, plain));
        while self.bytes > self.limit {
            let (_, oldest) = self.by_use.pop_first().expect("bytes are kept, so a blob is");
            let (_, plain) = self.blobs.remove(&oldest).expect("both maps hold the same blobs");
            self.bytes -= plain.len();
        }
    }
}

#[cfg(test)]
#[path = "blobs_tests.rs"]
mod tests;
