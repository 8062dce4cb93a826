//! What can go wrong with a repository, with the noun in it. What to do is [`RepositoryError::hint`].

use crate::codec::Malformed;
use crate::ids::{BlobId, PackId, SegmentId};
use crate::names::{BackupName, SourceId};
use crate::signed::SignedError;
use crate::store::{ObjectPath, StoreError};

/// An operation on a repository failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// There is no repository at this place.
    #[error("there is no repository in {location}")]
    NotARepository {
        /// Where was looked.
        location: String,
    },
    /// `init` found one.
    #[error("there is a repository in {location} already")]
    AlreadyThere {
        /// Where.
        location: String,
    },
    /// `init` found packs or a chain without a `config.json`.
    #[error("{location} holds parts of a repository whose config.json is missing")]
    Headless {
        /// Where.
        location: String,
    },
    /// A newer program wrote it.
    #[error("this repository needs {feature}, which this program does not know")]
    TooNew {
        /// A format version or a feature.
        feature: String,
    },
    /// No slot opens with this secret.
    #[error("no {kind} slot of this repository opens with this secret")]
    WrongKey {
        /// The kind of secret that was given.
        kind: crate::keys::SlotKind,
    },
    /// Every copy of a key file is damaged.
    #[error("{path} and its second copy are damaged")]
    KeysDamaged {
        /// The first copy.
        path: ObjectPath,
    },
    /// A signed file is not what this repository's key signed.
    #[error("{path} is not to be trusted")]
    Signature {
        /// Which file.
        path: ObjectPath,
        /// Why.
        #[source]
        source: SignedError,
    },
    /// A file's SHA-256 is not what its backup says.
    #[error("{path} was changed or damaged: its SHA-256 is not the one in its backup.json")]
    Checksum {
        /// Which file.
        path: ObjectPath,
    },
    /// A file is not what the format says.
    #[error("{path} is damaged")]
    Damaged {
        /// Which file.
        path: ObjectPath,
        /// How.
        #[source]
        source: Malformed,
    },
    /// There is no such backup.
    #[error("there is no backup {name}")]
    NoBackup {
        /// Which.
        name: BackupName,
    },
    /// The backup has nothing of this source.
    #[error("backup {name} holds nothing of {source_id}")]
    NoArchive {
        /// Which backup.
        name: BackupName,
        /// Which source.
        source_id: SourceId,
    },
    /// The archive failed when it was made: there is nothing to read.
    #[error("{source_id} failed in backup {name}: {reason}")]
    ArchiveFailed {
        /// Which backup.
        name: BackupName,
        /// Which source.
        source_id: SourceId,
        /// Why.
        reason: String,
    },
    /// No pack holds a blob that an archive needs.
    #[error("blob {0} is in no pack of this repository")]
    BlobMissing(BlobId),
    /// A blob does not open, or is not what its id says.
    #[error("blob {id} in pack {pack} is damaged")]
    BlobDamaged {
        /// Which blob.
        id: BlobId,
        /// The pack that holds it.
        pack: PackId,
    },
    /// An agent sent something that cannot be taken.
    #[error("segment {segment} cannot be accepted: {why}")]
    Rejected {
        /// Which segment.
        segment: SegmentId,
        /// Why.
        why: &'static str,
    },
    /// Blobs that a backup needs are in no pack at the moment of its commit.
    #[error("{count} blobs that {source_id} needs are in no pack")]
    Unresolved {
        /// Which source.
        source_id: SourceId,
        /// How many.
        count: usize,
    },
    /// The next backup would have to name the newest line of the chain, and nobody can read that.
    #[error("line {sequence} of the chain, the newest, cannot be read, so that no backup can follow it")]
    ChainEnd {
        /// Which.
        sequence: u64,
    },
    /// Another controller writes here now.
    #[error("the right to write this repository was lost")]
    Fenced(#[source] crate::store::lease::LeaseError),
    /// Prune cannot go on, and nothing was taken away.
    #[error(transparent)]
    Prune(#[from] crate::prune::PruneError),
    /// The work was told to stop.
    #[error("cancelled")]
    Cancelled,
    /// The storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RepositoryError {
    /// What to do, in one line.
    pub fn hint(&self) -> &'static str {
        use RepositoryError as E;
        match self {
            E::NotARepository { .. } => "check the path; `nsctl repository init` makes a repository",
            E::AlreadyThere { .. } => "use it as it is, or choose another folder",
            E::Headless { .. } => {
                "restore repository/config.json from a copy of this folder; nothing was changed"
            }
            E::TooNew { .. } => "use a newer release of NeuraShield Backup",
            E::WrongKey { .. } => {
                "check that the key belongs to this repository; the recovery key opens it too"
            }
            E::KeysDamaged { .. } => "restore the folder repository/keys from a copy of this repository",
            E::Signature { .. } | E::Checksum { .. } | E::Damaged { .. } => {
                "run `nsctl repository check` to see what is affected; other backups are not"
            }
            E::NoBackup { .. } | E::NoArchive { .. } => "`nsctl list` shows what there is",
            E::ArchiveFailed { .. } => "choose another backup: `nsctl list` shows which are complete",
            E::BlobMissing(_) | E::BlobDamaged { .. } => {
                "`nsctl verify` names the entries concerned; restore them from another backup with --path"
            }
            E::Rejected { .. } => "update the agent; if it is up to date, report this as a bug",
            E::ChainEnd { .. } => {
                "`nsctl repository check --repair` writes the line anew from its backup; where that is lost too, `--give-up N` lets the chain go on without it"
            }
            E::Unresolved { .. } => "run the backup again: it sends what is missing",
            E::Fenced(_) => "make sure that only one controller uses this repository",
            E::Prune(error) => error.hint(),
            E::Cancelled => "start it again when you like",
            E::Store(error) => error.hint(),
        }
    }

    /// True if a timestamp folder turned out to be none of ours: it holds no `backup.json`, or we may not
    /// look into it, which we always may with our own.
    pub(crate) fn is_foreign(&self) -> bool {
        match self {
            RepositoryError::NoBackup { .. } => true,
            RepositoryError::Store(StoreError::Failed { source, .. }) => {
                source.kind() == std::io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }

    /// True if one object is wrong, gone or not to be read from its medium: what is around it can go on
    /// without it. A medium may come back, so nothing is replaced or deleted for this alone.
    pub fn is_of_one_object(&self) -> bool {
        self.is_damage() || matches!(self, RepositoryError::Store(error) if error.is_unreadable())
    }

    /// True if bytes in the repository are wrong or gone, as opposed to out of reach for the moment.
    pub fn is_damage(&self) -> bool {
        use RepositoryError as E;
        matches!(
            self,
            E::KeysDamaged { .. }
                | E::Signature { .. }
                | E::Checksum { .. }
                | E::Damaged { .. }
                | E::BlobMissing(_)
                | E::BlobDamaged { .. }
                | E::Store(StoreError::NotFound { .. })
        )
    }
}
