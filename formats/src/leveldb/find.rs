//! One key in a whole table of LevelDB or Pebble: its index says in which block it lies.
//!
//! Must stay true: the bytes are hostile: what is unpacked has a limit, a block is read once. A table that is of a
//! kind not known here is refused, never guessed at.

use std::borrow::Cow;

use super::table::{CRC32C, FOOTER, MAGIC, ROCKS, ROCKS_FOOTER, block, handle};
use super::writes::pairs;

/// What a block may unpack to; engines make them of some KiB.
const MAX_BLOCK: usize = 8 << 20;
/// What is looked for is a height, a hash or a state, the largest of them with a chain's validators.
const MAX_VALUE: usize = 4 << 20;
/// Pebble's own versions of its tables. From the third on a value that was set begins with a byte that says whether it
/// lies beside its key; what was overwritten may lie elsewhere.
const PEBBLE_KNOWN: u32 = 4;
const PEBBLE_PREFIXED: u32 = 3;
const ELSEWHERE: u8 = 0xc0;
/// The key may lie behind the block that the index names first: at its end only.
const BLOCKS: usize = 2;

/// What is known of a key: the number of its newest write, and what was written; none: it was removed.
pub(super) type Newest = (u64, Option<Vec<u8>>);

type Place = (usize, usize);

/// The newest write of `key` in a table, if there is one.
pub(super) fn find(table: &[u8], key: &[u8]) -> Result<Option<Newest>, String> {
    let Opened { body, index, is_tree, is_prefixed } = open(table)?;
    let mut blocks = near(body, index, key)?;
    if is_tree {
        let mut below = Vec::new();
        for place in blocks {
            below.extend(near(body, place, key)?);
        }
        below.truncate(BLOCKS);
        blocks = below;
    }
    let mut newest: Option<Newest> = None;
    for place in blocks {
        let (list, mut wrong) = (unpacked(body, place)?, None);
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
            return Err(wrong.to_owned());
        }
    }
    Ok(newest)
}

/// A table's blocks, and how they are to be read.
struct Opened<'a> {
    body: &'a [u8],
    index: Place,
    /// Its index is one of indexes.
    is_tree: bool,
    is_prefixed: bool,
}

fn open(table: &[u8]) -> Result<Opened<'_>, String> {
    let no_index = || "its end names no index".to_owned();
    let both = |mut rest: &[u8]| handle(&mut rest).zip(handle(&mut rest)).ok_or_else(no_index);
    if table.ends_with(&MAGIC) {
        let (body, footer) = table.split_at(table.len().checked_sub(FOOTER).ok_or_else(no_index)?);
        return Ok(Opened { body, index: both(footer)?.1, is_tree: false, is_prefixed: false });
    }
    let Some(kind) = ROCKS.iter().position(|magic| table.ends_with(magic)) else {
        return Err("its end is not that of a table".to_owned());
    };
    let (body, footer) = table.split_at(table.len().checked_sub(ROCKS_FOOTER).ok_or_else(no_index)?);
    let version = footer[ROCKS_FOOTER - 12..].first_chunk::<4>().map_or(u32::MAX, |v| u32::from_le_bytes(*v));
    if footer[0] != CRC32C || (kind == 1 && version > PEBBLE_KNOWN) {
        return Err("it is a table of a kind that is not known here".to_owned());
    }
    let (meta, index) = both(&footer[1..])?;
    let (mut properties, mut has_ranges) = (None, false);
    let read = pairs(&unpacked(body, meta)?, &mut |name, mut place| {
        match name {
            b"rocksdb.properties" => properties = handle(&mut place),
            b"rocksdb.range_del" | b"rocksdb.range_del2" => has_ranges = true,
            _ => {}
        }
        true
    });
    read.ok_or("its list of other blocks cannot be read")?;
    if has_ranges {
        return Err("whole ranges of keys are removed by it, which is not followed here".to_owned());
    }
    let mut is_tree = false;
    if let Some(properties) = properties {
        let read = pairs(&unpacked(body, properties)?, &mut |name, value| {
            is_tree |= name == b"rocksdb.block.based.table.index.type" && value == 2_u32.to_le_bytes();
            true
        });
        read.ok_or("its properties cannot be read")?;
    }
    Ok(Opened { body, index, is_tree, is_prefixed: kind == 1 && version >= PEBBLE_PREFIXED })
}

/// The blocks of an index in which the key may lie: the first whose last key is not before it.
fn near(body: &[u8], index: Place, key: &[u8]) -> Result<Vec<Place>, String> {
    let (mut places, mut is_known) = (Vec::new(), true);
    let read = pairs(&unpacked(body, index)?, &mut |last, mut place| {
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
        _ => Err("its index cannot be read".to_owned()),
    }
}

fn unpacked(body: &[u8], place: Place) -> Result<Cow<'_, [u8]>, String> {
    match block(body, place, "block")? {
        (plain, 0) => Ok(Cow::Borrowed(plain)),
        (packed, 1) => match snap::raw::decompress_len(packed) {
            Ok(length) if length <= MAX_BLOCK => snap::raw::Decoder::new()
                .decompress_vec(packed)
                .map(Cow::Owned)
                .map_err(|_| "a block of it cannot be read".to_owned()),
            _ => Err("a block of it is too long to be looked at".to_owned()),
        },
        _ => Err("a block of it is packed in a way that is not known here".to_owned()),
    }
}
