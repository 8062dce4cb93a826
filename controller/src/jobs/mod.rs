//! Jobs: backups, verifications, restores.
//!
//! Must stay true: what a job does next is decided by the pure [`state`] machine; a new state is in the
//! catalog before anything acts on it; so after a crash every job is either ended or taken up again.

pub mod job;
pub mod queue;
pub mod state;

pub use job::Job;
