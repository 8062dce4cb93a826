//! Verification: how far a backup is proven to be restorable.
//!
//! | depth | what is proven |
//! |---|---|
//! | `listed` | signature and chain; manifests and refs; every pack is there with its size |
//! | `hashed` | and every pack's SHA-256 |
//! | `opened` | and every blob opens, decompresses, has its id; every entry is well-formed and every file's content is what its id says, and passes the check of what its component holds |
//!
//! What was proven before may be relied on ([`Memory`]): then the report says how much of it is proven now
//! and how much was proven earlier, and how long ago.
//!
//! Must stay true: damage is a finding, not an error, and hides no other damage; an error means that the
//! verification itself could not be carried out, and then nothing is claimed. Damage that is made good (by
//! parity, or by another pack with the same blobs) is told and is no finding.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod contents;
mod look;
mod packs;
pub mod plan;
mod proofs;
mod scrub;

use contents::{Checking, Contents};
use look::Meter;
pub use packs::DomainPacks;
pub use proofs::{Coverage, Memory, NoWitness, PackProof, Proofs, Reach, Witness};
pub use scrub::Scrubbed;
pub(crate) use scrub::{READS, each_blob, read_again};

use crate::archive::path::EntryPath;
use crate::backup::manifest::BackupRecord;
use crate::check::Checks;
use crate::error::RepositoryError;
use crate::ids::PackId;
use crate::index::DomainIndex;
use crate::index_files::LoadedIndex;
use crate::ingest::PackVerdict;
use crate::keys::KeyRing;
use crate::names::SourceId;
use crate::progress::{CancelFlag, Progress};
use crate::read::ArchiveReader;
use crate::refs::{BlobAddress, Refs};
use crate::repo::Repository;
use crate::signed::Sha256;

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
    /// What was made good, a line each.
    pub mended: Vec<String>,
    /// What is worth knowing of the files and does them no harm, a line each; known only at `opened`.
    pub told: Vec<String>,
    /// How much was proven now, and how much earlier.
    pub coverage: Coverage,
    /// What cannot be restored; known only at `opened`.
    pub lost: Lost,
}

impl ArchiveReport {
    fn new(source: &SourceId, findings: Vec<String>) -> Self {
        Self {
            source: source.clone(),
            findings,
            no_data: None,
            bytes: 0,
            entries: 0,
            packs: Vec::new(),
            mended: Vec::new(),
            told: Vec::new(),
            coverage: Coverage::default(),
            lost: Lost::default(),
        }
    }
}

/// What of an archive cannot be restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Entries whose content is damaged.
    pub entries: Vec<EntryPath>,
    /// How many more there are whose very names are lost.
    pub unnamed: u64,
}

impl Lost {
    /// True if everything can be restored.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unnamed == 0
    }
}

/// What to verify and how.
pub struct Verification<'a> {
    /// The repository.
    pub repository: &'a Arc<Repository>,
    /// Needed for [`Depth::Opened`].
    pub keys: Option<&'a KeyRing>,
    /// How deep.
    pub depth: Depth,
    /// Judges what the files hold, at [`Depth::Opened`].
    pub checks: Checks,
    /// Hears of the bytes.
    pub progress: &'a dyn Progress,
    /// Stops it.
    pub cancel: &'a CancelFlag,
}

