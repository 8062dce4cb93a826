//! What older systems left in the repository's root.
//!
//! To find it the whole root is listed, which in a bucket takes a request for each thousand backups. It hardly ever
//! changes, so what was found is shown for a while.

use std::time::{Duration, Instant};

use proto::Failure;
use repository::backup::listing::LegacyBackup;
use tokio::sync::Mutex;

use crate::app::{App, catalog_failure};
use crate::ingest::{repository_failure, thread_died};

const SHOWN_FOR: Duration = Duration::from_secs(20);

/// What was found, and when.
#[derive(Debug, Default)]
pub struct Legacy(Mutex<Option<(Instant, Vec<LegacyBackup>)>>);

impl App {
    /// What older systems left, as it was at most a little while ago. Whoever asks while somebody looks waits for
    /// what that finds.
    pub(super) async fn legacy(&self) -> Result<Vec<LegacyBackup>, Failure> {
        let mut found = self.legacy.0.lock().await;
        if let Some((at, backups)) = &*found
            && at.elapsed() < SHOWN_FOR
        {
            return Ok(backups.clone());
        }
        let known = self.catalog.backup_names().await.map_err(|error| catalog_failure(&error))?;
        let depot = self.depot.clone();
        let backups = tokio::task::spawn_blocking(move || depot.repository().legacy(&known))
            .await
            .map_err(|error| thread_died(&error))?
            .map_err(|error| repository_failure("the repository cannot be listed", &error))?;
        *found = Some((Instant::now(), backups.clone()));
        Ok(backups)
    }
}
