//! How a command ends: one of the exit codes that scripts rely on, and errors as three lines.
//!
//! Must stay true: a code never changes its meaning; an error says what failed, why, and what to do,
//! and holds no secret.

use std::fmt;

use proto::failure::{Failure, reason};

/// The exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for was done.
    Done = 0,
    /// It was not done.
    Failed = 1,
    /// It was asked for in a wrong way.
    Usage = 2,
    /// It was done in part; what is missing was said.
    Incomplete = 3,
    /// A verification or a restore found damage in the repository.
    Damaged = 4,
    /// The controller, or an agent that is needed, was not reached.
    Unreachable = 5,
    /// The caller may not do it, or the key is not the right one.
    Denied = 6,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// The worse of two ends of the same command.
    pub(crate) fn worse(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Exit::Done => 0,
            Exit::Incomplete => 1,
            Exit::Usage => 2,
            Exit::Failed => 3,
            Exit::Unreachable => 4,
            Exit::Denied => 5,
            Exit::Damaged => 6,
            Exit::Interrupted => 7,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What failed, one line.
    pub(crate) what: String,
    /// Why, one line; may be empty.
    pub(crate) why: String,
    /// What to do, one line; may be empty.
    pub(crate) hint: String,
    /// More, for `-v`; may be empty.
    pub(crate) details: String,
}

/// What commands return.
pub(crate) type Ended = Result<Exit, Trouble>;

impl Trouble {
    /// `what` failed; add the rest by [`Trouble::because`] and [`Trouble::hint`].
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        let (why, hint, details) = Default::default();
        Self { exit, what: what.into(), why, hint, details }
    }

    /// `what` failed.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    /// The command line is wrong.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// The same with its cause.
    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// The same with its cause taken from an error and all of that error's sources.
    pub(crate) fn caused_by(self, error: &dyn std::error::Error) -> Self {
        self.because(proto::failure::chain(error))
    }

    /// The same with what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let exit = match failure.reason.as_str() {
            reason::DENIED | reason::TOKEN_REFUSED | reason::CERTIFICATE_REFUSED | reason::LOCKED => {
                Exit::Denied
            }
            reason::AGENT_REVOKED => Exit::Denied,
            reason::UNREACHABLE | reason::AGENT_AWAY => Exit::Unreachable,
            reason::DAMAGED => Exit::Damaged,
            reason::INVALID_REQUEST => Exit::Usage,
            _ => Exit::Failed,
        };
        let details = format!("{:?}, {}", failure.code, failure.reason);
        Self { exit, what: failure.what, why: failure.why, hint: failure.hint, details }
    }
}

impl From<tonic::Status> for Trouble {
    fn from(status: tonic::Status) -> Self {
        Failure::from(status).into()
    }
}

/// The three lines, empty ones left out.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.why)?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  to do: {}", self.hint)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn every_exit_code_is_the_one_that_scripts_know() {
        let codes = [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Incomplete, 3),
            (Exit::Damaged, 4),
            (Exit::Unreachable, 5),
            (Exit::Denied, 6),
            (Exit::Interrupted, 130),
        ];
        for (exit, code) in codes {
            assert_eq!(exit as u8, code);
        }
    }

    #[test]
    fn the_reason_of_the_controller_decides_the_exit_code() {
        let exit = |reason| Trouble::from(Failure::new(Code::Internal, reason, "x")).exit;
        assert_eq!(exit(reason::DAMAGED), Exit::Damaged);
        assert_eq!(exit(reason::LOCKED), Exit::Denied);
        assert_eq!(exit(reason::AGENT_AWAY), Exit::Unreachable);
        assert_eq!(exit(reason::NOT_FOUND), Exit::Failed);
        assert_eq!(exit("A_WORD_OF_THE_FUTURE"), Exit::Failed);
    }

    #[test]
    fn an_error_is_three_lines() {
        let trouble =
            Trouble::failed("the backup failed").because("the disk is full").hint("free some space");
        assert_eq!(
            trouble.to_string(),
            "error: the backup failed\n  why: the disk is full\n  to do: free some space"
        );
        assert_eq!(Trouble::usage("no").to_string(), "error: no");
    }

    #[test]
    fn damage_is_never_hidden_by_a_lesser_end() {
        assert_eq!(Exit::Damaged.worse(Exit::Incomplete), Exit::Damaged);
        assert_eq!(Exit::Done.worse(Exit::Incomplete), Exit::Incomplete);
    }
}
