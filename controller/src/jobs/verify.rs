//! A verification: the repository's own check, two archives beside each other, each on a blocking thread.
//!
//! Must stay true: a result says how much was read by this job, how much earlier, and how much never, and
//! claims no more; what is found in packs that the archive does not need is held against the backups that
//! need them; what was proven is in the catalog as the job goes on, so that one that is cut off goes on.

pub(super) mod drill;
mod notebook;
mod reading;

use std::cmp::Reverse;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::v1::TaskProgress;
use repository::backup::manifest::{ArchiveRecord, Outcome};
use repository::error::RepositoryError;
use repository::names::{BackupName, Component, SourceId};
use repository::progress::{CancelFlag, Progress};
use repository::verify::{Coverage, Depth};
use runtime::steps;

use crate::catalog::{CatalogError, VerificationRecord};
use crate::ids::TaskId;
use crate::jobs::backup::size;
use crate::jobs::job::{JobFailure, Order, Part, PartResult, PartState, Proven, depth_word};
use crate::jobs::runner::{Attempt, Shared, lock};
use crate::jobs::state::{Event, Level, TaskEnd};
use crate::steps::Step;
use drill::Drilled;
use reading::{Hurt, Looked, ReadError, Wanted, read};

const SHOW_EVERY: Duration = Duration::from_millis(250);
/// So many archives are verified beside each other: where one waits for storage, or for the one thread that hashes
/// a large file, the other one goes on.
pub(super) const VERIFIED_AT_ONCE: u32 = 2;
/// The most findings that are kept of one archive.
const MAX_FINDINGS: usize = 200;

/// One part for each archive that was asked for; of those that hold nothing there is nothing to verify, and
/// that is told.
pub(super) async fn prepare(
    shared: &Arc<Shared>,
    backup: &BackupName,
    components: &[Component],
) -> Result<Event, CatalogError> {
    let cannot = |why: String| {
        Ok(Event::CannotStart(JobFailure::new(
            "the verification cannot start",
            why,
            "`nsctl list` shows what there is",
        )))
    };
    let Some(record) = shared.catalog.backup(backup).await? else {
        return cannot(format!("there is no backup {backup}"));
    };
    let asked = |component: &Component| components.is_empty() || components.contains(component);
    let mut archives: Vec<&ArchiveRecord> =
        record.archives.iter().filter(|archive| asked(&archive.source.component)).collect();
    // The largest first: the last one is alone, and a small one is not for long.
    archives.sort_by_key(|archive| Reverse(archive.counts.bytes));
    let parts: Vec<Part> = archives.into_iter().map(part).collect();
    let holds = |component: &Component| parts.iter().any(|part| part.source.component == *component);
    if let Some(missing) = components.iter().find(|component| !holds(component)) {
        return cannot(format!("backup {backup} holds nothing of {missing}"));
    }
    Ok(Event::Started { parts, backup: backup.clone() })
}

fn part(archive: &ArchiveRecord) -> Part {
    let waiting = Part::waiting(archive.source.clone(), archive.kind.clone());
    match archive.outcome {
        Outcome::Failed => {
            Part { state: PartState::Incomplete, reason: Some(no_data(archive.reason.as_deref())), ..waiting }
        }
        _ => waiting,
    }
}

fn no_data(reason: Option<&str>) -> String {
    format!("no data was backed up: {}", reason.unwrap_or("no reason was recorded"))
}

/// How many of the turns one archive takes. What a budget leaves for the next depends on what was read: there it
/// takes all.
fn turns(order: &Order) -> u32 {
    match order {
        // One drill after the other.
        Order::Verify { budget: None, drill: false, .. } => 1,
        _ => VERIFIED_AT_ONCE,
    }
}

/// Verifies one archive.
pub(super) async fn attempt(attempt: Attempt) {
    let Ok(_turn) = attempt.shared.verifying.acquire_many(turns(&attempt.job.order)).await else { return };
    let task = TaskId::fresh();
    if !attempt.mailbox.tell(Event::TaskStarted { part: attempt.part, task, agent: None }).await {
        return;
    }
    let cancel = Flag { shared: attempt.shared.clone(), task, flag: Arc::default() };
    lock(&attempt.shared.local).insert(task, cancel.flag.clone());
    let end = verify(&attempt, task, &cancel.flag).await;
    attempt.end(task, end).await;
}

/// Set when the attempt is over, however it ended.
struct Flag {
    shared: Arc<Shared>,
    task: TaskId,
    flag: Arc<CancelFlag>,
}

impl Drop for Flag {
    fn drop(&mut self) {
        self.flag.cancel();
        lock(&self.shared.local).remove(&self.task);
    }
}

