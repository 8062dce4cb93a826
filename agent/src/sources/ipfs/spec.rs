//! `datastore_spec` of a repository: which of its folders hold what.
//!
//! Must stay true: a part that lies outside of the folder, or is of an engine that is not known here, makes the
//! backup incomplete: whether it is in it, and of one moment, cannot be said.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use formats::ipfs::Sharding;
use repository::archive::path::EntryPath;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use crate::sources::{Problem, ProblemKind};

/// A longer one is none.
const MAX: u64 = 64 << 10;
const NAME: &str = "datastore_spec";

/// Where a repository keeps its blocks, and what cannot be had.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Spec {
    /// The folder in which each block is a file; none: its blocks are in a store.
    pub(super) blocks: Option<Flat>,
    /// The folders that are stores of LevelDB or Pebble.
    pub(super) stores: Vec<EntryPath>,
    /// One of them is of Pebble.
    pub(super) has_pebble: bool,
    outside: Vec<String>,
    unknown: Vec<String>,
    is_there: bool,
    /// It is there, and does not say where what is.
    cannot_be_read: bool,
}

/// A folder of flatfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flat {
    pub(super) path: EntryPath,
    /// None: it is not known here.
    pub(super) sharding: Option<Sharding>,
}

impl Spec {
    pub(super) fn of(folder: &OwnedFd) -> Self {
        let read = || -> io::Result<Vec<u8>> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(folder, NAME, flags, Mode::empty())?;
            let mut text = Vec::new();
            File::from(file).take(MAX).read_to_end(&mut text)?;
            Ok(text)
        };
        match read() {
            Ok(text) => Self::read(Some(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::read(None),
            // Whatever stands in it.
            Err(_) => Self::read(Some(&[])),
        }
    }

    pub(super) fn read(text: Option<&[u8]>) -> Self {
        let Some(Ok(value)) = text.map(serde_json::from_slice::<Value>) else {
            let usual = Flat { path: path("blocks"), sharding: Some(Sharding::USUAL) };
            let stores = vec![path("datastore")];
            let cannot_be_read = text.is_some();
            return Self { blocks: Some(usual), stores, cannot_be_read, ..Self::default() };
        };
        let mut spec = Self { is_there: true, ..Self::default() };
        let mut left = vec![&value];
        while let Some(value) = left.pop() {
            let below = left.len();
            left.extend(value.get("child"));
            left.extend(value.get("mounts").and_then(Value::as_array).into_iter().flatten());
            if left.len() == below {
                spec.leaf(value);
            }
        }
        spec
    }

    /// A part that has none below it.
    fn leaf(&mut self, value: &Value) {
        let text = |name| value.get(name).and_then(Value::as_str);
        let (Some(kind), Some(at)) = (text("type"), text("path")) else {
            self.unknown.push(text("type").unwrap_or("an engine that it does not name").to_owned());
            return;
        };
        let Ok(path) = EntryPath::new(at.as_bytes()) else {
            self.outside.push(at.to_owned());
            return;
        };
        match kind {
            "flatfs" if self.blocks.is_none() => {
                let sharding = text("shardFunc").map_or(Some(Sharding::USUAL), Sharding::read);
                self.blocks = Some(Flat { path, sharding });
            }
            "levelds" | "pebbleds" => {
                self.has_pebble |= kind == "pebbleds";
                self.stores.push(path);
            }
            "flatfs" => self.unknown.push("a second flatfs".to_owned()),
            _ => self.unknown.push(kind.to_owned()),
        }
    }

    /// True if all of the repository is in the folder, in ways that are known here.
    pub(super) fn is_known(&self) -> bool {
        self.outside.is_empty() && self.unknown.is_empty() && !self.cannot_be_read
    }

    pub(super) fn told(&self) -> Vec<Problem> {
        let tell = |kind, cause| Problem { path: path(NAME), kind, cause };
        let outside = self.outside.iter().map(|at| {
            let cause = format!("the node keeps a part of it in {at:?}, which is not in this folder");
            tell(ProblemKind::Unreadable, cause)
        });
        let unknown = self.unknown.iter().map(|kind| {
            let cause = format!(
                "the node keeps a part of it by {kind:?}, which is not known here: it cannot be said that it is in \
                 the backup; back up what the node keeps by its RPC (`rpc`)"
            );
            tell(ProblemKind::Unreadable, cause)
        });
        let none = (!self.is_there).then(|| {
            let (kind, what) = match self.cannot_be_read {
                true => (ProblemKind::Unreadable, "it cannot be read, so it is not known where what is"),
                false => (ProblemKind::Damaged, "it is missing: no node opens this folder"),
            };
            tell(kind, what.to_owned())
        });
        outside.chain(unknown).chain(none).collect()
    }
}

fn path(path: &str) -> EntryPath {
    EntryPath::new(path.as_bytes()).expect("it is a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_or_is_of_another_engine_is_told() {
        let usual = r#"{"mounts":[{"mountpoint":"/blocks","path":"blocks","shardFunc":"/repo/flatfs/shard/v1/next-to-last/2","type":"flatfs"},{"mountpoint":"/","path":"datastore","type":"levelds"}],"type":"mount"}"#;
        let spec = Spec::read(Some(usual.as_bytes()));
        assert_eq!((spec.told().len(), spec.is_known()), (0, true));
        assert_eq!(Spec { is_there: true, ..Spec::read(None) }, spec);
        let other = r#"{"type":"mount","mounts":[{"child":{"path":"b","type":"flatfs","shardFunc":"odd"},"type":"measure"},{"path":"/elsewhere","type":"levelds"},{"path":"badger","type":"badgerds"},{"type":"s3ds","bucket":"x"},{"path":"c","type":"flatfs"}]}"#;
        let spec = Spec::read(Some(other.as_bytes()));
        let flat = spec.blocks.clone().expect("one of the two");
        assert!(spec.stores.is_empty() && !spec.is_known(), "{spec:?}");
        let told = spec.told();
        assert!(told.iter().all(|problem| problem.kind == ProblemKind::Unreadable), "{told:?}");
        let told = format!("{told:?}");
        for what in ["/elsewhere", "badgerds", "s3ds", "a second flatfs"] {
            assert!(told.contains(what), "{what}: {told}");
        }
        assert!(flat.path == path("c") || flat.sharding.is_none(), "{flat:?}");
        // A part that says nothing of itself is no less unknown.
        for nothing in ["{}", r#"{"type":"mount"}"#, r#"{"type":"mount","mounts":[]}"#, r#"{"path":"x"}"#] {
            let spec = Spec::read(Some(nothing.as_bytes()));
            assert!(!spec.is_known() && spec.told().len() == 1, "{nothing}: {spec:?}");
        }
        assert_eq!(Spec::read(None).told().len(), 1);
        assert_eq!(Spec::read(Some(b"[")).told().len(), 1);
    }
}
