//! The repository as the controller uses it: opened or made at the start, unlocked, leased, pinned.
//!
//! Must stay true: a repository that is not the one of the last start is refused, and an empty root is
//! initialised only by a controller that has never seen a repository, so that a disk that was not mounted
//! is never mistaken for a fresh one; nothing is committed once the lease is lost.

mod keeper;
pub mod rescue;
mod secret;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use repository::backup::commit::{BackupDraft, CommitStep, Guard};
use repository::backup::listing::Listing;
use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::ids::RepositoryId;
use repository::keys::{KeyRing, RecoveryKey, SlotSecret};
use repository::names::BackupName;
use repository::repo::Repository;
use repository::signed::VerifyingKey;
use repository::store::Store;
use repository::store::lease::{DEFAULT_TTL, Lease, LeaseError};
use repository::store::local::{LocalStore, OpenError};
use repository::store::location::Location;
use repository::store::probe::{ProbeError, probe};
use repository::store::s3::{ConnectError, S3Store};
use runtime::steps;
use serde::{Deserialize, Serialize};

use crate::config::{ControllerConfig, ObjectStorageError};
use crate::state::{StateError, StateFolder};
use crate::steps::Step;

pub use keeper::LeaseKeeper;
pub(crate) use secret::DEFAULT_KEY_FILE;
pub use secret::SecretError;

const PIN_FILE: &str = "repository-pin.json";
pub(crate) const RECOVERY_FILE: &str = "recovery-key.txt";
/// Says that the file above was written once: who has deleted it since has saved the key.
pub(crate) const RECOVERY_NOTE: &str = "recovery-key.written";

/// The repository cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// Its folder cannot be opened.
    #[error("the repository's folder cannot be used")]
    Open(#[from] OpenError),
    /// Its bucket cannot be reached as it is configured.
    #[error("the repository's bucket cannot be used")]
    Connect(#[from] ConnectError),
    /// The settings for its bucket name something that cannot be read.
    #[error(transparent)]
    ObjectStorage(#[from] ObjectStorageError),
    /// The storage does not keep the promises that a repository needs.
    #[error("the repository's storage is not fit for a repository")]
    Probe(#[from] ProbeError),
    /// Another controller writes it.
    #[error("the repository cannot be taken for writing")]
    Lease(#[from] LeaseError),
    /// It cannot be opened, made or unlocked.
    #[error("the repository cannot be opened")]
    Repository(#[from] RepositoryError),
    /// The key cannot be read or kept.
    #[error("the repository's key cannot be had")]
    Secret(#[from] SecretError),
    /// The state folder failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is not the repository of the last start.
    #[error(
        "{location} holds repository {found}, but this controller belongs to repository {pinned}; if that is \
         meant, use another state folder for it"
    )]
    OtherRepository {
        /// Where.
        location: String,
        /// What is there.
        found: RepositoryId,
        /// What was there.
        pinned: RepositoryId,
    },
    /// It is the repository of the last start by its id, and not by its signing key.
    #[error(
        "repository/config.json in {location} was changed: its signing key is not the one of the last start"
    )]
    OtherSigner {
        /// Where.
        location: String,
    },
    /// There was a repository, and now there is none.
    #[error(
        "{location} holds no repository, but this controller has one (repository {pinned}): is it the right \
         folder or bucket, and is the folder's disk mounted? To begin anew, use another state folder"
    )]
    Gone {
        /// Where.
        location: String,
        /// What was there.
        pinned: RepositoryId,
    },
}

/// What must not change from one start to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    repository: RepositoryId,
    signing_key: VerifyingKey,
}

/// The repository, ready for work. All methods block.
pub struct Depot {
    repository: Arc<Repository>,
    keys: KeyRing,
    lease: Arc<LeaseKeeper>,
}

impl std::fmt::Debug for Depot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.repository.fmt(f)
    }
}

