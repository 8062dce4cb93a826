use super::*;
use crate::ids::{DomainId, RepositoryId};
use crate::pack::blob::{BlobKind, BlobLine, Codec};
use crate::pack::file::PlacedSegment;
use crate::pack::seal::{SealedKey, SegmentContext};
use crate::pack::segment::SegmentHeader;

const DOMAIN: DomainId = DomainId::new([7; 16]);
const MIB: u32 = 1 << 20;

fn segment(number: u8) -> SegmentId {
    SegmentId::new([number; 16])
}

/// A segment of blobs of these lengths; 0 is an absent one of 1 MiB.
fn table(number: u8, lengths: &[u32]) -> SegmentTable {
    let line = |(nth, length): (usize, &u32)| BlobLine {
        id: BlobId::new([number.wrapping_mul(16).wrapping_add(nth as u8); 32]),
        kind: BlobKind::Data,
        codec: Codec::Zstd,
        absent: *length == 0,
        plain_length: 2 * MIB,
        stored_length: if *length == 0 { MIB } else { *length },
    };
    let lines: Vec<BlobLine> = lengths.iter().enumerate().map(line).collect();
    let header = SegmentHeader {
        class: Class::Data,
        context: SegmentContext {
            repository: RepositoryId::new([1; 16]),
            domain: DOMAIN,
            segment: segment(number),
        },
        key: SealedKey { epoch: 1, encapsulated: [0; 32], sealed: [0; 48] },
        blobs: lines.len() as u32,
        body_length: lengths.iter().map(|length| u64::from(*length)).sum(),
    };
    SegmentTable { header, lines }
}

fn pack(number: u8, segments: &[SegmentTable]) -> IndexedPack {
    let mut offset = file::HEADER as u64;
    let place = |table: &SegmentTable| {
        let placed = PlacedSegment { offset, table: table.clone() };
        offset += table.segment_length();
        placed
    };
    let segments = segments.iter().map(place).collect();
    IndexedPack { id: PackId::new([number; 32]), length: offset, segments }
}

fn live(named: &[(u8, u32, u32)]) -> Refs {
    let mut refs = Refs::new(DOMAIN);
    for (number, ordinal, blobs) in named {
        refs.add(BlobAddress { segment: segment(*number), ordinal: *ordinal }, *blobs);
    }
    refs
}

fn ids(packs: &[(PackId, u64)]) -> Vec<u8> {
    packs.iter().map(|(pack, _)| pack.as_bytes()[0]).collect()
}

fn sources(decision: &Decision) -> Vec<Vec<u8>> {
    let of = |copying: &Copying| copying.sources.iter().map(|source| source.pack.as_bytes()[0]).collect();
    decision.copies.iter().map(of).collect()
}

fn all_sound(_: &IndexedPack) -> Standing {
    Standing::Sound
}

#[test]
fn a_pack_of_which_nothing_is_needed_is_dead_and_others_stay() {
    let packs = [pack(1, &[table(1, &[8 * MIB, MIB])]), pack(2, &[table(2, &[MIB, MIB])])];
    let decision = decide(&packs, &live(&[(1, 0, 2)]), all_sound);
    assert_eq!((ids(&decision.dead), ids(&decision.spare)), (vec![2], vec![]));
    assert!(decision.copies.is_empty(), "most of pack 1 is needed");
    assert_eq!(decision.total.packs, 2);
}

#[test]
fn what_lies_in_a_better_pack_too_is_spare() {
    let old = pack(1, &[table(1, &[8 * MIB, 8 * MIB])]);
    let rewritten = pack(2, &[table(1, &[8 * MIB, 0])]);
    let decision = decide(&[old.clone(), rewritten.clone()], &live(&[(1, 0, 2)]), all_sound);
    assert_eq!((ids(&decision.dead), ids(&decision.spare)), (vec![], vec![1]));
    let decision = decide(&[old, rewritten], &live(&[(1, 0, 2), (1, 1, 2)]), all_sound);
    assert_eq!(ids(&decision.spare), [2], "the other blob is needed again, and only the old pack has it");
}

#[test]
fn a_damaged_pack_is_a_place_only_where_there_is_no_other() {
    let packs = [pack(1, &[table(1, &[MIB, MIB])]), pack(2, &[table(1, &[MIB, 0])])];
    let first_damaged = |pack: &IndexedPack| match pack.id.as_bytes()[0] {
        1 => Standing::Damaged,
        _ => Standing::Sound,
    };
    let decision = decide(&packs, &live(&[(1, 0, 2)]), first_damaged);
    assert_eq!(ids(&decision.spare), [1]);
    let decision = decide(&packs, &live(&[(1, 0, 2), (1, 1, 2)]), first_damaged);
    assert!(decision.dead.is_empty() && decision.spare.is_empty());
    assert_eq!(sources(&decision), Vec::<Vec<u8>>::new(), "nothing is copied from a damaged pack");
}

