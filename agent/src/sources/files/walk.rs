//! Walks a tree by the handles of its folders, in path order.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use repository::archive::entry::EntryKind;
use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::STAGING_PREFIX;
use super::clocks::Clocks;
use super::content::{FileReader, open_quietly};
use super::first_names::{FirstName, FirstNames};
use super::held::{HeldContent, HeldNames, held_stamp};
use super::metadata::{XattrReader, metadata, stamp};
use super::names::{LIMITS, Limits, NamePages, keep_within};
use super::rules::{CACHE_TAG, LeftOut, Rules, is_pseudo, is_repository};
use crate::sources::blockchain::is_hold;
use crate::sources::{Body, Item, Problem, ProblemKind, SourceEntry, SourceError};

/// One open handle for each: deeper trees are told and left out.
const MAX_DEPTH: usize = 4_000;

/// What of a folder is to be read.
#[derive(Debug)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These names alone.
    Only(BTreeMap<Box<[u8]>, Wanted>),
}

/// The names of a folder that are still to be visited.
enum Names {
    /// All that it has.
    All(NamePages),
    /// Those that are held, and what else is there but files.
    Held(Box<HeldNames>),
    /// These.
    Listed(std::collections::btree_map::IntoIter<Box<[u8]>, Wanted>),
}

/// The walk: the folders from the root down to where it is.
pub(super) struct Walk {
    levels: Vec<Level>,
    ready: VecDeque<Item>,
    first_names: FirstNames,
    rules: Rules,
    left_out: Totals,
    ended: bool,
    xattrs: XattrReader,
    clocks: Clocks,
    limits: Limits,
}

/// What was left out without a line of its own.
#[derive(Default)]
struct Totals {
    excluded: LeftOut,
    staging: LeftOut,
    own: LeftOut,
}

struct Level {
    folder: Arc<OwnedFd>,
    path: EntryPath,
    names: Names,
    /// The file system to stay in; a folder that is only on the way to a listed one sets no bound.
    device: Option<u64>,
}

impl Walk {
    /// A walk of what is `wanted` in `root`, its first item the root itself.
    pub(super) fn start(root: &Path, wanted: Wanted, rules: Rules) -> Result<Self, SourceError> {
        Self::start_within(LIMITS, root, wanted, rules)
    }

