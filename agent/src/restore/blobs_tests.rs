//! The window, the order and the memory of a restore's blobs, over a stream that counts.

use super::*;
use crate::restore::map::{ArchiveKeys, BlobMapBuilder};
use proto::v1;
use repository::content::IdKey;
use repository::ids::{DomainId, RepositoryId, SegmentId};
use repository::pack::blob::{BlobKind, blob_id};
use repository::refs::BlobAddress;

const ID_KEY: IdKey = IdKey::new([2; 32]);

/// Answers in order; every sealed blob is wrong, but for the addresses in `missing`.
#[derive(Default)]
struct Counting {
    waiting: VecDeque<BlobAddress>,
    most_waiting: usize,
    asked: Vec<u32>,
    kept: u32,
}

impl BlobStream for &mut Counting {
    fn ask(&mut self, address: BlobAddress) -> Result<(), String> {
        self.waiting.push_back(address);
        self.asked.push(address.ordinal);
        self.most_waiting = self.most_waiting.max(self.waiting.len());
        Ok(())
    }

    fn keep(&mut self) {
        self.kept += 1;
    }

    fn receive(&mut self, expected: BlobAddress) -> Result<Fetched, String> {
        assert_eq!(self.waiting.pop_front(), Some(expected), "answers come in the order of the questions");
        Ok(Fetched::Sealed(vec![0; 1024 + 16].into()))
    }
}

fn map(blobs: u32) -> (Arc<BlobMap>, Vec<BlobId>) {
    let keys = ArchiveKeys {
        repository: RepositoryId::new([1; 16]),
        domain: DomainId::new([1; 16]),
        id_key: ID_KEY,
    };
    let mut builder = BlobMapBuilder::new(keys);
    let ids: Vec<BlobId> = (0..blobs).map(|n| blob_id(&ID_KEY, BlobKind::Data, &n.to_le_bytes())).collect();
    let lines = ids.iter().enumerate().map(|(ordinal, id)| v1::BlobLine {
        ordinal: ordinal as u32,
        blob_id: id.as_bytes().to_vec().into(),
        kind: 1,
        codec: 0,
        plain_length: 1024,
        stored_length: 1040,
    });
    let segment = v1::OpenedSegment {
        segment_id: SegmentId::new([1; 16]).as_bytes().to_vec().into(),
        key: vec![3; 32].into(),
        blobs: lines.collect(),
    };
    builder.add(&segment).expect("a sound segment");
    (Arc::new(builder.finish()), ids)
}

#[test]
fn who_asks_for_nothing_for_long_takes_what_came_and_says_that_he_goes_on() {
    let (map, ids) = map(40);
    let mut stream = Counting::default();
    let mut blobs = RemoteBlobs::new(map, &mut stream, Window::DATA);
    blobs.hint(&ids);
    let _ = blobs.blob(&ids[0]).expect_err("its bytes are zeros");
    blobs.meanwhile();
    assert_eq!(blobs.stream.kept, 0, "not at once");
    assert!(!blobs.asked.is_empty(), "more are asked for than are opened at once");
    blobs.heard = Instant::now().checked_sub(KEEP_EVERY).expect("the machine runs for longer");
    blobs.meanwhile();
    assert_eq!((blobs.stream.kept, blobs.asked.len()), (1, 0));
    // What came is handed out, and in its order.
    for id in &ids[1..] {
        let damaged = blobs.blob(id).expect_err("its bytes are zeros");
        assert!(matches!(damaged, BlobError::Damaged { id: named, .. } if named == *id), "{damaged}");
    }
}

#[test]
fn a_blob_with_changed_bytes_is_damaged_and_an_unlisted_one_is_missing() {
    let (map, ids) = map(1);
    let mut stream = Counting::default();
    let mut blobs = RemoteBlobs::new(map, &mut stream, Window::DATA);
    let damaged = blobs.blob(&ids[0]).expect_err("its bytes are zeros");
    assert!(matches!(damaged, BlobError::Damaged { id, .. } if id == ids[0]), "{damaged}");
    let missing = blobs.blob(&BlobId::new([9; 32])).expect_err("nobody lists it");
    assert!(matches!(missing, BlobError::Missing(_)), "{missing}");
}

#[test]
fn no_more_is_asked_for_than_the_window_holds() {
    let (map, ids) = map(100);
    let mut stream = Counting::default();
    let mut blobs =
        RemoteBlobs::new(map, &mut stream, Window { ahead: 10 * 1024, kept: 1 << 20, ..Window::DATA });
    blobs.hint(&ids);
    blobs.blob(&ids[0]).expect_err("its bytes are zeros");
    assert_eq!(stream.most_waiting, 10);
    assert_eq!(stream.asked, (0..10).collect::<Vec<_>>());
}

#[test]
fn what_was_used_longest_ago_leaves_first() {
    let mut kept = Kept::new(30);
    for index in 0..3 {
        kept.add(index, Bytes::from_static(&[0; 10]));
    }
    assert!(kept.get(0).is_some());
    kept.add(3, Bytes::from_static(&[0; 10]));
    assert_eq!((0..4).map(|index| kept.contains(index)).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(kept.bytes, 30);
}
