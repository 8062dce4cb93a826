//! Restores of data that containers use, on a real Docker Engine with an image from scratch.

use std::fs;
use std::path::PathBuf;

use tests::{DockerEngine, Process, System, assert_equal_folders, wait_for};

struct Scene {
    system: System,
    data: PathBuf,
    engine: DockerEngine,
}

impl Scene {
    /// The folder has the value `one`, and is backed up; then `two`.
    fn set() -> (Self, String) {
        let engine = DockerEngine::start();
        let mut system = System::prepare_held(&[]);
        let data = system.root().join("data");
        fs::create_dir(&data).expect("made");
        fs::write(data.join("value"), "one").expect("written");
        system.serve(&[("models", &data)]);
        let socket = engine.socket();
        let limits = "stop_limit: 5s, health_limit: 4s";
        system.configure_agent(&format!("docker: {{ socket: {}, {limits} }}\n", socket.display()));
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        let backup = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
        fs::write(data.join("value"), "two").expect("written");
        (Self { system, data, engine }, backup)
    }

    fn runs(&self, name: &str) -> bool {
        self.engine.inspect(name, "{{.State.Running}}") == "true"
    }

    fn value(&self, name: &str) -> String {
        self.engine.run(&["exec", name, "cat", "/data/value"])
    }

    fn started_at(&self, name: &str) -> String {
        self.engine.inspect(name, "{{.State.StartedAt}}")
    }
}

#[test]
fn containers_are_stopped_get_the_restored_data_and_come_up_in_their_order() {
    let (mut scene, backup) = Scene::set();
    let engine = &scene.engine;
    let ours = "neurashield.backup.stop-for=models";
    engine.start_container("api", &scene.data, &[ours, "neurashield.backup.start-after=db"]);
    engine.start_container("db", &scene.data, &["docker-volume-backup.stop-during-backup=true"]);
    engine.start_container("resting", &scene.data, &[ours]);
    engine.run(&["stop", "-t", "0", "resting"]);
    let folder = scene.system.root().join("elsewhere");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("value"), "other").expect("written");
    engine.start_container("other", &folder, &[]);
    let other = scene.started_at("other");

    // One that has the folder and would not be stopped is in the way.
    engine.start_container("unlabelled", &scene.data, &[]);
    let refused = scene.system.nsctl(&["restore", "--timestamp", &backup, "--yes"]).expect(1);
    assert!(refused.err.contains("the container unlabelled has"), "{}", refused.err);
    assert!(scene.runs("api") && scene.runs("db"), "nothing was stopped");
    engine.run(&["rm", "-f", "unlabelled"]);

    let job = scene.system.run(&["restore", "--timestamp", &backup, "--yes"]);
    assert_eq!((scene.value("api").as_str(), scene.value("db").as_str()), ("one", "one"));
    assert!(!scene.runs("resting"), "it did not run before");
    assert_eq!(scene.started_at("other"), other, "it has other data");
    assert!(scene.started_at("db") < scene.started_at("api"), "api is started after db");
    let id = job["id"].as_str().expect("an id").to_owned();
    scene.system.run(&["undo", &id, "--yes"]);
    assert_eq!(scene.value("api"), "two");

    // Killed while the containers are stopped: the next start of the agent starts them.
    scene.system.steps().ask("first-old-away");
    let id = scene.system.start_job(&["restore", "--timestamp", &backup, "--yes"]);
    wait_for("the swap", 60, || scene.system.steps().reached("first-old-away"));
    assert!(!scene.runs("api") && !scene.runs("db"));
    scene.system.kill_agent();
    scene.system.steps().give_up("first-old-away");
    scene.system.start_agent();
    let job = scene.system.await_end(&id);
    assert_eq!(job["state"], "complete", "{job:#}\n{}", scene.system.log(Process::Agent));
    assert!(scene.runs("api") && scene.runs("db") && !scene.runs("resting"));
    assert_eq!(scene.value("api"), "one");
}

#[test]
fn a_container_that_is_unhealthy_on_the_restored_data_gets_the_old_data_back() {
    let (scene, _) = Scene::set();
    fs::write(scene.data.join("value"), "bad").expect("written");
    let bad = scene.system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    fs::write(scene.data.join("value"), "good").expect("written");
    scene.engine.start_container("app", &scene.data, &["neurashield.backup.stop-for=all"]);
    wait_for("the container to be healthy", 30, || {
        (scene.engine.inspect("app", "{{.State.Health.Status}}") == "healthy").then_some(())
    });
    let before = scene.system.root().join("before");
    let copied = std::process::Command::new("cp").arg("-a").args([&scene.data, &before]).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let answer = scene.system.nsctl(&["restore", "--timestamp", &bad, "--yes"]).expect(1);
    assert!(
        answer.err.contains("taken back") && answer.err.contains("app did not come up"),
        "{}",
        answer.err
    );
    assert!(scene.runs("app"));
    assert_eq!(scene.value("app"), "good");
    assert_equal_folders(&scene.data, &before);
}
