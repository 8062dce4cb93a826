use std::collections::BTreeSet;

use repository::backup::manifest::{BackupRecord, FORMAT, Outcome};
use repository::ids::{DomainId, PackId, RepositoryId};
use repository::names::BackupName;
use repository::verify::{DomainPacks, PackProof};

use super::*;
use crate::identity::SourceBounds;
use crate::ids::{AgentId, JobId};
use crate::jobs::job::{Job, JobState, Order};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

struct Place {
    home: tempfile::TempDir,
    catalog: Catalog,
}

impl Place {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(&home.path().join("catalog.sqlite")).await.expect("opened");
        Self { home, catalog }
    }

    async fn reopened(self) -> Self {
        self.catalog.close().await;
        let catalog = Catalog::open(&self.home.path().join("catalog.sqlite")).await.expect("opened again");
        Self { catalog, ..self }
    }
}

fn backup(name: &str, sequence: u64) -> BackupRecord {
    BackupRecord {
        format: FORMAT,
        repository: RepositoryId::new([1; 16]),
        name: name.parse().expect("a name"),
        sequence,
        job: "job".into(),
        started_at: NOW,
        ended_at: NOW,
        outcome: Outcome::Complete,
        pin: None,
        previous: None,
        archives: Vec::new(),
    }
}

fn queued() -> Job {
    Job::queued(JobId::fresh(), Order::Backup { components: Vec::new(), pin: None, import: None }, NOW)
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let place = Place::new().await;
    let agent = AgentId::fresh();
    place.catalog.readmit(agent, "web-1", NOW, false, NOW).await.expect("written");
    let served = ServedSource {
        source: "models/a".parse().expect("a source"),
        kind: "files".into(),
        location: "/data".into(),
    };
    place
        .catalog
        .hello(agent, "host", "1", std::slice::from_ref(&served), &SourceBounds::default(), NOW)
        .await
        .expect("written");
    place.catalog.replace_backups(&[backup("20260101_010000", 1)]).await.expect("written");
    let place = place.reopened().await;
    let agents = place.catalog.agents().await.expect("read");
    assert_eq!((agents[0].name.as_str(), &agents[0].sources), ("web-1", &vec![served]));
    assert_eq!(place.catalog.backups_before(None, 10).await.expect("read"), [backup("20260101_010000", 1)]);
}

#[tokio::test]
async fn an_agent_that_serves_less_is_believed() {
    let place = Place::new().await;
    let agent = AgentId::fresh();
    place.catalog.readmit(agent, "a", NOW, false, NOW).await.expect("written");
    let served = |name: &str| ServedSource {
        source: name.parse().expect("a source"),
        kind: "files".into(),
        location: String::new(),
    };
    place
        .catalog
        .hello(agent, "h", "1", &[served("a/a"), served("b/b")], &SourceBounds::default(), NOW)
        .await
        .expect("written");
    place
        .catalog
        .hello(agent, "h", "1", &[served("b/b")], &SourceBounds::default(), NOW)
        .await
        .expect("written");
    assert_eq!(place.catalog.agents().await.expect("read")[0].sources, [served("b/b")]);
}

#[tokio::test]
async fn backups_are_those_of_the_repository_newest_first_and_keep_what_verification_found() {
    let place = Place::new().await;
    let (old, new) = (backup("20260101_010000", 1), backup("20251231_010000", 2));
    place.catalog.replace_backups(&[old.clone(), new.clone()]).await.expect("written");
    let result = VerificationRecord {
        source: "models/a".parse().expect("a source"),
        depth: "opened".into(),
        at: NOW,
        intact: false,
        findings: vec!["pack ab is damaged".into()],
        coverage: repository::verify::Coverage { now: 5, earlier: 7, unread: 9, oldest: Some(NOW) },
    };
    place.catalog.add_verification(&new.name, &result).await.expect("written");
    let names =
        |backups: Vec<BackupRecord>| backups.into_iter().map(|backup| backup.name).collect::<Vec<_>>();
    assert_eq!(
        names(place.catalog.backups_before(None, 10).await.expect("read")),
        [new.name.clone(), old.name.clone()]
    );
    place.catalog.replace_backups(std::slice::from_ref(&new)).await.expect("written");
    assert_eq!(
        names(place.catalog.backups_before(None, 10).await.expect("read")),
        std::slice::from_ref(&new.name)
    );
    let found = place.catalog.verifications(&new.name).await.expect("read");
    assert_eq!(found, std::slice::from_ref(&result));
    let unknown: BackupName = "20200101_010000".parse().expect("a name");
    place.catalog.add_verification(&unknown, &result).await.expect("a backup that is gone is no error");
    assert_eq!(place.catalog.verifications(&unknown).await.expect("read"), []);
}

