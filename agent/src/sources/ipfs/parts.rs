//! What a repository's folder is made of, beside its blocks and its index: is each part in it, or elsewhere? And what
//! an index that is read where it is looked like before and after.
//!
//! Must stay true: a part that is a link, or lies on a file system that is not read, is never taken for one that is in
//! the backup.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType};

use super::spec::Spec;
use crate::sources::blockchain::hold::names;
use crate::sources::blockchain::look::open;
use crate::sources::{Problem, ProblemKind};

/// Files that a node does not start without, or is not the same without.
const FILES: [&str; 3] = ["config", "version", "datastore_spec"];
const KEYS: &str = "keystore";

/// Inode, length, time of writing and of change of each file.
pub(super) type Stamps = BTreeMap<CString, (u64, i64, i64, i64, i64, i64)>;

/// What is to be told of parts that are not in the folder itself, or not on its file system where others are left out.
pub(super) fn elsewhere(root: &OwnedFd, spec: &Spec, one_file_system: bool) -> Vec<Problem> {
    let mut told = Vec::new();
    let mut tell = |path: EntryPath, cause: &str| {
        told.push(Problem { path, kind: ProblemKind::Unreadable, cause: cause.to_owned() });
    };
    let linked =
        "it is a link or no file, and what it leads to is not in the backup: put it into the folder itself";
    for name in FILES {
        if kind_of(root, name).is_some_and(|kind| kind != FileType::RegularFile) {
            tell(path(name), linked);
        }
    }
    match kind_of(root, KEYS) {
        None => {}
        Some(FileType::Directory) => {
            let keys = open(root, &path(KEYS)).and_then(|keys| Ok((names(keys.as_fd())?, keys)));
            // What cannot be read is told when it is.
            for (name, keys) in
                keys.iter().flat_map(|(names, keys)| names.iter().map(move |name| (name, keys)))
            {
                let is_file = kind_of(keys, name.as_c_str()).is_none_or(|kind| kind == FileType::RegularFile);
                if let (false, Ok(key)) = (is_file, path(KEYS).join(name.to_bytes())) {
                    tell(key, linked);
                }
            }
        }
        Some(_) => tell(path(KEYS), linked),
    }
    let device = |path: &str| {
        let stat = rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW);
        stat.ok().map(|stat| stat.st_dev)
    };
    let blocks = spec.blocks.iter().map(|flat| flat.path.clone());
    for part in blocks.chain(spec.stores.iter().cloned()).chain([path(KEYS)]) {
        let its = device(&part.to_string());
        if one_file_system && its.is_some() && its != device(".") {
            tell(
                part,
                "it lies on another file system, which is left out: give the source `one_file_system: false`",
            );
        }
    }
    told
}

/// As it is in the folder, without following a link.
fn kind_of(folder: &OwnedFd, name: impl rustix::path::Arg) -> Option<FileType> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// Every file of the folder at `path`, to see whether one of them is written.
pub(super) fn stamps(root: &OwnedFd, path: &EntryPath) -> io::Result<Stamps> {
    let folder = open(root, path)?;
    let mut stamps = Stamps::new();
    for name in names(folder.as_fd())? {
        let stat = rustix::fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
        let stamp = (
            stat.st_ino,
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec as i64,
            stat.st_ctime,
            stat.st_ctime_nsec as i64,
        );
        stamps.insert(name, stamp);
    }
    Ok(stamps)
}

fn path(path: &str) -> EntryPath {
    EntryPath::new(path.as_bytes()).expect("it is a path")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_part_that_is_a_link_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("version"), "15").expect("written");
        fs::create_dir(at("keystore")).expect("made");
        fs::write(at("keystore/key_a"), "a").expect("written");
        let root = OwnedFd::from(fs::File::open(folder.path()).expect("opened"));
        let told = || -> Vec<String> {
            let spec = Spec::of(&root);
            elsewhere(&root, &spec, true).iter().map(|problem| problem.path.to_string()).collect()
        };
        assert_eq!(told(), [""; 0]);
        symlink("/etc/passwd", at("config")).expect("linked");
        symlink("/etc/passwd", at("keystore/key_b")).expect("linked");
        assert_eq!(told(), ["config", "keystore/key_b"]);
        fs::rename(at("keystore"), at("keys")).expect("moved");
        symlink(at("keys"), at("keystore")).expect("linked");
        assert_eq!(told(), ["config", "keystore"]);
        let before = stamps(&root, &path("keys")).expect("read");
        assert_eq!(stamps(&root, &path("keys")).expect("read"), before);
        fs::write(at("keys/key_a"), "ab").expect("written");
        assert_ne!(stamps(&root, &path("keys")).expect("read"), before);
    }

    #[test]
    fn a_part_on_another_file_system_is_told_where_those_are_left_out() {
        let root = OwnedFd::from(fs::File::open("/").expect("opened"));
        let spec = Spec::read(Some(br#"{"type":"levelds","path":"proc"}"#));
        assert!(spec.is_known());
        let told = elsewhere(&root, &spec, true);
        assert!(told.len() == 1 && told[0].cause.contains("another file system"), "{told:?}");
        assert_eq!(elsewhere(&root, &spec, false).len(), 0);
    }
}
