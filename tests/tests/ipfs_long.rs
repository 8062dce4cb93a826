//! IPFS, what takes long: a backup that lacks a block, files that somebody changes amid a restore, a node that lies.
//! In the suite `ipfs`, not in the gate.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use tests::ipfs::{Between, Lie, Node, fill, system};
use tests::{Process, wait_for};

#[test]
fn a_backup_that_lacks_a_block_takes_no_good_files_away() {
    let node = Node::start();
    let filled = fill(&node, 10);
    let system = system(node.port());
    node.call(&format!("block/rm?arg={}&force=true", filled.leaf), &[]);
    let job = system.nsctl(&["backup", "-o", "json"]).expect(3).json();
    let backup = job["backup"].as_str().expect("its name");
    node.wipe();
    node.write("/good", b"good");
    let restored = system.nsctl(&["restore", "--timestamp", backup, "--accept-doubts", "--yes"]);
    let shown = format!("{}{}", restored.out, restored.err);
    assert!(shown.contains("the files are left as they are") && shown.contains(&filled.leaf), "{shown}");
    assert_eq!(node.names(), BTreeSet::from(["good".to_owned()]));
    assert_eq!(node.read("/good"), b"good");
    // The pins lack nothing.
    assert_eq!(node.pins("recursive"), filled.pins());
}

/// What it lacks already is no reason not to restore over it.
#[test]
fn a_node_that_lacks_a_block_is_mended_by_a_restore() {
    let node = Node::start();
    let filled = fill(&node, 10);
    let system = system(node.port());
    system.run(&["backup"]);
    let whole = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    let name = whole["name"].as_str().expect("its name");
    node.call(&format!("block/rm?arg={}&force=true", filled.leaf), &[]);
    system.nsctl(&["backup"]).expect(3);
    // Something to replace, or there is nothing to be backed up before.
    node.write("/other", b"other");
    let restored = system.nsctl(&["restore", "--timestamp", name, "--yes"]).expect(0);
    let shown = format!("{}{}", restored.out, restored.err);
    assert!(shown.contains("first what is replaced is backed up"), "{shown}");
    assert!(!node.call(&format!("block/get?arg={}&offline=true", filled.leaf), &[]).is_empty());
    assert_eq!(node.pins("recursive"), filled.pins());
    assert_eq!(node.names(), BTreeSet::from(["docs".to_owned(), "top".to_owned()]));
    system.nsctl(&["backup"]).expect(0);
}

#[test]
fn files_that_somebody_changes_amid_the_restore_are_put_back_but_for_these() {
    let node = Node::start();
    let filled = fill(&node, 10);
    let mut system = system(node.port());
    system.run(&["backup"]);
    let change = |node: &Node| {
        node.write("/docs/f0", b"another one");
        node.write("/top", b"another top");
        node.call("files/rm?arg=/docs/f1", &[]);
    };
    change(&node);
    let steps = system.steps().clone();
    steps.ask("first-old-away");
    let job = system.start_job(&["restore", "--timestamp", "latest", "--yes"]);
    wait_for("the first file to go", 60, || steps.reached("first-old-away"));
    node.write("/top", b"a third top");
    node.write("/appeared", b"appeared");
    steps.let_go("first-old-away");
    let ended = system.await_end(&job);
    steps.clear("first-old-away");
    let told = ended.to_string();
    assert!(told.contains("changed meanwhile") && told.contains("they are as they were"), "{ended:#}");
    let names = BTreeSet::from(["appeared", "docs", "top"].map(str::to_owned));
    assert_eq!(node.names(), names);
    assert_eq!(node.read("/docs/f0"), b"another one");
    assert_eq!(node.read("/top"), b"a third top");
    // Killed while it puts them back: the next start does that.
    for step in ["undo-begun", "swap-durable", "swap-begun"] {
        if step == "undo-begun" {
            steps.ask("first-old-away");
        }
        steps.ask(step);
        let job = system.start_job(&["restore", "--timestamp", "latest", "--yes"]);
        if step == "undo-begun" {
            wait_for("the first file to go", 60, || steps.reached("first-old-away"));
            node.write("/top", b"a fourth top");
            steps.let_go("first-old-away");
        }
        wait_for(step, 60, || steps.reached(step));
        system.kill_agent();
        steps.clear(step);
        steps.clear("first-old-away");
        system.start_agent();
        wait_for("the hold to go", 60, || node.holds().is_empty().then_some(()));
        let is_new = node.read("/docs/f0") == filled.files["/docs/f0"];
        if step == "undo-begun" {
            assert!(!is_new && node.read("/top") == b"a fourth top", "{step}");
        }
        if step == "swap-durable" {
            filled.files_are_in(&node);
        }
        system.await_agent();
        system.nsctl(&["cancel", &job]);
        system.await_end(&job);
        change(&node);
    }
    // Done once more, it is done.
    system.nsctl(&["restore", "--timestamp", "latest", "--yes"]).expect(0);
    filled.is_in(&node);
    assert!(!system.log(Process::Agent).contains("panicked"));
}