    fn start_within(limits: Limits, root: &Path, wanted: Wanted, rules: Rules) -> Result<Self, SourceError> {
        let failed =
            |error: Errno| SourceError::Open { folder: root.display().to_string(), source: error.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        Self::within(limits, folder, wanted, rules).map_err(failed)
    }

    /// As [`Self::start`], of a folder that is open.
    pub(super) fn opened(folder: OwnedFd, wanted: Wanted, rules: Rules) -> Result<Self, Errno> {
        Self::within(LIMITS, folder, wanted, rules)
    }

    fn within(limits: Limits, folder: OwnedFd, wanted: Wanted, rules: Rules) -> Result<Self, Errno> {
        let mut walk = Self {
            levels: Vec::new(),
            ready: VecDeque::new(),
            first_names: FirstNames::new(),
            rules,
            left_out: Totals::default(),
            ended: false,
            xattrs: XattrReader::new(),
            clocks: Clocks::default(),
            limits,
        };
        walk.enter(EntryPath::root(), folder, wanted, None)?;
        Ok(walk)
    }

    /// Puts `problems` before all that is to come.
    pub(super) fn tell(&mut self, problems: Vec<Problem>) {
        for problem in problems.into_iter().rev() {
            self.ready.push_front(Item::Problem(problem));
        }
    }

    /// The next item; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            let Some(level) = self.levels.last_mut() else {
                if std::mem::replace(&mut self.ended, true) {
                    return None;
                }
                self.tell_left_out();
                continue;
            };
            match level.names.next(&level.folder, self.limits) {
                Ok(Some((name, wanted, is_held))) => self.visit(name, wanted, is_held),
                Ok(None) => drop(self.levels.pop()),
                Err(error) => {
                    let level = self.levels.pop().expect("it is the one that was read");
                    let cause =
                        format!("not all of its names could be read: {}", std::io::Error::from(error));
                    self.problem(level.path, ProblemKind::Unreadable, cause);
                }
            }
        }
    }

    fn visit(&mut self, name: Box<CStr>, wanted: Wanted, is_held: bool) {
        let level = self.levels.last().expect("a name comes from a level");
        let (folder, is_of_held) = match &level.names {
            Names::Held(names) if is_held => (Arc::clone(&names.folder), true),
            names => (Arc::clone(&level.folder), matches!(names, Names::Held(_))),
        };
        let device = level.device;
        let path = match level.path.join(name.to_bytes()) {
            Ok(path) => path,
            Err(error) => {
                let above = level.path.clone();
                return self.problem(above, ProblemKind::Unreadable, format!("a path below it: {error}"));
            }
        };
        let stat = match rustix::fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was listed after the moment that is held.
            Err(Errno::NOENT) if is_of_held && !is_held => return,
            Err(error) => return self.failed(path, error),
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_of_held && !is_held && is_file {
            // It was made after the moment that is held.
            return;
        }
        if self.rules.exclude.matches(&path, is_folder) {
            return self.left_out.excluded.add(path);
        }
        if is_folder {
            if is_hold(name.to_bytes()) {
                return;
            }
            if name.to_bytes().starts_with(STAGING_PREFIX.as_bytes()) {
                return self.left_out.staging.add(path);
            }
            if self.rules.is_own(&stat) {
                return self.left_out.own.add(path);
            }
            self.folder(&folder, &name, path, &stat, wanted, device);
        } else {
            self.file(folder, name, path, &stat, is_held);
        }
    }

    /// A folder: its entry, then (as a level of its own) what is in it.
    fn folder(
        &mut self,
        above: &OwnedFd,
        name: &CStr,
        path: EntryPath,
        stat: &Stat,
        wanted: Wanted,
        device: Option<u64>,
    ) {
        if self.rules.one_file_system && device.is_some_and(|device| device != stat.st_dev) {
            self.entry(above, name, path.clone(), stat, Body::Plain(EntryKind::Folder));
            let cause = "another file system is mounted here: the folder is kept, what is in it is not";
            return self.problem(path, ProblemKind::LeftOut, cause.to_owned());
        }
        if self.levels.len() >= MAX_DEPTH {
            self.entry(above, name, path.clone(), stat, Body::Plain(EntryKind::Folder));
            let cause = format!("what is in it lies more than {MAX_DEPTH} folders deep");
            return self.problem(path, ProblemKind::Unreadable, cause);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = open_quietly(above.as_fd(), name, flags);
        match opened.and_then(|folder| self.enter(path.clone(), folder, wanted, device)) {
            Ok(()) => {}
            Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => self.failed(path, error),
            Err(error) => {
                self.entry(above, name, path.clone(), stat, Body::Plain(EntryKind::Folder));
                self.failed(path, error);
            }
        }
    }

    /// Goes into an open folder: its first names are read now and visited next.
    fn enter(
        &mut self,
        path: EntryPath,
        folder: OwnedFd,
        wanted: Wanted,
        device: Option<u64>,
    ) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(&folder)?;
        let (names, told) = match wanted {
            Wanted::Only(names) => (Names::Listed(names.into_iter()), None),
            Wanted::Whole => match (self.closed(&path, &folder, &stat, device), self.rules.held.get(&path)) {
                (Some((kept, problem)), _) => (kept, Some(problem)),
                (None, Some(held)) => (Names::Held(Box::new(HeldNames::new(held.open()?))), None),
                (None, None) => {
                    let mut pages = NamePages::new();
                    pages.read(folder.as_fd(), self.limits)?;
                    (Names::All(pages), None)
                }
            },
        };
        let device = (!matches!(names, Names::Listed(_))).then_some(stat.st_dev);
        self.entry(&folder, c".", path.clone(), &stat, Body::Plain(EntryKind::Folder));
        self.ready.extend(told.map(Item::Problem));
        self.levels.push(Level { folder: Arc::new(folder), path, names, device });
        let pages = self.levels.iter_mut().filter_map(|level| match &mut level.names {
            Names::All(pages) => Some(pages),
            Names::Held(_) | Names::Listed(_) => None,
        });
        keep_within(self.limits, pages);
        Ok(())
    }

    /// A folder of which a rule leaves out what is in it: the names that are kept, and why.
    fn closed(
        &self,
        path: &EntryPath,
        folder: &OwnedFd,
        stat: &Stat,
        device: Option<u64>,
    ) -> Option<(Names, Problem)> {
        let only = |names: BTreeMap<Box<[u8]>, Wanted>| Names::Listed(names.into_iter());
        let tell = |kind, cause: &str| Problem { path: path.clone(), kind, cause: cause.to_owned() };
        if device.is_some_and(|device| device != stat.st_dev) && is_pseudo(folder) {
            let cause =
                "what is mounted here is made up by the kernel: the folder is kept, what is in it is not";
            return Some((only(BTreeMap::new()), tell(ProblemKind::LeftOut, cause)));
        }
        if is_repository(folder.as_fd()) {
            // A source that is a repository is a mistake; one that lies in a source need not be.
            let kind = if path.is_root() { ProblemKind::Unreadable } else { ProblemKind::LeftOut };
            let cause = "it is a repository of backups, which would grow by its own size each time: the folder \
                         is kept, what is in it is not";
            return Some((only(BTreeMap::new()), tell(kind, cause)));
        }
        if self.rules.is_cache(folder.as_fd()) {
            let tag = BTreeMap::from([(Box::from(CACHE_TAG.to_bytes()), Wanted::Whole)]);
            let cause = "its CACHEDIR.TAG marks it as a cache: the folder and the tag are kept, what else is in it is not";
            return Some((only(tag), tell(ProblemKind::LeftOut, cause)));
        }
        None
    }

    /// At the end, one line for each reason.
    fn tell_left_out(&mut self) {
        let Totals { excluded, staging, own } = &self.left_out;
        let told = [
            excluded.tell("`exclude` matches it"),
            staging.tell("it is what a restore keeps of an earlier state"),
            own.tell("it is the state folder of this agent"),
        ];
        self.ready.extend(told.into_iter().flatten().map(Item::Problem));
    }

    /// Anything but a folder. Of an inode's names the first gets the content, the others link to it.
    fn file(&mut self, folder: Arc<OwnedFd>, name: Box<CStr>, path: EntryPath, stat: &Stat, is_held: bool) {
        // What is held has a second name by that alone.
        let first = if is_held { FirstName::This } else { self.first_names.of(stat, &path) };
        if matches!(first, FirstName::Unknown) {
            let cause = "it has other names, of which too many are open: it is kept as a file of its own";
            self.problem(path.clone(), ProblemKind::LeftOut, cause.to_owned());
        }
        let body = match first {
            FirstName::Other(to) => Body::Plain(EntryKind::HardLink { to }),
            FirstName::This | FirstName::Unknown => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let content = FileReader::new(Arc::clone(&folder), name.clone(), stat);
                    let clock = self.clocks.of(&folder, stat.st_dev);
                    let above = &self.levels.last().expect("a file lies in a folder").path;
                    match is_held || self.rules.lasting.has(above, &name) {
                        true => Body::File {
                            stamp: held_stamp(stamp(stat)),
                            clock,
                            content: Box::new(HeldContent::new(content)),
                        },
                        false => Body::File { stamp: stamp(stat), clock, content: Box::new(content) },
                    }
                }
                FileType::Symlink => match rustix::fs::readlinkat(&folder, &*name, Vec::new()) {
                    Ok(target) => Body::Plain(EntryKind::Symlink { target: target.into_bytes() }),
                    // Something else has its name now: the link is gone.
                    Err(Errno::INVAL) => return self.failed(path, Errno::NOENT),
                    Err(error) => return self.failed(path, error),
                },
                kind => match special(kind, stat) {
                    Some(kind) => Body::Plain(kind),
                    None => {
                        let cause = "it is of no kind that a backup knows".to_owned();
                        return self.problem(path, ProblemKind::Unreadable, cause);
                    }
                },
            },
        };
        self.entry(&folder, &name, path, stat, body);
    }

    fn entry(&mut self, folder: &OwnedFd, name: &CStr, path: EntryPath, stat: &Stat, body: Body) {
        let (xattrs, unread) = self.xattrs.read(folder.as_fd(), name);
        let entry = SourceEntry { path: path.clone(), metadata: metadata(stat, xattrs), body };
        self.ready.push_back(Item::Entry(entry));
        match unread {
            // Gone since: whoever opens it next will say so.
            None | Some(Errno::NOENT) => {}
            Some(error) => {
                let cause = format!("its extended attributes: {}", std::io::Error::from(error));
                self.problem(path, ProblemKind::Unreadable, cause);
            }
        }
    }

    fn failed(&mut self, path: EntryPath, error: Errno) {
        let (kind, cause) = what_failed(error);
        self.problem(path, kind, cause);
    }

    fn problem(&mut self, path: EntryPath, kind: ProblemKind, cause: String) {
        self.ready.push_back(Item::Problem(Problem { path, kind, cause }));
    }
}

