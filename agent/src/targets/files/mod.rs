//! The files target: writes entries back into folders, and swaps them in as a whole.
//!
//! How a restore goes: everything is written and checked in a staging folder `.neurashield-<id>` inside
//! the mount of what it replaces ([`stage`]); all is made durable; the journal says `swapping`; then live
//! entries move to `old/` and staged ones take their place ([`swap`]), one rename each. A failure before
//! `swapping` leaves the live state untouched; one after it is undone, and a crash is finished by
//! [`recover()`]. The old state stays in the staging folder until the next restore to the same place has
//! succeeded.
//!
//! Must stay true: an archive, whatever it holds, is never the reason for a write outside of the
//! place that the request names; every change of the file system goes through [`disk`], and every handle
//! comes from [`handles`].

mod allowance;
mod area;
mod carry;
mod content;
mod disk;
mod error;
mod ground;
mod handles;
mod here;
mod immovable;
mod incoming;
mod journal;
mod key;
mod late;
mod links;
mod metadata;
mod plan;
mod preflight;
mod recover;
mod remove;
mod request;
mod signer;
mod sink;
mod stage;
mod stays;
mod swap;
mod undo;
mod writing;

pub use allowance::{Allowance, Privilege};
pub use disk::{InProduction, NoFaults, Steps};
pub use error::{RestoreError, RestoreReport};
pub use plan::{Facts, Hindrance, Immovable, LiveEntry, MAX_NAMED, Named, RestorePlan, plan, survey};
pub use preflight::preflight;
pub(crate) use recover::recover_with;
pub use recover::{Recovered, recover};
pub use request::{PathPatterns, Place, RestoreRequest, Selection, Tools, WrongPathPattern};
pub use signer::{LiveState, Signed};
pub use undo::take_back_ended;

use std::os::fd::AsFd;

use repository::archive::entry::Entry;
use repository::archive::path::EntryPath;

use crate::sources::files::metadata::{XattrReader, metadata};
use crate::steps::Step;
use crate::targets::BlobReader;
use area::is_staging;
use disk::{Disk, Subject};
use error::failed;
use ground::{Ground, LOST_AND_FOUND};
use journal::{Journal, Line, Move, Plain, Story, Text};
use late::{MAX_CARRIED, folder_at, holds_named_alone, left_out};
use recover::{kept_by_attempts, reap, tidy};
use remove::names_in;
use stage::Stage;
use stays::{Top, selects};
use swap::Swap;

/// Restores what `request` selects of the archive with these `entries` (in path order), as far as the
/// confirmed plan's `allowance` goes, and returns when all of it is live and durable. On an error the live state is as before, but for
/// [`RestoreError::Interrupted`]. An interrupted earlier restore to the same place is ended first.
pub fn restore<I, E>(
    request: &RestoreRequest,
    allowance: Allowance,
    entries: I,
    blobs: &mut dyn BlobReader,
    tools: Tools<'_>,
) -> Result<RestoreReport, RestoreError>
where
    I: Iterator<Item = Result<Entry, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let disk = Disk::new(tools.steps);
    let ground = Ground::prepare(request, &disk)?;
    let mut stage = Stage::new(disk, tools, request, allowance, &ground, blobs);
    let prepared = stage
        .write_all(entries)
        .and_then(|()| tools.progress.staged().map_err(RestoreError::NotStopped))
        .and_then(|()| signer::keep_highest(&disk, request, &ground, &mut stage))
        .and_then(|()| plan_swap(disk, request, &ground, &mut stage));
    let (mut journal, story) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            stage.stop_writing();
            tidy_or_log(&disk, &stage);
            return Err(error);
        }
    };
    tools.progress.swap_begins();
    let swapped = Swap { disk, areas: &stage.areas, story: &story }.run(&mut journal).and_then(|report| {
        match tools.progress.swapped() {
            Ok(()) => Ok(report),
            Err(cause) => {
                let mut taken = story.clone();
                let back = take_back(disk, &stage.areas, &mut taken, &mut journal);
                Err(back.map_or_else(|error| error, |()| RestoreError::TakenBack(cause)))
            }
        }
    });
    let mut report = match swapped {
        Ok(report) => report,
        Err(error) => {
            if !matches!(error, RestoreError::Interrupted { .. }) {
                tidy_or_log(&disk, &stage);
            }
            return Err(error);
        }
    };
    report.entries = stage.entries;
    report.bytes = stage.bytes();
    report.bytes_from_here = stage.bytes_from_here();
    tracing::info!(bytes = report.bytes, of_what_is_live = report.bytes_from_here, "written");
    report.notes.extend(stage.notes.lines());
    clean_up(&disk, request, &ground, &stage, &mut report);
    keep_time(&disk, &stage, &story);
    Ok(report)
}

