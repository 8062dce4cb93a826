//! A Docker Engine that is away, slow, or does late what it was asked for, between the moments in which containers are
//! paused and let go on: whoever was paused goes on, whoever somebody else has paused stays so, and nothing is claimed
//! that was not had. The engine is one of our own making; the same on a real one is in `chains_hosts.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tests::{Process, System, pause, wait_for};

use crate::killed::{guards, records};
use crate::signal;

/// What the engine does when it is asked to pause a container.
#[derive(Debug, Clone, Copy, Default)]
enum Does {
    #[default]
    Pauses,
    /// Somebody else was faster.
    IsPaused,
    /// It answers after so many milliseconds.
    Slowly(u64),
    /// It does not answer, and pauses it after so many milliseconds.
    Later(u64),
}

/// Among what was asked for: a pause that nobody waited for any more.
const LATE: &str = "late";

#[derive(Default)]
struct State {
    /// Its folders, and whether it is paused.
    containers: BTreeMap<String, (Vec<PathBuf>, bool)>,
    does: BTreeMap<String, Does>,
    /// What was asked for, in order.
    asked: Vec<(String, String)>,
}

struct Engine {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    /// All containers' process, for who has to see that it is none of them.
    process: Child,
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn id(name: &str) -> String {
    name.repeat(64 / name.len())
}

impl Engine {
    /// With containers that have these folders mounted for writing.
    fn start(at: &Path, containers: &[(&str, &[&Path])]) -> Self {
        let socket = at.join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let process = Command::new("unshare").args(["--mount", "sleep", "600"]).spawn().expect("unshare");
        let state = Arc::new(Mutex::new(State::default()));
        for (name, folders) in containers {
            let folders = folders.iter().map(|folder| folder.to_path_buf()).collect();
            state.lock().expect("whole").containers.insert(id(name), (folders, false));
        }
        let (shared, pid) = (state.clone(), process.id());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || serve(stream, &state, pid));
            }
        });
        Self { socket, state, process }
    }

    fn goes_away(&self) {
        fs::rename(&self.socket, self.socket.with_extension("away")).expect("moved");
    }

    fn comes_back(&self) {
        fs::rename(self.socket.with_extension("away"), &self.socket).expect("moved back");
    }

    fn does(&self, name: &str, does: Does) {
        self.state.lock().expect("whole").does.insert(id(name), does);
    }

    fn is_paused(&self, name: &str) -> bool {
        self.state.lock().expect("whole").containers[&id(name)].1
    }

    fn is_paused_by_somebody(&self, name: &str, is_paused: bool) {
        self.state.lock().expect("whole").containers.get_mut(&id(name)).expect("there").1 = is_paused;
    }

    /// How often this was asked for of a container.
    fn asked(&self, name: &str, verb: &str) -> usize {
        let state = self.state.lock().expect("whole");
        state.asked.iter().filter(|(of, what)| *of == id(name) && what == verb).count()
    }
}

fn serve(mut stream: UnixStream, state: &Arc<Mutex<State>>, pid: u32) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let words: Vec<&str> = path.split(['/', '?']).collect();
    let (status, body) = match words[..] {
        [_, "containers", "json", ..] => (200, list(&state.lock().expect("whole"))),
        [_, "containers", id, "json"] => match state.lock().expect("whole").containers.get(id) {
            Some((_, is_paused)) => {
                (200, json!({ "State": { "Running": true, "Paused": is_paused, "Pid": pid } }))
            }
            None => (404, json!({ "message": "no such container" })),
        },
        [_, "containers", id, verb @ ("pause" | "unpause")] => match turned(state, id, verb) {
            Some(status) => (status, json!({ "message": "it is so already" })),
            // Nobody answers.
            None => return,
        },
        _ => (200, json!({ "Volumes": [] })),
    };
    let body = body.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

fn list(state: &State) -> Value {
    let of = |(id, (folders, is_paused)): (&String, &(Vec<PathBuf>, bool))| {
        let mount = |folder: &PathBuf| json!({ "Source": folder, "Destination": "/data", "RW": true });
        json!({ "Id": id, "Names": [format!("/{}", &id[..2])], "HostConfig": { "NetworkMode": "default" },
            "State": if *is_paused { "paused" } else { "running" },
            "Mounts": folders.iter().map(mount).collect::<Vec<_>>() })
    };
    state.containers.iter().map(of).collect()
}

fn turned(state: &Arc<Mutex<State>>, id: &str, verb: &str) -> Option<u16> {
    let does = {
        let mut state = state.lock().expect("whole");
        state.asked.push((id.to_owned(), verb.to_owned()));
        match verb {
            "pause" => state.does.get(id).copied().unwrap_or_default(),
            _ => Does::Pauses,
        }
    };
    let turn = |to: bool| {
        let mut state = state.lock().expect("whole");
        let is_paused = &mut state.containers.get_mut(id).expect("there").1;
        if std::mem::replace(is_paused, to) == to { 409 } else { 204 }
    };
    match does {
        Does::Pauses => Some(turn(verb == "pause")),
        Does::IsPaused => {
            turn(true);
            Some(409)
        }
        Does::Slowly(wait) => {
            pause(wait);
            Some(turn(true))
        }
        Does::Later(wait) => {
            pause(wait);
            turn(true);
            state.lock().expect("whole").asked.push((id.to_owned(), LATE.to_owned()));
            None
        }
    }
}

