//! A table: blocks with a checksum each, an index of them, and at the end where the index lies.

use std::borrow::Cow;

use super::{masked, varint};

/// Where each block ends: how it is packed, and its checksum.
pub(super) const TRAILER: usize = 5;
pub(super) const FOOTER: usize = 48;
pub(super) const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
/// The end of a table as RocksDB has made it and Pebble writes it, and of one that Pebble alone knows.
pub(super) const ROCKS: [[u8; 8]; 2] =
    [0x88e2_41b7_85f4_cff7_u64.to_le_bytes(), [0xf0, 0x9f, 0xaa, 0xb3, 0xf0, 0x9f, 0xaa, 0xb3]];
/// It begins with the kind of its checksums, of which this is the one that is known here.
pub(super) const ROCKS_FOOTER: usize = 53;
pub(super) const CRC32C: u8 = 1;
/// What an index may unpack to.
const MAX_INDEX: usize = 4 << 20;
/// What an index may list: a table of 16 MiB has some thousand blocks.
const MAX_LISTED: usize = 200_000;

/// What is wrong with the whole of a table; none if nothing is, or if its checksums are of another kind.
pub(super) fn judge(table: &[u8]) -> Option<String> {
    match ROCKS.iter().any(|magic| table.ends_with(magic)) {
        true => rocks(table).err(),
        false => whole(table).err(),
    }
}

/// A table of Pebble or RocksDB. Its index may be one of indexes, which are then what is checked.
fn rocks(table: &[u8]) -> Result<(), String> {
    let blocks_end = table.len().checked_sub(ROCKS_FOOTER).ok_or("it is shorter than the end of a table")?;
    let (body, footer) = table.split_at(blocks_end);
    if footer[0] != CRC32C {
        return Ok(());
    }
    let mut rest = &footer[1..];
    let (meta, index) = handle(&mut rest).zip(handle(&mut rest)).ok_or("its end names no index")?;
    for (place, what) in [(meta, "list of filters"), (index, "index")] {
        match block(body, place, what)? {
            // Packed by something else than Snappy, or longer than is looked at.
            (_, 2..) => {}
            _ => {
                for place in handles(body, place, what)? {
                    block(body, place, "block")?;
                }
            }
        }
    }
    Ok(())
}

fn whole(table: &[u8]) -> Result<(), String> {
    let blocks_end = table.len().checked_sub(FOOTER).ok_or("it is shorter than the end of a table")?;
    let (body, footer) = table.split_at(blocks_end);
    if !footer.ends_with(&MAGIC) {
        return Err("its end is not that of a table: it is cut off or damaged".to_owned());
    }
    let mut rest = footer;
    let (meta, index) = handle(&mut rest).zip(handle(&mut rest)).ok_or("its end names no index")?;
    let filters = handles(body, meta, "list of filters")?;
    let mut next = 0;
    for (at, length) in handles(body, index, "index")? {
        if at != next {
            return Err(format!("its index skips from byte {next} to byte {at}"));
        }
        block(body, (at, length), "block")?;
        next = at + length + TRAILER;
    }
    for filter in filters {
        block(body, filter, "filter")?;
    }
    Ok(())
}

/// A table without its end, and where in it the blocks with its entries lie: offset and length.
pub(super) type Blocks<'a> = (&'a [u8], Vec<(usize, usize)>);

/// Where a table of LevelDB has its entries: each block once, one behind the other. An index that lists one twice
/// would have it read as often as it likes.
pub(super) fn data_blocks(table: &[u8]) -> Result<Blocks<'_>, String> {
    let blocks_end = table.len().checked_sub(FOOTER).ok_or("it is shorter than the end of a table")?;
    let (body, footer) = table.split_at(blocks_end);
    if !footer.ends_with(&MAGIC) {
        return Err("its end is not that of a table: it is cut off or damaged".to_owned());
    }
    let mut rest = footer;
    let (_, index) = handle(&mut rest).zip(handle(&mut rest)).ok_or("its end names no index")?;
    let places = handles(body, index, "index")?;
    let mut next = Some(0);
    for (at, length) in &places {
        if Some(*at) != next {
            return Err(format!("its index does not go on at byte {at}"));
        }
        next = at.checked_add(*length).and_then(|end| end.checked_add(TRAILER));
    }
    Ok((body, places))
}

/// A block's bytes as they are packed, and how they are.
pub(super) fn block<'a>(
    body: &'a [u8],
    (at, length): (usize, usize),
    what: &str,
) -> Result<(&'a [u8], u8), String> {
    let outside = || format!("its {what} at byte {at} reaches beyond its end");
    let end = at.checked_add(length).and_then(|end| end.checked_add(TRAILER)).ok_or_else(outside)?;
    let whole = body.get(at..end).ok_or_else(outside)?;
    let (summed, sum) = whole.split_at(length + 1);
    if sum != masked(summed).to_le_bytes() {
        return Err(format!("its {what} at byte {at} does not match its checksum"));
    }
    Ok((&summed[..length], summed[length]))
}

/// Where the blocks lie that a block lists.
fn handles(body: &[u8], place: (usize, usize), what: &str) -> Result<Vec<(usize, usize)>, String> {
    let unreadable = || format!("its {what} cannot be read");
    let list = match block(body, place, what)? {
        (plain, 0) if plain.len() <= MAX_INDEX => Cow::Borrowed(plain),
        (packed, 1) => match snap::raw::decompress_len(packed) {
            Ok(length) if length <= MAX_INDEX => {
                Cow::Owned(snap::raw::Decoder::new().decompress_vec(packed).map_err(|_| unreadable())?)
            }
            _ => return Err(unreadable()),
        },
        _ => return Err(unreadable()),
    };
    entries(&list).ok_or_else(unreadable)
}

/// Each entry: what it has in common with the key before, the rest of its key, its value. Then the restarts.
fn entries(list: &[u8]) -> Option<Vec<(usize, usize)>> {
    let (before, count) = list.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(4)?;
    let mut rest = before.get(..before.len().checked_sub(restarts)?)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        varint(&mut rest)?;
        let key = usize::try_from(varint(&mut rest)?).ok()?;
        let value = usize::try_from(varint(&mut rest)?).ok()?;
        rest = rest.get(key..)?;
        let (mut place, after) = rest.split_at_checked(value)?;
        if all.len() == MAX_LISTED {
            return None;
        }
        all.push(handle(&mut place)?);
        rest = after;
    }
    Some(all)
}

pub(super) fn handle(rest: &mut &[u8]) -> Option<(usize, usize)> {
    Some((usize::try_from(varint(rest)?).ok()?, usize::try_from(varint(rest)?).ok()?))
}
