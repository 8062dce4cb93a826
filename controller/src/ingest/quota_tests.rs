use std::sync::atomic::AtomicU64;

use repository::content::IdKey;
use repository::cut::GearKey;
use repository::ids::DomainId;
use repository::keys::DomainKeys;
use runtime::config::Size;

use super::*;

const NOON: &str = "2026-03-01T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn bytes(count: u64) -> Option<Size> {
    Some(Size::from_bytes(count))
}

fn quotas(quota: Quota) -> Quotas {
    Quotas::new(&[Quota { agents: "node-*".to_owned(), ..quota }])
}

fn archive() -> Arc<ArchiveTask> {
    let id_key = IdKey::new([1; 32]);
    let domain = DomainKeys { domain: DomainId::new([1; 16]), id_key, gear_key: GearKey::new([1; 32]) };
    Arc::new(ArchiveTask {
        source: "models/models".parse().expect("a source"),
        kind: "files".to_owned(),
        agent_name: "node-1".to_owned(),
        domain,
        started_at: at(NOON),
        refs_file: "/nowhere".into(),
        work: "job".parse().expect("an id"),
        taken: AtomicU64::new(0),
    })
}

#[test]
fn an_archive_may_reach_its_limit_and_not_exceed_it() {
    let quotas = quotas(Quota { bytes_per_archive: bytes(100), ..Quota::default() });
    let agent = AgentId::fresh();
    let allowance = quotas.of(agent, "node-1");
    let (first, second) = (archive(), archive());
    allowance.reserve(&first, 60, at(NOON)).expect("there is room").keep();
    let failure = allowance.reserve(&first, 41, at(NOON)).err().expect("too much");
    assert_eq!((failure.reason.as_str(), failure.is_passing()), (reason::QUOTA, false));
    assert!(failure.why.contains("bytes_per_archive"), "{failure:?}");
    allowance.reserve(&first, 40, at(NOON)).expect("there is just room").keep();
    allowance.reserve(&second, 100, at(NOON)).expect("another archive has its own").keep();
    assert_eq!(quotas.used_by(agent, at(NOON)), (200, 1));
}

#[test]
fn a_day_is_over_at_midnight_and_what_was_not_kept_is_given_back() {
    let quotas = quotas(Quota { bytes_per_day: bytes(100), ..Quota::default() });
    let allowance = quotas.of(AgentId::fresh(), "node-1");
    let task = archive();
    drop(allowance.reserve(&task, 100, at(NOON)).expect("there is room"));
    assert_eq!(task.taken.load(Ordering::Relaxed), 0);
    let late = allowance.reserve(&task, 100, at("2026-03-01T23:59:59Z")).expect("it was given back");
    assert!(allowance.reserve(&task, 1, at("2026-03-01T23:59:59Z")).is_err());
    allowance.reserve(&task, 100, at("2026-03-02T00:00:00Z")).expect("a new day").keep();
    drop(late);
    assert!(allowance.reserve(&task, 1, at("2026-03-02T00:00:01Z")).is_err());
}

#[test]
fn a_clock_that_steps_back_and_lengths_beyond_sense_break_nothing() {
    let quotas = quotas(Quota::default());
    let allowance = quotas.of(AgentId::fresh(), "node-1");
    let task = archive();
    let huge = allowance.reserve(&task, u64::MAX, at(NOON)).expect("no limit");
    allowance.reserve(&task, u64::MAX, at(NOON)).expect("no limit").keep();
    drop(allowance.reserve(&task, 5, at("2026-02-28T23:00:00Z")).expect("yesterday again"));
    drop(huge);
}

#[test]
fn streams_side_by_side_cannot_exceed_a_limit_together() {
    let quotas = quotas(Quota { bytes_per_archive: bytes(100), ..Quota::default() });
    let allowance = quotas.of(AgentId::fresh(), "node-1");
    let task = archive();
    let _under_way = allowance.reserve(&task, 60, at(NOON)).expect("there is room");
    assert!(allowance.reserve(&task, 60, at(NOON)).is_err());
}

#[test]
fn an_agent_whom_no_pattern_fits_has_no_limits() {
    let quotas = quotas(Quota { bytes_per_day: bytes(1), entries_per_archive: Some(1), ..Quota::default() });
    let free = quotas.of(AgentId::fresh(), "database");
    free.reserve(&archive(), u64::MAX / 2, at(NOON)).expect("no limit").keep();
    free.check_entries(u64::MAX, at(NOON)).expect("no limit");
    assert!(quotas.of(AgentId::fresh(), "node-7").check_entries(2, at(NOON)).is_err());
}

#[tokio::test]
async fn one_agent_cannot_hold_the_places_of_another() {
    let quotas = quotas(Quota::default());
    let greedy = quotas.of(AgentId::fresh(), "greedy");
    let mut held = Vec::new();
    while let Ok(places) = tokio::time::timeout(Duration::from_millis(20), greedy.places(Work::Upload)).await
    {
        held.push(places);
    }
    assert_eq!(held.len(), 4);
    let other = quotas.of(AgentId::fresh(), "other");
    let there_is_room = tokio::time::timeout(Duration::from_secs(5), other.places(Work::Upload)).await;
    assert!(there_is_room.is_ok());
}

#[test]
fn what_comes_too_fast_waits_until_it_is_not() {
    let start = Instant::now();
    let mut bucket = Bucket { owed: 0.0, at: start };
    assert_eq!(bucket.take(1_000, 1_000, start), Duration::ZERO, "a second's worth may come at once");
    assert_eq!(bucket.take(500, 1_000, start), Duration::from_millis(500));
    assert_eq!(bucket.take(500, 1_000, start + Duration::from_secs(1)), Duration::ZERO);
    let later = start + Duration::from_secs(60);
    assert_eq!(bucket.take(1_000, 1_000, later), Duration::ZERO, "no credit grows");
    assert_eq!(bucket.take(1_000, 1_000, later), Duration::from_secs(1));
}
