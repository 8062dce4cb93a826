//! Chains, as a user sees it: what a node's engine writes is backed up while it writes, opens whole in that
//! engine when it is restored, and leaves nothing behind in the node's folder.
//!
//! `NEURASHIELD_ENGINES=long` takes a hundred backups of a LevelDB, and as many of a Pebble.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tests::{System, wait_for};

const DAMAGED: i32 = 4;

fn is_long() -> bool {
    std::env::var("NEURASHIELD_ENGINES").is_ok_and(|form| form == "long")
}

/// A program that writes into a store, and knows what it must hold.
struct Writer {
    program: PathBuf,
    folder: PathBuf,
    child: Child,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Writer {
    fn start(engine: &str, folder: &Path) -> Self {
        let built = Command::new(tests::project().join("tests/engines/writer"))
            .arg(engine)
            .stderr(Stdio::inherit())
            .output()
            .expect("it runs");
        assert!(built.status.success(), "the {engine} writer cannot be built");
        let program = PathBuf::from(String::from_utf8(built.stdout).expect("UTF-8").trim());
        let mut write = Command::new(&program);
        let child = write.arg("write").arg(folder).spawn().expect("it starts");
        let writer = Self { program, folder: folder.to_owned(), child };
        wait_for("tables", 20, || (writer.last_number() > 40).then_some(()));
        writer
    }

    /// Every new table and list has the next number.
    fn last_number(&self) -> u64 {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let number = |name: &str| {
            let digits = name.strip_prefix("MANIFEST-").or_else(|| name.split('.').next());
            digits.and_then(|digits| digits.parse().ok())
        };
        names.filter_map(|name| number(name.to_str()?)).max().unwrap_or(0)
    }

    /// How many numbers a copy of the store holds; an error where the engine does not open it whole.
    fn check(&self, folder: &Path) -> Result<u64, String> {
        let output = Command::new(&self.program).arg("check").arg(folder).output().expect("it runs");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        stat.rsplit(')').next().expect("a state").trim_start().starts_with('T')
    }
}

/// A system that backs up `folder` as a chain.
fn system(folder: &Path, more: &str) -> System {
    let mut system = System::prepare(&[]);
    system.configure_agent(&format!(
        "  - {{ component: blockchain, kind: blockchain, name: chain, path: {}{more} }}\n",
        folder.display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

fn consistency(system: &System) -> Value {
    let shown = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    shown["archives"][0]["consistency"].clone()
}

/// The folder as it comes back in another place.
fn restored(system: &System, to: &Path) -> PathBuf {
    let accepted = ["--to", to.to_str().expect("UTF-8"), "--yes", "--accept-doubts"];
    system.run(&[&["restore", "--timestamp", "latest"][..], &accepted].concat());
    to.join("blockchain")
}

/// What a backup has left in the node's folder.
fn left_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(".neurashield")).collect()
}

fn every_copy_opens_whole(engine: &str, backups: u32) {
    let folder = tempfile::tempdir().expect("a folder");
    // Not at the top: a node's store never is.
    let (node, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    let store = node.join("data/chaindata");
    fs::create_dir_all(store.parent().expect("a parent")).expect("made");
    fs::write(node.join("nodekey"), "a key").expect("written");
    let writer = Writer::start(engine, &store);
    let system = system(&node, "");
    let (began, first) = (Instant::now(), writer.last_number());
    let mut last = 0;
    for backup in 0..backups {
        let job = system.run(&["backup"]);
        assert_eq!(job["parts"][0]["problems"], serde_json::json!([]), "backup {backup}");
        assert_eq!(consistency(&system), "bracketed", "backup {backup}");
        assert_eq!(left_in(&node), [""; 0], "backup {backup}");
        let node_there = restored(&system, &scratch);
        assert_eq!(fs::read(node_there.join("nodekey")).expect("restored"), b"a key");
        let numbers = writer.check(&node_there.join("data/chaindata"));
        let numbers = numbers.unwrap_or_else(|why| panic!("backup {backup} does not open: {why}"));
        assert!(numbers > last, "backup {backup} holds {numbers} numbers, and the one before {last}");
        last = numbers;
        assert!(!writer.is_stopped());
        fs::remove_dir_all(&scratch).expect("removed");
    }
    // Each number is a table or a list, and each of these an edit of the list.
    let edits = (writer.last_number() - first) as f64 / began.elapsed().as_secs_f64();
    println!(
        "{engine}: {backups} of {backups} copies open whole, {edits:.0} new tables a second, {last} numbers"
    );
    assert!(edits >= 5.0, "{edits} new tables a second are too few to prove anything");
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
}

#[test]
fn a_store_that_is_being_written_opens_whole_from_every_backup() {
    // Pebble's many modules are too much for a machine that only wants to know whether a change may land.
    let (engines, backups) =
        if is_long() { (&["leveldb", "pebble"][..], 100) } else { (&["leveldb"][..], 4) };
    engines.iter().for_each(|engine| every_copy_opens_whole(engine, backups));
}

#[test]
fn a_plain_copy_of_a_leveldb_that_is_being_written_fails_its_verification_and_does_not_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, scratch) = (folder.path().join("store"), folder.path().join("restored"));
    let writer = Writer::start("leveldb", &store);
    let system = system(&store, ", profile: plain, limits: { read: 500KB }");
    let job = system.nsctl(&["backup", "-o", "json"]).json();
    let problems = job["parts"][0]["problems"].to_string();
    assert!(problems.contains("vanished"), "{job:#}");
    assert_eq!(consistency(&system), "fuzzy");
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(DAMAGED);
    let there = restored(&system, &scratch);
    assert!(there.join("CURRENT").exists());
    let opened = writer.check(&there);
    assert!(opened.is_err(), "{opened:?}");
}

#[test]
fn what_a_killed_agent_has_left_in_the_folder_is_gone_when_it_is_there_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    let writer = Writer::start("leveldb", &store);
    let mut system = system(&store, ", limits: { read: 200KB }");
    let job = system.start_job(&["backup"]);
    let links = || wait_for("links", 20, || left_in(&store).pop());
    let left = links();
    system.kill_agent();
    assert_eq!(left_in(&store), std::slice::from_ref(&left), "a killed agent cleans up nothing");
    system.start_agent();
    system.await_agent();
    assert!(!left_in(&store).contains(&left));
    assert!(!writer.is_stopped());
    system.nsctl(&["cancel", &job]);
    system.await_end(&job);
    wait_for("the end of the links", 20, || left_in(&store).is_empty().then_some(()));

