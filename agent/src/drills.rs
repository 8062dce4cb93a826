//! The scratch folder of drills: what is restored there is opened, and goes.
//!
//! Must stay true: one process has the folder, and one drill at a time is in it; what a drill has made is removed
//! however the drill ends, and where its process died by the next start; nothing else that lies there is touched; it
//! really lies neither in nor around what is backed up, or the agent's own state.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use repository::names::SourceId;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode};

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
    /// By way of a link.
    #[error("it is {0} really, in or around what is in use: choose a folder elsewhere")]
    InUse(String),
    /// A call to the file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Marked {
    /// Takes the scratch folder, made where there is none, and removes what drills have left in it. None without
    /// `drills` in the configuration, and where the folder cannot be had: then there are no drills, and all else goes on. Where
    /// it really lies must be neither in nor around what is `in_use`.
    pub(crate) fn begin(drills: &Drills, in_use: &[&Path]) -> Option<Self> {
        let scratch = drills.scratch.clone()?;
        let begun = take(&scratch, in_use).and_then(|(folder, scratch)| {
            let marked = Self { drills: drills.clone(), scratch, folder };
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
            if self.is_of_drill(&name)? {
                files::remove_in(&self.folder, name.as_bytes())?;
            }
        }
        Ok(())
    }

    /// A drill's folder is called and made as one, and is ours. What is not may be anybody's.
    fn is_of_drill(&self, name: &OsStr) -> io::Result<bool> {
        if !is_named_so(name) {
            return Ok(false);
        }
        let stat = match rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            other => other?,
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is_closed = Mode::from_raw_mode(stat.st_mode) == Mode::RWXU;
        Ok(is_folder && is_closed && stat.st_uid == rustix::process::geteuid().as_raw())
    }
}

fn take(scratch: &Path, in_use: &[&Path]) -> Result<(File, PathBuf), ScratchError> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(scratch)?;
    let real = scratch.canonicalize()?;
    let is_in_use = |used: &&Path| {
        // What is not there is where it is said to be.
        let used = used.canonicalize().unwrap_or_else(|_| used.to_path_buf());
        real.starts_with(&used) || used.starts_with(&real)
    };
    if in_use.iter().any(is_in_use) {
        return Err(ScratchError::InUse(real.display().to_string()));
    }
    let folder = File::open(&real)?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((folder, real)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ScratchError::Taken),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// As a restore is: by its job, and the number of its part.
fn is_named_so(name: &OsStr) -> bool {
    let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    let parts = id.and_then(|id| id.rsplit_once('-'));
    parts.is_some_and(|(job, part)| {
        !job.is_empty() && !part.is_empty() && part.bytes().all(|letter| letter.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drills(scratch: &Path) -> Drills {
        Drills { scratch: Some(scratch.to_owned()), open: Vec::new() }
    }

    fn begin(drills: &Drills) -> Option<Marked> {
        Marked::begin(drills, &[])
    }

    #[test]
    fn a_start_removes_what_drills_have_left_and_nothing_else() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = home.path().join("made/scratch");
        let first = begin(&drills(&scratch)).expect("the folder is made");
        first.make("ab-0").expect("room for a drill");
        let restored = first.place("ab-0");
        std::fs::create_dir_all(restored.join("deep/er")).expect("made");
        std::fs::write(restored.join("deep/er/file"), "x").expect("written");
        std::os::unix::fs::symlink(home.path(), restored.join("link")).expect("made");
        std::fs::write(scratch.join("mine"), "x").expect("written");
        // Called like a drill's, and somebody else's.
        std::fs::write(scratch.join("drill-1-0"), "x").expect("written");
        for other in ["drill-notes", "drill-2-0"] {
            std::fs::create_dir(scratch.join(other)).expect("made");
        }
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(scratch.join("drill-2-0"), open).expect("set");
        assert!(begin(&drills(&scratch)).is_none(), "another process has it");
        drop(first);
        let second = begin(&drills(&scratch)).expect("free again");
        let mut names: Vec<_> =
            std::fs::read_dir(&scratch).expect("read").map(|e| e.expect("one").file_name()).collect();
        names.sort();
        assert_eq!(names, ["drill-1-0", "drill-2-0", "drill-notes", "mine"]);
        assert!(home.path().join("made").exists(), "no link was followed");
        drop(second);
        assert!(begin(&Drills::default()).is_none());
    }

    #[test]
    fn a_link_into_what_is_backed_up_is_no_scratch_folder() {
        let home = tempfile::tempdir().expect("a folder");
        let (live, link) = (home.path().join("live"), home.path().join("link"));
        std::fs::create_dir_all(live.join("drill-1-0")).expect("made");
        std::os::unix::fs::symlink(&live, &link).expect("made");
        assert!(Marked::begin(&drills(&link), &[&live]).is_none());
        assert!(Marked::begin(&drills(&link.join("new")), &[&live]).is_none());
        assert!(Marked::begin(&drills(&live), &[&link]).is_none());
        assert!(live.join("drill-1-0").exists());
        assert!(Marked::begin(&drills(&link), &[]).is_some());
    }
}
