//! Everything is gone but the bucket and the recovery key: the walk of docs/operations.md, command by command, on
//! a new machine. On a server in memory; `tests/run s3` does it on MinIO.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::s3::{FakeS3, Habits, TestBucket};
use tests::{System, assert_equal_folders};

/// The data of two components below `folder`.
fn data(folder: &Path) {
    fs::create_dir_all(folder.join("models/deep")).expect("made");
    fs::create_dir_all(folder.join("blockchain")).expect("made");
    let bytes = (0..500_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 7).to_le_bytes());
    fs::write(folder.join("models/deep/weights"), bytes.collect::<Vec<_>>()).expect("written");
    fs::write(folder.join("models/small"), "small").expect("written");
    fs::write(folder.join("blockchain/blocks.dat"), "genesis").expect("written");
    std::os::unix::fs::symlink("blocks.dat", folder.join("blockchain/newest")).expect("linked");
}

fn machine(bucket: &TestBucket, data: &Path) -> System {
    let [models, blockchain] = ["models", "blockchain"].map(|component| data.join(component));
    System::prepare_in(Some(bucket.clone()), &[("models", &models), ("blockchain", &blockchain)])
}

fn start(system: &mut System) {
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
}

#[test]
fn from_the_bucket_and_the_recovery_key_alone_a_new_machine_goes_on_where_the_old_one_was() {
    let fake =
        TestBucket::of_environment().is_none().then(|| FakeS3::start(TestBucket::NAME, Habits::default()));
    let bucket = TestBucket::of_environment()
        .unwrap_or_else(|| TestBucket::at(fake.as_ref().expect("no other").port()));
    let kept = tempfile::tempdir().expect("a folder");
    let (old, new) = (kept.path().join("old"), kept.path().join("new"));
    let (lived, key) = (kept.path().join("lived"), kept.path().join("recovery-key"));
    data(&old);
    let mut system = machine(&bucket, &old);
    start(&mut system);
    system.run(&["backup"]);
    system.nsctl(&["schedule", "set", "late", "--backup", "0 21 * * *"]).expect(0);
    fs::write(old.join("models/small"), "changed").expect("written");
    let backup = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    // What a person wrote down, and what this test compares with.
    fs::copy(system.recovery_key(), &key).expect("written down");
    assert!(Command::new("cp").arg("-a").args([&old, &lived]).status().expect("cp runs").success());

    // The machine burns.
    system.kill_agent();
    system.kill_controller();
    drop(system);
    fs::remove_dir_all(&old).expect("gone");

    // 1. The data alone, by nsctl, with no controller.
    for component in ["models", "blockchain"] {
        fs::create_dir_all(new.join(component)).expect("made");
    }
    let mut system = machine(&bucket, &new);
    let key = ["--recovery-key-file", key.to_str().expect("UTF-8")];
    let checked = system.offline("check", &[key[0], key[1], "--depth", "opened", "-o", "json"]).expect(0);
    assert_eq!(checked.json()["intact"], true);
    let aside: PathBuf = kept.path().join("by-hand");
    let to = ["--timestamp", "latest", "--to", aside.to_str().expect("UTF-8")];
    system.offline("restore", &[&key[..], &to[..]].concat()).expect(0);
    for component in ["models", "blockchain"] {
        assert_equal_folders(&lived.join(component), &aside.join(component));
    }

    // 2. The controller: its catalog comes out of the bucket.
    let state = system.root().join("controller");
    let state = ["--state", state.to_str().expect("UTF-8"), "-o", "json"];
    let rebuilt = system.offline("rebuild", &[&state[..], &key[..]].concat()).expect(0).json();
    assert_eq!(rebuilt["copy"]["backup"], backup.as_str(), "{rebuilt:#}");
    system.start_controller();
    let listed = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(2), "{listed:#}");
    let schedules = system.nsctl(&["schedule", "list", "-o", "json"]).expect(0);
    assert!(schedules.out.contains("0 21 * * *"), "{schedules:?}");

    // 3. An agent on the new machine, under the old one's name, serves the sources that the old one had.
    let invited = system.nsctl(&["agent", "invite", "--name", "test-agent", "-o", "json"]).expect(0).json();
    let token = system.root().join("token");
    fs::write(&token, invited["token"].as_str().expect("a token")).expect("brought");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("for the agent alone");
    system.start_agent();
    system.await_agent();
    system.run(&["restore", "--timestamp", "latest", "--yes"]);
    for component in ["models", "blockchain"] {
        assert_equal_folders(&lived.join(component), &new.join(component));
    }
    let next = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    assert!(next > backup);
    system.run(&["verify"]);
}
