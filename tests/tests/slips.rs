//! What people get wrong, or do twice: an empty variable, a name that is misspelt, an id that was used before, a state
//! that nobody wants back. Nobody's slip of the pen is answered with "done".

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::System;

const USAGE: i32 = 2;
const IN_PART: i32 = 3;
const DAMAGED: i32 = 4;

struct Scene {
    system: System,
    folder: tempfile::TempDir,
}

impl Scene {
    /// Two components of a file each.
    fn begin() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("made");
            fs::write(path.join("file"), name).expect("written");
            path
        };
        let (models, ipfs) = (of("models"), of("ipfs"));
        Self { system: System::start(&[("models", &models), ("ipfs", &ipfs)]), folder }
    }

    fn file(&self, of: &str) -> PathBuf {
        self.folder.path().join(of).join("file")
    }

    fn back_up(&self, flags: &[&str]) -> String {
        let job = self.system.run(&[&["backup"], flags].concat());
        job["backup"].as_str().expect("a name").to_owned()
    }

    fn shown(&self, backup: &str) -> Value {
        self.system.nsctl(&["show", backup, "-o", "json"]).expect(0).json()
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = self.system.repository().join("repository/packs");
        let listed = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).expect("listed").map(|one| one.expect("read").path()).collect()
        };
        listed(&packs).iter().flat_map(|folder| listed(folder)).collect()
    }
}

#[test]
fn a_request_id_stands_for_one_order_and_a_component_that_nobody_has_for_none() {
    let scene = Scene::begin();
    let system = &scene.system;
    let first = scene.back_up(&["--components", "models", "--request-id", "one"]);
    assert_eq!(
        scene.back_up(&["--components", "models", "--request-id", "one"]),
        first,
        "the answer was lost"
    );
    for other in [
        &["verify", "--request-id", "one"][..],
        &["backup", "--components", "ipfs", "--request-id", "one"],
        &["restore", "--timestamp", "latest", "--components", "models", "--yes", "--request-id", "one"],
        &["backup", "--components", "models", "--pin", "for the audit", "--request-id", "one"],
        &["prune", "--yes", "--request-id", "one"],
    ] {
        let refused = system.nsctl(other).expect(USAGE);
        assert!(
            refused.err.contains("the request id was used for another order: the backup"),
            "{}",
            refused.err
        );
    }
    for misspelt in [&["backup", "--components", "modles"][..], &["verify", "--components", "models,modles"]]
    {
        let refused = system.nsctl(misspelt).expect(USAGE);
        assert!(refused.err.contains("there are ipfs, models"), "{}", refused.err);
    }
    let alerts = system.nsctl(&["alert", "list", "-o", "json"]).expect(0);
    assert!(!alerts.out.contains("failed") && !alerts.out.contains("modles"), "{}", alerts.out);
    assert_eq!(
        system.nsctl(&["list", "-o", "json"]).expect(0).json()["backups"].as_array().map(Vec::len),
        Some(1)
    );
    for nothing in
        [&["backup", "--pin", ""][..], &["restore", "--timestamp", "latest", "--path", "", "--yes"]]
    {
        system.nsctl(nothing).expect(USAGE);
    }
    system.nsctl(&["restore", "--timestamp", "latest", "--path", "[", "--plan"]).expect(USAGE);
}

#[test]
fn what_a_restore_has_replaced_is_never_the_latest_and_is_taken_back_once() {
    let scene = Scene::begin();
    let system = &scene.system;
    let good = scene.back_up(&[]);
    fs::write(scene.file("models"), "bad").expect("written");
    let restore = ["restore", "--timestamp", "latest", "--components", "models", "--path", "**", "--yes"];
    let restored = system.run(&restore);
    assert_eq!(fs::read_to_string(scene.file("models")).expect("there"), "models");
    let safety = restored["safety_backup"].as_str().expect("what is replaced is backed up").to_owned();
    for change in [&["pin", &safety, "--reason", "to look at"][..], &["unpin", &safety]] {
        system.nsctl(change).expect(0);
        assert_eq!(scene.shown(&safety)["safety_of"], restored["id"], "{change:?}");
        assert_eq!(scene.shown("latest")["name"].as_str(), Some(good.as_str()), "{change:?}");
        let offline = tempfile::tempdir().expect("a folder");
        let key = system.recovery_key();
        let words = ["--recovery-key-file", key.to_str().expect("text"), "--timestamp", "latest", "--to"];
        let to = offline.path().join("out");
        system.offline("restore", &[&words[..], &[to.to_str().expect("text")]].concat()).expect(0);
        assert_eq!(fs::read_to_string(to.join("models/file")).expect("there"), "models");
    }
    let id = restored["id"].as_str().expect("an id");
    system.nsctl(&["undo", id, "--yes"]).expect(0);
    assert_eq!(fs::read_to_string(scene.file("models")).expect("there"), "bad");
    let refused = system.nsctl(&["undo", id, "--yes"]).expect(1);
    assert!(refused.err.contains("it was taken back already"), "{}", refused.err);
}

