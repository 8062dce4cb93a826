//! Folders of chains that are made to take memory: whatever their files say, no more than 64 MiB are taken to look into
//! them; and what lies in tables that are longer than that is found all the same.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use formats::chains::ChainsCheck;
use repository::check::{CheckedFile, ContentCheck};

const MOST: usize = 64 << 20;
const MIB: usize = 1 << 20;

/// Counts what is taken: no other way tells of what was asked for and given back.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(
    unsafe_code,
    reason = "an allocator has no safe form; it passes on what it is given and counts bytes"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

type Bytes = Arc<Vec<u8>>;
type Files = BTreeMap<String, Bytes>;

/// What is found, and the most that was taken for it.
fn found(files: &Files) -> (Vec<String>, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut check = ChainsCheck::default();
    let mut found = Vec::new();
    let mut give = |check: &mut ChainsCheck, path: &str, bytes: &[u8]| {
        if check.file(CheckedFile { path: path.as_bytes(), length: bytes.len() as u64, is_proven: false }) {
            let mut pieces = bytes.chunks(64 << 10);
            while pieces.next().is_some_and(|piece| check.bytes(piece)) {}
            found.extend(check.file_end());
        }
    };
    for (path, bytes) in files {
        give(&mut check, path, bytes);
    }
    for _ in 0..16 {
        for path in check.again() {
            let path = String::from_utf8(path).expect("a name");
            if let Some(bytes) = files.get(&path) {
                give(&mut check, &path, bytes);
            }
        }
    }
    found.extend(check.end());
    drop(check);
    let most = PEAK.load(Ordering::Relaxed) - before;
    (found.iter().map(ToString::to_string).collect(), most)
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    sum.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    [&varint(text.len()), text].concat()
}

/// A log with these records.
fn log(records: &[Vec<u8>]) -> Vec<u8> {
    const BLOCK: usize = 32 << 10;
    let mut bytes = Vec::new();
    for record in records {
        let (mut rest, mut is_first) = (&record[..], true);
        loop {
            let room = BLOCK - bytes.len() % BLOCK;
            if room < 7 {
                bytes.resize(bytes.len() + room, 0);
                continue;
            }
            let (now, after) = rest.split_at(rest.len().min(room - 7));
            let kind = match (is_first, after.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let summed = [&[kind], now].concat();
            bytes.extend([&masked(&summed)[..], &(now.len() as u16).to_le_bytes(), &summed].concat());
            (rest, is_first) = (after, false);
            if rest.is_empty() {
                break;
            }
        }
    }
    bytes
}

/// A key as a table has it.
fn numbered(key: &[u8]) -> Vec<u8> {
    [key, &0x0101_u64.to_le_bytes()].concat()
}

fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &varint(key.len())[..], &varint(value.len()), key, value].concat()
}

fn add_block(table: &mut Vec<u8>, entries: &[u8]) -> Vec<u8> {
    let at = table.len();
    table.extend_from_slice(entries);
    table.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, 0]);
    let sum = masked(&table[at..]);
    table.extend_from_slice(&sum);
    [varint(at), varint(table.len() - 5 - at)].concat()
}

/// A table of LevelDB with these blocks, each with its last key and its entries.
fn table(blocks: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut index = Vec::new();
    for (last, entries) in blocks {
        let place = add_block(&mut table, entries);
        index.extend(entry(&numbered(last), &place));
    }
    let meta = add_block(&mut table, &[]);
    let index = add_block(&mut table, &index);
    let mut footer = [meta, index].concat();
    footer.resize(40, 0);
    table.extend(footer);
    table.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
    table
}

