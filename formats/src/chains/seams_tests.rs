//! Nodes whose parts are of one moment, and of several. The stores are small ones of LevelDB, made here; the same on
//! real geth and CometBFT is in `tests/tests/nodes.rs`.

use std::collections::BTreeMap;

use repository::check::{CheckedFile, ContentCheck};

use super::ChainsCheck;
use crate::leveldb::record;

type Files = BTreeMap<String, Vec<u8>>;

/// A store with these keys, all in its log.
fn store(folder: &str, keys: &[(&[u8], &[u8])]) -> Files {
    let text = |text: &[u8]| [&[text.len() as u8][..], text].concat();
    let mut batch = [&1_u64.to_le_bytes()[..], &(keys.len() as u32).to_le_bytes()].concat();
    for (key, value) in keys {
        batch.extend([&[1][..], &text(key), &text(value)].concat());
    }
    let manifest = [&[1][..], &text(b"leveldb.BytewiseComparator"), &[2, 3, 3, 4, 4, 1]].concat();
    Files::from([
        (format!("{folder}/000003.log"), record(&batch)),
        (format!("{folder}/CURRENT"), b"MANIFEST-000002\n".to_vec()),
        (format!("{folder}/MANIFEST-000002"), record(&manifest)),
    ])
}

/// The log of a node that has ended these heights.
fn wal(heights: &[u8]) -> Vec<u8> {
    let ended = |height: &u8| {
        let message = [&[0x0a, 2, 8, 1, 0x12, 4, 0x22, 2, 8][..], &[*height]].concat();
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &message) as u32;
        [&sum.to_be_bytes()[..], &(message.len() as u32).to_be_bytes(), &message].concat()
    };
    heights.iter().flat_map(ended).collect()
}