impl Verification<'_> {
    /// Verifies the archives of `record` that `wanted` picks, relying on nothing.
    pub fn run(
        &self,
        record: &BackupRecord,
        wanted: impl Fn(&SourceId) -> bool,
    ) -> Result<VerifyReport, RepositoryError> {
        self.run_with(record, wanted, &Memory::none())
    }

    /// The same, relying on what `memory` says was proven before, and telling it what is proven now.
    pub fn run_with(
        &self,
        record: &BackupRecord,
        wanted: impl Fn(&SourceId) -> bool,
        memory: &Memory<'_>,
    ) -> Result<VerifyReport, RepositoryError> {
        let of_backup = self.chain_findings(record)?;
        let mut meter = Meter::new(self.progress, self.cancel);
        let sources: Vec<&SourceId> =
            record.archives.iter().map(|archive| &archive.source).filter(|source| wanted(source)).collect();
        for source in &sources {
            meter.total += self.bytes_of(record, source)?;
        }
        let mut archives = Vec::new();
        for source in sources {
            let mut report = ArchiveReport::new(source, of_backup.clone());
            let before = meter.done();
            self.archive(record, source, memory, &meter, &mut report)?;
            report.bytes = meter.done() - before;
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
        memory: &Memory<'_>,
        meter: &Meter<'_>,
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
        let (refs, mut index) = match opened {
            Ok(opened) => opened,
            Err(error) if error.is_of_one_object() => {
                report.findings.push(full(&error));
                report.lost.unnamed = line.counts.entries();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let bad = self.needed_packs(&refs, &mut index, memory, meter, report)?;
        let missing = index.missing(&refs);
        let in_no_pack = missing.iter().filter(|gone| index.place(gone).is_none()).count();
        if in_no_pack > 0 {
            report.findings.push(format!("{in_no_pack} blobs are in no pack"));
        }
        // What lies elsewhere as well costs this archive nothing.
        let needed = index.packs_of(&refs);
        let (costly, spare): (Vec<_>, Vec<_>) = bad.into_iter().partition(|(id, _)| needed.contains_key(id));
        report.mended.extend(
            spare.iter().map(|(_, finding)| format!("{finding}; the same blobs are had from other packs")),
        );
        let bad_packs: BTreeSet<PackId> = costly.iter().chain(&spare).map(|(id, _)| *id).collect();
        report.findings.extend(costly.into_iter().map(|(_, finding)| finding));
        if self.depth < Depth::Opened {
            return Ok(());
        }
        let keys = self.keys.expect("`opened` is asked for with the keys");
        let mut reader = ArchiveReader::open(self.repository, keys, record, source)?;
        reader.avoid(bad_packs.iter().copied());
        let contents = Contents {
            reader,
            cancel: self.cancel,
            bad_packs: &bad_packs,
            is_whole: missing.is_empty(),
            memory,
            check: Checking::new(self.checks.check(&line.kind, line.source.component.as_str())),
            findings: Vec::new(),
        };
        let proven = contents.prove(&refs)?;
        report.entries = proven.entries;
        report.lost = proven.lost;
        report.findings.extend(proven.findings);
        report.told = proven.told;
        Ok(())
    }

    /// Looks at every pack that the archive is read from; where one is bad and others hold the same blobs,
    /// at those too. Returns the bad ones.
    fn needed_packs(
        &self,
        refs: &Refs,
        index: &mut DomainIndex,
        memory: &Memory<'_>,
        meter: &Meter<'_>,
        report: &mut ArchiveReport,
    ) -> Result<BTreeMap<PackId, String>, RepositoryError> {
        let (mut seen, mut bad) = (BTreeSet::new(), BTreeMap::new());
        loop {
            let mut needed = index.packs_of(refs);
            needed.retain(|pack, _| seen.insert(*pack));
            if needed.is_empty() {
                return Ok(bad);
            }
            let needed: Vec<(PackId, u64)> = needed.into_iter().collect();
            let nothing_more = |_: &(PackId, u64)| Ok(None);
            self.look_at(&needed, memory, meter, nothing_more, |&(pack, length), looked| {
                if self.depth > Depth::Listed && !looked.relied {
                    let is_sound = looked.finding.is_none();
                    report.packs.push(PackVerdict { pack, is_sound });
                }
                report.mended.extend(looked.mended);
                report.coverage.count(memory, self.depth, &pack, length);
                bad.extend(looked.finding.map(|finding| (pack, finding)));
                Ok(())
            })?;
            report.packs.sort_unstable_by_key(|verdict| verdict.pack);
            report.mended.sort_unstable();
            index.avoid(bad.keys().copied());
        }
    }
}

/// What the index files lack although the packs have it: nothing is lost, and it is told.
fn index_findings(
    repository: &Repository,
    refs: &Refs,
    loaded: &LoadedIndex,
    findings: &mut Vec<String>,
) -> Result<(), RepositoryError> {
    let instead = |name: &Sha256, how| format!("index file {name} {how}; the packs were asked instead");
    findings.extend(loaded.damaged.iter().map(|name| instead(name, "is damaged")));
    findings.extend(loaded.unreadable.iter().map(|name| instead(name, "cannot be read")));
    // By what the files say, whether or not a pack that they name carries a mark: that is told elsewhere.
    let by_files = repository.load_index(&refs.domain())?.index;
    let lost: HashSet<BlobAddress> = loaded.index.missing(refs).into_iter().collect();
    let in_no_file = by_files.missing(refs).into_iter().filter(|address| !lost.contains(address)).count();
    if loaded.is_whole() && in_no_file > 0 {
        findings.push(format!("{in_no_file} blobs are in no index file; the packs were asked instead"));
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
