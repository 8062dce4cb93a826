//! What an archive says of a node that it comes from, and what the controller remembers of a validator.

use std::fs;

use serde_json::Value;

use crate::{RESTORE, Validator, system};

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
