//! Pins as goleveldb writes them, in logs; what is too much, cut off or not whole.

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
    let shown = |pinned: &Pinned| (pinned.recursive.clone(), pinned.direct.clone(), pinned.files);
    assert_eq!(shown(&pinned), (vec![], vec![b], Some(c)));
    let before = read(&[all[0], all[1], all[3], all[4]]).expect("read");
    assert_eq!((before.recursive.as_slice(), before.roots().count()), (&[a][..], 3));
    assert!(pinned.is_kept_by(&before) && !before.is_kept_by(&pinned));
    // Removed and put back: its blocks may have gone meanwhile.
    let again = log(6, &[(b"/pins/pin/3", Some(&one))]);
    let back = read(&[all[0], all[1], all[2], ("000005.log", &again), all[3], all[4]]).expect("read");
    assert_eq!(shown(&back), shown(&before));
    assert!(!before.is_kept_by(&back) && pinned.is_kept_by(&back));
    // One that is done with.
    let empty = ("000002.log", &[][..]);
    let old = read(&[("000001.log", &first), empty, all[1], all[3], all[4]]).expect("read");
    assert_eq!(shown(&old), (vec![], vec![], Some(c)));
    // The last one may end in the midst, which is told; another one not.
    let short = |log: &'static str, bytes: &[u8]| (log, bytes[..bytes.len() - 1].to_vec());
    for (cut, is_last) in [(short("000004.log", &third), true), (short("000003.log", &second), false)] {
        let mut files = all.to_vec();
        files.iter_mut().filter(|(name, _)| *name == cut.0).for_each(|file| file.1 = &cut.1);
        match read(&files) {
            Ok(pinned) => assert!(is_last && pinned.is_cut_off && pinned.recursive == [a]),
            Err(error) => assert!(!is_last && error.is_damage && error.why.contains("000003"), "{error}"),
        }
    }
    for lacking in [0, 3, 4] {
        let mut files = all.to_vec();
        files.remove(lacking);
        assert!(read(&files).is_err(), "{lacking}");
    }
    let cut = log(7, &[(b"/pins/pin/9", Some(b"no pin"))]);
    assert!(read(&[all[0], ("000005.log", &cut), all[3], all[4]]).expect_err("no pin").why.contains("pin"));
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
    assert_eq!(read(room - 1, &log(1, &pins)), Err(NoPins { why: TOO_MANY.to_owned(), is_damage: false }));
    // One that is written again takes no more.
    let again: Vec<_> = pins.iter().chain(&pins).copied().collect();
    assert!(read(room, &log(1, &again)).is_ok());
    let why = read(MAX_KEPT, &log(1, &[(&long, Some(&pin))])).expect_err("no pin has such a key");
    assert!(why.why.contains("too long") && !why.is_damage, "{why}");
}
