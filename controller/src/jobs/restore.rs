//! A restore's parts: each planned and confirmed before, each carried out by the agent that it was planned
//! with. Before the first of them begins, the safety backup has ended well ([`super::safety`]).

use std::sync::Arc;

use proto::v1::controller_message::Message;
use proto::v1::{self, PlanRestore, RestoreFinished, RestoreOrder, Selection, SourcePlan, StartRestore};
use repository::backup::manifest::BackupRecord;
use repository::names::BackupName;
use runtime::steps;

use crate::catalog::{Catalog, CatalogError};
use crate::depot::Depot;
use crate::fleet::{Ended, RestoreTask, RunningTask, TaskContext};
use crate::ids::{JobId, TaskId};
use crate::jobs::backup::{STALLED_AFTER, common_end, end_or_stall, follow, stalled, wait_until};
use crate::jobs::job::{Allowance, Databases, Job, Order, Part, PartResult, RestorePlace, RestoreStep};
use crate::jobs::runner::{Attempt, Shared};
use crate::jobs::state::{Event, Level, TaskEnd};
use crate::kubernetes::{Look, StandIn};
use crate::steps::Step;

/// One part for each place, once what they replace is backed up.
pub(super) async fn prepare(
    catalog: &Catalog,
    backup: &BackupName,
    places: &[RestorePlace],
    safety: Option<JobId>,
) -> Result<Event, CatalogError> {
    if let Some(safety) = safety
        && let Some(failure) = super::safety::check(catalog, safety, places).await?
    {
        return Ok(Event::CannotStart(failure));
    }
    let part = |place: &RestorePlace| Part {
        agent: Some(place.agent),
        ..Part::waiting(place.source.clone(), place.kind.clone())
    };
    Ok(Event::Started { parts: places.iter().map(part).collect(), backup: backup.clone() })
}

/// Restores one place.
pub(super) async fn attempt(attempt: Attempt) {
    let shared = &attempt.shared;
    let Order::Restore { backup, places, .. } = &attempt.job.order else { return };
    let place = &places[attempt.part];
    if let Some(stand_in) = stand_in_of(shared, place) {
        return super::stand_in::attempt(&attempt, backup, place, stand_in).await;
    }
    let _slot = shared.slot(place.agent).await;
    let connected = || shared.fleet.is_connected(place.agent).then_some(());
    if wait_until(shared, connected).await.is_none() {
        let reason =
            format!("its agent did not come within {} seconds", shared.settings.agent_wait.as_secs());
        attempt.mailbox.tell(Event::NobodyServes { part: attempt.part, reason }).await;
        return;
    }
    let task = TaskId::fresh();
    let started = Event::TaskStarted { part: attempt.part, task, agent: Some(place.agent) };
    if !attempt.mailbox.tell(started).await {
        return;
    }
    let end = match begin(&attempt, task, backup, place, Way::Usual).await {
        Ok(running) => {
            steps::reached(Step::TaskHandedOut).await;
            match follow(&attempt, running).await {
                // Nobody knows how far it was.
                Ended::Stalled(stall) => {
                    attempt.remark(Level::Warning, vec![stalled(stall)]).await;
                    TaskEnd::AgentLost
                }
                ended => restore_end(ended),
            }
        }
        Err(end) => end,
    };
    attempt.end(task, end).await;
}

/// The restore pod in which this place is restored, if it is one.
pub(crate) fn stand_in_of(shared: &Shared, place: &RestorePlace) -> Option<StandIn> {
    place.folder.is_none().then(|| shared.settings.restore_pods.of(&place.source)).flatten()
}

/// True if this part is restored in a restore pod.
pub(super) fn has_stand_in(shared: &Shared, job: &Job, part: usize) -> bool {
    let Order::Restore { places, .. } = &job.order else { return false };
    places.get(part).is_some_and(|place| stand_in_of(shared, place).is_some())
}

/// How an agent is told.
pub(super) enum Way {
    /// It stops and starts what uses the place itself, and does what was confirmed.
    Usual,
    /// What uses the place stands already, and the plan was compared before it was stopped.
    StandIn,
    /// It takes back what it has done, for this reason.
    TakeBack(String),
}

