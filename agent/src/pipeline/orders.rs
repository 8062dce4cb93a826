//! What the reader tells the packer, in path order, and what it hands to the workers.

use std::sync::mpsc::{Receiver, SyncSender};

use repository::archive::entry::{Entry, Layout, Metadata};
use repository::archive::path::EntryPath;
use repository::ids::{BlobId, ContentId};
use repository::pack::blob::Codec;

use crate::cache::{Day, Record};
use crate::sources::{Problem, Stamp};

/// One step of the archive.
pub(super) enum Order {
    /// An entry without content.
    Entry(Entry),
    /// Files whose contents the repository holds already: many at once, since to wake the packer takes longer than
    /// what it does with one.
    Reused(Vec<(Metadata, Record)>),
    /// A file in the bundle that is being filled; its slice is never empty.
    Bundled { file: FileHead, offset: u32, length: u32 },
    /// The bundle is full.
    BundleEnds(Coming),
    /// The pieces of a large file follow, from its first byte; those told so far of the same file are void.
    FileBegins,
    /// The next piece of the large file: a blob of its own.
    Piece(Coming),
    /// All pieces of the large file have been told.
    FileEnds(FileHead),
    /// Something to tell.
    Problem(Problem),
    /// That was all. Without it the reader has failed.
    End,
}

/// A file whose content was read.
#[derive(Debug)]
pub(super) struct FileHead {
    pub(super) path: EntryPath,
    pub(super) metadata: Metadata,
    pub(super) size: u64,
    pub(super) id: ContentId,
    pub(super) layout: Layout,
    /// What the cache may remember; `None`: the file changed while it was read.
    pub(super) seen: Option<Seen>,
}

/// The state in which a file was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) stamp: Stamp,
    pub(super) trusted: bool,
    pub(super) read_on: Day,
}

/// A blob that a worker is busy with.
pub(super) type Coming = Receiver<Processed>;

/// A blob as a worker gives it back.
pub(super) struct Processed {
    pub(super) id: BlobId,
    /// The plaintext; its memory goes back to the reader.
    pub(super) plain: Vec<u8>,
    /// What is to be sealed; `None`: the blob exists.
    pub(super) stored: Option<Stored>,
}

/// What is to be sealed of a blob that is new.
pub(super) enum Stored {
    /// The plaintext as it is.
    Raw,
    /// This.
    Compressed(Vec<u8>),
}

impl Processed {
    /// The bytes to seal, with how they are written; `None`: the blob exists.
    pub(super) fn to_seal(&self) -> Option<(Codec, &[u8])> {
        match self.stored.as_ref()? {
            Stored::Raw => Some((Codec::Raw, &self.plain)),
            Stored::Compressed(bytes) => Some((Codec::Zstd, bytes)),
        }
    }
}

/// Work for a worker: give this plaintext its id and compress it if it is new.
pub(super) struct Job {
    pub(super) plain: Vec<u8>,
    pub(super) reply: SyncSender<Processed>,
}
