//! What was written into a LevelDB: the entries of its tables and of its logs, each with its number.
//!
//! Must stay true: the bytes are hostile, and what a block unpacks to has a limit.

use std::borrow::Cow;

use super::log::{Damage, Log};
use super::table::{block, data_blocks};
use super::varint;

/// What a block of a table may unpack to.
pub(super) const MAX_UNPACKED: usize = 64 << 20;

/// One entry. Of several with one key that with the highest number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write<'a> {
    /// What it is called.
    pub key: &'a [u8],
    /// In which order it was written.
    pub number: u64,
    /// None: it was removed.
    pub value: Option<&'a [u8]>,
}

/// Gives every entry of a whole table to `each`; an error says what is wrong with the table.
pub fn table_writes(table: &[u8], mut each: impl FnMut(Write<'_>)) -> Result<(), String> {
    let unreadable = || "a block of it cannot be read".to_owned();
    let (body, places) = data_blocks(table)?;
    for place in places {
        let list = match block(body, place, "block")? {
            (plain, 0) => Cow::Borrowed(plain),
            (packed, 1) => match snap::raw::decompress_len(packed) {
                Ok(length) if length <= MAX_UNPACKED => {
                    Cow::Owned(snap::raw::Decoder::new().decompress_vec(packed).map_err(|_| unreadable())?)
                }
                _ => return Err(unreadable()),
            },
            _ => return Err("a block of it is packed in a way that is not known here".to_owned()),
        };
        entries(&list, &mut each).ok_or_else(unreadable)?;
    }
    Ok(())
}

/// The entries of a block of a table; a key ends in number and kind.
fn entries(list: &[u8], each: &mut impl FnMut(Write<'_>)) -> Option<()> {
    let mut is_known = true;
    pairs(list, &mut |key, value| {
        let Some((name, end)) = key.split_last_chunk::<8>() else {
            is_known = false;
            return false;
        };
        let end = u64::from_le_bytes(*end);
        let value = match end & 0xff {
            0 => None,
            1 => Some(value),
            _ => {
                is_known = false;
                return false;
            }
        };
        each(Write { key: name, number: end >> 8, value });
        true
    })?;
    is_known.then_some(())
}

/// The keys and values of a block: what a key has in common with the one before, the rest of it, its value. `each`
/// says whether it goes on.
pub(super) fn pairs(list: &[u8], each: &mut impl FnMut(&[u8], &[u8]) -> bool) -> Option<()> {
    let (before, count) = list.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(4)?;
    let mut rest = before.get(..before.len().checked_sub(restarts)?)?;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let shared = usize::try_from(varint(&mut rest)?).ok()?;
        let own = usize::try_from(varint(&mut rest)?).ok()?;
        let length = usize::try_from(varint(&mut rest)?).ok()?;
        let (own, after) = rest.split_at_checked(own)?;
        let (value, after) = after.split_at_checked(length)?;
        rest = after;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(own);
        if !each(&key, value) {
            break;
        }
    }
    Some(())
}

/// Gives every entry of a whole log to `each`; false if its end is cut off, as after a crash: then what stands before
/// counts.
pub fn log_writes(bytes: &[u8], mut each: impl FnMut(Write<'_>)) -> Result<bool, String> {
    let (mut log, mut is_fine) = (Log::default(), true);
    let mut take = |record: &[u8]| is_fine &= batch(record, &mut each).is_some();
    log.bytes(bytes, &mut take);
    let damage = log.end(&mut take);
    match damage {
        Some(Damage::Chunk(at)) => Err(format!("its record at byte {at} does not match its checksum")),
        Some(Damage::TooLong(at)) => Err(format!("its record at byte {at} is too long")),
        Some(Damage::Reused) => Err("another engine wrote it".to_owned()),
        None | Some(Damage::CutOff) if is_fine => Ok(damage.is_none()),
        None | Some(Damage::CutOff) => Err("a record of it cannot be read".to_owned()),
    }
}

/// True if a log or a list of tables ends as a LevelDB ends it: what came to the disk of it came in the order in which it
/// was written. A file system that does not keep that order leaves zeros where something had not come yet.
pub fn is_in_order(bytes: &[u8]) -> bool {
    let mut log = Log::default();
    log.bytes(bytes, &mut |_| ());
    log.ends_whole(&mut |_| ())
}

/// Follows the logs of a LevelDB in their order: does each end as its writer ends it, and hold they one write after the
/// other, none lacking in between?
#[derive(Debug, Default)]
pub struct LogsInOrder {
    log: Log,
    last: Option<u64>,
    is_torn: bool,
}

impl LogsInOrder {
    /// The next bytes of a log.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let Self { log, last, is_torn } = self;
        log.bytes(bytes, &mut |record| *is_torn |= !follows(record, last));
    }

    /// The log has ended; false if it, or one before it, is not as it was written.
    pub fn log_end(&mut self) -> bool {
        let Self { log, last, is_torn } = self;
        let is_whole = std::mem::take(log).ends_whole(&mut |record| *is_torn |= !follows(record, last));
        *is_torn |= !is_whole;
        !*is_torn
    }
}

/// True if the record is of the writes that come after the last one.
fn follows(record: &[u8], last: &mut Option<u64>) -> bool {
    let mut is_next = true;
    let read = batch(record, &mut |write| {
        is_next &= last.is_none_or(|last| last.checked_add(1) == Some(write.number));
        *last = Some(write.number);
    });
    read.is_some() && is_next
}

/// Entries that were written together, numbered from the first on.
fn batch(record: &[u8], each: &mut impl FnMut(Write<'_>)) -> Option<()> {
    let (first, rest) = record.split_first_chunk::<8>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let first = u64::from_le_bytes(*first);
    for at in 0..u64::from(u32::from_le_bytes(*count)) {
        let (kind, after) = rest.split_first()?;
        rest = after;
        let key = text(&mut rest)?;
        let value = match kind {
            0 => None,
            1 => Some(text(&mut rest)?),
            _ => return None,
        };
        each(Write { key, number: first.checked_add(at)?, value });
    }
    rest.is_empty().then_some(())
}

pub(super) fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::record;
    use super::*;

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/leveldb/{name}", env!("CARGO_MANIFEST_DIR"))).expect("it is there")
    }

    #[test]
    fn what_goleveldb_wrote_is_read_from_tables_and_logs() {
        let mut all: BTreeMap<Vec<u8>, (u64, bool)> = BTreeMap::new();
        let mut add = |write: Write<'_>| {
            let now = (write.number, write.value.is_some());
            let held = all.entry(write.key.to_vec()).or_insert(now);
            *held = now.max(*held);
        };
        for name in ["000003.ldb", "000005.ldb", "000007.ldb", "000009.ldb"] {
            table_writes(&file(name), &mut add).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        for name in ["000008.log", "000010.log"] {
            assert_eq!(log_writes(&file(name), &mut add), Ok(true), "{name}");
        }
        assert!(all.len() > 10, "{}", all.len());
        assert!(all.values().all(|(number, _)| *number > 0));
    }

    #[test]
    fn a_damage_is_told_and_a_log_that_is_cut_off_counts_as_far_as_it_goes() {
        let mut table = file("000005.ldb");
        let at = table.len() / 3;
        table[at] ^= 1;
        assert!(table_writes(&table, |_| ()).is_err());
        let log = file("000008.log");
        let count = |bytes: &[u8]| {
            let mut count = 0;
            log_writes(bytes, |_| count += 1).map(|is_whole| (count, is_whole))
        };
        let (whole, is_whole) = count(&log).expect("whole");
        let (less, is_cut) = count(&log[..log.len() - 1]).expect("cut off");
        assert!(is_whole && !is_cut && less < whole);
    }

    #[test]
    fn an_index_that_lists_a_block_twice_is_refused() {
        let table = file("000005.ldb");
        let (body, places) = data_blocks(&table).expect("a table");
        let number = |mut number: usize| {
            let mut bytes = Vec::new();
            while number > 0x7f {
                bytes.push(number as u8 | 0x80);
                number >>= 7;
            }
            bytes.push(number as u8);
            bytes
        };
        let handle = |(at, length): (usize, usize)| [number(at), number(length)].concat();
        let listing = |places: &[(usize, usize)]| {
            let mut index = Vec::new();
            for place in places {
                let value = handle(*place);
                index.extend([&[0, 0, value.len() as u8][..], &value].concat());
            }
            index.extend([0; 4]);
            let at = (body.len(), index.len());
            index.push(0);
            let sum = super::super::masked(&index).to_le_bytes();
            let mut footer = [handle((0, 0)), handle(at)].concat();
            footer.resize(40, 0);
            [body, &index, &sum, &footer, &table[table.len() - 8..]].concat()
        };
        let count = |table: &[u8]| {
            let mut count = 0;
            table_writes(table, |_| count += 1).map(|()| count)
        };
        assert_eq!(count(&listing(&places)), count(&table));
        for wrong in [vec![places[0]; 1000], places[1..].to_vec()] {
            let why = count(&listing(&wrong)).expect_err("not one behind the other");
            assert!(why.contains("does not go on"), "{why}");
        }
    }

    #[test]
    fn what_came_to_the_disk_in_another_order_than_it_was_written_is_seen() {
        let write = |number: u64| {
            let entry = [1, 1, b'k', 3, 0, 0, 0];
            record(&[&number.to_le_bytes()[..], &1_u32.to_le_bytes(), &entry].concat())
        };
        let in_order = |logs: &[Vec<u8>]| {
            let mut follow = LogsInOrder::default();
            logs.iter().all(|log| {
                log.chunks(5).for_each(|bytes| follow.bytes(bytes));
                follow.log_end()
            })
        };
        let log = |numbers: std::ops::Range<u64>| numbers.flat_map(write).collect::<Vec<u8>>();
        // Values that end in zeros are no room.
        assert!(in_order(&[log(1..5), log(5..9), Vec::new()]) && in_order(&[]));
        let (first, second) = (log(1..5), log(5..9));
        let cut = |by: usize| first[..first.len() - by].to_vec();
        let unwritten = |by: usize| [cut(by), vec![0; by]].concat();
        assert!(in_order(std::slice::from_ref(&first)));
        let one = write(4).len();
        for torn in [cut(1), unwritten(one), unwritten(one + 3), [first.clone(), vec![0; 9]].concat()] {
            assert!(!in_order(std::slice::from_ref(&torn)), "{torn:?}");
            assert!(!in_order(&[torn.clone(), second.clone()]));
            assert!(!is_in_order(&torn));
        }
        // A log that lacks its last write is whole by itself; the next one shows it.
        assert!(in_order(&[cut(one)]) && is_in_order(&cut(one)));
        assert!(!in_order(&[cut(one), second]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes: Vec<u8>) {
            let _ = is_in_order(&bytes);
            let mut follow = LogsInOrder::default();
            follow.bytes(&bytes);
            let _ = follow.log_end();
            let _ = table_writes(&bytes, |_| ());
            let _ = log_writes(&bytes, |_| ());
            let _ = entries(&bytes, &mut |_| ());
            let _ = batch(&bytes, &mut |_| ());
        }
    }
}
