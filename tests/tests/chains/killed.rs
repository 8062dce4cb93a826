//! The agent killed at each step of holding a chain that is being written: nobody stays paused, nothing stays linked, no
//! record stays, and the next backup is whole. `NEURASHIELD_ENGINES=long` takes every step, the gate two.

use std::fs;
use std::path::Path;

use tests::{Process, System, wait_for};

use crate::{Writer, consistency, is_long, left_in, restored, signal, started};

/// How the agent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    /// Its guard lives.
    Alone,
    /// Neither sees the other's end.
    WithItsGuard,
}

/// Steps of a hold without a pause, of one store.
const BRACKET: [&str; 2] = ["hold-begun", "hold-filled"];
/// Steps of a hold with a pause, of two stores that may depend on each other.
const PAUSE: [&str; 8] = [
    "hold-begun",
    "hold-linked",
    "pause-noted",
    "pause-guarded",
    "pause-begun",
    "pause-filled",
    "pause-told",
    "pause-ended",
];

/// The guards of pauses that this agent has started.
pub(crate) fn guards(agent: u32) -> Vec<u32> {
    let ids = fs::read_dir("/proc").expect("there").flatten();
    let ids = ids.filter_map(|one| one.file_name().to_str()?.parse::<u32>().ok());
    let is_guard = |id: &u32| {
        let words = fs::read(Path::new("/proc").join(id.to_string()).join("cmdline")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse().ok());
        words.windows(11).any(|word| word == b"guard-pause") && parent == Some(agent)
    };
    ids.filter(is_guard).collect()
}

pub(crate) fn records(system: &System) -> usize {
    let listed = fs::read_dir(system.root().join("agent")).expect("a folder").flatten();
    listed.filter(|one| one.file_name().to_string_lossy().starts_with("paused-")).count()
}

/// A backup that is held at `step`, with everybody there that is to be killed there. A guard waits for three seconds, a
/// pause for less, and a busy machine may need more: then it is tried again. The job's id.
fn held_at(system: &System, writers: &[Writer], step: &str) -> String {
    let are_paused = || {
        let all = || writers.iter().all(Writer::is_stopped);
        all() && guards(system.pid(Process::Agent)).len() == 1 && all()
    };
    for _ in 0..6 {
        system.steps().ask(step);
        let job = system.start_job(&["backup"]);
        let has_ended = || system.job(&job).is_some_and(|job| !job["ended_at"].is_null());
        let is_held = wait_for(&format!("{step} to be reached"), 60, || {
            system.steps().reached(step).map(|_| true).or_else(|| has_ended().then_some(false))
        });
        if is_held && (!["pause-begun", "pause-filled"].contains(&step) || are_paused()) {
            return job;
        }
        system.steps().let_go(step);
        system.await_end(&job);
    }
    panic!("{step} is not reached, or somebody goes on at it or has no guard");
}

/// One death at `step` of a backup of `node`, into which `writers` write.
fn killed_at(system: &mut System, node: &Path, writers: &[Writer], step: &str, dies: Dies) {
    let what = format!("{step}, {dies:?}");
    let job = held_at(system, writers, step);
    if dies == Dies::WithItsGuard {
        let agent = system.pid(Process::Agent);
        signal(agent, "STOP");
        guards(agent).into_iter().for_each(|guard| signal(guard, "KILL"));
    }
    system.kill_agent();
    system.steps().clear(step);
    if dies == Dies::Alone {
        wait_for(&format!("writers to go on: {what}"), 8, || {
            writers.iter().all(|writer| !writer.is_stopped()).then_some(())
        });
    }
    system.start_agent();
    system.await_agent();
    // The backup is asked for again at once, and pauses them for a moment.
    wait_for(&format!("writers to go on again: {what}"), 20, || {
        (writers.iter().all(|writer| !writer.is_stopped()) && records(system) == 0).then_some(())
    });
    assert_eq!(system.await_end(&job)["state"], "complete", "{what}");
    // The backup that the controller has asked for again is whole, and it too has left nothing.
    wait_for(&format!("the links to go: {what}"), 10, || left_in(node).is_empty().then_some(()));
    assert!(writers.iter().all(|writer| !writer.is_stopped()), "{what}");
    assert_eq!(records(system), 0, "{what}");
}

#[test]
fn an_agent_that_dies_at_any_step_of_a_pause_leaves_nobody_paused_and_nothing_linked() {
    let folder = tempfile::tempdir().expect("a folder");
    let (node, scratch) = (folder.path().join("node"), folder.path().join("restored"));
    fs::create_dir_all(node.join("data")).expect("made");
    let writers = ["a.db", "b.db"].map(|name| Writer::start("leveldb", &node.join("data").join(name)));
    let mut system = started(System::prepare_held(&[]), &node, ", quiesce: [pause]");
    let deaths = PAUSE.into_iter().flat_map(|step| {
        let is_guarded = step.starts_with("pause-") && step != "pause-noted" && step != "pause-ended";
        let both = is_guarded.then_some((step, Dies::WithItsGuard));
        [(step, Dies::Alone)].into_iter().chain(both)
    });
    let in_the_gate = [("pause-begun", Dies::WithItsGuard), ("pause-filled", Dies::Alone)];
    for (step, dies) in deaths.filter(|death| is_long() || in_the_gate.contains(death)) {
        killed_at(&mut system, &node, &writers, step, dies);
    }
    // On a busy machine a pause may take too long to count.
    (0..5).find(|_| consistency(&system) == "quiesced" || system.run(&["backup"]).is_null());
    assert_eq!(consistency(&system), "quiesced");
    let there = restored(&system, &scratch);
    for (writer, name) in writers.iter().zip(["a.db", "b.db"]) {
        writer.check(&there.join("data").join(name)).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn an_agent_that_dies_at_any_step_of_a_bracket_leaves_nothing_linked() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, scratch) = (folder.path().join("store"), folder.path().join("restored"));
    let writers = [Writer::start("leveldb", &store)];
    let mut system = started(System::prepare_held(&[]), &store, ", quiesce: [bracket]");
    let steps = if is_long() { &BRACKET[..] } else { &BRACKET[1..] };
    for step in steps {
        killed_at(&mut system, &store, &writers, step, Dies::Alone);
    }
    assert_eq!(consistency(&system), "bracketed");
    writers[0].check(&restored(&system, &scratch)).expect("it opens");
}
