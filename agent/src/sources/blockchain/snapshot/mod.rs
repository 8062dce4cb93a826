//! A snapshot by Btrfs: all of a chain's folder at one moment, while everybody goes on writing.
//!
//! It lies in a hold ([`super::hold`]), as links do, and goes as they do: when the backup has ended, or at the agent's
//! next start. It has what has come to the disk: so the file system is asked to write out what it has before, and what
//! was written meanwhile is looked through ([`order`]).
//!
//! Must stay true: none is made that could not be removed again, as far as that can be known: an empty subvolume is made
//! and removed before, by the same calls; the folder in it is the one that it was made for; nothing that lies in that
//! is missing in it: nothing is mounted there, and no other subvolume lies there.

mod attempt;
mod ioctls;
mod order;
mod plan;
mod removal;

pub(super) use attempt::{Attempt, stays};
pub(super) use removal::{is_subvolume, remove};

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use repository::archive::path::EntryPath;
use runtime::steps;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::hold::{FOLDER, Hold, names};
use super::look::{self, Looked, Profile};
use crate::mounts::Mounted;
use crate::sources::files::{Excludes, Rules, STAGING_PREFIX};
use crate::steps::Step;
use order::Order;
use plan::{Facts, ROOT, STAND_IN, Subvolume, Why};
use removal::Went;

const BTRFS: u32 = 0x9123_683e;
const TRIAL: &std::ffi::CStr = c"trial";
const NAME: &std::ffi::CStr = c"snapshot";
/// So often one is made anew, and for so long.
const ATTEMPTS: u32 = 20;
const TIME: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_millis(20);
/// More folders are not looked through for other subvolumes.
const MAX_FOLDERS: usize = 200_000;

/// A snapshot; it goes with this.
pub(super) struct Snapshot {
    /// The chain's folder in it.
    folder: OwnedFd,
    device: u64,
    live_device: u64,
    is_over: bool,
    hold: Hold,
}

impl Snapshot {
    /// Makes one of the subvolume that the open folder `live` lies in, which is at `path`, and says what lies in it. All
    /// of it that `rules` let into a backup has to be in there. Blocks.
    #[expect(
        clippy::disallowed_methods,
        reason = "some seconds at most, and the stop is asked for each time"
    )]
    fn take(
        path: &Path,
        live: &OwnedFd,
        rules: &Rules,
        profile: Profile,
        cancel: &CancellationToken,
    ) -> Result<(Self, Looked), Why> {
        let of = subvolume(path, live, &rules.exclude)?;
        let root = rustix::fs::open(&of.root, FOLDER, Mode::empty())
            .map_err(|error| Why::io("the root of its subvolume cannot be opened")(error.into()))?;
        let failed = || Why::io("the snapshot cannot be looked at");
        // The path may have come to lead elsewhere, to what is not this node's.
        let stats = rustix::fs::fstat(&root).and_then(|root| Ok((root, rustix::fs::fstat(live)?)));
        let (is, inside) = stats.map_err(|error| failed()(error.into()))?;
        if is.st_ino != ROOT || is.st_dev != inside.st_dev {
            return Err(Why::Replaced);
        }
        let (began, mut attempts) = (Instant::now(), 0);
        while attempts < ATTEMPTS && began.elapsed() < TIME && !cancel.is_cancelled() {
            attempts += 1;
            let hold = Hold::make(live).map_err(Why::io("no folder for a snapshot can be made in it"))?;
            steps::reach(Step::HoldBegun);
            if tried(&hold)? == Went::Emptied {
                removal::can_be_emptied(&root)?;
            }
            // By the clock of the file system, which was just there.
            let now = rustix::fs::fstat(hold.fd()).map_err(|error| failed()(error.into()))?.st_mtime;
            rustix::fs::syncfs(live)
                .map_err(|error| Why::io("what was written to it does not come to the disk")(error.into()))?;
            ioctls::snapshot(hold.fd(), NAME, &root).map_err(|error| match error {
                Errno::PERM => Why::NotOurs { subvolume: of.root.clone() },
                error => Why::io("no snapshot can be made of its subvolume")(error.into()),
            })?;
            steps::reach(Step::SnapshotMade);
            let mut made = Self::of(hold, live, &of.below)?;
            if let Some(at) = made.stand_in(rules)? {
                return Err(Why::Nested { at });
            }
            let looked = look::look(&made.folder).map_err(failed())?;
            let order = Order { snapshot: &made.folder, live, looked: &looked, profile, since: now - 1 };
            if order.is_kept().map_err(failed())? {
                tracing::info!(attempts, "made a snapshot");
                return Ok((made, looked));
            }
            made.remove().map_err(Why::io("a snapshot cannot be removed"))?;
            // Who writes has a moment to come to rest.
            std::thread::sleep(REST);
        }
        Err(Why::Torn { attempts })
    }

    /// What was made in `hold`, if the folder in it is the live one.
    fn of(hold: Hold, live: &OwnedFd, below: &Path) -> Result<Self, Why> {
        let failed = |error: io::Error| Why::io("the snapshot cannot be opened")(error);
        let within =
            EntryPath::new(below.as_os_str().as_bytes()).map_err(|error| failed(io::Error::other(error)))?;
        let root = rustix::fs::openat(hold.fd(), NAME, FOLDER, Mode::empty());
        let folder =
            root.map_err(io::Error::from).and_then(|root| look::open(&root, &within)).map_err(failed)?;
        let stats = rustix::fs::fstat(&folder).and_then(|there| Ok((there, rustix::fs::fstat(live)?)));
        let (there, here) = stats.map_err(|error| failed(error.into()))?;
        // In a snapshot everything keeps its number.
        if there.st_ino != here.st_ino {
            return Err(Why::Replaced);
        }
        Ok(Self { folder, device: there.st_dev, live_device: here.st_dev, is_over: false, hold })
    }

    /// Where another subvolume lay in the folder, but for what `rules` leave out.
    fn stand_in(&self, rules: &Rules) -> Result<Option<EntryPath>, Why> {
        let failed = || Why::io("a folder of the snapshot cannot be looked into");
        let (mut waiting, mut count) = (vec![EntryPath::root()], 0);
        while let Some(path) = waiting.pop() {
            count += 1;
            if count > MAX_FOLDERS {
                return Err(failed()(io::Error::other(format!("more than {MAX_FOLDERS} folders lie in it"))));
            }
            let folder = match look::open(&self.folder, &path) {
                // Nothing of it comes into the backup, which tells that.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !path.is_root() => continue,
                other => other.map_err(failed())?,
            };
            for name in names(folder.as_fd()).map_err(failed())? {
                let Ok(below) = path.join(name.to_bytes()) else { continue };
                let stat = rustix::fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| failed()(error.into()))?;
                let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let is_ours = name.to_bytes().starts_with(STAGING_PREFIX.as_bytes());
                if !is_folder || is_ours || rules.exclude.matches(&below, true) {
                    continue;
                }
                if stat.st_ino == STAND_IN {
                    return Ok(Some(below));
                }
                waiting.push(below);
            }
        }
        Ok(None)
    }

    /// The chain's folder in it.
    pub(super) fn folder(&self) -> io::Result<OwnedFd> {
        self.folder.try_clone()
    }

    /// The path by which this process, and no other, reaches it.
    pub(super) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))
    }

    /// What is left out of the folder is left out of the snapshot, too.
    pub(super) fn leave_out(&self, rules: &mut Rules) {
        let own: Vec<_> =
            rules.own.iter().filter(|(device, _)| *device == self.live_device).copied().collect();
        rules.own.extend(own.into_iter().map(|(_, inode)| (self.device, inode)));
    }

    /// Removes it. One that stays goes at the next backup or at the agent's next start.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.remove()?;
        steps::reach(Step::SnapshotGone);
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_over, true) {
            return Ok(());
        }
        remove(self.hold.fd(), NAME)
    }
}

