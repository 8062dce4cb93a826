//! A state folder that is being made anew.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use runtime::atomic_file::{self, PRIVATE};

use super::{LOCK, REBUILDING, StateError, failed, locked, make_private_folder};

/// What a rebuild before has put aside begins with this.
const ASIDE: &str = "replaced-";

/// A state folder that is being made anew, locked. Until [`Rebuilding::finish`] no controller starts on it.
#[derive(Debug)]
pub struct Rebuilding {
    folder: PathBuf,
    aside: Option<PathBuf>,
    _lock: File,
}

impl Rebuilding {
    /// Refuses a folder that holds something, unless that may be put aside. A folder that is missing is fine, and
    /// so is what a rebuild before has left that was cut off.
    pub fn check(folder: &Path, replace: bool) -> Result<(), StateError> {
        match contents(folder)?.first() {
            Some(found) if !replace && !folder.join(REBUILDING).exists() => Err(StateError::NotEmpty {
                folder: folder.to_owned(),
                found: found.to_string_lossy().into_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Locks the folder and marks it; what is in it goes aside, into a folder with `stamp` in its name.
    pub fn begin(folder: &Path, replace: bool, stamp: &str) -> Result<Self, StateError> {
        Self::check(folder, replace)?;
        let lock = locked(folder)?;
        let mut rebuilding = Self { folder: folder.to_owned(), aside: None, _lock: lock };
        let is_left_over = folder.join(REBUILDING).exists();
        let found = contents(folder)?;
        if !is_left_over && !found.is_empty() {
            // Asked again under the lock: a controller may have been there meanwhile.
            Self::check(folder, replace)?;
            let aside = folder.join(format!("{ASIDE}{stamp}"));
            make_private_folder(&aside)?;
            for name in found {
                let path = folder.join(&name);
                fs::rename(&path, aside.join(&name)).map_err(failed("put aside", &path))?;
            }
            rebuilding.aside = Some(aside);
        }
        rebuilding.write(REBUILDING, b"")?;
        make_private_folder(&folder.join("revoked"))?;
        Ok(rebuilding)
    }

    /// Where what was in the folder is now.
    pub fn aside(&self) -> Option<&Path> {
        self.aside.as_deref()
    }

    /// The path of the file `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes the file `name` whole and durably, readable by the owner alone.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        Ok(atomic_file::write(&self.path(name), bytes, PRIVATE)?)
    }

    /// Everything is in its place: a controller may start.
    pub fn finish(self) -> Result<(), StateError> {
        let mark = self.path(REBUILDING);
        fs::remove_file(&mark).map_err(failed("remove", &mark))
    }
}

/// What is in the folder and counts: not the lock, not what file systems put there, not what was put aside before.
fn contents(folder: &Path) -> Result<Vec<std::ffi::OsString>, StateError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("list", folder))?.file_name();
        let is_aside = name.to_str().is_some_and(|name| name.starts_with(ASIDE));
        if !is_aside && ![LOCK, "lost+found"].map(OsStr::new).contains(&name.as_os_str()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateFolder;

    #[test]
    fn a_folder_that_holds_something_is_refused_unless_that_may_go_aside() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("state");
        drop(StateFolder::open(&folder).expect("opened"));
        assert!(matches!(Rebuilding::begin(&folder, false, "1"), Err(StateError::NotEmpty { .. })));
        let rebuilding = Rebuilding::begin(&folder, true, "1").expect("begun");
        let aside = rebuilding.aside().expect("it went aside").to_owned();
        assert!(aside.join("controller-id").exists() && !folder.join("controller-id").exists());
        rebuilding.finish().expect("finished");
        drop(StateFolder::open(&folder).expect("a controller starts"));
    }

    #[test]
    fn no_controller_starts_on_what_a_rebuild_left_that_was_cut_off_and_another_goes_on() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("state");
        let rebuilding = Rebuilding::begin(&folder, false, "1").expect("begun");
        assert!(matches!(StateFolder::open(&folder), Err(StateError::InUse { .. })));
        rebuilding.write("ca.key", b"half").expect("written");
        drop(rebuilding);
        assert!(matches!(StateFolder::open(&folder), Err(StateError::HalfRebuilt { .. })));
        Rebuilding::begin(&folder, false, "2").expect("again").finish().expect("finished");
        assert!(StateFolder::open(&folder).is_ok());
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let home = tempfile::tempdir().expect("a folder");
        let _controller = StateFolder::open(home.path()).expect("opened");
        assert!(matches!(Rebuilding::begin(home.path(), true, "1"), Err(StateError::InUse { .. })));
    }
}
