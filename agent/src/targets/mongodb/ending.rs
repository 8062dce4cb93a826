//! The end of a restore: what was loaded takes its place for good, or all is taken back; by the process that has
//! begun it, or by the next one.
//!
//! Must stay true: nothing that was live goes before all is live for good; while a rename may still be on its
//! way to the server, nothing is decided by what is there; restores of other servers, and others of the same one, are
//! ended whatever comes of one.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use proto::failure::chain;
use runtime::steps;

use super::error::{RestoreError, failed};
use super::indexes::{self, Until};
use super::journal::{Found, Journal, Move, Phase, not_understood};
use super::owner;
use super::select::Name;
use super::swap::Swap;
use super::{UnderWay, fence, plan};
use crate::sources::mongodb::names::Staged;
use crate::sources::mongodb::server::{CHANGE, Server};
use crate::steps::Step;
use crate::targets::Progress;

/// Indexes that let documents expire are waited for no longer than this, by all collections together.
pub(super) const EXPIRING: Duration = Duration::from_secs(4 * 60 * 60);
/// So long by whoever ends the restore of a process that has died: backups, plans and the agent's start wait for it.
const EXPIRING_LATER: Duration = Duration::from_secs(60);

/// How a restore whose process has died was ended.
#[derive(Debug)]
pub(crate) enum Recovered {
    /// All of it is live; this should be known.
    Finished(Vec<String>),
    /// What was live before is live again, for this reason.
    TakenBack(String),
    /// It had changed nothing that is live.
    Dropped,
}

