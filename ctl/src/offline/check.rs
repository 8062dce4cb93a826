//! `nsctl repository check`: every backup, or one, to a depth. Damage is listed with what it concerns.

use std::sync::{Mutex, PoisonError};

use repository::backup::listing::Listing;
use repository::names::BackupName;
use repository::progress::CancelFlag;
use repository::verify::{Depth, Verification, VerifyReport};
use serde::Serialize;

use super::{backup, open, unlock};
use crate::cli;
use crate::cli::repository::Check;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::output::progress::{Progress, Reached};
use crate::output::table::Rows;
use crate::views::backup::Damaged;

/// What was found.
#[derive(Debug, Serialize)]
struct Checked {
    depth: Depth,
    intact: bool,
    archives: Vec<Archive>,
    /// Backups that are gone or whose own description is not to be trusted, and lines of the chain.
    damaged: Vec<Damaged>,
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
}

pub(super) fn run(wanted: &Check, voice: Voice) -> Ended {
    let repository = open(&wanted.place)?;
    let depth = match wanted.depth {
        cli::Depth::Listed => Depth::Listed,
        cli::Depth::Hashed => Depth::Hashed,
        cli::Depth::Opened => Depth::Opened,
    };
    let keys = (depth == Depth::Opened).then(|| unlock(&repository, &wanted.secret)).transpose()?;
    let mut listing = repository.list()?;
    if let Some(asked) = &wanted.timestamp {
        listing = Listing { backups: vec![backup(&repository, asked, &[])?], ..Listing::default() };
    }
    let mut checked = Checked { depth, intact: true, archives: Vec::new(), damaged: Vec::new() };
    checked.damaged = damaged(&listing);
    for record in listing.backups {
        let shown = Shown::new(&voice, format!("checking {}", record.name));
        let (progress, cancel) = (&shown, &CancelFlag::new());
        let verification =
            Verification { repository: &repository, keys: keys.as_ref(), depth, progress, cancel };
        let report = verification.run(&record, |_| true)?;
        checked.archives.extend(archives(record.name.as_str(), report));
    }
    checked.intact = checked.damaged.is_empty() && checked.archives.iter().all(|archive| archive.intact);
    voice.result(&checked, Checked::table)?;
    let is_all_there = checked.archives.iter().all(|archive| archive.no_data.is_none());
    Ok(match (checked.intact, is_all_there) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Incomplete,
        (true, true) => Exit::Done,
    })
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
    report.archives.into_iter().map(move |archive| Archive {
        backup: backup.to_owned(),
        component: archive.source.component.to_string(),
        source: archive.source.name.to_string(),
        intact: archive.findings.is_empty(),
        findings: archive.findings,
        no_data: archive.no_data,
    })
}

impl Checked {
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
            let Archive { backup, component, source, .. } = archive;
            if let Some(reason) = &archive.no_data {
                text.push_str(&format!("\n{backup} {component}/{source}: no data was backed up: {reason}"));
            }
            for finding in &archive.findings {
                text.push_str(&format!("\n{backup} {component}/{source}: {finding}"));
            }
        }
        for damaged in &self.damaged {
            text.push_str(&format!("\n{}: {}", damaged.name, damaged.reason));
        }
        text
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
