//! Asks a job to end.
//!
//! Must stay true: whoever waits for a job's owner holds nothing that others need; what was not written down
//! is never told as done.

use tokio::task::JoinError;

use crate::catalog::CatalogError;
use crate::ids::JobId;
use crate::jobs::runner::{Runner, lock};
use crate::jobs::state::{Event, Refused, advance};
use crate::steps::Step;

/// An owner may give its job up just now, so that there is another one or none: it is looked for this often.
const TRIES: u32 = 5;

/// A job could not be cancelled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// There is no such job.
    #[error("there is no such job")]
    Unknown,
    /// It is too late.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The catalog failed.
    #[error("the job cannot be changed")]
    Catalog(#[from] CatalogError),
    /// Whoever carries the job out did not take it.
    #[error("the job was given up and taken up again meanwhile")]
    NotTaken,
    /// The code that does it has failed.
    #[error("the controller failed at it")]
    Failed(#[from] JoinError),
}

impl Runner {
    /// Asks a job to end. Goes on to its end if the caller is given up.
    pub async fn cancel(&self, id: JobId) -> Result<(), CancelError> {
        let runner = self.clone();
        tokio::spawn(async move { runner.cancel_now(id).await }).await?
    }

    async fn cancel_now(&self, id: JobId) -> Result<(), CancelError> {
        let shared = &self.shared;
        for _ in 0..TRIES {
            let queued = shared.queue.lock().await;
            let mailbox = lock(&shared.running).get(&id).cloned();
            let Some(mailbox) = mailbox else { return self.cancel_unowned(id).await };
            // An owner may take minutes to answer: it is still finding out what the job consists of.
            drop(queued);
            if let Some(answer) = mailbox.ask(Event::CancelRequested).await {
                return Ok(answer?);
            }
            let job = shared.catalog.job(id).await?.ok_or(CancelError::Unknown)?;
            if job.state.is_end() {
                return Err(Refused::Ended.into());
            }
        }
        Err(CancelError::NotTaken)
    }

    /// The queue is held, so that nobody begins it meanwhile.
    async fn cancel_unowned(&self, id: JobId) -> Result<(), CancelError> {
        let shared = &self.shared;
        let job = shared.catalog.job(id).await?.ok_or(CancelError::Unknown)?;
        let event = Event::CancelRequested;
        let [unwritten, written] = Step::of(&event);
        let before = job.state;
        let (job, actions) = advance(&job, event, shared.clock.now())?;
        runtime::steps::reached(unwritten).await;
        shared.save(before, &job, &actions).await?;
        runtime::steps::reached(written).await;
        shared.kick.notify_one();
        shared.settings.ended.notify_one();
        Ok(())
    }
}

#[cfg(test)]
#[path = "cancel_tests.rs"]
mod tests;
