//! What can go wrong in a restore into a cluster.

use super::select::Name;
use crate::kubernetes::Trouble;
use crate::targets::mongodb;

/// A restore failed. Unless it is [`ObjectsError::Half`], what is live is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectsError {
    /// It cannot be carried out, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The archive is not what the archive of a cluster has to be.
    #[error("the archive's entry {0}")]
    Damaged(String),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(mongodb::RestoreError),
    /// The cluster does not take it.
    #[error("{target}: {trouble}")]
    Cluster { target: String, trouble: Trouble },
    /// Somebody asked to stop.
    #[error("the restore was cancelled")]
    Cancelled,
    /// What uses it could not be stopped.
    #[error("{0}")]
    NotStopped(String),
    /// It was live, and was taken back.
    #[error("{0}")]
    TakenBack(String),
    /// It failed, and some of it could not be taken back.
    #[error("{cause}; and these are not as they were: {}", .left.join("; "))]
    Half { cause: String, left: Vec<String> },
}

impl ObjectsError {
    pub(super) fn cluster(target: &Name, trouble: Trouble) -> Self {
        Self::Cluster { target: target.to_string(), trouble }
    }
}

impl From<mongodb::RestoreError> for ObjectsError {
    fn from(error: mongodb::RestoreError) -> Self {
        match error {
            mongodb::RestoreError::Cancelled => Self::Cancelled,
            error => Self::Archive(error),
        }
    }
}
