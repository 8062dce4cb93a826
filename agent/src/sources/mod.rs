//! Sources: what an agent reads from.
//!
//! A [`Source`] yields the items of one archive in path order and says of everything that it could not
//! give why it could not. It is blocking code and runs on a thread of its own; it knows nothing of
//! blobs, caches or the wire. The pipeline decides from an item's [`Stamp`] whether its content has to
//! be read at all.
//!
//! Must stay true: a source never changes what it reads from (but for the links that [`blockchain`] takes away
//! again), never follows a symlink out of its
//! folder, never opens a fifo, socket or device, and never hides a problem.

pub(crate) mod blockchain;
pub(crate) mod configs;
pub mod files;
pub mod ipfs;
pub mod mongodb;

use repository::archive::entry::{Layout, Metadata, Timestamp};
use repository::archive::path::EntryPath;
use repository::backup::manifest::{Consistency, Quiesce};

use crate::signed::Signed;

/// Yields what is to be backed up.
pub trait Source: Send {
    /// The next item, in path order; `None` at the end. An error ends the archive: the source as a whole
    /// is out of reach (the folder does not exist, the disk is gone).
    fn next(&mut self) -> Result<Option<Item>, SourceError>;
    /// How far what it gives is one point in time. Known from the start; no more is claimed than is known.
    fn consistency(&self) -> Consistency {
        Consistency::Fuzzy
    }
    /// How what writes into it was met; none where nothing was done.
    fn quiesce(&self) -> Option<Quiesce> {
        None
    }
    /// What it is that comes back, where that is not what was there: a line each, without names. Asked for at the end.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
    /// How far the validator has signed whose folder it is, if it is one's. Asked for at the end.
    fn signed(&self) -> Option<Signed> {
        None
    }
    /// The address of that validator's key, if just one lies there.
    fn signer(&self) -> Option<String> {
        None
    }
}

/// One step of a source.
pub enum Item {
    /// Something for the archive.
    Entry(SourceEntry),
    /// Something that could not be read, vanished, or is left out for a reason worth telling.
    Problem(Problem),
}

/// An entry before its content has been read.
pub struct SourceEntry {
    /// Where it lies in the archive.
    pub path: EntryPath,
    /// Ownership, mode, time, extended attributes.
    pub metadata: Metadata,
    /// What it is.
    pub body: Body,
}

/// What an entry is.
pub enum Body {
    /// A folder, link or special file: known whole without reading a content.
    Plain(repository::archive::entry::EntryKind),
    /// A regular file, not yet opened.
    File {
        /// As `stat` gave it just now.
        stamp: Stamp,
        /// Whose clock the stamp's times are of.
        clock: StampClock,
        /// Opens it.
        content: Box<dyn Content>,
    },
}

/// Which clock a file system takes the times of its files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampClock {
    /// That of this machine.
    Ours,
    /// That of a server, or of a program: it may be early or late.
    Foreign,
    /// There is none: the stamp tells nothing, and the content is read each time.
    Nobodys,
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or metadata.
    pub ctime: Timestamp,
}

/// The content of one regular file: `open`, then `read` until 0, then `close`.
pub trait Content: Send {
    /// Opens the file, without following links, and tells where it has data.
    fn open(&mut self) -> Result<Opened, ReadError>;
    /// Fills `buffer` from the data extents, one after the other, as far as it can; 0 at their end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError>;
    /// `stat` after the last read. A caller that finds another stamp than at `open` knows that the file
    /// changed while it was read.
    fn close(&mut self) -> Result<Stamp, ReadError>;
}

/// An opened file.
pub struct Opened {
    /// As `fstat` gave it at the open.
    pub stamp: Stamp,
    /// The extents that `read` will deliver.
    pub layout: Layout,
    /// Its end is known only when it is reached: the size says no more than that there is much, and one read
    /// is all there is.
    pub is_stream: bool,
}

/// Something that a backup has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: EntryPath,
    /// What kind of thing happened; decides whether the archive is incomplete.
    pub kind: ProblemKind,
    /// The cause in one line, e.g. `permission denied`.
    pub cause: String,
}

/// What can happen to a single entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// It is there and could not be read: the archive is incomplete.
    Unreadable,
    /// It was listed and then gone: told, no more.
    Vanished,
    /// It changed while it was read, twice: what is archived may mix two states. Or it had changed behind
    /// an unchanged stamp: earlier archives may hold an older state than they say.
    Changed,
    /// It is left out by a rule that the user should know of (another file system, a link's target):
    /// told, no more.
    LeftOut,
    /// It is archived as it is, and is not what its name says: what uses it may not take it. Told, no more.
    Suspect,
    /// Content that is damaged or missing at the source itself: the archive is incomplete, unless it is made before
    /// a restore, which loses nothing by it. Told as [`Self::Unreadable`] or as [`Self::Suspect`].
    Damaged,
}

/// A single file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", if *.vanished { "it vanished" } else { "cannot read it" })]
pub struct ReadError {
    /// It no longer exists, or another file has its name now.
    pub vanished: bool,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// The source as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder is missing or may not be opened.
    #[error("cannot open the folder {folder} of this source")]
    Open {
        /// Which folder.
        folder: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A server does not give what it should.
    #[error("the server does not let itself be read")]
    Server {
        /// What to do.
        hint: &'static str,
        /// The cause, without a name of what is in it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It gave what it should no longer; another attempt takes another way.
    #[error("the server does not let itself be read in this way")]
    Again {
        /// What to do.
        hint: &'static str,
        /// The cause, without a name of what is in it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What lies there is not what it should be.
    #[error("{what}")]
    Unfit {
        /// What cannot be done.
        what: &'static str,
        /// What to do.
        hint: &'static str,
        /// The cause, without a name of what is in it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk failed.
    #[error("cannot go on reading {folder}")]
    Read {
        /// Which folder.
        folder: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}
