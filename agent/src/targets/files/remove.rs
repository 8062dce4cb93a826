//! Removes a tree: staging that is not needed, and the old state of an earlier restore.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::disk::{Disk, Subject};
use super::handles::{again, kind_of, open_folder};
use crate::sources::files::names::{LIMITS, NamePages, keep_within};

/// The names in a folder, sorted, `.` and `..` left out. However many there are, a page of them is held.
pub(super) struct Names {
    /// A handle of its own: the position of a listing belongs to the open file.
    listing: OwnedFd,
    pages: NamePages,
}

impl Names {
    /// Those in the folder, which this takes; its position is nobody else's.
    pub(super) fn of(listing: OwnedFd) -> Self {
        Self { listing, pages: NamePages::new() }
    }

    /// The folder.
    pub(super) fn folder(&self) -> &OwnedFd {
        &self.listing
    }

    /// What it holds in memory.
    pub(super) fn pages(&mut self) -> &mut NamePages {
        &mut self.pages
    }
}

/// Names in `folder`.
pub(super) fn names_in(folder: impl AsFd) -> io::Result<Names> {
    again(folder).map(Names::of)
}

impl Iterator for Names {
    type Item = io::Result<Box<[u8]>>;

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.pages.next(&self.listing, LIMITS).map_err(io::Error::from).transpose()?;
        Some(name.map(|name| name.to_bytes().into()))
    }
}

/// Removes `name` in `folder`, and all below it if it is a folder. Nothing there is fine. What is mounted
/// below it is not ours to remove: an error, and it stays.
pub(super) fn remove_tree(disk: &Disk<'_>, folder: impl AsFd, name: &[u8]) -> io::Result<()> {
    match kind_of(&folder, name)? {
        None => return Ok(()),
        Some(FileType::Directory) => {}
        Some(_) => return disk.unlink(&folder, name),
    }
    // The folders from `name` down to where we are, each with what is still in it.
    let mut levels = vec![Level::open(disk, &folder, name)?];
    while let Some(level) = levels.last_mut() {
        match level.names.next().transpose()? {
            Some(below) => match kind_of(&level.handle, &below)? {
                None => {}
                Some(FileType::Directory) => {
                    let next = Level::open(disk, &level.handle, &below)?;
                    levels.push(next);
                    keep_within(LIMITS, levels.iter_mut().map(|level| &mut level.names.pages));
                }
                Some(_) => disk.unlink(&level.handle, &below)?,
            },
            None => {
                let emptied = levels.pop().expect("it was the last one").name;
                match levels.last() {
                    Some(above) => disk.remove_folder(&above.handle, &emptied)?,
                    None => disk.remove_folder(&folder, &emptied)?,
                }
            }
        }
    }
    Ok(())
}

struct Level {
    handle: OwnedFd,
    name: Box<[u8]>,
    names: Names,
}

impl Level {
    fn open(disk: &Disk<'_>, folder: impl AsFd, name: &[u8]) -> io::Result<Self> {
        let handle = match open_folder(&folder, name) {
            Err(error) if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
                let c_name = std::ffi::CString::new(name)?;
                disk.set_mode(Subject::Name(folder.as_fd(), &c_name), 0o700)?;
                open_folder(&folder, name)?
            }
            other => other?,
        };
        if !rustix::process::geteuid().is_root() {
            disk.set_mode(Subject::Handle(handle.as_fd()), 0o700)?;
        }
        let names = names_in(&handle)?;
        Ok(Self { handle, name: name.into(), names })
    }
}
