//! Writes a cache file, which may be large, bit by bit (small files: [`runtime::atomic_file`]).
//!
//! Must stay true: a name that exists means whole content. Bytes go into a new file beside it, that file
//! is synced, then it takes the name by one rename, then the folder is synced. A failed write or sync is
//! final: the new file is thrown away, never tried again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Everything in the state folder is for the agent's own user alone.
const MODE: u32 = 0o600;
/// What an unfinished file is called after; a leftover is overwritten by the next one.
const DRAFT_SUFFIX: &str = ".new";

/// A file that has no name of its own yet. Dropped unfinished, it is gone.
#[derive(Debug)]
pub(super) struct Draft {
    file: Option<File>,
    draft: PathBuf,
    place: PathBuf,
}

impl Draft {
    /// A new, empty draft of the file at `place`. One draft of a place at a time.
    pub(super) fn begin(place: &Path) -> io::Result<Self> {
        let mut draft = place.as_os_str().to_owned();
        draft.push(DRAFT_SUFFIX);
        let draft = PathBuf::from(draft);
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&draft)?;
        Ok(Self { file: Some(file), draft, place: place.to_owned() })
    }

    /// Appends.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().expect("a draft is open until it is finished").write_all(bytes)
    }

    /// Makes the content durable and gives it its name, replacing what had it.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let file = self.file.take().expect("a draft is finished once");
        let renamed = file.sync_all().and_then(|()| std::fs::rename(&self.draft, &self.place));
        if let Err(error) = renamed {
            self.file = Some(file);
            return Err(error);
        }
        File::open(self.place.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What stays behind is overwritten by the next draft of this place.
            let _ = std::fs::remove_file(&self.draft);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn replace(place: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut draft = Draft::begin(place)?;
        draft.write(bytes)?;
        draft.finish()
    }

    #[test]
    fn a_draft_takes_its_name_only_when_finished() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("key");
        replace(&place, b"old").expect("writes");

        let mut draft = Draft::begin(&place).expect("begins");
        draft.write(b"half").expect("writes");
        drop(draft);
        assert_eq!(std::fs::read(&place).expect("reads"), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);

        replace(&place, b"new").expect("replaces");
        assert_eq!(std::fs::read(&place).expect("reads"), b"new");
        let mode = std::fs::metadata(&place).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn a_leftover_of_a_killed_process_does_not_stop_the_next_draft() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("key");
        std::fs::write(folder.path().join("key.new"), b"left over").expect("writes");
        replace(&place, b"new").expect("replaces");
        assert_eq!(std::fs::read(&place).expect("reads"), b"new");
    }
}
