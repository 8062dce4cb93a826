//! Tasks: what the controller asks for, a few at a time, each of which can be cancelled.
//!
//! Must stay true: a task that was taken ends in exactly one message (its result or its failure) or with
//! the connection; the number of tasks that run, and of those that wait, is bounded; a cancelled task has
//! ended its threads and cleaned up before it counts as ended; one whose threads hang does not keep the
//! agent away for ever.

mod archive;
mod order;
mod probe;
mod restore;
mod uncovered;
mod uplink;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub(crate) use restore::Users;

use proto::failure::reason;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::v1::{self, agent_message::Message};
use proto::{Failure, convert};
use runtime::steps;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::transport::Channel;
use tracing::Instrument;

use crate::connection::{Agent, UpQueue};
use crate::hooks::{self, Kind, Occasion, Stage};
use crate::served::Served;
use crate::state::RepositoryPin;
use crate::steps::Step;

/// Archives that run at once.
const ARCHIVES: usize = 2;
/// Restores and plans of restores that run at once.
const RESTORES: usize = 1;
/// Drills that run at once: there is one scratch folder.
const DRILLS: usize = 1;
/// Probes that run at once.
const PROBES: usize = 1;
/// Tasks that are known at once, those that wait for their turn included.
const MAX_TASKS: usize = 64;
/// How often a task says how far it is.
const TELL: Duration = Duration::from_millis(500);
/// How long cancelled tasks may take to end. What is cut off there is cleaned up at the next start.
const END: Duration = Duration::from_secs(60);

/// What a task works with, for the life of one connection.
pub(crate) struct TaskContext {
    pub(crate) agent: Arc<Agent>,
    pub(crate) pin: RepositoryPin,
    /// For bulk data: a connection of its own.
    pub(crate) gateway: AgentGatewayClient<Channel>,
    pub(crate) up: UpQueue,
}

/// What the controller asks for.
pub(crate) enum Work {
    Archive(v1::StartArchive),
    Plan(Box<v1::PlanRestore>),
    Restore(Box<v1::StartRestore>),
    Settle(v1::SettleRestore),
    Drill(Box<v1::StartDrill>),
    Probe,
}

impl Work {
    /// The job whose part it is; empty: none's, or the controller is of an earlier release.
    fn job(&self) -> String {
        match self {
            Work::Archive(order) => order.job_id.clone(),
            Work::Restore(order) => order.job_id.clone(),
            Work::Settle(order) => order.job_id.clone(),
            Work::Drill(order) => order.job_id.clone(),
            Work::Plan(_) | Work::Probe => String::new(),
        }
    }
}

/// The tasks of one connection.
pub(crate) struct Tasks {
    context: Arc<TaskContext>,
    running: Arc<Mutex<BTreeMap<String, CancellationToken>>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    archives: Arc<Semaphore>,
    restores: Arc<Semaphore>,
    drills: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

impl Tasks {
    pub(crate) fn new(context: TaskContext) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            context: Arc::new(context),
            running: Arc::default(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            archives: semaphore(ARCHIVES),
            restores: semaphore(RESTORES),
            drills: semaphore(DRILLS),
            probes: semaphore(PROBES),
        }
    }

    /// Takes a task; it runs when it is its turn. A task that is known already is left alone.
    pub(crate) fn start(&self, task_id: String, work: Work) {
        let cancel = self.stop.child_token();
        {
            let mut running = lock(&self.running);
            if running.contains_key(&task_id) {
                return;
            }
            if running.len() >= MAX_TASKS {
                self.context.up.offer(failed(&task_id, too_many(), false));
                return;
            }
            running.insert(task_id.clone(), cancel.clone());
        }
        let turn = Arc::clone(match &work {
            Work::Archive(_) => &self.archives,
            Work::Plan(_) | Work::Restore(_) | Work::Settle(_) => &self.restores,
            Work::Drill(_) => &self.drills,
            Work::Probe => &self.probes,
        });
        let entry = Entry { running: Arc::clone(&self.running), task_id };
        let context = Arc::clone(&self.context);
        // The lines of the log that the work writes name the job; of the level that none is without it.
        let span = tracing::error_span!("task", job = work.job(), task = entry.task_id);
        let work = async move {
            let task_id = &entry.task_id;
            let _turn = tokio::select! {
                () = cancel.cancelled() => None,
                turn = turn.acquire_owned() => turn.ok(),
            };
            let result = match cancel.is_cancelled() {
                true => Err(cancelled()),
                false => {
                    let is_large = matches!(work, Work::Archive(_) | Work::Restore(_) | Work::Drill(_));
                    let result = Box::pin(work_on(&context, task_id, work, &cancel)).await;
                    if is_large {
                        tokio::task::spawn_blocking(runtime::memory::give_back);
                    }
                    result
                }
            };
            match result {
                Ok(None) => tracing::info!("done"),
                Ok(Some(message)) => {
                    tracing::info!("done");
                    if matches!(message, Message::RestoreFinished(_)) {
                        steps::reached(Step::ResultDue).await;
                    }
                    context.up.send(message).await;
                }
                Err(failure) => {
                    let was_cancelled = cancel.is_cancelled();
                    let (why, hint) = (&failure.why, &failure.hint);
                    tracing::warn!(was_cancelled, why, hint, "{failure}");
                    context.up.send(failed(task_id, failure, was_cancelled)).await;
                }
            }
        };
        self.tracker.spawn(work.instrument(span));
    }

