//! The root folder of a local repository, and the way from it to every other folder.
//!
//! Must stay true: paths are walked part by part from the root's handle and no symbolic link is followed,
//! so nothing outside the root is ever touched. The root is opened once: were its volume unmounted behind
//! our back, writes fail or go where they always went, instead of landing in the empty mount point.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::ObjectPath;
use super::durable::{self, Draft};

/// Beyond this many remembered folders the memory starts anew; forgetting costs a few syncs.
const MAX_KNOWN_FOLDERS: usize = 4096;

#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) handle: Arc<OwnedFd>,
    /// Folders whose names this process knows to be durable.
    known: Mutex<HashSet<String>>,
    swept: Once,
}

impl Root {
    /// The folder at `path`, itself possibly behind a symbolic link: where the root is, its owner says.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = Arc::new(rustix::fs::open(path, flags, Mode::empty())?);
        Ok(Self { path: path.to_owned(), handle, known: Mutex::default(), swept: Once::new() })
    }

    /// A new draft. The first one also clears away what killed processes left: readers write nothing.
    pub(super) fn begin(&self) -> io::Result<Draft> {
        let draft = Draft::begin(&self.handle)?;
        let root = self.path.display();
        self.swept.call_once(|| match durable::sweep(&self.handle, &draft) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(%root, removed, "removed unfinished files"),
            Err(error) => tracing::warn!(%root, %error, "cannot remove unfinished files; they stay"),
        });
        Ok(draft)
    }

    /// An existing folder (`None`: the root), opened.
    pub(super) fn open_folder(&self, folder: Option<&ObjectPath>) -> io::Result<OwnedFd> {
        let mut here = self.handle.try_clone()?;
        for part in folder.into_iter().flat_map(|folder| folder.as_str().split('/')) {
            here = durable::open_folder(&here, part)?;
        }
        Ok(here)
    }

    /// A folder, opened; made where it is missing. When this returns, its name and those above it are
    /// durable.
    pub(super) fn make_folder(&self, folder: Option<&ObjectPath>) -> io::Result<OwnedFd> {
        let mut here = self.handle.try_clone()?;
        let Some(folder) = folder else { return Ok(here) };
        let mut end = 0;
        for part in folder.as_str().split('/') {
            end += part.len();
            let so_far = &folder.as_str()[..end];
            end += 1;
            here = match durable::open_folder(&here, part) {
                Ok(next) if self.is_known(so_far) => next,
                Ok(_) | Err(Errno::NOENT) => {
                    let made = durable::make_folder(&here, part)?;
                    self.remember(so_far);
                    made
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(here)
    }

    fn is_known(&self, folder: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    fn remember(&self, folder: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN_FOLDERS {
            known.clear();
        }
        known.insert(folder.to_owned());
    }

    /// To be called before a folder goes away: one made later under its name is a new one. Nobody may be
    /// writing into it any more.
    pub(super) fn forget(&self, folder: &ObjectPath) {
        let is_in_it = |name: &str| {
            name.strip_prefix(folder.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| !is_in_it(name));
    }
}

/// Makes the folder `path` and those above it where they are missing, durably.
pub(super) fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        None => return Err(io::ErrorKind::NotFound.into()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    make(parent)?;
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(Errno::INVAL)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    durable::make_folder(&rustix::fs::open(parent, flags, Mode::empty())?, name)?;
    Ok(())
}
