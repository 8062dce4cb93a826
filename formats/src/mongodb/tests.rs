use super::*;

/// A document with these elements, each its kind, name and value.
fn document(elements: &[(u8, &str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, name, value) in elements {
        body.push(*kind);
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(value);
    }
    let length = u32::try_from(body.len() + 5).expect("short");
    [&length.to_le_bytes()[..], &body, &[0]].concat()
}

fn with_id(id: i32) -> Vec<u8> {
    document(&[(0x10, "_id", &id.to_le_bytes()), (0x02, "text", b"\x03\0\0\0ab\0")])
}

/// What is found in these files, which come in pieces of all lengths.
fn found(files: &[(&str, Vec<u8>)]) -> Vec<String> {
    let of = |piece: usize| {
        let mut check = MongoCheck::default();
        let mut found = Vec::new();
        for (path, bytes) in files {
            let file = CheckedFile { path: path.as_bytes(), length: bytes.len() as u64, is_proven: false };
            if check.file(file) {
                let _ = bytes.chunks(piece).all(|piece| check.bytes(piece));
                found.extend(check.file_end());
            }
        }
        found.extend(check.end());
        found.iter().map(|one| format!("{one} ({:?})", one.severity)).collect::<Vec<_>>()
    };
    let whole = of(usize::MAX);
    for piece in [1, 3, 4, 7, 64] {
        assert_eq!(of(piece), whole, "in pieces of {piece}");
    }
    whole
}

#[test]
fn documents_that_fit_together_are_right_whatever_they_hold() {
    let all: Vec<(u8, &[u8])> = vec![
        (0x01, &[0; 8]),
        (0x02, b"\x02\0\0\0a\0"),
        (0x03, b"\x05\0\0\0\0"),
        (0x04, b"\x05\0\0\0\0"),
        (0x05, b"\x01\0\0\0\0z"),
        (0x06, b""),
        (0x07, &[0; 12]),
        (0x08, &[1]),
        (0x09, &[0; 8]),
        (0x0a, b""),
        (0x0b, b"a\0i\0"),
        (0x0c, b"\x02\0\0\0a\0abcdefghijkl"),
        (0x0d, b"\x02\0\0\0a\0"),
        (0x0e, b"\x02\0\0\0a\0"),
        (0x0f, b"\x0f\0\0\0\x02\0\0\0a\0\x05\0\0\0\0"),
        (0x10, &[0; 4]),
        (0x11, &[0; 8]),
        (0x12, &[0; 8]),
        (0x13, &[0; 16]),
        (0x7f, b""),
        (0xff, b""),
    ];
    let elements: Vec<_> = all.iter().map(|(kind, value)| (*kind, "x", *value)).collect();
    let bytes = [document(&elements), with_id(1), with_id(2)].concat();
    let metadata = br#"{"indexes":[{"key":{"_id":1},"name":"_id_"}],"collectionName":"a"}"#.to_vec();
    assert_eq!(found(&[("shop/a.bson", bytes), ("shop/a.metadata.json", metadata)]), [""; 0]);
    assert_eq!(found(&[("shop/empty.bson", Vec::new()), ("prelude.json", b"{".to_vec())]), [""; 0]);
}

#[test]
fn what_cannot_be_loaded_is_broken_and_says_where() {
    let cut = [with_id(1), with_id(2)[..9].to_vec()].concat();
    assert_eq!(found(&[("a/b.bson", cut)]), ["a/b.bson: document 1 is cut off (Broken)"]);
    let mut endless = with_id(1);
    *endless.last_mut().expect("an end") = 7;
    assert_eq!(found(&[("a/b.bson", endless)]), ["a/b.bson: a document has no end: document 0 (Broken)"]);
    let wrong = [with_id(1), vec![0xff; 8]].concat();
    let said = found(&[("a/b.bson", wrong)]);
    assert_eq!(said, ["a/b.bson: the length of a document is impossible: document 1 (Broken)"]);
    for broken in [document(&[(0x99, "x", b"")]), document(&[(0x02, "x", b"\xff\xff\xff\x7fa\0")])] {
        let said = found(&[("a/b.bson", broken)]);
        assert_eq!(said, ["a/b.bson: an element of a document is broken: document 0 (Broken)"]);
    }
    let same = document(&[(0x12, "_id", &1_i64.to_le_bytes())]);
    let said = found(&[("a/b.bson", [with_id(1), with_id(2), same].concat())]);
    assert_eq!(said, ["a/b.bson: 1 of 3 documents have the _id of another (Broken)"]);
}

#[test]
fn a_description_that_is_none_is_broken_and_quotes_nothing() {
    let said = found(&[("a/b.metadata.json", br#"{"indexes":[{"key":"hunter2"#.to_vec())]);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("line 1") && !said[0].contains("hunter2"), "{said:?}");
    let said = found(&[("a/b.metadata.json", br#"{"indexes":[{"name":"a"}]}"#.to_vec())]);
    assert_eq!(said, ["a/b.metadata.json: its index 0 has no key or no name (Broken)"]);
}

#[test]
fn a_file_of_gridfs_whose_chunks_do_not_sum_up_is_told() {
    let chunk = |file: i32, data: &[u8]| {
        let length = u32::try_from(data.len()).expect("short").to_le_bytes();
        let data = [&length[..], &[0], data].concat();
        document(&[
            (0x07, "_id", &[data.len() as u8; 12]),
            (0x10, "files_id", &file.to_le_bytes()),
            (0x05, "data", &data),
        ])
    };
    let file = |id: i32, length: i64| {
        document(&[(0x10, "_id", &id.to_le_bytes()), (0x12, "length", &length.to_le_bytes())])
    };
    let chunks = [chunk(1, b"abc"), chunk(1, b"de"), chunk(2, b"f")].concat();
    let of = |files: Vec<u8>| found(&[("a/fs.chunks.bson", chunks.clone()), ("a/fs.files.bson", files)]);
    assert_eq!(of([file(1, 5), file(2, 1)].concat()), [""; 0]);
    let said = of([file(1, 6), file(2, 1), file(3, 9)].concat());
    assert_eq!(said, ["a/fs.files.bson: 2 of 3 files have other chunks than their length says (Told)"]);
}
