//! A look at storage that may hang: what it does not say in time is not known.
//!
//! Must stay true: there is one thread at most that waits for the storage, however long it hangs and however
//! often it is looked at.

use std::time::Duration;

use tokio::task::JoinHandle;

/// An answer takes a moment; a storage that needs longer than this hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Looks, one after the other.
#[derive(Debug)]
pub(super) struct StorageLook<T>(Option<JoinHandle<T>>);

impl<T> Default for StorageLook<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> StorageLook<T> {
    /// What the storage says; if it has not answered the look before yet, what it says to that one.
    pub(super) async fn look(
        &mut self,
        patience: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let waiting = self.0.get_or_insert_with(|| tokio::task::spawn_blocking(look));
        let Ok(answer) = tokio::time::timeout(patience, waiting).await else {
            return Err(format!("it gave no answer within {} s", patience.as_secs()));
        };
        self.0 = None;
        answer.map_err(|error| {
            tracing::error!(%error, "looking at storage ended unexpectedly");
            "the look at it ended unexpectedly: see the controller's log".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_storage_that_hangs_is_asked_once_and_its_late_answer_counts() {
        let mut storage = StorageLook::default();
        let (go, held) = mpsc::sync_channel(1);
        let soon = Duration::from_millis(20);
        let hangs = storage.look(soon, move || held.recv().map(|()| 1)).await;
        assert!(hangs.expect_err("it hangs").contains("no answer"));
        storage.look(soon, || unreachable!("one waits already")).await.expect_err("it hangs still");
        go.send(()).expect("it is held");
        let late = storage.look(PATIENCE, || unreachable!("one waits already")).await;
        assert_eq!(late, Ok(Ok(1)));
        assert_eq!(storage.look(PATIENCE, || Ok(2)).await, Ok(Ok(2)));
    }
}
