//! The example client in Python, made from the .proto files that are shipped and nothing else of ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::{Answer, System, assert_equal_folders, project};

fn client(system: &System, token: &str, words: &[&str]) -> Answer {
    let stubs = system.root().join("stubs");
    fs::create_dir_all(&stubs).expect("made");
    let output = Command::new(project().join("tests/client-python"))
        .arg(stubs)
        .arg(project().join("deploy/examples/python/backup_client.py"))
        .args(words)
        .env("NEURASHIELD_SERVER", format!("localhost:{}", system.grpc_port()))
        .env("NEURASHIELD_CA", system.root().join("controller/ca.crt"))
        .env("NSCTL_TOKEN", token)
        .output()
        .expect("it runs");
    Answer::of(&output)
}

fn fill(folder: &Path, text: &str) {
    fs::create_dir_all(folder.join("sub")).expect("made");
    fs::write(folder.join("sub/value"), text).expect("written");
}

#[test]
fn a_client_made_from_the_proto_files_backs_up_verifies_and_restores() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fill(&data, "one");
    let system = System::start(&[("models", &data)]);
    let made = system.nsctl(&["token", "create", "python", "--role", "operator", "-o", "json"]).expect(0);
    let token = made.json()["token"].as_str().expect("a token").to_owned();

    let said = client(&system, &token, &["backup"]).expect(0);
    let backup = said.out.trim();
    assert!(system.repository().join(backup).join("models").is_dir(), "{said:?}");
    client(&system, &token, &["verify", backup]).expect(0);
    let before = folder.path().join("before");
    let copied = Command::new("cp").arg("-a").arg(&data).arg(&before).status();
    assert!(copied.is_ok_and(|status| status.success()));
    fill(&data, "two");
    client(&system, &token, &["restore", backup, "--components", "models"]).expect(0);
    assert_equal_folders(&data, &before);
    let elsewhere = folder.path().join("elsewhere");
    client(&system, &token, &["restore", backup, "--folder", elsewhere.to_str().expect("UTF-8")]).expect(0);
    assert_eq!(fs::read_to_string(elsewhere.join("models/sub/value")).expect("read"), "one");

    // What goes wrong is told in the controller's words.
    let refused = client(&system, &token, &["verify", "20200101_000000"]).expect(1);
    assert!(refused.err.contains("there is no backup 20200101_000000"), "{refused:?}");
    let unknown = client(&system, "nstok1-wrong", &["backup"]).expect(1);
    assert!(unknown.err.contains("UNAUTHENTICATED"), "{unknown:?}");
}
