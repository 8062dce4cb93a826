//! A state folder made anew from the repository.
//!
//! With the repository's key: from the newest copy of the catalog that can be read, the files of history, and the
//! manifests of what came after. Without it: a history of backups from the manifests alone.
//!
//! Must stay true: the repository is only read; a folder that holds anything is refused unless its owner says that
//! it may be put aside; a rebuild that was cut off is seen, and no controller starts on what it left.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use repository::backup::listing::Listing;
use repository::backup::manifest::{BackupRecord, Outcome};
use repository::catalog_copy::CatalogCopy;
use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::names::{BackupName, SourceId};
use repository::repo::Repository;
use tokio::task::JoinError;
use zeroize::Zeroizing;

use super::{CATALOG_FILE, FILES, REVOKED};
use crate::catalog::{Catalog, CatalogError, Seen, StateFile};
use crate::depot;
use crate::ids::{AgentId, JobId};
use crate::jobs::job::{Job, JobFailure, JobState, Order, Part, PartState};
use crate::state::{Rebuilding, StateError};

/// Copies of older backups that are read where files of history cannot be.
const OLDER_COPIES: usize = 100;
/// Another copy on its way into the catalog.
const OTHER: &str = "other.sqlite";

/// What is to be rebuilt, and from what.
#[derive(Debug)]
pub struct Wanted {
    /// The repository.
    pub repository: Arc<Repository>,
    /// What opens the copies; none: nothing of them is taken.
    pub keys: Option<KeyRing>,
    /// The key file that opened it, for a controller to whom nothing else was said.
    pub key_file: Option<Zeroizing<Vec<u8>>>,
    /// Whoever asks has the recovery key.
    pub has_recovery_key: bool,
    /// The state folder.
    pub state: PathBuf,
    /// What is in it is put aside.
    pub replace: bool,
    /// Only say what would be done.
    pub plan: bool,
    /// Now.
    pub now: Timestamp,
}

/// What was rebuilt.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// The backup whose copy was taken, and when that was made.
    pub copy: Option<(BackupName, Timestamp)>,
    /// Copies that could not be taken, and why; the newest first.
    pub unreadable: Vec<(String, String)>,
    /// Backups that came after the copy.
    pub newer: u64,
    /// All backups.
    pub backups: u64,
    /// Agents, schedules and jobs that are known again; none of a plan.
    pub figures: Option<[u64; 3]>,
    /// What is not there any more, a line each.
    pub missing: Vec<&'static str>,
    /// Where what was in the folder is now.
    pub aside: Option<PathBuf>,
}

/// A state folder cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The catalog in it.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A thread ended unexpectedly.
    #[error("a thread ended unexpectedly")]
    Thread(#[from] JoinError),
}

const NO_COPY: [&str; 5] = [
    "the controller's authority: every agent has to join again",
    "schedules that were set by a call: those of the configuration and the usual ones are there again",
    "API tokens and invitations: make new ones",
    "alerts that were sent, and the audit log",
    "jobs that made no backup, and what was told of those that did",
];
const OF_A_COPY: [&str; 2] = [
    "the audit log before the loss",
    "what was changed after the copy was made: revoke again what was revoked since, and set again what was set",
];

/// Makes the state folder anew, or says what that would do.
pub async fn rebuild(wanted: Wanted) -> Result<Rebuilt, RebuildError> {
    let wanted = Arc::new(wanted);
    let of_thread = wanted.clone();
    let listing = blocking(move || Ok(of_thread.repository.list()?)).await?;
    let mut rebuilt = Rebuilt { backups: listing.backups.len() as u64, ..Rebuilt::default() };
    if wanted.plan {
        Rebuilding::check(&wanted.state, wanted.replace)?;
        let mut at = 0;
        if let Some((copied, _)) = next_copy(&wanted, &listing, &mut at, &mut rebuilt).await? {
            rebuilt.take(copied, &listing);
        }
    } else {
        let stamp = wanted.now.strftime("%Y%m%d_%H%M%S").to_string();
        let folder = Rebuilding::begin(&wanted.state, wanted.replace, &stamp)?;
        rebuilt.aside = folder.aside().map(Path::to_owned);
        let catalog = fill(&wanted, &folder, &listing, &mut rebuilt).await?;
        rebuilt.figures = Some(catalog.figures().await?);
        catalog.close().await;
        let (name, pin) = depot::pin_of(&wanted.repository);
        folder.write(name, &pin)?;
        folder.finish()?;
    }
    rebuilt.missing = match rebuilt.copy {
        Some(_) => OF_A_COPY.to_vec(),
        None => NO_COPY.to_vec(),
    };
    Ok(rebuilt)
}

impl Rebuilt {
    fn take(&mut self, copied: Copied, listing: &Listing) {
        let sequence = copied.sequence.unwrap_or(0);
        self.newer = listing.backups.iter().filter(|record| record.sequence > sequence).count() as u64;
        self.copy = Some((copied.backup, copied.at));
    }
}

/// A copy and where it was found.
struct Copied {
    backup: BackupName,
    /// None of a backup whose description is damaged.
    sequence: Option<u64>,
    at: Timestamp,
}

