//! One key in a table of LevelDB or Pebble: its index says in which block it lies, and no more than these two are held.
//!
//! Must stay true: the bytes are hostile: what is held and what is unpacked has a limit, a block is read once. A table
//! that is of a kind not known here is refused, never guessed at.

use std::borrow::Cow;

use super::table::{CRC32C, FOOTER, MAGIC, ROCKS, ROCKS_FOOTER, TRAILER, block, handle};
use super::writes::pairs;

/// What a block may take, and may unpack to; engines make them of some KiB, and longer where one value is.
const MAX_BLOCK: usize = 4 << 20;
/// What is looked for is a height, a hash or a state, the largest of them with a chain's validators.
pub(super) const MAX_VALUE: usize = 3 << 20;
/// The end of a table that is held: its index lies there, and all of a short table.
const MAX_TAIL: u64 = 8 << 20;
/// What is held of it beside that.
const MAX_PARTS: usize = 8 << 20;
/// Pebble's own versions of its tables. From the third on a value that was set begins with a byte that says whether it
/// lies beside its key; what was overwritten may lie elsewhere.
const PEBBLE_KNOWN: u32 = 4;
const PEBBLE_PREFIXED: u32 = 3;
const ELSEWHERE: u8 = 0xc0;
/// The key may lie behind the block that the index names first: at its end only.
const BLOCKS: usize = 2;

/// What is known of a key: the number of its newest write, and what was written; none: it was removed.
pub(super) type Newest = (u64, Option<Vec<u8>>);

/// Where a block begins, and its length without what follows it.
pub(super) type Place = (usize, usize);

/// Why a key is not found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// These blocks are not held: with them it may be.
    NotHeld(Vec<Place>),
    /// The table is damaged, or of a kind that is not known here.
    Table(String),
}

impl From<&str> for Wrong {
    fn from(what: &str) -> Self {
        Self::Table(what.to_owned())
    }
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Table(what)
    }
}

/// What is held of a table that goes by: its end, and some blocks.
#[derive(Debug)]
pub(super) struct Held {
    length: usize,
    at: usize,
    /// Each with its beginning; the last is the end of the table.
    parts: Vec<(usize, usize, Vec<u8>)>,
}

impl Held {
    /// Of a table that has this length. None where it is longer than can be, or more is wanted than is held.
    pub(super) fn of(length: u64, wanted: &[Place]) -> Option<Self> {
        Self::with_tail(length, MAX_TAIL, wanted)
    }

    /// The same, with an end of so many bytes.
    pub(super) fn with_tail(length: u64, tail: u64, wanted: &[Place]) -> Option<Self> {
        let from = usize::try_from(length.saturating_sub(tail)).ok()?;
        let length = usize::try_from(length).ok()?;
        let mut parts = Vec::new();
        let mut sum = 0;
        for (at, taken) in wanted {
            let end = at.checked_add(*taken)?.checked_add(TRAILER)?.min(length);
            sum += end.saturating_sub(*at);
            if sum > MAX_PARTS {
                return None;
            }
            parts.push((*at, end, Vec::with_capacity(end.saturating_sub(*at))));
        }
        parts.push((from, length, Vec::with_capacity(length - from)));
        Some(Self { length, at: 0, parts })
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (begin, end) = (self.at, self.at.saturating_add(bytes.len()));
        for (from, to, part) in &mut self.parts {
            let (from, to) = ((*from).max(begin), (*to).min(end));
            if from < to {
                part.extend_from_slice(&bytes[from - begin..to - begin]);
            }
        }
        self.at = end;
    }

    /// The last bytes of the table.
    fn tail(&self) -> &[u8] {
        self.parts.last().map_or(&[], |(_, _, tail)| tail)
    }

    /// A block before `end`, as it is packed, and how it is.
    fn block(&self, (at, length): Place, end: usize) -> Result<(&[u8], u8), Wrong> {
        let whole = at.checked_add(length).and_then(|end| end.checked_add(TRAILER));
        let whole = whole.filter(|whole| *whole <= end).ok_or("a block of it reaches beyond its end")?;
        if length > MAX_BLOCK {
            return Err("a block of it is too long to be looked at".into());
        }
        let holds = |(from, to, part): &&(usize, usize, Vec<u8>)| {
            *from <= at && whole <= *to && whole - *from <= part.len()
        };
        let (from, _, part) =
            self.parts.iter().find(holds).ok_or_else(|| Wrong::NotHeld(vec![(at, length)]))?;
        Ok(block(part, (at - from, length), "block")?)
    }

    fn unpacked(&self, place: Place, end: usize) -> Result<Cow<'_, [u8]>, Wrong> {
        match self.block(place, end)? {
            (plain, 0) => Ok(Cow::Borrowed(plain)),
            (packed, 1) => match snap::raw::decompress_len(packed) {
                Ok(length) if length <= MAX_BLOCK => snap::raw::Decoder::new()
                    .decompress_vec(packed)
                    .map(Cow::Owned)
                    .map_err(|_| "a block of it cannot be read".into()),
                _ => Err("a block of it is too long to be looked at".into()),
            },
            _ => Err("a block of it is packed in a way that is not known here".into()),
        }
    }
}

