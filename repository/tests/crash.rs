//! Every storage call of a backup fails in turn: before it is done, half-way, and after it was done with
//! the answer lost; once, and from then on for ever (a crash). What was acknowledged is never lost, what
//! was not is never visible half-done, and the next attempt succeeds with no hand laid on.

mod support;

use std::sync::Arc;

use repository::keys::KeyRing;
use repository::names::BackupName;
use repository::repo::Repository;
use repository::store::Store;
use repository::store::faulty::{Effect, Fault, FaultyStore, Operation};
use repository::store::memory::MemoryStore;
use repository::verify::Depth;
use support::*;

fn before() -> Files {
    Files::from([("kept", noise("kept", 5_000)), ("old", noise("old", 100))])
}

fn after() -> Files {
    Files::from([("kept", noise("kept", 5_000)), ("new", noise("new", 9_000)), ("z", noise("z", 10))])
}

const WRITES: [Operation; 3] = [Operation::Create, Operation::Write, Operation::Finish];

const EVERYTHING: [Operation; 9] = [
    Operation::Create,
    Operation::Upload,
    Operation::Write,
    Operation::Finish,
    Operation::Read,
    Operation::Size,
    Operation::List,
    Operation::Publish,
    Operation::DeleteFolder,
];

fn assert_all_intact(repository: &Arc<Repository>, keys: &KeyRing, acknowledged: usize) {
    let listing = repository.list().expect("listed");
    assert!(listing.damaged.is_empty() && listing.legacy.is_empty(), "{listing:?}");
    assert!(listing.backups.len() >= acknowledged);
    for record in &listing.backups {
        assert_eq!(findings(repository, Some(keys), record, Depth::Opened), Vec::<String>::new());
    }
}

/// One run: a sound backup, then a second one into which `fault` falls; then, if it `restarts`, what a
/// controller does at its start; then a retry of the same job under the same name. Returns false once the
/// fault did not come to pass.
fn survives(fault: Fault, restarts: bool) -> bool {
    let disk = MemoryStore::new();
    let (first, keys) = init(disk.clone());
    let kept = back_up(&first, &keys, &before(), "job-1", 0).expect("committed");
    let name = BackupName::from_time(at(10));

    let faulty = FaultyStore::new(disk.clone());
    let mut repository = Arc::new(Repository::open(Arc::new(faulty.clone())).expect("opens"));
    faulty.fail(fault);
    let attempt = back_up_as(&repository, &keys, &after(), "job-2", name.clone());
    let came_to_pass = faulty.unfired() == 0;
    faulty.heal();

    if restarts {
        repository = Arc::new(Repository::open(Arc::new(disk)).expect("opens after the crash"));
        repository.find_unindexed().expect("searched");
        repository.complete_chain(&keys, at(20)).expect("completed");
        assert_all_intact(&repository, &keys, 1 + usize::from(attempt.is_ok()));
    }
    assert_holds(&repository, &keys, &kept, &before());

    let retry = back_up_as(&repository, &keys, &after(), "job-2", name).expect("the retry succeeds");
    if let Ok(record) = attempt {
        assert_eq!(retry, record, "what was acknowledged is what the retry finds");
    }
    assert_holds(&repository, &keys, &retry, &after());
    assert_all_intact(&repository, &keys, 2);
    came_to_pass
}

fn every_call(effect: Effect, operations: &[Operation], lasting: bool) {
    let mut tried = 0;
    for operation in operations {
        for nth in 1.. {
            let fault = Fault::new(effect).on(*operation).nth(nth);
            if !survives(if lasting { fault.and_all_later() } else { fault }, lasting) {
                break;
            }
            tried += 1;
        }
    }
    assert!(tried >= 3 * operations.len(), "only {tried} calls were tried");
}

#[test]
fn a_call_that_is_refused_once() {
    every_call(Effect::Refused, &EVERYTHING, false);
}

#[test]
fn a_call_that_was_done_and_its_answer_lost() {
    every_call(Effect::AnswerLost, &EVERYTHING, false);
}

#[test]
fn a_disk_that_is_full_from_some_call_on() {
    every_call(Effect::Full, &WRITES, true);
}

#[test]
fn a_crash_at_every_call() {
    every_call(Effect::Refused, &EVERYTHING, true);
}

#[test]
fn a_crash_just_after_every_call() {
    every_call(Effect::AnswerLost, &EVERYTHING, true);
}

/// A pack is written piece by piece, so a crash may tear it; all else a store writes whole (see
/// `store::conformance`).
#[test]
fn a_pack_torn_at_every_write() {
    every_call(Effect::Torn, &[Operation::Write, Operation::Finish], true);
}

#[test]
fn an_index_file_that_rots_is_replaced_at_the_next_start() {
    let disk = MemoryStore::new();
    let (repository, keys) = init(disk.clone());
    let record = back_up(&repository, &keys, &before(), "job-1", 0).expect("committed");
    let domain = keys.domain_keys(&source()).domain;
    let folder = repository::layout::index(&domain);
    for listed in disk.list(Some(&folder)).expect("listed") {
        disk.replace(&folder.join(listed.name), b"rot").expect("damaged");
    }
    assert_eq!(findings(&repository, None, &record, Depth::Listed).len(), 1);
    assert_holds(&repository, &keys, &record, &before());
    let restarted = Arc::new(Repository::open(Arc::new(disk)).expect("opens"));
    assert_eq!(restarted.find_unindexed().expect("searched"), 2);
    assert_eq!(findings(&restarted, Some(&keys), &record, Depth::Opened), Vec::<String>::new());
}
