//! What can be typed: the verbs, their flags and the texts of `--help`.
//!
//! Must stay true: a verb or flag stands here only when it works in this release.

mod alert;
mod health;
mod help;
mod identity;
pub(crate) mod repository;
mod retention;
mod schedule;
mod signer;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::access::Hidden;
pub(crate) use alert::Alert;
pub(crate) use health::{Bundle, Debug, Doctor};
pub(crate) use identity::{Audit, Role, Since, Token};
pub(crate) use retention::{Clearing, Pin, Prune, Retention, Rules, Unpin};
pub(crate) use schedule::{Named, Run, Schedule, Set};
pub(crate) use signer::Signer;

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

/// Flags that every verb takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where the controller listens: unix:///path/to/controller.sock, or https://HOST:8443 with a token
    #[arg(long, global = true, value_name = "URL", env = "NSCTL_SERVER")]
    #[arg(default_value = "unix:///run/neurashield/controller.sock", hide_env_values = true)]
    pub(crate) server: String,
    /// The token for https; better in NSCTL_TOKEN or a file, where nobody else sees it
    #[arg(long, global = true, value_name = "TOKEN", env = "NSCTL_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<Hidden>,
    /// A file with the token
    #[arg(long, global = true, value_name = "FILE", env = "NSCTL_TOKEN_FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// The certificate of the controller's authority (PEM), if the token does not carry it
    #[arg(long, global = true, value_name = "FILE", env = "NSCTL_CA_FILE", hide_env_values = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; errors come with their details
    #[arg(short, long, global = true)]
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
        /// The file's path in the component
        path: String,
    },
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
    #[arg(long, value_name = "REASON", default_value = "", hide_default_value = true)]
    pub(crate) pin: String,
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
    #[arg(long, value_enum, default_value_t = Depth::Opened)]
    pub(crate) depth: Depth,
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

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Which backup, or `latest`: the newest that holds every asked component complete
    #[arg(long, value_name = "T")]
    #[arg(value_parser = backup_name)]
    pub(crate) timestamp: String,
    /// Only these components [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Only entries whose path in the component matches one of these
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    pub(crate) path: Vec<String>,
    /// Of databases only these, or these collections; `*` stands for any letters. Of a cluster only these objects, or
    /// this key of one: `[NAMESPACE/]KIND/NAME[:KEY]`
    #[arg(long, value_name = "DB[.COLL]|KIND/NAME", num_args = 1.., conflicts_with = "to")]
    pub(crate) include: Vec<String>,
    /// A database or a collection under another name; with no --include, nothing else is restored
    #[arg(long, value_name = "OLD=NEW", num_args = 1.., conflicts_with = "to")]
    pub(crate) rename: Vec<String>,
    /// Remove the collections of restored databases that the backup does not have
    #[arg(long, conflicts_with = "to")]
    pub(crate) drop_others: bool,
    /// Objects of a Kubernetes cluster into this namespace instead of each into its own
    #[arg(long, value_name = "NS", default_value = "", hide_default_value = true, conflicts_with = "to")]
    pub(crate) to_namespace: String,
    /// Into this folder on the agent's machine instead of in place; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: Option<PathBuf>,
    /// Up to which height the chain's validator has signed: look up the newest height of its network. What is
    /// restored says no less, so that it signs no height twice
    #[arg(long, value_name = "HEIGHT")]
    pub(crate) signer_height: Option<u64>,
    /// The keys of a chain's node and its accounts (nodekey, node_key.json, jwtsecret, keystore/) come along into another
    /// folder, too; that of a validator only with --signer-height, or named by --path
    #[arg(long)]
    pub(crate) with_keys: bool,
    /// On this agent instead of the one that serves the data
    #[arg(long, value_name = "AGENT", default_value = "", hide_default_value = true)]
    pub(crate) to_agent: String,
    #[command(flatten)]
    pub(crate) how: HowToRestore,
}

/// Takes a restore back.
#[derive(Debug, Args)]
pub(crate) struct Undo {
    /// The restore's job
    #[arg(value_name = "RESTORE")]
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) how: HowToRestore,
}

