//! What can be typed: the verbs, their flags and the texts of `--help`.
//!
//! Must stay true: a verb or flag stands here only when it works in this release.

mod agent;
mod alert;
mod contents;
mod health;
mod help;
mod identity;
pub(crate) mod repository;
mod restore;
mod retention;
mod schedule;
mod signer;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::access::Hidden;
pub(crate) use agent::Agent;
pub(crate) use alert::Alert;
pub(crate) use contents::{Diff, Export, ExportFormat, Find, Import, Ls};
pub(crate) use health::{Bundle, Debug, Doctor};
pub(crate) use identity::{Audit, Role, Since, Token};
pub(crate) use restore::{HowToRestore, Restore, Undo};
pub(crate) use retention::{Clearing, Pin, Prune, Retention, Rules, Unpin};
pub(crate) use schedule::{Named, Run, Schedule, Set};
pub(crate) use signer::Signer;
use values::{backup_name, read_size, some_reason};

/// Back up, verify and restore the data of NeuraShield.
#[derive(Debug, Parser)]
#[command(name = "nsctl", version = runtime::version!(), propagate_version = true, max_term_width = 110)]
#[command(about, after_help = help::TOP, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Here as well as after the verb.
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The heading of what every verb takes, so that it stands behind what a verb takes itself.
const EVERYWHERE: &str = "Options of every verb";

/// Flags that every verb takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where the controller listens: unix:///path/to/controller.sock, or https://HOST:8443 with a token
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "URL", env = "NSCTL_SERVER")]
    #[arg(default_value = "unix:///run/neurashield/controller.sock", hide_env_values = true)]
    pub(crate) server: String,
    /// The token for https; better in NSCTL_TOKEN or a file, where nobody else sees it
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "TOKEN", env = "NSCTL_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<Hidden>,
    /// A file with the token
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", env = "NSCTL_TOKEN_FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// The certificate of the controller's authority (PEM), if the token does not carry it
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", env = "NSCTL_CA_FILE", hide_env_values = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, help_heading = EVERYWHERE, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; errors come with their details
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub(crate) verbose: bool,
}

/// How results are written to stdout.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Output {
    /// Write results as a table for people, or as JSON or YAML for programs [default: table]
    #[arg(short = 'o', long = "output", value_name = "FORMAT", hide_possible_values = false)]
    pub(crate) output: Option<Format>,
}

/// Which order this is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Request {
    /// Name this order; repeated under the same name it starts nothing new and follows the first one
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    request_id: Option<String>,
}

impl Request {
    /// The name that was given, or one that no other order has.
    pub(crate) fn id(self) -> String {
        self.request_id.unwrap_or_else(crate::commands::request_id)
    }
}

