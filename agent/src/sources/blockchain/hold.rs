//! The folder of links and copies: `.neurashield-hold-<chance>` in the source, one folder in it for each that
//! is held, or a snapshot of all.
//!
//! Must stay true: it is locked as long as somebody reads from it, and only who has the lock removes it; what
//! is removed is looked for in it and nowhere else, and through no link.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, RawDir, SeekFrom, Timestamps, Uid};
use rustix::io::Errno;

use super::snapshot;

const PREFIX: &str = ".neurashield-hold-";
/// Shorter files share no blocks.
pub(super) const SHARED_FROM: u64 = 4 << 20;
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// True for the name of a folder of links.
pub(crate) fn is_hold(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// A folder of which the files are read from where they are held.
#[derive(Debug, Clone)]
pub(crate) enum HeldFolder {
    /// There.
    Open(Arc<OwnedFd>),
    /// In this folder, under this name: of those that are too many to be open all at once.
    Named(Arc<OwnedFd>, Box<CStr>),
}

impl HeldFolder {
    pub(crate) fn open(&self) -> rustix::io::Result<Arc<OwnedFd>> {
        match self {
            Self::Open(folder) => Ok(Arc::clone(folder)),
            Self::Named(above, name) => {
                rustix::fs::openat(above, &**name, FOLDER, Mode::empty()).map(Arc::new)
            }
        }
    }
}

/// A folder of links and copies; it goes with this.
pub(in crate::sources) struct Hold {
    root: OwnedFd,
    name: CString,
    /// Open for as long as it is locked.
    folder: OwnedFd,
    folders: AtomicU32,
}

impl Hold {
    pub(in crate::sources) fn make(root: &OwnedFd) -> io::Result<Self> {
        let root = rustix::fs::openat(root, c".", FOLDER, Mode::empty())?;
        let name = format!("{PREFIX}{:016x}", crate::chance());
        let name = CString::new(name).expect("a number has no NUL");
        rustix::fs::mkdirat(&root, &*name, Mode::RWXU)?;
        let locked = rustix::fs::openat(&root, &*name, FOLDER, Mode::empty()).and_then(|folder| {
            rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
            Ok(folder)
        });
        match locked {
            Ok(folder) => Ok(Self { root, name, folder, folders: AtomicU32::new(0) }),
            Err(error) => {
                let _ = rustix::fs::unlinkat(&root, &*name, AtFlags::REMOVEDIR);
                Err(error.into())
            }
        }
    }

    /// An empty folder in it.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        Ok(self.named_folder()?.1)
    }

    /// An empty folder in it, with its name.
    pub(in crate::sources) fn named_folder(&self) -> io::Result<(CString, OwnedFd)> {
        let name = self.folders.fetch_add(1, Ordering::Relaxed).to_string();
        let name = CString::new(name).expect("a number has no NUL");
        rustix::fs::mkdirat(&self.folder, &*name, Mode::RWXU)?;
        let folder = rustix::fs::openat(&self.folder, &*name, FOLDER, Mode::empty())?;
        Ok((name, folder))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.folder
    }

    /// It is open for as long as this is, too.
    pub(in crate::sources) fn handle(&self) -> io::Result<OwnedFd> {
        self.folder.try_clone()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.root, &self.name, &self.folder) {
            tracing::warn!(%error, "what was held in a source's folder stays there until the agent's next start");
        }
    }
}

/// Removes what an earlier process has left in `root`; what another process holds stays.
pub(crate) fn reap(root: &Path) {
    let opened = rustix::fs::open(root, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty());
    let listed = opened.map_err(io::Error::from).and_then(|root| Ok((names(root.as_fd())?, root)));
    let (names, root_folder) = match listed {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(folder = %root.display(), %error, "cannot look for links of an earlier backup");
            return;
        }
    };
    for name in names.iter().filter(|name| is_hold(name.to_bytes())) {
        let shown = name.to_string_lossy();
        match reap_one(&root_folder, name) {
            Ok(true) => {
                tracing::info!(name = %shown, "removed what an earlier backup has left in the folder")
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(folder = %root.display(), name = %shown, %error, "what an earlier backup has left cannot be removed");
            }
        }
    }
}

