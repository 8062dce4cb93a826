//! Restores in place, as a user sees them: a program that uses the data is stopped and started, what was
//! replaced is backed up and comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{Application, System, assert_equal_folders};

/// A system with one source, `models`, and the application that uses it.
struct Scene {
    system: System,
    app: Application,
    data: PathBuf,
}

impl Scene {
    /// The application runs and has the value `one`; a backup of that is there; then it has the value `two`.
    fn with_two_values() -> (Self, String) {
        let mut system = System::prepare_held(&[]);
        let data = system.root().join("data");
        fs::create_dir_all(data.join("deep/er")).expect("made");
        fs::write(data.join("deep/er/file"), "one").expect("written");
        fs::write(data.join("value"), "one").expect("written");
        let app = Application::in_care_of(&mut system, &data);
        let first = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
        let scene = Self { system, app, data };
        scene.change_to("two");
        (scene, first)
    }

    fn change_to(&self, value: &str) {
        self.app.set(value);
        fs::write(self.data.join("deep/er/file"), value).expect("written");
        fs::write(self.data.join("extra"), value).expect("written");
    }

    /// A copy of what is there.
    fn keep(&self, name: &str) -> PathBuf {
        copy(&self.data, &self.system.root().join(name))
    }

    fn job(&self, id: &str) -> Value {
        self.system.nsctl(&["jobs", id, "-o", "json"]).expect(0).json()
    }

    fn safety_backups(&self) -> Vec<Value> {
        let list = self.system.nsctl(&["list", "-o", "json"]).expect(0).json();
        let all = list["backups"].as_array().expect("a list").clone();
        all.into_iter().filter(|backup| !backup["safety_of"].is_null()).collect()
    }
}

fn copy(from: &Path, to: &Path) -> PathBuf {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(copied.success());
    to.to_owned()
}

fn steps(job: &Value) -> Vec<String> {
    let steps = job["parts"][0]["restored"]["steps"].as_array().expect("steps");
    let words = |step: &Value| format!("{} {}", step["step"].as_str().unwrap_or_default(), step["detail"]);
    steps.iter().map(words).collect()
}

#[test]
fn what_uses_the_data_is_stopped_gets_the_restored_data_and_the_restore_can_be_taken_back() {
    let (scene, first) = Scene::with_two_values();
    let before = scene.keep("before");

    let plan =
        scene.system.nsctl(&["restore", "--timestamp", "latest", "--plan", "-o", "json"]).expect(0).json();
    assert_eq!(plan["sources"][0]["stops"][0]["name"], "app", "{plan:#}");
    assert_eq!(plan["sources"][0]["stops"][0]["running"], true);
    assert_eq!(plan["sources"][0]["removed"]["names"], serde_json::json!(["extra"]));
    assert_eq!(plan["safety_backup"]["components"], serde_json::json!(["models"]));
    assert_eq!(plan["safety_backup"]["kept_seconds"], 7 * 86_400);
    assert!(plan["sources"][0]["needed_bytes"].as_u64() > plan["sources"][0]["bytes"].as_u64());
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("two", 1), "a plan changes nothing");

    let restored = scene.system.run(&["restore", "--timestamp", "latest", "--yes"]);
    let id = restored["id"].as_str().expect("an id");
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("one", 2));
    assert!(!scene.data.join("extra").exists());

    // The report: what was confirmed, what was done, when.
    let report = scene.job(id);
    assert_eq!(report["digest"], plan["digest"], "what was confirmed is what was planned");
    assert_eq!(report["parts"][0]["plan"]["removed"]["count"], 1);
    assert_eq!(report["parts"][0]["restored"]["removed"], 1);
    let steps = steps(&report);
    let kinds: Vec<&str> = steps.iter().filter_map(|step| step.split(' ').next()).collect();
    assert_eq!(kinds, ["staged", "stopped", "swapped", "started"], "{steps:?}");

    // What was replaced is a backup like others, marked and pinned for a week, and never the latest.
    let safety = scene.safety_backups();
    assert_eq!(safety.len(), 1);
    assert_eq!(safety[0]["safety_of"], *id);
    assert_eq!(report["safety_backup"], safety[0]["name"]);
    let shown = scene.system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    assert_eq!(shown["name"], *first);
    let goes = scene.system.nsctl(&["retention", "apply", "--plan", "-o", "json"]).expect(0).json();
    assert!(goes.to_string().contains("safety backup before restore"), "{goes:#}");

    let undone = scene.system.run(&["undo", id, "--yes"]);
    assert_eq!(undone["undo_of"], *id);
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("two", 3));
    assert_equal_folders(&scene.data, &before);
    assert_eq!(scene.safety_backups().len(), 2, "an undo can be taken back, too");

    let audit = scene.system.nsctl(&["audit", "-o", "json"]).expect(0).out;
    assert!(audit.contains("StartRestore") && audit.contains("takes back the restore"), "{audit}");
}

