//! How a call fails: a [`Failure`] here, a `tonic::Status` with `google.rpc.ErrorInfo` on the wire.
//!
//! Must stay true: what a person reads is three lines (what failed, why, what to do), none of which holds
//! a secret; what a program reads is `reason`, a word that never changes its meaning. A status of someone
//! else (a proxy, an older program, tonic itself) still becomes a [`Failure`] that says something useful.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of our `ErrorInfo`.
pub const DOMAIN: &str = "backup.neurashield";

/// Longest of the three lines, in bytes: trailers have to fit in one HTTP/2 header block.
const MAX_LINE: usize = 1_000;

/// Words for `reason`; a program may act on them.
pub mod reason {
    /// The request itself is wrong.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// There is no such backup, job, agent, source or entry.
    pub const NOT_FOUND: &str = "NOT_FOUND";
    /// The caller may not do this.
    pub const DENIED: &str = "DENIED";
    /// The token, of a join or of a caller, is unknown, used up, revoked or out of time.
    pub const TOKEN_REFUSED: &str = "TOKEN_REFUSED";
    /// The agent was revoked; it has to be invited again.
    pub const AGENT_REVOKED: &str = "AGENT_REVOKED";
    /// Another live process shows the same identity.
    pub const AGENT_CLONED: &str = "AGENT_CLONED";
    /// The key belongs to another agent.
    pub const KEY_IN_USE: &str = "KEY_IN_USE";
    /// The agent has used up what it may send.
    pub const QUOTA: &str = "QUOTA";
    /// The certificate is of another repository, out of time, or of no known agent.
    pub const CERTIFICATE_REFUSED: &str = "CERTIFICATE_REFUSED";
    /// The controller was not reached, or closed the connection.
    pub const UNREACHABLE: &str = "UNREACHABLE";
    /// An agent that is needed is not connected.
    pub const AGENT_AWAY: &str = "AGENT_AWAY";
    /// The task has ended, was cancelled, or belongs to another agent.
    pub const TASK_GONE: &str = "TASK_GONE";
    /// A restore plan no longer describes what would happen.
    pub const PLAN_CHANGED: &str = "PLAN_CHANGED";
    /// The configuration declares it, so that it cannot be changed by a call.
    pub const MANAGED: &str = "MANAGED";
    /// Much would go at once, and nobody has approved that.
    pub const NOT_APPROVED: &str = "NOT_APPROVED";
    /// The restore cannot go ahead; `why` says what is in its way.
    pub const OBSTACLES: &str = "OBSTACLES";
    /// The job is past the point where this can be done.
    pub const TOO_LATE: &str = "TOO_LATE";
    /// A limit was met; trying again later may help.
    pub const BUSY: &str = "BUSY";
    /// The repository's key is not at hand, or not the right one.
    pub const LOCKED: &str = "LOCKED";
    /// Something in the repository is missing or wrong.
    pub const DAMAGED: &str = "DAMAGED";
    /// The repository's storage has no room left.
    pub const STORAGE_FULL: &str = "STORAGE_FULL";
    /// The repository's storage failed.
    pub const STORAGE: &str = "STORAGE";
    /// Another controller writes to this repository.
    pub const LEASE_LOST: &str = "LEASE_LOST";
    /// A fault of this program.
    pub const INTERNAL: &str = "INTERNAL";
}

/// Why a call failed, in words for people and one for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// The gRPC code.
    pub code: Code,
    /// One of [`reason`], or a word of a newer program.
    pub reason: String,
    /// What failed, in one line.
    pub what: String,
    /// Why, in one line; may be empty.
    pub why: String,
    /// What to do, in one line; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure with `what` alone; add the rest by [`Failure::because`] and [`Failure::hint`].
    pub fn new(code: Code, reason: &str, what: impl Into<String>) -> Self {
        Self { code, reason: reason.to_owned(), what: line(what), why: String::new(), hint: String::new() }
    }

    /// The same with its cause.
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = line(why);
        self
    }

    /// The same with its cause taken from an error and all of that error's sources.
    pub fn caused_by(self, error: &dyn std::error::Error) -> Self {
        self.because(chain(error))
    }

    /// The same with what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = line(hint);
        self
    }

    /// The request is wrong.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason::INVALID_REQUEST, what)
    }

    /// There is no such thing.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason::NOT_FOUND, what)
    }

    /// A fault of this program; the cause goes to the log as well as to the caller.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Code::Internal, reason::INTERNAL, what)
            .hint("this is a fault in NeuraShield Backup: please report it with this message and the log")
    }

    /// True if the same call may succeed later without anything being changed by hand.
    pub fn is_passing(&self) -> bool {
        // A quota is raised by a person, or over with the day.
        self.reason != reason::QUOTA
            && matches!(
                self.code,
                Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted
            )
    }
}

