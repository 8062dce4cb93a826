//! The cache's file: what was written comes back, and what is damaged never does.

use repository::archive::entry::{Extent, Layout, Piece, Timestamp};
use repository::archive::path::EntryPath;
use repository::ids::{BlobId, ContentId, DomainId, RepositoryId};

use super::*;

const OWNER: CacheOwner =
    CacheOwner { repository: RepositoryId::new([1; 16]), domain: DomainId::new([2; 16]) };

fn record(n: u32) -> Record {
    let time = Timestamp { seconds: -5, nanoseconds: n };
    let blob = |byte: u32| BlobId::new([(byte % 250) as u8; 32]);
    let layout = match n % 3 {
        0 => Layout::Sparse(vec![Extent { offset: 5, length: 7 }, Extent { offset: 100, length: 1 }]),
        _ => Layout::Dense,
    };
    Record {
        path: EntryPath::new(format!("folder/{n:06}").as_bytes()).expect("valid"),
        stamp: Stamp { inode: u64::from(n), size: 12, mtime: time, ctime: time },
        trusted: n.is_multiple_of(2),
        read_on: Day(n),
        content: StoredContent {
            id: ContentId::new([3; 32]),
            layout,
            pieces: (0..n % 4).map(|k| Piece { blob: blob(n / 8 + k), offset: n, length: 9 }).collect(),
            lists: (0..n % 2).map(blob).collect(),
        },
    }
}

fn write(place: &std::path::Path, count: u32) {
    let mut writer = CacheWriter::begin(place, &OWNER).expect("begins");
    (0..count).for_each(|n| writer.push(&record(n)).expect("writes"));
    writer.finish(&[BlobId::new([8; 32])]).expect("finishes").commit().expect("is kept");
}

#[test]
fn records_come_back_in_a_merge_with_the_walk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("cache");
    write(&place, 20_000);
    let mut reader = CacheReader::open(&place, &OWNER);
    assert!(reader.is_thin(&BlobId::new([8; 32])) && !reader.is_thin(&BlobId::new([9; 32])));
    for n in (0..20_000).step_by(3) {
        let new = EntryPath::new(format!("folder/{n:06} new").as_bytes()).expect("valid");
        assert_eq!(reader.find(&record(n).path), Some(record(n)));
        assert_eq!(reader.find(&new), None);
    }
    assert_eq!(reader.find(&EntryPath::new(b"z").expect("valid")), None);
}

#[test]
fn a_cache_of_another_repository_or_domain_is_not_used() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("cache");
    write(&place, 1);
    for owner in [
        CacheOwner { repository: RepositoryId::new([9; 16]), ..OWNER },
        CacheOwner { domain: DomainId::new([9; 16]), ..OWNER },
    ] {
        assert_eq!(CacheReader::open(&place, &owner).find(&record(0).path), None);
    }
}

#[test]
fn a_flipped_byte_or_a_cut_loses_records_and_never_changes_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("cache");
    write(&place, 40);
    let whole = std::fs::read(&place).expect("reads");
    let damaged = (0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    let cut = (0..whole.len()).step_by(7).map(|end| whole[..end].to_vec());
    for bytes in damaged.chain(cut) {
        std::fs::write(&place, bytes).expect("writes");
        let mut reader = CacheReader::open(&place, &OWNER);
        for n in 0..40 {
            assert!(reader.find(&record(n).path).is_none_or(|found| found == record(n)));
        }
    }
}

#[test]
fn a_cache_that_was_not_committed_leaves_the_old_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("cache");
    write(&place, 2);
    let mut writer = CacheWriter::begin(&place, &OWNER).expect("begins");
    writer.push(&record(1)).expect("writes");
    drop(writer.finish(&[]).expect("finishes"));
    assert_eq!(CacheReader::open(&place, &OWNER).find(&record(0).path), Some(record(0)));
    assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
}
