//! The controller's state folder is lost: the repository and a key bring it back, and the agents never notice.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tests::{System, wait_for};

const DAY: u64 = 86_400;
const INCOMPLETE: i32 = 3;
/// Content that cannot be compressed, and far more than anything else that a backup writes.
const WEIGHTS: usize = 3 << 20;

struct Scene {
    folder: TempDir,
    system: System,
    midnight: u64,
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

/// Bytes without a pattern, other ones for each `seed`.
fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    (0..length).map(|_| next()).collect()
}

impl Scene {
    /// A controller and an agent that has joined, with an account that only a catalog knows of.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("models");
        fs::create_dir(&source).expect("made");
        fs::write(source.join("weights"), noise(7, WEIGHTS)).expect("written");
        let system = System::prepare(&[("models", &source)]);
        let midnight = now() / DAY * DAY + DAY;
        let mut scene = Self { folder, system, midnight };
        // Nothing is due for hours.
        scene.system.keep_usual_schedules();
        scene.set_clocks(8 * 3_600);
        scene.system.start_controller();
        scene.system.invite();
        scene.system.start_agent();
        scene.system.await_agent();
        fs::remove_file(scene.system.root().join("token")).expect("it has joined, and never needs it again");
        scene
    }

    fn set_clocks(&mut self, time: u64) {
        let ahead = Some(self.midnight + time - now());
        self.system.set_controller_ahead(ahead);
        self.system.set_agent_ahead(ahead);
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn state(&self) -> PathBuf {
        self.system.root().join("controller")
    }

    fn back_up(&self) -> String {
        let job = self.system.run(&["backup"]);
        job["backup"].as_str().expect("a name").to_owned()
    }

    fn rebuild(&self, state: &Path, more: &[&str]) -> tests::Answer {
        let mut arguments = vec!["--state", state.to_str().expect("UTF-8"), "-o", "json"];
        arguments.extend(more);
        self.system.offline("rebuild", &arguments)
    }

    fn listed(&self, arguments: &[&str], of: &str) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        self.system.nsctl(&all).expect(0).json()[of].as_array().expect("a list").clone()
    }

    fn schedule(&self, name: &str) -> Value {
        let all = self.listed(&["schedule", "list"], "schedules");
        all.iter().find(|schedule| schedule["name"] == name).unwrap_or_else(|| panic!("{all:#?}")).clone()
    }
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).expect("damaged");
}

