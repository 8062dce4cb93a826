//! The stream of `mongodump --archive` as entries: those of the folder that `mongodump --out` would have written.
//!
//! Must stay true: all of it is looked through, checksums too, before the first byte goes into an archive; what is read
//! then is what was looked through: a stream that was written to meanwhile ends the archive. Its blocks are read where
//! they lie, so no second copy is made of it, and memory is that of their places.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use formats::mongodb::Crc64;
use repository::archive::entry::{EntryKind, Layout, Metadata, Timestamp};
use repository::archive::path::EntryPath;
use repository::check::ContentCheck;

use super::dump::{DESCRIPTION, DOCUMENTS, MAX_VIEW, NoDump, is_view, judge, refused};
use super::stream::{Collection, Contents, Extent, NoStream};
use super::{FILE_MODE, FOLDER_MODE};
use crate::sources::{
    Body, Content, Item, Opened, Problem, ProblemKind, ReadError, Source, SourceEntry, SourceError, Stamp,
    StampClock,
};

/// A stream that was looked through.
pub(super) struct StreamSource {
    file: Arc<File>,
    /// As it was when it was looked through.
    seen: Seen,
    told: Vec<Problem>,
    planned: std::vec::IntoIter<(EntryPath, What)>,
    metadata: Metadata,
}

enum What {
    Folder,
    Text(Vec<u8>),
    Blocks(Vec<Extent>),
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    length: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Seen {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let (mtime, ctime) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        Ok(Self { length: found.len(), mtime, ctime })
    }
}

impl StreamSource {
    /// Looks through the stream at `place`, and tells `told` before anything else.
    pub(super) fn open(place: PathBuf, check: &mut dyn ContentCheck, told: String) -> Result<Self, NoDump> {
        let unread = |source| NoDump::Unread { path: place.clone(), source };
        // A pipe would be waited for.
        if !fs::metadata(&place).map_err(unread)?.is_file() {
            return Err(NoDump::NoFile(place.display().to_string()));
        }
        let file = File::open(&place).map_err(unread)?;
        let seen = Seen::of(&file).map_err(unread)?;
        let contents = Contents::of(&file)?;
        let mut told = vec![Problem { path: EntryPath::root(), kind: ProblemKind::Suspect, cause: told }];
        let planned = plan(&file, contents, check, &mut told)?;
        if Seen::of(&file).map_err(unread)? != seen {
            return Err(NoDump::Written);
        }
        told.reverse();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mtime = Timestamp { seconds: seen.mtime.0, nanoseconds: 0 };
        let metadata = Metadata { mode: FILE_MODE, uid, gid, mtime, xattrs: Vec::new() };
        Ok(Self { file: Arc::new(file), seen, told, planned: planned.into_iter(), metadata })
    }

    fn file(&self, path: EntryPath, content: Reading) -> Item {
        let body =
            Body::File { stamp: content.stamp, clock: StampClock::Nobodys, content: Box::new(content) };
        Item::Entry(SourceEntry { path, metadata: self.metadata.clone(), body })
    }

    fn read(&self, from: Held, length: u64) -> Reading {
        let stamp = Stamp { inode: 0, size: length, mtime: self.metadata.mtime, ctime: self.metadata.mtime };
        Reading { from, stamp, at: 0, within: 0 }
    }
}

impl Source for StreamSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        if !Seen::of(&self.file).is_ok_and(|now| now == self.seen) {
            return Err(refused(NoDump::Written));
        }
        if let Some(problem) = self.told.pop() {
            return Ok(Some(Item::Problem(problem)));
        }
        let Some((path, what)) = self.planned.next() else { return Ok(None) };
        Ok(Some(match what {
            What::Folder => {
                let metadata = Metadata { mode: FOLDER_MODE, ..self.metadata.clone() };
                Item::Entry(SourceEntry { path, metadata, body: Body::Plain(EntryKind::Folder) })
            }
            What::Text(text) => {
                let length = text.len() as u64;
                self.file(path, self.read(Held::Memory(text), length))
            }
            What::Blocks(blocks) => {
                let length = length_of(&blocks);
                self.file(path, self.read(Held::Stream(Arc::clone(&self.file), blocks), length))
            }
        }))
    }
}

