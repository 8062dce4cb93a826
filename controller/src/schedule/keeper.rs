//! The loop: looks at the clock, has jobs ordered, follows what was begun.
//!
//! Must stay true: it may be interrupted anywhere; each look begins with what the catalog says and asks for
//! everything that is not there yet. It sleeps until the next time that is due, and never for longer than
//! [`LOOK_AGAIN`]: a clock that was put forward is noticed by then.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::Failure;
use repository::backup::manifest::BackupRecord;
use repository::names::{BackupName, Component};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::alerts;
use crate::app::backups::holds_complete;
use crate::app::{App, HowMuch};
use crate::catalog::{CatalogError, Claim, RunDetails, RunRecord, RunState, ScheduleRecord};
use crate::config::{Schedule, VerifySchedule};
use crate::ids::JobId;
use crate::jobs::Job;
use crate::jobs::job::{JobState, Order};
use crate::jobs::safety::Safety;
use crate::schedule::defined::{depth, timing};
use crate::schedule::event;
use crate::schedule::plan::{Due, Facts};
use crate::schedule::target::{Wanted, target};

/// The clock is looked at this often, whatever is due.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// A clock that differs by so much from the time that has passed was set.
const CLOCK_WAS_SET: SignedDuration = SignedDuration::from_secs(60);

/// By schedule: since when the clock was seen to be before what the schedule owes from.
type Behind = HashMap<String, Instant>;

/// Keeps the schedules until the stop.
pub(crate) async fn keep(app: App, stop: CancellationToken) {
    let mut last_look: Option<(Timestamp, Instant)> = None;
    let mut behind = Behind::new();
    loop {
        let now = app.now();
        if let Some((time, instant)) = last_look {
            note_clock(time, now, instant.elapsed());
        }
        last_look = Some((now, Instant::now()));
        let next = match look(&app, &mut behind).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(
                    error = proto::failure::chain(&error),
                    "the schedules cannot be read; it is tried again"
                );
                None
            }
        };
        let until = next.and_then(|next| Duration::try_from(next.duration_since(app.now())).ok());
        let woken = tokio::time::timeout(
            until.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN),
            app.scheduler.wake().notified(),
        );
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // By time, or since something has changed.
            _ = woken => {}
        }
    }
}

/// A clock that was set is told: what follows from it would be a riddle.
fn note_clock(before: Timestamp, now: Timestamp, passed: Duration) {
    let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
    let off = now.duration_since(before).saturating_sub(passed);
    if off.abs() >= CLOCK_WAS_SET {
        tracing::warn!(seconds = off.as_secs(), %now, "the clock was set");
    }
}

/// One look at everything; says when the next schedule is due.
async fn look(app: &App, behind: &mut Behind) -> Result<Option<Timestamp>, CatalogError> {
    let _turn = app.scheduler.turn().await;
    let mut schedules = app.catalog.schedules().await?;
    for run in app.catalog.open_runs().await? {
        let schedule = schedules.iter().find(|schedule| schedule.name == run.schedule);
        follow(app, run, schedule).await?;
    }
    // A verification of the same moment waits for the backup.
    schedules.sort_by_key(|schedule| matches!(schedule.definition, Schedule::Verify(_)));
    behind.retain(|name, _| schedules.iter().any(|schedule| schedule.name == *name));
    let mut next: Option<Timestamp> = None;
    for schedule in &schedules {
        let due = decide(app, schedule, behind).await?;
        next = next.into_iter().chain(due).min();
    }
    Ok(next)
}

