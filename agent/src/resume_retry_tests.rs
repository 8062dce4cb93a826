//! What could not be started again after a restore, and what is made of it later.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use runtime::clock::{Clock, SystemClock};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Retries, resume, start_those_on_record};
use crate::config::{AgentConfig, ApplicationConfig};
use crate::connection::Agent;
use crate::platform::{Application, Handle as Reached, Platform};
use crate::state::{AgentKey, Report, Run, StateFolder, Stopped, Stopping};
use crate::tasks::Users;

/// A program that is started and stopped by commands, which tell what they were asked for.
struct Scene {
    folder: tempfile::TempDir,
    agent: Arc<Agent>,
    retries: Arc<Mutex<Retries>>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (runs, log) = (folder.path().join("runs"), folder.path().join("log"));
        let shell = |script: &str| {
            let script = script.replace("RUNS", runs.to_str().expect("text"));
            ["/bin/sh", "-c", &script.replace("LOG", log.to_str().expect("text"))].map(str::to_owned).to_vec()
        };
        let minute = "1m".parse().expect("a duration");
        let app = ApplicationConfig {
            name: "app".to_owned(),
            uses: vec!["models".to_owned()],
            container: None,
            stop: shell("echo stop >> LOG; rm -f RUNS"),
            start: shell("echo start >> LOG; touch RUNS"),
            is_running: shell("test -e RUNS"),
            healthy: Vec::new(),
            after: Vec::new(),
            time_limit: minute,
            health_limit: minute,
        };
        let mut config = AgentConfig { applications: vec![app], ..AgentConfig::default() };
        config.docker.enabled = Some(false);
        let state = StateFolder::open(&folder.path().join("state")).expect("opens");
        let key = AgentKey::open(&state).expect("a key");
        let agent = Arc::new(Agent {
            platform: Platform::new(&config),
            config,
            state,
            key,
            served: Vec::new(),
            clock: Arc::new(SystemClock),
            instance: [0; 16],
            room: Arc::default(),
            listed: crate::pipeline::RememberedBlobs::default(),
            drills: None,
            unbroken: Default::default(),
            retrying: Default::default(),
        });
        Self { folder, agent, retries: Arc::default() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the commands were asked for since the last time.
    fn asked(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.at("log")).unwrap_or_default();
        let _ = std::fs::remove_file(self.at("log"));
        log.lines().map(str::to_owned).collect()
    }

    /// The restore `id` is over and has not started the program again.
    fn over(&self, id: &str, state: Stopping, stopped_at: Timestamp) {
        let application = Application {
            name: "app".into(),
            handle: Reached::Commands,
            after: Vec::new(),
            runs: true,
            is_checked: false,
        };
        let mut report = Report::default();
        report.did("stopped", stopped_at, "app");
        let run =
            Run { report, stopped: vec![Stopped { application, state }], is_over: true, ..Run::default() };
        self.agent.state.runs().keep(id, &run).expect("kept");
    }

    fn on_record(&self) -> Vec<String> {
        let runs = self.agent.state.runs().all().expect("listed");
        let mut ids: Vec<String> = runs.into_iter().map(|(id, _)| id).collect();
        ids.sort();
        ids
    }

    /// True if something is still not started after a try.
    async fn tries(&self) -> bool {
        let (agent, runtime, retries) = (self.agent.clone(), Handle::current(), self.retries.clone());
        let tries =
            move || start_those_on_record(&agent, &runtime, &mut retries.lock().expect("nobody panicked"));
        tokio::task::spawn_blocking(tries).await.expect("no panic")
    }

    /// Does this with what uses the place of the restore `id`, which begins.
    async fn attempt(&self, id: &'static str, work: impl FnOnce(&Users<'_>) + Send + 'static) {
        let (agent, runtime) = (self.agent.clone(), Handle::current());
        let work = move || work(&Users::of(&agent, runtime, id, Report::default()));
        tokio::task::spawn_blocking(work).await.expect("no panic");
    }
}

