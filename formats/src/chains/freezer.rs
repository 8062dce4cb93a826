//! Geth's freezer: tables of items, each an index (`headers.cidx`) and data files (`headers.0000.cdat`).
//!
//! An index is entries of six bytes: the number of a data file, and where an item ends in it. The first entry
//! says which file is the oldest, and how many items went before. A data file may be longer than its index
//! says: geth writes data first, and cuts off what does not count.

use std::collections::BTreeMap;

use repository::check::{CheckedFile, Finding, Severity};

use super::broken;

const ENTRY: usize = 6;
/// What may be remembered of all freezers together, in bytes: data files, and what indexes say of them.
const MAX_REMEMBERED: usize = 8 << 20;
/// What a remembered file takes beside its path, and what an index says of one, about.
const FILE: usize = 48;
const END: usize = 16;

/// What was seen of freezers.
#[derive(Debug, Default)]
pub(super) struct Freezers {
    reading: Option<Index>,
    /// Each index by its path, with the file's ending off.
    indexes: BTreeMap<Vec<u8>, Counted>,
    /// The length of each data file that is there, by its path.
    data: BTreeMap<Vec<u8>, u64>,
    remembered: usize,
}

/// What an index says.
#[derive(Debug)]
struct Counted {
    kind: u8,
    /// How far it counts each data file.
    ends: BTreeMap<u16, u32>,
    /// How many items its table has had, with those that were removed; none if that is not to be told.
    items: Option<u64>,
}

/// A folder of a freezer with blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrozenBlocks {
    /// With a slash at its end.
    pub(super) folder: Vec<u8>,
    /// So many blocks all its tables have, from the first on.
    pub(super) count: u64,
    /// The tables that a geth always has, of which there is nothing.
    pub(super) missing: Vec<&'static str>,
}

/// The tables of a chain's freezer in every geth.
const TABLES: [&str; 4] = ["bodies", "hashes", "headers", "receipts"];

#[derive(Debug)]
struct Index {
    table: Vec<u8>,
    /// `c` or `r`: packed or not.
    kind: u8,
    entry: Vec<u8>,
    entries: u64,
    /// So many items were removed before the first.
    removed: u32,
    last: (u16, u32),
    ends: BTreeMap<u16, u32>,
    wrong: Option<String>,
}

impl Freezers {
    /// True if its bytes are wanted.
    pub(super) fn file(&mut self, file: CheckedFile<'_>) -> bool {
        self.reading = None;
        let is = |end: &[u8]| file.path.ends_with(end);
        if is(b".cdat") || is(b".rdat") {
            self.remembered += FILE + file.path.len();
            if self.remembered <= MAX_REMEMBERED {
                self.data.insert(file.path.to_vec(), file.length);
            }
            return false;
        }
        if !is(b".cidx") && !is(b".ridx") {
            return false;
        }
        let (table, ending) = file.path.split_at(file.path.len() - 5);
        let (entry, ends) = (Vec::new(), BTreeMap::new());
        let index = Index {
            table: table.to_vec(),
            kind: ending[1],
            entry,
            entries: 0,
            removed: 0,
            last: (0, 0),
            ends,
            wrong: None,
        };
        self.reading = Some(index);
        true
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(index) = &mut self.reading else { return false };
        for byte in bytes {
            index.entry.push(*byte);
            if index.entry.len() == ENTRY {
                index.entry_ends();
            }
        }
        index.wrong.is_none() && self.remembered + END * index.ends.len() <= MAX_REMEMBERED
    }

    /// What is wrong with the index by itself. One that ends within an entry is cut back to the one before.
    pub(super) fn file_end(&mut self) -> Option<String> {
        let index = self.reading.take()?;
        let items = (index.entries > 0).then(|| u64::from(index.removed) + index.entries - 1);
        let (items, ends) = match index.wrong {
            None => (items, index.ends),
            Some(_) => (None, BTreeMap::new()),
        };
        self.remembered += FILE + index.table.len() + END * ends.len();
        if self.remembered <= MAX_REMEMBERED {
            self.indexes.insert(index.table, Counted { kind: index.kind, ends, items });
        }
        index.wrong
    }

    /// The freezers of blocks, but those of which an index is broken; asked for once all files were given.
    pub(super) fn blocks(&self) -> Vec<FrozenBlocks> {
        let mut folders: BTreeMap<&[u8], BTreeMap<&[u8], Option<u64>>> = BTreeMap::new();
        if self.remembered <= MAX_REMEMBERED {
            for (table, Counted { items, .. }) in &self.indexes {
                let (folder, name) = split(table);
                folders.entry(folder).or_default().insert(name, *items);
            }
        }
        let blocks = folders.into_iter().filter(|(_, tables)| tables.contains_key(&b"headers"[..]));
        let blocks = blocks.filter_map(|(folder, tables)| {
            // Others than these may hold fewer: what a chain has none of, or what an older geth has left.
            let counted =
                tables.iter().filter(|(name, _)| TABLES.iter().any(|table| table.as_bytes() == **name));
            let count = counted.map(|(_, count)| *count).min().flatten()?;
            let missing = TABLES.into_iter().filter(|name| !tables.contains_key(name.as_bytes())).collect();
            Some(FrozenBlocks { folder: folder.to_vec(), count, missing })
        });
        blocks.collect()
    }

