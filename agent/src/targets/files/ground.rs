//! Where a restore happens: how the archive's paths lie on the disk.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};

use super::disk::Disk;
use super::error::{RestoreError, failed};
use super::handles::{Mounts, Walked, open_named, walk};
use super::remove::names_in;
use super::request::{Place, RestoreRequest};

/// At the top of a file system and not a part of anybody's data.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";

/// How the archive's paths lie on the disk. Whoever swaps a folder above for something else changes
/// nothing: the handle was opened once, and all goes through it.
#[derive(Debug)]
pub(super) enum Ground {
    /// The archive's root is this live folder; what is in it is swapped.
    Live { root: PathBuf, handle: OwnedFd },
    /// The archive's root becomes `name` in the folder `parent`. Of the way to it `missing` has to be made,
    /// in the folder of the handle.
    New { parent: PathBuf, name: Vec<u8>, missing: Vec<OsString>, handle: OwnedFd },
    /// The archive's root is `root`, in which folders that exist stay; each area is the folder that the
    /// swapped entry lies in.
    Spread { root: PathBuf, handle: OwnedFd },
}

impl Ground {
    /// Looks at the place, and makes the folders above a new one.
    pub(super) fn prepare(request: &RestoreRequest, disk: &Disk<'_>) -> Result<Self, RestoreError> {
        if !is_id(&request.restore_id) {
            let cause = "its id must be 1 to 64 letters, digits and `-`";
            return Err(RestoreError::refused("any place", cause));
        }
        let mut ground = Self::find(&request.place)?;
        if let Ground::New { parent, missing, handle, .. } = &mut ground {
            for name in missing.drain(..) {
                let made = disk.make_way(&*handle, name.as_bytes());
                *handle = made.map_err(failed("make the folder", parent.display()))?;
            }
        }
        Ok(ground)
    }

    /// As [`Ground::prepare`], but nothing is made.
    pub(super) fn find(place: &Place) -> Result<Self, RestoreError> {
        let open = |path: &Path| open_named(path).map_err(failed("open the folder", path.display()));
        match place {
            Place::InPlace { root } => match open_named(root) {
                Ok(Walked { path, handle, .. }) => Ok(Ground::Live { root: path, handle }),
                // Nobody but a person knows what should be mounted there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RestoreError::refused(
                    root.display(),
                    "it is not there: mount what belongs there, or make the folder, with the owner and the mode that it \
                     should have, and restore again",
                )),
                Err(error) => Err(failed("open the folder", root.display())(error)),
            },
            Place::Listed { root } => {
                open(root).map(|Walked { path, handle, .. }| Ground::Spread { root: path, handle })
            }
            Place::NewFolder { path } => new_folder(path),
        }
    }

    /// The folder that the restore starts from, as far as it exists.
    pub(super) fn root(&self) -> &Path {
        match self {
            Ground::Live { root, .. } | Ground::Spread { root, .. } => root,
            Ground::New { parent, .. } => parent,
        }
    }

    /// The same, opened: of a new folder the last one on the way to it that exists.
    pub(super) fn handle(&self) -> &OwnedFd {
        match self {
            Ground::Live { handle, .. } | Ground::Spread { handle, .. } | Ground::New { handle, .. } => {
                handle
            }
        }
    }

    /// Whether what is restored may lie in other mounts than the root: listed files may.
    pub(super) fn mounts(&self) -> Mounts {
        match self {
            Ground::Spread { .. } => Mounts::Crossed,
            _ => Mounts::Refused,
        }
    }

    /// The path on the disk of an entry, for people.
    pub(super) fn shown(&self, path: &EntryPath) -> PathBuf {
        let rest = OsStr::from_bytes(path.as_bytes());
        match self {
            Ground::Live { root, .. } | Ground::Spread { root, .. } => root.join(rest),
            Ground::New { parent, name, .. } => parent.join(OsStr::from_bytes(name)).join(rest),
        }
    }
}

fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn new_folder(path: &Path) -> Result<Ground, RestoreError> {
    let mut walked = match walk(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(RestoreError::refused(path.display(), "it is there and is no folder"));
        }
        walked => walked.map_err(failed("find", path.display()))?,
    };
    if let Some(name) = walked.missing.pop() {
        let mut parent = walked.path;
        parent.extend(&walked.missing);
        let Walked { missing, handle, .. } = walked;
        return Ok(Ground::New { parent, name: name.into_vec(), missing, handle });
    }
    let Walked { path, handle: live, .. } = walked;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(RestoreError::refused(
            path.display(),
            "it is no new folder; name one that does not exist",
        ));
    };
    let above = open_named(parent).map_err(failed("open the folder", parent.display()))?;
    let is_mount = is_mount_point(&above.handle, name.as_bytes());
    let is_content = |name: &io::Result<Box<[u8]>>| {
        !is_mount || name.as_ref().map_or(true, |name| **name != *LOST_AND_FOUND)
    };
    let first = names_in(&live).and_then(|mut names| names.find(is_content).transpose());
    let is_empty = first.map_err(failed("read the folder", path.display()))?.is_none();
    match (is_empty, is_mount) {
        (false, _) => {
            let cause = "it is not empty; name a folder that does not exist, or restore in place";
            Err(RestoreError::refused(path.display(), cause))
        }
        // A mount cannot be renamed; what is in it can.
        (true, true) => Ok(Ground::Live { root: path, handle: live }),
        (true, false) => {
            let (parent, name) = (parent.to_owned(), name.as_bytes().to_owned());
            Ok(Ground::New { parent, name, missing: Vec::new(), handle: above.handle })
        }
    }
}

/// As [`is_mount_point`], and where the kernel cannot say so.
pub(super) fn may_be_mount_point(folder: impl std::os::fd::AsFd, name: &[u8]) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let told = rustix::fs::statx(folder, name, flags, StatxFlags::empty());
    match told {
        Ok(stat) => {
            !stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
                || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        }
        // Something else was mounted over the way to it.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => false,
        Err(_) => true,
    }
}

/// True if something is mounted on `name`. A kernel that cannot say so has it found out by the rename.
pub(super) fn is_mount_point(folder: impl std::os::fd::AsFd, name: &[u8]) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(folder, name, flags, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
