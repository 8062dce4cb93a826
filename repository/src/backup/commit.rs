//! The commit: what makes a backup exist.
//!
//! Order, each step durable before the next: packs (before this is called) → index → everything in
//! `staging/<name>` → the rename to `<name>` → the chain line → the answer. Must stay true: before the
//! rename nothing is visible, after it everything is there; every step may be repeated, so a commit whose
//! answer was lost is simply called again with the same job and returns what it did.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::manifest::{ArchiveManifest, ArchiveRecord, BackupRecord, FORMAT, Outcome};
use crate::catalog_copy::CatalogCopy;
use crate::error::RepositoryError;
use crate::ingest::{lock, outcome_of};
use crate::keys::KeyRing;
use crate::layout;
use crate::names::BackupName;
use crate::refs::Refs;
use crate::repo::Repository;
use crate::signed::Sha256;
use crate::store::lease::LeaseError;
use crate::store::{ObjectPath, StoreError};
use crate::work::WorkId;

/// A commit that lost its place in the order takes the next one so often, and then whoever took them is no
/// accident.
const PLACES: usize = 3;

/// An archive that is ready to be committed.
#[derive(Debug, Clone)]
pub struct ArchiveDraft {
    /// What it is. `segments` and `blobs` are filled in by the commit.
    pub manifest: ArchiveManifest,
    /// Which blobs it needs; none if it failed.
    pub refs: Option<Refs>,
}

/// A backup that is ready to be committed.
#[derive(Debug, Clone)]
pub struct BackupDraft {
    /// From [`Repository::reserve_name`].
    pub name: BackupName,
    /// The job that made it; the same job commits its name once, however often it asks.
    pub job: String,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When its last archive ended.
    pub ended_at: Timestamp,
    /// Why it must be kept whatever its age.
    pub pin: Option<String>,
    /// At least one of them is not failed.
    pub archives: Vec<ArchiveDraft>,
    /// The catalog of whoever makes it; it is no part of the backup, and is kept for as long.
    pub catalog: Option<CatalogCopy>,
}

/// What a commit has done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommitStep {
    /// Older commits have their chain lines, and this one was not made before.
    Begun,
    /// A pack holds every blob that it needs.
    Resolved,
    /// An index file names every pack that it needs.
    Indexed,
    /// The first archive is staged.
    FirstStaged,
    /// The last archive is staged.
    LastStaged,
    /// Everything is staged but `backup.json`.
    Summed,
    /// `backup.json` is staged.
    Staged,
    /// The guard has allowed the rename.
    Allowed,
    /// The backup is there.
    Renamed,
    /// The backup is in the chain.
    Chained,
}

/// Watches over a commit.
pub trait Guard {
    /// Says whether this process may still write; it is asked right before the rename.
    fn may_write(&self) -> Result<(), LeaseError>;

    /// A step is done, and durable where it wrote; the next begins when this returns.
    fn done(&self, step: CommitStep);
}

impl Repository {
    /// Commits a backup under the eyes of `guard`.
    pub fn commit(
        &self,
        draft: &BackupDraft,
        keys: &KeyRing,
        now: Timestamp,
        guard: &dyn Guard,
    ) -> Result<BackupRecord, RepositoryError> {
        let _one_at_a_time = lock(&self.commits);
        // Forgotten on every way out but the good ones: then the next one reads the chain again.
        let mut known = lock(&self.chain_end);
        let mut end = self.continued(known.take(), keys, now)?;
        if let Some(record) = self.committed(draft)? {
            if !self.is_place_of_another(&record)? {
                *known = Some(end);
                return Ok(record);
            }
            self.make_way(&draft.name, guard)?;
        }
        guard.done(CommitStep::Begun);
        self.resolve_all(draft)?;
        guard.done(CommitStep::Resolved);
        self.write_indexes(draft)?;
        guard.done(CommitStep::Indexed);
        for _ in 0..PLACES {
            let (record, digest) = self.stage(draft, keys, end.next_sequence(), end.head()?, guard)?;
            self.announce(&record)?;
            guard.may_write().map_err(RepositoryError::Fenced)?;
            guard.done(CommitStep::Allowed);
            self.store.publish(
                &layout::staged(&draft.name),
                &layout::backup(&draft.name),
                layout::BACKUP_JSON,
            )?;
            guard.done(CommitStep::Renamed);
            let (longer, is_added) = self.add_line(end, (&record, digest), keys, now)?;
            end = longer;
            if is_added || !self.is_place_of_another(&record)? {
                *known = Some(end);
                guard.done(CommitStep::Chained);
                return Ok(record);
            }
            self.make_way(&draft.name, guard)?;
        }
        Err(RepositoryError::Fenced(LeaseError::Contended))
    }

    /// True if another backup has the line of the chain with this one's sequence: then nobody was told of this
    /// one, and it takes another place in the order.
    fn is_place_of_another(&self, record: &BackupRecord) -> Result<bool, RepositoryError> {
        Ok(self.chain_line(record.sequence)?.is_some_and(|line| line.name != record.name))
    }

    /// Takes a published backup that was never acknowledged away, so that its name is free for the next try.
    fn make_way(&self, name: &BackupName, guard: &dyn Guard) -> Result<(), RepositoryError> {
        guard.may_write().map_err(RepositoryError::Fenced)?;
        tracing::warn!(backup = %name, "another backup has its place in the order; it takes the next one");
        let garbage = layout::trash_backup(name);
        self.store.withdraw(&layout::backup(name), &garbage, layout::BACKUP_JSON)?;
        Ok(self.store.delete_folder(&garbage)?)
    }

