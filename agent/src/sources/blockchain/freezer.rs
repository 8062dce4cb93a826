//! Geth's freezer: files that only grow, and indexes that say how far they count.
//!
//! Must stay true: what an index counts is in the data that is held: indexes are copied before data is linked,
//! and geth writes data before indexes. A link goes on growing, and what is beyond the index does not count.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::hold::{copy, is_file, link, names};

/// The oldest file of a table may be removed meanwhile; its index then begins later.
const ATTEMPTS: u32 = 10;

/// Only ever appended to.
pub(super) fn is_data(name: &CStr) -> bool {
    [&b".cdat"[..], b".rdat"].iter().any(|end| name.to_bytes().ends_with(end))
}

/// Holds a freezer's folder.
pub(super) fn hold(live: &OwnedFd, held: &OwnedFd) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        let names = names(live.as_fd())?;
        let (data, indexes): (Vec<_>, Vec<_>) =
            names.into_iter().filter(|name| is_file(live, name)).partition(|name| is_data(name));
        let mut is_all = true;
        for name in &indexes {
            is_all &= copy(live, held, name, None, u64::MAX)?;
        }
        for name in &data {
            is_all &= link(live, held, name)?;
        }
        if is_all {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("files of it were removed meanwhile, {ATTEMPTS} times")))
}
