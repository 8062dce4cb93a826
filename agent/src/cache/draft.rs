//! Writes a cache file, which may be large, bit by bit (small files: [`runtime::atomic_file`]).
//!
//! Must stay true: a name that exists means whole content. Bytes go into a new file beside it, that file
//! is synced, then it takes the name by one rename, then the folder is synced. A failed write or sync is
//! final: the new file is thrown away, never tried again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Everything in the state folder is for the agent's own user alone.
const MODE: u32 = 0o600;
/// Stands in the names of drafts and in no other: names of sources do not hold it.
const MARK: char = '~';

/// Two archives of one source, one about to end, do not share a draft.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file that has no name of its own yet. Dropped unfinished, it is gone.
#[derive(Debug)]
pub(super) struct Draft {
    file: Option<File>,
    draft: PathBuf,
    place: PathBuf,
}

impl Draft {
    /// A new, empty draft of the file at `place`.
    pub(super) fn begin(place: &Path) -> io::Result<Self> {
        let mut draft = place.as_os_str().to_owned();
        draft.push(format!("{MARK}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let draft = PathBuf::from(draft);
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
            // What stays behind goes at the next start.
            let _ = std::fs::remove_file(&self.draft);
        }
    }
}

/// Removes what a killed process left in `folder`. Before any draft is begun there.
pub(crate) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().contains(&(MARK as u8)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
    fn what_a_killed_process_left_is_swept_and_the_rest_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("models+models");
        replace(&place, b"kept").expect("writes");
        std::mem::forget(Draft::begin(&place).expect("begins"));
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 2);
        sweep(folder.path()).expect("sweeps");
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
        assert_eq!(std::fs::read(&place).expect("reads"), b"kept");
    }

    #[test]
    fn two_drafts_of_one_place_do_not_mix() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("models+models");
        let (mut one, mut two) =
            (Draft::begin(&place).expect("begins"), Draft::begin(&place).expect("begins"));
        one.write(b"one").expect("writes");
        two.write(b"two").expect("writes");
        one.finish().expect("finishes");
        assert_eq!(std::fs::read(&place).expect("reads"), b"one");
        two.finish().expect("finishes");
        assert_eq!(std::fs::read(&place).expect("reads"), b"two");
    }
}