/// An error and its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// One line of bounded length: control characters become spaces, so that a message of the other side can
/// neither forge a log line nor drive a terminal.
fn line(text: impl Into<String>) -> String {
    let mut text: String = text.into();
    if text.chars().any(char::is_control) {
        text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    if text.len() > MAX_LINE {
        let end = (0..=MAX_LINE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let metadata = HashMap::from([("why".to_owned(), failure.why), ("hint".to_owned(), failure.hint)]);
        let details = ErrorDetails::with_error_info(failure.reason, DOMAIN, metadata);
        Status::with_error_details(failure.code, failure.what, details)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::from(&status)
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Failure {
        match status.get_details_error_info().filter(|info| info.domain == DOMAIN) {
            Some(mut info) => {
                let mut take = |key| line(info.metadata.remove(key).unwrap_or_default());
                let (why, hint) = (take("why"), take("hint"));
                let what = line(status.message());
                Failure { code: status.code(), reason: line(info.reason), what, why, hint }
            }
            None => of_a_stranger(status),
        }
    }
}

/// A status that none of our programs made.
fn of_a_stranger(status: &Status) -> Failure {
    let why = match std::error::Error::source(status) {
        Some(cause) => format!("{}: {}", status.message(), chain(cause)),
        None => status.message().to_owned(),
    };
    let (reason, what, hint) = match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => (
            reason::UNREACHABLE,
            "the connection to the controller broke",
            "check that the controller runs and that its address and certificate are right",
        ),
        Code::DeadlineExceeded => (reason::UNREACHABLE, "the controller did not answer in time", "try again"),
        Code::Unauthenticated | Code::PermissionDenied => {
            (reason::DENIED, "the controller denied the call", "")
        }
        Code::ResourceExhausted => (reason::BUSY, "the controller has too much to do", "try again later"),
        Code::Unimplemented => (
            reason::INVALID_REQUEST,
            "the other side does not know this call",
            "bring controller, agents and nsctl to the same release",
        ),
        Code::NotFound => (reason::NOT_FOUND, "it was not found", ""),
        Code::InvalidArgument | Code::OutOfRange => (reason::INVALID_REQUEST, "the request was refused", ""),
        _ => (reason::INTERNAL, "the call failed", ""),
    };
    Failure::new(status.code(), reason, what).because(why).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_crosses_the_wire_unchanged() {
        let failure = Failure::new(Code::FailedPrecondition, reason::PLAN_CHANGED, "the plan is out of date")
            .because("the folder models holds 3 more files")
            .hint("run `nsctl restore --plan` again");
        assert_eq!(Failure::from(Status::from(failure.clone())), failure);
    }

    #[test]
    fn a_status_of_someone_else_still_says_what_to_do() {
        let failure = Failure::from(Status::unavailable("tcp connect error"));
        assert_eq!(failure.reason, reason::UNREACHABLE);
        assert_eq!(failure.why, "tcp connect error");
        assert!(failure.is_passing() && !failure.hint.is_empty());
    }

    #[test]
    fn a_message_is_one_bounded_line() {
        let failure = Failure::invalid(format!("a\nb\u{1b}[0m{}", "x".repeat(5_000)));
        assert!(failure.what.starts_with("a b [0m") && failure.what.len() < 1_010, "{}", failure.what.len());
    }

    #[test]
    fn a_cause_is_told_down_to_its_root() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot save")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(std::io::Error::other("disk on fire"))), "cannot save: disk on fire");
    }
}
