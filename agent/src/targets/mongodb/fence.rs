//! Names that stay taken for a while after the restore of another agent was ended.
//!
//! An agent that stood still between its last look at its lease and its next rename may send that rename long after its
//! restore was taken over and ended: a live collection would go. It renames one name after the other, so it is known
//! what it was about to rename, and to which names; a server refuses a rename to a name that is taken. Must stay true:
//! what is put there is empty, and only what is empty is dropped; a name is never free between what lay there and its
//! fence.

use std::time::{Duration, SystemTime};

use mongodb::bson::doc;

use super::error::{RestoreError, failed};
use super::journal::{Move, Phase, What};
use super::select::Name;
use super::swap::Swap;
use crate::sources::mongodb::names::Staged;

/// So long they stay taken, by the clock of whoever looks.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// More than collections and what came a second time have numbers: of what is about to take a name.
const SPARE: i32 = 2_000_000_000;

/// To which names an owner may still rename that stood still in this phase.
pub(super) fn of_late(swap: &Swap<'_>, phase: Phase, moves: &[Move]) -> Vec<Name> {
    let has = |step: &Move, staged| swap.has(&swap.staged(step, staged));
    let is_put = |step: &&Move| match step.what {
        What::Collection { .. } => !has(step, Staged::New),
        What::Removed => has(step, Staged::Old) || !swap.has(&step.name),
        What::View { .. } => true,
    };
    let is_back = |step: &&Move| match step.what {
        What::Collection { .. } => has(step, Staged::New) && !has(step, Staged::Old),
        What::Removed => !has(step, Staged::Old),
        What::View { .. } => true,
    };
    let (step, staged) = match phase {
        Phase::Swapping => (moves.iter().find(|step| !is_put(step)), Staged::Old),
        Phase::Undoing => (moves.iter().rev().find(|step| !is_back(step)), Staged::New),
        Phase::Loading | Phase::Live | Phase::Built => (None, Staged::New),
    };
    let Some(step) = step else { return Vec::new() };
    let came = swap.staged(step, Staged::Came);
    // What has come under it is somebody's, and takes the name as well.
    let came = (!swap.has(&came)).then_some(came);
    [Some(swap.staged(step, staged)), came].into_iter().flatten().collect()
}

/// True once they may be free again; none: they have not been put there.
pub(super) fn is_over(fenced_at: Option<i64>) -> Option<bool> {
    let kept = i64::try_from(KEPT.as_millis()).expect("it is short");
    fenced_at.map(|then| now().saturating_sub(then) > kept)
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Takes these names. What lies there under one of these words goes; anything else keeps its name, which is taken so.
pub(super) fn put(swap: &mut Swap<'_>, fences: &[Name], words: &[Staged]) -> Result<(), RestoreError> {
    for (number, fence) in (0..).zip(fences) {
        let goes = Staged::of(&fence.collection).is_some_and(|(_, staged, _)| words.contains(&staged));
        if !swap.has(fence) {
            create(swap, fence)?;
        } else if goes {
            let spare = spare(swap, fence, number);
            swap.drop(&spare)?;
            create(swap, &spare)?;
            let over =
                doc! { "renameCollection": spare.to_string(), "to": fence.to_string(), "dropTarget": true };
            let renamed = swap.server.change("admin", over, None);
            renamed.map_err(failed(format!("keep the name {fence} taken")))?;
            swap.went(&spare);
        }
    }
    Ok(())
}

/// Gives them up.
pub(super) fn lift(swap: &mut Swap<'_>, fences: &[Name]) -> Result<(), RestoreError> {
    for (number, fence) in (0..).zip(fences) {
        for name in [fence.clone(), spare(swap, fence, number)] {
            if !swap.has(&name) {
                continue;
            }
            let any = swap.server.list(&name.database, doc! { "find": &name.collection, "limit": 1 });
            if !any.map_err(failed(format!("look at {name}")))?.is_empty() {
                return Err(RestoreError::Refused(format!("{name} should be empty and is not: look at it")));
            }
            swap.drop(&name)?;
        }
    }
    Ok(())
}

fn spare(swap: &Swap<'_>, fence: &Name, number: i32) -> Name {
    Name { database: fence.database.clone(), collection: Staged::Came.name(swap.id, SPARE + number) }
}

fn create(swap: &mut Swap<'_>, name: &Name) -> Result<(), RestoreError> {
    let created = swap.server.change(&name.database, doc! { "create": &name.collection }, None);
    created.map_err(failed(format!("keep the name {name} taken")))?;
    swap.came(name);
    Ok(())
}