/// A notation of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// See docs/json.md.
    Json,
    /// The same fields as JSON.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// See the whole thing work on sample data, on this machine, in under a minute
    #[command(after_help = help::DEMO)]
    Demo {
        /// Leave when all steps are done, with 0 only if every one of them held
        #[arg(long)]
        exit: bool,
    },
    /// Run controller and agent on this machine
    #[command(after_help = help::UP)]
    Up {
        /// A file with the sections `controller:` and `agent:`
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make a backup now
    #[command(after_help = help::BACKUP)]
    Backup(Backup),
    /// Check that a backup can be restored
    #[command(after_help = help::VERIFY)]
    Verify(Verify),
    /// Bring data back from a backup
    #[command(after_help = help::RESTORE)]
    Restore(Restore),
    /// Take a restore back: what it replaced comes from the backup that was made before it
    #[command(after_help = help::UNDO)]
    Undo(Undo),
    /// List the backups, newest first
    List {
        /// How many; all unless told otherwise
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        #[command(flatten)]
        output: Output,
    },
    /// Show one backup: what it holds, how consistent it is, what was verified
    Show {
        /// A backup's timestamp, or `latest`
        #[arg(value_parser = backup_name)]
        timestamp: String,
        #[command(flatten)]
        output: Output,
    },
    /// List files in a backup
    #[command(after_help = help::LS)]
    Ls(Ls),
    /// Write one file of a backup to stdout
    Cat {
        /// A backup's timestamp, or `latest`
        #[arg(value_parser = backup_name)]
        timestamp: String,
        /// A component, or `component/source` where it has several
        component: String,
        /// The file's path in the component, as `nsctl ls` shows it
        path: OsString,
    },
    /// Find files in backups: which have it, how large, and of when
    #[command(after_help = help::FIND)]
    Find(Find),
    /// Show what is not the same in two backups
    #[command(after_help = help::DIFF)]
    Diff(Diff),
    /// Write a component of a backup as a tar file
    #[command(after_help = help::EXPORT)]
    Export(Export),
    /// Make a backup of what another program has dumped
    #[command(subcommand, after_help = help::IMPORT)]
    Import(Import),
    /// List what was done and what is being done, or show one job with all that came of it
    Jobs {
        /// This one alone, with all that is known of it: what was ordered, its steps, results and figures
        job: Option<String>,
        /// How many, newest first
        #[arg(long, conflicts_with = "job", default_value_t = 20)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Show what happened in a job
    Logs {
        /// The job's id
        job: String,
        /// Stay until the job has ended; leave with its exit code
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Stop a job
    Cancel {
        /// The job's id
        job: String,
        #[command(flatten)]
        output: Output,
    },
    /// See and change what happens by itself, and when
    #[command(subcommand, after_help = help::SCHEDULE)]
    Schedule(Schedule),
    /// Say which backups are kept, and remove the others
    #[command(subcommand, after_help = help::RETENTION)]
    Retention(Retention),
    /// Free the space that no backup needs any more
    #[command(after_help = help::PRUNE)]
    Prune(Prune),
    /// Keep a backup whatever its age
    Pin(Pin),
    /// Keep a backup no longer than the rules say
    Unpin(Unpin),
    /// Manage the agents: the programs that run beside the data
    #[command(subcommand, after_help = help::AGENT)]
    Agent(Agent),
    /// Show what is wrong and whom it was told, and try the ways to tell it
    #[command(subcommand, after_help = help::ALERT)]
    Alert(Alert),
    /// Manage the tokens with which people and programs reach the controller from elsewhere
    #[command(subcommand, after_help = help::TOKEN)]
    Token(Token),
    /// Show how far validators of chains have signed, or state it: no restore goes below
    #[command(subcommand, after_help = help::SIGNER)]
    Signer(Signer),
    /// Show who asked for what, or prove that nobody has changed that record
    #[command(after_help = help::AUDIT)]
    Audit(Audit),
    /// Look at everything a backup needs, and say what to do where something is wrong
    Doctor(Doctor),
    /// Leave with 0 if the controller can do its work, for health checks of containers; `doctor` says more
    Healthcheck,
    /// Collect what somebody who helps needs to know; nothing secret
    #[command(subcommand)]
    Debug(Debug),
    /// Check the configuration, or show what is in effect
    #[command(subcommand)]
    Config(Config),
    /// Work straight on a repository, with no controller
    #[command(subcommand, after_help = help::REPOSITORY)]
    Repository(repository::Verb),
    /// Print a script that completes nsctl's words in your shell
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// What `up` and `demo` call themselves with, for their children: not for people, so apart from their verbs.
#[derive(Debug, Parser)]
pub(crate) enum Child {
    /// The agent.
    #[command(name = "agent-process")]
    Agent(AgentProcess),
    /// The controller of the demo.
    #[command(name = "controller-process")]
    Controller {
        /// Its settings.
        #[arg(long)]
        config: PathBuf,
    },
}

impl Child {
    /// The child that these words ask for, if they do.
    pub(crate) fn asked_for(words: &[OsString]) -> Option<Self> {
        let names = ["agent-process", "controller-process"];
        words.get(1).filter(|word| names.iter().any(|name| *word == name))?;
        Some(Self::parse_from(words))
    }
}

/// What the parent of an agent tells it. No secret: everybody sees the arguments of a process.
#[derive(Debug, Args)]
pub(crate) struct AgentProcess {
    /// Its settings.
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// The controller's address.
    #[arg(long)]
    pub(crate) controller: String,
    /// Its folder.
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// The one-time token, if it has yet to join.
    #[arg(long)]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Only these components [default: all that the agents serve]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Keep this backup until it is unpinned, for this reason
    #[arg(long, value_name = "REASON", value_parser = some_reason)]
    pub(crate) pin: Option<String>,
    /// Print the job's id and leave; the backup goes on
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) request: Request,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Which backup [default: the newest]
    #[arg(long, value_name = "T", default_value = "latest", hide_default_value = true)]
    #[arg(value_parser = backup_name)]
    pub(crate) timestamp: String,
    /// Only these components
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// How deep to look
    #[arg(long, value_enum, default_value_t = HowDeep::Opened)]
    pub(crate) depth: HowDeep,
    /// Read so many bytes, e.g. 200GiB: what was never read first, then what was read longest ago, in all
    /// backups [default: as the controller's configuration says]
    #[arg(long, value_name = "SIZE", value_parser = read_size, conflicts_with = "all")]
    pub(crate) budget: Option<u64>,
    /// Read all that the backup needs and rely on nothing, whatever the configuration says
    #[arg(long)]
    pub(crate) all: bool,
    /// Print the job's id and leave; the verification goes on
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) request: Request,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How deep a verification looks that an agent may take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HowDeep {
    /// Signatures, the chain, every pack there with its size
    Listed,
    /// And every pack's SHA-256
    Hashed,
    /// And every piece of data opened, and every entry readable
    Opened,
    /// And restored into the scratch folder of an agent that is marked for it, and opened there by a program of its own
    Drilled,
}

/// How deep a verification looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Depth {
    /// Signatures, the chain, every pack there with its size
    Listed,
    /// And every pack's SHA-256
    Hashed,
    /// And every piece of data opened, and every entry readable
    Opened,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check a file and the environment; say what is wrong and where
    Check {
        /// A file with the sections `controller:` and `agent:`
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show the settings in effect; secrets are left out
    Show {
        /// A file with the sections `controller:` and `agent:`
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Say of each setting where it came from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        output: Output,
    },
}

impl Verb {
    /// The format that was asked for after the verb.
    pub(crate) fn format(&self) -> Option<Format> {
        match self {
            Verb::List { output, .. } | Verb::Doctor(Doctor { output, .. }) => output.output,
            Verb::Debug(Debug::Bundle(Bundle { output, .. })) => output.output,
            Verb::Show { output, .. } | Verb::Jobs { output, .. } => output.output,
            Verb::Logs { output, .. } | Verb::Cancel { output, .. } => output.output,
            Verb::Import(Import::Mongodump { output, .. }) => output.output,
            Verb::Backup(Backup { output, .. }) | Verb::Verify(Verify { output, .. }) => output.output,
            Verb::Restore(Restore { how, .. }) | Verb::Undo(Undo { how, .. }) => how.output.output,
            Verb::Ls(Ls { output, .. }) => output.output,
            Verb::Find(Find { output, .. }) | Verb::Diff(Diff { output, .. }) => output.output,
            Verb::Schedule(schedule) => schedule.output().output,
            Verb::Retention(Retention::Show(output)) => output.output,
            Verb::Retention(Retention::Set(Rules { output, .. })) => output.output,
            Verb::Retention(Retention::Apply(clearing)) => clearing.output.output,
            Verb::Prune(prune) => prune.clearing.output.output,
            Verb::Pin(Pin { output, .. }) | Verb::Unpin(Unpin { output, .. }) => output.output,
            Verb::Agent(Agent::List(output)) => output.output,
            Verb::Agent(
                Agent::Invite { output, .. } | Agent::Invites { output, .. } | Agent::Revoke { output, .. },
            ) => output.output,
            Verb::Alert(Alert::List(output)) => output.output,
            Verb::Alert(Alert::Test { output, .. } | Alert::History { output, .. }) => output.output,
            Verb::Token(Token::List(output)) | Verb::Signer(Signer::List(output)) => output.output,
            Verb::Signer(Signer::Set { output, .. }) => output.output,
            Verb::Token(Token::Create { output, .. } | Token::Revoke { output, .. }) => output.output,
            Verb::Audit(Audit { output, .. }) => output.output,
            Verb::Config(Config::Show { output, .. }) => output.output,
            Verb::Repository(verb) => verb.format(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_output_format_is_taken_before_and_after_the_verb() {
        let before = Cli::try_parse_from(["nsctl", "-o", "json", "list"]).expect("valid");
        assert_eq!(before.output.output, Some(Format::Json));
        let after = Cli::try_parse_from(["nsctl", "list", "-o", "yaml"]).expect("valid");
        assert_eq!(after.verb.format(), Some(Format::Yaml));
    }

    #[test]
    fn an_empty_timestamp_is_nobodys_choice() {
        for wrong in ["", "today", "20230101-120000", "20239901_120000"] {
            let words = ["nsctl", "restore", "--timestamp", wrong, "--yes"];
            assert!(Cli::try_parse_from(words).is_err(), "{wrong:?}");
            assert!(Cli::try_parse_from(["nsctl", "ls", wrong, "models"]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_path_that_names_nothing_is_nobodys_choice() {
        for wrong in ["", "/", "[", "a{"] {
            let words = ["nsctl", "restore", "--timestamp", "latest", "--path", wrong, "--yes"];
            assert!(Cli::try_parse_from(words).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn several_path_patterns_follow_one_flag_or_several() {
        for line in [
            vec!["nsctl", "restore", "--timestamp", "latest", "--path", "a/*", "b/*", "--yes"],
            vec!["nsctl", "restore", "--timestamp", "latest", "--path", "a/*", "--path", "b/*", "--yes"],
        ] {
            let cli = Cli::try_parse_from(line).expect("valid");
            let Verb::Restore(restore) = cli.verb else { panic!("restore is parsed as restore") };
            assert_eq!(restore.path, ["a/*", "b/*"]);
        }
    }
}
