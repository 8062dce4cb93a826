//! What a folder is, told by looking: which stores lie in it, and which node's it is.
//!
//! Must stay true: no link is followed, a bounded number of folders is looked at, and nothing is read but
//! names.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use formats::chains::is_set_aside;
use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::super::files::STAGING_PREFIX;
use super::hold::{is_file, names};

/// Deeper there is no store of any node.
const MAX_DEPTH: usize = 12;
/// Folders that are looked into.
const MAX_FOLDERS: usize = 20_000;
/// So many files are remembered that say how far a validator has signed.
const MAX_SIGNERS: usize = 2;

/// So many keys are remembered, and where there are as many, nobody knows whose the state is.
pub(super) const MAX_KEYS: usize = 16;

/// How a node's folder is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// As what it looks like.
    #[default]
    Auto,
    /// A store, and blocks in a freezer.
    Geth,
    /// Several stores that must be of one height.
    Cometbft,
    /// LevelDB folders.
    Leveldb,
    /// Pebble folders.
    Pebble,
    /// RocksDB folders.
    Rocksdb,
    /// A peer of Hyperledger Fabric: indexes and states in LevelDB, blocks in files.
    #[serde(rename = "fabric-peer")]
    FabricPeer,
    /// An orderer of Hyperledger Fabric: the same, and Raft's log and snapshots.
    #[serde(rename = "fabric-orderer")]
    FabricOrderer,
    /// Files of no known structure.
    Plain,
}

impl Profile {
    /// False if the folder is read as it is.
    pub(super) fn holds_anything(self) -> bool {
        self != Profile::Plain
    }

    /// True for a part that is held of a folder of this profile.
    pub(super) fn holds(self, part: Part) -> bool {
        match part {
            Part::Store => true,
            Part::Freezer => self == Profile::Geth,
            Part::Blocks => self.is_fabric(),
            Part::Snapshots | Part::Raft => self == Profile::FabricOrderer,
            Part::Files => self == Profile::Cometbft,
        }
    }

    /// True if blocks lie in files that are appended to.
    pub(super) fn is_fabric(self) -> bool {
        matches!(self, Profile::FabricPeer | Profile::FabricOrderer)
    }

    /// True if no engine has opened what a backup of it gives.
    pub(super) fn is_untested(self) -> bool {
        self == Profile::Rocksdb || self.is_fabric()
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Profile::Auto => "auto",
            Profile::Geth => "geth",
            Profile::Cometbft => "cometbft",
            Profile::Leveldb => "leveldb",
            Profile::Pebble => "pebble",
            Profile::Rocksdb => "rocksdb",
            Profile::FabricPeer => "fabric-peer",
            Profile::FabricOrderer => "fabric-orderer",
            Profile::Plain => "plain",
        })
    }
}

/// A folder whose files have to fit together, in the order in which they are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sources) enum Part {
    /// Of LevelDB, Pebble or RocksDB.
    Store,
    /// Of geth's freezer.
    Freezer,
    /// Of Fabric's files of blocks.
    Blocks,
    /// Of Raft's snapshots: its log names each before it is written.
    Snapshots,
    /// Of Raft's log: a block is there before it is in the files of blocks.
    Raft,
    /// Of files that belong to the same moment: CometBFT's log, the state of its signer.
    Files,
}

/// What was found.
#[derive(Debug, Default)]
pub(in crate::sources) struct Looked {
    pub(in crate::sources) parts: BTreeMap<EntryPath, Part>,
    /// What says how far a validator has signed.
    pub(super) signers: Vec<EntryPath>,
    /// Validators' keys.
    pub(super) keys: Vec<EntryPath>,
    has_options: bool,
    /// A store has a file that RocksDB alone makes.
    has_identity: bool,
}

impl Looked {
    /// How the folder is to be read, where `wanted` leaves it open.
    pub(super) fn profile(&self, wanted: Profile) -> Profile {
        let has = |part| self.parts.values().any(|is| *is == part);
        match wanted {
            Profile::Auto if !self.signers.is_empty() => Profile::Cometbft,
            Profile::Auto if has(Part::Freezer) => Profile::Geth,
            Profile::Auto if has(Part::Blocks) && has(Part::Raft) => Profile::FabricOrderer,
            Profile::Auto if has(Part::Blocks) && has(Part::Store) => Profile::FabricPeer,
            Profile::Auto if has(Part::Store) && self.has_identity => Profile::Rocksdb,
            Profile::Auto if has(Part::Store) && self.has_options => Profile::Pebble,
            Profile::Auto if has(Part::Store) => Profile::Leveldb,
            Profile::Auto => Profile::Plain,
            wanted => wanted,
        }
    }

