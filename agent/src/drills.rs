//! The scratch folder of drills: what is restored there is opened, and goes.
//!
//! Must stay true: one process has the folder, and one drill at a time is in it; what a drill has made is removed
//! however the drill ends, and where its process died by the next start; nothing else that lies there is touched.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use repository::names::SourceId;
use rustix::fs::{FlockOperation, Mode};

use crate::config::{Drills, Opener};
use crate::targets::files;

/// A drill's own folder is called so, and then as its restore.
const PREFIX: &str = "drill-";
/// In it: the restored folder.
const RESTORED: &str = "restored";
const FOLDER_MODE: u32 = 0o700;

/// An agent that is marked for drills.
#[derive(Debug)]
pub(crate) struct Marked {
    drills: Drills,
    scratch: PathBuf,
    /// Held for the life of the process, with its lock.
    folder: File,
}

/// The scratch folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// Another process has it.
    #[error("another agent makes its drills there: give each a folder of its own")]
    Taken,
    /// A call to the file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Marked {
    /// Takes the scratch folder, made where there is none, and removes what drills have left in it. None without
    /// `drills` in the configuration, and where the folder cannot be had: then there are no drills, and all else goes on.
    pub(crate) fn begin(drills: &Drills) -> Option<Self> {
        let scratch = drills.scratch.clone()?;
        let begun = take(&scratch).and_then(|folder| {
            let marked = Self { drills: drills.clone(), scratch: scratch.clone(), folder };
            marked.empty()?;
            Ok(marked)
        });
        match begun {
            Ok(marked) => Some(marked),
            Err(error) => {
                let hint = "see to `drills.scratch` in the agent's configuration, then start the agent again";
                tracing::error!(
                    scratch = %scratch.display(), error = proto::failure::chain(&error), hint,
                    "the scratch folder cannot be used: this agent makes no drills"
                );
                None
            }
        }
    }

    /// What it opens, for the controller.
    pub(crate) fn openers(&self) -> &[Opener] {
        &self.drills.open
    }

    /// What opens this source.
    pub(crate) fn opener(&self, source: &SourceId) -> Option<&Opener> {
        self.drills.opener(source)
    }

    /// Where the restore of this id lies: its own folder, and in it the restored one. Neither is there yet.
    pub(crate) fn place(&self, id: &str) -> PathBuf {
        self.scratch.join(format!("{PREFIX}{id}")).join(RESTORED)
    }

    /// The scratch folder.
    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Makes the folder of the restore of this id, into which nobody else may look.
    pub(crate) fn make(&self, id: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.folder, format!("{PREFIX}{id}"), Mode::RWXU)?)
    }

    /// Removes what drills have made. Blocks.
    pub(crate) fn empty(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.scratch)? {
            let name = entry?.file_name();
            if is_of_drill(&name) {
                files::remove_in(&self.folder, name.as_bytes())?;
            }
        }
        Ok(())
    }
}

fn take(scratch: &Path) -> Result<File, ScratchError> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(scratch)?;
    let folder = File::open(scratch)?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ScratchError::Taken),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn is_of_drill(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drills(scratch: &Path) -> Drills {
        Drills { scratch: Some(scratch.to_owned()), open: Vec::new() }
    }

    #[test]
    fn a_start_removes_what_drills_have_left_and_nothing_else() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = home.path().join("made/scratch");
        let first = Marked::begin(&drills(&scratch)).expect("the folder is made");
        first.make("ab-0").expect("room for a drill");
        let restored = first.place("ab-0");
        std::fs::create_dir_all(restored.join("deep/er")).expect("made");
        std::fs::write(restored.join("deep/er/file"), "x").expect("written");
        std::os::unix::fs::symlink(home.path(), restored.join("link")).expect("made");
        std::fs::write(scratch.join("mine"), "x").expect("written");
        assert!(Marked::begin(&drills(&scratch)).is_none(), "another process has it");
        drop(first);
        let second = Marked::begin(&drills(&scratch)).expect("free again");
        let names: Vec<_> =
            std::fs::read_dir(&scratch).expect("read").map(|e| e.expect("one").file_name()).collect();
        assert_eq!(names, ["mine"]);
        assert!(home.path().join("made").exists(), "no link was followed");
        drop(second);
        assert!(Marked::begin(&Drills::default()).is_none());
    }
}
