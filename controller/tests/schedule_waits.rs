//! A verification that waits for a backup: over real sockets, with an agent that takes its time.

mod support;

use controller::app::ScheduleView;
use controller::catalog::{RunDetails, RunRecord, RunState};
use controller::config::{Components, Schedule, VerifyDepth, VerifySchedule};
use controller::ids::JobId;
use controller::jobs::JobState;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proto::v1::JobState as WireState;
use repository::names::BackupName;
use runtime::config::Duration;
use support::agent::{Agent, join};
use support::archive::files;
use support::{PATIENCE, Running, now, start, state};

/// A verification that was due two minutes ago and comes again tomorrow.
async fn due_now(running: &Running, name: &str, wait_for_backup: Duration) {
    let due: Timestamp = now() - SignedDuration::from_mins(2);
    let civil = due.to_zoned(TimeZone::UTC);
    let schedule = Schedule::Verify(VerifySchedule {
        cron: format!("{} {} * * *", civil.minute(), civil.hour()).parse().expect("a cron text"),
        components: Components::All,
        depth: VerifyDepth::Opened,
        wait_for_backup,
        retention: true,
        catch_up: Duration::from_secs(3_600),
        jitter: Duration::from_secs(0),
        time_zone: None,
    });
    running.app.set_schedule(name, schedule).await.expect("set");
    let before = due - SignedDuration::from_mins(2);
    running.app.catalog.set_owed_from(name, before).await.expect("written");
    running.app.scheduler.wake().notify_one();
}

/// The schedule, once `wanted` is true of it.
async fn awaited(running: &Running, name: &str, wanted: impl Fn(&ScheduleView) -> bool) -> ScheduleView {
    let look = async {
        loop {
            let all = running.app.schedules().await.expect("listed");
            let found = all.into_iter().find(|view| view.record.name == name).expect("it is there");
            if wanted(&found) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("it comes to that")
}

fn run_state(view: &ScheduleView) -> Option<RunState> {
    view.last.as_ref().map(|last| last.state)
}

/// The backup that the schedule's verification has looked at, and how that ended.
fn verified(view: &ScheduleView) -> (Option<BackupName>, Option<JobState>) {
    let job = view.job.as_ref();
    (job.and_then(|job| job.backup.clone()), job.map(|job| job.state))
}

fn note_of(view: &ScheduleView) -> &str {
    view.last.as_ref().and_then(|last| last.details.note.as_deref()).unwrap_or_default()
}

/// A run of yesterday's planned time whose job has ended in the last life.
async fn begun(running: &Running, schedule: &str, job: JobId) {
    let run = RunRecord {
        id: 0,
        schedule: schedule.to_owned(),
        planned_at: Some(now() - SignedDuration::from_hours(24)),
        ran_at: now(),
        state: RunState::Started,
        job: Some(job),
        retention_job: None,
        details: RunDetails::default(),
    };
    assert!(running.app.catalog.add_run(&run, None, &[]).await.expect("written"));
    running.app.scheduler.wake().notify_one();
}

/// The schedule once its run has a note.
async fn settled(running: &Running, view: ScheduleView) -> ScheduleView {
    awaited(running, &view.record.name, |view| !note_of(view).is_empty()).await
}

async fn finish(running: &Running, agent: &mut Agent, job: &str, content: &str) -> BackupName {
    let order = agent.expect_archive().await;
    let repository = running.app.repository_id().as_bytes().to_vec();
    assert!(agent.make_archive(&repository, &order, &files(content)).await.accepted);
    let (job, lines) = running.ended(job).await;
    assert_eq!(state(&job), WireState::Complete, "{lines:?}");
    job.backup.parse().expect("a name")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_waits_for_the_backup_that_runs_and_past_its_limit_takes_the_newest() {
    let home = tempfile::tempdir().expect("a folder");
    let running = start(home.path()).await;
    due_now(&running, "empty", Duration::from_secs(3_600)).await;
    awaited(&running, "empty", |view| run_state(view) == Some(RunState::Empty)).await;

    let joined = join(running.addresses.grpc, &running.token().await, "agent").await.expect("joined");
    let mut agent = joined.connect(running.addresses.grpc, &["models/a"]).await.expect("connected");
    let job = running.start_backup(&[]).await;
    let first = finish(&running, &mut agent, &job.id, "one").await;

    let job = running.start_backup(&[]).await;
    due_now(&running, "patient", Duration::from_secs(3_600)).await;
    awaited(&running, "patient", |view| run_state(view) == Some(RunState::Waiting)).await;
    due_now(&running, "hasty", Duration::from_secs(0)).await;
    awaited(&running, "hasty", |view| run_state(view).is_some()).await;
    running.app.scheduler.wake().notify_one();
    let hasty = awaited(&running, "hasty", |view| view.retention.is_some()).await;
    assert_eq!(verified(&hasty), (Some(first), Some(JobState::Complete)));
    let note = hasty.last.and_then(|last| last.details.note).expect("it says why");
    assert!(note.contains("still ran after 0s"), "{note}");

    // Of a schedule that is paused meanwhile nothing begins any more.
    due_now(&running, "halted", Duration::from_secs(3_600)).await;
    awaited(&running, "halted", |view| run_state(view) == Some(RunState::Waiting)).await;
    running.app.pause_schedule("halted").await.expect("paused");
    let halted = awaited(&running, "halted", |view| run_state(view) == Some(RunState::Skipped)).await;
    assert_eq!(note_of(&halted), "the schedule is paused");

    let patient = awaited(&running, "patient", |_| true).await;
    assert_eq!(run_state(&patient), Some(RunState::Waiting), "it waits on");
    let second = finish(&running, &mut agent, &job.id, "two").await;
    let patient = awaited(&running, "patient", |view| {
        view.retention.as_ref().is_some_and(|job| job.state == JobState::Complete)
    })
    .await;
    assert_eq!(verified(&patient), (Some(second), Some(JobState::Complete)));
    assert_eq!(patient.last.as_ref().and_then(|last| last.details.note.clone()), None);

    // Nothing is removed for a schedule that was paused after its verification, or whose job verified nothing.
    let verification = patient.job.expect("it was verified").id;
    begun(&running, "halted", verification).await;
    let halted = awaited(&running, "halted", |view| run_state(view) == Some(RunState::Started)).await;
    let halted = settled(&running, halted).await;
    assert_eq!(note_of(&halted), "nothing was removed: the schedule is paused");
    begun(&running, "patient", job.id.parse().expect("an id")).await;
    let patient = awaited(&running, "patient", |view| view.retention.is_none()).await;
    let patient = settled(&running, patient).await;
    assert_eq!(note_of(&patient), "nothing was removed: the verification did not go through");
    running.stop().await;
}
