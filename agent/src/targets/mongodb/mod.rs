//! The MongoDB target: loads collections beside the live ones, and swaps them by renames.
//!
//! How a restore goes: a journal in the server says that something is staged ([`journal`]); each collection is
//! made under a short name of its own in the database that it belongs to, loaded, read back and compared, and
//! given all its indexes but those that let documents expire ([`load`], [`indexes`]); the journal says what
//! will be renamed; then live → old and new → live, one name after the other ([`swap`]). A failure before the
//! swap leaves what is live untouched; one in it is taken back; a crash is finished by [`recover`]. Once what
//! uses the data is healthy, the old collections are dropped and the expiring indexes built.
//!
//! Must stay true: what is live changes by renames alone, and goes only when all of it has been replaced and
//! is live for good; nothing is live that was not compared with what was backed up.

pub(crate) mod archive;
mod error;
mod indexes;
mod journal;
mod load;
pub(crate) mod plan;
pub(crate) mod select;
mod swap;
mod trial;

pub(crate) use error::{RestoreError, RestoreReport};
pub(crate) use trial::{preflight, survey};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use mongodb::bson::{Document, doc};
use repository::archive::entry::{Entry, EntryKind, FileContent};
use repository::archive::path::EntryPath;
use runtime::steps;

use super::{CancelFlag, Progress};
use crate::sources::mongodb::names::Staged;
use crate::sources::mongodb::server::Server;
use crate::steps::Step;
use archive::{Contents, Kind, checked};
use error::failed;
use journal::{Journal, Move, Phase, What};
use plan::{Live, Plan, Restored};
use select::Name;
use swap::Swap;

/// The restores of this process that are under way: what they have staged is not left over.
static UNDER_WAY: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A restore of this process, for as long as it lives.
struct UnderWay(String);

impl UnderWay {
    fn begin(id: &str) -> Self {
        UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        Self(id.to_owned())
    }

    fn has(id: &str) -> bool {
        UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Carries out `plan` under the name `id` and returns when all of it is live for good. On an error what is live
/// is as before, but for [`RestoreError::Interrupted`].
pub(crate) fn restore<E>(
    server: &Server,
    id: &str,
    plan: &Plan,
    entries: impl Iterator<Item = Result<Entry, E>>,
    contents: &mut Contents<'_>,
    progress: &dyn Progress,
) -> Result<RestoreReport, RestoreError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let _under_way = UnderWay::begin(id);
    let targets = plan.restored.iter().map(|one| &one.target).chain(&plan.removed);
    let databases: BTreeSet<String> = targets.map(|name| name.database.clone()).collect();
    let mut journal = Journal::begin(server, id, databases.into_iter().collect())?;
    steps::reach(Step::StagingBegun);
    let staged = stage(server, id, plan, entries, contents, progress)
        .and_then(|()| progress.staged().map_err(RestoreError::NotStopped))
        .and_then(|()| moves(server, plan, &journal.databases));
    let moves = match staged {
        Ok(moves) => moves,
        Err(error) => {
            tidy_or_log(server, &journal);
            return Err(error);
        }
    };
    steps::reach(Step::StagedDurable);
    if let Err(error) = journal.swap(&moves) {
        // It may say all the same that the swap has begun: then nothing of what is staged may go.
        if journal.go(Phase::Loading).is_err() {
            return Err(RestoreError::Interrupted(Box::new(error)));
        }
        tidy_or_log(server, &journal);
        return Err(error);
    }
    progress.swap_begins();
    steps::reach(Step::SwapBegun);
    let mut notes = swapped(server, &mut journal, &moves, progress)?;
    let count = |names: &[Name]| names.len() as u64;
    notes.extend(finish(server, journal, &moves));
    Ok(RestoreReport {
        collections: plan.restored.len() as u64,
        bytes: plan.bytes,
        replaced: count(&plan.replaced),
        created: count(&plan.created),
        removed: count(&plan.removed),
        notes,
    })
}

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
/// what uses a restore whose swap is done; where it says no, the swap is taken back.
pub(crate) fn recover(
    server: &Server,
    holds: &dyn Fn(&str) -> Result<(), String>,
) -> Result<Vec<(String, Recovered)>, RestoreError> {
    let mut ended = Vec::new();
    for mut journal in Journal::all(server)? {
        let id = journal.id.clone();
        if UnderWay::has(&id) {
            return Err(RestoreError::Refused(format!("another restore ({id}) goes on there")));
        }
        steps::reach(Step::RecoveryBegun);
        let moves = journal.moves()?;
        let recovered = match journal.phase {
            Phase::Loading => {
                tidy(server, &journal, &[Staged::New])?;
                Recovered::Dropped
            }
            Phase::Swapping => {
                let mut notes = forward(server, &journal, &moves)?;
                match holds(&id) {
                    Ok(()) => {
                        notes.extend(finish(server, journal, &moves));
                        Recovered::Finished(notes)
                    }
                    Err(cause) => {
                        take_back(server, &mut journal, &moves)?;
                        tidy(server, &journal, &[Staged::New])?;
                        Recovered::TakenBack(cause)
                    }
                }
            }
            Phase::Undoing => {
                take_back(server, &mut journal, &moves)?;
                tidy(server, &journal, &[Staged::New])?;
                Recovered::TakenBack("it was interrupted while it was taken back".to_owned())
            }
            Phase::Live => Recovered::Finished(finish(server, journal, &moves)),
        };
        steps::reach(Step::RecoveryEnded);
        ended.push((id, recovered));
    }
    Ok(ended)
}

/// Loads and checks everything beside what is live.
fn stage<E>(
    server: &Server,
    id: &str,
    plan: &Plan,
    entries: impl Iterator<Item = Result<Entry, E>>,
    contents: &mut Contents<'_>,
    progress: &dyn Progress,
) -> Result<(), RestoreError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut wanted: BTreeMap<&EntryPath, (i32, &Restored)> = BTreeMap::new();
    for (number, restored) in (0..).zip(&plan.restored) {
        if let (Kind::Collection, Some((path, _))) = (restored.archived.kind, &restored.archived.documents) {
            wanted.insert(path, (number, restored));
        }
    }
    let mut is_first = true;
    for entry in checked(entries) {
        let entry = entry?;
        let EntryKind::File(content) = &entry.kind else { continue };
        let Some((number, restored)) = wanted.remove(&entry.path) else { continue };
        let staged = Staged::New.name(id, number);
        stage_one(server, restored, &staged, (&entry.path, content), contents, progress)?;
        progress.entry_written();
        if is_first {
            steps::reach(Step::FirstStaged);
        }
        is_first = false;
    }
    match wanted.first_key_value() {
        Some((path, _)) => Err(RestoreError::archive(path, "it is not in the archive any more")),
        None => {
            steps::reach(Step::AllStaged);
            Ok(())
        }
    }
}