    let job = system.start_job(&["backup"]);
    links();
    system.nsctl(&["cancel", &job]).expect(0);
    assert_eq!(system.await_end(&job)["state"], "cancelled");
    assert_eq!(left_in(&store), [""; 0]);
}

#[test]
fn an_older_state_of_a_signer_does_not_replace_a_newer_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = folder.path().join("node");
    let state = node.join("data/priv_validator_state.json");
    fs::create_dir_all(state.parent().expect("a parent")).expect("made");
    fs::create_dir_all(node.join("config")).expect("made");
    fs::write(node.join("config/priv_validator_key.json"), "{}").expect("written");
    fs::write(node.join("data/app"), "one").expect("written");
    fs::write(&state, r#"{"height":"7"}"#).expect("written");
    let system = system(&node, "");
    system.run(&["backup"]);
    fs::write(&state, r#"{"height":"9"}"#).expect("written");
    fs::write(node.join("data/app"), "two").expect("written");
    let restore = ["restore", "--timestamp", "latest", "--yes", "--no-safety-backup"];
    let refused = system.nsctl(&restore);
    assert_ne!(refused.code, 0);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("could sign a height twice"), "{said}");
    assert_eq!(fs::read(&state).expect("there"), br#"{"height":"9"}"#);
    assert_eq!(fs::read(node.join("data/app")).expect("there"), b"two");
    // Another path is no signer's.
    system.run(&[&restore[..], &["--path", "data/app"]].concat());
    assert_eq!(fs::read(node.join("data/app")).expect("there"), b"one");
    assert_eq!(fs::read(&state).expect("there"), br#"{"height":"9"}"#);
    // Where nobody signs any more.
    fs::rename(&state, folder.path().join("kept")).expect("moved");
    system.run(&restore);
    assert_eq!(fs::read(&state).expect("there"), br#"{"height":"7"}"#);
    let elsewhere = folder.path().join("elsewhere");
    let to = ["restore", "--timestamp", "latest", "--plan", "--to", elsewhere.to_str().expect("UTF-8")];
    let planned = system.nsctl(&to).expect(0);
    assert!(planned.out.contains("is a validator's key"), "{}", planned.out);
}
