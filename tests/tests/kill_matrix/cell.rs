//! One cell of the matrix: a step, a fault while a process is held inside of it, and the same once more.

use serde_json::Value;
use tests::{NamedStep, Process, Steps, wait_for};

use crate::scene::{Order, Scene, spawn};
use crate::table::{Answered, Fault, Scenario};

/// Holds the next attempt of a restore, so that the target can be looked at before it begins.
const BRAKE: &str = "task-taken";
/// A job leaves the queue: a restore's plan is over.
const STARTED: &str = "started-written";

/// Seconds after which a certificate has to be renewed, and that it outlives.
const TO_RENEWAL: u64 = 61 * 86_400;

/// What is tried.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) step: NamedStep,
    pub(crate) scenario: Scenario,
    pub(crate) answered: Answered,
    pub(crate) fault: Fault,
}

/// Where the fault landed the second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// In what the system did by itself after the first time.
    Retry,
    /// The first run did not come to the step again: in the next one.
    NextRun,
}

impl Cell {
    /// Tries it, and gives the scene back for the next one. Panics with what is wrong.
    pub(crate) fn run(&self, mut scene: Scene) -> (Scene, Second) {
        let step = self.step.name.as_str();
        if self.scenario == Scenario::Renewal {
            // An agent may renew only a few times in ten minutes: not what other cells have left of it.
            scene = Scene::set(false);
        }
        let mut order = self.begin(&mut scene);
        self.await_step(&scene, &mut order);
        self.strike(&mut scene, &mut order, true);
        let second = match self.go_on(&mut scene, &mut order, true) {
            None => Second::Retry,
            Some(ended) => {
                self.assert_end(&mut scene, &ended);
                order = self.begin(&mut scene);
                self.await_step(&scene, &mut order);
                Second::NextRun
            }
        };
        self.strike(&mut scene, &mut order, false);
        let ended = self.go_on(&mut scene, &mut order, false).expect("the step is not asked for any more");
        self.assert_end(&mut scene, &ended);
        drop(order);
        for held in [step, BRAKE] {
            scene.system.steps().give_up(held);
        }
        if self.scenario == Scenario::Renewal {
            scene.system.kill_agent();
            scene.system.set_agent_ahead(None);
        }
        if scene.system.process(Process::Agent).is_none() {
            scene.system.start_agent();
        }
        scene.assert_sound();
        (scene, second)
    }

    /// Sets things up so that the step is reached next, and asks for it.
    fn begin(&self, scene: &mut Scene) -> Order {
        let steps = scene.system.steps().clone();
        let step = self.step.name.as_str();
        for other in [step, BRAKE, STARTED, "archive-made", "first-swapped", "task-started-written"] {
            steps.give_up(other);
        }
        // One job: the safety backup is another, of which `tests/restores.rs` takes care.
        const RESTORE: &[&str] =
            &["restore", "--timestamp", "latest", "--components", "models", "--no-safety-backup", "--yes"];
        match self.scenario {
            Scenario::Backup => scene.change(),
            Scenario::Verify => scene.back_up(),
            Scenario::Retain => scene.outgrow(),
            Scenario::Clear => {
                scene.outgrow();
                scene.retain();
            }
            Scenario::Plan => scene.back_up_and_spoil(),
            Scenario::Restore => {
                scene.back_up_and_spoil();
                // The plan comes to some of the steps too: asked for when it is over.
                steps.ask(STARTED);
                let order = Order::give(scene, RESTORE);
                self.await_named(scene, STARTED);
                steps.ask(step);
                steps.let_go(STARTED);
                return order;
            }
            Scenario::Undo => {
                scene.back_up_and_spoil();
                steps.ask_to_fail("middle-swapped");
            }
            Scenario::Recovery => {
                scene.back_up_and_spoil();
                steps.ask("first-swapped");
                let order = Order::give(scene, RESTORE);
                self.await_named(scene, "first-swapped");
                scene.system.kill_agent();
                steps.ask(step);
                scene.system.start_agent();
                return order;
            }
            Scenario::TakenUp => {
                scene.change();
                steps.ask("task-started-written");
                let mut order = Order::give(scene, &["backup"]);
                order.await_answer(&scene.system);
                self.await_named(scene, "task-started-written");
                scene.system.kill_controller();
                steps.ask(step);
                scene.system.start_controller();
                return order;
            }
            Scenario::Cancel => {
                scene.change();
                steps.ask("archive-made");
                let mut order = Order::give(scene, &["backup"]);
                let job = order.await_answer(&scene.system);
                self.await_named(scene, "archive-made");
                steps.ask(step);
                order.aside = Some(spawn(&scene.system, &["cancel", &job]));
                return order;
            }
            Scenario::CannotStart => {
                scene.back_up();
                steps.ask(step);
                return Order::give(scene, &["verify", "--components", "ipfs"]);
            }
            Scenario::NobodyServes => scene.system.kill_agent(),
            Scenario::Remark => scene.lose_everything(),
            Scenario::CommitFailed => {
                scene.change();
                steps.ask_to_fail("commit-resolved");
            }
            Scenario::Panicked => {
                scene.change();
                steps.ask_to_fail("task-handed-out");
            }
            Scenario::Hello | Scenario::Renewal => {
                scene.change();
                scene.system.kill_agent();
                scene.system.set_agent_ahead((self.scenario == Scenario::Renewal).then_some(TO_RENEWAL));
                steps.ask(step);
                scene.system.start_agent();
                return Order::give(scene, &["backup"]);
            }
            Scenario::Workloads | Scenario::Chain => unreachable!("no fault of this matrix fits it"),
            Scenario::Join => {
                *scene = Scene::set(true);
                scene.system.steps().ask(step);
                scene.system.start_agent();
                return self.await_joining(scene);
            }
        }
        steps.ask(step);
        match self.scenario {
            Scenario::Verify => Order::give(scene, &["verify"]),
            Scenario::Retain => Order::give(scene, &["retention", "apply", "--yes", "--approve"]),
            Scenario::Clear => Order::give(scene, &["prune", "--now", "--yes", "--approve"]),
            Scenario::Plan | Scenario::Undo => Order::give(scene, RESTORE),
            _ => Order::give(scene, &["backup"]),
        }
    }

