//! IPFS, as a user sees it: what a node keeps is backed up while it is in use and while it collects garbage, and comes
//! back into the node, every pin and path with the same bytes; a block that is missing, withheld or false is named; a
//! kill at any step leaves nothing of ours, and no files that are neither old nor new.
//!
//! The node is js-ipfs, which speaks Kubo's RPC but for what docs/ipfs.md lists. `NEURASHIELD_IPFS=long` takes 2,000
//! objects, and the tests that begin by `long`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tests::ipfs::{Between, Lie, Node};
use tests::{Process, System, wait_for};

fn is_long() -> bool {
    std::env::var("NEURASHIELD_IPFS").is_ok_and(|form| form == "long")
}

fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A system that backs up the node at `port`.
fn system(port: u16) -> System {
    let mut system = System::prepare_held(&[]);
    system.configure_agent(&format!(
        "  - {{ component: ipfs, kind: ipfs, name: ipfs, rpc: \"http://127.0.0.1:{port}\" }}\n"
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

/// What is in a node, and how it is read back.
struct Filled {
    /// By CID, the bytes.
    pinned: BTreeMap<String, Vec<u8>>,
    /// By path among the files, the bytes.
    files: BTreeMap<String, Vec<u8>>,
    /// A block that only one of the files needs.
    leaf: String,
    direct: String,
}

const RAW: &str = "cid-version=1&raw-leaves=true";

fn fill(node: &Node, count: usize) -> Filled {
    let mut contents: Vec<Vec<u8>> = (0..count).map(|n| noise(n, 500 + n)).collect();
    // Of several blocks, and twice in part.
    contents.push(noise(7_000, 900_000));
    contents.push([noise(7_000, 262_144), noise(7_001, 1_000)].concat());
    let mut cids = Vec::new();
    for some in contents.chunks(200) {
        cids.extend(node.add(some, &format!("pin=true&{RAW}")));
    }
    let old = vec![noise(8_000, 300_000)];
    cids.extend(node.add(&old, "pin=true"));
    contents.extend(old);
    let pinned = cids.into_iter().zip(contents).collect();
    let mut files = BTreeMap::new();
    let loose: Vec<Vec<u8>> = (0..5).map(|n| noise(9_000 + n, 2_000)).collect();
    let cids = node.add(&loose, &format!("pin=false&{RAW}"));
    node.call("files/mkdir?arg=/docs/deep&parents=true", &[]);
    let paths = ["/docs/f0", "/docs/f1", "/docs/f2", "/docs/deep/a b", "/top"];
    for (path, (cid, content)) in paths.iter().zip(cids.iter().zip(&loose)) {
        node.call(&format!("files/cp?arg=/ipfs/{cid}&arg={}", path.replace(' ', "%20")), &[]);
        files.insert((*path).to_owned(), content.clone());
    }
    let direct = node.add(&[noise(9_900, 600_000)], &format!("pin=false&{RAW}")).remove(0);
    node.call(&format!("pin/add?arg={direct}&recursive=false"), &[]);
    Filled { pinned, files, leaf: cids[0].clone(), direct }
}

impl Filled {
    fn pins(&self) -> BTreeSet<String> {
        self.pinned.keys().cloned().collect()
    }

    /// Every pin and every path gives what it did.
    fn is_in(&self, node: &Node) {
        let pins = node.pins("recursive");
        for (cid, content) in &self.pinned {
            assert!(pins.contains(cid), "{cid} is not pinned");
            assert!(node.cat(cid) == *content, "{cid} gives something else");
        }
        assert!(node.pins("direct").contains(&self.direct));
        self.files_are_in(node);
    }

    fn files_are_in(&self, node: &Node) {
        for (path, content) in &self.files {
            assert!(node.read(path) == *content, "{path} gives something else");
        }
    }
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
            for n in 0.. {
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
    assert_eq!(again, [victim.clone()]);
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

#[test]
fn long_a_backup_that_lacks_a_block_takes_no_good_files_away() {
    if !is_long() {
        return;
    }
    let node = Node::start();
    let filled = fill(&node, 10);
    let system = system(node.port());
    node.call(&format!("block/rm?arg={}&force=true", filled.leaf), &[]);
    let job = system.nsctl(&["backup", "-o", "json"]).expect(3).json();
    let backup = job["backup"].as_str().expect("its name");
    node.wipe();
    node.write("/good", b"good");
    let restored = system.nsctl(&["restore", "--timestamp", backup, "--yes"]);
    let shown = format!("{}{}", restored.out, restored.err);
    assert!(shown.contains("the files are left as they are") && shown.contains(&filled.leaf), "{shown}");
    assert_eq!(node.names(), BTreeSet::from(["good".to_owned()]));
    assert_eq!(node.read("/good"), b"good");
    // The pins lack nothing.
    assert_eq!(node.pins("recursive"), filled.pins());
}

#[test]
fn long_files_that_somebody_changes_amid_the_restore_are_put_back_but_for_these() {
    if !is_long() {
        return;
    }
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

/// A node that withholds or falsifies, that ends an answer badly, that forbids, or that is not there.
#[test]
fn long_a_node_that_lies_is_found_out() {
    if !is_long() {
        return;
    }
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
    let place = system.root().join("restored");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let restored = place.join("ipfs");
    let target = fs::read_link(restored.join("mfs/top")).expect("a link");
    assert!(target.starts_with("/ipfs/"), "{target:?}");
    node.wipe();
    node.import(&restored.join("blocks.car"));
    for (cid, content) in &filled.pinned {
        assert!(node.cat(cid) == *content, "{cid} gives something else");
    }
    assert!(!system.log(Process::Agent).contains("panicked"));
}
