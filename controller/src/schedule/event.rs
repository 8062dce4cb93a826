//! What nobody asked for and somebody has to know: the one place where a schedule's trouble is told.

use jiff::Timestamp;

use crate::ids::JobId;
use crate::schedule::plan::Missed;

/// Something happened to a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScheduleEvent {
    /// Planned times went by with nobody there, and their windows are over.
    Missed(Missed),
    /// A planned time met the schedule's own earlier run.
    Overlapped {
        /// The planned time.
        planned_at: Timestamp,
    },
    /// A backup ran for longer than the verification waits: another one was verified.
    NotWaitedFor {
        /// The backup's job.
        backup: JobId,
    },
    /// The retention after a verification did not go through.
    RetentionFailed {
        /// Its job.
        job: JobId,
        /// Why, in one line.
        why: String,
    },
}

/// Tells it.
pub(crate) fn tell(schedule: &str, event: &ScheduleEvent) {
    match event {
        ScheduleEvent::Missed(missed) => tracing::error!(
            schedule, event = "schedule_missed", first = %missed.first, last = %missed.last, count = missed.count,
            "planned runs were missed; nothing ran in their place"
        ),
        ScheduleEvent::Overlapped { planned_at } => tracing::warn!(
            schedule, event = "schedule_skipped", %planned_at,
            "a planned run was skipped: the one before it still goes on"
        ),
        ScheduleEvent::NotWaitedFor { backup } => tracing::warn!(
            schedule, event = "backup_not_waited_for", job = %backup,
            "the backup runs for longer than the verification waits; the newest one that is there is verified"
        ),
        ScheduleEvent::RetentionFailed { job, why } => tracing::error!(
            schedule, event = "retention_failed", %job, why, "the retention after the verification failed"
        ),
    }
}
