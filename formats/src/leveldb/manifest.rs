//! The MANIFEST: edits, of which the list of a database's tables is worked out.

use std::collections::BTreeMap;

use super::varint;

/// With more tables than these a database is no longer judged.
const MAX_TABLES: usize = 200_000;

/// What the edits so far come to.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// The length of each table in use, by its number.
    pub(super) tables: BTreeMap<u64, u64>,
    /// Logs with lower numbers are done with.
    pub(super) log: u64,
    /// Why it is not judged.
    pub(super) refused: Option<Refused>,
}

/// Why the edits cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// An edit says what no LevelDB says: another engine wrote it.
    Foreign,
    /// An edit is damaged: those after it are not known.
    Damaged,
    /// There are too many tables.
    TooMany,
}

impl Manifest {
    /// The next edit.
    pub(super) fn edit(&mut self, record: &[u8]) {
        if self.refused.is_none() && self.apply(record).is_none() {
            self.refused = Some(Refused::Foreign);
        }
        if self.tables.len() > MAX_TABLES {
            self.tables.clear();
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
                    self.tables.remove(&varint(&mut rest)?);
                }
                7 => {
                    varint(&mut rest)?;
                    let (table, length) = (varint(&mut rest)?, varint(&mut rest)?);
                    skip(&mut rest)?;
                    skip(&mut rest)?;
                    self.tables.insert(table, length);
                }
                _ => return None,
            }
        }
        Some(())
    }
}

fn skip(rest: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(varint(rest)?).ok()?;
    *rest = rest.get(length..)?;
    Some(())
}
