//! Whether what a snapshot has is what had been written at some moment, in the order in which it was.
//!
//! Btrfs puts into a snapshot all that has come to the disk, and a file's new length may come before its last bytes, as
//! it may by a power cut: zeros stand there then. Engines bear that where they must, and we need not: what was
//! written to just now is looked through, and where it came in another order a new snapshot is made.
//!
//! Must stay true: it is never claimed of a snapshot that was not looked through; what had come to the disk before is
//! not read.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use formats::leveldb::{LogsInOrder, first_log, is_in_order};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::bracket;
use super::super::hold::{is_file, names};
use super::super::look::{self, Looked, Part, Profile};

/// A longer list of tables is not looked through.
const MAX_MANIFEST: u64 = 256 << 20;
/// So much of a file's end is compared: more is not written within moments.
const MAX_END: u64 = 64 << 20;
/// An entry of an index: the number of a file, and where in that something ends.
const ENTRY: u64 = 6;
const SIGNER: &[u8] = b"priv_validator_state.json";
const BUFFER: usize = 256 << 10;

/// The parts of a chain, in a snapshot and where it lives.
pub(super) struct Order<'a> {
    pub(super) snapshot: &'a OwnedFd,
    pub(super) live: &'a OwnedFd,
    pub(super) looked: &'a Looked,
    pub(super) profile: Profile,
    /// What was written before this second had come to the disk before the snapshot was made.
    pub(super) since: i64,
}

