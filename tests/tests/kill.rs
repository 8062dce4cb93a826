//! `kill -9` of either daemon in the middle of either job: the retry succeeds by itself, what was reported
//! complete before still verifies, and nothing half-done stays.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tests::{System, assert_equal_folders};

const SOON: u64 = 8 << 20;

struct Scene {
    folder: TempDir,
    system: System,
}

impl Scene {
    /// A system with one complete backup of a little, and much new data that it does not hold yet: enough
    /// to take some seconds, in large files and in small ones.
    fn set() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data/blockchain");
        fs::create_dir_all(data.join("chaindata")).expect("made");
        fs::write(data.join("first"), "first").expect("written");
        let system = System::start(&[("blockchain", &data)]);
        system.run(&["backup"]);
        let noise = fs::File::open("/dev/urandom").expect("the random source");
        for (count, megabytes) in [(12, 48), (400, 0)] {
            for file in 0..count {
                let path = data.join(format!("chaindata/{megabytes}-{file:06}.ldb"));
                let length = megabytes << 20 | 30_000;
                std::io::copy(&mut (&noise).take(length), &mut fs::File::create(path).expect("made"))
                    .expect("written");
            }
        }
        Self { folder, system }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data/blockchain")
    }

    /// Everything that was ever reported complete opens, and nothing of a staged backup or restore is left.
    fn assert_sound(&self) {
        let listing = self.system.nsctl(&["list", "-o", "json"]).expect(0).json();
        for backup in listing["backups"].as_array().expect("a list") {
            let name = backup["name"].as_str().expect("a name");
            assert_eq!(backup["outcome"], "complete");
            self.system.nsctl(&["verify", "--timestamp", name]).expect(0);
        }
        let staging = self.system.repository().join("repository/staging");
        assert!(fs::read_dir(staging).map_or(0, Iterator::count) == 0, "staging is empty");
    }

    fn assert_restores_to(&self, name: &str) {
        let place = self.folder.path().join(name);
        self.system.run(&[
            "restore",
            "--timestamp",
            "latest",
            "--to",
            place.to_str().expect("UTF-8"),
            "--yes",
        ]);
        assert_equal_folders(&self.data(), &place.join("blockchain"));
    }
}

#[test]
fn the_agent_dies_in_the_middle_of_a_backup() {
    let mut scene = Scene::set();
    let job = scene.system.start_job(&["backup"]);
    scene.system.await_progress(&job, SOON);
    scene.system.kill_agent();
    scene.system.start_agent();
    let ended = scene.system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(ended["parts"][0]["attempt"], 2, "{ended:#}");
    scene.assert_restores_to("restored");
    scene.assert_sound();
}

#[test]
fn the_controller_dies_in_the_middle_of_a_backup() {
    let mut scene = Scene::set();
    let job = scene.system.start_job(&["backup"]);
    scene.system.await_progress(&job, SOON);
    scene.system.kill_controller();
    scene.system.start_controller();
    let ended = scene.system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    scene.assert_restores_to("restored");
    scene.assert_sound();
}

/// Backs up, deletes half of the data, starts a restore in place and waits until it is under way.
fn restoring(scene: &Scene) -> (String, PathBuf) {
    scene.system.run(&["backup"]);
    let before = scene.folder.path().join("before");
    copy(&scene.data(), &before);
    fs::remove_dir_all(scene.data().join("chaindata")).expect("removed");
    let job = scene.system.start_job(&["restore", "--timestamp", "latest", "--no-safety-backup", "--yes"]);
    scene.system.await_progress(&job, SOON);
    (job, before)
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(status.success());
}

#[test]
fn the_agent_dies_in_the_middle_of_a_restore() {
    let mut scene = Scene::set();
    let (job, before) = restoring(&scene);
    scene.system.kill_agent();
    assert!(scene.data().join("first").exists(), "what is live is untouched until the swap");
    scene.system.start_agent();
    let ended = scene.system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_equal_folders(&scene.data(), &before);
    scene.assert_sound();
}

#[test]
fn the_controller_dies_in_the_middle_of_a_restore() {
    let mut scene = Scene::set();
    let (job, before) = restoring(&scene);
    scene.system.kill_controller();
    scene.system.start_controller();
    let ended = scene.system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_equal_folders(&scene.data(), &before);
    scene.assert_sound();
}
