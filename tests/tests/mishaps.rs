//! What users do by accident, and what a machine does to them: the system says so and stays whole.

use std::fs;
use std::process::Command;

use tests::{System, assert_equal_folders};

/// A small file system of its own, unmounted when it is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of_megabytes(size: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={size}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(folder.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "this test mounts a small disk: run it as root");
        Self(folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(std::thread::panicking() || status.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_fails_the_backup_keeps_the_old_one_and_space_brings_the_next_one() {
    let disk = Disk::of_megabytes(60);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("small"), "small").expect("written");
    let mut system = System::prepare(&[("models", folder.path())]);
    std::os::unix::fs::symlink(disk.0.path(), system.repository()).expect("linked");
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system.run(&["backup"]);

    let noise = fs::File::open("/dev/urandom").expect("the random source");
    let large = folder.path().join("large");
    let mut file = fs::File::create(&large).expect("made");
    std::io::copy(&mut std::io::Read::take(&noise, 200 << 20), &mut file).expect("written");
    let failed = system.nsctl(&["backup"]).expect(1);
    assert!(failed.err.contains("space"), "{}", failed.err);
    system.nsctl(&["verify"]).expect(0);
    let listing = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listing["backups"].as_array().map(Vec::len), Some(1), "nothing half-done is shown");

    let status = Command::new("mount").args(["-o", "remount,size=600m"]).arg(disk.0.path()).status();
    assert!(status.is_ok_and(|status| status.success()));
    system.run(&["backup"]);
    let place = system.root().join("restored");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    assert_equal_folders(folder.path(), &place.join("models"));
}

#[test]
fn damage_that_was_found_is_not_built_upon_and_the_next_backup_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("weights"), vec![7; 3 << 20]).expect("written");
    let system = System::start(&[("models", folder.path())]);
    system.run(&["backup"]);
    let packs = system.repository().join("repository/packs");
    for place in fs::read_dir(packs).expect("listed").map(|place| place.expect("read").path()) {
        for pack in fs::read_dir(place).expect("listed").map(|pack| pack.expect("read").path()) {
            let mut bytes = fs::read(&pack).expect("read");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&pack, bytes).expect("damaged");
        }
    }
    system.nsctl(&["verify"]).expect(4);
    system.run(&["backup"]);
    system.nsctl(&["verify"]).expect(0);
    let place = system.root().join("restored");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    assert_equal_folders(folder.path(), &place.join("models"));
}

#[test]
fn a_backup_deleted_by_hand_is_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let system = System::start(&[("models", folder.path())]);
    let job = system.run(&["backup"]);
    let name = job["backup"].as_str().expect("a name");
    fs::remove_dir_all(system.repository().join(name)).expect("deleted");
    let doctor = system.nsctl(&["doctor"]).expect(1);
    assert!(doctor.out.contains(&format!("backup {name} is gone")), "{}", doctor.out);
    let check = system.offline("check", &[]).expect(4);
    assert!(check.out.contains(name), "{}", check.out);
}

#[test]
fn an_unset_variable_and_a_dangerous_place_go_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("kept"), "kept").expect("written");
    let system = System::start(&[("models", folder.path())]);
    system.run(&["backup"]);
    system.nsctl(&["restore", "--timestamp", "", "--yes"]).expect(2);
    let source = folder.path().to_str().expect("UTF-8");
    let state = system.root().join("agent/x").display().to_string();
    for place in [source, &format!("{source}/in"), &state] {
        let answer = system.nsctl(&["restore", "--timestamp", "latest", "--to", place, "--yes"]);
        assert_ne!(answer.code, 0, "{place}: {answer:?}");
        assert!(answer.err.contains("is in use"), "{place}: {answer:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
}

#[test]
fn a_restore_of_all_from_a_backup_that_lacks_something_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (models, ipfs) = (folder.path().join("models"), folder.path().join("ipfs"));
    fs::create_dir_all(&models).expect("made");
    fs::write(models.join("weights"), "weights").expect("written");
    let system = System::start(&[("models", &models), ("ipfs", &ipfs)]);
    let job = system.nsctl(&["backup", "-o", "json"]).expect(3).json();
    let name = job["backup"].as_str().expect("a name");
    let answer = system.nsctl(&["restore", "--timestamp", name, "--yes"]).expect(1);
    assert!(answer.err.contains("ipfs"), "{answer:?}");
    let latest = system.nsctl(&["restore", "--timestamp", "latest", "--yes"]).expect(1);
    assert!(latest.err.contains("ipfs"), "{latest:?}");
    system.run(&["restore", "--timestamp", "latest", "--components", "models", "--yes"]);
}
