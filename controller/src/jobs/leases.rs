//! The leases under which jobs read the repository, so that prune leaves what they need.
//!
//! Must stay true: a job holds its lease from before its first read to its end; a job of the last life has
//! its lease again before anything is pruned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use repository::error::RepositoryError;
use repository::names::BackupName;
use repository::work::{Work, WorkId, WorkKind};
use tokio::task::JoinError;

use crate::catalog::Catalog;
use crate::depot::Depot;
use crate::ids::JobId;
use crate::jobs::job::{Job, Order};
use crate::jobs::runner::{RunError, lock};

/// A lease cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The repository refused it.
    #[error("the backup cannot be held while it is read")]
    Repository(#[from] RepositoryError),
    /// A thread ended unexpectedly.
    #[error("a thread of the controller ended unexpectedly")]
    Thread(#[from] JoinError),
}

/// Holds these backups, and what nothing refers to yet, until what it gives is dropped.
pub(crate) async fn hold(
    depot: &Arc<Depot>,
    id: String,
    kind: WorkKind,
    backups: Vec<BackupName>,
    now: Timestamp,
) -> Result<Work, HoldError> {
    let depot = depot.clone();
    let id = work_id(id);
    let begun = tokio::task::spawn_blocking(move || depot.repository().begin_work(&id, kind, &backups, now));
    Ok(begun.await??)
}

/// The id of the lease of this job, or of another task.
pub(crate) fn work_id(id: String) -> WorkId {
    id.parse().expect("ids of jobs and tasks are lower-case words")
}

/// The leases of the jobs that are under way.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<JobId, Work>>);

impl Leases {
    /// The job holds what it reads; one that does already goes on.
    pub(super) async fn hold(&self, depot: &Arc<Depot>, job: &Job, now: Timestamp) -> Result<(), HoldError> {
        let (kind, backups) = match &job.order {
            Order::Backup { .. } => (WorkKind::Backup, Vec::new()),
            Order::Verify { backup, .. } => (WorkKind::Verification, vec![backup.clone()]),
            Order::Restore { backup, .. } => (WorkKind::Restore, vec![backup.clone()]),
            Order::Retention { .. } | Order::Prune { .. } => return Ok(()),
        };
        if lock(&self.0).contains_key(&job.id) {
            return Ok(());
        }
        let work = hold(depot, job.id.to_string(), kind, backups, now).await?;
        lock(&self.0).insert(job.id, work);
        Ok(())
    }

    /// Ends the leases of jobs that had ended when the last life of this controller was cut off, so that
    /// prune does not wait for them.
    pub(super) async fn end_those_of_the_dead(
        depot: &Arc<Depot>,
        catalog: &Catalog,
        now: Timestamp,
    ) -> Result<(), RunError> {
        let known = depot.clone();
        let known = tokio::task::spawn_blocking(move || known.repository().work(now));
        for record in known.await.map_err(HoldError::from)?.map_err(HoldError::from)? {
            let Ok(id) = record.id.to_string().parse::<JobId>() else { continue };
            if catalog.job(id).await?.is_some_and(|job| job.state.is_end()) {
                let depot = depot.clone();
                let end = move || depot.repository().end_work_of_the_dead(&record.id);
                tokio::task::spawn_blocking(end).await.map_err(HoldError::from)?.map_err(HoldError::from)?;
            }
        }
        Ok(())
    }

    /// The job reads no more.
    pub(super) fn let_go(&self, job: JobId) {
        drop(lock(&self.0).remove(&job));
    }
}
