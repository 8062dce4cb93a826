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

use crate::depot::Depot;
use crate::ids::JobId;
use crate::jobs::job::{Job, Order};
use crate::jobs::runner::lock;

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

    /// The job reads no more.
    pub(super) fn let_go(&self, job: JobId) {
        drop(lock(&self.0).remove(&job));
    }
}