    /// Asks a task to end. One that is not known has ended already.
    pub(crate) fn cancel(&self, task_id: &str) {
        if let Some(task) = lock(&self.running).get(task_id) {
            task.cancel();
        }
    }

    /// The tasks that run or wait.
    pub(crate) fn running(&self) -> Vec<String> {
        lock(&self.running).keys().cloned().collect()
    }

    /// Cancels every task and waits until each has ended and cleaned up.
    pub(crate) async fn end(self) -> Result<(), Hanging> {
        // What runs after a task that was cancelled is a part of its end.
        let hooks = self.context.agent.served.iter().map(|served| hooks::longest(&served.hooks));
        let limit = END + hooks.max().unwrap_or_default();
        self.end_within(limit).await
    }

    async fn end_within(self, limit: Duration) -> Result<(), Hanging> {
        self.stop.cancel();
        self.tracker.close();
        let mut ended = tokio::time::timeout(limit, self.tracker.wait()).await;
        // What waits for a program to be healthy has limits of its own.
        while ended.is_err() && self.context.agent.unbroken.load(Ordering::Relaxed) > 0 {
            ended = tokio::time::timeout(limit, self.tracker.wait()).await;
        }
        ended.map_err(|_| Hanging { tasks: self.running() })
    }
}

/// Tasks were cancelled and do not end: a thread of theirs waits for a call of the system that does not
/// return. Such a thread can only be left by ending the process.
#[derive(Debug, thiserror::Error)]
#[error(
    "these tasks do not end: {}; a disk or a network file system that they use does not answer: see to it",
    .tasks.join(", ")
)]
pub(crate) struct Hanging {
    tasks: Vec<String>,
}

fn lock(
    running: &Mutex<BTreeMap<String, CancellationToken>>,
) -> MutexGuard<'_, BTreeMap<String, CancellationToken>> {
    running.lock().expect("nobody panics while holding the list of tasks")
}

/// A task on the list; off it however it ends.
struct Entry {
    running: Arc<Mutex<BTreeMap<String, CancellationToken>>>,
    task_id: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.task_id);
    }
}

async fn work_on(
    context: &Arc<TaskContext>,
    task_id: &str,
    work: Work,
    cancel: &CancellationToken,
) -> Result<Option<Message>, Failure> {
    steps::reached(Step::TaskTaken).await;
    match work {
        Work::Archive(order) => Box::pin(archive::run(context, order, cancel)).await.map(|()| None),
        Work::Plan(order) => {
            restore::plan(context, *order, cancel).await.map(Message::RestorePlanned).map(Some)
        }
        Work::Restore(order) => {
            Box::pin(restored(context, *order, cancel)).await.map(Message::RestoreFinished).map(Some)
        }
        Work::Settle(order) => restore::settle(context, order).await.map(Message::RestoreFinished).map(Some),
        Work::Drill(order) => {
            Box::pin(restore::drill(context, *order, cancel)).await.map(Message::DrillFinished).map(Some)
        }
        Work::Probe => probe::run(context, task_id).await.map(Message::ProbeFinished).map(Some),
    }
}

/// A restore, in place between the hooks of what is replaced.
async fn restored(
    context: &Arc<TaskContext>,
    order: v1::StartRestore,
    cancel: &CancellationToken,
) -> Result<v1::RestoreFinished, Failure> {
    let into = order.order.as_ref().and_then(|order| order.into.as_ref());
    let Some(into) = into else { return Box::pin(restore::run(context, order, cancel)).await };
    let served = order::served(&context.agent, &convert::source_id("into", Some(into))?)?;
    let now = context.agent.clock.now();
    let occasion = occasion(Kind::Restore, served, (&order.task_id, &order.job_id, &order.backup), now)?;
    let stage = Stage { journal: context.agent.state.hooks(), up: &context.up, cancel };
    // One that was taken back has failed, for the hooks; what it did is told all the same.
    let mut taken_back = None;
    let work = async {
        let finished = Box::pin(restore::run(context, order, cancel)).await?;
        if finished.undone.is_empty() {
            return Ok(finished);
        }
        let failure = Failure::new(Code::Aborted, reason::OBSTACLES, finished.undone.clone());
        taken_back = Some(finished);
        Err(failure)
    };
    let result = Box::pin(hooks::between(stage, served, occasion, work)).await;
    taken_back.map_or(result, Ok)
}

