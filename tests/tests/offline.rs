//! With no controller alive: a repository and a recovery key bring everything back, and whatever is wrong
//! with either is a clear error with its exit code.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tests::{System, assert_equal_folders, make_dataset};

const DENIED: i32 = 6;
const DAMAGED: i32 = 4;

struct Scene {
    folder: TempDir,
    system: System,
}

/// A repository with one backup, and nobody running.
fn scene() -> Scene {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    make_dataset(&data, 0.02);
    let mut system = System::start(&[("models", &data.join("models")), ("configs", &data.join("configs"))]);
    system.run(&["backup"]);
    system.kill_agent();
    system.kill_controller();
    Scene { folder, system }
}

impl Scene {
    fn restore(&self, key: &Path, to: &str) -> (tests::Answer, PathBuf) {
        let place = self.folder.path().join(to);
        let (key, to) = (key.to_str().expect("UTF-8"), place.to_str().expect("UTF-8"));
        let arguments = ["--recovery-key-file", key, "--timestamp", "latest", "--to", to];
        (self.system.offline("restore", &arguments), place)
    }

    /// The largest pack: it holds data.
    fn data_pack(&self) -> PathBuf {
        let packs = self.system.repository().join("repository/packs");
        let folders = fs::read_dir(packs).expect("listed").map(|folder| folder.expect("read").path());
        let packs = folders.flat_map(|folder| fs::read_dir(folder).expect("listed"));
        packs
            .map(|pack| pack.expect("read").path())
            .max_by_key(|pack| pack.metadata().expect("there").len())
            .expect("a pack")
    }
}

#[test]
fn the_repository_and_the_recovery_key_are_enough() {
    let scene = scene();
    // Nothing of the controller or the agent is needed: only the key, as its owner kept it.
    let kept = scene.folder.path().join("kept-key");
    fs::copy(scene.system.recovery_key(), &kept).expect("copied");
    fs::remove_dir_all(scene.system.root().join("controller")).expect("lost");
    fs::remove_dir_all(scene.system.root().join("agent")).expect("lost");
    let (answer, place) = scene.restore(&kept, "restored");
    answer.expect(0);
    for component in ["models", "configs"] {
        assert_equal_folders(&scene.folder.path().join("data").join(component), &place.join(component));
    }
}

#[test]
fn a_wrong_key_is_denied_and_nothing_is_written() {
    let scene = scene();
    let other = tempfile::tempdir().expect("a folder");
    let other = {
        let mut system = System::prepare(&[("models", other.path())]);
        system.start_controller();
        let kept = scene.folder.path().join("other-key");
        fs::copy(system.recovery_key(), &kept).expect("copied");
        kept
    };
    let (answer, place) = scene.restore(&other, "restored");
    assert!(answer.err.contains("no recovery slot"), "{answer:?}");
    answer.expect(DENIED);
    assert!(!place.exists());

    let misread = scene.folder.path().join("misread");
    let text = fs::read_to_string(scene.system.recovery_key()).expect("read");
    let at = text.find("NSRK-").expect("a key") + 6;
    let wrong = if text.as_bytes()[at] == b'7' { "8" } else { "7" };
    fs::write(&misread, format!("{}{wrong}{}", &text[..at], &text[at + 1..])).expect("written");
    let (answer, _) = scene.restore(&misread, "restored");
    assert!(answer.err.contains("check digits"), "{answer:?}");
    assert!(!answer.err.contains(&text[at..at + 20]), "the key is not repeated");
    assert_ne!(answer.code, 0);
}

#[test]
fn a_missing_pack_is_named_and_nothing_half_restored_stays() {
    let scene = scene();
    let pack = scene.data_pack();
    fs::remove_file(&pack).expect("removed");
    let (answer, place) = scene.restore(&scene.system.recovery_key(), "restored");
    let name = pack.file_name().expect("a name").to_str().expect("hex");
    assert!(answer.err.contains(name), "{answer:?}");
    answer.expect(DAMAGED);
    assert!(!place.join("models").exists());
    let check = scene.system.offline("check", &["latest", "--depth", "listed"]).expect(DAMAGED);
    assert!(check.out.contains(name) || check.err.contains(name), "{check:?}");
}

#[test]
fn a_flipped_bit_is_found_and_never_restored() {
    let scene = scene();
    let pack = scene.data_pack();
    let mut bytes = fs::read(&pack).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).expect("damaged");
    let (answer, place) = scene.restore(&scene.system.recovery_key(), "restored");
    let name = pack.file_name().expect("a name").to_str().expect("hex");
    assert!(answer.err.contains(name), "{answer:?}");
    answer.expect(DAMAGED);
    assert!(!place.join("models").exists());
    let key = scene.system.recovery_key();
    let deep = ["latest", "--depth", "opened", "--recovery-key-file", key.to_str().expect("UTF-8")];
    let check = scene.system.offline("check", &deep).expect(DAMAGED);
    let said = check.out + &check.err;
    assert!(said.contains(name) && said.contains("cannot be restored: detector-"), "{said}");
}