/// Ends, one way or the other, what restores whose processes have died have left in a server. `holds` starts
/// what uses a restore whose swap is done; where it says no, the swap is taken back. `ended` hears of each at
/// once: what comes to the next one does not change how this one has ended. `us` is this agent: a restore that goes on
/// at another one is not ended.
pub(crate) fn recover(
    server: &Server,
    us: &str,
    holds: &dyn Fn(&str) -> Result<(), String>,
    ended: &mut dyn FnMut(&str, Recovered),
) -> Result<(), RestoreError> {
    let mut first = None;
    for id in Journal::ids(server)? {
        // Two tasks at one server would rename against each other.
        let _ending = Ending::begin(&id);
        match recover_one(server, &id, us, holds) {
            Ok(Some(how)) => {
                steps::reach(Step::RecoveryEnded);
                ended(&id, how);
            }
            Ok(None) => {}
            // Nothing else would be answered.
            Err(RestoreError::Server { action, source }) if source.is_connection => {
                return Err(RestoreError::Server { action, source });
            }
            // One that cannot be ended keeps no other.
            Err(error) => {
                tracing::error!(restore = id, "an interrupted restore could not be ended: {}", chain(&error));
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Ends one restore; none if there is nothing to end any more.
fn recover_one(
    server: &Server,
    id: &str,
    us: &str,
    holds: &dyn Fn(&str) -> Result<(), String>,
) -> Result<Option<Recovered>, RestoreError> {
    if UnderWay::has(id) {
        return Err(RestoreError::Refused(format!("another restore ({id}) goes on there")));
    }
    let mut journal = match Journal::open(server, id)? {
        Found::Journal(journal) => journal,
        Found::Gone => return Ok(None),
        Found::Nothing(away) if away.is_empty() => {
            tracing::warn!(
                restore = id,
                "the journal of a restore cannot be understood; nothing that was live waits for it: look at it, and drop it"
            );
            return Ok(None);
        }
        Found::Nothing(away) => return Err(not_understood(id, &away)),
    };
    match fence::is_over(journal.fenced_at) {
        None => {}
        Some(false) => return Ok(None),
        Some(true) => {
            let moves = journal.moves()?;
            let mut swap = Swap::look(server, &journal)?;
            let (kept, are_all_lifted) = fence::lift(&mut swap, &journal.fences, &moves)?;
            let tidied = swap.tidy(&[Staged::Old, Staged::New], &kept);
            match tidied.and_then(|()| if are_all_lifted { journal.end() } else { Ok(()) }) {
                Ok(()) => {}
                Err(RestoreError::Server { action, source }) if source.is_connection => {
                    return Err(RestoreError::Server { action, source });
                }
                // It is in nobody's way: the next task tries again.
                Err(left) => {
                    tracing::warn!(restore = id, "what was replaced stays for now: {}", chain(&left))
                }
            }
            return Ok(None);
        }
    }
    let mut is_taken = false;
    // What is left to drop is dropped by anybody.
    if let Some(owner) = journal.owner.clone().filter(|_| journal.phase != Phase::Built) {
        is_taken = owner::take_over(server, id, &owner, us)?;
        // Its owner may have gone on until it died.
        let Found::Journal(now) = Journal::open(server, id)? else { return Ok(None) };
        journal = now;
        journal.hold();
    }
    steps::reach(Step::RecoveryBegun);
    let moves = journal.moves()?;
    if is_taken {
        let late = fence::of_late(&Swap::look(server, &journal)?, journal.phase, &moves)?;
        journal.fence(late)?;
    }
    if !journal.fences.is_empty() {
        // What is put in the way now stays there; what is to lie aside first is fenced when it goes. Whoever took the
        // restore over before may have died before it came to this.
        let mut swap = Swap::look(server, &journal)?;
        fence::give_back(&mut swap, journal.phase, &moves)?;
        let came =
            |name: &&Name| Staged::of(&name.collection).is_some_and(|(_, staged, _)| staged == Staged::Came);
        let came: Vec<Name> = journal.fences.iter().filter(came).cloned().collect();
        fence::put(&mut swap, &came, &[], &[])?;
    }
    Ok(Some(match journal.phase {
        Phase::Loading => {
            tidy(server, &journal, &[Staged::New], &moves)?;
            Recovered::Dropped
        }
        Phase::Swapping => {
            let (mut notes, renamed) = forward(server, &journal, &moves);
            renamed?;
            match holds(id) {
                Ok(()) => Recovered::Finished(finish(server, journal, &moves, EXPIRING_LATER, notes)?),
                Err(cause) => {
                    notes.extend(take_back(server, &mut journal, &moves)?);
                    tidy(server, &journal, &[Staged::New], &moves)?;
                    Recovered::TakenBack(with(cause, &notes))
                }
            }
        }
        Phase::Undoing => {
            let notes = take_back(server, &mut journal, &moves)?;
            tidy(server, &journal, &[Staged::New], &moves)?;
            Recovered::TakenBack(with("it was interrupted while it was taken back".to_owned(), &notes))
        }
        Phase::Live | Phase::Built => {
            Recovered::Finished(finish(server, journal, &moves, EXPIRING_LATER, Vec::new())?)
        }
    }))
}

/// Restores that are being ended in this process.
static ENDING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static ENDED: Condvar = Condvar::new();

/// The right to end one restore, for as long as it lives.
struct Ending<'a>(&'a str);

impl<'a> Ending<'a> {
    /// Waits until nobody else ends this one.
    fn begin(id: &'a str) -> Self {
        let all = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
        let free = ENDED.wait_while(all, |all| all.contains(id));
        free.unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        Self(id)
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        ENDING.lock().unwrap_or_else(PoisonError::into_inner).remove(self.0);
        ENDED.notify_all();
    }
}

/// Renames, and waits for what uses it; or takes it back.
pub(super) fn swapped(
    server: &Server,
    journal: &mut Journal<'_>,
    moves: &[Move],
    progress: &dyn Progress,
) -> Result<Vec<String>, RestoreError> {
    let (mut notes, renamed) = forward(server, journal, moves);
    if let Err(error) = renamed {
        await_arrival(&error);
        notes.extend(back_and_tidy(server, journal, moves)?);
        // Where something was set aside, how it was taken back is a part of the restore's report.
        return Err(match notes.is_empty() {
            true => error,
            false => RestoreError::TakenBack(with(chain(&error), &notes)),
        });
    }
    steps::reach(Step::SwapDurable);
    if let Err(cause) = progress.swapped() {
        notes.extend(back_and_tidy(server, journal, moves)?);
        return Err(RestoreError::TakenBack(with(cause, &notes)));
    }
    Ok(notes)
}

fn with(cause: String, notes: &[String]) -> String {
    [&[cause], notes].concat().join("; ")
}

/// A change whose answer was lost may be on its way for as long as a server works on one.
#[expect(clippy::disallowed_methods, reason = "a stop makes it no safer to decide earlier; it has an end")]
fn await_arrival(error: &RestoreError) {
    if let RestoreError::Server { source, .. } = error
        && source.is_connection
    {
        tracing::warn!("the answer to a rename was lost: waits until it has taken effect or cannot any more");
        thread::sleep(CHANGE);
    }
}

/// Renames all of it. The first is what people should know, if it fails too.
fn forward(
    server: &Server,
    journal: &Journal<'_>,
    moves: &[Move],
) -> (Vec<String>, Result<(), RestoreError>) {
    let mut swap = match Swap::look(server, journal) {
        Ok(swap) => swap,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let renamed = swap.forward(moves);
    (swap.notes, renamed)
}

fn back_and_tidy(
    server: &Server,
    journal: &mut Journal<'_>,
    moves: &[Move],
) -> Result<Vec<String>, RestoreError> {
    let notes = take_back(server, journal, moves).map_err(|error| {
        await_arrival(&error);
        RestoreError::Interrupted(Box::new(error))
    })?;
    tidy_or_log(server, journal, moves);
    Ok(notes)
}

pub(super) fn tidy_or_log(server: &Server, journal: &Journal<'_>, moves: &[Move]) {
    if let Err(left) = tidy(server, journal, &[Staged::New], moves) {
        tracing::warn!(error = %left, "what a restore has staged stays until the next start");
    }
}

/// Drops what is staged, and leaves the journal to whoever has it now.
pub(super) fn drop_or_log(server: &Server, journal: &Journal<'_>) {
    let dropped = Swap::look(server, journal).and_then(|mut swap| swap.tidy(&[Staged::New], &[]));
    if let Err(left) = dropped {
        tracing::warn!(
            restore = journal.id,
            error = %left,
            "what a restore has staged after another agent had ended it may stay, and no start drops it: backups name it \
             then; drop it"
        );
    }
}

/// What was live is live again; the journal says so. Returns what people should know.
fn take_back(
    server: &Server,
    journal: &mut Journal<'_>,
    moves: &[Move],
) -> Result<Vec<String>, RestoreError> {
    journal.go(Phase::Undoing)?;
    steps::reach(Step::UndoBegun);
    let mut swap = Swap::look(server, journal)?;
    swap.back(moves)?;
    let notes = swap.notes;
    steps::reach(Step::UndoDurable);
    // From here on what is staged can be dropped, and nothing is renamed any more.
    journal.go(Phase::Loading)?;
    steps::reach(Step::UndoDone);
    Ok(notes)
}

/// All is live for good: what lets documents expire is built, the old collections go. What does not work is
/// told after these notes; what was not dropped is dropped by the next start. An error: another agent has it, and may take
/// it back.
pub(super) fn finish(
    server: &Server,
    mut journal: Journal<'_>,
    moves: &[Move],
    expiring: Duration,
    mut notes: Vec<String>,
) -> Result<Vec<String>, RestoreError> {
    if !matches!(journal.phase, Phase::Live | Phase::Built) {
        match journal.go(Phase::Live) {
            Ok(()) => {}
            Err(error @ RestoreError::Lost(_)) => {
                for note in &notes {
                    tracing::warn!(restore = journal.id, "{note}");
                }
                return Err(RestoreError::Interrupted(Box::new(error)));
            }
            Err(error) => {
                notes.push(format!("{}; the next start of the agent tidies up", chain(&error)));
                return Ok(notes);
            }
        }
    }
    steps::reach(Step::SwapDone);
    if journal.phase == Phase::Live {
        let until = Until::Then(Instant::now() + expiring);
        for step in moves {
            if let Err(error) = expire(server, step, until) {
                let cause = chain(&error);
                notes.push(format!(
                    "{}: what lets its documents expire is not there, or not yet, and is not tried again: {cause}",
                    step.name
                ));
            }
        }
        if let Err(error) = journal.go(Phase::Built) {
            notes.push(format!("{}; the next start of the agent tidies up", chain(&error)));
            return Ok(notes);
        }
    }
    if let Err(error) = tidy(server, &journal, &[Staged::Old, Staged::New], moves) {
        let cause = chain(&error);
        notes.push(format!("what was replaced is dropped by the next start of the agent: {cause}"));
    }
    steps::reach(Step::OlderReaped);
    Ok(notes)
}

fn expire(server: &Server, step: &Move, until: Until<'_>) -> Result<(), RestoreError> {
    let name = &step.name;
    if !step.expiring.is_empty() {
        indexes::build(server, (name, &name.collection), &step.expiring, until)?;
    }
    let Some(expires) = &step.expires else { return Ok(()) };
    let command: Document = doc! { "collMod": &name.collection, plan::EXPIRY: expires };
    server.change(&name.database, command, None).map(|_| ()).map_err(failed(format!("let {name} expire")))
}

/// Drops what is staged under these words, and the journal; but for what a late owner is to find taken.
fn tidy(
    server: &Server,
    journal: &Journal<'_>,
    words: &[Staged],
    moves: &[Move],
) -> Result<(), RestoreError> {
    let mut swap = Swap::look(server, journal)?;
    fence::put(&mut swap, &journal.fences, words, moves)?;
    swap.tidy(words, &journal.fences)?;
    steps::reach(Step::StagingTidied);
    if journal.fences.is_empty() { journal.end() } else { journal.rest(fence::now()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_restore_is_ended_by_one_task_at_a_time_and_others_meanwhile() {
        let (at_once, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let of_another = Ending::begin("other");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _ending = Ending::begin("one");
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        drop(of_another);
        assert_eq!(most.into_inner(), 1);
    }
}
