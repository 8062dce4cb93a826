//! Opens: every handle that a restore holds comes from here.
//!
//! Must stay true: below a folder that we hold, a name is opened by [`open_in`] alone, which stays beneath
//! the folder and goes through no symbolic link, no magic link and no other mount, whatever somebody puts
//! there meanwhile. The way to a folder that a person named is walked by [`walk`]: there links and mounts
//! are followed, but no link that somebody else has put there. From then on it is the handle that counts,
//! not the path.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A folder, to be read.
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// An entry, only to be named.
const ENTRY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// As many links as Linux follows.
const MAX_LINKS: usize = 40;

/// Whether a way down may lead into another mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounts {
    /// An error: what is mounted there is not part of the folder.
    Refused,
    /// Only on the way to where listed files lie, from `/` on.
    Crossed,
}

/// Opens `name` in `folder`. The name is a single one; a link is not followed (with `PATH` it is named
/// itself); what is mounted on it is not entered.
pub(super) fn open_in(folder: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_across(folder.as_fd(), name, flags, mode, Mounts::Refused)
}

fn open_across(
    folder: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    mounts: Mounts,
) -> io::Result<OwnedFd> {
    if name.is_empty() || name == b".." || name.contains(&b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a single name was expected"));
    }
    if has_openat2() {
        by_kernel(folder, name, flags, mode, mounts)
    } else {
        by_hand(folder, name, flags, mode, mounts)
    }
}

/// `openat2` came with Linux 5.6; a sandbox may also forbid it.
fn has_openat2() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        rustix::fs::openat2(CWD, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH)
            .is_ok()
    })
}

fn by_kernel(
    folder: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    mounts: Mounts,
) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if mounts == Mounts::Refused {
        resolve |= ResolveFlags::NO_XDEV;
    }
    let opened = rustix::io::retry_on_intr(|| {
        // EAGAIN: a rename elsewhere came between, so that the kernel could not tell.
        match rustix::fs::openat2(folder, name, flags | OFlags::NOFOLLOW, mode, resolve) {
            Err(Errno::AGAIN) => Err(Errno::INTR),
            other => other,
        }
    });
    Ok(opened?)
}

/// The same for a kernel without `openat2`: a single name leads nowhere but into its folder, `NOFOLLOW`
/// keeps every kind of link out, and the mount is compared afterwards.
fn by_hand(
    folder: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    mounts: Mounts,
) -> io::Result<OwnedFd> {
    let opened = rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW, mode)?;
    if mounts == Mounts::Refused && mount_of(folder)? != mount_of(opened.as_fd())? {
        return Err(Errno::XDEV.into());
    }
    Ok(opened)
}

/// In which mount a handle lies; where that is not told, on which device.
fn mount_of(handle: BorrowedFd<'_>) -> io::Result<(bool, u64)> {
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd())).ok();
    let id = told.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("mnt_id:")));
    match id.and_then(|id| id.trim().parse().ok()) {
        Some(id) => Ok((true, id)),
        None => Ok((false, rustix::fs::fstat(handle)?.st_dev)),
    }
}

/// Opens the folder `name`.
pub(super) fn open_folder(folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    open_in(folder, name, FOLDER, Mode::empty())
}

/// As [`open_folder`], where other mounts may be entered.
pub(super) fn open_folder_across(folder: impl AsFd, name: &[u8], mounts: Mounts) -> io::Result<OwnedFd> {
    open_across(folder.as_fd(), name, FOLDER, Mode::empty(), mounts)
}

/// Opens the folder `path` below `folder`, name by name, so that no path is too long.
pub(super) fn open_below(folder: impl AsFd, path: &EntryPath, mounts: Mounts) -> io::Result<OwnedFd> {
    let mut at = again(folder)?;
    for name in path.names() {
        at = open_folder_across(&at, name, mounts)?;
    }
    Ok(at)
}

/// A second handle on `folder`, with a position of its own for listings.
pub(super) fn again(folder: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, c".", FOLDER, Mode::empty())?)
}

