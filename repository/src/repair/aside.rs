//! What repair takes out of `packs/`: kept with its parity, and brought back as soon as it can be made whole.
//!
//! A pack may be given up because too little of it could be read that day. Must stay true: nothing of it is
//! deleted before its right bytes lie in its place.

use super::{Repair, Repaired};
use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::layout;
use crate::pack::file::MAX_PACK;
use crate::parity::id_of;
use crate::store::{ObjectPath, StoreError};

impl Repair<'_> {
    /// Packs that were put aside and are whole there, or can be made so from their parity.
    pub(super) fn whole_ones_aside(&self) -> Result<Vec<PackId>, RepositoryError> {
        let mut whole = Vec::new();
        for listed in self.repository.store.list(Some(&layout::all_taken_out()))? {
            let Ok(pack) = listed.name.parse() else { continue };
            if self.whole_aside(&pack)?.is_some() {
                whole.push(pack);
            }
        }
        Ok(whole)
    }

    fn whole_aside(&self, pack: &PackId) -> Result<Option<Vec<u8>>, RepositoryError> {
        let aside = layout::taken_out(pack);
        match self.read(&aside, MAX_PACK)?.filter(|bytes| id_of(bytes) == *pack) {
            Some(bytes) => Ok(Some(bytes)),
            None => self.mended_from(pack, &aside),
        }
    }

    /// What its parity makes of what lies at `damaged`, wherever an interrupted repair has left the parity.
    pub(super) fn mended_from(
        &self,
        pack: &PackId,
        damaged: &ObjectPath,
    ) -> Result<Option<Vec<u8>>, RepositoryError> {
        for parity in [layout::parity(pack), layout::taken_out_parity(pack)] {
            if let Some(whole) = self.repository.mended_from(pack, damaged, &parity)? {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    /// Puts a pack back in its place from what was put aside of it.
    pub(super) fn put_back_from_aside(&self, pack: &PackId) -> Result<(), RepositoryError> {
        let Some(whole) = self.whole_aside(pack)? else { return Ok(()) };
        self.put_back(pack, &whole)?;
        let parity = layout::taken_out_parity(pack);
        self.move_parity(&parity, &layout::parity(pack))?;
        self.repository.store.delete(&parity)?;
        Ok(self.repository.store.delete(&layout::taken_out(pack))?)
    }

    /// Moves a pack that the index does not need any more out of the way, its parity first: together they
    /// may still make it whole.
    pub(super) fn put_aside(&self, pack: &PackId, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        let (from, to) = (layout::pack(pack), layout::taken_out(pack));
        if self.writes()? {
            self.move_parity(&layout::parity(pack), &layout::taken_out_parity(pack))?;
            match self.repository.store.rename(&from, &to) {
                Ok(()) => {}
                // It was missing from the start, or an interrupted repair has moved it.
                Err(error) if error.is_not_found() => {}
                // An earlier repair has kept what was left of it then; the mark keeps this one out.
                Err(StoreError::AlreadyExists { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            self.repository.store.delete(&layout::quarantined(pack))?;
        }
        if self.repository.store.size(&to).is_ok() || self.may_write.is_none() {
            repaired.mended.push(format!("what was left of pack {pack} is kept in {to}"));
        }
        Ok(())
    }

    /// Where there is one already, both stay: each may be the sound one.
    fn move_parity(&self, from: &ObjectPath, to: &ObjectPath) -> Result<(), RepositoryError> {
        match self.repository.store.rename(from, to) {
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