/// What the stream becomes, in path order; none of it if anything is damaged.
fn plan(
    file: &File,
    contents: Contents,
    check: &mut dyn ContentCheck,
    told: &mut Vec<Problem>,
) -> Result<Vec<(EntryPath, What)>, NoDump> {
    let prelude = serde_json::json!({
        "ServerVersion": contents.server_version,
        "ToolVersion": contents.tool_version,
    });
    let mut planned = vec![
        (EntryPath::root(), What::Folder),
        (path_of("prelude.json")?, What::Text(format!("{prelude}\n").into_bytes())),
    ];
    let mut last = None;
    for (key, one) in &contents.collections {
        let (database, stem) = key;
        if database.is_empty() {
            let cause = "it is no part of a dump of databases".to_owned();
            let path = path_of(&format!("{stem}{DOCUMENTS}"))?;
            told.push(Problem { path, kind: ProblemKind::LeftOut, cause });
            continue;
        }
        if last.replace(database) != Some(database) {
            planned.push((path_of(database)?, What::Folder));
        }
        let [documents, description] =
            [DOCUMENTS, DESCRIPTION].map(|ending| format!("{database}/{stem}{ending}"));
        let is_view = looked_at(file, one, (&documents, &description), check)?;
        if contents.has_no_end(key, one) && !is_view {
            return Err(NoDump::NoEnd(documents));
        }
        if let Some(described) = one.described {
            planned.push((path_of(&description)?, What::Blocks(vec![described])));
        }
        let has_file = !is_view && (!one.blocks.is_empty() || !contents.has_buckets(key));
        if has_file {
            planned.push((path_of(&documents)?, What::Blocks(one.blocks.clone())));
        }
    }
    if last.is_none() {
        return Err(NoDump::Nothing);
    }
    planned.sort_by(|(one, _), (other, _)| one.cmp(other));
    match planned.array_windows().find(|[(one, _), (other, _)]| one == other) {
        Some([(twice, _), _]) => Err(NoStream::Name(twice.to_string()).into()),
        None => Ok(planned),
    }
}

fn path_of(path: &str) -> Result<EntryPath, NoDump> {
    EntryPath::new(path.as_bytes()).map_err(|_| NoStream::Name(path.escape_debug().to_string()).into())
}

/// Looks at what the stream has of a collection; true of a view.
fn looked_at(
    file: &File,
    one: &Collection,
    (documents, description): (&str, &str),
    check: &mut dyn ContentCheck,
) -> Result<bool, NoDump> {
    let mut is_a_view = false;
    if let Some((at, length)) = one.described {
        let mut text = vec![0; usize::try_from(length.min(MAX_VIEW)).expect("it is short")];
        file.read_exact_at(&mut text, at).map_err(NoStream::from)?;
        let mut rest = text.as_slice();
        judge(check, description, length, &mut |piece| {
            Ok(io::Read::read(&mut rest, piece).unwrap_or_default())
        })?;
        is_a_view = is_view(&text);
    }
    if is_a_view && !one.blocks.is_empty() {
        return Err(NoDump::Damaged(description.to_owned(), "it is a view, and has documents".to_owned()));
    }
    let (mut sum, mut at, mut within) = (Crc64::default(), 0, 0);
    judge(check, documents, length_of(&one.blocks), &mut |piece| {
        let count = read_blocks(file, &one.blocks, (&mut at, &mut within), piece).map_err(NoStream::from)?;
        sum.add(&piece[..count]);
        Ok(count)
    })?;
    // Whatever the check has not asked for counts as well.
    let mut piece = [0; 1 << 16];
    loop {
        match read_blocks(file, &one.blocks, (&mut at, &mut within), &mut piece).map_err(NoStream::from)? {
            0 => break,
            count => sum.add(&piece[..count]),
        }
    }
    match one.checksum.is_none_or(|expected| expected == sum.finish()) {
        true => Ok(is_a_view),
        false => {
            let what = "its documents have another checksum than the stream says".to_owned();
            Err(NoDump::Damaged(documents.to_owned(), what))
        }
    }
}

fn length_of(blocks: &[Extent]) -> u64 {
    blocks.iter().map(|(_, length)| length).sum()
}

/// Reads on, from byte `within` of block `at`; 0 at the end.
fn read_blocks(
    file: &File,
    blocks: &[Extent],
    (at, within): (&mut usize, &mut u64),
    piece: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some((start, length)) = blocks.get(*at).filter(|_| filled < piece.len()) {
        let most = usize::try_from(length - *within).unwrap_or(usize::MAX).min(piece.len() - filled);
        let count = file.read_at(&mut piece[filled..filled + most], start + *within)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        *within += count as u64;
        if *within == *length {
            (*at, *within) = (*at + 1, 0);
        }
    }
    Ok(filled)
}

/// The content of an entry.
struct Reading {
    from: Held,
    stamp: Stamp,
    at: usize,
    within: u64,
}

enum Held {
    Memory(Vec<u8>),
    Stream(Arc<File>, Vec<Extent>),
}

impl Content for Reading {
    fn open(&mut self) -> Result<Opened, ReadError> {
        (self.at, self.within) = (0, 0);
        Ok(Opened { stamp: self.stamp, layout: Layout::Dense, is_stream: false })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        match &self.from {
            Held::Memory(text) => {
                let rest = &text[self.at..];
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                self.at += count;
                Ok(count)
            }
            Held::Stream(file, blocks) => {
                let read = read_blocks(file, blocks, (&mut self.at, &mut self.within), buffer);
                read.map_err(|source| ReadError { vanished: false, source })
            }
        }
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        Ok(self.stamp)
    }
}

#[cfg(test)]
#[path = "archived_tests.rs"]
mod tests;
