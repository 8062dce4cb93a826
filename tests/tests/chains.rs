//! Chains, as a user sees it: what a node's engine writes is backed up while it writes, opens whole in that
//! engine when it is restored, and leaves nothing behind in the node's folder.
//!
//! `NEURASHIELD_ENGINES=long` takes a hundred backups of a LevelDB, and as many of a Pebble.

#[path = "chains/engine.rs"]
mod engine;
#[path = "chains/keys.rs"]
mod keys;
#[path = "chains/killed.rs"]
mod killed;
#[path = "chains/told.rs"]
mod told;
#[path = "chains/untested.rs"]
mod untested;
#[path = "chains/whose.rs"]
mod whose;

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
    started(System::prepare(&[]), folder, more)
}

fn started(mut system: System, folder: &Path, more: &str) -> System {
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
    fs::write(node.join("genesis.json"), "the first block").expect("written");
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
        assert_eq!(fs::read(node_there.join("genesis.json")).expect("restored"), b"the first block");
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

/// How the newest backup was come by, by its archive's manifest.
fn quiesce(system: &System) -> Value {
    let name = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["name"].clone();
    let folder = system.repository().join(name.as_str().expect("a name"));
    let manifest = fs::read(folder.join("blockchain/chain.json")).expect("a manifest");
    serde_json::from_slice::<Value>(&manifest).expect("JSON")["quiesce"].clone()
}

#[test]
fn stores_that_may_depend_on_each_other_are_held_while_who_writes_is_paused_for_milliseconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    let stores = ["a.db", "b.db"].map(|name| node.join("data").join(name));
    fs::create_dir_all(node.join("data")).expect("made");
    let writers = stores.each_ref().map(|store| Writer::start("leveldb", store));
    let mut paused = system(&node, "");
    for backup in 0..3 {
        let job = paused.run(&["backup"]);
        assert_eq!(job["parts"][0]["problems"], serde_json::json!([]), "backup {backup}");
        assert_eq!(consistency(&paused), "quiesced", "backup {backup}");
        let quiesce = quiesce(&paused);
        assert_eq!(quiesce["by"], "pause", "{quiesce}");
        let held = quiesce["held_ms"].as_u64().expect("a number");
        assert!((1..2_000).contains(&held), "{held} ms");
        assert!(writers.iter().all(|writer| !writer.is_stopped()));
        assert_eq!(left_in(&node), [""; 0]);
        let there = restored(&paused, &scratch);
        for (writer, name) in writers.iter().zip(["a.db", "b.db"]) {
            writer
                .check(&there.join("data").join(name))
                .unwrap_or_else(|why| panic!("backup {backup}: {why}"));
        }
        fs::remove_dir_all(&scratch).expect("removed");
    }

    // What an agent and its guard have left paused, both killed, goes on when the agent is there again.
    let id = writers[0].child.id();
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
    let started = stat.rsplit(')').next().expect("fields").split_ascii_whitespace().nth(19).expect("a start");
    paused.kill_agent();
    fs::write(paused.root().join("agent/paused-0123"), format!("{id}:{started}")).expect("written");
    signal(id, "STOP");
    wait_for("a stop", 5, || writers[0].is_stopped().then_some(()));
    paused.start_agent();
    paused.await_agent();
    assert!(!writers[0].is_stopped());
    assert!(!paused.root().join("agent/paused-0123").exists());

    // Who does not want that is told what the backup is then.
    let told = system(&node, ", quiesce: [bracket]");
    let job = told.run(&["backup"]);
    assert_eq!(consistency(&told), "fuzzy");
    assert!(job["parts"][0]["problems"].to_string().contains("not all of the same one"), "{job:#}");
    assert_eq!(quiesce(&told), Value::Null);
}

fn signal(process: u32, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status();
    assert!(sent.expect("it runs").success());
}