fn cometbft(blocks: u8, state: u8, ended: u8, signed: u8) -> Files {
    let mut files = store("data/blockstore.db", &[(b"blockStore", &[8, 1, 16, blocks])]);
    files.extend(store("data/state.db", &[(b"stateKey", &[0x12, 1, b'c', 24, state])]));
    files.insert("data/cs.wal/wal".to_owned(), wal(&[ended]));
    files.insert("data/cs.wal/wal.000".to_owned(), wal(&[1, ended]));
    let signer = format!(r#"{{"height":"{signed}","round":0,"step":3}}"#);
    files.insert("data/priv_validator_state.json".to_owned(), signer.into_bytes());
    files
}

fn give(check: &mut ChainsCheck, path: &str, bytes: &[u8], is_proven: bool) -> Vec<super::Finding> {
    let file = CheckedFile { path: path.as_bytes(), length: bytes.len() as u64, is_proven };
    if !check.file(file) {
        return Vec::new();
    }
    let mut pieces = bytes.chunks(7);
    while pieces.next().is_some_and(|piece| check.bytes(piece)) {}
    check.file_end()
}

fn found(files: &Files) -> Vec<String> {
    // What was proven before is compared all the same.
    let all = [false, true].map(|is_proven| {
        let mut check = ChainsCheck::default();
        let mut found = Vec::new();
        for (path, bytes) in files {
            found.extend(give(&mut check, path, bytes, is_proven));
        }
        for _ in 0..9 {
            for path in check.again() {
                let path = String::from_utf8(path).expect("a name");
                if let Some(bytes) = files.get(&path) {
                    found.extend(give(&mut check, &path, bytes, true));
                }
            }
        }
        assert_eq!(check.again(), Vec::<Vec<u8>>::new());
        found.extend(check.end());
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    });
    assert_eq!(all[0], all[1]);
    all[0].clone()
}

#[track_caller]
fn says(files: &Files, path: &str, what: &str) {
    let found = found(files);
    assert!(found.len() == 1 && found[0].starts_with(path) && found[0].contains(what), "{found:#?}");
}

#[test]
fn a_cometbft_of_one_moment_is_whole_whichever_step_of_a_block_it_was_at() {
    for (blocks, state, ended, signed) in
        [(9, 9, 9, 9), (9, 9, 9, 10), (9, 8, 9, 9), (9, 8, 8, 9), (9, 9, 9, 0), (9, 9, 0, 9)]
    {
        assert_eq!(
            found(&cometbft(blocks, state, ended, signed)),
            [""; 0],
            "{blocks} {state} {ended} {signed}"
        );
    }
}

#[test]
fn heights_of_a_cometbft_that_no_moment_had_are_named() {
    says(&cometbft(8, 9, 8, 9), "data/blockstore.db: its blocks end at height 8", "the state is at 9");
    says(&cometbft(9, 7, 9, 9), "data/state.db: it is at height 7", "the blocks go on to 9");
    says(&cometbft(9, 9, 10, 9), "data/cs.wal/wal: it has ended height 10", "the blocks end at 9");
    says(&cometbft(9, 9, 9, 11), "data/priv_validator_state.json:", "signed up to height 11");
    says(&cometbft(9, 9, 9, 5), "data/priv_validator_state.json:", "too old");
    says(&cometbft(0, 9, 0, 0), "data/blockstore.db: it has no block", "the state is at height 9");
    // Where the newest part of the log ends no height, the one before counts.
    let mut files = cometbft(9, 9, 10, 9);
    files.insert("data/cs.wal/wal".to_owned(), Vec::new());
    says(&files, "data/cs.wal/wal: it has ended height 10", "");
}

#[test]
fn heights_that_cannot_be_read_are_told() {
    let mut files = cometbft(9, 9, 9, 9);
    files.extend(store("data/state.db", &[(b"stateKey", &[0xff])]));
    says(&files, "data/state.db: the height of its state was not looked at", "cannot be read");
    files.remove("data/state.db/000003.log");
    let found = found(&files);
    assert!(found.iter().all(|what| !what.contains("was not looked at")), "it is broken: {found:?}");
}

/// A geth with `frozen` blocks in its freezer, and those from `first` to `head` in its store.
fn geth(frozen: u8, first: u8, head: u8) -> Files {
    let hash = |block: u8| [block + 1; 32];
    let key = |block: u8| [&b"h"[..], &u64::from(block).to_be_bytes(), b"n"].concat();
    let number = |block: u8| [&b"H"[..], &hash(block)].concat();
    let mut keys = vec![(key(0), hash(0).to_vec()), (b"LastHeader".to_vec(), hash(head).to_vec())];
    keys.extend((first..=head).map(|block| (key(block), hash(block).to_vec())));
    keys.push((number(head), u64::from(head).to_be_bytes().to_vec()));
    let keys: Vec<(&[u8], &[u8])> = keys.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    let mut files = store("geth/chaindata", &keys);
    for (table, kind) in [("bodies", 'c'), ("hashes", 'r'), ("headers", 'c'), ("receipts", 'c')] {
        let mut index = vec![0; 6];
        let mut data = Vec::new();
        for block in 0..frozen {
            data.extend(hash(block));
            index.extend([&[0, 0][..], &(data.len() as u32).to_be_bytes()].concat());
        }
        let name = |end: &str| format!("geth/chaindata/ancient/chain/{table}.{end}");
        files.insert(name(&format!("0000.{kind}dat")), data);
        files.insert(name(&format!("{kind}idx")), index);
    }
    files
}

#[test]
fn a_geth_whose_store_goes_on_where_its_freezer_ends_is_whole() {
    // Nothing frozen; some; with blocks in both, as after a crash; a store that was begun anew.
    for (frozen, first, head) in [(0, 0, 9), (5, 5, 9), (5, 2, 9), (5, 0, 0), (0, 0, 0)] {
        assert_eq!(found(&geth(frozen, first, head)), [""; 0], "{frozen} {first} {head}");
    }
}

#[test]
fn a_gap_between_freezer_and_store_is_named() {
    says(&geth(5, 7, 9), "geth/chaindata: a gap: the freezer has blocks up to 4, and block 5", "head is 9");
    says(&geth(0, 4, 9), "geth/chaindata: its first blocks are not in it", "not in the backup");
    let mut other = geth(5, 5, 9);
    other.insert("geth/chaindata/ancient/chain/hashes.0000.rdat".to_owned(), vec![99; 160]);
    says(&other, "geth/chaindata: it is of another chain", "");
    // A table that ends earlier is what counts.
    let mut short = geth(5, 5, 9);
    short.get_mut("geth/chaindata/ancient/chain/bodies.cidx").expect("there").truncate(24);
    says(&short, "geth/chaindata: a gap: the freezer has blocks up to 2, and block 3", "head is 9");
    let mut less = geth(5, 5, 9);
    less.retain(|path, _| !path.contains("receipts"));
    says(&less, "geth/chaindata/ancient/chain: its freezer lacks receipts", "");
}

#[test]
fn tables_of_a_freezer_that_not_every_geth_has_do_not_count() {
    // BSC's blobs, of which a chain may have none; the difficulties that an older geth has left.
    for (table, entries) in [("blobs", 1), ("diffs", 3)] {
        let mut files = geth(5, 5, 9);
        let index = vec![0; 6 * entries];
        files.insert(format!("geth/chaindata/ancient/chain/{table}.cidx"), index);
        assert_eq!(found(&files), [""; 0], "{table}");
    }
}

#[test]
fn a_freezer_that_begins_later_is_told_and_not_judged() {
    let mut files = geth(5, 5, 9);
    let key = [&b"h"[..], &0_u64.to_be_bytes(), b"n"].concat();
    let keys: [(&[u8], &[u8]); 3] =
        [(&key, &[1; 32]), (b"LastHeader", &[10; 32]), (b"offSetOfCurrentAncientFreezer", &[3, 232])];
    files.extend(store("geth/chaindata", &keys));
    says(&files, "geth/chaindata: the seam to its freezer was not looked at", "counts from a later one on");
}

#[test]
fn a_head_that_cannot_be_found_is_told() {
    let mut files = geth(5, 7, 9);
    let (key, hash) = ([&b"h"[..], &0_u64.to_be_bytes(), b"n"].concat(), [1; 32]);
    files.extend(store("geth/chaindata", &[(&key, &hash), (b"LastHeader", &[7; 32])]));
    says(&files, "geth/chaindata: the seam to its freezer was not looked at", "head's number");
}

#[test]
fn a_signer_s_state_is_looked_at_however_many_parts_its_log_has_and_what_is_not_is_told() {
    // The log's parts come first in path order. The signer has signed further than the blocks go.
    let mut files = cometbft(9, 9, 9, 30);
    let few = found(&files);
    assert_eq!(few.len(), 1, "{few:?}");
    for part in 1..1_100 {
        files.insert(format!("data/cs.wal/wal.{part:03}"), Vec::new());
    }
    let many = found(&files);
    assert!(many.contains(&few[0]), "{many:?}");
    let left = |one: &&String| one.contains("101 more parts of cs.wal lie in it");
    assert_eq!((many.len(), many.iter().filter(left).count()), (2, 1), "{many:?}");
}