/// Makes an empty subvolume and removes it again, as a snapshot will be.
fn tried(hold: &Hold) -> Result<Went, Why> {
    ioctls::create(hold.fd(), TRIAL)
        .map_err(|error| Why::io("no subvolume can be made in it")(error.into()))?;
    steps::reach(Step::SnapshotTried);
    removal::gone(hold.fd(), TRIAL)
        .map_err(|error| Why::WouldStay { what: format!("one that was made to try it does not go: {error}") })
}

/// The subvolume to make one of.
fn subvolume(path: &Path, live: &OwnedFd, exclude: &Excludes) -> Result<Subvolume, Why> {
    let failed = || Why::io("it cannot be looked at");
    if !is_btrfs(live) {
        return Err(Why::Elsewhere);
    }
    let folder = path.canonicalize().map_err(failed())?;
    let device = rustix::fs::fstat(live).map_err(|error| failed()(error.into()))?.st_dev;
    let mut upwards = Vec::new();
    for at in folder.ancestors() {
        match rustix::fs::lstat(at) {
            Ok(stat) if stat.st_dev == device => upwards.push((at.to_owned(), stat.st_ino)),
            _ => break,
        }
        if upwards.last().is_some_and(|(_, inode)| *inode == ROOT) {
            break;
        }
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mounted = Mounted::seen().map_err(Why::io("it is not known what is mounted in it"))?;
    let is_left_out = |at: &Path| is_excluded(exclude, at);
    plan::choose(&Facts { kernel: &kernel, upwards: &upwards, mounted: &mounted, is_left_out: &is_left_out })
}

#[allow(clippy::unnecessary_cast, reason = "the width of a field of `statfs` differs by architecture")]
fn is_btrfs(folder: impl AsFd) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|stat| stat.f_type as u32 == BTRFS)
}

/// True if a pattern leaves out what lies at `path`, or a folder around it.
fn is_excluded(exclude: &Excludes, path: &Path) -> bool {
    let inside = path.ancestors().filter(|at| !at.as_os_str().is_empty());
    inside
        .filter_map(|at| EntryPath::new(at.as_os_str().as_bytes()).ok())
        .any(|at| exclude.matches(&at, true))
}
