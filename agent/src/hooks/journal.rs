//! What is between its hooks, kept until the later one has run.
//!
//! Must stay true: an entry is durable before the first hook is started and goes when the last one has ended;
//! so whatever kills the agent in between, its next start finds it.

use std::io;
use std::path::{Path, PathBuf};

use repository::names::SourceId;
use serde::{Deserialize, Serialize};

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

/// The folder of these entries.
#[derive(Debug, Clone)]
pub(crate) struct Journal(PathBuf);

impl Journal {
    pub(crate) fn in_folder(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// By source, of which one backup and one restore go on at a time. Not by task: that came over the wire.
    fn file(&self, occasion: &Occasion) -> PathBuf {
        // Component and name have no `+` in them.
        let Occasion { kind, component, name, .. } = occasion;
        self.0.join(format!("{}+{component}+{name}", kind.word()))
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
        for entry in std::fs::read_dir(&self.0)? {
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
