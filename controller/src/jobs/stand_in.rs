//! A restore in place by a restore pod: what uses the volume is scaled to 0, the restore pod to 1, its agent restores,
//! and all goes back.
//!
//! Must stay true: what ran is on record before it is told ([`Hold`]), and stays there until it is told to run again,
//! so that whoever comes after a crash goes on; the restore pod and what it stands in for are never there together,
//! since a volume may go to one node alone, or to one pod; what the restore has brought is on record before anything
//! is started on it, and is not carried out again; only what ran is started.

use std::time::Duration;

use jiff::Timestamp;
use proto::v1::TaskProgress;
use repository::names::BackupName;
use runtime::steps;
use tokio::time::Instant;

use crate::catalog::CatalogError;
use crate::fleet::Ended;
use crate::ids::TaskId;
use crate::jobs::backup::{follow, wait_until};
use crate::jobs::job::{JobState, PartResult, RestorePlace, RestoreStep};
use crate::jobs::restore::{NoPlan, Way, ask_for_plan, begin, restore_end};
use crate::jobs::runner::{Attempt, Shared};
use crate::jobs::state::{Event, Level, MAX_ATTEMPTS, TaskEnd};
use crate::kubernetes::{ApiTrouble, Hold, Ran, StandIn, WorkloadId};
use crate::steps::Step;

/// Between two looks at something that changes.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A pod that will not start by itself is given up after so long.
const HOPELESS: Duration = Duration::from_secs(15);
/// What ended restores have left is looked for this often.
const LOOK_FOR_LEFT: Duration = Duration::from_secs(15);

/// Restores one place.
pub(super) async fn attempt(attempt: &Attempt, backup: &BackupName, place: &RestorePlace, stand_in: StandIn) {
    let shared = &attempt.shared;
    let _turn = stand_in.turn.lock().await;
    let held = match shared.catalog.hold(&stand_in.id()).await {
        Ok(held) => held,
        Err(error) => return not_begun(attempt, proto::failure::chain(&error)).await,
    };
    let ours = held.filter(|hold| hold.job == attempt.job.id && hold.part == attempt.part);
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
    let end = match work.run(ours).await {
        Ok(end) => end,
        Err(error) => failed(proto::failure::chain(&error), None),
    };
    attempt.end(task, end).await;
}

async fn not_begun(attempt: &Attempt, reason: String) {
    attempt.mailbox.tell(Event::NobodyServes { part: attempt.part, reason }).await;
}

fn failed(reason: String, result: Option<PartResult>) -> TaskEnd {
    TaskEnd::Failed { reason, retryable: false, result }
}

/// Looks from time to time for what ended restores have stopped and not started, for ever.
pub(super) async fn keep(shared: &Shared) {
    if shared.settings.restore_pods.are_none() {
        return tell_orphans(shared).await;
    }
    loop {
        if let Err(error) = end_those_left(shared).await {
            tracing::warn!(
                error = proto::failure::chain(&error),
                "cannot look for workloads that restores have stopped"
            );
        }
        tokio::time::sleep(LOOK_FOR_LEFT).await;
    }
}

/// What is on record and not configured any more can only be told.
async fn tell_orphans(shared: &Shared) {
    for (pod, hold) in shared.catalog.holds().await.unwrap_or_default() {
        let stopped: Vec<String> = hold.stopped.iter().map(told).collect();
        tracing::error!(
            restore = %hold.job, pod = %pod.workload(), stopped = stopped.join(", "),
            "a restore has stopped these, and its restore pod is not configured any more: scale that to 0 and these back"
        );
    }
}

async fn end_those_left(shared: &Shared) -> Result<(), CatalogError> {
    for (pod, hold) in shared.catalog.holds().await? {
        let Some(stand_in) = shared.settings.restore_pods.called(&pod) else { continue };
        // Whoever has it goes on by himself.
        let Ok(_turn) = stand_in.turn.try_lock() else { continue };
        let job = shared.catalog.job(hold.job).await?;
        if job.is_some_and(|job| !job.state.is_end()) {
            continue;
        }
        tracing::warn!(restore = %hold.job, pod = %pod.workload(), "an ended restore has left workloads stopped; they are started");
        for trouble in close(shared, &stand_in, &hold).await? {
            tracing::error!(restore = %hold.job, "{trouble}");
        }
    }
    Ok(())
}

