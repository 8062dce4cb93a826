//! What is in a copy, and that it does not grow.

use std::collections::BTreeSet;

use super::*;
use crate::jobs::{Job, JobState, Order};

async fn catalog(folder: &Path) -> Catalog {
    Catalog::open(&folder.join("catalog.sqlite")).await.expect("opened")
}

fn ended(second: i64) -> Job {
    let order = Order::Backup { components: Vec::new(), pin: None };
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
