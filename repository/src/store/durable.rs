//! The one place that makes files and folders durable on a POSIX file system. Each single change goes
//! through `calls.rs`, where tests watch it.
//!
//! What must stay true, and why:
//! 1. *A name means whole content.* Bytes go into a draft (a new file under a name that no list shows),
//!    the draft is synced, and only then does it get its name by one rename. A power cut before the rename
//!    leaves a draft, which is garbage; after it, the object is whole.
//! 2. *A name that was acknowledged stays.* A rename lives in the folder, not in the file: until the folder
//!    is synced, a power cut takes exactly the last objects back, the commit among them. The same holds for
//!    a new folder and its parent.
//! 3. *Nobody is replaced unasked.* `RENAME_NOREPLACE`; where the file system lacks it, `link`, which
//!    refuses an existing name as well.
//! 4. *A failed write or sync is final.* The kernel may drop the dirty pages and report success on the next
//!    try, so the draft is thrown away and the caller starts again under a new name.
//!
//! All drafts lie in one folder, the root, rather than beside their targets: so one short listing finds
//! what a killed process left, and no leftover is ever inside a folder that gets published.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::calls;
use crate::{ids, random};

const DRAFT_PREFIX: &str = ".tmp-neurashield-";
const DRAFT_RANDOM_BYTES: usize = 16;

/// A draft not written to for this long, and not locked by its writer, belongs to nobody.
const LEFTOVER_AGE_SECONDS: i64 = 3600;

/// Folders of ours are three deep; what is deeper than this is not ours.
const MAX_DEPTH: usize = 32;

/// What [`Draft::finish`] does with an object that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// Stays; `finish` fails with `EEXIST`.
    Keep,
    /// Makes way.
    Replace,
}

/// A file that has no name of its own yet. Dropped unfinished, it is gone.
#[derive(Debug)]
pub(super) struct Draft {
    home: Arc<OwnedFd>,
    name: String,
    file: File,
    failed: bool,
    placed: bool,
}

impl Draft {
    /// A new, empty draft in `home`.
    pub(super) fn begin(home: &Arc<OwnedFd>) -> io::Result<Self> {
        let name = format!("{DRAFT_PREFIX}{}", ids::hex(&random::bytes::<DRAFT_RANDOM_BYTES>()));
        let file = calls::create_file(home, name.as_bytes())?;
        // The lock only tells sweepers in other processes that the writer lives. Where the file system has
        // no locks, the draft's age alone protects it.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok();
        Ok(Self { home: Arc::clone(home), name, file, failed: false, placed: false })
    }

    /// Appends.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.refuse_after_failure()?;
        let written = calls::append(&self.file, bytes);
        self.failed = written.is_err();
        written
    }

    /// Makes the content durable, then the name `name` in `folder`.
    ///
    /// `EEXIST` is a durable answer too: the folder is synced before it is given, because whoever made the
    /// other object may have died before doing so.
    pub(super) fn finish(mut self, folder: &OwnedFd, name: &str, existing: Existing) -> io::Result<()> {
        self.refuse_after_failure()?;
        calls::sync_file(&self.file)?;
        let placed = match existing {
            Existing::Keep => move_file(&self.home, &self.name, folder, name),
            Existing::Replace => calls::rename(&self.home, self.name.as_bytes(), folder, name.as_bytes()),
        };
        if let Err(error) = &placed
            && Errno::from_io_error(error) != Some(Errno::EXIST)
        {
            return placed;
        }
        self.placed = placed.is_ok();
        sync_folder(folder)?;
        placed
    }

    fn refuse_after_failure(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other(
                "an earlier write to the same file failed; it must be written anew",
            ));
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            // What cannot be removed now is found by a later sweep.
            calls::remove_file(&self.home, self.name.as_bytes()).ok();
        }
    }
}

