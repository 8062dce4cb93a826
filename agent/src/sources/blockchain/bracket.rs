//! The bracket: one moment of a LevelDB or Pebble that is being written.
//!
//! A store is the tables that its MANIFEST lists, and its logs. Tables never change and are removed only after
//! an edit of the MANIFEST. So: tables are linked, the MANIFEST is looked at, it and the logs are copied,
//! tables that are new are linked, and the MANIFEST is looked at again. If it did not move, every table that
//! it lists was there all the time and is linked. Logs are listed once: of the last of them the copy has a
//! beginning, of those before it all, so together they are a beginning of what was written. They are copied,
//! never linked: Pebble uses a log again for later writes.
//!
//! Must stay true: it is proven before it is used: the copy of the MANIFEST is whole, and each table that it
//! lists is there with its length.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use formats::leveldb::Listed;
use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::HoldError;
use super::hold::{copy, forget, is_file, link, names};

/// So often a store is tried, and for so long.
const ATTEMPTS: u32 = 1_000;
const TIME: Duration = Duration::from_secs(30);
/// A `CURRENT` holds one name.
const MAX_CURRENT: u64 = 256;
/// A longer MANIFEST is not proven.
const MAX_MANIFEST: u64 = 256 << 20;

/// What moves when the tables of a store do.
#[derive(PartialEq, Eq)]
struct Look {
    /// What `CURRENT` names.
    current: Option<Vec<u8>>,
    /// Markers, which name it too.
    markers: Vec<CString>,
    /// Every MANIFEST with its inode and length.
    manifests: BTreeMap<CString, (u64, u64)>,
}

/// Holds the store `live` in the empty folder `held`; returns after how many attempts.
pub(super) fn hold(
    path: &EntryPath,
    live: &OwnedFd,
    held: &OwnedFd,
    cancel: &CancellationToken,
) -> Result<u32, HoldError> {
    let began = Instant::now();
    let failed = || HoldError::io("a store cannot be linked or copied");
    warm(live, held).map_err(failed())?;
    let mut attempts = 0;
    let mut is_short = false;
    while attempts < ATTEMPTS && began.elapsed() < TIME {
        if cancel.is_cancelled() {
            return Err(HoldError::Cancelled);
        }
        attempts += 1;
        if attempt(live, held).map_err(failed())? {
            is_short = !is_whole(held).map_err(failed())?;
            if !is_short {
                return Ok(attempts);
            }
        }
        for name in names(held.as_fd()).map_err(failed())?.iter().filter(|name| is_copied(name)) {
            forget(held, name).map_err(failed())?;
        }
    }
    match is_short {
        true => Err(HoldError::NotWhole { path: path.clone() }),
        false => Err(HoldError::Moves { path: path.clone(), attempts }),
    }
}

/// Links the tables that are there already.
pub(super) fn warm(live: &OwnedFd, held: &OwnedFd) -> io::Result<()> {
    link_new(live, held, &names(live.as_fd())?)
}

/// True if nothing moved.
fn attempt(live: &OwnedFd, held: &OwnedFd) -> io::Result<bool> {
    let listed = names(live.as_fd())?;
    let before = look(live, &listed)?;
    for name in listed.iter().filter(|name| is_copied(name) && is_file(live, name)) {
        let limit = before.manifests.get(name).map(|(_, length)| *length);
        if !copy(live, held, name, limit, u64::MAX)? {
            return Ok(false);
        }
    }
    let after = names(live.as_fd())?;
    link_new(live, held, &after)?;
    Ok(look(live, &names(live.as_fd())?)? == before)
}

fn link_new(live: &OwnedFd, held: &OwnedFd, names: &[CString]) -> io::Result<()> {
    for name in names.iter().filter(|name| !is_copied(name)) {
        if is_table(name) || is_file(live, name) {
            link(live, held, name)?;
        }
    }
    Ok(())
}

fn look(live: &OwnedFd, names: &[CString]) -> io::Result<Look> {
    let mut seen = Look { current: None, markers: Vec::new(), manifests: BTreeMap::new() };
    for name in names {
        let bytes = name.to_bytes();
        if bytes == b"CURRENT" {
            seen.current = read(live, name, MAX_CURRENT)?;
        } else if bytes.starts_with(b"marker.") {
            seen.markers.push(name.clone());
        } else if bytes.starts_with(b"MANIFEST-") {
            match rustix::fs::statat(live, &**name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => drop(seen.manifests.insert(name.clone(), (stat.st_ino, stat.st_size as u64))),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(seen)
}

fn read(folder: &OwnedFd, name: &CStr, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(file) => {
            let mut bytes = Vec::new();
            File::from(file).take(limit).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// False if the copy lacks a table, or its list is cut off. A list that cannot be followed is taken as it is.
pub(super) fn is_whole(held: &OwnedFd) -> io::Result<bool> {
    let listed = names(held.as_fd())?;
    let seen = look(held, &listed)?;
    let by_marker = seen.markers.iter().filter_map(|name| {
        let name = name.to_str().ok()?.strip_prefix("marker.manifest.")?;
        Some(name.split_once('.')?.1.to_owned())
    });
    let by_current = || String::from_utf8(seen.current.clone()?).ok().map(|name| name.trim_end().to_owned());
    let Some(manifest) = by_marker.max().or_else(by_current) else { return Ok(false) };
    let Ok(manifest) = CString::new(manifest) else { return Ok(false) };
    if seen.manifests.get(&manifest).is_none_or(|(_, length)| *length > MAX_MANIFEST) {
        return Ok(seen.manifests.contains_key(&manifest));
    }
    let bytes = read(held, &manifest, MAX_MANIFEST)?.unwrap_or_default();
    let tables = match formats::leveldb::listed(&bytes) {
        Listed::Tables(tables) => tables,
        Listed::Unknown => return Ok(true),
        Listed::CutOff => return Ok(false),
    };
    let is_there = |(number, length): (&u64, &u64)| {
        ["ldb", "sst"].iter().any(|end| {
            let name = format!("{number:06}.{end}");
            let stat = rustix::fs::statat(held, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| stat.st_size as u64 == *length)
        })
    };
    Ok(tables.iter().all(is_there))
}

/// Never changed once it is written.
pub(super) fn is_table(name: &CStr) -> bool {
    [&b".ldb"[..], b".sst"].iter().any(|end| name.to_bytes().ends_with(end))
}

/// Written in place, or used again.
fn is_copied(name: &CStr) -> bool {
    let name = name.to_bytes();
    let starts = [&b"CURRENT"[..], b"MANIFEST-", b"OPTIONS-", b"marker."];
    starts.iter().any(|start| name.starts_with(start)) || name.ends_with(b".log")
}
