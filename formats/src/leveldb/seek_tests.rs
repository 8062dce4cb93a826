//! On the folders that goleveldb and Pebble have written: under each number stands itself, or a multiple of it.

use proptest::prelude::*;

use super::*;

type Files = std::collections::BTreeMap<String, Vec<u8>>;

fn files(engine: &str) -> Files {
    let folder = format!("{}/tests/{engine}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).expect("a folder").map(|file| {
        let file = file.expect("a file");
        let name = file.file_name().into_string().expect("UTF-8");
        (format!("db/{name}"), std::fs::read(file.path()).expect("read"))
    });
    files.collect()
}

fn of(engine: &str) -> StoreFiles {
    match engine {
        "leveldb" => StoreFiles { manifest: 0, logs: vec![8, 10], ending: "ldb" },
        _ => StoreFiles { manifest: 1, logs: vec![10], ending: "sst" },
    }
}

/// What stands under a number.
fn under(engine: &str, number: u64) -> u64 {
    if engine == "leveldb" { number.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { number }
}

/// What stands under the keys, and how many files were read for it.
fn sought(files: &Files, of: &StoreFiles, keys: &[u64]) -> (Result<Vec<Option<u64>>, String>, usize) {
    let key = |key: &u64| key.to_be_bytes().to_vec();
    let mut seek = Seek::new(b"db/", of, keys.iter().map(key));
    let mut count = 0;
    loop {
        let wanted = seek.wants();
        if wanted.is_empty() {
            break;
        }
        for path in wanted {
            let Some(bytes) = files.get(std::str::from_utf8(&path).expect("a name")) else { continue };
            count += 1;
            if seek.file(&path, bytes.len() as u64) {
                let mut pieces = bytes.chunks(997);
                while pieces.next().is_some_and(|piece| seek.bytes(piece)) {}
                seek.file_end();
            }
        }
    }
    let value = |key: &u64| match seek.value(&key.to_be_bytes()) {
        Err(why) => Err(why.to_owned()),
        Ok(None) => Ok(None),
        Ok(Some(value)) => Ok(value.first_chunk::<8>().map(|number| u64::from_be_bytes(*number))),
    };
    (keys.iter().map(value).collect(), count)
}

#[test]
fn every_key_of_a_store_is_found_in_few_of_its_files() {
    for (engine, least) in [("leveldb", 370), ("pebble", 1_500)] {
        let (files, of) = (files(engine), of(engine));
        let mut held = 0;
        loop {
            let (value, read) = sought(&files, &of, &[held]);
            assert!(read <= 4, "{engine}, {held}: {read} files");
            match value.expect("known")[0] {
                Some(number) => assert_eq!(number, under(engine, held), "{engine}"),
                None => break,
            }
            held += 1;
        }
        assert!(held >= least, "{engine}: {held} numbers");
        // Several at once, and one that was never there.
        let (values, _) = sought(&files, &of, &[0, held - 1, 1 << 40]);
        assert_eq!(values, Ok(vec![Some(0), Some(under(engine, held - 1)), None]), "{engine}");
    }
}

#[test]
fn what_is_not_there_or_is_damaged_is_said_and_not_guessed() {
    for engine in ["leveldb", "pebble"] {
        let (whole, of) = (files(engine), of(engine));
        let known = sought(&whole, &of, &[3]).0.expect("known");
        assert_eq!(known, [Some(under(engine, 3))], "{engine}");
        for name in whole.keys().filter(|name| name.contains("MANIFEST-0") && !name.contains("marker")) {
            let mut files = whole.clone();
            files.remove(name);
            assert!(sought(&files, &of, &[3]).0.is_err(), "{engine} without {name}");
        }
        let mut lies = 0;
        for (name, bytes) in &whole {
            for at in (0..bytes.len()).step_by(61) {
                let mut files = whole.clone();
                files.get_mut(name).expect("there")[at] ^= 0x10;
                let (value, _) = sought(&files, &of, &[3]);
                lies += usize::from(value.is_ok_and(|value| value != known));
            }
        }
        assert_eq!(lies, 0, "{engine}");
    }
}

fn whole(table: &[u8]) -> Held {
    let mut held = Held::of(table.len() as u64, &[]).expect("it is short");
    held.bytes(table);
    held
}

#[test]
fn a_key_is_found_however_little_of_a_table_is_held_at_once() {
    let mut passes_of_all = 0;
    for name in ["leveldb/000005.ldb", "pebble/000005.sst"] {
        let path = format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"));
        let table = std::fs::read(path).expect("there");
        let key = |number: u64| number.to_be_bytes();
        let keys: Vec<u64> = (0..3_000).step_by(97).chain([3, 1 << 40]).collect();
        for number in &keys {
            let expected = find(&whole(&table), &key(*number)).expect("it is whole");
            for tail in [60, 200, 700, 3_000] {
                let mut wanted = Vec::new();
                let mut passes = 0;
                let found = loop {
                    passes += 1;
                    assert!(passes < 8, "{name}, {number}, {tail}: {wanted:?}");
                    let mut held = Held::with_tail(table.len() as u64, tail, &wanted).expect("it is short");
                    table.chunks(997).for_each(|piece| held.bytes(piece));
                    match find(&held, &key(*number)) {
                        Err(Wrong::NotHeld(places)) => wanted.extend(places),
                        other => break other.expect("it is whole"),
                    }
                };
                assert_eq!(found, expected, "{name}, {number}, {tail}");
                passes_of_all = passes_of_all.max(passes);
            }
        }
        assert!(
            keys.iter().any(|number| matches!(find(&whole(&table), &key(*number)), Ok(Some(_)))),
            "{name}"
        );
    }
    assert!(passes_of_all > 2, "{passes_of_all}: too much was held to prove anything");
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail(bytes: Vec<u8>, key: Vec<u8>) {
        let _ = find(&whole(&bytes), &key);
        let mut found = BTreeMap::from([(key, None)]);
        let _ = writes(&bytes, &mut found);
        let _ = proto_number(&bytes, 1);
        let _ = proto_message(&bytes, 1);
        let mut log = Log::numbered(7);
        log.bytes(&bytes, &mut |_| ());
        log.end(&mut |_| ());
    }

    #[test]
    fn no_changed_byte_of_a_table_makes_it_fail(at in 0_usize..18_365, bit in 0_u8..8) {
        for name in ["leveldb/000005.ldb", "pebble/000005.sst"] {
            let path = format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"));
            let mut table = std::fs::read(path).expect("there");
            let at = at % table.len();
            table[at] ^= 1 << bit;
            let _ = find(&whole(&table), &3_u64.to_be_bytes());
        }
    }
}