/// Takes the restore pod away and starts what ran, whatever the restore has done. What could not be done is told, and
/// stays on record.
async fn close(shared: &Shared, stand_in: &StandIn, hold: &Hold) -> Result<Vec<String>, CatalogError> {
    let pod = stand_in.id().workload();
    if let Err(trouble) = take_down(stand_in, &pod).await {
        return Ok(vec![format!(
            "{trouble}; what it stands in for is started when it is gone: {}",
            all_told(&hold.stopped)
        )]);
    }
    let mut troubles = Vec::new();
    for ran in &hold.stopped {
        if let Err(trouble) = start(stand_in, ran).await {
            troubles.push(format!("{} is not started again yet ({trouble}); it is tried on", told(ran)));
        }
    }
    if troubles.is_empty() {
        shared.catalog.drop_hold(&stand_in.id()).await?;
    }
    for ran in &hold.stopped {
        if troubles.is_empty()
            && let Err(cause) = await_health(stand_in, ran).await
        {
            troubles.push(format!("{} is started again and {cause}", told(ran)));
        }
    }
    Ok(troubles)
}

fn told(ran: &Ran) -> String {
    let s = if ran.replicas == 1 { "" } else { "s" };
    format!("{} ({} replica{s})", ran.id, ran.replicas)
}

fn all_told(all: &[Ran]) -> String {
    all.iter().map(told).collect::<Vec<_>>().join(", ")
}

