//! The verbs of `nsctl repository`: straight on a folder, with no controller.

use std::path::PathBuf;

use ::repository::repair::GiveUp;
use ::repository::store::location::Location;
use clap::{Args, Subcommand};

use super::{Depth, Format, Output};

/// Which repository, and what opens it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The repository's folder, or its bucket: s3://BUCKET/PREFIX
    #[arg(long, value_name = "DIR|URL", env = "NSCTL_REPOSITORY")]
    #[arg(default_value = "/opt/neurashield/backups", hide_env_values = true)]
    pub(crate) repository: Location,
    /// For a bucket: the controller's configuration, whose section `s3` says how it is reached. The variables of
    /// the controller and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, … count as well
    #[arg(long, value_name = "FILE", env = "NEURASHIELD_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

/// What opens a repository's data: at most one.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
pub(crate) struct Secret {
    /// The key file, as the controller uses it
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// A file that holds the passphrase
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// A file that holds the recovery key; `-` is stdin
    #[arg(long, value_name = "FILE", env = "NSCTL_RECOVERY_KEY_FILE", hide_env_values = true)]
    pub(crate) recovery_key_file: Option<PathBuf>,
}

impl Secret {
    /// True if any of the files was named.
    pub(crate) fn is_given(&self) -> bool {
        self.key_file.is_some() || self.passphrase_file.is_some() || self.recovery_key_file.is_some()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a new repository; shows the recovery key, once
    Init {
        #[command(flatten)]
        place: Place,
        /// Open it with this key file; made new, with a random key, if it does not exist
        #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
        #[arg(required_unless_present = "passphrase_file")]
        key_file: Option<PathBuf>,
        /// Open it with the passphrase in this file
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// List the backups
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Check backups; leaves with 4 when damage was found
    Check(Check),
    /// Bring data back into a new folder
    Restore(Restore),
    /// Write a component of a backup as a tar file
    Export(Export),
    /// Make a controller's state folder anew from the repository, or the index from the packs
    Rebuild(Rebuild),
    /// Manage what opens the repository
    #[command(subcommand)]
    Key(Key),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) secret: Secret,
    /// Only this backup, or `latest` [default: all]
    #[arg(value_parser = super::values::backup_name)]
    pub(crate) timestamp: Option<String>,
    /// How deep to look; `opened` needs a key
    #[arg(long, value_enum, default_value_t = Depth::Hashed)]
    pub(crate) depth: Depth,
    /// Make good what is damaged as far as possible, all of the repository; with a key more is possible
    #[arg(long, conflicts_with = "timestamp")]
    pub(crate) repair: bool,
    /// Only show what `--repair` would do
    #[arg(long, requires = "repair")]
    pub(crate) plan: bool,
    /// Do without what is lost, so that prune and new backups can go on: a backup that is gone or whose own
    /// description is (`20260101_010000`), or a place in the order that nothing tells of any more (`7`)
    #[arg(long, value_name = "WHAT", requires = "repair", num_args = 1..)]
    pub(crate) give_up: Vec<GiveUp>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) secret: Secret,
    /// Which backup, or `latest`: the newest that holds every asked component complete
    #[arg(long, value_name = "T")]
    #[arg(value_parser = super::values::backup_name)]
    pub(crate) timestamp: String,
    /// Only these components [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Only entries whose path in the component matches one of these
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    pub(crate) path: Vec<String>,
    /// Leave out what gives somebody rights: setuid, setgid, devices, capabilities, security attributes
    #[arg(long)]
    pub(crate) no_privileges: bool,
    /// Up to which height the chain's validator has signed, by the newest height of its network: its key comes along,
    /// and its state says no less, so that it signs no height twice
    #[arg(long, value_name = "HEIGHT")]
    pub(crate) signer_height: Option<u64>,
    /// The keys of a chain's node and its accounts (nodekey, node_key.json, jwtsecret, keystore/) come along into another
    /// folder, too; that of a validator only with --signer-height, or named by --path
    #[arg(long)]
    pub(crate) with_keys: bool,
    /// The folder to write to, one subfolder for each component; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) secret: Secret,
    /// The state folder to make anew: history, schedules, agents and their authority. Without a key, history from
    /// the manifests alone. Left out: the index is made anew
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
    /// Put aside what is in the state folder
    #[arg(long, requires = "state")]
    pub(crate) replace: bool,
    /// Only show what would be done
    #[arg(long, requires = "state")]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) secret: Secret,
    /// Which backup, or `latest`
    #[arg(value_parser = super::values::backup_name)]
    pub(crate) timestamp: String,
    /// A component, or `component/source` where it has several
    pub(crate) component: String,
    /// The tar file to write; it must not exist. `-` is stdout
    #[arg(short, long = "output", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Of a chain's folder: with the keys of the node, its accounts and its validator
    #[arg(long)]
    pub(crate) with_keys: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List the slots: each opens the repository by itself
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Confirm that the recovery key is kept safe: asks it back
    Confirm {
        #[command(flatten)]
        place: Place,
        /// A file that holds the recovery key; `-` is stdin [default: ask]
        #[arg(long, value_name = "FILE", env = "NSCTL_RECOVERY_KEY_FILE", hide_env_values = true)]
        recovery_key_file: Option<PathBuf>,
    },
    /// Add a slot
    Add {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        secret: Secret,
        /// The new slot's key file; made new, with a random key, if it does not exist
        #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
        #[arg(required_unless_present = "new_passphrase_file")]
        new_key_file: Option<PathBuf>,
        /// A file that holds the new slot's passphrase
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
}

impl Verb {
    /// The format that was asked for.
    pub(super) fn format(&self) -> Option<Format> {
        match self {
            Verb::List { output, .. } | Verb::Key(Key::List { output, .. }) => output.output,
            Verb::Check(check) => check.output.output,
            Verb::Restore(restore) => restore.output.output,
            Verb::Rebuild(rebuild) => rebuild.output.output,
            _ => None,
        }
    }
}
