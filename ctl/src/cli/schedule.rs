//! Schedules: what can be typed.

use clap::{Args, Subcommand};

use super::values::length;
use super::{HowDeep, Output, Request, help};

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// List the schedules: when each runs next, and what became of its last run
    List(Output),
    /// Make a schedule, or another one of it; this runs nothing
    #[command(after_help = help::SCHEDULE_SET)]
    Set(Box<Set>),
    /// Remove a schedule that was made by `set`; one of the program's own is what it was again
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Start nothing by a schedule until it is resumed; what runs goes on
    Pause(Named),
    /// Go on with a schedule; what came in between is not made up for
    Resume(Named),
    /// Run a schedule now, beside its planned times
    Run(Run),
}

/// A schedule by its name.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What is to happen, and when. What is left out is what it usually is, whatever it was before.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Its name: lower-case letters, digits, - and _
    pub(crate) name: String,
    /// Back up at these times: minute, hour, day of month, month, day of week, e.g. '0 1 * * *'
    #[arg(long, value_name = "CRON", required_unless_present = "verify")]
    pub(crate) backup: Option<String>,
    /// Verify at these times
    #[arg(long, value_name = "CRON", conflicts_with = "backup")]
    pub(crate) verify: Option<String>,
    /// Only these components [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Where its hours are meant: an IANA name, e.g. Europe/Paris [default: the controller's]
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    pub(crate) time_zone: String,
    /// Up to so much is added to each time, always the same for the same run
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    pub(crate) jitter: Option<u64>,
    /// How late a run that was slept through is still made up for [default: 6h]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    pub(crate) catch_up: Option<u64>,
    /// How deep a verification looks [default: opened]
    #[arg(long, value_enum, conflicts_with = "backup")]
    pub(crate) depth: Option<HowDeep>,
    /// How long a verification waits for a backup that still runs [default: 4h]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, conflicts_with = "backup")]
    pub(crate) wait_for_backup: Option<u64>,
    /// Do not apply the rules of retention after the verification
    #[arg(long, conflicts_with = "backup")]
    pub(crate) no_retention: bool,
    /// Which of its backups are kept [default: as the rules for all of them say]
    #[command(flatten)]
    pub(crate) keeps: super::retention::Keeps,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The schedule's name
    pub(crate) name: String,
    /// Print the job's id and leave; the job goes on
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) request: Request,
    #[command(flatten)]
    pub(crate) output: Output,
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let span = length(text).and_then(|span| u64::try_from(span.as_millis()).ok());
    span.ok_or_else(|| "not a time, e.g. 0s, 30m, 6h, 2d".to_owned())
}

impl Schedule {
    pub(super) fn output(&self) -> Output {
        match self {
            Self::List(output) => *output,
            Self::Set(set) => set.output,
            Self::Pause(named) | Self::Resume(named) => named.output,
            Self::Run(run) => run.output,
            Self::Remove { output, .. } => *output,
        }
    }
}
