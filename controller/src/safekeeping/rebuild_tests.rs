//! What manifests tell of validators, where the newest copy of the catalog is older than they are.

use repository::backup::manifest::{ArchiveRecord, Counts, FORMAT, SignedHeight};
use repository::ids::RepositoryId;

use super::*;
use crate::catalog::SignerRecord;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("in this age")
}

/// A backup of one source in which this was seen: it took from one second to the other.
fn backup(sequence: u64, (from, to): (i64, i64), signer: Option<&str>, height: i64) -> BackupRecord {
    let archive = ArchiveRecord {
        source: "blockchain/chain".parse().expect("a source"),
        kind: "blockchain".into(),
        outcome: Outcome::Complete,
        reason: None,
        consistency: None,
        signed: Some(SignedHeight { height, round: 0, step: 3 }),
        signer: signer.map(str::to_owned),
        counts: Counts::default(),
        manifest: repository::signed::Sha256([0; 32]),
        refs: None,
    };
    BackupRecord {
        format: FORMAT,
        repository: RepositoryId::new([1; 16]),
        name: format!("20270101_0100{sequence:02}").parse().expect("a name"),
        sequence,
        job: "job".into(),
        started_at: at(from),
        ended_at: at(to),
        outcome: Outcome::Complete,
        pin: None,
        previous: None,
        archives: vec![archive],
    }
}

async fn catalog(folder: &Path) -> Catalog {
    Catalog::open(&folder.join("catalog.sqlite")).await.expect("opened")
}

#[tokio::test]
async fn what_a_backup_has_seen_after_a_height_was_stated_counts_though_it_began_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = catalog(folder.path()).await;
    let stated = SignerRecord {
        id: "a".into(),
        address: None,
        source: None,
        places: Vec::new(),
        signed: SignedHeight { height: 0, round: 0, step: 0 },
        seen_at: at(50),
        stated: Some((at(50), "somebody".into(), "why".into())),
    };
    catalog.state_signed(&[stated]).await.expect("kept");
    let backups = [backup(1, (10, 40), Some("a"), 20_000), backup(2, (45, 100), Some("a"), 9_000)];
    remember_signed(&catalog, &backups).await.expect("kept");
    let known = catalog.signers().await.expect("listed");
    assert_eq!(known[0].signed.height, 9_000, "the first had ended before");
}

#[tokio::test]
async fn what_was_seen_without_a_key_comes_back_as_the_source_s_own_in_whatever_order_it_is_told() {
    let all = [
        backup(1, (0, 1), Some("a"), 100),
        backup(2, (2, 3), None, 5_000),
        backup(3, (4, 5), Some("b"), 7),
        backup(4, (6, 7), Some("a"), 90),
    ];
    for turn in 0..all.len() {
        let folder = tempfile::tempdir().expect("a folder");
        let catalog = catalog(folder.path()).await;
        let mut backups = all.to_vec();
        backups.rotate_left(turn);
        remember_signed(&catalog, &backups).await.expect("kept");
        let source = "blockchain/chain".parse().expect("a source");
        for key in ["a", "b"] {
            let known = catalog.signed(&source, Some(key)).await.expect("read");
            assert_eq!(known.map(|signed| signed.0), Some(5_000), "{key}");
        }
        let known = catalog.signers().await.expect("listed");
        let mut heights: Vec<_> = known.iter().map(|one| (one.id.as_str(), one.signed.height)).collect();
        heights.sort_unstable();
        assert_eq!(heights, [("a", 100), ("b", 7), ("blockchain/chain", 5_000)]);
    }
}