fn stage_one(
    server: &Server,
    restored: &Restored,
    staged: &str,
    (path, content): (&EntryPath, &FileContent),
    contents: &mut Contents<'_>,
    progress: &dyn Progress,
) -> Result<(), RestoreError> {
    let name = &restored.target;
    let mut create = doc! { "create": staged };
    create.extend(restored.options());
    server
        .change(&name.database, create, None)
        .map_err(failed(format!("make {name} beside what is live")))?;
    let in_order = restored.archived.options.get_bool("capped").unwrap_or_default();
    let into = load::Into { name, staged, in_order };
    let sent = load::load(server, contents, (path, content), into, progress)?;
    let there = load::read_back(server, name, staged, contents.cancel)?;
    if let Some(how) = sent.differs(&there) {
        return Err(RestoreError::Differs(format!("{name} is not what was loaded: {how}")));
    }
    let (plain, _) = restored.indexes();
    indexes::build(server, (name, staged), &plain, contents.cancel)
}

/// What will be renamed, by what is live now: nobody uses it any more.
fn moves(server: &Server, plan: &Plan, databases: &[String]) -> Result<Vec<Move>, RestoreError> {
    let live = trial::live(server, databases)?;
    let (mut collections, mut views) = (Vec::new(), Vec::new());
    for (number, restored) in (0..).zip(&plan.restored) {
        let name = restored.target.clone();
        let there = live.get(&name);
        if let Some(there) = there.filter(|there| there.kind != restored.archived.kind) {
            return Err(RestoreError::Refused(format!("{name} has become {}", there.kind.word())));
        }
        let (_, expiring) = restored.indexes();
        let expires = restored.expires();
        match restored.archived.kind {
            Kind::View => {
                let old = there.map(|there| there.options.clone());
                let what = What::View { new: Some(restored.archived.options.clone()), old };
                views.push(Move { number, name, what, expiring, expires });
            }
            _ => {
                // One that has come since the plan was confirmed is not what it may replace: it is set aside.
                let replaces = there.is_some() && plan.replaced.contains(&name);
                let what = What::Collection { replaces };
                collections.push(Move { number, name, what, expiring, expires });
            }
        }
    }
    let first = i32::try_from(plan.restored.len()).unwrap_or(i32::MAX);
    for (number, name) in (first..).zip(&plan.removed) {
        let Some(Live { kind, options }) = live.get(name) else { continue };
        let (name, expiring, expires) = (name.clone(), Vec::new(), None);
        match kind {
            Kind::View => {
                let what = What::View { new: None, old: Some(options.clone()) };
                views.push(Move { number, name, what, expiring, expires });
            }
            _ => collections.push(Move { number, name, what: What::Removed, expiring, expires }),
        }
    }
    // What a view shows is there before it.
    collections.extend(views);
    Ok(collections)
}

