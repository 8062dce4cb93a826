//! Files that are about to be cloned are written out before anybody is held: a clone waits for what is not on the disk
//! yet, and with a slow disk and a long log that would take longer than a pause may.
//!
//! Must stay true: nobody waits for it but us, and where it cannot be done, the clone does it.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::bracket;
use super::hold::{SHARED_FROM, names};

/// Writes out those files of `live` that are long enough to be cloned into `held`, if that can be.
pub(super) fn write_out(live: &OwnedFd, held: &OwnedFd) {
    if !shares_blocks(held) {
        return;
    }
    for name in names(live.as_fd()).unwrap_or_default().iter().filter(|name| !is_linked(name)) {
        let stat = rustix::fs::statat(live, &**name, AtFlags::SYMLINK_NOFOLLOW);
        let is_long = stat.is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_size as u64 >= SHARED_FROM
        });
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if is_long && let Ok(file) = rustix::fs::openat(live, &**name, flags, Mode::empty()) {
            // Who writes it learns of an error on its own handle.
            let _ = rustix::fs::fdatasync(&file);
        }
    }
}

/// A table of a store or the data of a freezer.
fn is_linked(name: &CStr) -> bool {
    bracket::is_table(name) || [&b".cdat"[..], b".rdat"].iter().any(|end| name.to_bytes().ends_with(end))
}

/// True if an empty file can be the clone of another.
fn shares_blocks(folder: &OwnedFd) -> bool {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let empty = || rustix::fs::openat(folder, ".", flags, Mode::RUSR | Mode::WUSR);
    matches!((empty(), empty()), (Ok(from), Ok(to)) if rustix::fs::ioctl_ficlone(&to, &from).is_ok())
}
