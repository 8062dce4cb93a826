//! The repository: its format and its store. Knows nothing of the wire, of engines, of people.

pub mod archive;
pub mod codec;
pub mod content;
pub mod ids;
mod random;
pub mod store;
