//! Folders whose files are read from where they are held: names from there, and what else is in the folder.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::names::{Limits, NamePages};
use crate::sources::{Content, Opened, ReadError, Stamp};

/// The names of a folder and of what is held of it, in one rising order.
pub(super) struct HeldNames {
    pub(super) folder: Arc<OwnedFd>,
    held: NamePages,
    live: NamePages,
    next: [Option<Option<Box<CStr>>>; 2],
}

impl HeldNames {
    pub(super) fn new(folder: Arc<OwnedFd>) -> Self {
        Self { folder, held: NamePages::new(), live: NamePages::new(), next: [None, None] }
    }

    /// The next name, and true if it is held.
    pub(super) fn next(
        &mut self,
        live: &OwnedFd,
        limits: Limits,
    ) -> Result<Option<(Box<CStr>, bool)>, Errno> {
        let [held_next, live_next] = &mut self.next;
        if held_next.is_none() {
            *held_next = Some(self.held.next(&self.folder, limits)?);
        }
        if live_next.is_none() {
            *live_next = Some(self.live.next(live, limits)?);
        }
        let (held, live) = (held_next.clone().flatten(), live_next.clone().flatten());
        Ok(match (held, live) {
            (Some(held), Some(live)) if live < held => {
                *live_next = None;
                Some((live, false))
            }
            (Some(held), live) => {
                if live.as_deref() == Some(&*held) {
                    *live_next = None;
                }
                *held_next = None;
                Some((held, true))
            }
            (None, Some(live)) => {
                *live_next = None;
                Some((live, false))
            }
            (None, None) => None,
        })
    }
}

/// The stamp of a file that is held. A link that is made or taken away changes the last of its times, and
/// tells nothing of its content: nobody but its writer, who only appends, has had it.
pub(super) fn held_stamp(stamp: Stamp) -> Stamp {
    Stamp { ctime: stamp.mtime, ..stamp }
}

/// The content of a file that is held: what it has when it is opened. It may grow meanwhile.
pub(super) struct HeldContent<C> {
    inner: C,
    opened: Option<Stamp>,
}

impl<C: Content> HeldContent<C> {
    pub(super) fn new(inner: C) -> Self {
        Self { inner, opened: None }
    }
}

impl<C: Content> Content for HeldContent<C> {
    fn open(&mut self) -> Result<Opened, ReadError> {
        let opened = self.inner.open()?;
        let stamp = held_stamp(opened.stamp);
        self.opened = Some(stamp);
        Ok(Opened { stamp, ..opened })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.inner.read(buffer)
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        let closed = held_stamp(self.inner.close()?);
        // One that became shorter is not what it was taken for.
        Ok(self.opened.take().filter(|opened| opened.size <= closed.size).unwrap_or(closed))
    }
}
