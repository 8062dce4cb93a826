//! The swap: what is live moves to `old/`, what is staged takes its place. Each by rename, in the order of
//! the journal, and the other way round to undo it.
//!
//! Where a move stands is read from the disk: as long as `new/<path>` exists it has not been put in
//! place, and once `old/<path>` exists the live one has been moved away. So both directions may be
//! repeated from any point. If something new turned up under the live name between the two renames (a
//! program was started), it is moved to `late/` and kept. What stays is carried into what is staged before
//! that, and out of it after.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::entry::Metadata;
use repository::archive::path::EntryPath;

use super::area::Area;
use super::carry::Carry;
use super::disk::{Disk, Subject};
use super::error::{RestoreError, RestoreReport, failed};
use super::handles::{Mounts, kind_of, open_below, open_folder};
use super::journal::{Journal, Line, Move, Story};
use super::metadata::{Notes, apply};
use crate::sources::files::metadata::XattrReader;
use crate::steps::Step;

/// A swap and where it happens; the first area holds the journal.
pub(super) struct Swap<'a> {
    pub(super) disk: Disk<'a>,
    pub(super) areas: &'a [Area],
    pub(super) story: &'a Story,
}

impl Swap<'_> {
    /// From `swapping` to `done`; if that fails, back to the old state and `undone`.
    pub(super) fn run(&self, journal: &mut Journal<'_>) -> Result<RestoreReport, RestoreError> {
        let failure = match self.forward(journal) {
            Ok(report) => {
                self.disk.over(Step::SwapDone);
                return Ok(report);
            }
            Err(failure) => failure,
        };
        match self.undo(journal) {
            Ok(()) => Err(failure),
            Err(error) => {
                tracing::error!(%error, "the swap could not be undone");
                let place = self.areas[0].path.display().to_string();
                Err(RestoreError::Interrupted { place, source: Box::new(failure) })
            }
        }
    }

    /// Takes the swap back.
    pub(super) fn undo(&self, journal: &mut Journal<'_>) -> Result<(), RestoreError> {
        journal
            .write([Line::Undoing])
            .map_err(failed("write the journal in", self.areas[0].path.display()))?;
        self.done(Step::UndoBegun)?;
        for (nth, step) in self.story.moves.iter().rev().enumerate() {
            let back =
                Spot::find(&self.disk, &self.areas[step.area], step).and_then(|spot| spot.back(step.put));
            match back {
                // Somebody removed the live folder around it. What was in it stays in `old/`.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(path = %step.path, "not moved back: the folder that it lay in is gone");
                }
                other => other.map_err(failed("move back", &step.path))?,
            }
            if nth == 0 {
                self.done(Step::FirstMovedBack)?;
            }
        }
        self.carry_back();
        if let Some((_, old)) = &self.story.root {
            self.set_root(old, &mut Notes::default())?;
        }
        self.sync_all()?;
        self.done(Step::UndoDurable)?;
        journal
            .write([Line::Undone])
            .map_err(failed("write the journal in", self.areas[0].path.display()))?;
        self.disk.over(Step::UndoDone);
        self.keep_what_is_left()
    }

    /// What stays goes back; what cannot does not keep the old state from being live. Tried twice, and kept by
    /// [`Swap::keep_what_is_left`].
    fn carry_back(&self) {
        let fails = |path: &&EntryPath| match self.carry(path).back() {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%path, %error, "what the source excludes cannot be moved back");
                true
            }
        };
        let failed: Vec<&EntryPath> = self.story.stays.iter().filter(fails).collect();
        failed.into_iter().filter(fails).for_each(drop);
    }

    /// Once all is old: what was staged is kept if something in it stays and could not go back.
    pub(super) fn keep_what_is_left(&self) -> Result<(), RestoreError> {
        if self.story.stays.iter().any(|path| self.carry(path).is_left()) {
            let area = &self.areas[0];
            area.keep_new(&self.disk).map_err(failed("keep what was staged in", area.path.display()))?;
            tracing::error!(
                path = %area.path.display(),
                "what the source excludes could not be moved back: it is in `kept`, in the staging folder there"
            );
        }
        Ok(())
    }

    fn forward(&self, journal: &mut Journal<'_>) -> Result<RestoreReport, RestoreError> {
        let mut report = RestoreReport::default();
        self.done(Step::SwapBegun)?;
        for path in &self.story.stays {
            self.carry(path).along().map_err(failed("carry along", path))?;
        }
        for (nth, step) in self.story.moves.iter().enumerate() {
            let (away, swapped) = self.names(nth);
            let spot = Spot::find(&self.disk, &self.areas[step.area], step);
            let put = spot.and_then(|spot| spot.put(step.put, away));
            match (put.map_err(failed("swap", &step.path))?, step.put) {
                (true, true) => report.overwritten += 1,
                (true, false) => report.removed += 1,
                (false, true) => report.created += 1,
                (false, false) => {}
            }
            swapped.map_or(Ok(()), |swapped| self.done(swapped))?;
        }
        if let Some((new, _)) = &self.story.root {
            let mut notes = Notes::default();
            self.set_root(new, &mut notes)?;
            report.notes = notes.lines();
        }
        self.done(Step::RootSet)?;
        self.sync_all()?;
        self.done(Step::SwapDurable)?;
        journal.write([Line::Done]).map_err(failed("write the journal in", self.areas[0].path.display()))?;
        Ok(report)
    }

    fn carry<'s>(&'s self, path: &'s EntryPath) -> Carry<'s> {
        Carry { disk: &self.disk, area: &self.areas[0], path }
    }

    fn done(&self, step: Step) -> Result<(), RestoreError> {
        self.disk.done(step).map_err(failed("swap in", self.areas[0].path.display()))
    }

    /// How the steps of a move are called, if it has any: when the live entry is away, and when it is done.
    fn names(&self, nth: usize) -> (Option<Step>, Option<Step>) {
        let count = self.story.moves.len();
        match nth {
            0 => (Some(Step::FirstOldAway), Some(Step::FirstSwapped)),
            _ if nth == count - 1 => (None, Some(Step::LastSwapped)),
            _ if nth == count / 2 => (Some(Step::MiddleOldAway), Some(Step::MiddleSwapped)),
            _ => (None, None),
        }
    }

    fn sync_all(&self) -> Result<(), RestoreError> {
        for area in self.areas {
            self.disk.sync_all(&area.root).map_err(failed("make durable", area.path.display()))?;
        }
        Ok(())
    }

    /// Gives the first area's live folder this metadata, and no other attributes.
    fn set_root(&self, metadata: &Metadata, notes: &mut Notes) -> Result<(), RestoreError> {
        let root = &self.areas[0].root;
        let (present, _) = XattrReader::new().read(root.as_fd(), c".");
        for (name, _) in
            present.iter().filter(|(name, _)| metadata.xattrs.iter().all(|(kept, _)| kept != name))
        {
            if let Err(error) = self.disk.remove_xattr(root, name) {
                tracing::debug!(%error, "an attribute of the root folder stays");
            }
        }
        let subject = Subject::Handle(root.as_fd());
        apply(&self.disk, subject, false, &EntryPath::root(), metadata, notes)
    }
}

