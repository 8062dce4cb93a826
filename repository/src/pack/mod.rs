//! Blobs, segments and packs: from sealed bytes up.

pub mod blob;
pub mod file;
pub mod seal;
pub mod segment;