/// Where a restore to the new folder `path` would really write: the path without a link in it.
pub(crate) fn resolved(path: &std::path::Path) -> Result<std::path::PathBuf, RestoreError> {
    let walked = handles::walk(path).map_err(failed("find", path.display()))?;
    Ok(walked.path.iter().map(std::ffi::OsStr::to_owned).chain(walked.missing).collect())
}

/// Removes `name` in a folder that is ours, and all below it; nothing there is fine.
pub(crate) fn remove_in(folder: impl AsFd, name: &[u8]) -> std::io::Result<()> {
    remove::remove_tree(&Disk::new(&InProduction), folder, name)
}

/// Reads a journal from its bytes, and gives it back to nobody: see [`crate::decoders`].
pub(crate) fn read_journal(bytes: &[u8]) {
    let _ = journal::tell(bytes);
}

/// Writes down what will be swapped, makes all that is staged durable, and then commits to the swap.
fn plan_swap<'a>(
    disk: Disk<'a>,
    request: &RestoreRequest,
    ground: &Ground,
    stage: &mut Stage<'a>,
) -> Result<(Journal<'a>, Story), RestoreError> {
    let mut story = Story::default();
    let mut journal = stage.journal.take().expect("what is staged has one");
    story.moves = std::mem::take(&mut stage.moves);
    find_stays(request, ground, stage, &mut story)?;
    add_strays(request, stage, &mut story.moves)?;
    if let (Ground::Live { .. }, Selection::Whole) = (ground, &request.selection) {
        add_removals(request, stage, &mut story.moves)?;
        let root = &stage.areas[0].root;
        let stat = rustix::fs::fstat(root).map_err(failed("read", ground.root().display()))?;
        let (xattrs, _) = XattrReader::new().read(root.as_fd(), c".");
        story.root = stage.root.take().map(|new| (new, metadata(&stat, xattrs)));
    }
    find_mounts(stage, &story)?;
    if story.moves.is_empty() && story.root.is_none() {
        let cause = "nothing in the archive matches the paths that were given, and nothing has to go";
        return Err(RestoreError::refused(ground.root().display(), cause));
    }
    let at = || stage.areas[0].path.display();
    disk.done(Step::AllStaged).map_err(failed("stage in", at()))?;
    for area in &stage.areas {
        disk.sync_all(&area.root).map_err(failed("make durable", area.path.display()))?;
    }
    disk.done(Step::StagedDurable).map_err(failed("stage in", at()))?;
    let moves = story.moves.iter().map(|Move { area, path, put }| Line::Move {
        area: *area,
        path: Text::new(path.as_bytes()),
        put: *put,
    });
    let stays = story.stays.iter().map(|path| Line::Stays(Text::new(path.as_bytes())));
    let stays = stays.chain(story.rules.as_ref().map(Line::left_out));
    let root = story.root.as_ref();
    let root = root.map(|(new, old)| Line::Root { new: Plain::from(new), old: Plain::from(old) });
    // All of it is durable before the line that lets it be believed.
    let written =
        journal.write(moves.chain(stays).chain(root)).and_then(|()| journal.write([Line::Swapping]));
    written.map_err(failed("write the journal in", stage.areas[0].path.display()))?;
    Ok((journal, story))
}

/// What was mounted since the plan in what is replaced would go along.
fn find_mounts(stage: &Stage<'_>, story: &Story) -> Result<(), RestoreError> {
    let mounted = crate::mounts::Mounted::now();
    for Move { area, path, .. } in &story.moves {
        let area = &stage.areas[*area];
        if let Some(mount) = immovable::first_mounted_in(&mounted, &area.root, &area.path, path) {
            let cause = "something was mounted there since the plan was made, and would go along with the folder that is replaced; plan again";
            return Err(RestoreError::refused(&mount, cause));
        }
    }
    Ok(())
}

