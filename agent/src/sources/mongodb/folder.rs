//! The data folder of a stopped MongoDB server.
//!
//! WiredTiger's files are one database only together: read one after the other while the server writes, they
//! are none. So the folder is looked at before the first file is read and after the last one. The server has
//! to be stopped both times, and must not have run between.
//!
//! Must stay true: nothing in the folder is changed, the lock file neither; what cannot be told for certain
//! is a refusal, never an archive.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use repository::backup::manifest::Consistency;
use rustix::fs::{FileType, FlockOperation, flock, lstat};
use rustix::io::Errno;

use crate::sources::files::metadata::stamp;
use crate::sources::files::{FilesSource, Rules};
use crate::sources::{Item, Source, SourceError, Stamp};

/// Holds the server's process id while it runs, and nothing after it was stopped cleanly.
const LOCK: &str = "mongod.lock";
/// Names the checkpoint from which WiredTiger opens everything else; replaced at each checkpoint.
const TURTLE: &str = "WiredTiger.turtle";
/// The turtle says here where the metadata lies.
const METADATA: &str = "file:WiredTiger.wt";
/// A turtle has about a thousand bytes.
const TURTLE_MOST: u64 = 64 << 10;
/// Without any of these the server does not open the folder. None of them is ever empty.
const NEEDED: [&str; 5] = ["WiredTiger", "WiredTiger.wt", TURTLE, "_mdb_catalog.wt", "storage.bson"];

const HINT: &str = "stop the server for the time of the backup, by `hooks` say, or give the source a `uri` instead of \
                    its `path`: then it is asked while it runs";

/// The folder of a server, read as files while it is stopped.
pub(crate) struct FolderSource {
    folder: PathBuf,
    files: FilesSource,
    before: Stopped,
}

impl FolderSource {
    /// Looks whether the server of `folder` is stopped, and begins to read it. Blocks.
    pub(crate) fn open(folder: &Path, rules: Rules) -> Result<Self, SourceError> {
        let before = Stopped::look(folder).map_err(not_read)?;
        Ok(Self { folder: folder.to_owned(), files: FilesSource::folder(folder, rules)?, before })
    }
}

impl Source for FolderSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let next = self.files.next()?;
        // Whoever asks for what comes after the last one has read that.
        if next.is_none() {
            self.before.still(&self.folder).map_err(not_read)?;
        }
        Ok(next)
    }

    fn consistency(&self) -> Consistency {
        Consistency::Quiesced
    }
}

fn not_read(why: NotStopped) -> SourceError {
    let what = "the data folder of the server cannot be backed up now";
    SourceError::Unfit { what, hint: HINT, source: why.into() }
}

/// True if a server has this folder in use, as its lock says: one in another container as well, and one that was
/// killed not. Blocks.
pub(crate) fn is_in_use(folder: &Path) -> bool {
    let Ok(lock) = fs::File::open(folder.join(LOCK)) else { return false };
    matches!(flock(&lock, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK))
}

/// A look at the folder of a stopped server, by which a later look tells whether the server ran meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopped {
    files: Vec<Stamp>,
}

/// The folder cannot be backed up as a database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStopped {
    /// The lock file has something in it.
    #[error("{LOCK} is not empty or in use: the server runs, or it was not stopped cleanly")]
    Runs,
    /// Something ran between two looks.
    #[error("the server ran while its folder was read: what was read is of more than one moment")]
    Ran,
    /// Some file that every database has is missing, empty or not a file.
    #[error("{0} is missing or empty: this is not the folder of a whole WiredTiger database")]
    NotWhole(&'static str),
    /// The turtle is not one.
    #[error("{TURTLE} does not name the database's metadata: it is damaged")]
    Turtle,
    /// It cannot be looked at.
    #[error("cannot look at {name}")]
    Look {
        /// At which file.
        name: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Stopped {
    /// Looks at `folder`. Blocks.
    pub(crate) fn look(folder: &Path) -> Result<Self, NotStopped> {
        let lock = look_at(folder, LOCK)?;
        if lock.size != 0 || is_in_use(folder) {
            return Err(NotStopped::Runs);
        }
        let mut files = vec![lock];
        for name in NEEDED {
            let stamp = look_at(folder, name)?;
            if stamp.size == 0 {
                return Err(NotStopped::NotWhole(name));
            }
            files.push(stamp);
        }
        check_turtle(folder)?;
        Ok(Self { files })
    }

    /// Looks again: the server is stopped still, and has not run since.
    pub(crate) fn still(&self, folder: &Path) -> Result<(), NotStopped> {
        match Self::look(folder)? == *self {
            true => Ok(()),
            false => Err(NotStopped::Ran),
        }
    }
}

fn look_at(folder: &Path, name: &'static str) -> Result<Stamp, NotStopped> {
    match lstat(folder.join(name)) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => Ok(stamp(&stat)),
        Ok(_) | Err(Errno::NOENT) => Err(NotStopped::NotWhole(name)),
        Err(error) => Err(NotStopped::Look { name, source: error.into() }),
    }
}

fn check_turtle(folder: &Path) -> Result<(), NotStopped> {
    let unread = |source| NotStopped::Look { name: TURTLE, source };
    let mut turtle = Vec::new();
    let file = fs::File::open(folder.join(TURTLE)).map_err(unread)?;
    file.take(TURTLE_MOST).read_to_end(&mut turtle).map_err(unread)?;
    match turtle.split(|byte| *byte == b'\n').any(|line| line == METADATA.as_bytes()) {
        true => Ok(()),
        false => Err(NotStopped::Turtle),
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
