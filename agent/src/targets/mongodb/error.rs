//! What can go wrong in a restore into a server, and what it reports when it has not.

use repository::archive::path::EntryPath;

use crate::sources::mongodb::server::Trouble;
use crate::targets::BlobError;

/// A restore failed. Unless it is [`RestoreError::Interrupted`], what is live is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// It cannot be carried out, for this reason.
    #[error("{0}")]
    Refused(String),
    /// It is another agent's now, or was ended by one.
    #[error("{0}")]
    Lost(&'static str),
    /// The archive is not what the archive of a server has to be.
    #[error("the archive's entry {path} is refused: {cause}")]
    Archive { path: EntryPath, cause: String },
    /// The next entry cannot be had.
    #[error("cannot read the next entry of the archive")]
    Entries(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A piece of an entry cannot be had.
    #[error("cannot get the content of {path}")]
    Blob {
        path: EntryPath,
        #[source]
        source: BlobError,
    },
    /// The server does not do what it is asked for.
    #[error("cannot {action}")]
    Server {
        action: String,
        #[source]
        source: Trouble,
    },
    /// What is in the backup does not fit together: the same key twice.
    #[error("{0}")]
    Duplicates(String),
    /// The server holds something else than it was given.
    #[error("{0}")]
    Differs(String),
    /// Somebody asked to stop.
    #[error("the restore was cancelled")]
    Cancelled,
    /// What uses the data could not be stopped.
    #[error("{0}")]
    NotStopped(String),
    /// It was live, and was taken back.
    #[error("{0}")]
    TakenBack(String),
    /// It failed in the middle of the swap and could not be taken back either.
    #[error("the swap is half done; it is finished or taken back when the agent starts next")]
    Interrupted(#[source] Box<RestoreError>),
}

impl RestoreError {
    pub(super) fn archive(path: &EntryPath, cause: impl Into<String>) -> Self {
        Self::Archive { path: path.clone(), cause: cause.into() }
    }
}

/// Turns what a server says into an error that tells what was tried.
pub(super) fn failed(action: impl Into<String>) -> impl FnOnce(Trouble) -> RestoreError {
    move |source| RestoreError::Server { action: action.into(), source }
}

/// What a restore did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RestoreReport {
    /// Collections and views.
    pub(crate) collections: u64,
    /// Bytes of documents.
    pub(crate) bytes: u64,
    pub(crate) replaced: u64,
    pub(crate) created: u64,
    pub(crate) removed: u64,
    pub(crate) notes: Vec<String>,
}
