//! Parts of a node that are of different moments: each by itself is whole, the engine refuses them together, and a
//! verification says so and names which.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::{System, pause, wait_for};

use crate::cometbft::Comet;
use crate::geth::{Freezing, Geth};
use crate::node::program;
use crate::system;

const DAMAGED: i32 = 4;

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.parent().expect("a parent")).expect("made");
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("it runs").success());
}

/// A backup of what lies there now, verified: how that ended, and all it said.
fn verified(system: &System) -> (i32, String) {
    system.run(&["backup"]);
    let verified = system.nsctl(&["verify", "--depth", "opened", "-o", "json"]);
    let job: Value = verified.json();
    (verified.code, job.to_string())
}

#[track_caller]
fn says(system: &System, code: i32, what: &[&str]) {
    let (ended, said) = verified(system);
    assert_eq!(ended, code, "{said}");
    for what in what {
        assert!(said.contains(what), "{what} is not in {said}");
    }
    assert!(!said.contains("was not looked at"), "{said}");
}

#[test]
fn a_cometbft_whose_parts_are_of_different_moments_is_found_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let [home, old, new] = ["node", "old", "new"].map(|name| folder.path().join(name));
    let more = |comet: Comet| {
        let height = comet.height();
        wait_for("blocks", 60, || {
            comet.put();
            (comet.height() > height + 6).then_some(())
        });
        comet.stop();
    };
    more(Comet::make(&home, "50ms"));
    copy(&home, &old);
    // What stood in logs stands in tables after a start.
    more(Comet::open(&home));
    more(Comet::open(&home));
    copy(&home, &new);
    let (before, after) = (Comet::signed(&old), Comet::signed(&new));
    let system = system(&home);
    says(&system, 0, &[]);
    let mixed = |of: &Path, from: &Path, part: &str| {
        copy(of, &home);
        copy(&from.join("data").join(part), &home.join("data").join(part));
    };
    let refuses = || {
        let mut start = Command::new(program("cometbft"));
        start.arg("start").arg("--home").arg(&home).args(["--proxy_app", "persistent_kvstore"]);
        start.args(["--rpc.laddr", "tcp://127.0.0.1:0", "--p2p.laddr", "tcp://127.0.0.1:0"]);
        let ended =
            Command::new("timeout").arg("20").arg(start.get_program()).args(start.get_args()).output();
        let ended = ended.expect("it runs");
        let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        assert_ne!(ended.status.code(), Some(124), "it starts: {said}");
        said
    };
    mixed(&old, &new, "state.db");
    says(&system, DAMAGED, &["data/blockstore.db: its blocks end at height", "not of one moment"]);
    assert!(refuses().contains("StateBlockHeight"));
    mixed(&old, &new, "blockstore.db");
    says(&system, DAMAGED, &["data/state.db: it is at height", "not of one moment"]);
    assert!(refuses().contains("StoreBlockHeight"));
    mixed(&old, &new, "cs.wal");
    says(&system, DAMAGED, &["data/cs.wal/wal: it has ended height", "the blocks end at"]);
    // A signer that is ahead or behind keeps no node from starting: it is told.
    mixed(&old, &new, "priv_validator_state.json");
    says(&system, 0, &[&format!("its validator has signed up to height {after}")]);
    mixed(&new, &old, "priv_validator_state.json");
    says(&system, 0, &[&format!("its validator has signed up to height {before}"), "too old"]);
    // The log's checksum.
    mixed(&new, &new, "cs.wal");
    let wal = home.join("data/cs.wal/wal");
    let mut bytes = fs::read(&wal).expect("a log");
    bytes[20] ^= 1;
    fs::write(&wal, bytes).expect("written");
    says(&system, DAMAGED, &["data/cs.wal/wal: its record at byte 0 does not match its checksum"]);
    println!("cometbft: heights {before} and {after}; six kinds of damage found and named");
}

#[test]
fn a_gap_between_the_freezer_and_the_store_of_a_geth_is_found_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let [data, none, some, most, other] =
        ["node", "none", "some", "most", "other"].map(|name| folder.path().join(name));
    let grow = |data: &Path, to: u64| {
        let geth = Geth::start(data, &["--gcmode", "archive"]);
        while geth.head().0 < to {
            geth.pay();
        }
        geth.stop();
        pause(200);
    };
    grow(&data, 60);
    copy(&data, &none);
    Freezing::new(&data).run(40);
    copy(&data, &some);
    Freezing::new(&data).run(10);
    copy(&data, &most);
    grow(&other, 10);
    Freezing::new(&other).run(5);
    let system = system(&data);
    says(&system, 0, &[]);
    let ancient = "geth/chaindata/ancient";
    let mixed = |store: &Path, freezer: &Path| {
        copy(store, &data);
        copy(&freezer.join(ancient), &data.join(ancient));
    };
    let refused = || {
        let opened =
            Command::new(program("gethfreeze")).arg(data.join("geth/chaindata")).arg("1000").output();
        let opened = opened.expect("it runs");
        assert!(!opened.status.success());
        String::from_utf8_lossy(&opened.stderr).into_owned()
    };
    // Blocks in both are no harm.
    mixed(&none, &most);
    says(&system, 0, &[]);
    mixed(&most, &some);
    says(&system, DAMAGED, &["geth/chaindata: a gap: the freezer has blocks up to", "whose head is 60"]);
    assert!(refused().contains("gap in the chain"), "{}", refused());
    mixed(&most, &none);
    says(&system, DAMAGED, &["geth/chaindata: its first blocks are not in it"]);
    assert!(refused().contains("already extracted"), "{}", refused());
    mixed(&most, &other);
    says(&system, DAMAGED, &["geth/chaindata: it is of another chain than its freezer"]);
    assert!(refused().contains("genesis mismatch"), "{}", refused());
    println!(
        "geth: a gap, a freezer that is gone and one of another chain found and named, as geth says them"
    );
}