/// Removes the snapshots that nobody holds any more; of those that stay, why. They pin what the engine frees.
pub(super) fn reap_snapshots(root: &OwnedFd) -> io::Result<Vec<io::Error>> {
    let mut stay = Vec::new();
    for name in names(root.as_fd())?.iter().filter(|name| is_hold(name.to_bytes())) {
        let folder = match rustix::fs::openat(root, &**name, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        if names(folder.as_fd())?.iter().any(|part| snapshot::is_subvolume(&folder, part)) {
            stay.extend(reap_one(root, name).err());
        }
    }
    Ok(stay)
}

/// False if it is held.
fn reap_one(root: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let folder = rustix::fs::openat(root, name, FOLDER, Mode::empty())?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        other => other?,
    }
    remove(root, name, &folder)?;
    Ok(true)
}

fn remove(root: &OwnedFd, name: &CStr, folder: &OwnedFd) -> io::Result<()> {
    for part in names(folder.as_fd())? {
        if snapshot::is_subvolume(folder, &part) {
            snapshot::remove(folder, &part)?;
            continue;
        }
        let below = rustix::fs::openat(folder, &*part, FOLDER, Mode::empty())?;
        for file in names(below.as_fd())? {
            rustix::fs::unlinkat(&below, &*file, AtFlags::empty())?;
        }
        rustix::fs::unlinkat(folder, &*part, AtFlags::REMOVEDIR)?;
    }
    Ok(rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR)?)
}

/// The names in a folder as they are now, sorted.
pub(in crate::sources) fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    rustix::fs::seek(folder, SeekFrom::Start(0))?;
    let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
    let mut listing = RawDir::new(folder, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Links `name`; false if it is not there any more.
pub(in crate::sources) fn link(live: &OwnedFd, held: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match rustix::fs::linkat(live, name, held, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::EXIST) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Copies `name` as it is now, up to `limit` bytes, in place of an earlier copy; false if it is not there any
/// more. Owner, mode and time are the original's. Where the file system can share blocks, it shares them, and a file
/// may be as long as it likes; else one of more than `most` bytes is refused.
pub(super) fn copy(
    live: &OwnedFd,
    held: &OwnedFd,
    name: &CStr,
    limit: Option<u64>,
    most: u64,
) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = match rustix::fs::openat(live, name, flags, Mode::empty()) {
        Ok(from) => from,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    forget(held, name)?;
    let stat = rustix::fs::fstat(&from)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(held, name, flags, Mode::RUSR | Mode::WUSR)?;
    // What was just written has to reach the disk first: a short file is copied faster.
    let may_share = stat.st_size as u64 >= SHARED_FROM;
    if may_share && rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        if let Some(limit) =
            limit.filter(|limit| rustix::fs::fstat(&to).is_ok_and(|of| of.st_size as u64 > *limit))
        {
            rustix::fs::ftruncate(&to, limit)?;
        }
    } else if stat.st_size as u64 > most {
        let (shown, bytes) = (name.to_string_lossy(), stat.st_size);
        return Err(io::Error::other(format!(
            "{shown} has {bytes} bytes, too many to be copied where blocks cannot be shared"
        )));
    } else {
        let mut to = File::from(to.try_clone()?);
        io::copy(&mut File::from(from).take(limit.unwrap_or(u64::MAX)), &mut to)?;
    }
    let new = rustix::fs::fstat(&to)?;
    if (new.st_uid, new.st_gid) != (stat.st_uid, stat.st_gid) {
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(&to, Some(owner.0), Some(owner.1))?;
    }
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    let time = rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    rustix::fs::futimens(&to, &Timestamps { last_access: time, last_modification: time })?;
    Ok(true)
}

/// Removes a copy.
pub(super) fn forget(held: &OwnedFd, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(held, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// True if `name` is a regular file.
pub(in crate::sources) fn is_file(folder: &OwnedFd, name: &CStr) -> bool {
    use rustix::fs::FileType;
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_left_is_reaped_and_what_another_holds_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("000001.ldb"), "table").expect("written");
        let left = folder.path().join(".neurashield-hold-left/0");
        std::fs::create_dir_all(&left).expect("made");
        std::fs::hard_link(folder.path().join("000001.ldb"), left.join("000001.ldb")).expect("linked");
        let root: OwnedFd = File::open(folder.path()).expect("opened").into();
        let hold = Hold::make(&root).expect("held");
        link(&root, &hold.folder().expect("a folder"), c"000001.ldb").expect("linked");
        reap(folder.path());
        let left = || names(root.as_fd()).expect("listed");
        assert_eq!(left(), [hold.name.clone(), c"000001.ldb".to_owned()]);
        drop(hold);
        assert_eq!(left(), [c"000001.ldb".to_owned()]);
        assert_eq!(std::fs::read(folder.path().join("000001.ldb")).expect("read"), b"table");
    }
}
