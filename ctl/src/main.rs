//! `nsctl`: the one program that people type.
//!
//! Must stay true: whatever happens, a person sees lines that say what failed, why and what to do, and a
//! script sees one of the exit codes of [`output::exit::Exit`]; never a panic message or a backtrace.

mod access;
mod cli;
mod client;
mod commands;
mod demo;
mod offline;
mod output;
mod processes;
mod runbook;
mod up;
mod views;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser;

use output::exit::{Ended, Exit, Trouble};

fn main() -> ExitCode {
    hide_panics();
    runtime::privacy::keep_memory_private();
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(ended) = agent::guard(&words) {
        return ended;
    }
    if let Some(child) = cli::Child::asked_for(&words) {
        return end(|| processes::run(child), |trouble| output::warn(trouble.to_string()));
    }
    if let Err(trouble) = access::hide_token(&words) {
        return end(|| Err(trouble), |trouble| output::warn(trouble.to_string()));
    }
    if let Some(help) = runbook::help(&words) {
        return end(
            || output::write_stdout(&help, "\n").map(|()| Exit::Done),
            |trouble| output::warn(trouble.to_string()),
        );
    }
    let words = match runbook::translate(words) {
        Ok(words) => words,
        Err(trouble) => return end(|| Err(trouble), |trouble| output::warn(trouble.to_string())),
    };
    // Writes help to stdout and leaves with 0, or a usage error to stderr and leaves with 2.
    let cli = cli::Cli::try_parse_from(words).unwrap_or_else(|error| error.exit());
    let voice = output::Voice::of(&cli);
    end(|| commands::run(cli, voice), |trouble| voice.error(trouble))
}

/// Turns the end of a command into the exit code; an error is told, a panic was told already.
fn end(command: impl FnOnce() -> Ended, tell: impl Fn(&Trouble)) -> ExitCode {
    let ended = std::panic::catch_unwind(AssertUnwindSafe(command)).unwrap_or(Ok(Exit::Failed));
    ended
        .unwrap_or_else(|trouble| {
            tell(&trouble);
            trouble.exit
        })
        .into()
}

/// A panic is a fault of this program. It is told as such, in two lines, without a backtrace.
fn hide_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
        let why = panic.payload_as_str().unwrap_or("no reason given");
        output::warn(
            Trouble::failed("nsctl ran into a fault of its own")
                .because(format!("{why}{place}"))
                .hint("please report this with the command you typed; your backups are not affected")
                .to_string(),
        );
    }));
}
