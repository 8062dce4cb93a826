//! The blockchain source: a node's folder, whose stores are held while they are read.
//!
//! The stores of a node (LevelDB, Pebble) make and remove files all the time, and a copy that takes them one
//! after the other is of no use. So what must fit together is held first: tables by hard links, what changes
//! in place by copies, all in a folder of its own on the same mount, until nothing moved between two looks.
//! That takes milliseconds and stops no writer. The archive is then read from there, in path order, under
//! the names that the files have in the node's folder.
//!
//! Must stay true: a node's own files are not touched: no writer is stopped, what is made is the links and
//! copies of [`hold`], and those are gone when the source is dropped, or at the agent's next start. What could
//! not be held is told, and no more is claimed of it than that it was read.

mod bracket;
mod freezer;
mod hold;
mod look;

pub(crate) use hold::{is_hold, reap};
pub(crate) use look::Profile;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use repository::archive::path::EntryPath;
use repository::backup::manifest::Consistency;
use rustix::fs::{Mode, OFlags};
use tokio_util::sync::CancellationToken;

use super::files::{FilesSource, Rules};
use super::{Item, Problem, ProblemKind, Source, SourceError};
use hold::Hold;
use look::{Looked, Part};

/// Folders whose files are read from where they are held.
pub(crate) type Held = Arc<BTreeMap<EntryPath, Arc<OwnedFd>>>;

/// Reads a node's folder.
pub(crate) struct ChainSource {
    files: FilesSource,
    consistency: Consistency,
    // After the files, which are read from there.
    _hold: Option<Hold>,
}

impl Source for ChainSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        self.files.next()
    }

    fn consistency(&self) -> Consistency {
        self.consistency
    }
}

impl ChainSource {
    /// Holds what has to fit together in the folder `root`, which is then read by `rules`. Blocks.
    pub(crate) fn open(
        root: &Path,
        mut rules: Rules,
        profile: Profile,
        cancel: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let failed =
            |error: io::Error| SourceError::Open { folder: root.display().to_string(), source: error };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let looked = look::look(&folder).map_err(failed)?;
        let wanted = profile;
        let profile = looked.profile(wanted);
        let mut held = None;
        let mut told = None;
        if profile.holds_anything() && !looked.parts.is_empty() {
            match hold_all(&folder, &looked, profile, cancel) {
                Ok((hold, folders)) => {
                    rules.held = folders;
                    held = Some(hold);
                }
                Err(error) => told = Some(format!("its stores were read while in use: {error}")),
            }
        }
        let is_bracketed = held.is_some() && looked.is_one_moment(wanted);
        if held.is_some() && !is_bracketed {
            let cause = "each of its stores is of one moment, and they are not all of the same one: stop the node \
                         for its backup, by hooks";
            told = Some(cause.to_owned());
        }
        tracing::info!(folder = %root.display(), %profile, is_bracketed, "looked at the chain's folder");
        let mut files = FilesSource::folder(root, rules)?;
        let problem = |cause| Problem { path: EntryPath::root(), kind: ProblemKind::Suspect, cause };
        files.tell(told.map(problem).into_iter().collect());
        let consistency = if is_bracketed { Consistency::Bracketed } else { Consistency::Fuzzy };
        Ok(Self { files, consistency, _hold: held })
    }
}

/// Why a folder is not held.
#[derive(Debug, thiserror::Error)]
enum HoldError {
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the list of tables of {path} moved {attempts} times while it was copied")]
    Moves { path: EntryPath, attempts: u32 },
    #[error("the copy of {path} lacks what its list of tables names")]
    NotWhole { path: EntryPath },
    #[error("it was cancelled")]
    Cancelled,
}

impl HoldError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Stores before freezers: a block is in the freezer before it goes from the store, so that what is held later
/// may have more and never less. Indexes before data, for the same reason.
fn hold_all(
    root: &OwnedFd,
    looked: &Looked,
    profile: Profile,
    cancel: &CancellationToken,
) -> Result<(Hold, Held), HoldError> {
    let hold = Hold::make(root).map_err(HoldError::io("no folder for links can be made in it"))?;
    let mut held = BTreeMap::new();
    for (path, part) in looked.parts.iter().filter(|(_, part)| **part == Part::Store) {
        let folder = hold.folder().map_err(HoldError::io("no folder for links can be made in it"))?;
        let live = look::open(root, path).map_err(HoldError::io("a store cannot be opened"))?;
        let attempts = bracket::hold(path, &live, &folder, cancel)?;
        tracing::debug!(store = %path, ?part, attempts, "held");
        held.insert(path.clone(), Arc::new(folder));
    }
    if profile == Profile::Geth {
        let freezers = looked.parts.iter().filter(|(_, part)| **part == Part::Freezer);
        for (path, _) in freezers {
            let folder = hold.folder().map_err(HoldError::io("no folder for links can be made in it"))?;
            let live = look::open(root, path).map_err(HoldError::io("a freezer cannot be opened"))?;
            freezer::hold(&live, &folder).map_err(HoldError::io("a freezer cannot be held"))?;
            held.insert(path.clone(), Arc::new(folder));
        }
    }
    Ok((hold, Arc::new(held)))
}