/// A node at rest, of several parts that must be of one moment.
fn node(at: &Path) {
    fs::create_dir_all(at.join("data/cs.wal")).expect("made");
    fs::write(at.join("data/priv_validator_state.json"), r#"{"height":"9","round":0,"step":3}"#)
        .expect("written");
    fs::write(at.join("data/cs.wal/wal"), "").expect("written");
}

fn system(engine: &Engine, nodes: &[&Path]) -> System {
    let mut system = System::prepare_held(&[]);
    let mut text = String::new();
    for (number, node) in nodes.iter().enumerate() {
        let source = format!("component: blockchain, kind: blockchain, name: chain-{number}");
        text.push_str(&format!("  - {{ {source}, path: {}, quiesce: [container] }}\n", node.display()));
    }
    system.configure_agent(&format!("{text}docker: {{ socket: {} }}\n", engine.socket.display()));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

fn manifest(system: &System, source: usize) -> Value {
    let name = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["name"].clone();
    let path = format!("blockchain/chain-{source}.json");
    let path = system.repository().join(name.as_str().expect("a name")).join(path);
    serde_json::from_slice(&fs::read(path).expect("a manifest")).expect("JSON")
}

/// A backup that could not pause them says why; returns that.
fn fuzzy(system: &System, job: &Value) -> String {
    assert_eq!(job["state"], "complete", "{job:#}");
    assert_eq!(
        (&manifest(system, 0)["consistency"], manifest(system, 0).get("quiesce")),
        (&"fuzzy".into(), None)
    );
    job["parts"][0]["problems"].to_string()
}

fn kill_with_its_guard(system: &mut System) {
    let agent = system.pid(Process::Agent);
    signal(agent, "STOP");
    guards(agent).into_iter().for_each(|guard| signal(guard, "KILL"));
    system.kill_agent();
}

#[test]
fn an_engine_that_is_away_when_they_are_to_go_on_is_asked_until_they_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("node");
    node(&place);
    let engine = Engine::start(folder.path(), &[("aa", &[&place])]);
    let mut system = system(&engine, &[&place]);
    system.run(&["backup"]);
    assert_eq!(manifest(&system, 0)["quiesce"]["by"], "container");
    assert_eq!((engine.asked("aa", "pause"), engine.is_paused("aa"), records(&system)), (1, false, 0));

    system.steps().ask("pause-filled");
    let job = system.start_job(&["backup"]);
    wait_for("the pause", 30, || system.steps().reached("pause-filled"));
    assert!(engine.is_paused("aa"));
    engine.goes_away();
    system.steps().let_go("pause-filled");
    let told = fuzzy(&system, &system.await_end(&job));
    assert!(told.contains("cannot be told to go on yet") && told.contains("docker unpause"), "{told}");
    assert!(engine.is_paused("aa") && records(&system) == 1, "it is not forgotten");
    engine.comes_back();
    wait_for("it to go on", 10, || (!engine.is_paused("aa") && records(&system) == 0).then_some(()));

    // The same where agent and guard die, and the engine is not there yet when the agent is again.
    system.steps().ask("pause-filled");
    let job = system.start_job(&["backup"]);
    wait_for("the pause", 30, || system.steps().reached("pause-filled"));
    kill_with_its_guard(&mut system);
    engine.goes_away();
    system.steps().clear("pause-filled");
    system.start_agent();
    system.await_agent();
    system.await_end(&job);
    assert!(engine.is_paused("aa") && records(&system) == 1, "it is not forgotten");
    engine.comes_back();
    wait_for("it to go on", 15, || (!engine.is_paused("aa") && records(&system) == 0).then_some(()));
    let job = system.run(&["backup"]);
    assert_eq!(manifest(&system, 0)["quiesce"]["by"], "container", "it may be paused again: {job:#}");
}

#[test]
fn who_was_paused_by_somebody_else_stays_so_and_nobody_is_paused_without_a_guard() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("node");
    node(&place);
    let folders: &[&Path] = &[&place];
    let engine = Engine::start(folder.path(), &[("aa", folders), ("bb", folders), ("cc", folders)]);
    let system = system(&engine, &[&place]);
    engine.does("bb", Does::IsPaused);
    let told = fuzzy(&system, &system.run(&["backup"]));
    assert!(told.contains("409"), "{told}");
    assert!(!engine.is_paused("aa") && engine.is_paused("bb"), "each is as its owner has it");
    assert_eq!((engine.asked("bb", "unpause"), engine.asked("cc", "pause")), (0, 0));
    assert_eq!((engine.asked("cc", "unpause"), records(&system)), (0, 0));

    // Its guard is gone before the first is paused.
    engine.does("bb", Does::Pauses);
    engine.state.lock().expect("whole").containers.values_mut().for_each(|one| one.1 = false);
    let paused = engine.asked("aa", "pause");
    system.steps().ask("pause-guarded");
    let job = system.start_job(&["backup"]);
    wait_for("the guard", 30, || system.steps().reached("pause-guarded"));
    let agent = system.pid(Process::Agent);
    guards(agent).into_iter().for_each(|guard| signal(guard, "KILL"));
    wait_for("its end", 10, || guards(agent).is_empty().then_some(()));
    system.steps().let_go("pause-guarded");
    let told = fuzzy(&system, &system.await_end(&job));
    assert!(told.contains("guard of the pause has ended"), "{told}");
    assert_eq!((engine.asked("aa", "pause"), records(&system)), (paused, 0));
}

