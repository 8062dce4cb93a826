//! Every moment at which the power may go: the record of a repository's life is cut after each call, and of
//! what was not durable by then every mixture may be there (`cuts/states.rs`). Of each state a repository
//! is laid out and the next controller starts on it.
//!
//! The gate takes some hundred states, always the same. `NEURASHIELD_CRASH=long` takes all windows of three
//! operations and 10,000 random states; `NEURASHIELD_FIRST_SEED=…` other ones.

mod cuts;
mod story;
mod support;
mod watchers;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use cuts::record::{Op, Recorder};
use cuts::states::{Disk, State, States};
use repository::store::calls::watch::watched;
use story::{Collected, Told, World, local, story, survives};
use support::{Dice, scratch};
use watchers::{Forgets, without_syncs};

/// The record of the story, and what its users had been told at each mark.
fn recorded(forgets: Forgets) -> (Vec<Op>, Vec<Told>) {
    let root = scratch();
    let recorder = Recorder::new(root.path(), forgets);
    let told = RefCell::new(vec![Told::default()]);
    watched(recorder.clone(), || {
        let mut world = World::default();
        for step in story() {
            let mut tell = |now: &Told| {
                recorder.mark(told.borrow().len());
                told.borrow_mut().push(now.clone());
            };
            world.take(&local(root.path()), &step, &mut tell).expect("nothing fails here");
        }
        let Collected { copied, swept, deleted } = world.collected;
        assert!(copied > 0 && swept > 0 && deleted > 0, "prune had something to do: {:?}", world.collected);
    });
    (recorder.finish(), told.into_inner())
}

fn long() -> bool {
    std::env::var("NEURASHIELD_CRASH").is_ok_and(|form| form == "long")
}

fn first_seed() -> u64 {
    std::env::var("NEURASHIELD_FIRST_SEED").map_or(1, |seed| seed.parse().expect("a number"))
}

/// What is wrong in this state, if anything is.
fn trouble(scratch: &Path, states: &States<'_>, told: &[Told], state: &State) -> Option<String> {
    let root = tempfile::tempdir_in(scratch).expect("a folder");
    states.tree(state).write(root.path());
    let told = &told[states.mark(state)];
    let answer = watched(without_syncs(), || survives(&local(root.path()), told));
    answer.err().map(|wrong| format!("{wrong}\n{}", states.tell(state)))
}

fn random_states(forgets: Forgets, disk: Disk, count: u64) -> Vec<String> {
    let (ops, told) = recorded(forgets);
    let states = States::of(&ops, disk);
    let folder = scratch();
    let mut wrong = Vec::new();
    for seed in first_seed()..first_seed() + count {
        let state = states.random(&mut Dice::new(seed));
        let trouble = trouble(folder.path(), &states, &told, &state);
        wrong.extend(trouble.map(|trouble| format!("seed {seed}: {trouble}")));
    }
    wrong
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} states are not survived; the first: {}", wrong.len(), wrong[0]);
}

#[test]
fn what_was_acknowledged_outlives_a_cut_at_any_moment_on_a_disk_that_orders_nothing() {
    assert_none(&random_states(Forgets::Nothing, Disk::Unordered, if long() { 5_000 } else { 150 }));
}

#[test]
fn what_was_acknowledged_outlives_a_cut_at_any_moment_on_a_disk_with_a_journal() {
    assert_none(&random_states(Forgets::Nothing, Disk::Journalled, if long() { 5_000 } else { 150 }));
}

/// What is wrong right after each answer of a program that forgets a kind of sync.
fn found_without(forgets: Forgets, disk: Disk, is_it: impl Fn(&str) -> bool) -> Option<String> {
    let (ops, told) = recorded(forgets);
    let states = States::of(&ops, disk);
    let folder = scratch();
    let mut wrong =
        states.worst_after_marks().filter_map(|state| trouble(folder.path(), &states, &told, &state));
    wrong.find(|wrong| is_it(wrong))
}

#[test]
fn right_after_each_answer_what_was_durable_is_enough() {
    for disk in [Disk::Unordered, Disk::Journalled] {
        assert_eq!(found_without(Forgets::Nothing, disk, |_| true), None);
    }
}

// The controls.

#[test]
fn without_the_syncs_of_folders_the_commit_is_lost_or_with_a_journal_the_last_name() {
    // On the one disk the whole repository is lost, and at the next start it is made anew, with other keys.
    let lost = |wrong: &str| wrong.contains("was acknowledged and is lost");
    assert!(found_without(Forgets::FolderSyncs, Disk::Unordered, lost).is_some());
    // A journal brings along all names from before the last sync of a file.
    let lost = |wrong: &str| wrong.contains("the confirmation of the recovery key is lost");
    assert!(found_without(Forgets::FolderSyncs, Disk::Journalled, lost).is_some());
}

#[test]
fn without_the_syncs_of_files_there_are_names_without_their_bytes() {
    for disk in [Disk::Unordered, Disk::Journalled] {
        assert!(found_without(Forgets::FileSyncs, disk, |_| true).is_some(), "{disk:?}");
    }
}

/// The same by chance: the random states find what is forgotten, too.
#[test]
fn random_states_find_out_that_syncs_are_forgotten() {
    for forgets in [Forgets::FolderSyncs, Forgets::FileSyncs] {
        assert!(!random_states(forgets, Disk::Unordered, 20).is_empty(), "{forgets:?}");
    }
}

#[test]
fn all_windows_of_three_operations_are_survived() {
    let (ops, told) = recorded(Forgets::Nothing);
    let states = States::of(&ops, Disk::Unordered);
    let folder = scratch();
    let all = states.windows();
    // The gate takes some from everywhere.
    let every = if long() { 1 } else { all.len().div_ceil(100) };
    let mut seen = HashSet::new();
    let is_new = |state: &&State| seen.insert((states.mark(state), states.tree(state).digest()));
    let taken: Vec<&State> = all.iter().step_by(every).filter(is_new).collect();
    println!("{} windows of {} operations; {} different states are tried", all.len(), ops.len(), taken.len());
    let wrong = taken.iter().filter_map(|state| trouble(folder.path(), &states, &told, state));
    let wrong: Vec<String> = wrong.collect();
    assert_none(&wrong);
}
