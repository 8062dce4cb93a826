//! Names that stay taken for a while after the restore of another agent was ended.
//!
//! An agent that stood still between its last look at its lease and its next rename may send that rename long after its
//! restore was taken over and ended: a live collection would go. It renames one name after the other, so it is known
//! what it was about to rename, and to which names; a server refuses a rename to a name that is taken. Must stay true:
//! what is put there is empty, and only what is empty is dropped, once it lies where no late rename goes; where something
//! lay there, the name is taken at once when that goes; what a late rename has carried there all the same gets its name
//! back, and hinders nothing, and neither does what cannot be dropped.

use std::time::{Duration, SystemTime};

use mongodb::bson::doc;
use proto::failure::chain;

use super::error::{RestoreError, failed};
use super::journal::{Move, Phase, What};
use super::select::Name;
use super::swap::{AGAIN, EXISTS, Swap, TRIES};
use crate::sources::mongodb::names::Staged;

/// So long they stay taken, by the clock of whoever looks.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// More than collections and what came a second time have numbers: of what is about to take a name.
const SPARE: i32 = 2_000_000_000;

/// What lies where a step has put what was live.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Lies {
    Nothing,
    /// What was live.
    Old,
    /// What keeps the name taken: what was live has its name back.
    Fence,
    /// One of the two.
    Either,
}

/// What lies there while a restore is taken back: whoever takes it back again finds what it has put there the first time.
pub(super) fn lies(swap: &Swap<'_>, step: &Move) -> Result<Lies, RestoreError> {
    let [new, old] = [Staged::New, Staged::Old].map(|staged| swap.staged(step, staged));
    if !swap.has(&old) {
        return Ok(Lies::Nothing);
    }
    if !swap.fences.contains(&old) || !swap.has(&step.name) || !is_empty(swap, &old)? {
        return Ok(Lies::Old);
    }
    let is_loaded = matches!(step.what, What::Collection { .. });
    // Where what was loaded is not staged, it is live; or it was live, was taken back and was dropped by somebody.
    match is_loaded && !swap.has(&new) && !is_empty(swap, &step.name)? {
        true => Ok(Lies::Either),
        false => Ok(Lies::Fence),
    }
}

/// To which names an owner may still rename that stood still in this phase.
pub(super) fn of_late(swap: &Swap<'_>, phase: Phase, moves: &[Move]) -> Result<Vec<Name>, RestoreError> {
    let has = |step: &Move, staged| swap.has(&swap.staged(step, staged));
    let is_put = |step: &&Move| match step.what {
        What::Collection { .. } => !has(step, Staged::New),
        What::Removed => has(step, Staged::Old) || !swap.has(&step.name),
        What::View { .. } => true,
    };
    let is_back = |step: &Move| {
        Ok::<_, RestoreError>(match step.what {
            What::View { .. } => true,
            What::Collection { .. } if !has(step, Staged::New) => false,
            What::Collection { .. } | What::Removed => {
                matches!(lies(swap, step)?, Lies::Nothing | Lies::Fence)
            }
        })
    };
    let (step, staged) = match phase {
        Phase::Swapping => (moves.iter().find(|step| !is_put(step)), Staged::Old),
        Phase::Undoing => {
            let mut next = None;
            for step in moves.iter().rev() {
                if !is_back(step)? {
                    next = Some(step);
                    break;
                }
            }
            (next, Staged::New)
        }
        Phase::Loading | Phase::Live | Phase::Built => (None, Staged::New),
    };
    let Some(step) = step else { return Ok(Vec::new()) };
    Ok(vec![swap.staged(step, staged), swap.free_came(step)])
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

/// Takes these names. What lies there under one of these words goes; what a late owner has carried there gets the name
/// back that it had by `moves`, if that is missing; anything else keeps its name, which is taken so.
pub(super) fn put(
    swap: &mut Swap<'_>,
    fences: &[Name],
    words: &[Staged],
    moves: &[Move],
) -> Result<(), RestoreError> {
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
        } else if let Some(step) = of(fence, moves).filter(|step| !swap.has(&step.name))
            && !is_empty(swap, fence)?
        {
            // What has taken the name meanwhile is not set aside: nobody may have a lease any more.
            match swap.rename(fence, &step.name) {
                Ok(()) => {
                    tracing::warn!("{} was renamed late by another agent: it has its name back", step.name);
                    take_at_once(swap, fence, step)?;
                }
                Err(RestoreError::Server { action, source }) if source.is_connection => {
                    return Err(RestoreError::Server { action, source });
                }
                Err(error) => {
                    tracing::warn!("{fence} does not get its name back, and is kept: {}", chain(&error));
                }
            }
        }
    }
    Ok(())
}

