//! The index of a Kubo repository, its LevelDB `datastore/`: which pins it holds, and the root of the files.
//!
//! Kubo keeps each pin under `/pins/pin/ID` as CBOR (CID, mode, name), and the root of the files under
//! `/local/filesroot` as the bytes of its CID.
//!
//! Must stay true: an entry counts only if the MANIFEST lists its table, or its log is not done with: what a table
//! holds that is left over may have been removed since. What cannot be followed is said, never guessed.

use std::collections::{BTreeMap, BTreeSet};

use super::block::Cid;
use super::cbor;
use crate::leveldb::{self, Listed, Write};

const PINS: &[u8] = b"/pins/pin/";
const FILES: &[u8] = b"/local/filesroot";
/// Longer files of an index are not read; Kubo's are 2 to 4 MiB.
pub const MAX_INDEX_FILE: u64 = 64 << 20;
/// What is kept of all files together.
const MAX_KEPT: usize = 512 << 20;
const TOO_MANY: &str = "it holds too many pins to be looked at";
/// What an entry takes beside its bytes, about.
const ENTRY: usize = 96;
/// A longer key is no pin's: Kubo's are of some forty bytes.
const MAX_KEY: usize = 1 << 10;

/// What a repository's index says is to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pinned {
    /// Pins of whole graphs, sorted.
    pub recursive: Vec<Cid>,
    /// Pins of single blocks, sorted.
    pub direct: Vec<Cid>,
    /// The root of the files, once there is one.
    pub files: Option<Cid>,
    /// The last record of it is cut off, as after a crash or by damage: what was pinned last may lack.
    pub is_cut_off: bool,
    /// The number of the write of each of them, sorted. LevelDB gives none twice.
    written: Vec<u64>,
}

/// The pins of an index cannot be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPins {
    /// What is in the way.
    pub why: String,
    /// It is damaged or not whole; else it is more, or something else, than is looked at here.
    pub is_damage: bool,
}

impl std::fmt::Display for NoPins {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.why)
    }
}

fn damaged(why: impl Into<String>) -> NoPins {
    NoPins { why: why.into(), is_damage: true }
}

/// Reads the files of an index, each as a whole, in any order.
#[derive(Debug)]
pub struct IndexReader {
    tables: BTreeMap<u64, Entries>,
    logs: BTreeMap<u64, Entries>,
    manifests: BTreeMap<Vec<u8>, (Listed, u64)>,
    current: Option<Vec<u8>>,
    kept: usize,
    most: usize,
    unclear: Option<NoPins>,
    /// Logs whose end is cut off.
    cut: BTreeSet<u64>,
}

/// What was written, with its number; none: it was removed.
type Entries = BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>;

enum Named {
    Table(u64),
    Log(u64),
    Manifest,
    Current,
}

fn named(name: &[u8]) -> Option<Named> {
    let text = std::str::from_utf8(name).ok()?;
    if text == "CURRENT" {
        return Some(Named::Current);
    }
    if text.starts_with("MANIFEST-") {
        return Some(Named::Manifest);
    }
    let (number, kind) = text.split_once('.')?;
    let number = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    match kind {
        "ldb" | "sst" => Some(Named::Table(number)),
        "log" => Some(Named::Log(number)),
        _ => None,
    }
}

impl Default for IndexReader {
    fn default() -> Self {
        Self::within(MAX_KEPT)
    }
}

impl IndexReader {
    fn within(most: usize) -> Self {
        Self {
            tables: BTreeMap::new(),
            logs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            current: None,
            kept: 0,
            most,
            unclear: None,
            cut: BTreeSet::new(),
        }
    }

    /// True if a file of this name, without its folder, is to be given to [`IndexReader::file`].
    pub fn wants(name: &[u8]) -> bool {
        named(name).is_some()
    }

