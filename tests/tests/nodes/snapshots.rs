//! The same nodes on Btrfs: each backup is read from a snapshot, and none of them waits for it.
//!
//! Needs root, loop devices, `mkfs.btrfs` and `btrfs`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tests::{Disk, System, wait_for};

use super::cometbft::Comet;
use super::geth::{Freezing, Geth};
use super::{backup, meanwhile, restored, system, tries_a_copy};

/// A subvolume for a node.
fn node() -> (Disk, PathBuf) {
    let disk = Disk::make(2 << 30, &["mkfs.btrfs", "-q"], "rw");
    let node = disk.path().join("node");
    let made = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&node).status();
    assert!(made.is_ok_and(|made| made.success()), "this test needs btrfs-progs");
    (disk, node)
}

/// A backup without a problem, and of a snapshot.
fn snapshot(system: &System) -> Value {
    let manifest = backup(system);
    assert_eq!(
        (&manifest["consistency"], &manifest["quiesce"]),
        (&json!("snapshot"), &Value::Null),
        "{manifest:#}"
    );
    manifest
}

#[test]
fn a_geth_keeps_every_block_in_twenty_snapshots_and_has_no_gap_while_its_freezer_fills() {
    let (disk, data) = node();
    let scratch = disk.beside().join("restored");
    let geth = Geth::start(&data, &["--gcmode", "archive", "--dev.period", "1"]);
    let system = system(&data);
    let pay = || {
        geth.pay();
        tests::pause(100);
    };
    let heads = meanwhile(pay, || {
        wait_for("blocks", 30, || (geth.head().0 >= 3).then_some(()));
        let mut heads = Vec::new();
        for nth in 0..20 {
            let (number, hash) = geth.head();
            snapshot(&system);
            let opened = Geth::start(&restored(&system, &scratch, &[]), &["--gcmode", "archive"]);
            assert!(opened.head().0 >= number, "backup {nth}: {} is not {number}", opened.head().0);
            assert_eq!(opened.hash(number), Some(hash), "backup {nth}, block {number}");
            heads.push(number);
        }
        heads
    });
    println!("geth on btrfs: 20 of 20 snapshots opened with every block, heads {heads:?}");
    while geth.head().0 < 120 {
        geth.pay();
    }
    let (number, hash) = geth.head();
    geth.stop();
    let mut frozen = Vec::new();
    let freezing = Freezing::new(&data);
    for nth in 0..6_u64 {
        freezing.down_to(110 - 20 * nth, || snapshot(&system));
        let there = restored(&system, &scratch, &[]);
        Freezing::new(&there).run(1_000_000);
        let opened = Geth::start(&there, &["--gcmode", "archive"]);
        assert_eq!(opened.hash(number), Some(hash.clone()), "backup {nth}");
        frozen.push(opened.ancients());
    }
    println!("geth on btrfs, freezer: opened with {frozen:?} blocks in it");
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
}

#[test]
fn a_cometbft_that_never_rests_is_not_paused_and_goes_on_from_each_snapshot() {
    let (disk, home) = node();
    let scratch = disk.beside().join("restored");
    let comet = Comet::make(&home, "0s");
    let system = system(&home);
    for nth in 0..10 {
        let manifest = meanwhile(
            || {
                comet.put();
                assert!(!comet.is_stopped(), "it is paused");
            },
            || snapshot(&system),
        );
        tries_a_copy(&system, &home);
        let there = restored(&system, &scratch, &["--signer-height", "1"]);
        let signed = Comet::signed(&there);
        assert!(manifest["signed"]["height"].as_u64().is_some_and(|height| height >= signed), "{manifest:#}");
        let opened = Comet::open(&there);
        wait_for(&format!("a chain that goes on from backup {nth}"), 30, || {
            (opened.height() > signed + 2).then_some(())
        });
    }
    println!("cometbft on btrfs: 10 of 10 snapshots go on");
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
}
