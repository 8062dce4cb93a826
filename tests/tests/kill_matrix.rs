//! The kill matrix: named steps × faults, on the built programs.
//!
//! For each cell a process is held inside of the step, the fault comes, and it is shown that the step had
//! not ended; then the system is left to itself (who was killed is started again, as a service manager
//! would), and the same fault comes at the same step once more. At the end everything that was ever
//! reported complete opens, the target of a restore is the new state or the old one, nothing half-done is
//! left, and the next backup needs no hand.
//!
//! The gate runs a sample; `tests/run kill` sets `KILL_MATRIX` to run all of it. Set to the name of a
//! step, or to `step:fault` (e.g. `swap-begun:agent killed`), it runs that alone.

#[path = "kill_matrix/cell.rs"]
mod cell;
#[path = "kill_matrix/scene.rs"]
mod scene;
#[path = "kill_matrix/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tests::NamedStep;

use cell::{Cell, Second};
use scene::{Scene, say};
use table::{Fault, ROWS, SAMPLE, Scenario, why_not};

/// Cells that go on at once: they wait more than they work.
const AT_ONCE: usize = 3;
/// After so many cells a scene has enough history.
const CELLS_PER_SCENE: usize = 20;

/// Every step of both programs, as they name them themselves.
fn steps() -> Vec<NamedStep> {
    let scene = Scene::set(false);
    ["controller", "agent"].iter().flat_map(|program| scene.system.steps().table(program)).collect()
}

#[test]
fn every_step_survives_every_fault_twice() {
    let steps = steps();
    let known: BTreeSet<&str> = ROWS.iter().map(|row| row.0).collect();
    let named: BTreeSet<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(known, named, "the matrix has every step of the programs, and no other");

    let wanted = std::env::var("KILL_MATRIX").unwrap_or_default();
    let all = cells(&steps);
    let is_wanted = |cell: &Cell| match wanted.as_str() {
        "" => SAMPLE.contains(&(cell.step.name.as_str(), cell.fault)),
        "all" => true,
        one => cell.step.name == one || format!("{}:{}", cell.step.name, cell.fault) == one,
    };
    let chosen: Vec<Cell> = all.iter().filter(|cell| is_wanted(cell)).cloned().collect();
    assert!(!chosen.is_empty(), "there is no cell {wanted}");
    assert!(!wanted.is_empty() || chosen.len() == SAMPLE.len(), "every cell of the sample is there");
    let count = chosen.len();
    let began = Instant::now();
    let outcomes = run(chosen);
    let red: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    say(&print(&steps, &all, &outcomes));
    for ((step, fault), outcome) in &red {
        say(&format!("RED {step} × {fault}: {}", outcome.as_ref().err().map_or("", |why| why)));
    }
    let seconds = began.elapsed().as_secs();
    say(&format!("{} of {count} cells green, of {} in all, in {seconds} s", count - red.len(), all.len()));
    assert!(red.is_empty(), "{} cells are red", red.len());
    assert!(wanted != "all" || outcomes.len() == all.len(), "the matrix is complete");
}

/// Every step with every fault that fits it; those first that take long.
fn cells(steps: &[NamedStep]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for step in steps {
        let Some((_, scenario, answered)) = ROWS.iter().find(|row| row.0 == step.name).copied() else {
            continue;
        };
        for fault in Fault::ALL.into_iter().filter(|fault| why_not(scenario, answered, *fault).is_none()) {
            cells.push(Cell { step: step.clone(), scenario, answered, fault });
        }
    }
    cells.sort_by_key(|cell| cell.scenario != Scenario::NobodyServes);
    cells
}

type Outcomes = BTreeMap<(String, String), Result<Second, String>>;

fn run(cells: Vec<Cell>) -> Outcomes {
    let queue = Mutex::new(VecDeque::from(cells));
    let outcomes = Mutex::new(Outcomes::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut stage: Option<(Scene, usize)> = None;
                while let Some(cell) = next() {
                    let began = Instant::now();
                    let set = stage.take();
                    let tried = catch_unwind(AssertUnwindSafe(|| {
                        let (scene, used) = set.unwrap_or_else(|| (Scene::set(false), 0));
                        (cell.run(scene), used + 1)
                    }));
                    let outcome = match tried {
                        Ok(((scene, second), used)) => {
                            stage = (used < CELLS_PER_SCENE).then_some((scene, used));
                            Ok(second)
                        }
                        Err(panic) => Err(text(&*panic)),
                    };
                    let key = (cell.step.name.clone(), cell.fault.to_string());
                    let word = if outcome.is_ok() { "green" } else { "RED" };
                    say(&format!("{word} {} × {} ({:.1} s)", key.0, key.1, began.elapsed().as_secs_f32()));
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(key, outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// The matrix as a table: where the second fault landed, or why there is none.
fn print(steps: &[NamedStep], all: &[Cell], outcomes: &Outcomes) -> String {
    let mut text = format!("\n{:<26}", "step");
    Fault::ALL.iter().for_each(|fault| text.push_str(&format!("{:<22}", fault.to_string())));
    let mut reasons: Vec<&str> = Vec::new();
    let mut note = |reason: &'static str| {
        let at = reasons.iter().position(|known| *known == reason).unwrap_or_else(|| {
            reasons.push(reason);
            reasons.len() - 1
        });
        format!("- ({})", at + 1)
    };
    for step in steps {
        text.push_str(&format!("\n{:<26}", step.name));
        let row = ROWS.iter().find(|row| row.0 == step.name).expect("every step has a row");
        for fault in Fault::ALL {
            let key = (step.name.clone(), fault.to_string());
            let word = match (outcomes.get(&key), why_not(row.1, row.2, fault)) {
                (Some(Ok(Second::Retry)), _) => "twice, in the retry".to_owned(),
                (Some(Ok(Second::NextRun)), _) => "twice, in two runs".to_owned(),
                (Some(Err(_)), _) => "RED".to_owned(),
                (None, Some(reason)) => note(reason),
                (None, None) => "not run".to_owned(),
            };
            text.push_str(&format!("{word:<22}"));
        }
    }
    for (at, reason) in reasons.iter().enumerate() {
        text.push_str(&format!("\n({}) {reason}", at + 1));
    }
    text.push_str(&format!("\n{} steps, {} cells\n", steps.len(), all.len()));
    text
}
