//! What happens by itself, on the built programs: their clocks are put forward to the night, and a controller
//! that was killed over a planned time makes up for it once.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tests::{System, wait_for};

const DAY: u64 = 86_400;
const HOUR: u64 = 3_600;

/// A system whose programs can be told what time it is.
struct Story {
    system: System,
    _source: TempDir,
    /// The first midnight (UTC) after now, in seconds since 1970.
    midnight: u64,
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

impl Story {
    fn prepare() -> Self {
        Self::prepare_by(System::prepare)
    }

    fn prepare_by(prepare: impl FnOnce(&[(&str, &Path)]) -> System) -> Self {
        let source = tempfile::tempdir().expect("a folder");
        fs::write(source.path().join("weights"), vec![7; 1 << 16]).expect("written");
        let system = prepare(&[("models", source.path())]);
        system.keep_usual_schedules();
        Self { system, _source: source, midnight: now() / DAY * DAY + DAY }
    }

    /// The programs are killed, and live again at this time: seconds after the story's midnight.
    fn live_at(&mut self, time: u64) {
        self.system.kill_agent();
        self.system.kill_controller();
        let ahead = Some(self.midnight + time - now());
        self.system.set_controller_ahead(ahead);
        self.system.set_agent_ahead(ahead);
        self.system.start_controller();
        if !self.system.root().join("token").exists() {
            self.system.invite();
        }
        self.system.start_agent();
        self.system.await_agent();
    }

    fn schedule(&self, name: &str) -> Value {
        let list = self.system.nsctl(&["schedule", "list", "-o", "json"]).expect(0).json();
        let all = list["schedules"].as_array().expect("a list");
        all.iter().find(|schedule| schedule["name"] == name).unwrap_or_else(|| panic!("{list:#}")).clone()
    }

    /// The schedule's newest run, once `wanted` is true of it.
    fn await_run(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("a run of {name}"), 60, || {
            Some(self.schedule(name)["last"].clone()).filter(|last| !last.is_null() && wanted(last))
        })
    }

    /// The jobs that this schedule has ordered, by kind.
    fn jobs_of(&self, name: &str) -> Vec<String> {
        let jobs = self.system.nsctl(&["jobs", "-o", "json"]).expect(0).json();
        let jobs = jobs["jobs"].as_array().expect("a list").iter().filter(|job| job["schedule"] == name);
        jobs.map(|job| job["kind"].as_str().expect("text").to_owned()).collect()
    }

    /// A planned time as JSON has it.
    fn at(&self, time: u64) -> String {
        let seconds = i64::try_from(self.midnight + time).expect("in this age");
        jiff::Timestamp::from_second(seconds).expect("in this age").to_string()
    }
}

fn is_complete(last: &Value) -> bool {
    last["job_state"] == "complete"
}

#[test]
fn a_night_backs_up_verifies_and_clears_by_itself_and_a_kill_over_a_planned_time_is_made_up_for_once() {
    let mut story = Story::prepare();
    // The first start makes up for nothing.
    story.live_at(HOUR - 6);
    let daily = story.schedule("daily");
    assert_eq!((&daily["last"], &daily["managed"]), (&Value::Null, &false.into()), "{daily:#}");
    assert_eq!(daily["next_planned_at"], story.at(HOUR), "{daily:#}");
    let table = story.system.nsctl(&["schedule", "list"]).expect(0).out;
    assert!(table.contains("NEXT (UTC)") && table.contains("01:00:00+00:00"), "{table}");
    let made = story.await_run("daily", is_complete);
    assert_eq!(made["planned_at"], story.at(HOUR), "{made:#}");

    story.live_at(5 * HOUR - 3);
    let checked = story.await_run("check", |last| last["retention_state"] == "complete");
    assert_eq!(
        (&checked["planned_at"], is_complete(&checked)),
        (&story.at(5 * HOUR).into(), true),
        "{checked:#}"
    );
    assert_eq!(story.jobs_of("check"), ["retention", "verify"]);
    assert_eq!(story.jobs_of("daily"), ["backup"]);

    // Killed before 01:00, back at half past two: once, however often it starts again.
    for _ in 0..2 {
        story.live_at(DAY + 2 * HOUR + HOUR / 2);
        let made_up =
            story.await_run("daily", |last| last["planned_at"] == story.at(DAY + HOUR) && is_complete(last));
        assert_eq!(made_up["state"], "started", "{made_up:#}");
        assert_eq!(story.jobs_of("daily"), ["backup", "backup"]);
    }

    // Back too late: told, and not run.
    story.live_at(2 * DAY + 20 * HOUR);
    for (name, hour) in [("daily", HOUR), ("check", 5 * HOUR)] {
        let missed = story.await_run(name, |last| last["state"] == "missed");
        assert_eq!(missed["planned_at"], story.at(2 * DAY + hour), "{missed:#}");
    }
    assert_eq!(story.schedule("check")["last"]["missed"], 2);
    assert_eq!(story.jobs_of("daily").len(), 2);

    // Paused over a night; by hand it runs all the same.
    story.system.nsctl(&["schedule", "pause", "daily"]).expect(0);
    story.live_at(3 * DAY + 2 * HOUR);
    let paused = story.schedule("daily");
    assert!(!paused["paused_at"].is_null() && paused["next_due_at"].is_null(), "{paused:#}");
    story.system.run(&["schedule", "run", "daily"]);
    story.system.nsctl(&["schedule", "resume", "daily"]).expect(0);
    let resumed = story.schedule("daily");
    assert_eq!(resumed["next_planned_at"], story.at(4 * DAY + HOUR), "{resumed:#}");
    assert!(resumed["last"]["planned_at"].is_null() && is_complete(&resumed["last"]), "{resumed:#}");
    assert_eq!(story.jobs_of("daily").len(), 3, "nothing was made up for");

    // An edit runs nothing, though its time is just over.
    let set = ["schedule", "set", "daily", "--backup", "55 1 * * *", "--catch-up", "12h", "-o", "json"];
    let set = story.system.nsctl(&set).expect(0).json();
    assert_eq!(set["next_planned_at"], story.at(4 * DAY + HOUR + 55 * 60), "{set:#}");
    assert_eq!(story.jobs_of("daily").len(), 3);
}