async fn verify(attempt: &Attempt, task: TaskId, cancel: &Arc<CancelFlag>) -> TaskEnd {
    let shared = &attempt.shared;
    let Order::Verify { backup, components, depth, budget, drill } = &attempt.job.order else {
        return failed("this is no verification".to_owned());
    };
    let source = attempt.job.parts[attempt.part].source.clone();
    let record = match shared.catalog.backup(backup).await {
        Ok(Some(record)) => record,
        Ok(None) => return failed(format!("there is no backup {backup}")),
        Err(error) => return failed(proto::failure::chain(&error)),
    };
    let drilled = match drill {
        false => None,
        // Before all is read: that it cannot be made is told at once.
        true => match Box::pin(drill::drill(attempt, task, &record, cancel, !components.is_empty())).await {
            Ok(Drilled::Nobody(reason)) if !components.is_empty() => {
                return failed(format!("it was not drilled: {reason}"));
            }
            Ok(drilled) => Some(drilled),
            Err(end) => return end,
        },
    };
    let shown = Shown {
        shared: shared.clone(),
        job: attempt.job.id,
        part: attempt.part,
        task,
        last: Mutex::new(None),
    };
    let wanted = Wanted {
        record,
        source: source.clone(),
        others: attempt.job.parts.iter().map(|part| part.source.clone()).filter(|of| *of != source).collect(),
        is_all: components.is_empty(),
        depth: *depth,
        budget: *budget,
        // What this very job has proven before it was cut off counts as proven now.
        since: attempt.job.started_at.unwrap_or(attempt.job.created_at),
    };
    let (of_thread, cancel) = (shared.clone(), cancel.clone());
    let ran = tokio::task::spawn_blocking(move || read(&of_thread, &wanted, &shown, &cancel)).await;
    match ran {
        Ok(Ok(looked)) => record_findings(attempt, backup, source, *depth, looked, drilled).await,
        Ok(Err(ReadError::Repository(RepositoryError::Cancelled))) => TaskEnd::Cancelled,
        Ok(Err(error)) => failed(proto::failure::chain(&error)),
        Err(error) => failed(error.to_string()),
    }
}

async fn record_findings(
    attempt: &Attempt,
    backup: &BackupName,
    source: SourceId,
    depth: Depth,
    looked: Looked,
    drilled: Option<Drilled>,
) -> TaskEnd {
    let Looked { findings, elsewhere, hurt, loud, bytes, entries, no_data: nothing, mut proven } = looked;
    attempt.remark(Level::Warning, loud).await;
    let at = attempt.shared.clock.now();
    let (word, catalog) = (depth_word(depth).to_owned(), &attempt.shared.catalog);
    for Hurt { backup, source, findings } in hurt {
        let coverage = Coverage::default();
        let result =
            VerificationRecord { source, depth: word.clone(), at, intact: false, findings, coverage };
        if let Err(error) = catalog.add_verification(&backup, &result).await {
            return failed(proto::failure::chain(&error));
        }
    }
    let (not_opened, not_drilled) = match drilled {
        None => (None, None),
        Some(Drilled::Opened(notes)) => {
            proven.notes.extend(notes);
            (None, None)
        }
        Some(Drilled::Not(finding)) => (Some(finding), None),
        Some(Drilled::Nobody(reason)) => (None, Some(format!("it was opened and not drilled: {reason}"))),
    };
    let is_not_opened = not_opened.is_some();
    let all: Vec<String> =
        not_opened.into_iter().chain(findings.iter().cloned()).chain(elsewhere).take(MAX_FINDINGS).collect();
    if let Some(reason) = nothing
        && all.is_empty()
    {
        let result = PartResult::Verified { findings, bytes, entries, proven };
        return TaskEnd::Incomplete(result, no_data(Some(&reason)));
    }
    let &Proven { now, earlier, oldest, unread, .. } = &proven;
    let coverage = Coverage { now, earlier, oldest, unread };
    let result =
        VerificationRecord { source, depth: word, at, intact: findings.is_empty(), findings, coverage };
    if let Err(error) = catalog.add_verification(backup, &result).await {
        return failed(proto::failure::chain(&error));
    }
    steps::reached(Step::VerificationRecorded).await;
    let reason = match (all.as_slice(), unread) {
        ([], 0) => not_drilled,
        ([], _) => Some(format!(
            "{} of {} that it needs were never read: later runs, or one with --all, read them",
            size(unread),
            size(now + earlier + unread)
        )),
        // It says of itself what it is.
        ([first], _) if is_not_opened => Some(first.clone()),
        ([first, more @ ..], _) if is_not_opened => Some(format!("{first} (and {} more)", more.len())),
        ([first], _) => Some(format!("damaged: {first}")),
        ([first, more @ ..], _) => Some(format!("damaged: {first} (and {} more)", more.len())),
    };
    let is_damaged = !all.is_empty();
    let result = PartResult::Verified { findings: all, bytes, entries, proven };
    match reason {
        None => TaskEnd::Complete(result),
        Some(reason) if is_damaged => TaskEnd::Failed { reason, retryable: false, result: Some(result) },
        Some(reason) => TaskEnd::Incomplete(result, reason),
    }
}

fn failed(reason: String) -> TaskEnd {
    TaskEnd::Failed { reason, retryable: false, result: None }
}

/// Shows the progress of a verification, now and then.
struct Shown {
    shared: Arc<Shared>,
    job: crate::ids::JobId,
    part: usize,
    task: TaskId,
    last: Mutex<Option<Instant>>,
}

impl Progress for Shown {
    fn bytes(&self, done: u64, total: u64) {
        let mut last = lock(&self.last);
        if done < total && last.is_some_and(|last| last.elapsed() < SHOW_EVERY) {
            return;
        }
        *last = Some(Instant::now());
        let progress = TaskProgress {
            task_id: self.task.to_string(),
            step: "verifying".to_owned(),
            done_bytes: done,
            total_bytes: total,
            ..TaskProgress::default()
        };
        self.shared.live.progress(self.job, self.part, progress, self.shared.clock.now());
    }
}
