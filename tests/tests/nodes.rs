//! Nodes of chains by their real programs, as who runs them sees it: backed up while they run, restored, started
//! again. geth keeps every block that was there before a backup; a CometBFT chain goes on, and its validator
//! signs no height twice.
//!
//! The programs are built once per machine by `tests/engines/chain`: some minutes. Suite `engines`.

#[path = "nodes/cometbft.rs"]
mod cometbft;
#[path = "nodes/drill.rs"]
mod drill;
#[path = "nodes/geth.rs"]
mod geth;
#[path = "nodes/node.rs"]
mod node;
#[path = "nodes/seams.rs"]
mod seams;
#[path = "nodes/snapshots.rs"]
mod snapshots;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use tests::{System, wait_for};

use cometbft::Comet;
use geth::{Freezing, Geth};

/// A system that backs up `folder` as a chain.
fn system(folder: &Path) -> System {
    let mut system = System::prepare(&[]);
    system.configure_agent(&format!(
        "  - {{ component: blockchain, kind: blockchain, name: chain, path: {} }}\n",
        folder.display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

/// Takes a backup; what its archive's manifest says.
fn backup(system: &System) -> Value {
    let job = system.run(&["backup"]);
    assert_eq!(job["parts"][0]["problems"], serde_json::json!([]), "{job:#}");
    let name = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["name"].clone();
    let folder = system.repository().join(name.as_str().expect("a name"));
    let manifest = fs::read(folder.join("blockchain/chain.json")).expect("a manifest");
    serde_json::from_slice(&manifest).expect("JSON")
}

/// What a job has written down.
fn log_of_job(system: &System, job: &Value) -> String {
    system.nsctl(&["logs", job["id"].as_str().expect("an id")]).expect(0).out
}

/// The newest backup as it comes back in another place.
fn restored(system: &System, to: &Path, more: &[&str]) -> PathBuf {
    let _ = fs::remove_dir_all(to);
    let words = ["restore", "--timestamp", "latest", "--yes", "--to", to.to_str().expect("UTF-8")];
    system.run(&[&words[..], more].concat());
    to.join("blockchain")
}

/// The address of a validator's key.
fn address(home: &Path) -> String {
    let key = fs::read(home.join("config/priv_validator_key.json")).expect("a key");
    let key: Value = serde_json::from_slice(&key).expect("JSON");
    key["address"].as_str().expect("an address").to_owned()
}

/// Somebody tries a copy out, whose blocks nobody else signs: what the validator has signed on the live chain since the
/// moment of the backup, which its end has seen already, does not count there.
fn tries_a_copy(system: &System, home: &Path) {
    let words = ["signer", "set", &address(home), "0", "--reason", "a copy is tried out", "--yes"];
    system.nsctl(&words).expect(0);
}

/// Does `what` again and again until `work` is done.
fn meanwhile<T>(what: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let again = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                what();
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        again.join().expect("it did not fail");
        done
    })
}

#[test]
fn a_geth_in_archive_mode_keeps_every_block_that_was_there_before_any_of_twenty_backups() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, scratch) = (folder.path().join("node"), folder.path().join("restored"));
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
            let manifest = backup(&system);
            assert_eq!(manifest["consistency"], "bracketed", "{manifest:#}");
            assert_eq!(manifest["quiesce"], serde_json::json!({ "by": "bracket", "held_ms": 0 }));
            let there = restored(&system, &scratch, &[]);
            let opened = Geth::start(&there, &["--gcmode", "archive"]);
            assert!(opened.head().0 >= number, "backup {nth}: {} is not {number}", opened.head().0);
            assert_eq!(opened.hash(number), Some(hash), "backup {nth}, block {number}");
            heads.push(number);
        }
        heads
    });
    println!("geth, archive: 20 of 20 backups opened with every block, heads {heads:?}");
    assert!(heads.last() > heads.first(), "it went on meanwhile");
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
}

