//! Damage, repair, healing: the way back that docs/operations.md describes, on the built programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, copy};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{Process, System, assert_equal_folders};

const FAILED: i32 = 1;
const DAMAGED: i32 = 4;
const EACH: u64 = 1 << 20;

/// Two backups: `stays` is in both, `goes` is in the first and nowhere else any more.
struct Scene {
    system: System,
    folder: tempfile::TempDir,
    key: String,
    backups: Vec<String>,
}

impl Scene {
    fn set(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("made");
        let mut system = System::prepare(&[("models", &data)]);
        system.configure_controller(settings);
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        let key = system.recovery_key().to_str().expect("UTF-8").to_owned();
        let mut scene = Self { system, folder, key, backups: Vec::new() };
        scene.write("stays");
        scene.write("goes");
        scene.back_up();
        fs::remove_file(scene.data().join("goes")).expect("gone");
        scene.back_up();
        scene
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn write(&self, name: &str) {
        let mut noise = File::open("/dev/urandom").expect("the random source").take(EACH);
        copy(&mut noise, &mut File::create(self.data().join(name)).expect("made")).expect("written");
    }

    /// The next backup; what it holds is kept beside.
    fn back_up(&mut self) -> String {
        let job = self.system.run(&["backup"]);
        let name = job["backup"].as_str().expect("a name").to_owned();
        let kept = self.folder.path().join(&name);
        let copied = Command::new("cp").arg("-a").arg(self.data()).arg(kept).status().expect("cp runs");
        assert!(copied.success());
        self.backups.push(name.clone());
        name
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = self.system.repository().join("repository/packs");
        let folders = fs::read_dir(packs).expect("listed").map(|folder| folder.expect("read").path());
        let packs = folders.flat_map(|folder| fs::read_dir(folder).expect("listed"));
        packs.map(|pack| pack.expect("read").path()).filter(|pack| pack.extension().is_none()).collect()
    }

    /// The largest pack: it holds data.
    fn data_pack(&self) -> PathBuf {
        let size = |pack: &PathBuf| pack.metadata().expect("there").len();
        self.packs().into_iter().max_by_key(size).expect("a pack")
    }

    /// Ends the controller as a service manager does: it gives its lease back.
    fn stop_controller(&mut self) {
        let pid = self.system.pid(Process::Controller).to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        self.system.take(Process::Controller).wait().expect("ended");
    }

    fn start_controller(&mut self) {
        self.system.start_controller();
        self.system.await_agent();
    }

    fn check(&self, flags: &[&str], code: i32) -> Value {
        let words = [&["--depth", "opened", "--recovery-key-file", &self.key, "-o", "json"], flags].concat();
        self.system.offline("check", &words).expect(code).json()
    }

    /// Restores a backup with the recovery key alone and compares it with what was backed up.
    fn assert_comes_back(&self, backup: &str) {
        let place = self.folder.path().join(format!("restored-{backup}"));
        let to = place.to_str().expect("UTF-8");
        let words = ["--recovery-key-file", &self.key, "--timestamp", backup, "--to", to];
        self.system.offline("restore", &words).expect(0);
        assert_equal_folders(&self.folder.path().join(backup), &place.join("models"));
        fs::remove_dir_all(place).expect("removed");
    }

    /// Every object of the repository but the controller's lease.
    fn objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let output = Command::new("find").arg(self.system.repository()).args(["-type", "f"]).output();
        let text = String::from_utf8(output.expect("find runs").stdout).expect("UTF-8");
        let files = text.lines().map(PathBuf::from).filter(|file| !file.to_string_lossy().contains("lease"));
        files.map(|file| (file.clone(), fs::read(&file).expect("read"))).collect()
    }
}

/// What a check says is lost, by backup.
fn lost(checked: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut lost = BTreeMap::new();
    for archive in checked["archives"].as_array().expect("a list") {
        assert_eq!(archive["lost_unnamed"], 0, "{archive:#}");
        let names = archive["lost"].as_array().expect("a list").iter();
        let names: BTreeSet<String> = names.map(|name| name.as_str().expect("text").to_owned()).collect();
        assert_eq!(archive["intact"], names.is_empty(), "{archive:#}");
        lost.insert(archive["backup"].as_str().expect("a name").to_owned(), names);
    }
    lost
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).expect("damaged");
}

