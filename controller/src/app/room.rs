//! How much room the repository takes, and how long what is free will do.

use std::time::Duration;

use proto::Failure;

use crate::app::App;

/// Somebody looks at a page: storage that says nothing by then is not known this time.
const PATIENCE: Duration = Duration::from_millis(500);

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
        let free = match tokio::time::timeout(PATIENCE, self.storages.lock()).await {
            Ok(mut storages) => storages.free.look(PATIENCE, look).await.unwrap_or_default(),
            Err(_) => None,
        };
        let days_until_full = match free {
            Some(free) => self.days_until_full(free).await?,
            None => None,
        };
        Ok(Room { used, free, days_until_full })
    }
}
