//! Runs the jobs: takes orders, starts what may start, gives each job an owner and keeps what it says.
//!
//! Must stay true: one task owns a job and alone changes it; it writes the new state down before it acts;
//! when the controller stops, jobs stay as they are and are taken up again at the next start; a job whose
//! owner gave up or panicked is taken up again by the next look at the queue.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use proto::v1::SourcePlan;
use repository::backup::manifest::BackupRecord;
use repository::names::{BackupName, SourceId};
use repository::progress::CancelFlag;
use repository::verify::plan::Goal;
use runtime::clock::Clock;
use runtime::shutdown::Shutdown;
use runtime::steps;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::task::JoinError;

use crate::alerts;
use crate::catalog::{Added, Catalog, CatalogError, Claim};
use crate::depot::Depot;
use crate::fleet::Fleet;
use crate::ids::{AgentId, JobId, TaskId};
use crate::jobs::job::{Job, JobState, Order, RestorePlace};
use crate::jobs::keeping::Configured;
use crate::jobs::leases::{HoldError, Leases};
use crate::jobs::live::Live;
use crate::jobs::owner::Owner;
use crate::jobs::queue::{self, MAX_QUEUED};
use crate::jobs::restore::NoPlan;
use crate::jobs::state::{Action, Event, Level, Refused, TaskEnd};
use crate::jobs::verify::VERIFIED_AT_ONCE;
use crate::kubernetes::RestorePods;
use crate::metrics::Metrics;
use crate::steps::Step;

/// Archives and restores that are worked at together.
const TASKS_AT_ONCE: usize = 4;
/// Of these, at one agent: each has a pipeline of its own there, and memory has a limit.
const TASKS_PER_AGENT: usize = 2;
/// Events that may wait for one job.
const MAILBOX: usize = 64;
/// The catalog may fail this often in a row before a job is left to the next look at the queue.
const CATALOG_TRIES: u32 = 5;
const CATALOG_PAUSE: Duration = Duration::from_secs(1);
/// The queue is looked at this often even if nothing was heard.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What can be set from outside.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long an agent that is away is waited for.
    pub agent_wait: Duration,
    /// Where what belongs to a job lies until it ends.
    pub jobs_folder: PathBuf,
    /// Where the controller keeps who it is.
    pub state_folder: PathBuf,
    /// How long it is known what jobs did.
    pub jobs_kept_for: SignedDuration,
    /// What the configuration says of which backups are kept.
    pub retention: Configured,
    /// Woken when a job has ended.
    pub ended: Arc<Notify>,
    /// How much a verification reads unless it is told otherwise.
    pub verification: Goal,
    /// Where ended jobs are counted.
    pub metrics: Metrics,
    /// The pods that restore in the place of sidecars.
    pub restore_pods: RestorePods,
}

/// A job could not be ordered.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too many wait already.
    #[error("{MAX_QUEUED} jobs are waiting already")]
    Full,
    /// The request id has ordered something else before.
    #[error("the request id was used for another order: {0}")]
    OtherRequest(String),
    /// What it is for has its job already.
    #[error("this has been started already")]
    Taken,
    /// The catalog failed.
    #[error("the job cannot be recorded")]
    Catalog(#[from] CatalogError),
    /// The code that does it has failed.
    #[error("the controller failed at it")]
    Failed(#[from] JoinError),
}

/// The jobs cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// What a job reads cannot be held.
    #[error("a job of the last life cannot be taken up again")]
    Hold(#[from] HoldError),
}

/// Runs jobs. Cheap to clone.
#[derive(Clone)]
pub struct Runner {
    pub(super) shared: Arc<Shared>,
}

/// What every job's tasks need.
pub(crate) struct Shared {
    pub(super) catalog: Catalog,
    pub(super) depot: Arc<Depot>,
    pub(super) fleet: Fleet,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) live: Live,
    pub(super) settings: Settings,
    slots: Semaphore,
    agent_slots: Mutex<HashMap<AgentId, Arc<Semaphore>>>,
    /// There is one verification at a time (see the queue): these are for its archives.
    pub(super) verifying: Semaphore,
    /// Verifications that can be told to stop.
    pub(super) local: Mutex<HashMap<TaskId, Arc<CancelFlag>>>,
    pub(super) clearing: Semaphore,
    /// What the jobs that are under way hold of the repository.
    pub(super) leases: Leases,
    /// Names of backups that are not committed yet.
    pub(super) names: Mutex<BTreeSet<BackupName>>,
    pub(super) shutdown: Shutdown,
    pub(super) running: Mutex<HashMap<JobId, Mailbox>>,
    /// Held while a job leaves the queue or is cancelled in it.
    pub(super) queue: tokio::sync::Mutex<()>,
    pub(super) kick: Notify,
}

