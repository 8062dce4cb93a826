//! The blockchain source: a node's folder, whose stores are held while they are read.
//!
//! The stores of a node (LevelDB, Pebble, RocksDB) make and remove files all the time, and a copy that takes them one
//! after the other is of no use. So what must fit together is held first: tables by hard links, what changes
//! in place by copies, all in a folder of its own on the same mount, until nothing moved between two looks.
//! That takes milliseconds and stops no writer. Where the file system makes snapshots, it is one of those ([`snapshot`]),
//! and the archive is read from there. Where several stores must be of one moment and something always
//! moves, who writes is paused for those milliseconds. The archive is then read from there, in path order, under
//! the names that the files have in the node's folder.
//!
//! Must stay true: a node's own files are not touched: what is made is the links and copies of [`hold`], and
//! those are gone when the source is dropped, or at the agent's next start; who was paused goes on before the
//! first byte is read. What could not be held is told, and no more is claimed of it than that it was read.

mod appended;
mod bracket;
mod containers;
mod copies;
mod dirty;
mod freezer;
pub(in crate::sources) mod hold;
pub(in crate::sources) mod ladder;
mod lasting;
pub(in crate::sources) mod look;
mod pause;
mod snapshot;
mod thaw;

pub(crate) use hold::{HeldFolder, is_hold, reap};
pub(crate) use ladder::Rung;
pub(crate) use lasting::Lasting;
pub(crate) use look::Profile;
pub(crate) use thaw::{guard, thaw_left};

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repository::archive::path::EntryPath;
use repository::backup::manifest::{Consistency, Quiesce, QuiescedBy};
use rustix::fs::{Mode, OFlags};
use tokio_util::sync::CancellationToken;

use super::files::{FilesSource, Rules};
use super::{Item, Problem, ProblemKind, Source, SourceError};
use crate::signed::{Key, Signed};
use hold::Hold;
use ladder::{Climbed, Ladder};
use snapshot::{Attempt, Snapshot};

/// What people should know of a folder in which several files say how far a validator has signed.
const SEVERAL: &str = "several of its files say how far a validator has signed, so none of it is remembered: before one of \
                       them is restored where its live file is lost, look up its height";
/// The same where it is known how far and not whose key that was.
const WHOSE: &str = "whose key its validator's state is of cannot be told: the key cannot be read, lies elsewhere by a link, \
                     was changed while this was read, or is one of several. A restore asks for its height where \
                     any validator is known to be further";
/// What a manifest says of a geth: nobody can tell by its files in which mode it runs.
const GOES_BACK: &str = "if geth ran in its default mode while this was read, it starts on it as after a crash: it goes \
                         back to the last state that was on the disk, and makes or fetches the later blocks anew; not \
                         with --gcmode archive, nor if it was stopped before";

/// What a manifest says of a profile that no engine of ours has opened.
const UNTESTED: &str = "untested: no engine has ever opened a restore of this profile; it was taken by the rules that are \
                        known of its files. Try a restore before you rely on it, and for a copy that asks for no trust \
                        stop the node by hooks";

/// Folders whose files are read from where they are held.
pub(crate) type Held = Arc<BTreeMap<EntryPath, HeldFolder>>;

/// Reads a node's folder.
pub(crate) struct ChainSource {
    files: FilesSource,
    quiesce: Option<Quiesce>,
    is_snapshot: bool,
    profile: Profile,
    /// The one file that says how far a validator has signed, and what it said before all was read.
    signer: Option<(PathBuf, Option<Signed>)>,
    /// Whose that is.
    keys: Keys,
    has_several_signers: bool,
    key_now: OnceCell<Key>,
    // After the files, which are read from there.
    snapshot: Option<Snapshot>,
    _hold: Option<Hold>,
}

/// The keys that lay in the folder before all was read.
struct Keys {
    root: PathBuf,
    paths: Vec<EntryPath>,
    before: Key,
}

impl Keys {
    /// Those at `paths` in `root`; `seen_at` is where all is read from.
    fn look(root: &Path, seen_at: &Path, paths: Vec<EntryPath>) -> Self {
        let mut keys = Self { root: root.to_owned(), paths, before: Key::Absent };
        keys.before = keys.read(seen_at);
        keys
    }

    /// Whose they are: one that lies there twice, as a link and what it leads to, is one.
    fn read(&self, root: &Path) -> Key {
        let mut all = self.paths.iter().map(|path| Key::at(root, path));
        let Some(first) = all.next() else { return Key::Absent };
        let is_one = self.paths.len() < look::MAX_KEYS && all.all(|key| key == first);
        if is_one { first } else { Key::Unreadable }
    }

    /// Whose height the state tells: whose key is there now as it was before; [`Key::Unreadable`] if that is not so.
    fn now(&self) -> Key {
        let now = self.read(&self.root);
        if now == self.before { now } else { Key::Unreadable }
    }
}