/// A MANIFEST that lists the table `000004` of this length, which may hold every key, and so many that lie in others.
fn manifest(length: usize, within_others: usize) -> Bytes {
    let listed = |tag: u8, number: usize| {
        let (first, last) = (text(&numbered(b"a")), text(&numbered(b"z")));
        [&[tag, 0][..], &varint(number), &varint(length), &first, &last].concat()
    };
    let mut edits = vec![[&[1][..], &text(b"leveldb.BytewiseComparator"), &[2, 0, 3, 99, 4, 1]].concat()];
    edits.push(listed(7, 4));
    let within = |number| [&listed(103, number)[..], &[0, 0, 66, 4, 1]].concat();
    edits.extend((5..5 + within_others).map(within));
    Arc::new(log(&edits))
}

/// So many nodes of CometBFT, whose stores have one table each.
fn nodes(count: usize, within_others: usize, blocks: &Bytes, state: &Bytes) -> Files {
    let current = Arc::new(b"MANIFEST-000002\n".to_vec());
    let stores = [("blockstore.db", blocks), ("state.db", state)]
        .map(|(name, table)| (name, table, manifest(table.len(), within_others)));
    let mut files = Files::new();
    for node in 0..count {
        for (name, table, manifest) in &stores {
            let path = |file| format!("{node:04}/data/{name}/{file}");
            files.insert(path("MANIFEST-000002"), manifest.clone());
            files.insert(path("CURRENT"), current.clone());
            files.insert(path("000004.ldb"), (*table).clone());
        }
    }
    files
}

/// The message in which a height stands, with so much beside it.
fn height(field: u8, height: u8, more: usize) -> Vec<u8> {
    [&[field << 3, height, 0x7a][..], &varint(more), &vec![0x55; more]].concat()
}

/// A table with the heights in one block, and with so much before and after it.
fn long(key: &[u8], value: &[u8], beside: usize) -> Bytes {
    let filler = |name: &'static [u8]| {
        (0..beside / (64 << 10)).map(move |_| (name.to_vec(), entry(&numbered(name), &vec![7; 64 << 10])))
    };
    let mut blocks: Vec<(Vec<u8>, Vec<u8>)> = filler(b"a").collect();
    blocks.push((key.to_vec(), entry(&numbered(key), value)));
    blocks.extend(filler(b"z"));
    let blocks: Vec<_> = blocks.iter().map(|(last, entries)| (&last[..], entries.clone())).collect();
    Arc::new(table(&blocks))
}

fn is_within(what: &str, files: &Files) -> Vec<String> {
    let (found, most) = found(files);
    println!("{what}: {} files, {most} bytes at most, {} findings", files.len(), found.len());
    assert!(most < MOST, "{what}: {most} bytes were taken");
    found
}

