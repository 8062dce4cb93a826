//! What an archive says of a node that it comes from, and what the controller remembers of a validator.

use std::fs;
use std::io::Write;

use serde_json::Value;

use crate::{RESTORE, Validator, Writer, consistency, left_in, system};

#[test]
fn the_manifest_of_a_geth_says_that_it_may_start_on_it_as_after_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = folder.path().join("node");
    fs::create_dir_all(node.join("chaindata")).expect("made");
    fs::write(node.join("chaindata/x"), "x").expect("written");
    for (profile, count) in [("geth", 1), ("plain", 0)] {
        let system = system(&node, &format!(", profile: {profile}"));
        system.run(&["backup"]);
        let name = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["name"].clone();
        let path = system.repository().join(name.as_str().expect("a name")).join("blockchain/chain.json");
        let manifest: Value = serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON");
        let remarks = manifest["remarks"].as_array().cloned().unwrap_or_default();
        assert_eq!(remarks.len(), count, "{profile}: {manifest:#}");
        assert!(
            remarks.iter().all(|one| one.to_string().contains("it goes back to the last state")),
            "{remarks:?}"
        );
    }
}

#[test]
fn a_validator_never_goes_below_what_any_backup_has_seen_though_an_older_one_is_restored() {
    let validator = Validator::at(9);
    let mut system = system(&validator.node(), "");
    let first = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    validator.says(20, "two");
    system.run(&["backup"]);
    // What is remembered outlives the controller's process, and a later backup that says less.
    system.kill_controller();
    system.start_controller();
    system.await_agent();
    validator.says(12, "three");
    system.run(&["backup"]);

    // The live state is ahead of the backup's, and behind what was seen: nobody knows what it has signed.
    let restore: Vec<&str> =
        RESTORE.iter().map(|word| if *word == "latest" { first.as_str() } else { *word }).collect();
    let refused = system.nsctl(&restore);
    assert_ne!(refused.code, 0);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("another backup has seen of its validator"), "{said}");
    assert_eq!(Validator::has(&validator.node()), ("12".into(), 0, "three".into()));

    // A height that is stated counts where it is the highest.
    system.run(&[&restore[..], &["--signer-height", "15"]].concat());
    assert_eq!(Validator::has(&validator.node()), ("20".into(), i64::from(i32::MAX), "one".into()));
    system.run(&[&restore[..], &["--signer-height", "30"]].concat());
    assert_eq!(Validator::has(&validator.node()), ("30".into(), i64::from(i32::MAX), "one".into()));
    // One that is ahead of all is kept as it is.
    validator.says(31, "four");
    system.run(&restore);
    assert_eq!(Validator::has(&validator.node()), ("31".into(), 0, "one".into()));
    // Where the key goes elsewhere, what was seen goes with it.
    let elsewhere = validator.folder.path().join("elsewhere");
    let to = ["--to", elsewhere.to_str().expect("UTF-8")];
    let with_key = ["--path", "config/priv_validator_key.json", "--path", "data"];
    system.run(&[&restore[..], &to, &with_key].concat());
    assert_eq!(Validator::has(&elsewhere.join("blockchain")).0, "20");
}

