//! The restore side of the wire: an archive's blobs and entries, fetched, opened and checked.
//!
//! Must stay true: nothing leaves here unchecked. A blob is unsealed with its segment's key, decompressed
//! within its stated length, and its id is recomputed; pages give entries in order or an error.

mod blobs;
mod entries;
mod fetch;
mod map;
mod openers;

pub(crate) use blobs::{RemoteBlobs, Window};
pub(crate) use entries::{ArchiveEntries, EntriesError};
pub(crate) use fetch::WireBlobs;
#[cfg(test)]
pub(crate) use fetch::{BlobStream, Fetched};
pub(crate) use map::{ArchiveKeys, BlobMap, BlobMapBuilder};