/// What a late owner has carried away to these names, before they were taken, gets its name back.
pub(super) fn give_back(swap: &mut Swap<'_>, phase: Phase, moves: &[Move]) -> Result<(), RestoreError> {
    for fence in swap.fences {
        let Some(step) = of(fence, moves).filter(|step| !swap.has(&step.name)) else { continue };
        let is_missing = match (phase, &step.what) {
            (Phase::Swapping, What::Collection { .. }) => !swap.has(&swap.staged(step, Staged::New)),
            (Phase::Undoing, What::Collection { replaces: true } | What::Removed) => {
                !swap.has(&swap.staged(step, Staged::Old))
            }
            _ => false,
        };
        let is_came = Staged::of(&fence.collection).is_some_and(|(_, staged, _)| staged == Staged::Came);
        if is_missing && is_came && swap.has(fence) && !is_empty(swap, fence)? {
            tracing::warn!("{} was renamed late by another agent: it gets its name back", step.name);
            swap.rename(fence, &step.name)?;
        }
    }
    Ok(())
}

/// Gives them up. What lies there and is not empty gets its name back if that is missing; else it is kept, and told by
/// each backup. Returns what is kept, and whether all else has gone: what does not is tried again by the next task.
pub(super) fn lift(
    swap: &mut Swap<'_>,
    fences: &[Name],
    moves: &[Move],
) -> Result<(Vec<Name>, bool), RestoreError> {
    let (mut kept, mut are_all_lifted) = (Vec::new(), true);
    for (number, fence) in (0..).zip(fences) {
        let live = of(fence, moves).map(|step| &step.name);
        let spare = spare(swap, fence, number);
        // The spare one first: it may be what somebody who died here had renamed.
        for name in [&spare, fence] {
            match lift_one(swap, name, &spare, live) {
                Ok(left) => kept.extend(left),
                Err(RestoreError::Server { action, source }) if source.is_connection => {
                    return Err(RestoreError::Server { action, source });
                }
                Err(error) => {
                    tracing::warn!("{name} was kept taken and stays for now: {}", chain(&error));
                    kept.push(name.clone());
                    are_all_lifted = false;
                }
            }
        }
    }
    Ok((kept, are_all_lifted))
}

/// Returns what is kept of it.
fn lift_one(
    swap: &mut Swap<'_>,
    name: &Name,
    spare: &Name,
    live: Option<&Name>,
) -> Result<Option<Name>, RestoreError> {
    if !swap.has(name) {
        return Ok(None);
    }
    let mut lies = name;
    if is_empty(swap, lies)? {
        if lies != spare {
            // Another agent may do the same: what is dropped lies where no late rename goes, and is looked at there.
            swap.rename(lies, spare)?;
            lies = spare;
        }
        if is_empty(swap, lies)? {
            swap.drop(lies)?;
            return Ok(None);
        }
    }
    let Some(live) = live.filter(|live| !swap.has(live)) else {
        tracing::warn!("{lies} should be empty and is not; it is kept: look at it, and drop it");
        return Ok(Some(lies.clone()));
    };
    match swap.rename(lies, live) {
        Ok(()) => {
            tracing::warn!("{live} was renamed late by another agent: it has its name back");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!("{lies} does not get the name {live} back, and is kept: {}", chain(&error));
            Ok(Some(lies.clone()))
        }
    }
}

/// Whose name was to be renamed to this one.
fn of<'a>(fence: &Name, moves: &'a [Move]) -> Option<&'a Move> {
    let (_, _, number) = Staged::of(&fence.collection).filter(|(_, _, number)| *number < SPARE)?;
    let is_it = |step: &&Move| step.number == number % AGAIN && step.name.database == fence.database;
    moves.iter().find(is_it)
}

fn is_empty(swap: &Swap<'_>, name: &Name) -> Result<bool, RestoreError> {
    let any = swap.server.list(&name.database, doc! { "find": &name.collection, "limit": 1 });
    Ok(any.map_err(failed(format!("look at {name}")))?.is_empty())
}

/// Takes the name that `step` has just got back from, at once. What a late rename has carried there in between gets its
/// name back once more.
pub(super) fn take_at_once(swap: &mut Swap<'_>, fence: &Name, step: &Move) -> Result<(), RestoreError> {
    for _ in 0..TRIES {
        let is_made = match create(swap, fence) {
            // It is taken: by whom is seen below.
            Err(RestoreError::Server { source, .. }) if source.code == Some(EXISTS) => {
                swap.came(fence);
                false
            }
            created => created.map(|()| true)?,
        };
        // From here on nothing carries it away any more. What lies there and was not made here may be an empty live one.
        if swap.is_there(&step.name)? || (is_made && is_empty(swap, fence)?) {
            return Ok(());
        }
        tracing::warn!("{} was renamed late by another agent: it gets its name back", step.name);
        swap.went(&step.name);
        swap.settle(fence, step)?;
    }
    Err(RestoreError::Refused(format!("somebody keeps renaming {}: stop it", step.name)))
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
