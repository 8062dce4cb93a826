//! Blobs as a restore reads them: fetched ahead within a window, opened beside it, kept for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use repository::ids::BlobId;
use repository::read::{OpenError, Proven};

use super::fetch::{BlobStream, Fetched};
use super::map::BlobMap;
use super::openers::{Openers, Opening};
use crate::targets::{BlobError, BlobReader};

/// The most hints that are kept.
const MAX_HINTS: usize = 4_096;
/// The controller ends a stream on which nothing is asked for an hour, or whose answers nobody takes for minutes.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// The most blobs that are asked for ahead, however small they are.
const MAX_ASKED: usize = 256;

/// How much memory reading may take, in bytes of plaintext.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Asked for and not yet here.
    pub(crate) ahead: usize,
    /// Opened and kept.
    pub(crate) kept: usize,
    /// Opened by threads of their own.
    pub(crate) beside: bool,
    pub(crate) proven: Proven,
}

impl Window {
    /// For data.
    pub(crate) const DATA: Window =
        Window { ahead: 32 << 20, kept: 64 << 20, beside: true, proven: Proven::ById };
    /// For whoever recomputes the id of each content.
    pub(crate) const CONTENTS: Window = Window { proven: Proven::ByContent, ..Window::DATA };
    /// For pages, which are read in order and once.
    pub(crate) const PAGES: Window =
        Window { ahead: 4 << 20, kept: 8 << 20, beside: false, proven: Proven::ById };
}

/// An answer on its way to whoever restores.
enum Coming {
    Opening(Opening),
    Opened(Result<Bytes, OpenError>),
    Failed(BlobError),
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
    /// Answered and not yet handed out, in the same order, before those that are asked for.
    coming: VecDeque<(usize, Coming)>,
    /// Plaintext of what is asked for and of what is coming.
    asked_bytes: usize,
    openers: Option<Openers>,
    kept: Kept,
    /// When the other side last heard from us, or answers were taken.
    heard: Instant,
}

impl<S: BlobStream> RemoteBlobs<S> {
    pub(crate) fn new(map: Arc<BlobMap>, stream: S, window: Window) -> Self {
        let (wanted, asked, coming) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let openers = window.beside.then(|| Openers::start(&map, window.proven));
        let kept = Kept::new(window.kept);
        let heard = Instant::now();
        Self { map, stream, window, wanted, asked, coming, asked_bytes: 0, openers, kept, heard }
    }

    /// Asks for what is wanted as far as the window reaches; for one blob in any case.
    fn ask(&mut self) -> Result<(), BlobError> {
        while let Some(index) = self.wanted.front().copied() {
            let length = self.map.plain_length(index);
            let under_way = self.asked.len() + self.coming.len();
            let full = self.asked_bytes + length > self.window.ahead || under_way >= MAX_ASKED;
            if full && under_way > 0 {
                return Ok(());
            }
            self.wanted.pop_front();
            if self.kept.contains(index) || self.is_under_way(index) {
                continue;
            }
            let failed = |cause| BlobError::Fetch { id: self.map.id(index), cause };
            self.stream.ask(self.map.address(index)).map_err(failed)?;
            self.asked.push_back(index);
            self.asked_bytes += length;
        }
        Ok(())
    }

    fn is_under_way(&self, index: usize) -> bool {
        self.asked.contains(&index) || self.coming.iter().any(|(coming, _)| *coming == index)
    }

    /// The next blob in the order of the questions.
    fn receive(&mut self) -> Result<(usize, Bytes), BlobError> {
        let most = self.openers.as_ref().map_or(1, Openers::most);
        self.take_answers(most, true);
        let (index, coming) =
            self.coming.pop_front().expect("an answer is waited for only when something was asked");
        self.asked_bytes -= self.map.plain_length(index);
        let id = self.map.id(index);
        let opened = match coming {
            Coming::Opening(opening) => opening.recv().expect("a thread answers for what it took"),
            Coming::Opened(opened) => opened,
            Coming::Failed(error) => return Err(error),
        };
        let plain = opened.map_err(|error| BlobError::Damaged { id, cause: error.to_string() })?;
        self.kept.add(index, plain.clone());
        Ok((index, plain))
    }

    /// Waits for an answer where none is coming, if it may; of the others takes those that are here already, up to
    /// `most` at once.
    fn take_answers(&mut self, most: usize, may_wait: bool) {
        while self.coming.len() < most
            && let Some(index) = self.asked.front().copied()
        {
            let address = self.map.address(index);
            let answer = match self.coming.is_empty() && may_wait {
                true => self.stream.receive(address).map(Some),
                false => self.stream.receive_now(address),
            };
            let Some(answer) = answer.transpose() else { return };
            self.asked.pop_front();
            let id = self.map.id(index);
            let coming = match (answer, &self.openers) {
                (Ok(Fetched::Sealed(sealed)), Some(openers)) => Coming::Opening(openers.open(index, sealed)),
                (Ok(Fetched::Sealed(sealed)), None) => {
                    Coming::Opened(self.map.open(index, sealed, self.window.proven).map(Bytes::from))
                }
                (Ok(Fetched::Problem(cause)), _) => Coming::Failed(BlobError::Damaged { id, cause }),
                (Ok(Fetched::Missing), _) => Coming::Failed(BlobError::Missing(id)),
                (Err(cause), _) => Coming::Failed(BlobError::Fetch { id, cause }),
            };
            self.coming.push_back((index, coming));
        }
    }
}

impl<S: BlobStream> BlobReader for RemoteBlobs<S> {
    fn hint(&mut self, upcoming: &[BlobId]) {
        self.wanted.clear();
        self.wanted.extend(upcoming.iter().take(MAX_HINTS).filter_map(|id| self.map.find(id)));
    }

    fn meanwhile(&mut self) {
        if self.heard.elapsed() >= KEEP_EVERY {
            self.heard = Instant::now();
            self.take_answers(usize::MAX, false);
            self.stream.keep();
        }
    }

    fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError> {
        self.heard = Instant::now();
        let index = self.map.find(id).ok_or(BlobError::Missing(*id))?;
        if let Some(plain) = self.kept.get(index) {
            self.ask()?;
            return Ok(plain);
        }
        if !self.is_under_way(index) {
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