/// What hooks are told of a task. What came over the wire is checked: it goes into an environment.
fn occasion(
    kind: Kind,
    served: &Served,
    (task, job, backup): (&str, &str, &str),
    started_at: jiff::Timestamp,
) -> Result<Occasion, Failure> {
    Ok(Occasion {
        kind,
        component: served.id.component.to_string(),
        name: served.id.name.to_string(),
        task: convert::text("task_id", task, 200)?,
        job: convert::text("job_id", job, 200)?,
        backup: convert::text("backup", backup, 200)?,
        started_at,
    })
}

/// Runs blocking code on a thread of its own and waits for its end, whatever happens meanwhile.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(|error| {
        // What a panic says may name an entry, and a failure's text ends in a manifest that needs no key.
        tracing::error!(%error, "the agent's work ended unexpectedly");
        Failure::internal("the agent's work ended unexpectedly")
            .hint("look at the agent's log, which says where")
    })
}

/// Waits for an answer of the controller, but no longer than the task lives.
async fn until<T>(
    cancel: &CancellationToken,
    answer: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled()),
        answer = answer => answer.map_err(Failure::from),
    }
}

/// Offers what `tell` says twice a second, until `work` has ended.
async fn telling<T>(up: &UpQueue, tell: impl Fn() -> v1::TaskProgress, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(TELL) => {
                let now = tell();
                if last.as_ref() != Some(&now) {
                    up.offer(Message::Progress(now.clone()));
                    last = Some(now);
                }
            }
        }
    }
}

fn failed(task_id: &str, failure: Failure, cancelled: bool) -> Message {
    let retryable = !cancelled && (failure.is_passing() || failure.code == Code::Unknown);
    let Failure { what, why, hint, .. } = failure;
    Message::Failed(v1::TaskFailed { task_id: task_id.to_owned(), what, why, hint, retryable, cancelled })
}

pub(crate) fn cancelled() -> Failure {
    Failure::new(Code::Cancelled, reason::TASK_GONE, "the task was cancelled")
}

fn too_many() -> Failure {
    Failure::new(Code::ResourceExhausted, reason::BUSY, "the agent has too many tasks already")
        .because(format!("{MAX_TASKS} tasks run or wait"))
        .hint("try again when some of them have ended")
}

/// Checks what a restore is asked for, and gives it back to nobody: see [`crate::decoders`].
pub(crate) fn check_restore(order: Option<&v1::RestoreOrder>, allowance: Option<&v1::Allowance>) {
    let _ = order::RestoreOrder::check(order);
    let _ = order::allowance(allowance);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{AgentKey, StateFolder};
    use repository::ids::RepositoryId;
    use repository::pack::seal::SealingPublicKey;

    #[tokio::test]
    async fn what_a_panic_says_stays_in_the_agents_log() {
        let failure = blocking(|| panic!("the entry secret-plans.txt")).await.expect_err("it panicked");
        let text = format!("{failure} {} {}", failure.why, failure.hint);
        assert!(!text.contains("secret-plans"), "{text}");
    }

    #[tokio::test]
    async fn a_task_that_hangs_is_named_and_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = StateFolder::open(folder.path()).expect("opens");
        let key = AgentKey::open(&state).expect("a key");
        let agent = Agent {
            config: crate::config::AgentConfig::default(),
            state,
            key,
            served: Vec::new(),
            clock: Arc::new(runtime::clock::SystemClock),
            instance: [0; 16],
            room: Arc::default(),
            listed: crate::pipeline::RememberedBlobs::default(),
            platform: crate::platform::Platform::default(),
            drills: None,
            unbroken: Default::default(),
            retrying: Default::default(),
        };
        let key = SealingPublicKey { epoch: 1, key: [1; 32] };
        let nowhere = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let tasks = Tasks::new(TaskContext {
            agent: Arc::new(agent),
            pin: RepositoryPin { id: RepositoryId::new([1; 16]), key },
            gateway: AgentGatewayClient::new(nowhere),
            up: UpQueue::new().0,
        });
        lock(&tasks.running).insert("t-1".to_owned(), CancellationToken::new());
        let (release, hung) = std::sync::mpsc::sync_channel::<()>(0);
        tasks.tracker.spawn_blocking(move || hung.recv());
        let hanging = tasks.end_within(Duration::from_millis(10)).await.expect_err("it hangs");
        assert_eq!(hanging.tasks, ["t-1"]);
        drop(release);
    }
}
