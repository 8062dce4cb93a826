//! What a plan says of live entries that are in no archive of their source: what the source leaves out, which
//! stays; and, when a restore of paths is taken back, what that restore has made, which goes.
//!
//! Must stay true: what is left out goes only where the folder that holds it does, or the archive has an entry in
//! its place, and the plan says so. For an undo goes what its patterns name and the archive lacks, and a folder
//! above that only if the archive lacks it too and all that is in it goes. The walk is in path order, beside the
//! archive's entries as they go by: however much is live, one path and a handle for each open folder are held, and
//! [`MAX_STRAYS`] paths that go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::entry::{Entry, EntryKind};
use repository::archive::path::EntryPath;
use rustix::fs::{Access, AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::area::is_staging;
use super::ground::{Ground, LOST_AND_FOUND, is_mount_point};
use super::handles::{again, open_folder};
use super::plan::{LiveEntry, live_entry};
use super::remove::Names;
use super::request::{RestoreRequest, Selection};
use crate::sources::files::Rules;
use crate::sources::files::names::{LIMITS, keep_within};

/// So many entries that a restore has made are taken away when it is taken back: each is a rename, while programs
/// stand, and a line of the journal.
pub(super) const MAX_STRAYS: usize = 100_000;

/// What the archive has at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archived {
    Nothing,
    /// With whether its owner may write in it, once it is restored.
    Folder {
        writable: bool,
    },
    Other,
}

impl Archived {
    fn of(entry: &Entry) -> Self {
        match entry.kind {
            EntryKind::Folder => Self::Folder { writable: entry.metadata.mode & 0o300 == 0o300 },
            _ => Self::Other,
        }
    }
}

/// What becomes of something that the source leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays. Below the top it has to be carried, and this may be in the way.
    Stays(Option<Hindrance>),
    /// It goes with the folder that it lies in, or the archive has it all the same.
    Goes,
    /// What is there could not be seen.
    Unseen {
        /// By the rules something of it may have to stay.
        is_needed: bool,
        cause: String,
    },
}

/// Why what stays cannot be carried along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// It lies in a file system of its own that is not mounted by itself, as a subvolume.
    OtherDevice,
    /// We may not take it out of its folder, or not put it into the one that takes that one's place.
    NotOurs,
}

/// Is told of each that is found.
pub(super) type Tell<'l> = &'l mut dyn FnMut(EntryPath, Fate);

/// A walk through what is live, in path order.
pub(super) struct Sift<'a> {
    selection: &'a Selection,
    rules: Option<&'a Rules>,
    /// A restore of paths is taken back.
    is_undo: bool,
    device: u64,
    levels: Vec<Level>,
    /// The next one.
    ahead: Option<Found>,
    /// What that restore has made.
    strays: Strays,
}

/// What a restore that is taken back has made, outermost, in path order.
#[derive(Debug, Default)]
pub(super) struct Strays {
    pub(super) paths: Vec<(EntryPath, LiveEntry)>,
    /// How many there are beyond [`MAX_STRAYS`].
    pub(super) missed: u64,
}

struct Found {
    name: Box<[u8]>,
    path: EntryPath,
    stat: Stat,
}

struct Level {
    path: EntryPath,
    names: Names,
    /// Nothing that is in it is in a backup but this name.
    only: Option<&'static [u8]>,
    device: u64,
    /// Something else takes its place, with all that is in it.
    is_swapped: bool,
    /// It goes, with all that is in it.
    is_gone: bool,
    /// The archive has all folders down to it as folders.
    has_place: bool,
    /// We may write in the folder that takes its place.
    is_place_writable: bool,
    /// It goes if all in it does: the archive does not have it.
    may_go: bool,
    /// So far all in it goes, and can be moved.
    is_all_strays: bool,
    /// How many strays there were before it, held and missed.
    before: (usize, u64),
}

