//! How much room the repository takes, and how long what is free will do.

use std::time::{Duration, Instant};

use proto::Failure;

use crate::app::App;
use crate::app::doctor::days_until_full;

/// Somebody looks at a page: storage that says nothing by then is not known this time.
const PATIENCE: Duration = Duration::from_millis(500);
/// What has grown is read from hundreds of backups and jobs, and says the same for a while.
const SHOWN_FOR: Duration = Duration::from_secs(60);

/// The room of the repository. What is not known is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Bytes of all packs.
    pub used: Option<u64>,
    /// Bytes that are free in its storage.
    pub free: Option<u64>,
    /// At the rate of the last thirty days.
    pub days_until_full: Option<f64>,
}

impl App {
    /// The room of the repository, as far as it is known at once.
    pub async fn room(&self) -> Result<Room, Failure> {
        let used = self.repository_size().map(|(_, bytes)| bytes);
        let depot = self.depot.clone();
        let look = move || depot.repository().store().free_space().ok().flatten();
        // Whoever looks already may wait for longer than a page may.
        let Ok(mut storages) = tokio::time::timeout(PATIENCE, self.storages.lock()).await else {
            return Ok(Room { used, free: None, days_until_full: None });
        };
        let free = storages.free.look(PATIENCE, look).await.unwrap_or_default();
        let changes = match &storages.changes {
            Some((at, changes)) if at.elapsed() < SHOWN_FOR => changes,
            _ => &storages.changes.insert((Instant::now(), self.changes().await?)).1,
        };
        let days_until_full = free.and_then(|free| days_until_full(changes, free, self.now()));
        Ok(Room { used, free, days_until_full })
    }
}
