//! A folder in which entries are swapped, with its staging folder `.neurashield-<id>/`.
//!
//! In the staging folder: `journal`, `new/` (what is to come), `old/` (what was), `late/` (what turned up
//! between), and `kept/` (what was to come, if something live in it could not go back). It lies in the same mount as what it replaces, so that each swap is a rename, and is ours
//! alone (mode 0700): no one else can reach what is half written, or forge a journal. One that somebody
//! else owns or may enter is not believed and not touched. While a restore runs it holds a lock on it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use repository::archive::entry::Timestamp;
use repository::archive::path::EntryPath;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::disk::{Disk, Subject};
use super::error::{RestoreError, failed};
use super::handles::{again, kind_of, open_folder};
use super::journal::Journal;
use super::metadata::disinherit;
use super::remove::{names_in, remove_tree};
use crate::sources::files::STAGING_PREFIX;
use crate::sources::files::metadata::mtime;

/// More attempts of one restore keep no old state of their own.
const MAX_ATTEMPTS: u32 = 99;

/// One such folder.
pub(super) struct Area {
    /// As an absolute path, for people and for the journal.
    pub(super) path: PathBuf,
    /// The live folder.
    pub(super) root: OwnedFd,
    /// Its staging folder.
    pub(super) staging: OwnedFd,
    /// The staging folder's name.
    name: Vec<u8>,
    /// When the live folder was last changed before us.
    mtime: Timestamp,
}

