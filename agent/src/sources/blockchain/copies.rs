//! Files that change in place and belong to the same moment as the stores: CometBFT's log and the state of its
//! signer. Where nobody writes for a moment, copies of all of them are of that moment.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::hold::{copy, is_file, link, names};

/// A longer file is not copied byte by byte: those that are meant are far shorter. One whose blocks are shared may be of
/// any length.
const MAX: u64 = 64 << 20;

/// True for a part of CometBFT's log that is finished.
pub(super) fn is_over(name: &CStr) -> bool {
    name.to_bytes().strip_prefix(b"wal.").is_some_and(|number| number.iter().all(u8::is_ascii_digit))
}

/// Copies the files of a folder; finished parts of a log are linked.
pub(super) fn hold(live: &OwnedFd, held: &OwnedFd) -> io::Result<()> {
    for name in names(live.as_fd())?.iter().filter(|name| is_file(live, name)) {
        let is_there = match is_over(name) {
            true => link(live, held, name)?,
            false => copy(live, held, name, None, MAX)?,
        };
        if !is_there {
            return Err(io::Error::other(format!("{} was removed meanwhile", name.to_string_lossy())));
        }
    }
    Ok(())
}
