//! Chains on Btrfs: read from a snapshot that the agent makes itself, as root and as the user whose subvolume it is;
//! where there can be none, the next way is taken and the reason told; nothing is left, whatever dies when.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Disk, Process, System, wait_for};

use super::{check, check_by, left_in, manifest, restored, started, writer_of};

const USER: u32 = 10_001;
/// Whoever wants to hear why there is no snapshot names it.
const NAMED: &str = ", quiesce: [snapshot, bracket, pause]";

pub(super) fn btrfs(words: &[&str], at: &Path) -> String {
    let said = Command::new("btrfs").args(words).arg(at).output().expect("this test needs btrfs-progs");
    assert!(said.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

pub(super) fn disk() -> Disk {
    Disk::make(1 << 30, &["mkfs.btrfs", "-q"], "rw")
}

/// A subvolume for a node.
pub(super) fn subvolume(disk: &Disk, name: &str) -> PathBuf {
    let path = disk.path().join(name);
    btrfs(&["subvolume", "create"], &path);
    path
}

/// How many subvolumes there are.
pub(super) fn count(disk: &Disk) -> usize {
    btrfs(&["subvolume", "list"], &disk.path()).lines().count()
}

/// Who writes into a LevelDB until this is dropped.
pub(super) struct Writes(Child);

impl Writes {
    pub(super) fn into(store: &Path) -> Self {
        Self::by("leveldb", store)
    }

    fn by(engine: &str, store: &Path) -> Self {
        fs::create_dir_all(store.parent().expect("a parent")).expect("made");
        let child = Command::new(writer_of(engine)).arg("write").arg(store).spawn().expect("it starts");
        wait_for("tables", 30, || fs::read_dir(store).is_ok_and(|all| all.count() > 8).then_some(()));
        Self(child)
    }

    /// True if it is stopped by a signal or a freezer of groups.
    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it runs");
        stat.rsplit(')').next().expect("a state").trim_start().starts_with(['T', 't'])
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A backup, the problems that it tells, and its manifest.
pub(super) fn backed_up(system: &System) -> (Vec<String>, Value) {
    let job = system.run(&["backup"]);
    let told = job["parts"][0]["problems"].as_array().expect("a list").iter().map(Value::to_string);
    (told.collect(), manifest(system))
}

/// That the newest backup was read from a snapshot, and that none is left.
pub(super) fn is_of_a_snapshot(system: &System, disk: &Disk, node: &Path, what: &str) {
    let manifest = manifest(system);
    assert_eq!(
        (&manifest["consistency"], &manifest["quiesce"]),
        (&json!("snapshot"), &Value::Null),
        "{what}"
    );
    wait_for(&format!("nothing to be left: {what}"), 10, || {
        (left_in(node) == 0 && count(disk) == 1).then_some(())
    });
}

#[test]
fn stores_that_are_being_written_open_whole_from_every_snapshot_and_nobody_is_held() {
    const BACKUPS: u32 = 25;
    let disk = disk();
    let node = subvolume(&disk, "node");
    fs::write(node.join("genesis.json"), "the first block").expect("written");
    fs::hard_link(node.join("genesis.json"), node.join("genesis.again")).expect("linked");
    // Not known to be independent: the other ways have to pause who writes.
    let stores = [("leveldb", "data/a.db"), ("leveldb", "data/b.db"), ("pebble", "data/c.db")];
    let writes = stores.map(|(engine, store)| Writes::by(engine, &node.join(store)));
    let system = started(System::prepare(&[]), &node, "", None);
    let (is_over, looks) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert!(!writes.iter().any(Writes::is_stopped), "a writer is held");
                looks.fetch_add(1, Ordering::Relaxed);
                tests::pause(1);
            }
        });
        let mut last = [0; 3];
        for backup in 0..BACKUPS {
            let (told, _) = backed_up(&system);
            assert_eq!(told, [""; 0], "backup {backup}");
            is_of_a_snapshot(&system, &disk, &node, &format!("backup {backup}"));
            let there = restored(&system, &disk.beside().join("restored"));
            for (at, (engine, store)) in stores.iter().enumerate() {
                let numbers = check_by(engine, &there.join(store));
                assert!(numbers > last[at], "backup {backup}: {store} holds {numbers} after {}", last[at]);
                last[at] = numbers;
            }
            assert_eq!(fs::read(there.join("genesis.json")).expect("restored"), b"the first block");
            let inode = |name: &str| {
                std::os::unix::fs::MetadataExt::ino(&there.join(name).metadata().expect("there"))
            };
            assert_eq!(inode("genesis.json"), inode("genesis.again"), "hard links are kept");
            assert_eq!(left_in(&there), 0);
        }
        is_over.store(true, Ordering::Relaxed);
        println!("btrfs: {BACKUPS} of {BACKUPS} snapshots of three stores open whole, {last:?} numbers");
    });
    println!("btrfs: in {} looks nobody was held", looks.load(Ordering::Relaxed));
    let log = system.log(Process::Agent);
    let attempts =
        log.lines().filter_map(|line| line.split_once("made a snapshot attempts=")?.1.split(' ').next());
    println!("btrfs: made anew as it has to be, attempts: {:?}", attempts.collect::<Vec<_>>());
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
}

