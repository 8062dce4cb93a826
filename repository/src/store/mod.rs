//! The seam to storage: what every store must promise, whatever it is made of.
//!
//! Must stay true of every implementation, the fakes included (`conformance.rs` asks all of them):
//! - *Exclusive*: [`Store::create`] never replaces; of two creations of one name exactly one succeeds.
//! - *Durable*: when `create`, `replace`, `Upload::finish`, `publish`, `withdraw` or `delete` returns `Ok`, the
//!   change outlives a power cut. When it returns an error the change may or may not have happened; repeating the
//!   call is safe.
//! - *Whole*: a reader sees an object whole or not at all.
//! - *Honest lists*: a list that failed is an error, never an empty list. On object storage a list may lag: what
//!   was made a moment ago may be missing, what was deleted may still be shown. A read by name never lags, so
//!   nothing that must be right rests on a list being fresh.
//! - A failed write or sync is never tried again on the same file.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use jiff::Timestamp;

pub mod calls;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod durable;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
pub mod lease;
pub mod local;
pub mod location;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod probe;
mod root;
pub mod s3;

/// What lies under the name of a folder's last object where the folder was begun, never published and ended
/// for good: the name stays used, the folder does not exist. Only where nothing can be moved.
pub const ABANDONED: &[u8] = b"{\"abandoned\":true}\n";

/// The object in `from` of [`Store::stage`] by which a store that writes a folder in its place says so: while it
/// is there and the folder's last object is not, what lies in the folder is nobody's backup.
pub const CLAIM: &str = "claim";

/// A name inside a store: relative, `/` between its parts, e.g. `repository/packs/ab/ab12…`. Parts are
/// 1 to 255 bytes of printable ASCII without `/`, and neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// The path written as `text`. Panics if it is not a valid one: paths are built by this program, and
    /// names that come from outside go through [`ObjectPath::parse`].
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::parse(&text).unwrap_or_else(|| panic!("{text:?} is not an object path"))
    }

    /// The path written as `text`, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let part_is_fine = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.len() <= 255
                && part.bytes().all(|b| matches!(b, 0x20..=0x7e))
        };
        text.split('/').all(part_is_fine).then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object or folder `name` below this one. Panics like [`ObjectPath::new`].
    pub fn join(&self, name: impl fmt::Display) -> Self {
        Self::new(format!("{}/{name}", self.0))
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The folder that holds it; `None` directly under the root.
    pub fn parent(&self) -> Option<ObjectPath> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name within the listed folder. Not always one of ours: a root may hold foreign things.
    pub name: String,
    /// An object with its size in bytes, or a folder.
    pub kind: ListedKind,
}

/// What a listed name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListedKind {
    /// An object and its size in bytes.
    Object {
        /// Bytes.
        size: u64,
    },
    /// A folder (on S3: a common prefix).
    Folder,
    /// Something else: a link, a socket. Never ours.
    Other,
}

/// What went wrong at a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{path} does not exist in the repository's storage")]
    NotFound {
        /// Which.
        path: ObjectPath,
    },
    /// `create`, `finish` or `publish` met an object of that name.
    #[error("{path} exists already")]
    AlreadyExists {
        /// Which.
        path: ObjectPath,
    },
    /// No space is left.
    #[error("no space is left in the repository's storage while writing {path}")]
    Full {
        /// Which.
        path: ObjectPath,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Anything else: the operation and the cause are named.
    #[error("cannot {verb} {path} in the repository's storage")]
    Failed {
        /// `read`, `write`, `list`, …
        verb: &'static str,
        /// Which.
        path: ObjectPath,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// True if the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::NotFound { .. })
    }

    /// True if the object is there and the storage answers, and what was written is not to be had: the medium
    /// does not give it (EIO, or a checksum of the file system's own), it is shorter or longer than it can
    /// be, or no file. A storage that is out of reach says so otherwise.
    pub fn is_unreadable(&self) -> bool {
        use rustix::io::Errno;
        let StoreError::Failed { verb: "read", source, .. } = self else { return false };
        matches!(Errno::from_io_error(source), Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG))
            || matches!(
                source.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::FileTooLarge | ErrorKind::InvalidData
            )
    }

    /// What to do, in one line.
    pub fn hint(&self) -> &'static str {
        let is_bucket =
            |source: &std::io::Error| source.get_ref().is_some_and(|cause| cause.is::<s3::Said>());
        match self {
            StoreError::Full { .. } => "free some space in the repository's storage",
            StoreError::Failed { source, .. } if is_bucket(source) => {
                "check the bucket: the network to its server, the key, and what it may do (list, read, write, delete)"
            }
            error if error.is_unreadable() => {
                "look at the health of the disk and copy the repository to a sound one, then run `nsctl repository check --repair`"
            }
            _ => "check the repository's storage: is it mounted, writable and reachable?",
        }
    }
}