    /// True if it is enough that each of its stores is of one moment: geth's stores do not depend on each other,
    /// and who names an engine says the same. Of others it is not known.
    pub(super) fn is_one_moment(&self, wanted: Profile) -> bool {
        let stores = self.parts.values().filter(|part| **part == Part::Store).count();
        match self.profile(wanted) {
            Profile::Cometbft | Profile::FabricPeer | Profile::FabricOrderer => false,
            Profile::Geth => true,
            _ => wanted != Profile::Auto || stores < 2,
        }
    }
}

/// True if the open folder is a store of LevelDB, Pebble or RocksDB.
pub(in crate::sources) fn is_store(folder: &OwnedFd) -> io::Result<bool> {
    let (mut is_named, mut lists) = (false, false);
    for name in names(folder.as_fd())? {
        let name = name.to_bytes();
        is_named |= name == b"CURRENT" || name.starts_with(b"marker.manifest.");
        lists |= name.starts_with(b"MANIFEST-");
    }
    Ok(is_named && lists)
}

/// Looks at the open folder and all below it.
pub(super) fn look(root: &OwnedFd) -> io::Result<Looked> {
    let mut looked = Looked::default();
    let mut waiting = vec![(EntryPath::root(), 0)];
    let mut count = 0;
    while let Some((path, depth)) = waiting.pop() {
        count += 1;
        if count > MAX_FOLDERS {
            return Err(io::Error::other(format!("more than {MAX_FOLDERS} folders lie in it")));
        }
        let folder = match open(root, &path) {
            // Whoever walks it tells what cannot be read.
            Err(_) if depth > 0 => continue,
            other => other?,
        };
        let (mut is_named, mut lists, mut has_index) = (false, false, false);
        let (mut has_identity, mut has_blocks, mut has_raft, mut has_snapshots) =
            (false, false, false, false);
        let mut has_files = path.name() == Some(b"cs.wal");
        for name in names(folder.as_fd())? {
            let bytes = name.to_bytes();
            match bytes {
                b"CURRENT" => is_named = true,
                b"IDENTITY" => has_identity = true,
                b"priv_validator_state.json" => {
                    has_files = true;
                    if !is_set_aside(path.as_bytes()) && looked.signers.len() < MAX_SIGNERS {
                        looked.signers.extend(path.join(bytes));
                    }
                }
                b"priv_validator_key.json"
                    if !is_set_aside(path.as_bytes()) && looked.keys.len() < MAX_KEYS =>
                {
                    looked.keys.extend(path.join(bytes));
                }
                _ if bytes.starts_with(b"marker.manifest.") => is_named = true,
                _ if bytes.starts_with(b"MANIFEST-") => lists = true,
                _ if bytes.starts_with(b"OPTIONS-") => looked.has_options = true,
                _ if bytes.ends_with(b".cidx") || bytes.ends_with(b".ridx") => has_index = true,
                _ if is_blocks(bytes) && is_file(&folder, &name) => has_blocks = true,
                _ if is_raft_log(bytes) && is_file(&folder, &name) => has_raft = true,
                _ if bytes.ends_with(b".snap") && is_file(&folder, &name) => has_snapshots = true,
                _ if bytes.contains(&b'.') && !may_be_folder(bytes) => {}
                _ if bytes.starts_with(STAGING_PREFIX.as_bytes()) => {}
                _ if depth < MAX_DEPTH && is_folder(&folder, &name) => {
                    waiting.extend(path.join(bytes).map(|path| (path, depth + 1)));
                }
                _ => {}
            }
        }
        if is_named && lists {
            looked.has_identity |= has_identity;
            looked.parts.insert(path, Part::Store);
        } else if has_index {
            looked.parts.insert(path, Part::Freezer);
        } else if has_blocks {
            looked.parts.insert(path, Part::Blocks);
        } else if has_raft {
            looked.parts.insert(path, Part::Raft);
        } else if has_snapshots {
            looked.parts.insert(path, Part::Snapshots);
        } else if has_files {
            looked.parts.insert(path, Part::Files);
        }
    }
    Ok(looked)
}

