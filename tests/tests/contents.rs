//! What the files of a component hold is looked at while they are backed up and when they are verified: a
//! configuration that nothing can read comes to light before it is needed.

use std::fs;

use tests::System;

const DAMAGED: i32 = 4;

/// A controller and an agent that serves this source.
fn serving(source: &str) -> System {
    let mut system = System::prepare_held(&[]);
    system.configure_agent(&format!("  - {{ {source} }}\n"));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

#[test]
fn a_configuration_file_that_does_not_parse_is_told_at_the_backup_and_fails_the_verification() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, bad) = (folder.path().join("compose.yaml"), folder.path().join("settings.json"));
    fs::write(&good, "services: { web: { image: shop } }\n").expect("written");
    fs::write(&bad, "{ \"password\": hunter2 }\n").expect("written");
    fs::write(folder.path().join("notes.txt"), "{ not for a parser").expect("written");
    let source = "component: configs, kind: configs, name: configs";
    let system = serving(&format!("{source}, files: [{}/*]", folder.path().display()));

    let job = system.run(&["backup"]);
    assert_eq!(job["state"], "complete", "the bytes are all there: {job}");
    let problems = job["parts"][0]["problems"].as_array().expect("problems").clone();
    let told: Vec<String> =
        problems.iter().map(|told| format!("{} {}", told["kind"], told["cause"])).collect();
    assert_eq!(told, ["\"suspect\" \"it is not JSON: line 1, column 15\""]);

    // By a budget or whole, as often as one likes: it is not forgotten.
    for flags in [&["--all"][..], &[], &["--all"]] {
        let words = [&["verify", "--depth", "opened", "-o", "json"], flags].concat();
        let verified = system.nsctl(&words).expect(DAMAGED).json();
        let findings = verified["parts"][0]["findings"].to_string();
        assert!(
            findings.contains("settings.json: it is not JSON: line 1, column 15"),
            "{flags:?}: {verified}"
        );
        assert!(!findings.contains("compose") && !findings.contains("notes"), "{verified}");
        assert!(!verified.to_string().contains("hunter2"), "{verified}");
    }

    fs::write(&bad, "{ \"password\": \"hunter2\" }\n").expect("written");
    let job = system.run(&["backup"]);
    assert_eq!(job["parts"][0]["problems"], serde_json::json!([]));
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
}

#[test]
fn a_model_that_is_cut_off_is_told_at_the_backup_and_by_the_verification_and_is_no_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let header = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
    let whole = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[7; 24]].concat();
    fs::write(folder.path().join("good.safetensors"), &whole).expect("written");
    fs::write(folder.path().join("cut.safetensors"), &whole[..whole.len() - 1]).expect("written");
    fs::write(folder.path().join("old.pkl"), "cos\nsystem\n").expect("written");
    let source = "component: models, kind: files, name: models";
    let system = serving(&format!("{source}, path: {}", folder.path().display()));

    let job = system.run(&["backup"]);
    assert_eq!(job["state"], "complete", "the bytes are all there: {job}");
    let problems = job["parts"][0]["problems"].to_string();
    assert!(problems.contains("its tensors have 24 bytes, and the file has 23 for them"), "{problems}");
    assert!(problems.contains("pickle"), "{problems}");
    assert!(!problems.contains("good.safetensors"), "{problems}");

    let verified = system.run(&["verify", "--depth", "opened", "--all"]);
    let notes = verified["parts"][0]["proven"]["notes"].to_string();
    assert!(notes.contains("cut.safetensors: its tensors have 24 bytes"), "{verified}");
    assert!(!notes.contains("good.safetensors"), "{verified}");

    fs::write(folder.path().join("cut.safetensors"), &whole).expect("written");
    system.run(&["backup"]);
    system.nsctl(&["verify", "--depth", "opened", "--all"]).expect(0);
}

#[test]
fn a_damaged_table_of_a_store_is_told_each_time_and_one_that_the_store_does_not_use_never() {
    let folder = tempfile::tempdir().expect("a folder");
    // What goleveldb has written: 400 numbers.
    for file in fs::read_dir(tests::project().join("formats/tests/leveldb")).expect("listed") {
        let file = file.expect("a file").path();
        fs::copy(&file, folder.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    fs::write(folder.path().join("000099.ldb"), "the beginning of a table").expect("written");
    let source = "component: blockchain, kind: blockchain, name: chain";
    let system = serving(&format!("{source}, path: {}", folder.path().display()));
    let job = system.run(&["backup"]);
    assert_eq!(job["parts"][0]["problems"], serde_json::json!([]));
    for flags in [&["--all"][..], &[], &["--all"]] {
        system.nsctl(&[&["verify", "--depth", "opened"], flags].concat()).expect(0);
    }

    let table = folder.path().join("000005.ldb");
    let mut bytes = fs::read(&table).expect("read");
    bytes[9] ^= 0x10;
    fs::write(&table, bytes).expect("written");
    let what = "its block at byte 0 does not match its checksum";
    let job = system.run(&["backup"]);
    let problems = job["parts"][0]["problems"].to_string();
    assert!(problems.contains("000005.ldb") && problems.contains(what), "{problems}");
    assert!(!problems.contains("000099"), "{problems}");
    for flags in [&["--all"][..], &[], &["--all"]] {
        let words = [&["verify", "--depth", "opened", "-o", "json"], flags].concat();
        let verified = system.nsctl(&words).expect(DAMAGED).json().to_string();
        assert!(verified.contains(&format!("000005.ldb: {what}")), "{flags:?}: {verified}");
        assert!(!verified.contains("000099"), "{flags:?}: {verified}");
    }
}
