//! Where a restore happens: how the archive's paths lie on the disk.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};

use super::disk::{kind_of, open_folder};
use super::error::{RestoreError, failed};
use super::remove::names_in;
use super::request::{Place, RestoreRequest};

/// At the top of a file system and not a part of anybody's data.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";

/// How the archive's paths lie on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ground {
    /// The archive's root is this live folder; what is in it is swapped.
    Live { root: PathBuf },
    /// The archive's root becomes `name` in the folder `parent`.
    New { parent: PathBuf, name: Vec<u8> },
    /// The archive's root is `root`, in which folders that exist stay; each area is the folder that the
    /// swapped entry lies in.
    Spread { root: PathBuf },
}

impl Ground {
    /// Looks at the place, and makes the folders above a new one.
    pub(super) fn prepare(request: &RestoreRequest) -> Result<Self, RestoreError> {
        if !is_id(&request.restore_id) {
            let cause = "its id must be 1 to 64 letters, digits and `-`";
            return Err(RestoreError::refused("any place", cause));
        }
        let ground = Self::find(&request.place)?;
        if let Ground::New { parent, .. } = &ground {
            std::fs::create_dir_all(parent).map_err(failed("make the folder", parent.display()))?;
        }
        Ok(ground)
    }

    /// As [`Ground::prepare`], but nothing is made.
    pub(super) fn find(place: &Place) -> Result<Self, RestoreError> {
        match place {
            Place::InPlace { root } => Ok(Ground::Live { root: absolute(root)? }),
            Place::Listed { root } => Ok(Ground::Spread { root: absolute(root)? }),
            Place::NewFolder { path } => new_folder(path),
        }
    }

    /// The folder that the restore starts from, as far as it exists.
    pub(super) fn root(&self) -> &Path {
        match self {
            Ground::Live { root } | Ground::Spread { root } => root,
            Ground::New { parent, .. } => parent,
        }
    }

    /// The path on the disk of an entry, for people.
    pub(super) fn shown(&self, path: &EntryPath) -> PathBuf {
        let rest = OsStr::from_bytes(path.as_bytes());
        match self {
            Ground::Live { root } | Ground::Spread { root } => root.join(rest),
            Ground::New { parent, name } => parent.join(OsStr::from_bytes(name)).join(rest),
        }
    }
}

fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Opens a live folder that the user named; links on the way to it are followed.
pub(super) fn open_live(path: &Path) -> Result<OwnedFd, RestoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open the folder", path.display()))
}

fn absolute(path: &Path) -> Result<PathBuf, RestoreError> {
    path.canonicalize().map_err(failed("open the folder", path.display()))
}

fn new_folder(path: &Path) -> Result<Ground, RestoreError> {
    let path = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::path::absolute(path).map_err(failed("find", path.display()))?
        }
        Err(error) => return Err(failed("find", path.display())(error)),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(RestoreError::refused(
            path.display(),
            "it is no new folder; name one that does not exist",
        ));
    };
    let new = Ground::New { parent: parent.to_owned(), name: name.as_bytes().to_owned() };
    let folder =
        match rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(folder) => folder,
            Err(rustix::io::Errno::NOENT) => return Ok(new),
            Err(error) => return Err(failed("open the folder", parent.display())(error)),
        };
    match kind_of(&folder, name.as_bytes()).map_err(failed("look at", path.display()))? {
        None => return Ok(new),
        Some(FileType::Directory) => {}
        Some(_) => return Err(RestoreError::refused(path.display(), "it is there and is no folder")),
    }
    let live = open_folder(&folder, name.as_bytes()).map_err(failed("open the folder", path.display()))?;
    let is_mount = is_mount_point(&folder, name.as_bytes());
    let mut names = names_in(&live).map_err(failed("read the folder", path.display()))?;
    if is_mount {
        names.retain(|name| **name != *LOST_AND_FOUND);
    }
    match (names.is_empty(), is_mount) {
        (false, _) => {
            let cause = "it is not empty; name a folder that does not exist, or restore in place";
            Err(RestoreError::refused(path.display(), cause))
        }
        // A mount cannot be renamed; what is in it can.
        (true, true) => Ok(Ground::Live { root: path }),
        (true, false) => Ok(new),
    }
}

/// True if something is mounted on `name`. A kernel that cannot say so has it found out by the rename.
pub(super) fn is_mount_point(folder: impl std::os::fd::AsFd, name: &[u8]) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(folder, name, flags, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