#[tokio::test]
async fn backups_come_in_pages_and_the_newest_that_fits_is_found_on_whichever() {
    let place = Place::new().await;
    let name = |sequence: u64| format!("20260101_01{:02}{:02}", sequence / 60, sequence % 60);
    for sequence in 1..=120 {
        place.catalog.put_backup(&backup(&name(sequence), sequence)).await.expect("written");
    }
    let sequences = |records: Vec<BackupRecord>| records.iter().map(|of| of.sequence).collect::<Vec<_>>();
    let page = place.catalog.backups_before(Some(119), 3).await.expect("read");
    assert_eq!(sequences(page), [118, 117, 116]);
    let newest = |within, wanted| place.catalog.newest_backup(within, move |of| of.sequence == wanted);
    assert_eq!(newest(u32::MAX, 2).await.expect("read").map(|of| of.sequence), Some(2));
    assert_eq!(newest(100, 21).await.expect("read").map(|of| of.sequence), Some(21));
    assert_eq!(newest(100, 20).await.expect("read"), None, "the hundred newest are 21 to 120");
    assert_eq!(newest(u32::MAX, 500).await.expect("read"), None);
    assert_eq!(place.catalog.backup_names().await.expect("read").len(), 120);
}

#[tokio::test]
async fn a_repeated_request_gives_the_job_that_it_started_first() {
    let place = Place::new().await;
    let (first, second) = (queued(), queued());
    assert_eq!(place.catalog.add_job(&first, Some("once"), None).await.expect("written"), Added::New);
    let again = place.catalog.add_job(&second, Some("once"), None).await.expect("read");
    assert_eq!(again, Added::Existed(Box::new(first.clone())));
    assert_eq!(place.catalog.add_job(&second, None, None).await.expect("written"), Added::New);
    assert_eq!(place.catalog.alive_jobs().await.expect("read"), [first, second]);
}

#[tokio::test]
async fn a_chatty_job_keeps_its_first_lines_and_its_last() {
    let place = Place::new().await;
    let mut job = queued();
    place.catalog.add_job(&job, None, None).await.expect("written");
    let lines = |count: usize| (0..count).map(|at| ("info", format!("line {at}"))).collect::<Vec<_>>();
    place.catalog.save_job(&job, lines(1_500), &[], NOW).await.expect("written");
    job.state = JobState::Complete;
    place.catalog.save_job(&job, vec![("info", "the end".into())], &[], NOW).await.expect("written");
    let events = place.catalog.job_events(job.id, 0).await.expect("read");
    assert_eq!((events.len(), events.last().map(|event| event.line.as_str())), (1_001, Some("the end")));
    assert_eq!(place.catalog.job_events(job.id, 1_000).await.expect("read").len(), 1);
    assert_eq!(place.catalog.alive_jobs().await.expect("read"), []);
    assert_eq!(place.catalog.job(job.id).await.expect("read"), Some(job));
}

#[tokio::test]
async fn a_planned_time_gets_one_job_and_what_waits_for_it_starts_once() {
    let place = Place::new().await;
    let planned_at: Timestamp = "2026-11-26T01:00:00Z".parse().expect("a time");
    let job = || {
        Job::queued(JobId::fresh(), Order::Backup { components: vec![], pin: None, import: None }, planned_at)
    };
    let run = Claim::Run { schedule: "daily".into(), planned_at: Some(planned_at), replaces: None };
    let (first, second) = (job(), job());
    assert_eq!(place.catalog.add_job(&first, None, Some(&run)).await.expect("written"), Added::New);
    assert_eq!(place.catalog.add_job(&second, None, Some(&run)).await.expect("read"), Added::Taken);
    assert_eq!(place.catalog.job(second.id).await.expect("read"), None, "neither is there");
    let decided = place.catalog.decided("daily").await.expect("read");
    assert_eq!(decided.iter().map(|record| record.planned_at).collect::<Vec<_>>(), [planned_at]);

    // By hand as often as anybody likes.
    let by_hand = Claim::Run { schedule: "daily".into(), planned_at: None, replaces: None };
    for _ in 0..2 {
        assert_eq!(place.catalog.add_job(&job(), None, Some(&by_hand)).await.expect("written"), Added::New);
    }
    let open = place.catalog.open_runs().await.expect("read");
    assert_eq!(open.len(), 3);
    for run in &open {
        let retention = Claim::Retention { run: run.id };
        assert_eq!(place.catalog.add_job(&job(), None, Some(&retention)).await.expect("written"), Added::New);
        assert_eq!(place.catalog.add_job(&job(), None, Some(&retention)).await.expect("read"), Added::Taken);
        place.catalog.close_run(run, &[], NOW).await.expect("written");
    }
    assert_eq!(place.catalog.open_runs().await.expect("read"), []);

    // What was missed makes room where it is decided anew, and only then.
    let missed = RunRecord {
        id: 0,
        schedule: "daily".into(),
        planned_at: Some(planned_at),
        ran_at: planned_at,
        state: RunState::Missed,
        job: None,
        retention_job: None,
        details: RunDetails::default(),
    };
    assert!(!place.catalog.add_run(&missed, None, &[]).await.expect("read"));
    assert!(place.catalog.add_run(&missed, Some(decided[0].order), &[]).await.expect("written"));
    place.catalog.withdraw_missed("daily", &[planned_at]).await.expect("written");
    assert_eq!(place.catalog.decided("daily").await.expect("read"), []);
}

