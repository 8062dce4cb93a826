//! What a plan makes of the answers of the agents: doubts, remarks, what is backed up before, what it allows,
//! how long it takes.
//!
//! Must stay true: confirming a plan allows what it shows, and no more; what a backup may lack only because it
//! is incomplete is never removed for it.

use std::collections::BTreeMap;

use proto::Failure;
use proto::convert;
use proto::v1::SourcePlan;
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Outcome};
use repository::names::Component;

use super::RestoreRequest;
use crate::app::{App, catalog_failure};
use crate::ids::AgentId;
use crate::jobs::Job;
use crate::jobs::job::{Allowance, DRILLED, JobState, MONGODB, PartResult, RestorePlace};

impl App {
    /// Why somebody should think twice before restoring these archives.
    pub(super) async fn doubts(
        &self,
        record: &BackupRecord,
        archives: &[ArchiveRecord],
    ) -> Result<Vec<String>, Failure> {
        let mut doubts = Vec::new();
        for archive in archives.iter().filter(|archive| archive.outcome == Outcome::Incomplete) {
            let reason = archive.reason.as_deref().unwrap_or("no reason was recorded");
            doubts.push(format!("{} is incomplete: {reason}", archive.source));
        }
        let verified =
            self.catalog.verifications(&record.name).await.map_err(|error| catalog_failure(&error))?;
        for archive in archives {
            let of_it = verified.iter().filter(|result| result.source == archive.source);
            // Whatever was read of it since: no program has opened it.
            let mut drills = of_it.clone().filter(|result| result.depth == DRILLED && !result.intact);
            let not_opened = drills.next().map(|drill| {
                let finding = drill.findings.first().map_or("", String::as_str);
                format!("{}: at {} {finding}", archive.source, drill.at)
            });
            doubts.extend(not_opened);
            let of_it = of_it.filter(|result| result.depth != DRILLED);
            let Some(newest) = of_it.max_by_key(|result| result.at).filter(|result| !result.intact) else {
                continue;
            };
            let finding = newest.findings.first().map_or("", String::as_str);
            doubts.push(format!("{} was found damaged at {}: {finding}", archive.source, newest.at));
        }
        Ok(doubts)
    }

    /// How long a restore of so many bytes will take, by what the last ones took. 0: there was none.
    pub(super) async fn estimate(&self, bytes: u64) -> Result<u64, Failure> {
        const LOOKED_AT: u32 = 200;
        let jobs = self.catalog.jobs(LOOKED_AT).await.map_err(|error| catalog_failure(&error))?;
        Ok(estimate(&jobs, bytes))
    }
}

/// True if the restore takes something away that is there now.
fn replaces(plan: &SourcePlan) -> bool {
    plan.in_place && plan.replaced_count + plan.removed_count > 0
}

/// What is backed up before: whatever the restore replaces, and what its undo has to know was not there.
pub(super) fn replaced_components(sources: &[SourcePlan], places: &[RestorePlace]) -> Vec<Component> {
    // What was not there before is taken back by a backup that does not have it.
    let makes_some = |plan: &SourcePlan, place: &RestorePlace| {
        plan.in_place && plan.created_count > 0 && goes_by_undo(place)
    };
    let mut components: Vec<Component> = (sources.iter().zip(places))
        .filter(|(plan, place)| replaces(plan) || makes_some(plan, place))
        .map(|(_, place)| place.source.component.clone())
        .collect();
    components.sort();
    components.dedup();
    components
}

/// What a person should know before.
pub(super) fn remarks(
    request: &RestoreRequest,
    sources: &[SourcePlan],
    places: &[RestorePlace],
) -> Vec<String> {
    let mut remarks = Vec::new();
    if request.without_safety_backup && sources.iter().any(replaces) {
        remarks.push("what is replaced is NOT backed up before: it cannot be taken back later".to_owned());
    }
    // A folder is what it was; other collections of a server stay, and so do listed files and objects.
    let in_part =
        places.iter().any(|place| place.kind == MONGODB || (!place.globs.is_empty() && !goes_by_undo(place)));
    if request.undo_of.is_some() && in_part {
        remarks.push("entries that the restore has created stay".to_owned());
    }
    remarks.extend(stopped_more_than_once(sources, places));
    remarks
}

