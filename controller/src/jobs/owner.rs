//! The task that owns a job: takes the events of its work, has the new state kept, and acts on it.
//!
//! Must stay true: what it acts on is in the catalog; with the job's end, with a stop and with a panic
//! everything that it has set to work ends, too.

use std::sync::Arc;
use std::time::Duration;

use repository::progress::CancelFlag;
use runtime::steps;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::catalog::CatalogError;
use crate::guarded::ends_by_itself;
use crate::ids::{JobId, TaskId};
use crate::jobs::clearing::{Clearing, clear};
use crate::jobs::job::{Job, JobFailure, JobState, Order, PartState};
use crate::jobs::runner::{Attempt, Mail, Mailbox, Shared, lock};
use crate::jobs::state::{Action, Event, PANICKED, Refused, TaskEnd, advance};
use crate::steps::Step;

/// An agent that was told to end a task has this long to say that it did.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(30);

/// The task that owns a job.
pub(super) struct Owner {
    shared: Arc<Shared>,
    mailbox: Mailbox,
    /// Cancelled when the job has ended or the controller stops: nothing of it goes on.
    work: CancellationToken,
    /// Ends a retention or a prune between two steps.
    clearing: Arc<CancelFlag>,
    job: Job,
}

impl Owner {
    pub(super) fn new(shared: Arc<Shared>, mailbox: Mailbox, job: Job) -> Self {
        Self { shared, mailbox, work: CancellationToken::new(), clearing: Arc::default(), job }
    }

    pub(super) async fn run(mut self, mut mail: mpsc::Receiver<Mail>) {
        let id = self.job.id;
        // After a panic too: nothing of the job goes on, and the next look at the queue takes it up again.
        let owned = Owned { shared: self.shared.clone(), work: self.work.clone(), job: id };
        if let Err(error) = self.run_to_end(&mut mail).await {
            // No kick: what failed just now has a pause before it is tried again.
            tracing::error!(job = %id, error = proto::failure::chain(&error), "the job is left to the next look at the queue");
            return;
        }
        if self.job.state.is_end() {
            announce(&self.job);
            self.shared.leases.let_go(id);
            if let Some(name) = &self.job.backup {
                lock(&self.shared.names).remove(name);
            }
            remove_job_folder(&self.shared.settings.jobs_folder.join(id.to_string()));
            self.shared.settings.ended.notify_one();
        }
        drop(owned);
        self.shared.kick.notify_one();
        tokio::task::spawn_blocking(runtime::memory::give_back);
    }

