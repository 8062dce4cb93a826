//! The first start: on a root that others have used, and what is told when something is not as it should.

use std::fs;
use std::process::Command;

use tests::{System, wait_for};

#[test]
fn a_root_with_foreign_backups_is_taken_and_they_are_shown_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut system = System::prepare(&[("models", folder.path())]);
    let root = system.repository();
    for place in ["lost+found", "20190101_010000/database", "20190101_010000/models", "notes"] {
        fs::create_dir_all(root.join(place)).expect("made");
    }
    fs::write(root.join("20190101_010000/database/dump.tar.gz"), "old").expect("written");
    let picture = || {
        let find = "find . -path ./repository -prune -o -path './2[1-9]*' -prune -o -path './20[2-9]*' -prune \
                    -o -printf '%p %m %T@ %s\\n' | grep -v '^\\. ' | sort";
        let output = Command::new("bash").args(["-c", find]).current_dir(&root).output().expect("find runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let before = picture();
    assert_eq!(before.lines().count(), 6, "{before}");
    fs::write(folder.path().join("weights"), "weights").expect("written");
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system.run(&["backup"]);

    let listing = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listing["legacy"][0]["name"], "20190101_010000", "{listing:#}");
    assert_eq!(listing["backups"].as_array().map(Vec::len), Some(1));
    assert!(system.nsctl(&["list"]).expect(0).out.contains("legacy"));
    assert_eq!(picture(), before);
}

#[test]
fn nobody_there_has_an_exit_code_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let system = System::prepare(&[("models", folder.path())]);
    let answer = system.nsctl(&["list"]).expect(5);
    assert_eq!(answer.err.lines().count(), 3, "what, why, what to do: {}", answer.err);
}

#[test]
fn a_backup_that_does_not_exist_is_a_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut system = System::prepare(&[("models", folder.path())]);
    system.start_controller();
    for arguments in
        [&["show", "20200101_000000"][..], &["restore", "--timestamp", "20200101_000000", "--yes"]]
    {
        let answer = system.nsctl(arguments).expect(1);
        assert!(answer.err.contains("20200101_000000"), "{answer:?}");
    }
    system.nsctl(&["show", "yesterday"]).expect(2);
}

#[test]
fn a_second_controller_on_one_repository_waits_and_serves_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = System::prepare(&[("models", folder.path())]);
    first.start_controller();
    let second = System::prepare(&[("models", folder.path())]);
    let config = second.root().join("controller.yaml");
    let text = fs::read_to_string(&config).expect("read");
    let own = second.repository().display().to_string();
    fs::write(&config, text.replace(&own, &first.repository().display().to_string())).expect("written");
    // It waits for a while, since the other one may just have died elsewhere; meanwhile it serves nobody.
    let mut waiting = start(&config);
    let log = config.with_extension("log");
    wait_for("the second controller to say why it waits", 30, || {
        fs::read_to_string(&log).is_ok_and(|said| said.contains("writes this repository until")).then_some(())
    });
    let socket = config.with_file_name("controller.sock");
    assert!(!socket.exists());
    waiting.kill().expect("killed");
    waiting.wait().expect("reaped");
}

fn start(config: &std::path::Path) -> std::process::Child {
    Command::new(tests::programs().join("neurashield-controller"))
        .arg("--config")
        .arg(config)
        .env("NEURASHIELD_LOG_FORMAT", "text")
        .stderr(fs::File::create(config.with_extension("log")).expect("a log"))
        .spawn()
        .expect("it starts")
}
