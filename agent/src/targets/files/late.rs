//! What is looked at once nobody writes any more: a plan may be hours old by then.
//!
//! Must stay true: what the source leaves out is found by its rules, and never by a list of before; a folder goes
//! for an undo only while it holds nothing but what its patterns name.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::handles::{Mounts, kind_of, open_below, open_folder};
use super::remove::Names;
use super::request::Selection;
use crate::sources::files::Rules;
use crate::sources::files::names::{LIMITS, keep_within};

/// So many are carried through a swap, while programs stand: each is a rename, and a line of the journal.
pub(super) const MAX_CARRIED: u64 = 100_000;

/// A folder that is about to be replaced, and what takes its place.
struct Pair {
    path: EntryPath,
    names: Names,
    /// Nothing that is in it is in a backup but this name.
    only: Option<&'static [u8]>,
    to: OwnedFd,
}

impl Pair {
    fn new(path: EntryPath, from: OwnedFd, to: OwnedFd, rules: &Rules) -> Self {
        Self { path, only: rules.closes(from.as_fd()), names: Names::of(from), to }
    }
}

/// Tells what the rules leave out below `path` in the folder `from` and is not there in the folder `to`, in path
/// order, as far down as both have the folders: that is what is carried from one to the other.
pub(super) fn left_out(
    rules: &Rules,
    path: &EntryPath,
    (from, to): (&OwnedFd, &OwnedFd),
    tell: &mut dyn FnMut(EntryPath),
) -> io::Result<()> {
    // Of a million files that are swapped one by one none is opened. A repository, or our own state, is not carried:
    // the plan has refused it.
    if rules.is_plain()
        || (path.names().count() == 1 && kind_of(to, path.as_bytes())? != Some(FileType::Directory))
    {
        return Ok(());
    }
    let (Some(from), Some(to)) = (folder_at(from, path)?, folder_at(to, path)?) else { return Ok(()) };
    let mut levels = vec![Pair::new(path.clone(), from, to, rules)];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next().transpose()? else {
            levels.pop();
            continue;
        };
        let (folder, Ok(path)) = (level.names.folder(), level.path.join(&name)) else { continue };
        let stat = match rustix::fs::statat(folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        if level.only.is_some_and(|only| only != &*name) || rules.leaves_out(&path, &stat) {
            if kind_of(&level.to, &name)?.is_none() {
                tell(path);
            }
        } else if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && let (Some(from), Some(to)) = (below(folder, &name)?, below(&level.to, &name)?)
        {
            levels.push(Pair::new(path, from, to, rules));
            keep_within(LIMITS, levels.iter_mut().map(|level| level.names.pages()));
        }
    }
    Ok(())
}

/// True if the folder `path` in `root`, which no pattern names, is there and has nothing in it but what they name.
pub(super) fn holds_named_alone(
    root: &OwnedFd,
    path: &EntryPath,
    selection: &Selection,
    rules: Option<&Rules>,
) -> io::Result<bool> {
    struct Level {
        path: EntryPath,
        names: Names,
        is_empty: bool,
    }
    let level = |path: EntryPath, folder: OwnedFd| {
        let is_closed = rules.is_some_and(|rules| rules.closes(folder.as_fd()).is_some());
        (!is_closed).then(|| Level { path, names: Names::of(folder), is_empty: true })
    };
    let Some(first) = folder_at(root, path)?.and_then(|folder| level(path.clone(), folder)) else {
        return Ok(false);
    };
    let mut levels = vec![first];
    while let Some(at) = levels.last_mut() {
        let Some(name) = at.names.next().transpose()? else {
            if levels.pop().is_some_and(|level| level.is_empty) {
                return Ok(false);
            }
            continue;
        };
        at.is_empty = false;
        let Ok(path) = at.path.join(&name) else { return Ok(false) };
        let stat = match rustix::fs::statat(at.names.folder(), &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket || rules.is_some_and(|rules| rules.leaves_out(&path, &stat)) {
            return Ok(false);
        }
        if selection.names(&path) {
            continue;
        }
        let folder = if kind == FileType::Directory { below(at.names.folder(), &name)? } else { None };
        let Some(next) = folder.and_then(|folder| level(path, folder)) else { return Ok(false) };
        levels.push(next);
        keep_within(LIMITS, levels.iter_mut().map(|level| level.names.pages()));
    }
    Ok(true)
}

/// The folder `path` in `root`; none: there is none that is ours.
pub(super) fn folder_at(root: &OwnedFd, path: &EntryPath) -> io::Result<Option<OwnedFd>> {
    if_there(open_below(root, path, Mounts::Refused))
}

fn below(folder: &OwnedFd, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    if_there(open_folder(folder, name))
}

fn if_there(opened: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    const NONE: [Errno; 4] = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV];
    match opened {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if NONE.iter().any(|one| error.raw_os_error() == Some(one.raw_os_error())) => Ok(None),
        Err(error) => Err(error),
    }
}
