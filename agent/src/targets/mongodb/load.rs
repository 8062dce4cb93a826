//! Loads the documents of one collection, and proves that the server holds them as they were sent.
//!
//! Must stay true: memory is that of a few batches, however large a collection is; when this returns, with an
//! error too, nothing is on its way to the server any more.

use std::collections::VecDeque;

use mongodb::bson::RawDocumentBuf;
use mongodb::bson::raw::{RawBsonRef, RawDocument};
use repository::archive::entry::FileContent;
use repository::archive::path::EntryPath;

use super::archive::Contents;
use super::error::{RestoreError, failed};
use super::indexes::shown;
use super::select::Name;
use crate::sources::mongodb::server::{Inserting, NotInserted, Server};
use crate::targets::{CancelFlag, Progress};

/// A batch has at most so many documents and, but for a single one, bytes.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;
/// Batches on their way at once.
const SENT: usize = 3;
/// The longest document that a server keeps; it allows itself a little more in places.
const LONGEST: usize = (16 << 20) + (16 << 10);
const SHORTEST: usize = 5;

/// How many documents there were and which, whatever their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) count: u64,
    digest: [u64; 4],
    /// Some of them a server changes when it takes them.
    pub(super) is_changed: bool,
}

impl Sum {
    fn add(&mut self, document: &[u8]) {
        self.count += 1;
        let hash = *blake3::hash(document).as_bytes();
        for (sum, part) in self.digest.iter_mut().zip(hash.chunks_exact(8)) {
            let part = u64::from_le_bytes(part.try_into().expect("eight bytes"));
            *sum = sum.wrapping_add(part);
        }
    }

    /// What differs between what was sent and what is there.
    pub(super) fn differs(&self, there: &Sum) -> Option<String> {
        if self.count != there.count {
            return Some(format!("it holds {} documents of {}", there.count, self.count));
        }
        let differs = !self.is_changed && self.digest != there.digest;
        differs.then(|| "it holds other documents than it was given".to_owned())
    }
}

/// Where documents go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Into<'a> {
    /// What they will be.
    pub(super) name: &'a Name,
    /// The collection that takes them.
    pub(super) staged: &'a str,
    /// They have to arrive in their order.
    pub(super) in_order: bool,
}

/// Sends the documents of `content`, and says what they were.
pub(super) fn load(
    server: &Server,
    contents: &mut Contents<'_>,
    (path, content): (&EntryPath, &FileContent),
    into: Into<'_>,
    progress: &dyn Progress,
) -> Result<Sum, RestoreError> {
    let mut sending = Sending { server, into, batch: Vec::new(), bytes: 0, sent: VecDeque::new() };
    let (mut sum, mut held) = (Sum::default(), Vec::new());
    let read = contents.read(path, content, &mut |piece| {
        held.extend_from_slice(piece);
        let mut done = 0;
        while let Some(document) = first(&held[done..]).map_err(|cause| RestoreError::archive(path, cause))? {
            sum.add(document);
            sum.is_changed |= has_empty_timestamp(document);
            let length = document.len();
            let document = RawDocumentBuf::from_bytes(document.to_vec());
            let document =
                document.map_err(|_| RestoreError::archive(path, "it holds what is no document"))?;
            sending.add(document)?;
            done += length;
        }
        held.drain(..done);
        progress.bytes_written(piece.len() as u64);
        Ok(())
    });
    let ended = read.and_then(|()| match held.is_empty() {
        true => Ok(()),
        false => Err(RestoreError::archive(path, "its last document is cut off")),
    });
    let ended = ended.and_then(|()| sending.send());
    // The first trouble counts, and nothing is left on its way.
    let waited = sending.wait();
    ended.and(waited).map(|()| sum)
}

/// What the server holds in a collection, as most of its members have it.
pub(super) fn read_back(
    server: &Server,
    name: &Name,
    staged: &str,
    cancel: &CancelFlag,
) -> Result<Sum, RestoreError> {
    let action = || format!("read back {name}");
    // What one member alone has may go with it: then it is not read here either.
    server.confirm(&name.database, staged).map_err(failed(action()))?;
    let mut cursor = server.read_written(&name.database, staged, BATCH as u32).map_err(failed(action()))?;
    let (mut sum, mut held) = (Sum::default(), Vec::new());
    let read = loop {
        if cancel.is_cancelled() {
            break Err(RestoreError::Cancelled);
        }
        match server.more(&mut cursor, &mut held) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(trouble) => break Err(failed(action())(trouble)),
        }
        let mut rest = held.as_slice();
        while let Ok(Some(document)) = first(rest) {
            sum.add(document);
            rest = &rest[document.len()..];
        }
        held.clear();
    };
    server.close(cursor);
    read.map(|()| sum)
}

