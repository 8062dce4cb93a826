//! What people want kept: pins of single backups, and the rules for all. Both are signed notes in the
//! repository, so that a catalog that was lost costs none of them.
//!
//! A note is never changed: a new one with a higher number takes its place. Must stay true: what cannot be
//! read keeps more, never less. A backup with a pin note that cannot be read counts as pinned; rules that
//! cannot be read are an error, so that nothing is removed by older ones.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::manifest::BackupRecord;
use crate::error::RepositoryError;
use crate::ingest::lock;
use crate::keys::KeyRing;
use crate::layout;
use crate::names::BackupName;
use crate::repo::Repository;
use crate::retention::Rules;
use crate::side_by_side::side_by_side;
use crate::signed::{MAX_JSON, SignedError};
use crate::store::ObjectPath;

/// Why a backup counts as pinned whose note cannot be read.
const UNREADABLE: &str = "a note in repository/pins cannot be read; unpin it to go by the age again";

/// `repository/pins/<sequence>.<number>.json`: somebody pinned a backup, or took the pin back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinNote {
    /// The backup's place in the order.
    pub sequence: u64,
    /// Its name.
    pub backup: BackupName,
    /// Counted from 1 for each backup; the highest counts.
    pub number: u32,
    /// Why it is to be kept; none: it is not pinned any more.
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// `repository/retention/<number>.json`: the rules that count from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesNote {
    /// Counted from 1; the highest counts.
    pub number: u32,
    /// The rules.
    pub rules: Rules,
    /// When.
    pub at: Timestamp,
}

/// The pins that were set or taken back since the backups were made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pins(BTreeMap<u64, (u32, Option<String>)>);

impl Pins {
    /// Why this backup is to be kept, if somebody wants it.
    pub fn of(&self, record: &BackupRecord) -> Option<String> {
        match self.0.get(&record.sequence) {
            Some((_, reason)) => reason.clone(),
            None => record.pin.clone(),
        }
    }
}

impl Repository {
    /// All pins that were set or taken back later than with `backup.json`.
    pub fn pins(&self) -> Result<Pins, RepositoryError> {
        let mut newest: BTreeMap<u64, u32> = BTreeMap::new();
        for listed in self.store.list(Some(&layout::pins()))? {
            let Some((sequence, number)) = layout::pin_note_named(&listed.name) else { continue };
            let known = newest.entry(sequence).or_default();
            *known = number.max(*known);
        }
        let newest: Vec<(u64, u32)> = newest.into_iter().collect();
        let reasons = side_by_side(&newest, |(sequence, number)| self.pin_reason(*sequence, *number))?;
        let pins = newest.into_iter().zip(reasons);
        Ok(Pins(pins.map(|((sequence, number), reason)| (sequence, (number, reason))).collect()))
    }

    /// Why this backup is to be kept, by what lies there at this moment: a list may lag behind, a name does not.
    pub(crate) fn pin_now(
        &self,
        record: &BackupRecord,
        pins: &Pins,
    ) -> Result<Option<String>, RepositoryError> {
        let listed = pins.0.get(&record.sequence).map_or(0, |(number, _)| *number);
        match self.last_pin(record.sequence, pins)? {
            last if last == listed => Ok(pins.of(record)),
            last => self.pin_reason(record.sequence, last),
        }
    }

    fn last_pin(&self, sequence: u64, pins: &Pins) -> Result<u32, RepositoryError> {
        let listed = pins.0.get(&sequence).map_or(0, |(number, _)| *number);
        self.last_there(listed, |number| layout::pin_note(sequence, number))
    }

    /// The last of numbered notes, of which a list shows those up to `listed` at least.
    fn last_there(&self, listed: u32, path: impl Fn(u32) -> ObjectPath) -> Result<u32, RepositoryError> {
        let mut last = listed;
        loop {
            match self.store.size(&path(last + 1)) {
                Ok(_) => last += 1,
                Err(error) if error.is_not_found() => return Ok(last),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn pin_reason(&self, sequence: u64, number: u32) -> Result<Option<String>, RepositoryError> {
        let note = match self.signed_note::<PinNote>(&layout::pin_note(sequence, number)) {
            // Whatever it says: nothing goes for it.
            Err(error) if error.is_of_one_object() => return Ok(Some(UNREADABLE.to_owned())),
            other => other?,
        };
        Ok(match note {
            Ok(note) if (note.sequence, note.number) == (sequence, number) => note.reason,
            Ok(_) | Err(_) => Some(UNREADABLE.to_owned()),
        })
    }

    /// Pins a backup for `reason`, or takes its pin back. One that is so already is fine.
    pub fn set_pin(
        &self,
        name: &BackupName,
        reason: Option<&str>,
        keys: &KeyRing,
        now: Timestamp,
    ) -> Result<BackupRecord, RepositoryError> {
        // Whoever removes backups holds it too: a backup is pinned or removed, never both.
        let _one_at_a_time = lock(&self.commits);
        let mut record = self.backup(name)?;
        let pins = self.pins()?;
        if self.pin_now(&record, &pins)?.as_deref() != reason {
            let sequence = record.sequence;
            let number = self.last_pin(sequence, &pins)? + 1;
            let reason = reason.map(str::to_owned);
            let note = PinNote { sequence, backup: name.clone(), number, reason, at: now };
            self.store.create(&layout::pin_note(sequence, number), keys.signing().sign(&note).bytes())?;
        }
        record.pin = reason.map(str::to_owned);
        Ok(record)
    }

    /// The rules that were set last, if any were.
    pub fn rules(&self) -> Result<Option<Rules>, RepositoryError> {
        let Some(number) = self.last_rules()? else { return Ok(None) };
        let path = layout::rules_note(number);
        let note = self.signed_note::<RulesNote>(&path)?;
        note.map(|note| Some(note.rules)).map_err(|source| RepositoryError::Signature { path, source })
    }

    /// From now on these rules count.
    pub fn set_rules(&self, rules: &Rules, keys: &KeyRing, now: Timestamp) -> Result<(), RepositoryError> {
        let _one_at_a_time = lock(&self.commits);
        let number = self.last_rules()?.unwrap_or(0) + 1;
        let note = RulesNote { number, rules: rules.clone(), at: now };
        Ok(self.store.create(&layout::rules_note(number), keys.signing().sign(&note).bytes())?)
    }

    fn last_rules(&self) -> Result<Option<u32>, RepositoryError> {
        let listed = self.store.list(Some(&layout::rules_notes()))?;
        let listed = listed.iter().filter_map(|listed| layout::rules_note_named(&listed.name)).max();
        let last = self.last_there(listed.unwrap_or(0), layout::rules_note)?;
        Ok((last > 0).then_some(last))
    }

    /// A note, or what is wrong with it. That the storage failed is an error: a note may not be overlooked.
    fn signed_note<T: DeserializeOwned>(
        &self,
        path: &ObjectPath,
    ) -> Result<Result<T, SignedError>, RepositoryError> {
        let file = self.store.read(path, MAX_JSON)?;
        Ok(self.config.signing_key.verify(&file))
    }
}
