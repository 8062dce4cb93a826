//! Jobs: backups, verifications, restores.
//!
//! Must stay true: what a job does next is decided by the pure [`state`] machine; a new state is in the
//! catalog before anything acts on it; so after a crash every job is either ended or taken up again.

mod backup;
mod commit;
pub mod job;
mod live;
pub mod queue;
pub(crate) mod restore;
mod runner;
pub mod state;
mod verify;

pub(crate) use backup::{STALLED_AFTER, end_or_stall};
pub use job::Job;
pub use live::{JobView, Live, Watched};
pub use runner::{CancelError, Runner, Settings, SubmitError};
