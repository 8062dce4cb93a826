//! Tokens and the audit log: what can be typed.

use clap::{Args, Subcommand, ValueEnum};

use super::Output;
use super::values::{length, seconds};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token; it is shown once
    Create {
        /// Who or what will use it
        name: String,
        /// What its holder may do
        #[arg(long, value_enum)]
        role: Role,
        /// How long it counts: 12h, 30d, at most 366d
        #[arg(long, value_name = "TIME", default_value = "90d", value_parser = token_seconds)]
        expires: u32,
        #[command(flatten)]
        output: Output,
    },
    /// List the tokens, without their secrets
    List(Output),
    /// Let a token count no more, at once
    Revoke {
        /// The token's id or name
        #[arg(value_name = "TOKEN")]
        which: String,
        #[command(flatten)]
        output: Output,
    },
}

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// See lists, states and health
    Viewer,
    /// And back up, verify, restore, cancel, read what is in a backup
    Operator,
    /// And manage agents and tokens, and see the audit log
    Admin,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Nothing older than this: a time (2026-01-01T01:00:00Z) or an age (2d, 12h)
    #[arg(long, value_name = "T", value_parser = since)]
    pub(crate) since: Option<Since>,
    /// How many lines, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Read the whole log and prove that nothing was changed, removed or added; leave with 4 if it was
    #[arg(long, conflicts_with_all = ["since", "limit"])]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// This time.
    Time(jiff::Timestamp),
    /// So long ago.
    Ago(jiff::SignedDuration),
}

/// Seconds of a time like `90d`, at most 366 days.
fn token_seconds(text: &str) -> Result<u32, String> {
    seconds(text, 366).ok_or_else(|| "not a time between 1m and 366d, e.g. 12h, 30d, 90d".to_owned())
}

/// A time, or an age.
fn since(text: &str) -> Result<Since, String> {
    let age = length(text).filter(|age| !age.is_negative()).map(Since::Ago);
    let time = || text.parse().ok().map(Since::Time);
    age.or_else(time).ok_or_else(|| "not a time like 2026-01-01T01:00:00Z and not an age like 2d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    #[test]
    fn a_token_is_revoked_by_a_word_that_is_no_token() {
        let cli = Cli::try_parse_from(["nsctl", "token", "revoke", "ci"]).expect("valid");
        assert!(matches!(cli.verb, Verb::Token(Token::Revoke { which, .. }) if which == "ci"));
        assert!(cli.global.token.is_none());
    }

    #[test]
    fn an_audit_log_is_asked_for_from_a_time_or_an_age_on() {
        assert_eq!(since("2d"), Ok(Since::Ago(jiff::SignedDuration::from_hours(48))));
        assert_eq!(since("1970-01-01T00:00:00Z"), Ok(Since::Time(jiff::Timestamp::UNIX_EPOCH)));
        for wrong in ["", "yesterday", "-2d"] {
            assert!(since(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!((token_seconds("90d"), token_seconds("367d").is_err()), (Ok(7_776_000), true));
    }
}