    /// Nothing can be ordered of an agent that has not joined: it is there when the step is reached.
    fn await_joining(&self, scene: &mut Scene) -> Order {
        self.await_named(scene, &self.step.name);
        Order::later(&["backup"])
    }

    fn await_named(&self, scene: &Scene, step: &str) {
        wait_for(&format!("{step} to be reached"), 60, || scene.system.steps().reached(step));
    }

    fn await_step(&self, scene: &Scene, order: &mut Order) {
        let patience = if self.scenario == Scenario::NobodyServes { 120 } else { 60 };
        wait_for(&format!("{} to be reached", self.step.name), patience, || {
            order.look(&scene.system);
            scene.system.steps().reached(&self.step.name)
        });
    }

    /// The fault, while a process is held inside of the step; then the system is left to itself.
    fn strike(&self, scene: &mut Scene, order: &mut Order, again: bool) {
        let steps = scene.system.steps().clone();
        let name = self.step.name.as_str();
        let held_by = if self.step.program == "agent" { Process::Agent } else { Process::Controller };
        let held = steps.reached(name);
        assert_eq!(held, scene.system.process(held_by), "the {} that runs is held", self.step.program);
        // Seen after the fault: it came before the end of the step.
        let landed = || assert!(!steps.is_passed(name), "{}: the fault came after {name}", self.fault);
        match self.fault {
            Fault::AgentKilled => scene.system.kill_agent(),
            Fault::ControllerKilled => scene.system.kill_controller(),
            Fault::StreamCut => scene.system.network().cut(),
            Fault::AnswerLost if self.answered == Answered::Person => order.hang_up(&scene.system),
            Fault::AnswerLost => scene.system.network().dark(),
        }
        landed();
        if scene.system.process(held_by).is_some() {
            steps.let_go(name);
            wait_for("the step to end", 30, || steps.is_over(name).then_some(()));
        }
        if again {
            steps.ask(name);
        } else {
            steps.clear(name);
        }
        if self.scenario.restores() && name != BRAKE {
            // The order that was given again may be held there since the first time.
            steps.give_up(BRAKE);
            steps.ask(BRAKE);
        }
        if self.scenario == Scenario::Cancel {
            steps.let_go("archive-made");
        }
        match self.fault {
            Fault::AgentKilled => scene.system.start_agent(),
            Fault::ControllerKilled => scene.system.start_controller(),
            Fault::StreamCut => {}
            Fault::AnswerLost => scene.system.network().light(),
        }
    }

    /// Until the step is reached again (`None`), or the job has ended.
    fn go_on(&self, scene: &mut Scene, order: &mut Order, again: bool) -> Option<Value> {
        let steps: Steps = scene.system.steps().clone();
        let name = self.step.name.as_str();
        let mut looks_since = 0;
        wait_for("the step again, or the job's end", 200, || {
            order.give_late(scene);
            let ended = order.ended(&scene.system);
            if again && steps.reached(name).is_some() {
                if name == BRAKE {
                    scene.assert_old_or_new();
                }
                return Some(None);
            }
            if self.scenario.restores() && name != BRAKE && steps.reached(BRAKE).is_some() {
                scene.assert_old_or_new();
                steps.let_go(BRAKE);
                wait_for("the brake to be off", 30, || steps.is_over(BRAKE).then_some(()));
                steps.clear(BRAKE);
            }
            // An end may be the step itself, written down just before it is reached.
            looks_since += u32::from(ended.is_some());
            ended.filter(|_| looks_since > 5).map(Some)
        })
    }

    fn assert_end(&self, scene: &mut Scene, job: &Value) {
        let state = job["state"].as_str().expect("a state");
        assert!(self.scenario.ends().contains(&state), "{job:#}");
        if state == "failed" {
            assert!(job["failure"]["why"].as_str().is_some_and(|why| !why.is_empty()), "{job:#}");
        }
        scene.acknowledge(job);
        if self.scenario.restores() {
            scene.assert_restored(state == "complete");
        }
    }
}
