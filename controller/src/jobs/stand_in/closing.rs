//! The way out of a restore by a restore pod, whatever it has done: what was stopped runs again, by the attempt that has
//! stopped it or, where that is over, by a look from time to time.
//!
//! Must stay true: where an order is out whose end is not known, nothing is started before an agent that sees the volume
//! has said that nothing is half swapped there; a record goes when all is told to run and the job knows how the part
//! has ended, and not before: a part that is tried once more goes by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::SettleRestore;
use proto::v1::controller_message::Message;
use repository::names::SourceId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::scale::{LOOK_AGAIN, Patience, all_told, await_health, bring_up, start, take_down, told};
use crate::catalog::{CatalogError, Kept};
use crate::fleet::{Ended, TaskContext};
use crate::ids::{AgentId, JobId, TaskId};
use crate::jobs::backup::{STALLED_AFTER, end_or_stall, stalled};
use crate::jobs::job::{Job, Order};
use crate::jobs::runner::Shared;
use crate::kubernetes::{HandedOut, Hold, PodId, StandIn};

/// What ended restores have left is looked for this often, and an agent that has to come is waited for that long.
const LOOK_FOR_LEFT: Duration = Duration::from_secs(15);

/// Looks from time to time for what ended restores have stopped and not started, for ever.
pub(in crate::jobs) async fn keep(shared: Arc<Shared>) {
    tell_orphans(&shared).await;
    // One for each namespace at the most: whoever has its turn. An agent that says nothing keeps no other waiting.
    let mut closing = JoinSet::new();
    while !shared.settings.restore_pods.are_none() {
        while closing.try_join_next().is_some() {}
        let looked = shared.catalog.holds().await.inspect_err(not_looked).unwrap_or_default();
        let mut by_namespace: BTreeMap<String, Vec<StandIn>> = BTreeMap::new();
        for stand_in in looked.iter().filter_map(|(pod, _)| shared.settings.restore_pods.called(pod)) {
            by_namespace.entry(stand_in.id().namespace).or_default().push(stand_in);
        }
        for pods in by_namespace.into_values() {
            // Whoever has it goes on by himself.
            let Ok(turn) = pods[0].turn.clone().try_lock_owned() else { continue };
            let shared = Arc::clone(&shared);
            closing.spawn(async move {
                for stand_in in pods {
                    let _ = end_left(&shared, &stand_in).await.inspect_err(not_looked);
                }
                drop(turn);
            });
        }
        tokio::time::sleep(LOOK_FOR_LEFT).await;
    }
}

fn not_looked(error: &CatalogError) {
    let error = proto::failure::chain(error);
    tracing::warn!(error, "cannot look for workloads that restores have stopped");
}

/// What ended restores have stopped and not started yet, a line each.
pub(in crate::jobs) async fn left_stopped(shared: &Shared) -> Result<Vec<String>, CatalogError> {
    let mut left = Vec::new();
    for (pod, kept) in shared.catalog.each_hold().await? {
        let Kept::Read(hold) = kept else {
            let pod = pod.workload();
            left.push(format!(
                "the record of what a restore by {pod} has stopped cannot be read: see what is at 0 there"
            ));
            continue;
        };
        if !hold.is_over && is_left(shared, &hold).await? {
            let half = if hold.handed_out.is_some() { ", and what it restored may be half done" } else { "" };
            left.push(format!(
                "the restore {} by {} has ended and left stopped{half}: {}",
                hold.job,
                pod.workload(),
                all_told(&hold.stopped)
            ));
        }
    }
    Ok(left)
}

