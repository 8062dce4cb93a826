//! Whose height it is: a state says what one key has signed, and nothing of any other that takes its place.

use std::fs;

use serde_json::Value;

use crate::{RESTORE, Validator, system};

pub(crate) const ONE: &str = "5F0C8D1E2A3B4C5D6E7F8091A2B3C4D5E6F70819";
pub(crate) const OTHER: &str = "00112233445566778899AABBCCDDEEFF00112233";
const CLOSED: i64 = i32::MAX as i64;

fn backed_up(system: &tests::System) -> String {
    system.run(&["backup"])["backup"].as_str().expect("a name").to_owned()
}

/// A restore in place of this backup, and what it says.
fn restore(system: &tests::System, backup: &str, more: &[&str]) -> (i32, String) {
    let words = RESTORE.map(|word| if word == "latest" { backup } else { word });
    let done = system.nsctl(&[&words[..], more].concat());
    (done.code, format!("{}{}", done.out, done.err))
}

fn key(validator: &Validator) -> String {
    let key = fs::read(validator.node().join("config/priv_validator_key.json")).expect("there");
    let key: Value = serde_json::from_slice(&key).expect("JSON");
    key["address"].as_str().expect("text").to_owned()
}

#[test]
fn the_state_of_one_key_says_nothing_of_another_that_a_restore_brings() {
    let validator = Validator::at(5_000);
    validator.has_key(ONE);
    let system = system(&validator.node(), "");
    let first = backed_up(&system);

    // It has gone elsewhere and signs there; another one lives here, further than any backup has seen the first.
    validator.has_key(OTHER);
    validator.says(6_000, "other");
    for more in [&[][..], &["--path", "config/*", "--path", "data"]] {
        let (code, said) = restore(&system, &first, more);
        assert!(
            code != 0 && said.contains("will be another key") && said.contains("--signer-height"),
            "{said}"
        );
        assert_eq!((key(&validator), Validator::has(&validator.node()).0), (OTHER.into(), "6000".into()));
    }
    // Without its state it does not come at all, whatever is stated: that would be written nowhere.
    for more in [&[][..], &["--signer-height", "9000"]] {
        let (code, said) = restore(&system, &first, &[&["--path", "config"], more].concat());
        assert!(code != 0 && said.contains("does not come with it"), "{said}");
        assert_eq!(key(&validator), OTHER);
    }
    // A height that is stated counts, and never puts it below what is live; what the other has signed there is no
    // answer of this one's.
    let (code, said) = restore(&system, &first, &["--signer-height", "5500"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        (key(&validator), Validator::has(&validator.node())),
        (ONE.into(), ("6000".into(), CLOSED, "one".into()))
    );
    let (code, said) = restore(&system, &first, &["--path", "config"]);
    assert_eq!(code, 0, "the same key: {said}");

    // A key that is lost beside a state is nobody's, too.
    fs::remove_file(validator.node().join("config/priv_validator_key.json")).expect("lost");
    let (code, said) = restore(&system, &first, &[]);
    assert!(code != 0 && said.contains("will be another key"), "{said}");
}

#[test]
fn a_key_that_stays_where_another_s_data_come_keeps_its_own_height() {
    for exclude in [false, true] {
        let validator = Validator::at(5_000);
        validator.has_key(ONE);
        let more = if exclude { ", exclude: [config/priv_validator_key.json]" } else { "" };
        let system = system(&validator.node(), more);
        let first = backed_up(&system);
        validator.has_key(OTHER);
        validator.says(6_000, "other");
        backed_up(&system);
        // Its state is lost, and somebody looks the height up of the one that the backup is of.
        fs::remove_file(validator.state()).expect("lost");
        let part: &[&str] = if exclude { &[] } else { &["--path", "data"] };
        let (code, said) = restore(&system, &first, part);
        assert!(code != 0 && said.contains("--signer-height"), "{said}");
        let (code, said) = restore(&system, &first, &[part, &["--signer-height", "5500"]].concat());
        assert_eq!(code, 0, "{said}");
        let has = Validator::has(&validator.node());
        assert_eq!(
            (key(&validator), has),
            (OTHER.into(), ("6000".into(), CLOSED, "one".into())),
            "{exclude}"
        );
    }
}

#[test]
fn where_nobody_knows_whose_it_is_another_chain_s_height_asks_and_is_not_written() {
    let (far, near) = (Validator::at(23_000_000), Validator::at(5_000));
    far.has_key(ONE);
    let mut system = tests::System::prepare(&[]);
    let source = |component: &str, validator: &Validator| {
        let path = validator.node();
        format!("  - {{ component: {component}, kind: blockchain, name: chain, path: {} }}\n", path.display())
    };
    system.configure_agent(&(source("far", &far) + &source("near", &near)));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let first = backed_up(&system);
    near.says(5_050, "two");
    let only = ["--components", "near"];
    let (code, said) = restore(&system, &first, &only);
    assert!(code != 0 && said.contains("of any, where it does not say whose it is"), "{said}");
    let (code, said) = restore(&system, &first, &[&only[..], &["--signer-height", "5100"]].concat());
    assert_eq!(code, 0, "{said}");
    assert_eq!(Validator::has(&near.node()), ("5100".into(), CLOSED, "one".into()));
}

#[test]
fn a_key_that_cannot_be_told_is_said_and_a_link_within_the_folder_is_followed() {
    let validator = Validator::at(9);
    let system = system(&validator.node(), "");
    let file = validator.node().join("config/priv_validator_key.json");
    let shown = || {
        let table = system.nsctl(&["show", "latest"]).expect(0).out;
        let json = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
        (table, json["archives"][0]["remarks"].to_string())
    };
    let signers = || system.nsctl(&["signer", "list", "-o", "json"]).expect(0).json()["signers"].clone();
    // As Kubernetes lays a secret out.
    fs::create_dir(validator.node().join("config/..2026")).expect("made");
    validator.has_key(ONE);
    fs::rename(&file, validator.node().join("config/..2026/priv_validator_key.json")).expect("moved");
    std::os::unix::fs::symlink("..2026", validator.node().join("config/..data")).expect("made");
    std::os::unix::fs::symlink("..data/priv_validator_key.json", &file).expect("made");
    backed_up(&system);
    assert_eq!(
        (&signers()[0]["address"], &signers()[0]["height"]),
        (&ONE.into(), &9.into()),
        "{}",
        signers()
    );
    let (table, json) = shown();
    assert!(!table.contains("whose key") && json == "[]", "{table}{json}");

    // It leads out of the folder: nothing there is read, and the height is the source's.
    fs::remove_file(&file).expect("removed");
    let elsewhere = validator.folder.path().join("secret");
    fs::write(&elsewhere, format!(r#"{{"address":"{OTHER}"}}"#)).expect("written");
    std::os::unix::fs::symlink(&elsewhere, &file).expect("made");
    validator.says(20, "two");
    let second = backed_up(&system);
    let (table, json) = shown();
    for said in [&table, &json] {
        assert!(said.contains("whose key its validator's state is of cannot be told"), "{said}");
    }
    let known = signers().to_string();
    assert!(known.contains("blockchain/chain") && !known.contains(OTHER), "{known}");
    // The same link, to the same place: nothing of the key is restored, so it is the one that is live.
    let (code, said) = restore(&system, &second, &[]);
    assert_eq!(code, 0, "{said}");
    // Where a link leads that is not seen from here nobody knows: it may be this very folder, as the node sees it.
    fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink("/nowhere/node/secrets/key.json", &file).expect("made");
    let third = backed_up(&system);
    let (code, said) = restore(&system, &third, &[]);
    assert!(code != 0 && said.contains("will be another key") && said.contains("--signer-height"), "{said}");

    // What was stated of the key outweighs what was seen without one, for it alone, and that is said.
    let stated = system.nsctl(&["signer", "set", ONE, "10", "--reason", "looked up", "--yes"]).expect(0);
    assert!(
        stated.err.contains("stands for other keys") && stated.err.contains("height 20"),
        "{}",
        stated.err
    );
    system.nsctl(&["signer", "set", "blockchain/chain", "11", "--reason", "test chain", "--yes"]).expect(0);
    let heights: Vec<_> =
        signers().as_array().expect("a list").iter().map(|one| one["height"].clone()).collect();
    assert_eq!(heights, [11, 11], "all that was seen in that source");
}

/// What becomes of a state that the archive has as a link: it never goes live unasked, nor without a height.
fn a_linked_state_is_asked_for(validator: &Validator, system: &tests::System, backup: &str) {
    fs::remove_file(validator.state()).expect("removed");
    validator.says(9_000, "two");
    let (code, said) = restore(system, backup, &[]);
    assert!(code != 0 && said.contains("is a link or no plain file in the backup"), "{said}");
    assert_eq!(Validator::has(&validator.node()), ("9000".into(), 0, "two".into()));
    let (code, said) = restore(system, backup, &["--signer-height", "9500"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(Validator::has(&validator.node()), ("9500".into(), CLOSED, "one".into()));
    assert!(validator.state().symlink_metadata().expect("there").is_file());
}

#[test]
fn a_state_that_the_archive_has_as_a_link_does_not_put_the_validator_back() {
    // Another name of what comes before it.
    let validator = Validator::at(5_000);
    let path = validator.node();
    let mut system = tests::System::prepare(&[]);
    system.configure_agent(&format!(
        "  - {{ component: blockchain, kind: files, name: chain, path: {} }}\n",
        path.display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    fs::hard_link(validator.state(), path.join("data/0.bak")).expect("linked");
    let first = backed_up(&system);
    fs::remove_file(validator.state()).expect("removed");
    validator.says(9_000, "two");
    let (code, said) = restore(&system, &first, &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(Validator::has(&path), ("9000".into(), 0, "one".into()), "it stays: {said}");
    let bak = fs::read_to_string(path.join("data/0.bak")).expect("there");
    assert!(bak.contains("5000"), "the other name is the backup's: {bak}");

    // One that leads to a plain file of the folder.
    let validator = Validator::at(5_000);
    let path = validator.node();
    let system = crate::system(&path, "");
    fs::create_dir(path.join("state")).expect("made");
    fs::rename(validator.state(), path.join("state/real.json")).expect("moved");
    std::os::unix::fs::symlink("../state/real.json", validator.state()).expect("made");
    let first = backed_up(&system);
    a_linked_state_is_asked_for(&validator, &system, &first);
}

#[test]
fn a_copy_goes_into_an_empty_mount_too_and_has_no_key() {
    let validator = Validator::at(5_000);
    validator.has_key(ONE);
    let system = system(&validator.node(), "");
    let first = backed_up(&system);
    let place = validator.folder.path().join("copy");
    let mount = place.join("blockchain");
    fs::create_dir_all(&mount).expect("made");
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&mount).status();
    assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a small disk: run it as root");
    let (code, said) = restore(&system, &first, &["--to", place.to_str().expect("UTF-8")]);
    let is_there = |name: &str| mount.join(name).exists();
    let there = [is_there("data/priv_validator_state.json"), is_there("config/priv_validator_key.json")];
    let unmounted = std::process::Command::new("umount").arg("-l").arg(&mount).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert_eq!((code, there), (0, [true, false]), "{said}");
}
