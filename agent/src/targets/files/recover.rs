//! What a crash left of a restore is finished or undone.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::area::{Area, is_of, restore_of, staging_names};
use super::disk::{Disk, Steps};
use super::error::{RestoreError, failed};
use super::handles::{Walked, open_named};
use super::journal::{self, Journal, State, Story};
use super::swap::Swap;
use crate::steps::Step;

/// What [`recover`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Here a swap was finished: all is new.
    pub finished: Vec<PathBuf>,
    /// Here a restore was taken back, or had not yet begun its swap: all is old.
    pub undone: Vec<PathBuf>,
    /// Here nothing could be decided, since the journal is elsewhere and not to be found: all is left.
    pub left: Vec<PathBuf>,
}

/// Finishes or undoes every restore that was interrupted in the folder `root`: in it, if restores went
/// into it; the one that it lies in, if it was a new folder. Must run before anything else uses `root`,
/// and may be repeated. A folder that does not exist needs nothing.
pub fn recover(root: &Path, steps: &dyn Steps) -> Result<Recovered, RestoreError> {
    recover_with(root, steps, &|_| Ok(()), None)
}

/// As [`recover()`]; a swap that is done, of the restore with the id that `holds` is told, is taken back where
/// that gives an error. The agent's own state, in the folder `state`, stays then.
pub(crate) fn recover_with(
    root: &Path,
    steps: &dyn Steps,
    holds: &dyn Fn(&str) -> Result<(), String>,
    state: Option<&Path>,
) -> Result<Recovered, RestoreError> {
    match open_named(root) {
        Ok(Walked { handle, path, .. }) => recover_in(&handle, &path, steps, Asked { holds, state }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Recovered::default()),
        Err(error) => Err(failed("open the folder", root.display())(error)),
    }
}

/// As [`recover()`], in the open folder `at`, which is `root`.
pub(super) fn recover_at(at: impl AsFd, root: &Path, steps: &dyn Steps) -> Result<Recovered, RestoreError> {
    recover_in(at, root, steps, Asked { holds: &|_| Ok(()), state: None })
}

/// What is asked for a swap that is done.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// Whether it is to stay.
    holds: &'a dyn Fn(&str) -> Result<(), String>,
    /// The folder that stays where it is not to.
    state: Option<&'a Path>,
}

fn recover_in(
    at: impl AsFd,
    root: &Path,
    steps: &dyn Steps,
    asked: Asked<'_>,
) -> Result<Recovered, RestoreError> {
    let disk = Disk::new(steps);
    let mut recovered = Recovered::default();
    for name in staging_names_at(&at, root)? {
        match Area::open(root, &at, &name) {
            Ok(Some(area)) => one(disk, area, &mut recovered, asked)?,
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let cause = "another restore runs there; wait until it has ended";
                return Err(RestoreError::refused(root.display(), cause));
            }
            Err(error) => return Err(failed("open a staging folder in", root.display())(error)),
        }
    }
    Ok(recovered)
}