/// True for a file of Fabric's blocks: `blockfile_000012`.
fn is_blocks(name: &[u8]) -> bool {
    let number = name.strip_prefix(b"blockfile_");
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// True for a file of Raft's log: `0000000000000001-000000000000002a.wal`.
fn is_raft_log(name: &[u8]) -> bool {
    let number = name.strip_suffix(b".wal").filter(|number| number.len() >= 16);
    number.is_some_and(|number| number.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-'))
}

/// False for the files that stores have by the hundred thousand: they are not asked what they are.
fn may_be_folder(name: &[u8]) -> bool {
    ![&b".ldb"[..], b".sst", b".log", b".cdat", b".rdat", b".data"].iter().any(|end| name.ends_with(end))
}

pub(in crate::sources) fn is_folder(folder: &OwnedFd, name: &CString) -> bool {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Opens a folder below `root`, through no link.
pub(in crate::sources) fn open(root: &OwnedFd, path: &EntryPath) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(root, c".", flags, Mode::empty())?;
    for name in path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_at(files: &[&str]) -> Looked {
        let folder = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        look(&std::fs::File::open(folder.path()).expect("opened").into()).expect("looked at")
    }

    #[test]
    fn a_folder_is_known_by_what_lies_in_it_and_may_be_told_to_be_something_else() {
        let geth = looked_at(&[
            "geth/chaindata/CURRENT",
            "geth/chaindata/MANIFEST-000001",
            "geth/chaindata/OPTIONS-000003",
            "geth/chaindata/ancient/chain/headers.cidx",
            "keystore/key",
        ]);
        assert_eq!(geth.profile(Profile::Auto), Profile::Geth);
        assert_eq!(geth.profile(Profile::Plain), Profile::Plain);
        let parts: Vec<_> = geth.parts.iter().map(|(path, part)| (path.to_string(), *part)).collect();
        let expected = [("geth/chaindata", Part::Store), ("geth/chaindata/ancient/chain", Part::Freezer)];
        assert_eq!(parts, expected.map(|(path, part)| (path.to_owned(), part)));
        let comet =
            ["data/priv_validator_state.json", "data/state.db/CURRENT", "data/state.db/MANIFEST-000001"];
        assert_eq!(looked_at(&comet).profile(Profile::Auto), Profile::Cometbft);
        let pebble = ["db/marker.manifest.000001.MANIFEST-000001", "db/MANIFEST-000001", "db/OPTIONS-000003"];
        assert_eq!(looked_at(&pebble).profile(Profile::Auto), Profile::Pebble);
        let level = ["CURRENT", "MANIFEST-000001"];
        assert_eq!(looked_at(&level).profile(Profile::Auto), Profile::Leveldb);
        let several = looked_at(&["a/CURRENT", "a/MANIFEST-000001", "b/CURRENT", "b/MANIFEST-000001"]);
        assert!(!several.is_one_moment(Profile::Auto) && several.is_one_moment(Profile::Leveldb));
        let rocks = ["db/CURRENT", "db/MANIFEST-000004", "db/OPTIONS-000007", "db/IDENTITY"];
        assert_eq!(looked_at(&rocks).profile(Profile::Auto), Profile::Rocksdb);
        // A name alone makes no store.
        assert_eq!(looked_at(&["CURRENT", "blocks/1"]).profile(Profile::Auto), Profile::Plain);
    }

    #[test]
    fn a_peer_and_an_orderer_of_fabric_are_known_and_are_of_one_moment() {
        let peer = [
            "ledgersData/chains/index/CURRENT",
            "ledgersData/chains/index/MANIFEST-000001",
            "ledgersData/chains/chains/main/blockfile_000000",
            "ledgersData/pvtdataStore/CURRENT",
            "ledgersData/pvtdataStore/MANIFEST-000001",
        ];
        let peer = looked_at(&peer);
        assert_eq!(peer.profile(Profile::Auto), Profile::FabricPeer);
        let orderer = looked_at(&[
            "index/CURRENT",
            "index/MANIFEST-000001",
            "chains/main/blockfile_000000",
            "etcdraft/wal/main/0000000000000000-0000000000000000.wal",
            "etcdraft/snapshot/main/0000000000000002-0000000000000005.snap",
        ]);
        assert_eq!(orderer.profile(Profile::Auto), Profile::FabricOrderer);
        // Raft's log names a snapshot before that is written, and has a block before the files of blocks have it.
        let mut parts: Vec<_> = orderer.parts.values().copied().collect();
        parts.sort_unstable();
        assert_eq!(parts, [Part::Store, Part::Blocks, Part::Snapshots, Part::Raft]);
        for (looked, wanted) in [(&peer, Profile::FabricPeer), (&orderer, Profile::FabricOrderer)] {
            assert!(!looked.is_one_moment(Profile::Auto) && !looked.is_one_moment(wanted));
            let name = serde_json::to_value(wanted).expect("JSON");
            assert_eq!(name, wanted.to_string());
        }
        // Names that only look like theirs.
        let plain = looked_at(&["blockfile_", "blockfile_1x", "chain.wal", "blocks/blockfile_000000"]);
        assert_eq!(plain.profile(Profile::Auto), Profile::Plain);
    }
}
