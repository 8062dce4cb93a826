//! Parity: a file beside each pack from which rot in the pack is made good without anybody's help.
//!
//! Must stay true: parity is made only of a pack whose bytes have its name; a pack is replaced only by
//! bytes that have its name; a parity file that is damaged or missing endangers no pack and is made anew.

mod code;

use aws_lc_rs::digest;

pub use code::{Strength, encode, mend};

use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::layout;
use crate::pack::file::MAX_PACK;
use crate::repo::Repository;
use crate::store::{ObjectPath, Store, StoreError};
use crate::verify::READS;

/// The longest parity file: half of the longest pack and its checksums, twice.
const MAX_PARITY: u64 = MAX_PACK / 2 + (16 << 20);

impl Repository {
    /// From now on, packs get parity of this strength; `None`: none do. What has some keeps it.
    pub fn set_parity(&mut self, strength: Option<Strength>) {
        self.parity = strength;
    }

    /// Writes the parity of a pack that was just made, where parity is on. To be called when the pack is
    /// durable; may be repeated; what it wrote is durable when it returns.
    pub fn make_parity(&self, pack: &PackId) -> Result<(), RepositoryError> {
        let Some(strength) = self.parity else { return Ok(()) };
        keep_parity(&*self.store, pack, strength).map(|_| ())
    }

    /// Deletes the parity of a pack that goes away.
    pub fn trash_parity(&self, pack: &PackId) -> Result<(), RepositoryError> {
        Ok(self.store.delete(&layout::parity(pack))?)
    }

    /// The bytes that a damaged pack should have, as its parity gives them; `None` where there is none, or
    /// more is damaged than it makes good. Writes nothing.
    pub fn mended(&self, pack: &PackId) -> Result<Option<Vec<u8>>, RepositoryError> {
        self.mended_from(pack, &layout::pack(pack), &layout::parity(pack))
    }

    /// The same of what is left of a pack in one place and of its parity in another.
    pub(crate) fn mended_from(
        &self,
        pack: &PackId,
        damaged: &ObjectPath,
        parity: &ObjectPath,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        let Some(file) = readable(&*self.store, parity, MAX_PARITY)? else { return Ok(None) };
        let damaged = readable(&*self.store, damaged, MAX_PACK)?.unwrap_or_default();
        Ok(code::mend(pack, &damaged, &file))
    }

    /// Makes a damaged pack whole from its parity. False if that is not possible; then nothing was written.
    /// Only for the one writer.
    pub fn mend(&self, pack: &PackId) -> Result<bool, RepositoryError> {
        let Some(whole) = self.mended(pack)? else { return Ok(false) };
        self.put_right(pack, &whole)?;
        Ok(true)
    }

    /// Puts the right bytes in a pack's place, whatever lies there.
    pub(crate) fn put_right(&self, pack: &PackId, whole: &[u8]) -> Result<(), RepositoryError> {
        assert_eq!(id_of(whole), *pack, "a pack is replaced only by what its name says");
        Ok(self.store.replace(&layout::pack(pack), whole)?)
    }

    /// How strong parity is made: as is set, or as is usual for a pack that has some all the same.
    pub(crate) fn strength(&self) -> Strength {
        self.parity.unwrap_or(Strength::USUAL)
    }

    /// Looks after the parity of a pack that was found sound: true if it was made anew. A pack without any
    /// gets some where parity is on.
    pub(crate) fn refresh_parity(&self, pack: &PackId) -> Result<bool, RepositoryError> {
        match self.parity_finding(pack)? {
            None => Ok(false),
            Some(_) => keep_parity(&*self.store, pack, self.strength()),
        }
    }

    /// What is wrong with a pack's parity; a pack that has none lacks it only where parity is on.
    pub(crate) fn parity_finding(&self, pack: &PackId) -> Result<Option<String>, RepositoryError> {
        let file = readable(&*self.store, &layout::parity(pack), MAX_PARITY)?;
        Ok(match file {
            Some(file) if code::is_sound(pack, &file) => None,
            Some(_) => Some(format!("the parity of pack {pack} is damaged")),
            None if self.parity.is_some() => Some(format!("pack {pack} has no parity yet")),
            None => None,
        })
    }
}

/// Makes sure that a pack has sound parity; true if it had to be written.
pub(crate) fn keep_parity(
    store: &dyn Store,
    pack: &PackId,
    strength: Strength,
) -> Result<bool, RepositoryError> {
    let path = layout::parity(pack);
    let old = readable(store, &path, MAX_PARITY)?;
    if old.as_ref().is_some_and(|file| code::is_sound(pack, file)) {
        return Ok(false);
    }
    let bytes = store.read(&layout::pack(pack), MAX_PACK)?;
    if id_of(&bytes) != *pack {
        // Parity of wrong bytes would make them right.
        return Ok(false);
    }
    store.replace(&path, &code::encode(*pack, &bytes, strength))?;
    Ok(true)
}

pub(crate) fn id_of(bytes: &[u8]) -> PackId {
    PackId::try_from(digest::digest(&digest::SHA256, bytes).as_ref()).expect("SHA-256 has 32 bytes")
}

/// Whatever can be read of an object, zeros in the place of what cannot; `None` if there is no object. A
/// store that gives some bytes at the second try only, or some of them never, gives the others.
fn readable(store: &dyn Store, path: &ObjectPath, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    const STEPS: [u64; 2] = [64 << 10, 4 << 10];
    let length = match store.size(path) {
        Ok(length) => length.min(limit),
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::with_capacity(length as usize);
    while (bytes.len() as u64) < length {
        let start = bytes.len() as u64;
        let read = STEPS.iter().find_map(|step| {
            let step = step.min(&(length - start)).to_owned();
            (0..READS).find_map(|_| store.read_range(path, start, step).ok())
        });
        let lost = || vec![0; STEPS[1].min(length - start) as usize];
        bytes.extend(read.unwrap_or_else(lost));
    }
    Ok(Some(bytes))
}