impl Area {
    /// Makes the staging folder `name` in `root`, which is `path`. The journal is that of this area, or
    /// says that it `serves` another one.
    pub(super) fn create<'a>(
        disk: Disk<'a>,
        path: &Path,
        root: OwnedFd,
        name: &[u8],
        serves: Option<&Path>,
    ) -> Result<(Self, Journal<'a>), RestoreError> {
        let name = name.to_owned();
        let shown = || path.join(String::from_utf8_lossy(&name).as_ref()).display().to_string();
        let stat = rustix::fs::fstat(&root).map_err(failed("read", path.display()))?;
        let staging = disk.make_folder(&root, &name).map_err(failed("make the folder", shown()))?;
        let area = Self { path: path.to_owned(), root, staging, name: name.clone(), mtime: mtime(&stat) };
        let prepared = area.prepare(disk, serves).map_err(failed("prepare the folder", shown()));
        match prepared {
            Ok(journal) => Ok((area, journal)),
            Err(error) => {
                area.remove_or_log(&disk);
                Err(error)
            }
        }
    }

    fn prepare<'a>(&self, disk: Disk<'a>, serves: Option<&Path>) -> io::Result<Journal<'a>> {
        rustix::fs::flock(&self.staging, FlockOperation::NonBlockingLockExclusive)?;
        disinherit(&disk, &self.staging)?;
        for name in ["new", "old", "late"] {
            disk.make_folder(&self.staging, name.as_bytes())?;
        }
        let journal = Journal::create(disk, &self.staging, serves.map(|path| path.as_os_str().as_bytes()))?;
        disk.sync(&self.root)?;
        Ok(journal)
    }

    /// The area of which `name` in `root`, which is `path`, is the staging folder; `None` if it is not ours, or no folder,
    /// and an error of kind `WouldBlock` while its restore runs.
    pub(super) fn open(path: &Path, root: impl AsFd, name: &[u8]) -> io::Result<Option<Self>> {
        let root = again(root)?;
        let staging = match open_folder(&root, name) {
            Ok(staging) => staging,
            Err(error) => {
                let other = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::ACCESS, Errno::XDEV];
                let is_other = other.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
                return if is_other { Ok(None) } else { Err(error) };
            }
        };
        let stat = rustix::fs::fstat(&staging)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "a staging folder that is not ours is left alone");
            return Ok(None);
        }
        rustix::fs::flock(&staging, FlockOperation::NonBlockingLockExclusive)?;
        let changed = mtime(&rustix::fs::fstat(&root)?);
        Ok(Some(Self { path: path.to_owned(), root, staging, name: name.to_owned(), mtime: changed }))
    }

    /// What is to come.
    pub(super) fn new_folder(&self) -> io::Result<OwnedFd> {
        open_folder(&self.staging, b"new")
    }

    /// The name of the staging folder, the same in all areas of a restore.
    pub(super) fn staging_name(&self) -> &[u8] {
        &self.name
    }

    /// True if [`super::recover::tidy`] was here, which is not before its restore is over: since then at
    /// most an old state is kept.
    pub(super) fn is_tidied(&self) -> io::Result<bool> {
        Ok(kind_of(&self.staging, b"new")?.is_none())
    }

    /// Where the old state lies; `None` if there is none.
    pub(super) fn old_state(&self) -> io::Result<Option<PathBuf>> {
        for name in ["old", "late", "kept"] {
            match open_folder(&self.staging, name.as_bytes()) {
                Ok(folder) if names_in(&folder)?.next().transpose()?.is_some() => {
                    let staging = std::ffi::OsStr::from_bytes(&self.name);
                    return Ok(Some(self.path.join(staging).join(name)));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Keeps `new/`, which [`super::recover::tidy`] would remove, as `kept/`.
    pub(super) fn keep_new(&self, disk: &Disk<'_>) -> io::Result<()> {
        disk.rename(&self.staging, b"new", b"kept")?;
        disk.sync(&self.staging)
    }

    /// Removes what is left of `new/`, which after a swap are empty folders.
    pub(super) fn remove_new(&self, disk: &Disk<'_>) -> io::Result<()> {
        remove_tree(disk, &self.staging, b"new")
    }

    /// Removes the staging folder and all in it. The live folder keeps its time.
    pub(super) fn remove(&self, disk: &Disk<'_>) -> io::Result<()> {
        // The journal goes last: as long as there is anything to say, it says it.
        for name in names_in(&self.staging)? {
            let name = name?;
            if *name != *b"journal" {
                remove_tree(disk, &self.staging, &name)?;
            }
        }
        remove_tree(disk, &self.root, &self.name)?;
        // Not ours to set where we do not own the folder; no harm then.
        let _ = disk.set_mtime(Subject::Handle(self.root.as_fd()), self.mtime);
        Ok(())
    }

    /// As [`Area::remove`]; what fails is left for [`super::recover()`].
    pub(super) fn remove_or_log(&self, disk: &Disk<'_>) {
        if let Err(error) = self.remove(disk) {
            tracing::warn!(path = %self.path.display(), %error, "a staging folder stays until the next start");
        }
    }
}

/// How the staging folder of restore `id` is called at its first attempt; at a later one, or when it is
/// for something else, a `.` (which no id holds) and what it is for follow.
pub(super) fn staging_name(id: &str, what_for: Option<&str>) -> Vec<u8> {
    let dot = if what_for.is_some() { "." } else { "" };
    format!("{STAGING_PREFIX}{id}{dot}{}", what_for.unwrap_or_default()).into_bytes()
}

/// A name for the staging folder of restore `id` that is free in `root`. An earlier attempt that came to
/// its end (and whose success was perhaps never heard of) keeps its folder, and the old state in it.
pub(super) fn free_name(root: impl AsFd, id: &str) -> io::Result<Vec<u8>> {
    let mut name = staging_name(id, None);
    for attempt in 2..=MAX_ATTEMPTS {
        if kind_of(&root, &name)?.is_none() {
            break;
        }
        name = staging_name(id, Some(&attempt.to_string()));
    }
    Ok(name)
}

/// True if `name` is the staging folder of an attempt of restore `id`.
pub(super) fn is_of(name: &[u8], id: &str) -> bool {
    let rest = name.strip_prefix(&staging_name(id, None)[..]);
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
}

/// The id of the restore that a staging folder is of.
pub(super) fn restore_of(name: &[u8]) -> Option<String> {
    let rest = name.strip_prefix(STAGING_PREFIX.as_bytes())?;
    let id = rest.split(|byte| *byte == b'.').next()?;
    String::from_utf8(id.to_owned()).ok()
}

/// Staging folders in `root`, whosever they are.
pub(super) fn staging_names(root: impl AsFd) -> io::Result<Vec<Box<[u8]>>> {
    names_in(root)?.filter(|name| name.as_ref().map_or(true, |name| is_staging(name))).collect()
}

/// True for the name of a staging folder.
pub(super) fn is_staging(name: &[u8]) -> bool {
    name.starts_with(STAGING_PREFIX.as_bytes())
}

/// `path` as it stands below an area whose root is `base` in the archive.
pub(super) fn below(base: &EntryPath, path: &EntryPath) -> EntryPath {
    let rest = &path.as_bytes()[base.as_bytes().len()..];
    EntryPath::new(rest.strip_prefix(b"/").unwrap_or(rest)).expect("the end of a path is a path")
}