#[test]
fn a_geth_in_its_default_mode_goes_back_on_a_copy_of_a_running_one_as_its_manifest_tells() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    let geth = Geth::start(&data, &[]);
    while geth.head().0 < 60 {
        geth.pay();
    }
    let (system, genesis) = (system(&data), geth.hash(0));
    let (before, _) = geth.head();
    let manifest = backup(&system);
    let (after, _) = geth.head();
    assert_eq!(manifest["consistency"], "bracketed", "{manifest:#}");
    // The remark is there, and what it says is what happens.
    let remarks = manifest["remarks"].to_string();
    assert!(
        remarks.contains("if geth ran in its default mode") && remarks.contains("it goes back"),
        "{remarks}"
    );
    let opened = Geth::start(&restored(&system, &scratch, &[]), &[]);
    let (head, hash) = opened.head();
    println!("geth, default mode: head {before} before the backup, {after} after it, {head} on the copy");
    assert!(head < before, "it went back no block ({head}, {before}), though its manifest tells so");
    // What it goes back to is a block of the same chain.
    assert_eq!((geth.hash(head), opened.hash(0)), (Some(hash), genesis));
    drop(opened);
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);

    // Stopped before, it comes back with every block: the remark says that, too.
    let (head, hash) = geth.head();
    geth.stop();
    backup(&system);
    let opened = Geth::start(&restored(&system, &scratch, &[]), &[]);
    assert_eq!(opened.hash(head), Some(hash), "stopped at {head}, opened at {}", opened.head().0);
}

#[test]
fn a_geth_whose_blocks_move_into_the_freezer_meanwhile_never_comes_back_with_a_gap() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    let geth = Geth::start(&data, &["--gcmode", "archive"]);
    while geth.head().0 < 160 {
        geth.pay();
    }
    let (number, hash) = geth.head();
    let early = geth.hash(5).expect("block 5");
    geth.stop();
    let system = system(&data);
    let mut frozen = Vec::new();
    // Blocks go into the freezer, and from the store, while it is backed up.
    let freezing = Freezing::new(&data);
    for nth in 0..6_u64 {
        let keep = 150 - 20 * nth;
        freezing.down_to(keep, || backup(&system));
        let there = restored(&system, &scratch, &[]);
        // Data beyond its index is cut off by whoever opens it to write; `--dev` begins by reading only, and
        // would refuse it, as it does after a crash.
        Freezing::new(&there).run(1_000_000);
        let opened = Geth::start(&there, &["--gcmode", "archive"]);
        assert!(opened.head().0 >= number, "backup {nth}: {}", opened.head().0);
        assert_eq!(opened.hash(number), Some(hash.clone()), "backup {nth}");
        assert_eq!(opened.hash(5), Some(early.clone()), "backup {nth}");
        frozen.push(opened.ancients());
    }
    println!("geth, freezer: opened with {frozen:?} blocks in it");
    assert!(frozen.windows(2).all(|two| two[0] <= two[1]) && frozen.last() > Some(&50), "{frozen:?}");
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
    // Data that is shorter than its index says is named.
    let headers = data.join("geth/chaindata/ancient/chain/headers.0000.cdat");
    let length = fs::metadata(&headers).expect("there").len();
    fs::OpenOptions::new().write(true).open(&headers).expect("opened").set_len(length - 7).expect("cut");
    system.run(&["backup"]);
    let damaged = system.nsctl(&["verify", "--depth", "opened", "--all", "-o", "json"]).expect(4).json();
    assert!(damaged.to_string().contains("headers.0000.cdat: it has"), "{damaged:#}");
}

