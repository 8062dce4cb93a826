//! What a person does without, so that the rest can go on: a place in the order, or a backup.
//!
//! Must stay true: only what is lost or damaged can be given up, and no sound backup goes; that it was given up
//! is durable before its folder is touched; what is left of the folder is put aside in `quarantine/`, where
//! prune does not look (in a bucket it is deleted).

use std::str::FromStr;

use super::{Repair, Repaired};
use crate::backup::given_up::GivenUpNote;
use crate::backup::manifest::ChainLine;
use crate::error::RepositoryError;
use crate::ingest::lock;
use crate::layout;
use crate::names::BackupName;
use crate::prune::RetiredNote;
use crate::signed::Sha256;
use crate::store::StoreError;

/// Why a backup was retired that somebody gave up.
const RULE: &str = "lost or damaged, and given up by a person";

/// What is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveUp {
    /// A place in the order whose line and backup are lost.
    Place(u64),
    /// A backup that is gone, or whose own description is not to be had.
    Backup(BackupName),
}

impl FromStr for GiveUp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.parse().ok().filter(|place| *place > 0).map(GiveUp::Place);
        place.or_else(|| text.parse().ok().map(GiveUp::Backup)).ok_or_else(|| {
            "expected a place in the order, like 7, or a backup, like 20260101_010000".to_owned()
        })
    }
}

impl Repair<'_> {
    /// Gives a place up; what stands in its way is told.
    pub(super) fn give_up_place(
        &self,
        sequence: u64,
        stands_for: Option<Sha256>,
        repaired: &mut Repaired,
    ) -> Result<(), RepositoryError> {
        let Some(keys) = self.keys else {
            repaired.left.push(format!("place {sequence} of the chain: to give it up needs the key"));
            return Ok(());
        };
        let note = keys.signing().sign(&GivenUpNote { sequence, at: self.now, stands_for });
        self.put(&layout::given_up(sequence), note.bytes())?;
        repaired.mended.push(format!("place {sequence} of the chain was given up"));
        Ok(())
    }

    /// Gives backups up.
    pub(super) fn give_up_backups(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        for what in self.give_up {
            let GiveUp::Backup(name) = what else { continue };
            let chain = self.repository.chain()?;
            let line = chain.lines.iter().find(|line| line.name == *name);
            let why = match (self.repository.backup(name), line) {
                (Ok(_), _) => "it is sound; retention takes it away when its time comes",
                (Err(error), _) if !error.is_of_one_object() && !error.is_foreign() => return Err(error),
                (Err(error), None) if error.is_foreign() => "there is no such backup",
                (Err(_), Some(_)) if self.keys.is_none() => "that needs the key",
                (Err(_), line) => {
                    self.give_up_backup(name, line)?;
                    repaired.mended.push(format!("{name} was given up"));
                    continue;
                }
            };
            repaired.left.push(format!("{name} was not given up: {why}"));
        }
        Ok(())
    }

    fn give_up_backup(&self, name: &BackupName, line: Option<&ChainLine>) -> Result<(), RepositoryError> {
        if let (Some(line), Some(keys)) = (line, self.keys) {
            let (sequence, name, backup) = (line.sequence, name.clone(), line.backup);
            let note = RetiredNote { sequence, name, backup, rule: RULE.to_owned(), at: self.now };
            self.put(&layout::retired(sequence), keys.signing().sign(&note).bytes())?;
        }
        if !self.writes()? {
            return Ok(());
        }
        let aside = layout::quarantined_backup(name);
        match self.repository.store.withdraw(&layout::backup(name), &aside, layout::BACKUP_JSON) {
            Err(StoreError::NotFound { .. }) => {}
            other => other?,
        }
        *lock(&self.repository.chain_end) = None;
        Ok(())
    }
}
