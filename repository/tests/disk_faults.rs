//! Every call fails in turn, in every step of a controller's life. Changes of the file system: refused once,
//! the answer lost, torn, a disk full from there on, a disk dead from there on. Calls to the store, reading
//! ones among them: refused once, or from there on. What was told stays true; the same step succeeds when
//! all is well again, and so does the next start.
//!
//! The gate takes some of the calls, always the same; `NEURASHIELD_CRASH=long` takes all.

mod cuts;
mod story;
mod support;
mod watchers;

use std::rc::Rc;
use std::sync::Arc;

use cuts::states::Tree;
use repository::store::Store;
use repository::store::calls::Call;
use repository::store::calls::watch::{Verdict, Watcher, watched};
use repository::store::faulty::{Effect, Fault, FaultyStore};
use repository::store::local::LocalStore;
use rustix::io::Errno;
use story::{Step, Told, World, local, story, survives};
use support::scratch;
use watchers::{FailingDisk, Failure, Forgets, without_syncs};

/// A step, and how things stand before it.
struct Scene {
    step: Step,
    disk: Tree,
    told: Told,
    runs: bool,
}

fn scenes() -> Vec<Scene> {
    let root = scratch();
    let mut world = World::default();
    let scene = |step: Step| {
        let (disk, told, runs) = (Tree::read(root.path()), world.told.clone(), world.runs());
        world.take(&local(root.path()), &step, &mut |_| {}).expect("nothing fails here");
        Scene { step, disk, told, runs }
    };
    watched(without_syncs(), || story().into_iter().map(scene).collect())
}

/// What fails.
#[derive(Debug, Clone, Copy)]
enum Ill {
    /// A change of the file system.
    Disk(Failure),
    /// Any call to the store, reading ones too: that one alone, or all from there on.
    Store { lasting: bool },
}

const ILLS: [Ill; 7] = [
    Ill::Disk(Failure::Once),
    Ill::Disk(Failure::AnswerLost),
    Ill::Disk(Failure::Torn),
    Ill::Disk(Failure::Full),
    Ill::Disk(Failure::Dead),
    Ill::Store { lasting: false },
    Ill::Store { lasting: true },
];

/// Takes the scene's step where the `nth` call fails, and then again unless the controller `restarts`. Says
/// what is wrong afterwards; `None` if there are fewer calls.
fn failed_at(scene: &Scene, ill: Ill, nth: usize, restarts: bool) -> Option<Result<(), String>> {
    let root = scratch();
    scene.disk.write(root.path());
    let store = FaultyStore::new(LocalStore::open(root.path()).expect("opens"));
    let storage = || Ok(Arc::new(store.clone()) as Arc<dyn Store>);
    let mut world = watched(without_syncs(), || World::resumed(&storage, &scene.told, scene.runs));
    let mut take = || world.take(&storage, &scene.step, &mut |_| {});
    let (answer, came_to_pass) = match ill {
        Ill::Disk(failure) => {
            let disk = FailingDisk::new(failure, nth);
            (watched(disk.clone(), take), disk.came_to_pass())
        }
        Ill::Store { lasting } => {
            let fault = Fault::new(Effect::Refused).nth(nth as u64);
            store.fail(if lasting { fault.and_all_later() } else { fault });
            let answer = watched(without_syncs(), &mut take);
            let came_to_pass = store.unfired() == 0;
            store.heal();
            (answer, came_to_pass)
        }
    };
    if !came_to_pass {
        return None;
    }
    Some(watched(without_syncs(), || {
        let can_try_again = world.runs() || scene.step == Step::Start;
        if answer.is_err() && can_try_again && !restarts {
            let again = world.take(&storage, &scene.step, &mut |_| {});
            again.map_err(|error| format!("the step fails again where nothing does: {error}"))?;
        }
        survives(&storage, &world.told)
    }))
}

#[test]
fn a_call_that_fails_costs_nothing_that_was_told_and_needs_no_hand() {
    let is_long = std::env::var("NEURASHIELD_CRASH").is_ok_and(|form| form == "long");
    let (mut tried, mut wrong) = (0, Vec::new());
    for (number, scene) in scenes().iter().enumerate() {
        for (kind, ill) in ILLS.into_iter().enumerate() {
            // In the gate, from each step and for each ill another few calls.
            let (first, every) = if is_long { (1, 1) } else { (1 + (7 * number + 3 * kind) % 60, 60) };
            for nth in (first..).step_by(every) {
                let both = [nth % 2 == 0, nth % 2 != 0];
                let ways = if is_long { &both[..] } else { &both[..1] };
                let answers: Vec<_> =
                    ways.iter().filter_map(|restarts| failed_at(scene, ill, nth, *restarts)).collect();
                if answers.is_empty() {
                    break;
                }
                tried += answers.len();
                let told = |error| format!("{}, {ill:?} at call {nth}: {error}", scene.step.in_short());
                wrong.extend(answers.into_iter().filter_map(Result::err).map(told));
            }
        }
    }
    println!("{tried} failures");
    assert!(tried >= 60, "only {tried} were tried");
    assert!(wrong.is_empty(), "{} are not survived; the first: {}", wrong.len(), wrong[0]);
}

/// A file system without a rename that refuses a taken name (NFS).
struct OldDisk;

impl Watcher for OldDisk {
    fn verdict(&self, call: &Call<'_>) -> Verdict {
        match call {
            Call::Rename { to_free: true, .. } => Verdict::Refuse(Errno::INVAL),
            other => Forgets::Syncs.verdict(other),
        }
    }

    fn made(&self, _call: &Call<'_>) {}
}

#[test]
fn the_whole_story_goes_well_on_a_disk_without_a_rename_that_refuses() {
    let root = scratch();
    let storage = local(root.path());
    watched(Rc::new(OldDisk), || {
        let mut world = World::default();
        for step in story() {
            world.take(&storage, &step, &mut |_| {}).expect("every step succeeds");
        }
        survives(&storage, &world.told).expect("all is there");
    });
}