#[tokio::test]
async fn proofs_of_packs_outlive_a_restart_and_fall_with_the_pack() {
    let place = Place::new().await;
    let [domain, other] = [1, 2].map(|byte| DomainId::new([byte; 16]));
    let [sound, bad, gone, elsewhere] = [1, 2, 3, 4].map(|byte| PackId::new([byte; 32]));
    let packs = |of: &[PackId]| of.iter().map(|pack| (*pack, 10)).collect::<Vec<_>>();
    let of = |domain, packs| DomainPacks { domain, packs };
    let all = [of(domain, packs(&[sound, bad, gone])), of(other, packs(&[elsewhere]))];
    let later = NOW + jiff::SignedDuration::from_secs(60);
    place.catalog.know_packs(&all, &BTreeSet::new(), NOW).await.expect("done");
    let notes = [sound, bad, gone].map(|pack| [Note::Hashed(pack, NOW), Note::Opened(pack, NOW)]).concat();
    place.catalog.add_proofs(&domain, &notes).await.expect("done");
    place.catalog.add_proofs(&domain, &[Note::Unsound(bad, later)]).await.expect("done");
    let place = place.reopened().await;

    let fewer = [of(domain, packs(&[sound, bad]))];
    let known = place.catalog.know_packs(&fewer, &BTreeSet::new(), later).await.expect("done");
    let proof = Some(PackProof { hashed: NOW, opened: Some(NOW) });
    assert_eq!(known[&sound], KnownPack { seen_at: NOW, proof, bad_at: None });
    assert_eq!(known[&bad], KnownPack { seen_at: NOW, proof: None, bad_at: Some(later) });
    assert_eq!(known.len(), 2, "one is gone, and of the other domain nothing was asked");
    let known = place.catalog.know_packs(&all, &BTreeSet::from([sound]), later).await.expect("done");
    assert_eq!(known[&sound].proof, None, "what carries a mark has no proof");
    assert_eq!(known[&gone], KnownPack { seen_at: later, proof: None, bad_at: None }, "it is new again");
    assert_eq!(known[&elsewhere].seen_at, NOW);
    place.catalog.add_proofs(&domain, &[Note::Hashed(bad, later)]).await.expect("done");
    let known = place.catalog.know_packs(&fewer, &BTreeSet::new(), later).await.expect("done");
    assert_eq!(known[&bad].bad_at, None, "found sound since");
}

#[tokio::test]
async fn a_removed_schedule_has_missed_nothing_and_an_empty_run_tells_what_it_has_seen() {
    use crate::alerts::{Event, Kind};

    let place = Place::new().await;
    let open = async |catalog: &Catalog| {
        catalog
            .open_alerts()
            .await
            .expect("read")
            .into_iter()
            .map(|open| open.event.subject)
            .collect::<Vec<_>>()
    };
    for name in ["daily", "weekly"] {
        place.catalog.raise_alerts(&[Event::raised(Kind::BackupMissed, name)], NOW).await.expect("written");
    }
    place.catalog.remove_schedule("daily", NOW).await.expect("removed");
    assert_eq!(open(&place.catalog).await, ["weekly"]);

    let run = RunRecord {
        id: 0,
        schedule: "check".to_owned(),
        planned_at: Some(NOW),
        ran_at: NOW,
        state: RunState::Waiting,
        job: None,
        retention_job: None,
        details: RunDetails::default(),
    };
    assert!(place.catalog.add_run(&run, None, &[]).await.expect("written"));
    let run = place.catalog.last_run("check").await.expect("read").expect("there");
    let run = RunRecord { state: RunState::Empty, ..run };
    place.catalog.close_run(&run, &[Event::raised(Kind::BackupMissed, "check")], NOW).await.expect("closed");
    assert_eq!(open(&place.catalog).await, ["check", "weekly"]);
}