/// The newest write of `key` in a table, if there is one.
pub(super) fn find(table: &Held, key: &[u8]) -> Result<Option<Newest>, Wrong> {
    let Opened { end, index, is_tree, is_prefixed } = open(table)?;
    let mut blocks = near(table, end, index, key)?;
    if is_tree {
        let mut below = Vec::new();
        for place in held(table, &blocks, end)? {
            below.extend(near(table, end, place, key)?);
        }
        below.truncate(BLOCKS);
        blocks = below;
    }
    let blocks = held(table, &blocks, end)?;
    let mut newest: Option<Newest> = None;
    for place in blocks {
        let (list, mut wrong) = (table.unpacked(place, end)?, None);
        let read = pairs(&list, &mut |whole, value| {
            let Some((name, end)) = whole.split_last_chunk::<8>() else {
                wrong = Some("a key of it has no number");
                return false;
            };
            if name != key {
                return name < key;
            }
            if value.len() > MAX_VALUE {
                wrong = Some("a value of it is too large to be one that is looked for");
                return false;
            }
            let end = u64::from_le_bytes(*end);
            if newest.as_ref().is_some_and(|(number, _)| *number >= end >> 8) {
                return true;
            }
            // Beside its kind Pebble may say that an entry is hidden by a newer one.
            match end & 0xbf {
                0 | 7 | 23 => newest = Some((end >> 8, None)),
                1 if is_prefixed => match value.split_first() {
                    Some((prefix, value)) if prefix & ELSEWHERE == 0 => {
                        newest = Some((end >> 8, Some(value.to_vec())));
                    }
                    _ => wrong = Some("a value of it does not lie beside its key"),
                },
                1 | 18 => newest = Some((end >> 8, Some(value.to_vec()))),
                _ => wrong = Some("an entry of it is of a kind that is not known here"),
            }
            wrong.is_none()
        });
        if let Some(wrong) = wrong.or(read.is_none().then_some("a block of it cannot be read")) {
            return Err(wrong.into());
        }
    }
    Ok(newest)
}

/// The same places, if all of them are held.
fn held(table: &Held, places: &[Place], end: usize) -> Result<Vec<Place>, Wrong> {
    let missing = |place: &&Place| matches!(table.block(**place, end), Err(Wrong::NotHeld(_)));
    let missing: Vec<_> = places.iter().filter(missing).copied().collect();
    if missing.is_empty() { Ok(places.to_vec()) } else { Err(Wrong::NotHeld(missing)) }
}

/// Where a table's blocks end, and how they are to be read.
struct Opened {
    end: usize,
    index: Place,
    /// Its index is one of indexes.
    is_tree: bool,
    is_prefixed: bool,
}

fn open(table: &Held) -> Result<Opened, Wrong> {
    let no_index = "its end names no index";
    let both = |mut rest: &[u8]| handle(&mut rest).zip(handle(&mut rest)).ok_or(no_index);
    let tail = table.tail();
    let footer = |length| {
        let at = tail.len().checked_sub(length).filter(|_| table.at == table.length).ok_or(no_index)?;
        Ok::<_, Wrong>((table.length - length, &tail[at..]))
    };
    if tail.ends_with(&MAGIC) {
        let (end, footer) = footer(FOOTER)?;
        return Ok(Opened { end, index: both(footer)?.1, is_tree: false, is_prefixed: false });
    }
    let Some(kind) = ROCKS.iter().position(|magic| tail.ends_with(magic)) else {
        return Err("its end is not that of a table".into());
    };
    let (end, footer) = footer(ROCKS_FOOTER)?;
    let version = footer[ROCKS_FOOTER - 12..].first_chunk::<4>().map_or(u32::MAX, |v| u32::from_le_bytes(*v));
    if footer[0] != CRC32C || (kind == 1 && version > PEBBLE_KNOWN) {
        return Err("it is a table of a kind that is not known here".into());
    }
    let (meta, index) = both(&footer[1..])?;
    let (mut properties, mut has_ranges) = (None, false);
    let read = pairs(&table.unpacked(meta, end)?, &mut |name, mut place| {
        match name {
            b"rocksdb.properties" => properties = handle(&mut place),
            b"rocksdb.range_del" | b"rocksdb.range_del2" => has_ranges = true,
            _ => {}
        }
        true
    });
    read.ok_or("its list of other blocks cannot be read")?;
    if has_ranges {
        return Err("whole ranges of keys are removed by it, which is not followed here".into());
    }
    let mut is_tree = false;
    if let Some(properties) = properties {
        let read = pairs(&table.unpacked(properties, end)?, &mut |name, value| {
            is_tree |= name == b"rocksdb.block.based.table.index.type" && value == 2_u32.to_le_bytes();
            true
        });
        read.ok_or("its properties cannot be read")?;
    }
    Ok(Opened { end, index, is_tree, is_prefixed: kind == 1 && version >= PEBBLE_PREFIXED })
}

/// The blocks of an index in which the key may lie: the first whose last key is not before it.
fn near(table: &Held, end: usize, index: Place, key: &[u8]) -> Result<Vec<Place>, Wrong> {
    let (mut places, mut is_known) = (Vec::new(), true);
    let read = pairs(&table.unpacked(index, end)?, &mut |last, mut place| {
        if last.split_last_chunk::<8>().is_some_and(|(last, _)| last < key) {
            return true;
        }
        match handle(&mut place) {
            Some(place) => places.push(place),
            None => is_known = false,
        }
        places.len() < BLOCKS && is_known
    });
    match read {
        Some(()) if is_known => Ok(places),
        _ => Err("its index cannot be read".into()),
    }
}
