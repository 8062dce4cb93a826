//! `nsctl completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output::exit::{Ended, Exit};
use crate::output::write_stdout;

pub(super) fn run(shell: Shell) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nsctl", &mut script);
    write_stdout(&String::from_utf8_lossy(&script), "")?;
    Ok(Exit::Done)
}