/// Where one move happens.
struct Spot<'a> {
    disk: &'a Disk<'a>,
    area: &'a Area,
    path: &'a EntryPath,
    name: &'a [u8],
    /// The live folder that the entry lies in.
    live: OwnedFd,
    /// The same in `new/`; `None` if nothing is staged there.
    new: Option<OwnedFd>,
}

impl<'a> Spot<'a> {
    fn find(disk: &'a Disk<'a>, area: &'a Area, step: &'a Move) -> io::Result<Self> {
        let name = step.path.name().ok_or_else(|| io::Error::other("a root folder is never moved"))?;
        let parent = step.path.parent().unwrap_or_default();
        let live = open_below(&area.root, &parent, Mounts::Refused)?;
        let new = match area.new_folder().and_then(|new| open_below(new, &parent, Mounts::Refused)) {
            Ok(new) => Some(new),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { disk, area, path: &step.path, name, live, new })
    }

    fn is_in(&self, folder: Option<&OwnedFd>) -> io::Result<bool> {
        folder.map_or(Ok(false), |folder| Ok(kind_of(folder, self.name)?.is_some()))
    }

    /// Moves the live one away and the staged one here; true if there was or had been a live one.
    /// `away` is the step between the two.
    fn put(&self, put: bool, away: Option<Step>) -> io::Result<bool> {
        let old = self.beside("old", false)?;
        let moved_away = self.is_in(old.as_ref())?;
        if put && !self.is_in(self.new.as_ref())? {
            return Ok(moved_away);
        }
        let is_live = self.is_in(Some(&self.live))?;
        if is_live && !moved_away {
            let old = self.beside("old", true)?.expect("it has been made");
            self.disk.move_to(&self.live, old, self.name)?;
            away.map_or(Ok(()), |away| self.disk.done(away))?;
        } else if is_live && put {
            self.set_aside()?;
        }
        if put {
            let new = self.new.as_ref().expect("it holds the staged one");
            self.disk.move_to(new, &self.live, self.name)?;
        }
        Ok(is_live || moved_away)
    }

    /// Moves what was put here back to where it was staged, and the old one back here.
    fn back(&self, put: bool) -> io::Result<()> {
        if put && !self.is_in(self.new.as_ref())? && self.is_in(Some(&self.live))? {
            let new = self.new.as_ref().ok_or_else(|| io::Error::other("its staging folder is gone"))?;
            self.disk.move_to(&self.live, new, self.name)?;
        }
        let old = self.beside("old", false)?;
        if self.is_in(old.as_ref())? {
            if self.is_in(Some(&self.live))? {
                self.set_aside()?;
            }
            let old = old.expect("it holds the old one");
            self.disk.move_to(old, &self.live, self.name)?;
        }
        Ok(())
    }

    fn set_aside(&self) -> io::Result<()> {
        let late = self.beside("late", true)?.expect("it has been made");
        self.disk.move_to(&self.live, late, self.name)
    }

    /// The folder below `old/` or `late/` that stands for the live one, made if asked for.
    fn beside(&self, which: &str, make: bool) -> io::Result<Option<OwnedFd>> {
        let mut at = open_folder(&self.area.staging, which.as_bytes())?;
        for name in self.path.parent().unwrap_or_default().names() {
            at = match open_folder(&at, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.make_folder(&at, name)?,
                other => other?,
            };
        }
        Ok(Some(at))
    }
}
