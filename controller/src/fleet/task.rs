//! A task: one attempt at a part of a job, in the hands of one agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use proto::v1::{DrillFinished, ProbeFinished, RestoreFinished, SourcePlan, TaskLog, TaskProgress};
use repository::backup::manifest::{ArchiveManifest, BackupRecord};
use repository::keys::DomainKeys;
use repository::names::SourceId;
use repository::work::WorkId;
use tokio::sync::{mpsc, oneshot, watch};

use crate::fleet::Fleet;
use crate::ids::{AgentId, TaskId};
use crate::jobs::job::Problem;

/// What a task has said and nobody has written down yet, in messages; more is left out.
const LOG: usize = 64;

/// What a task is about: what the calls that name it need to know.
#[derive(Clone)]
pub enum TaskContext {
    /// Makes an archive.
    Archive(Arc<ArchiveTask>),
    /// Plans or carries out a restore.
    Restore(Arc<RestoreTask>),
    /// Ends what restores have left in the middle.
    Settling,
    /// Looks whether the sources can be reached.
    Probe,
}

impl std::fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Archive(task) => write!(f, "archive of {}", task.source),
            Self::Restore(task) => write!(f, "restore of {}", task.source),
            Self::Settling => f.write_str("settling"),
            Self::Probe => f.write_str("probe"),
        }
    }
}

/// An archive in the making.
pub struct ArchiveTask {
    /// What is archived.
    pub source: SourceId,
    /// Its driver.
    pub kind: String,
    /// The agent's name, for the manifest.
    pub agent_name: String,
    /// The keys of its domain.
    pub domain: DomainKeys,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// Where its refs are kept until the commit.
    pub refs_file: PathBuf,
    /// The lease under which it builds on what is there.
    pub work: WorkId,
    /// Sealed bytes of it that are new, so far.
    pub taken: AtomicU64,
}

/// An archive on its way back.
pub struct RestoreTask {
    /// The backup that it is in.
    pub backup: BackupRecord,
    /// Whose archive it is.
    pub source: SourceId,
}

/// How a task ended.
#[derive(Debug)]
pub enum Ended {
    /// The archive is whole: every blob is durable, its refs are kept.
    Archived {
        /// As it will stand in the repository.
        manifest: Box<ArchiveManifest>,
        /// The first problems.
        problems: Vec<Problem>,
    },
    /// What a restore would do.
    Planned(Box<SourcePlan>),
    /// The restore is done.
    Restored(Box<RestoreFinished>),
    /// The drill is made: the archive was opened, or it was not.
    Drilled(Box<DrillFinished>),
    /// What the agent found at its sources.
    Probed(Box<ProbeFinished>),
    /// The agent could not do it: one line, and whether another attempt may go better.
    Failed {
        /// What failed and why.
        reason: String,
        /// Another attempt may go better.
        retryable: bool,
    },
    /// It got no further for so long, and nobody knows how far it is.
    Stalled(Duration),
    /// The agent has ended it because it was told to, or because it stops.
    Cancelled,
    /// The connection broke.
    AgentLost,
}

/// A task that somebody waits for. Dropped before its end, the agent is told to end it.
#[derive(Debug)]
pub struct RunningTask {
    /// Which one.
    pub id: TaskId,
    /// How far it is.
    pub progress: watch::Receiver<Option<TaskProgress>>,
    log: Option<mpsc::Receiver<TaskLog>>,
    ended: oneshot::Receiver<Ended>,
    fleet: Fleet,
}

impl RunningTask {
    /// What it says for its job's log; to be asked for once.
    pub fn log(&mut self) -> mpsc::Receiver<TaskLog> {
        self.log.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Ended {
        (&mut self.ended).await.unwrap_or(Ended::AgentLost)
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.fleet.abandon(self.id);
    }
}

/// The fleet's side of a task.
#[derive(Debug)]
pub(super) struct TaskEntry {
    pub(super) agent: AgentId,
    pub(super) connection: u64,
    pub(super) context: TaskContext,
    pub(super) progress: watch::Sender<Option<TaskProgress>>,
    pub(super) log: mpsc::Sender<TaskLog>,
    /// The agent was told to end it.
    pub(super) cancelled: bool,
    end: oneshot::Sender<Ended>,
}

impl TaskEntry {
    pub(super) fn new(
        fleet: Fleet,
        agent: AgentId,
        connection: u64,
        id: TaskId,
        context: TaskContext,
    ) -> (Self, RunningTask) {
        let (progress, watcher) = watch::channel(None);
        let (log, said) = mpsc::channel(LOG);
        let (end, ended) = oneshot::channel();
        (
            Self { agent, connection, context, progress, log, cancelled: false, end },
            RunningTask { id, progress: watcher, log: Some(said), ended, fleet },
        )
    }

    /// True if somebody still waits for it.
    pub(super) fn end(self, ended: Ended) -> bool {
        self.end.send(ended).is_ok()
    }
}
