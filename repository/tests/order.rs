//! The order of backups where lists lag and where somebody else writes: no sequence is given twice, and the
//! chain has every backup, whatever call a crash came at and whoever took the place first.

mod support;

use std::sync::{Arc, Mutex};

use repository::backup::commit::{CommitStep, Guard};
use repository::keys::KeyRing;
use repository::names::BackupName;
use repository::repo::Repository;
use repository::store::faulty::{Effect, Fault, FaultyStore, Operation};
use repository::store::lease::LeaseError;
use repository::store::memory::MemoryStore;
use support::*;

fn files(seed: &str) -> Files {
    Files::from([("kept", noise("kept", 5_000)), ("new", noise(seed, 900))])
}

fn opened(disk: &MemoryStore, keys: &KeyRing) -> Arc<Repository> {
    let repository = Arc::new(Repository::open(Arc::new(disk.clone())).expect("opens"));
    repository.find_unindexed().expect("searched");
    repository.complete_chain(keys, at(50)).expect("completed");
    repository
}

/// As the lists of a later day show it: every backup has a place of its own and its line.
fn assert_one_place_each(disk: &MemoryStore, keys: &KeyRing, names: &[&BackupName], trouble: &str) {
    disk.set_lag(false);
    let listing = opened(disk, keys).list().expect("listed");
    assert_eq!(listing.chain, Vec::<String>::new(), "{trouble}");
    assert!(
        listing.damaged.is_empty() && listing.lost.is_empty() && listing.legacy.is_empty(),
        "{listing:?}"
    );
    let sequences: Vec<u64> = listing.backups.iter().map(|record| record.sequence).collect();
    let expected: Vec<u64> = (1..=names.len() as u64).rev().collect();
    assert_eq!(sequences, expected, "{trouble}");
    for name in names {
        assert!(listing.backups.iter().any(|record| record.name == **name), "{name} is gone: {trouble}");
    }
}

/// A backup is cut off by a crash; at the next start another job commits first, then the job of the crash goes
/// on, or nobody knows of it any more. Lists show nothing of all that. False once the fault did not come to pass.
fn survives(fault: Fault, goes_on: bool) -> bool {
    let disk = MemoryStore::new();
    let (first, keys) = init(disk.clone());
    let kept = back_up(&first, &keys, &files("first"), "job-1", 0).expect("committed").name;
    disk.set_lag(true);
    let faulty = FaultyStore::new(disk.clone());
    let repository = Arc::new(Repository::open(Arc::new(faulty.clone())).expect("opens"));
    let crashed = BackupName::from_time(at(10));
    let trouble = format!("{fault:?}");
    faulty.fail(fault);
    let _ = back_up_as(&repository, &keys, &files("crashed"), "job-2", crashed.clone());
    let came_to_pass = faulty.unfired() == 0;
    faulty.heal();

    let repository = opened(&disk, &keys);
    let other = BackupName::from_time(at(20));
    back_up_as(&repository, &keys, &files("other"), "job-3", other.clone()).expect("committed");
    let mut names = vec![&kept, &other];
    let resumed =
        goes_on.then(|| back_up_as(&repository, &keys, &files("crashed"), "job-2", crashed.clone()));
    let resumed = resumed.map(|record| record.expect("committed"));
    if goes_on || repository.backup(&crashed).is_ok() {
        names.push(&crashed);
    }
    assert_one_place_each(&disk, &keys, &names, &trouble);
    if let Some(record) = resumed {
        assert_holds(&opened(&disk, &keys), &keys, &record, &files("crashed"));
    }
    came_to_pass
}

#[test]
fn a_crash_at_any_call_gives_no_sequence_twice_where_lists_lag() {
    let operations = [Operation::Create, Operation::Replace, Operation::Publish, Operation::Delete];
    let mut tried = 0;
    for effect in [Effect::Refused, Effect::AnswerLost] {
        for (operation, goes_on) in operations.iter().flat_map(|one| [(*one, false), (*one, true)]) {
            let fault = |nth| Fault::new(effect).on(operation).nth(nth).and_all_later();
            tried += (1..).take_while(|nth| survives(fault(*nth), goes_on)).count();
        }
    }
    assert!(tried >= 28, "only {tried} calls were tried");
}

/// Lets somebody else commit in the middle, once.
struct Overtaken<'a> {
    at: CommitStep,
    by: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl Guard for Overtaken<'_> {
    fn may_write(&self) -> Result<(), LeaseError> {
        Ok(())
    }

    fn done(&self, step: CommitStep) {
        let other = (step == self.at).then(|| self.by.lock().expect("nobody panics").take()).flatten();
        if let Some(other) = other {
            other();
        }
    }
}

#[test]
fn who_comes_second_to_a_place_in_the_order_takes_the_next_one() {
    for lag in [false, true] {
        for step in [CommitStep::Begun, CommitStep::Staged, CommitStep::Allowed, CommitStep::Renamed] {
            let disk = MemoryStore::new();
            let (repository, keys) = init(disk.clone());
            let kept = back_up(&repository, &keys, &files("first"), "job-1", 0).expect("committed").name;
            disk.set_lag(lag);
            let (slow, quick) = (BackupName::from_time(at(10)), BackupName::from_time(at(20)));
            let other = Box::new(|| {
                let other = Repository::open(Arc::new(disk.clone())).expect("opens");
                back_up_as(&other, &keys, &files("quick"), "job-3", quick.clone()).expect("committed");
            });
            let guard = Overtaken { at: step, by: Mutex::new(Some(other)) };
            let domain = keys.domain_keys(&source());
            let made = archive(&repository, &domain, &files("slow"), 4);
            send(&repository, &domain, &made.segments).expect("sent");
            let drafted = draft(slow.clone(), "job-2", made.draft);
            let record = repository.commit(&drafted, &keys, at(30), &guard).expect("committed");
            assert_eq!(repository.commit(&drafted, &keys, at(31), &guard).expect("again"), record);
            assert_one_place_each(&disk, &keys, &[&kept, &slow, &quick], &format!("{step:?}, lag {lag}"));
            assert_holds(&opened(&disk, &keys), &keys, &record, &files("slow"));
        }
    }
}