async fn fill(
    wanted: &Arc<Wanted>,
    folder: &Rebuilding,
    listing: &Listing,
    rebuilt: &mut Rebuilt,
) -> Result<Catalog, RebuildError> {
    let file = folder.path(CATALOG_FILE);
    let mut at = 0;
    let catalog = loop {
        Catalog::delete(&file)?;
        let Some((copied, copy)) = next_copy(wanted, listing, &mut at, rebuilt).await? else {
            break Catalog::open(&file).await?;
        };
        folder.write(CATALOG_FILE, copy.expose())?;
        match opened(&file, folder).await {
            Ok(catalog) => {
                rebuilt.take(copied, listing);
                break catalog;
            }
            // Of a newer release, or its writer had a fault: the one before may be better.
            Err(error) => {
                rebuilt.unreadable.push((copied.backup.to_string(), proto::failure::chain(&error)));
            }
        }
    };
    catalog.replace_backups(&listing.backups).await?;
    remember_signed(&catalog, &listing.backups).await?;
    catalog.forget_lost_verifications().await?;
    add_history(wanted, folder, &catalog, &listing.backups[at.min(listing.backups.len())..], rebuilt).await?;
    settle(&catalog, listing, wanted.now).await?;
    if rebuilt.copy.is_none()
        && let Some(key) = &wanted.key_file
    {
        folder.write(depot::DEFAULT_KEY_FILE, key)?;
    }
    if wanted.has_recovery_key {
        folder.write(depot::RECOVERY_NOTE, b"")?;
    }
    Ok(catalog)
}

/// The copy as a catalog of this release, its other files in their places.
async fn opened(file: &Path, folder: &Rebuilding) -> Result<Catalog, RebuildError> {
    let catalog = Catalog::open(file).await?;
    match catalog.take_state_files().await {
        Ok(files) => files.iter().try_for_each(|file| write(folder, file))?,
        Err(error) => {
            catalog.close().await;
            return Err(error.into());
        }
    }
    Ok(catalog)
}

/// Writes a file that a copy carries; no other name than those that are put into one.
fn write(folder: &Rebuilding, (name, bytes): &StateFile) -> Result<(), StateError> {
    let agent = name.strip_prefix(REVOKED).and_then(|name| name.strip_prefix('/'));
    let is_agent = agent.is_some_and(|agent| agent.parse::<AgentId>().is_ok());
    if is_agent || FILES.contains(&name.as_str()) || name == depot::RECOVERY_NOTE {
        folder.write(name, bytes)?;
    }
    Ok(())
}