impl Depot {
    /// Opens the configured repository for writing, making it at the very first start.
    pub fn open(config: &ControllerConfig, state: &StateFolder, now: Timestamp) -> Result<Self, DepotError> {
        let pin = read_pin(state)?;
        let store: Arc<dyn Store> = match (&config.repository, pin) {
            (Location::Folder(folder), None) => Arc::new(LocalStore::open_or_make(folder)?),
            (Location::Folder(folder), Some(_)) => Arc::new(LocalStore::open(folder)?),
            (Location::Bucket(bucket), _) => Arc::new(S3Store::open(bucket, &config.s3.options()?)?),
        };
        let opened = match Repository::open(store.clone()) {
            Err(RepositoryError::NotARepository { location }) => match pin {
                Some(pin) => return Err(DepotError::Gone { location, pinned: pin.repository }),
                None => None,
            },
            other => Some(other?),
        };
        if let Some(opened) = &opened {
            check_pin(opened, pin)?;
        }
        for notice in probe(&*store)? {
            tracing::warn!("{notice}");
        }
        let lease = Lease::acquire(store.clone(), &keeper::holder(state), now, DEFAULT_TTL)?;
        let (repository, keys) = match opened {
            Some(repository) => {
                let secret = secret::existing(&config.key, state)?;
                let keys = repository.unlock(&secret)?;
                replace_lost_recovery(&repository, &secret, state, now)?;
                (repository, keys)
            }
            None => initialise(store, config, state, now)?,
        };
        if pin.is_none() {
            write_pin(state, &repository)?;
        }
        let mut repository = repository;
        repository.set_parity(config.parity.strength());
        let depot = Self { repository: Arc::new(repository), keys, lease: Arc::new(LeaseKeeper::new(lease)) };
        depot.recover(now)?;
        Ok(depot)
    }

    /// Finds what a crash may have left behind, so that it is used again.
    fn recover(&self, now: Timestamp) -> Result<(), DepotError> {
        self.repository.keep_config_twice()?;
        let ended = self.repository.end_left_overs()?;
        if ended > 0 {
            tracing::info!(backups = ended, "cleared away backups that were begun and never finished");
        }
        let unindexed = self.repository.find_unindexed()?;
        if unindexed > 0 {
            tracing::info!(
                packs = unindexed,
                "found packs that no backup has indexed yet; they are used again"
            );
        }
        self.repository.complete_chain(&self.keys, now)?;
        self.repository.finish_retiring(&AtStart { lease: &self.lease, now })?;
        Ok(())
    }

    /// The repository itself.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Its private keys.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// The right to write.
    pub fn lease(&self) -> &Arc<LeaseKeeper> {
        &self.lease
    }

    /// A name for a backup that starts now.
    pub fn reserve_name(
        &self,
        now: Timestamp,
        in_use: &BTreeSet<BackupName>,
    ) -> Result<BackupName, RepositoryError> {
        self.repository.reserve_name(now, in_use)
    }

    /// Commits a backup, unless the lease was lost. May be repeated.
    pub fn commit(&self, draft: &BackupDraft, now: Timestamp) -> Result<BackupRecord, RepositoryError> {
        self.lease.check().map_err(RepositoryError::Fenced)?;
        self.repository.commit(draft, &self.keys, now, &Watch { lease: &self.lease })
    }

    /// What the repository holds; damaged backups go to the log.
    pub fn list(&self) -> Result<Listing, RepositoryError> {
        let listing = self.repository.list()?;
        for (name, error) in &listing.damaged {
            tracing::error!(backup = %name, error = proto::failure::chain(error), "a backup is damaged");
        }
        Ok(listing)
    }
}

/// Lets a commit write for as long as the lease is ours.
struct Watch<'a> {
    lease: &'a LeaseKeeper,
}