#[test]
fn a_pack_that_is_gone_holds_nothing_and_the_loss_is_told() {
    let packs = [pack(1, &[table(1, &[MIB, MIB])])];
    let decision = decide(&packs, &live(&[(1, 1, 2)]), |_| Standing::Gone);
    assert_eq!(decision.lost, [BlobAddress { segment: segment(1), ordinal: 1 }]);
    assert!(decision.dead.is_empty() && decision.spare.is_empty() && decision.total.packs == 0);
}

#[test]
fn a_copy_under_the_same_id_is_needed_where_the_blob_itself_is_unsound() {
    let mut copy = table(2, &[MIB]);
    copy.lines[0].id = table(1, &[MIB]).lines[0].id;
    let packs = [pack(1, &[table(1, &[MIB])]), pack(2, &[copy])];
    let decision = decide(&packs, &live(&[(1, 0, 1)]), all_sound);
    assert_eq!(ids(&decision.dead), [2]);
    for standing in [Standing::Damaged, Standing::Gone] {
        let first = |pack: &IndexedPack| {
            if pack.id.as_bytes()[0] == 1 { standing } else { Standing::Sound }
        };
        let decision = decide(&packs, &live(&[(1, 0, 1)]), first);
        assert!(decision.dead.is_empty(), "{standing:?}");
    }
}

#[test]
fn a_table_without_blobs_stays_while_the_segment_is_needed() {
    let packs = [pack(1, &[table(1, &[0, 0])])];
    let decision = decide(&packs, &live(&[(1, 0, 2)]), all_sound);
    assert!(decision.dead.is_empty() && decision.spare.is_empty());
    assert_eq!(decision.lost.len(), 1);
    assert_eq!(ids(&decide(&packs, &live(&[]), all_sound).dead), [1]);
}

#[test]
fn a_mostly_dead_pack_is_rewritten_with_its_ordinals_kept() {
    let packs = [pack(1, &[table(1, &[8 * MIB, MIB, MIB]), table(2, &[2 * MIB])])];
    let decision = decide(&packs, &live(&[(1, 1, 3), (1, 2, 3)]), all_sound);
    assert_eq!(sources(&decision), [[1]]);
    let source = &decision.copies[0].sources[0];
    assert!(source.is_half_dead);
    let [(0, left)] = &source.survivors[..] else { panic!("{:?}", source.survivors) };
    assert_eq!(left.lines.iter().map(|line| line.absent).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(left.header.body_length, u64::from(2 * MIB));
    assert_eq!(decision.copies[0].length, pack(9, std::slice::from_ref(left)).length);
}

#[test]
fn small_packs_are_merged_when_there_are_enough_of_them_and_classes_stay_apart() {
    let small = |number: u8| pack(number, &[table(number, &[MIB])]);
    let all = |count: u8| live(&(1..=count).map(|number| (number, 0, 1)).collect::<Vec<_>>());
    let three: Vec<IndexedPack> = (1..=3).map(small).collect();
    assert!(decide(&three, &all(3), all_sound).copies.is_empty());
    let mut many: Vec<IndexedPack> = (1..=20).map(small).collect();
    let decision = decide(&many, &all(20), all_sound);
    assert_eq!(sources(&decision), [(1..=15).collect::<Vec<u8>>(), (16..=20).collect()]);
    assert!(decision.copies.iter().all(|copying| copying.length <= TARGET));

    for pack in many.iter_mut().take(2) {
        pack.segments[0].table.header.class = Class::Metadata;
        pack.segments[0].table.lines[0].kind = BlobKind::Page;
    }
    let decision = decide(&many, &all(20), all_sound);
    assert!(!sources(&decision).concat().contains(&1), "two small packs of metadata are too few");
}

#[test]
fn merged_packs_replace_the_small_ones_and_are_not_merged_again() {
    let tables: Vec<SegmentTable> = (1..=8).map(|number| table(number, &[MIB])).collect();
    let mut packs: Vec<IndexedPack> =
        tables.iter().zip(1..).map(|(table, number)| pack(number, std::slice::from_ref(table))).collect();
    packs.push(pack(100, &tables));
    let all = live(&(1..=8).map(|number| (number, 0, 1)).collect::<Vec<_>>());
    let decision = decide(&packs, &all, all_sound);
    assert_eq!(ids(&decision.spare), (1..=8).collect::<Vec<u8>>());
    assert!(decision.copies.is_empty());
}

#[test]
fn the_brake_holds_above_a_fifth() {
    for (part, whole, held) in [(0, 0, false), (1, 5, false), (2, 5, true), (20, 100, false), (21, 100, true)]
    {
        assert_eq!(is_braked(part, whole), held, "{part} of {whole}");
    }
}
