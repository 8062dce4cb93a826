//! Which way a node's folder is held where there is no snapshot of it ([`super::snapshot`]), from the gentlest on: the
//! bracket, by which nobody waits; a pause of who writes, for milliseconds. A hook that stops the node is its owner's.
//!
//! Must stay true: all that has to be of one moment is held within one: either nothing of it has changed from
//! before the first to after the last, or nobody could write meanwhile. Where neither was had, that is told.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use repository::archive::path::EntryPath;
use repository::backup::manifest::{Quiesce, QuiescedBy};
use runtime::steps;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::containers::PausedContainers;
use super::hold::{HeldFolder, Hold, is_file, names};
use super::look::{self, Looked, Part};
use super::pause::{Paused, Watched};
use super::{Held, HoldError, Way, appended, bracket, copies, dirty, freezer};
use crate::steps::Step;

/// How a node's folder may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// As a snapshot by the file system has it.
    Snapshot,
    /// Until nothing has moved between two looks.
    Bracket,
    /// While who writes is stopped.
    Pause,
    /// While the containers are paused that have it mounted.
    Container,
}

impl Rung {
    /// What is tried, in this order, unless it is said otherwise.
    pub const USUAL: [Self; 4] = [Self::Snapshot, Self::Bracket, Self::Pause, Self::Container];
}

/// So often, and for so long, a moment is waited for in which nothing of several stores moves.
const ATTEMPTS: u32 = 200;
const TIME: Duration = Duration::from_secs(2);
/// A time of change is this coarse, at most: what was written so shortly before a look may be written again
/// after it without a trace.
const COARSE: Duration = Duration::from_millis(20);

/// What is held, how, and what is to be told.
#[derive(Default)]
pub(in crate::sources) struct Climbed {
    pub(in crate::sources) hold: Option<Hold>,
    pub(in crate::sources) held: Held,
    pub(in crate::sources) quiesce: Option<Quiesce>,
    pub(in crate::sources) told: Option<String>,
}

/// A folder that has to be held.
pub(in crate::sources) struct Ladder<'a> {
    pub(in crate::sources) folder: &'a OwnedFd,
    pub(in crate::sources) looked: &'a Looked,
    pub(in crate::sources) way: &'a Way<'a>,
    pub(in crate::sources) cancel: &'a CancellationToken,
}

/// One of its parts, and where it is held.
struct Ready {
    path: EntryPath,
    part: Part,
    live: OwnedFd,
    held: OwnedFd,
}

/// Who is paused.
enum Pause {
    Processes(Paused),
    Containers(PausedContainers),
}

impl Pause {
    fn still_holds(&self) -> bool {
        match self {
            Self::Processes(paused) => paused.still_holds(),
            Self::Containers(paused) => paused.still_holds(),
        }
    }

    fn end(self) -> Result<Duration, HoldError> {
        match self {
            Self::Processes(paused) => paused.end(),
            Self::Containers(paused) => paused.end(),
        }
    }
}

/// Every file with its inode, length and time of change.
type Stamps = BTreeMap<(EntryPath, CString), (u64, i64, i64, i64)>;

