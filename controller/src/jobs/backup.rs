//! A backup's parts: which sources, which agent, one archive each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use proto::convert::to_wire_source;
use proto::v1::controller_message::Message;
use proto::v1::{RepositoryKey, StartArchive, TaskLog, TaskProgress};
use repository::backup::manifest::{BackupRecord, Outcome};
use repository::names::{Component, SourceId};
use runtime::steps;
use tokio::time::Instant;

use crate::catalog::CatalogError;
use crate::fleet::{ArchiveTask, Ended, RunningTask, TaskContext};
use crate::ids::{AgentId, JobId, TaskId};
use crate::jobs::job::{Job, JobFailure, MONGODB, Part, PartResult};
use crate::jobs::leases;
use crate::jobs::runner::{Attempt, Shared, lock};
use crate::jobs::safety::Safety;
use crate::jobs::state::{Event, Level, TaskEnd};
use crate::steps::Step;

/// How long a segment's body is meant to be, in bytes.
const SEGMENT_BYTES: u32 = 16 << 20;
/// A task that gets no further for this long is ended. There is no limit for the whole of it.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(15 * 60);
/// A source that had more than this in the last backup and is empty now is worth a warning.
const NOT_NOTHING: u64 = 1 << 20;
/// A source's newest archive is looked for in so many backups: a source that has none must not cost more
/// with every backup of the others.
const LOOKED_BACK: u32 = 200;
/// How often a watcher hears of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Chooses the sources: all that agents which were not shut out have ever said they serve.
pub(super) async fn prepare(
    shared: &Arc<Shared>,
    components: &[Component],
    is_import: bool,
) -> Result<Event, CatalogError> {
    let mut sources: BTreeMap<SourceId, String> = BTreeMap::new();
    for agent in shared.catalog.agents().await?.into_iter().filter(|agent| agent.revoked_at.is_none()) {
        for served in agent.sources {
            let is_meant = !is_import || served.kind == MONGODB;
            if is_meant && (components.is_empty() || components.contains(&served.source.component)) {
                sources.insert(served.source, served.kind);
            }
        }
    }
    if sources.is_empty() && components.is_empty() {
        return Ok(Event::CannotStart(JobFailure::new(
            "there is nothing to back up",
            "no agent that serves a source has joined",
            "make a token with `nsctl agent invite` and start an agent with it",
        )));
    }
    let unserved =
        components.iter().filter(|asked| !sources.keys().any(|source| source.component == **asked));
    let unserved: Vec<Part> = unserved.map(nobody_serves).collect();
    let mut parts: Vec<Part> =
        sources.into_iter().map(|(source, kind)| Part::waiting(source, kind)).collect();
    parts.extend(unserved);
    match reserve_name(shared).await {
        Ok(backup) => Ok(Event::Started { parts, backup }),
        Err(failure) => Ok(Event::CannotStart(failure)),
    }
}

fn nobody_serves(component: &Component) -> Part {
    let name = component.as_str().parse().expect("every component's name is a source's name too");
    Part::impossible(SourceId { component: component.clone(), name }, "", "no agent serves this component")
}

async fn reserve_name(shared: &Arc<Shared>) -> Result<repository::names::BackupName, JobFailure> {
    let (depot, now) = (shared.depot.clone(), shared.clock.now());
    let in_use = lock(&shared.names).clone();
    let failed = |why: String, hint: &str| JobFailure::new("the backup cannot start", why, hint);
    let name = tokio::task::spawn_blocking(move || depot.reserve_name(now, &in_use))
        .await
        .map_err(|error| failed(error.to_string(), "see the controller's log"))?
        .map_err(|error| failed(proto::failure::chain(&error), error.hint()))?;
    lock(&shared.names).insert(name.clone());
    Ok(name)
}

/// Makes one archive.
pub(super) async fn attempt(attempt: Attempt) {
    let (shared, part) = (&attempt.shared, &attempt.job.parts[attempt.part]);
    // Waited for twice: it may go while the others are at work.
    let found = match find_agent(shared, part).await {
        Some(agent) => {
            let slot = shared.slot(agent).await;
            find_agent(shared, part).await.map(|agent| (agent, slot))
        }
        None => None,
    };
    let Some((agent, _slot)) = found else {
        let away =
            Event::NobodyServes { part: attempt.part, reason: away_reason(shared.settings.agent_wait) };
        attempt.mailbox.tell(away).await;
        return;
    };
    if let Err(reason) = super::stand_in::not_half_done(shared, &part.source, agent).await {
        attempt.mailbox.tell(Event::NobodyServes { part: attempt.part, reason }).await;
        return;
    }
    let task = TaskId::fresh();
    if !attempt.mailbox.tell(Event::TaskStarted { part: attempt.part, task, agent: Some(agent) }).await {
        return;
    }
    let end = match begin(&attempt, task, agent).await {
        Ok((running, expected)) => {
            steps::reached(Step::TaskHandedOut).await;
            let ended = follow(&attempt, running).await;
            if let Some(line) = collapse(expected, &ended) {
                attempt.remark(Level::Warning, vec![line]).await;
            }
            archive_end(task, ended)
        }
        Err(end) => end,
    };
    attempt.end(task, end).await;
}