#[test]
fn a_cometbft_chain_goes_on_from_a_backup_and_its_validator_signs_no_height_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let (home, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    let comet = Comet::make(&home, "50ms");
    let system = system(&home);
    let mut signed_last = 0;
    let mut quiesced = Vec::new();
    for nth in 0..5_u64 {
        let height = meanwhile(
            || comet.put(),
            || {
                tests::pause(700);
                let height = comet.height();
                let manifest = backup(&system);
                assert!(
                    manifest["quiesce"]["held_ms"].as_u64().is_some_and(|held| held < 2_000),
                    "{manifest:#}"
                );
                quiesced.push(manifest["quiesce"].to_string());
                height
            },
        );
        assert!(!comet.is_stopped());
        wait_for("the next block", 20, || (comet.height() > height).then_some(()));
        tries_a_copy(&system, &home);
        // The first copy without its key signs nothing; who has it back says that nobody else signs any more.
        let there = restored(&system, &scratch, &["--signer-height", "1"]);
        let signed = Comet::signed(&there);
        assert!(signed >= height && signed >= signed_last, "backup {nth}: {signed}, {height}");
        signed_last = signed;
        let opened = Comet::open(&there);
        wait_for("a chain that goes on", 30, || (opened.height() > signed + 2).then_some(()));
        assert!(Comet::signed(&there) > signed);
        drop(opened);
    }
    println!("cometbft: 5 of 5 backups go on; {quiesced:?}");
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);

    // In place, the live state stays: the blocks are those of the backup, and what was signed is not signed again.
    let before = backup(&system);
    assert_ne!(before["consistency"], "fuzzy");
    wait_for("more blocks", 30, || (comet.height() > signed_last + 10).then_some(()));
    comet.stop();
    let signed = Comet::signed(&home);
    system.run(&["restore", "--timestamp", "latest", "--yes", "--no-safety-backup"]);
    assert_eq!(Comet::signed(&home), signed);
    let again = Comet::open(&home);
    let stands = wait_for("it runs", 30, || Some(again.height()).filter(|height| *height > 0));
    wait_for("it refuses to sign", 30, || again.log().contains("height regression").then_some(()));
    tests::pause(2_000);
    assert!(again.height() <= stands + 1, "a height was signed twice: {} after {stands}", again.height());
    assert!(Comet::signed(&home) >= signed);
    again.stop();

    // Nobody knows what was signed: not without a word of who runs it.
    let state = home.join("data/priv_validator_state.json");
    fs::remove_file(&state).expect("removed");
    let refused = system.nsctl(&["restore", "--timestamp", "latest", "--yes", "--no-safety-backup"]);
    assert_ne!(refused.code, 0);
    assert!(format!("{}{}", refused.out, refused.err).contains("--signer-height"));
    assert!(!state.exists());

    // What was seen is remembered by the key's address; what its operator states counts from then on.
    let address = address(&home);
    let known = system.nsctl(&["signer", "list", "-o", "json"]).expect(0).json();
    let known = &known["signers"][0];
    assert_eq!(known["address"], address.as_str(), "{known:#}");
    assert!(known["height"].as_u64().is_some_and(|height| height >= signed_last), "{known:#}");
    let stated = (signed + 50).to_string();
    system
        .nsctl(&["signer", "set", &address, &stated, "--reason", "the network's height", "--yes"])
        .expect(0);
    let words = ["restore", "--timestamp", "latest", "--yes", "--no-safety-backup", "--signer-height", "1"];
    system.run(&words);
    assert_eq!(Comet::signed(&home), signed + 50);
}

#[test]
fn a_cometbft_that_never_rests_is_paused_for_its_backup_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (home, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    let comet = Comet::make(&home, "0s");
    let system = system(&home);
    let manifest = meanwhile(|| comet.put(), || backup(&system));
    println!("cometbft, never at rest: {}", manifest["quiesce"]);
    assert_eq!((&manifest["consistency"], &manifest["quiesce"]["by"]), (&"quiesced".into(), &"pause".into()));
    let held = manifest["quiesce"]["held_ms"].as_u64().expect("a number");
    assert!((1..2_000).contains(&held), "{held} ms");
    assert!(!comet.is_stopped());
    let height = comet.height();
    wait_for("the next block", 20, || (comet.height() > height).then_some(()));
    tries_a_copy(&system, &home);
    let there = restored(&system, &scratch, &["--signer-height", "1"]);
    comet.stop();
    let signed = Comet::signed(&there);
    let opened = Comet::open(&there);
    wait_for("a chain that goes on", 30, || (opened.height() > signed + 2).then_some(()));
}
