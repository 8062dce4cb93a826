//! What a verification relies on, over time: a controller whose clock the test sets, and an agent.

mod support;

use std::path::Path;
use std::sync::Arc;

use controller::config::Verifying;
use jiff::{SignedDuration, Timestamp};
use proto::v1::{Depth, Job, JobState, Proven, StartVerifyRequest};
use runtime::clock::{Clock, SystemClock};
use support::agent::join;
use support::archive::files;
use support::{Running, start_as, state};

/// A clock that is ahead of the system's by so much.
struct Ahead(SignedDuration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.0
    }
}

async fn start_later(home: &Path, days: i64) -> Running {
    let clock = Arc::new(Ahead(SignedDuration::from_hours(24 * days)));
    let budget = Some("1B".parse().expect("a size"));
    start_as(home, Verifying { budget, ..Verifying::default() }, clock).await
}

async fn verify(running: &Running, wanted: StartVerifyRequest) -> (Job, Proven, Vec<String>) {
    let wanted = StartVerifyRequest { depth: Depth::Hashed.into(), ..wanted };
    let job = running.jobs().await.start_verify(wanted).await.expect("ordered").into_inner();
    let (job, lines) = running.ended(&job.id).await;
    let proven = job.parts[0].proven.clone().expect("a verification says what is proven");
    (job, proven, lines)
}

/// A controller that has one backup, of one agent.
async fn with_a_backup(home: &Path) -> Running {
    let running = start_later(home, 0).await;
    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    let order = agent.expect_archive().await;
    let repository = running.app.repository_id().as_bytes().to_vec();
    agent.make_archive(&repository, &order, &files("hello")).await;
    running.ended(&job.id).await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_kept_until_a_proof_would_get_too_old_and_then_exceeded_and_told() {
    let home = tempfile::tempdir().expect("a folder");
    let running = with_a_backup(home.path()).await;

    // Two packs, data and metadata, and a budget that reads one of them.
    let (job, first, lines) = verify(&running, StartVerifyRequest::default()).await;
    assert_eq!(state(&job), JobState::Incomplete, "{lines:?}");
    assert!(first.now_bytes > 0 && first.unread_bytes > 0 && first.earlier_bytes == 0, "{first:?}");
    assert!(job.parts[0].reason.contains("were never read"), "{}", job.parts[0].reason);
    let (job, second, _) = verify(&running, StartVerifyRequest::default()).await;
    assert_eq!((state(&job), second.unread_bytes), (JobState::Complete, 0));
    assert_eq!(second.earlier_bytes, first.now_bytes, "what the first has read");
    running.stop().await;

    let running = start_later(home.path(), 10).await;
    let (job, third, lines) = verify(&running, StartVerifyRequest::default()).await;
    assert_eq!(state(&job), JobState::Complete, "{lines:?}");
    assert!(third.earlier_bytes > 0, "{third:?}");
    assert!(lines.iter().all(|line| !line.contains("beyond the budget")), "{lines:?}");
    let oldest = third.oldest.expect("told").seconds;
    let age = support::now().as_second() + 10 * 86_400 - oldest;
    assert!((9 * 86_400..11 * 86_400).contains(&age), "its oldest proof is of the first days: {age}");
    running.stop().await;

    // Weeks without a run: all of it is too old.
    let running = start_later(home.path(), 45).await;
    let (job, fourth, lines) = verify(&running, StartVerifyRequest::default()).await;
    assert_eq!(state(&job), JobState::Complete, "{lines:?}");
    assert_eq!((fourth.earlier_bytes, fourth.unread_bytes), (0, 0), "all of it was read: {fourth:?}");
    assert!(lines.iter().any(|line| line.contains("beyond the budget of 1 B")), "{lines:?}");
    assert!(fourth.notes.iter().any(|note| note.contains("everything_within")), "{fourth:?}");
    let all = StartVerifyRequest { all: true, ..StartVerifyRequest::default() };
    let (_, whole, _) = verify(&running, all).await;
    assert_eq!(whole.now_bytes, fourth.now_bytes);
    let both = StartVerifyRequest { all: true, budget_bytes: 1, ..StartVerifyRequest::default() };
    running.jobs().await.start_verify(both).await.expect_err("they exclude each other");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_proven_while_the_clock_was_ahead_is_read_again() {
    let home = tempfile::tempdir().expect("a folder");
    let running = with_a_backup(home.path()).await;
    running.stop().await;

    // The clock is a month ahead for one verification.
    let running = start_later(home.path(), 30).await;
    let all = || StartVerifyRequest { all: true, ..StartVerifyRequest::default() };
    let (job, _, lines) = verify(&running, all()).await;
    assert_eq!(state(&job), JobState::Complete, "{lines:?}");
    running.stop().await;

    // The clock is put right, and every pack has lost a bit.
    let running = start_later(home.path(), 0).await;
    support::damage_packs(home.path());
    let (job, proven, lines) = verify(&running, all()).await;
    assert_eq!(state(&job), JobState::Failed, "{proven:?} {lines:?}");
    running.stop().await;
}