#[tokio::test]
async fn a_proof_of_a_time_to_come_proves_nothing_and_what_was_found_bad_then_stays_bad() {
    let place = Place::new().await;
    let domain = DomainId::new([1; 16]);
    let [hashed, opened, bad, page] = [1, 2, 3, 4].map(|byte| PackId::new([byte; 32]));
    let page = repository::ids::BlobId::new(*page.as_bytes());
    let packs = [hashed, opened, bad].map(|pack| (pack, 10)).to_vec();
    let all = [DomainPacks { domain, packs }];
    let ahead = NOW + jiff::SignedDuration::from_hours(24);
    place.catalog.know_packs(&all, &BTreeSet::new(), ahead).await.expect("done");
    let notes = [
        Note::Hashed(hashed, ahead),
        Note::Hashed(opened, NOW),
        Note::Opened(opened, ahead),
        Note::Unsound(bad, ahead),
        Note::Page(page, ahead),
    ];
    place.catalog.add_proofs(&domain, &notes).await.expect("done");
    let known = place.catalog.know_packs(&all, &BTreeSet::new(), NOW).await.expect("done");
    let nothing = KnownPack { seen_at: NOW, proof: None, bad_at: None };
    assert_eq!((known[&hashed], known[&opened]), (nothing, nothing));
    assert_eq!(known[&bad], KnownPack { bad_at: Some(NOW), ..nothing });
    let pages = place.catalog.proven_pages(&domain, NOW, NOW).await.expect("done").pages;
    assert!(pages.is_empty(), "{pages:?}");
    // What was forgotten does not come back with the time.
    let known = place.catalog.know_packs(&all, &BTreeSet::new(), ahead).await.expect("done");
    assert_eq!(known[&hashed].proof, None);
}

#[tokio::test]
async fn a_run_that_goes_on_is_not_the_run_before_itself() {
    let place = Place::new().await;
    let [first, second] = [NOW, NOW + jiff::SignedDuration::from_secs(60)];
    assert_eq!(place.catalog.begin_run("opened", first).await.expect("done"), None);
    assert_eq!(place.catalog.begin_run("opened", first).await.expect("done"), None);
    assert_eq!(place.catalog.begin_run("opened", second).await.expect("done"), Some(first));
    assert_eq!(place.catalog.begin_run("opened", second).await.expect("done"), Some(first));
    assert_eq!(place.catalog.begin_run("hashed", second).await.expect("done"), None);
}

mod signers {
    use repository::backup::manifest::SignedHeight;
    use repository::names::SourceId;

    use super::*;

    fn source(name: &str) -> SourceId {
        format!("blockchain/{name}").parse().expect("a source")
    }

    fn signed(height: i64) -> SignedHeight {
        SignedHeight { height, round: 0, step: 3 }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in this age")
    }

    async fn sees(catalog: &Catalog, place: &str, key: Option<&str>, height: i64, second: i64) {
        let seen = Seen::in_manifest(source(place), key.map(str::to_owned), signed(height), at(second));
        catalog.saw_signed(&seen).await.expect("kept");
    }

    async fn state(catalog: &Catalog, id: &str, height: i64, second: i64) {
        let known = catalog.signers().await.expect("listed");
        let mut one = known.into_iter().find(|one| one.id == id).expect("it is known");
        (one.signed, one.seen_at) = (signed(height), at(second));
        one.stated = Some((at(second), "somebody".into(), "why".into()));
        catalog.state_signed(&[one]).await.expect("kept");
    }

    async fn of(catalog: &Catalog, place: &str, key: Option<&str>) -> Option<i64> {
        catalog.signed(&source(place), key).await.expect("read").map(|signed| signed.0)
    }

