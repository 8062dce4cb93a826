//! What a source leaves out: by pattern, by tag, at the border of its file system, and what is our own.
//!
//! Everything that is left out is told, in one line for each kind of reason and not for each entry.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};

use super::content::open_quietly;
use super::excludes::Excludes;
use crate::sources::{Problem, ProblemKind};

/// The file that marks a folder as a cache, see bford.info/cachedir.
pub(super) const CACHE_TAG: &std::ffi::CStr = c"CACHEDIR.TAG";
/// How that file starts.
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// File systems that hold no data of anybody's: the kernel makes up what is in them.
const PSEUDO: [u32; 21] = [
    0x0000_0187, // autofs
    0x0000_1cd1, // devpts
    0x0000_9fa0, // proc
    0x0027_e0eb, // cgroup
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0x6165_676c, // pstore
    0x6265_6570, // configfs
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x6573_5543, // fusectl
    0x6759_6969, // rpc_pipefs
    0x6e73_6673, // nsfs
    0x7363_6673, // securityfs
    0x7472_6163, // tracefs
    0x9584_58f6, // hugetlbfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
    0xf97c_ff8c, // selinuxfs
    0x5346_414f, // afs' place for dynamic mounts
];

/// The rules of one source.
#[derive(Debug, Clone)]
pub struct Rules {
    /// By pattern.
    pub exclude: Excludes,
    /// What is in a folder with a `CACHEDIR.TAG` is left out.
    pub caches: bool,
    /// What is mounted below the source is left out.
    pub one_file_system: bool,
    /// Folders that are left out wherever they are met, by device and inode: the agent's own state.
    pub own: Vec<(u64, u64)>,
    /// The folders around those.
    pub(crate) above_own: Vec<(u64, u64)>,
    /// Folders whose files are read from elsewhere, where they are held.
    pub(crate) held: crate::sources::blockchain::Held,
    /// Files that are known to be what they were without the time of their inode's own change.
    pub(crate) lasting: crate::sources::blockchain::Lasting,
}

impl From<Excludes> for Rules {
    fn from(exclude: Excludes) -> Self {
        Self {
            exclude,
            caches: false,
            one_file_system: true,
            own: Vec::new(),
            above_own: Vec::new(),
            held: Default::default(),
            lasting: Default::default(),
        }
    }
}

impl Rules {
    /// Also leaves out `folder`, if it is there.
    pub fn leave_out(mut self, folder: &std::path::Path) -> Self {
        if let Ok(stat) = rustix::fs::stat(folder) {
            self.own.push((stat.st_dev, stat.st_ino));
        }
        let folder = folder.canonicalize().unwrap_or_default();
        let above = folder.ancestors().skip(1).filter_map(|above| rustix::fs::stat(above).ok());
        self.above_own.extend(above.map(|stat| (stat.st_dev, stat.st_ino)));
        self
    }

    /// True for a folder that what is our own lies in.
    pub(crate) fn is_above_own(&self, stat: &Stat) -> bool {
        self.above_own.contains(&(stat.st_dev, stat.st_ino))
    }

    /// Why the folder is left out with all that is in it, its own entry too.
    pub(crate) fn is_own(&self, stat: &Stat) -> bool {
        self.own.contains(&(stat.st_dev, stat.st_ino))
    }

    /// Nothing is left out but repositories of backups and what is our own.
    pub(crate) fn is_plain(&self) -> bool {
        self.exclude.patterns().is_empty() && !self.caches
    }

    /// True if the entry is left out, with all that is in it.
    pub(crate) fn leaves_out(&self, path: &EntryPath, stat: &Stat) -> bool {
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        self.exclude.matches(path, is_folder) || (is_folder && self.is_own(stat))
    }

    /// Of the open folder all that is in it is left out, but for this name (empty: no name at all).
    pub(crate) fn closes(&self, folder: BorrowedFd<'_>) -> Option<&'static [u8]> {
        if is_repository(folder) {
            return Some(b"");
        }
        self.is_cache(folder).then_some(CACHE_TAG.to_bytes())
    }

    /// True if the open folder is marked as a cache, and caches are left out.
    pub(super) fn is_cache(&self, folder: BorrowedFd<'_>) -> bool {
        self.caches && starts_with(folder, CACHE_TAG, CACHE_SIGNATURE)
    }
}

fn starts_with(folder: BorrowedFd<'_>, name: &std::ffi::CStr, start: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let is_file = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    // Looked at first: a device must not even be opened.
    let listed = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    if !listed.is_ok_and(|stat| is_file(&stat)) {
        return false;
    }
    let Ok(file) = open_quietly(folder, name, flags) else { return false };
    let mut found = Vec::new();
    let read = std::fs::File::from(file).take(start.len() as u64).read_to_end(&mut found);
    read.is_ok() && found == start
}

/// True if the open folder is the root of one of our repositories.
pub(crate) fn is_repository(folder: BorrowedFd<'_>) -> bool {
    let is = |path: &std::ffi::CStr, kind| {
        let stat = rustix::fs::statat(folder, path, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
    };
    is(c"repository/config.json", FileType::RegularFile)
        && is(c"repository/packs", FileType::Directory)
        && is(c"repository/chain", FileType::Directory)
}

/// True if what is in the open folder is made up by the kernel.
#[allow(clippy::unnecessary_cast, reason = "the width of a field of `statfs` differs by architecture")]
pub(super) fn is_pseudo(folder: impl AsFd) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|stat| PSEUDO.contains(&(stat.f_type as u32)))
}

/// How many entries were left out for one reason, and the first of them.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    count: u64,
    first: EntryPath,
}

impl LeftOut {
    pub(super) fn add(&mut self, path: EntryPath) {
        if self.count == 0 {
            self.first = path;
        }
        self.count += 1;
    }

    /// One line for all of them.
    pub(super) fn tell(&self, why: &str) -> Option<Problem> {
        let others = match self.count {
            0 => return None,
            1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let cause = format!("{why}{others}");
        Some(Problem { path: self.first.clone(), kind: ProblemKind::LeftOut, cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_file_systems_are_known() {
        for (folder, expected) in [("/proc", true), ("/sys", true), (".", false)] {
            let handle = std::fs::File::open(folder).expect(folder);
            assert_eq!(is_pseudo(&handle), expected, "{folder}");
        }
    }

    #[test]
    fn what_was_left_out_is_counted_and_told_in_one_line() {
        let mut left_out = LeftOut::default();
        assert_eq!(left_out.tell("why"), None);
        for name in ["a", "b", "c"] {
            left_out.add(EntryPath::new(name.as_bytes()).expect("a path"));
        }
        let told = left_out.tell("excluded").expect("told");
        assert_eq!((told.path.to_string(), &*told.cause), ("a".to_owned(), "excluded, and 2 more"));
    }
}