impl Ladder<'_> {
    pub(in crate::sources) fn climb(&self) -> Climbed {
        let may = |rung| self.way.rungs.contains(&rung);
        let mut why = Vec::new();
        let is_one_moment = self.looked.is_one_moment(self.way.profile);
        if may(Rung::Bracket) {
            let bracketed = if is_one_moment { self.each() } else { self.at_once() };
            match bracketed {
                Ok((hold, held)) => {
                    steps::reach(Step::HoldFilled);
                    return Climbed::by(hold, held, QuiescedBy::Bracket, Duration::ZERO);
                }
                Err(error) => why.push(error.to_string()),
            }
        }
        if may(Rung::Pause) && !self.cancel.is_cancelled() {
            let begin = |watched| Ok(Paused::begin(watched, self.way.state)?.map(Pause::Processes));
            match self.paused(begin, HoldError::NobodySeen) {
                Ok((hold, held, time)) => return Climbed::by(hold, held, QuiescedBy::Pause, time),
                Err(error) => why.push(format!("pausing who writes: {error}")),
            }
        }
        // A process that is seen is paused for a shorter time than a container.
        if may(Rung::Container)
            && let Some(engine) = self.way.engine.filter(|_| !self.cancel.is_cancelled())
        {
            let begin = |_| {
                let paused = PausedContainers::begin(self.way.root, engine, self.way.state)?;
                Ok(paused.map(Pause::Containers))
            };
            match self.paused(begin, HoldError::NoContainer) {
                Ok((hold, held, time)) => return Climbed::by(hold, held, QuiescedBy::Container, time),
                Err(error) => why.push(format!("pausing its containers: {error}")),
            }
        }
        let why = match why.is_empty() {
            true if may(Rung::Container) => "no Docker Engine is there (`docker`)".to_owned(),
            true => "its `quiesce` allows nothing else".to_owned(),
            false => why.join("; "),
        };
        // Each by itself is more than nothing.
        match self.each() {
            Ok((hold, held)) => {
                let told = format!(
                    "each of its stores is of one moment, and they are not all of the same one ({why}): stop the node \
                     for its backup, by hooks"
                );
                Climbed { hold: Some(hold), held, quiesce: None, told: Some(told) }
            }
            Err(error) => {
                let told = format!("its stores were read while in use: {error}; {why}");
                Climbed { told: Some(told), ..Climbed::default() }
            }
        }
    }

    /// Stores one after the other; that they need not be of one moment is known.
    fn each(&self) -> Result<(Hold, Held), HoldError> {
        let (hold, parts) = self.prepare()?;
        self.fill(&parts)?;
        Ok((hold, held(parts)))
    }

    /// All of it in a moment in which nothing has changed.
    #[expect(
        clippy::disallowed_methods,
        reason = "some milliseconds, so often at most, and the stop is asked for each time"
    )]
    fn at_once(&self) -> Result<(Hold, Held), HoldError> {
        let began = Instant::now();
        let failed = || HoldError::io("its files cannot be looked at");
        let mut attempts = 0;
        while attempts < ATTEMPTS && began.elapsed() < TIME {
            if self.cancel.is_cancelled() {
                return Err(HoldError::Cancelled);
            }
            attempts += 1;
            let (hold, parts) = self.prepare()?;
            let before = stamps(&parts).map_err(failed())?;
            if !is_quiet(&before) {
                std::thread::sleep(COARSE / 4);
                continue;
            }
            match self.fill(&parts) {
                Ok(()) if stamps(&parts).map_err(failed())? == before => return Ok((hold, held(parts))),
                Ok(()) | Err(HoldError::Moves { .. } | HoldError::NotWhole { .. } | HoldError::Io { .. }) => {
                }
                Err(error) => return Err(error),
            }
        }
        Err(HoldError::NeverStill { attempts })
    }

    /// All of it while who writes is paused; returns for how long.
    fn paused(
        &self,
        begin: impl FnOnce(Watched) -> io::Result<Option<Pause>>,
        nobody: HoldError,
    ) -> Result<(Hold, Held, Duration), HoldError> {
        let (hold, parts) = self.prepare()?;
        // What can be done before takes none of their time.
        for Ready { part, live, held, .. } in &parts {
            match part {
                Part::Store => bracket::warm(live, held),
                Part::Blocks | Part::Raft => appended::warm(live, held),
                Part::Freezer | Part::Files | Part::Snapshots => Ok(()),
            }
            .map_err(HoldError::io("a part of it cannot be linked"))?;
            dirty::write_out(live, held);
        }
        steps::reach(Step::HoldLinked);
        let failed = || HoldError::io("its files cannot be looked at");
        let watched = watched(&parts).map_err(failed())?;
        let paused = begin(watched).map_err(HoldError::io("they do not pause"))?.ok_or(nobody)?;
        steps::reach(Step::PauseBegun);
        // Who is not seen from here may write all the same.
        let before = stamps(&parts).map_err(failed())?;
        self.fill(&parts)?;
        let has_moved = stamps(&parts).map_err(failed())? != before;
        let was_held = paused.still_holds();
        steps::reach(Step::PauseFilled);
        let time = paused.end()?;
        steps::reach(Step::PauseEnded);
        match (was_held, has_moved) {
            (true, false) => Ok((hold, held(parts), time)),
            (true, true) => Err(HoldError::Unseen),
            (false, _) => Err(HoldError::TooLong),
        }
    }

    fn prepare(&self) -> Result<(Hold, Vec<Ready>), HoldError> {
        let hold = Hold::make(self.folder).map_err(HoldError::io("no folder for links can be made in it"))?;
        let profile = self.looked.profile(self.way.profile);
        let mut parts = Vec::new();
        for (path, part) in self.looked.parts.iter().filter(|(_, part)| profile.holds(**part)) {
            let held = hold.folder().map_err(HoldError::io("no folder for links can be made in it"))?;
            let live =
                look::open(self.folder, path).map_err(HoldError::io("a part of it cannot be opened"))?;
            parts.push(Ready { path: path.clone(), part: *part, live, held });
        }
        steps::reach(Step::HoldBegun);
        // Stores before freezers: a block is in the freezer before it goes from the store, so that what is held
        // later may have more and never less. Indexes before data, for the same reason. Fabric's blocks after its
        // indexes and states, which it fills up from them, and Raft's log last: a block comes from there.
        parts.sort_by_key(|ready| ready.part);
        Ok((hold, parts))
    }

    fn fill(&self, parts: &[Ready]) -> Result<(), HoldError> {
        for Ready { path, part, live, held } in parts {
            match part {
                Part::Store => {
                    let attempts = bracket::hold(path, live, held, self.cancel)?;
                    tracing::debug!(store = %path, attempts, "held");
                }
                Part::Freezer => {
                    freezer::hold(live, held).map_err(HoldError::io("a freezer cannot be held"))?;
                }
                Part::Blocks | Part::Raft => {
                    appended::hold(live, held).map_err(HoldError::io("blocks or a log cannot be held"))?;
                }
                Part::Files | Part::Snapshots => {
                    copies::hold(live, held).map_err(HoldError::io("its files cannot be copied"))?;
                }
            }
        }
        Ok(())
    }
}

