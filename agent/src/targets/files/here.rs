//! What is live is read before the repository is asked: a file that has not changed is not fetched.
//!
//! Must stay true: size and time of a live file only decide where its content is looked for first. What was copied
//! is what the archive says, since its id is computed from the very bytes that were written; where it is not (a
//! program goes on writing until all is staged), they are thrown away and fetched. Nothing live is written to.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use repository::archive::entry::{Entry, EntryKind, FileContent};
use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::ground::Ground;
use super::handles::{Mounts, open_below, open_in};
use crate::sources::files::metadata::mtime;

/// So much is read at once.
const AT_ONCE: usize = 1 << 20;

/// The live files where an archive goes to.
pub(super) struct Here<'a> {
    ground: Option<&'a Ground>,
    /// The folder that was looked into last: neighbours follow each other.
    last: Option<(EntryPath, Option<OwnedFd>)>,
    buffer: Vec<u8>,
}

/// A live file that looks like the archived one.
pub(super) struct LiveFile {
    file: File,
}

impl<'a> Here<'a> {
    /// In a new folder nothing is live.
    pub(super) fn new(ground: &'a Ground) -> Self {
        let ground = (!matches!(ground, Ground::New { .. })).then_some(ground);
        Self { ground, last: None, buffer: Vec::new() }
    }

    /// Whether the live file in the place of `entry` has its size and time. What cannot be looked at has not.
    pub(super) fn looks_alike(&mut self, entry: &Entry) -> bool {
        let Some(name) = entry.path.name() else { return false };
        let Some(folder) = self.folder(&entry.path.parent().unwrap_or_default()) else { return false };
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| is_alike(&stat, entry))
    }

    /// That file, opened.
    pub(super) fn find(&mut self, entry: &Entry) -> Option<LiveFile> {
        if !self.looks_alike(entry) {
            return None;
        }
        let name = entry.path.name()?;
        let folder = self.folder(&entry.path.parent().unwrap_or_default())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // That it was read is nobody's business, but only its owner may hide it.
        let quietly = open_in(folder, name, flags | OFlags::NOATIME, Mode::empty());
        let file = quietly.or_else(|_| open_in(folder, name, flags, Mode::empty())).ok()?;
        // Somebody may have put something else there.
        let stat = rustix::fs::fstat(&file).ok()?;
        is_alike(&stat, entry).then(|| LiveFile { file: file.into() })
    }

    fn folder(&mut self, path: &EntryPath) -> Option<&OwnedFd> {
        let ground = self.ground?;
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let mounts =
                if matches!(ground, Ground::Spread { .. }) { Mounts::Crossed } else { Mounts::Refused };
            self.last = Some((path.clone(), open_below(ground.handle(), path, mounts).ok()));
        }
        self.last.as_ref().and_then(|(_, folder)| folder.as_ref())
    }

    /// Gives `sink` what the live file has where the archive has data, piece by piece and in order. False: it has
    /// become shorter or cannot be read.
    pub(super) fn read<E>(
        &mut self,
        live: &LiveFile,
        content: &FileContent,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.buffer.resize(AT_ONCE, 0);
        for extent in content.layout.extents(content.size) {
            let mut done = 0;
            while done < extent.length {
                let room = usize::try_from(extent.length - done).unwrap_or(AT_ONCE).min(AT_ONCE);
                let part = &mut self.buffer[..room];
                match read_some(&live.file, part, extent.offset + done) {
                    Ok(0) | Err(_) => return Ok(false),
                    Ok(count) => {
                        sink(&self.buffer[..count])?;
                        done += count as u64;
                    }
                }
            }
        }
        Ok(true)
    }
}

fn is_alike(stat: &Stat, entry: &Entry) -> bool {
    let EntryKind::File(content) = &entry.kind else { return false };
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && content.size > 0
        && u64::try_from(stat.st_size) == Ok(content.size)
        && mtime(stat) == entry.metadata.mtime
}

fn read_some(file: &File, part: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(part, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
