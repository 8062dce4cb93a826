//! Writes a small file of a state folder so that a crash leaves the old content or the new one, whole.
//!
//! Order: write beside under a name of its own, fsync, rename over, fsync the folder. A failed step removes
//! the new file, leaves the old one, and is not repeated: after a failed fsync nobody knows what the disk has.
//!
//! Must stay true: a state folder has one process. Writers within it take turns, so the name beside is fixed
//! and what a crash left there is replaced by the next write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Mode of files that only the program itself may read.
pub const PRIVATE: u32 = 0o600;

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {} ({step})", file.display())]
pub struct WriteError {
    /// Which file.
    pub file: PathBuf,
    /// What failed, e.g. `fsync`.
    pub step: &'static str,
    /// The cause.
    #[source]
    pub source: io::Error,
}

static TURN: Mutex<()> = Mutex::new(());

/// Makes `content` the content of `file`, with exactly the permissions of `mode`. When it returns without an
/// error, the content survives a power cut. `file` has a name and lies in a folder that exists.
pub fn write(file: &Path, content: &[u8], mode: u32) -> Result<(), WriteError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let fail = |step| move |source| WriteError { file: file.to_owned(), step, source };
    let (Some(name), Some(folder)) = (file.file_name(), file.parent()) else {
        return Err(fail("look at its name")(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut beside_name = std::ffi::OsString::from(".");
    beside_name.push(name);
    beside_name.push(".new");
    let beside = folder.join(beside_name);
    let written = write_beside(&beside, content, mode)
        .and_then(|()| fs::rename(&beside, file).map_err(|error| ("rename", error)));
    if let Err((step, error)) = written {
        // Best effort: the error to tell is the first one, and the next write replaces what stays.
        let _ = fs::remove_file(&beside);
        return Err(fail(step)(error));
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail("fsync its folder"))
}

fn write_beside(beside: &Path, content: &[u8], mode: u32) -> Result<(), (&'static str, io::Error)> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(("remove what a crash left", error));
        }
        _ => {}
    }
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(beside);
    let mut new = opened.map_err(|error| ("create", error))?;
    // The process's umask may have taken bits away.
    new.set_permissions(fs::Permissions::from_mode(mode)).map_err(|error| ("set its mode", error))?;
    new.write_all(content).map_err(|error| ("write", error))?;
    new.sync_all().map_err(|error| ("fsync", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity");
        write(&file, b"a long first content", PRIVATE).unwrap();
        write(&file, b"second", PRIVATE).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["identity"]);
    }

    #[test]
    fn the_mode_is_the_one_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [PRIVATE, 0o644, 0o666] {
            let file = folder.path().join(format!("{mode:o}"));
            write(&file, b"x", mode).unwrap();
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, mode);
        }
    }

    #[test]
    fn what_a_crash_left_beside_does_not_hinder_the_next_write() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".state.new"), b"half a con").unwrap();
        write(&folder.path().join("state"), b"whole", PRIVATE).unwrap();
        assert_eq!(names(folder.path()), ["state"]);
        assert_eq!(fs::read(folder.path().join("state")).unwrap(), b"whole");
    }

    #[test]
    fn a_write_that_fails_keeps_the_old_content_and_names_file_and_step() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        fs::create_dir(&file).unwrap();
        fs::write(file.join("old"), b"old").unwrap();
        let error = write(&file, b"new", PRIVATE).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {} (rename)", file.display()));
        assert_eq!(names(folder.path()), ["state"]);
        assert_eq!(fs::read(file.join("old")).unwrap(), b"old");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&folder.path().join("missing/state"), b"x", PRIVATE).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.step, "create");
    }
}
