//! Every storage call of retiring and pruning fails in turn: before it is done and after it was done with
//! the answer lost; once, and from then on for ever (a crash). No backup that is kept loses a byte, and the
//! next run finishes with no hand laid on.
//!
//! In the gate some calls; all of them with `NEURASHIELD_PRUNE=long`.

mod scene;
mod support;

use std::sync::Arc;

use repository::error::RepositoryError;
use repository::prune::PruneOrder;
use repository::repo::Repository;
use repository::store::StoreError;
use repository::store::faulty::{Effect, Fault, FaultyStore};
use scene::*;
use support::*;

const BACKUPS: u32 = 6;
const RETIRED: usize = 4;

/// Some call of every part of the work, in the gate.
const STRIDE: usize = 41;

struct Story {
    scene: Scene,
    records: Vec<repository::backup::manifest::BackupRecord>,
    files: Vec<Files>,
}

impl Story {
    fn begin() -> Self {
        let scene = Scene::new();
        let files: Vec<Files> = (1..=BACKUPS).map(generation).collect();
        let backed_up = |n: u32| scene.back_up(&files[n as usize - 1], n, n.into());
        let records = (1..=BACKUPS).map(backed_up).collect();
        Self { scene, records, files }
    }

    /// Retires, marks and copies, sweeps, deletes: on `repository`, whatever it did before, from `first` on.
    fn work(&self, repository: &Repository, now: bool, first: i64) -> Result<(), RepositoryError> {
        let (eye, order) = (&self.scene.eye, PruneOrder { now, ..self.scene.order() });
        let which: Vec<_> = self.records[..RETIRED].iter().map(|record| retirement(&record.name)).collect();
        for day in [0, 2, 12, 14] {
            self.scene.clock((first + day) * DAY + HOUR);
            if day == 0 {
                repository.retire(&which, &self.scene.keys, eye)?;
            }
            repository.prune(&order, eye)?;
        }
        Ok(())
    }

    fn assert_intact(&self) {
        let kept: Vec<_> = self.records.iter().zip(&self.files).skip(RETIRED).collect();
        self.scene.assert_intact(&kept);
    }

    /// What a controller does at its start.
    fn restart(&mut self) {
        let repository = self.scene.reopened();
        repository.find_unindexed().expect("searched");
        repository.complete_chain(&self.scene.keys, at(0)).expect("completed");
        repository.finish_retiring(&self.scene.eye).expect("finished");
        let listing = repository.list().expect("listed");
        assert!(listing.lost.is_empty() && listing.damaged.is_empty() && listing.legacy.is_empty());
        for record in &listing.backups {
            let files = &self.files[record.sequence as usize - 1];
            assert_holds(&repository, &self.scene.keys, record, files);
        }
        self.scene.repository = repository;
    }
}

/// False once the fault did not come to pass.
fn survives(fault: Fault, is_crash: bool, now: bool, packs: usize) -> bool {
    let mut story = Story::begin();
    let faulty = FaultyStore::new(story.scene.disk.clone());
    let opened = Repository::open(Arc::new(faulty.clone())).expect("opens");
    faulty.fail(fault);
    let outcome = story.work(&opened, now, 0);
    let came_to_pass = faulty.unfired() == 0;
    if let Err(error) = &outcome {
        let expected =
            |error: &RepositoryError| matches!(error, RepositoryError::Store(StoreError::Failed { .. }));
        assert!(expected(error), "{error:?}");
    }
    faulty.heal();
    if is_crash {
        story.restart();
    } else {
        story.scene.repository = Arc::new(opened);
    }
    story.work(&story.scene.repository, now, 20).expect("the next run needs no hand");
    story.scene.clock(40 * DAY);
    story.scene.prune();
    story.scene.clock(60 * DAY);
    story.scene.prune();
    story.assert_intact();
    assert_eq!((story.scene.packs(), story.scene.trash()), (packs, 0), "all garbage is gone, and no more");
    came_to_pass
}

/// How many packs are left and how many calls it takes where nothing goes wrong.
fn rehearsal(now: bool) -> (usize, usize) {
    let story = Story::begin();
    let faulty = FaultyStore::new(story.scene.disk.clone());
    let opened = Repository::open(Arc::new(faulty.clone())).expect("opens");
    faulty.take_calls();
    story.work(&opened, now, 0).expect("nothing goes wrong");
    let calls = faulty.take_calls().len();
    story.scene.clock(40 * DAY);
    story.scene.prune();
    story.scene.clock(60 * DAY);
    story.scene.prune();
    story.assert_intact();
    (story.scene.packs(), calls)
}

fn every_call(effect: Effect, is_crash: bool, now: bool, offset: usize) {
    let (packs, calls) = rehearsal(now);
    assert!(calls > 100, "{calls}");
    let is_long = std::env::var("NEURASHIELD_PRUNE").is_ok_and(|form| form == "long");
    let (first, stride) = if is_long { (1, 1) } else { (1 + offset, STRIDE) };
    let mut tried = 0;
    for nth in (first..=calls).step_by(stride) {
        let fault = Fault::new(effect).nth(nth as u64);
        let fault = if is_crash { fault.and_all_later() } else { fault };
        tried += usize::from(survives(fault, is_crash, now, packs));
    }
    assert!(tried * stride * 10 >= calls * 9, "{tried} of {calls} calls were reached");
    println!("{tried} of {calls} calls, {effect:?}, crash: {is_crash}, at once: {now}");
}

#[test]
fn a_crash_at_a_call() {
    every_call(Effect::Refused, true, false, 0);
    every_call(Effect::Refused, true, true, 5);
}

#[test]
fn a_crash_just_after_a_call() {
    every_call(Effect::AnswerLost, true, false, 9);
    every_call(Effect::AnswerLost, true, true, 13);
}

#[test]
fn a_call_that_is_refused_once() {
    every_call(Effect::Refused, false, false, 3);
}

#[test]
fn a_call_that_was_done_and_its_answer_lost() {
    every_call(Effect::AnswerLost, false, false, 17);
}

#[test]
fn a_disk_that_fills_up_at_any_moment() {
    let (packs, _) = rehearsal(true);
    for room in [0, 50, 200, 700, 2_000, 8_000] {
        let mut story = Story::begin();
        story.scene.disk.set_capacity(story.scene.disk.used() + room);
        // Without room for a note nothing can be retired: that is an error, and harmless.
        let outcome = story.work(&story.scene.repository, true, 0);
        assert!(
            matches!(outcome, Ok(()) | Err(RepositoryError::Store(StoreError::Full { .. }))),
            "{outcome:?}"
        );
        story.scene.disk.set_capacity(u64::MAX);
        story.restart();
        story.work(&story.scene.repository, true, 20).expect("there is room now");
        story.scene.clock(40 * DAY);
        story.scene.prune();
        story.scene.clock(60 * DAY);
        story.scene.prune();
        story.assert_intact();
        assert_eq!(story.scene.packs(), packs, "with room for {room} bytes");
    }
}