#[test]
fn a_restore_whose_program_does_not_come_up_is_taken_back_by_itself() {
    let (scene, _) = Scene::with_two_values();
    scene.change_to("bad");
    let bad = scene.system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    scene.change_to("good");
    let before = scene.keep("before");

    let answer = scene.system.nsctl(&["restore", "--timestamp", &bad, "--yes", "-o", "json"]).expect(1);
    let job = answer.json();
    assert_eq!(job["state"], "failed");
    assert!(answer.err.contains("taken back") && answer.err.contains("the value is bad"), "{}", answer.err);
    assert!(job["parts"][0]["restored"]["undone"].as_str().is_some(), "{job:#}");
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("good", 3));
    assert_equal_folders(&scene.data, &before);

    let id = job["id"].as_str().expect("an id");
    let undo = scene.system.nsctl(&["undo", id, "--yes"]).expect(1);
    assert!(undo.err.contains("it has changed nothing"), "{}", undo.err);
    let alerts = scene.system.nsctl(&["alert", "list", "-o", "json"]).expect(0).out;
    assert!(alerts.contains("restore_failed"), "{alerts}");
}

#[test]
fn a_program_that_was_stopped_before_stays_stopped_and_one_that_cannot_be_stopped_stops_the_restore() {
    let (scene, first) = Scene::with_two_values();
    let before = scene.keep("before");
    scene.app.fail("stop", true);
    let answer = scene.system.nsctl(&["restore", "--timestamp", &first, "--yes"]).expect(1);
    assert!(answer.err.contains("cannot stop app") && answer.err.contains("told to fail"), "{}", answer.err);
    assert_eq!(scene.app.value(), "two");
    assert_equal_folders(&scene.data, &before);
    scene.app.fail("stop", false);

    scene.app.stop();
    scene.system.run(&["restore", "--timestamp", &first, "--yes", "--no-safety-backup"]);
    assert!(!scene.app.runs(), "it did not run before");
    assert_eq!(fs::read_to_string(scene.data.join("value")).expect("read"), "one");
    assert_eq!(scene.safety_backups().len(), 1, "of the first attempt alone");
}

#[test]
fn a_program_whose_stop_fails_and_happens_later_runs_in_the_end() {
    let (scene, first) = Scene::with_two_values();
    scene.app.stop_late();
    let answer = scene.system.nsctl(&["restore", "--timestamp", &first, "--yes"]).expect(1);
    assert!(answer.err.contains("told to be late"), "{}", answer.err);
    scene.app.await_late_stop();
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("two", 2));
}

#[test]
fn an_undo_loses_neither_what_is_excluded_nor_what_was_written_after_the_safety_backup() {
    let (mut scene, _) = Scene::with_two_values();
    scene.system.kill_agent();
    scene.system.configure_source("models", "exclude: [keys/]");
    fs::create_dir(scene.data.join("keys")).expect("made");
    fs::write(scene.data.join("keys/only"), "nowhere else").expect("written");
    scene.system.start_agent();
    scene.system.await_agent();
    let plan = scene.system.nsctl(&["restore", "--timestamp", "latest", "--plan"]).expect(0).out;
    assert!(
        plan.contains("1 entries that the source excludes") && plan.contains("stay as they are: keys"),
        "{plan}"
    );
    let id = scene.system.run(&["restore", "--timestamp", "latest", "--yes"])["id"].clone();
    let excluded = || fs::read_to_string(scene.data.join("keys/only")).expect("what is excluded stays");
    assert_eq!((scene.app.value().as_str(), excluded().as_str()), ("one", "nowhere else"));
    fs::write(scene.data.join("value.late"), "after the safety backup").expect("written");
    scene.system.run(&["undo", id.as_str().expect("an id"), "--yes"]);
    assert_eq!((scene.app.value().as_str(), excluded().as_str()), ("two", "nowhere else"));
    let kept = |at: &Path| {
        let folders = fs::read_dir(at).expect("listed").map(|entry| entry.expect("an entry").path());
        folders.map(|folder| folder.join("old/value.late")).find(|file| file.exists())
    };
    assert!(kept(&scene.data).is_some(), "what was written since is kept with the replaced state");
}

#[test]
fn a_restore_of_paths_is_taken_back_with_what_it_has_made() {
    let (scene, first) = Scene::with_two_values();
    fs::remove_dir_all(scene.data.join("deep")).expect("it goes");
    let before = scene.keep("before");
    // It replaces nothing: all that it brings was not there.
    let words = ["restore", "--timestamp", &first, "--path", "deep/er/file", "--yes"];
    let id = scene.system.run(&words)["id"].as_str().expect("an id").to_owned();
    assert_eq!(fs::read_to_string(scene.data.join("deep/er/file")).expect("read"), "one");
    let plan = scene.system.nsctl(&["undo", &id, "--plan"]).expect(0).out;
    assert!(plan.contains("deep") && !plan.contains("created stay"), "{plan}");
    scene.system.run(&["undo", &id, "--yes"]);
    assert_eq!(scene.app.value(), "two");
    // That something came into the folder and went from it shows at the folder's own time alone.
    let time = fs::metadata(&before).and_then(|folder| folder.modified()).expect("a time");
    fs::File::open(&scene.data).and_then(|folder| folder.set_modified(time)).expect("set");
    assert_equal_folders(&scene.data, &before);
}