/// Hands the restore of a place to its agent.
pub(super) async fn begin(
    attempt: &Attempt,
    task: TaskId,
    backup: &BackupName,
    place: &RestorePlace,
    way: Way,
) -> Result<RunningTask, TaskEnd> {
    let failed = |reason: String| TaskEnd::Failed { reason, retryable: false, result: None };
    let shared = &attempt.shared;
    let record =
        shared.catalog.backup(backup).await.map_err(|error| failed(proto::failure::chain(&error)))?;
    let record = record.ok_or_else(|| failed(format!("there is no backup {backup}")))?;
    let id = restore_id(attempt.job.id, attempt.part);
    let (context, mut order) =
        order(shared.depot.clone(), &shared.catalog, record, place.clone(), id).await.map_err(failed)?;
    // Of an undo that was ordered before places knew it.
    order.keeps_older |= matches!(attempt.job.order, Order::Restore { undo_of: Some(_), .. });
    order.users_elsewhere = !matches!(way, Way::Usual);
    let confirmed = place.confirmed.as_ref().filter(|_| matches!(way, Way::Usual));
    let take_back = match way {
        Way::TakeBack(cause) => cause,
        Way::Usual | Way::StandIn => String::new(),
    };
    let message = Message::StartRestore(StartRestore {
        task_id: task.to_string(),
        order: Some(order),
        allowance: Some(to_wire_allowance(&place.allowance)),
        job_id: attempt.job.id.to_string(),
        backup: backup.to_string(),
        confirmed: confirmed.map(|plan| plan.to_wire(&place.source)),
        take_back,
    });
    shared
        .fleet
        .begin(place.agent, task, TaskContext::Restore(Arc::new(context)), message)
        .map_err(|_away| TaskEnd::AgentLost)
}

/// Why nothing is restored by an agent that does not leave a node's keys out of a copy: it is of a release before.
const PUTS_KEYS: &str = "the agent is of an older release, which puts the keys of the node and its accounts into a copy: bring \
                         it to the controller's release, or ask for the keys with --with-keys";

/// There is no plan.
#[derive(Debug)]
pub(crate) enum NoPlan {
    /// The agent is not connected, or not any more.
    Away,
    /// This is why.
    Failed(String),
}

/// Asks the agent of a place what its restore would do. Where a restore pod restores it, what uses it is looked for
/// here: the agent may not see it.
pub(crate) async fn ask_for_plan(
    shared: &Shared,
    record: BackupRecord,
    place: RestorePlace,
) -> Result<SourcePlan, NoPlan> {
    let (agent, task) = (place.agent, TaskId::fresh());
    let stand_in = stand_in_of(shared, &place);
    let id = random_end(&task.to_string()).to_owned();
    let (context, mut order) =
        order(shared.depot.clone(), &shared.catalog, record, place, id).await.map_err(NoPlan::Failed)?;
    order.users_elsewhere = stand_in.is_some();
    let leaves_keys = order.leaves_keys;
    let message = Message::PlanRestore(PlanRestore { task_id: task.to_string(), order: Some(order) });
    let running = shared.fleet.begin(agent, task, TaskContext::Restore(Arc::new(context)), message);
    let running = running.map_err(|_away| NoPlan::Away)?;
    let mut plan = match end_or_stall(running, STALLED_AFTER, |_| {}).await {
        Ended::Planned(plan) => *plan,
        Ended::Failed { reason, .. } => return Err(NoPlan::Failed(reason)),
        Ended::Stalled(stall) => return Err(NoPlan::Failed(stalled(stall))),
        Ended::AgentLost | Ended::Cancelled => return Err(NoPlan::Away),
        _ => return Err(NoPlan::Failed("the agent answered another question than it was asked".to_owned())),
    };
    if leaves_keys && !plan.leaves_keys {
        plan.obstacles.push(PUTS_KEYS.to_owned());
    }
    if let Some(stand_in) = stand_in {
        let Look { stops, obstacles, .. } = stand_in.look().await;
        plan.stops = stops;
        plan.obstacles.extend(obstacles);
        plan.remarks.push(format!(
            "the restore pod {} restores it: what it stands in for is down while that starts, fetches and writes",
            stand_in.id().workload()
        ));
    }
    Ok(plan)
}

