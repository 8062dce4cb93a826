//! `datastore_spec` of a repository: which of its folders hold what.
//!
//! Must stay true: what lies outside of the folder, or is of an engine that is not known here, is told.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use repository::archive::path::EntryPath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;

use crate::sources::{Problem, ProblemKind};

/// A longer one is none.
const MAX: u64 = 64 << 10;
/// Engines whose folders can be held, and blocks as files.
const KNOWN: [&str; 3] = ["levelds", "pebbleds", "flatfs"];

/// Where a repository keeps its blocks, and what cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    /// The folder in which each block is a file.
    pub(super) blocks: EntryPath,
    outside: Vec<String>,
    unknown: Vec<String>,
    is_there: bool,
}

impl Spec {
    pub(super) fn of(folder: &OwnedFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let text = match rustix::fs::openat(folder, c"datastore_spec", flags, Mode::empty()) {
            Err(Errno::NOENT) => None,
            opened => {
                let mut text = Vec::new();
                File::from(opened?).take(MAX).read_to_end(&mut text)?;
                Some(text)
            }
        };
        Ok(Self::read(text.as_deref()))
    }

    fn read(text: Option<&[u8]>) -> Self {
        let usual = EntryPath::new(b"blocks").expect("it is a path");
        let mut spec = Self { blocks: usual, outside: Vec::new(), unknown: Vec::new(), is_there: false };
        let Some(Ok(value)) = text.map(serde_json::from_slice::<Value>) else { return spec };
        spec.is_there = true;
        let mut left = vec![&value];
        while let Some(value) = left.pop() {
            left.extend(value.get("child"));
            left.extend(value.get("mounts").and_then(Value::as_array).into_iter().flatten());
            let text = |name| value.get(name).and_then(Value::as_str);
            let (Some(path), Some(kind)) = (text("path"), text("type")) else { continue };
            if !KNOWN.contains(&kind) {
                spec.unknown.push(kind.to_owned());
            }
            match EntryPath::new(path.as_bytes()) {
                Ok(path) if kind == "flatfs" => spec.blocks = path,
                Ok(_) => {}
                Err(_) => spec.outside.push(path.to_owned()),
            }
        }
        spec
    }

    pub(super) fn told(&self) -> Vec<Problem> {
        let path = EntryPath::new(b"datastore_spec").expect("it is a path");
        let tell = |kind, cause| Problem { path: path.clone(), kind, cause };
        let outside = self.outside.iter().map(|path| {
            let cause = format!("the node keeps a part of it in {path}, which is not in this folder");
            tell(ProblemKind::Unreadable, cause)
        });
        let unknown = self.unknown.iter().map(|kind| {
            let cause = format!(
                "the node keeps a part of it by {kind}, which is read as it is: stop the node for it"
            );
            tell(ProblemKind::Suspect, cause)
        });
        let none = (!self.is_there).then(|| {
            let cause = "it is missing or cannot be read: no node opens this folder".to_owned();
            tell(ProblemKind::Suspect, cause)
        });
        outside.chain(unknown).chain(none).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_or_is_of_another_engine_is_told() {
        let usual = r#"{"mounts":[{"mountpoint":"/blocks","path":"blocks","shardFunc":"/repo/flatfs/shard/v1/next-to-last/2","type":"flatfs"},{"mountpoint":"/","path":"datastore","type":"levelds"}],"type":"mount"}"#;
        let spec = Spec::read(Some(usual.as_bytes()));
        assert_eq!((spec.blocks.to_string().as_str(), spec.told().len()), ("blocks", 0));
        let other = r#"{"type":"mount","mounts":[{"child":{"path":"b","type":"flatfs"},"type":"measure"},{"path":"/elsewhere","type":"levelds"},{"path":"badger","type":"badgerds"}]}"#;
        let spec = Spec::read(Some(other.as_bytes()));
        assert_eq!(spec.blocks.to_string(), "b");
        let told = format!("{:?}", spec.told());
        assert!(
            told.contains("in /elsewhere") && told.contains("badgerds") && told.contains("Unreadable"),
            "{told}"
        );
        assert_eq!(Spec::read(None).told().len(), 1);
        assert_eq!(Spec::read(Some(b"[")).told().len(), 1);
    }
}
