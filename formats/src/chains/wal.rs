//! CometBFT's log: records of a checksum, a length and a message.

use crc_fast::{CrcAlgorithm, Digest};

use crate::leveldb::{proto_message, proto_number};

const HEADER: usize = 8;
/// CometBFT's own limit is a megabyte and some.
const MAX_RECORD: u32 = 2 << 20;
/// The end of a height is told in a shorter record.
const MAX_END: usize = 256;

/// True for the files of the log: `cs.wal/wal` and, finished, `cs.wal/wal.000` and so on.
pub(super) fn is_wal(path: &[u8]) -> bool {
    let Some(name) = path.rsplit(|byte| *byte == b'/').next() else { return false };
    let is_named = name == b"wal"
        || name.strip_prefix(b"wal.").is_some_and(|number| number.iter().all(u8::is_ascii_digit));
    let folder = path[..path.len() - name.len()].strip_suffix(b"/").unwrap_or_default();
    is_named && (folder == b"cs.wal" || folder.ends_with(b"/cs.wal"))
}

/// The place of a part of the log among the others: the one that is written, `wal`, is the last.
pub(super) fn number(path: &[u8]) -> u64 {
    let digits = path.iter().rposition(|byte| *byte == b'.').map(|at| &path[at + 1..]);
    digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(u64::MAX)
}

/// Reads a log as it goes by.
#[derive(Debug, Default)]
pub(super) struct Wal {
    header: Vec<u8>,
    record: Option<Record>,
    at: u64,
    wrong: Option<u64>,
    finished: Option<u64>,
}

#[derive(Debug)]
struct Record {
    sum: u32,
    left: usize,
    digest: Digest,
    /// What it says, where it is short.
    short: Option<Vec<u8>>,
}

impl Wal {
    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() && self.wrong.is_none() {
            let Some(record) = &mut self.record else {
                let now = bytes.len().min(HEADER - self.header.len());
                self.header.extend_from_slice(&bytes[..now]);
                bytes = &bytes[now..];
                self.begin();
                continue;
            };
            let now = bytes.len().min(record.left);
            record.digest.update(&bytes[..now]);
            record.short.iter_mut().for_each(|short| short.extend_from_slice(&bytes[..now]));
            record.left -= now;
            bytes = &bytes[now..];
            self.end_record();
        }
        self.wrong.is_none()
    }

    fn begin(&mut self) {
        let [s0, s1, s2, s3, l0, l1, l2, l3] = self.header[..] else { return };
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if length > MAX_RECORD {
            self.wrong = Some(self.at);
            return;
        }
        let digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let (sum, left) = (u32::from_be_bytes([s0, s1, s2, s3]), length as usize);
        let short = (left <= MAX_END).then(Vec::new);
        self.record = Some(Record { sum, left, digest, short });
        self.end_record();
    }

    fn end_record(&mut self) {
        let Some(record) = self.record.take_if(|record| record.left == 0) else { return };
        if record.digest.finalize() as u32 != record.sum {
            self.wrong = Some(self.at);
        } else if let Some(height) = record.short.as_deref().and_then(end_of_height) {
            self.finished = self.finished.max(Some(height));
        }
        let [.., l0, l1, l2, l3] = self.header[..] else { return };
        self.at += HEADER as u64 + u64::from(u32::from_be_bytes([l0, l1, l2, l3]));
        self.header.clear();
    }

    /// The highest height that it has finished.
    pub(super) fn finished(&self) -> Option<u64> {
        self.finished
    }

    /// What is wrong. A record that was not written to its end is none: the node goes on behind the last one.
    pub(super) fn end(self) -> Option<String> {
        self.wrong.map(|at| format!("its record at byte {at} does not match its checksum"))
    }
}

/// The height whose end a record tells.
fn end_of_height(record: &[u8]) -> Option<u64> {
    proto_number(proto_message(proto_message(record, 2)?, 4)?, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(messages: &[&[u8]]) -> Vec<u8> {
        let record = |message: &&[u8]| {
            let sum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, message) as u32;
            [&sum.to_be_bytes()[..], &(message.len() as u32).to_be_bytes(), message].concat()
        };
        messages.iter().flat_map(record).collect()
    }

    fn wrong(bytes: &[u8]) -> Option<String> {
        let mut wal = Wal::default();
        let mut pieces = bytes.chunks(5);
        while pieces.next().is_some_and(|piece| wal.bytes(piece)) {}
        wal.end()
    }

    #[test]
    fn every_changed_byte_of_a_message_is_found_and_an_end_that_was_not_written_is_none() {
        let whole = log(&[b"a height", b"", b"a vote, and one more"]);
        assert_eq!(wrong(&whole), None);
        for cut in 0..whole.len() {
            assert_eq!(wrong(&whole[..cut]), None, "{cut}");
        }
        for (at, begins) in [(0, 0), (9, 0), (16, 16), (33, 24)] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            let what = format!("its record at byte {begins} does not match its checksum");
            assert_eq!(wrong(&bytes), Some(what), "{at}");
        }
    }

    #[test]
    fn its_files_are_known_by_their_folder() {
        assert!(is_wal(b"data/cs.wal/wal") && is_wal(b"cs.wal/wal.012"));
        assert!(!is_wal(b"data/wal") && !is_wal(b"data/cs.wal/wal.txt") && !is_wal(b"xcs.wal/wal"));
    }
}
