//! What backups hold, out of them and into them: `nsctl ls`, `find`, `diff`, `export` and `import`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::values::{backup_name, some_reason};
use super::{Output, Request};

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// A backup's timestamp, or `latest`
    #[arg(value_parser = backup_name)]
    pub(crate) timestamp: String,
    /// A component, or `component/source` where it has several
    pub(crate) component: String,
    /// A folder in the component [default: its root]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) path: OsString,
    /// All that is below, too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Find {
    /// A name, or a path in a component: `*` and `?` stay within a name, `**` stands for any number of folders
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: String,
    /// Only in this backup, or `latest` [default: in all, newest first]
    #[arg(long, value_name = "T", value_parser = backup_name, conflicts_with = "limit")]
    pub(crate) timestamp: Option<String>,
    /// Only these components
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Only in so many backups, the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// A backup's timestamp, or `latest`
    #[arg(value_name = "T1", value_parser = backup_name)]
    pub(crate) first: String,
    /// The backup it is compared with, or `latest`
    #[arg(value_name = "T2", value_parser = backup_name)]
    pub(crate) second: String,
    /// Only this component, or `component/source` where it has several
    pub(crate) component: Option<String>,
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
        #[arg(long, value_name = "REASON", value_parser = some_reason)]
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
