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
/// What an entry takes beside its bytes, about.
const ENTRY: usize = 96;

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
#[derive(Debug, Default)]
pub struct IndexReader {
    tables: BTreeMap<u64, Entries>,
    logs: BTreeMap<u64, Entries>,
    /// The length of each table that is there.
    lengths: BTreeMap<u64, u64>,
    manifests: BTreeMap<Vec<u8>, (Listed, u64)>,
    current: Option<Vec<u8>>,
    kept: usize,
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

impl IndexReader {
    /// True if a file of this name, without its folder, is to be given to [`IndexReader::file`].
    pub fn wants(name: &[u8]) -> bool {
        named(name).is_some()
    }

    /// A file with all its bytes.
    pub fn file(&mut self, name: &[u8], bytes: &[u8]) {
        let Some(named) = named(name) else { return };
        let mut entries = Entries::new();
        let mut add = |write: Write<'_>| {
            if write.key.starts_with(PINS) || write.key == FILES {
                let is_newer = entries.get(write.key).is_none_or(|(number, _)| *number <= write.number);
                if is_newer {
                    let now = (write.number, write.value.map(<[u8]>::to_vec));
                    entries.insert(write.key.to_vec(), now);
                }
            }
        };
        let read = match &named {
            Named::Table(_) => leveldb::table_writes(bytes, &mut add),
            Named::Log(_) => leveldb::log_writes(bytes, &mut add),
            Named::Manifest => {
                let listed = (leveldb::listed(bytes), leveldb::first_log(bytes));
                self.manifests.insert(name.to_vec(), listed);
                Ok(())
            }
            Named::Current => {
                self.current = Some(bytes.trim_ascii_end().to_vec());
                Ok(())
            }
        };
        let of = |(key, (_, value)): (&Vec<u8>, &(u64, Option<Vec<u8>>))| {
            ENTRY + key.len() + value.as_ref().map_or(0, Vec::len)
        };
        self.kept += entries.iter().map(of).sum::<usize>();
        if self.kept > MAX_KEPT {
            (self.tables, self.logs) = Default::default();
            self.unclear("it holds too many pins to be looked at");
        }
        match named {
            Named::Table(number) => {
                self.lengths.insert(number, bytes.len() as u64);
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
                batch.push(text.len() as u8);
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
}
