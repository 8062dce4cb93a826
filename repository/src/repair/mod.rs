//! Repair: what is damaged in a repository is made good from what is left of it.
//!
//! | what | from what |
//! |---|---|
//! | a pack | its parity; another place that has its bytes; else the blobs of it that still open (with the key) |
//! | the index | the packs, and what the index said of those that are gone |
//! | lines of the chain | the backups that they are of (with the key) |
//! | refs | their two copies; the archive's pages (with the key) |
//! | `backup.json`, manifests | the one byte by which their SHA-256 comes right |
//! | `config.json`, copies of keys, sums, `RESTORE.md` | their other copy, the backup |
//!
//! Must stay true: nothing is replaced but by what a SHA-256, a signature or a key proves to be right;
//! nothing that might still hold data is deleted, it is put aside in `quarantine/`; every step is durable
//! before the next, may be repeated, and leaves a repository that is no worse; what stays lost is told.
//! Packs keep their tables, so that the next backup heals what the source still has (`index.rs`).

mod aside;
mod bytes;
mod chain;
mod descriptions;
mod give_up;
mod keys;
mod packs;
mod refs;

pub use give_up::GiveUp;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::keys::{KeyRing, SlotSecret};
use crate::progress::{CancelFlag, Progress};
use crate::repo::Repository;
use crate::store::ObjectPath;
use crate::store::lease::LeaseError;
use crate::verify::READS;

/// Repairs a repository, or says what there is to repair.
pub struct Repair<'a> {
    /// The repository.
    pub repository: &'a Arc<Repository>,
    /// What opens its data; without it less can be repaired.
    pub keys: Option<&'a KeyRing>,
    /// The secret that opened them, by which copies of keys are proven.
    pub secret: Option<&'a SlotSecret>,
    /// Says whether this process may write, before each change; `None`: nothing is changed, only planned.
    pub may_write: Option<&'a dyn Fn() -> Result<(), LeaseError>>,
    /// Packs are read, and repaired; without that only what describes them is.
    pub reads_packs: bool,
    /// What a person does without, where nothing tells of it any more.
    pub give_up: &'a [GiveUp],
    /// Hears of the bytes of packs.
    pub progress: &'a dyn Progress,
    /// Stops it.
    pub cancel: &'a CancelFlag,
    /// The time of the repair.
    pub now: Timestamp,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was made good, a line each.
    pub mended: Vec<String>,
    /// What is damaged and stays so, a line each.
    pub left: Vec<String>,
    /// Packs that were read and have their SHA-256.
    pub sound: BTreeSet<PackId>,
}

impl Repair<'_> {
    /// Carries it out. What stays lost of which backups, a verification says afterwards.
    pub fn run(&self) -> Result<Repaired, RepositoryError> {
        let mut repaired = Repaired::default();
        self.config_copies(&mut repaired)?;
        self.key_copies(&mut repaired)?;
        if self.reads_packs {
            self.packs(&mut repaired)?;
        }
        self.chain(&mut repaired)?;
        self.give_up_backups(&mut repaired)?;
        self.descriptions(&mut repaired)?;
        self.all_refs(&mut repaired)?;
        self.pages_for_people(&mut repaired)?;
        self.rescue(&mut repaired)?;
        Ok(repaired)
    }

    fn rescue(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        if self.repository.is_rescue_damaged()? {
            if self.writes()? {
                self.repository.renew_rescue()?;
            }
            repaired.mended.push("the folder repository/rescue was written anew".to_owned());
        }
        Ok(())
    }

    /// True if changes are to be made, and may be.
    fn writes(&self) -> Result<bool, RepositoryError> {
        if self.cancel.is_cancelled() {
            return Err(RepositoryError::Cancelled);
        }
        match self.may_write {
            None => Ok(false),
            Some(may_write) => may_write().map(|()| true).map_err(RepositoryError::Fenced),
        }
    }

    /// Puts `bytes`, which were proven to be right, in the place of what is damaged.
    fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), RepositoryError> {
        if self.writes()? {
            self.repository.store.replace(path, bytes)?;
        }
        Ok(())
    }

    /// A file as it lies there; `None` if it is gone or the disk does not give it, however often that is tried.
    /// A storage that is out of reach is an error: nothing is put aside because of it.
    fn read(&self, path: &ObjectPath, limit: u64) -> Result<Option<Vec<u8>>, RepositoryError> {
        let mut tries = READS;
        loop {
            tries -= 1;
            match self.repository.store.read(path, limit) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(_) if tries > 0 => {}
                Err(error) if error.is_unreadable() => {
                    tracing::warn!(%path, %error, "cannot be read; it is taken for lost");
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
