//! The one place in which a restore changes a file system.
//!
//! Every change is relative to the handle of a folder, by a single name, and follows no link. Before
//! each, [`Steps`] is asked: tests let any single one fail, or all from one on, as a crash would.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::fs::{Gid, Uid, XattrFlags};
use rustix::io::Errno;

use repository::archive::entry::Timestamp;
use runtime::steps;

use super::handles::{open_entry, open_folder, open_in};
use crate::sources::files::metadata::handle_path;
use crate::steps::Step;

/// Is asked before each change of the file system; an error takes the place of the change.
pub trait Steps {
    /// `what` comes next, e.g. `rename`.
    fn before(&self, what: &'static str) -> io::Result<()>;

    /// A step of a restore is done; an error stands for the failure of what follows.
    fn done(&self, _step: Step) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing is made to fail, unless a test of the built programs holds a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct InProduction;

impl Steps for InProduction {
    fn before(&self, _what: &'static str) -> io::Result<()> {
        Ok(())
    }

    fn done(&self, step: Step) -> io::Result<()> {
        steps::try_reach(step)
    }
}

/// Nothing is ever made to fail.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFaults;

impl Steps for NoFaults {
    fn before(&self, _what: &'static str) -> io::Result<()> {
        Ok(())
    }
}

/// The changes that a restore makes.
#[derive(Clone, Copy)]
pub(super) struct Disk<'a> {
    steps: &'a dyn Steps,
}

impl<'a> Disk<'a> {
    pub(super) fn new(steps: &'a dyn Steps) -> Self {
        Self { steps }
    }

    /// A step of the restore is done.
    pub(super) fn done(&self, step: Step) -> io::Result<()> {
        self.steps.done(step)
    }

    /// The same of a step after which the restore can no longer fail.
    pub(super) fn over(&self, step: Step) {
        if let Err(error) = self.steps.done(step) {
            tracing::warn!(%error, "the restore goes on");
        }
    }

    /// Makes the folder `name`, ours alone (0700), and opens it. It must not exist.
    pub(super) fn make_folder(&self, folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
        self.steps.before("make a folder")?;
        rustix::fs::mkdirat(&folder, name, Mode::RWXU)?;
        self.open_made(folder, name, 0o077)
    }

