//! The agent's state folder: who it is, whom it trusts, what it remembers.
//!
//! Must stay true: the folder has one process (a lock tells); the private key never leaves it; repository
//! and repository key are pinned at the join and never changed by anything that comes over the wire.

mod identity;
mod restores;
mod runs;

pub use identity::has_joined;
pub(crate) use identity::{AgentKey, Identity, IdentityError, PinBroken, RepositoryPin, certificate_pem};
pub(crate) use restores::RestoreRecord;
pub(crate) use runs::{Report, Run, Runs, Stopped, Stopping};

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use repository::names::SourceId;
use rustix::fs::FlockOperation;

use crate::hooks::Journal;

const FOLDER_MODE: u32 = 0o700;
const CACHES: &str = "caches";
const RESTORES: &str = "restores";
const HOOKS: &str = "hooks";

/// The folder, held by this process.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: File,
    hooks: Journal,
}

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A call to the file system failed.
    #[error("cannot {action} the state folder {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process holds it.
    #[error(
        "another agent works with the state folder {}: stop it, or give this one a folder of its own \
         (`state` in its configuration)",
        .0.display()
    )]
    Taken(PathBuf),
}

impl StateFolder {
    /// Takes the folder, made where there is none, for this process.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |action| move |source| StateError::Io { action, path: path.to_owned(), source };
        let caches = path.join(CACHES);
        let more = [RESTORES, HOOKS, Runs::RUNNING, Runs::ENDED].map(|name| path.join(name));
        for folder in [path, caches.as_path()].into_iter().chain(more.iter().map(PathBuf::as_path)) {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed("make"))?;
        }
        let mode = std::fs::Permissions::from_mode(FOLDER_MODE);
        std::fs::set_permissions(path, mode).map_err(failed("set the mode of"))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(runtime::atomic_file::PRIVATE)
            .open(path.join("lock"))
            .map_err(failed("lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Taken(path.to_owned())),
            Err(error) => return Err(failed("lock")(error.into())),
        }
        crate::cache::sweep(&caches).map_err(failed("tidy"))?;
        let hooks = Journal::in_folder(path.join(HOOKS));
        Ok(Self { path: path.to_owned(), hooks, _lock: lock })
    }

    /// Where the no-change cache of `source` lies.
    pub(crate) fn cache(&self, source: &SourceId) -> PathBuf {
        // Component and name have no `+` in them, so no two sources share a file.
        self.path.join(CACHES).join(format!("{}+{}", source.component, source.name))
    }

    /// The record of the restore `id`: 1 to 64 letters, digits and `-`, or nothing may be noted in it.
    pub(crate) fn restore(&self, id: &str) -> RestoreRecord {
        RestoreRecord::new(self.path.join(RESTORES).join(id))
    }

    /// Where the hooks that are owed stand.
    pub(crate) fn hooks(&self) -> &Journal {
        &self.hooks
    }

    /// How far restores have come, and how they ended.
    pub(crate) fn runs(&self) -> Runs {
        Runs::new(&self.path)
    }

    /// Has `recover` look into each folder that a restore had on record when the last process ended. A
    /// record with a folder of which it says false is kept for the next start.
    pub(crate) fn recover_restores(&self, recover: impl Fn(&str, &Path) -> bool) -> io::Result<()> {
        for file in restores::list(&self.path.join(RESTORES))? {
            let folders = restores::read(&file)?;
            // All of them, whatever becomes of the first.
            let id = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let failed = folders.iter().filter(|folder| !recover(id, folder)).count();
            if failed == 0 {
                restores::remove(&file);
            }
        }
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_has_one_process_and_only_its_user_may_look_in() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let path = parent.path().join("state");
        let held = StateFolder::open(&path).expect("opens");
        assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, FOLDER_MODE);
        let second = StateFolder::open(&path).expect_err("it is taken");
        assert!(matches!(second, StateError::Taken(_)), "{second}");
        drop(held);
        StateFolder::open(&path).expect("it is free again");
    }
}
