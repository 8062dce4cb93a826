//! Restores that something goes wrong in, by seeds: the agent or the controller is killed, or a step fails, at a
//! place that chance chooses. Whatever it was: the data is the old state or the new one, what ran runs and
//! answers with that state, what the source excludes stays, nothing is left stopped, and the undo brings the state
//! before back byte for byte.
//!
//! The gate takes one seed; `tests/run restore` sets `NEURASHIELD_RESTORE_SEEDS` to 200 of them, and
//! `NEURASHIELD_FIRST_SEED` begins elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tests::{Application, System, differences_between_folders, wait_for};

/// After so many seeds a scene has enough history.
const PER_SCENE: u64 = 20;
/// Scenes at once: they wait more than they work.
const AT_ONCE: usize = 2;

/// Steps of the agent at which it is killed, or the controller is, or the step fails.
const AGENT_STEPS: [&str; 17] = [
    "place-on-record",
    "staging-begun",
    "first-staged",
    "all-staged",
    "staged-durable",
    "swap-begun",
    "first-old-away",
    "first-swapped",
    "middle-swapped",
    "last-swapped",
    "root-set",
    "swap-durable",
    "swap-done",
    "older-reaped",
    "staging-tidied",
    "off-record",
    "result-due",
];
/// Commands of the application at which the same happens.
const COMMANDS: [&str; 3] = ["stop", "start", "healthy"];

/// A sequence of numbers that a seed begins (xorshift64*).
struct Chance(u64);

impl Chance {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).expect("31 bits") % limit
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    AgentKilled,
    ControllerKilled,
    Fails,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Step(&'static str),
    Command(&'static str),
}

#[derive(Debug)]
struct Plan {
    place: Place,
    fault: Fault,
    /// What is restored does not come up.
    is_bad: bool,
    without_safety: bool,
}

impl Plan {
    fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed);
        let place = match chance.below(AGENT_STEPS.len() + 2 * COMMANDS.len()) {
            at if at < AGENT_STEPS.len() => Place::Step(AGENT_STEPS[at]),
            at => Place::Command(COMMANDS[(at - AGENT_STEPS.len()) % COMMANDS.len()]),
        };
        let fault =
            match ([Fault::AgentKilled, Fault::ControllerKilled, Fault::Fails][chance.below(3)], place) {
                // Nothing is tried at these that could fail.
                (Fault::Fails, Place::Step("off-record" | "result-due")) => Fault::AgentKilled,
                (fault, _) => fault,
            };
        Self { place, fault, is_bad: chance.below(4) == 0, without_safety: chance.below(4) == 0 }
    }
}

struct Scene {
    system: System,
    app: Application,
    data: PathBuf,
}

impl Scene {
    fn set() -> Self {
        let mut system = System::prepare_held(&[]);
        let data = system.root().join("data");
        for folder in ["a/deep", "b", "c"] {
            fs::create_dir_all(data.join(folder)).expect("made");
        }
        fs::write(data.join("value"), "none").expect("written");
        // What the source excludes is in no backup, and stays as it is through all of it.
        for name in ["a/deep/excluded.tmp", "top.tmp"] {
            fs::write(data.join(name), "only here").expect("written");
        }
        let app = Application::new(&data, &system.root().join("run"));
        system.serve(&[("models", &data)]);
        system.configure_source("models", "exclude: [\"*.tmp\"]");
        system.configure_agent(&app.settings("models"));
        app.start();
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        Self { system, app, data }
    }

    fn write(&self, value: &str) {
        self.app.set(value);
        for name in ["a/deep/file", "b/file", "top", value] {
            fs::write(self.data.join(name), value).expect("written");
        }
        fs::set_permissions(self.data.join("b"), fs::Permissions::from_mode(0o750)).expect("set");
    }