    fn committed(&self, draft: &BackupDraft) -> Result<Option<BackupRecord>, RepositoryError> {
        match self.backup(&draft.name) {
            Ok(record) if record.job == draft.job => Ok(Some(record)),
            Ok(_) => Err(StoreError::AlreadyExists { path: layout::backup(&draft.name) }.into()),
            Err(RepositoryError::NoBackup { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn resolve_all(&self, draft: &BackupDraft) -> Result<(), RepositoryError> {
        let work: Option<WorkId> = draft.job.parse().ok();
        for archive in &draft.archives {
            let Some(refs) = &archive.refs else { continue };
            let count = self.missing(&archive.manifest.domain, refs, work.as_ref())?.len();
            if count > 0 {
                return Err(RepositoryError::Unresolved {
                    source_id: archive.manifest.source.clone(),
                    count,
                });
            }
        }
        Ok(())
    }

    /// Indexes what the jobs of these domains have taken in, other attempts' packs included: what is
    /// indexed can be used again.
    fn write_indexes(&self, draft: &BackupDraft) -> Result<(), RepositoryError> {
        let domains: BTreeSet<_> = draft.archives.iter().map(|archive| archive.manifest.domain).collect();
        for domain in domains {
            let state = self.domain(&domain)?;
            self.index_what_is_not(domain, &mut lock(&state))?;
        }
        Ok(())
    }

    fn stage(
        &self,
        draft: &BackupDraft,
        keys: &KeyRing,
        sequence: u64,
        previous: Option<Sha256>,
        guard: &dyn Guard,
    ) -> Result<(BackupRecord, Sha256), RepositoryError> {
        let staged = layout::staged(&draft.name);
        let (place, last) = (layout::backup(&draft.name), layout::BACKUP_JSON);
        let folder = self.store.stage(&staged, &place, last, &draft.job)?;
        let mut files = Staged { repository: self, folder, sums: Vec::new() };
        let mut drafts: Vec<&ArchiveDraft> = draft.archives.iter().collect();
        drafts.sort_by(|a, b| a.manifest.source.cmp(&b.manifest.source));
        let mut archives = Vec::with_capacity(drafts.len());
        for archive in drafts {
            archives.push(files.archive(archive)?);
            if archives.len() == 1 {
                guard.done(CommitStep::FirstStaged);
            }
        }
        guard.done(CommitStep::LastStaged);
        if let Some(catalog) = &draft.catalog {
            let place = layout::catalog_beside(&draft.name);
            let sealed = catalog.seal(&place, self.config.id, &self.sealing_key(), keys.signing());
            files.create(&files.folder.join(layout::CATALOG), &sealed)?;
        }
        let outcome = outcome_of(archives.iter().map(|archive| archive.outcome)).unwrap_or(Outcome::Failed);
        assert!(outcome != Outcome::Failed, "a backup with nothing in it is not committed");
        let record = BackupRecord {
            format: FORMAT,
            repository: self.config.id,
            name: draft.name.clone(),
            sequence,
            job: draft.job.clone(),
            started_at: draft.started_at,
            ended_at: draft.ended_at,
            outcome,
            pin: draft.pin.clone(),
            previous,
            archives,
        };
        let signed = keys.signing().sign(&record);
        files.sums.push((layout::BACKUP_JSON.to_owned(), signed.digest()));
        files.write(layout::RESTORE_MD, super::listing::restore_md(&record).as_bytes())?;
        let sums: String = files.sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
        let folder = files.folder;
        self.store.create(&folder.join(layout::SHA256SUMS), sums.as_bytes())?;
        guard.done(CommitStep::Summed);
        self.store.create(&staged.join(layout::BACKUP_JSON), signed.bytes())?;
        guard.done(CommitStep::Staged);
        Ok((record, signed.digest()))
    }
}

/// The files of a staged backup, with their sums.
struct Staged<'a> {
    repository: &'a Repository,
    folder: ObjectPath,
    sums: Vec<(String, Sha256)>,
}

impl Staged<'_> {
    fn archive(&mut self, draft: &ArchiveDraft) -> Result<ArchiveRecord, RepositoryError> {
        let mut manifest = draft.manifest.clone();
        let source = manifest.source.clone();
        let folder = self.folder.clone();
        let mut refs_sum = None;
        if let Some(refs) = &draft.refs {
            manifest.segments = refs.segments().len() as u64;
            manifest.blobs = refs.blobs();
            refs_sum = Some(self.put(&layout::refs(&folder, &source), &refs.encode())?);
        }
        let json = serde_json::to_vec_pretty(&manifest).expect("a manifest has a JSON form");
        let manifest_sum = self.put(&layout::manifest(&folder, &source), &json)?;
        Ok(ArchiveRecord {
            source,
            kind: manifest.kind,
            outcome: manifest.outcome,
            reason: manifest.reason,
            consistency: manifest.consistency,
            signed: manifest.signed,
            signer: manifest.signer,
            counts: manifest.counts,
            manifest: manifest_sum,
            refs: refs_sum,
        })
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<Sha256, RepositoryError> {
        let path = self.folder.join(name);
        self.put(&path, bytes)
    }

    fn create(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), RepositoryError> {
        let store = &self.repository.store;
        match store.create(path, bytes) {
            // Of an earlier attempt, and the list by which those were cleared away did not show it.
            Err(StoreError::AlreadyExists { .. }) if store.lists_may_lag() => {
                store.delete(path)?;
                Ok(store.create(path, bytes)?)
            }
            other => Ok(other?),
        }
    }

    fn put(&mut self, path: &ObjectPath, bytes: &[u8]) -> Result<Sha256, RepositoryError> {
        self.create(path, bytes)?;
        let name = path.as_str()[self.folder.as_str().len() + 1..].to_owned();
        let sum = Sha256::of(bytes);
        self.sums.push((name, sum));
        Ok(sum)
    }
}
