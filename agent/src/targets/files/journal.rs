//! What a restore is about to do, on disk, so that an interruption can be finished or undone.
//!
//! One JSON object a line, in `.neurashield-<id>/journal`; a line without its end does not count. The
//! order: `begin`, an `area` before anything is made in a further folder, then (all is staged and durable)
//! every `move`, what `stays` and what is `left_out`, then `swapping`, which is the point of no return: before
//! it a crash means that the staging is removed, after it that the swap is finished. `undoing` turns it round; `done` and `undone` end it.
//! Lines are made durable at `begin`, each `area`, `swapping`, `undoing` and the end.
//!
//! A journal is believed because of where it lies: in a folder of mode 0700 that we own (see
//! [`super::area`]), in which nobody but us can have written it.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use repository::archive::entry::{Metadata, Timestamp};
use repository::archive::path::EntryPath;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::handles::open_in;
use crate::sources::files::{Excludes, Rules};

const NAME: &[u8] = b"journal";
const FORMAT: u32 = 1;
/// So many bytes are collected before they are written.
const AT_ONCE: usize = 1 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// A restore starts here.
    Begin {
        /// Version of this format.
        format: u32,
    },
    /// This folder only serves the restore whose journal lies in that one (an absolute path).
    Serves(Text),
    /// One more folder in which entries are swapped; numbered from 1. Number 0 is the journal's own.
    Area(Text),
    /// The root folder gets this mode, owner and time, and had that.
    Root { new: Plain, old: Plain },
    /// An entry that is moved away, or replaced, or put where there was none.
    Move {
        /// In which area.
        area: usize,
        /// Where in it.
        path: Text,
        /// Whether there is a new one.
        put: bool,
    },
    /// What lies here in area 0 is in no archive and stays live: it is carried into what takes its folder's place.
    Stays(Text),
    /// What the source leaves out at the top of area 0: it stays there whenever it comes.
    LeftOut {
        /// By pattern.
        exclude: Vec<Text>,
        /// What is in a folder with a `CACHEDIR.TAG`.
        caches: bool,
        /// Folders of our own, by device and inode.
        own: Vec<(u64, u64)>,
    },
    /// The swap starts.
    Swapping,
    /// The swap is being taken back.
    Undoing,
    /// All is new.
    Done,
    /// All is old.
    Undone,
}

/// Bytes that are mostly text: each byte is the character of its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| char::from(*byte)).collect())
    }

    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        self.0.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
    }
}

/// A folder's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plain {
    mode: u32,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanoseconds: u32,
    xattrs: Vec<(Text, Text)>,
}

impl From<&Metadata> for Plain {
    fn from(from: &Metadata) -> Self {
        let Timestamp { seconds, nanoseconds } = from.mtime;
        let xattrs = from.xattrs.iter().map(|(name, value)| (Text::new(name), Text::new(value))).collect();
        Self { mode: from.mode, uid: from.uid, gid: from.gid, seconds, nanoseconds, xattrs }
    }
}

impl Plain {
    fn metadata(&self) -> Option<Metadata> {
        let Self { mode, uid, gid, seconds, nanoseconds, .. } = *self;
        let xattrs = self.xattrs.iter().map(|(name, value)| Some((name.bytes()?, value.bytes()?)));
        let mtime = Timestamp { seconds, nanoseconds };
        Some(Metadata { mode, uid, gid, mtime, xattrs: xattrs.collect::<Option<_>>()? })
    }
}

/// How far a restore came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The live state is untouched.
    Staging,
    /// In the middle of the swap.
    Swapping,
    /// In the middle of taking it back.
    Undoing,
    /// All is new.
    Done,
    /// All is old.
    Undone,
}

/// An entry that is swapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    /// In which area.
    pub(super) area: usize,
    /// Where in it.
    pub(super) path: EntryPath,
    /// Whether a new one takes its place.
    pub(super) put: bool,
}

/// What a journal says.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    /// Set if this folder only serves another, where the journal is.
    pub(super) serves: Option<Vec<u8>>,
    /// The further areas, as absolute paths.
    pub(super) areas: Vec<Vec<u8>>,
    /// What is swapped, in order.
    pub(super) moves: Vec<Move>,
    /// What is carried through the swap, or stays at the top; all in area 0, in path order.
    pub(super) stays: Vec<EntryPath>,
    /// What is left out at the top.
    pub(super) rules: Option<Rules>,
    /// The root folder's metadata, new and old.
    pub(super) root: Option<(Metadata, Metadata)>,
    state: Option<State>,
}

impl Story {
    /// How far it came.
    pub(super) fn state(&self) -> State {
        self.state.unwrap_or(State::Staging)
    }

    /// True if nothing is left to do but to remove the old state. One that serves another cannot say it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, Some(State::Done | State::Undone))
    }

    /// The same, if the agent's own state is in the folder `state` now: it may have been moved since, and after a boot
    /// its file system may have another number.
    pub(super) fn keeping(&self, state: Option<&std::path::Path>) -> Self {
        let mut story = self.clone();
        if let Some(state) = state {
            let rules = story.rules.take().unwrap_or_else(|| Rules::from(Excludes::default()));
            story.rules = Some(rules.leave_out(state));
        }
        story
    }

    fn add(&mut self, line: Line) -> Option<()> {
        match line {
            Line::Begin { format } => return (format == FORMAT).then_some(()),
            Line::Serves(path) => self.serves = Some(path.bytes()?),
            Line::Area(path) => self.areas.push(path.bytes()?),
            Line::Root { new, old } => self.root = Some((new.metadata()?, old.metadata()?)),
            Line::Move { area, path, put } => {
                let path = EntryPath::new(&path.bytes()?).ok().filter(|_| area <= self.areas.len())?;
                self.moves.push(Move { area, path, put });
            }
            Line::Stays(path) => self.stays.push(EntryPath::new(&path.bytes()?).ok()?),
            Line::LeftOut { exclude, caches, own } => self.rules = Some(rules(&exclude, caches, own)?),
            Line::Swapping => self.state = Some(State::Swapping),
            Line::Undoing => self.state = Some(State::Undoing),
            Line::Done => self.state = Some(State::Done),
            Line::Undone => self.state = Some(State::Undone),
        }
        Some(())
    }
}