#[test]
fn what_was_seen_of_a_validator_comes_back_from_the_manifests_where_the_controller_s_folder_is_lost() {
    let validator = Validator::at(9);
    let mut system = system(&validator.node(), "");
    // What was put aside before an upgrade is nobody's state.
    fs::create_dir(validator.node().join("data-backup-2026-11-1")).expect("made");
    fs::copy(validator.state(), validator.node().join("data-backup-2026-11-1/priv_validator_state.json"))
        .expect("copied");
    let first = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    validator.says(20, "two");
    let second = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    let path = system.repository().join(&second).join("blockchain/chain.json");
    let manifest: Value = serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON");
    assert_eq!(manifest["signed"], serde_json::json!({ "height": 20, "round": 0, "step": 3 }));

    // The newest copy of the catalog that is left is of before that.
    system.kill_controller();
    fs::remove_file(system.repository().join(&second).join("catalog.sealed")).expect("there");
    let key = validator.folder.path().join("key");
    fs::copy(system.recovery_key(), &key).expect("its owner keeps it");
    let state = system.root().join("controller");
    fs::remove_dir_all(&state).expect("lost");
    let [state, key] = [&state, &key].map(|path| path.to_str().expect("UTF-8"));
    system.offline("rebuild", &["--state", state, "--recovery-key-file", key]).expect(0);
    system.start_controller();
    system.await_agent();
    validator.says(12, "three");
    let restore: Vec<&str> =
        RESTORE.iter().map(|word| if *word == "latest" { first.as_str() } else { *word }).collect();
    let refused = system.nsctl(&restore);
    assert_ne!(refused.code, 0);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("another backup has seen of its validator"), "{said}");
    // Ahead of all that was seen it goes through: what was set aside asks nothing, and comes back as it was.
    validator.says(31, "four");
    let set_aside = validator.node().join("data-backup-2026-11-1/priv_validator_state.json");
    let was = fs::read(&set_aside).expect("there");
    fs::remove_file(&set_aside).expect("lost");
    system.run(&restore);
    assert_eq!(Validator::has(&validator.node()), ("31".into(), 0, "one".into()));
    assert_eq!(fs::read(&set_aside).expect("there"), was);
    // Nor is it a state by which a key may come.
    let key = validator.node().join("config/priv_validator_key.json");
    fs::write(&key, "of another").expect("written");
    let without = ["--path", "config", "--path", "data-backup-2026-11-1", "--signer-height", "9000"];
    let refused = system.nsctl(&[&restore[..], &without].concat());
    let said = format!("{}{}", refused.out, refused.err);
    assert!(refused.code != 0 && said.contains("does not come with it"), "{said}");
    assert_eq!(fs::read(&set_aside).expect("there"), was);
    fs::write(&key, "{}").expect("written");

    // Of several nothing is remembered, and that is said.
    fs::create_dir(validator.node().join("other")).expect("made");
    fs::copy(validator.state(), validator.node().join("other/priv_validator_state.json")).expect("copied");
    let third = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    let path = system.repository().join(third).join("blockchain/chain.json");
    let manifest: Value = serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON");
    assert!(
        manifest["signed"].is_null() && manifest["remarks"].to_string().contains("none of it is remembered")
    );
}

/// What is known of validators, by their addresses.
fn signers(system: &tests::System) -> Vec<Value> {
    let said = system.nsctl(&["signer", "list", "-o", "json"]).expect(0).json();
    said["signers"].as_array().expect("a list").clone()
}

fn height_of(system: &tests::System, address: &str) -> i64 {
    let signers = signers(system);
    let one = signers.iter().find(|one| one["address"] == address);
    one.unwrap_or_else(|| panic!("{address}: {signers:#?}"))["height"].as_i64().expect("a number")
}

