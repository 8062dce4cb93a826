//! Files that the agent may not read: counted, named, and the backup is incomplete.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tests::System;

#[test]
fn files_and_folders_that_may_not_be_read_are_named_and_all_else_is_backed_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("closed-folder")).expect("made");
    for (name, mode) in [("fine", 0o600), ("closed-file", 0o000), ("closed-folder/inside", 0o600)] {
        fs::write(data.join(name), name).expect("written");
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(mode)).expect("set");
    }
    fs::set_permissions(data.join("closed-folder"), fs::Permissions::from_mode(0o000)).expect("set");
    let mut system = System::prepare(&[("models", &data)]);
    system.start_controller();
    system.invite();
    // Root that may do no more than its files' modes say.
    system.start_agent_by(&["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]);
    system.await_agent();

    let answer = system.nsctl(&["backup"]).expect(3);
    let shown = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    assert_eq!(shown["outcome"], "incomplete", "{shown:#}");
    assert_eq!(shown["archives"][0]["unreadable"], 2, "{shown:#}");
    let said = answer.out + &answer.err;
    for name in ["closed-file", "closed-folder"] {
        assert!(said.contains(name), "{name} is named at once: {said}");
    }
    assert!(said.contains("ermission denied"), "with the cause: {said}");

    let to = folder.path().join("restored");
    let (name, to_text) = (shown["name"].as_str().expect("a name"), to.to_str().expect("UTF-8"));
    let restore = ["restore", "--timestamp", name, "--components", "models", "--to", to_text, "--yes"];
    let doubted = system.nsctl(&restore).expect(1);
    assert!(doubted.err.contains("2 entries could not be read"), "{}", doubted.err);
    system.nsctl(&[&restore[..], &["--accept-doubts"]].concat()).expect(0);
    let restored = to.join("models");
    assert_eq!(fs::read_to_string(restored.join("fine")).expect("restored"), "fine");
    assert!(!restored.join("closed-file").exists() && restored.join("closed-folder").is_dir());
}
