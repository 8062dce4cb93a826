//! Files of a chain that are written once, or appended to, and never changed: what `bracket` and `pause` link.
//!
//! Must stay true: of these alone name, inode, length and time tell whether they are what they were. A link that is made
//! and taken away again changes the time of the inode itself, also for a snapshot that is made later; so that time
//! does not count, whichever way a backup goes.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::Arc;

use repository::archive::path::EntryPath;

use super::look::{Looked, Part, Profile};
use super::{appended, bracket, copies, freezer};

/// The folders in which such files lie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lasting(Arc<BTreeMap<EntryPath, Part>>);

impl Lasting {
    /// Those of a chain that is of this profile.
    pub(super) fn of(looked: &Looked, profile: Profile) -> Self {
        let held = looked.parts.iter().filter(|(_, part)| profile.holds(**part));
        Self(Arc::new(held.map(|(path, part)| (path.clone(), *part)).collect()))
    }

    /// True for the file `name` in `folder`.
    pub(crate) fn has(&self, folder: &EntryPath, name: &CStr) -> bool {
        self.0.get(folder).is_some_and(|part| match part {
            Part::Store => bracket::is_table(name),
            Part::Freezer => freezer::is_data(name),
            Part::Blocks | Part::Raft => appended::is_one(name),
            Part::Files => copies::is_over(name),
            Part::Snapshots => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_what_is_appended_to_last_where_the_profile_holds_them() {
        let path = |path: &str| EntryPath::new(path.as_bytes()).expect("a path");
        let mut looked = Looked::default();
        let parts = [("db", Part::Store), ("db/ancient", Part::Freezer), ("data", Part::Files)];
        looked.parts.extend(parts.map(|(at, part)| (path(at), part)));
        let geth = Lasting::of(&looked, Profile::Geth);
        assert!(geth.has(&path("db"), c"000001.ldb") && geth.has(&path("db/ancient"), c"bodies.0000.cdat"));
        assert!(!geth.has(&path("data"), c"wal.001"), "no part of a geth");
        for (folder, name) in
            [("db", c"MANIFEST-000001"), ("db", c"000002.log"), ("db/ancient", c"bodies.cidx")]
        {
            assert!(!geth.has(&path(folder), name), "{name:?} is written in place");
        }
        assert!(!geth.has(&path("keystore"), c"000001.ldb"), "no store");
        let comet = Lasting::of(&looked, Profile::Cometbft);
        assert!(comet.has(&path("data"), c"wal.001") && !comet.has(&path("data"), c"wal"));
        assert!(!comet.has(&path("db/ancient"), c"bodies.0000.cdat"));
    }
}
