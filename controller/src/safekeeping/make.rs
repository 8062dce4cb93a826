//! Making copies.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use repository::catalog_copy::CatalogCopy;
use repository::error::RepositoryError;
use tokio::task::JoinError;
use zeroize::Zeroizing;

use super::{FILES, REVOKED};
use crate::catalog::{Catalog, CatalogError, StateFile};
use crate::depot::{self, Depot};

/// So many jobs make a file of history, …
const MANY_JOBS: usize = 200;
/// … and so does a job that waits for one for this long.
const LONG: SignedDuration = SignedDuration::from_hours(24);
/// A file of the state folder is small.
const MAX_FILE: u64 = 64 << 10;

/// A copy cannot be made.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("a file of the state folder cannot be read or written")]
    File(#[from] io::Error),
    #[error("the repository does not take it")]
    Repository(#[from] RepositoryError),
    #[error("it would be longer than a copy may be")]
    TooLong,
    #[error("a thread ended unexpectedly")]
    Thread(#[from] JoinError),
}

/// The copy for a backup that is about to be committed; before it, a file of history if one is due. What hinders
/// either is told in the log: a backup is worth more than what lies beside it.
pub(crate) async fn beside_backup(
    catalog: &Catalog,
    depot: &Arc<Depot>,
    state: &Path,
    kept_for: SignedDuration,
    now: Timestamp,
) -> Option<CatalogCopy> {
    if let Err(error) = store_history(catalog, depot, state, kept_for, now).await {
        let error = proto::failure::chain(&error);
        tracing::warn!(
            error,
            "the history of jobs was not written to the repository; the next backup tries again"
        );
    }
    if let Err(error) = catalog.forget_jobs(now - kept_for).await {
        tracing::warn!(
            error = proto::failure::chain(&error),
            "old jobs were not forgotten; it is tried again"
        );
    }
    let copy = copy(catalog, state).await;
    copy.inspect_err(|error| {
        let error = proto::failure::chain(error);
        tracing::warn!(error, "this backup has no copy of the catalog beside it; see `nsctl doctor`");
    })
    .ok()
}

async fn copy(catalog: &Catalog, state: &Path) -> Result<CatalogCopy, MakeError> {
    let folder = state.to_owned();
    let files = tokio::task::spawn_blocking(move || state_files(&folder)).await??;
    let draft = Draft::begin(state)?;
    catalog.copy_to(&draft.0, &files).await?;
    draft.read().await
}

/// Writes the jobs that no file of history has to one, if there are many or if one has waited for long.
async fn store_history(
    catalog: &Catalog,
    depot: &Arc<Depot>,
    state: &Path,
    kept_for: SignedDuration,
    now: Timestamp,
) -> Result<(), MakeError> {
    let unstored = catalog.unstored_jobs().await?;
    let is_due = unstored.jobs.len() >= MANY_JOBS
        || unstored.since.is_some_and(|since| now.duration_since(since) >= LONG);
    if !is_due {
        return Ok(());
    }
    let draft = Draft::begin(state)?;
    catalog.copy_history_to(&draft.0, &unstored.jobs).await?;
    let copy = draft.read().await?;
    let depot = depot.clone();
    tokio::task::spawn_blocking(move || add_history(&depot, &copy, kept_for, now)).await??;
    Ok(catalog.set_stored(&unstored.jobs).await?)
}

/// Files of history are numbered by when they were made, in microseconds, so that their age is seen.
fn add_history(
    depot: &Depot,
    copy: &CatalogCopy,
    kept_for: SignedDuration,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    depot.lease().check().map_err(RepositoryError::Fenced)?;
    let repository = depot.repository();
    let there = repository.history()?;
    let after = there.last().map_or(0, |last| last + 1);
    let number = u64::try_from(now.as_microsecond()).unwrap_or(0).max(after);
    repository.add_history(number, copy, depot.keys())?;
    let over = u64::try_from((now - kept_for).as_microsecond()).unwrap_or(0);
    for number in there.into_iter().take_while(|number| *number < over) {
        repository.remove_history(number)?;
    }
    Ok(())
}

/// What a new state folder needs of this one.
fn state_files(folder: &Path) -> io::Result<Vec<StateFile>> {
    let mut files = Vec::new();
    for name in FILES {
        files.extend(read(folder, name)?);
    }
    // Who has taken the recovery key away has saved it, and is not asked again.
    if read(folder, depot::RECOVERY_FILE)?.is_none() {
        files.extend(read(folder, depot::RECOVERY_NOTE)?);
    }
    for entry in std::fs::read_dir(folder.join(REVOKED))? {
        let name = entry?.file_name();
        files.extend(name.to_str().map(|name| (format!("{REVOKED}/{name}"), Zeroizing::default())));
    }
    Ok(files)
}

fn read(folder: &Path, name: &str) -> io::Result<Option<StateFile>> {
    let file = match std::fs::File::open(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE), &mut bytes)?;
    Ok(Some((name.to_owned(), bytes)))
}

/// A copy on its way: a file of the state folder, for its owner alone, that goes when this is dropped.
struct Draft(PathBuf);

impl Draft {
    fn begin(state: &Path) -> io::Result<Self> {
        let draft = Self(state.join("copy.sqlite"));
        draft.remove()?;
        std::os::unix::fs::OpenOptionsExt::mode(
            std::fs::OpenOptions::new().write(true).create_new(true),
            0o600,
        )
        .open(&draft.0)?;
        Ok(draft)
    }

    fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn read(self) -> Result<CatalogCopy, MakeError> {
        let read = tokio::task::spawn_blocking(move || std::fs::read(&self.0).map(Zeroizing::new)).await??;
        CatalogCopy::new(read).ok_or(MakeError::TooLong)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Best effort: the next one begins by removing it.
        let _ = self.remove();
    }
}