/// The next copy that can be read, from the place `at` in the list on: the newest backups first, at last those
/// whose description is damaged, since a copy proves itself.
async fn next_copy(
    wanted: &Arc<Wanted>,
    listing: &Listing,
    at: &mut usize,
    rebuilt: &mut Rebuilt,
) -> Result<Option<(Copied, CatalogCopy)>, RebuildError> {
    if wanted.keys.is_none() {
        return Ok(None);
    }
    let sound = listing.backups.iter().map(|record| (&record.name, Some(record)));
    let damaged = listing.damaged.iter().rev().map(|(name, _)| (name, None));
    for (name, record) in sound.chain(damaged).skip(*at) {
        *at += 1;
        match beside(wanted, name).await {
            Ok(None) => {}
            Ok(Some(copy)) => {
                let at = record.map_or_else(|| name.time(), |record| record.ended_at);
                let copied =
                    Copied { backup: name.clone(), sequence: record.map(|record| record.sequence), at };
                return Ok(Some((copied, copy)));
            }
            Err(RebuildError::Repository(error)) if error.is_of_one_object() => {
                rebuilt.unreadable.push((name.to_string(), proto::failure::chain(&error)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

async fn beside(wanted: &Arc<Wanted>, name: &BackupName) -> Result<Option<CatalogCopy>, RebuildError> {
    let (wanted, name) = (wanted.clone(), name.clone());
    blocking(move || {
        let Some(keys) = &wanted.keys else { return Ok(None) };
        Ok(wanted.repository.catalog_beside(&name, keys)?)
    })
    .await
}

/// What the files of history tell; where one of them cannot be read, what the copies of older backups do.
async fn add_history(
    wanted: &Arc<Wanted>,
    folder: &Rebuilding,
    catalog: &Catalog,
    older: &[BackupRecord],
    rebuilt: &mut Rebuilt,
) -> Result<(), RebuildError> {
    if wanted.keys.is_none() {
        return Ok(());
    }
    let of_thread = wanted.clone();
    let numbers = blocking(move || Ok(of_thread.repository.history()?)).await?;
    let mut is_whole = true;
    for number in numbers.into_iter().rev() {
        let of_thread = wanted.clone();
        let read = blocking(move || {
            let keys = of_thread.keys.as_ref().expect("checked above, and never taken away");
            Ok(of_thread.repository.read_history(number, keys)?)
        });
        let added = match read.await {
            Ok(copy) => match add(folder, catalog, &copy).await {
                // They need not be written there once more.
                Ok(jobs) => Ok(catalog.set_stored(&jobs).await?),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            is_whole = false;
            let file = repository::layout::history(number).to_string();
            rebuilt.unreadable.push((file, proto::failure::chain(&error)));
        }
    }
    for record in older.iter().take(if is_whole { 0 } else { OLDER_COPIES }) {
        // One that cannot be read was told with the others, or is one more that tells nothing.
        if let Ok(Some(copy)) = beside(wanted, &record.name).await {
            add(folder, catalog, &copy).await?;
        }
    }
    Ok(())
}

async fn add(folder: &Rebuilding, catalog: &Catalog, copy: &CatalogCopy) -> Result<Vec<JobId>, RebuildError> {
    let file = folder.path(OTHER);
    Catalog::delete(&file)?;
    folder.write(OTHER, copy.expose())?;
    // Opened, it has the tables of this release.
    Catalog::open(&file).await?.close().await;
    let jobs = catalog.add_history_of(&file).await?;
    Catalog::delete(&file)?;
    Ok(jobs)
}

/// How far validators have signed is in the copy as of when that was made, and in the manifests of all that is there.
async fn remember_signed(catalog: &Catalog, backups: &[BackupRecord]) -> Result<(), CatalogError> {
    let stated = catalog.stated().await?;
    let mut all: Vec<Seen> = Vec::new();
    let mut known: HashMap<(&SourceId, Option<&str>), usize> = HashMap::new();
    let mut order: Vec<&BackupRecord> = backups.iter().collect();
    order.sort_by_key(|record| record.sequence);
    for record in order {
        for archive in &record.archives {
            let Some(signed) = archive.signed else { continue };
            let seen =
                Seen::in_manifest(archive.source.clone(), archive.signer.clone(), signed, record.ended_at);
            // Somebody has said since what counts. An archive has what was signed when it ended.
            if stated.get(&seen.id()).is_some_and(|at| *at > record.ended_at) {
                continue;
            }
            match known.get(&(&archive.source, archive.signer.as_deref())) {
                Some(at) => all[*at].again(&seen),
                None => {
                    known.insert((&archive.source, archive.signer.as_deref()), all.len());
                    all.push(seen);
                }
            }
        }
    }
    for seen in all {
        catalog.saw_signed(&seen).await?;
    }
    Ok(())
}

/// Ends the jobs that were alive when the copy was made, and adds those that only manifests tell of.
async fn settle(catalog: &Catalog, listing: &Listing, now: Timestamp) -> Result<(), RebuildError> {
    let made: HashMap<&str, &BackupRecord> =
        listing.backups.iter().map(|record| (record.job.as_str(), record)).collect();
    for mut job in catalog.alive_jobs().await? {
        let line = match made.get(job.id.to_string().as_str()) {
            Some(record) => {
                (job.state, job.ended_at) = (ended(record.outcome), Some(record.ended_at));
                (
                    "info",
                    format!("backup {} was committed; the state folder was lost after that", record.name),
                )
            }
            None => {
                (job.state, job.ended_at) = (JobState::Failed, Some(now));
                let why = "the controller's state folder was lost while the job was waiting or running";
                let hint = format!("run the {} again", job.kind());
                job.failure = Some(JobFailure::new("what became of the job is not known", why, hint));
                ("error", why.to_owned())
            }
        };
        for part in job.parts.iter_mut().filter(|part| !part.state.is_end()) {
            part.state = PartState::Failed;
            part.reason = Some("the controller's state folder was lost".to_owned());
        }
        catalog.save_job(&job, vec![line], &[], now).await?;
    }
    for record in listing.backups.iter().rev() {
        if let Some(job) = told_by(record) {
            let line =
                format!("the manifest of backup {} tells of this job, and nothing else does", record.name);
            catalog.add_found_job(&job, &line).await?;
        }
    }
    Ok(())
}

/// The job that made a backup, as far as its manifest tells.
fn told_by(record: &BackupRecord) -> Option<Job> {
    let id: JobId = record.job.parse().ok()?;
    let order = Order::Backup { components: Vec::new(), pin: record.pin.clone(), import: None };
    let part = |archive: &repository::backup::manifest::ArchiveRecord| Part {
        state: match archive.outcome {
            Outcome::Complete => PartState::Complete,
            Outcome::Incomplete => PartState::Incomplete,
            Outcome::Failed => PartState::Failed,
        },
        attempt: 1,
        reason: archive.reason.clone(),
        ..Part::waiting(archive.source.clone(), archive.kind.clone())
    };
    Some(Job {
        state: ended(record.outcome),
        backup: Some(record.name.clone()),
        started_at: Some(record.started_at),
        ended_at: Some(record.ended_at),
        parts: record.archives.iter().map(part).collect(),
        ..Job::queued(id, order, record.started_at)
    })
}

fn ended(outcome: Outcome) -> JobState {
    match outcome {
        Outcome::Complete => JobState::Complete,
        Outcome::Incomplete => JobState::Incomplete,
        Outcome::Failed => JobState::Failed,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RebuildError> + Send + 'static,
) -> Result<T, RebuildError> {
    tokio::task::spawn_blocking(work).await?
}

#[cfg(test)]
#[path = "rebuild_tests.rs"]
mod tests;
