//! On a folder that goleveldb has written (400 keys, four tables, two logs, and then it was killed), and on
//! one that Pebble has (the same, its logs cut off).

use super::*;

type Files = BTreeMap<String, Vec<u8>>;

fn written() -> Files {
    written_by("leveldb")
}

fn written_by(engine: &str) -> Files {
    let folder = format!("{}/tests/{engine}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).unwrap().map(|file| {
        let file = file.unwrap();
        (format!("db/{}", file.file_name().into_string().unwrap()), std::fs::read(file.path()).unwrap())
    });
    files.collect()
}

fn found(files: &Files) -> Vec<String> {
    let mut check = LeveldbCheck::default();
    let mut found = Vec::new();
    for (path, bytes) in files {
        let file = CheckedFile { path: path.as_bytes(), length: bytes.len() as u64, is_proven: false };
        if check.file(file) {
            // In odd pieces, as they may come.
            let mut pieces = bytes.chunks(1_009);
            while pieces.next().is_some_and(|piece| check.bytes(piece)) {}
            found.extend(check.file_end());
        }
    }
    found.extend(check.end());
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_folder_as_the_engine_wrote_it_is_whole() {
    let files = written();
    assert_eq!(files.len(), 8);
    assert_eq!(found(&files), [""; 0]);
}

#[test]
fn a_changed_byte_anywhere_in_a_table_or_list_is_found_where_it_is() {
    let files = written();
    for (path, bytes) in files.iter().filter(|(path, _)| !path.ends_with(".log")) {
        let footer = if path.ends_with(".ldb") { bytes.len() - 48 } else { bytes.len() };
        for at in (0..footer).step_by(7).chain(bytes.len() - 8..bytes.len()) {
            let mut files = files.clone();
            files.get_mut(path).unwrap()[at] ^= 0x10;
            let found = found(&files);
            assert!(found.iter().any(|what| what.starts_with(path.as_str())), "{path} at {at}: {found:?}");
        }
    }
}

#[test]
fn a_changed_byte_of_a_log_is_found_but_where_it_looks_like_an_end_that_was_never_written() {
    let files = written();
    let (path, bytes) = files.iter().find(|(path, _)| path.ends_with(".log")).unwrap();
    let missed = (0..bytes.len()).filter(|at| {
        let mut files = files.clone();
        files.get_mut(path).unwrap()[*at] ^= 0x10;
        found(&files).is_empty()
    });
    // The high byte of a chunk's length: the chunk then reaches beyond the end, like one that was cut off.
    let missed = missed.count();
    assert!(missed * 50 < bytes.len(), "{missed} of {} bytes", bytes.len());
}

#[test]
fn a_table_that_is_missing_or_cut_off_is_named() {
    let mut files = written();
    files.remove("db/000005.ldb");
    assert_eq!(found(&files), ["db/MANIFEST-000000: its table 000005 is not in the backup"]);
    let mut files = written();
    files.get_mut("db/000005.ldb").unwrap().pop();
    assert_eq!(
        found(&files),
        [
            "db/000005.ldb: its end is not that of a table: it is cut off or damaged",
            "db/MANIFEST-000000: its table 000005 has 2710 bytes instead of 2711",
        ]
    );
}

#[test]
fn nothing_is_said_of_a_table_or_list_that_the_engine_does_not_look_at() {
    for (engine, table) in [("leveldb", "db/000099.ldb"), ("pebble", "db/000099.sst")] {
        let mut files = written_by(engine);
        // As a copy takes them that is made while they are written.
        files.insert(table.to_owned(), b"the beginning of a table".to_vec());
        files.insert("db/MANIFEST-000098".to_owned(), Vec::new());
        assert_eq!(found(&files), [""; 0], "{engine}");
        // Where it is not known which are in use, all may be.
        files.retain(|path, _| !path.contains("marker") && !path.ends_with("CURRENT"));
        let found = found(&files);
        assert!(found.iter().any(|what| what.starts_with(table)), "{engine}: {found:?}");
        assert!(found.iter().any(|what| what.starts_with("db/MANIFEST-000098")), "{engine}: {found:?}");
    }
}

#[test]
fn what_is_wrong_with_a_table_is_told_when_not_all_files_were_given_and_not_proven_before() {
    let mut files = written();
    let table = files.get_mut("db/000005.ldb").unwrap();
    table[9] ^= 0x10;
    for left_out in ["", "db/CURRENT", "db/MANIFEST-000000"] {
        let mut check = LeveldbCheck::default();
        for (path, bytes) in files.iter().filter(|(path, _)| *path != left_out) {
            let file = CheckedFile { path: path.as_bytes(), length: bytes.len() as u64, is_proven: false };
            if check.file(file) {
                check.bytes(bytes);
                assert_eq!(check.file_end(), [], "{path}");
            }
            assert_eq!(check.is_undecided(), path == "db/000005.ldb", "{path}");
        }
        let told: Vec<_> = check.held_back().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["db/000005.ldb: its block at byte 0 does not match its checksum"], "{left_out}");
    }
    // Read again, it was whole.
    let mut check = LeveldbCheck::default();
    for bytes in [&files["db/000005.ldb"], &written()["db/000005.ldb"]] {
        check.file(CheckedFile { path: b"db/000005.ldb", length: bytes.len() as u64, is_proven: false });
        check.bytes(bytes);
        check.file_end();
    }
    assert_eq!(check.held_back(), []);
}

