//! Files with more pieces than an entry lists itself.

use std::sync::mpsc::sync_channel;

use repository::archive::entry::{EntryKind, Layout, MAX_INLINE_PIECES, Metadata, Pieces};
use repository::archive::page::decode_pieces;
use repository::archive::path::EntryPath;
use repository::ids::{ContentId, SegmentId};
use repository::pack::blob::{BlobKind, blob_id};

use super::bench::Bench;
use crate::pipeline::known::{KnownBlobs, KnownBlobsBuilder};
use crate::pipeline::ledger::Ledger;
use crate::pipeline::orders::{FileHead, Order, Processed};
use crate::pipeline::packer::Packer;
use crate::pipeline::room::OnItsWay;
use crate::pipeline::sealer::Sealer;
use crate::restore::ArchiveEntries;
use crate::targets::BlobReader;

/// Packs a file that is `count` times the same blob and returns its pieces as the archive has them.
fn pack(count: usize) -> (Pieces, Vec<usize>) {
    let bench = Bench::new();
    let job = bench.job();
    let id = blob_id(&job.id_key, BlobKind::Data, b"x");
    let mut known = KnownBlobsBuilder::default();
    known.add(SegmentId::new([1; 16]), &[id], &[1], &[]).expect("valid");
    let ledger = Ledger::new(known.finish(KnownBlobs::default()));
    let (segments_in, segments_out) = sync_channel(8);
    let (empty, _back) = sync_channel(1);
    let packer = Packer::new(&job, Sealer::new(&job, &ledger, segments_in), empty, None);
    let (orders_in, orders_out) = sync_channel(16);
    let archived = std::thread::scope(|scope| {
        let packed = scope.spawn(move || packer.run(orders_out));
        orders_in.send(Order::FileBegins).expect("taken");
        for _ in 0..count {
            let (reply, coming) = sync_channel(1);
            reply.send(Processed { id, plain: b"x".to_vec(), stored: None }).expect("kept");
            orders_in.send(Order::Piece(coming)).expect("taken");
        }
        let head = FileHead {
            path: EntryPath::new(b"file").expect("valid"),
            metadata: Metadata::default(),
            size: count as u64,
            id: ContentId::new([0; 32]),
            layout: Layout::Dense,
            seen: None,
        };
        orders_in.send(Order::FileEnds(head)).expect("taken");
        orders_in.send(Order::End).expect("taken");
        packed.join().expect("no panic").expect("an archive")
    });
    for OnItsWay { segment, .. } in segments_out {
        bench.wire.segments.lock().expect("locks").insert(segment.id(), segment);
    }
    let mut refs = repository::refs::Refs::new(job.domain);
    for (segment, blobs) in archived.refs.segments().filter(|(id, _)| *id != SegmentId::new([1; 16])) {
        for ordinal in archived.refs.ordinals(&segment) {
            refs.add(repository::refs::BlobAddress { segment, ordinal }, blobs);
        }
    }
    let mut entries = ArchiveEntries::open(bench.blobs(&refs), &archived.root).expect("a page table");
    let entry = entries.next().expect("one").expect("a sound page");
    let EntryKind::File(content) = entry.kind else { panic!("it is a file") };
    let mut blobs = bench.blobs(&refs);
    let lists = match &content.pieces {
        Pieces::Inline(_) => Vec::new(),
        Pieces::Listed(lists) => {
            let mut length = |id| decode_pieces(&blobs.blob(id).expect("there")).expect("sound").len();
            lists.iter().map(&mut length).collect()
        }
    };
    (content.pieces, lists)
}

#[test]
fn as_many_pieces_as_an_entry_may_list_are_listed_in_it() {
    let (pieces, _) = pack(MAX_INLINE_PIECES);
    assert!(matches!(pieces, Pieces::Inline(pieces) if pieces.len() == MAX_INLINE_PIECES));
}

#[test]
fn one_piece_more_moves_all_of_them_to_lists() {
    assert_eq!(pack(MAX_INLINE_PIECES + 1).1, [MAX_INLINE_PIECES, 1]);
}

#[test]
fn every_list_but_the_last_is_full() {
    let count = 3 * MAX_INLINE_PIECES;
    assert_eq!(pack(count).1, [MAX_INLINE_PIECES; 3]);
}