/// Decides about one schedule, and carries it out; says when it is due next.
async fn decide(
    app: &App,
    schedule: &ScheduleRecord,
    behind: &mut Behind,
) -> Result<Option<Timestamp>, CatalogError> {
    let timing = match timing(schedule, app.repository_id()) {
        Ok(timing) => timing,
        Err(error) => {
            tracing::error!(schedule = schedule.name, %error, "the schedule cannot be read: nothing runs by it");
            return Ok(None);
        }
    };
    let records = app.catalog.decided(&schedule.name).await?;
    let busy = app.catalog.open_runs().await?.iter().any(|run| run.schedule == schedule.name);
    let now = app.now();
    let behind_for = match now < schedule.owed_from {
        true => behind.entry(schedule.name.clone()).or_insert_with(Instant::now).elapsed(),
        false => {
            behind.remove(&schedule.name);
            Duration::ZERO
        }
    };
    let facts = Facts {
        now,
        owed_from: schedule.owed_from,
        behind_for: SignedDuration::try_from(behind_for).unwrap_or(SignedDuration::MAX),
        paused: schedule.paused_at.is_some(),
        busy,
        records: &records,
    };
    let decision = timing.decide(&facts);
    if let Some(owed_from) = decision.owed_from {
        app.catalog.set_owed_from(&schedule.name, owed_from).await?;
    }
    if !decision.withdrawn.is_empty() {
        app.catalog.withdraw_missed(&schedule.name, &decision.withdrawn).await?;
    }
    let replaced = |planned_at: Timestamp| {
        records.iter().find(|record| record.planned_at == planned_at).map(|record| record.order)
    };
    if let Some(missed) = decision.missed {
        let details = RunDetails { missed: Some((missed.first, missed.count)), ..RunDetails::default() };
        let run = decided(schedule, missed.last, facts.now, RunState::Missed, details);
        let event = event::missed(schedule, &missed);
        if app.catalog.add_run(&run, replaced(missed.last), std::slice::from_ref(&event)).await? {
            event::log(schedule, &event);
        }
    }
    if let Some(due) = decision.due {
        begin(app, schedule, due, replaced(due.planned_at)).await?;
    }
    Ok(decision.next.map(|next| next.due_at))
}

fn decided(
    schedule: &ScheduleRecord,
    planned_at: Timestamp,
    now: Timestamp,
    state: RunState,
    details: RunDetails,
) -> RunRecord {
    RunRecord {
        id: 0,
        schedule: schedule.name.clone(),
        planned_at: Some(planned_at),
        ran_at: now,
        state,
        job: None,
        retention_job: None,
        details,
    }
}

/// Begins what is due.
async fn begin(
    app: &App,
    schedule: &ScheduleRecord,
    due: Due,
    replaces: Option<i64>,
) -> Result<(), CatalogError> {
    let written = |state, details| decided(schedule, due.planned_at, app.now(), state, details);
    if !due.start {
        let run = written(RunState::Skipped, RunDetails::default());
        let event = event::overlapped(schedule, due.planned_at);
        if app.catalog.add_run(&run, replaces, std::slice::from_ref(&event)).await? {
            event::log(schedule, &event);
        }
        return Ok(());
    }
    let order = match &schedule.definition {
        Schedule::Backup(_) => {
            Order::Backup { components: schedule.definition.components(), pin: None, import: None }
        }
        Schedule::Verify(verify) => {
            if let Some(backup) = running_backup(app).await? {
                let wait =
                    SignedDuration::try_from(verify.wait_for_backup.get()).unwrap_or(SignedDuration::MAX);
                let until = app.now().checked_add(wait).unwrap_or(Timestamp::MAX);
                let details = RunDetails { waits_for: Some((backup, until)), ..RunDetails::default() };
                if app.catalog.add_run(&written(RunState::Waiting, details), replaces, &[]).await? {
                    tracing::info!(schedule = schedule.name, job = %backup, "the verification waits for a backup");
                }
                return Ok(());
            }
            match newest(app, schedule).await? {
                Some(backup) => verification(app, schedule, verify, backup).await?,
                None => {
                    let note = Some("there is no backup to verify".to_owned());
                    let run = written(RunState::Empty, RunDetails { note, ..RunDetails::default() });
                    app.catalog.add_run(&run, replaces, &[]).await?;
                    return Ok(());
                }
            }
        }
    };
    let claim = Claim::Run { schedule: schedule.name.clone(), planned_at: Some(due.planned_at), replaces };
    ordered(schedule, app.order_for(&schedule.name, order, None, claim).await);
    Ok(())
}