/// What it means for an entry that a call failed. STALE is no sign of a vanished one: a network file system
/// that lost its handles says it of all that is there.
fn what_failed(error: Errno) -> (ProblemKind, String) {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
            (ProblemKind::Vanished, "it vanished while the folder was read".to_owned())
        }
        error => (ProblemKind::Unreadable, std::io::Error::from(error).to_string()),
    }
}

impl Names {
    /// The next name, what of it is wanted, and true if it is held elsewhere.
    fn next(&mut self, folder: &OwnedFd, limits: Limits) -> Result<Option<(Box<CStr>, Wanted, bool)>, Errno> {
        match self {
            Names::All(pages) => Ok(pages.next(folder, limits)?.map(|name| (name, Wanted::Whole, false))),
            Names::Held(names) => {
                Ok(names.next(folder, limits)?.map(|(name, is_held)| (name, Wanted::Whole, is_held)))
            }
            Names::Listed(names) => Ok(names.next().map(|(name, wanted)| {
                let name = CString::new(name.into_vec()).expect("a name in an entry path holds no NUL");
                (name.into_boxed_c_str(), wanted, false)
            })),
        }
    }
}

fn special(kind: FileType, stat: &Stat) -> Option<EntryKind> {
    let device = |block| EntryKind::Device {
        block,
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
    };
    match kind {
        FileType::Fifo => Some(EntryKind::Fifo),
        FileType::Socket => Some(EntryKind::Socket),
        FileType::CharacterDevice => Some(device(false)),
        FileType::BlockDevice => Some(device(true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Excludes;
    use super::*;

    #[test]
    fn a_stale_handle_makes_an_archive_incomplete() {
        assert_eq!(what_failed(Errno::STALE).0, ProblemKind::Unreadable);
        assert_eq!(what_failed(Errno::NOENT).0, ProblemKind::Vanished);
    }

    #[test]
    fn a_tree_is_walked_in_path_order_whatever_the_pages_of_its_folders_hold() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut expected = vec![EntryPath::root()];
        let mut at = String::new();
        for depth in 0..6 {
            for n in 0..20 {
                let name = format!("{at}{n:02} of {depth}");
                std::fs::create_dir_all(folder.path().join(&name)).expect("made");
                std::fs::write(folder.path().join(&name).join("file"), "x").expect("written");
                expected.push(EntryPath::new(name.as_bytes()).expect("a path"));
                expected.push(EntryPath::new(format!("{name}/file").as_bytes()).expect("a path"));
            }
            at = format!("{at}10 of {depth}/");
        }
        expected.sort();
        for page in [1, 60, 300, 1 << 20] {
            let limits = Limits { page, total: 2 * page };
            let mut walk = Walk::start_within(limits, folder.path(), Wanted::Whole, Excludes::none().into())
                .expect("the folder opens");
            let mut found = Vec::new();
            while let Some(item) = walk.next() {
                match item {
                    Item::Entry(entry) => found.push(entry.path),
                    Item::Problem(problem) => panic!("{problem:?}"),
                }
            }
            assert_eq!(found, expected, "pages of {page} bytes");
        }
    }
}