/// Where a repository lies. Blocking: asynchronous callers use a thread for it.
pub trait Store: Send + Sync + fmt::Debug {
    /// Where this is, for people: a path or a URL without credentials.
    fn location(&self) -> String;
    /// Writes a new object whole; [`StoreError::AlreadyExists`] if the name is taken.
    fn create(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError>;
    /// Writes an object whole, whether or not it existed. Only for what is neither named by its content
    /// nor ever referred to by it: leases, ballast.
    fn replace(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), StoreError>;
    /// Starts an object whose name is known only at its end.
    fn upload(&self) -> Result<Box<dyn Upload>, StoreError>;
    /// The whole object; one larger than `limit` bytes is an error.
    fn read(&self, path: &ObjectPath, limit: u64) -> Result<Vec<u8>, StoreError>;
    /// Exactly `length` bytes from `offset`; an object that ends earlier is an error.
    fn read_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Vec<u8>, StoreError>;
    /// The object's size in bytes.
    fn size(&self, path: &ObjectPath) -> Result<u64, StoreError>;
    /// When the object was written, by the storage's own clock. Moving it may set it anew.
    fn modified(&self, path: &ObjectPath) -> Result<Timestamp, StoreError>;
    /// The sizes of several objects, in their order.
    fn sizes(&self, paths: &[ObjectPath]) -> Vec<Result<u64, StoreError>> {
        paths.iter().map(|path| self.size(path)).collect()
    }
    /// What lies directly in `folder` (`None`: the root), sorted by name. A folder that does not exist is
    /// empty.
    fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<Listed>, StoreError>;
    /// Every object under `folder`, however deep: its name relative to it and its size, sorted by name.
    fn list_all(&self, folder: &ObjectPath) -> Result<Vec<(String, u64)>, StoreError> {
        let mut names = Vec::new();
        let mut folders = vec![(String::new(), folder.clone())];
        while let Some((prefix, folder)) = folders.pop() {
            for Listed { name, kind } in self.list(Some(&folder))? {
                match (kind, ObjectPath::parse(&format!("{folder}/{name}"))) {
                    (ListedKind::Object { size }, _) => names.push((format!("{prefix}{name}"), size)),
                    (ListedKind::Folder, Some(inner)) => folders.push((format!("{prefix}{name}/"), inner)),
                    // A name that is none of ours.
                    _ => {}
                }
            }
        }
        names.sort();
        Ok(names)
    }
    /// Begins a folder that [`Store::publish`] is to make appear as `to`, and says where its objects are to be
    /// created until then: in `from` where a folder can be moved, in `to` itself where nothing can. `last`
    /// alone, the object whose presence means that the folder is whole, is always created in `from`. What an
    /// earlier attempt of the same `owner` left makes way; where the folder is written in its place, another
    /// owner gets [`StoreError::AlreadyExists`].
    fn stage(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        last: &str,
        owner: &str,
    ) -> Result<ObjectPath, StoreError>;
    /// Makes the folder that was begun by [`Store::stage`] appear as `to`, all at once: before, `to` has no
    /// object `last`; after it, the folder is whole.
    fn publish(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError>;
    /// The inverse of [`Store::publish`]: the folder `from` ceases to exist, all at once. What was in it may lie
    /// under `to` afterwards, a free name: garbage that the caller deletes. A folder that is gone already is
    /// fine, so that a call whose answer was lost can be repeated. One without `last` was never published:
    /// `NotFound`, and it is left alone; where a withdrawal can stop half-way (S3: `last` goes first), it is
    /// carried on instead.
    fn withdraw(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<(), StoreError>;
    /// Ends a folder that was begun and not published, so that it never can be: `last` in `to` is then
    /// [`ABANDONED`]. False where somebody may still be at work on it, or where what is unfinished does not
    /// show and there is nothing to end. For the one writer.
    fn abandon(&self, from: &ObjectPath, to: &ObjectPath, last: &str) -> Result<bool, StoreError> {
        let _ = (from, to, last);
        Ok(false)
    }
    /// Clears away uploads that writers left unfinished and that cost something though no list shows them;
    /// says how many. For the one writer.
    fn sweep(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
    /// Moves one object; `to` must not exist. Where that takes a copy, both may be there after an error, and
    /// repeating the call ends it; and of two callers at one moment both may succeed.
    fn rename(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), StoreError>;
    /// Deletes an object; one that is gone already is fine.
    fn delete(&self, path: &ObjectPath) -> Result<(), StoreError>;
    /// Deletes a folder of ours and all in it; one that is gone already is fine.
    fn delete_folder(&self, path: &ObjectPath) -> Result<(), StoreError>;
    /// Bytes still free, where the store can tell.
    fn free_space(&self) -> Result<Option<u64>, StoreError>;
    /// True if a list may miss what was made a moment ago, and show what was deleted.
    fn lists_may_lag(&self) -> bool {
        false
    }
    /// For how long after a creation somebody else may still take the same name, where the storage cannot
    /// decide at once: whoever must be sure looks again after this time.
    fn settling(&self) -> Result<Duration, StoreError> {
        Ok(Duration::ZERO)
    }
    /// What people should know of this storage before they trust it: whole sentences, none if all is well.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An object being written. Dropped without [`Upload::finish`], it leaves nothing that is ever listed.
pub trait Upload: Send {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
    /// Makes it durable under this name; [`StoreError::AlreadyExists`] if the name is taken.
    fn finish(self: Box<Self>, path: &ObjectPath) -> Result<(), StoreError>;
}
