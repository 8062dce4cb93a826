//! The repository: its format and its store. Knows nothing of the wire, of engines, of people.
//!
//! `docs/FORMAT.md` gives every byte that this crate writes. From the bottom up:
//!
//! | module | what |
//! |---|---|
//! | [`ids`], [`names`], [`codec`] | typed ids and names, the binary notation |
//! | [`store`] | where bytes lie: local disk, memory; faults for tests; the writer's lease |
//! | [`cut`], [`content`], [`pack`] | chunks, compression, ids of contents, sealing, segments, packs |
//! | [`archive`], [`refs`] | entries, pages, manifests; which blobs an archive needs |

pub mod archive;
pub mod codec;
pub mod content;
pub mod cut;
mod hex_array;
pub mod ids;
pub mod keys;
pub mod names;
pub mod pack;
mod random;
pub mod refs;
pub mod signed;
pub mod store;
