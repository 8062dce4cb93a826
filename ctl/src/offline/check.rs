//! `nsctl repository check`: every backup, or one, to a depth. Damage is listed with what it concerns, and
//! with `--repair` made good as far as that is possible.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use repository::backup::listing::Listing;
use repository::backup::manifest::BackupRecord;
use repository::check::Checks;
use repository::error::RepositoryError;
use repository::ids::{BlobId, PackId};
use repository::keys::{KeyRing, SlotSecret};
use repository::names::BackupName;
use repository::progress::CancelFlag;
use repository::repair::{Repair, Repaired};
use repository::verify::{
    ArchiveReport, Depth, Memory, PackProof, Proofs, Verification, VerifyReport, Witness,
};
use runtime::clock::{Clock, SystemClock};
use serde::Serialize;

use super::held::Held;
use super::{backup, open, secret};
use crate::cli;
use crate::cli::repository::Check;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::progress::{Progress, Reached};
use crate::output::table::Rows;
use crate::output::words::counted;
use crate::views::backup::Damaged;

/// How many lost entries of an archive are written out for people; JSON has all.
const WRITTEN_OUT: usize = 100;

/// What was found.
#[derive(Debug, Serialize)]
struct Checked {
    depth: Depth,
    intact: bool,
    archives: Vec<Archive>,
    /// Backups that are gone or whose own description is not to be trusted, and lines of the chain.
    damaged: Vec<Damaged>,
    /// What was made good, or with `--plan` and without `--repair` what can be, a line each.
    repairs: Vec<String>,
    /// The repairs were carried out.
    repaired: bool,
    /// What is damaged beside the archives and cannot be made good, a line each.
    left: Vec<String>,
    /// All of it in one line.
    summary: String,
}

/// What was found in one archive.
#[derive(Debug, Serialize)]
struct Archive {
    backup: String,
    component: String,
    source: String,
    intact: bool,
    findings: Vec<String>,
    /// Why there is nothing to check: the archive failed when it was made.
    no_data: Option<String>,
    /// What cannot be restored, by its path. Known at `opened`, or with a key.
    lost: Vec<String>,
    /// How many more entries are lost whose names are lost, too.
    lost_unnamed: u64,
}

/// What the whole check works with.
struct Checker<'a> {
    repository: std::sync::Arc<repository::repo::Repository>,
    keys: Option<KeyRing>,
    depth: Depth,
    voice: &'a Voice,
    memory: Notebook,
}

pub(super) fn run(wanted: &Check, voice: Voice) -> Ended {
    let repository = open(&wanted.place)?;
    let depth = match wanted.depth {
        cli::Depth::Listed => Depth::Listed,
        cli::Depth::Hashed => Depth::Hashed,
        cli::Depth::Opened => Depth::Opened,
    };
    let secret = (depth == Depth::Opened || wanted.secret.is_given())
        .then(|| secret::read(&wanted.secret))
        .transpose()?;
    let keys = secret.as_ref().map(|secret| repository.unlock(secret)).transpose()?;
    let checker = Checker { repository, keys, depth, voice: &voice, memory: Notebook::default() };
    let repaired = match &wanted.timestamp {
        // One backup is looked at by itself.
        Some(_) => Repaired::default(),
        None => checker.repair(secret.as_ref(), wanted)?,
    };
    let mut listing = checker.repository.list()?;
    if let Some(asked) = &wanted.timestamp {
        listing = Listing { backups: vec![backup(&checker.repository, asked, None)?], ..Listing::default() };
    }
    let damaged = damaged(&listing);
    let mut archives = Vec::new();
    for record in listing.backups {
        archives.extend(checker.archives(&record)?);
        checker.look_at_catalog(&record)?;
    }
    let mut checked = Checked {
        depth,
        intact: true,
        archives,
        damaged,
        repairs: repaired.mended,
        repaired: wanted.repair && !wanted.plan,
        left: repaired.left,
        summary: String::new(),
    };
    checked.intact = checked.damaged.is_empty()
        && checked.left.is_empty()
        && (checked.repaired || checked.repairs.is_empty())
        && checked.archives.iter().all(|archive| archive.intact);
    checked.summary = checked.in_one_line();
    voice.result(&checked, Checked::table)?;
    let is_all_there = checked.archives.iter().all(|archive| archive.no_data.is_none());
    Ok(match (checked.intact, is_all_there) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Incomplete,
        (true, true) => Exit::Done,
    })
}

