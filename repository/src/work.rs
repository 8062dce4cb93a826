//! Leases of running work: whom prune waits for.
//!
//! A backup builds on blobs that it was told of an hour ago, a restore reads packs that it looked up at its
//! start. Each holds a lease for as long as it lasts, and prune takes nothing away that it marked while
//! they ran. Must stay true: a lease only delays; that nothing is lost rests on the commit, which asks again
//! for every blob. In this process the register counts; the object in the store tells the next process,
//! and is worth nothing once it expired.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::RepositoryError;
use crate::ingest::lock;
use crate::layout;
use crate::names::BackupName;
use crate::repo::Repository;
use crate::store::{ListedKind, Store, StoreError};

/// How long a lease outlives its process.
pub const LEASE_TTL: SignedDuration = SignedDuration::from_hours(24);

const MAX_RECORD: u64 = 1 << 20;

/// Who works: 1 to 64 of `a-z`, `0-9` and `-`. The controller uses the job's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkId(String);

/// A text is not the id of work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id of work has 1 to 64 of a-z, 0-9 and '-'")]
pub struct InvalidWorkId;

impl FromStr for WorkId {
    type Err = InvalidWorkId;
    fn from_str(text: &str) -> Result<Self, InvalidWorkId> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_id = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
        is_id.then(|| Self(text.to_owned())).ok_or(InvalidWorkId)
    }
}

impl TryFrom<String> for WorkId {
    type Error = InvalidWorkId;
    fn try_from(text: String) -> Result<Self, InvalidWorkId> {
        text.parse()
    }
}

impl From<WorkId> for String {
    fn from(id: WorkId) -> String {
        id.0
    }
}

impl fmt::Display for WorkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// It may build on what it was told is there.
    Backup,
    /// It reads a backup into a target.
    Restore,
    /// It reads a backup to prove it.
    Verification,
    /// It reads for people: lists, searches, exports.
    Reading,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRecord {
    /// Whose.
    pub id: WorkId,
    /// What is done.
    pub kind: WorkKind,
    /// The backups that are read; they are not retired meanwhile.
    pub backups: Vec<BackupName>,
    /// Since when.
    pub began: Timestamp,
    /// Until when the object counts, should its process be gone.
    pub expires: Timestamp,
}

/// The leases of this process.
#[derive(Debug, Default)]
pub(crate) struct Register(Mutex<Registered>);

#[derive(Debug, Default)]
pub(crate) struct Registered {
    held: BTreeMap<WorkId, Held>,
    /// Ended, with an object that is still to be deleted.
    ended: BTreeSet<WorkId>,
}

#[derive(Debug)]
struct Held {
    record: WorkRecord,
    holders: usize,
}

impl Register {
    /// While this is held, no work begins or ends.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Registered> {
        lock(&self.0)
    }
}

impl Registered {
    pub(crate) fn records(&self) -> impl Iterator<Item = &WorkRecord> {
        self.held.values().map(|held| &held.record)
    }

    /// This process knows: it holds one, or held one that has ended.
    fn knows(&self, id: &WorkId) -> bool {
        self.held.contains_key(id) || self.ended.contains(id)
    }

    fn begin(&mut self, record: WorkRecord) -> WorkRecord {
        self.ended.remove(&record.id);
        let held = self.held.entry(record.id.clone()).or_insert_with(|| Held {
            record: WorkRecord { backups: Vec::new(), ..record.clone() },
            holders: 0,
        });
        held.holders += 1;
        held.record.expires = record.expires;
        held.record.backups.extend(record.backups);
        held.record.backups.sort();
        held.record.backups.dedup();
        held.record.clone()
    }

    fn end(&mut self, id: &WorkId) {
        let Some(held) = self.held.get_mut(id) else { return };
        held.holders -= 1;
        if held.holders == 0 {
            self.held.remove(id);
            self.ended.insert(id.clone());
        }
    }
}

/// A held lease. Dropped, it has ended; its object goes with the next call that looks at leases.
#[derive(Debug)]
pub struct Work {
    id: WorkId,
    register: Arc<Register>,
    store: Arc<dyn Store>,
}

impl Work {
    /// Whose it is.
    pub fn id(&self) -> &WorkId {
        &self.id
    }

    /// Ends it and deletes its object at once.
    pub fn end(self) {
        let (register, store) = (self.register.clone(), self.store.clone());
        drop(self);
        sweep(&register, &*store);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.register.lock().end(&self.id);
    }
}

