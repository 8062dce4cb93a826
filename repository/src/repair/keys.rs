//! Files that are kept twice: `config.json`, slots and the keyring.

use super::{Repair, Repaired};
use crate::error::RepositoryError;
use crate::keys::{SealedKeyRing, Slot};
use crate::layout;
use crate::signed::MAX_JSON;
use crate::store::ObjectPath;

impl Repair<'_> {
    /// The one that the repository was opened by is right. Earlier releases wrote no copy: that none is
    /// there yet is no finding.
    pub(super) fn config_copies(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        let right = &self.repository.config_file;
        for path in [layout::config(), layout::config_copy()] {
            let file = self.read(&path, MAX_JSON)?;
            if file.as_ref() == Some(right) {
                continue;
            }
            self.put(&path, right)?;
            if file.is_some() || path == layout::config() {
                repaired.mended.push(format!("{path} was damaged or gone and is written from its copy"));
            }
        }
        Ok(())
    }

    pub(super) fn key_copies(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        let repository = self.repository;
        let root = self.secret.and_then(|secret| repository.open_slot(secret).ok()).map(|(root, _)| root);
        for id in repository.slot_ids()? {
            let opens = |slot: &Slot| {
                self.secret.is_some_and(|secret| slot.unwrap(secret, repository.config.id).is_some())
            };
            let reads = |file: &[u8]| serde_json::from_slice(file).ok().filter(|slot: &Slot| slot.slot == id);
            let paths = [layout::slot(&id, 1), layout::slot(&id, 2)];
            self.two_copies(&paths, |file| reads(file).map(|slot| opens(&slot)), repaired)?;
        }
        let opens = |ring: SealedKeyRing| {
            root.as_ref().is_some_and(|root| ring.open(root, repository.config.id).is_some())
        };
        let judge = |file: &[u8]| serde_json::from_slice(file).ok().map(opens);
        self.two_copies(&[layout::keyring(1), layout::keyring(2)], judge, repaired)
    }

    /// Makes two files that should be equal so again. `judge` says `None` of what cannot be one, and whether
    /// it was proven by the secret of what can.
    fn two_copies(
        &self,
        paths: &[ObjectPath; 2],
        judge: impl Fn(&[u8]) -> Option<bool>,
        repaired: &mut Repaired,
    ) -> Result<(), RepositoryError> {
        let files = [self.read(&paths[0], MAX_JSON)?, self.read(&paths[1], MAX_JSON)?];
        let verdicts = files.each_ref().map(|file| file.as_deref().and_then(&judge));
        if files[0] == files[1] && verdicts[0].is_some() {
            return Ok(());
        }
        let right = match verdicts {
            [Some(true), _] => 0,
            [_, Some(true)] => 1,
            [Some(false), None] => 0,
            [None, Some(false)] => 1,
            [Some(false), Some(false)] => {
                let (one, other) = (&paths[0], &paths[1]);
                repaired
                    .left
                    .push(format!("{one} and {other} differ; the secret of theirs tells which is right"));
                return Ok(());
            }
            [None, None] => {
                repaired.left.push(format!("{} and its second copy are damaged", paths[0]));
                return Ok(());
            }
        };
        let bytes = files[right].as_deref().expect("it was judged");
        self.put(&paths[1 - right], bytes)?;
        repaired.mended.push(format!("{} was written again from its other copy", paths[1 - right]));
        Ok(())
    }
}