/// How a node's folder is to be held.
pub(crate) struct Way<'a> {
    pub(crate) profile: Profile,
    /// What may be tried.
    pub(crate) rungs: &'a [Rung],
    /// The engine whose containers may be paused.
    pub(crate) engine: Option<&'a Path>,
    /// Where the node's folder is.
    pub(crate) root: &'a Path,
    /// The agent's own folder, in which it writes down whom it has paused.
    pub(crate) state: &'a Path,
}

impl Source for ChainSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let next = self.files.next()?;
        // All was read, and what stays behind is told.
        if next.is_none()
            && let Some(mut snapshot) = self.snapshot.take()
            && let Err(error) = snapshot.end()
        {
            return Ok(Some(Item::Problem(suspect(snapshot::stays(&[error])))));
        }
        Ok(next)
    }

    fn consistency(&self) -> Consistency {
        match self.quiesce.map(|quiesce| quiesce.by) {
            None if self.is_snapshot => Consistency::Snapshot,
            None => Consistency::Fuzzy,
            Some(QuiescedBy::Bracket) => Consistency::Bracketed,
            Some(QuiescedBy::Pause | QuiescedBy::Container | QuiescedBy::Lock | QuiescedBy::Other) => {
                Consistency::Quiesced
            }
        }
    }

    fn quiesce(&self) -> Option<Quiesce> {
        self.quiesce
    }

    fn remarks(&self) -> Vec<String> {
        let geth = (self.profile == Profile::Geth).then_some(GOES_BACK);
        let untested = self.profile.is_untested().then(|| format!("profile {}, {UNTESTED}", self.profile));
        let several = self.has_several_signers.then_some(SEVERAL);
        let whose = (self.signer.is_some() && self.whose() == Key::Unreadable).then_some(WHOSE);
        geth.into_iter().chain(several).chain(whose).map(str::to_owned).chain(untested).collect()
    }

    /// As it is now, or was before: no less than what was archived, also of a node that was set up anew meanwhile.
    fn signed(&self) -> Option<Signed> {
        let (path, before) = self.signer.as_ref()?;
        Signed::at(path).max(*before)
    }

    fn signer(&self) -> Option<String> {
        match self.whose() {
            Key::Of(address) => Some(address),
            Key::Absent | Key::Unreadable => None,
        }
    }
}

impl ChainSource {
    /// Whose height the state tells. Looked at once, when all was read.
    fn whose(&self) -> Key {
        self.key_now.get_or_init(|| self.keys.now()).clone()
    }

    /// Whose the validator's state in the folder `root` is, and where that lies; `looked` was found in `seen_at`, from
    /// which it is read, too. To be called before anything of that folder is held.
    fn signer_in(
        root: &Path,
        seen_at: &Path,
        looked: &look::Looked,
    ) -> (Keys, Option<(PathBuf, Option<Signed>)>) {
        let within = |at: &Path, path: &EntryPath| at.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let keys = Keys::look(root, seen_at, looked.keys.clone());
        let signer = match looked.signers.as_slice() {
            [one] => Some((within(root, one), Signed::at(&within(seen_at, one)))),
            _ => None,
        };
        (keys, signer)
    }

    /// Holds what has to fit together in the folder `root`, which is then read by `rules`. Blocks.
    pub(crate) fn open(
        root: &Path,
        mut rules: Rules,
        way: &Way<'_>,
        cancel: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let failed =
            |error: io::Error| SourceError::Open { folder: root.display().to_string(), source: error };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let mut looked = look::look(&folder).map_err(failed)?;
        let profile = looked.profile(way.profile);
        let mut climbed = Climbed::default();
        let mut told = Vec::new();
        let mut taken = None;
        // A key that changes while the state is held is not the one that has signed it.
        let mut whose = None;
        if profile.holds_anything() && !looked.parts.is_empty() {
            let tried = Attempt::at(&folder, &rules, way, profile, cancel);
            told.extend(tried.told);
            match (tried.taken, tried.why) {
                (Some(found), _) => taken = Some(found),
                (None, why) => {
                    whose = Some(Self::signer_in(root, root, &looked));
                    climbed = Ladder { folder: &folder, looked: &looked, way, cancel }.climb();
                    told.extend(climbed.told.take());
                    // What would have helped, too.
                    told.extend(
                        why.filter(|(_, is_told)| *is_told || climbed.quiesce.is_none()).map(|(why, _)| why),
                    );
                }
            }
        }
        let Climbed { hold, held, quiesce, .. } = climbed;
        if hold.is_some() {
            rules.held = held;
        }
        let is_snapshot = taken.is_some();
        tracing::info!(folder = %root.display(), %profile, ?quiesce, is_snapshot, "looked at the chain's folder");
        let (mut files, seen_at) = match &mut taken {
            None => (FilesSource::folder(root, rules)?, root.to_owned()),
            Some((snapshot, found)) => {
                looked = std::mem::take(found);
                snapshot.leave_out(&mut rules);
                rules.lasting = Lasting::of(&looked, profile);
                let opened = snapshot.folder().and_then(|folder| FilesSource::opened(folder, rules));
                (opened.map_err(failed)?, snapshot.path())
            }
        };
        files.tell(told.into_iter().map(suspect).collect());
        // A snapshot has its own moment.
        let (keys, signer) = whose.unwrap_or_else(|| Self::signer_in(root, &seen_at, &looked));
        let has_several_signers = looked.signers.len() > 1;
        let snapshot = taken.map(|(snapshot, _)| snapshot);
        Ok(Self {
            files,
            quiesce,
            is_snapshot,
            profile,
            signer,
            keys,
            has_several_signers,
            key_now: OnceCell::new(),
            snapshot,
            _hold: hold,
        })
    }
}