/// Removes what earlier restores into the folder `of` have kept of the old state, but nothing of restore `id`.
pub(super) fn reap(disk: &Disk<'_>, of: &Area, id: &str) -> Result<(), RestoreError> {
    let (at, root) = (&of.root, &*of.path);
    for name in staging_names_at(at, root)?.iter().filter(|name| !is_of(name, id)) {
        let reaped = match Area::open(root, at, name) {
            Ok(Some(area)) => match is_over(&area) {
                Ok(true) => area.remove(disk),
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            },
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        reaped.map_err(failed("remove an old state in", root.display()))?;
    }
    Ok(())
}

/// True if the restore in `area` is over. A folder that serves another knows it from having been tidied.
fn is_over(area: &Area) -> io::Result<bool> {
    match journal::read(&area.staging)? {
        Some(story) if story.serves.is_some() => area.is_tidied(),
        Some(story) => Ok(story.is_over()),
        None => Ok(false),
    }
}

/// Where the old state lies that earlier attempts of restore `id` have kept in the folder `of`.
pub(super) fn kept_by_attempts(of: &Area, id: &str) -> Result<Vec<PathBuf>, RestoreError> {
    let (at, root) = (&of.root, &*of.path);
    let mut kept = Vec::new();
    for name in staging_names_at(at, root)?.iter().filter(|name| is_of(name, id)) {
        // The attempt that runs holds its own lock and speaks for itself.
        if let Ok(Some(area)) = Area::open(root, at, name) {
            kept.extend(area.old_state().map_err(failed("look into", root.display()))?);
        }
    }
    Ok(kept)
}

fn staging_names_at(at: impl AsFd, root: &Path) -> Result<Vec<Box<[u8]>>, RestoreError> {
    staging_names(at).map_err(failed("read the folder", root.display()))
}

/// The area in the folder `path`, which a journal names.
fn area_at(path: &Path, name: &[u8]) -> io::Result<Option<Area>> {
    let Walked { handle, path, .. } = open_named(path)?;
    Area::open(&path, &handle, name)
}

fn one(disk: Disk<'_>, area: Area, recovered: &mut Recovered, asked: Asked<'_>) -> Result<(), RestoreError> {
    let path = area.path.clone();
    let at = || path.display().to_string();
    let story = journal::read(&area.staging).map_err(failed("read the journal of the restore in", at()))?;
    let story = story.unwrap_or_default();
    if let Some(served) = &story.serves {
        return servant(disk, area, Path::new(OsStr::from_bytes(served)), recovered, asked);
    }
    match story.state() {
        State::Done => {
            let areas = with_servants(area, &story)?;
            if let Err(cause) = still_holds(&areas[0], asked.holds) {
                let journal = Journal::resume(disk, &areas[0].staging);
                let mut journal = journal.map_err(failed("open the journal in", at()))?;
                tracing::warn!(path = at(), cause, "a restore is taken back");
                super::take_back(disk, &areas, &mut story.keeping(asked.state), &mut journal)?;
                recovered.undone.push(path);
            }
            tidy(&disk, &areas)
        }
        State::Staging | State::Undone => {
            disk.done(Step::RecoveryBegun).map_err(failed("recover", at()))?;
            let areas = with_servants(area, &story)?;
            if story.state() == State::Undone {
                Swap { disk, areas: &areas, story: &story }.keep_what_is_left()?;
            }
            recovered.undone.push(path);
            tidy(&disk, &areas)?;
            disk.over(Step::RecoveryEnded);
            Ok(())
        }
        State::Swapping | State::Undoing => {
            disk.done(Step::RecoveryBegun).map_err(failed("recover", at()))?;
            let areas = with_servants(area, &story)?;
            let mut journal =
                Journal::resume(disk, &areas[0].staging).map_err(failed("open the journal in", at()))?;
            let swap = Swap { disk, areas: &areas, story: &story };
            let finished = match story.state() {
                State::Swapping => match swap.run(&mut journal) {
                    Ok(_) => true,
                    Err(error @ RestoreError::Interrupted { .. }) => return Err(error),
                    Err(error) => {
                        tracing::warn!(path = at(), %error, "an interrupted swap was taken back");
                        false
                    }
                },
                _ => swap.undo(&mut journal).map(|()| false)?,
            };
            let finished = finished
                && match still_holds(&areas[0], asked.holds) {
                    Ok(()) => true,
                    Err(cause) => {
                        tracing::warn!(path = at(), cause, "a restore is taken back");
                        super::take_back(disk, &areas, &mut story.keeping(asked.state), &mut journal)?;
                        false
                    }
                };
            if finished {
                recovered.finished.push(path)
            } else {
                recovered.undone.push(path)
            }
            tidy(&disk, &areas)?;
            disk.over(Step::RecoveryEnded);
            Ok(())
        }
    }
}

/// Asks whether the swap in `area`, which is done, is to stay. A tidied one was asked for when it ended.
fn still_holds(area: &Area, holds: &dyn Fn(&str) -> Result<(), String>) -> Result<(), String> {
    match area.is_tidied() {
        Ok(false) => restore_of(area.staging_name()).map_or(Ok(()), |id| holds(&id)),
        _ => Ok(()),
    }
}

/// At the end, whichever: what is left of `new/` goes, and all of it where no old state is to be kept.
pub(super) fn tidy(disk: &Disk<'_>, areas: &[Area]) -> Result<(), RestoreError> {
    // The one with the journal last: as long as it is there, the others can be found.
    for area in areas.iter().rev() {
        let tidied = match area.old_state() {
            Ok(Some(_)) => area.remove_new(disk),
            Ok(None) => area.remove(disk),
            Err(error) => Err(error),
        };
        tidied.map_err(failed("clean up in", area.path.display()))?;
    }
    Ok(())
}

/// A folder that serves a restore whose journal lies elsewhere: that one decides. If it is gone and this one
/// was tidied, this one is only kept for the old state that it may hold.
fn servant(
    disk: Disk<'_>,
    area: Area,
    served: &Path,
    recovered: &mut Recovered,
    asked: Asked<'_>,
) -> Result<(), RestoreError> {
    let name = area.staging_name().to_owned();
    let path = area.path.clone();
    let is_tidied = area.is_tidied().map_err(failed("look into", path.display()))?;
    drop(area);
    let first = area_at(served, &name);
    // Perhaps not mounted yet, and the folder for the mount may be there: then nothing may be decided. The
    // journal goes last, so where it is really gone, this one was tidied.
    let undecided = match first {
        Ok(Some(first)) => {
            one(disk, first, recovered, asked)?;
            None
        }
        Ok(None) if is_tidied => None,
        Ok(None) => Some(io::Error::new(io::ErrorKind::NotFound, "the journal of its restore is not there")),
        Err(error) => Some(error),
    };
    if let Some(error) = undecided {
        let hint = "mount what belongs there and restart; if it never comes back, remove the staging folder";
        tracing::warn!(path = %path.display(), served = %served.display(), %error, hint, "left as it is");
        recovered.left.push(path);
        return Ok(());
    }
    match area_at(&path, &name) {
        Ok(Some(area)) => tidy(&disk, &[area]),
        Ok(None) => Ok(()),
        Err(error) => Err(failed("open a staging folder in", path.display())(error)),
    }
}

/// The area with the journal, followed by those that serve it.
pub(super) fn with_servants(first: Area, story: &Story) -> Result<Vec<Area>, RestoreError> {
    let name = first.staging_name().to_owned();
    let swapping = matches!(story.state(), State::Swapping | State::Undoing);
    let mut areas = vec![first];
    for path in &story.areas {
        let path = Path::new(OsStr::from_bytes(path));
        match area_at(path, &name) {
            Ok(Some(area)) => areas.push(area),
            Ok(None) if !swapping => {}
            Ok(None) => return Err(RestoreError::refused(path.display(), "its staging folder is gone")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !swapping => {}
            Err(error) => return Err(failed("open a staging folder in", path.display())(error)),
        }
    }
    Ok(areas)
}