/// The first document of `bytes`, if all of it is there.
fn first(bytes: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    let Some(length) = bytes.first_chunk() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if !(SHORTEST..=LONGEST).contains(&length) {
        return Err("it holds what is no document");
    }
    Ok(bytes.get(..length))
}

/// A server writes the time into a timestamp of zero.
fn has_empty_timestamp(document: &[u8]) -> bool {
    let Ok(document) = RawDocument::from_bytes(document) else { return false };
    let is_empty = |value: RawBsonRef<'_>| matches!(value, RawBsonRef::Timestamp(stamp) if stamp.time == 0 && stamp.increment == 0);
    document.iter().any(|element| element.is_ok_and(|(_, value)| is_empty(value)))
}

/// A batch that fills, and those that are on their way.
struct Sending<'a> {
    server: &'a Server,
    into: Into<'a>,
    batch: Vec<RawDocumentBuf>,
    bytes: usize,
    sent: VecDeque<Inserting>,
}

impl Sending<'_> {
    fn add(&mut self, document: RawDocumentBuf) -> Result<(), RestoreError> {
        let length = document.as_bytes().len();
        if self.batch.len() == BATCH || (self.bytes + length > BATCH_BYTES && !self.batch.is_empty()) {
            self.send()?;
        }
        self.bytes += length;
        self.batch.push(document);
        Ok(())
    }

    fn send(&mut self) -> Result<(), RestoreError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let most = if self.into.in_order { 1 } else { SENT };
        while self.sent.len() >= most {
            self.wait_for_one()?;
        }
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        self.sent.push_back(self.server.insert(&self.into.name.database, self.into.staged, batch));
        Ok(())
    }

    fn wait_for_one(&mut self) -> Result<(), RestoreError> {
        let Some(sent) = self.sent.pop_front() else { return Ok(()) };
        self.server.inserted(sent).map_err(|error| not_loaded(self.into.name, error))
    }

    /// All that is on its way has arrived, or is lost.
    fn wait(&mut self) -> Result<(), RestoreError> {
        let mut ended = Ok(());
        while !self.sent.is_empty() {
            ended = ended.and(self.wait_for_one());
        }
        ended
    }
}

fn not_loaded(name: &Name, NotInserted { trouble, document }: NotInserted) -> RestoreError {
    const SAME_KEY: i32 = 11_000;
    if trouble.code == Some(SAME_KEY) {
        let id = document.and_then(|document| document.get("_id").ok().flatten().map(shown));
        let id = id.map(|id| format!(" {id}")).unwrap_or_default();
        return RestoreError::Duplicates(format!(
            "{name}: two documents of the backup have the same _id{id}"
        ));
    }
    failed(format!("load {name}"))(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Timestamp, rawdoc};

    #[test]
    fn documents_are_found_by_their_length_and_nothing_else_is_taken_for_one() {
        let one = rawdoc! { "_id": 1 }.into_bytes();
        let two = [one.clone(), one.clone()].concat();
        assert_eq!(first(&two), Ok(Some(&one[..])));
        assert_eq!(first(&one[..7]), Ok(None));
        assert_eq!(first(&one[..2]), Ok(None));
        assert!(first(&[4, 0, 0, 0, 0]).is_err() && first(&[0xff; 8]).is_err());
    }

    #[test]
    fn a_sum_tells_documents_apart_and_not_their_order() {
        let sum = |documents: &[&[u8]]| {
            let mut sum = Sum::default();
            documents.iter().for_each(|document| sum.add(document));
            sum
        };
        assert_eq!(sum(&[b"a", b"b"]).differs(&sum(&[b"b", b"a"])), None);
        let fewer = sum(&[b"a", b"b"]).differs(&sum(&[b"a"])).expect("it differs");
        assert!(fewer.contains("1 documents of 2"), "{fewer}");
        assert!(sum(&[b"a", b"b"]).differs(&sum(&[b"a", b"a"])).is_some());
    }

    #[test]
    fn only_a_timestamp_of_zero_is_changed_by_a_server() {
        let stamped = |time| rawdoc! { "_id": 1, "t": Timestamp { time, increment: 0 } }.into_bytes();
        assert!(has_empty_timestamp(&stamped(0)) && !has_empty_timestamp(&stamped(1)));
        assert!(!has_empty_timestamp(&rawdoc! { "_id": 1, "d": { "x": 0 } }.into_bytes()));
    }
}