impl Checker<'_> {
    /// Looks at what no backup needs as well, and repairs it if that is wanted.
    fn repair(&self, secret: Option<&SlotSecret>, wanted: &Check) -> Result<Repaired, Trouble> {
        let writes = wanted.repair && !wanted.plan;
        let shown = Shown::new(self.voice, "reading packs".to_owned());
        let held = writes.then(|| Held::take(&self.repository)).transpose()?;
        let keep = || held.as_ref().map_or(Ok(()), Held::keep);
        let work = Repair {
            repository: &self.repository,
            keys: self.keys.as_ref(),
            secret,
            may_write: held.is_some().then_some(&keep),
            give_up: &wanted.give_up,
            reads_packs: self.depth > Depth::Listed || writes,
            progress: &shown,
            cancel: &CancelFlag::new(),
            now: SystemClock.now(),
        };
        let repaired = work.run()?;
        self.memory.knows(&repaired);
        held.map_or(Ok(()), Held::release)?;
        Ok(repaired)
    }

    /// Tells of a copy of the catalog that is damaged. It is no part of the backup, which is as good without it: a
    /// rebuild takes the one before.
    fn look_at_catalog(&self, record: &BackupRecord) -> Result<(), RepositoryError> {
        match self.repository.check_catalog_beside(&record.name) {
            Err(error) if error.is_damage() => {
                self.voice.say(format!("beside backup {}: {error}; no backup needs it", record.name));
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// What is found in the archives of a backup; what other ones have shown already is not read again.
    fn archives(&self, record: &BackupRecord) -> Result<Vec<Archive>, RepositoryError> {
        let shown = Shown::new(self.voice, format!("checking {}", record.name));
        let (progress, cancel, keys) = (&shown, &CancelFlag::new(), self.keys.as_ref());
        // What files hold is for the backups' own verification to judge: here it is about bytes.
        let (repository, depth, checks) = (&self.repository, self.depth, Checks::NONE);
        let verification = Verification { repository, keys, depth, checks, progress, cancel };
        let earlier = self.memory.proofs();
        let memory = Memory { earlier: &earlier, witness: &self.memory, ..Memory::none() };
        let mut report = verification.run_with(record, |_| true, &memory)?;
        if self.depth < Depth::Opened && self.keys.is_some() && !report.is_intact() {
            let namer = Verification { depth: Depth::Opened, ..verification };
            let named = namer.run_with(record, |_| true, &Memory::losses())?;
            for (archive, named) in report.archives.iter_mut().zip(named.archives) {
                archive.lost = named.lost;
            }
        }
        Ok(archives(record.name.as_str(), report).collect())
    }
}

/// What was proven in this check.
#[derive(Default)]
struct Notebook(Mutex<Proofs>);

impl Notebook {
    fn proofs(&self) -> Proofs {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut Proofs)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn knows(&self, repaired: &Repaired) {
        let hashed = SystemClock.now();
        let sound = repaired.sound.iter().map(|pack| (*pack, PackProof { hashed, opened: None }));
        self.note(|proofs| proofs.packs = HashMap::from_iter(sound));
    }
}

impl Witness for Notebook {
    fn hashed(&self, pack: &PackId) {
        let hashed = SystemClock.now();
        self.note(|proofs| {
            proofs.packs.entry(*pack).or_insert(PackProof { hashed, opened: None });
        });
    }

    fn opened(&self, pack: &PackId) {
        let hashed = SystemClock.now();
        self.note(|proofs| {
            proofs.packs.entry(*pack).or_insert(PackProof { hashed, opened: None }).opened = Some(hashed);
        });
    }

    fn page(&self, page: &BlobId) {
        self.note(|proofs| {
            proofs.pages.insert(*page, SystemClock.now());
        });
    }
}

/// What is wrong with backups as a whole.
fn damaged(listing: &Listing) -> Vec<Damaged> {
    let distrusted =
        listing.damaged.iter().map(|(name, error)| (name.to_string(), proto::failure::chain(error)));
    let gone = |name: &BackupName| {
        (name.to_string(), "its folder is gone; the chain of backups knows it".to_owned())
    };
    let lost = listing.lost.iter().map(gone);
    let chain = listing.chain.iter().map(|finding| ("chain".to_owned(), finding.clone()));
    distrusted.chain(lost).chain(chain).map(|(name, reason)| Damaged { name, reason }).collect()
}

fn archives(backup: &str, report: VerifyReport) -> impl Iterator<Item = Archive> {
    report.archives.into_iter().map(move |archive: ArchiveReport| Archive {
        backup: backup.to_owned(),
        component: archive.source.component.to_string(),
        source: archive.source.name.to_string(),
        intact: archive.findings.is_empty(),
        findings: archive.findings,
        no_data: archive.no_data,
        lost: archive.lost.entries.iter().map(ToString::to_string).collect(),
        lost_unnamed: archive.lost.unnamed,
    })
}

impl Checked {
    fn in_one_line(&self) -> String {
        let repairs = self.repairs.len() as u64;
        let repairs = match (repairs, self.repaired) {
            (0, _) => String::new(),
            (_, true) => format!("{}; ", counted(repairs, "repair was made", "repairs were made")),
            (_, false) => format!(
                "{} (`nsctl repository check --repair`); ",
                counted(repairs, "repair can be made", "repairs can be made")
            ),
        };
        let lost: u64 =
            self.archives.iter().map(|archive| archive.lost.len() as u64 + archive.lost_unnamed).sum();
        let hurt: std::collections::BTreeSet<&str> = self
            .archives
            .iter()
            .filter(|archive| !archive.intact)
            .map(|archive| archive.backup.as_str())
            .collect();
        let hurt = hurt.len() as u64 + self.damaged.len() as u64;
        let rest = match (hurt, lost, self.left.is_empty()) {
            (0, 0, true) if repairs.is_empty() => "nothing is damaged".to_owned(),
            (0, 0, true) => "nothing is lost".to_owned(),
            (0, 0, false) => "not everything could be repaired".to_owned(),
            (_, 0, _) => format!("{} damaged", counted(hurt, "backup is", "backups are")),
            _ => format!(
                "{} lost in {}",
                counted(lost, "entry is", "entries are"),
                counted(hurt, "backup", "backups")
            ),
        };
        format!("{repairs}{rest}")
    }

    fn table(&self) -> String {
        let mut rows = Rows::new(&["BACKUP", "COMPONENT", "SOURCE", "RESULT"]);
        for archive in &self.archives {
            let result = match (archive.intact, &archive.no_data) {
                (false, _) => "DAMAGED",
                (true, Some(_)) => "no data",
                (true, None) => "intact",
            };
            let (component, source) = (archive.component.clone(), archive.source.clone());
            rows.row([archive.backup.clone(), component, source, result.to_owned()]);
        }
        let mut text = rows.finish_or("there are no backups to check");
        for archive in &self.archives {
            archive.write_to(&mut text);
        }
        for damaged in &self.damaged {
            text.push_str(&format!("\n{}: {}", damaged.name, damaged.reason));
        }
        let word = if self.repaired { "repaired" } else { "can be repaired" };
        self.repairs.iter().for_each(|line| text.push_str(&format!("\n{word}: {line}")));
        self.left.iter().for_each(|line| text.push_str(&format!("\nstays damaged: {line}")));
        text.push_str(&format!("\n{}", self.summary));
        text
    }
}

impl Archive {
    fn write_to(&self, text: &mut String) {
        let Archive { backup, component, source, .. } = self;
        let name = format!("{backup} {component}/{source}");
        if let Some(reason) = &self.no_data {
            text.push_str(&format!("\n{name}: no data was backed up: {reason}"));
        }
        for finding in &self.findings {
            text.push_str(&format!("\n{name}: {finding}"));
        }
        for lost in self.lost.iter().take(WRITTEN_OUT) {
            text.push_str(&format!("\n{name}: lost: {lost}"));
        }
        let more = self.lost.len().saturating_sub(WRITTEN_OUT);
        if more > 0 {
            text.push_str(&format!("\n{name}: lost: {more} more (-o json names all)"));
        }
        if self.lost_unnamed > 0 {
            let entries = counted(self.lost_unnamed, "entry", "entries");
            text.push_str(&format!("\n{name}: lost: {entries} whose names are lost, too"));
        }
    }
}

/// Progress of repository work, which may be told from several threads.
pub(super) struct Shown {
    step: String,
    progress: Mutex<Progress>,
}

impl Shown {
    pub(super) fn new(voice: &Voice, step: String) -> Self {
        Self { step, progress: Mutex::new(Progress::new(voice)) }
    }
}

impl repository::progress::Progress for Shown {
    fn bytes(&self, done: u64, total: u64) {
        let reached = Reached { step: self.step.clone(), done, total, entries: 0 };
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).reached(&reached);
    }
}
