//! What is alive: every blob that a committed backup needs, from every manifest and every refs file.
//!
//! Must stay true: what cannot be read stops it. A backup that is damaged, or gone without a note, may be
//! repaired or brought back tomorrow, and its blobs must be there then; so may one of which not even the
//! chain says any more which it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::{BATCH, Phase, PruneError, Watch};
use crate::backup::manifest::BackupRecord;
use crate::codec::Malformed;
use crate::error::RepositoryError;
use crate::ids::DomainId;
use crate::ingest::lock;
use crate::layout;
use crate::names::BackupName;
use crate::refs::Refs;
use crate::repo::Repository;
use crate::side_by_side::side_by_side;
use crate::store::ListedKind;

/// The blobs that are needed, domain by domain. Grows only.
#[derive(Debug, Default)]
pub(super) struct Live {
    walked: BTreeSet<BackupName>,
    domains: BTreeMap<DomainId, Refs>,
}

impl Live {
    /// As if these backups were not there: for questions, never for deeds.
    pub(super) fn without(backups: &[BackupName]) -> Self {
        Self { walked: backups.iter().cloned().collect(), domains: BTreeMap::new() }
    }

    pub(super) fn of(&self, domain: DomainId) -> std::borrow::Cow<'_, Refs> {
        match self.domains.get(&domain) {
            Some(refs) => std::borrow::Cow::Borrowed(refs),
            None => std::borrow::Cow::Owned(Refs::new(domain)),
        }
    }

    /// False if they do not fit what others say of the same segments.
    fn add(&mut self, refs: &Refs) -> bool {
        self.domains.entry(refs.domain()).or_insert_with(|| Refs::new(refs.domain())).merge(refs)
    }
}

impl Repository {
    /// Adds to `live` what the backups need that it does not know yet.
    pub(super) fn walk(&self, live: &mut Live, watch: &dyn Watch) -> Result<(), RepositoryError> {
        let listing = self.list()?;
        if let Some((backup, source)) = listing.damaged.into_iter().next() {
            return Err(PruneError::Unreadable { backup, source: Box::new(source) }.into());
        }
        if let Some(backup) = listing.lost.into_iter().find(|name| !live.walked.contains(name)) {
            return Err(PruneError::Missing { backup }.into());
        }
        if let Some(sequence) = listing.unknown.first().copied() {
            return Err(PruneError::Unknown { sequence }.into());
        }
        let unknown: Vec<&BackupRecord> =
            listing.backups.iter().filter(|record| !live.walked.contains(&record.name)).collect();
        let total = unknown.len() as u64;
        for (records, before) in unknown.chunks(BATCH).zip((0..).step_by(BATCH)) {
            if watch.is_cancelled() {
                return Err(RepositoryError::Cancelled);
            }
            // What was read is merged by whoever read it, so that few refs are in memory at once.
            let merged = Mutex::new(&mut *live);
            side_by_side(records, |record| match self.walk_one(record, &merged) {
                Err(error) if error.is_of_one_object() => {
                    let backup = record.name.clone();
                    Err(PruneError::Unreadable { backup, source: Box::new(error) }.into())
                }
                other => other,
            })?;
            live.walked.extend(records.iter().map(|record| record.name.clone()));
            watch.progress(Phase::Reading, before + records.len() as u64, total);
        }
        Ok(())
    }

    /// Adds what was committed since, and reads no other backup again. No backup is retired meanwhile. A
    /// list may lag: who committed a moment ago is known by name.
    pub(super) fn walk_new(&self, live: &mut Live) -> Result<(), RepositoryError> {
        let mut names = self.known_names()?;
        let listed = self.store.list(None)?.into_iter().filter(|listed| listed.kind == ListedKind::Folder);
        names.extend(listed.filter_map(|listed| listed.name.parse().ok()));
        names.retain(|name| !live.walked.contains(name));
        self.retired()?.iter().for_each(|note| {
            names.remove(&note.name);
        });
        for name in names {
            let merged = Mutex::new(&mut *live);
            match self.backup(&name).and_then(|record| self.walk_one(&record, &merged)) {
                Err(error) if error.is_foreign() => continue,
                Err(error) if error.is_of_one_object() => {
                    return Err(PruneError::Unreadable { backup: name, source: Box::new(error) }.into());
                }
                other => other?,
            }
            live.walked.insert(name);
        }
        Ok(())
    }

    fn walk_one(&self, record: &BackupRecord, live: &Mutex<&mut Live>) -> Result<(), RepositoryError> {
        for archive in &record.archives {
            let manifest = self.archive(record, &archive.source)?;
            if archive.refs.is_none() {
                continue;
            }
            let refs = self.refs(record, &archive.source)?;
            if refs.domain() != manifest.domain || !lock(live).add(&refs) {
                let path = layout::refs(&layout::backup(&record.name), &archive.source);
                let source = Malformed::new("refs", "they do not fit the other backups");
                return Err(RepositoryError::Damaged { path, source });
            }
        }
        Ok(())
    }
}
