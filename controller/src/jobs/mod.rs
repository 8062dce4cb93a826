//! Jobs: backups, verifications, restores, retention and prune.
//!
//! Must stay true: what a job does next is decided by the pure [`state`] machine; a new state is in the
//! catalog before anything acts on it; so after a crash every job is either ended or taken up again.

mod backup;
mod cancel;
pub(crate) mod clearing;
mod commit;
pub mod confirmed;
pub mod job;
pub(crate) mod keeping;
pub(crate) mod leases;
mod live;
pub mod own_rules;
mod owner;
pub mod queue;
pub(crate) mod restore;
mod runner;
pub mod safety;
mod stand_in;
pub mod state;
mod verify;

pub use cancel::CancelError;
pub use job::{Job, JobState, Order};
pub use keeping::Configured;
pub use live::{JobView, Live, Watched};
pub use runner::{Runner, Settings, SubmitError};
pub(crate) use verify::drill::{how_to_mark, not_given};
