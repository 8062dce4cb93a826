//! The chain: lost and damaged lines, from the backups that they are of, or the notes that retired these.
//!
//! Must stay true: a line that is written anew says so, when, and for which SHA-256 it stands; nothing is
//! said of a backup but what its own signed record, or the signed note about it, says; and a place is given up
//! only where nothing tells of it.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::with_one_byte_right;
use super::{GiveUp, Repair, Repaired};
use crate::backup::manifest::{BackupRecord, ChainLine};
use crate::error::RepositoryError;
use crate::ingest::lock;
use crate::layout;
use crate::names::BackupName;
use crate::prune::RetiredNote;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::ListedKind;

/// By sequence: each line's bytes, and what it says if it is sound.
type Lines = BTreeMap<u64, (Vec<u8>, Option<ChainLine>)>;

impl Repair<'_> {
    pub(super) fn chain(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        let records = self.sound_records()?;
        let notes: BTreeMap<u64, RetiredNote> =
            self.repository.retired()?.into_iter().map(|note| (note.sequence, note)).collect();
        let mut lines = self.lines()?;
        let listed = self.repository.store.list(Some(&layout::chain()))?;
        let given_up = self.repository.given_up(&listed)?;
        let places = self.give_up.iter().filter_map(|what| match what {
            GiveUp::Place(sequence) => Some(*sequence),
            GiveUp::Backup(_) => None,
        });
        let mut asked: BTreeSet<u64> = places.collect();
        let known = lines.keys().chain(records.keys()).chain(given_up.keys());
        let highest = known.max().copied().unwrap_or(0);
        // From the newest back: each line says what the one before it was.
        for sequence in (1..=highest).rev() {
            let found = lines.get(&sequence);
            if found.is_some_and(|(_, line)| line.is_some()) {
                continue;
            }
            let after = sequence + 1;
            let told = lines.get(&after).and_then(|(_, line)| line.as_ref()).map(|line| line.previous);
            let told = told.or_else(|| records.get(&after).map(|(record, _)| record.previous)).flatten();
            let path = layout::chain_line(sequence);
            let mended = told.and_then(|sum| with_one_byte_right(&found?.0, sum));
            if let Some(file) = mended {
                self.put(&path, &file)?;
                repaired.mended.push(format!("line {sequence} of the chain: one byte was wrong"));
                let line = self.repository.config.signing_key.verify(&file).ok();
                lines.insert(sequence, (file, line));
                continue;
            }
            let before = given_up.get(&(sequence - 1)).map(|given| given.digest).or_else(|| {
                let (file, line) = lines.get(&(sequence - 1))?;
                Some(line.as_ref().and_then(|line| line.stands_for).unwrap_or(Sha256::of(file)))
            });
            let told_by = records
                .get(&sequence)
                .map(|(record, backup)| (record.name.clone(), *backup, record.previous))
                .or_else(|| notes.get(&sequence).map(|note| (note.name.clone(), note.backup, before)));
            let (Some(keys), Some((name, backup, previous))) = (self.keys, told_by) else {
                if given_up.contains_key(&sequence) {
                    asked.remove(&sequence);
                } else if asked.remove(&sequence) {
                    self.give_up_place(sequence, told, repaired)?;
                } else if found.is_some() {
                    repaired.left.push(format!(
                        "line {sequence} of the chain: nothing else tells of its backup (`--give-up {sequence}`: do without it)"
                    ));
                }
                continue;
            };
            let line = ChainLine { sequence, name, backup, previous, at: self.now, stands_for: told };
            let file = keys.signing().sign(&line);
            self.put(&path, file.bytes())?;
            repaired
                .mended
                .push(format!("line {sequence} of the chain was written anew from what tells of its backup"));
            lines.insert(sequence, (file.bytes().to_vec(), Some(line)));
        }
        let known = asked.into_iter().map(|sequence| {
            format!(
                "place {sequence} of the chain was not given up: it is known what it is, or there is none"
            )
        });
        repaired.left.extend(known);
        *lock(&self.repository.chain_end) = None;
        Ok(())
    }

    fn lines(&self) -> Result<Lines, RepositoryError> {
        let mut lines = Lines::new();
        for listed in self.repository.store.list(Some(&layout::chain()))? {
            let Some((sequence, path)) = layout::chain_line_named(&listed.name) else { continue };
            let file = self.read(&path, MAX_JSON)?.unwrap_or_default();
            let line = self.repository.config.signing_key.verify::<ChainLine>(&file).ok();
            lines.insert(sequence, (file, line.filter(|line| line.sequence == sequence)));
        }
        Ok(lines)
    }

    fn sound_records(&self) -> Result<BTreeMap<u64, (BackupRecord, Sha256)>, RepositoryError> {
        let mut records = BTreeMap::new();
        for name in self.backup_names()? {
            match self.repository.backup_with_digest(&name) {
                Ok((record, digest)) => records.insert(record.sequence, (record, digest)),
                Err(error) if error.is_of_one_object() || error.is_foreign() => continue,
                Err(error) => return Err(error),
            };
        }
        Ok(records)
    }

    /// Every folder with the name of a backup.
    pub(super) fn backup_names(&self) -> Result<Vec<BackupName>, RepositoryError> {
        let listed = self.repository.store.list(None)?;
        let folders = listed.iter().filter(|listed| listed.kind == ListedKind::Folder);
        Ok(folders.filter_map(|listed| listed.name.parse().ok()).collect())
    }
}
