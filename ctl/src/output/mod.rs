//! What is said, and where: results on stdout, everything else on stderr.

pub(crate) mod exit;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod words;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::cli::{Cli, Format};
use exit::Trouble;

/// How this run speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Voice {
    format: Format,
    quiet: bool,
    verbose: bool,
}

impl Voice {
    /// As the command line says.
    pub(crate) fn of(cli: &Cli) -> Self {
        let format = cli.verb.format().or(cli.output.output).unwrap_or_default();
        Self { format, quiet: cli.global.quiet, verbose: cli.global.verbose }
    }

    /// True if `-q` was given.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A result: `view` in JSON or YAML, or what `table` makes of it for people.
    pub(crate) fn result<T: Serialize>(
        &self,
        view: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Trouble> {
        let text = match self.format {
            Format::Table => table(view),
            Format::Json => {
                serde_json::to_string_pretty(view).expect("views have string keys and no custom code")
            }
            Format::Yaml => serde_saphyr::to_string(view).expect("views are plain data"),
        };
        write_stdout(text.trim_end_matches('\n'), "\n")
    }

    /// A result that people were told in words, for programs.
    pub(crate) fn data<T: Serialize>(&self, view: &T) -> Result<(), Trouble> {
        if self.format == Format::Table { Ok(()) } else { self.result(view, |_| String::new()) }
    }

    /// One event of a stream of them: a line of JSON, a YAML document, or a line for people.
    pub(crate) fn event<T: Serialize>(
        &self,
        view: &T,
        line: impl FnOnce(&T) -> String,
    ) -> Result<(), Trouble> {
        let text = match self.format {
            Format::Table => line(view),
            Format::Json => serde_json::to_string(view).expect("views have string keys and no custom code"),
            Format::Yaml => format!("---\n{}", serde_saphyr::to_string(view).expect("views are plain data")),
        };
        write_stdout(text.trim_end_matches('\n'), "\n")
    }

    /// Something that helps a person and is no result; nothing with `-q`.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            warn(text);
        }
    }

    /// An error, with its details if `-v` was given.
    pub(crate) fn error(&self, trouble: &Trouble) {
        warn(trouble.to_string());
        if self.verbose && !trouble.details.is_empty() {
            warn(format!("  details: {}", trouble.details));
        }
    }
}

/// Something that has to be said whatever was asked for: on stderr, ignoring that nobody may listen.
pub(crate) fn warn(text: impl AsRef<str>) {
    let mut stderr = io::stderr().lock();
    stderr.write_all(text.as_ref().as_bytes()).and_then(|()| stderr.write_all(b"\n")).ok();
}

/// True if a person can be asked something.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for `yes`; anything else is no.
pub(crate) fn confirm(question: &str) -> Result<bool, Trouble> {
    Ok(ask(&format!("{question} Type yes to go on: "))?.trim().eq_ignore_ascii_case("yes"))
}

/// Asks for a line.
pub(crate) fn ask(question: &str) -> Result<String, Trouble> {
    let cannot = |error: io::Error| Trouble::failed("cannot ask on this terminal").caused_by(&error);
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).map_err(cannot)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(cannot)?;
    Ok(line)
}

/// Whoever read stdout has gone.
static UNHEARD: AtomicBool = AtomicBool::new(false);

/// True if nobody reads stdout any more: work for nothing but more of it can end.
pub(crate) fn is_unheard() -> bool {
    UNHEARD.load(Ordering::Relaxed)
}

/// Writes a result. A reader that has seen enough (`nsctl list | head -1`) is no error.
pub(crate) fn write_stdout(text: &str, end: &str) -> Result<(), Trouble> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(end.as_bytes()))
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            UNHEARD.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(Trouble::failed("cannot write the result to stdout").caused_by(&error)),
        Ok(()) => Ok(()),
    }
}
