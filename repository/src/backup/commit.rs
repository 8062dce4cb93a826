//! The commit: what makes a backup exist.
//!
//! Order, each step durable before the next: packs (before this is called) → index → everything in
//! `staging/<name>` → the rename to `<name>` → the chain line → the answer. Must stay true: before the
//! rename nothing is visible, after it everything is there; every step may be repeated, so a commit whose
//! answer was lost is simply called again with the same job and returns what it did.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::manifest::{ArchiveManifest, ArchiveRecord, BackupRecord, ChainLine, FORMAT, Outcome};
use crate::error::RepositoryError;
use crate::ingest::{lock, outcome_of};
use crate::keys::KeyRing;
use crate::layout;
use crate::names::BackupName;
use crate::refs::Refs;
use crate::repo::Repository;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::lease::LeaseError;
use crate::store::{ListedKind, ObjectPath, StoreError};

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

/// Every backup that was ever committed, oldest first.
#[derive(Debug, Default)]
pub struct Chain {
    /// The lines that can be read.
    pub lines: Vec<ChainLine>,
    /// What is wrong with others, a line each.
    pub findings: Vec<String>,
    head: Option<Sha256>,
    /// The highest sequence that a line or a backup has: none is given twice, even where lines were lost.
    highest: u64,
}

impl Chain {
    fn add(&mut self, sequence: u64, digest: Sha256, line: Result<ChainLine, String>) {
        let (expected, previous) = (self.next_sequence(), self.head());
        if sequence != expected {
            self.findings.push(format!("the chain has no line {expected}"));
        }
        match line {
            Ok(line) if line.sequence != sequence => {
                self.findings.push(format!("line {sequence} of the chain says that it is another one"));
            }
            Ok(line) => {
                if sequence == expected && line.previous != previous {
                    self.findings
                        .push(format!("line {sequence} of the chain does not fit the one before it"));
                }
                self.lines.push(line);
            }
            Err(why) => self.findings.push(format!("line {sequence} of the chain: {why}")),
        }
        self.head = Some(digest);
        self.highest = self.highest.max(sequence);
    }

    fn next_sequence(&self) -> u64 {
        self.highest + 1
    }

    fn head(&self) -> Option<Sha256> {
        self.head
    }
}

impl Repository {
    /// A name for a backup that starts `now`: that second, or the next one that neither this repository
    /// nor `in_use` (jobs that have not committed yet) knows.
    pub fn reserve_name(
        &self,
        now: Timestamp,
        in_use: &BTreeSet<BackupName>,
    ) -> Result<BackupName, RepositoryError> {
        let mut taken = in_use.clone();
        for folder in [None, Some(&layout::staging())] {
            taken.extend(self.store.list(folder)?.iter().filter_map(|listed| listed.name.parse().ok()));
        }
        taken.extend(self.chain()?.lines.into_iter().map(|line| line.name));
        let mut time = now;
        loop {
            let name = BackupName::from_time(time);
            if !taken.contains(&name) {
                return Ok(name);
            }
            time = time.saturating_add(SignedDuration::from_secs(1)).expect("a second can be added");
        }
    }

    /// Commits a backup under the eyes of `guard`.
    pub fn commit(
        &self,
        draft: &BackupDraft,
        keys: &KeyRing,
        now: Timestamp,
        guard: &dyn Guard,
    ) -> Result<BackupRecord, RepositoryError> {
        let _one_at_a_time = lock(&self.commits);
        let chain = self.complete_chain(keys, now)?;
        if let Some(record) = self.committed(draft)? {
            return Ok(record);
        }
        guard.done(CommitStep::Begun);
        self.resolve_all(draft)?;
        guard.done(CommitStep::Resolved);
        self.write_indexes(draft)?;
        guard.done(CommitStep::Indexed);
        let record = self.stage(draft, keys, chain.next_sequence(), chain.head(), guard)?;
        guard.may_write().map_err(RepositoryError::Fenced)?;
        guard.done(CommitStep::Allowed);
        self.store.publish(
            &layout::staged(&draft.name),
            &layout::backup(&draft.name),
            layout::BACKUP_JSON,
        )?;
        guard.done(CommitStep::Renamed);
        self.complete_chain(keys, now)?;
        guard.done(CommitStep::Chained);
        Ok(record)
    }

    /// Adds the chain line of a backup that a crash left without one, and returns the whole chain.
    pub fn complete_chain(&self, keys: &KeyRing, now: Timestamp) -> Result<Chain, RepositoryError> {
        let mut chain = self.chain()?;
        let mut unchained: Vec<(BackupRecord, Sha256)> = Vec::new();
        for listed in self.store.list(None)? {
            let (Ok(name), ListedKind::Folder) = (listed.name.parse::<BackupName>(), listed.kind) else {
                continue;
            };
            if chain.lines.iter().any(|line| line.name == name) {
                continue;
            }
            match self.backup_with_digest(&name) {
                Ok(found) => unchained.push(found),
                // Foreign or damaged folders have no place in the chain.
                Err(error) if error.is_damage() || error.is_foreign() => {}
                Err(error) => return Err(error),
            }
        }
        unchained.sort_by_key(|(record, _)| record.sequence);
        for (record, digest) in unchained {
            if record.sequence != chain.next_sequence() || record.previous != chain.head() {
                tracing::warn!(backup = %record.name, "a backup does not continue the chain; it is left out of it");
                chain.highest = chain.highest.max(record.sequence);
                continue;
            }
            let (sequence, previous) = (record.sequence, record.previous);
            let line = ChainLine { sequence, name: record.name, backup: digest, previous, at: now };
            let file = keys.signing().sign(&line);
            self.store.create(&layout::chain_line(sequence), file.bytes())?;
            chain.add(sequence, file.digest(), Ok(line));
        }
        Ok(chain)
    }

    /// The chain as it lies there. A damaged line is told in [`Chain::findings`] and stops nothing: neither
    /// the reading of other backups nor new ones.
    pub fn chain(&self) -> Result<Chain, RepositoryError> {
        let mut chain = Chain::default();
        for listed in self.store.list(Some(&layout::chain()))? {
            let Some((sequence, path)) = layout::chain_line_named(&listed.name) else { continue };
            let file = self.store.read(&path, MAX_JSON)?;
            let line = self.config.signing_key.verify::<ChainLine>(&file);
            chain.add(sequence, Sha256::of(&file), line.map_err(|error| error.to_string()));
        }
        Ok(chain)
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
        for archive in &draft.archives {
            let Some(refs) = &archive.refs else { continue };
            let count = self.resolve(&archive.manifest.domain, refs)?.len();
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
    ) -> Result<BackupRecord, RepositoryError> {
        let folder = layout::staged(&draft.name);
        self.store.delete_folder(&folder)?;
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
        self.store.create(&folder.join(layout::BACKUP_JSON), signed.bytes())?;
        guard.done(CommitStep::Staged);
        Ok(record)
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
            counts: manifest.counts,
            manifest: manifest_sum,
            refs: refs_sum,
        })
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<Sha256, RepositoryError> {
        let path = self.folder.join(name);
        self.put(&path, bytes)
    }

    fn put(&mut self, path: &ObjectPath, bytes: &[u8]) -> Result<Sha256, RepositoryError> {
        self.repository.store.create(path, bytes)?;
        let name = path.as_str()[self.folder.as_str().len() + 1..].to_owned();
        let sum = Sha256::of(bytes);
        self.sums.push((name, sum));
        Ok(sum)
    }
}