#[test]
fn no_folder_of_a_chain_takes_more_than_a_fixed_memory() {
    // What is looked for lies in the midst of tables that are longer than may be held.
    let blocks = long(b"blockStore", &height(2, 8, 0), 60 * MIB);
    let state = long(b"stateKey", &height(3, 9, 0), 5 * MIB);
    let said = is_within("a long table", &nodes(1, 0, &blocks, &state));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("blocks end at height 8, and the state is at 9"), "{said:?}");

    // Long values: of one node they are read, of many no more than may be kept.
    let blocks = long(b"blockStore", &height(2, 9, MIB), 0);
    let state = long(b"stateKey", &height(3, 9, MIB), 0);
    assert_eq!(is_within("a long value", &nodes(1, 0, &blocks, &state)), [""; 0]);
    let said = is_within("long values of many nodes", &nodes(32, 0, &blocks, &state));
    assert!(said.iter().any(|what| what.contains("take too much memory")), "{said:?}");
    let blocks = long(b"blockStore", &height(2, 9, 63 * MIB), 0);
    let said = is_within("a value that is a table", &nodes(32, 0, &blocks, &state));
    assert!(said.iter().all(|what| what.contains("was not looked at")), "{said:?}");

    // Lists in which every table may hold the key, of every node.
    let small = long(b"stateKey", &height(3, 9, 0), 0);
    let said = is_within("tables that may hold it", &nodes(32, 300_000, &small, &small));
    assert!(said.iter().all(|what| what.contains("cannot be followed")) && said.len() == 32, "{said:?}");

    // An index of hundreds of thousands of blocks.
    let mut many = Vec::new();
    let meta = add_block(&mut many, &[]);
    let block = add_block(&mut many, &entry(&numbered(b"b"), b""));
    let mut index = entry(&numbered(b"b"), &block);
    // The same key, shared with the one before.
    let again = [&[9, 0, block.len() as u8][..], &block].concat();
    (0..800_000).for_each(|_| index.extend(&again));
    let place = add_block(&mut many, &index);
    let mut footer = [meta, place].concat();
    footer.resize(40, 0);
    many.extend(footer);
    many.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
    let said = is_within("an index of many blocks", &nodes(1, 0, &Arc::new(many), &small));
    // It was looked into, as far as an index may go.
    assert!(matches!(&said[..], [said] if said.contains("000004.ldb: its index cannot be read")), "{said:?}");

    // Stores without end, and files of freezers with long names.
    let mut files = nodes(3_000, 0, &small, &small);
    let said = is_within("many nodes", &files);
    let no_block = said.iter().filter(|what| what.contains("it has no block, and the state is at height 9"));
    assert_eq!((no_block.count(), said.len()), (32, 33), "{said:?}");
    assert!(said[32].contains("2968 more nodes lie in it"), "{}", said[32]);
    let name = "n".repeat(4_000);
    let (data, index) = (Arc::new(vec![]), Arc::new(vec![0; 6]));
    for number in 0..10_000 {
        files.insert(format!("{name}/{number}.0000.cdat"), data.clone());
        files.insert(format!("{name}/{number}.cidx"), index.clone());
    }
    let said = is_within("long names", &files);
    assert!(said.iter().any(|what| what.contains("too many files")), "{said:?}");

    // Nodes in the folders of each other's logs, so that a log lies in all of them, with paths as an archive may have
    // them and as Linux has them.
    let blocks = long(b"blockStore", &height(2, 8, 0), 0);
    let state = long(b"stateKey", &height(3, 9, 0), 0);
    let one = nodes(1, 0, &blocks, &state);
    let within = |depth| "cs.wal/".repeat(depth);
    let of_node = |depth| {
        let of = move |(path, bytes): (&String, &Bytes)| {
            (format!("{}{}", within(depth), path.trim_start_matches("0000/data/")), bytes.clone())
        };
        one.iter().map(of)
    };
    let nested: Files = (0..32).flat_map(of_node).collect();
    for (length, is_too_long) in [(65_535, true), (4_000, false)] {
        let mut files = nested.clone();
        let beside = within(32).len() + "/cs.wal/wal.000".len();
        let folder = format!("{}{}", within(32), "n".repeat(length - beside));
        files.extend((0..1_000).map(|part| (format!("{folder}/cs.wal/wal.{part:03}"), data.clone())));
        let said = is_within("logs of many nodes", &files);
        let count = |what: &str| said.iter().filter(|said| said.contains(what)).count();
        assert_eq!(count("blocks end at height 8, and the state is at 9"), 32, "{said:?}");
        let too_long = count("1000 files were not looked at: their paths have more than 4096 bytes");
        assert_eq!(too_long, usize::from(is_too_long), "{said:?}");
        // Where nothing is broken, those are told that are not remembered.
        let long_names: Files = files.into_iter().filter(|(path, _)| path.contains('n')).collect();
        let twice = |(path, bytes): (String, Bytes)| [(format!("o{path}"), bytes.clone()), (path, bytes)];
        let said = is_within("logs of no node", &long_names.into_iter().flat_map(twice).collect());
        let told = if is_too_long { "2000 files were not looked at" } else { "1738 more parts of cs.wal" };
        assert!(matches!(&said[..], [said] if said.contains(told)), "{said:?}");
    }
}