impl Order<'_> {
    pub(super) fn is_kept(&self) -> io::Result<bool> {
        for (path, part) in self.looked.parts.iter().filter(|(_, part)| self.profile.holds(**part)) {
            let there = look::open(self.snapshot, path)?;
            let is_kept = match part {
                Part::Store => self.of_store(&there)?,
                // What it has made ready before is overwritten in place, and it proves each record by itself.
                Part::Raft => true,
                Part::Freezer | Part::Blocks | Part::Snapshots | Part::Files => {
                    self.of_files(&there, &look::open(self.live, path)?)?
                }
            };
            if !is_kept {
                tracing::debug!(part = %path, "what was written last came to the disk in another order");
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_new(&self, stat: &Stat) -> bool {
        stat.st_mtime >= self.since
    }

    /// The list of tables and the logs of a store end as they were written, and no write lacks between them.
    fn of_store(&self, there: &OwnedFd) -> io::Result<bool> {
        let names = names(there.as_fd())?;
        let is = |start: &[u8]| names.iter().any(|name| name.to_bytes().starts_with(start));
        // Pebble and RocksDB: a log is synced before the next one is there, and one may have been used before.
        let is_other = is(b"OPTIONS-") || is(b"marker.");
        let mut first = 0;
        for name in names.iter().filter(|name| name.to_bytes().starts_with(b"MANIFEST-")) {
            let file = opened(there, name)?;
            if file.metadata()?.len() > MAX_MANIFEST {
                continue;
            }
            let is_new = self.is_new(&rustix::fs::fstat(&file)?);
            let mut bytes = Vec::new();
            file.take(MAX_MANIFEST).read_to_end(&mut bytes)?;
            if is_new && !is_in_order(&bytes) {
                return Ok(false);
            }
            first = first.max(first_log(&bytes));
        }
        if !bracket::is_whole(there)? {
            return Ok(false);
        }
        let number = |name: &CStr| name.to_str().ok()?.strip_suffix(".log")?.parse::<u64>().ok();
        let mut logs: Vec<(u64, &CString)> = names
            .iter()
            .filter_map(|name| Some((number(name)?, name)))
            .filter(|(at, _)| *at >= first)
            .collect();
        logs.sort_unstable();
        let mut files = Vec::new();
        for (_, name) in logs {
            files.push(opened(there, name)?);
        }
        let mut is_any_new = false;
        for file in &files {
            is_any_new |= self.is_new(&rustix::fs::fstat(file)?);
        }
        if is_other || !is_any_new {
            return Ok(true);
        }
        let (mut order, mut buffer) = (LogsInOrder::default(), vec![0; BUFFER]);
        for mut file in files {
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    count => order.bytes(&buffer[..count]),
                }
            }
            if !order.log_end() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Files that are appended to are as long as they were at some moment, and have what was there.
    fn of_files(&self, there: &OwnedFd, live: &OwnedFd) -> io::Result<bool> {
        for name in names(there.as_fd())?.iter().filter(|name| is_file(there, name)) {
            let file = opened(there, name)?;
            let stat = rustix::fs::fstat(&file)?;
            if !self.is_new(&stat) {
                continue;
            }
            let now = match opened(live, name) {
                Ok(now) => now,
                Err(error) if error.kind() == io::ErrorKind::NotFound && name.to_bytes() == SIGNER => {
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            let is_same = rustix::fs::fstat(&now)?.st_ino == stat.st_ino;
            // Each state of a signer is on the disk before it gets its name.
            if !is_same && name.to_bytes() == SIGNER {
                continue;
            }
            if !is_same || !same_end(&file, &now, stat.st_size as u64)? || !has_data(there, name, &file)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// True unless `index` is one of geth's freezer whose last entry counts more data than is there.
fn has_data(folder: &OwnedFd, name: &CStr, index: &File) -> io::Result<bool> {
    let name = name.to_string_lossy();
    let Some((table, kind)) = name.rsplit_once('.').filter(|(_, kind)| ["cidx", "ridx"].contains(kind))
    else {
        return Ok(true);
    };
    let entries = index.metadata()?.len() / ENTRY;
    // The first tells where the table begins.
    if entries < 2 {
        return Ok(true);
    }
    let mut entry = [0; ENTRY as usize];
    index.read_exact_at(&mut entry, (entries - 1) * ENTRY)?;
    let [f0, f1, e0, e1, e2, e3] = entry;
    let data = format!("{table}.{:04}.{}dat", u16::from_be_bytes([f0, f1]), &kind[..1]);
    match rustix::fs::statat(folder, data, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(stat.st_size as u64 >= u64::from(u32::from_be_bytes([e0, e1, e2, e3]))),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// True if both have the same up to `length`.
fn same_end(one: &File, other: &File, length: u64) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut at = length.saturating_sub(MAX_END);
    while at < length {
        let now = usize::try_from(length - at).unwrap_or(BUFFER).min(BUFFER);
        let read = |file: &File, buffer: &mut [u8]| match file.read_exact_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            other => other.map(|()| true),
        };
        let is_there = read(one, &mut left[..now])? && read(other, &mut right[..now])?;
        if !is_there || left[..now] != right[..now] {
            return Ok(false);
        }
        at += now as u64;
    }
    Ok(true)
}

fn opened(folder: &OwnedFd, name: &CStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from).map_err(Errno::into)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_are_appended_to_are_compared_at_their_end_and_an_index_with_its_data() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, bytes: &[u8]| {
            fs::write(folder.path().join(name), bytes).expect("written");
            fs::File::open(folder.path().join(name)).expect("opened")
        };
        let long = vec![7; BUFFER + 100];
        let (live, torn) =
            (file("live", &[&long[..], b"and more"].concat()), [&long[..BUFFER], &[0; 100]].concat());
        let same = |bytes: &[u8]| same_end(&file("there", bytes), &live, bytes.len() as u64).expect("read");
        assert!(same(&long) && same(b"") && !same(&torn));
        assert!(!same(&[&long[..], b"and more, which is gone again"].concat()), "it was cut off since");

        let entry = |number: u16, end: u32| [&number.to_be_bytes()[..], &end.to_be_bytes()].concat();
        file("bodies.0001.cdat", &[1; 30]);
        let opened = fs::File::open(folder.path()).expect("opened").into();
        let has = |entries: &[Vec<u8>]| {
            let index = file("bodies.cidx", &entries.concat());
            has_data(&opened, c"bodies.cidx", &index).expect("read")
        };
        assert!(has(&[entry(0, 0), entry(1, 30)]) && has(&[entry(9, 900)]));
        assert!(!has(&[entry(0, 0), entry(1, 31)]) && !has(&[entry(0, 0), entry(2, 1)]));
    }
}
