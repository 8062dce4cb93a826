//! From plaintext to what is worth storing: cutting large files, compressing blobs.

mod chunker;
mod compression;

pub use chunker::{Chunker, GearKey, MAX_CHUNK, MIN_CHUNK, SMALL_FILE};
pub use compression::{Compressor, decompress};