    #[tokio::test]
    async fn what_was_seen_without_a_key_counts_for_every_key_of_its_source_and_is_taken_from_none() {
        let Place { catalog, home: _home } = Place::new().await;
        sees(&catalog, "s", Some("a"), 100, 1).await;
        sees(&catalog, "s", None, 5_000, 2).await;
        // Another key is put there, and signs little.
        sees(&catalog, "s", Some("b"), 7, 3).await;
        assert_eq!(of(&catalog, "s", Some("a")).await, Some(5_000));
        assert_eq!(of(&catalog, "s", Some("b")).await, Some(5_000));
        // Wherever the first goes, it may be its own; a stranger's it is not.
        sees(&catalog, "t", Some("a"), 120, 4).await;
        assert_eq!(of(&catalog, "t", Some("a")).await, Some(5_000));
        sees(&catalog, "t", Some("c"), 9, 4).await;
        assert_eq!(of(&catalog, "t", Some("c")).await, Some(9));
        // Each has what it was seen to sign, and the source what was seen without a key.
        let known = catalog.signers().await.expect("listed");
        let mut heights: Vec<_> = known.iter().map(|one| (one.id.as_str(), one.signed.height)).collect();
        heights.sort_unstable();
        assert_eq!(heights, [("a", 120), ("b", 7), ("blockchain/s", 5_000), ("c", 9)]);
        let a = known.iter().find(|one| one.id == "a").expect("known");
        assert_eq!((a.source.clone(), a.places.clone()), (Some(source("t")), vec![source("s"), source("t")]));
        // Of a source: all that was ever seen there, also what a key has signed elsewhere since.
        sees(&catalog, "t", Some("b"), 8_000, 5).await;
        let here = catalog.signed_here(&source("s")).await.expect("read").map(|signed| signed.0);
        assert_eq!(here, Some(8_000));
        assert_eq!(catalog.signed_here(&source("u")).await.expect("read"), None);
    }

    #[tokio::test]
    async fn of_a_source_counts_what_was_seen_without_a_key_wherever_one_of_its_keys_was() {
        let Place { catalog, home: _home } = Place::new().await;
        let here = async || catalog.signed_here(&source("s")).await.expect("read").map(|signed| signed.0);
        sees(&catalog, "s", Some("a"), 100, 1).await;
        sees(&catalog, "t", Some("a"), 110, 2).await;
        sees(&catalog, "t", None, 6_000, 3).await;
        // Nobody of here was there.
        sees(&catalog, "u", None, 9_000, 3).await;
        assert_eq!(here().await, Some(6_000));
        // Whoever looked the key's height up knows better.
        state(&catalog, "a", 200, 4).await;
        assert_eq!(here().await, Some(200));
    }

    #[tokio::test]
    async fn that_a_key_is_elsewhere_is_told_in_the_change_that_says_so() {
        let Place { catalog, home: _home } = Place::new().await;
        sees(&catalog, "s", Some("a"), 100, 1).await;
        let count = async || {
            let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM alert_events");
            count.fetch_one(&catalog.readers).await.expect("counted")
        };
        let run = async |statement: &'static str| {
            let mut change = catalog.change().await.expect("begun");
            sqlx::query(statement).execute(&mut *change).await.expect("done");
            change.commit().await.expect("kept");
        };
        let there = Seen::in_manifest(source("t"), Some("a".into()), signed(110), at(2));
        run("CREATE TRIGGER full BEFORE INSERT ON alert_events BEGIN SELECT RAISE(ABORT, 'full'); END").await;
        catalog.sees_signed(&there, NOW).await.expect_err("the alert cannot be kept");
        assert_eq!(count().await, 0);
        // Nothing was kept, so it is told when it is tried again, and once.
        run("DROP TRIGGER full").await;
        for _ in 0..2 {
            catalog.sees_signed(&there, NOW).await.expect("kept");
            assert_eq!(count().await, 1);
        }
        // A rebuild tells nobody.
        sees(&catalog, "u", Some("a"), 110, 3).await;
        assert_eq!(count().await, 1);
    }

    #[tokio::test]
    async fn what_was_seen_without_a_key_before_a_key_s_height_was_stated_counts_no_more_for_that_key() {
        let Place { catalog, home: _home } = Place::new().await;
        sees(&catalog, "s", None, 1_000_000, 1).await;
        sees(&catalog, "s", Some("a"), 3, 2).await;
        sees(&catalog, "s", Some("b"), 4, 2).await;
        state(&catalog, "a", 0, 10).await;
        assert_eq!(of(&catalog, "s", Some("a")).await, Some(0));
        assert_eq!(of(&catalog, "s", Some("b")).await, Some(1_000_000), "nobody has said so of this one");
        sees(&catalog, "s", Some("a"), 5, 20).await;
        assert_eq!(of(&catalog, "s", Some("a")).await, Some(5));
        // What is seen since does, though it is less than what was seen before.
        sees(&catalog, "s", None, 4_000, 30).await;
        assert!(of(&catalog, "s", Some("a")).await >= Some(4_000));
        state(&catalog, "blockchain/s", 0, 40).await;
        assert_eq!(of(&catalog, "s", Some("a")).await, Some(5));
        assert_eq!(of(&catalog, "s", Some("b")).await, Some(4));
    }
}
