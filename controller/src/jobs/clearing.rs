//! Retention and prune: backups are removed that no rule keeps, and the space is freed that nothing needs.
//!
//! Must stay true: what goes was decided and written down before anything is removed, and is never more than
//! somebody confirmed; repeating it after a crash is harmless; a large loss is approved by a person or does
//! not happen.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proto::v1::TaskProgress;
use repository::error::RepositoryError;
use repository::progress::CancelFlag;
use repository::prune::{
    MarkState, Phase, PruneOrder, PruneReport, PruneSettings, PruneStep, Retirement, Watch,
};
use repository::store::lease::LeaseError;
use runtime::steps;

use crate::catalog::CatalogError;
use crate::depot::Depot;
use crate::jobs::job::{Cleared, Job, JobFailure, Order, Removal};
use crate::jobs::keeping::{Decided, KeepingError, brake_words, confirmed, decide_now};
use crate::jobs::runner::{Mailbox, Shared, lock};
use crate::jobs::state::{ClearingEnd, Event};
use crate::steps::Step;

const SHOW_EVERY: Duration = Duration::from_millis(250);
const APPROVE: &str = "look at it with `--plan`; if it is meant, run it again with --approve";

/// What a retention removes, or why it cannot begin.
pub(super) async fn prepare(shared: &Arc<Shared>, job: &Job) -> Result<Event, CatalogError> {
    let (names, approved) = match &job.order {
        Order::Retention { confirmed, approved } => (confirmed.as_deref(), *approved),
        _ => return Ok(Event::ClearingStarted { removals: Vec::new() }),
    };
    let cannot = |why: String, hint: &str| Ok(Event::CannotStart(failure("retention", why, hint)));
    let decided = decide_now(&shared.settings.retention, &shared.catalog, &shared.depot, shared.clock.now());
    let decided = match decided.await {
        Ok(decided) => decided,
        Err(KeepingError::Catalog(error)) => return Err(error),
        Err(KeepingError::Repository(error)) => return cannot(proto::failure::chain(&error), error.hint()),
        Err(error) => return cannot(error.to_string(), "see the controller's log"),
    };
    let removals = confirmed(decided.removals(), names);
    if approved {
        return Ok(Event::ClearingStarted { removals });
    }
    match brake(shared, &decided, &removals).await {
        Ok(None) => Ok(Event::ClearingStarted { removals }),
        Ok(Some(why)) => cannot(why, APPROVE),
        Err(KeepingError::Repository(error)) => cannot(proto::failure::chain(&error), error.hint()),
        Err(error) => cannot(error.to_string(), "see the controller's log"),
    }
}

/// Why somebody has to see these removals first.
async fn brake(
    shared: &Arc<Shared>,
    decided: &Decided,
    removals: &[Removal],
) -> Result<Option<String>, KeepingError> {
    if let Some(brake) = decided.brake() {
        return Ok(Some(brake));
    }
    let Ok(_alone) = shared.clearing.acquire().await else { return Ok(None) };
    let (depot, shared) = (shared.depot.clone(), shared.clone());
    let without = removals.iter().map(|removal| removal.backup.clone()).collect();
    // As if nothing were too young: it will be older when it goes.
    let order = PruneOrder { without, ..order(true, false) };
    let planned = tokio::task::spawn_blocking(move || {
        depot.repository().plan_prune(&order, &Planning { depot: &depot, now: &|| shared.clock.now() })
    });
    Ok(planned.await??.brake.as_ref().map(brake_words))
}

/// How prune is asked to work.
pub(crate) fn order(now: bool, approved: bool) -> PruneOrder {
    PruneOrder { settings: PruneSettings::default(), now, approved, without: Vec::new() }
}

/// Watches over the making of a plan, which writes nothing.
pub(crate) struct Planning<'a> {
    pub(crate) depot: &'a Depot,
    pub(crate) now: &'a dyn Fn() -> Timestamp,
}

impl Watch for Planning<'_> {
    fn now(&self) -> Timestamp {
        (self.now)()
    }

    fn may_write(&self) -> Result<(), LeaseError> {
        self.depot.lease().check()
    }
}

/// A clearing on its way.
pub(super) struct Clearing {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Mailbox,
    pub(super) job: Job,
    pub(super) cancel: Arc<CancelFlag>,
}

