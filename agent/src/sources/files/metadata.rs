//! What `stat` and the extended attributes say of an entry.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use repository::archive::entry::{Metadata, Timestamp};
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::sources::Stamp;

/// The largest value, and the longest list of names, that Linux keeps.
const XATTR_LIMIT: usize = 65_536;

/// Reads extended attributes, into one buffer for all of them.
pub(crate) struct XattrReader {
    names: Box<[u8]>,
    value: Box<[u8]>,
}

/// The extended attributes that could be read, and the first cause why not all could.
pub(crate) type Xattrs = (Vec<(Vec<u8>, Vec<u8>)>, Option<Errno>);

impl XattrReader {
    pub(crate) fn new() -> Self {
        Self { names: vec![0; XATTR_LIMIT].into(), value: vec![0; XATTR_LIMIT].into() }
    }

    /// Those of the entry `name` in `folder` (`.` for the folder itself), names sorted. A symbolic link
    /// is not followed. A file system without extended attributes has none.
    pub(crate) fn read(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> Xattrs {
        let listed = runtime::xattr::list_at(folder, name, &mut self.names)
            .map(|listed| listed.map_err(Errno::from_raw_os_error));
        let path = || handle_path(folder, name);
        let listed = listed.unwrap_or_else(|| rustix::fs::llistxattr(path(), &mut self.names[..]));
        let length = match listed {
            Ok(0) => return (Vec::new(), None),
            Ok(length) => length,
            Err(Errno::NOTSUP | Errno::NOSYS) => return (Vec::new(), None),
            Err(error) => return (Vec::new(), Some(error)),
        };
        let (path, mut found, mut unread) = (path(), Vec::new(), None);
        for name in self.names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match rustix::fs::lgetxattr(&path, name, &mut self.value[..]) {
                Ok(length) => found.push((name.to_vec(), self.value[..length].to_vec())),
                Err(Errno::NODATA) => {}
                Err(error) => unread = unread.or(Some(error)),
            }
        }
        found.sort();
        (found, unread)
    }
}

/// A path to `name` in the open folder `folder`, for calls that know no handles: the kernel resolves the
/// first part to the open folder itself, wherever it lies by now.
pub(crate) fn handle_path(folder: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

/// Ownership, mode and time of `stat`, with `xattrs`.
pub(crate) fn metadata(stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Metadata {
    Metadata { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime: mtime(stat), xattrs }
}

/// What tells one state of the file from another.
#[allow(clippy::unnecessary_cast, reason = "the width of a field of `stat` differs by architecture")]
pub(crate) fn stamp(stat: &Stat) -> Stamp {
    Stamp {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).expect("no file is shorter than nothing"),
        mtime: mtime(stat),
        ctime: timestamp(stat.st_ctime, stat.st_ctime_nsec as u64),
    }
}

/// Last change of the content.
#[allow(clippy::unnecessary_cast, reason = "the width of a field of `stat` differs by architecture")]
pub(crate) fn mtime(stat: &Stat) -> Timestamp {
    timestamp(stat.st_mtime, stat.st_mtime_nsec as u64)
}

fn timestamp(seconds: i64, nanoseconds: u64) -> Timestamp {
    let nanoseconds = u32::try_from(nanoseconds).expect("a second has fewer nanoseconds than a u32");
    Timestamp { seconds, nanoseconds }
}
