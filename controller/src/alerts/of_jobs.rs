//! What the start and the end of a job are events of. Pure.

use std::collections::BTreeSet;

use repository::names::Component;
use repository::verify::Depth;

use crate::alerts::{Event, Kind};
use crate::jobs::job::{Part, PartResult, PartState, depth_words};
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
        // It was not left as it was, or what it has stopped does not run.
        JobState::Cancelled if is_restore(job) && job.parts.iter().any(is_not_as_before) => {
            vec![failed(job)]
        }
        _ => Vec::new(),
    }
}

/// True of a part of a restore that nobody can say all is as it was before of.
fn is_not_as_before(part: &Part) -> bool {
    part.state == PartState::Failed || part.is_unknown
}

fn is_restore(job: &Job) -> bool {
    matches!(job.order, Order::Restore { .. })
}

/// The failures of other orders that this job's end has made good: those of whose components it holds each one
/// whole. `open` are the subjects of what is open of a kind. Its own order's are told by [`job_events`].
pub fn covered(job: &Job, kind: Kind, open: &[String]) -> Vec<Event> {
    let makes_good = match job.order {
        Order::Backup { .. } if matches!(kind, Kind::BackupFailed | Kind::BackupIncomplete) => backs_up,
        Order::Verify { .. } if matches!(kind, Kind::VerifyFailed | Kind::VerifyIncomplete) => verifies,
        Order::Restore { .. } if kind == Kind::RestoreFailed => restores,
        _ => return Vec::new(),
    };
    if !matches!(job.state, JobState::Complete | JobState::Incomplete) {
        return Vec::new();
    }
    let own = subject(job);
    let made_good = open.iter().filter(|open| **open != own && makes_good(job, open));
    made_good.map(|open| event(Event::resolved(kind, open), job, "holds it again")).collect()
}

/// Which kinds [`covered`] may make good.
pub const COVERED: [Kind; 5] = [
    Kind::BackupFailed,
    Kind::BackupIncomplete,
    Kind::VerifyFailed,
    Kind::VerifyIncomplete,
    Kind::RestoreFailed,
];

/// What was asked for everything is made good by everything alone.
fn backs_up(job: &Job, open: &str) -> bool {
    !open.is_empty() && is_whole(job, open)
}

/// A finding is over once a verification reads as much and finds nothing: of that backup, or of a newer one,
/// as thoroughly or more so.
fn verifies(job: &Job, open: &str) -> bool {
    let Order::Verify { backup, components, depth, drill, .. } = &job.order else { return false };
    let mut words = open.split(' ');
    let (Some(of), Some(needed)) = (words.next(), words.next().and_then(depth_of)) else { return false };
    let as_much = match words.next() {
        Some(named) => is_whole(job, named),
        // Nothing is known of what that one held.
        None => components.is_empty() && job.state == JobState::Complete && backup.as_str() == of,
    };
    as_much && (*depth, *drill) >= needed && backup.as_str() >= of
}

/// Only the same backup's own return shows that it can be restored; taking a restore back does not.
fn restores(job: &Job, open: &str) -> bool {
    let Order::Restore { backup, undo_of: None, .. } = &job.order else { return false };
    let is_back = |source: &str| {
        let mut parts = job.parts.iter().filter(|part| part.source.to_string() == source).peekable();
        parts.peek().is_some() && parts.all(|part| part.state == PartState::Complete)
    };
    match open.split_once(' ') {
        Some((of, sources)) => of == backup.as_str() && sources.split(',').all(is_back),
        // Nothing is known of which restore that was.
        None => false,
    }
}

/// True if it holds each of these components, and all of it.
fn is_whole(job: &Job, components: &str) -> bool {
    components.split(',').all(|component| {
        let mut parts =
            job.parts.iter().filter(|part| part.source.component.as_str() == component).peekable();
        parts.peek().is_some() && parts.all(|part| part.state == PartState::Complete)
    })
}

/// The depth, and whether it was a drill, which is deeper than all.
fn depth_of(word: &str) -> Option<(Depth, bool)> {
    let all = [(Depth::Listed, false), (Depth::Hashed, false), (Depth::Opened, false), (Depth::Opened, true)];
    all.into_iter().find(|(depth, drill)| depth_words(*depth, *drill) == word)
}

/// What a job of this order is called, and by what it is the same as an earlier one: a backup's components, none where
/// all were asked for; a verification's backup, depth and components; a restore's backup and sources.
fn subject(job: &Job) -> String {
    let sorted = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(",");
    let named = |components: &[Component]| sorted(components.iter().map(ToString::to_string).collect());
    let subject = match &job.order {
        Order::Backup { components, .. } => named(components),
        // By what is not well: whatever else was looked at may never be looked at again beside it.
        Order::Verify { backup, components, depth, drill, .. } => {
            let not_well = job.parts.iter().filter(|part| part.state != PartState::Complete);
            let not_well: BTreeSet<String> = not_well.map(|part| part.source.component.to_string()).collect();
            let of = if not_well.is_empty() { named(components) } else { sorted(not_well) };
            format!("{backup} {} {of}", depth_words(*depth, *drill))
        }
        Order::Restore { backup, places, undo_of, .. } => {
            let sources = sorted(places.iter().map(|place| place.source.to_string()).collect());
            let undo = if undo_of.is_some() { "undo " } else { "" };
            format!("{backup} {undo}{sources}")
        }
        Order::Retention { .. } | Order::Prune { .. } => String::new(),
    };
    subject.trim_end().to_owned()
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
    match job.order {
        Order::Backup { .. } => recovered.push(Kind::BackupIncomplete),
        Order::Verify { .. } => recovered.push(Kind::VerifyIncomplete),
        _ => {}
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
    let kind = match failure {
        Kind::BackupFailed => Kind::BackupIncomplete,
        Kind::VerifyFailed => match job.parts.iter().all(|part| is_good_so_far(job, part)) {
            true => Kind::VerifyPartial,
            false => Kind::VerifyIncomplete,
        },
        other => other,
    };
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

/// True for a part that a budget has left for later, for one that nobody opens in a drill of whatever can be opened, and
/// for one that is done.
fn is_good_so_far(job: &Job, part: &Part) -> bool {
    let is_of_any =
        matches!(&job.order, Order::Verify { drill: true, components, .. } if components.is_empty());
    let left = match &part.result {
        Some(PartResult::Verified { findings, proven, .. }) => {
            findings.is_empty() && (proven.unread > 0 || is_of_any)
        }
        _ => false,
    };
    left || part.state == PartState::Complete
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
