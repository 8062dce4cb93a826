//! A restore in place by a restore pod: what uses the volume is scaled to 0, the restore pod to 1, its agent restores,
//! and all goes back.
//!
//! Must stay true: what ran is on record before it is told ([`Hold`]), and stays there until it is told to run again,
//! so that whoever comes after a crash goes on; the restore pod and what it stands in for are never there together,
//! since a volume may go to one node alone, or to one pod; nothing is started where an order is out whose end is not
//! known ([`closing`]); what the restore has brought, and how the part ends, are on record before anything is started on
//! it, and nothing is carried out again after that; only what ran is started.

mod closing;
mod scale;
mod turn;
mod work;

use repository::names::BackupName;

use crate::catalog::CatalogError;
use crate::ids::TaskId;
use crate::jobs::backup::wait_until;
use crate::jobs::job::{Job, Order, PartResult, PartState, RestorePlace};
use crate::jobs::restore::stand_in_of;
use crate::jobs::runner::{Attempt, Shared};
use crate::jobs::state::{Event, TaskEnd};
use crate::kubernetes::{End, Hold, PodId, StandIn};

use turn::own_turn;
use work::Work;

pub(super) use closing::{keep, left_stopped, not_half_done};

/// Restores one place.
pub(super) async fn attempt(attempt: &Attempt, backup: &BackupName, place: &RestorePlace, stand_in: StandIn) {
    let shared = &attempt.shared;
    let (_turn, ours) = match own_turn(attempt, &stand_in).await {
        Ok(turn) => turn,
        Err(why) => return not_begun(attempt, why).await,
    };
    let _slot = shared.slot(place.agent).await;
    // One that goes on finds no sidecar: that stands.
    if ours.is_none() {
        let connected = || shared.fleet.is_connected(place.agent).then_some(());
        if wait_until(shared, connected).await.is_none() {
            let seconds = shared.settings.agent_wait.as_secs();
            return not_begun(attempt, format!("its agent did not come within {seconds} seconds")).await;
        }
    }
    let task = TaskId::fresh();
    let started = Event::TaskStarted { part: attempt.part, task, agent: Some(place.agent) };
    if !attempt.mailbox.tell(started).await {
        return;
    }
    let work = Work { attempt, backup, place, stand_in: &stand_in, task };
    let end = work.run(ours).await.unwrap_or_else(|error| {
        tracing::error!(job = %attempt.job.id, error = proto::failure::chain(&error), "the record of a restore pod");
        TaskEnd::AgentLost
    });
    // The record stays until this is in the catalog: [`keep`] takes it off.
    attempt.end(task, end).await;
}

/// How parts have ended that this job counts as under way: the controller died before it was told.
pub(super) async fn ends_on_record(shared: &Shared, job: &Job) -> Result<Vec<Event>, CatalogError> {
    if !matches!(job.order, Order::Restore { .. }) {
        return Ok(Vec::new());
    }
    let holds = shared.catalog.holds().await?;
    let ours = holds.into_iter().filter(|(_, hold)| hold.job == job.id);
    let ended = ours.filter_map(|(pod, hold)| {
        let state = job.parts.get(hold.part)?.state;
        let is_still = is_still(shared, job, hold.part, &pod);
        match (state, hold.end.clone()) {
            (PartState::Running { task }, Some(end)) => {
                Some(Event::TaskEnded { part: hold.part, task, end: told_end(&hold, end) })
            }
            // It is restored: what is left to do is no attempt at it.
            (PartState::Running { task }, None) if is_still && hold.done.is_some() => {
                Some(Event::TaskEnded { part: hold.part, task, end: TaskEnd::GoesOn })
            }
            // Nobody restores it once more, over what is written since.
            (PartState::Running { task }, None)
                if !is_still && (hold.done.is_some() || hold.is_unknown()) =>
            {
                let because = hold.undo.as_ref().map(|undo| format!("{undo}; ")).unwrap_or_default();
                let end = match hold.done {
                    Some(done) => failed(format!("{because}{MOVED}"), Some(done)),
                    None => told_end(&hold, End::Failed { reason: MOVED.to_owned(), result: None }),
                };
                Some(Event::TaskEnded { part: hold.part, task, end })
            }
            (PartState::Waiting, None) if !is_still && (hold.done.is_some() || hold.is_unknown()) => {
                Some(Event::NobodyServes { part: hold.part, reason: MOVED.to_owned() })
            }
            _ => None,
        }
    });
    Ok(ended.collect())
}

const MOVED: &str = "what was restored is live, or may be, and its source is not that of the restore pod any more that has \
                     restored it: it is not taken further";

/// True if this pod restores the part as the configuration is now.
fn is_still(shared: &Shared, job: &Job, part: usize, pod: &PodId) -> bool {
    let Order::Restore { places, .. } = &job.order else { return false };
    let of_part = places.get(part).and_then(|place| stand_in_of(shared, place));
    of_part.is_some_and(|stand_in| stand_in.id() == *pod)
}

/// How the job is told of it. Where nobody can say that all is as it was before, it says so: then there is an undo.
fn told_end(hold: &Hold, end: End) -> TaskEnd {
    let live = |reason: String| TaskEnd::Unknown {
        reason: format!(
            "{reason}; what was restored may be live: `nsctl undo {}` brings back what was there before",
            hold.job
        ),
    };
    match end {
        End::Complete(result) => TaskEnd::Complete(result),
        End::Failed { reason, result: None } if hold.is_unknown() => live(reason),
        End::Failed { reason, result } => failed(reason, result),
        End::Cancelled if hold.is_unknown() => live("it was cancelled".to_owned()),
        End::Cancelled => TaskEnd::Cancelled,
    }
}

async fn not_begun(attempt: &Attempt, reason: String) {
    attempt.mailbox.tell(Event::NobodyServes { part: attempt.part, reason }).await;
}

fn failed(reason: String, result: Option<PartResult>) -> TaskEnd {
    TaskEnd::Failed { reason, retryable: false, result }
}