/// What the agent is told to plan or to do.
pub(crate) async fn order(
    depot: Arc<Depot>,
    catalog: &Catalog,
    backup: BackupRecord,
    place: RestorePlace,
    restore_id: String,
) -> Result<(RestoreTask, RestoreOrder), String> {
    let of_backup = backup.clone();
    let source = place.source.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let manifest = depot.repository().archive(&of_backup, &source)?;
        Ok::<_, repository::error::RepositoryError>((
            manifest.root,
            manifest.signer,
            depot.keys().domain_keys_by_id(manifest.domain),
        ))
    });
    let read = reading.await.map_err(|error| error.to_string())?;
    let (root, signer, domain) = read.map_err(|error| proto::failure::chain(&error))?;
    let root = root.ok_or_else(|| "the archive holds nothing".to_owned())?;
    let here = catalog.signed_here(&place.source).await.map_err(|error| proto::failure::chain(&error))?;
    // Whose an archive without a key is nobody knows: the height of any validator is reason to ask, and only that: it may
    // be of another chain. Who was asked, or is not asked, gets what was seen in that source.
    let is_asked = place.databases.signer_height.is_some() || place.takes_back;
    let of_key = match signer.is_none() && is_asked {
        true => here,
        false => {
            let of_key = catalog.signed(&place.source, signer.as_deref()).await;
            of_key.map_err(|error| proto::failure::chain(&error))?
        }
    };
    // Where not all of the archive comes, another of the source's keys may be the one that is live: an agent of before
    // does not look.
    let in_part = place.folder.is_none() && !place.globs.is_empty();
    let signed = if in_part { of_key.max(here) } else { of_key };
    let to_wire = |(height, round, step)| v1::SignedHeight { height, round, step, address: String::new() };
    let source = proto::convert::to_wire_source(&place.source);
    let order = RestoreOrder {
        source: Some(source.clone()),
        into: place.folder.is_none().then_some(source),
        folder: place.folder.clone().unwrap_or_default(),
        selection: Some(selection(&place)),
        restore_id,
        root: root.as_bytes().to_vec().into(),
        domain: Some(crate::rpc::wire::domain_keys(&domain)),
        // A safety backup does not have what was written after it: the state that the restore has replaced outlives
        // its undo.
        keeps_older: place.takes_back,
        signed: signed.map(to_wire),
        signed_here: here.map(to_wire),
        leaves_keys: place.kind == "blockchain" && place.folder.is_some() && !place.databases.with_keys,
        users_elsewhere: false,
    };
    Ok((RestoreTask { backup, source: place.source }, order))
}

fn selection(place: &RestorePlace) -> Selection {
    let Databases { include, renames, drop_others, to_namespace, force_conflicts, signer_height, with_keys } =
        place.databases.clone();
    let renames = renames.into_iter().map(|(from, to)| v1::Rename { from, to }).collect();
    Selection {
        globs: place.globs.clone(),
        include,
        renames,
        drop_others,
        to_namespace,
        force_conflicts,
        signer_height,
        with_keys,
    }
}

fn to_wire_allowance(allowance: &Allowance) -> v1::Allowance {
    let grants = allowance.privileges.iter().map(|(word, count)| v1::Grant {
        privilege: proto::convert::privilege_of_word(word).into(),
        count: *count,
    });
    v1::Allowance { entries: allowance.entries, bytes: allowance.bytes, grants: grants.collect() }
}

/// What a restore is called at its agent. The same for every attempt at a part: one whose success was never
/// heard of is followed by another, which must not take the state that the first has kept for an older one.
pub(super) fn restore_id(job: JobId, part: usize) -> String {
    format!("{}-{part}", random_end(&job.to_string()))
}

/// The random end of an id: short, and all but certain to be its own.
pub(crate) fn random_end(id: &str) -> &str {
    id.rsplit('-').next().unwrap_or(id)
}

pub(super) fn restore_end(ended: Ended) -> TaskEnd {
    match ended {
        Ended::Restored(finished) if finished.undone.is_empty() => TaskEnd::Complete(result(*finished)),
        Ended::Restored(finished) => TaskEnd::Failed {
            reason: format!("{}; all of it was taken back", finished.undone),
            retryable: false,
            result: Some(result(*finished)),
        },
        other => common_end(other),
    }
}

fn result(finished: RestoreFinished) -> PartResult {
    PartResult::Restored {
        entries: finished.entries,
        bytes: finished.bytes,
        previous_state: (!finished.previous_state.is_empty()).then_some(finished.previous_state),
        warnings: finished.warnings,
        swapped: [finished.replaced, finished.created, finished.removed],
        steps: finished.steps.iter().filter_map(step).collect(),
        names: finished.names,
        undone: (!finished.undone.is_empty()).then_some(finished.undone),
    }
}

/// A step without a time is none.
fn step(wire: &v1::RestoreStep) -> Option<RestoreStep> {
    let at = proto::convert::from_wire_time("ended_at", wire.ended_at?).ok()?;
    Some(RestoreStep { step: wire.step.clone(), at, detail: wire.detail.clone() })
}
