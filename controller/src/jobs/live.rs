//! What goes on in the jobs that have not ended: for whoever watches.
//!
//! Must stay true: a watcher never slows a job down; one that falls behind reads the catalog again and
//! misses no line; progress is shown and never kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use proto::v1::TaskProgress;
use tokio::sync::{broadcast, mpsc};

use crate::catalog::{Catalog, CatalogError, JobEventRecord};
use crate::ids::JobId;
use crate::jobs::Job;

/// Updates that a watcher may be behind.
const BEHIND: usize = 256;
/// Messages that may wait for one watcher.
const QUEUE: usize = 64;

/// A job and how far its parts are.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// The job.
    pub job: Job,
    /// By part, or of a job without parts as a whole; `None` where nothing was heard.
    pub progress: Vec<Option<TaskProgress>>,
}

/// One thing that a watcher hears.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// The line; `None` when only the job changed.
    pub line: Option<JobEventRecord>,
    /// The sequence of the last line so far.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// The job as it is now; `None` with lines from before.
    pub view: Option<Arc<JobView>>,
}

/// Something changed in a job.
#[derive(Debug, Clone)]
struct Update {
    lines: Vec<JobEventRecord>,
    view: Arc<JobView>,
    at: Timestamp,
}

#[derive(Debug)]
struct Entry {
    sender: broadcast::Sender<Update>,
    view: Arc<JobView>,
}

/// The jobs that have not ended. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Live {
    jobs: Arc<Mutex<HashMap<JobId, Entry>>>,
}

impl Live {
    /// From now on the job can be watched.
    pub(super) fn open(&self, job: &Job) {
        let view = Arc::new(JobView { job: job.clone(), progress: Vec::new() });
        self.lock().entry(job.id).or_insert_with(|| Entry { sender: broadcast::Sender::new(BEHIND), view });
    }

    /// The job is not watched any more: it never came to be.
    pub(super) fn close(&self, id: JobId) {
        self.lock().remove(&id);
    }

    /// The job has changed; at its end it is no longer live.
    pub(super) fn publish(&self, job: &Job, lines: Vec<JobEventRecord>, at: Timestamp) {
        let mut jobs = self.lock();
        let Some(entry) = jobs.get_mut(&job.id) else { return };
        let mut progress = entry.view.progress.clone();
        progress.resize(places(job), None);
        entry.view = Arc::new(JobView { job: job.clone(), progress });
        // Nobody needs to listen.
        let _ = entry.sender.send(Update { lines, view: entry.view.clone(), at });
        if job.state.is_end() {
            jobs.remove(&job.id);
        }
    }

    /// A part got further.
    pub(super) fn progress(&self, id: JobId, part: usize, progress: TaskProgress, at: Timestamp) {
        let mut jobs = self.lock();
        let Some(entry) = jobs.get_mut(&id) else { return };
        let view = Arc::make_mut(&mut entry.view);
        if part < places(&view.job) {
            view.progress.resize(places(&view.job), None);
            view.progress[part] = Some(progress);
        }
        // Nobody needs to listen.
        let _ = entry.sender.send(Update { lines: Vec::new(), view: entry.view.clone(), at });
    }

    /// The job with its progress. One that has ended by the catalog is shown so, even where its end has not
    /// come to be told here yet.
    pub fn view(&self, job: Job) -> JobView {
        match self.lock().get(&job.id) {
            Some(entry) if !job.state.is_end() => (*entry.view).clone(),
            _ => JobView { progress: vec![None; places(&job)], job },
        }
    }

    /// Everything that was told of a job after the line `after`, then what is told, until the job has
    /// ended or nobody listens any more.
    pub fn watch(
        &self,
        catalog: Catalog,
        id: JobId,
        after: u64,
    ) -> mpsc::Receiver<Result<Watched, CatalogError>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let live = self.clone();
        tokio::spawn(async move {
            let mut watcher = Watcher { live, catalog, id, last: after, out: sender };
            if let Err(Stop::Failed(error)) = watcher.run().await {
                // A watcher that has gone away does not care.
                let _ = watcher.out.send(Err(error)).await;
            }
        });
        receiver
    }

    fn subscribe(&self, id: JobId) -> Option<broadcast::Receiver<Update>> {
        self.lock().get(&id).map(|entry| entry.sender.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job without parts gets further as a whole.
fn places(job: &Job) -> usize {
    job.parts.len().max(1)
}

enum Stop {
    /// Nobody listens any more.
    Unheard,
    Failed(CatalogError),
}

impl From<CatalogError> for Stop {
    fn from(error: CatalogError) -> Self {
        Self::Failed(error)
    }
}

struct Watcher {
    live: Live,
    catalog: Catalog,
    id: JobId,
    last: u64,
    out: mpsc::Sender<Result<Watched, CatalogError>>,
}

impl Watcher {
    async fn run(&mut self) -> Result<(), Stop> {
        loop {
            let updates = self.live.subscribe(self.id);
            if self.replay().await? {
                return Ok(());
            }
            match updates {
                Some(updates) => self.follow(updates).await?,
                // It ended between the two looks: the next replay sees its end.
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Sends what the catalog holds. True if the job has ended.
    async fn replay(&mut self) -> Result<bool, Stop> {
        // The job first: whatever it says to be ended, the lines that follow tell.
        let Some(job) = self.catalog.job(self.id).await? else { return Ok(true) };
        let ended = job.state.is_end();
        for line in self.catalog.job_events(self.id, self.last).await? {
            let at = line.at;
            self.last = line.sequence;
            self.send(Some(line), at, None).await?;
        }
        let at = job.ended_at.or(job.started_at).unwrap_or(job.created_at);
        let view = Arc::new(self.live.view(job));
        self.send(None, at, Some(view)).await?;
        Ok(ended)
    }

    /// Sends what happens, until the job is no longer live or the watcher has fallen behind.
    async fn follow(&mut self, mut updates: broadcast::Receiver<Update>) -> Result<(), Stop> {
        while let Ok(update) = updates.recv().await {
            let mut told = false;
            for line in update.lines {
                if line.sequence > self.last {
                    self.last = line.sequence;
                    self.send(Some(line), update.at, Some(update.view.clone())).await?;
                    told = true;
                }
            }
            // The end of a job is sent by the replay that follows.
            if !told && !update.view.job.state.is_end() {
                self.send(None, update.at, Some(update.view)).await?;
            }
        }
        Ok(())
    }

    async fn send(
        &mut self,
        line: Option<JobEventRecord>,
        at: Timestamp,
        view: Option<Arc<JobView>>,
    ) -> Result<(), Stop> {
        let watched = Watched { line, sequence: self.last, at, view };
        self.out.send(Ok(watched)).await.map_err(|_| Stop::Unheard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::{JobState, Order};

    #[test]
    fn a_job_that_has_ended_by_the_catalog_is_never_shown_as_running() {
        let order = Order::Backup { components: Vec::new(), pin: None, import: None };
        let running =
            Job { state: JobState::Running, ..Job::queued(JobId::fresh(), order, Timestamp::UNIX_EPOCH) };
        let live = Live::default();
        live.open(&running);
        assert_eq!(live.view(running.clone()).job.state, JobState::Running);
        let ended = Job { state: JobState::Complete, ..running };
        assert_eq!(live.view(ended).job.state, JobState::Complete, "its end was kept before it was told");
    }
}