impl Climbed {
    fn by(hold: Hold, held: Held, by: QuiescedBy, time: Duration) -> Self {
        // Rounded up: nobody is told that a pause has taken no time.
        let held_ms = time.as_micros().div_ceil(1_000).try_into().unwrap_or(u64::MAX);
        Self { hold: Some(hold), held, quiesce: Some(Quiesce { by, held_ms }), told: None }
    }
}

fn held(parts: Vec<Ready>) -> Held {
    Arc::new(parts.into_iter().map(|ready| (ready.path, HeldFolder::Open(Arc::new(ready.held)))).collect())
}

/// What is open for writing at whoever writes: tables of a store are written once, and that is long over, as it is
/// for all files of blocks but the last.
fn watched(parts: &[Ready]) -> io::Result<Watched> {
    let mut watched = Watched::default();
    for Ready { live, part, .. } in parts {
        let names = names(live.as_fd())?;
        let last = appended::last(&names).map(ToOwned::to_owned);
        for name in names {
            let is_over = match part {
                Part::Store => bracket::is_table(&name),
                Part::Blocks | Part::Raft => {
                    appended::is_one(&name) && last.as_ref().is_some_and(|last| *last != name)
                }
                Part::Freezer | Part::Files | Part::Snapshots => false,
            };
            if !is_over {
                watched.add(live, &name)?;
            }
        }
    }
    Ok(watched)
}

fn stamps(parts: &[Ready]) -> io::Result<Stamps> {
    let mut stamps = Stamps::new();
    for Ready { path, live, .. } in parts {
        for name in names(live.as_fd())?.into_iter().filter(|name| is_file(live, name)) {
            match rustix::fs::statat(live, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let stamp = (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec as i64);
                    stamps.insert((path.clone(), name), stamp);
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(stamps)
}

/// True if nothing was written just now: by the clock that stamps files.
#[expect(
    clippy::disallowed_methods,
    reason = "it is compared with the file system's own stamps, which no clock of ours makes"
)]
fn is_quiet(stamps: &Stamps) -> bool {
    let newest = stamps.values().map(|(_, _, seconds, nanos)| (*seconds, *nanos)).max();
    let newest = newest.map_or(Duration::ZERO, |(seconds, nanos)| {
        Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0))
    });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.checked_sub(newest).is_some_and(|since| since > COARSE)
}
