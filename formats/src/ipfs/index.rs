//! The index of a Kubo repository, its LevelDB `datastore/`: which pins it holds, and the root of the files.
//!
//! Kubo keeps each pin under `/pins/pin/ID` as CBOR (CID, mode, name), and the root of the files under
//! `/local/filesroot` as the bytes of its CID.
//!
//! Must stay true: an entry counts only if the MANIFEST lists its table, or its log is not done with: what a table
//! holds that is left over may have been removed since. What cannot be followed is said, never guessed.

use std::collections::BTreeMap;

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
    unclear: Option<String>,
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
            Named::Log(_) => leveldb::log_writes(bytes, &mut add),
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
                    self.unclear(&format!("{}: {why}", String::from_utf8_lossy(name)));
                }
                self.logs.insert(number, entries);
            }
            Named::Manifest | Named::Current => {}
        }
    }

    /// A file that is too long, or was not given.
    pub fn unclear(&mut self, why: &str) {
        self.unclear.get_or_insert_with(|| why.to_owned());
    }

    /// What is to be kept; or why that cannot be said.
    pub fn finish(mut self) -> Result<Pinned, String> {
        if let Some(why) = self.unclear {
            return Err(why);
        }
        let current = self.current.ok_or("it is no LevelDB: there is no CURRENT")?;
        let (listed, first_log) =
            self.manifests.remove(&current).ok_or("the MANIFEST that CURRENT names is not there")?;
        let Listed::Tables(tables) = listed else {
            return Err("its MANIFEST cannot be followed".to_owned());
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
            add(self.tables.remove(table).ok_or_else(|| format!("its table {table:06} cannot be read"))?);
        }
        for (_, entries) in self.logs.into_iter().filter(|(number, _)| *number >= first_log) {
            add(entries);
        }
        let mut pinned = Pinned::default();
        for (key, value) in all.into_iter().filter_map(|(key, (_, value))| Some((key, value?))) {
            if key == FILES {
                pinned.files =
                    Some(Cid::try_from(value.as_slice()).map_err(|_| "its root of the files is none")?);
                continue;
            }
            match pin(&value).ok_or("a pin of it cannot be read")? {
                (cid, 0) => pinned.recursive.push(cid),
                (cid, 1) => pinned.direct.push(cid),
                _ => return Err("a pin of it is of a kind that is not known here".to_owned()),
            }
        }
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

    /// True if all of it is in `later`, too: then nothing that it needs has become garbage between the two.
    pub fn is_kept_by(&self, later: &Self) -> bool {
        let is_in = |pins: &[Cid], later: &[Cid]| pins.iter().all(|pin| later.binary_search(pin).is_ok());
        is_in(&self.recursive, &later.recursive)
            && is_in(&self.direct, &later.direct)
            && (self.files.is_none() || self.files == later.files)
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
mod tests {
    use super::*;
    use crate::ipfs::{codec, named as name_of};

    fn pin_of(cid: &Cid, mode: u8) -> Vec<u8> {
        let mut bytes = vec![0xa4];
        for (name, value) in [
            ("cid", [&[0x58, cid.to_bytes().len() as u8][..], &cid.to_bytes()].concat()),
            ("mode", vec![mode]),
            ("name", b"\x64mine".to_vec()),
            ("metadata", b"\xa1\x61a\x82\x01\x02".to_vec()),
        ] {
            bytes.push(0x60 | name.len() as u8);
            bytes.extend(name.as_bytes());
            bytes.extend(value);
        }
        bytes
    }

    /// A log of goleveldb's: one record in one chunk.
    fn log(first: u64, writes: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
        let mut batch = first.to_le_bytes().to_vec();
        batch.extend((writes.len() as u32).to_le_bytes());
        for (key, value) in writes {
            batch.push(u8::from(value.is_some()));
            for text in std::iter::once(*key).chain(*value) {
                let mut length = text.len();
                while length > 0x7f {
                    batch.push(length as u8 | 0x80);
                    length >>= 7;
                }
                batch.push(length as u8);
                batch.extend(text);
            }
        }
        record(&batch)
    }

    fn record(payload: &[u8]) -> Vec<u8> {
        let mut summed = vec![1];
        summed.extend(payload);
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &summed) as u32;
        let sum = sum.rotate_right(15).wrapping_add(0xa282_ead8);
        let length = (payload.len() as u16).to_le_bytes();
        [&sum.to_le_bytes()[..], &length, &summed].concat()
    }

    #[test]
    fn pins_are_those_that_were_not_removed_and_logs_that_are_done_with_do_not_count() {
        let [a, b, c] = ["a", "b", "c"].map(|name| name_of(codec::RAW, name.as_bytes()));
        let (one, two) = (pin_of(&a, 0), pin_of(&b, 1));
        let first = log(1, &[(b"/pins/pin/1", Some(&one)), (b"/pins/pin/2", Some(&two))]);
        let root = c.to_bytes();
        let second = log(3, &[(FILES, Some(&root)), (b"/other", Some(b"x"))]);
        let third = log(5, &[(b"/pins/pin/1", None)]);
        // The first log that counts is 2.
        let manifest = record(&[2, 2]);
        let read = |files: &[(&str, &[u8])]| {
            let mut reader = IndexReader::default();
            files.iter().for_each(|(name, bytes)| reader.file(name.as_bytes(), bytes));
            reader.finish()
        };
        let all: [(&str, &[u8]); 5] = [
            ("000002.log", &first),
            ("000003.log", &second),
            ("000004.log", &third),
            ("CURRENT", b"MANIFEST-000001\n"),
            ("MANIFEST-000001", &manifest),
        ];
        let pinned = read(&all).expect("read");
        assert_eq!(pinned, Pinned { recursive: vec![], direct: vec![b], files: Some(c) });
        let before = read(&[all[0], all[1], all[3], all[4]]).expect("read");
        assert_eq!((before.recursive.as_slice(), before.roots().count()), (&[a][..], 3));
        assert!(pinned.is_kept_by(&before) && !before.is_kept_by(&pinned));
        // One that is done with.
        let old = read(&[("000001.log", &first), all[1], all[3], all[4]]).expect("read");
        assert_eq!(old, Pinned { files: Some(c), ..Pinned::default() });
        for lacking in [3, 4] {
            let mut files = all.to_vec();
            files.remove(lacking);
            assert!(read(&files).is_err(), "{lacking}");
        }
        let cut = log(7, &[(b"/pins/pin/9", Some(b"no pin"))]);
        assert!(read(&[all[0], ("000005.log", &cut), all[3], all[4]]).expect_err("no pin").contains("pin"));
    }

    #[test]
    fn an_index_with_too_much_in_it_is_not_looked_at_and_takes_no_more_memory_than_it_may() {
        let pin = pin_of(&name_of(codec::RAW, b"a"), 0);
        let keys: Vec<Vec<u8>> = (0..9).map(|n| format!("/pins/pin/{n}").into_bytes()).collect();
        let pins: Vec<(&[u8], Option<&[u8]>)> = keys.iter().map(|key| (&**key, Some(&*pin))).collect();
        let long = [PINS, &[b'x'; MAX_KEY][..]].concat();
        let each = ENTRY + keys[0].len() + pin.len();
        let read = |most: usize, log: &[u8]| {
            let mut reader = IndexReader::within(most);
            reader.file(b"CURRENT", b"MANIFEST-000001\n");
            reader.file(b"MANIFEST-000001", &record(&[2, 2]));
            reader.file(b"000002.log", log);
            assert!(reader.kept <= most, "{} of {most}", reader.kept);
            reader.finish()
        };
        let room = ENTRY + 9 * each;
        assert_eq!(read(room, &log(1, &pins)).expect("there is room").recursive.len(), 1);
        assert_eq!(read(room - 1, &log(1, &pins)), Err(TOO_MANY.to_owned()));
        // One that is written again takes no more.
        let again: Vec<_> = pins.iter().chain(&pins).copied().collect();
        assert!(read(room, &log(1, &again)).is_ok());
        let why = read(MAX_KEPT, &log(1, &[(&long, Some(&pin))])).expect_err("no pin has such a key");
        assert!(why.contains("too long"), "{why}");
    }
}