#[test]
fn a_height_goes_with_the_key_wherever_it_is_and_somebody_who_knows_better_states_it() {
    const ONE: &str = "5F0C8D1E2A3B4C5D6E7F8091A2B3C4D5E6F70819";
    const OTHER: &str = "00112233445566778899AABBCCDDEEFF00112233";
    let (left, right) = (Validator::at(20), Validator::at(5));
    left.has_key(ONE);
    right.has_key(ONE);
    let mut system = tests::System::prepare(&[]);
    let source = |component: &str, validator: &Validator| {
        let path = validator.node();
        format!("  - {{ component: {component}, kind: blockchain, name: chain, path: {} }}\n", path.display())
    };
    system.configure_agent(&(source("left", &left) + &source("right", &right)));
    // Nobody takes what is told; that it was told is seen all the same.
    let mut file =
        fs::OpenOptions::new().append(true).open(system.root().join("controller.yaml")).expect("there");
    writeln!(file, "alerts:\n  allow_private: true\n  sinks: {{ away: {{ webhook: {{ url: \"http://127.0.0.1:9/x\" }} }} }}")
        .expect("written");
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let first = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    assert_eq!(height_of(&system, ONE), 20);
    // Whoever reads the disk learns no address.
    let manifest =
        fs::read_to_string(system.repository().join(&first).join("left/chain.json")).expect("there");
    assert!(manifest.contains("\"signer\"") && !manifest.to_uppercase().contains(ONE), "{manifest}");

    // Two nodes with one key are punished: that it is in both is told, and where.
    tests::wait_for("the alert", 60, || {
        let history = system.nsctl(&["alert", "history", "-o", "json"]).expect(0).json().to_string();
        let what = format!("the key of validator {ONE} is in");
        (history.contains("anomaly") && history.contains(&what)).then_some(())
    });
    let places = signers(&system)[0]["places"].clone();
    assert_eq!(places, serde_json::json!(["left/chain", "right/chain"]));

    // The key has signed more in the other source than the one that is restored ever had.
    right.says(12, "two");
    let restore = |system: &tests::System, backup: &str, component: &str| {
        let words =
            ["restore", "--timestamp", backup, "--yes", "--no-safety-backup", "--components", component];
        system.nsctl(&words)
    };
    let refused = restore(&system, &first, "right");
    let said = format!("{}{}", refused.out, refused.err);
    assert!(refused.code != 0 && said.contains("another backup has seen of its validator"), "{said}");

    // Another key in the same folder has a height of its own.
    left.has_key(OTHER);
    left.says(3, "other");
    let second = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    assert_eq!((height_of(&system, ONE), height_of(&system, OTHER)), (20, 3));
    restore(&system, &second, "left").expect(0);
    assert_eq!(Validator::has(&left.node()), ("3".into(), 0, "other".into()));

    // Somebody knows better; that is asked for, said, and stands in the audit log.
    let unasked = system.nsctl(&["signer", "set", ONE, "10", "--reason", "the chain begins anew"]);
    assert!(unasked.code == 2 && unasked.err.contains("--yes"), "{}", unasked.err);
    let unexplained = system.nsctl(&["signer", "set", ONE, "10", "--reason", " ", "--yes"]);
    assert!(unexplained.code != 0 && unexplained.err.contains("needs a reason"), "{}", unexplained.err);
    let unknown = system.nsctl(&["signer", "set", "nobody", "10", "--reason", "x", "--yes"]);
    assert!(unknown.code != 0 && unknown.err.contains("nsctl signer list"), "{}", unknown.err);
    let lowered =
        system.nsctl(&["signer", "set", ONE, "10", "--reason", "the chain begins anew", "--yes"]).expect(0);
    assert!(lowered.err.contains("known to have signed up to height 20"), "{}", lowered.err);
    assert_eq!(height_of(&system, ONE), 10);
    let audit = system.nsctl(&["audit", "-o", "json"]).expect(0).json().to_string();
    assert!(audit.contains("height 10, before it 20") && audit.contains("the chain begins anew"), "{audit}");
    restore(&system, &first, "right").expect(0);
    assert_eq!(Validator::has(&right.node()), ("12".into(), 0, "one".into()));

    // A lost state folder brings neither the old height back nor loses what was seen since.
    let third = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    assert_eq!(height_of(&system, ONE), 12);
    system.nsctl(&["signer", "set", ONE, "11", "--reason", "looked up", "--yes"]).expect(0);
    right.says(11, "two");
    system.run(&["backup"]);
    system.kill_controller();
    let key = left.folder.path().join("key");
    fs::copy(system.recovery_key(), &key).expect("its owner keeps it");
    let state = system.root().join("controller");
    fs::remove_dir_all(&state).expect("lost");
    let [state, key] = [&state, &key].map(|path| path.to_str().expect("UTF-8"));
    system.offline("rebuild", &["--state", state, "--recovery-key-file", key]).expect(0);
    system.start_controller();
    system.await_agent();
    assert_eq!((height_of(&system, ONE), height_of(&system, OTHER)), (11, 3), "{third}");
}

#[test]
fn where_there_can_be_no_snapshot_the_next_way_is_taken_and_the_reason_told_to_who_has_asked_for_one() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory, where nothing makes snapshots");
    let store = folder.path().join("store");
    let _writer = Writer::start("leveldb", &store);
    let system = system(&store, ", quiesce: [snapshot, bracket]");
    let job = system.run(&["backup"]);
    let told = job["parts"][0]["problems"].to_string();
    assert!(told.contains("no snapshot was made of it: it does not lie on Btrfs"), "{told}");
    assert_eq!(consistency(&system), "bracketed");
    assert_eq!(left_in(&store), [""; 0]);
}
