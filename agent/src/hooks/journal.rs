//! What is between its hooks, kept until the later one has run.
//!
//! Must stay true: an entry is durable before the first hook is started and goes when the last one has ended;
//! so whatever kills the agent in between, its next start finds it. Of one source, one after the other: a
//! second attempt begins when the hooks of the first have ended.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use repository::names::SourceId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// What is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A backup.
    Backup,
    /// A restore.
    Restore,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

/// Work that has hooks around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Occasion {
    pub(crate) kind: Kind,
    pub(crate) component: String,
    pub(crate) name: String,
    pub(crate) task: String,
    pub(crate) job: String,
    pub(crate) backup: String,
    pub(crate) started_at: jiff::Timestamp,
}

impl Occasion {
    pub(super) fn is_of(&self, source: &SourceId) -> bool {
        self.component == source.component.as_str() && self.name == source.name.as_str()
    }
}

/// The folder of these entries, and whose turn it is.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    folder: PathBuf,
    /// By source: as many as the configuration names.
    turns: Arc<StdMutex<HashMap<SourceId, Arc<Mutex<()>>>>>,
}

impl Journal {
    pub(crate) fn in_folder(folder: PathBuf) -> Self {
        Self { folder, turns: Arc::default() }
    }

    /// Waits until nothing is between the hooks of this source any more, and keeps others from it as long as
    /// the answer is held.
    pub(super) async fn turn(&self, source: &SourceId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(source.clone()).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// By source, of which one backup and one restore go on at a time. Not by task: that came over the wire.
    fn file(&self, occasion: &Occasion) -> PathBuf {
        // Component and name have no `+` in them.
        let Occasion { kind, component, name, .. } = occasion;
        self.folder.join(format!("{}+{component}+{name}", kind.word()))
    }

    /// From now on the later hook is owed.
    pub(super) fn begin(&self, occasion: &Occasion) -> io::Result<()> {
        let text = serde_json::to_vec(occasion).map_err(io::Error::other)?;
        let file = self.file(occasion);
        runtime::atomic_file::write(&file, &text, runtime::atomic_file::PRIVATE).map_err(io::Error::other)
    }

    /// Nothing is owed any more. What stays is run once more by the next start, as hooks have to stand.
    pub(super) fn end(&self, occasion: &Occasion) {
        let file = self.file(occasion);
        if let Err(error) = std::fs::remove_file(&file) {
            tracing::warn!(file = %file.display(), %error, "a hook that has run is run again at the next start");
        }
    }

    /// What the last process has left.
    pub(super) fn left(&self) -> io::Result<Vec<Occasion>> {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if is_draft(&path) {
                continue;
            }
            // The others are owed all the same.
            match std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?)) {
                Ok(occasion) => left.push(occasion),
                Err(error) => tracing::error!(
                    file = %path.display(), %error,
                    "it cannot be read which hook is owed: see whether its source is still locked"
                ),
            }
        }
        left.sort_by_key(|occasion: &Occasion| (occasion.started_at, occasion.kind));
        Ok(left)
    }
}

/// With a dot begins what a crash left of a write.
fn is_draft(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_attempt_at_a_source_waits_for_the_hooks_of_the_other_and_no_other_source_does() {
        let journal = Journal::in_folder(PathBuf::new());
        let source = |text: &str| text.parse::<SourceId>().expect("an id");
        let (models, chain) = (source("models/models"), source("blockchain/geth"));
        let first = journal.turn(&models).await;
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, journal.turn(&models)).await.is_err(), "the first one is at it");
        tokio::time::timeout(soon, journal.turn(&chain)).await.expect("nobody is at this one");
        drop(first);
        tokio::time::timeout(soon, journal.turn(&models)).await.expect("the first one has ended");
    }
}