impl Line {
    pub(super) fn left_out(rules: &Rules) -> Self {
        let exclude = rules.exclude.patterns().iter().map(|pattern| Text::new(pattern.as_bytes())).collect();
        Self::LeftOut { exclude, caches: rules.caches, own: rules.own.clone() }
    }
}

fn rules(exclude: &[Text], caches: bool, own: Vec<(u64, u64)>) -> Option<Rules> {
    let patterns = exclude.iter().map(|pattern| String::from_utf8(pattern.bytes()?).ok());
    let exclude = Excludes::new(&patterns.collect::<Option<Vec<_>>>()?).ok()?;
    Some(Rules { caches, own, ..Rules::from(exclude) })
}

/// A journal that is being written.
pub(super) struct Journal<'a> {
    disk: Disk<'a>,
    file: OwnedFd,
    length: u64,
}

impl<'a> Journal<'a> {
    /// A new journal in the staging folder `staging`, which serves the one in the folder `serves`.
    pub(super) fn create(disk: Disk<'a>, staging: impl AsFd, serves: Option<&[u8]>) -> io::Result<Self> {
        let file = disk.make_file(&staging, NAME)?;
        let mut journal = Self { disk, file, length: 0 };
        let mut lines = vec![Line::Begin { format: FORMAT }];
        lines.extend(serves.map(|path| Line::Serves(Text::new(path))));
        journal.write(lines)?;
        disk.sync(&staging)?;
        Ok(journal)
    }

    /// Goes on with the journal in `staging`.
    pub(super) fn resume(disk: Disk<'a>, staging: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open_in(staging, NAME, flags, Mode::empty())?;
        let length = u64::try_from(rustix::fs::fstat(&file)?.st_size).expect("a length is not negative");
        Ok(Self { disk, file, length })
    }

    /// Adds `lines`, of which there may be a million, and makes them durable.
    pub(super) fn write(&mut self, lines: impl IntoIterator<Item = Line>) -> io::Result<()> {
        // Ends the line that an interrupted write may have left.
        let mut text = if self.length > 0 { b"\n".to_vec() } else { Vec::new() };
        for line in lines {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
            if text.len() >= AT_ONCE {
                self.append(&text)?;
                text.clear();
            }
        }
        self.append(&text)?;
        self.disk.sync(&self.file)
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.disk.write_at(&self.file, text, self.length)?;
        self.length += text.len() as u64;
        Ok(())
    }
}

/// What the journal in `staging` says; `None` if there is none. One that a later version wrote is an
/// error: it is left for that version.
pub(super) fn read(staging: impl AsFd) -> io::Result<Option<Story>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match open_in(staging, NAME, flags, Mode::empty()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    std::fs::File::from(file).read_to_end(&mut text)?;
    let later = || io::Error::other("its journal was written by a later version, or is damaged");
    tell(&text).ok_or_else(later).map(Some)
}

/// What the lines of a journal say together. A torn line ends what was written at one time; since each
/// state is durable before it is acted on, nothing that has happened can be in it.
pub(super) fn tell(text: &[u8]) -> Option<Story> {
    let mut story = Story::default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        if let Ok(line) = serde_json::from_slice::<Line>(line) {
            story.add(line)?;
        }
    }
    Some(story)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[Line]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).expect("it has a JSON form");
            text.push(b'\n');
        }
        text
    }

    #[test]
    fn a_line_that_was_torn_off_does_not_count() {
        let path = Text::new(b"caf\xe9\n\xff");
        let whole =
            lines(&[Line::Begin { format: 1 }, Line::Move { area: 0, path, put: true }, Line::Swapping]);
        let story = tell(&whole).expect("a journal");
        assert_eq!(story.state(), State::Swapping);
        assert_eq!(story.moves[0].path, EntryPath::new(b"caf\xe9\n\xff").expect("a path"));
        assert_eq!(tell(&whole[..whole.len() - 1]).expect("a journal").state(), State::Staging);
        assert_eq!(tell(b"").expect("an empty journal").state(), State::Staging);
    }

    #[test]
    fn a_journal_goes_on_after_a_torn_line() {
        let mut text = lines(&[Line::Begin { format: 1 }, Line::Swapping]);
        text.extend_from_slice(b"{\"undo");
        text.extend_from_slice(b"\n\"done\"\n");
        assert_eq!(tell(&text).expect("a journal").state(), State::Done);
    }

    #[test]
    fn a_move_in_an_area_that_is_not_there_is_not_believed() {
        let step = |area| Line::Move { area, path: Text::new(b"a"), put: true };
        assert!(tell(&lines(&[Line::Begin { format: 1 }, Line::Area(Text::new(b"/x")), step(1)])).is_some());
        assert!(tell(&lines(&[Line::Begin { format: 1 }, Line::Area(Text::new(b"/x")), step(2)])).is_none());
    }

    #[test]
    fn a_journal_of_a_later_format_is_left_alone() {
        assert!(tell(&lines(&[Line::Begin { format: 2 }, Line::Swapping])).is_none());
    }
}
