//! Files that are appended to, one after the other: Fabric's blocks, Raft's log. Only the last of them changes.
//!
//! Must stay true: what is held does not grow: all but the last are linked, the last is copied as long as it is now.
//! A link of the last would go on growing until it is read, past the moment of all the rest.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::hold::{copy, is_file, link, names};

/// A longer last file is not copied byte by byte: both engines begin the next one at 64 MiB.
const MAX: u64 = 256 << 20;

/// Links those that are over already.
pub(super) fn warm(live: &OwnedFd, held: &OwnedFd) -> io::Result<()> {
    let names = names(live.as_fd())?;
    let last = last(&names);
    for name in names.iter().filter(|name| is_one(name) && Some(name.as_c_str()) != last) {
        link(live, held, name)?;
    }
    Ok(())
}

/// Holds a folder of such files.
pub(super) fn hold(live: &OwnedFd, held: &OwnedFd) -> io::Result<()> {
    let names = names(live.as_fd())?;
    let last = last(&names);
    for name in names.iter().filter(|name| is_file(live, name) && !is_spare(name)) {
        let is_there = match is_one(name) && Some(name.as_c_str()) != last {
            true => link(live, held, name)?,
            false => {
                let length =
                    rustix::fs::statat(live, &**name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?.st_size;
                copy(live, held, name, Some(length as u64), MAX)?
            }
        };
        if !is_there {
            return Err(io::Error::other(format!("{} was removed meanwhile", name.to_string_lossy())));
        }
    }
    Ok(())
}

/// The one that is still written; `names` are sorted.
pub(super) fn last(names: &[CString]) -> Option<&CStr> {
    names.iter().rev().find(|name| is_one(name)).map(CString::as_c_str)
}

/// True for one of the files that follow each other.
pub(super) fn is_one(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"blockfile_") || name.to_bytes().ends_with(b".wal")
}

/// True for what Raft's log has made ready for its next file: it is empty, and made anew at the next start.
fn is_spare(name: &CStr) -> bool {
    name.to_bytes().ends_with(b".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_over_is_linked_and_the_last_is_copied_and_does_not_grow() {
        let folder = tempfile::tempdir().expect("a folder");
        let (live, held) = (folder.path().join("live"), folder.path().join("held"));
        for path in [&live, &held] {
            fs::create_dir(path).expect("made");
        }
        for (name, text) in [("blockfile_000000", "one"), ("blockfile_000001", "two"), ("0.tmp", "")] {
            fs::write(live.join(name), text).expect("written");
        }
        let open = |path| OwnedFd::from(fs::File::open(path).expect("opened"));
        let (from, to) = (open(&live), open(&held));
        warm(&from, &to).expect("linked");
        assert_eq!(names(to.as_fd()).expect("listed"), [c"blockfile_000000".to_owned()]);
        // The last is over before all is held.
        fs::write(live.join("blockfile_000002"), "three").expect("written");
        hold(&from, &to).expect("held");
        fs::write(live.join("blockfile_000002"), "three and four").expect("written");
        for (number, text) in ["one", "two", "three"].iter().enumerate() {
            let name = format!("blockfile_00000{number}");
            assert_eq!(fs::read_to_string(held.join(name)).expect("held"), *text);
        }
        assert_eq!(names(to.as_fd()).expect("listed").len(), 3, "what is spare is not held");
    }
}