/// An error where a restore may have left the source half done. One whose pod is not configured any more, which nobody
/// else ends, is ended by the agent that is to back it up.
pub(in crate::jobs) async fn not_half_done(
    shared: &Shared,
    source: &SourceId,
    agent: AgentId,
) -> Result<(), String> {
    let each = shared.catalog.each_hold().await.map_err(|error| proto::failure::chain(&error))?;
    for (pod, kept) in each {
        let mut hold = match kept {
            Kept::Read(hold) if hold.handed_out.as_ref().is_some_and(|order| order.source == *source) => hold,
            Kept::Read(_) => continue,
            Kept::Unreadable { job, part } if may_be_of(shared, job, part, source).await => {
                let pod = pod.workload();
                return Err(format!(
                    "the record of a restore of it by {pod} cannot be read: it may be half restored"
                ));
            }
            Kept::Unreadable { .. } => continue,
        };
        let what = format!("the restore {} of it is not over: what is there may be half restored", hold.job);
        if shared.settings.restore_pods.called(&pod).is_some() {
            return Err(what);
        }
        let order = HandedOut { agent, source: source.clone() };
        ask(shared, &order, &hold.job.to_string()).await.map_err(|why| format!("{what} ({why})"))?;
        (hold.handed_out, hold.may_be_live) = (None, true);
        let kept = shared.catalog.keep_hold(&pod, &hold).await;
        kept.map_err(|error| proto::failure::chain(&error))?;
    }
    Ok(())
}

/// True unless the job says that this part is of another source.
async fn may_be_of(shared: &Shared, job: Option<JobId>, part: usize, source: &SourceId) -> bool {
    let Some(job) = job else { return true };
    match shared.catalog.job(job).await {
        Ok(Some(Job { order: Order::Restore { places, .. }, .. })) => {
            places.get(part).is_none_or(|place| place.source == *source)
        }
        _ => true,
    }
}

/// What is on record and not configured any more can only be told.
async fn tell_orphans(shared: &Shared) {
    let all = shared.catalog.holds().await.unwrap_or_default();
    let is_orphan =
        |(pod, hold): &&(PodId, Hold)| !hold.is_over && shared.settings.restore_pods.called(pod).is_none();
    for (pod, hold) in all.iter().filter(is_orphan) {
        let (pod, stopped) = (pod.workload(), all_told(&hold.stopped));
        match hold.handed_out {
            None => tracing::error!(
                restore = %hold.job, %pod, stopped,
                "a restore has stopped these, and its restore pod is not configured any more: scale that to 0 and these back"
            ),
            Some(_) => tracing::error!(
                restore = %hold.job, %pod, stopped,
                "a restore has stopped these in the middle of its work, and its restore pod is not configured any more: scale \
                 that to 1, wait until its agent has joined and its log names no restore that could not be ended, scale it \
                 to 0, and these back"
            ),
        }
    }
}

/// Its turn is held.
async fn end_left(shared: &Shared, stand_in: &StandIn) -> Result<(), CatalogError> {
    let Some(hold) = shared.catalog.hold(&stand_in.id()).await? else { return Ok(()) };
    if !is_left(shared, &hold).await? {
        return Ok(());
    }
    if !hold.is_over {
        let pod = stand_in.id().workload();
        tracing::warn!(restore = %hold.job, %pod, "an ended restore has left workloads stopped; they are started");
    }
    close_left(shared, stand_in, hold, LOOK_FOR_LEFT).await.map(drop)
}

/// True if no attempt goes on with it: its part, or its job, has ended.
pub(super) async fn is_left(shared: &Shared, hold: &Hold) -> Result<bool, CatalogError> {
    let job = shared.catalog.job(hold.job).await?;
    Ok(job.is_none_or(|job| {
        job.state.is_end() || job.parts.get(hold.part).is_none_or(|part| part.state.is_end())
    }))
}

/// Puts right what a part that has ended has left, and takes it off the record when that is done; else says why not.
pub(super) async fn close_left(
    shared: &Shared,
    stand_in: &StandIn,
    mut hold: Hold,
    patience: Duration,
) -> Result<Option<String>, CatalogError> {
    let closed = close(shared, stand_in, &mut hold, patience).await?;
    closed.said.iter().for_each(|line| tracing::warn!(restore = %hold.job, "{line}"));
    closed.troubles.iter().for_each(|trouble| tracing::error!(restore = %hold.job, "{trouble}"));
    match hold.is_over {
        true => shared.catalog.drop_hold(&stand_in.id()).await.map(|()| None),
        false => Ok(Some(closed.troubles.join("; "))),
    }
}