/// What a restore and its undoing have in common.
#[derive(Debug, Args)]
pub(crate) struct HowToRestore {
    /// Leave out what gives somebody rights: setuid, setgid, devices, capabilities, security attributes
    #[arg(long)]
    pub(crate) no_privileges: bool,
    /// Take fields of objects over that another manager has set in the cluster
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// Do not back up what is replaced: it cannot be taken back later
    #[arg(long)]
    pub(crate) no_safety_backup: bool,
    /// Although the backup is incomplete or was found damaged
    #[arg(long)]
    pub(crate) accept_doubts: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Do not ask
    #[arg(short, long, conflicts_with = "plan")]
    pub(crate) yes: bool,
    /// Print the job's id and leave; the restore goes on
    #[arg(long, conflicts_with = "plan")]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) request: Request,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// A backup's timestamp, or `latest`
    #[arg(value_parser = backup_name)]
    pub(crate) timestamp: String,
    /// A component, or `component/source` where it has several
    pub(crate) component: String,
    /// A folder in the component [default: its root]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) path: String,
    /// All that is below, too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What is imported.
#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// What mongodump has written, as a backup of the component whose server it is of
    Mongodump {
        /// The folder, an absolute path at the agent that serves the component, below its `imports`
        #[arg(value_name = "DIR", required_unless_present = "archive")]
        folder: Option<PathBuf>,
        /// Instead of a folder: the file that `mongodump --archive` has written, likewise
        #[arg(long, value_name = "FILE", conflicts_with = "folder")]
        archive: Option<PathBuf>,
        /// The component; may be left out where there is only one server
        #[arg(long)]
        component: Option<String>,
        /// Keep the backup until it is unpinned, for this reason
        #[arg(long, value_name = "REASON")]
        pin: Option<String>,
        /// Print the job's id and leave; the backup goes on
        #[arg(long)]
        detach: bool,
        #[command(flatten)]
        request: Request,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A backup's timestamp, or `latest`
    #[arg(value_parser = backup_name)]
    pub(crate) timestamp: String,
    /// A component, or `component/source` where it has several
    pub(crate) component: String,
    /// The file or the folder to write; it must not exist. `-` is stdout
    #[arg(short, long = "output", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Of a chain's folder: with the keys of the node, its accounts and its validator
    #[arg(long)]
    pub(crate) with_keys: bool,
    /// As what
    #[arg(long, value_enum, default_value = "tar")]
    pub(crate) format: ExportFormat,
}

/// What an archive becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A tar file
    Tar,
    /// Of an IPFS node: the CAR that `ipfs dag import` reads
    Car,
    /// Of a MongoDB server: the folder that `mongorestore --dir` reads
    Mongodump,
    /// Of a MongoDB server: the stream that `mongorestore --archive` reads
    MongodumpArchive,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List the agents and what they serve
    List(Output),
    /// Make a token with which one agent can join, once, or a join key for several
    Invite {
        /// What people will call the agent; of a join key a pattern, e.g. 'node-*'
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// How long it can be used: 30m, 1h, 2d
        #[arg(long = "expires", alias = "valid", value_name = "TIME", default_value = "1h")]
        #[arg(value_parser = valid_seconds)]
        valid: u32,
        /// A join key: as many agents can join with it as --uses says
        #[arg(long, requires = "uses")]
        reusable: bool,
        /// How many agents can join with it
        #[arg(long, value_name = "N", requires = "reusable")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: Option<u32>,
        /// Who joins with it may serve these sources and no others: component/source, e.g. 'models/*'
        #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
        sources: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// List the invitations that can still be used, or take one back
    Invites {
        /// Take back the invitation with this id; agents that have joined with it stay
        #[arg(long, value_name = "ID")]
        revoke: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Shut an agent out for good
    Revoke {
        /// The agent's id or name
        agent: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
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

/// A backup's timestamp, or `latest`. Nothing else goes further: an empty variable in a script must not
/// become somebody's choice.
fn backup_name(text: &str) -> Result<String, String> {
    if text != "latest" {
        text.parse::<::repository::names::BackupName>()
            .map_err(|_| "not YYYYMMDD_HHMMSS (UTC) and not `latest`")?;
    }
    Ok(text.to_owned())
}

/// Bytes of a size like `200GiB`.
fn read_size(text: &str) -> Result<u64, String> {
    match text.parse::<runtime::config::Size>()?.bytes() {
        0 => Err("nothing would be read".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Seconds of a time like `1h` or `1h 30m`, at most 30 days.
fn valid_seconds(text: &str) -> Result<u32, String> {
    seconds(text, 30).ok_or_else(|| "not a time between 1m and 30d, e.g. 30m, 1h, 2d".to_owned())
}

fn seconds(text: &str, most_days: u32) -> Option<u32> {
    let seconds = u32::try_from(length(text)?.as_secs()).ok()?;
    (60..=most_days * 86_400).contains(&seconds).then_some(seconds)
}

fn length(text: &str) -> Option<jiff::SignedDuration> {
    text.parse::<jiff::Span>()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()))
        .ok()
}

impl Verb {
    /// The format that was asked for after the verb.
    pub(crate) fn format(&self) -> Option<Format> {
        match self {
            Verb::List { output, .. } | Verb::Doctor(Doctor { output, .. }) => output.output,
            Verb::Debug(Debug::Bundle(Bundle { output, .. })) => output.output,
            Verb::Show { output, .. } | Verb::Jobs { output, .. } | Verb::Logs { output, .. } => {
                output.output
            }
            Verb::Import(Import::Mongodump { output, .. }) => output.output,
            Verb::Backup(Backup { output, .. }) | Verb::Verify(Verify { output, .. }) => output.output,
            Verb::Restore(Restore { how, .. }) | Verb::Undo(Undo { how, .. }) => how.output.output,
            Verb::Ls(Ls { output, .. }) => output.output,
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
    fn a_token_lives_between_a_minute_and_thirty_days() {
        assert_eq!(valid_seconds("1h 30m"), Ok(5400));
        assert_eq!(valid_seconds("2d"), Ok(172_800));
        for wrong in ["", "1", "5s", "31d", "-1h", "soon"] {
            assert!(valid_seconds(wrong).is_err(), "{wrong:?}");
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
