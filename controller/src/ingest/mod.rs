//! Taking in what agents send, and handing back what restores need: the bulk calls, off the async runtime.
//!
//! Must stay true: bytes are hashed, written and synced on blocking threads, behind bounded channels; a
//! segment is answered for when it is durable and not before; a stream that stalls is ended.

mod archive;
mod fetch;
mod places;
mod quota;
mod segment;

pub use archive::{entries, finish_archive, list_blobs};
pub use fetch::{fetch_blobs, open_archive};
pub use places::{Place, Places, Work};
pub use quota::{Allowance, Quotas};
pub use segment::{length, put_segment};

use std::time::{Duration, Instant};

use proto::Failure;
use proto::failure::reason;
use repository::error::RepositoryError;
use repository::prune::PruneError;
use repository::store::StoreError;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

/// A stream on which nothing comes for this long is ended.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// An answer that is not taken for this long is never taken.
const NOT_TAKEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// What a stream upwards has to bring in a second, on average, once it has lasted for [`STALLED_AFTER`]: a
/// slow line does, and who only keeps the stream open does not.
const LEAST_BYTES: u64 = 1_024;

/// Whether a stream gets on.
pub(crate) struct Pace {
    began: Instant,
    bytes: u64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), bytes: 0 }
    }

    /// So many bytes have come.
    pub(crate) fn took(&mut self, bytes: usize) -> Result<(), Failure> {
        self.bytes += bytes as u64;
        match is_too_slow(self.began.elapsed(), self.bytes) {
            false => Ok(()),
            true => Err(too_slow(LEAST_BYTES)),
        }
    }
}

fn too_slow(least: u64) -> Failure {
    Failure::new(Code::DeadlineExceeded, reason::UNREACHABLE, "the stream is too slow")
        .because(format!("it brought less than {least} bytes a second"))
        .hint("check the network between agent and controller")
}

fn is_too_slow(elapsed: Duration, bytes: u64) -> bool {
    elapsed > STALLED_AFTER && bytes < elapsed.as_secs() * LEAST_BYTES
}

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
        E::Prune(PruneError::Running) => (Code::ResourceExhausted, reason::BUSY),
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

/// Hands an answer on, from a blocking thread; false if nobody takes it any more. An agent that writes what
/// it got to a slow disk may leave answers for a while; one that never takes them gives its thread back.
pub(crate) fn hand_on<T>(answers: &mpsc::Sender<T>, item: T) -> bool {
    tokio::runtime::Handle::current().block_on(answers.send_timeout(item, NOT_TAKEN_AFTER)).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_next_to_nothing_ends_and_a_slow_line_does_not() {
        let at = |seconds, bytes| is_too_slow(Duration::from_secs(seconds), bytes);
        assert!(!at(59, 0), "a stream may begin slowly");
        assert!(at(61, 0) && at(600, 600) && at(3_600, 1 << 20));
        assert!(!at(61, 64 << 10) && !at(3_600, 4 << 20));
    }
}