/// What the source leaves out in what is replaced: it is carried along.
fn find_stays(
    request: &RestoreRequest,
    ground: &Ground,
    stage: &Stage<'_>,
    story: &mut Story,
) -> Result<(), RestoreError> {
    let (Ground::Live { .. }, Some(rules)) = (ground, &request.stays) else { return Ok(()) };
    let (root, mut carried) = (&stage.areas[0], 0);
    let new = root.new_folder().map_err(failed("open the staging folder in", root.path.display()))?;
    for step in story.moves.iter().filter(|step| step.put) {
        let mut tell = |path| {
            carried += 1;
            if carried <= MAX_CARRIED {
                story.stays.push(path);
            }
        };
        let found = left_out(rules, &step.path, (&root.root, &new), &mut tell);
        found.map_err(failed("look through", &step.path))?;
    }
    if let Some(cause) = plan::too_many(carried) {
        return Err(RestoreError::refused(ground.root().display(), cause));
    }
    story.rules = Some(rules.clone());
    Ok(())
}

/// What the restore that is taken back has made goes, as the plan says.
fn add_strays(
    request: &RestoreRequest,
    stage: &mut Stage<'_>,
    moves: &mut Vec<Move>,
) -> Result<(), RestoreError> {
    for path in stage.takes_away() {
        let (root, rules) = (&stage.areas[0].root, request.stays.as_ref());
        let parent = folder_at(root, &path.parent().unwrap_or_default()).map_err(failed("look at", &path))?;
        let live = match (&parent, path.name()) {
            (Some(parent), Some(name)) => handles::kind_of(parent, name).map_err(failed("look at", &path))?,
            _ => None,
        };
        if live.is_none() {
            continue;
        }
        let is_made = selects(&request.selection, &path)
            || holds_named_alone(root, &path, &request.selection, rules)
                .map_err(failed("look through", &path))?;
        if !is_made {
            let cause = "the restore has made this folder, and there is something else in it since the plan was made; plan again";
            return Err(RestoreError::refused(&path, cause));
        }
        moves.push(Move { area: 0, path, put: false });
    }
    Ok(())
}

/// Takes back a swap that was done: what is live goes to `new/`, what has come to the top since as well, and
/// the old state is live again.
fn take_back(
    disk: Disk<'_>,
    areas: &[area::Area],
    story: &mut Story,
    journal: &mut Journal<'_>,
) -> Result<(), RestoreError> {
    let interrupted = |source: RestoreError| {
        let place = areas[0].path.display().to_string();
        RestoreError::Interrupted { place, source: Box::new(source) }
    };
    let (mut lines, at) = (Vec::new(), || areas[0].path.display());
    if story.root.is_some() {
        let came = came_since(&areas[0], story).map_err(interrupted)?;
        lines.extend(came.iter().map(|step| Line::Move {
            area: 0,
            path: Text::new(step.path.as_bytes()),
            put: true,
        }));
        story.moves.extend(came);
    }
    let written = written_since(&areas[0], story);
    lines.extend(written.iter().map(|path| Line::Stays(Text::new(path.as_bytes()))));
    story.stays.extend(written);
    if !lines.is_empty() {
        journal.write(lines).map_err(failed("write the journal in", at())).map_err(interrupted)?;
    }
    Swap { disk, areas, story }.undo(journal).map_err(interrupted)
}

/// Entries at the top of a folder that was restored as a whole which the restore has not put there.
fn came_since(root: &area::Area, story: &Story) -> Result<Vec<Move>, RestoreError> {
    let not_listed = |error: std::io::Error| failed("read the folder", root.path.display())(error);
    let put: std::collections::BTreeSet<&EntryPath> =
        story.moves.iter().filter(|step| step.put).map(|step| &step.path).collect();
    let top = Top::of(story.rules.as_ref(), &root.root);
    let mut came = Vec::new();
    for name in names_in(&root.root).map_err(not_listed)? {
        let name = name.map_err(not_listed)?;
        let Ok(path) = EntryPath::new(&name) else { continue };
        let is_socket =
            || handles::kind_of(&root.root, &name).map(|kind| kind == Some(rustix::fs::FileType::Socket));
        let stays = *name == *LOST_AND_FOUND
            || is_staging(&name)
            || put.contains(&path)
            || top.leaves_out(&root.root, &path).map_err(failed("look at", &path))?
            || top.holds_own(&root.root, &path);
        // A socket is in no archive: one that was there before may be there still.
        if !stays && !is_socket().map_err(failed("look at", &path))? {
            came.push(Move { area: 0, path, put: true });
        }
    }
    Ok(came)
}