#[test]
fn damage_that_was_mended_is_damage_no_more_and_damage_that_is_there_is_told_by_the_doctor() {
    let scene = Scene::begin();
    let system = &scene.system;
    let backup = scene.back_up(&[]);
    let whole: Vec<(PathBuf, Vec<u8>)> =
        scene.packs().into_iter().map(|pack| (pack.clone(), fs::read(&pack).expect("read"))).collect();
    for (pack, bytes) in &whole {
        let mut damaged = bytes.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(pack, damaged).expect("written");
    }
    system.nsctl(&["verify", "--depth", "hashed"]).expect(DAMAGED);
    let doctor = system.nsctl(&["doctor"]);
    let told = format!("the newest complete backup {backup} was found damaged");
    assert!(doctor.out.contains(&told) && doctor.code != 0, "{}", doctor.out);
    assert!(system.nsctl(&["list"]).expect(0).out.contains("damaged"));
    for (pack, bytes) in &whole {
        fs::write(pack, bytes).expect("written");
    }
    system.nsctl(&["verify", "--all"]).expect(0);
    let listed = system.nsctl(&["list"]).expect(0).out;
    assert!(!listed.contains("damaged") && listed.contains("opened"), "{listed}");
    assert!(!system.nsctl(&["doctor"]).out.contains("was found damaged"));
}

#[test]
fn a_schedule_verifies_what_is_backed_up_seldom_too() {
    let scene = Scene::begin();
    let system = &scene.system;
    let whole = scene.back_up(&[]);
    scene.back_up(&["--components", "ipfs"]);
    system.nsctl(&["schedule", "set", "check", "--verify", "0 5 * * *"]).expect(0);
    let job = system.run(&["schedule", "run", "check"]);
    assert_eq!(job["backup"].as_str(), Some(whole.as_str()), "{job:#}");
    assert_eq!(job["parts"].as_array().map(Vec::len), Some(2), "{job:#}");
}

#[test]
fn without_a_controller_the_latest_is_the_newest_of_each_component_and_what_is_not_there_is_told() {
    let scene = Scene::begin();
    let system = &scene.system;
    let whole = scene.back_up(&[]);
    fs::write(scene.file("ipfs"), "later").expect("written");
    let newer = scene.back_up(&["--components", "ipfs"]);
    let out = tempfile::tempdir().expect("a folder");
    let key = system.recovery_key();
    let restore = |timestamp: &str, to: &Path, code: i32| {
        let words = ["--recovery-key-file", key.to_str().expect("text"), "--timestamp", timestamp];
        system.offline("restore", &[&words[..], &["--to", to.to_str().expect("text")]].concat()).expect(code)
    };
    let to = out.path().join("latest");
    let told = restore("latest", &to, 0);
    assert!(told.out.contains(&whole) && told.out.contains(&newer), "{}", told.out);
    for (name, holds) in [("models", "models"), ("ipfs", "later")] {
        assert_eq!(fs::read_to_string(to.join(name).join("file")).expect("there"), holds);
    }
    // One part has failed: the others come, and it is told.
    let aside = scene.folder.path().join("aside");
    fs::rename(scene.folder.path().join("ipfs"), &aside).expect("moved");
    let job = system.nsctl(&["backup", "-o", "json"]).expect(IN_PART).json();
    let partial = job["backup"].as_str().expect("a name").to_owned();
    let to = out.path().join("partial");
    let told = restore(&partial, &to, IN_PART);
    assert_eq!(fs::read_to_string(to.join("models/file")).expect("there"), "models");
    assert!(
        told.out.contains("nothing there") && told.out.contains("incomplete in this backup"),
        "{}",
        told.out
    );
    let inside = system.repository().join("inside");
    let refused = restore("latest", &inside, USAGE);
    assert!(refused.err.contains("lies in the repository") && !inside.exists(), "{}", refused.err);
}