    /// A file with all its bytes.
    pub fn file(&mut self, name: &[u8], bytes: &[u8]) {
        let Some(named) = named(name).filter(|_| self.unclear.is_none()) else { return };
        let mut entries = Entries::new();
        let (mut kept, most, mut wrong) = (self.kept, self.most, None);
        let weight = |key: &[u8], value: Option<&[u8]>| ENTRY + key.len() + value.map_or(0, <[u8]>::len);
        // What is read is hostile: a table of some megabytes may unpack to many times of that.
        let mut add = |write: Write<'_>| {
            let Write { key, number, value } = write;
            if wrong.is_some() || !(key.starts_with(PINS) || key == FILES) {
                return;
            }
            let before = entries.get(key);
            if before.is_some_and(|(before, _)| *before > number) {
                return;
            }
            kept -= before.map_or(0, |(_, before)| weight(key, before.as_deref()));
            kept += weight(key, value);
            if key.len() > MAX_KEY {
                wrong = Some("the key of one of its pins is too long to be one");
            } else if kept > most {
                wrong = Some(TOO_MANY);
            } else {
                entries.insert(key.to_vec(), (number, value.map(<[u8]>::to_vec)));
            }
        };
        let read = match &named {
            Named::Table(_) => leveldb::table_writes(bytes, &mut add),
            Named::Log(number) => leveldb::log_writes(bytes, &mut add).map(|is_whole| {
                if !is_whole {
                    self.cut.insert(*number);
                }
            }),
            Named::Manifest => {
                let listed = leveldb::listed(bytes);
                if let Listed::Tables(tables) = &listed {
                    kept += ENTRY * (1 + tables.len());
                    wrong = (kept > most).then_some(TOO_MANY);
                }
                self.manifests.insert(name.to_vec(), (listed, leveldb::first_log(bytes)));
                Ok(())
            }
            Named::Current => {
                self.current = Some(bytes.trim_ascii_end().to_vec());
                Ok(())
            }
        };
        self.kept = kept;
        if let Some(why) = wrong {
            (self.tables, self.logs, self.kept) = Default::default();
            self.unclear(why);
            return;
        }
        match named {
            Named::Table(number) => {
                // One that is left over may be anything.
                if read.is_ok() {
                    self.tables.insert(number, entries);
                }
            }
            Named::Log(number) => {
                if let Err(why) = read {
                    let why = format!("{}: {why}", String::from_utf8_lossy(name));
                    self.unclear.get_or_insert_with(|| damaged(why));
                }
                self.logs.insert(number, entries);
            }
            Named::Manifest | Named::Current => {}
        }
    }

    /// A file that is too long, or was not given.
    pub fn unclear(&mut self, why: &str) {
        self.unclear.get_or_insert_with(|| NoPins { why: why.to_owned(), is_damage: false });
    }

    /// What is to be kept; or why that cannot be said.
    pub fn finish(mut self) -> Result<Pinned, NoPins> {
        if let Some(why) = self.unclear {
            return Err(why);
        }
        let current = self.current.ok_or_else(|| damaged("it is no LevelDB: there is no CURRENT"))?;
        let (listed, first_log) = self
            .manifests
            .remove(&current)
            .ok_or_else(|| damaged("the MANIFEST that CURRENT names is not there"))?;
        let tables = match listed {
            Listed::Tables(tables) => tables,
            Listed::CutOff => return Err(damaged("its MANIFEST is cut off or damaged")),
            Listed::Unknown => {
                let why = "its MANIFEST is one that cannot be followed here".to_owned();
                return Err(NoPins { why, is_damage: false });
            }
        };
        let logs = self.logs.split_off(&first_log);
        // The engine makes a log before it names it.
        if first_log > 0 && !logs.contains_key(&first_log) {
            return Err(damaged(format!("its log {first_log:06}, with what was written last, is not there")));
        }
        let last = logs.last_key_value().map(|(number, _)| *number);
        let mut cut = self.cut.range(first_log..).copied();
        let is_cut_off = match (cut.next(), last) {
            (None, _) => false,
            // What was being written when everything stopped is in the last one.
            (first, last) if first == last => true,
            (Some(number), _) => return Err(damaged(format!("its log {number:06} is cut off"))),
        };
        let mut all = Entries::new();
        let mut add = |entries: Entries| {
            for (key, now) in entries {
                let is_newer = all.get(&key).is_none_or(|(number, _)| *number <= now.0);
                if is_newer {
                    all.insert(key, now);
                }
            }
        };
        for table in tables.keys() {
            let unread = || damaged(format!("its table {table:06} is not there or cannot be read"));
            add(self.tables.remove(table).ok_or_else(unread)?);
        }
        logs.into_values().for_each(add);
        let mut pinned = Pinned { is_cut_off, ..Pinned::default() };
        for (key, (number, value)) in all {
            let Some(value) = value else { continue };
            pinned.written.push(number);
            if key == FILES {
                let root = Cid::try_from(value.as_slice());
                pinned.files = Some(root.map_err(|_| damaged("its root of the files is none"))?);
                continue;
            }
            match pin(&value).ok_or_else(|| damaged("a pin of it cannot be read"))? {
                (cid, 0) => pinned.recursive.push(cid),
                (cid, 1) => pinned.direct.push(cid),
                _ => {
                    let why = "a pin of it is of a kind that is not known here".to_owned();
                    return Err(NoPins { why, is_damage: false });
                }
            }
        }
        pinned.written.sort_unstable();
        for pins in [&mut pinned.recursive, &mut pinned.direct] {
            pins.sort_unstable();
            pins.dedup();
        }
        Ok(pinned)
    }
}

impl Pinned {
    /// Every pin, and the root of the files.
    pub fn roots(&self) -> impl Iterator<Item = &Cid> {
        self.recursive.iter().chain(&self.direct).chain(&self.files)
    }

    /// True if all of it is in `later`, too, and was there all the time: then nothing that it needs has become
    /// garbage between the two. What was removed and put back since has another number.
    pub fn is_kept_by(&self, later: &Self) -> bool {
        self.written.iter().all(|number| later.written.binary_search(number).is_ok())
    }
}

/// A pin: a map with its CID as bytes, and its mode: 0 with all below it, 1 alone.
fn pin(bytes: &[u8]) -> Option<(Cid, u64)> {
    let mut rest = bytes;
    let (5, fields) = cbor::head(&mut rest).ok()? else { return None };
    let (mut cid, mut mode) = (None, None);
    for _ in 0..fields {
        let (3, length) = cbor::head(&mut rest).ok()? else { return None };
        let (name, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        let mut value = rest;
        let (major, number) = cbor::head(&mut value).ok()?;
        match (name, major) {
            (b"cid", 2) => cid = Some(Cid::try_from(value.get(..usize::try_from(number).ok()?)?).ok()?),
            (b"mode", 0) => mode = Some(number),
            // A name, or what somebody has noted of it.
            _ => {}
        }
        cbor::skip(&mut rest).ok()?;
    }
    Some((cid?, mode?))
}

#[cfg(test)]
mod tests;
