//! `nsctl doctor` and `debug`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// Look at everything.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The controller's configuration, to look at where no controller answers
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What helps somebody who helps.
#[derive(Debug, Subcommand)]
pub(crate) enum Debug {
    /// Write versions, settings, the doctor's findings, jobs with their logs, alerts, schedules, agents and
    /// metrics into one tar.gz
    Bundle(Bundle),
}

/// The bundle.
#[derive(Debug, Args)]
pub(crate) struct Bundle {
    /// Where to write it; a name with the time in this folder unless told otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The controller's configuration, to look at where no controller answers
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}
