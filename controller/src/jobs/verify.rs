//! A verification: the repository's own check, one archive after the other, on a blocking thread.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use proto::v1::TaskProgress;
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Outcome};
use repository::error::RepositoryError;
use repository::names::{BackupName, Component, SourceId};
use repository::progress::{CancelFlag, Progress};
use repository::verify::{Depth, Memory, Verification};
use runtime::steps;

use crate::catalog::{CatalogError, VerificationRecord};
use crate::depot::Depot;
use crate::ids::TaskId;
use crate::jobs::job::{JobFailure, Order, Part, PartResult, PartState, depth_word};
use crate::jobs::runner::{Attempt, Shared, lock};
use crate::jobs::state::{Event, TaskEnd};
use crate::steps::Step;

const SHOW_EVERY: Duration = Duration::from_millis(250);
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
    let parts: Vec<Part> =
        record.archives.iter().filter(|archive| asked(&archive.source.component)).map(part).collect();
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

/// Verifies one archive.
pub(super) async fn attempt(attempt: Attempt) {
    let Ok(_alone) = attempt.shared.verifying.acquire().await else { return };
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
    let Order::Verify { backup, depth, .. } = &attempt.job.order else {
        return failed("this is no verification".to_owned());
    };
    let source = attempt.job.parts[attempt.part].source.clone();
    let record = match shared.catalog.backup(backup).await {
        Ok(Some(record)) => record,
        Ok(None) => return failed(format!("there is no backup {backup}")),
        Err(error) => return failed(proto::failure::chain(&error)),
    };
    let shown = Shown {
        shared: shared.clone(),
        job: attempt.job.id,
        part: attempt.part,
        task,
        last: Mutex::new(None),
    };
    let (depot, depth, cancel) = (shared.depot.clone(), *depth, cancel.clone());
    let of_source = source.clone();
    let ran =
        tokio::task::spawn_blocking(move || run(&depot, &record, &of_source, depth, &shown, &cancel)).await;
    match ran {
        Ok(Ok(looked)) => record_findings(attempt, backup, source, depth, looked).await,
        Ok(Err(RepositoryError::Cancelled)) => TaskEnd::Cancelled,
        Ok(Err(error)) => failed(proto::failure::chain(&error)),
        Err(error) => failed(error.to_string()),
    }
}

/// What was looked at, and what was found.
struct Looked {
    findings: Vec<String>,
    bytes: u64,
    entries: u64,
    no_data: Option<String>,
}

fn run(
    depot: &Depot,
    record: &BackupRecord,
    source: &SourceId,
    depth: Depth,
    progress: &Shown,
    cancel: &CancelFlag,
) -> Result<Looked, RepositoryError> {
    let repository = depot.repository();
    steps::reach(Step::VerificationBegun);
    let verification = Verification { repository, keys: Some(depot.keys()), depth, progress, cancel };
    // Nobody else writes while the lease is ours: rot that parity can mend is mended at once.
    let memory = Memory { may_mend: !depot.lease().is_lost(), ..Memory::none() };
    let report = verification.run_with(record, |wanted| wanted == source, &memory)?;
    for mended in report.archives.iter().flat_map(|archive| &archive.mended) {
        tracing::warn!(backup = %record.name, "{mended}");
    }
    steps::reach(Step::VerificationRead);
    for archive in &report.archives {
        repository.keep_verdicts(&archive.packs)?;
    }
    steps::reach(Step::VerdictsKept);
    let bytes = report.archives.iter().map(|archive| archive.bytes).sum();
    let entries = report.archives.iter().map(|archive| archive.entries).sum();
    let no_data = report.archives.iter().find_map(|archive| archive.no_data.clone());
    let findings =
        report.archives.into_iter().flat_map(|archive| archive.findings).take(MAX_FINDINGS).collect();
    Ok(Looked { findings, bytes, entries, no_data })
}

async fn record_findings(
    attempt: &Attempt,
    backup: &BackupName,
    source: SourceId,
    depth: Depth,
    looked: Looked,
) -> TaskEnd {
    let Looked { findings, bytes, entries, no_data: nothing } = looked;
    if let Some(reason) = nothing
        && findings.is_empty()
    {
        let result = PartResult::Verified { findings, bytes, entries };
        return TaskEnd::Incomplete(result, no_data(Some(&reason)));
    }
    let result = VerificationRecord {
        source,
        depth: depth_word(depth).to_owned(),
        at: attempt.shared.clock.now(),
        intact: findings.is_empty(),
        findings: findings.clone(),
    };
    if let Err(error) = attempt.shared.catalog.add_verification(backup, &result).await {
        return failed(proto::failure::chain(&error));
    }
    steps::reached(Step::VerificationRecorded).await;
    match findings.first() {
        None => TaskEnd::Complete(PartResult::Verified { findings, bytes, entries }),
        Some(first) => TaskEnd::Failed {
            reason: match findings.len() {
                1 => format!("damaged: {first}"),
                count => format!("damaged: {first} (and {} more)", count - 1),
            },
            retryable: false,
            result: Some(PartResult::Verified { findings, bytes, entries }),
        },
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