/// An event for a job, and who wants to know whether it was taken.
pub(super) struct Mail {
    pub(super) event: Event,
    pub(super) taken: oneshot::Sender<Result<(), Refused>>,
}

/// The way to a running job.
#[derive(Clone)]
pub(super) struct Mailbox(pub(super) mpsc::Sender<Mail>);

impl Mailbox {
    /// True once the event is in the catalog; false if it came too late or the job has gone.
    pub(super) async fn tell(&self, event: Event) -> bool {
        matches!(self.ask(event).await, Some(Ok(())))
    }

    /// What the job says to it; none where it has no owner any more.
    pub(super) async fn ask(&self, event: Event) -> Option<Result<(), Refused>> {
        let (taken, answer) = oneshot::channel();
        self.0.send(Mail { event, taken }).await.ok()?;
        answer.await.ok()
    }
}

/// One attempt at a part, as the code that carries it out sees it.
pub(super) struct Attempt {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Mailbox,
    pub(super) job: Job,
    pub(super) part: usize,
}

impl Attempt {
    /// Ends the attempt.
    pub(super) async fn end(&self, task: TaskId, end: TaskEnd) {
        self.mailbox.tell(Event::TaskEnded { part: self.part, task, end }).await;
    }

    /// Tells a person something of its part, a line each.
    pub(super) async fn remark(&self, level: Level, lines: Vec<String>) {
        if !lines.is_empty() {
            self.mailbox.tell(Event::Remark { part: self.part, level, lines }).await;
        }
    }

    /// Shows how far it is.
    pub(super) fn progress(&self, progress: proto::v1::TaskProgress) {
        self.shared.live.progress(self.job.id, self.part, progress, self.shared.clock.now());
    }
}