/// One that collects garbage may say nothing for a minute: it is waited for, and a cancel is heeded meanwhile.
#[test]
fn a_silent_node_is_waited_for_until_the_backup_is_cancelled() {
    let node = Node::start();
    let filled = fill(&node, 10);
    let between = Between::and(node.port());
    let system = system(between.port());
    let leaf = format!("block/get?offline=true&arg={}", filled.leaf);
    between.lie(&leaf, Lie::Wait);
    let job = system.start_job(&["backup"]);
    between.await_waiting();
    #[expect(clippy::disallowed_methods, reason = "so long nothing may happen")]
    std::thread::sleep(Duration::from_secs(100));
    between.honest();
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");

    between.lie(&leaf, Lie::Wait);
    let job = system.start_job(&["backup"]);
    between.await_waiting();
    let began = Instant::now();
    system.nsctl(&["cancel", &job]).expect(0);
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    wait_for("the hold to go", 30, || node.holds().is_empty().then_some(()));
    between.honest();
}

/// A node that withholds or falsifies, that ends an answer badly, that forbids, or that is not there.
#[test]
fn a_node_that_lies_is_found_out() {
    let node = Node::start();
    let filled = fill(&node, 60);
    let between = Between::and(node.port());
    let system = system(between.port());
    let leaf = format!("block/get?offline=true&arg={}", filled.leaf);
    let cases = [
        (leaf.as_str(), Lie::Refuse, "does not give this block"),
        (&leaf, Lie::Say(b"something else".to_vec()), "not what its name says"),
        (&leaf, Lie::EndBadly, "ended its answer by an error"),
    ];
    for (call, lie, told) in cases {
        between.lie(call, lie);
        let ended = system.nsctl(&["backup"]).expect(3);
        let shown = format!("{}{}", ended.out, ended.err);
        assert!(shown.contains(told) && shown.contains(&filled.leaf), "{told}: {shown}");
        between.honest();
    }
    for (call, lie, told) in [
        ("refs/local", Lie::EndBadly, "ended its answer by an error"),
        ("pin/ls", Lie::Forbid, "does not let us call pin/ls"),
        ("files/flush", Lie::Refuse, "refuses the command files/flush"),
    ] {
        between.lie(call, lie);
        let ended = system.nsctl(&["backup"]);
        assert_ne!(ended.code, 0, "{call}");
        assert!(format!("{}{}", ended.out, ended.err).contains(told), "{told}: {}", ended.err);
        between.honest();
    }
    // Without the hold, or the configuration, it goes on, and says so.
    for (call, told) in [("files/cp", "garbage collection may take"), ("config/show", "config/show")] {
        between.lie(call, Lie::Forbid);
        let ended = system.nsctl(&["backup"]).expect(0);
        assert!(format!("{}{}", ended.out, ended.err).contains(told), "{told}: {}", ended.out);
        between.honest();
    }
    system.nsctl(&["backup"]).expect(0);

    // To a folder: the file of blocks is one that a node takes.
    let (place, car) = (system.root().join("restored"), system.root().join("all.car"));
    system.run(&["backup"]);
    system
        .nsctl(&["export", "latest", "ipfs", "--format", "car", "-o", car.to_str().expect("UTF-8")])
        .expect(0);
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let restored = place.join("ipfs");
    let target = fs::read_link(restored.join("mfs/top")).expect("a link");
    assert!(target.starts_with("/ipfs/"), "{target:?}");
    node.wipe();
    node.import(&restored.join("blocks.car"));
    for (cid, content) in &filled.pinned {
        assert!(node.cat(cid) == *content, "{cid} gives something else");
    }
    // The export as CAR brings the pins along.
    node.wipe();
    node.import(&car);
    assert!(node.pins("recursive").is_superset(&filled.pins()));
    for (cid, content) in &filled.pinned {
        assert!(node.cat(cid) == *content, "{cid} gives something else");
    }
    assert!(!system.log(Process::Agent).contains("panicked"));
}