#[test]
fn the_state_folder_is_lost_and_everything_goes_on_without_an_agent_joining_again() {
    let mut scene = Scene::start();
    let key = scene.folder.path().join("kept-key");
    fs::copy(scene.system.recovery_key(), &key).expect("its owner keeps it");
    let key = ["--recovery-key-file", key.to_str().expect("UTF-8")];
    let first = scene.back_up();
    scene.system.nsctl(&["schedule", "set", "late", "--backup", "0 21 * * *"]).expect(0);
    scene.system.nsctl(&["token", "create", "dashboard", "--role", "viewer"]).expect(0);
    scene.system.run(&["verify"]);
    let before = fs::read(scene.source().join("weights")).expect("read");
    fs::write(scene.source().join("more"), noise(8, 1 << 16)).expect("written");
    let second = scene.back_up();
    let known = scene.listed(&["jobs"], "jobs");
    assert_eq!(known.len(), 3);
    let agents = scene.listed(&["agent", "list"], "agents");

    // Gone, while the agent runs on.
    scene.system.kill_controller();
    fs::remove_dir_all(scene.state()).expect("lost");
    let plan = scene.rebuild(&scene.state(), &[&key[..], &["--plan"]].concat()).expect(0).json();
    assert_eq!((&plan["copy"]["backup"], &plan["newer_backups"]), (&second.as_str().into(), &0.into()));
    assert!(!scene.state().exists(), "a plan writes nothing");
    let rebuilt = scene.rebuild(&scene.state(), &key).expect(0).json();
    assert_eq!((&rebuilt["agents"], &rebuilt["jobs"]), (&1.into(), &3.into()), "{rebuilt:#}");
    let again = scene.rebuild(&scene.state(), &key).expect(1);
    assert!(again.err.contains("is not empty") && again.err.contains("--replace"), "{again:?}");

    scene.system.start_controller();
    scene.system.await_agent();
    let back = scene.listed(&["agent", "list"], "agents");
    assert_eq!((back.len(), &back[0]["id"]), (1, &agents[0]["id"]), "it is the one that had joined");
    for job in scene.listed(&["jobs"], "jobs") {
        let was = known.iter().find(|known| known["id"] == job["id"]).expect("known before");
        assert_eq!((&job["state"], &job["kind"]), (&was["state"], &was["kind"]));
        let logs = scene.system.nsctl(&["logs", job["id"].as_str().expect("text")]).expect(0);
        assert!(!logs.out.trim().is_empty(), "what was told of {job:#} is there");
    }
    assert_eq!(scene.listed(&["token", "list"], "tokens")[0]["name"], "dashboard");
    let verified = scene.system.nsctl(&["show", &first, "-o", "json"]).expect(0).json();
    assert_eq!(verified["archives"][0]["verifications"][0]["intact"], true, "{verified:#}");

    // The domain's keys are the old ones: nothing that is there is sent again.
    let third = scene.back_up();
    let shown = scene.system.nsctl(&["show", &third, "-o", "json"]).expect(0).json();
    let stored = shown["archives"][0]["stored_bytes"].as_u64().expect("a number");
    assert!(stored < WEIGHTS as u64 / 10, "{stored} bytes were stored anew");
    let place = scene.folder.path().join("restored");
    let to = place.to_str().expect("UTF-8");
    scene.system.run(&["restore", "--timestamp", &first, "--to", to, "--yes"]);
    let restored = fs::read(find(&place, "weights").expect("restored")).expect("read");
    assert!(restored == before, "an old backup comes back byte for byte");

    // The schedule that somebody had set runs when its time has come. What jobs did is a day old by then, and goes
    // to the history.
    scene.system.kill_agent();
    scene.system.kill_controller();
    let late = DAY + 21 * 3_600;
    scene.set_clocks(late - 2);
    scene.system.start_controller();
    scene.system.start_agent();
    scene.system.await_agent();
    let ran = wait_for("the run that was planned", 60, || {
        Some(scene.schedule("late")["last"].clone()).filter(|last| last["job_state"] == "complete")
    });
    let planned = i64::try_from(scene.midnight + late).expect("in this age");
    assert_eq!(ran["planned_at"], jiff::Timestamp::from_second(planned).expect("in this age").to_string());

    // The newest copy is damaged: it is told, and the one before is taken.
    scene.system.kill_agent();
    scene.system.kill_controller();
    let newest = scene.listed_offline().remove(0);
    damage(&scene.system.repository().join(&newest).join("catalog.sealed"));
    let checked = scene.system.offline("check", &["latest", "--depth", "listed"]).expect(0);
    assert!(checked.err.contains("catalog.sealed"), "{checked:?}");
    let other = scene.folder.path().join("other-state");
    let rebuilt = scene.rebuild(&other, &key).expect(INCOMPLETE);
    assert!(rebuilt.err.contains(&newest) && rebuilt.err.contains("signature"), "{rebuilt:?}");
    let rebuilt = rebuilt.json();
    assert_eq!((&rebuilt["copy"]["backup"], &rebuilt["newer_backups"]), (&third.into(), &1.into()));
    // Three from before, the third backup, the restore, which only the history tells of, and by its manifest what
    // the schedule ordered.
    assert_eq!(rebuilt["jobs"], 6, "{rebuilt:#}");
    assert_eq!(
        fs::read_dir(scene.system.repository().join("repository/history")).expect("listed").count(),
        1
    );

    // Without any key there is the history that the manifests tell.
    let opens = fs::read(scene.state().join("repository.key")).expect("it came back, too");
    let without = scene.rebuild(&scene.state(), &["--replace"]).expect(0).json();
    assert_eq!((&without["copy"], &without["agents"]), (&Value::Null, &0.into()));
    let missing = without["missing"].to_string();
    assert!(missing.contains("join again") && missing.contains("schedules"), "{missing}");
    let aside = PathBuf::from(without["aside"].as_str().expect("what was there is kept"));
    assert!(aside.join("ca.key").exists());
    fs::write(scene.state().join("repository.key"), opens).expect("its owner has the key after all");
    // It is another controller to the repository: the lease of the one that was killed has ended by then.
    scene.set_clocks(late + 120);
    scene.system.start_controller();
    let told = scene.listed(&["jobs"], "jobs");
    assert_eq!(told.len(), 4, "the four that made backups");
    assert!(told.iter().all(|job| job["state"] == "complete" && job["kind"] == "backup"), "{told:#?}");
}

impl Scene {
    /// The names of the backups, the newest first.
    fn listed_offline(&self) -> Vec<String> {
        let list = self.system.offline("list", &["-o", "json"]).expect(0).json();
        let backups = list["backups"].as_array().expect("a list").iter();
        backups.map(|backup| backup["name"].as_str().expect("text").to_owned()).collect()
    }
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.map(|entry| entry.expect("read").path()).find_map(|path| {
        if path.is_dir() { find(&path, name) } else { (path.file_name()? == name).then_some(path) }
    })
}
