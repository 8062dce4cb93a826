//! What can go wrong in a restore, and what it reports when it has not.

use std::io;
use std::path::PathBuf;

use repository::archive::path::EntryPath;

use crate::targets::BlobError;

/// A restore failed. Unless it is [`RestoreError::Interrupted`], the live state is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The request itself cannot be carried out.
    #[error("cannot restore to {place}: {cause}")]
    Refused {
        /// Where to.
        place: String,
        /// Why not, and what to do.
        cause: String,
    },
    /// The archive is not what an archive has to be: damaged, or made to do harm.
    #[error("the archive's entry {path} is refused: {cause}")]
    Archive {
        /// Which entry.
        path: EntryPath,
        /// What is wrong with it.
        cause: String,
    },
    /// The next entry cannot be had.
    #[error("cannot read the next entry of the archive")]
    Entries(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A piece of a file cannot be had.
    #[error("cannot get the content of {path}")]
    Blob {
        /// Of which entry.
        path: EntryPath,
        /// The cause.
        #[source]
        source: BlobError,
    },
    /// A call to the file system failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, e.g. `write`.
        action: &'static str,
        /// With what.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Somebody asked to stop.
    #[error("the restore was cancelled")]
    Cancelled,
    /// What uses the live state could not be stopped.
    #[error("{0}")]
    NotStopped(String),
    /// It was live, and was taken back: the old state is there again.
    #[error("{0}")]
    TakenBack(String),
    /// It failed in the middle of the swap and could not be undone either. [`super::recover()`] ends it,
    /// one way or the other, once the cause is gone.
    #[error("the swap in {place} is half done; it is finished or undone when the agent starts next")]
    Interrupted {
        /// Where.
        place: String,
        /// The cause.
        #[source]
        source: Box<RestoreError>,
    },
}

impl RestoreError {
    pub(super) fn archive(path: &EntryPath, cause: impl Into<String>) -> Self {
        RestoreError::Archive { path: path.clone(), cause: cause.into() }
    }

    pub(super) fn refused(place: impl ToString, cause: impl Into<String>) -> Self {
        RestoreError::Refused { place: place.to_string(), cause: cause.into() }
    }
}

/// Turns the error of a call into one that says what was tried with what.
pub(super) fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl ToString,
) -> impl FnOnce(E) -> RestoreError {
    move |source| RestoreError::Io { action, path: path.to_string(), source: source.into() }
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Entries written.
    pub entries: u64,
    /// Bytes of content written, holes not counted.
    pub bytes: u64,
    /// Of them those that were not fetched: what is live had them.
    pub bytes_from_here: u64,
    /// How many entries (with all below them) took the place of a live one.
    pub overwritten: u64,
    /// How many had no live one.
    pub created: u64,
    /// How many live ones were moved away since the archive has none of that name.
    pub removed: u64,
    /// Where the old state lies now; the next restore to the same place removes it.
    pub old: Vec<PathBuf>,
    /// What could not be restored as it was, one line each with a count.
    pub notes: Vec<String>,
}
