//! Verification: how far a backup is proven to be restorable.
//!
//! | depth | what is proven |
//! |---|---|
//! | `listed` | signature and chain; manifests and refs; every pack is there with its size |
//! | `hashed` | and every pack's SHA-256 |
//! | `opened` | and every blob opens, decompresses, has its id; every entry is well-formed and every file's content is what its id says |
//!
//! Must stay true: damage is a finding, not an error, and hides no other damage; an error means that the
//! verification itself could not be carried out, and then nothing is claimed.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

mod contents;

use contents::Contents;

use crate::archive::path::EntryPath;
use crate::backup::manifest::BackupRecord;
use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::index_files::LoadedIndex;
use crate::ingest::{PackVerdict, lock};
use crate::keys::KeyRing;
use crate::layout;
use crate::names::SourceId;
use crate::progress::{CancelFlag, Progress};
use crate::read::ArchiveReader;
use crate::refs::Refs;
use crate::repo::Repository;
use crate::store::StoreError;

/// How many bytes of a pack are read at once.
const WINDOW: u64 = 4 << 20;
/// How many entries a finding names.
const NAMED: usize = 10;

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Everything is there.
    Listed,
    /// Every pack has its SHA-256.
    Hashed,
    /// Everything opens.
    Opened,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// One for each archive that was looked at.
    pub archives: Vec<ArchiveReport>,
}

impl VerifyReport {
    /// True if no archive has a finding. Archives without data are not damaged: they never were there.
    pub fn is_intact(&self) -> bool {
        self.archives.iter().all(|archive| archive.findings.is_empty())
    }
}

/// What was found in one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveReport {
    /// Which.
    pub source: SourceId,
    /// What is wrong, a line each; none if it is intact.
    pub findings: Vec<String>,
    /// The archive failed when it was made, for this reason: there is nothing to verify.
    pub no_data: Option<String>,
    /// Bytes of packs that were looked at.
    pub bytes: u64,
    /// Entries that were read; 0 above `opened`.
    pub entries: u64,
    /// What is known now of each pack that was read; none at `listed`.
    pub packs: Vec<PackVerdict>,
}

/// What to verify and how.
pub struct Verification<'a> {
    /// The repository.
    pub repository: &'a Arc<Repository>,
    /// Needed for [`Depth::Opened`].
    pub keys: Option<&'a KeyRing>,
    /// How deep.
    pub depth: Depth,
    /// Hears of the bytes.
    pub progress: &'a dyn Progress,
    /// Stops it.
    pub cancel: &'a CancelFlag,
}

