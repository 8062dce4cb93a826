//! The controller's state folder: who it is, its authority, its catalog, its default key.
//!
//! Must stay true: one process at a time (an exclusive lock, held for as long as [`StateFolder`] lives);
//! nobody but the controller's user can read it (0700, files 0600); a file appears whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use runtime::atomic_file::{self, PRIVATE, WriteError};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use crate::ids::{AgentId, ControllerId};

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another controller uses it.
    #[error("the state folder {folder} is in use by another controller")]
    InUse {
        /// Which folder.
        folder: PathBuf,
    },
    /// A rebuild of it was begun and not ended.
    #[error(
        "the state folder {folder} is half rebuilt: a rebuild was cut off; run `nsctl repository rebuild --state` again"
    )]
    HalfRebuilt {
        /// Which folder.
        folder: PathBuf,
    },
    /// It was to be rebuilt and holds something.
    #[error("the state folder {folder} is not empty: {found} is in it")]
    NotEmpty {
        /// Which folder.
        folder: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// A file or folder in it cannot be read or written.
    #[error("cannot {verb} {path}")]
    File {
        /// `read`, `write`, …
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file in it cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file in it does not hold what it should.
    #[error("{path} is damaged: it does not hold {expected}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
}

mod rebuilding;

pub use rebuilding::Rebuilding;

/// Locked for as long as a process uses the folder.
const LOCK: &str = "controller.lock";
/// Says that a rebuild has begun; it is removed when everything is in its place.
const REBUILDING: &str = "rebuilding";

/// The state folder of this controller, locked.
#[derive(Debug)]
pub struct StateFolder {
    folder: PathBuf,
    controller: ControllerId,
    _lock: File,
}

impl StateFolder {
    /// Makes the folder where it is missing, locks it and reads who this controller is.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let lock = locked(folder)?;
        if folder.join(REBUILDING).exists() {
            return Err(StateError::HalfRebuilt { folder: folder.to_owned() });
        }
        let controller = read_or_make_id(&folder.join("controller-id"))?;
        make_private_folder(&folder.join("revoked"))?;
        make_private_folder(&folder.join("jobs"))?;
        make_private_folder(&folder.join("audit"))?;
        Ok(Self { folder: folder.to_owned(), controller, _lock: lock })
    }

    /// This controller.
    pub fn controller(&self) -> ControllerId {
        self.controller
    }

    /// The path of the file `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file `name`, up to 64 KiB; `None` where it does not exist.
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        read_small(&self.path(name))
    }

    /// Writes the file `name` whole and durably, readable by the owner alone.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        Ok(atomic_file::write(&self.path(name), bytes, PRIVATE)?)
    }

    /// Remembers outside the catalog that an agent was revoked, so that a rebuilt catalog knows it too.
    pub fn revoke(&self, agent: AgentId) -> Result<(), StateError> {
        self.write(&format!("revoked/{agent}"), b"")
    }

    /// The agents that were ever revoked.
    pub fn revoked(&self) -> Result<Vec<AgentId>, StateError> {
        let folder = self.path("revoked");
        let entries = fs::read_dir(&folder).map_err(failed("list", &folder))?;
        let mut agents = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &folder))?;
            agents.extend(entry.file_name().to_str().and_then(|name| name.parse::<AgentId>().ok()));
        }
        Ok(agents)
    }
}

/// Makes the folder where it is missing and locks it.
fn locked(folder: &Path) -> Result<File, StateError> {
    make_private_folder(folder)?;
    let path = folder.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => StateError::InUse { folder: folder.to_owned() },
        error => failed("lock", &path)(error.into()),
    })?;
    Ok(lock)
}

fn failed(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { verb, path: path.clone(), source }
}

/// A folder that its owner alone can enter; one that exists is closed to others.
pub(crate) fn make_private_folder(folder: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("create", folder))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed("protect", folder))
}

fn read_small(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(64 * 1024).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(Some(bytes))
}

fn read_or_make_id(path: &Path) -> Result<ControllerId, StateError> {
    match read_small(path)? {
        Some(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| StateError::Damaged { path: path.to_owned(), expected: "a controller's id" }),
        None => {
            let id = ControllerId::fresh();
            atomic_file::write(path, id.to_string().as_bytes(), PRIVATE)?;
            Ok(id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_controllers_never_share_a_state_folder() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("state");
        let first = StateFolder::open(&folder).expect("opened");
        assert!(matches!(StateFolder::open(&folder), Err(StateError::InUse { .. })));
        let id = first.controller();
        drop(first);
        assert_eq!(StateFolder::open(&folder).expect("opened again").controller(), id);
    }

    #[test]
    fn nobody_else_can_read_what_lies_in_it() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("state");
        fs::create_dir(&folder).expect("made");
        let state = StateFolder::open(&folder).expect("opened");
        state.write("secret", b"x").expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&state.path("secret"))), (0o700, 0o600));
        assert_eq!(state.read("secret").expect("read").expect("there").as_slice(), b"x");
        assert!(state.read("other").expect("read").is_none());
    }

    #[test]
    fn a_revocation_is_remembered() {
        let home = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(home.path()).expect("opened");
        let agent = AgentId::fresh();
        state.revoke(agent).expect("written");
        assert_eq!(state.revoked().expect("listed"), [agent]);
    }
}
