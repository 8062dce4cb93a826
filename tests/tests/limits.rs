//! What an agent's own configuration says of its sources, on the built programs: limits are held, a window
//! that is closed is one, and hooks run whatever becomes of the work between them.
//!
//! With `NEURASHIELD_LIMITS=long` rates are measured for longer, and tell more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use tests::{Process, System, wait_for};

const MB: usize = 1_000_000;

fn is_long() -> bool {
    std::env::var_os("NEURASHIELD_LIMITS").is_some()
}

/// A folder with this many bytes that cannot be compressed.
fn data(bytes: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let content = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    fs::write(folder.path().join("content"), content.take(bytes).collect::<Vec<u8>>()).expect("written");
    folder
}

fn start(system: &mut System) {
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
}

fn seconds(job: &Value) -> f64 {
    let at = |key: &str| job[key].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time");
    at("ended_at").duration_since(at("created_at")).as_secs_f64()
}

/// A backup that was asked for and did not end well.
fn failing_backup(system: &System, components: &str) -> Value {
    let answer = system.nsctl(&["backup", "--components", components, "-o", "json"]);
    assert_ne!(answer.code, 0, "{}", answer.out);
    answer.json()
}

#[test]
fn limits_of_bandwidth_reading_and_processors_are_held_by_backup_and_restore() {
    // The lower bound only shows that a limit is no standstill: other work on this machine slows it down, too.
    let bytes = if is_long() { 20 * MB } else { 3 * MB };
    let (sent, read, polite) = (data(bytes), data(bytes), data(3 * MB));
    let mut system =
        System::prepare(&[("sent", sent.path()), ("read", read.path()), ("polite", polite.path())]);
    system.configure_source("sent", "limits: { upload: 2MB, download: 2MB }");
    system.configure_source("read", "limits: { read: 2MB }");
    system.configure_source("polite", "limits: { upload: 64KiB, nice: 15, threads: 1 }");
    start(&mut system);
    let held = |what: &str, took: f64| {
        let rate = bytes as f64 / took;
        eprintln!("{what}: {:.2} MB/s of 2 allowed, {took:.1} s", rate / MB as f64);
        assert!(rate < 1.2 * 2e6 && rate > 0.5 * 2e6, "{what}: {rate} bytes a second");
    };
    let job = system.run(&["backup", "--components", "sent"]);
    let first = job["backup"].as_str().expect("a name").to_owned();
    held("upload", seconds(&job));
    held("read", seconds(&system.run(&["backup", "--components", "read"])));

    let target = system.root().join("restored");
    let words = [
        "restore",
        "--timestamp",
        &first,
        "--components",
        "sent",
        "--to",
        target.to_str().expect("text"),
        "--yes",
    ];
    held("download", seconds(&system.run(&words)));
    let restored = fs::read_dir(&target).expect("listed").count();
    assert!(restored > 0, "nothing was restored");

    let job = system.start_job(&["backup", "--components", "polite"]);
    let nice = wait_for("a thread that stepped back", 20, || {
        let tasks = fs::read_dir(format!("/proc/{}/task", system.pid(Process::Agent))).expect("listed");
        let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        // Field 19, counted after the name in brackets, is the nice value.
        let nice = stats.filter_map(|stat| stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse::<i32>().ok());
        let nice: Vec<i32> = nice.collect();
        nice.contains(&15).then_some(nice)
    });
    assert!(nice.contains(&0), "the connection's threads stay as they are: {nice:?}");
    // Whoever waits at a rate ends with its task.
    let began = Instant::now();
    system.nsctl(&["cancel", &job]);
    assert_eq!(system.await_end(&job)["state"], "cancelled");
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn a_source_past_its_window_is_missing_from_the_backup_with_an_alert_and_the_others_are_there() {
    let (models, slow) = (data(1_000), data(40 * MB));
    let mut system = System::prepare(&[("models", models.path()), ("slow", slow.path())]);
    // In the long form the agent's clock stands right before the window's end: it closes while the source is
    // read. Otherwise it has closed.
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let to = (now / 60 + if is_long() { 2 } else { 0 }) * 60;
    let clock = |seconds: u64| format!("{:02}:{:02}", seconds / 3_600 % 24, seconds / 60 % 60);
    let window = format!("{{ from: \"{}\", to: \"{}\" }}", clock(to - 7_200), clock(to));
    system.configure_source("slow", &format!("limits: {{ upload: 1MB }}, window: {window}"));
    system.set_agent_ahead(is_long().then(|| to - 15 - now));
    start(&mut system);
    let job = system.nsctl(&["backup", "-o", "json"]).json();
    assert_eq!(job["state"], "incomplete", "{job:#}");
    let reason = |job: &Value, component: &str| {
        let mut parts = job["parts"].as_array().expect("a list").iter();
        let part = parts.find(|part| part["component"] == component).expect("it is named");
        (part["state"].clone(), part["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(reason(&job, "models").0, "complete", "{job:#}");
    let (state, why) = reason(&job, "slow");
    assert!(state == "failed" && why.contains("its window is"), "{why}");
    let closed = if is_long() { "it closed before everything was read" } else { "it is not open now" };
    assert!(why.contains(closed), "{why}");
    // From now on it is closed, whoever asks.
    let job = failing_backup(&system, "slow");
    let (_, why) = reason(&job, "slow");
    assert!(why.contains("it is not open now"), "{why}");
    let alerts = system.nsctl(&["alert", "list", "-o", "json"]).expect(0).json();
    let incomplete = alerts["alerts"].as_array().expect("a list").iter();
    let mut incomplete = incomplete.filter(|alert| alert["kind"] == "backup_incomplete");
    let why = incomplete.next().expect("it is told")["why"].as_str().expect("text").to_owned();
    assert!(why.contains("slow/slow") && why.contains("its window is"), "{why}");
}

/// A system with one source and hooks of its own, which write down what they are told.
struct Hooked {
    system: System,
    data: TempDir,
    notes: PathBuf,
}

impl Hooked {
    /// In `hooks`, NOTE stands for a command that writes a line with what it was told.
    fn start(bytes: usize, settings: &str) -> Self {
        let data = data(bytes);
        let mut system = System::prepare(&[("models", data.path())]);
        let (script, notes) = (system.root().join("note.sh"), system.root().join("notes"));
        let line = "echo \"$NEURASHIELD_HOOK $NEURASHIELD_RESULT $NEURASHIELD_SOURCE $NEURASHIELD_BACKUP \
                    $NEURASHIELD_JOB $NEURASHIELD_STARTED_AT\"";
        fs::write(&script, format!("{line} >> {}\n{line}\n", notes.display())).expect("written");
        system.configure_source(
            "models",
            &settings.replace("NOTE", &format!("command: [/bin/sh, {}]", script.display())),
        );
        start(&mut system);
        Self { system, data, notes }
    }

    /// The notes as words: hook, result where it has one, source, backup, job, time.
    fn notes(&self) -> Vec<Vec<String>> {
        let text = fs::read_to_string(&self.notes).unwrap_or_default();
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }

    fn logs(&self, job: &Value) -> String {
        self.system.nsctl(&["logs", job["id"].as_str().expect("an id")]).expect(0).out
    }
}

fn gone(pid: &Path) -> bool {
    let pid = fs::read_to_string(pid).expect("the hook has written its number");
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A dead one may wait to be reaped by whoever adopted it.
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z')))
}

#[test]
fn hooks_run_around_a_backup_and_a_restore_however_these_end_and_are_told_what_is_done() {
    let hooked = Hooked::start(
        1_000,
        "hooks: { before_backup: { NOTE, env: { PASSWORD: hunter2-canary } }, after_backup: { NOTE }, \
         failed_backup: { NOTE }, before_restore: { NOTE }, \
         after_restore: { shell: \"echo $NEURASHIELD_HOOK $NEURASHIELD_RESULT; echo oops >&2; exit 3\" } }",
    );
    let system = &hooked.system;
    let job = system.run(&["backup"]);
    let notes = hooked.notes();
    let (id, backup) = (job["id"].as_str().expect("an id"), job["backup"].as_str().expect("a name"));
    assert_eq!(notes[0][..4], ["before_backup", "models/models", backup, id], "{notes:?}");
    assert_eq!(notes[1][..5], ["after_backup", "complete", "models/models", backup, id], "{notes:?}");
    assert!(notes[1][5].parse::<jiff::Timestamp>().is_ok() && notes.len() == 2, "{notes:?}");
    let log = hooked.logs(&job);
    assert!(log.contains("models/models hook before_backup: before_backup"), "{log}");
    assert!(log.contains("hook after_backup has run"), "{log}");

    let restored = system.run(&["restore", "--timestamp", "latest", "--yes"]);
    // What is replaced is backed up first, with the hooks of a backup.
    let around: Vec<String> = hooked.notes()[2..].iter().map(|note| note[0].clone()).collect();
    assert_eq!(around, ["before_backup", "after_backup", "before_restore"]);
    let log = hooked.logs(&restored);
    assert!(log.contains("hook after_restore: after_restore complete"), "{log}");
    assert!(
        log.contains("hook after_restore: oops") && log.contains("hook after_restore ended with 3"),
        "{log}"
    );

    let folder = hooked.data.path().to_owned();
    let away = folder.with_extension("away");
    fs::rename(&folder, &away).expect("it goes");
    failing_backup(system, "models");
    fs::rename(&away, &folder).expect("it comes back");
    let ends: Vec<String> = hooked.notes()[5..].iter().map(|note| note[..2].join(" ")).collect();
    assert_eq!(ends, ["before_backup models/models", "failed_backup failed", "after_backup failed"]);

    let shown = std::process::Command::new(tests::programs().join("neurashield-agent"))
        .args(["config", "show", "--config"])
        .arg(system.root().join("agent.yaml"))
        .output()
        .expect("it runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("hooks.before_backup.env.PASSWORD: (redacted)"), "{shown}");
}

#[test]
fn a_hook_that_fails_hangs_or_floods_fails_its_component_is_killed_whole_and_is_cut_short() {
    let mut hooked = Hooked::start(
        1_000,
        "hooks: { before_backup: { shell: \"echo it says $PASSWORD; exit 7\", env: { PASSWORD: hunter2-canary } }, \
         after_backup: { NOTE } }",
    );
    let reason = |job: &Value| job["parts"][0]["reason"].as_str().expect("a reason").to_owned();
    let job = failing_backup(&hooked.system, "models");
    let why = reason(&job);
    assert!(why.contains("the hook before_backup of models/models ended with 7"), "{why}");
    assert!(why.contains("it says (redacted)"), "{why}");
    assert_eq!(hooked.notes()[0][..2], ["after_backup", "failed"], "it runs all the same");
    let told = [hooked.logs(&job), hooked.system.log(Process::Agent), hooked.system.log(Process::Controller)];
    for text in &told {
        assert!(!text.contains("hunter2-canary"), "{text}");
    }

    // It hangs, and so does what it has started and does not wait for.
    let pid = hooked.system.root().join("pid");
    let again = |hooked: &mut Hooked, hook: &str| {
        hooked.system.kill_agent();
        let file = hooked.system.root().join("agent.yaml");
        let text = fs::read_to_string(&file).expect("there");
        let line = text.lines().find(|line| line.contains("before_backup")).expect("the source").to_owned();
        let path = hooked.data.path().display();
        let new =
            format!("  - {{ component: models, kind: files, name: models, path: {path}, hooks: {hook} }}");
        fs::write(&file, text.replace(&line, &new)).expect("written");
        hooked.system.start_agent();
        hooked.system.await_agent();
    };
    let hang = format!("trap '' TERM; sleep 600 & echo $! > {}; wait; sleep 600", pid.display());
    again(&mut hooked, &format!("{{ before_backup: {{ shell: \"{hang}\", timeout: 500ms }} }}"));
    let began = Instant::now();
    let why = reason(&failing_backup(&hooked.system, "models"));
    assert!(why.contains("did not end within 500ms"), "{why}");
    wait_for("its end", 10, || gone(&pid).then_some(()));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());

    // Cancelled while it runs.
    fs::remove_file(&pid).expect("it was there");
    let wait = format!("sleep 600 & echo $! > {}; wait", pid.display());
    again(&mut hooked, &format!("{{ before_backup: {{ shell: \"{wait}\" }} }}"));
    let job = hooked.system.start_job(&["backup"]);
    wait_for("the hook", 20, || fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n')));
    hooked.system.nsctl(&["cancel", &job]);
    assert_eq!(hooked.system.await_end(&job)["state"], "cancelled");
    wait_for("its end", 10, || gone(&pid).then_some(()));

    let flood = "yes it goes on and on | head -c 3000000; echo; echo the end; exit 1";
    again(&mut hooked, &format!("{{ before_backup: {{ shell: \"{flood}\", on_failure: warn }} }}"));
    let log = hooked.logs(&hooked.system.run(&["backup"]));
    assert!(log.contains("hook before_backup: the end") && log.contains("ended with 1"), "{log}");
    assert!(log.contains("bytes before this are left out") && log.len() < 10_000, "{}", log.len());
}

#[test]
fn an_agent_killed_between_its_hooks_takes_a_running_one_along_and_runs_the_later_one_at_its_next_start() {
    let mut hooked = Hooked::start(
        20 * MB,
        "limits: { upload: 1MB }, hooks: { before_backup: { NOTE }, after_backup: { NOTE } }",
    );
    let job = hooked.system.start_job(&["backup"]);
    wait_for("the first hook", 20, || (hooked.notes().len() == 1).then_some(()));
    hooked.system.await_progress(&job, 1);
    hooked.system.kill_agent();
    assert_eq!(hooked.notes().len(), 1, "nothing has unlocked the source");
    let left = || fs::read_dir(hooked.system.root().join("agent/hooks")).expect("listed").count();
    assert_eq!(left(), 1);
    // The limit is the configuration's owner's to lift.
    let file = hooked.system.root().join("agent.yaml");
    let text = fs::read_to_string(&file).expect("there").replace("limits: { upload: 1MB }, ", "");
    let pid = hooked.system.root().join("pid");
    fs::write(&file, text).expect("written");
    hooked.system.start_agent();
    let ended = hooked.system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    let ends: Vec<String> = hooked.notes().iter().map(|note| note[..2].join(" ")).collect();
    let before = "before_backup models/models";
    assert_eq!(ends, [before, "after_backup interrupted", before, "after_backup complete"]);
    assert_eq!(fs::read_dir(hooked.system.root().join("agent/hooks")).expect("listed").count(), 0);

    // A hook that runs when its agent is killed goes with it.
    hooked.system.kill_agent();
    let text = fs::read_to_string(&file).expect("there");
    let at = text.find("hooks: {").expect("there");
    let wait = format!("sleep 600 & echo $! > {}; wait", pid.display());
    fs::write(&file, format!("{}hooks: {{ before_backup: {{ shell: \"{wait}\" }} }} }}\n", &text[..at]))
        .expect("written");
    hooked.system.start_agent();
    hooked.system.await_agent();
    let job = hooked.system.start_job(&["backup"]);
    wait_for("the hook", 20, || fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n')));
    hooked.system.kill_agent();
    wait_for("its end", 10, || gone(&pid).then_some(()));
    hooked.system.nsctl(&["cancel", &job]);
}