impl Verification<'_> {
    /// Verifies the archives of `record` that `wanted` picks.
    pub fn run(
        &self,
        record: &BackupRecord,
        wanted: impl Fn(&SourceId) -> bool,
    ) -> Result<VerifyReport, RepositoryError> {
        let of_backup = self.chain_findings(record)?;
        let mut meter = Meter { progress: self.progress, cancel: self.cancel, done: 0, total: 0 };
        let sources: Vec<&SourceId> =
            record.archives.iter().map(|archive| &archive.source).filter(|source| wanted(source)).collect();
        for source in &sources {
            meter.total += self.bytes_of(record, source)?;
        }
        let mut archives = Vec::new();
        for source in sources {
            let mut report = ArchiveReport {
                source: source.clone(),
                findings: of_backup.clone(),
                no_data: None,
                bytes: 0,
                entries: 0,
                packs: Vec::new(),
            };
            let before = meter.done;
            self.archive(record, source, &mut meter, &mut report)?;
            report.bytes = meter.done - before;
            archives.push(report);
        }
        Ok(VerifyReport { archives })
    }

    /// What the chain says of this backup alone; what is wrong with the chain elsewhere is for
    /// [`Repository::list`].
    fn chain_findings(&self, record: &BackupRecord) -> Result<Vec<String>, RepositoryError> {
        let (_, digest) = self.repository.backup_with_digest(&record.name)?;
        Ok(
            match self.repository.chain_line(record.sequence)?.filter(|line| line.sequence == record.sequence)
            {
                Some(line) if line.backup == digest && line.name == record.name => Vec::new(),
                Some(_) => vec!["backup.json is not the one that the chain recorded".to_owned()],
                None => vec!["the chain of backups has no sound line for this one".to_owned()],
            },
        )
    }

    fn bytes_of(&self, record: &BackupRecord, source: &SourceId) -> Result<u64, RepositoryError> {
        let Ok(refs) = self.repository.refs(record, source) else { return Ok(0) };
        let Ok(loaded) = self.repository.index_for(&refs) else { return Ok(0) };
        Ok(loaded.index.packs_of(&refs).values().sum())
    }

    fn archive(
        &self,
        record: &BackupRecord,
        source: &SourceId,
        meter: &mut Meter<'_>,
        report: &mut ArchiveReport,
    ) -> Result<(), RepositoryError> {
        let line = record.archive(source).expect("the caller took it from the record");
        if line.refs.is_none() {
            report.no_data = Some(line.reason.clone().unwrap_or_else(|| "no reason was recorded".to_owned()));
            return Ok(());
        }
        let opened = self.repository.archive(record, source).and_then(|_| {
            let refs = self.repository.refs(record, source)?;
            let loaded = self.repository.index_for(&refs)?;
            index_findings(self.repository, &refs, &loaded, &mut report.findings)?;
            Ok((refs, loaded.index))
        });
        let (refs, index) = match opened {
            Ok(opened) => opened,
            Err(error) if error.is_damage() => {
                report.findings.push(full(&error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let missing = index.missing(&refs).len();
        if missing > 0 {
            report.findings.push(format!("{missing} blobs are in no pack"));
        }
        let mut bad_packs = BTreeSet::new();
        for (pack, length) in index.packs_of(&refs) {
            let finding = self.pack(&pack, length, meter)?;
            if self.depth > Depth::Listed {
                report.packs.push(PackVerdict { pack, is_sound: finding.is_none() });
            }
            if let Some(finding) = finding {
                report.findings.push(finding);
                bad_packs.insert(pack);
            }
        }
        if self.depth < Depth::Opened {
            return Ok(());
        }
        let keys = self.keys.expect("`opened` is asked for with the keys");
        let reader = ArchiveReader::open(self.repository, keys, record, source)?;
        let contents = Contents { reader, cancel: self.cancel, bad_packs: &bad_packs, findings: Vec::new() };
        let (entries, findings) = contents.prove(&refs)?;
        report.entries = entries;
        report.findings.extend(findings);
        Ok(())
    }

    /// Looks at one pack; `Some` is what is wrong with it.
    fn pack(
        &self,
        id: &PackId,
        length: u64,
        meter: &mut Meter<'_>,
    ) -> Result<Option<String>, RepositoryError> {
        let (mut path, store) = (layout::pack(id), self.repository.store());
        let mut size = store.size(&path);
        if size.as_ref().is_err_and(StoreError::is_not_found)
            && let Some(trashed) = self.repository.trashed(id)?
        {
            // Prune took it away since it was looked up; what it holds is here still.
            size = store.size(&trashed);
            path = trashed;
        }
        match size {
            Ok(size) if size == length => {}
            Ok(size) => {
                meter.advance(length)?;
                return Ok(Some(format!("pack {id} is {size} bytes long instead of {length}")));
            }
            Err(error) if error.is_not_found() => {
                meter.advance(length)?;
                return Ok(Some(format!("pack {id} is missing")));
            }
            Err(error) => return Err(error.into()),
        }
        if self.depth == Depth::Listed {
            meter.advance(length)?;
            return Ok(None);
        }
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut offset = 0;
        while offset < length {
            let window = WINDOW.min(length - offset);
            match store.read_range(&path, offset, window) {
                Ok(bytes) => hash.update(&bytes),
                Err(error) => return Ok(Some(format!("pack {id} cannot be read: {}", full(&error)))),
            }
            meter.advance(window)?;
            offset += window;
        }
        let intact = hash.finish().as_ref() == id.as_bytes();
        Ok((!intact).then(|| format!("pack {id} is damaged: its SHA-256 is not its name")))
    }
}

struct Meter<'a> {
    progress: &'a dyn Progress,
    cancel: &'a CancelFlag,
    done: u64,
    total: u64,
}

impl Meter<'_> {
    fn advance(&mut self, bytes: u64) -> Result<(), RepositoryError> {
        if self.cancel.is_cancelled() {
            return Err(RepositoryError::Cancelled);
        }
        self.done += bytes;
        self.progress.bytes(self.done, self.total);
        Ok(())
    }
}

/// What the index files lack although the packs have it: nothing is lost, and it is told.
fn index_findings(
    repository: &Repository,
    refs: &Refs,
    loaded: &LoadedIndex,
    findings: &mut Vec<String>,
) -> Result<(), RepositoryError> {
    findings.extend(
        loaded
            .damaged
            .iter()
            .map(|name| format!("index file {name} is damaged; the packs were asked instead")),
    );
    let by_files_alone = repository.load_index(&refs.domain())?.index.missing(refs).len();
    let lost = loaded.index.missing(refs).len();
    if loaded.damaged.is_empty() && by_files_alone > lost {
        findings.push(format!(
            "{} blobs are in no index file; the packs were asked instead",
            by_files_alone - lost
        ));
    }
    Ok(())
}

fn lost_line(lost: &[EntryPath]) -> String {
    let named: Vec<String> = lost.iter().take(NAMED).map(EntryPath::to_string).collect();
    let more = if lost.len() > NAMED { format!(" and {} more", lost.len() - NAMED) } else { String::new() };
    let noun = if lost.len() == 1 { "entry" } else { "entries" };
    format!("{} {noun} cannot be restored: {}{more}", lost.len(), named.join(", "))
}

/// An error with its causes, in one line.
fn full(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        line.push_str(": ");
        line.push_str(&next.to_string());
        cause = next.source();
    }
    line
}

impl Repository {
    /// Lets go of a domain's index in memory, unless something in it has no index file yet.
    pub fn release(&self, domain: &crate::ids::DomainId) {
        let mut domains = lock(&self.domains);
        let idle = domains.get(domain).is_some_and(|state| lock(state).unindexed.is_empty());
        if idle {
            domains.remove(domain);
        }
    }
}