/// A store at rest, whose tables are as old as they are in a chain.
fn at_rest(store: &Path) -> u64 {
    let writes = Writes::into(store);
    wait_for("more tables", 30, || fs::read_dir(store).is_ok_and(|all| all.count() > 12).then_some(()));
    drop(writes);
    let mut bytes = 0;
    for file in fs::read_dir(store).expect("listed").map(|file| file.expect("one").path()) {
        let file = fs::File::options().write(true).open(&file).expect("opened");
        let at = file.metadata().expect("there").modified().expect("known") - Duration::from_secs(7_200);
        file.set_modified(at).expect("set");
        bytes += file.metadata().expect("there").len();
    }
    bytes
}

#[test]
fn what_did_not_change_is_not_read_again_from_the_next_snapshot_nor_by_another_way() {
    let disk = disk();
    let node = subvolume(&disk, "node");
    let store = node.join("db");
    let bytes = at_rest(&store);
    let tables = |of: &Path| {
        let names = fs::read_dir(of).expect("listed").map(|file| file.expect("one").path());
        let is_table = |path: &PathBuf| path.extension().is_some_and(|end| end == "ldb");
        names.filter(is_table).map(|path| path.metadata().expect("there").len()).sum::<u64>()
    };
    let rest = bytes - tables(&store);
    let mut system = started(System::prepare(&[]), &node, "", None);
    let read = |system: &System, by: &str, what: &str| {
        let (told, manifest) = backed_up(system);
        assert_eq!((told, &manifest["consistency"]), (vec![], &json!(by)), "{what}");
        manifest["counts"]["read_bytes"].as_u64().expect("a number")
    };
    assert!(read(&system, "snapshot", "the first") >= bytes);
    let second = read(&system, "snapshot", "the second");
    assert!(second <= rest, "the second read {second} bytes of {bytes}, of which {rest} are no tables");
    // The bracket links every table, which changes the time of its inode.
    let source =
        format!("  - {{ component: blockchain, kind: blockchain, name: chain, path: {}", node.display());
    for (more, by) in [(", quiesce: [bracket] }", "bracketed"), (" }", "snapshot"), (" }", "snapshot")] {
        system.kill_agent();
        system.reconfigure_agent("kind: blockchain", &format!("{source}{more}\n"));
        system.start_agent();
        system.await_agent();
        let again = read(&system, by, more);
        assert!(again <= rest, "{by} read {again} bytes of {bytes}, of which {rest} are no tables");
    }
    println!("btrfs: {second} of {bytes} bytes were read by the second backup");
}

/// Starts the agent as a user that has no right of root's but to look into the folders of these tests.
pub(super) fn start_as_user(system: &mut System) {
    let user = USER.to_string();
    let may = "-all,+dac_read_search";
    let who = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
    let rights = ["--inh-caps", may, "--ambient-caps", may, "--bounding-set", may];
    system.start_agent_by(&[&who[..], &rights].concat());
}

/// A system whose agent is that user.
pub(super) fn of_a_user(node: &Path, more: &str, steps: bool) -> System {
    let mut system = if steps { System::prepare_held(&[]) } else { System::prepare(&[]) };
    let source = "component: blockchain, kind: blockchain, name: chain";
    system.configure_agent(&format!("  - {{ {source}, path: {}{more} }}\n", node.display()));
    let state = system.root().join("agent");
    fs::create_dir_all(&state).expect("made");
    give(&state);
    if steps {
        give(system.steps().folder());
    }
    system.start_controller();
    system.invite();
    start_as_user(&mut system);
    system.await_agent();
    assert_eq!(system.proc(Process::Agent, "status", "Uid"), u64::from(USER));
    system
}

pub(super) fn give(path: &Path) {
    chown(path, Some(USER), Some(USER)).expect("given");
}

/// A node of that user's, in a subvolume of theirs: files may be others'.
pub(super) fn users_node(disk: &Disk) -> PathBuf {
    let node = subvolume(disk, "node");
    let store = node.join("data/db");
    fs::create_dir_all(&store).expect("made");
    [&node, &node.join("data"), &store].into_iter().for_each(|folder| give(folder));
    node
}

