//! The first name of each inode that has several.
//!
//! An inode is forgotten when all of its names have been seen. Those whose other names lie outside of the
//! source stay to the end, so what is held has a limit: beyond it a file is kept once for each name, which
//! costs little (equal contents are stored once) and is told.

use std::collections::HashMap;

use repository::archive::path::EntryPath;
use rustix::fs::Stat;

/// The most bytes that are held, about: some 400,000 inodes.
const LIMIT: usize = 48 << 20;
/// What a name takes beside its bytes.
const RECORD: usize = 80;

/// Which of its names a file is met by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstName {
    /// By its first or its only one.
    This,
    /// By a further one; this was the first.
    Other(EntryPath),
    /// By one of several, and no more can be told.
    Unknown,
}

/// The inodes with names that have not been seen yet.
pub(super) struct FirstNames {
    of_inode: HashMap<(u64, u64), (EntryPath, u64)>,
    held: usize,
    limit: usize,
}

impl FirstNames {
    pub(super) fn new() -> Self {
        Self { of_inode: HashMap::new(), held: 0, limit: LIMIT }
    }

    /// Which name of its inode `path` is.
    #[allow(clippy::unnecessary_cast, reason = "the width of a field of `stat` differs by architecture")]
    pub(super) fn of(&mut self, stat: &Stat, path: &EntryPath) -> FirstName {
        self.find((stat.st_dev, stat.st_ino), stat.st_nlink as u64, path)
    }

    fn find(&mut self, inode: (u64, u64), links: u64, path: &EntryPath) -> FirstName {
        if links < 2 {
            return FirstName::This;
        }
        let Some((first, unseen)) = self.of_inode.get_mut(&inode) else {
            let held = self.held + RECORD + path.as_bytes().len();
            if held > self.limit {
                return FirstName::Unknown;
            }
            self.held = held;
            self.of_inode.insert(inode, (path.clone(), links - 1));
            return FirstName::This;
        };
        let first = first.clone();
        *unseen = unseen.saturating_sub(1);
        if *unseen == 0 {
            self.of_inode.remove(&inode);
            self.held -= RECORD + first.as_bytes().len();
        }
        FirstName::Other(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: usize) -> EntryPath {
        EntryPath::new(format!("{n:020}").as_bytes()).expect("a path")
    }

    #[test]
    fn what_is_held_has_a_limit_and_is_free_again_when_all_names_were_seen() {
        let mut names = FirstNames { limit: 3 * (RECORD + 20), ..FirstNames::new() };
        for inode in 0..3 {
            assert_eq!(names.find((1, inode), 2, &path(inode as usize)), FirstName::This);
        }
        assert_eq!(names.find((1, 3), 2, &path(3)), FirstName::Unknown);
        assert_eq!(names.find((1, 3), 2, &path(13)), FirstName::Unknown, "its other name, too");
        assert_eq!(names.find((1, 0), 2, &path(10)), FirstName::Other(path(0)));
        assert_eq!(names.find((1, 4), 2, &path(4)), FirstName::This, "there is room again");
        assert_eq!(names.find((1, 5), 1, &path(5)), FirstName::This, "an only name needs none");
        assert_eq!(names.held, 3 * (RECORD + 20));
    }
}