/// What came of closing.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// How what was interrupted has ended.
    pub(super) said: Vec<String>,
    /// What could not be done. Unless the record says that it is over, it is tried on.
    pub(super) troubles: Vec<String>,
}

/// Sees to it that the volume is whole, takes the restore pod away and starts what ran, whatever the restore has done.
/// `patience` is for an agent that has to come.
pub(super) async fn close(
    shared: &Shared,
    stand_in: &StandIn,
    hold: &mut Hold,
    patience: Duration,
) -> Result<Closed, CatalogError> {
    let (pod, mut closed) = (stand_in.id(), Closed::default());
    if hold.is_over {
        return Ok(closed);
    }
    if let Some(order) = &hold.handed_out {
        match settle(shared, stand_in, order, &hold.job.to_string(), patience).await {
            Ok(settled) => closed.said = settled.said,
            Err(trouble) => {
                closed.troubles.push(format!(
                    "{trouble}; what the restore had begun may be half done in the volume, so what was stopped stays at \
                     0 until an agent has ended it there, which is tried on: {}",
                    all_told(&hold.stopped)
                ));
                return Ok(closed);
            }
        }
        // An agent that ended it when it started says nothing of it.
        (hold.handed_out, hold.may_be_live) = (None, true);
        shared.catalog.keep_hold(&pod, hold).await?;
    }
    if let Err(trouble) = take_down(stand_in, &pod.workload()).await {
        closed.troubles.push(format!(
            "{trouble}; what it stands in for is started when it is gone: {}",
            all_told(&hold.stopped)
        ));
        return Ok(closed);
    }
    for ran in &hold.stopped {
        if let Err(trouble) = start(stand_in, ran).await {
            closed
                .troubles
                .push(format!("{} is not started again yet ({trouble}); it is tried on", told(ran)));
        }
    }
    if closed.troubles.is_empty() {
        hold.is_over = true;
        shared.catalog.keep_hold(&pod, hold).await?;
        for ran in &hold.stopped {
            if let Err(cause) = await_health(stand_in, ran).await {
                closed.troubles.push(format!("{} is started again and {cause}", told(ran)));
            }
        }
    }
    Ok(closed)
}

/// What was half done and is not any more.
pub(super) struct Settled {
    /// How it has ended, for people.
    pub(super) said: Vec<String>,
    /// A swap was carried through. One that was ended when the agent started is not told.
    pub(super) is_carried_through: bool,
}

/// Has an agent that sees the volume end what the order has left there.
pub(super) async fn settle(
    shared: &Shared,
    stand_in: &StandIn,
    order: &HandedOut,
    job: &str,
    limit: Duration,
) -> Result<Settled, String> {
    let began = Instant::now();
    loop {
        stand_in.goes_on()?;
        if !shared.fleet.is_connected(order.agent) {
            let patience = Patience { limit: limit.saturating_sub(began.elapsed()), hopeless: None };
            bring_up(stand_in, &shared.fleet, order.agent, patience).await?;
        }
        match ask(shared, order, job).await {
            Ok(settled) => return Ok(settled),
            Err(cause) if began.elapsed() >= limit => return Err(cause),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

pub(super) async fn ask(shared: &Shared, order: &HandedOut, job: &str) -> Result<Settled, String> {
    let task = TaskId::fresh();
    let message = Message::SettleRestore(SettleRestore {
        task_id: task.to_string(),
        source: Some(proto::convert::to_wire_source(&order.source)),
        job_id: job.to_owned(),
    });
    const BROKE: &str = "the connection to its agent broke";
    let running = shared.fleet.begin(order.agent, task, TaskContext::Settling, message);
    let running = running.map_err(|_away| BROKE.to_owned())?;
    match end_or_stall(running, STALLED_AFTER, |_| {}).await {
        Ended::Restored(finished) => {
            Ok(Settled { is_carried_through: finished.replaced > 0, said: finished.warnings })
        }
        Ended::Failed { reason, .. } => Err(reason),
        Ended::Stalled(stall) => Err(stalled(stall)),
        _ => Err(BROKE.to_owned()),
    }
}
