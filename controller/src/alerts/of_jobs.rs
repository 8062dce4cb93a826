//! What the start and the end of a job are events of. Pure.

use crate::alerts::{Event, Kind};
use crate::jobs::job::PartState;
use crate::jobs::{Job, JobState, Order};

/// The events of a job whose state was `before`: they are written with it.
pub fn job_events(before: JobState, job: &Job) -> Vec<Event> {
    if before == JobState::Queued && job.state == JobState::Running {
        return match job.order {
            Order::Backup { .. } => vec![event(Event::raised(Kind::BackupStarted, ""), job, "started")],
            _ => Vec::new(),
        };
    }
    if before.is_end() {
        return Vec::new();
    }
    match job.state {
        JobState::Complete => succeeded(job),
        JobState::Incomplete => incomplete(job),
        JobState::Failed => vec![failed(job)],
        _ => Vec::new(),
    }
}

/// The failures of other orders that this job's end has made good: those of whose components it holds each one
/// whole. `open` are the subjects of what is open of a kind. Its own order's are told by [`job_events`].
pub fn covered(job: &Job, kind: Kind, open: &[String]) -> Vec<Event> {
    let is_of_it = match job.order {
        Order::Backup { .. } => matches!(kind, Kind::BackupFailed | Kind::BackupIncomplete),
        Order::Verify { .. } => kind == Kind::VerifyFailed,
        _ => false,
    };
    if !is_of_it || !matches!(job.state, JobState::Complete | JobState::Incomplete) {
        return Vec::new();
    }
    let is_whole = |component: &str| {
        let mut parts =
            job.parts.iter().filter(|part| part.source.component.as_str() == component).peekable();
        parts.peek().is_some() && parts.all(|part| part.state == PartState::Complete)
    };
    let own = subject(job);
    let made_good = open.iter().filter(|open| {
        // What was asked for everything is made good by everything alone.
        !open.is_empty() && **open != own && open.split(',').all(is_whole)
    });
    made_good.map(|open| event(Event::resolved(kind, open), job, "holds it again")).collect()
}

/// Which kinds [`covered`] may make good.
pub const COVERED: [Kind; 3] = [Kind::BackupFailed, Kind::BackupIncomplete, Kind::VerifyFailed];

/// What a job of this order is called, and by what it is the same as an earlier one.
fn subject(job: &Job) -> String {
    match &job.order {
        Order::Backup { components, .. } | Order::Verify { components, .. } if !components.is_empty() => {
            components.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

fn kinds(job: &Job) -> (Option<Kind>, Kind) {
    match job.order {
        Order::Backup { .. } => (Some(Kind::BackupSucceeded), Kind::BackupFailed),
        Order::Verify { .. } => (Some(Kind::VerifySucceeded), Kind::VerifyFailed),
        Order::Restore { .. } => (Some(Kind::RestoreSucceeded), Kind::RestoreFailed),
        Order::Retention { .. } | Order::Prune { .. } => (None, Kind::RetentionFailed),
    }
}

fn event(event: Event, job: &Job, verb: &str) -> Event {
    let name = job.backup.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let what = match job.order {
        Order::Backup { .. } => format!("backup{name} {verb}"),
        Order::Verify { .. } => format!("verification of backup{name} {verb}"),
        Order::Restore { .. } => format!("restore from backup{name} {verb}"),
        Order::Retention { .. } | Order::Prune { .. } => format!("{} {verb}", job.kind()),
    };
    event.saying(what, "", "").of_job(job.id).of_backup(job.backup.as_ref())
}

fn succeeded(job: &Job) -> Vec<Event> {
    let (success, failure) = kinds(job);
    let mut events: Vec<Event> = success
        .map(|kind| event(Event::raised(kind, subject(job)), job, "is complete"))
        .into_iter()
        .collect();
    let mut recovered = vec![failure];
    if matches!(job.order, Order::Backup { .. }) {
        recovered.push(Kind::BackupIncomplete);
    }
    events.extend(
        recovered
            .into_iter()
            .map(|kind| event(Event::resolved(kind, subject(job)), job, "is complete again")),
    );
    events
}

fn incomplete(job: &Job) -> Vec<Event> {
    let (_, failure) = kinds(job);
    let kind = if failure == Kind::BackupFailed { Kind::BackupIncomplete } else { failure };
    let missing = job.parts.iter().filter_map(|part| {
        let reason = part.reason.as_ref()?;
        Some(format!("{}: {reason}", part.source))
    });
    let why = missing.take(10).collect::<Vec<_>>().join("; ");
    let told = event(Event::raised(kind, subject(job)), job, "is incomplete");
    let hint = format!("`nsctl logs {}` tells more; mend it and run it again", job.id);
    let mut events = vec![Event { why, hint, ..told }];
    if kind == Kind::BackupIncomplete {
        events.push(event(Event::resolved(Kind::BackupFailed, subject(job)), job, "was made again"));
    }
    events
}

fn failed(job: &Job) -> Event {
    let (_, kind) = kinds(job);
    let told = event(Event::raised(kind, subject(job)), job, "failed");
    match &job.failure {
        Some(failure) => {
            Event { what: failure.what.clone(), why: failure.why.clone(), hint: failure.hint.clone(), ..told }
        }
        None => {
            let reasons = job.parts.iter().filter_map(|part| part.reason.clone());
            let why = reasons.take(3).collect::<Vec<_>>().join("; ");
            Event { why, hint: format!("`nsctl logs {}` tells more", job.id), ..told }
        }
    }
}
