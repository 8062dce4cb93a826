//! The MongoDB target: loads collections beside the live ones, and swaps them by renames.
//!
//! How a restore goes: a journal in the server says that something is staged ([`journal`]); each collection is
//! made under a short name of its own in the database that it belongs to, loaded, read back and compared, and
//! given all its indexes but those that let documents expire ([`load`], [`indexes`]); the journal says what
//! will be renamed; then live → old and new → live, one name after the other ([`swap`]). A failure before the
//! swap leaves what is live untouched; one in it is taken back; a crash is finished by [`recover`]. Once what
//! uses the data is healthy, the expiring indexes are built and the old collections dropped ([`ending`]).
//!
//! Must stay true: what is live changes by renames alone, and goes only when all of it has been replaced and
//! is live for good; nothing is live that was not compared with what was backed up.

pub(crate) mod archive;
mod ending;
mod error;
mod fence;
mod indexes;
mod journal;
mod load;
mod owner;
pub(crate) mod plan;
pub(crate) mod select;
mod swap;
mod trial;

pub(crate) use ending::{Recovered, recover};
pub(crate) use error::{RestoreError, RestoreReport};
pub(crate) use trial::{preflight, survey};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use mongodb::bson::doc;
use repository::archive::entry::{Entry, EntryKind, FileContent};
use repository::archive::path::EntryPath;
use runtime::steps;

use super::Progress;
use crate::sources::mongodb::names::Staged;
use crate::sources::mongodb::server::Server;
use crate::steps::Step;
use archive::{Contents, Kind, checked};
use ending::{finish, swapped, tidy_or_log};
use error::failed;
use indexes::Until;
use journal::{Journal, Move, Phase, What};
use plan::{Live, Plan, Restored};
use select::Name;

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

/// Carries out `plan` under the name `id`, as a restore of the agent `owner`, and returns when all of it is live for
/// good. On an error what is live is as before, but for [`RestoreError::Interrupted`].
pub(crate) fn restore<E>(
    server: &Server,
    (id, owner): (&str, &str),
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
    let mut journal = Journal::begin(server, id, owner, databases.into_iter().collect())?;
    steps::reach(Step::StagingBegun);
    let staged = stage(server, &journal, plan, entries, contents, progress).and_then(|notes| {
        progress.staged().map_err(RestoreError::NotStopped)?;
        Ok((moves(server, plan, &journal.databases)?, notes))
    });
    let (moves, mut notes) = match staged {
        Ok(staged) => staged,
        Err(error) => return Err(leave(server, &journal, error)),
    };
    steps::reach(Step::StagedDurable);
    if let Err(error) = journal.announce(&moves) {
        return Err(leave(server, &journal, error));
    }
    match journal.go(Phase::Swapping) {
        Ok(()) => {}
        // It was not written: whoever has taken the restore over has found it loading.
        Err(error @ RestoreError::Lost(_)) => return Err(leave(server, &journal, error)),
        Err(error) => {
            // It may say all the same that the swap has begun: then nothing of what is staged may go.
            if journal.go(Phase::Loading).is_err() {
                return Err(RestoreError::Interrupted(Box::new(error)));
            }
            return Err(leave(server, &journal, error));
        }
    }
    progress.swap_begins();
    steps::reach(Step::SwapBegun);
    notes.extend(swapped(server, &mut journal, &moves, progress)?);
    let count = |names: &[Name]| names.len() as u64;
    let notes = finish(server, journal, &moves, ending::EXPIRING, notes)?;
    Ok(RestoreReport {
        collections: plan.restored.len() as u64,
        bytes: plan.bytes,
        replaced: count(&plan.replaced),
        created: count(&plan.created),
        removed: count(&plan.removed),
        notes,
    })
}

/// Drops what was staged for a swap that was not begun, and the journal if it is still ours. Returns why it ends.
fn leave(server: &Server, journal: &Journal<'_>, error: RestoreError) -> RestoreError {
    match journal.is_ours() {
        Ok(true) => tidy_or_log(server, journal, &[]),
        Ok(false) => {
            // Nobody else knows of what was staged since. Whoever has taken the restore over uses none of it.
            ending::drop_or_log(server, journal);
            return owner::lost();
        }
        Err(unknown) => {
            tracing::warn!(
                restore = journal.id,
                error = %unknown,
                "what a restore has staged stays until the next start; if another agent has ended the restore meanwhile, \
                 backups name it then: drop it"
            );
        }
    }
    error
}

/// Loads and checks everything beside what is live, and says what people should know of it.
fn stage<E>(
    server: &Server,
    journal: &Journal<'_>,
    plan: &Plan,
    entries: impl Iterator<Item = Result<Entry, E>>,
    contents: &mut Contents<'_>,
    progress: &dyn Progress,
) -> Result<Vec<String>, RestoreError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut wanted: BTreeMap<&EntryPath, (i32, &Restored)> = BTreeMap::new();
    for (number, restored) in (0..).zip(&plan.restored) {
        if let (Kind::Collection, Some((path, _))) = (restored.archived.kind, &restored.archived.documents) {
            wanted.insert(path, (number, restored));
        }
    }
    let (mut is_first, mut stamped) = (true, Vec::new());
    for entry in checked(entries) {
        let entry = entry?;
        let EntryKind::File(content) = &entry.kind else { continue };
        let Some((number, restored)) = wanted.remove(&entry.path) else { continue };
        // What is staged after another agent has taken the restore over is in no journal.
        journal.keep()?;
        let staged = Staged::New.name(&journal.id, number);
        if stage_one(server, restored, &staged, (&entry.path, content), contents, progress)? {
            stamped.push(format!(
                "{}: the server has written the time into timestamps that were zero",
                restored.target
            ));
        }
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
            let mut notes = Vec::new();
            plan::tell(&mut notes, stamped);
            Ok(notes)
        }
    }
}

/// True if the server has changed what it was given.
fn stage_one(
    server: &Server,
    restored: &Restored,
    staged: &str,
    (path, content): (&EntryPath, &FileContent),
    contents: &mut Contents<'_>,
    progress: &dyn Progress,
) -> Result<bool, RestoreError> {
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
    let ((plain, expiring), until) = (restored.indexes(), Until::Cancelled(contents.cancel));
    indexes::build(server, (name, staged), &plain, until)?;
    indexes::try_unique(server, (name, staged), &expiring, until)?;
    Ok(sent.is_changed)
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