/// Why `--drop-others` cannot be had of this archive.
pub(super) fn removes_what_is_lacking(
    request: &RestoreRequest,
    archive: &ArchiveRecord,
    plan: &SourcePlan,
) -> Option<String> {
    (request.databases.drop_others && may_lose(archive, plan)).then(|| {
        format!(
            "the backup of {} is incomplete: what it lacks may be what --drop-others would remove; leave it out, \
             or choose a backup that is complete",
            archive.source
        )
    })
}

/// True if the undo of a restore of paths removes what that restore has made there: in folders it does.
fn goes_by_undo(place: &RestorePlace) -> bool {
    const CONFIGS: &str = "configs";
    !place.globs.is_empty() && place.kind != MONGODB && place.kind != CONFIGS
}

/// Programs that use several of the places: each place is swapped by itself, with its own stop and start.
fn stopped_more_than_once(sources: &[SourcePlan], places: &[RestorePlace]) -> Option<String> {
    let mut stops: BTreeMap<(AgentId, &str), usize> = BTreeMap::new();
    for (plan, place) in sources.iter().zip(places).filter(|(plan, _)| plan.in_place) {
        for one in plan.stops.iter().filter(|one| one.running) {
            *stops.entry((place.agent, one.name.as_str())).or_default() += 1;
        }
    }
    let mut names: Vec<&str> =
        stops.iter().filter(|(_, count)| **count > 1).map(|((_, name), _)| *name).collect();
    names.dedup();
    (!names.is_empty()).then(|| {
        format!(
            "stopped and started for each place, one after the other, so that it runs in between on what is restored in part: \
             {}; stop it yourself before, and start it after, where it does not bear that",
            names.join(", ")
        )
    })
}

/// True if this plan would remove from a server what may be missing only because its backup is incomplete.
fn may_lose(archive: &ArchiveRecord, plan: &SourcePlan) -> bool {
    archive.kind == MONGODB && archive.outcome == Outcome::Incomplete && plan.removed_count > 0
}

/// What confirming this plan allows: what it shows, and no more.
pub(super) fn allowance(plan: &SourcePlan, without_privileges: bool) -> Allowance {
    let shown = plan.privileges.iter().filter(|_| !without_privileges);
    let privileges =
        shown.map(|shown| (convert::privilege_word(shown.privilege()).to_owned(), shown.count)).collect();
    Allowance { entries: plan.entries, bytes: plan.bytes, privileges }
}

/// How long a restore of so many bytes takes, by what those among `jobs` took that brought enough to tell.
fn estimate(jobs: &[Job], bytes: u64) -> u64 {
    const ENOUGH: u64 = 1 << 20;
    let (mut taken, mut brought) = (0.0, 0);
    for job in jobs.iter().filter(|job| job.state == JobState::Complete) {
        let restored = job.parts.iter().map(|part| match &part.result {
            Some(PartResult::Restored { bytes, .. }) => *bytes,
            _ => 0,
        });
        let restored: u64 = restored.sum();
        if let (Some(began), Some(ended), true) = (job.started_at, job.ended_at, restored >= ENOUGH) {
            taken += ended.duration_since(began).as_secs_f64();
            brought += restored;
        }
    }
    match brought {
        0 => 0,
        brought => ((taken * bytes as f64 / brought as f64).ceil() as u64).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_backup_is_in_the_way_of_what_a_server_would_lose_and_of_nothing_else() {
        let archive = |kind: &str, outcome: &str| -> ArchiveRecord {
            serde_json::from_value(serde_json::json!({
                "component": "database", "source": "database", "kind": kind, "outcome": outcome,
                "reason": null, "consistency": null, "counts": {}, "manifest": "00".repeat(32), "refs": null,
            }))
            .expect("an archive")
        };
        let removing = |removed_count| SourcePlan { removed_count, ..SourcePlan::default() };
        assert!(may_lose(&archive(MONGODB, "incomplete"), &removing(1)));
        for (kind, outcome, removed) in
            [("files", "incomplete", 1), (MONGODB, "complete", 1), (MONGODB, "incomplete", 0)]
        {
            assert!(!may_lose(&archive(kind, outcome), &removing(removed)), "{kind} {outcome} {removed}");
        }
    }
}