impl Guard for Watch<'_> {
    fn may_write(&self) -> Result<(), LeaseError> {
        self.lease.check()
    }

    fn done(&self, step: CommitStep) {
        steps::reach(match step {
            CommitStep::Begun => Step::CommitBegun,
            CommitStep::Resolved => Step::CommitResolved,
            CommitStep::Indexed => Step::CommitIndexed,
            CommitStep::FirstStaged => Step::CommitFirstStaged,
            CommitStep::LastStaged => Step::CommitLastStaged,
            CommitStep::Summed => Step::CommitSummed,
            CommitStep::Staged => Step::CommitStaged,
            CommitStep::Allowed => Step::CommitAllowed,
            CommitStep::Renamed => Step::CommitRenamed,
            CommitStep::Chained => Step::CommitChained,
        });
    }
}

/// Lets retirements be finished that a crash cut off.
struct AtStart<'a> {
    lease: &'a LeaseKeeper,
    now: Timestamp,
}

impl repository::prune::Watch for AtStart<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn may_write(&self) -> Result<(), LeaseError> {
        self.lease.check()
    }
}

fn initialise(
    store: Arc<dyn Store>,
    config: &ControllerConfig,
    state: &StateFolder,
    now: Timestamp,
) -> Result<(Repository, KeyRing), DepotError> {
    let secret = secret::existing_or_new(&config.key, state)?;
    let made = Repository::init(store, &secret, now)?;
    keep_recovery(&made.recovery_key, state)?;
    tracing::warn!(
        file = %state.path(RECOVERY_FILE).display(),
        "a repository was made; its recovery key lies in this file: keep a copy elsewhere, then run \
         `nsctl repository key confirm`"
    );
    Ok((made.repository, made.keys))
}

/// The note last: without it the next start makes a new key rather than to trust in one that nobody saw.
fn keep_recovery(key: &RecoveryKey, state: &StateFolder) -> Result<(), StateError> {
    state.write(RECOVERY_FILE, format!("{}\n", key.reveal()).as_bytes())?;
    state.write(RECOVERY_NOTE, b"")
}

/// A crash between the making of a repository and the writing of its recovery key loses that key: then
/// there is a new one.
fn replace_lost_recovery(
    repository: &Repository,
    secret: &SlotSecret,
    state: &StateFolder,
    now: Timestamp,
) -> Result<(), DepotError> {
    if state.read(RECOVERY_NOTE)?.is_some() {
        return Ok(());
    }
    if state.read(RECOVERY_FILE)?.is_some() || repository.is_recovery_confirmed()? {
        return Ok(state.write(RECOVERY_NOTE, b"")?);
    }
    let (_, key) = repository.add_recovery(secret, now)?;
    keep_recovery(&key, state)?;
    tracing::warn!(
        file = %state.path(RECOVERY_FILE).display(),
        "nobody has the repository's recovery key; a new one lies in this file: keep a copy elsewhere, then \
         run `nsctl repository key confirm`"
    );
    Ok(())
}

fn check_pin(repository: &Repository, pin: Option<Pin>) -> Result<(), DepotError> {
    let (config, location) = (repository.config(), repository.store().location());
    match pin {
        Some(pin) if pin.repository != config.id => {
            Err(DepotError::OtherRepository { location, found: config.id, pinned: pin.repository })
        }
        Some(pin) if pin.signing_key != config.signing_key => Err(DepotError::OtherSigner { location }),
        _ => Ok(()),
    }
}

fn read_pin(state: &StateFolder) -> Result<Option<Pin>, StateError> {
    let damaged =
        |_| StateError::Damaged { path: state.path(PIN_FILE), expected: "the repository's id and key" };
    state.read(PIN_FILE)?.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged)).transpose()
}

fn write_pin(state: &StateFolder, repository: &Repository) -> Result<(), StateError> {
    let (name, pin) = pin_of(repository);
    state.write(name, &pin)
}

/// The file of the state folder that says which repository is its controller's.
pub(crate) fn pin_of(repository: &Repository) -> (&'static str, Vec<u8>) {
    let config = repository.config();
    let pin = Pin { repository: config.id, signing_key: config.signing_key };
    (PIN_FILE, serde_json::to_vec(&pin).expect("a pin has a JSON form"))
}

#[cfg(test)]
#[path = "depot/tests.rs"]
mod tests;
