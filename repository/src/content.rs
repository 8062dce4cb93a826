//! Which content a file has, however it was cut: its [`ContentId`].
//!
//! Keyed BLAKE3 (domain's id key, context `content`) over the file's data extents in order, each
//! followed by its offset and length as two little-endian `u64`, and at the end the file's size. Two
//! files have the same id exactly when they have the same bytes and the same holes; an in-place restore
//! and `diff` go by it, and a restore checks every file against it.

use crate::archive::entry::Extent;
use crate::ids::ContentId;

/// The secret that all ids of a domain are made with.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct IdKey([u8; 32]);

impl IdKey {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes: for the wire to the agent that serves the domain, and nowhere else.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for IdKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdKey(..)")
    }
}

/// Hashes a file's content as it is read.
pub struct ContentHasher {
    state: blake3::Hasher,
}

impl ContentHasher {
    /// A hasher for one file of the domain that has this key.
    pub fn new(key: &IdKey) -> Self {
        let mut state = blake3::Hasher::new_keyed(key.expose());
        state.update(b"content\0");
        Self { state }
    }

    /// The next bytes of the current extent.
    pub fn data(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
    }

    /// The current extent ends; it lay here.
    pub fn extent_ends(&mut self, extent: Extent) {
        self.state.update(&extent.offset.to_le_bytes());
        self.state.update(&extent.length.to_le_bytes());
    }

    /// The id of a file of `size` bytes, holes included.
    pub fn finish(mut self, size: u64) -> ContentId {
        self.state.update(&size.to_le_bytes());
        ContentId::new(*self.state.finalize().as_bytes())
    }
}
