//! What nobody asked for and somebody has to know of a schedule: its alerts, in words.
//!
//! They are written in the transaction of what they tell. What becomes of the jobs themselves is told by them.

use jiff::Timestamp;

use crate::alerts::{Event, Kind};
use crate::catalog::ScheduleRecord;
use crate::config::Schedule;
use crate::ids::JobId;
use crate::jobs::Job;
use crate::jobs::job::Order;
use crate::schedule::plan::Missed;

/// Planned times went by with nobody there, and their windows are over.
pub(crate) fn missed(schedule: &ScheduleRecord, missed: &Missed) -> Event {
    let (kind, verb) = match schedule.definition {
        Schedule::Backup(_) => (Kind::BackupMissed, "`nsctl backup` makes one now"),
        Schedule::Verify(_) => (Kind::VerifyMissed, "`nsctl verify` verifies now"),
    };
    let what = match missed.count {
        1 => format!("schedule {} did not run at {}", schedule.name, missed.last),
        count => format!(
            "schedule {} did not run {count} times, from {} to {}",
            schedule.name, missed.first, missed.last
        ),
    };
    let why =
        "the controller was not running then, or could not order it, and it is too late to make up for it";
    Event::raised(kind, schedule.name.clone()).saying(what, why, verb)
}

/// A planned time met the schedule's own earlier run.
pub(crate) fn overlapped(schedule: &ScheduleRecord, planned_at: Timestamp) -> Event {
    Event::raised(Kind::Anomaly, subject(&schedule.name)).saying(
        format!("schedule {} did not run at {planned_at}", schedule.name),
        "the run before it still went on",
        "let it run less often, or see with `nsctl jobs` what takes so long",
    )
}

/// A backup ran for longer than the verification waits.
pub(crate) fn not_waited_for(schedule: &ScheduleRecord, backup: JobId) -> Event {
    let what = format!("schedule {} did not verify the backup that it waited for", schedule.name);
    Event::raised(Kind::Anomaly, subject(&schedule.name))
        .saying(
            what,
            "the backup still ran when the longest wait was over; the newest one before it is verified",
            "see with `nsctl jobs` what takes so long, or let `wait_for_backup` be longer",
        )
        .of_job(backup)
}

/// A schedule runs again, if it was missed.
pub(crate) fn runs_again(schedule: &str, job: &Job) -> Option<Event> {
    let kind = match job.order {
        Order::Backup { .. } => Kind::BackupMissed,
        Order::Verify { .. } => Kind::VerifyMissed,
        _ => return None,
    };
    Some(
        Event::resolved(kind, schedule)
            .saying(format!("schedule {schedule} runs again"), "", "")
            .of_job(job.id),
    )
}

/// A schedule is gone: nothing of it can be missed.
pub(crate) fn removed(schedule: &str) -> [Event; 2] {
    [Kind::BackupMissed, Kind::VerifyMissed].map(|kind| {
        Event::resolved(kind, schedule).saying(format!("schedule {schedule} was removed"), "", "")
    })
}

/// The same for the log, since not everybody has a sink.
pub(crate) fn log(schedule: &ScheduleRecord, event: &Event) {
    tracing::warn!(
        schedule = schedule.name,
        event = event.kind.word(),
        why = event.why,
        hint = event.hint,
        "{}",
        event.what
    );
}

fn subject(schedule: &str) -> String {
    format!("schedule {schedule}")
}
