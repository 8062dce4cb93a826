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

/// A tensor of two MiB that nothing makes shorter.
fn tensor(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..TENSOR / 8).flat_map(next).collect()
}

const TENSOR: usize = 2 << 20;

/// A safetensors file of these tensors; `told` stands in its header before them.
fn checkpoint(seeds: &[u64], told: &str) -> Vec<u8> {
    let mut header = format!("{{{told}");
    for (at, _) in seeds.iter().enumerate() {
        let (comma, from) = (if at == 0 { "" } else { "," }, at * TENSOR);
        header.push_str(&format!(
            r#"{comma}"layer.{at}":{{"dtype":"F32","shape":[512,1024],"data_offsets":[{from},{}]}}"#,
            from + TENSOR
        ));
    }
    header.push('}');
    // As the format's own library does: tensors begin at a multiple of eight.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    seeds.iter().for_each(|seed| bytes.extend(tensor(*seed)));
    bytes
}

#[test]
fn a_checkpoint_costs_what_its_changed_tensors_have_and_one_with_a_longer_header_next_to_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut seeds: Vec<u64> = (1..=10).collect();
    let first = checkpoint(&seeds, "");
    (seeds[4], seeds[5]) = (104, 105);
    let second = checkpoint(&seeds, "");
    let told = format!(r#""__metadata__":{{"note":"{}"}},"#, "step 3; ".repeat(40));
    let third = checkpoint(&seeds, &told);
    assert!(third.len() > second.len() + 300 && second.len() == first.len(), "all behind it is moved");
    let source = "component: models, kind: files, name: models";
    let system = serving(&format!("{source}, path: {}", folder.path().display()));
    let (tensor, all) = (TENSOR as u64, first.len() as u64);
    // Pieces are a MiB long, between a quarter and four: those at both ends of what has changed are new, too. Where
    // they end is by a secret, so no two runs have the same figures.
    let cases = [(&first, all..=all * 11 / 10), (&second, 2 * tensor..=6 * tensor), (&third, 1..=3 * tensor)];
    for (step, (bytes, expected)) in cases.iter().enumerate() {
        fs::write(folder.path().join(format!("step-{step}.safetensors")), bytes).expect("written");
        let job = system.run(&["backup"]);
        assert_eq!(job["parts"][0]["problems"], serde_json::json!([]), "{job:#}");
        let counts = &job["parts"][0]["counts"];
        let (stored, read) = (counts["stored_bytes"].as_u64(), counts["read_bytes"].as_u64());
        println!("checkpoint {step}: {read:?} bytes read, {stored:?} new, expected {expected:?}");
        assert!(read >= Some(all), "it is read, {read:?}: {job:#}");
        assert!(stored.is_some_and(|stored| expected.contains(&stored)), "{stored:?}: {job:#}");
    }
    let place = tempfile::tempdir().expect("a folder");
    let to = place.path().join("there");
    system.run(&["restore", "--timestamp", "latest", "--to", to.to_str().expect("UTF-8"), "--yes"]);
    for (step, (bytes, _)) in cases.iter().enumerate() {
        let came = fs::read(to.join(format!("models/step-{step}.safetensors"))).expect("restored");
        assert!(came == **bytes, "checkpoint {step} comes back with other bytes");
    }
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
