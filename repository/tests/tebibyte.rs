//! What a tebibyte in a repository costs whoever has its index in memory, and what it takes beside the data.
//!
//! No data is made: the index of packs as full ones are, blobs of a mebibyte in them. docs/scale.md has the figures,
//! and those of what a tebibyte is in real data. `NEURASHIELD_TEBIBYTES=16` takes more than the gate's sixteenth.

use std::fs;

use repository::ids::{BlobId, DomainId, PackId, RepositoryId, SegmentId};
use repository::index::{DomainIndex, IndexFile, IndexedPack};
use repository::pack::blob::{BlobKind, BlobLine, Class, Codec};
use repository::pack::file::PlacedSegment;
use repository::pack::seal::{SealedKey, SegmentContext};
use repository::pack::segment::{FULL_BODY, SegmentHeader, SegmentTable};
use repository::refs::{BlobAddress, Refs};

const BLOB: u32 = 1 << 20;
const TEBIBYTE: u64 = 1 << 40;

/// The nth of ids that are as good as random.
fn id<const N: usize>(what: &str, n: u64) -> [u8; N] {
    let mut id = [0; N];
    let mut hasher = blake3::Hasher::new();
    hasher.update(what.as_bytes()).update(&n.to_le_bytes());
    hasher.finalize_xof().fill(&mut id);
    id
}

fn pack(n: u64, blobs: u64) -> IndexedPack {
    let line = |blob| BlobLine {
        id: BlobId::new(id("blob", n * blobs + blob)),
        kind: BlobKind::Data,
        codec: Codec::Raw,
        absent: false,
        plain_length: BLOB,
        stored_length: BLOB + 16,
    };
    let lines: Vec<BlobLine> = (0..blobs).map(line).collect();
    let header = SegmentHeader {
        class: Class::Data,
        context: SegmentContext {
            repository: RepositoryId::new([1; 16]),
            domain: DomainId::new([2; 16]),
            segment: SegmentId::new(id("segment", n)),
        },
        key: SealedKey { epoch: 0, encapsulated: [3; 32], sealed: [4; 48] },
        blobs: lines.len() as u32,
        body_length: lines.iter().map(|line| u64::from(line.stored_length)).sum(),
    };
    let segments = vec![PlacedSegment { offset: 16, table: SegmentTable { header, lines } }];
    IndexedPack { id: PackId::new(id("pack", n)), length: FULL_BODY as u64, segments }
}

/// What this process has in memory, in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages = status.split(' ').nth(1).and_then(|text| text.parse::<u64>().ok());
    pages.expect("a number of pages") * 4096
}

#[test]
fn what_a_tebibyte_costs() {
    let tebibytes: f64 = std::env::var("NEURASHIELD_TEBIBYTES")
        .map_or(1.0 / 16.0, |text| text.parse().expect("NEURASHIELD_TEBIBYTES is a number"));
    let blobs_of_pack = FULL_BODY as u64 / u64::from(BLOB);
    let packs = (tebibytes * (TEBIBYTE / FULL_BODY as u64) as f64) as u64;
    let blobs = packs * blobs_of_pack;
    let before = memory();
    let index = DomainIndex::new((0..packs).map(|n| pack(n, blobs_of_pack)));
    let loaded = memory() - before;
    let some = BlobAddress { segment: SegmentId::new(id("segment", packs / 2)), ordinal: 3 };
    assert!(index.copies(&some).is_empty(), "no other pack has it");
    let looked_up = memory() - before;

    let mut refs = Refs::new(DomainId::new([2; 16]));
    for pack in index.packs() {
        for ordinal in 0..blobs_of_pack as u32 {
            refs.add(
                BlobAddress { segment: pack.segments[0].table.header.context.segment, ordinal },
                blobs_of_pack as u32,
            );
        }
    }
    let refs = refs.encode().len() as u64;
    let thousand = index.packs()[..1000.min(index.packs().len())].to_vec();
    let of_file = thousand.len() as u64 * blobs_of_pack;
    let domain = DomainId::new([2; 16]);
    let file = IndexFile { domain, replaces: Vec::new(), packs: thousand }.encode().len() as u64;

    println!("{packs} packs, {blobs} blobs");
    println!("memory of the index: {} bytes a blob", loaded / blobs);
    println!("the same once a blob was looked for by its id: {} bytes a blob", looked_up / blobs);
    println!("index files: {} bytes a blob; refs: {} bytes a pack", file / of_file, refs / packs);
    assert!(loaded / blobs <= 96 && looked_up / blobs <= 128, "{loaded} and {looked_up} for {blobs} blobs");
    assert!(file / of_file <= 64 && refs / packs <= 64, "{file} and {refs}");
}