/// A handle that only names the entry.
pub(super) fn open_entry(folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    open_in(folder, name, ENTRY, Mode::empty())
}

/// What kind of thing `name` is, links not followed; `None` if there is none.
pub(super) fn kind_of(folder: impl AsFd, name: &[u8]) -> io::Result<Option<FileType>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A folder that a person named, as far as it exists.
#[derive(Debug)]
pub(super) struct Walked {
    /// The folder, or the last one on the way to it.
    pub(super) handle: OwnedFd,
    /// Its path, without a link in it.
    pub(super) path: PathBuf,
    /// What does not exist of the way.
    pub(super) missing: Vec<OsString>,
}

/// Walks to the folder `path`. A link on the way is followed if it belongs to root or to us; one that
/// somebody else has put there could send what we write to wherever he likes, and is an error.
pub(super) fn walk(path: &Path) -> io::Result<Walked> {
    let absolute = std::path::absolute(path)?;
    let mut pending: VecDeque<(OsString, bool)> = VecDeque::new();
    push_front(&mut pending, &absolute, false);
    let mut walked = Walked { handle: slash()?, path: PathBuf::from("/"), missing: Vec::new() };
    let mut links = 0;
    while let Some((name, of_link)) = pending.pop_front() {
        if name == "/" {
            (walked.handle, walked.path) = (slash()?, PathBuf::from("/"));
        } else if name == ".." {
            if !walked.missing.is_empty() {
                return Err(Errno::NOENT.into());
            }
            walked.path.pop();
            walked.handle = down(&walked.path)?;
        } else if !walked.missing.is_empty() {
            walked.missing.push(name);
        } else {
            let entry = match rustix::fs::openat(&walked.handle, &name, ENTRY, Mode::empty()) {
                Ok(entry) => entry,
                Err(Errno::NOENT) if of_link => {
                    let text = format!("a symbolic link leads to {}, which does not exist", path.display());
                    return Err(io::Error::new(io::ErrorKind::NotFound, text));
                }
                Err(Errno::NOENT) => {
                    walked.missing.push(name);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let stat = rustix::fs::fstat(&entry)?;
            let here = walked.path.join(&name);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => (walked.handle, walked.path) = (entry, here),
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    check_owner(&here, stat.st_uid)?;
                    let target = rustix::fs::readlinkat(&entry, c"", Vec::new())?;
                    push_front(&mut pending, Path::new(OsStr::from_bytes(target.to_bytes())), true);
                }
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
    }
    walked.handle = again(&walked.handle)?;
    Ok(walked)
}

/// As [`walk`], where all of the way must exist.
pub(super) fn open_named(path: &Path) -> io::Result<Walked> {
    let walked = walk(path)?;
    if walked.missing.is_empty() { Ok(walked) } else { Err(Errno::NOENT.into()) }
}

fn check_owner(link: &Path, owner: u32) -> io::Result<()> {
    if owner == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let text = format!(
        "{} is a symbolic link of user {owner}, who could lead it elsewhere; name the folder that is meant",
        link.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn slash() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(c"/", flags, Mode::empty())?)
}

/// Opens a path that has been walked before: no link is in it, or it has changed.
fn down(path: &Path) -> io::Result<OwnedFd> {
    let mut at = slash()?;
    let flags = ENTRY | OFlags::DIRECTORY;
    for component in path.components().filter(|component| *component != Component::RootDir) {
        at = rustix::fs::openat(&at, component.as_os_str(), flags, Mode::empty())?;
    }
    Ok(at)
}

fn push_front(pending: &mut VecDeque<(OsString, bool)>, path: &Path, of_link: bool) {
    for component in path.components().rev().filter(|component| *component != Component::CurDir) {
        pending.push_front((OsString::from_vec(component.as_os_str().as_bytes().to_vec()), of_link));
    }
}

#[cfg(test)]
#[path = "handles_tests.rs"]
mod tests;
