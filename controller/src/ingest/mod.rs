//! Taking in what agents send, and handing back what restores need: the bulk calls, off the async runtime.
//!
//! Must stay true: bytes are hashed, written and synced on blocking threads, behind bounded channels; a
//! segment is answered for when it is durable and not before; a stream that stalls is ended.

mod archive;
mod fetch;
mod segment;

pub use archive::{finish_archive, list_blobs};
pub use fetch::{fetch_blobs, open_archive};
pub use segment::put_segment;

use std::time::Duration;

use proto::Failure;
use proto::failure::reason;
use repository::error::RepositoryError;
use repository::store::StoreError;
use tonic::{Code, Streaming};

/// A stream on which nothing comes for this long is ended.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// A repository's error, for the wire.
pub fn repository_failure(what: &str, error: &RepositoryError) -> Failure {
    use RepositoryError as E;
    let (code, reason) = match error {
        E::Store(StoreError::Full { .. }) => (Code::ResourceExhausted, reason::STORAGE_FULL),
        E::NoBackup { .. } | E::NoArchive { .. } | E::ArchiveFailed { .. } => {
            (Code::NotFound, reason::NOT_FOUND)
        }
        E::WrongKey { .. } => (Code::FailedPrecondition, reason::LOCKED),
        E::Fenced(_) => (Code::FailedPrecondition, reason::LEASE_LOST),
        E::Rejected { .. } => (Code::InvalidArgument, reason::INVALID_REQUEST),
        E::Cancelled => (Code::Cancelled, reason::TASK_GONE),
        error if error.is_damage() => (Code::DataLoss, reason::DAMAGED),
        _ => (Code::Internal, reason::STORAGE),
    };
    Failure::new(code, reason, what).caused_by(error).hint(error.hint())
}

/// The task does not exist, or not for this agent.
pub fn task_gone() -> Failure {
    Failure::new(Code::FailedPrecondition, reason::TASK_GONE, "this task is not under way")
        .because("it has ended, was cancelled, or belongs to another agent")
}

/// A blocking thread ended without an answer.
pub(crate) fn thread_died(error: &tokio::task::JoinError) -> Failure {
    Failure::internal("a thread of the controller ended unexpectedly").caused_by(error)
}

/// The next message of a stream; `None` at its end.
pub(crate) async fn next_message<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
    match tokio::time::timeout(STALLED_AFTER, stream.message()).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(status)) => Err(Failure::from(status)),
        Err(_) => Err(Failure::new(Code::DeadlineExceeded, reason::UNREACHABLE, "the stream has stalled")
            .because(format!("nothing came for {} seconds", STALLED_AFTER.as_secs()))),
    }
}