#[test]
fn a_lost_pack_costs_just_what_is_named_and_the_next_backup_heals_what_the_source_still_has() {
    let mut scene = Scene::set("");
    let [first, second] = [0, 1].map(|nth: usize| scene.backups[nth].clone());
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    fs::remove_file(scene.data_pack()).expect("lost");
    let costs =
        BTreeMap::from([(first.clone(), names(&["goes", "stays"])), (second.clone(), names(&["stays"]))]);

    let words = ["--repair", "--recovery-key-file", &scene.key];
    let refused = scene.system.offline("check", &words).expect(FAILED);
    assert!(refused.err.contains("stop the controller"), "{refused:?}");
    scene.stop_controller();
    let before = scene.objects();
    assert_eq!(lost(&scene.check(&[], DAMAGED)), costs);
    scene.check(&["--repair", "--plan"], DAMAGED);
    assert_eq!(scene.objects(), before, "neither a check nor a plan changes anything");
    let repaired = scene.check(&["--repair"], DAMAGED);
    assert_eq!((lost(&repaired), &repaired["repaired"]), (costs.clone(), &true.into()), "{repaired:#}");
    // Repaired once, there is nothing to repair, and what is lost is told as before.
    let again = scene.check(&["--repair"], DAMAGED);
    assert_eq!((lost(&again), again["repairs"].as_array().map(Vec::len)), (costs, Some(0)), "{again:#}");

    scene.start_controller();
    let third = scene.back_up();
    scene.stop_controller();
    let healed = scene.check(&[], DAMAGED);
    let left = BTreeMap::from([
        (first.clone(), names(&["goes"])),
        (second.clone(), names(&[])),
        (third.clone(), names(&[])),
    ]);
    assert_eq!(lost(&healed), left);
    scene.assert_comes_back(&second);
    scene.assert_comes_back(&third);

    // A bit flips in what came anew: repair saves what opens, keeps the rest aside, and it heals once more.
    let pack = scene.data_pack();
    flip(&pack);
    let planned = scene.check(&["--repair", "--plan"], DAMAGED);
    assert!(planned["repairs"].to_string().contains("pack"), "{planned:#}");
    assert!(pack.exists(), "a plan changes nothing");
    scene.check(&["--repair"], DAMAGED);
    let name = pack.file_name().expect("named");
    let aside = scene.system.repository().join("repository/quarantine/packs").join(name);
    assert!(aside.exists() && !pack.exists(), "it is kept, elsewhere");
    scene.start_controller();
    scene.back_up();
    for backup in [&second, &third] {
        scene.system.nsctl(&["verify", "--timestamp", backup, "--all"]).expect(0);
    }
    let found = scene.system.nsctl(&["verify", "--timestamp", &first, "--all"]).expect(DAMAGED);
    assert!(found.out.contains("goes") && !found.out.contains("stays"), "{found:?}");
    scene.stop_controller();
    assert_eq!(lost(&scene.check(&[], DAMAGED))[&first], names(&["goes"]));
    scene.assert_comes_back(&second);
}

#[test]
fn with_parity_rot_is_mended_by_the_verification_that_finds_it_and_by_repair() {
    let mut scene = Scene::set("parity: 5%\nverification: { budget: 1GiB }\n");
    let newest = scene.backups[1].clone();
    let pack = scene.data_pack();
    let before = fs::read(&pack).expect("read");
    for flags in [&["--all"][..], &[]] {
        flip(&pack);
        let job = scene.system.run(&[&["verify"], flags].concat());
        let notes = job["parts"][0]["proven"]["notes"].to_string();
        assert!(notes.contains("mended by its parity"), "{job:#}");
        assert_eq!(fs::read(&pack).expect("read"), before);
    }
    scene.stop_controller();
    flip(&pack);
    let planned = scene.check(&["--repair", "--plan"], DAMAGED);
    assert!(planned["repairs"].to_string().contains("parity"), "{planned:#}");
    assert_ne!(fs::read(&pack).expect("read"), before, "a plan changes nothing");
    let repaired = scene.check(&["--repair"], 0);
    assert_eq!(repaired["intact"], true, "{repaired:#}");
    assert_eq!(fs::read(&pack).expect("read"), before);
    scene.assert_comes_back(&newest);
}

#[test]
fn a_backup_whose_folder_nobody_has_any_more_is_given_up_by_its_name() {
    let mut scene = Scene::set("");
    scene.stop_controller();
    let (lost, kept) = (scene.backups[0].clone(), scene.backups[1].clone());
    fs::remove_dir_all(scene.system.repository().join(&lost)).expect("removed");
    let key = scene.system.root().join("controller/repository.key");
    let words = ["--repair", "--give-up", &lost, "--key-file", key.to_str().expect("UTF-8")];
    let said = scene.system.offline("check", &words).expect(0);
    assert!(said.out.contains(&format!("{lost} was given up")), "{said:?}");
    scene.assert_comes_back(&kept);
}