    /// Makes a folder on the way to a new one, as anybody's would be made, and opens it. One of ours that
    /// has turned up meanwhile will do.
    pub(super) fn make_way(&self, folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
        self.steps.before("make a folder")?;
        let usual = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        match rustix::fs::mkdirat(&folder, name, usual) {
            Ok(()) | Err(Errno::EXIST) => self.open_made(folder, name, 0),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a folder that was just made. Whoever owns the folder above can put another one there before it
    /// is opened: it must be ours, with no bit of `others` in its mode.
    fn open_made(&self, folder: impl AsFd, name: &[u8], others: u32) -> io::Result<OwnedFd> {
        self.steps.before("open the made folder")?;
        let made = open_folder(folder, name)?;
        let stat = rustix::fs::fstat(&made)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & others != 0 {
            let text = "it is not ours alone: somebody put another folder there, or the file system keeps no owners and modes";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(made)
    }

    /// Makes the file `name`, ours alone (0600). It must not exist.
    pub(super) fn make_file(&self, folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
        self.steps.before("make a file")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_in(folder, name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Makes the symbolic link `name`.
    pub(super) fn make_symlink(&self, folder: impl AsFd, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.steps.before("make a link")?;
        Ok(rustix::fs::symlinkat(target, folder, name)?)
    }

    /// Makes a fifo or a device.
    pub(super) fn make_special(
        &self,
        folder: impl AsFd,
        name: &[u8],
        kind: FileType,
        device: u64,
    ) -> io::Result<()> {
        self.steps.before("make a special file")?;
        Ok(rustix::fs::mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, device)?)
    }

    /// Gives what is `name` in `folder` (no folder itself) the further name `to_name` in `to`.
    pub(super) fn link(
        &self,
        folder: impl AsFd,
        name: &[u8],
        to: impl AsFd,
        to_name: &[u8],
    ) -> io::Result<()> {
        self.steps.before("link")?;
        Ok(rustix::fs::linkat(folder, name, to, to_name, AtFlags::empty())?)
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, file: impl AsFd, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.pen()?.write_at(file, bytes, offset)
    }

    /// For one write that is made by another thread.
    pub(super) fn pen(&self) -> io::Result<Pen> {
        self.steps.before("write")?;
        Ok(Pen(()))
    }

    /// Sets the file's length.
    pub(super) fn set_length(&self, file: impl AsFd, length: u64) -> io::Result<()> {
        self.steps.before("set a length")?;
        Ok(rustix::fs::ftruncate(file, length)?)
    }

    /// Makes one file durable.
    pub(super) fn sync(&self, file: impl AsFd) -> io::Result<()> {
        self.steps.before("sync")?;
        Ok(rustix::fs::fsync(file)?)
    }

    /// Makes the whole file system durable that `folder` lies in.
    pub(super) fn sync_all(&self, folder: impl AsFd) -> io::Result<()> {
        self.steps.before("sync all")?;
        Ok(rustix::fs::syncfs(folder)?)
    }

    /// Moves an entry to where there is none.
    pub(super) fn move_to(&self, folder: impl AsFd, to: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.steps.before("rename")?;
        match rename(folder.as_fd(), to.as_fd(), name) {
            // To get another parent, a folder has to be writable for whoever is not root.
            Err(Errno::ACCESS) => {
                let entry = open_entry(folder.as_fd(), name)?;
                let stat = rustix::fs::fstat(&entry)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(Errno::ACCESS.into());
                }
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                set_mode(&entry, mode | Mode::RWXU)?;
                let moved = rename(folder.as_fd(), to.as_fd(), name);
                set_mode(&entry, mode)?;
                Ok(moved?)
            }
            other => Ok(other?),
        }
    }

    /// Gives the entry `name` of `folder` the name `to`, which there is not.
    pub(super) fn rename(&self, folder: impl AsFd, name: &[u8], to: &[u8]) -> io::Result<()> {
        self.steps.before("rename")?;
        Ok(rustix::fs::renameat_with(&folder, name, &folder, to, RenameFlags::NOREPLACE)
            // Our own folder, in which nobody else makes one.
            .or_else(|error| match error {
                Errno::INVAL | Errno::NOSYS | Errno::NOTSUP => {
                    rustix::fs::renameat(&folder, name, &folder, to)
                }
                error => Err(error),
            })?)
    }

    /// Removes an entry that is no folder.
    pub(super) fn unlink(&self, folder: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.steps.before("remove")?;
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?)
    }

    /// Removes an empty folder.
    pub(super) fn remove_folder(&self, folder: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.steps.before("remove a folder")?;
        Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
    }

    /// Sets owner and group of what is `name` in `folder`.
    pub(super) fn set_owner(
        &self,
        subject: Subject<'_>,
        owner: Option<u32>,
        group: Option<u32>,
    ) -> io::Result<()> {
        self.steps.before("set the owner")?;
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        match subject {
            Subject::Handle(handle) => rustix::fs::fchown(handle, owner, group)?,
            Subject::Name(folder, name) => {
                rustix::fs::chownat(folder, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }

    /// Sets the permission bits. A name must not be that of a link.
    pub(super) fn set_mode(&self, subject: Subject<'_>, mode: u32) -> io::Result<()> {
        self.steps.before("set the mode")?;
        let mode = Mode::from_raw_mode(mode);
        match subject {
            Subject::Handle(handle) => rustix::fs::fchmod(handle, mode)?,
            Subject::Name(folder, name) => set_mode(&open_entry(folder, name.to_bytes())?, mode)?,
        }
        Ok(())
    }

    /// Sets one extended attribute.
    pub(super) fn set_xattr(&self, subject: Subject<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.steps.before("set an attribute")?;
        let flags = XattrFlags::empty();
        match subject {
            Subject::Handle(handle) => rustix::fs::fsetxattr(handle, name, value, flags)?,
            Subject::Name(folder, entry) => {
                rustix::fs::lsetxattr(handle_path(folder, entry), name, value, flags)?;
            }
        }
        Ok(())
    }

    /// Takes one extended attribute away, if it is there.
    pub(super) fn remove_xattr(&self, handle: impl AsFd, name: &[u8]) -> io::Result<()> {
        self.steps.before("remove an attribute")?;
        match rustix::fs::fremovexattr(handle, name) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the time of the last change of content.
    pub(super) fn set_mtime(&self, subject: Subject<'_>, mtime: Timestamp) -> io::Result<()> {
        self.steps.before("set the time")?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
        };
        match subject {
            Subject::Handle(handle) => rustix::fs::futimens(handle, &times)?,
            Subject::Name(folder, name) => {
                rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }
}

/// A write that may be made.
pub(super) struct Pen(());

impl Pen {
    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, file: impl AsFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, bytes, offset))?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[count..];
            offset += count as u64;
        }
        Ok(())
    }
}

/// What gets metadata: an open file or folder, or a name, which is not followed.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    /// An open file or folder.
    Handle(BorrowedFd<'a>),
    /// An entry of an open folder.
    Name(BorrowedFd<'a>, &'a CStr),
}

fn rename(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // Not every file system can promise it; then look first.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, name),
                Err(error) => Err(error),
            }
        }
        other => other,
    }
}

/// Sets the mode of what a [`open_entry`] handle names, which must not be a link: the call that takes the
/// handle itself refuses such handles.
fn set_mode(entry: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", entry.as_raw_fd()), mode)
}
