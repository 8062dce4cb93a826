//! What is in a copy, and that it does not grow.

use std::collections::BTreeSet;

use super::*;
use crate::jobs::{Job, JobState, Order};

async fn catalog(folder: &Path) -> Catalog {
    Catalog::open(&folder.join("catalog.sqlite")).await.expect("opened")
}

fn ended(second: i64) -> Job {
    let order = Order::Backup { components: Vec::new(), pin: None, import: None };
    let at = Timestamp::from_second(1_700_000_000 + second).expect("in this age");
    Job { state: JobState::Complete, ended_at: Some(at), ..Job::queued(JobId::fresh(), order, at) }
}

async fn add(catalog: &Catalog, job: &Job) {
    let queued = Job { state: JobState::Queued, ..job.clone() };
    catalog.add_job(&queued, None, None).await.expect("added");
    let lines = vec![("info", "it was done".to_owned())];
    catalog.save_job(job, lines, &[], job.created_at).await.expect("saved");
}

#[tokio::test]
async fn every_table_has_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = catalog(folder.path()).await;
    let there: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'",
    )
    .fetch_all(&catalog.readers)
    .await
    .expect("read");
    let listed: BTreeSet<&str> = TABLES.iter().map(|(table, _)| *table).collect();
    assert_eq!(
        there.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        listed,
        "a new table: say in TABLES how much of it a copy carries; what grows with every job needs a limit"
    );
}

#[tokio::test]
async fn a_copy_is_a_catalog_with_the_state_files_in_it_and_has_no_more_jobs_than_its_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let live = catalog(folder.path()).await;
    for second in 0..40 {
        add(&live, &ended(second)).await;
    }
    let unstored = live.unstored_jobs().await.expect("read");
    assert_eq!(unstored.jobs.len(), 40);
    live.set_stored(&unstored.jobs[..30]).await.expect("written");
    let copied = folder.path().join("copy.sqlite");
    let files = [("ca.key".to_owned(), Zeroizing::new(b"-- the authority --".to_vec()))];
    live.copy_to(&copied, &files).await.expect("copied");
    let copy = Catalog::open(&copied).await.expect("a catalog");
    let taken = copy.take_state_files().await.expect("taken");
    assert_eq!(taken, files);
    // The ten that no file of history has, and of the others those that make it twenty.
    assert_eq!(copy.figures().await.expect("counted")[2], 20);
    copy.close().await;
    let bytes = std::fs::read(&copied).expect("read");
    assert!(
        !bytes.windows(19).any(|part| part == b"-- the authority --"),
        "no key stays in the catalog's file"
    );
}

#[tokio::test]
async fn history_is_taken_from_other_copies_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let live = catalog(folder.path()).await;
    let jobs: Vec<Job> = (0..5).map(ended).collect();
    for job in &jobs {
        add(&live, job).await;
    }
    let file = folder.path().join("history.sqlite");
    live.copy_history_to(&file, &[jobs[1].id, jobs[3].id]).await.expect("copied");
    let new = Catalog::open(&folder.path().join("new.sqlite")).await.expect("opened");
    for _ in 0..2 {
        new.add_history_of(&file).await.expect("taken");
    }
    let found: Vec<JobId> = new.jobs(10).await.expect("listed").iter().map(|job| job.id).collect();
    assert_eq!(found, [jobs[3].id, jobs[1].id]);
    assert_eq!(new.job_events(jobs[1].id, 0).await.expect("listed").len(), 1);
}

#[tokio::test]
async fn a_run_of_long_ago_that_history_tells_of_is_not_the_last_one_of_its_schedule() {
    let folder = tempfile::tempdir().expect("a folder");
    let live = lived(folder.path(), 600).await;
    let (copy, history) = (folder.path().join("copy.sqlite"), folder.path().join("history.sqlite"));
    live.copy_to(&copy, &[]).await.expect("copied");
    // What the copy is too short for is in a file of history.
    let other = live.begin_copy(&history, &[("schedule_runs", Carried::Whole)], None).await.expect("begun");
    end_copy(other).await.expect("ended");
    let new = Catalog::open(&copy).await.expect("opened");
    for _ in 0..2 {
        new.add_history_of(&history).await.expect("taken");
        let last = new.last_run("daily").await.expect("read").expect("there is one");
        assert_eq!(crate::catalog::micros(last.planned_at.expect("by the clock")), 600);
    }
    let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM schedule_runs")
        .fetch_one(&new.readers)
        .await
        .expect("counted");
    assert_eq!(runs, 600);
}

