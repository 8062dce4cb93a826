//! What a source's backup looks like: entries, the pages they are written in, the manifest on top.

pub mod entry;
pub mod order;
pub mod page;
pub mod path;