    async fn run_to_end(&mut self, mail: &mut mpsc::Receiver<Mail>) -> Result<(), CatalogError> {
        let stop = self.shared.shutdown.token();
        if stop.is_cancelled() {
            return Ok(());
        }
        let first = match self.job.state {
            JobState::Queued => self.prepare().await?,
            _ => {
                for event in super::stand_in::ends_on_record(&self.shared, &self.job).await? {
                    let _ = self.apply(event).await?;
                }
                Event::ControllerRestarted
            }
        };
        // The first event always fits the state that it was made for.
        let _ = self.apply(first).await?;
        while !self.job.state.is_end() {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                next = mail.recv() => next,
            };
            let Some(Mail { event, taken }) = next else { return Ok(()) };
            let result = self.apply(event).await?;
            // Who asked may have gone.
            let _ = taken.send(result);
        }
        Ok(())
    }

    /// What the job consists of, now that its turn has come.
    async fn prepare(&self) -> Result<Event, CatalogError> {
        let cannot = |why: String, hint: &str| {
            Event::CannotStart(JobFailure::new(format!("the {} cannot start", self.job.kind()), why, hint))
        };
        if self.shared.depot.lease().is_lost() {
            return Ok(cannot(
                "another controller has taken over this repository".to_owned(),
                "make sure that only one controller uses the repository, then restart this one",
            ));
        }
        let held = self.shared.leases.hold(&self.shared.depot, &self.job, self.shared.clock.now());
        if let Err(error) = held.await {
            return Ok(cannot(proto::failure::chain(&error), "see `nsctl doctor`"));
        }
        match &self.job.order {
            Order::Backup { components, import, .. } => {
                super::backup::prepare(&self.shared, components, import.is_some()).await
            }
            Order::Verify { backup, components, .. } => {
                super::verify::prepare(&self.shared, backup, components).await
            }
            Order::Restore { backup, places, safety, .. } => {
                super::restore::prepare(&self.shared.catalog, backup, places, *safety).await
            }
            Order::Retention { .. } | Order::Prune { .. } => {
                super::clearing::prepare(&self.shared, &self.job).await
            }
        }
    }

    /// Makes the event count: catalog first, then watchers, then actions.
    async fn apply(&mut self, event: Event) -> Result<Result<(), Refused>, CatalogError> {
        let [unwritten, written] = Step::of(&event);
        let (next, actions) = match advance(&self.job, event, self.shared.clock.now()) {
            Ok(next) => next,
            Err(refused) => return Ok(Err(refused)),
        };
        steps::reached(unwritten).await;
        self.shared.save(self.job.state, &next, &actions).await?;
        steps::reached(written).await;
        self.job = next;
        for action in actions {
            self.perform(action);
        }
        Ok(Ok(()))
    }

    fn perform(&self, action: Action) {
        match action {
            Action::Tell(..) => {}
            Action::Attempt { part } => {
                let attempt = Attempt {
                    shared: self.shared.clone(),
                    mailbox: self.mailbox.clone(),
                    job: self.job.clone(),
                    part,
                };
                let panicked = Event::AttemptPanicked { part, attempt: self.job.parts[part].attempt };
                match self.job.order {
                    Order::Backup { .. } => self.spawn("archive", super::backup::attempt(attempt), panicked),
                    Order::Verify { .. } => {
                        self.spawn("verification", super::verify::attempt(attempt), panicked)
                    }
                    Order::Restore { .. } => {
                        self.spawn("restore", super::restore::attempt(attempt), panicked)
                    }
                    Order::Retention { .. } | Order::Prune { .. } => {
                        unreachable!("a clearing has no parts to attempt")
                    }
                }
            }
            Action::CancelTask { task } => self.cancel_task(task),
            Action::CancelClearing => self.clearing.cancel(),
            Action::Clear => {
                let clearing = Clearing {
                    shared: self.shared.clone(),
                    mailbox: self.mailbox.clone(),
                    job: self.job.clone(),
                    cancel: self.clearing.clone(),
                };
                self.spawn("clearing", clear(clearing), super::clearing::panicked(&self.job));
            }
            Action::Commit => {
                let (shared, mailbox, job) = (self.shared.clone(), self.mailbox.clone(), self.job.clone());
                let commit = async move {
                    let event = super::commit::commit(shared, &job).await;
                    mailbox.tell(event).await;
                };
                let panicked = Event::CommitFailed(JobFailure::new(
                    "the backup could not be committed",
                    PANICKED,
                    "see the controller's log, then run the backup again",
                ));
                self.spawn("commit", commit, panicked);
            }
        }
    }

    fn cancel_task(&self, task: TaskId) {
        self.shared.fleet.cancel(task);
        if let Some(flag) = lock(&self.shared.local).get(&task) {
            flag.cancel();
        }
        let Some(part) = self.job.parts.iter().position(|part| part.state == (PartState::Running { task }))
        else {
            return;
        };
        // Its attempt looks for the cancel itself: what it has stopped is started before the part ends.
        if super::restore::has_stand_in(&self.shared, &self.job, part) {
            return;
        }
        let mailbox = self.mailbox.clone();
        // Whoever does not answer may have done it: a restore in its swap goes through with it.
        let ended = Event::TaskEnded { part, task, end: TaskEnd::AgentLost };
        let patience = {
            let ended = ended.clone();
            async move {
                tokio::time::sleep(CANCEL_GRACE).await;
                mailbox.tell(ended).await;
            }
        };
        self.spawn("cancellation", patience, ended);
    }

    /// Runs work of this job until it is done, or the job has ended, or the controller stops. Work that
    /// panics is told as `panicked`, so that the job does not wait for it for ever.
    fn spawn(&self, what: &str, work: impl Future<Output = ()> + Send + 'static, panicked: Event) {
        let (over, stop, mailbox) = (self.work.clone(), self.shared.shutdown.token(), self.mailbox.clone());
        let guarded = async move {
            if !ends_by_itself(work).await {
                mailbox.tell(panicked).await;
            }
        };
        self.shared.shutdown.spawn(format!("{what} of {}", self.job.id), async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = stop.cancelled() => {}
                () = guarded => {}
            }
        });
    }
}

/// A job has an owner for as long as this lives.
struct Owned {
    shared: Arc<Shared>,
    work: CancellationToken,
    job: JobId,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.work.cancel();
        lock(&self.shared.running).remove(&self.job);
    }
}

/// The end of a job in the log; who is to be told is written with the job's state, in [`Shared::save`].
fn announce(job: &Job) {
    let Some(failure) = &job.failure else { return };
    let event = format!("{}_failed", job.kind());
    tracing::error!(job = %job.id, event, why = failure.why, hint = failure.hint, "{}", failure.what);
}

fn remove_job_folder(folder: &std::path::Path) {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "what a job left cannot be removed");
        }
        _ => {}
    }
}