#[test]
fn a_user_needs_no_right_but_its_own_subvolume_and_else_the_next_way_is_taken_and_the_reason_told() {
    let disk = disk();
    let node = users_node(&disk);
    at_rest(&node.join("data/db"));
    for file in fs::read_dir(node.join("data/db")).expect("listed") {
        give(&file.expect("one").path());
    }
    let system = of_a_user(&node, NAMED, false);
    let scratch = disk.path().join("scratch");
    fs::create_dir(&scratch).expect("made");
    give(&scratch);
    let snapshot = |what: &str| {
        assert_eq!(backed_up(&system).0, [""; 0], "{what}");
        is_of_a_snapshot(&system, &disk, &node, what);
        check(&restored(&system, &scratch.join("restored")).join("data/db"));
    };
    // Emptied, and removed as a folder.
    snapshot("emptied");

    let bracketed = |reason: &str| {
        let (told, manifest) = backed_up(&system);
        assert_eq!(manifest["consistency"], "bracketed", "{reason}");
        assert!(told.len() == 1 && told[0].contains(reason), "{reason}: {told:?}");
        assert_eq!((left_in(&node), count(&disk)), (0, 1), "{reason}");
    };
    // What lies there could not be removed again.
    fs::create_dir(node.join("roots")).expect("made");
    fs::write(node.join("roots/file"), "x").expect("written");
    bracketed("the folder roots in its subvolume is not the agent's");
    fs::remove_dir_all(node.join("roots")).expect("removed");
    snapshot("it is gone");
    // Somebody else's subvolume.
    chown(&node, Some(0), Some(USER)).expect("given");
    fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o2775)).expect("set");
    bracketed("belongs to another user");
}

#[test]
fn where_the_mount_lets_users_remove_subvolumes_it_does_not_matter_whose_files_are_in_them() {
    let disk = Disk::make(1 << 30, &["mkfs.btrfs", "-q"], "user_subvol_rm_allowed");
    let node = users_node(&disk);
    fs::create_dir(node.join("roots")).expect("made");
    fs::write(node.join("roots/file"), "x").expect("written");
    let _writes = Writes::into(&node.join("data/db"));
    let system = of_a_user(&node, NAMED, false);
    assert_eq!(backed_up(&system).0, [""; 0]);
    is_of_a_snapshot(&system, &disk, &node, "with the mount option");
}

#[test]
fn what_a_snapshot_would_not_have_is_found_and_the_next_way_is_taken() {
    let disk = disk();
    let node = subvolume(&disk, "node");
    let _writes = Writes::into(&node.join("db"));
    // Also where nobody has asked for a snapshot by its name.
    let mut system = started(System::prepare(&[]), &node, "", None);
    let falls = |system: &System, reason: &str| {
        let (told, manifest) = backed_up(system);
        assert_eq!(manifest["consistency"], "bracketed", "{reason}");
        assert!(told.iter().any(|line| line.contains(reason)), "{reason}: {told:?}");
        assert_eq!(left_in(&node), 0);
    };
    let inner = node.join("keep/inner");
    fs::create_dir(node.join("keep")).expect("made");
    btrfs(&["subvolume", "create"], &inner);
    falls(&system, "keep/inner in it is a subvolume of its own");
    // One that no backup takes is not missing.
    let source =
        format!("  - {{ component: blockchain, kind: blockchain, name: chain, path: {}", node.display());
    system.kill_agent();
    system.reconfigure_agent("kind: blockchain", &format!("{source}, exclude: [/keep/inner] }}\n"));
    system.start_agent();
    system.await_agent();
    backed_up(&system);
    assert_eq!(manifest(&system)["consistency"], "snapshot");
    btrfs(&["subvolume", "delete"], &inner);

    let over = node.join("over");
    fs::create_dir(&over).expect("made");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&over).status().expect("it runs");
    assert!(mounted.success());
    falls(&system, "something is mounted at over in it");
    assert!(Command::new("umount").arg(&over).status().expect("it runs").success());
    backed_up(&system);
    is_of_a_snapshot(&system, &disk, &node, "nothing is mounted there any more");

    // A folder of a subvolume that is mounted elsewhere: its root is out of reach.
    let bound = disk.beside().join("bound");
    fs::create_dir(&bound).expect("made");
    let bind = [&node.join("db"), &bound];
    assert!(Command::new("mount").arg("--bind").args(bind).status().expect("it runs").success());
    let elsewhere = started(System::prepare(&[]), &bound, NAMED, None);
    let (told, manifest) = backed_up(&elsewhere);
    drop(elsewhere);
    assert!(Command::new("umount").arg(&bound).status().expect("it runs").success());
    assert_eq!(manifest["consistency"], "bracketed");
    assert!(told.iter().any(|line| line.contains("cannot be reached from it")), "{told:?}");
}

