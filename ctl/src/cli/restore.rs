//! `nsctl restore` and `nsctl undo`: what can be typed.

use std::path::PathBuf;

use clap::Args;

use super::values::{backup_name, path_pattern};
use super::{Output, Request};

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
    #[arg(long, value_name = "GLOB", num_args = 1.., value_parser = path_pattern)]
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
    /// Do not ask; with --plan nothing is done all the same
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Print the job's id and leave; the restore goes on
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) request: Request,
    #[command(flatten)]
    pub(crate) output: Output,
}
