//! What a restore never moves, wherever it lies in what would be replaced: what is mounted there, the agent's own
//! state, and a repository of backups, perhaps the very one that is restored from.
//!
//! Must stay true: it is looked for in every live entry that would be moved away, whatever the source leaves out.
//! Below that, folders alone are looked at, since there may be millions of files. What cannot be seen there is told, and
//! is no reason to refuse what would replace it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, Dir, FileType};

use super::ground::may_be_mount_point;
use super::handles::open_folder;
use super::late::folder_at;
use super::stays::{NOT_OURS, OUR_LACK, is_one_of};
use crate::mounts::Mounted;
use crate::sources::files::{Rules, is_repository};

/// Why something is not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Immovable {
    /// Something is mounted there: it would go along, and an empty folder take its place.
    Mount,
    /// It is, or holds, the agent's own state, without which nothing that goes wrong can be ended.
    OwnState,
    /// It is a repository of backups.
    Repository,
}

/// What was found below a live entry.
pub(super) enum Found {
    Immovable(Immovable),
    /// Something that cannot be seen, and why.
    Unseen(io::Error),
}

/// Is told of each.
pub(super) type Tell<'t> = &'t mut dyn FnMut(EntryPath, Found);

/// What a search goes by.
pub(super) struct Search<'a> {
    rules: Option<&'a Rules>,
    mounts: Mounted,
}

impl<'a> Search<'a> {
    /// With the rules of the source, which know the agent's own state.
    pub(super) fn begin(rules: Option<&'a Rules>) -> Self {
        Self { rules, mounts: Mounted::now() }
    }

    /// Looks through the live entry `name` of `folder`, which is `path`, and `shown` on the disk.
    pub(super) fn look(
        &self,
        (folder, name): (&OwnedFd, &[u8]),
        path: &EntryPath,
        shown: &Path,
        tell: Tell<'_>,
    ) -> io::Result<()> {
        if is_repository(folder.as_fd()) {
            tell(path.parent().unwrap_or_default(), Found::Immovable(Immovable::Repository));
            return Ok(());
        }
        let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let has_own = self.rules.is_some_and(|rules| rules.is_own(&stat) || rules.is_above_own(&stat));
        if has_own {
            tell(path.clone(), Found::Immovable(Immovable::OwnState));
        }
        for below in self.mounts.below(shown) {
            if let Some(mount) = mounted_at((folder, name), path, below) {
                tell(mount, Found::Immovable(Immovable::Mount));
            }
        }
        within((folder, name), path, self.rules.filter(|_| !has_own), tell)
    }
}

/// The mount point `below` of the folder `name`, unless something else was mounted over it.
fn mounted_at((folder, name): (&OwnedFd, &[u8]), path: &EntryPath, below: &Path) -> Option<EntryPath> {
    let names: Vec<&[u8]> = below.iter().map(OsStr::as_bytes).collect();
    let (last, way) = names.split_last()?;
    let mut mount = path.clone();
    for name in &names {
        mount = mount.join(name).ok()?;
    }
    let mut at = open_folder(folder, name);
    for name in way {
        at = at.and_then(|at| open_folder(&at, name));
    }
    match at {
        Ok(at) => may_be_mount_point(&at, last).then_some(mount),
        // It is gone, or lies below one that is told by itself.
        Err(error) if is_one_of(&error, &NOT_OURS) => None,
        Err(_) => Some(mount),
    }
}

/// Tells of the repositories in the folder `name`, and of the agent's own state, which may lie there by another path than
/// the agent's: it may be mounted where that sees it. Only folders are opened.
fn within(
    (folder, name): (&OwnedFd, &[u8]),
    path: &EntryPath,
    rules: Option<&Rules>,
    tell: Tell<'_>,
) -> io::Result<()> {
    let mut levels: Vec<(EntryPath, Dir)> = Vec::new();
    // The entry itself was looked at.
    levels.extend(enter(open_folder(folder, name), path.clone(), None, tell)?);
    while let Some((at, names)) = levels.last_mut() {
        let entry = match names.read() {
            Some(Ok(entry)) => entry,
            None => {
                levels.pop();
                continue;
            }
            Some(Err(error)) => {
                tell(at.clone(), Found::Unseen(error.into()));
                levels.pop();
                continue;
            }
        };
        let name = entry.file_name().to_bytes();
        let (folder, Ok(path)) = (names.fd()?, at.join(name)) else { continue };
        let is_folder = match entry.file_type() {
            FileType::Directory => !matches!(name, b"." | b".."),
            // Not every file system tells.
            FileType::Unknown => rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            _ => false,
        };
        if is_folder {
            let below = enter(open_folder(folder, name), path, rules, tell)?;
            levels.extend(below);
        }
    }
    Ok(())
}

/// The names in the folder `path`, if it is to be looked through.
fn enter(
    opened: io::Result<OwnedFd>,
    path: EntryPath,
    rules: Option<&Rules>,
    tell: Tell<'_>,
) -> io::Result<Option<(EntryPath, Dir)>> {
    let listed = match opened {
        Ok(folder) if is_repository(folder.as_fd()) => {
            tell(path, Found::Immovable(Immovable::Repository));
            return Ok(None);
        }
        Ok(folder)
            if rules
                .is_some_and(|rules| rustix::fs::fstat(&folder).is_ok_and(|stat| rules.is_own(&stat))) =>
        {
            tell(path, Found::Immovable(Immovable::OwnState));
            return Ok(None);
        }
        Ok(folder) => Dir::new(folder).map_err(io::Error::from),
        Err(error) => Err(error),
    };
    match listed {
        Ok(names) => Ok(Some((path, names))),
        Err(error) if is_one_of(&error, &NOT_OURS) => Ok(None),
        Err(error) if is_one_of(&error, &OUR_LACK) => {
            Err(io::Error::new(error.kind(), format!("{path}: {error}")))
        }
        Err(error) => {
            tell(path, Found::Unseen(error));
            Ok(None)
        }
    }
}

/// The first mount point below the live entry at `path`, which lies in the folder `root`, called `shown`.
pub(super) fn first_mounted_in(
    mounted: &Mounted,
    root: &OwnedFd,
    shown: &Path,
    path: &EntryPath,
) -> Option<EntryPath> {
    let at = shown.join(OsStr::from_bytes(path.as_bytes()));
    let name = path.name()?;
    let mut below = mounted.below(&at).peekable();
    below.peek()?;
    // One that is not there any more has nothing below it.
    let folder = folder_at(root, &path.parent().unwrap_or_default()).ok()??;
    below.find_map(|below| mounted_at((&folder, name), path, below))
}