/// Scales to 0 and returns when no pod is left.
async fn take_down(stand_in: &StandIn, id: &WorkloadId) -> Result<(), String> {
    let began = Instant::now();
    let limit = stand_in.pod.stop_limit.get();
    let tell = async || match stand_in.replicas(id).await? {
        None | Some(0) => Ok::<_, ApiTrouble>(()),
        Some(_) => stand_in.api.scale(id, 0, false).await,
    };
    let mut is_told = false;
    loop {
        if !is_told {
            is_told = match tell().await {
                Ok(()) => true,
                Err(trouble) if !trouble.is_passing() || began.elapsed() >= limit => {
                    return Err(format!("{id} cannot be stopped: {trouble}"));
                }
                Err(_) => false,
            };
        }
        let left = match stand_in.left_of(id).await {
            Ok(None) if is_told => return Ok(()),
            Ok(left) => left.unwrap_or_default(),
            Err(trouble) => trouble.to_string(),
        };
        if began.elapsed() >= limit {
            let seconds = limit.as_secs();
            return Err(format!("{id} is not gone {seconds} s after it was stopped (`stop_limit`): {left}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Makes it what it was and waits until it is ready.
async fn bring_back(stand_in: &StandIn, ran: &Ran) -> Result<(), String> {
    let began = Instant::now();
    while let Err(trouble) = start(stand_in, ran).await {
        // An API server that is away comes back, and what it answers then counts.
        if !trouble.is_passing() || began.elapsed() >= stand_in.pod.health_limit.get() {
            return Err(format!("cannot be started: {trouble}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    steps::reached(Step::RestorePodStarted).await;
    await_health(stand_in, ran).await
}

/// Makes it what it was. One that somebody has started already is left as it is.
async fn start(stand_in: &StandIn, ran: &Ran) -> Result<(), ApiTrouble> {
    match stand_in.replicas(&ran.id).await? {
        Some(0) => stand_in.api.scale(&ran.id, ran.replicas, false).await,
        None | Some(_) => Ok(()),
    }
}

async fn await_health(stand_in: &StandIn, ran: &Ran) -> Result<(), String> {
    let began = Instant::now();
    let limit = stand_in.pod.health_limit.get();
    loop {
        let lacks = match stand_in.lacks(&ran.id).await {
            Ok(None) => return Ok(()),
            Ok(Some(lacks)) => lacks,
            // An answer that does not come says nothing of it.
            Err(trouble) => trouble.to_string(),
        };
        if began.elapsed() >= limit {
            let waits = stand_in.waits_for(&ran.id).await.unwrap_or_default();
            let why = if waits.why.is_empty() { lacks } else { format!("{lacks}: {}", waits.why) };
            return Err(format!("was not healthy within {} seconds: {why}", limit.as_secs()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// One attempt that has begun.
struct Work<'a> {
    attempt: &'a Attempt,
    backup: &'a BackupName,
    place: &'a RestorePlace,
    stand_in: &'a StandIn,
    task: TaskId,
}

impl Work<'_> {
    async fn run(&self, ours: Option<Hold>) -> Result<TaskEnd, CatalogError> {
        let mut hold = match ours {
            Some(hold) => hold,
            None => match self.take_hold().await? {
                Ok(hold) => hold,
                Err(why) => return Ok(failed(why, None)),
            },
        };
        if hold.done.is_none() && hold.undo.is_none() {
            match self.restore(&mut hold).await? {
                None => {}
                Some(end) => return Ok(end),
            }
        }
        if hold.undo.is_none() {
            if let Err(cause) = take_down(self.stand_in, &self.stand_in.id().workload()).await {
                let stopped = all_told(&hold.stopped);
                let reason = format!(
                    "it is restored, and {cause}; what it stands in for is started when it is gone: {stopped}"
                );
                return Ok(failed(reason, hold.done));
            }
            steps::reached(Step::RestorePodGone).await;
            match self.start_all(&mut hold).await? {
                Ok(()) => {
                    let steps = std::mem::take(&mut hold.steps);
                    let done = hold.done.take().expect("only what is done is started on");
                    return Ok(TaskEnd::Complete(with_steps(done, steps, None)));
                }
                Err(cause) => {
                    hold.undo = Some(cause);
                    self.keep(&hold).await?;
                }
            }
        }
        self.take_back(hold).await
    }

    /// Looks once more, as the plan has, and puts what will be stopped on record. Nothing is stopped before.
    async fn take_hold(&self) -> Result<Result<Hold, String>, CatalogError> {
        let catalog = &self.attempt.shared.catalog;
        // What an ended restore has left is put right first.
        if let Some(left) = catalog.hold(&self.stand_in.id()).await? {
            let troubles = close(&self.attempt.shared, self.stand_in, &left).await?;
            if !troubles.is_empty() {
                return Ok(Err(format!("an earlier restore is not over: {}", troubles.join("; "))));
            }
        }
        let Some(record) = catalog.backup(self.backup).await? else {
            return Ok(Err(format!("there is no backup {}", self.backup)));
        };
        let now = match ask_for_plan(&self.attempt.shared, record, self.place.clone()).await {
            Ok(now) => now,
            Err(NoPlan::Away) => {
                return Ok(Err("the connection to its agent broke; nothing was changed".to_owned()));
            }
            Err(NoPlan::Failed(why)) => return Ok(Err(format!("{why}; nothing was changed"))),
        };
        if let Some(confirmed) = &self.place.confirmed {
            let changes = proto::plan::changes(&confirmed.to_wire(&self.place.source), &now);
            if !changes.is_empty() {
                return Ok(Err(format!(
                    "the restore is not the one that was confirmed; nothing was changed: {}: look at the new plan, then \
                     restore again",
                    changes.join("; ")
                )));
            }
        }
        if !now.obstacles.is_empty() {
            return Ok(Err(format!("it cannot go ahead; nothing was changed: {}", now.obstacles.join("; "))));
        }
        let look = self.stand_in.look().await;
        if !look.obstacles.is_empty() {
            return Ok(Err(format!(
                "it cannot go ahead; nothing was changed: {}",
                look.obstacles.join("; ")
            )));
        }
        let hold = Hold {
            job: self.attempt.job.id,
            part: self.attempt.part,
            stopped: look.runs,
            steps: Vec::new(),
            done: None,
            undo: None,
        };
        self.keep(&hold).await?;
        steps::reached(Step::RestorePodNoted).await;
        Ok(Ok(hold))
    }

    async fn keep(&self, hold: &Hold) -> Result<(), CatalogError> {
        self.attempt.shared.catalog.keep_hold(&self.stand_in.id(), hold).await
    }

    fn now(&self) -> Timestamp {
        self.attempt.shared.clock.now()
    }

    fn show(&self, step: &str) {
        let progress =
            TaskProgress { task_id: self.task.to_string(), step: step.to_owned(), ..TaskProgress::default() };
        self.attempt.progress(progress);
    }

    /// Stops, restores, and puts on record that it is done. Where it ends otherwise, all is put right.
    async fn restore(&self, hold: &mut Hold) -> Result<Option<TaskEnd>, CatalogError> {
        if let Err(cause) = self.stop_all(hold).await {
            return self.give_up(hold, cause).await.map(Some);
        }
        self.keep(hold).await?;
        steps::reached(Step::RestorePodCleared).await;
        if self.is_cancelled().await? {
            return self.cancelled(hold).await.map(Some);
        }
        if let Err(cause) = self.bring_up().await {
            let cause = format!("{cause}; the live data is as it was");
            return self.give_up(hold, cause).await.map(Some);
        }
        steps::reached(Step::RestorePodJoined).await;
        if self.is_cancelled().await? {
            return self.cancelled(hold).await.map(Some);
        }
        let end = match begin(self.attempt, self.task, self.backup, self.place, Way::StandIn).await {
            Ok(running) => {
                steps::reached(Step::TaskHandedOut).await;
                restore_end(follow(self.attempt, running).await)
            }
            Err(end) => end,
        };
        match end {
            TaskEnd::Complete(result) => {
                hold.done = Some(result);
                self.keep(hold).await?;
                steps::reached(Step::RestorePodDone).await;
                Ok(None)
            }
            // The same once more: the restore pod stays, and so does what it stands in for.
            TaskEnd::AgentLost | TaskEnd::Cancelled | TaskEnd::Failed { retryable: true, .. }
                if !self.is_last().await? =>
            {
                Ok(Some(end))
            }
            TaskEnd::Failed { reason, .. } => self.give_up(hold, reason).await.map(Some),
            end => {
                self.put_right(hold).await?;
                Ok(Some(end))
            }
        }
    }

    /// True if no attempt follows this one: there were enough, or somebody has cancelled.
    async fn is_last(&self) -> Result<bool, CatalogError> {
        let Attempt { job, part, .. } = self.attempt;
        Ok(job.parts[*part].attempt + 1 >= MAX_ATTEMPTS || self.is_cancelled().await?)
    }

    async fn is_cancelled(&self) -> Result<bool, CatalogError> {
        let now = self.attempt.shared.catalog.job(self.attempt.job.id).await?;
        Ok(now.is_none_or(|now| now.cancelling || now.state != JobState::Running))
    }

    async fn cancelled(&self, hold: &Hold) -> Result<TaskEnd, CatalogError> {
        self.put_right(hold).await?;
        Ok(TaskEnd::Cancelled)
    }

    async fn put_right(&self, hold: &Hold) -> Result<(), CatalogError> {
        let troubles = close(&self.attempt.shared, self.stand_in, hold).await?;
        self.attempt.remark(Level::Error, troubles).await;
        Ok(())
    }

    async fn give_up(&self, hold: &Hold, cause: String) -> Result<TaskEnd, CatalogError> {
        self.show("starting");
        let troubles = close(&self.attempt.shared, self.stand_in, hold).await?;
        Ok(failed(
            match (troubles.as_slice(), hold.stopped.as_slice()) {
                ([], []) => cause,
                ([], stopped) => format!("{cause}; started again: {}", all_told(stopped)),
                (troubles, _) => format!("{cause}; {}", troubles.join("; ")),
            },
            None,
        ))
    }

    /// Stops all that ran, the one that is started last first.
    async fn stop_all(&self, hold: &mut Hold) -> Result<(), String> {
        self.show("stopping");
        for ran in hold.stopped.clone().iter().rev() {
            self.attempt.remark(Level::Info, vec![format!("stops {}", told(ran))]).await;
            take_down(self.stand_in, &ran.id).await?;
            let detail = ran.id.to_string();
            // An attempt that goes on has told it before.
            if !hold.steps.iter().any(|step| step.step == "stopped" && step.detail == detail) {
                hold.steps.push(RestoreStep { step: "stopped".to_owned(), at: self.now(), detail });
            }
        }
        Ok(())
    }

    /// Returns when the restore pod's agent has joined.
    async fn bring_up(&self) -> Result<(), String> {
        let (pod, fleet, agent) =
            (self.stand_in.id().workload(), &self.attempt.shared.fleet, self.place.agent);
        self.show("starting the restore pod");
        let (began, limit) = (Instant::now(), self.stand_in.pod.start_limit.get());
        let tell = async || {
            let is_up = self.stand_in.replicas(&pod).await?.is_some_and(|replicas| replicas > 0);
            // The sidecar's may be half open yet.
            let before = fleet.connection_of(agent).filter(|_| !is_up);
            if !is_up {
                self.stand_in.api.scale(&pod, 1, false).await?;
            }
            Ok::<_, ApiTrouble>(before)
        };
        self.attempt.remark(Level::Info, vec![format!("starts its restore pod {pod}")]).await;
        let before = loop {
            match tell().await {
                Ok(before) => break before,
                Err(trouble) if !trouble.is_passing() || began.elapsed() >= limit => {
                    return Err(format!("the restore pod {pod} cannot be started: {trouble}"));
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        let mut hopeless_since = None;
        loop {
            if fleet.connection_of(agent).is_some_and(|now| Some(now) != before) {
                return Ok(());
            }
            let waits = self.stand_in.waits_for(&pod).await;
            let waits = waits.unwrap_or_default();
            match waits.is_hopeless {
                true => drop(hopeless_since.get_or_insert(Instant::now())),
                false => hopeless_since = None,
            }
            let is_hopeless = hopeless_since.is_some_and(|since: Instant| since.elapsed() >= HOPELESS);
            if is_hopeless || began.elapsed() >= limit {
                let seconds = began.elapsed().as_secs();
                let why = match waits.why.as_str() {
                    "" => "its pod runs and its agent does not join: see its log".to_owned(),
                    why => why.to_owned(),
                };
                return Err(format!("the restore pod {pod} did not join within {seconds} seconds: {why}"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Starts what ran on what was restored.
    async fn start_all(&self, hold: &mut Hold) -> Result<Result<(), String>, CatalogError> {
        self.show("starting");
        for ran in &hold.stopped {
            self.attempt.remark(Level::Info, vec![format!("starts {}", told(ran))]).await;
            if let Err(cause) = bring_back(self.stand_in, ran).await {
                return Ok(Err(format!("{} did not come up: it {cause}", ran.id)));
            }
            let detail = ran.id.to_string();
            hold.steps.push(RestoreStep { step: "started".to_owned(), at: self.now(), detail });
        }
        self.attempt.shared.catalog.drop_hold(&self.stand_in.id()).await?;
        Ok(Ok(()))
    }

    /// The old state is live again, and runs.
    async fn take_back(&self, mut hold: Hold) -> Result<TaskEnd, CatalogError> {
        let cause = hold.undo.clone().expect("there is a reason");
        let done = hold.done.clone();
        self.attempt.remark(Level::Warning, vec![format!("is taken back: {cause}")]).await;
        let taken = match has_old_state(done.as_ref()) {
            true => self.take_back_data(&mut hold, &cause).await,
            false => Err("it had replaced nothing, and what it has created stays".to_owned()),
        };
        let mut steps = std::mem::take(&mut hold.steps);
        let troubles = close(&self.attempt.shared, self.stand_in, &hold).await?;
        let (reason, undone) = match taken {
            Ok(()) => {
                let detail = cause.clone();
                steps.push(RestoreStep { step: "undone".to_owned(), at: self.now(), detail });
                (format!("{cause}; all of it was taken back"), Some(cause))
            }
            Err(why) => (
                format!(
                    "{cause}; it could not be taken back ({why}): what was restored is live; `nsctl undo {}` brings the \
                     safety backup back",
                    self.attempt.job.id
                ),
                None,
            ),
        };
        let reason = [vec![reason], troubles].concat().join("; ");
        Ok(failed(reason, done.map(|done| with_steps(done, steps, undone))))
    }

    async fn take_back_data(&self, hold: &mut Hold, cause: &str) -> Result<(), String> {
        self.stop_all(hold).await?;
        self.bring_up().await?;
        let way = Way::TakeBack(cause.to_owned());
        let task = TaskId::fresh();
        let running = begin(self.attempt, task, self.backup, self.place, way).await;
        let ended = match running {
            Ok(running) => follow(self.attempt, running).await,
            Err(_) => return Err("the connection to its agent broke".to_owned()),
        };
        match ended {
            Ended::Restored(finished) if !finished.undone.is_empty() => Ok(()),
            Ended::Failed { reason, .. } => Err(reason),
            _ => Err("the connection to its agent broke".to_owned()),
        }
    }
}

/// True if there is something to go back to.
fn has_old_state(done: Option<&PartResult>) -> bool {
    matches!(done, Some(PartResult::Restored { previous_state: Some(_), .. }))
}

/// What the controller did around it is told in its place.
fn with_steps(mut done: PartResult, around: Vec<RestoreStep>, taken_back: Option<String>) -> PartResult {
    if let PartResult::Restored { steps, undone, previous_state, .. } = &mut done {
        steps.extend(around);
        steps.sort_by_key(|step| step.at);
        if taken_back.is_some() {
            *previous_state = None;
            *undone = taken_back;
        }
    }
    done
}