/// The catalog of a controller that has done so many jobs, each with a line, a run of a schedule and an alert.
async fn lived(folder: &Path, jobs: u32) -> Catalog {
    let live = catalog(folder).await;
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)";
    for insert in [
        "INSERT INTO jobs (id, ended, created_at, record, stored) SELECT printf('job %09d', i), 1, i, '{}', 1",
        "INSERT INTO job_events SELECT printf('job %09d', i), 1, i, 'info', 'a line of some length'",
        "INSERT INTO schedule_runs (schedule, planned_at, ran_at, state, open, record)
             SELECT 'daily', i, i, 'started', 0, '{}'",
        "INSERT INTO alert_events (id, at, record, routed) SELECT printf('event %09d', i), i, '{}', 1",
        "INSERT INTO alert_outbox (id, sink, made_at, state, next_at, record)
             SELECT printf('message %09d', i), 'mail', i, 'delivered', i, '{}'",
        "INSERT INTO backups (name, sequence, record) SELECT printf('backup %09d', i), i, '{}'",
        "INSERT INTO verifications (backup, component, source, depth, at, intact, findings)
             SELECT printf('backup %09d', i), 'models', 'models', 'opened', i, 1, '[]'",
        "INSERT INTO pack_proofs (pack, domain, seen_at) SELECT randomblob(32), randomblob(16), i",
    ] {
        let sql = format!("{} {numbers} {} FROM n", split(insert).0, split(insert).1);
        sqlx::query(AssertSqlSafe(sql)).bind(jobs).execute(&live.writer).await.expect("inserted");
    }
    live
}

/// Before and from the word SELECT on.
fn split(insert: &str) -> (&str, &str) {
    insert.split_at(insert.find("SELECT").expect("it selects"))
}

#[tokio::test]
async fn the_copy_of_a_long_life_is_no_larger_than_that_of_a_short_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sizes = Vec::new();
    for jobs in [1_000, 30_000] {
        let home = folder.path().join(jobs.to_string());
        std::fs::create_dir(&home).expect("made");
        let live = lived(&home, jobs).await;
        let began = std::time::Instant::now();
        live.copy_to(&home.join("copy.sqlite"), &[]).await.expect("copied");
        println!("{jobs} jobs: copied in {:?}", began.elapsed());
        sizes.push(home.join("copy.sqlite").metadata().expect("there").len());
    }
    assert!(sizes[1] * 10 <= sizes[0] * 11, "{sizes:?} bytes");
}

/// A catalog that says this of one validator: seen at these seconds to have signed up to these heights, `None`: stated.
async fn of_validator(folder: &Path, name: &str, told: &[(i64, i64, bool)]) -> Catalog {
    let catalog = Catalog::open(&folder.join(name)).await.expect("opened");
    for (second, height, is_stated) in told {
        let at = Timestamp::from_second(*second).expect("in this age");
        let signed = repository::backup::manifest::SignedHeight { height: *height, round: 0, step: 3 };
        let source: repository::names::SourceId = "blockchain/chain".parse().expect("a source");
        match is_stated {
            false => {
                let seen = crate::catalog::Seen::in_manifest(source, Some("one".to_owned()), signed, at);
                catalog.saw_signed(&seen).await.expect("kept");
            }
            true => {
                let record = crate::catalog::SignerRecord {
                    id: "one".to_owned(),
                    address: None,
                    source: Some(source),
                    places: Vec::new(),
                    signed,
                    seen_at: at,
                    stated: Some((at, "somebody".to_owned(), "why".to_owned())),
                };
                catalog.state_signed(&[record]).await.expect("kept");
            }
        }
    }
    catalog
}

#[tokio::test]
async fn of_two_histories_a_later_sight_is_not_lowered_by_an_older_statement_of_the_other() {
    type Told<'a> = &'a [(i64, i64, bool)];
    let cases: [(Told<'_>, Told<'_>, i64); 5] = [
        // Ours has seen more after the other's statement.
        (&[(30, 900, false)], &[(10, 500, false), (20, 100, true)], 900),
        // And the other after ours.
        (&[(10, 500, false), (20, 100, true)], &[(30, 900, false)], 900),
        // What was seen before it does not count, on either side.
        (&[(10, 900, false)], &[(20, 100, true)], 100),
        (&[(20, 100, true), (30, 200, false)], &[(10, 900, false)], 200),
        // The later statement, and what either has seen after it.
        (&[(10, 900, true), (25, 950, false)], &[(20, 100, true), (30, 120, false)], 950),
    ];
    for (at, (ours, theirs, expected)) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().expect("a folder");
        let live = of_validator(folder.path(), "ours", ours).await;
        let other = of_validator(folder.path(), "theirs", theirs).await;
        other.close().await;
        for _ in 0..2 {
            live.add_history_of(&folder.path().join("theirs")).await.expect("taken");
        }
        let known = live.signers().await.expect("listed");
        assert_eq!((known[0].signed.height, known.len()), (expected, 1), "case {at}");
        let later = ours.iter().chain(theirs).filter(|told| told.2).map(|told| told.0).max();
        let stated = known[0].stated.as_ref().map(|(at, _, _)| at.as_second());
        assert_eq!(stated, later, "case {at}");
    }
}
