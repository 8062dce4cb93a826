//! Reads the content of one regular file.
//!
//! The name may have come to mean something else since it was listed: it is opened without following a
//! link and without waiting for anybody (a fifo would), and is then asked what it is.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use repository::archive::entry::{Extent, Layout, MAX_EXTENTS};
use rustix::fs::{Advice, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::metadata::stamp;
use crate::sources::{Content, Opened, ReadError, Stamp};

/// Smaller files are read in one go; telling the kernel how would cost more than it saves.
const WORTH_ADVICE: u64 = 1 << 20;

/// A regular file by its folder's handle and its name.
pub(super) struct FileReader {
    folder: Arc<OwnedFd>,
    name: Box<CStr>,
    listed: (u64, u64),
    open: Option<OpenFile>,
}

struct OpenFile {
    file: OwnedFd,
    /// Still to be read, the last one first.
    extents: Vec<Extent>,
}

impl FileReader {
    /// The file `name` in `folder`, which was `listed` a moment ago.
    pub(super) fn new(folder: Arc<OwnedFd>, name: Box<CStr>, listed: &Stat) -> Self {
        Self { folder, name, listed: identity(listed), open: None }
    }

    fn opened(&mut self) -> &mut OpenFile {
        self.open.as_mut().expect("a content is opened before it is read")
    }
}

impl Content for FileReader {
    fn open(&mut self) -> Result<Opened, ReadError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open_quietly(self.folder.as_fd(), &self.name, flags).map_err(not_opened)?;
        let stat = rustix::fs::fstat(&file).map_err(not_read)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || identity(&stat) != self.listed {
            let source = io::Error::other("another file has its name now");
            return Err(ReadError { vanished: true, source });
        }
        let stamp = stamp(&stat);
        if stamp.size > WORTH_ADVICE {
            // Only advice: a file system that knows none reads as well.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        }
        let layout = layout(&file, stamp.size).map_err(not_read)?;
        let mut extents = layout.extents(stamp.size);
        extents.reverse();
        self.open = Some(OpenFile { file, extents });
        Ok(Opened { stamp, layout, is_stream: false })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let OpenFile { file, extents } = self.opened();
        let mut filled = 0;
        while filled < buffer.len()
            && let Some(extent) = extents.last_mut()
        {
            let room = (buffer.len() - filled) as u64;
            let want = filled + usize::try_from(extent.length.min(room)).expect("it fits into the buffer");
            let into = &mut buffer[filled..want];
            let count = rustix::io::retry_on_intr(|| rustix::io::pread(&*file, &mut *into, extent.offset))
                .map_err(not_read)?;
            if count == 0 {
                // The file has shrunk; the caller sees it by the length and by the stamp.
                extents.clear();
                break;
            }
            filled += count;
            extent.offset += count as u64;
            extent.length -= count as u64;
            if extent.length == 0 {
                extents.pop();
            }
        }
        Ok(filled)
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        let OpenFile { file, .. } = self.open.take().expect("a content is opened before it is closed");
        Ok(stamp(&rustix::fs::fstat(&file).map_err(not_read)?))
    }
}

/// Opens `name` in `folder` without leaving a trace in its access time where we own it or may act as if.
pub(super) fn open_quietly(
    folder: std::os::fd::BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(folder, name, flags, Mode::empty()),
        other => other,
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Where the file has data. One whose map cannot be had, or has too many parts, is read as dense: its
/// holes are then zeros.
fn layout(file: &OwnedFd, size: u64) -> Result<Layout, Errno> {
    // How many blocks it has does not tell: those of its attributes count, too.
    match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(hole) if hole < size => {}
        Ok(_) | Err(Errno::NXIO | Errno::INVAL) => return Ok(Layout::Dense),
        Err(error) => return Err(error),
    }
    let mut extents: Vec<Extent> = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(Layout::Dense),
            Err(error) => return Err(error),
        };
        if start >= size {
            break;
        }
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            // Cut off between the two calls; the stamp tells.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        match extents.last_mut() {
            Some(last) if last.offset + last.length == start => last.length = end - last.offset,
            _ => extents.push(Extent { offset: start, length: end - start }),
        }
        if extents.len() > MAX_EXTENTS || end <= start {
            return Ok(Layout::Dense);
        }
        position = end;
    }
    let whole = Extent { offset: 0, length: size };
    Ok(if extents == [whole] { Layout::Dense } else { Layout::Sparse(extents) })
}

fn not_opened(error: Errno) -> ReadError {
    // A link (LOOP), a socket (NXIO) or a folder on the way (NOTDIR) has the name now.
    // STALE is none of these: a network file system that lost its handles says it of files that are there.
    let gone = [Errno::NOENT, Errno::LOOP, Errno::NXIO, Errno::NOTDIR];
    ReadError { vanished: gone.contains(&error), source: error.into() }
}

fn not_read(error: Errno) -> ReadError {
    ReadError { vanished: false, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_is_a_file_that_cannot_be_read_and_not_one_that_vanished() {
        assert!(!not_opened(Errno::STALE).vanished);
        assert!(not_opened(Errno::NOENT).vanished);
    }
}