/// True for names that drafts have, and nothing else.
pub(super) fn is_draft(name: &[u8]) -> bool {
    name.strip_prefix(DRAFT_PREFIX.as_bytes()).is_some_and(|random| {
        random.len() == 2 * DRAFT_RANDOM_BYTES
            && random.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Removes the drafts that killed processes left in `home`: an hour older than `fresh`, by the file
/// system's own clock, and locked by nobody. Says how many.
pub(super) fn sweep(home: &OwnedFd, fresh: &Draft) -> io::Result<usize> {
    let now = rustix::fs::fstat(&fresh.file)?.st_mtime;
    let mut removed = 0;
    for entry in Dir::read_from(home)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_draft(name.to_bytes()) {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(home, name, flags, Mode::empty()) else {
            continue;
        };
        let stat = rustix::fs::fstat(&file)?;
        let is_old = now.saturating_sub(stat.st_mtime) >= LEFTOVER_AGE_SECONDS;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && is_old && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            calls::remove_file(home, name.to_bytes())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Makes the names in `folder` durable.
pub(super) fn sync_folder(folder: &OwnedFd) -> io::Result<()> {
    calls::sync_folder(folder)
}

/// Makes the names in `folder`, and in all folders below it, durable. Files were synced when they were made.
pub(super) fn sync_tree(folder: &OwnedFd) -> io::Result<()> {
    sync_tree_to(folder, MAX_DEPTH)
}

fn sync_tree_to(folder: &OwnedFd, depth: usize) -> io::Result<()> {
    let below = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name.to_bytes()) {
            continue;
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => sync_tree_to(&open_folder(folder, name)?, below)?,
            _ => {
                return Err(io::Error::other(format!(
                    "{} is neither a file nor a folder",
                    name.to_string_lossy()
                )));
            }
        }
    }
    sync_folder(folder)
}

/// Opens the folder `name` in `parent`; a symbolic link is refused (`ENOTDIR`).
pub(super) fn open_folder<P: rustix::path::Arg>(parent: &OwnedFd, name: P) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Makes sure that the folder `name` is in `parent`, durably, and opens it. Also syncs where the folder was
/// there before: its maker may have died, or be about to, without doing so.
pub(super) fn make_folder(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match calls::make_folder(parent, name.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = open_folder(parent, name)?;
    sync_folder(parent)?;
    Ok(folder)
}

/// Moves a file to a name that must be free (`EEXIST`). The caller syncs both folders, `to` first.
pub(super) fn move_file(from: &OwnedFd, from_name: &str, to: &OwnedFd, to_name: &str) -> io::Result<()> {
    match calls::rename_to_free(from, from_name.as_bytes(), to, to_name.as_bytes()) {
        Err(error) if cannot_refuse_names(&error) => move_file_by_link(from, from_name, to, to_name),
        answer => answer,
    }
}

/// For file systems that cannot rename without replacing (NFS). A power cut in the middle leaves two names
/// of one file, never none: the new name is durable before the old one goes.
fn move_file_by_link(from: &OwnedFd, from_name: &str, to: &OwnedFd, to_name: &str) -> io::Result<()> {
    calls::link(from, from_name.as_bytes(), to, to_name.as_bytes())?;
    sync_folder(to)?;
    calls::remove_file(from, from_name.as_bytes())
}

/// Moves a folder to a name that must be free (`EEXIST`). The caller syncs both parents, `to` first.
pub(super) fn move_folder(from: &OwnedFd, from_name: &str, to: &OwnedFd, to_name: &str) -> io::Result<()> {
    match calls::rename_to_free(from, from_name.as_bytes(), to, to_name.as_bytes()) {
        Err(error) if cannot_refuse_names(&error) => move_folder_plainly(from, from_name, to, to_name),
        answer => answer,
    }
}

/// True if this is how a file system says that it has no rename which refuses a taken name.
fn cannot_refuse_names(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// A plain rename of a folder refuses whatever has content; only an empty folder would make way.
fn move_folder_plainly(from: &OwnedFd, from_name: &str, to: &OwnedFd, to_name: &str) -> io::Result<()> {
    match calls::rename(from, from_name.as_bytes(), to, to_name.as_bytes()) {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTEMPTY | Errno::NOTDIR)) => {
            Err(Errno::EXIST.into())
        }
        answer => answer,
    }
}

/// Removes the file `name` in `folder`, durably; one that is gone already is fine.
pub(super) fn remove_file(folder: &OwnedFd, name: &str) -> io::Result<()> {
    match calls::remove_file(folder, name.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(folder),
    }
}

/// Removes the folder `name` in `parent` and all in it, links unfollowed. The caller syncs `parent`.
pub(super) fn remove_tree(parent: &OwnedFd, name: &str) -> io::Result<()> {
    empty_folder(&open_folder(parent, name)?, MAX_DEPTH)?;
    calls::remove_folder(parent, name.as_bytes())
}

fn empty_folder(folder: &OwnedFd, depth: usize) -> io::Result<()> {
    let below = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name.to_bytes()) {
            continue;
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            empty_folder(&open_folder(folder, name)?, below)?;
            calls::remove_folder(folder, name.to_bytes())?;
        } else {
            calls::remove_file(folder, name.to_bytes())?;
        }
    }
    Ok(())
}

/// True for a folder's names of itself and of its parent.
pub(super) fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use super::*;

    fn open(path: &Path) -> Arc<OwnedFd> {
        Arc::new(OwnedFd::from(File::open(path).unwrap()))
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_dropped_draft_leaves_no_file() {
        let scratch = tempfile::tempdir().unwrap();
        let home = open(scratch.path());
        let mut draft = Draft::begin(&home).unwrap();
        draft.write(b"half").unwrap();
        assert_eq!(names(scratch.path()).len(), 1);
        drop(draft);
        assert!(names(scratch.path()).is_empty());
    }

    #[test]
    fn a_draft_is_never_written_again_after_a_failed_write() {
        let scratch = tempfile::tempdir().unwrap();
        let home = open(scratch.path());
        let mut draft = Draft::begin(&home).unwrap();
        let read_only = File::open(scratch.path().join(&draft.name)).unwrap();
        let writable = std::mem::replace(&mut draft.file, read_only);
        draft.write(b"refused").unwrap_err();
        draft.file = writable;
        assert!(draft.write(b"again").unwrap_err().to_string().contains("earlier write"));
        assert!(draft.finish(&home, "object", Existing::Keep).is_err());
        assert!(names(scratch.path()).is_empty());
    }

    #[test]
    fn moving_by_link_refuses_an_existing_name_and_else_moves() {
        let scratch = tempfile::tempdir().unwrap();
        let home = open(scratch.path());
        fs::write(scratch.path().join("old"), b"old").unwrap();
        fs::write(scratch.path().join("taken"), b"taken").unwrap();
        let refused = move_file_by_link(&home, "old", &home, "taken").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(scratch.path().join("taken")).unwrap(), b"taken");
        move_file_by_link(&home, "old", &home, "new").unwrap();
        assert_eq!(names(scratch.path()), ["new", "taken"]);
    }

    #[test]
    fn moving_a_folder_plainly_refuses_a_folder_with_content_and_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        let home = open(scratch.path());
        for folder in ["from", "full"] {
            fs::create_dir(scratch.path().join(folder)).unwrap();
            fs::write(scratch.path().join(folder).join("object"), folder).unwrap();
        }
        fs::write(scratch.path().join("file"), b"file").unwrap();
        for taken in ["full", "file"] {
            let refused = move_folder_plainly(&home, "from", &home, taken).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{taken}");
        }
        move_folder_plainly(&home, "from", &home, "to").unwrap();
        assert_eq!(fs::read(scratch.path().join("to/object")).unwrap(), b"from");
    }

    #[test]
    fn a_sweep_takes_only_old_drafts_that_nobody_writes() {
        let scratch = tempfile::tempdir().unwrap();
        let home = open(scratch.path());
        let abandoned = format!("{DRAFT_PREFIX}{}", "a".repeat(32));
        let foreign = format!("{DRAFT_PREFIX}notes");
        for name in [&abandoned, &foreign] {
            fs::write(scratch.path().join(name), b"x").unwrap();
        }
        let young = format!("{DRAFT_PREFIX}{}", "b".repeat(32));
        fs::write(scratch.path().join(&young), b"x").unwrap();
        let slow = Draft::begin(&home).unwrap();
        for name in [&abandoned, &foreign, &slow.name] {
            let file = File::options().write(true).open(scratch.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }

        let fresh = Draft::begin(&home).unwrap();
        assert_eq!(sweep(&home, &fresh).unwrap(), 1);
        let mut left = vec![foreign, young, slow.name.clone(), fresh.name.clone()];
        left.sort();
        assert_eq!(names(scratch.path()), left);
    }

    #[test]
    fn removing_a_tree_unlinks_links_without_following_them() {
        let scratch = tempfile::tempdir().unwrap();
        let home = open(scratch.path());
        fs::create_dir_all(scratch.path().join("outside")).unwrap();
        fs::write(scratch.path().join("outside/kept"), b"kept").unwrap();
        fs::create_dir_all(scratch.path().join("tree/inner")).unwrap();
        fs::write(scratch.path().join("tree/inner/object"), b"x").unwrap();
        std::os::unix::fs::symlink("../outside", scratch.path().join("tree/link")).unwrap();
        remove_tree(&home, "tree").unwrap();
        assert_eq!(names(scratch.path()), ["outside"]);
        assert_eq!(names(&scratch.path().join("outside")), ["kept"]);
    }
}