#[tokio::test]
async fn nothing_is_started_while_another_restore_has_not_come_to_its_end() {
    let scene = Scene::new();
    scene.over("r-1", Stopping::Stopped, SystemClock.now());
    // Half swapped, at a server that is not served any more: nobody can end it.
    let open = Run { server: Some("gone/server".to_owned()), ..Run::default() };
    scene.agent.state.runs().keep("r-2", &open).expect("kept");
    assert!(scene.tries().await, "it is tried again later");
    resume(scene.agent.clone(), &CancellationToken::new()).await;
    assert!(scene.tries().await, "nor after a start of the agent");
    assert_eq!((scene.asked(), scene.on_record()), (Vec::new(), vec!["r-1".to_owned(), "r-2".to_owned()]));

    scene.agent.state.runs().drop("r-2").expect("dropped");
    assert!(!scene.tries().await);
    assert_eq!((scene.asked(), scene.on_record()), (vec!["start".to_owned()], Vec::new()));
}

#[tokio::test]
async fn a_try_stops_nothing_that_runs_and_starts_nothing_that_is_old() {
    let scene = Scene::new();
    // Its stop was in doubt. Since then somebody has started it.
    scene.over("r-1", Stopping::Told, SystemClock.now());
    std::fs::write(scene.at("runs"), "").expect("written");
    assert!(!scene.tries().await);
    assert_eq!((scene.asked(), scene.on_record()), (Vec::new(), Vec::new()));

    // By now somebody has stopped it on purpose.
    std::fs::remove_file(scene.at("runs")).expect("it goes");
    scene.over("r-2", Stopping::Stopped, SystemClock.now() - SignedDuration::from_hours(25));
    assert!(!scene.tries().await);
    assert_eq!((scene.asked(), scene.on_record()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn nothing_is_given_up_without_a_try() {
    let (scene, long_ago) = (Scene::new(), SystemClock.now() - SignedDuration::from_hours(25));
    let asked_of = |scene: &Scene| {
        let _ = std::fs::remove_file(scene.at("runs"));
        (scene.asked(), scene.on_record().len())
    };
    let started = |times| (vec!["start".to_owned(); times], 0);
    // The host was off.
    scene.over("r-1", Stopping::Stopped, long_ago);
    assert!(!scene.tries().await);
    assert_eq!(asked_of(&scene), started(1));

    // Another restore was open for all that time.
    scene.over("r-1", Stopping::Stopped, long_ago);
    scene.agent.state.runs().keep("r-2", &Run::default()).expect("kept");
    assert!(scene.tries().await);
    assert_eq!(asked_of(&scene), (Vec::new(), 2));
    scene.agent.state.runs().drop("r-2").expect("dropped");
    assert!(!scene.tries().await);
    assert_eq!(asked_of(&scene), started(1));

    // It was stopped long ago, and its restore is over since just now.
    scene.over("r-1", Stopping::Stopped, long_ago);
    let mut run = scene.agent.state.runs().all().expect("listed").remove(0).1;
    run.left_at = Some(SystemClock.now());
    scene.agent.state.runs().keep("r-1", &run).expect("kept");
    assert!(!scene.tries().await);
    assert_eq!(asked_of(&scene), started(1));
}

#[tokio::test]
async fn a_second_attempt_starts_what_the_first_has_stopped() {
    let scene = Scene::new();
    scene.over("r-1", Stopping::Stopped, SystemClock.now());
    // It fails while it is staged, before anything is looked at.
    scene
        .attempt("r-1", |users| {
            assert_eq!(users.start_again(), [""; 0]);
            users.settle();
        })
        .await;
    assert_eq!((scene.asked(), scene.on_record()), (Vec::new(), vec!["r-1".to_owned()]));

    // Once more, and now it is swapped: what does not run is not stopped, and is started in the end.
    scene
        .attempt("r-1", |users| {
            users.stop(Some("models"), None).expect("stopped");
            users.start().expect("started");
            users.end(|_| ());
        })
        .await;
    assert_eq!((scene.asked(), scene.on_record()), (vec!["start".to_owned()], Vec::new()));
    assert!(Path::exists(&scene.at("runs")));
}
