//! IPFS, as a user sees it: what a node keeps is backed up while it is in use and while it collects garbage, and comes
//! back into the node, every pin and path with the same bytes; a block that is missing, withheld or false is named; a
//! kill at any step leaves nothing of ours, and no files that are neither old nor new.
//!
//! The node is js-ipfs, which speaks Kubo's RPC but for what docs/ipfs.md lists. `NEURASHIELD_IPFS=long` takes 2,000
//! objects; `ipfs_long.rs` does more.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tests::ipfs::{Between, Filled, Lie, Node, RAW, fill, look_into_car, noise, system};
use tests::{Process, System, wait_for};

fn is_long() -> bool {
    std::env::var("NEURASHIELD_IPFS").is_ok_and(|form| form == "long")
}

fn archive(system: &System) -> Value {
    system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["archives"][0].clone()
}

fn described(system: &System) -> Value {
    system.nsctl(&["cat", "latest", "ipfs", "node.json"]).expect(0).json()
}

#[test]
fn what_a_node_keeps_is_backed_up_in_use_and_comes_back_into_it_whatever_is_killed() {
    let node = Node::start();
    let filled = fill(&node, if is_long() { 2_000 } else { 60 });
    let between = Between::and(node.port());
    let mut system = system(between.port());

    // While content is added, pinned and unpinned.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Among thousands of pins js-ipfs takes seconds to collect each one.
            for n in 0..if is_long() { 10 } else { usize::MAX } {
                let cid = node.add(&[noise(20_000 + n, 3_000)], "pin=true&cid-version=1").remove(0);
                node.call(&format!("pin/rm?arg={cid}"), &[]);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        system.nsctl(&["backup"]).expect(0);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(node.pins("recursive"), filled.pins(), "nothing of ours is left");
    assert_eq!(node.names(), BTreeSet::from(["docs".to_owned(), "top".to_owned()]));
    system.run(&["backup"]);
    system.run(&["backup"]);
    let made = archive(&system);
    assert_eq!((made["kind"].as_str(), made["consistency"].as_str()), (Some("ipfs"), Some("bracketed")));
    // What did not change is not stored once more.
    let stored = made["stored_bytes"].as_u64().expect("a number");
    assert!(stored < 200_000, "{made:#}");
    let first = described(&system);
    // Leaves of the block that is pinned directly, and what was unpinned meanwhile.
    let unprotected = first["Unprotected"].as_u64().expect("a number");
    assert!(unprotected > 2 && first["MissingOrFalse"] == 0, "{first:#}");
    let listed = system.nsctl(&["ls", "latest", "ipfs", "-R"]).expect(0).out;
    for shown in ["mfs/docs/deep/a b", "pins/direct/", "blocks.car", "config.json", "pins/recursive/baf"] {
        assert!(listed.contains(shown), "{shown}: {listed}");
    }
    system.nsctl(&["verify", "--depth", "opened"]).expect(0);
    // As one CAR, with what is pinned and the files as its roots.
    let car = system.root().join("all.car");
    system
        .nsctl(&["export", "latest", "ipfs", "--format", "car", "-o", car.to_str().expect("UTF-8")])
        .expect(0);
    let (roots, blocks, missing) = look_into_car(&car);
    let mut expected = filled.pins();
    expected.insert(tests::ipfs::canonical(first["FilesRoot"].as_str().expect("a CID")));
    assert_eq!((roots, missing), (expected, Vec::new()));
    assert!(blocks <= first["Blocks"].as_u64().expect("a number") && blocks > 10, "{blocks}");
    let config = system.nsctl(&["cat", "latest", "ipfs", "config.json"]).expect(0).out;
    assert!(config.contains("PeerID") && !config.contains("PrivKey"), "{config}");

    collected_meanwhile(&system, &node, &between, &filled);
    killed_while_it_reads(&mut system, &node, &between, &filled);
    killed_while_it_replaces_files(&mut system, &node, &filled);
    a_block_that_is_gone(&system, &node, &filled);
    assert!(!system.log(Process::Agent).contains("panicked"));
}

/// What is unpinned and collected while it is read is in the backup all the same.
fn collected_meanwhile(system: &System, node: &Node, between: &Between, filled: &Filled) {
    let garbage = node.add(&[b"garbage".to_vec()], &format!("pin=false&{RAW}")).remove(0);
    between.lie(&format!("block/get?offline=true&arg={}", filled.leaf), Lie::Wait);
    let job = system.start_job(&["backup"]);
    between.await_waiting();
    assert_eq!(node.holds().len(), 1);
    let (victim, content) = filled.pinned.last_key_value().expect("there are pins");
    node.call(&format!("pin/rm?arg={victim}"), &[]);
    node.call("repo/gc", &[]);
    assert!(!node.local().contains(&garbage), "garbage was collected");
    between.honest();
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(described(system)["MissingOrFalse"], 0);
    assert_eq!(node.holds(), BTreeSet::new());
    node.call("repo/gc", &[]);
    assert!(!node.local().contains(victim), "nothing holds it any more");
    let again = node.add(std::slice::from_ref(content), &format!("pin=true&{RAW}"));
    assert_eq!(again.as_slice(), std::slice::from_ref(victim));
    if is_long() {
        // What holds leave for the next collection is nobody's content.
        for _ in 0..2 {
            system.run(&["backup"]);
            assert_eq!(self::described(system)["Unprotected"], 0);
        }
    }
}

/// A kill leaves a hold, which the next start takes away.
fn killed_while_it_reads(system: &mut System, node: &Node, between: &Between, filled: &Filled) {
    between.lie(&format!("block/get?offline=true&arg={}", filled.leaf), Lie::Wait);
    let job = system.start_job(&["backup"]);
    between.await_waiting();
    system.kill_agent();
    assert_eq!(node.holds().len(), 1);
    between.honest();
    system.start_agent();
    wait_for("the hold to go", 30, || node.holds().is_empty().then_some(()));
    assert_eq!(node.pins("recursive"), filled.pins());
    system.await_agent();
    system.nsctl(&["cancel", &job]);
    system.await_end(&job);
}

/// A pin that is there stays, and so does what the node had beside; what was written after the plan is put aside; a
/// kill amid the files is followed by a start that ends it.
fn killed_while_it_replaces_files(system: &mut System, node: &Node, filled: &Filled) {
    node.wipe();
    assert!(node.local().len() < 10, "{} blocks are left", node.local().len());
    let later = node.add(&[b"later".to_vec()], "pin=true").remove(0);
    node.write("/docs/f0", b"another one");
    node.write("/zoo", b"only before");
    let plan = system.nsctl(&["restore", "--timestamp", "latest", "--plan"]).expect(0).out;
    assert!(plan.contains("mfs") && plan.contains("leaves every pin and key that the node has"), "{plan}");
    assert_eq!(node.pins("recursive").len(), 1, "a plan changes nothing");
    let steps = system.steps().clone();
    steps.ask("all-staged");
    let job = system.start_job(&["restore", "--timestamp", "latest", "--yes"]);
    wait_for("all blocks", 60, || steps.reached("all-staged"));
    assert_eq!(node.holds().len(), 1);
    // Nothing but the hold keeps them.
    node.call("repo/gc", &[]);
    node.write("/docs/f0", b"written after the plan");
    steps.ask("first-old-away");
    steps.let_go("all-staged");
    wait_for("the first file to go", 60, || steps.reached("first-old-away"));
    node.call("repo/gc", &[]);
    system.kill_agent();
    steps.clear("first-old-away");
    steps.clear("all-staged");
    let between = node.names();
    assert!(!between.contains("docs") && between.contains("zoo") && !between.contains("top"), "{between:?}");
    assert_eq!(node.holds().len(), 1, "what is neither here nor there is held");
    system.start_agent();
    wait_for("the hold to go", 30, || node.holds().is_empty().then_some(()));
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    filled.is_in(node);
    let mut expected = filled.pins();
    expected.insert(later);
    assert_eq!(node.pins("recursive"), expected, "what was pinned, and no pin of ours");
    let names = node.names();
    let aside: Vec<&String> = names.iter().filter(|name| name.starts_with("neurashield-kept-")).collect();
    assert_eq!((names.len(), aside.len()), (3, 1), "{names:?}");
    assert_eq!(node.read(&format!("/{}/docs/f0", aside[0])), b"written after the plan");
    assert!(ended.to_string().contains(aside[0].as_str()), "{ended:#}");
    node.call(&format!("files/rm?arg=/{}&recursive=true", aside[0]), &[]);
}

/// A block that the node has lost is named, and the backup is incomplete.
fn a_block_that_is_gone(system: &System, node: &Node, filled: &Filled) {
    node.call(&format!("block/rm?arg={}&force=true", filled.leaf), &[]);
    assert!(!node.local().contains(&filled.leaf));
    let ended = system.nsctl(&["backup"]).expect(3);
    let shown = format!("{}{}", ended.out, ended.err);
    assert!(shown.contains("does not have this block") && shown.contains(&filled.leaf), "{shown}");
}
