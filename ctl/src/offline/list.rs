//! `nsctl repository list`: what there is, read from the folder with every signature checked.

use repository::backup::manifest::{ArchiveRecord, BackupRecord, Consistency, Counts, Outcome};
use runtime::clock::{Clock, SystemClock};

use super::open;
use crate::cli::repository::Place;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit};
use crate::views::backup::{Archive, Backup, Damaged, Legacy, Listing};

pub(super) fn run(place: &Place, voice: Voice) -> Ended {
    let listing = open(place)?.list()?;
    let exit = if listing.damaged.is_empty() { Exit::Done } else { Exit::Damaged };
    let view = Listing {
        backups: listing.backups.into_iter().map(Backup::from).collect(),
        legacy: listing
            .legacy
            .into_iter()
            .map(|old| Legacy { name: old.name.to_string(), components: old.contents })
            .collect(),
        damaged: listing
            .damaged
            .into_iter()
            .map(|(name, error)| Damaged { name: name.to_string(), reason: proto::failure::chain(&error) })
            .collect(),
    };
    voice.result(&view, |view| view.table(SystemClock.now()))?;
    Ok(exit)
}

impl From<BackupRecord> for Backup {
    fn from(record: BackupRecord) -> Self {
        let sum = |of: fn(&Counts) -> u64| record.archives.iter().map(|archive| of(&archive.counts)).sum();
        let safety = controller::jobs::safety::Safety::of(&record);
        Self {
            name: record.name.to_string(),
            sequence: record.sequence,
            outcome: outcome(record.outcome),
            started_at: Some(record.started_at),
            ended_at: Some(record.ended_at),
            bytes: sum(|counts| counts.bytes),
            files: sum(|counts| counts.files),
            stored_bytes: sum(|counts| counts.stored_bytes),
            safety_of: safety.map(|safety| safety.restore.to_string()),
            safe_until: safety.map(|safety| safety.until),
            pinned: record.pin,
            job: Some(record.job),
            archives: record.archives.into_iter().map(Archive::from).collect(),
        }
    }
}

impl From<ArchiveRecord> for Archive {
    fn from(record: ArchiveRecord) -> Self {
        Self {
            component: record.source.component.to_string(),
            source: record.source.name.to_string(),
            kind: record.kind,
            outcome: outcome(record.outcome),
            remarks: Vec::new(),
            reason: record.reason,
            consistency: record.consistency.map_or("unknown", consistency),
            counts: record.counts.into(),
            verifications: Vec::new(),
        }
    }
}

impl From<Counts> for crate::views::backup::Counts {
    fn from(counts: Counts) -> Self {
        Self {
            files: counts.files,
            folders: counts.folders,
            links: counts.links,
            specials: counts.specials,
            bytes: counts.bytes,
            unreadable: counts.unreadable,
            vanished: counts.vanished,
            changed: counts.changed,
            read_bytes: counts.read_bytes,
            stored_bytes: counts.stored_bytes,
            reused_files: counts.reused_files,
        }
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "complete",
        Outcome::Incomplete => "incomplete",
        Outcome::Failed => "failed",
    }
}

fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Snapshot => "snapshot",
        Consistency::Quiesced => "quiesced",
        Consistency::Bracketed => "bracketed",
        Consistency::Fuzzy => "fuzzy",
    }
}