#[test]
fn a_controller_that_is_killed_right_after_a_run_was_ordered_does_that_one_run_and_no_other() {
    let mut story = Story::prepare_by(System::prepare_held);
    let steps = story.system.steps().clone();
    story.live_at(HOUR - 5);
    steps.ask("job-ordered");
    wait_for("the backup of the night to be ordered", 60, || steps.reached("job-ordered"));
    story.system.kill_controller();
    assert!(!steps.is_passed("job-ordered"), "the kill came too late");
    steps.clear("job-ordered");
    story.live_at(HOUR + 60);
    let made = story.await_run("daily", is_complete);
    assert_eq!(made["planned_at"], story.at(HOUR), "{made:#}");
    assert_eq!(story.jobs_of("daily"), ["backup"]);
}

#[test]
fn what_the_configuration_declares_is_managed_and_what_is_wrong_is_refused() {
    let mut story = Story::prepare();
    story.system.set_variable("NEURASHIELD_BACKUP_SCHEDULE", "30 2 * * *");
    story.system.set_variable("NEURASHIELD_TIME_ZONE", "Europe/Berlin");
    story.live_at(12 * HOUR);
    let daily = story.schedule("daily");
    assert_eq!(
        (&daily["managed"], &daily["time_zone"]),
        (&true.into(), &"Europe/Berlin".into()),
        "{daily:#}"
    );
    let nsctl = |words: &[&str], code| story.system.nsctl(words).expect(code);
    for edit in [&["schedule", "set", "daily", "--backup", "0 3 * * *"][..], &["schedule", "remove", "daily"]]
    {
        let refused = nsctl(edit, 1);
        assert!(refused.err.contains("configuration declares"), "{}", refused.err);
    }
    assert_eq!(story.schedule("daily")["cron"], "30 2 * * *");
    for wrong in ["0 1 30 2 *", "0 25 * * *", "0 1 * *"] {
        nsctl(&["schedule", "set", "mine", "--backup", wrong], 2);
    }
    nsctl(&["schedule", "set", "mine", "--verify", "0 1 * * *", "--time-zone", "Mars/Base"], 2);
    nsctl(&["schedule", "set", "mine", "--verify", "0 7 * * sun", "--depth", "hashed", "--no-retention"], 0);
    let mine = story.schedule("mine");
    assert_eq!((&mine["depth"], &mine["retention"]), (&"hashed".into(), &false.into()), "{mine:#}");
    // The program's own can be changed, and is what it was after that.
    nsctl(&["schedule", "set", "check", "--verify", "0 7 * * *"], 0);
    nsctl(&["schedule", "remove", "check"], 0);
    assert_eq!(story.schedule("check")["cron"], "0 5 * * *");
    nsctl(&["schedule", "remove", "mine"], 0);
    nsctl(&["schedule", "run", "mine"], 1);
    let audit = story.system.nsctl(&["audit", "-o", "json"]).expect(0).json().to_string();
    assert!(audit.contains("Schedules/SetSchedule") && audit.contains("Schedules/RemoveSchedule"), "{audit}");
}
