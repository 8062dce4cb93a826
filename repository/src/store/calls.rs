//! Every call by which a local repository changes its file system, and nothing else.
//!
//! Must stay true: no other module of the store creates, writes, syncs, links, renames or removes. So a
//! test can see each change in its order ([`watch`]), and what a power cut may leave can be worked out
//! from that record (`repository/tests/cuts/`). A program that is not a test has no watcher in it: each function is
//! then the one system call that it names.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

#[cfg(any(test, feature = "testing"))]
pub mod watch;

/// One change that is about to be made.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// A new, empty file.
    CreateFile {
        /// Where.
        folder: BorrowedFd<'a>,
        /// Its name there.
        name: &'a [u8],
    },
    /// Bytes at the end of a file.
    Append {
        /// Which.
        file: BorrowedFd<'a>,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The content of a file becomes durable.
    SyncFile {
        /// Which.
        file: BorrowedFd<'a>,
    },
    /// The names in a folder become durable.
    SyncFolder {
        /// Which.
        folder: BorrowedFd<'a>,
    },
    /// A new, empty folder.
    MakeFolder {
        /// Where.
        parent: BorrowedFd<'a>,
        /// Its name there.
        name: &'a [u8],
    },
    /// A file or a folder gets another name.
    Rename {
        /// From where.
        from: BorrowedFd<'a>,
        /// Its name there.
        from_name: &'a [u8],
        /// To where.
        to: BorrowedFd<'a>,
        /// Its name there.
        to_name: &'a [u8],
        /// Whether a name that is taken is refused.
        to_free: bool,
    },
    /// A file gets a second name, which must be free.
    Link {
        /// Where it has its first name.
        from: BorrowedFd<'a>,
        /// The first name.
        from_name: &'a [u8],
        /// Where it gets its second.
        to: BorrowedFd<'a>,
        /// The second name.
        to_name: &'a [u8],
    },
    /// A name of a file goes, or an empty folder.
    Remove {
        /// From where.
        folder: BorrowedFd<'a>,
        /// The name.
        name: &'a [u8],
    },
}

/// Without a watcher a call is just made.
#[cfg(not(any(test, feature = "testing")))]
mod watch {
    use std::io;

    use super::Call;

    pub(super) fn seen<T>(_: Call<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        act()
    }

    pub(super) fn seen_sync(_: Call<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        act()
    }
}

use watch::{seen, seen_sync};

/// Objects are sealed, but whose they are and when they were made is nobody else's to read.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FOLDER_MODE: Mode = Mode::RWXU;

pub(super) fn create_file(folder: &OwnedFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    seen(Call::CreateFile { folder: folder.as_fd(), name }, || {
        Ok(File::from(rustix::fs::openat(folder, name, flags, FILE_MODE)?))
    })
}

pub(super) fn append(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    seen(Call::Append { file: file.as_fd(), bytes }, || file.write_all(bytes))
}

pub(super) fn sync_file(file: &File) -> io::Result<()> {
    seen_sync(Call::SyncFile { file: file.as_fd() }, || Ok(rustix::fs::fsync(file)?))
}

pub(super) fn sync_folder(folder: &OwnedFd) -> io::Result<()> {
    seen_sync(Call::SyncFolder { folder: folder.as_fd() }, || Ok(rustix::fs::fsync(folder)?))
}

pub(super) fn make_folder(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    seen(Call::MakeFolder { parent: parent.as_fd(), name }, || {
        Ok(rustix::fs::mkdirat(parent, name, FOLDER_MODE)?)
    })
}

/// Whatever has the name makes way, as far as `rename(2)` lets it.
pub(super) fn rename(from: &OwnedFd, from_name: &[u8], to: &OwnedFd, to_name: &[u8]) -> io::Result<()> {
    let call = Call::Rename { from: from.as_fd(), from_name, to: to.as_fd(), to_name, to_free: false };
    seen(call, || Ok(rustix::fs::renameat(from, from_name, to, to_name)?))
}

/// A name that is taken is refused (`EEXIST`).
pub(super) fn rename_to_free(
    from: &OwnedFd,
    from_name: &[u8],
    to: &OwnedFd,
    to_name: &[u8],
) -> io::Result<()> {
    let call = Call::Rename { from: from.as_fd(), from_name, to: to.as_fd(), to_name, to_free: true };
    seen(call, || Ok(rustix::fs::renameat_with(from, from_name, to, to_name, RenameFlags::NOREPLACE)?))
}

pub(super) fn link(from: &OwnedFd, from_name: &[u8], to: &OwnedFd, to_name: &[u8]) -> io::Result<()> {
    let call = Call::Link { from: from.as_fd(), from_name, to: to.as_fd(), to_name };
    seen(call, || Ok(rustix::fs::linkat(from, from_name, to, to_name, AtFlags::empty())?))
}

pub(super) fn remove_file(folder: &OwnedFd, name: &[u8]) -> io::Result<()> {
    remove(folder, name, AtFlags::empty())
}

pub(super) fn remove_folder(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    remove(parent, name, AtFlags::REMOVEDIR)
}

fn remove(folder: &OwnedFd, name: &[u8], flags: AtFlags) -> io::Result<()> {
    seen(Call::Remove { folder: folder.as_fd(), name }, || Ok(rustix::fs::unlinkat(folder, name, flags)?))
}