impl Runner {
    /// A runner that does nothing yet; [`Runner::run`] sets it going.
    pub fn new(
        catalog: Catalog,
        depot: Arc<Depot>,
        fleet: Fleet,
        clock: Arc<dyn Clock>,
        settings: Settings,
        shutdown: Shutdown,
    ) -> Self {
        let shared = Shared {
            catalog,
            depot,
            fleet,
            clock,
            live: Live::default(),
            settings,
            slots: Semaphore::new(TASKS_AT_ONCE),
            agent_slots: Mutex::default(),
            verifying: Semaphore::new(VERIFIED_AT_ONCE as usize),
            local: Mutex::default(),
            clearing: Semaphore::new(1),
            leases: Leases::default(),
            names: Mutex::default(),
            shutdown,
            running: Mutex::default(),
            queue: tokio::sync::Mutex::default(),
            kick: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What the configuration says of which backups are kept.
    pub(crate) fn retention(&self) -> &Configured {
        &self.shared.settings.retention
    }

    /// How much a verification reads unless it is told otherwise.
    pub(crate) fn verification(&self) -> Goal {
        self.shared.settings.verification
    }

    /// Held by whoever plans or does what takes something away: the repository does one at a time.
    pub(crate) fn clearing(&self) -> &Semaphore {
        &self.shared.clearing
    }

    /// What the restore of a place would do, by its agent.
    pub(crate) async fn ask_for_plan(
        &self,
        record: BackupRecord,
        place: RestorePlace,
    ) -> Result<SourcePlan, NoPlan> {
        super::restore::ask_for_plan(&self.shared, record, place).await
    }

    /// The restore pod that restores this source in place, as `kubectl` is told of it.
    pub(crate) fn restore_pod_of(&self, source: &SourceId) -> Option<String> {
        let pod = self.shared.settings.restore_pods.of(source)?.id();
        Some(format!("deployment/{} -n {}", pod.deployment, pod.namespace))
    }

    /// What ended restores have stopped in a cluster and not started yet, a line each.
    pub(crate) async fn left_stopped(&self) -> Result<Vec<String>, CatalogError> {
        super::stand_in::left_stopped(&self.shared).await
    }

    /// Starts what ended restores have stopped in a cluster and not started, until the stop.
    pub async fn keep_restore_pods(self) {
        let stop = self.shared.shutdown.token();
        stop.run_until_cancelled(super::stand_in::keep(self.shared.clone())).await;
    }

    /// What goes on now.
    pub fn live(&self) -> &Live {
        &self.shared.live
    }

    /// Orders a job. A repeated `request_id` gives the job that it started first. Goes on to its end if the
    /// caller is given up: a job that is in the catalog is then also started.
    pub async fn submit(&self, order: Order, request_id: Option<&str>) -> Result<Job, SubmitError> {
        self.submit_for(order, request_id, None).await
    }

    /// The same for a schedule: its claim is taken in the transaction that records the job.
    pub async fn submit_for(
        &self,
        order: Order,
        request_id: Option<&str>,
        claim: Option<(String, Claim)>,
    ) -> Result<Job, SubmitError> {
        let (runner, request_id) = (self.clone(), request_id.map(str::to_owned));
        let id = JobId::fresh();
        tokio::spawn(async move { runner.submit_now(id, order, request_id.as_deref(), claim).await }).await?
    }

    /// The same under an id that is known already.
    pub(crate) async fn submit_as(
        &self,
        id: JobId,
        order: Order,
        request_id: Option<&str>,
    ) -> Result<Job, SubmitError> {
        let (runner, request_id) = (self.clone(), request_id.map(str::to_owned));
        tokio::spawn(async move { runner.submit_now(id, order, request_id.as_deref(), None).await }).await?
    }

    async fn submit_now(
        &self,
        id: JobId,
        order: Order,
        request_id: Option<&str>,
        claim: Option<(String, Claim)>,
    ) -> Result<Job, SubmitError> {
        let shared = &self.shared;
        let queued = shared.queue.lock().await;
        if let Some(request_id) = request_id
            && let Some(existing) = shared.catalog.job_of_request(request_id).await?
        {
            return the_same(existing, &order);
        }
        if shared.catalog.alive_jobs().await?.len() >= MAX_QUEUED {
            return Err(SubmitError::Full);
        }
        let (schedule, claim) = claim.unzip();
        let job = Job { schedule, ..Job::queued(id, order, shared.clock.now()) };
        shared.live.open(&job);
        let added = shared.catalog.add_job(&job, request_id, claim.as_ref()).await;
        let added = added.inspect_err(|_| shared.live.close(job.id))?;
        drop(queued);
        match added {
            Added::Existed(existing) => {
                shared.live.close(job.id);
                the_same(*existing, &job.order)
            }
            Added::Taken => {
                shared.live.close(job.id);
                Err(SubmitError::Taken)
            }
            Added::New => {
                tracing::info!(job = %job.id, kind = job.kind(), "job ordered");
                steps::reached(Step::JobOrdered).await;
                shared.kick.notify_one();
                Ok(job)
            }
        }
    }

    /// Takes up the jobs of the last life, then starts jobs as their turns come, until the stop.
    pub async fn run(self) -> Result<(), RunError> {
        let shared = &self.shared;
        let stop = shared.shutdown.token();
        {
            let _queued = shared.queue.lock().await;
            let alive = shared.catalog.alive_jobs().await?;
            alive.iter().for_each(|job| shared.live.open(job));
            // All of them before any job begins: the first may be a prune.
            for job in alive.iter().filter(|job| job.state != JobState::Queued) {
                shared.leases.hold(&shared.depot, job, shared.clock.now()).await?;
            }
            Leases::end_those_of_the_dead(&shared.depot, &shared.catalog, shared.clock.now()).await?;
        }
        loop {
            if let Err(error) = self.start_what_may().await {
                tracing::error!(error = proto::failure::chain(&error), "the queue cannot be read");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = shared.kick.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Starts the queued jobs whose turn has come, and takes up those that nobody owns any more.
    async fn start_what_may(&self) -> Result<(), CatalogError> {
        let _queued = self.shared.queue.lock().await;
        // Before the catalog is read: a job that ends in between is then in the older set, and not begun
        // again from a stale copy.
        let owned: BTreeSet<JobId> = lock(&self.shared.running).keys().copied().collect();
        let alive = self.shared.catalog.alive_jobs().await?;
        let starts = queue::startable(&alive);
        for job in alive.into_iter().filter(|job| !owned.contains(&job.id)) {
            if job.state != JobState::Queued {
                tracing::info!(job = %job.id, kind = job.kind(), "job taken up again");
                lock(&self.shared.names).extend(uncommitted_name(&job));
                self.start(job);
            } else if starts.contains(&job.id) {
                self.start(job);
            }
        }
        Ok(())
    }

    fn start(&self, job: Job) {
        let (sender, mail) = mpsc::channel(MAILBOX);
        let mailbox = Mailbox(sender);
        lock(&self.shared.running).insert(job.id, mailbox.clone());
        let name = format!("{} {}", job.kind(), job.id);
        let owner = Owner::new(self.shared.clone(), mailbox, job);
        self.shared.shutdown.spawn(name, owner.run(mail));
    }
}

/// Room for one task at one agent, until it is dropped.
pub(super) struct Slot<'a> {
    _of_agent: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'a>,
}

impl Shared {
    /// Waits for room for a task at this agent.
    pub(super) async fn slot(&self, agent: AgentId) -> Slot<'_> {
        let of_agent = lock(&self.agent_slots)
            .entry(agent)
            .or_insert_with(|| Arc::new(Semaphore::new(TASKS_PER_AGENT)))
            .clone();
        const OPEN: &str = "the semaphores are never closed";
        let of_agent = of_agent.acquire_owned().await.expect(OPEN);
        Slot { _of_agent: of_agent, _of_all: self.slots.acquire().await.expect(OPEN) }
    }

    /// Writes a job's new state, lines and alerts down, and shows them to whoever watches.
    pub(super) async fn save(
        &self,
        before: JobState,
        job: &Job,
        actions: &[Action],
    ) -> Result<(), CatalogError> {
        let events = alerts::job_events(before, job);
        let lines = || -> Vec<(&'static str, String)> {
            let told = actions.iter().filter_map(|action| match action {
                Action::Tell(level, line) => Some((word(*level), line.clone())),
                _ => None,
            });
            told.collect()
        };
        for (level, line) in lines() {
            match level {
                "error" => tracing::error!(job = %job.id, "{line}"),
                "warning" => tracing::warn!(job = %job.id, "{line}"),
                _ => tracing::info!(job = %job.id, "{line}"),
            }
        }
        let now = self.clock.now();
        let mut tries = 1;
        let kept = loop {
            match self.catalog.save_job(job, lines(), &events, now).await {
                Ok(kept) => break kept,
                Err(error) if tries < CATALOG_TRIES => {
                    tracing::warn!(job = %job.id, error = proto::failure::chain(&error), "the job's state was not written; it is tried again");
                    tries += 1;
                    tokio::time::sleep(CATALOG_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.settings.metrics.job_saved(before, job);
        self.live.publish(job, kept, now);
        Ok(())
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

fn uncommitted_name(job: &Job) -> Option<BackupName> {
    matches!(job.order, Order::Backup { .. }).then(|| job.backup.clone()).flatten()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The job that a request has ordered before, if it has ordered just this.
fn the_same(existing: Job, order: &Order) -> Result<Job, SubmitError> {
    match existing.order.asks_for_the_same(order) {
        true => Ok(existing),
        false => Err(SubmitError::OtherRequest(format!("the {} {}", existing.kind(), existing.id))),
    }
}
