//! What an archive holds: one [`Entry`] for each file, folder, link or special file.
//!
//! Entries stand in path order, a folder before what is in it and a hard link after the file that it
//! links to, so that a restore can write them as they come. How they are written as bytes: `page.rs`.

use crate::archive::path::EntryPath;
use crate::ids::{BlobId, ContentId};

/// The most extents that a sparse file is described with; a file with more is stored as a dense one.
pub const MAX_EXTENTS: usize = 65_536;
/// The most pieces that an entry lists itself; a file with more lists them in blobs of their own.
pub const MAX_INLINE_PIECES: usize = 4_096;

/// One file, folder, link or special file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies.
    pub path: EntryPath,
    /// Ownership, mode, time, extended attributes.
    pub metadata: Metadata,
    /// What it is, and its content.
    pub kind: EntryKind,
}

/// What every entry has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner, as a number.
    pub uid: u32,
    /// Group, as a number.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes, names sorted, values raw. ACLs and capabilities are among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A point in time as a file system keeps it: seconds since 1970, negative before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999, always added.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder; what is in it follows.
    Folder,
    /// A regular file.
    File(FileContent),
    /// A symbolic link; the target is kept as it stood and never followed.
    Symlink {
        /// The link's text.
        target: Vec<u8>,
    },
    /// Another name of the regular file, special file or symlink `to`, which comes earlier.
    HardLink {
        /// The first name.
        to: EntryPath,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character or block device.
    Device {
        /// Block device, else character device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// The content of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Length in bytes, holes included.
    pub size: u64,
    /// Which content it is; see [`crate::content`].
    pub id: ContentId,
    /// Where there is data and where there are holes.
    pub layout: Layout,
    /// Where the data lies in the repository.
    pub pieces: Pieces,
}

/// Where a file has data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Layout {
    /// Everywhere: one extent, from 0 to the file's size.
    #[default]
    Dense,
    /// In these extents alone: rising, not touching, within the size. What lies between is a hole.
    Sparse(Vec<Extent>),
}

/// A run of data in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts, in bytes from the file's start.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// The data of a file, its extents one after the other, as slices of blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pieces {
    /// All of them; at most [`MAX_INLINE_PIECES`].
    Inline(Vec<Piece>),
    /// Blobs of kind `pieces` that list them, in order; see `page.rs`.
    Listed(Vec<BlobId>),
}

/// A slice of a blob's plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The blob: one that the file has to itself, or a bundle of small files.
    pub blob: BlobId,
    /// Where the slice starts in the blob.
    pub offset: u32,
    /// How many bytes; never 0.
    pub length: u32,
}

impl FileContent {
    /// How many bytes of data there are, holes not counted.
    pub fn data_length(&self) -> u64 {
        self.layout.extents(self.size).iter().map(|extent| extent.length).sum()
    }
}

impl Layout {
    /// The extents, for a file of `size` bytes; none for an empty file.
    pub fn extents(&self, size: u64) -> Vec<Extent> {
        match self {
            Layout::Dense if size == 0 => Vec::new(),
            Layout::Dense => vec![Extent { offset: 0, length: size }],
            Layout::Sparse(extents) => extents.clone(),
        }
    }
}