impl<'a> Sift<'a> {
    /// None: there is nothing to look for.
    pub(super) fn begin(ground: &Ground, request: &'a RestoreRequest) -> io::Result<Option<Self>> {
        let Ground::Live { handle, .. } = ground else { return Ok(None) };
        let is_whole = matches!(request.selection, Selection::Whole);
        let is_undo = request.keeps_older && !is_whole;
        // Below what is moved, plain rules have nothing that would have to be carried.
        let rules = request.stays.as_ref();
        if rules.is_none_or(Rules::is_plain) && !is_undo {
            return Ok(None);
        }
        let mut root = Level::new(EntryPath::root(), again(handle)?, rules)?;
        (root.is_swapped, root.has_place, root.is_place_writable) = (is_whole, true, true);
        let device = root.device;
        let (levels, strays) = (vec![root], Strays::default());
        Ok(Some(Self { selection: &request.selection, rules, is_undo, device, levels, ahead: None, strays }))
    }

    /// Goes on up to and with the path of `to`, the next entry of the archive, or to the end.
    pub(super) fn run(&mut self, to: Option<&Entry>, tell: Tell<'_>) -> io::Result<()> {
        loop {
            let found = match self.ahead.take() {
                Some(found) => found,
                None if self.levels.is_empty() => return Ok(()),
                None => match self.next(tell)? {
                    Some(found) => found,
                    None => {
                        self.leave();
                        continue;
                    }
                },
            };
            if to.is_some_and(|to| found.path > to.path) {
                self.ahead = Some(found);
                return Ok(());
            }
            let entry = to.filter(|to| to.path == found.path);
            self.judge(found, entry.map_or(Archived::Nothing, Archived::of), tell)?;
        }
    }

    /// What the restore that is taken back has made, once all was seen.
    pub(super) fn strays(self) -> Strays {
        self.strays
    }

    /// The next one in the folder where it is; none: all of it was seen.
    fn next(&mut self, tell: Tell<'_>) -> io::Result<Option<Found>> {
        let level = self.levels.last_mut().expect("it is somewhere");
        loop {
            let name = match level.names.next().transpose() {
                Ok(None) => break,
                Ok(Some(name)) => name,
                Err(error) => {
                    let is_moved = level.is_swapped || level.is_gone;
                    level.is_unseen(level.path.clone(), error, self.rules.filter(|_| is_moved), tell)?;
                    break;
                }
            };
            let is_of_the_system = level.path.is_root() && *name == *LOST_AND_FOUND;
            let (false, false, Ok(path)) = (is_staging(&name), is_of_the_system, level.path.join(&name))
            else {
                level.is_all_strays = false;
                continue;
            };
            match rustix::fs::statat(level.names.folder(), &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => return Ok(Some(Found { name, path, stat })),
                // It has gone.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    let is_moved = level.is_swapped || level.is_gone;
                    level.is_unseen(path, error.into(), self.rules.filter(|_| is_moved), tell)?;
                }
            }
        }
        Ok(None)
    }

    fn judge(&mut self, found: Found, archived: Archived, tell: Tell<'_>) -> io::Result<()> {
        let Found { name, path, stat } = found;
        let level = self.levels.last_mut().expect("it comes from one");
        let is_swapped =
            level.is_swapped || (archived != Archived::Nothing && selects(self.selection, &path));
        if level.leaves_out(self.rules, &path, &name, &stat) {
            level.is_all_strays = false;
            let goes = level.is_gone || (is_swapped && (!level.has_place || archived != Archived::Nothing));
            let moves = goes || (is_swapped && !level.path.is_root());
            if moves && level.is_immovable(self.rules, &name, &stat) {
                // It is refused as what it is.
            } else if goes {
                tell(path, Fate::Goes);
            } else if is_swapped {
                let hindrance = level.hindrance(self.device, &name, &stat)?;
                tell(path, Fate::Stays(hindrance));
            }
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        // A socket is in no archive: no restore has made one.
        let is_stray = self.is_undo
            && !is_swapped
            && !level.is_gone
            && archived == Archived::Nothing
            && kind != FileType::Socket
            && selects(self.selection, &path);
        let is_gone = level.is_gone || is_stray;
        if is_stray {
            let live = live_entry(level.names.folder(), &name)?.unwrap_or(LiveEntry::Movable);
            level.is_all_strays &= live == LiveEntry::Movable;
            self.strays.add(path.clone(), live);
        }
        let leads_on = match is_gone || is_swapped {
            true => self.rules.is_some_and(|rules| !rules.is_plain()),
            false => self.selection.may_hold(&path),
        };
        if kind == FileType::Directory && leads_on {
            let has_place = level.has_place && matches!(archived, Archived::Folder { .. });
            let below = match level.open(&path, &name, self.rules) {
                Err(error) => {
                    let rules = self.rules.filter(|_| is_gone || is_swapped);
                    level.is_unseen(path, error, rules, tell)?;
                    return Ok(());
                }
                below => below?,
            };
            if let Some(mut below) = below {
                (below.is_swapped, below.is_gone, below.has_place) = (is_swapped, is_gone, has_place);
                below.is_place_writable =
                    archived == Archived::Folder { writable: true } || rustix::process::geteuid().is_root();
                below.may_go = self.is_undo && !is_swapped && !is_gone && archived == Archived::Nothing;
                below.before = (self.strays.paths.len(), self.strays.missed);
                self.levels.push(below);
                keep_within(LIMITS, self.levels.iter_mut().map(|level| level.names.pages()));
                return Ok(());
            }
        }
        level.is_all_strays &= is_stray;
        Ok(())
    }

    /// All of a folder was seen: if all of it goes, so does the folder.
    fn leave(&mut self) {
        let left = self.levels.pop().expect("it is somewhere");
        let Some(above) = self.levels.last_mut() else { return };
        if left.is_gone {
            return;
        }
        let (held, missed) = left.before;
        if left.may_go && left.is_all_strays && self.strays.is_more_than(left.before) {
            self.strays.paths.truncate(held);
            self.strays.missed = missed;
            self.strays.add(left.path, LiveEntry::Movable);
        } else {
            above.is_all_strays = false;
        }
    }
}