fn suspect(cause: String) -> Problem {
    Problem { path: EntryPath::root(), kind: ProblemKind::Suspect, cause }
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
    #[error("something moved all the time, {attempts} times")]
    NeverStill { attempts: u32 },
    #[error("who writes there is not seen from here")]
    NobodySeen,
    #[error("no container of an engine that is asked has it mounted for writing")]
    NoContainer,
    #[error("it took longer than {} seconds, so who was paused went on", pause::LONGEST.as_secs())]
    TooLong,
    #[error(
        "who was paused cannot be told to go on yet, and is told again and again: where it stays paused, let it go on \
         (docker unpause, kill -CONT)"
    )]
    StillPaused,
    #[error("somebody who is not seen from here wrote while the others were paused")]
    Unseen,
    #[error("it was cancelled")]
    Cancelled,
}

impl HoldError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_changes_while_its_state_is_held_is_nobody_s() {
        let place = tempfile::tempdir().expect("a folder");
        let (node, state, socket) =
            (place.path().join("node"), place.path().join("state"), place.path().join("engine.sock"));
        [&node, &state].iter().for_each(|folder| std::fs::create_dir(folder).expect("made"));
        let key = node.join("priv_validator_key.json");
        let says = |digit: &str| format!(r#"{{"address":"{}"}}"#, digit.repeat(40));
        std::fs::write(&key, says("1")).expect("written");
        std::fs::write(node.join("priv_validator_state.json"), r#"{"height":"7"}"#).expect("written");
        // Whoever is asked for its containers is asked while the folder is being held.
        let engine = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let swap = {
            let (key, other) = (key.clone(), says("2"));
            std::thread::spawn(move || {
                let asked = engine.accept();
                std::fs::write(key, other).expect("written");
                drop(asked);
            })
        };
        let rules = Rules::from(crate::sources::files::Excludes::default());
        let way = Way {
            profile: Profile::Auto,
            rungs: &[Rung::Container],
            engine: Some(&socket),
            root: &node,
            state: &state,
        };
        let opened = ChainSource::open(&node, rules, &way, &CancellationToken::new());
        let source = opened.expect("opened");
        assert!(swap.join().is_ok() && std::fs::read_to_string(&key).expect("there") == says("2"));
        assert_eq!((source.signer(), source.signed()), (None, Some(Signed(7, 0, 0))));
        assert!(source.remarks().iter().any(|remark| remark == WHOSE), "{:?}", source.remarks());
    }

    #[test]
    fn a_key_that_changes_while_its_folder_is_read_is_nobody_s() {
        let node = tempfile::tempdir().expect("a folder");
        let path = EntryPath::new(b"priv_validator_key.json").expect("a path");
        let file = node.path().join("priv_validator_key.json");
        let has = |digit: &str| {
            std::fs::write(&file, format!(r#"{{"address":"{}"}}"#, digit.repeat(40))).expect("written");
        };
        has("1");
        let link = EntryPath::new(b"link/priv_validator_key.json").expect("a path");
        std::fs::create_dir(node.path().join("link")).expect("made");
        std::os::unix::fs::symlink(
            "../priv_validator_key.json",
            node.path().join("link/priv_validator_key.json"),
        )
        .expect("made");
        let keys = Keys::look(node.path(), node.path(), vec![link, path]);
        assert_eq!(keys.now(), Key::Of("1".repeat(40)));
        has("2");
        assert_eq!(keys.now(), Key::Unreadable);
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(keys.now(), Key::Unreadable);
        assert_eq!(Keys::look(node.path(), node.path(), Vec::new()).now(), Key::Absent);
        // Two of different validators.
        has("1");
        let other = node.path().join("link/priv_validator_key.json");
        std::fs::remove_file(&other).expect("removed");
        std::fs::write(&other, format!(r#"{{"address":"{}"}}"#, "2".repeat(40))).expect("written");
        assert_eq!(keys.now(), Key::Unreadable);
    }
}