/// Set when the clearing is over, however it ended: its thread must not go on alone.
struct Over(Arc<CancelFlag>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Does it, and tells how it ended.
pub(super) async fn clear(clearing: Clearing) {
    let Clearing { shared, mailbox, job, cancel } = clearing;
    let over = Over(cancel.clone());
    let Ok(_alone) = shared.clearing.acquire().await else { return };
    let (of_thread, of_job) = (shared.clone(), job.clone());
    let worked = tokio::task::spawn_blocking(move || {
        let watch = Watching { shared: &of_thread, job: &of_job, cancel: &cancel, last: Mutex::new(None) };
        work(&watch)
    });
    let end = match worked.await {
        Ok(Ok(cleared)) => ClearingEnd::Done(cleared),
        Ok(Err(Stopped::Repository(RepositoryError::Cancelled))) => ClearingEnd::Cancelled,
        Ok(Err(Stopped::Repository(error))) => {
            ClearingEnd::Failed(failure(job.kind(), proto::failure::chain(&error), error.hint()))
        }
        Ok(Err(Stopped::Brake(why))) => ClearingEnd::Failed(failure(job.kind(), why, APPROVE)),
        Err(error) => ClearingEnd::Failed(failure(job.kind(), error.to_string(), "see the controller's log")),
    };
    drop(over);
    // Whatever the end: some backups may be gone.
    forget(&shared, &job).await;
    steps::reached(Step::ClearingListed).await;
    mailbox.tell(Event::ClearingEnded(end)).await;
}

/// Takes the backups that are gone out of the catalog's list. They are gone whatever becomes of the list, so
/// that a failure is told and no more; the next start reads the list again.
async fn forget(shared: &Shared, job: &Job) {
    const WHAT: &str = "the catalog's list of backups is out of date; a restart reads it again";
    if job.removals.is_empty() {
        return;
    }
    let depot = shared.depot.clone();
    let there = match tokio::task::spawn_blocking(move || depot.repository().names()).await {
        Ok(Ok(there)) => there,
        Ok(Err(error)) => return tracing::error!(error = proto::failure::chain(&error), "{WHAT}"),
        Err(error) => return tracing::error!(%error, "{WHAT}"),
    };
    let names = job.removals.iter().map(|removal| &removal.backup);
    let gone: Vec<_> = names.filter(|name| !there.contains(*name)).collect();
    if let Err(error) = shared.catalog.forget_backups(&gone).await {
        tracing::error!(error = proto::failure::chain(&error), "{WHAT}");
    }
}

/// The failure of a clearing whose code panicked.
pub(super) fn panicked(job: &Job) -> Event {
    let why = super::state::PANICKED.to_owned();
    Event::ClearingEnded(ClearingEnd::Failed(failure(job.kind(), why, "see the controller's log")))
}

fn failure(kind: &str, why: String, hint: &str) -> JobFailure {
    JobFailure::new(format!("the {kind} did not go through"), why, hint)
}

/// Why the work ended early.
enum Stopped {
    Repository(RepositoryError),
    Brake(String),
}

impl From<RepositoryError> for Stopped {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(error)
    }
}

fn work(watch: &Watching<'_>) -> Result<Cleared, Stopped> {
    let (repository, keys) = (watch.shared.depot.repository(), watch.shared.depot.keys());
    let mut cleared = Cleared::default();
    let order = match watch.job.order {
        Order::Prune { now, approved, .. } => order(now, approved),
        Order::Retention { approved, .. } => order(false, approved),
        _ => unreachable!("no other job clears"),
    };
    if !watch.job.removals.is_empty() {
        let there = repository.names()?;
        let retirements: Vec<Retirement> = (watch.job.removals.iter())
            .filter(|removal| there.contains(&removal.backup))
            .map(|removal| Retirement { name: removal.backup.clone(), rule: removal.rule.clone() })
            .collect();
        let report = repository.retire(&retirements, keys, watch)?;
        let in_use = report.in_use.iter().map(|name| format!("backup {name} is in use and stays for now"));
        let pinned = report.pinned.iter().map(|name| format!("backup {name} was pinned and stays"));
        cleared.remarks.extend(in_use.chain(pinned));
        // Those that an attempt before a crash removed are this job's, too.
        let there = repository.names()?;
        let gone = watch.job.removals.iter().map(|removal| &removal.backup);
        cleared.backups = gone.filter(|name| !there.contains(*name)).cloned().collect();
    }
    let report = repository.prune(&order, watch)?;
    if let Some(brake) = &report.held {
        return Err(Stopped::Brake(brake_words(brake)));
    }
    let waiting = repository.prune_state(&order.settings, watch.now())?.marked;
    account(report, waiting, &mut cleared);
    Ok(cleared)
}

/// Adds what prune did, and what a person should know of it.
fn account(report: PruneReport, waiting: Option<MarkState>, cleared: &mut Cleared) {
    cleared.freed_bytes = report.deleted.bytes;
    cleared.packs = report.deleted.packs;
    cleared.rewritten_bytes = report.copied.bytes;
    cleared.waiting_bytes = waiting.as_ref().map_or(0, |mark| mark.amount.bytes);
    cleared.waits_until = waiting.map(|mark| mark.not_before);
    if report.plan.missing_blobs > 0 {
        let line =
            format!("{} blobs that backups need are in no pack: verify them", report.plan.missing_blobs);
        cleared.remarks.push(line);
    }
    if report.brought_back > 0 {
        cleared.remarks.push(format!("{} packs were needed again and brought back", report.brought_back));
    }
}

/// Watches over the work of a job: its fence, its steps, its progress, its end.
struct Watching<'a> {
    shared: &'a Shared,
    job: &'a Job,
    cancel: &'a CancelFlag,
    last: Mutex<Option<Instant>>,
}

impl Watch for Watching<'_> {
    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn may_write(&self) -> Result<(), LeaseError> {
        self.shared.depot.lease().check()
    }

    fn done(&self, step: PruneStep) {
        if let Some(step) = Step::of_prune(step) {
            steps::reach(step);
        }
    }

    fn progress(&self, phase: Phase, done: u64, total: u64) {
        let mut last = lock(&self.last);
        if done < total && last.is_some_and(|last| last.elapsed() < SHOW_EVERY) {
            return;
        }
        *last = Some(Instant::now());
        let step = match phase {
            Phase::Reading => "reading backups",
            Phase::Copying => "rewriting packs",
            Phase::Removing => "removing packs",
        };
        let progress = TaskProgress { step: step.to_owned(), done_entries: done, ..TaskProgress::default() };
        self.shared.live.progress(self.job.id, 0, progress, self.shared.clock.now());
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}
