//! Chains on what a host may have: nodes in containers of a real Docker Engine, whose processes an agent in a container
//! of its own would not see; file systems that share blocks, or make snapshots.
//!
//! Needs root, `dockerd`, `docker`, a static `busybox`, `mkfs.xfs`, `mkfs.btrfs`, `btrfs`, loop devices, and Go. Suite
//! `engines`.

#[path = "chains_hosts/snapshots.rs"]
mod snapshots;
#[path = "chains_hosts/snapshots_left.rs"]
mod snapshots_left;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::{Disk, DockerEngine, Process, System, wait_for};

/// The program that writes into a LevelDB and knows what it must hold.
fn writer() -> PathBuf {
    writer_of("leveldb")
}

fn writer_of(engine: &str) -> PathBuf {
    let mut build = Command::new(tests::project().join("tests/engines/writer"));
    let built = build.arg(engine).stderr(Stdio::inherit()).output().expect("it runs");
    assert!(built.status.success(), "the writer cannot be built");
    PathBuf::from(String::from_utf8(built.stdout).expect("UTF-8").trim())
}

fn check(store: &Path) -> u64 {
    check_by("leveldb", store)
}

fn check_by(engine: &str, store: &Path) -> u64 {
    let checked = Command::new(writer_of(engine)).arg("check").arg(store).output().expect("it runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    String::from_utf8_lossy(&checked.stdout).trim().parse().expect("a number")
}

fn started(mut system: System, node: &Path, more: &str, docker: Option<&Path>) -> System {
    let source = "component: blockchain, kind: blockchain, name: chain";
    let mut text = format!("  - {{ {source}, path: {}{more} }}\n", node.display());
    if let Some(socket) = docker {
        text.push_str(&format!("docker: {{ socket: {} }}\n", socket.display()));
    }
    system.configure_agent(&text);
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

/// The manifest of the newest backup's archive.
fn manifest(system: &System) -> Value {
    let name = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["name"].clone();
    let path = system.repository().join(name.as_str().expect("a name")).join("blockchain/chain.json");
    serde_json::from_slice(&fs::read(path).expect("a manifest")).expect("JSON")
}

fn restored(system: &System, to: &Path) -> PathBuf {
    let _ = fs::remove_dir_all(to);
    system.run(&["restore", "--timestamp", "latest", "--yes", "--to", to.to_str().expect("UTF-8")]);
    to.join("blockchain")
}

fn left_in(folder: &Path) -> usize {
    let names = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("one").file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".neurashield")).count()
}

/// Two stores that may depend on each other, each written by a container.
struct Node {
    folder: tempfile::TempDir,
    engine: DockerEngine,
}

const STORES: [&str; 2] = ["a.db", "b.db"];

impl Node {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Self { folder, engine: DockerEngine::start() };
        fs::create_dir_all(node.path().join("data")).expect("made");
        let program = format!("{}:/writer:ro", writer().display());
        let data = format!("{}:/data", node.path().join("data").display());
        for store in STORES {
            let words = ["run", "-d", "--name", store, "--network", "none", "-v", &program, "-v", &data];
            let store = format!("/data/{store}");
            node.engine.run(&[&words[..], &["app:1", "/writer", "write", &store]].concat());
        }
        // One that has other data is nobody's business.
        fs::create_dir(node.folder.path().join("other")).expect("made");
        node.engine.start_container("other", &node.folder.path().join("other"), &[]);
        wait_for("tables", 30, || {
            let is_there = |store: &&str| {
                fs::read_dir(node.path().join("data").join(store)).is_ok_and(|all| all.count() > 6)
            };
            STORES.iter().all(is_there).then_some(())
        });
        node
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    fn is_paused(&self, container: &str) -> bool {
        self.engine.inspect(container, "{{.State.Paused}}") == "true"
    }

    fn are_paused(&self) -> bool {
        STORES.iter().any(|store| self.is_paused(store))
    }
}

fn records(system: &System) -> usize {
    let listed = fs::read_dir(system.root().join("agent")).expect("a folder").flatten();
    listed.filter(|one| one.file_name().to_string_lossy().starts_with("paused-")).count()
}

