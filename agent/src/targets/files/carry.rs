//! The way of what stays live through a swap: it is moved into the staged folder before that takes the live one's
//! place, by the journal as all else, and back before an undo ends.
//!
//! Must stay true: where an entry stands is read from the disk, so that both directions may be repeated from any
//! point; what cannot go back is kept beside the old state, and never removed with what was staged.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::path::EntryPath;

use super::area::Area;
use super::disk::{Disk, Subject};
use super::handles::{Mounts, kind_of, open_below, open_folder};
use super::late::folder_at;
use crate::sources::files::metadata::mtime;

/// One entry that stays.
pub(super) struct Carry<'a> {
    pub(super) disk: &'a Disk<'a>,
    pub(super) area: &'a Area,
    pub(super) path: &'a EntryPath,
}

impl Carry<'_> {
    /// Into the staged folder, before that takes the live one's place. What lies at the top is not moved.
    pub(super) fn along(&self) -> io::Result<()> {
        let (Some(live), Some(new)) = (self.parent(&self.area.root)?, self.parent(&self.area.new_folder()?)?)
        else {
            return Ok(());
        };
        self.rename(&live, &new)
    }

    /// Out of the staged folder, once the live one is back in its place.
    pub(super) fn back(&self) -> io::Result<()> {
        let new = match self.area.new_folder() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            new => new?,
        };
        let Some(new) = self.parent_if_there(&new)? else { return Ok(()) };
        match self.parent_if_there(&self.area.root)? {
            Some(live) => self.rename(&new, &live)?,
            None => tracing::warn!(
                path = %self.path,
                "not moved back: the folder that it lay in is gone, or something is mounted there"
            ),
        }
        // What could not go back is kept beside the old state, since what is staged is removed.
        let name = self.path.name().unwrap_or_default();
        if kind_of(&new, name)?.is_none() {
            return Ok(());
        }
        let mut late = open_folder(&self.area.staging, b"late")?;
        for name in self.path.parent().unwrap_or_default().names() {
            late = match open_folder(&late, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.disk.make_folder(&late, name)?
                }
                other => other?,
            };
        }
        self.rename(&new, &late)
    }

    /// True if it is still in what was staged, or nobody can see whether it is.
    pub(super) fn is_left(&self) -> bool {
        let name = self.path.name().unwrap_or_default();
        let new = match self.area.new_folder() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            new => new.and_then(|new| self.parent_if_there(&new)),
        };
        let is_there = |new: Option<OwnedFd>| new.map_or(Ok(false), |new| Ok(kind_of(&new, name)?.is_some()));
        new.and_then(is_there).unwrap_or(true)
    }

    /// As [`Carry::parent`], where whatever was put there meanwhile is no folder of ours.
    fn parent_if_there(&self, root: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        match self.path.parent().filter(|parent| !parent.is_root()) {
            Some(parent) => folder_at(root, &parent),
            None => Ok(None),
        }
    }

    /// The folder that it lies in, below `root`; none: it lies at the top, or there is no such folder.
    fn parent(&self, root: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        let Some(parent) = self.path.parent().filter(|parent| !parent.is_root()) else { return Ok(None) };
        match open_below(root, &parent, Mounts::Refused) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves it, unless it is not there, or is there already. The folders keep their times.
    fn rename(&self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        let name = self.path.name().unwrap_or_default();
        if kind_of(from, name)?.is_none() || kind_of(to, name)?.is_some() {
            return Ok(());
        }
        let times = [rustix::fs::fstat(from)?, rustix::fs::fstat(to)?].map(|stat| mtime(&stat));
        self.disk.move_to(from, to, name)?;
        for (folder, time) in [from, to].into_iter().zip(times) {
            // Of a folder of another user's it may not be ours to set.
            if let Err(error) = self.disk.set_mtime(Subject::Handle(folder.as_fd()), time) {
                tracing::debug!(path = %self.path, %error, "the folder's time is that of its last change");
            }
        }
        Ok(())
    }
}
