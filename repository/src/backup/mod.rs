//! What a committed backup is: archive manifests, `backup.json`, the chain, the commit itself.

pub mod chain;
pub mod commit;
pub(crate) mod given_up;
mod left_over;
pub mod listing;
pub mod manifest;
pub mod wishes;