/// Renames, and waits for what uses it; or takes it back.
fn swapped(
    server: &Server,
    journal: &mut Journal<'_>,
    moves: &[Move],
    progress: &dyn Progress,
) -> Result<Vec<String>, RestoreError> {
    let notes = match forward(server, journal, moves) {
        Ok(notes) => notes,
        Err(error) => {
            back_and_tidy(server, journal, moves)?;
            return Err(error);
        }
    };
    steps::reach(Step::SwapDurable);
    if let Err(cause) = progress.swapped() {
        back_and_tidy(server, journal, moves)?;
        return Err(RestoreError::TakenBack(cause));
    }
    Ok(notes)
}

/// Renames all of it, and says what people should know.
fn forward(server: &Server, journal: &Journal<'_>, moves: &[Move]) -> Result<Vec<String>, RestoreError> {
    let mut swap = look(server, journal)?;
    swap.forward(moves)?;
    Ok(swap.notes)
}

fn back_and_tidy(server: &Server, journal: &mut Journal<'_>, moves: &[Move]) -> Result<(), RestoreError> {
    let back = take_back(server, journal, moves);
    back.map_err(|error| RestoreError::Interrupted(Box::new(error)))?;
    tidy_or_log(server, journal);
    Ok(())
}

fn tidy_or_log(server: &Server, journal: &Journal<'_>) {
    if let Err(left) = tidy(server, journal, &[Staged::New]) {
        tracing::warn!(error = %left, "what a restore has staged stays until the next start");
    }
}

/// What was live is live again; the journal says so.
fn take_back(server: &Server, journal: &mut Journal<'_>, moves: &[Move]) -> Result<(), RestoreError> {
    journal.go(Phase::Undoing)?;
    steps::reach(Step::UndoBegun);
    look(server, journal)?.back(moves)?;
    steps::reach(Step::UndoDurable);
    // From here on what is staged can be dropped, and nothing is renamed any more.
    journal.go(Phase::Loading)?;
    steps::reach(Step::UndoDone);
    Ok(())
}

/// All is live for good: what lets documents expire is built, the old collections go. What does not work is
/// told; what was not dropped is dropped by the next start.
fn finish(server: &Server, mut journal: Journal<'_>, moves: &[Move]) -> Vec<String> {
    let mut notes = Vec::new();
    if journal.phase != Phase::Live
        && let Err(error) = journal.go(Phase::Live)
    {
        notes.push(format!("{}; the next start of the agent tidies up", proto::failure::chain(&error)));
        return notes;
    }
    steps::reach(Step::SwapDone);
    for step in moves {
        if let Err(error) = expire(server, step) {
            let cause = proto::failure::chain(&error);
            notes.push(format!("{}: what lets its documents expire is missing: {cause}", step.name));
        }
    }
    if let Err(error) = tidy(server, &journal, &[Staged::Old, Staged::New]) {
        let cause = proto::failure::chain(&error);
        notes.push(format!("what was replaced is dropped by the next start of the agent: {cause}"));
    }
    steps::reach(Step::OlderReaped);
    notes
}

fn expire(server: &Server, step: &Move) -> Result<(), RestoreError> {
    let (name, cancel) = (&step.name, CancelFlag::default());
    if !step.expiring.is_empty() {
        indexes::build(server, (name, &name.collection), &step.expiring, &cancel)?;
    }
    let Some(expires) = &step.expires else { return Ok(()) };
    let command: Document = doc! { "collMod": &name.collection, plan::EXPIRY: expires };
    server.change(&name.database, command, None).map(|_| ()).map_err(failed(format!("let {name} expire")))
}

fn look<'a>(server: &'a Server, journal: &'a Journal<'_>) -> Result<Swap<'a>, RestoreError> {
    Swap::look(server, &journal.id, journal.databases.iter().map(String::as_str))
}

fn tidy(server: &Server, journal: &Journal<'_>, words: &[Staged]) -> Result<(), RestoreError> {
    look(server, journal)?.tidy(words)?;
    steps::reach(Step::StagingTidied);
    journal.end()
}