#[test]
fn a_program_that_cannot_be_started_again_is_tried_again_until_it_runs() {
    let (scene, first) = Scene::with_two_values();
    let before = scene.keep("before");
    scene.app.fail("start", true);
    let answer = scene.system.nsctl(&["restore", "--timestamp", &first, "--yes"]).expect(1);
    assert!(answer.err.contains("taken back"), "{}", answer.err);
    assert!(!scene.app.runs());
    assert_equal_folders(&scene.data, &before);
    scene.app.fail("start", false);
    tests::wait_for("the next try", 60, || scene.app.runs().then_some(()));
    assert_eq!(scene.app.value(), "two");
    // Once it runs it is nobody's business any more.
    let records = || fs::read_dir(scene.system.root().join("agent/runs")).expect("listed").count();
    tests::wait_for("the record to go", 30, || (records() == 0).then_some(()));
}

#[test]
fn a_program_that_uses_several_places_is_named_as_stopped_for_each() {
    let mut system = System::prepare(&[]);
    let folders = ["one", "two"].map(|name| system.root().join(name));
    for folder in &folders {
        fs::create_dir(folder).expect("made");
        fs::write(folder.join("value"), "one").expect("written");
    }
    let app = Application::new(&folders[0], &system.root().join("run"));
    system.serve(&[("models", folders[0].as_path()), ("uploads", folders[1].as_path())]);
    system.configure_agent(&app.settings("models, uploads"));
    app.start();
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system.run(&["backup"]);
    let words = ["restore", "--timestamp", "latest", "--plan"];
    let plan = system.nsctl(&words).expect(0).out;
    let told = "stopped and started for each place";
    assert!(plan.contains(told) && plan.contains("in part: app;"), "{plan}");
    let plan = system.nsctl(&[&words[..], &["--components", "uploads"]].concat()).expect(0).out;
    assert!(!plan.contains(told), "{plan}");
}

#[test]
fn a_restore_whose_end_was_never_heard_of_can_be_taken_back() {
    let (mut scene, first) = Scene::with_two_values();
    scene.system.steps().ask("off-record");
    let id = scene.system.start_job(&["restore", "--timestamp", &first, "--yes"]);
    tests::wait_for("the end of the swap", 60, || scene.system.steps().reached("off-record"));
    scene.system.kill_agent();
    scene.system.steps().clear("off-record");
    scene.system.nsctl(&["cancel", &id]);
    assert_eq!(scene.system.await_end(&id)["state"], "cancelled");
    scene.system.start_agent();
    scene.system.await_agent();
    assert_eq!(scene.app.value(), "one", "it was done");
    scene.system.run(&["undo", &id, "--yes"]);
    assert_eq!(scene.app.value(), "two");
}

#[test]
fn what_has_changed_since_the_plan_is_told_and_nothing_is_done() {
    let (scene, first) = Scene::with_two_values();
    // While the safety backup is made, somebody adds a file that the restore would remove.
    scene.system.steps().ask("archive-made");
    let id = scene.system.start_job(&["restore", "--timestamp", &first, "--yes"]);
    tests::wait_for("the safety backup", 60, || scene.system.steps().reached("archive-made"));
    fs::write(scene.data.join("news"), "of somebody").expect("written");
    scene.system.steps().let_go("archive-made");
    let job = scene.system.await_end(&id);
    assert_eq!(job["state"], "failed");
    let why = job["failure"]["why"].as_str().expect("why");
    assert!(why.contains("now removed, too: news"), "{why}");
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("two", 1), "nothing was stopped");
}

#[test]
fn a_restore_whose_safety_backup_is_not_whole_does_not_begin() {
    let (mut scene, first) = Scene::with_two_values();
    fs::write(scene.data.join("closed"), "closed").expect("written");
    fs::set_permissions(scene.data.join("closed"), fs::Permissions::from_mode(0o000)).expect("set");
    scene.system.kill_agent();
    // Root that may do no more than its files' modes say.
    scene.system.start_agent_by(&["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]);
    scene.system.await_agent();
    let answer = scene.system.nsctl(&["restore", "--timestamp", &first, "--yes"]).expect(1);
    assert!(answer.err.contains("could not be backed up"), "{}", answer.err);
    assert!(answer.err.contains("--no-safety-backup"), "{}", answer.err);
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("two", 1), "nothing was stopped");

    let incomplete = scene.safety_backups()[0]["name"].as_str().expect("a name").to_owned();
    let words = ["restore", "--timestamp", &incomplete, "--no-safety-backup", "--yes"];
    let doubted = scene.system.nsctl(&words).expect(1);
    assert!(doubted.err.contains("is not whole") && doubted.err.contains("1 entries"), "{}", doubted.err);
    scene.system.nsctl(&["restore", "--timestamp", &first, "--no-safety-backup", "--yes"]).expect(0);
    assert_eq!((scene.app.value().as_str(), scene.app.starts()), ("one", 2));
}