impl Repository {
    /// Begins work, or goes on with it under the same id: then a mark that waits for it still does.
    ///
    /// Where no space is left, the lease is in this process's register alone: who wants to restore from a
    /// full disk can.
    pub fn begin_work(
        &self,
        id: &WorkId,
        kind: WorkKind,
        backups: &[BackupName],
        now: Timestamp,
    ) -> Result<Work, RepositoryError> {
        let record =
            WorkRecord { id: id.clone(), kind, backups: backups.to_vec(), began: now, expires: expiry(now) };
        let record = self.register.lock().begin(record);
        let work = Work { id: id.clone(), register: self.register.clone(), store: self.store.clone() };
        self.write_lease(&record)?;
        sweep(&self.register, &*self.store);
        Ok(work)
    }

    /// Makes the leases that are held last on. To be called once an hour.
    pub fn renew_work(&self, now: Timestamp) -> Result<(), RepositoryError> {
        let records: Vec<WorkRecord> = {
            let mut register = self.register.lock();
            register.held.values_mut().for_each(|held| held.record.expires = expiry(now));
            register.records().cloned().collect()
        };
        records.iter().try_for_each(|record| self.write_lease(record))?;
        {
            // What ended meanwhile has an object again.
            let mut register = self.register.lock();
            let ended = records.into_iter().map(|record| record.id);
            let ended: Vec<WorkId> = ended.filter(|id| !register.held.contains_key(id)).collect();
            register.ended.extend(ended);
        }
        sweep(&self.register, &*self.store);
        Ok(())
    }

    /// Who is at work, here or in another process.
    pub fn work(&self, now: Timestamp) -> Result<Vec<WorkRecord>, RepositoryError> {
        sweep(&self.register, &*self.store);
        let others = self.leases_of_others(now)?;
        let register = self.register.lock();
        Ok(register.records().cloned().chain(others).collect())
    }

    /// Deletes the objects of work that has ended: to be called before this process ends, so that the next
    /// one waits for nobody.
    pub fn clear_ended_work(&self) {
        sweep(&self.register, &*self.store);
    }

    /// Ends work of a process that is no more, of which the caller knows that it has ended.
    pub fn end_work_of_the_dead(&self, id: &WorkId) -> Result<(), RepositoryError> {
        let register = self.register.lock();
        if register.knows(id) {
            return Ok(());
        }
        Ok(self.store.delete(&layout::work(id))?)
    }

    /// Leases that this process knows nothing of: another one, alive or dead, left them.
    pub(crate) fn leases_of_others(&self, now: Timestamp) -> Result<Vec<WorkRecord>, RepositoryError> {
        let mut others = Vec::new();
        for listed in self.store.list(Some(&layout::work_folder()))? {
            let id = listed.name.strip_suffix(".json").and_then(|id| id.parse::<WorkId>().ok());
            let (Some(id), ListedKind::Object { .. }) = (id, listed.kind) else { continue };
            if self.register.lock().knows(&id) {
                continue;
            }
            match self.read_lease(&id)? {
                Some(record) if record.expires > now => others.push(record),
                Some(_) => self.store.delete(&layout::work(&id))?,
                None => {}
            }
        }
        Ok(others)
    }

    fn read_lease(&self, id: &WorkId) -> Result<Option<WorkRecord>, RepositoryError> {
        let path = layout::work(id);
        let read = self.store.read(&path, MAX_RECORD).and_then(|bytes| {
            Ok((serde_json::from_slice::<WorkRecord>(&bytes).ok(), self.store.modified(&path)?))
        });
        match read {
            Ok((Some(record), _)) if record.id == *id => Ok(Some(record)),
            // Whose it was cannot be read; that it was one can.
            Ok((_, written)) => Ok(Some(WorkRecord {
                id: id.clone(),
                kind: WorkKind::Reading,
                backups: Vec::new(),
                began: written,
                expires: expiry(written),
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write_lease(&self, record: &WorkRecord) -> Result<(), RepositoryError> {
        let bytes = serde_json::to_vec_pretty(record).expect("our own types have a JSON form");
        match self.store.replace(&layout::work(&record.id), &bytes) {
            Err(error @ StoreError::Full { .. }) => {
                tracing::warn!(work = %record.id, %error, "the lease is in this process alone");
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

fn expiry(now: Timestamp) -> Timestamp {
    now.checked_add(LEASE_TTL).unwrap_or(Timestamp::MAX)
}

/// Deletes the objects of work that has ended. What cannot be deleted is tried again, and expires.
fn sweep(register: &Register, store: &dyn Store) {
    // Under the lock: work that begins anew under the same id writes its object afterwards.
    let mut register = register.lock();
    let ended = std::mem::take(&mut register.ended);
    for id in ended {
        if let Err(error) = store.delete(&layout::work(&id)) {
            tracing::warn!(work = %id, %error, "cannot delete the lease of work that has ended; it expires");
            register.ended.insert(id);
        }
    }
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
