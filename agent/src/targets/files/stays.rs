//! What is live in a folder and in no archive of its source: what the source leaves out, which stays; and, when
//! a restore of paths is taken back, what that restore has made, which goes.
//!
//! Must stay true: what is left out goes only where the folder that holds it does, and the plan says so. The
//! plan and the restore ask the same question here, of the same entries. So that what stays comes through the
//! swap, it is moved into the staged folder before that takes its place, by the journal as all else
//! ([`Carry`]), and back before an undo ends.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::entry::{Entry, EntryKind};
use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType, Stat};

use super::area::{Area, is_staging};
use super::disk::{Disk, Subject};
use super::error::{RestoreError, failed};
use super::ground::{Ground, LOST_AND_FOUND};
use super::handles::{Mounts, again, kind_of, open_below, open_folder};
use super::remove::{Names, names_in};
use super::request::{RestoreRequest, Selection};
use crate::sources::files::Rules;
use crate::sources::files::metadata::mtime;
use crate::sources::files::names::{LIMITS, keep_within};

/// So many are carried through a swap: each is a rename, and a line of the journal.
const MAX_STAYING: usize = 100_000;

/// What the archive has at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archived {
    Nothing,
    Folder,
    Other,
}

/// What is live and may be in no archive.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// What the source leaves out, outermost; in path order.
    left_out: Vec<EntryPath>,
    /// What the patterns of a restore name that is taken back.
    named: Vec<EntryPath>,
    /// Those, and the folders above them.
    archived: BTreeMap<EntryPath, Archived>,
}

/// What becomes of what is left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fates {
    /// It stays.
    pub(super) stays: Vec<EntryPath>,
    /// It goes with the folder that it lies in, or the archive has it, or another kind of entry for that folder.
    pub(super) goes: Vec<EntryPath>,
}

impl Live {
    /// Looks through what is live, if there is something to look for.
    pub(super) fn look(ground: &Ground, request: &RestoreRequest) -> Result<Self, RestoreError> {
        let mut live = Self::default();
        let Ground::Live { root, handle } = ground else { return Ok(live) };
        let is_undo = request.keeps_older && matches!(request.selection, Selection::Paths(_));
        if request.stays.is_some() || is_undo {
            let walked = live.walk(handle, request.stays.as_ref(), is_undo.then_some(&request.selection));
            walked.map_err(failed("look through", root.display()))?;
        }
        for path in live.left_out.iter().chain(&live.named) {
            let mut at = Some(path.clone());
            while let Some(path) = at.filter(|path| !path.is_root()) {
                at = path.parent();
                live.archived.insert(path, Archived::Nothing);
            }
        }
        Ok(live)
    }

    fn walk(&mut self, root: &OwnedFd, rules: Option<&Rules>, named: Option<&Selection>) -> io::Result<()> {
        let mut levels = vec![Level::new(EntryPath::root(), again(root)?, rules)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next().transpose()? else {
                levels.pop();
                continue;
            };
            if is_staging(&name) || (level.path.is_root() && *name == *LOST_AND_FOUND) {
                continue;
            }
            let Ok(path) = level.path.join(&name) else { continue };
            let c_name = std::ffi::CString::new(&*name)?;
            let Ok(stat) = rustix::fs::statat(&level.handle, &*c_name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let found = if level.leaves_out(rules, &path, &name, &stat) {
                &mut self.left_out
            } else if named.is_some_and(|named| named.names(&path)) {
                &mut self.named
            } else {
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    // What is mounted there, or is gone, or cannot be entered, is nothing of ours.
                    if let Ok(handle) = open_folder(&level.handle, &name) {
                        levels.push(Level::new(path, handle, rules)?);
                        keep_within(LIMITS, levels.iter_mut().map(|level| level.names.pages()));
                    }
                }
                continue;
            };
            if found.len() == MAX_STAYING {
                return Err(io::Error::other(format!(
                    "more than {MAX_STAYING} entries are in no backup and have to be looked after one by one; exclude \
                     folders instead of what is in them, or move them away before"
                )));
            }
            found.push(path);
        }
        Ok(())
    }

    /// The archive has this entry.
    pub(super) fn meet(&mut self, entry: &Entry) {
        if let Some(archived) = self.archived.get_mut(&entry.path) {
            *archived = match entry.kind {
                EntryKind::Folder => Archived::Folder,
                _ => Archived::Other,
            };
        }
    }

    /// True if this is left out.
    pub(super) fn leaves_out(&self, path: &EntryPath) -> bool {
        self.left_out.binary_search(path).is_ok()
    }

    /// Once all entries were met: what is named and not in the archive, as the outermost that is not.
    pub(super) fn strays(&self, selection: &Selection) -> Vec<EntryPath> {
        let mut strays = Vec::new();
        for path in &self.named {
            let mut outermost = None;
            let mut is_swapped = false;
            let mut at = Some(path.clone());
            while let Some(path) = at.filter(|path| !path.is_root()) {
                at = path.parent();
                match self.archived.get(&path) {
                    Some(Archived::Nothing) | None => outermost = Some(path),
                    Some(_) => is_swapped |= selection.names(&path),
                }
            }
            strays.extend(outermost.filter(|_| !is_swapped));
        }
        strays.sort();
        strays.dedup();
        strays
    }

    /// The same: what becomes of what is left out and lies in what is swapped. Nothing is told of the rest.
    pub(super) fn fates(&self, is_whole: bool, selection: &Selection, strays: &[EntryPath]) -> Fates {
        let mut fates = Fates::default();
        for path in &self.left_out {
            let archived = |path: &EntryPath| self.archived.get(path).copied().unwrap_or(Archived::Nothing);
            let above = std::iter::successors(path.parent(), EntryPath::parent);
            let above: Vec<EntryPath> = above.filter(|above| !above.is_root()).collect();
            let is_swapped = is_whole
                || above
                    .iter()
                    .chain([path])
                    .any(|one| selection.names(one) && archived(one) != Archived::Nothing)
                || above.iter().any(|one| strays.binary_search(one).is_ok());
            if !is_swapped {
                continue;
            }
            let has_place = above.iter().all(|above| archived(above) == Archived::Folder);
            match has_place && archived(path) == Archived::Nothing {
                true => fates.stays.push(path.clone()),
                false => fates.goes.push(path.clone()),
            }
        }
        fates
    }
}

struct Level {
    path: EntryPath,
    handle: OwnedFd,
    names: Names,
    /// Nothing that is in it is kept but this name.
    only: Option<&'static [u8]>,
}

impl Level {
    fn new(path: EntryPath, handle: OwnedFd, rules: Option<&Rules>) -> io::Result<Self> {
        let only = rules.and_then(|rules| rules.closes(handle.as_fd()));
        Ok(Self { path, names: names_in(&handle)?, handle, only })
    }

    fn leaves_out(&self, rules: Option<&Rules>, path: &EntryPath, name: &[u8], stat: &Stat) -> bool {
        self.only.is_some_and(|only| only != name) || rules.is_some_and(|rules| rules.leaves_out(path, stat))
    }
}

/// The way of one entry that stays, through a swap and back. Where it stands is read from the disk, so that both
/// directions may be repeated from any point.
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
        let Some(new) = self.parent(&new)? else { return Ok(()) };
        match self.parent(&self.area.root)? {
            Some(live) => self.rename(&new, &live)?,
            None => tracing::warn!(path = %self.path, "not moved back: the folder that it lay in is gone"),
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
