//! Retiring a backup: a signed note that says so, for ever, and then its folder goes.
//!
//! Must stay true: the note is durable before the folder is touched, so that whatever a crash leaves is
//! either a backup or a note, and the next run finishes it; and no folder goes on the word of a note that
//! this repository's key did not sign.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BATCH, PruneStep, Watch};
use crate::error::RepositoryError;
use crate::ingest::lock;
use crate::keys::KeyRing;
use crate::layout;
use crate::names::BackupName;
use crate::repo::Repository;
use crate::side_by_side::side_by_side;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::{ListedKind, StoreError};

/// A backup that is to go, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    /// Which.
    pub name: BackupName,
    /// The rule, in one line: `older than 30 days`.
    pub rule: String,
}

/// What became of a list of retirements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetireReport {
    /// They are gone.
    pub retired: Vec<BackupName>,
    /// Running work reads them: they stay until it has ended and somebody asks again.
    pub in_use: Vec<BackupName>,
    /// Somebody pinned them since the decision was made: they stay.
    pub pinned: Vec<BackupName>,
}

/// `chain/<sequence>.pruned.json`: that a backup was taken away on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredNote {
    /// The backup's sequence.
    pub sequence: u64,
    /// Its name.
    pub name: BackupName,
    /// SHA-256 of its `backup.json`, as the chain has it.
    pub backup: Sha256,
    /// By which rule.
    pub rule: String,
    /// When.
    pub at: Timestamp,
}

/// The notes that this process has read: they never change.
#[derive(Debug, Default)]
pub(crate) struct KnownNotes(BTreeMap<u64, RetiredNote>);

impl Repository {
    /// Takes backups away. Which ones may go is the caller's decision; a backup that running work reads,
    /// or that was pinned meanwhile, stays. Backups that are damaged or lost can be retired as well, if the chain knows them.
    pub fn retire(
        &self,
        which: &[Retirement],
        keys: &KeyRing,
        watch: &dyn Watch,
    ) -> Result<RetireReport, RepositoryError> {
        let _alone = self.alone()?;
        self.finish_retiring_alone(watch)?;
        let mut report = RetireReport::default();
        for batch in which.chunks(BATCH) {
            watch.may_write().map_err(RepositoryError::Fenced)?;
            let _no_commit = lock(&self.commits);
            let now = watch.now();
            self.continue_chain(keys, now)?;
            let work = self.work(now)?;
            let pins = self.pins()?;
            for retirement in batch {
                let Retirement { name, rule } = retirement;
                if watch.is_cancelled() {
                    return Err(RepositoryError::Cancelled);
                }
                if work.iter().any(|work| work.backups.contains(name)) {
                    report.in_use.push(name.clone());
                    continue;
                }
                let found = self.backup_with_digest(name);
                if let Ok((record, _)) = &found
                    && self.pin_now(record, &pins)?.is_some()
                {
                    report.pinned.push(name.clone());
                    continue;
                }
                let found = match found {
                    Err(error)
                        if !error.is_of_one_object()
                            && !matches!(error, RepositoryError::NoBackup { .. }) =>
                    {
                        return Err(error);
                    }
                    found => found.map(|(record, digest)| (record.sequence, digest)),
                };
                let (sequence, backup) = self.in_chain(name, found)?;
                let (name, rule) = (name.clone(), one_line(rule));
                self.write_note(&RetiredNote { sequence, name, backup, rule, at: now }, keys, watch)?;
                watch.done(PruneStep::NoteWritten);
                self.withdraw(&retirement.name, watch)?;
                report.retired.push(retirement.name.clone());
            }
        }
        Ok(report)
    }

    /// A backup's sequence and the SHA-256 of its `backup.json`, as the chain has them. Asked by sequence; only
    /// where `found` in its folder is nothing to go by, the whole chain is looked through.
    fn in_chain(
        &self,
        name: &BackupName,
        found: Result<(u64, Sha256), RepositoryError>,
    ) -> Result<(u64, Sha256), RepositoryError> {
        let told = found.as_ref().ok().map(|(sequence, _)| self.chain_line(*sequence)).transpose()?.flatten();
        let line = match told.filter(|line| line.name == *name) {
            None => self.chain()?.lines.into_iter().find(|line| line.name == *name),
            told => told,
        };
        // Without one, its line is damaged or was never written.
        line.map_or(found, |line| Ok((line.sequence, line.backup)))
    }