#[test]
fn containers_that_write_into_a_chain_are_paused_for_moments_and_go_on_whatever_dies() {
    let node = Node::start();
    let scratch = node.folder.path().join("restored");
    let socket = node.engine.socket();
    let mut system =
        started(System::prepare_held(&[]), &node.path(), ", quiesce: [container]", Some(&socket));
    let mut held = Vec::new();
    for backup in 0..5 {
        let job = system.run(&["backup"]);
        assert_eq!(job["parts"][0]["problems"], serde_json::json!([]), "backup {backup}: {job:#}");
        let manifest = manifest(&system);
        assert_eq!(
            (&manifest["consistency"], &manifest["quiesce"]["by"]),
            (&"quiesced".into(), &"container".into())
        );
        held.push(manifest["quiesce"]["held_ms"].as_u64().expect("a number"));
        assert!(!node.are_paused() && left_in(&node.path()) == 0 && records(&system) == 0);
        let there = restored(&system, &scratch);
        STORES.iter().for_each(|store| assert!(check(&there.join("data").join(store)) > 0));
    }
    println!("docker: 5 of 5 copies of two stores open whole; containers were held for {held:?} ms");
    assert!(held.iter().all(|held| (1..2_000).contains(held)), "{held:?}");

    // The agent dies while they are paused: its guard lets them go on; if that died too, the agent's next start does.
    for with_its_guard in [false, true] {
        system.steps().ask("pause-begun");
        let job = system.start_job(&["backup"]);
        wait_for("the pause", 30, || system.steps().reached("pause-begun"));
        assert!(STORES.iter().all(|store| node.is_paused(store)) && !node.is_paused("other"));
        if with_its_guard {
            let agent = system.pid(Process::Agent).to_string();
            assert!(Command::new("kill").args(["-STOP", &agent]).status().expect("it runs").success());
            let killed = Command::new("pkill").args(["-KILL", "-P", &agent, "-f", "guard-pause"]).status();
            assert!(killed.expect("it runs").success());
        }
        system.kill_agent();
        system.steps().clear("pause-begun");
        if with_its_guard {
            assert!(node.are_paused() && records(&system) == 1, "nobody is left to let them go on");
        } else {
            wait_for("the guard", 8, || (!node.are_paused()).then_some(()));
        }
        system.start_agent();
        system.await_agent();
        // The backup is asked for again at once, and pauses them for a moment.
        wait_for("them to go on", 10, || (!node.are_paused() && records(&system) == 0).then_some(()));
        assert_eq!(system.await_end(&job)["state"], "complete");
        assert_eq!(manifest(&system)["quiesce"]["by"], "container");
        wait_for("the links to go", 10, || (left_in(&node.path()) == 0).then_some(()));
        assert!(!node.are_paused() && records(&system) == 0);
    }

    // Who was paused by somebody else stays so, and nothing more is claimed than was done.
    node.engine.run(&["pause", STORES[0]]);
    system.run(&["backup"]);
    assert!(node.is_paused(STORES[0]) && !node.is_paused(STORES[1]));
    assert_eq!(manifest(&system)["consistency"], "fuzzy");
    node.engine.run(&["unpause", STORES[0]]);
}

/// Beside CometBFT's log; what lies there is of the same moment.
const LONG: &str = "data/cs.wal/long";

/// A CometBFT's folder at rest, whose log is too long to be copied in a moment.
fn with_a_long_log(node: &Path) {
    fs::create_dir_all(node.join("data/cs.wal")).expect("made");
    fs::write(node.join("data/priv_validator_state.json"), r#"{"height":"9","round":0,"step":3}"#)
        .expect("written");
    let log = fs::File::create(node.join(LONG)).expect("made");
    for _ in 0..200 {
        std::io::Write::write_all(&mut &log, &[7; 1 << 20]).expect("written");
    }
    log.sync_all().expect("on the disk");
}

#[test]
fn where_a_file_system_shares_blocks_a_long_file_is_held_and_takes_no_space() {
    const LOG: u64 = 200 << 20;
    let disk = Disk::make(2 << 30, &["mkfs.xfs", "-q", "-m", "reflink=1"], "rw");
    let node = disk.path().join("node");
    with_a_long_log(&node);
    let system = started(System::prepare_held(&[]), &node, "", None);
    let free = disk.free();
    system.steps().ask("hold-filled");
    let job = system.start_job(&["backup"]);
    wait_for("what is held", 30, || system.steps().reached("hold-filled"));
    let taken = free.saturating_sub(disk.free());
    let held = walk(&node)
        .into_iter()
        .filter(|(path, length)| path.to_string_lossy().contains("hold-") && *length == LOG);
    assert_eq!(held.count(), 1, "the log is held with its length");
    assert!(taken < 4 << 20, "{taken} bytes were taken for a log of {LOG}");
    system.steps().let_go("hold-filled");
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!((manifest(&system)["consistency"].clone(), left_in(&node)), ("bracketed".into(), 0));
    println!("xfs: a log of {LOG} bytes is held, which takes {taken} bytes");
    let there = restored(&system, &disk.path().join("restored"));
    assert_eq!(fs::metadata(there.join(LONG)).expect("there").len(), LOG);

    // Where blocks cannot be shared, it is read as it is, and that is said.
    let other = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let node = other.path().join("node");
    with_a_long_log(&node);
    let system = started(System::prepare(&[]), &node, "", None);
    let job = system.nsctl(&["backup", "-o", "json"]).json();
    assert!(job.to_string().contains("too many to be copied where blocks cannot be shared"), "{job:#}");
    assert_eq!(manifest(&system)["consistency"], "fuzzy");
}

fn walk(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("listed").map(|entry| entry.expect("one")) {
            let found = entry.metadata().expect("there");
            match found.is_dir() {
                true => waiting.push(entry.path()),
                false => all.push((entry.path(), found.len())),
            }
        }
    }
    all
}

#[test]
fn what_is_about_to_be_cloned_is_on_the_disk_before_anybody_is_paused() {
    let disk = Disk::make(2 << 30, &["mkfs.xfs", "-q", "-m", "reflink=1"], "rw");
    let node = disk.path().join("node");
    fs::create_dir_all(node.join("data/cs.wal")).expect("made");
    fs::write(node.join("data/priv_validator_state.json"), r#"{"height":"9","round":0,"step":3}"#)
        .expect("written");
    let system = started(System::prepare_held(&[]), &node, ", quiesce: [pause]", None);
    system.steps().ask("hold-linked");
    fs::write(node.join(LONG), vec![7; 64 << 20]).expect("written");
    let is_dirty = || {
        let said = Command::new("filefrag").arg("-v").arg(node.join(LONG)).output().expect("filefrag");
        assert!(said.status.success(), "this test needs filefrag (e2fsprogs)");
        String::from_utf8_lossy(&said.stdout).contains("delalloc")
    };
    assert!(is_dirty(), "it has just been written");
    let job = system.start_job(&["backup"]);
    wait_for("what is done before a pause", 30, || system.steps().reached("hold-linked"));
    assert!(!is_dirty(), "a clone would have to write it out");
    system.steps().let_go("hold-linked");
    assert_eq!(system.await_end(&job)["state"], "complete");
}
