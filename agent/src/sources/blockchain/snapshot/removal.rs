//! Removing a subvolume that the agent has made: at once, where it may, else by emptying it first.
//!
//! Must stay true: nothing is removed but what lies in the subvolume that is named, through no link and on no other
//! device; whatever ends it, it can be begun anew.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::path::EntryPath;
use runtime::steps;
use rustix::fs::{Access, AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::super::hold::{FOLDER, names};
use super::super::look;
use super::ioctls;
use super::plan::{ROOT, Why};
use crate::steps::Step;

/// More files than these are not removed one by one: each costs the file system a little.
const MAX_FILES: usize = 200_000;
/// So deep is no node's folder; a handle is open for each level.
const MAX_DEPTH: usize = 100;

/// How a subvolume went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    /// By the one call that is for it.
    AtOnce,
    /// Emptied first, which asks for no right but its owner's.
    Emptied,
}

/// True if `name` in the open `folder` is the root of a subvolume.
pub(in crate::sources::blockchain) fn is_subvolume(folder: &OwnedFd, name: &CStr) -> bool {
    let at = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let above = rustix::fs::fstat(folder);
    at.is_ok_and(|at| {
        is_folder(&at) && at.st_ino == ROOT && above.is_ok_and(|above| above.st_dev != at.st_dev)
    })
}

/// Removes the subvolume `name` from the folder `above`.
pub(in crate::sources::blockchain) fn remove(above: &OwnedFd, name: &CStr) -> io::Result<()> {
    gone(above, name).map(drop)
}

/// As [`remove`], and says how it went.
pub(super) fn gone(above: &OwnedFd, name: &CStr) -> io::Result<Went> {
    match ioctls::destroy(above, name) {
        Ok(()) => return Ok(Went::AtOnce),
        // A user's lacks a right, or a mount option; with the option it must not be read-only.
        Err(Errno::PERM | Errno::ACCESS | Errno::ROFS) => {}
        Err(error) => return Err(error.into()),
    }
    let root = rustix::fs::openat(above, name, FOLDER, Mode::empty())?;
    ioctls::make_writable(&root)?;
    steps::reach(Step::SnapshotWritable);
    if ioctls::destroy(above, name).is_ok() {
        return Ok(Went::AtOnce);
    }
    empty(root)?;
    steps::reach(Step::SnapshotEmptied);
    rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)?;
    Ok(Went::Emptied)
}

/// Removes all that is in the open folder.
fn empty(root: OwnedFd) -> io::Result<()> {
    let device = rustix::fs::fstat(&root)?.st_dev;
    // Each level with what is still to go from it, and its own name in the one above.
    let mut levels = vec![(names(root.as_fd())?, root, CString::default())];
    while let Some((left, folder, _)) = levels.last_mut() {
        let folder = &*folder;
        let Some(name) = left.pop() else {
            let (_, _, name) = levels.pop().expect("it is the last");
            if let Some((_, above, _)) = levels.last() {
                rustix::fs::unlinkat(above, &*name, AtFlags::REMOVEDIR)?;
            }
            continue;
        };
        let stat = rustix::fs::statat(folder, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_folder(&stat) {
            rustix::fs::unlinkat(folder, &*name, AtFlags::empty())?;
            continue;
        }
        match rustix::fs::unlinkat(folder, &*name, AtFlags::REMOVEDIR) {
            Ok(()) => continue,
            Err(Errno::NOTEMPTY) => {}
            Err(error) => return Err(error.into()),
        }
        let below = rustix::fs::openat(folder, &*name, FOLDER, Mode::empty())?;
        if stat.st_dev != device || levels.len() >= MAX_DEPTH {
            return Err(io::Error::other(format!("{} is not emptied", name.to_string_lossy())));
        }
        levels.push((names(below.as_fd())?, below, name));
    }
    Ok(())
}

/// Whether a copy of the subvolume whose root is open could be emptied: not where somebody else's folder lies in it.
pub(super) fn can_be_emptied(root: &OwnedFd) -> Result<(), Why> {
    let failed = || Why::io("its subvolume cannot be looked through");
    let theirs = |path: &EntryPath| {
        let at = if path.is_root() { ".".to_owned() } else { path.to_string() };
        Err(Why::WouldStay { what: format!("the folder {at} in its subvolume is not the agent's") })
    };
    let device = rustix::fs::fstat(root).map_err(|error| failed()(error.into()))?.st_dev;
    let (mut waiting, mut count) = (vec![(EntryPath::root(), 0)], 0);
    while let Some((path, depth)) = waiting.pop() {
        let folder = match look::open(root, &path) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return theirs(&path),
        };
        let stat = rustix::fs::fstat(&folder).map_err(|error| failed()(error.into()))?;
        let names = names(folder.as_fd()).map_err(failed())?;
        if !names.is_empty() && !may_be_emptied(&folder, &stat) {
            return theirs(&path);
        }
        count += names.len();
        if count > MAX_FILES {
            return Err(Why::WouldStay { what: format!("more than {MAX_FILES} files lie in its subvolume") });
        }
        for name in names {
            let Ok(stat) = rustix::fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            // Of another subvolume there is nothing in a snapshot.
            if !is_folder(&stat) || stat.st_dev != device {
                continue;
            }
            match path.join(name.to_bytes()) {
                Ok(below) if depth + 1 < MAX_DEPTH => waiting.push((below, depth + 1)),
                _ => return Err(Why::WouldStay { what: format!("a folder below {path} lies too deep") }),
            }
        }
    }
    Ok(())
}

/// True if whoever runs this may take names out of the folder, those of others', too.
fn may_be_emptied(folder: &OwnedFd, stat: &Stat) -> bool {
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let may = rustix::fs::accessat(folder, c".", access, AtFlags::empty()).is_ok();
    let is_sticky = Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX);
    may && (!is_sticky || stat.st_uid == rustix::process::geteuid().as_raw())
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_lies_in_a_folder_goes_and_what_a_link_in_it_leads_to_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let (copy, other) = (folder.path().join("copy"), folder.path().join("other"));
        fs::create_dir_all(copy.join("a/b/c")).expect("made");
        fs::create_dir_all(copy.join("empty")).expect("made");
        fs::create_dir(&other).expect("made");
        for file in [copy.join("a/b/c/1"), copy.join("a/2"), copy.join("3"), other.join("4")] {
            fs::write(file, "x").expect("written");
        }
        std::os::unix::fs::symlink(&other, copy.join("a/link")).expect("linked");
        let open = || OwnedFd::from(fs::File::open(&copy).expect("opened"));
        can_be_emptied(&open()).expect("it can");
        empty(open()).expect("emptied");
        assert_eq!(fs::read_dir(&copy).expect("listed").count(), 0);
        assert_eq!(fs::read(other.join("4")).expect("it stays"), b"x");
        // It is no subvolume, whatever its number.
        assert!(!is_subvolume(&fs::File::open(folder.path()).expect("opened").into(), c"copy"));
    }
}
