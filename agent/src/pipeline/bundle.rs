//! The bundle that is being filled with small files.
//!
//! Files wait for their bundle, and so does every entry after them; hence a bundle ends not only when it
//! is long, but also when much has come to wait for it.

/// A bundle of this many bytes is full.
const FULL: usize = 1 << 20;
/// The most entries that may wait for a bundle.
const MAX_WAITING: usize = 4_096;
/// About how many bytes those entries may take.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// Small files, one after the other.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) plain: Vec<u8>,
    waiting: usize,
    waiting_bytes: usize,
}

impl Bundle {
    /// An empty bundle in the memory of `buffer`.
    pub(super) fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { plain: buffer, waiting: 0, waiting_bytes: 0 }
    }

    /// An entry of about `bytes` waits for it.
    pub(super) fn waits(&mut self, bytes: usize) {
        self.waiting += 1;
        self.waiting_bytes += bytes;
    }

    pub(super) fn is_full(&self) -> bool {
        self.plain.len() >= FULL || self.waiting >= MAX_WAITING || self.waiting_bytes >= MAX_WAITING_BYTES
    }
}
