use super::*;
use crate::keys::SlotSecret;
use crate::store::faulty::{Effect, Fault, FaultyStore, Operation};
use crate::store::memory::MemoryStore;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn id(text: &str) -> WorkId {
    text.parse().unwrap()
}

fn init(store: impl Store + 'static) -> Repository {
    let secret = SlotSecret::KeyFile(zeroize::Zeroizing::new(vec![1; 32]));
    Repository::init(Arc::new(store), &secret, at(0)).unwrap().repository
}

fn at_work(repository: &Repository, now: Timestamp) -> Vec<String> {
    repository.work(now).unwrap().into_iter().map(|record| record.id.to_string()).collect()
}

#[test]
fn the_next_process_sees_a_lease_until_it_expires() {
    let store = MemoryStore::new();
    let first = init(store.clone());
    let work = first.begin_work(&id("job-1"), WorkKind::Backup, &[], at(0)).unwrap();
    std::mem::forget(work);
    let second = Repository::open(Arc::new(store)).unwrap();
    assert_eq!(at_work(&second, at(0)), ["job-1"]);
    first.renew_work(at(3600)).unwrap();
    assert_eq!(at_work(&second, at(86_400)), ["job-1"]);
    assert_eq!(at_work(&second, at(90_000)), Vec::<String>::new());
}

#[test]
fn work_lasts_as_long_as_the_last_of_its_holders() {
    let repository = init(MemoryStore::new());
    let begin = || repository.begin_work(&id("job-1"), WorkKind::Restore, &[], at(0)).unwrap();
    let (first, second) = (begin(), begin());
    drop(first);
    assert_eq!(at_work(&repository, at(1)), ["job-1"]);
    second.end();
    assert_eq!(at_work(&repository, at(1)), Vec::<String>::new());
    let left = repository.store().list(Some(&layout::work_folder())).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_process_that_ends_in_order_leaves_nothing_to_wait_for() {
    let store = MemoryStore::new();
    let first = init(store.clone());
    drop(first.begin_work(&id("job-1"), WorkKind::Verification, &[], at(0)).unwrap());
    first.clear_ended_work();
    let second = Repository::open(Arc::new(store)).unwrap();
    assert_eq!(at_work(&second, at(1)), Vec::<String>::new());
}

#[test]
fn work_that_ended_before_its_process_was_killed_is_waited_for_no_more_once_somebody_says_so() {
    let store = MemoryStore::new();
    let first = init(store.clone());
    let held = ["job-1", "job-2"]
        .map(|name| first.begin_work(&id(name), WorkKind::Verification, &[], at(0)).expect("begun"));
    std::mem::forget(held);
    let second = Repository::open(Arc::new(store)).unwrap();
    let again = second.begin_work(&id("job-2"), WorkKind::Verification, &[], at(1)).unwrap();
    for name in ["job-1", "job-2"] {
        second.end_work_of_the_dead(&id(name)).unwrap();
    }
    assert_eq!(at_work(&second, at(1)), ["job-2"], "what is under way here is not the dead's");
    again.end();
}

#[test]
fn on_a_full_disk_a_restore_has_its_lease_all_the_same() {
    let faulty = FaultyStore::new(MemoryStore::new());
    let repository = init(faulty.clone());
    faulty.fail(Fault::new(Effect::Full).on(Operation::Replace).and_all_later());
    let work = repository.begin_work(&id("job-1"), WorkKind::Restore, &[], at(0)).unwrap();
    assert_eq!(at_work(&repository, at(1)), ["job-1"]);
    work.end();
    assert_eq!(at_work(&repository, at(1)), Vec::<String>::new());
}

#[test]
fn a_lease_that_cannot_be_read_counts_from_when_it_was_written() {
    let store = MemoryStore::new();
    let repository = init(store.clone());
    store.set_time(at(0));
    store.create(&layout::work(&id("job-7")), b"{torn").unwrap();
    assert_eq!(at_work(&repository, at(86_000)), ["job-7"]);
    assert_eq!(at_work(&repository, at(87_000)), Vec::<String>::new());
}

#[test]
fn an_id_of_work_cannot_leave_its_folder() {
    for wrong in ["", "..", "a/b", "A", "job_1", &"x".repeat(65)] {
        assert!(wrong.parse::<WorkId>().is_err(), "{wrong}");
    }
}
