//! Plans and reports, for the wire.

use proto::{convert, v1};
use repository::archive::path::EntryPath;

use crate::platform::{Application, Found};
use crate::state::Report;
use crate::targets::files::{RestorePlan, RestoreReport};
use crate::tasks::order::{RestoreOrder, to_wire_privilege};

/// Names that a plan lists of each kind.
const TOLD_NAMES: usize = 100;
/// Warnings that a result lists.
const TOLD_WARNINGS: usize = 100;

pub(super) fn plan(
    order: &RestoreOrder,
    place: String,
    plan: RestorePlan,
    found: Found,
    obstacles: Vec<String>,
    in_place: bool,
) -> v1::SourcePlan {
    let names = |paths: &[EntryPath]| paths.iter().take(TOLD_NAMES).map(EntryPath::to_string).collect();
    v1::SourcePlan {
        source: Some(convert::to_wire_source(&order.source)),
        place,
        entries: plan.entries,
        bytes: plan.bytes_to_write,
        free_bytes: plan.free_space,
        replaced: names(&plan.overwritten),
        created: names(&plan.created),
        removed: names(&plan.removed),
        replaced_count: plan.overwritten_count,
        created_count: plan.created_count,
        removed_count: plan.removed_count,
        obstacles,
        ground: ground(&plan).to_vec().into(),
        privileges: (plan.privileges.iter())
            .map(|(privilege, held)| v1::PrivilegedEntries {
                privilege: to_wire_privilege(*privilege).into(),
                count: held.count,
                names: names(&held.paths),
            })
            .collect(),
        stops: stops(found.applications),
        leaves: plan.leaves.to_owned(),
        needed_bytes: plan.needed,
        remarks: plan.remarks.into_iter().chain(found.remarks).collect(),
        in_place,
        leaves_keys: order.leaves_keys,
    }
}

/// What uses the place.
pub(super) fn stops(applications: Vec<Application>) -> Vec<v1::Application> {
    let told = |one: Application| v1::Application {
        kind: one.handle.word().to_owned(),
        name: one.name,
        running: one.runs,
        checked: one.is_checked,
    };
    applications.into_iter().map(told).collect()
}

/// As many names as a plan lists.
pub(super) fn first(mut names: Vec<String>) -> Vec<String> {
    names.truncate(TOLD_NAMES);
    names
}

/// Over the names that a plan is too short to list.
fn ground(plan: &RestorePlan) -> [u8; 32] {
    ground_of(
        [&plan.overwritten, &plan.created, &plan.removed]
            .map(|paths| paths.iter().map(EntryPath::as_bytes).collect::<Vec<_>>())
            .each_ref(),
    )
}

/// Over names that are replaced, created and removed.
pub(super) fn ground_of<T: AsRef<[u8]>>(kinds: [&Vec<T>; 3]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for names in kinds {
        hasher.update(&(names.len() as u64).to_le_bytes());
        for name in names {
            hasher.update(&(name.as_ref().len() as u64).to_le_bytes());
            hasher.update(name.as_ref());
        }
    }
    *hasher.finalize().as_bytes()
}

/// What a restore will report of what was planned, if its process dies before it can tell more.
pub(super) fn planned(plan: &v1::SourcePlan) -> Report {
    Report {
        entries: plan.entries,
        bytes: plan.bytes,
        replaced: plan.replaced_count,
        created: plan.created_count,
        removed: plan.removed_count,
        ..Report::default()
    }
}

/// What the swap has to tell, in the report.
pub(super) fn add(report: &mut Report, swapped: RestoreReport) {
    let RestoreReport { entries, bytes, overwritten, created, removed, old, notes, bytes_from_here: _ } =
        swapped;
    *report = Report {
        entries,
        bytes,
        replaced: overwritten,
        created,
        removed,
        old,
        notes,
        steps: std::mem::take(&mut report.steps),
        names: std::mem::take(&mut report.names),
        undone: None,
    };
}

pub(super) fn report(task_id: String, report: Report) -> v1::RestoreFinished {
    let old: Vec<String> = report.old.iter().map(|path| path.display().to_string()).collect();
    v1::RestoreFinished {
        task_id,
        entries: report.entries,
        bytes: report.bytes,
        previous_state: old.join(", "),
        warnings: report.notes.into_iter().take(TOLD_WARNINGS).collect(),
        replaced: report.replaced,
        created: report.created,
        removed: report.removed,
        steps: (report.steps.into_iter())
            .map(|done| v1::RestoreStep {
                step: done.step,
                ended_at: Some(convert::to_wire_time(done.at)),
                detail: done.detail,
            })
            .collect(),
        undone: report.undone.unwrap_or_default(),
        names: told_names(report.names),
    }
}

/// All of them, or none where they are more than one message should hold.
fn told_names(names: Vec<String>) -> Vec<String> {
    const MOST: usize = 256 << 10;
    let bytes: usize = names.iter().map(String::len).sum();
    if bytes <= MOST { names } else { Vec::new() }
}