pub(crate) async fn verification(
    app: &App,
    schedule: &ScheduleRecord,
    verify: &VerifySchedule,
    backup: BackupName,
) -> Result<Order, CatalogError> {
    let (depth, drill) = depth(verify.depth);
    let mut components = schedule.definition.components();
    // Another backup has the others.
    if let Some(record) = app.catalog.backup(&backup).await? {
        let held = |one: &Component| record.archives.iter().any(|archive| archive.source.component == *one);
        if components.iter().any(held) {
            components.retain(held);
        }
    }
    // A drill reads all of what it restores.
    let how_much = if drill { HowMuch::All } else { HowMuch::AsConfigured };
    Ok(Order::Verify { backup, components, depth, budget: app.budget(depth, how_much), drill })
}

/// A job that could not be ordered is asked for again by the next look, for as long as its window is open.
fn ordered(schedule: &ScheduleRecord, job: Result<Job, Failure>) {
    match job {
        Ok(job) => {
            tracing::info!(schedule = schedule.name, job = %job.id, kind = job.kind(), "run by its schedule")
        }
        Err(failure) => tracing::warn!(
            schedule = schedule.name,
            why = failure.why,
            "what is due cannot be ordered; it is tried again: {}",
            failure.what
        ),
    }
}

/// The newest backup that is under way.
async fn running_backup(app: &App) -> Result<Option<JobId>, CatalogError> {
    let alive = app.catalog.alive_jobs().await?;
    Ok(alive.iter().rfind(|job| matches!(job.order, Order::Backup { .. })).map(|job| job.id))
}

/// The backup whose turn it is to be verified.
pub(crate) async fn newest(app: &App, schedule: &ScheduleRecord) -> Result<Option<BackupName>, CatalogError> {
    let mut components = schedule.definition.components();
    if components.is_empty() {
        components = app.catalog.served_components().await?;
    }
    let looked_at = app.catalog.last_looked_at_by(&schedule.name).await?;
    let newest = app.catalog.newest_of_components().await?;
    let wanted =
        newest.into_iter().filter(|one| components.iter().any(|asked| asked.as_str() == one.component));
    let wanted: Vec<(BackupName, Option<Timestamp>)> =
        wanted.filter_map(|one| Some((one.usable?, looked_at.get(&one.component).copied()))).collect();
    let records = app.catalog.backups_named(&wanted.iter().map(|(name, _)| name).collect::<Vec<_>>()).await?;
    let holds = |name: &BackupName| {
        let record = records.iter().find(|record| record.name == *name);
        let is_whole =
            |asked: &&Component| record.is_some_and(|record| holds_complete(record, &[(*asked).clone()]));
        components.iter().filter(is_whole).count()
    };
    let wanted =
        wanted.into_iter().map(|(newest, verified)| Wanted { holds: holds(&newest), newest, verified });
    match target(&wanted.collect::<Vec<_>>()) {
        Some(target) => Ok(Some(target)),
        // Nothing is whole: what there is shows what is wrong with it.
        None => {
            let is_ordinary = |record: &BackupRecord| Safety::of(record).is_none();
            Ok(app.catalog.newest_backup(u32::MAX, is_ordinary).await?.map(|record| record.name))
        }
    }
}

