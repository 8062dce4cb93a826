//! Targets: what an agent restores to.
//!
//! A target takes the entries of an archive in path order, asks a [`BlobReader`] for the pieces of
//! their content, and ends in the old state or in the new one, never between.

pub mod files;
pub(crate) mod ipfs;
pub(crate) mod mongodb;
pub(crate) mod objects;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use repository::ids::BlobId;

/// Gives opened blobs to a restore. Blocking; used from the restore's own thread.
pub trait BlobReader: Send {
    /// The blobs that will be asked for next, in this order. Only a hint: it lets the reader fetch ahead
    /// within its own limit of memory.
    fn hint(&mut self, upcoming: &[BlobId]);
    /// Nothing is asked for, and the restore goes on with something else: called again and again meanwhile. What
    /// was hinted at is taken as it comes, so that nobody on the other side waits in vain.
    fn meanwhile(&mut self) {}
    /// The plaintext of a blob: that which was sealed under this id. That it has this id is left to whoever computes
    /// the id of each whole content of it, where the reader was made for that.
    fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError>;
}

/// A blob cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The repository does not hold it.
    #[error("blob {0} is missing from the repository")]
    Missing(BlobId),
    /// It is there and its bytes are wrong.
    #[error("blob {id} is damaged: {cause}")]
    Damaged {
        /// Which blob.
        id: BlobId,
        /// What is wrong with it.
        cause: String,
    },
    /// It could not be fetched; trying again may help.
    #[error("cannot fetch blob {id}: {cause}")]
    Fetch {
        /// Which blob.
        id: BlobId,
        /// Why not.
        cause: String,
    },
}

/// Is told how far a restore is. Called from the restore's own thread: keep it cheap.
pub trait Progress {
    /// Something will now be made in `folder`, in which a crash may leave it. Called once for each folder;
    /// an error ends the restore. Whoever has nobody to recover it later need not remember it.
    fn writes_in(&self, folder: &std::path::Path) -> std::io::Result<()> {
        let _ = folder;
        Ok(())
    }
    /// `count` more bytes of content have been written.
    fn bytes_written(&self, count: u64);
    /// One more entry has been written.
    fn entry_written(&self);
    /// All is written and checked beside the live state, of which nothing has changed: what uses it has to
    /// stop now. An error ends the restore.
    fn staged(&self) -> Result<(), String> {
        Ok(())
    }
    /// From now on the live state changes, and a cancel no longer stops it.
    fn swap_begins(&self);
    /// All is live and durable, and can still be taken back: what uses it may start. An error takes it back;
    /// by then nothing may use it any more.
    fn swapped(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Nobody is told.
impl Progress for () {
    fn bytes_written(&self, _count: u64) {}
    fn entry_written(&self) {}
    fn swap_begins(&self) {}
}

/// Asks a restore to stop. It does so between two pieces, and only before it changes the live state.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True if somebody has asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