#[test]
fn a_folder_deep_in_a_subvolume_comes_back_without_what_lies_beside_it_and_without_the_agents_state() {
    let disk = disk();
    let around = subvolume(&disk, "all");
    let node = around.join("srv/node");
    fs::create_dir_all(&node).expect("made");
    fs::write(around.join("beside"), "not a part of it").expect("written");
    let _writes = Writes::into(&node.join("db"));
    let system = System::prepare(&[]);
    // The agent's own state lies in the folder, too.
    let (state, file) = (node.join("agent"), system.root().join("agent.yaml"));
    let text = fs::read_to_string(&file).expect("it is there");
    let usual = format!("state: {}", system.root().join("agent").display());
    assert!(text.contains(&usual));
    fs::write(&file, text.replace(&usual, &format!("state: {}", state.display()))).expect("written");
    let system = started(system, &node, "", None);
    assert!(fs::read_dir(&state).is_ok_and(|all| all.count() > 0));
    backed_up(&system);
    is_of_a_snapshot(&system, &disk, &node, "a folder of a subvolume");
    let there = restored(&system, &disk.beside().join("restored"));
    check(&there.join("db"));
    let names: Vec<_> =
        fs::read_dir(&there).expect("listed").map(|one| one.expect("one").file_name()).collect();
    assert_eq!(names, ["db"]);
}

#[test]
fn what_is_told_of_a_validator_is_what_the_snapshot_has_or_more() {
    let disk = disk();
    let node = subvolume(&disk, "node");
    let state = node.join("data/priv_validator_state.json");
    fs::create_dir_all(node.join("data/cs.wal")).expect("made");
    // As CometBFT does: never in place.
    let says = |height: u32| {
        let beside = state.with_extension("new");
        fs::write(&beside, format!(r#"{{"height":"{height}","round":0,"step":3}}"#)).expect("written");
        fs::rename(&beside, &state).expect("renamed");
    };
    says(9);
    let system = started(System::prepare_held(&[]), &node, "", None);
    let during = |change: &dyn Fn()| {
        system.steps().ask("snapshot-made");
        let job = system.start_job(&["backup"]);
        wait_for("the snapshot", 30, || system.steps().reached("snapshot-made"));
        change();
        system.steps().let_go("snapshot-made");
        assert_eq!(system.await_end(&job)["state"], "complete");
        system.steps().clear("snapshot-made");
        is_of_a_snapshot(&system, &disk, &node, "a validator's");
        let there = restored(&system, &disk.beside().join("restored"));
        let text = fs::read_to_string(there.join("data/priv_validator_state.json")).expect("restored");
        (manifest(&system)["signed"]["height"].clone(), text.contains(r#""height":"9""#))
    };
    // It goes on meanwhile, or is set up anew: no less is told than was signed.
    assert_eq!(during(&|| says(11)), (json!(11), true));
    says(9);
    assert_eq!(during(&|| fs::remove_file(&state).expect("removed")), (json!(9), true));
}

#[test]
fn on_a_full_disk_the_next_way_is_taken_and_the_reason_told() {
    // Data and what describes it in one: else there is always room for a snapshot.
    let disk = Disk::make(256 << 20, &["mkfs.btrfs", "-q", "--mixed"], "rw");
    let node = subvolume(&disk, "node");
    at_rest(&node.join("db"));
    let system = started(System::prepare(&[]), &node, "", None);
    let began = Instant::now();
    let filler = fs::File::create(disk.path().join("filler")).expect("made");
    let full = loop {
        match std::io::Write::write_all(&mut &filler, &[7; 64 << 10]).and_then(|()| filler.sync_data()) {
            Ok(()) => assert!(began.elapsed() < Duration::from_secs(120), "it does not fill"),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // What is left takes small files.
    for number in 0..100_000 {
        let small = disk.path().join(format!("small-{number}"));
        if fs::write(&small, [7; 1_000]).and_then(|()| fs::File::open(&small)?.sync_all()).is_err() {
            break;
        }
    }
    let job = system.nsctl(&["backup", "-o", "json"]).expect(0).json();
    let told = job["parts"][0]["problems"].to_string();
    let manifest = manifest(&system);
    println!("btrfs, full: {} by {}, told {told}", manifest["consistency"], manifest["quiesce"]);
    assert_ne!(manifest["consistency"], "snapshot");
    assert!(told.contains("no snapshot was made of it") && told.contains("No space left"), "{told}");
    let there = restored(&system, &disk.beside().join("restored"));
    check(&there.join("db"));
    drop(filler);
    fs::remove_file(disk.path().join("filler")).expect("removed");
    backed_up(&system);
    is_of_a_snapshot(&system, &disk, &node, "there is room again");
}
