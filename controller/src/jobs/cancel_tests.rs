use std::sync::Arc;
use std::time::Duration;

use runtime::clock::SystemClock;
use runtime::shutdown::Shutdown;
use tokio::sync::mpsc;

use super::*;
use crate::catalog::Catalog;
use crate::config::ControllerConfig;
use crate::depot::Depot;
use crate::fleet::Fleet;
use crate::jobs::job::{Job, JobState, Order};
use crate::jobs::runner::Mailbox;
use crate::jobs::{Configured, Settings};
use crate::state::StateFolder;

const PATIENCE: Duration = Duration::from_secs(5);

/// A runner that starts nothing by itself.
async fn runner(home: &std::path::Path) -> Runner {
    let config = ControllerConfig { repository: home.join("backups").into(), ..ControllerConfig::default() };
    let state = StateFolder::open(&home.join("state")).expect("opened");
    let clock = Arc::new(SystemClock);
    let depot = Depot::open(&config, &state, runtime::clock::Clock::now(&*clock)).expect("made");
    let settings = Settings {
        agent_wait: Duration::ZERO,
        jobs_folder: home.join("jobs"),
        state_folder: home.join("state"),
        jobs_kept_for: config.history.kept_for(),
        retention: Configured {
            rules: config.retention.rules(),
            is_declared: config.retention_is_declared,
            zone: config.zone(),
        },
        ended: Arc::default(),
        verification: config.verification.goal(),
        metrics: crate::metrics::Metrics::default(),
        restore_pods: crate::kubernetes::RestorePods::default(),
    };
    let catalog = Catalog::open(&home.join("catalog.sqlite")).await.expect("opened");
    Runner::new(catalog, Arc::new(depot), Fleet::new(), clock, settings, Shutdown::new())
}

fn backup() -> Order {
    Order::Backup { components: Vec::new(), pin: None, import: None }
}

/// A job with an owner that the test plays.
async fn owned(runner: &Runner) -> (Job, mpsc::Receiver<crate::jobs::runner::Mail>) {
    let job = runner.submit(backup(), None).await.expect("ordered");
    let (sender, mail) = mpsc::channel(8);
    lock(&runner.shared.running).insert(job.id, Mailbox(sender));
    (job, mail)
}

#[tokio::test]
async fn a_cancel_that_waits_for_a_jobs_owner_holds_nobody_else_up() {
    let home = tempfile::tempdir().expect("a folder");
    let runner = runner(home.path()).await;
    let (job, mut mail) = owned(&runner).await;
    let cancel = tokio::spawn({
        let runner = runner.clone();
        async move { runner.cancel(job.id).await }
    });
    let asked = mail.recv().await.expect("it is asked");
    let other = tokio::time::timeout(PATIENCE, runner.submit(backup(), None)).await;
    other.expect("it does not wait for the first").expect("ordered");
    // The owner gives up without an answer: nobody owns the job, and it ends in the queue.
    lock(&runner.shared.running).remove(&job.id);
    drop((asked, mail));
    cancel.await.expect("done").expect("cancelled");
    let job = runner.shared.catalog.job(job.id).await.expect("read").expect("there");
    assert_eq!(job.state, JobState::Cancelled);
}

#[tokio::test]
async fn a_cancel_that_no_owner_takes_is_not_told_as_done() {
    let home = tempfile::tempdir().expect("a folder");
    let runner = runner(home.path()).await;
    let (job, mail) = owned(&runner).await;
    drop(mail);
    let told = runner.cancel(job.id).await;
    assert!(matches!(told, Err(CancelError::NotTaken)), "{told:?}");
}
