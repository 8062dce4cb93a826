//! Retention, prune and pins: what can be typed.

use clap::{Args, Subcommand};
use proto::v1;

use super::values::{backup_name, length};
use super::{Output, Request, help};

#[derive(Debug, Subcommand)]
pub(crate) enum Retention {
    /// Show which backups are kept
    Show(Output),
    /// Say which backups are kept; what is left out is no rule any more
    #[command(after_help = help::RETENTION_SET)]
    Set(Rules),
    /// Remove the backups that no rule keeps
    #[command(after_help = help::RETENTION_APPLY)]
    Apply(Clearing),
}

/// The rules of retention: what one of them keeps stays.
#[derive(Debug, Args)]
pub(crate) struct Rules {
    #[command(flatten)]
    pub(crate) keeps: Keeps,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Rules one by one.
#[derive(Debug, Args)]
pub(crate) struct Keeps {
    /// All that are younger: 12h, 30d, 52w
    #[arg(long, value_name = "TIME", value_parser = within_seconds)]
    pub(crate) keep_within: Option<u64>,
    /// The newest so many
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<u32>,
    /// The newest of each of so many hours
    #[arg(long, value_name = "N")]
    pub(crate) keep_hourly: Option<u32>,
    /// The newest of each of so many days
    #[arg(long, value_name = "N")]
    pub(crate) keep_daily: Option<u32>,
    /// The newest of each of so many weeks
    #[arg(long, value_name = "N")]
    pub(crate) keep_weekly: Option<u32>,
    /// The newest of each of so many months
    #[arg(long, value_name = "N")]
    pub(crate) keep_monthly: Option<u32>,
    /// The newest of each of so many years
    #[arg(long, value_name = "N")]
    pub(crate) keep_yearly: Option<u32>,
    /// The newest so many complete ones, whatever their age [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep_complete: Option<u32>,
}

impl Keeps {
    /// For the wire; none: no rule was written.
    pub(crate) fn rules(&self) -> Option<v1::RetentionRules> {
        let rules = v1::RetentionRules {
            keep_within_seconds: self.keep_within,
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
            keep_complete: self.keep_complete.unwrap_or_default(),
            ..v1::RetentionRules::default()
        };
        (rules != v1::RetentionRules::default())
            .then(|| v1::RetentionRules { keep_complete: self.keep_complete.unwrap_or(3), ..rules })
    }
}

/// How something is taken away.
#[derive(Debug, Args)]
pub(crate) struct Clearing {
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Do not ask; with --plan nothing is done all the same
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Go on although much would go at once; only for somebody who has seen the plan
    #[arg(long)]
    pub(crate) approve: bool,
    /// Print the job's id and leave; the job goes on
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) request: Request,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// At once: without the grace in which what was taken away could be brought back
    #[arg(long)]
    pub(crate) now: bool,
    #[command(flatten)]
    pub(crate) clearing: Clearing,
}

#[derive(Debug, Args)]
pub(crate) struct Pin {
    /// A backup's timestamp, or `latest`
    #[arg(value_parser = backup_name)]
    pub(crate) timestamp: String,
    /// Why it is to be kept
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Unpin {
    /// A backup's timestamp
    #[arg(value_parser = backup_name)]
    pub(crate) timestamp: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Seconds of a time like `30d`.
fn within_seconds(text: &str) -> Result<u64, String> {
    let seconds = length(text).and_then(|length| u64::try_from(length.as_secs()).ok());
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| "not a time like 12h, 30d, 52w".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    #[test]
    fn rules_are_set_as_a_whole() {
        let words = ["nsctl", "retention", "set", "--keep-within", "30d", "--keep-weekly", "8"];
        let cli = Cli::try_parse_from(words).expect("valid");
        let Verb::Retention(Retention::Set(rules)) = cli.verb else { panic!("set is parsed as set") };
        let rules = rules.keeps.rules().expect("some");
        assert_eq!((rules.keep_within_seconds, rules.keep_weekly), (Some(2_592_000), Some(8)));
        assert_eq!((rules.keep_last, rules.keep_complete), (None, 3));
        for wrong in ["", "0s", "-1d", "soon"] {
            assert!(within_seconds(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_plan_is_asked_for_by_adding_a_word_to_the_line_that_would_be_run() {
        let cli =
            Cli::try_parse_from(["nsctl", "prune", "--now", "--yes", "--approve", "--detach", "--plan"]);
        let Verb::Prune(prune) = cli.expect("valid").verb else { panic!("prune is parsed as prune") };
        assert!(prune.clearing.plan, "and it is one");
        assert!(Cli::try_parse_from(["nsctl", "pin", "latest", "--reason", ""]).is_err());
    }
}