impl Strays {
    fn add(&mut self, path: EntryPath, live: LiveEntry) {
        match self.paths.len() < MAX_STRAYS {
            true => self.paths.push((path, live)),
            false => self.missed += 1,
        }
    }

    fn is_more_than(&self, (held, missed): (usize, u64)) -> bool {
        self.paths.len() > held || self.missed > missed
    }
}

impl Level {
    fn new(path: EntryPath, handle: OwnedFd, rules: Option<&Rules>) -> io::Result<Self> {
        let device = rustix::fs::fstat(&handle)?.st_dev;
        Ok(Self {
            path,
            only: rules.and_then(|rules| rules.closes(handle.as_fd())),
            names: Names::of(handle),
            device,
            is_swapped: false,
            is_gone: false,
            has_place: false,
            is_place_writable: false,
            may_go: false,
            is_all_strays: true,
            before: (0, 0),
        })
    }

    /// The folder `path`, `name` in this one; none: it has gone, or something is mounted there, which is not ours.
    fn open(&self, path: &EntryPath, name: &[u8], rules: Option<&Rules>) -> io::Result<Option<Self>> {
        match open_folder(self.names.folder(), name) {
            Ok(handle) => Self::new(path.clone(), handle, rules).map(Some),
            Err(error) if is_one_of(&error, &NOT_OURS) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is at `path`, here or in here, cannot be seen: it is damaged, its server is gone, or it is somebody else's. No
    /// reason to refuse what would replace it, unless something of it may have to stay by the `rules` of what is moved. An
    /// error is what is our own lack.
    fn is_unseen(
        &mut self,
        path: EntryPath,
        error: io::Error,
        rules: Option<&Rules>,
        tell: Tell<'_>,
    ) -> io::Result<()> {
        if is_one_of(&error, &OUR_LACK) {
            return Err(io::Error::new(error.kind(), format!("{path}: {error}")));
        }
        self.is_all_strays = false;
        let is_needed = rules.is_some_and(|rules| !rules.is_plain());
        tell(path, Fate::Unseen { is_needed, cause: error.to_string() });
        Ok(())
    }

    fn leaves_out(&self, rules: Option<&Rules>, path: &EntryPath, name: &[u8], stat: &Stat) -> bool {
        self.only.is_some_and(|only| only != name) || rules.is_some_and(|rules| rules.leaves_out(path, stat))
    }

    /// True for what [`super::immovable`] tells of.
    fn is_immovable(&self, rules: Option<&Rules>, name: &[u8], stat: &Stat) -> bool {
        self.only.is_some_and(<[u8]>::is_empty)
            || rules.is_some_and(|rules| rules.is_own(stat))
            || is_mount_point(self.names.folder(), name)
    }

    /// What lies at the top is not moved, and nothing is in its way.
    fn hindrance(&self, device: u64, name: &[u8], stat: &Stat) -> io::Result<Option<Hindrance>> {
        if self.path.is_root() {
            return Ok(None);
        }
        let folder = self.names.folder();
        if self.device != device {
            return Ok(Some(Hindrance::OtherDevice));
        }
        if !self.is_place_writable {
            return Ok(Some(Hindrance::NotOurs));
        }
        let may = |name: &[u8], what| match rustix::fs::accessat(folder, name, what, AtFlags::EACCESS) {
            Ok(()) => Ok(true),
            // A filter of system calls that does not know this one: the agent is no set-user-id program.
            Err(Errno::PERM) => Ok(rustix::fs::accessat(folder, name, what, AtFlags::empty()).is_ok()),
            Err(Errno::ACCESS | Errno::ROFS) => Ok(false),
            Err(error) => Err(io::Error::from(error)),
        };
        let (ours, is_folder) =
            (rustix::process::geteuid(), FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let is_ours = ours.is_root() || stat.st_uid == ours.as_raw();
        // A folder of somebody else's must be writable itself to lie in another one, and nothing of theirs leaves a sticky
        // one.
        let may_leave = is_ours
            || ((!is_folder || may(name, Access::WRITE_OK)?) && {
                let around = rustix::fs::fstat(folder)?;
                around.st_mode & 0o1000 == 0 || around.st_uid == ours.as_raw()
            });
        let may_leave = may_leave && may(b".", Access::WRITE_OK | Access::EXEC_OK)?;
        Ok((!may_leave).then_some(Hindrance::NotOurs))
    }
}

/// There is no folder, or something is mounted there.
pub(super) const NOT_OURS: [Errno; 4] = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV];
/// It says nothing about what is there.
pub(super) const OUR_LACK: [Errno; 3] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];

pub(super) fn is_one_of(error: &io::Error, these: &[Errno]) -> bool {
    these.iter().any(|one| error.raw_os_error() == Some(one.raw_os_error()))
}

/// True if `path` is selected by itself, or is at the top and all of that is selected.
pub(super) fn selects(selection: &Selection, path: &EntryPath) -> bool {
    let is_all = || path.parent().is_some_and(|parent| parent.is_root() && selection.names(&parent));
    selection.names(path) || is_all()
}

/// What the rules leave out at the top of a folder, asked name by name.
pub(super) struct Top<'a> {
    rules: Option<&'a Rules>,
    only: Option<&'static [u8]>,
}

impl<'a> Top<'a> {
    pub(super) fn of(rules: Option<&'a Rules>, root: &OwnedFd) -> Self {
        Self { rules, only: rules.and_then(|rules| rules.closes(root.as_fd())) }
    }

    /// True if `path`, which is a name in `root`, holds the agent's own state.
    pub(super) fn holds_own(&self, root: &OwnedFd, path: &EntryPath) -> bool {
        let Some(rules) = self.rules else { return false };
        let stat = rustix::fs::statat(root, path.as_bytes(), AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| rules.is_above_own(&stat))
    }

    /// True if `path`, which is a name in `root`, is there and is left out.
    pub(super) fn leaves_out(&self, root: &OwnedFd, path: &EntryPath) -> io::Result<bool> {
        let (Some(rules), name) = (self.rules, path.as_bytes()) else { return Ok(false) };
        match rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(self.only.is_some_and(|only| only != name) || rules.leaves_out(path, &stat)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