fn away_reason(waited: Duration) -> String {
    format!("no agent that serves it came within {} seconds", waited.as_secs())
}

/// An agent that serves the source and is connected; waits for one as long as is set.
async fn find_agent(shared: &Shared, part: &Part) -> Option<AgentId> {
    let serves = || {
        let mut agents = shared.fleet.connected();
        agents.retain(|connected| connected.sources.iter().any(|served| served.source == part.source));
        // The one that began it has its cache.
        let known = agents.iter().find(|connected| Some(connected.agent) == part.agent);
        known.or(agents.first()).map(|connected| connected.agent)
    };
    wait_until(shared, serves).await
}

/// Waits until `look` finds something, looking again whenever an agent comes or goes.
pub(super) async fn wait_until<T>(shared: &Shared, look: impl Fn() -> Option<T>) -> Option<T> {
    let mut changes = shared.fleet.changes();
    let found = async {
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            changes.changed().await.ok()?;
        }
    };
    tokio::time::timeout(shared.settings.agent_wait, found).await.ok().flatten()
}

/// A source that had much and has nothing now: most likely its disk is not mounted.
fn collapse(expected: u64, ended: &Ended) -> Option<String> {
    let Ended::Archived { manifest, .. } = ended else { return None };
    let is_empty = manifest.counts.files == 0 && manifest.counts.bytes == 0;
    (is_empty && expected > NOT_NOTHING)
        .then(|| format!("had {} in the last backup and is empty now: is it mounted?", size(expected)))
}

pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, word)) => format!("{:.1} {word}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// Hands the archive to the agent; with the running task comes the size that is expected.
async fn begin(attempt: &Attempt, task: TaskId, agent: AgentId) -> Result<(RunningTask, u64), TaskEnd> {
    let (shared, part) = (&attempt.shared, &attempt.job.parts[attempt.part]);
    let failed = |error: &dyn std::error::Error| TaskEnd::Failed {
        reason: format!("the controller cannot begin the archive: {}", proto::failure::chain(error)),
        retryable: true,
        result: None,
    };
    let domain = shared.depot.keys().domain_keys(&part.source);
    let record = shared.catalog.agent(agent).await.map_err(|error| failed(&error))?;
    let refs_file = refs_file(&shared.settings.jobs_folder, attempt.job.id, task);
    let folder = refs_file.parent().expect("refs lie in the job's folder").to_owned();
    tokio::task::spawn_blocking(move || crate::state::make_private_folder(&folder))
        .await
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    let key = shared.depot.repository().sealing_key();
    let expected = expected_bytes(shared, &part.source).await.map_err(|error| failed(&error))?;
    let held = shared.catalog.has_held(&part.source.component).await;
    let is_new = !held.map_err(|error| failed(&error))?;
    let message = Message::StartArchive(StartArchive {
        task_id: task.to_string(),
        source: Some(to_wire_source(&part.source)),
        domain: Some(crate::rpc::wire::domain_keys(&domain)),
        repository_key: Some(RepositoryKey { epoch: key.epoch, public_key: key.key.to_vec().into() }),
        segment_bytes: SEGMENT_BYTES,
        expected_bytes: expected,
        is_new,
        job_id: attempt.job.id.to_string(),
        backup: attempt.job.backup.as_ref().map(ToString::to_string).unwrap_or_default(),
        import: import(&attempt.job),
        before_restore: Safety::of_order(&attempt.job.order).is_some(),
    });
    let context = ArchiveTask {
        source: part.source.clone(),
        kind: part.kind.clone(),
        agent_name: record.map(|record| record.name).unwrap_or_default(),
        domain,
        started_at: shared.clock.now(),
        refs_file,
        work: leases::work_id(attempt.job.id.to_string()),
        taken: AtomicU64::new(0),
    };
    shared
        .fleet
        .begin(agent, task, TaskContext::Archive(Arc::new(context)), message)
        .map(|running| (running, expected))
        .map_err(|_away| TaskEnd::AgentLost)
}

/// Where an archive's refs are kept until the backup is committed. By task: a late thread of an attempt
/// that is over must not touch the refs of the next.
pub(super) fn refs_file(jobs_folder: &Path, job: JobId, task: TaskId) -> PathBuf {
    jobs_folder.join(job.to_string()).join(format!("{task}.refs"))
}

/// The size of the source's newest archive, for a bar that knows its end.
async fn expected_bytes(shared: &Shared, source: &SourceId) -> Result<u64, CatalogError> {
    let holds = |backup: &BackupRecord| {
        backup.archive(source).is_some_and(|archive| archive.outcome != Outcome::Failed)
    };
    let newest = shared.catalog.newest_backup(LOOKED_BACK, holds).await?;
    let archive = newest.as_ref().and_then(|backup| backup.archive(source));
    Ok(archive.map_or(0, |archive| archive.counts.bytes))
}

/// Waits for a task's end; shows its progress and writes down its lines meanwhile.
pub(super) async fn follow(attempt: &Attempt, mut running: RunningTask) -> Ended {
    let mut log = running.log();
    let ended = end_or_stall(running, STALLED_AFTER, |latest| attempt.progress(latest));
    let mut ended = std::pin::pin!(ended);
    let end = loop {
        tokio::select! {
            biased;
            Some(said) = log.recv() => attempt.remark(level(&said), said.lines).await,
            end = &mut ended => break end,
        }
    };
    // What the agent has said before its end has come before it.
    while let Ok(said) = log.try_recv() {
        attempt.remark(level(&said), said.lines).await;
    }
    end
}

fn level(said: &TaskLog) -> Level {
    if said.warning { Level::Warning } else { Level::Info }
}

/// Waits for a task's end. One that gets no further for `stall` has failed; dropped here, its agent is told
/// to end it.
pub(crate) async fn end_or_stall(
    mut running: RunningTask,
    stall: Duration,
    show: impl Fn(TaskProgress),
) -> Ended {
    let mut progress = running.progress.clone();
    let stalled = async {
        let mut last = None;
        let mut moved_at = Instant::now();
        loop {
            match tokio::time::timeout_at(moved_at + stall, progress.changed()).await {
                Err(_) => return,
                // The sender goes when the task ends.
                Ok(Err(_)) => std::future::pending().await,
                Ok(Ok(())) => {}
            }
            let latest = progress.borrow_and_update().clone();
            if latest != last {
                moved_at = Instant::now();
            }
            latest.iter().for_each(|latest| show(latest.clone()));
            last = latest;
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
    };
    tokio::select! {
        biased;
        ended = running.ended() => ended,
        () = stalled => Ended::Stalled(stall),
    }
}

fn archive_end(task: TaskId, ended: Ended) -> TaskEnd {
    match ended {
        Ended::Archived { manifest, problems } => {
            let reason = manifest.reason.clone();
            let result = PartResult::Archive { task, manifest, problems };
            match reason {
                Some(reason) => TaskEnd::Incomplete(result, reason),
                None => TaskEnd::Complete(result),
            }
        }
        other => common_end(other),
    }
}

/// Why a task was given up that got no further for so long.
pub(crate) fn stalled(stall: Duration) -> String {
    format!("the agent got no further for {} minutes", stall.as_secs() / 60)
}

/// The ends that every kind of task has.
pub(super) fn common_end(ended: Ended) -> TaskEnd {
    match ended {
        Ended::Failed { reason, retryable } => TaskEnd::Failed { reason, retryable, result: None },
        Ended::Stalled(stall) => TaskEnd::Failed { reason: stalled(stall), retryable: true, result: None },
        Ended::Cancelled => TaskEnd::Cancelled,
        Ended::AgentLost => TaskEnd::AgentLost,
        Ended::Archived { .. }
        | Ended::Planned(_)
        | Ended::Restored(_)
        | Ended::Drilled(_)
        | Ended::Probed(_) => TaskEnd::Failed {
            reason: "the agent answered another question than it was asked".to_owned(),
            retryable: false,
            result: None,
        },
    }
}

/// The dump's folder that is backed up instead of a server; empty: none.
fn import(job: &Job) -> String {
    match &job.order {
        crate::jobs::job::Order::Backup { import, .. } => import.clone().unwrap_or_default(),
        _ => String::new(),
    }
}

/// The job's order as a backup's.
pub(super) fn pin(job: &Job) -> Option<String> {
    match &job.order {
        crate::jobs::job::Order::Backup { pin, .. } => pin.clone(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Probe;

    use super::*;
    use crate::fleet::Fleet;

    #[tokio::test]
    async fn a_task_that_gets_no_further_is_ended_and_one_that_moves_is_not() {
        let (fleet, agent, task) = (Fleet::new(), AgentId::fresh(), TaskId::fresh());
        let (_line, mut messages) = fleet
            .connect(agent, crate::fleet::Instance::new([0; 16]), vec![], jiff::Timestamp::UNIX_EPOCH)
            .expect("room");
        let probe = || Message::Probe(Probe { task_id: task.to_string() });
        let stall = Duration::from_millis(700);
        let progress = |done_bytes| TaskProgress { done_bytes, ..TaskProgress::default() };

        let running = fleet.begin(agent, task, TaskContext::Probe, probe()).expect("connected");
        let began = Instant::now();
        let moves = async {
            for step in 0..6 {
                fleet.progress(agent, task, progress(step));
                tokio::time::sleep(stall / 2).await;
            }
            // Said again and again, and yet no progress.
            loop {
                fleet.progress(agent, task, progress(5));
                tokio::time::sleep(stall / 2).await;
            }
        };
        let ended = tokio::select! {
            ended = end_or_stall(running, stall, |_| {}) => ended,
            () = moves => unreachable!("it never ends"),
        };
        assert!(matches!(ended, Ended::Stalled(_)), "{ended:?}");
        assert!(began.elapsed() > stall * 3, "it was ended while it moved");
        messages.recv().await.expect("the probe").expect("a message");
        let told = messages.recv().await.expect("told").expect("a message").message;
        assert!(matches!(told, Some(Message::Cancel(_))), "{told:?}");
    }
}