#[test]
fn a_guard_lets_go_on_what_was_paused_when_its_agent_dies_or_takes_too_long() {
    for dies in [true, false] {
        let mut paused = Command::new("sleep").arg("60").spawn().expect("it starts");
        let id = paused.id();
        let stat = || fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
        let started =
            stat().rsplit(')').next().expect("fields").split_ascii_whitespace().nth(19).map(str::to_owned);
        let mut guard = Command::new(tests::programs().join("neurashield-agent"))
            .args(["guard-pause", "/no/record", &format!("{id}:{}", started.expect("a start"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut ready = [0; 6];
        std::io::Read::read_exact(guard.stdout.as_mut().expect("piped"), &mut ready).expect("ready");
        signal(id, "STOP");
        let is_stopped = || stat().rsplit(')').next().expect("a state").trim_start().starts_with('T');
        wait_for("a stop", 5, || is_stopped().then_some(()));
        let agent = guard.stdin.take();
        if dies {
            drop(agent);
            wait_for("it to go on", 2, || (!is_stopped()).then_some(()));
        } else {
            wait_for("it to go on", 5, || (!is_stopped()).then_some(()));
            drop(agent);
        }
        assert!(guard.wait().expect("it ends").success());
        paused.kill().expect("killed");
        paused.wait().expect("reaped");
    }
}

/// A validator's folder, and what its state says.
struct Validator {
    folder: tempfile::TempDir,
}

impl Validator {
    fn at(height: u64) -> Self {
        let validator = Self { folder: tempfile::tempdir().expect("a folder") };
        for folder in ["data", "config"] {
            fs::create_dir_all(validator.node().join(folder)).expect("made");
        }
        fs::write(validator.node().join("config/priv_validator_key.json"), "{}").expect("written");
        validator.says(height, "one");
        validator
    }

    fn node(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    fn state(&self) -> PathBuf {
        self.node().join("data/priv_validator_state.json")
    }

    fn has_key(&self, address: &str) {
        let key = format!(r#"{{"address":"{address}","pub_key":{{}},"priv_key":{{}}}}"#);
        fs::write(self.node().join("config/priv_validator_key.json"), key).expect("written");
    }

    fn says(&self, height: u64, app: &str) {
        let state = format!(r#"{{"height":"{height}","round":0,"step":3,"signature":"of {height}"}}"#);
        fs::write(self.state(), state).expect("written");
        fs::write(self.node().join("data/app"), app).expect("written");
    }

    /// What lies in `node` now: height, round, and the app's data.
    fn has(node: &Path) -> (String, i64, String) {
        let state = fs::read(node.join("data/priv_validator_state.json")).expect("there");
        let state: Value = serde_json::from_slice(&state).expect("JSON");
        let app = fs::read_to_string(node.join("data/app")).expect("there");
        (state["height"].as_str().expect("text").to_owned(), state["round"].as_i64().expect("a number"), app)
    }
}

const RESTORE: [&str; 5] = ["restore", "--timestamp", "latest", "--yes", "--no-safety-backup"];

#[test]
fn what_a_signer_has_signed_never_goes_back_and_no_height_is_taken_for_granted() {
    let validator = Validator::at(9);
    let (node, state) = (validator.node(), validator.state());
    let system = system(&node, "");
    system.run(&["backup"]);
    // By the numbers, not by the file's time: the live one is ahead, and looks older.
    validator.says(10, "two");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&state).expect("opened").set_modified(old).expect("set");
    let live = fs::read(&state).expect("there");
    let restored = system.run(&RESTORE);
    assert!(
        restored.to_string().contains("validators' states that are ahead of the backup's kept"),
        "{restored:#}"
    );
    assert_eq!(fs::read(&state).expect("there"), live, "with what was signed");
    assert_eq!(fs::read(node.join("data/app")).expect("there"), b"one");
    // The backup is ahead: the live one was set up anew or taken from somewhere, and says nothing of what was signed
    // since the backup.
    for height in [0, 8] {
        validator.says(height, "two");
        let refused = system.nsctl(&RESTORE);
        assert_ne!(refused.code, 0);
        let said = format!("{}{}", refused.out, refused.err);
        assert!(said.contains("says less than the backup's"), "{said}");
        assert_eq!(Validator::has(&node), (height.to_string(), 0, "two".into()));
    }
    system.run(&[&RESTORE[..], &["--signer-height", "3"]].concat());
    assert_eq!(Validator::has(&node), ("9".into(), 0, "one".into()));
    // No chain is so high, and nothing is left as it was in the backup instead.
    fs::write(node.join("data/app"), "two").expect("written");
    let refused = system.nsctl(&[&RESTORE[..], &["--signer-height", "18446744073709551615"]].concat());
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("no chain has a height"), "{}", refused.err);
    assert_eq!(fs::read(node.join("data/app")).expect("there"), b"two");
    // Another path is no signer's.
    validator.says(10, "two");
    system.run(&[&RESTORE[..], &["--path", "data/app"]].concat());
    assert_eq!(Validator::has(&node), ("10".into(), 0, "one".into()));

    // It is lost, or tells nothing: nobody knows what was signed since the backup.
    fs::write(node.join("data/app"), "two").expect("written");
    for spoil in [|state: &Path| fs::remove_file(state), |state: &Path| fs::write(state, "{")] {
        spoil(&state).expect("spoilt");
        let refused = system.nsctl(&RESTORE);
        assert_ne!(refused.code, 0);
        let said = format!("{}{}", refused.out, refused.err);
        assert!(said.contains("--signer-height"), "{said}");
        assert_eq!(fs::read(node.join("data/app")).expect("there"), b"two");
    }
    fs::remove_file(&state).expect("removed");
    // Never below the backup's own, which has what was signed at that height; at one that is stated nothing is signed.
    system.run(&[&RESTORE[..], &["--signer-height", "3"]].concat());
    assert_eq!(Validator::has(&node), ("9".into(), 0, "one".into()));
    fs::remove_file(&state).expect("removed");
    system.run(&[&RESTORE[..], &["--signer-height", "12"]].concat());
    assert_eq!(Validator::has(&node), ("12".into(), i64::from(i32::MAX), "one".into()));
}

#[test]
fn a_copy_of_a_validator_comes_without_its_key_unless_its_height_is_stated() {
    let validator = Validator::at(9);
    let system = system(&validator.node(), "");
    system.run(&["backup"]);
    let key = "config/priv_validator_key.json";
    let copied = |name: &str, more: &[&str]| {
        let to = validator.folder.path().join(name);
        let words = ["restore", "--timestamp", "latest", "--yes", "--to", to.to_str().expect("UTF-8")];
        let planned = system.nsctl(&[&words[..], more].concat()).expect(0);
        (to.join("blockchain"), format!("{}{}", planned.out, planned.err))
    };
    let (copy, said) = copied("copy", &[]);
    assert!(said.contains("is a validator's key and is left out"), "{said}");
    assert!(!copy.join(key).exists());
    assert_eq!(Validator::has(&copy), ("9".into(), 0, "one".into()));
    let (copy, said) = copied("moved", &["--signer-height", "20"]);
    assert!(said.contains("start nothing with this copy"), "{said}");
    assert!(copy.join(key).exists());
    assert_eq!(Validator::has(&copy), ("20".into(), i64::from(i32::MAX), "one".into()));
    let (copy, _) = copied("key", &["--path", key]);
    assert!(copy.join(key).exists());
    let (copy, said) = copied("pattern", &["--path", "config/*", "--path", "data/app"]);
    assert!(said.contains("is a validator's key and is left out"), "{said}");
    assert!(!copy.join(key).exists(), "it was not asked for by its name");
}