#[test]
fn a_pause_that_comes_after_agent_and_guard_have_died_is_undone_by_the_agents_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("node");
    node(&place);
    let engine = Engine::start(folder.path(), &[("aa", &[&place])]);
    let mut system = system(&engine, &[&place]);
    engine.does("aa", Does::Later(6_000));
    let job = system.start_job(&["backup"]);
    wait_for("the question", 30, || (engine.asked("aa", "pause") == 1).then_some(()));
    // Neither the agent nor its guard has heard anything.
    kill_with_its_guard(&mut system);
    engine.does("aa", Does::Pauses);
    system.start_agent();
    system.await_agent();
    wait_for("its first try", 5, || (engine.asked("aa", "unpause") > 0).then_some(()));
    assert!(!engine.is_paused("aa"), "the pause has not come yet");
    wait_for("the pause", 10, || (engine.asked("aa", LATE) == 1).then_some(()));
    wait_for("its end", 5, || (!engine.is_paused("aa")).then_some(()));
    let told = fuzzy(&system, &system.await_end(&job));
    assert!(told.contains("an earlier pause is not settled"), "{told}");
    // Which one, of which engine, and what to do if that never comes back.
    let socket = engine.socket.display().to_string();
    assert!(told.contains(&socket) && told.contains(&id("aa")[..12]), "{told}");
    assert!(told.contains("remove ") && told.contains("/paused-"), "{told}");
}

#[test]
fn a_pause_that_comes_after_its_answer_was_given_up_is_undone_by_the_agent_that_asked_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("node");
    node(&place);
    let engine = Engine::start(folder.path(), &[("aa", &[&place]), ("bb", &[&place])]);
    let mut system = system(&engine, &[&place]);
    engine.does("aa", Does::Later(4_000));
    let told = fuzzy(&system, &system.run(&["backup"]));
    assert!(told.contains("they do not pause"), "{told}");
    assert!(!engine.is_paused("aa") && engine.asked("aa", "unpause") > 0);
    // The other was not asked any more, and now somebody else pauses it.
    engine.is_paused_by_somebody("bb", true);
    wait_for("the pause", 10, || (engine.asked("aa", LATE) == 1).then_some(()));
    wait_for("its end", 5, || (!engine.is_paused("aa")).then_some(()));
    assert_eq!(records(&system), 1, "as long as it may come again");
    let before = engine.asked("aa", "unpause");
    wait_for("the guard's rounds", 10, || (engine.asked("aa", "unpause") > before + 4).then_some(()));
    assert!(engine.is_paused("bb") && engine.asked("bb", "unpause") == 0, "it is not the guard's");

    // Nor that of the agent's next start.
    kill_with_its_guard(&mut system);
    let before = engine.asked("aa", "unpause");
    system.start_agent();
    system.await_agent();
    wait_for("who may be paused", 10, || (engine.asked("aa", "unpause") > before).then_some(()));
    assert!(engine.is_paused("bb") && engine.asked("bb", "unpause") == 0 && records(&system) == 1);

    // Whoever has seen that they run removes the record, and containers are paused again.
    engine.is_paused_by_somebody("bb", false);
    engine.does("aa", Does::Pauses);
    let listed = fs::read_dir(system.root().join("agent")).expect("a folder").flatten();
    let record = listed.map(|one| one.path()).find(|path| path.to_string_lossy().contains("/paused-"));
    fs::remove_file(record.expect("a record")).expect("removed");
    system.run(&["backup"]);
    assert_eq!(manifest(&system, 0)["quiesce"]["by"], "container");
}

#[test]
fn two_sources_with_one_container_take_turns() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = [folder.path().join("one"), folder.path().join("two")];
    places.iter().for_each(|place| node(place));
    let engine = Engine::start(folder.path(), &[("aa", &[&places[0], &places[1]])]);
    engine.does("aa", Does::Slowly(700));
    let system = system(&engine, &[&places[0], &places[1]]);
    system.run(&["backup"]);
    for source in 0..2 {
        assert_eq!(manifest(&system, source)["quiesce"]["by"], "container", "source {source}");
    }
    let state = engine.state.lock().expect("whole");
    let asked: Vec<&str> = state.asked.iter().map(|(_, verb)| &verb[..]).collect();
    assert_eq!(asked, ["pause", "unpause", "pause", "unpause"]);
}
