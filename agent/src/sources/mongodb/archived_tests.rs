use std::fs;

use mongodb::bson::rawdoc;

use super::*;

const TERMINATOR: [u8; 4] = [0xff; 4];

/// A stream of two collections in turns and a view; and where its documents lie.
fn stream() -> (Vec<u8>, Vec<std::ops::Range<usize>>) {
    let head = rawdoc! { "version": "0.1", "server_version": "7.0.1", "tool_version": "100" };
    let mut bytes = [&[0x6d, 0xe2, 0x99, 0x81], head.as_bytes()].concat();
    let view = r#"{"options":{"viewOn":"a"}}"#;
    for (name, metadata) in [("a", r#"{"indexes":[]}"#), ("b", "{}"), ("v", view)] {
        let said = rawdoc! { "db": "d", "collection": name, "metadata": metadata, "size": 0, "type": "" };
        bytes.extend_from_slice(said.as_bytes());
    }
    bytes.extend_from_slice(&TERMINATOR);
    let document = |i: i32| rawdoc! { "_id": i, "n": "x".repeat(9) }.into_bytes();
    let blocks = [("a", 1..3), ("b", 7..8), ("a", 3..4)];
    let (mut sums, mut places) = ([Crc64::default(), Crc64::default()], Vec::new());
    for (name, ids) in blocks {
        let head = rawdoc! { "db": "d", "collection": name, "EOF": false, "CRC": 0_i64 };
        bytes.extend_from_slice(head.as_bytes());
        let begin = bytes.len();
        for id in ids {
            sums[usize::from(name == "b")].add(&document(id));
            bytes.extend_from_slice(&document(id));
        }
        places.push(begin..bytes.len());
        bytes.extend_from_slice(&TERMINATOR);
    }
    for (name, sum) in ["a", "b"].into_iter().zip(sums) {
        let head = rawdoc! { "db": "d", "collection": name, "EOF": true, "CRC": sum.finish().cast_signed() };
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&TERMINATOR);
    }
    (bytes, places)
}

/// What a stream is refused for; else the source.
fn opened(bytes: &[u8]) -> (tempfile::NamedTempFile, Result<StreamSource, String>) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), bytes).expect("written");
    let subject = repository::check::Subject {
        kind: "mongodb",
        component: "database",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let mut check = formats::check_of(&subject).expect("there is one");
    let source = StreamSource::open(file.path().to_owned(), &mut *check, String::new());
    (file, source.map_err(|why| why.to_string()))
}

/// All files by path.
fn read(mut source: StreamSource) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    while let Some(item) = source.next().expect("it goes on") {
        let Item::Entry(SourceEntry { path, body: Body::File { mut content, stamp, .. }, .. }) = item else {
            continue;
        };
        let (mut bytes, mut piece) = (Vec::new(), [0; 7]);
        content.open().expect("opened");
        loop {
            match content.read(&mut piece).expect("read") {
                0 => break,
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        assert_eq!(stamp.size, bytes.len() as u64);
        files.push((path.to_string(), bytes));
    }
    files
}

#[test]
fn collections_that_take_turns_are_read_each_as_one_file() {
    let (bytes, places) = stream();
    let files = read(opened(&bytes).1.expect("it is whole"));
    let names: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    let expected = ["d/a.bson", "d/a.metadata.json", "d/b.bson", "d/b.metadata.json", "d/v.metadata.json"];
    assert_eq!(names, [&expected[..], &["prelude.json"]].concat());
    assert_eq!(files[0].1, [&bytes[places[0].clone()], &bytes[places[2].clone()]].concat());
    assert_eq!(files[1].1, br#"{"indexes":[]}"#);
    assert_eq!(files[2].1, bytes[places[1].clone()]);
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_refused() {
    let (bytes, _) = stream();
    for length in 0..bytes.len() {
        let why = opened(&bytes[..length]).1.err();
        assert!(why.is_some(), "the first {length} of {} bytes are taken", bytes.len());
    }
}

#[test]
fn a_bit_that_differs_in_a_document_is_found_and_none_anywhere_is_a_panic() {
    let (bytes, places) = stream();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut harmed = bytes.clone();
            harmed[at] ^= 1 << bit;
            let taken = opened(&harmed).1.map(read);
            let is_document = places.iter().any(|place| place.contains(&at));
            assert!(!is_document || taken.is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_stream_that_is_written_to_meanwhile_ends_the_archive() {
    let (bytes, _) = stream();
    let (file, source) = opened(&bytes);
    let mut source = source.expect("it is whole");
    assert!(source.next().expect("it goes on").is_some());
    fs::write(file.path(), [&bytes[..], &[0]].concat()).expect("written");
    let ended = source.next().err().expect("it ends");
    assert!(proto::failure::chain(&ended).contains("written to while it was read"), "{ended}");
}

#[test]
fn names_that_lead_out_of_a_dump_are_refused() {
    let (bytes, _) = stream();
    let head = rawdoc! { "version": "0.1" };
    for (database, collection) in [("..", "a"), ("a/b", "a"), ("", "a"), ("d", ""), ("prelude.json", "a")] {
        let said = rawdoc! { "db": database, "collection": collection, "metadata": "{}", "type": "" };
        let end = rawdoc! { "db": database, "collection": collection, "EOF": true, "CRC": 0_i64 };
        let parts = [&bytes[..4], head.as_bytes(), said.as_bytes(), &TERMINATOR, end.as_bytes(), &TERMINATOR];
        assert!(opened(&parts.concat()).1.is_err(), "{database:?} {collection:?}");
    }
}
