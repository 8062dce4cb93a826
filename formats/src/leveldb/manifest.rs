//! The MANIFEST: edits, of which the list of a database's tables is worked out.

use std::collections::{BTreeMap, BTreeSet};

use super::varint;
use super::writes::text;

/// With more tables than these a database is no longer judged.
const MAX_TABLES: usize = 200_000;
/// Tables that may hold one of a few keys: of each level one for each key, and those that were just written.
const MAX_MAY_HOLD: usize = 1_000;

/// What the edits so far come to.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// The length of each table in use, by its number.
    pub(super) tables: BTreeMap<u64, u64>,
    /// The same of those that others are a part of: Pebble's virtual tables lie in them.
    pub(super) backings: BTreeMap<u64, u64>,
    /// Logs with lower numbers are done with.
    pub(super) log: u64,
    /// Why it is not judged.
    pub(super) refused: Option<Refused>,
    /// Edits may be missing at its end: that it does not list a table proves nothing.
    pub(super) is_cut_off: bool,
    /// Only tables that may hold one of these keys are wanted, where there are some: no others are remembered then.
    pub(super) sought: Vec<Vec<u8>>,
    pub(super) may_hold: BTreeSet<u64>,
}

/// Why the edits cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// An edit says what neither LevelDB nor Pebble says: another engine wrote it.
    Foreign,
    /// An edit is damaged: those after it are not known.
    Damaged,
    /// There are too many tables.
    TooMany,
}

impl Manifest {
    /// True if the table is in use.
    pub(super) fn lists(&self, table: u64) -> bool {
        self.tables.contains_key(&table) || self.backings.contains_key(&table)
    }

    /// The next edit.
    pub(super) fn edit(&mut self, record: &[u8]) {
        if self.refused.is_some() {
            return;
        }
        if self.apply(record).is_none() {
            self.refused = Some(Refused::Foreign);
        }
        let all = self.tables.len() + self.backings.len();
        if all > MAX_TABLES || self.may_hold.len() > MAX_MAY_HOLD {
            (self.tables, self.backings, self.may_hold) = Default::default();
            self.refused = Some(Refused::TooMany);
        }
    }

    fn apply(&mut self, record: &[u8]) -> Option<()> {
        let mut rest = record;
        while !rest.is_empty() {
            match varint(&mut rest)? {
                // The comparator's name.
                1 => skip(&mut rest)?,
                2 => self.log = varint(&mut rest)?,
                // The next number, the last sequence, the log before.
                3 | 4 | 9 => drop(varint(&mut rest)?),
                // Where compaction goes on: level, key.
                5 => {
                    varint(&mut rest)?;
                    skip(&mut rest)?;
                }
                6 => {
                    varint(&mut rest)?;
                    let table = varint(&mut rest)?;
                    self.tables.remove(&table);
                    self.may_hold.remove(&table);
                }
                tag @ (7 | 100 | 102 | 103 | 104) => self.new_table(tag, &mut rest)?,
                105 => {
                    let (table, length) = (varint(&mut rest)?, varint(&mut rest)?);
                    if self.sought.is_empty() {
                        self.backings.insert(table, length);
                    }
                }
                106 => drop(self.backings.remove(&varint(&mut rest)?)),
                _ => return None,
            }
        }
        Some(())
    }

    /// A table: by the 7 of LevelDB, or as Pebble and RocksDB have it, with numbers of writes and more.
    fn new_table(&mut self, tag: u64, rest: &mut &[u8]) -> Option<()> {
        varint(rest)?;
        let table = varint(rest)?;
        if tag == 102 {
            varint(rest)?;
        }
        let length = varint(rest)?;
        // The smallest and the largest key; of ranges, too, where there are some.
        let mut keys = 2;
        if tag == 104 {
            let (bounds, after) = rest.split_first()?;
            *rest = after;
            keys = if bounds & HAS_POINT_KEYS == 0 { 2 } else { 4 };
        }
        let (first, last) = (text(rest)?, text(rest)?);
        // What follows the point keys, or stands in their place, are ranges.
        let may_hold = self.sought.iter().any(|key| name(first) <= &key[..] && &key[..] <= name(last));
        for _ in 2..keys {
            skip(rest)?;
        }
        if tag != 7 {
            varint(rest)?;
            varint(rest)?;
        }
        let mut is_virtual = false;
        if tag >= 103 {
            loop {
                match varint(rest)? {
                    1 => break,
                    VIRTUAL => {
                        is_virtual = true;
                        varint(rest)?;
                    }
                    _ => skip(rest)?,
                }
            }
        }
        if !is_virtual && self.sought.is_empty() {
            self.tables.insert(table, length);
        }
        if may_hold {
            self.may_hold.insert(table);
        }
        Some(())
    }
}

/// In a table's entry: it lies in another one.
const VIRTUAL: u64 = 66;
/// In the bounds of a table with keys of ranges.
const HAS_POINT_KEYS: u8 = 1;

/// A key without its number and kind.
fn name(key: &[u8]) -> &[u8] {
    key.split_last_chunk::<8>().map_or(key, |(name, _)| name)
}

fn skip(rest: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(varint(rest)?).ok()?;
    *rest = rest.get(length..)?;
    Some(())
}
