//! The keys of names. The RPC gives none; they are files in the node's own folder.
//!
//! Must stay true: a key that the node has and that is not in the archive is told by its name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use cid::multibase::Base;
use rustix::fs::{Mode, OFlags};

use crate::sources::ProblemKind;

/// A longer file is no key.
const MAX_KEY: u64 = 64 << 10;
/// What a key's file is called, before its name in base32.
const PREFIX: &str = "key_";

/// What is told of the keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A file of the folder, and its bytes.
    File(Vec<u8>, Vec<u8>),
    /// Of a file, or of the folder.
    Problem(Option<Vec<u8>>, ProblemKind, String),
}

/// The name of the key in such a file.
pub(crate) fn key_name(file: &str) -> Option<String> {
    let name = Base::Base32Lower.decode(file.strip_prefix(PREFIX)?).ok()?;
    String::from_utf8(name).ok()
}

/// What a node's folder of keys holds, and what is not there of the `names` that the node gives; `None`: it gives
/// none.
pub(super) fn read(folder: &Path, names: Option<&BTreeSet<String>>) -> Vec<Found> {
    let listed: io::Result<Vec<_>> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect());
    let (mut files, mut found) = match listed {
        Ok(files) => (files, Vec::new()),
        Err(error) => (Vec::new(), vec![Found::Problem(None, ProblemKind::Unreadable, error.to_string())]),
    };
    files.sort();
    let mut left = names.cloned().unwrap_or_default();
    for name in files {
        let bytes = name.as_encoded_bytes().to_vec();
        match key(&folder.join(&name)) {
            Ok(Some(key)) => {
                if let Some(name) = name.to_str().and_then(key_name) {
                    left.remove(&name);
                }
                found.push(Found::File(bytes, key));
            }
            Ok(None) => {
                found.push(Found::Problem(Some(bytes), ProblemKind::LeftOut, "it is no key".to_owned()));
            }
            Err(error) => {
                found.push(Found::Problem(Some(bytes), ProblemKind::Unreadable, error.to_string()));
            }
        }
    }
    for name in left {
        let cause = format!("the node has the key {name:?}, which is not in {}", folder.display());
        found.push(Found::Problem(None, ProblemKind::Unreadable, cause));
    }
    found
}

/// The bytes of a file, if it may be a key. No link is followed and nothing is waited for.
fn key(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(file, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Ok(None),
        opened => File::from(opened?),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_KEY).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_called_by_its_name_in_base32() {
        // As Kubo calls the file of the key `my-key`.
        assert_eq!(key_name("key_nv4s223fpe").as_deref(), Some("my-key"));
        assert_eq!(key_name("README"), None);
        assert_eq!(key_name("key_!"), None);
    }

    #[test]
    fn a_key_that_the_node_has_and_the_folder_has_not_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = BTreeSet::from(["my-key".to_owned(), "other".to_owned()]);
        let said = |found: Vec<Found>| format!("{found:?}");
        std::fs::write(folder.path().join("key_nv4s223fpe"), b"its bytes").expect("written");
        let found = read(folder.path(), Some(&names));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], Found::File(b"key_nv4s223fpe".to_vec(), b"its bytes".to_vec()));
        assert!(
            matches!(&found[1], Found::Problem(None, ProblemKind::Unreadable, why) if why.contains("\"other\""))
        );
        assert_eq!(read(folder.path(), None).len(), 1);
        // No link leads out of it, nothing is waited for, and no folder is a key.
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("key_link")).expect("made");
        std::fs::create_dir(folder.path().join("key_folder")).expect("made");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.path().join("key_fifo"),
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .expect("made");
        std::fs::write(folder.path().join("key_long"), vec![0; MAX_KEY as usize + 1]).expect("written");
        let found = read(folder.path(), None);
        let left_out = said(found).matches("it is no key").count();
        assert_eq!(left_out, 4);
        let gone = read(&folder.path().join("gone"), Some(&names));
        assert_eq!(gone.len(), 3, "the folder, and each key: {gone:?}");
    }
}