    fn keep(&self, name: &str) -> PathBuf {
        let to = self.system.root().join(name);
        // Of an earlier seed, if at all.
        let _ = fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").args([&self.data, &to]).status().expect("cp runs");
        assert!(copied.success());
        for entry in fs::read_dir(&to).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".neurashield-")) {
                fs::remove_dir_all(path).expect("removed");
            }
        }
        to
    }

    /// What is there against what was kept: the time of the folder itself aside, which changes when a staging
    /// folder comes and a crash lets it go later.
    fn differs(&self, kept: &Path) -> Option<String> {
        let touched = Command::new("touch").arg("-r").arg(&self.data).arg(kept).status().expect("touch runs");
        assert!(touched.success());
        differences_between_folders(&self.data, kept, &[])
    }

    /// One restore with its fault, and what has to hold after it.
    fn run(&mut self, seed: u64, plan: &Plan) {
        let (new, old) = (format!("{}{seed}", if plan.is_bad { "bad" } else { "new" }), format!("old{seed}"));
        self.write(&new);
        let backup = self.system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
        let kept_new = self.keep("kept-new");
        fs::remove_file(self.data.join(&new)).expect("removed");
        self.write(&old);
        let kept_old = self.keep("kept-old");

        self.prepare(plan);
        let mut words = vec!["restore", "--timestamp", &backup, "--yes"];
        words.extend(plan.without_safety.then_some("--no-safety-backup"));
        let id = self.system.start_job(&words);
        self.disturb(plan, &id);
        let job = self.system.await_end(&id);
        wait_for("what ran to run again", 60, || self.app.runs().then_some(()));

        let value = self.app.value();
        let is_new = value == new;
        assert!(is_new || value == old, "{value} is neither {new} nor {old}");
        let kept = if is_new { &kept_new } else { &kept_old };
        assert_eq!(self.differs(kept), None, "{job:#}");
        assert_eq!(is_new, job["state"] == "complete", "what is told is what is: {job:#}");
        assert!(!(is_new && plan.is_bad), "what does not come up does not stay");
        // What could not be started again was tried again by the agent; once it runs it is nobody's business.
        let runs = self.system.root().join("agent/runs");
        wait_for("the record to go", 60, || {
            fs::read_dir(&runs).expect("listed").next().is_none().then_some(())
        });
        if is_new && !plan.without_safety {
            let undone = self.system.run(&["undo", &id, "--yes", "--no-safety-backup"]);
            assert_eq!(self.app.value(), old);
            assert_eq!(self.differs(&kept_old), None, "{undone:#}");
        }
        // The next seed begins with a folder of its own names.
        for name in [&new, &old] {
            let _ = fs::remove_file(self.data.join(name));
        }
    }

    fn prepare(&self, plan: &Plan) {
        match (plan.place, plan.fault) {
            (Place::Step(step), Fault::Fails) => self.system.steps().ask_to_fail(step),
            (Place::Step(step), _) => self.system.steps().ask(step),
            (Place::Command(command), Fault::Fails) => self.app.fail(command, true),
            (Place::Command(command), _) => self.app.hold(command),
        }
    }

    /// Waits for the place, if the restore comes by it, and does what is to be done there.
    fn disturb(&mut self, plan: &Plan, id: &str) {
        let reached = match (plan.place, plan.fault) {
            (_, Fault::Fails) => true,
            (Place::Step(step), _) => {
                self.await_place(id, |scene| scene.system.steps().reached(step).is_some())
            }
            (Place::Command(command), _) => self.await_place(id, |scene| scene.app.is_held(command)),
        };
        if reached {
            match plan.fault {
                Fault::AgentKilled => {
                    self.system.kill_agent();
                    self.let_go(plan);
                    self.system.start_agent();
                }
                Fault::ControllerKilled => {
                    self.system.kill_controller();
                    self.system.start_controller();
                    self.let_go(plan);
                }
                Fault::Fails => {
                    self.system.await_end(id);
                }
            }
        }
        self.let_go(plan);
        if let (Place::Command(command), Fault::Fails) = (plan.place, plan.fault) {
            self.app.fail(command, false);
        }
        self.system.await_agent();
    }

    fn let_go(&self, plan: &Plan) {
        match (plan.place, plan.fault) {
            // Nobody is held at a step that fails.
            (Place::Step(step), Fault::Fails) => self.system.steps().clear(step),
            (Place::Step(step), _) => self.system.steps().give_up(step),
            (Place::Command(command), _) => self.app.let_go(command),
        }
    }

    /// False if the restore ends without coming by.
    fn await_place(&self, id: &str, is_there: impl Fn(&Self) -> bool) -> bool {
        wait_for("the place of the fault", 90, || {
            let has_ended = |job: Value| !job["ended_at"].is_null();
            match is_there(self) {
                true => Some(true),
                false => self.system.job(id).is_some_and(has_ended).then(|| is_there(self)),
            }
        })
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_goes_wrong_in_a_restore_the_data_is_old_or_new_and_what_ran_runs() {
    let (first, count) = (number("NEURASHIELD_FIRST_SEED", 5), number("NEURASHIELD_RESTORE_SEEDS", 1));
    let next = AtomicU64::new(first);
    let lane = || {
        let mut stage: Option<(Scene, u64)> = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            let plan = Plan::of(seed);
            eprintln!("seed {seed}: {plan:?}");
            let (mut scene, used) = stage.take().unwrap_or_else(|| (Scene::set(), 0));
            scene.run(seed, &plan);
            stage = (used + 1 < PER_SCENE).then_some((scene, used + 1));
        }
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().for_each(|lane| lane.join().expect("every seed holds"));
    });
}