    /// Finishes retirements that a crash cut off: a note is there, and so is the folder or what is left of
    /// it. Needs no key.
    pub fn finish_retiring(&self, watch: &dyn Watch) -> Result<Vec<BackupName>, RepositoryError> {
        let _alone = self.alone()?;
        self.finish_retiring_alone(watch)
    }

    pub(super) fn finish_retiring_alone(
        &self,
        watch: &dyn Watch,
    ) -> Result<Vec<BackupName>, RepositoryError> {
        let retired: BTreeMap<BackupName, RetiredNote> =
            self.retired()?.into_iter().map(|note| (note.name.clone(), note)).collect();
        let mut finished = Vec::new();
        for folder in [None, Some(&layout::trash())] {
            for listed in self.store.list(folder)? {
                let (Ok(name), ListedKind::Folder) = (listed.name.parse::<BackupName>(), listed.kind) else {
                    continue;
                };
                if !retired.contains_key(&name) || finished.contains(&name) {
                    continue;
                }
                watch.may_write().map_err(RepositoryError::Fenced)?;
                if self.withdraw(&name, watch)? {
                    finished.push(name);
                }
            }
        }
        Ok(finished)
    }

    /// Every backup that was retired, oldest first. A note that cannot be trusted is told in the log and
    /// does not count: what it was about is lost, until somebody retires it again.
    pub fn retired(&self) -> Result<Vec<RetiredNote>, RepositoryError> {
        let listed = self.store.list(Some(&layout::chain()))?;
        let sequences: Vec<u64> =
            listed.iter().filter_map(|listed| layout::retired_named(&listed.name)).collect();
        let notes = side_by_side(&sequences, |sequence| {
            let known = lock(&self.retired_notes).0.get(sequence).cloned();
            let note = known.map_or_else(|| self.read_note(*sequence), |note| Ok(Some(note)))?;
            if note.is_none() {
                tracing::warn!(
                    path = %layout::retired(*sequence),
                    "the note about a retired backup is not to be trusted or not to be read; it is passed over"
                );
            }
            Ok::<_, RepositoryError>(note)
        })?;
        Ok(notes.into_iter().flatten().collect())
    }

    fn read_note(&self, sequence: u64) -> Result<Option<RetiredNote>, RepositoryError> {
        let bytes = match self.store.read(&layout::retired(sequence), MAX_JSON) {
            Err(error) if error.is_unreadable() => return Ok(None),
            other => other?,
        };
        let note = self.config.signing_key.verify::<RetiredNote>(&bytes).ok();
        let note = note.filter(|note| note.sequence == sequence);
        if let Some(note) = &note {
            lock(&self.retired_notes).0.insert(sequence, note.clone());
        }
        Ok(note)
    }

    fn write_note(
        &self,
        note: &RetiredNote,
        keys: &KeyRing,
        watch: &dyn Watch,
    ) -> Result<(), RepositoryError> {
        let (path, signed) = (layout::retired(note.sequence), keys.signing().sign(note));
        self.with_room(watch, || match self.store.create(&path, signed.bytes()) {
            // One of an earlier attempt says the same; one that cannot be trusted is written anew.
            Err(StoreError::AlreadyExists { .. }) => match self.read_note(note.sequence)? {
                Some(earlier) if earlier.name == note.name => Ok(()),
                _ => {
                    self.store.replace(&path, signed.bytes())?;
                    lock(&self.retired_notes).0.remove(&note.sequence);
                    Ok(())
                }
            },
            other => Ok(other?),
        })
    }

    /// The folder's way out, from wherever it stands. False if what has its name is none of ours.
    fn withdraw(&self, name: &BackupName, watch: &dyn Watch) -> Result<bool, RepositoryError> {
        let (folder, garbage) = (layout::backup(name), layout::trash_backup(name));
        self.store.delete_folder(&garbage)?;
        let withdrawn =
            self.with_room(watch, || Ok(self.store.withdraw(&folder, &garbage, layout::BACKUP_JSON)?));
        match withdrawn {
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => return Ok(false),
            other => other?,
        }
        watch.done(PruneStep::Withdrawn);
        self.store.delete_folder(&garbage)?;
        watch.done(PruneStep::Retired);
        Ok(true)
    }
}

fn one_line(rule: &str) -> String {
    rule.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