/// What programs have written since the swap where the source leaves it out: it stays, in the old folders. What of it
/// cannot be seen does not keep the old state from coming back.
fn written_since(root: &area::Area, story: &Story) -> Vec<EntryPath> {
    let (mut written, Some(rules)) = (Vec::new(), &story.rules) else { return Vec::new() };
    let known: std::collections::BTreeSet<&EntryPath> = story.stays.iter().collect();
    let (mut left, mut unseen) = (MAX_CARRIED, None);
    match handles::open_folder(&root.staging, b"old") {
        Ok(old) => {
            for step in story.moves.iter().filter(|step| step.put) {
                let mut tell = |path| {
                    if !known.contains(&path) && left > 0 {
                        left -= 1;
                        written.push(path);
                    }
                };
                if let Err(error) = left_out(rules, &step.path, (&root.root, &old), &mut tell) {
                    unseen = Some(error);
                }
            }
        }
        Err(error) => unseen = Some(error),
    }
    if let Some(error) = unseen {
        tracing::warn!(path = %root.path.display(), %error, "what was written since the swap may go with it");
    }
    written
}

/// Live entries at the top that the archive does not have are moved away, but for what the source leaves out.
fn add_removals(
    request: &RestoreRequest,
    stage: &Stage<'_>,
    moves: &mut Vec<Move>,
) -> Result<(), RestoreError> {
    let root = &stage.areas[0];
    let top = Top::of(request.stays.as_ref(), &root.root);
    // What is put stands in path order.
    let put = moves.len();
    let not_listed = |error: std::io::Error| failed("read the folder", root.path.display())(error);
    for name in names_in(&root.root).map_err(not_listed)? {
        let name = name.map_err(not_listed)?;
        let path =
            EntryPath::new(&name).map_err(|error| RestoreError::refused("a name", error.to_string()))?;
        let kept = *name == *LOST_AND_FOUND
            || is_staging(&name)
            || stage.left_alone.contains(&path)
            || top.leaves_out(&root.root, &path).map_err(failed("look at", &path))?;
        if !kept && moves[..put].binary_search_by(|step| step.path.cmp(&path)).is_err() {
            moves.push(Move { area: 0, path, put: false });
        }
    }
    Ok(())
}

/// The swap has succeeded: what is not needed any more goes. What fails here is left for later.
fn clean_up(
    disk: &Disk<'_>,
    request: &RestoreRequest,
    ground: &Ground,
    stage: &Stage<'_>,
    report: &mut RestoreReport,
) {
    if let Ground::New { .. } = ground {
        // All that was replaced is an empty folder.
        return stage.areas.iter().for_each(|area| area.remove_or_log(disk));
    }
    let id = &request.restore_id;
    for area in &stage.areas {
        if !request.keeps_older
            && let Err(error) = reap(disk, area, id)
        {
            tracing::warn!(%error, "the old state of an earlier restore stays");
        }
        match kept_by_attempts(area, id) {
            Ok(kept) => report.old.extend(kept),
            Err(error) => tracing::warn!(%error, "cannot look for the old state of an earlier attempt"),
        }
    }
    disk.over(Step::OlderReaped);
    tidy_or_log(disk, stage);
    disk.over(Step::StagingTidied);
    report.old.extend(stage.areas.iter().filter_map(|area| area.old_state().ok().flatten()));
}

/// Removing staging folders has changed the root's time.
fn keep_time(disk: &Disk<'_>, stage: &Stage<'_>, story: &Story) {
    if let (Some((new, _)), Some(area)) = (&story.root, stage.areas.first())
        && let Err(error) = disk.set_mtime(Subject::Handle(area.root.as_fd()), new.mtime)
    {
        tracing::warn!(path = %area.path.display(), %error, "the folder's time is not the one in the archive");
    }
}

fn tidy_or_log(disk: &Disk<'_>, stage: &Stage<'_>) {
    if let Err(error) = tidy(disk, &stage.areas) {
        tracing::warn!(%error, "a staging folder stays until the next start");
    }
}