    pub(super) fn end(&mut self) -> Vec<Finding> {
        if self.remembered > MAX_REMEMBERED {
            let what = "its freezers have too many files to be compared with their indexes".to_owned();
            return vec![Finding { path: Vec::new(), what, severity: Severity::Told }];
        }
        let mut found = Vec::new();
        for (table, Counted { kind, ends, .. }) in std::mem::take(&mut self.indexes) {
            for (number, end) in ends {
                let name = format!(".{number:04}.{}dat", char::from(kind));
                let path = [&table[..], name.as_bytes()].concat();
                let what = match self.data.get(&path) {
                    None if end > 0 => "its index counts on it, and it is not in the backup".to_owned(),
                    Some(length) if *length < u64::from(end) => {
                        format!("it has {length} bytes, and its index counts {end}")
                    }
                    _ => continue,
                };
                found.push(broken(&path, what));
            }
        }
        found
    }
}

impl Index {
    fn entry_ends(&mut self) {
        let [f0, f1, o0, o1, o2, o3] = self.entry[..] else { return };
        self.entry.clear();
        let (file, end) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes([o0, o1, o2, o3]));
        self.entries += 1;
        let (last, last_end) = self.last;
        let goes_on = (file == last && end >= last_end) || Some(file) == last.checked_add(1);
        if self.entries == 1 {
            // Not a place: how many items went before.
            (self.last, self.removed) = ((file, 0), end);
        } else if goes_on {
            self.last = (file, end);
            self.ends.insert(file, end);
        } else {
            self.wrong.get_or_insert(format!("its entry {} goes back", self.entries - 1));
        }
    }
}

/// The folder with its last slash, and the name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1))
}

#[cfg(test)]
mod tests {
    use super::super::ChainsCheck;
    use repository::check::{CheckedFile, ContentCheck};

    fn index(entries: &[(u16, u32)]) -> Vec<u8> {
        entries
            .iter()
            .flat_map(|(file, end)| [&file.to_be_bytes()[..], &end.to_be_bytes()].concat())
            .collect()
    }

    /// Two data files of 90 and 40 bytes, five items; the first two items were removed earlier.
    fn whole() -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("ancient/chain/bodies.0003.cdat", vec![1; 90]),
            ("ancient/chain/bodies.0004.cdat", vec![1; 40]),
            ("ancient/chain/bodies.cidx", index(&[(3, 2), (3, 30), (3, 90), (4, 10), (4, 10), (4, 40)])),
        ]
    }

    fn found(files: &[(&str, Vec<u8>)]) -> Vec<String> {
        let mut check = ChainsCheck::default();
        let mut found = Vec::new();
        for (path, bytes) in files {
            let file = CheckedFile { path: path.as_bytes(), length: bytes.len() as u64, is_proven: false };
            if check.file(file) {
                let mut pieces = bytes.chunks(7);
                while pieces.next().is_some_and(|piece| check.bytes(piece)) {}
                found.extend(check.file_end());
            }
        }
        found.extend(check.end());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_freezer_whose_data_reaches_as_far_as_its_index_is_whole() {
        assert_eq!(found(&whole()), [""; 0]);
        let mut longer = whole();
        longer[1].1.extend([2; 9]);
        longer[2].1.extend([0, 4]);
        assert_eq!(found(&longer), [""; 0], "what is beyond the index does not count");
    }

    #[test]
    fn data_that_is_short_or_missing_is_named() {
        let mut short = whole();
        short[1].1.pop();
        assert_eq!(
            found(&short),
            ["ancient/chain/bodies.0004.cdat: it has 39 bytes, and its index counts 40"]
        );
        let mut gone = whole();
        gone.remove(0);
        assert_eq!(
            found(&gone),
            ["ancient/chain/bodies.0003.cdat: its index counts on it, and it is not in the backup"]
        );
    }

    #[test]
    fn an_index_that_goes_back_is_named() {
        for wrong in [&[(3, 2), (3, 30), (3, 20)][..], &[(3, 2), (3, 30), (2, 40)], &[(3, 2), (5, 40)]] {
            let mut files = whole();
            files[2].1 = index(wrong);
            let found = found(&files);
            assert!(found[0].starts_with("ancient/chain/bodies.cidx: its entry"), "{found:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut files = whole();
            files[2].1 = bytes;
            found(&files);
        }
    }
}