/// Goes on with a run that was begun.
async fn follow(app: &App, run: RunRecord, schedule: Option<&ScheduleRecord>) -> Result<(), CatalogError> {
    let verify = schedule.and_then(|schedule| match &schedule.definition {
        Schedule::Verify(verify) => Some((schedule, verify)),
        Schedule::Backup(_) => None,
    });
    let is_paused = schedule.is_some_and(|schedule| schedule.paused_at.is_some()) && run.planned_at.is_some();
    if run.state == RunState::Waiting {
        return match verify {
            Some(_) if is_paused => close(app, run, RunState::Skipped, "the schedule is paused", &[]).await,
            Some((schedule, verify)) => wait(app, run, schedule, verify).await,
            None => close(app, run, RunState::Skipped, "the schedule is gone", &[]).await,
        };
    }
    let Some(job) = ended(app, run.job).await? else { return Ok(()) };
    // Removing backups is more than those may who may run a schedule by hand.
    let planned = run.planned_at.is_some();
    let Some((schedule, _)) = verify.filter(|(_, verify)| verify.retention && planned) else {
        return app.catalog.close_run(&run, &[], app.now()).await;
    };
    match run.retention_job {
        None if !job.is_some_and(|job| has_verified(&job)) => {
            let note = "nothing was removed: the verification did not go through";
            close(app, run, RunState::Started, note, &[]).await
        }
        None if is_paused => {
            let note = "nothing was removed: the schedule is paused";
            close(app, run, RunState::Started, note, &[]).await
        }
        None => {
            let order = Order::Retention { confirmed: None, approved: false };
            ordered(
                schedule,
                app.order_for(&schedule.name, order, None, Claim::Retention { run: run.id }).await,
            );
            Ok(())
        }
        Some(id) => {
            let Some(job) = ended(app, Some(id)).await? else { return Ok(()) };
            let failure = job.and_then(|job| job.failure);
            let Some(failure) = failure else { return app.catalog.close_run(&run, &[], app.now()).await };
            close(app, run, RunState::Started, &format!("{}: {}", failure.what, failure.why), &[]).await
        }
    }
}

/// True for a verification that came to its end: the schedule may have been one of backups when it began.
fn has_verified(job: &Job) -> bool {
    let has_ended = matches!(job.state, JobState::Complete | JobState::Incomplete);
    has_ended && matches!(job.order, Order::Verify { .. })
}

async fn close(
    app: &App,
    run: RunRecord,
    state: RunState,
    note: &str,
    events: &[alerts::Event],
) -> Result<(), CatalogError> {
    let details = RunDetails { note: Some(note.to_owned()), ..run.details };
    app.catalog.close_run(&RunRecord { state, details, ..run }, events, app.now()).await
}

/// `None` while the job is under way; `Some(None)` for one that nobody knows any more.
async fn ended(app: &App, id: Option<JobId>) -> Result<Option<Option<Job>>, CatalogError> {
    let Some(id) = id else { return Ok(Some(None)) };
    let job = app.catalog.job(id).await?;
    Ok(match job {
        Some(job) if !job.state.is_end() => None,
        ended => Some(ended),
    })
}

/// Waits for the backup, or verifies: the one that was waited for, or, past the limit, the newest.
async fn wait(
    app: &App,
    run: RunRecord,
    schedule: &ScheduleRecord,
    verify: &VerifySchedule,
) -> Result<(), CatalogError> {
    let waited = match run.details.waits_for {
        Some((backup, until)) => (ended(app, Some(backup)).await?, Some((backup, until))),
        None => (Some(None), None),
    };
    let mut events = Vec::new();
    let (backup, note) = match waited {
        (None, Some((_, until))) if app.now() < until => return Ok(()),
        (None, Some((job, _))) => {
            let event = event::not_waited_for(schedule, job);
            event::log(schedule, &event);
            events.push(event);
            let note =
                format!("job {job} still ran after {}: another backup was verified", verify.wait_for_backup);
            (newest(app, schedule).await?, Some(note))
        }
        (job, _) => {
            let made = job.flatten().and_then(|job| job.backup);
            let made = match made {
                Some(name) => app.catalog.backup(&name).await?.map(|record| record.name),
                None => None,
            };
            match made {
                Some(made) => (Some(made), None),
                None => {
                    let note = "the backup that was waited for came to nothing: the newest one was verified";
                    (newest(app, schedule).await?, Some(note.to_owned()))
                }
            }
        }
    };
    let Some(backup) = backup else {
        return close(app, run, RunState::Empty, "there is no backup to verify", &events).await;
    };
    let claim = Claim::Waited { run: run.id, note, events };
    let order = verification(app, schedule, verify, backup).await?;
    ordered(schedule, app.order_for(&schedule.name, order, None, claim).await);
    Ok(())
}
