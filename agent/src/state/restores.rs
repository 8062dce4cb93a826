//! Which folders restores write in, kept until they have ended well: a start after a crash looks there.
//!
//! Must stay true: a folder is on record before anything is made in it. A record goes only when its restore
//! has ended or was recovered; one too many costs a look at the next start, one too few a half-done swap.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The folders of one restore.
#[derive(Debug)]
pub(crate) struct RestoreRecord {
    file: PathBuf,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    folders: BTreeSet<PathBuf>,
    /// An earlier attempt left a record that a start has not yet seen to.
    is_resumed: bool,
}

impl RestoreRecord {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, noted: Mutex::default() }
    }

    /// Puts `folder` on record. When it returns without an error, a power cut does not take it off.
    pub(crate) fn note(&self, folder: &Path) -> io::Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.folders.is_empty() {
            noted.folders = read(&self.file)?;
            noted.is_resumed = !noted.folders.is_empty();
        }
        if !noted.folders.insert(folder.to_owned()) {
            return Ok(());
        }
        // A path holds no NUL.
        let lines = noted.folders.iter().flat_map(|folder| [folder.as_os_str().as_bytes(), b"\0"]);
        let text: Vec<u8> = lines.flatten().copied().collect();
        runtime::atomic_file::write(&self.file, &text, runtime::atomic_file::PRIVATE)
            .map_err(io::Error::other)
    }

    /// The restore has ended, one way or the other. What an earlier attempt left is for the next start.
    pub(crate) fn ended(&self) {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted.folders.is_empty() && !noted.is_resumed {
            remove(&self.file);
        }
    }
}

/// What the record in `file` says; nothing where there is none.
pub(super) fn read(file: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        read => read?,
    };
    let lines = text.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    Ok(lines.map(|line| PathBuf::from(OsStr::from_bytes(line))).collect())
}

/// Removes a record that is not needed any more.
pub(super) fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file) {
        tracing::warn!(file = %file.display(), %error, "the record of a restore stays until the next start");
    }
}

/// The files of all records in `folder`.
pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // With a dot begins what a crash left of a write.
        if !entry.file_name().as_bytes().starts_with(b".") {
            files.push(entry.path());
        }
    }
    Ok(files)
}