#[test]
fn a_log_that_is_missing_is_named_and_one_whose_end_was_not_written_is_whole() {
    let mut files = written();
    let log = files.get_mut("db/000010.log").unwrap();
    log.truncate(log.len() - 20);
    assert_eq!(found(&files), [""; 0]);
    files.remove("db/000008.log");
    assert_eq!(
        found(&files),
        ["db/MANIFEST-000000: its log 000008, with what was written last, is not in the backup"]
    );
}

#[test]
fn current_names_a_list_that_is_there() {
    let mut files = written();
    files.remove("db/CURRENT");
    assert_eq!(found(&files), ["db/MANIFEST-000000: CURRENT, which names it, is not in the backup"]);
    files.insert("db/CURRENT".to_owned(), b"MANIFEST-000001\n".to_vec());
    assert_eq!(found(&files), ["db/CURRENT: it names MANIFEST-000001, which is not in the backup"]);
    files.insert("db/CURRENT".to_owned(), b"MANIFEST-000000".to_vec());
    assert_eq!(found(&files), ["db/CURRENT: it names no MANIFEST"]);
}

#[test]
fn a_list_without_its_last_edit_is_told_and_one_of_another_engine_left_alone() {
    let mut files = written();
    files.get_mut("db/MANIFEST-000000").unwrap().pop();
    let told = found(&files);
    assert!(told[0].contains("its last edit is cut off, and does not count"), "{told:?}");
    let mut list = Manifest::default();
    list.edit(&[103, 1, 2, 3]);
    assert_eq!(list.refused, Some(Refused::Foreign));
}

#[test]
fn a_folder_of_pebble_is_whole_and_every_changed_byte_of_its_tables_and_list_is_found() {
    let files = written_by("pebble");
    assert_eq!(found(&files), [""; 0]);
    let listed = match listed(&files["db/MANIFEST-000001"]) {
        Listed::Tables(tables) => tables.len(),
        other => panic!("{other:?}"),
    };
    let tables = files.keys().filter(|path| path.ends_with(".sst")).count();
    assert_eq!(listed, tables);
    for (path, bytes) in
        files.iter().filter(|(path, _)| path.ends_with(".sst") || path.contains("MANIFEST-0"))
    {
        if path.contains("marker") {
            continue;
        }
        let footer = if path.ends_with(".sst") { bytes.len() - 53 } else { bytes.len() };
        for at in (0..footer).step_by(307) {
            let mut files = files.clone();
            files.get_mut(path).unwrap()[at] ^= 0x10;
            let found = found(&files);
            assert!(found.iter().any(|what| what.starts_with(path.as_str())), "{path} at {at}: {found:?}");
        }
    }
}

#[test]
fn what_a_folder_of_pebble_lacks_is_named() {
    let whole = written_by("pebble");
    let table = whole.keys().find(|path| path.ends_with(".sst")).unwrap().clone();
    let mut files = whole.clone();
    files.remove(&table);
    let number = &table[3..9];
    assert_eq!(found(&files), [format!("db/MANIFEST-000001: its table {number} is not in the backup")]);
    let mut files = whole.clone();
    files.remove("db/MANIFEST-000001");
    assert_eq!(found(&files), ["db/MANIFEST-000001: its marker names it, and it is not in the backup"]);
    // The marker counts: `CURRENT` is what an older Pebble would go by.
    let mut files = whole;
    files.retain(|path, _| !path.contains("marker"));
    assert_eq!(found(&files), ["db/CURRENT: it names MANIFEST-000000, which is not in the backup"]);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_fail(
        at in 0..8_usize,
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        is_tail in proptest::bool::ANY,
    ) {
        let mut files = written();
        let file = files.values_mut().nth(at).unwrap();
        let keep = if is_tail { 0 } else { file.len() / 2 };
        file.truncate(keep);
        file.extend(bytes);
        found(&files);
    }
}
