//! One attempt at a part: stops, restores, starts, and takes back what does not come up.
//!
//! Must stay true: see [`super`]; each step is on record before what it allows is done.

use std::time::Duration;

use jiff::Timestamp;
use proto::v1::TaskProgress;
use repository::names::BackupName;
use runtime::steps;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::closing::{ask, close, settle};
use super::scale::{LOOK_AGAIN, Patience, all_told, await_gone, bring_back, bring_up, take_down, told};
use super::{failed, told_end};
use crate::catalog::CatalogError;
use crate::fleet::Ended;
use crate::ids::TaskId;
use crate::jobs::backup::{follow, stalled};
use crate::jobs::job::{JobState, PartResult, RestorePlace, RestoreStep};
use crate::jobs::owner::CANCEL_GRACE;
use crate::jobs::restore::{NoPlan, Way, ask_for_plan, begin, restore_end};
use crate::jobs::runner::Attempt;
use crate::jobs::state::{Level, MAX_ATTEMPTS, TaskEnd};
use crate::kubernetes::{End, HandedOut, Hold, Ran, StandIn};
use crate::steps::Step;

/// A pod that will not start by itself is given up after so long.
const HOPELESS: Duration = Duration::from_secs(15);
/// The record may fail to be written this often in a row.
const KEPT_TRIES: u32 = 10;
/// Whether somebody has cancelled is looked for this often.
const CANCEL_LOOK: Duration = Duration::from_secs(1);

/// One attempt that has begun.
pub(super) struct Work<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) backup: &'a BackupName,
    pub(super) place: &'a RestorePlace,
    pub(super) stand_in: &'a StandIn,
    pub(super) task: TaskId,
}

impl Work<'_> {
    pub(super) async fn run(&self, ours: Option<Hold>) -> Result<TaskEnd, CatalogError> {
        let goes_on = ours.is_some();
        let mut hold = match ours {
            Some(hold) => hold,
            None => match self.take_hold().await? {
                Ok(hold) => hold,
                Err(why) => return Ok(failed(why, None)),
            },
        };
        if let Some(end) = hold.end.clone() {
            return self.close(&mut hold, end).await;
        }
        if hold.done.is_none()
            && hold.undo.is_none()
            && let Some(end) = self.restore(&mut hold).await?
        {
            return Ok(end);
        }
        if hold.undo.is_none() {
            // Who knows for how long they have run, where a life before this one has started them.
            let has_run = hold.was_started || (goes_on && self.that_runs(&hold).await.is_some());
            match self.start_on_it(&mut hold).await? {
                Ok(()) => return self.complete(hold).await,
                Err(NotUp::PodStays(cause)) => return self.wait_on(hold, &cause).await,
                Err(NotUp::Unhealthy(cause)) if has_run => return self.leave_it(&mut hold, &cause).await,
                Err(NotUp::Unhealthy(cause)) => {
                    hold.undo = Some(cause);
                    self.keep(&hold).await?;
                }
            }
        } else if goes_on && let Some(id) = self.that_runs(&hold).await {
            let cause = format!("{}; {id} runs since", hold.undo.clone().unwrap_or_default());
            return self.leave_it(&mut hold, &cause).await;
        }
        self.take_back(hold).await
    }

    /// The restore pod goes, and what ran is started on what was restored.
    async fn start_on_it(&self, hold: &mut Hold) -> Result<Result<(), NotUp>, CatalogError> {
        let pod = self.stand_in.id().workload();
        // What somebody has started in the middle runs on what is not there any more.
        let stopped = if hold.was_started { Ok(()) } else { self.stop_all(hold).await };
        if let Err(cause) = stopped.and(take_down(self.stand_in, &pod).await) {
            return Ok(Err(NotUp::PodStays(cause)));
        }
        steps::reached(Step::RestorePodGone).await;
        if !hold.was_started {
            hold.was_started = true;
            self.keep(hold).await?;
        }
        Ok(self.start_all(hold).await.map_err(NotUp::Unhealthy))
    }

    /// It is restored, and nothing is started beside a restore pod that does not go: [`super::keep`] tries on.
    async fn wait_on(&self, mut hold: Hold, cause: &str) -> Result<TaskEnd, CatalogError> {
        let stopped = all_told(&hold.stopped);
        let reason = format!(
            "it is restored, and {cause}; what it stands in for is started when it is gone: {stopped}"
        );
        let result = hold.done.clone();
        hold.end = Some(End::Failed { reason: reason.clone(), result: result.clone() });
        self.keep(&hold).await?;
        Ok(failed(reason, result))
    }

    /// What was restored stays live: what was written on it since is in no backup.
    async fn leave_it(&self, hold: &mut Hold, cause: &str) -> Result<TaskEnd, CatalogError> {
        if hold.handed_out.is_some() {
            // In the middle of being taken back: that is ended, beneath nothing.
            let stopped = self.stop_all(hold).await.err().map(|why| format!("; {why}")).unwrap_or_default();
            hold.may_be_live = true;
            return self.conclude(hold, fails(format!("{cause}{stopped}"))).await;
        }
        let reason = format!(
            "{cause}; what was restored is live, and was run on before the controller was started anew, so it is not taken \
             back by itself: `nsctl undo {}` does it",
            self.attempt.job.id
        );
        let result = hold.done.clone();
        self.conclude(hold, End::Failed { reason, result }).await
    }

    /// One of those that were stopped and runs: somebody has started it.
    async fn that_runs(&self, hold: &Hold) -> Option<String> {
        let (began, limit) = (Instant::now(), self.stand_in.pod.stop_limit.get());
        for Ran { id, .. } in &hold.stopped {
            loop {
                match self.stand_in.replicas(id).await {
                    Ok(Some(replicas)) if replicas > 0 => return Some(id.to_string()),
                    Ok(_) => break,
                    // Without an answer it may.
                    Err(trouble) if began.elapsed() >= limit => return Some(format!("{id} ({trouble})")),
                    Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
                }
            }
        }
        None
    }

    /// All runs on what was restored.
    async fn complete(&self, mut hold: Hold) -> Result<TaskEnd, CatalogError> {
        let done = hold.done.clone().expect("only what is done is started on");
        let done = with_steps(done, std::mem::take(&mut hold.steps), None);
        (hold.end, hold.is_over) = (Some(End::Complete(done.clone())), true);
        self.keep(&hold).await?;
        steps::reached(Step::RestorePodOver).await;
        Ok(TaskEnd::Complete(done))
    }

    /// Looks once more, as the plan has, and puts what will be stopped on record. Nothing is stopped before.
    async fn take_hold(&self) -> Result<Result<Hold, String>, CatalogError> {
        let catalog = &self.attempt.shared.catalog;
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
            handed_out: None,
            done: None,
            was_started: false,
            undo: None,
            end: None,
            may_be_live: false,
            is_over: false,
        };
        self.keep(&hold).await?;
        steps::reached(Step::RestorePodNoted).await;
        Ok(Ok(hold))
    }

    async fn keep(&self, hold: &Hold) -> Result<(), CatalogError> {
        let mut tries = 1;
        loop {
            match self.attempt.shared.catalog.keep_hold(&self.stand_in.id(), hold).await {
                Err(_) if tries < KEPT_TRIES => tries += 1,
                other => return other,
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
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
        hold.may_be_live |= hold.handed_out.is_some();
        if hold.may_be_live
            && let Some(id) = self.that_runs(hold).await
        {
            // What it has written since would go. Nothing is ended beneath it.
            let stopped = self.stop_all(hold).await.err().map(|why| format!("; {why}")).unwrap_or_default();
            let reason = format!("{id} was started in the middle of the restore{stopped}");
            return self.conclude(hold, fails(reason)).await.map(Some);
        }
        let given_up = CancellationToken::new();
        let waiting = self.stand_in.given_up_with(given_up.clone());
        match self.until_cancelled(self.make_ready(hold, &waiting), &given_up).await {
            _ if given_up.is_cancelled() => return self.conclude(hold, End::Cancelled).await.map(Some),
            Ok(()) => {}
            Err(NotReady::Catalog(error)) => return Err(error),
            Err(NotReady::Why(cause)) => {
                let cause =
                    if hold.is_unknown() { cause } else { format!("{cause}; the live data is as it was") };
                return self.conclude(hold, fails(cause)).await.map(Some);
            }
        }
        steps::reached(Step::RestorePodJoined).await;
        if self.is_cancelled().await? {
            return self.conclude(hold, End::Cancelled).await.map(Some);
        }
        self.hand_out(hold).await?;
        let connection = self.connection();
        let end = match begin(self.attempt, self.task, self.backup, self.place, Way::StandIn).await {
            Ok(running) => {
                steps::reached(Step::TaskHandedOut).await;
                tokio::select! {
                    biased;
                    ended = follow(self.attempt, running) => ended,
                    // Whoever does not answer may have done it.
                    () = self.overdue() => Ended::AgentLost,
                }
            }
            Err(TaskEnd::AgentLost) => Ended::AgentLost,
            Err(end) => {
                hold.handed_out = None;
                return self.conclude(hold, fails(of_end(end))).await.map(Some);
            }
        };
        // Who has answered says himself whether all is as it was.
        let has_answered = !matches!(end, Ended::AgentLost | Ended::Stalled(_));
        let end = restore_end(end);
        if let TaskEnd::Complete(result) = end {
            (hold.done, hold.handed_out) = (Some(result), None);
            self.keep(hold).await?;
            steps::reached(Step::RestorePodDone).await;
            return Ok(None);
        }
        if has_answered && self.is_as_before(hold, connection).await {
            hold.handed_out = None;
        }
        hold.may_be_live |= !has_answered;
        self.keep(hold).await?;
        let is_cancelled = self.is_cancelled().await?;
        let end = match end {
            // The same once more: the restore pod stays, and what it stands in for stays stopped.
            TaskEnd::AgentLost | TaskEnd::Cancelled | TaskEnd::Failed { retryable: true, .. }
                if !is_cancelled && !self.is_last() =>
            {
                if !hold.is_unknown() {
                    return Ok(Some(end));
                }
                // The job has to know, too, whoever cancels before the next attempt.
                let reason = match end {
                    TaskEnd::Failed { reason, .. } => reason,
                    TaskEnd::Cancelled => "its agent was stopped".to_owned(),
                    _ => return Ok(Some(TaskEnd::AgentLost)),
                };
                self.attempt.remark(Level::Warning, vec![reason]).await;
                return Ok(Some(TaskEnd::AgentLost));
            }
            _ if is_cancelled => End::Cancelled,
            TaskEnd::Failed { reason, result, .. } => End::Failed { reason, result },
            TaskEnd::Cancelled => {
                fails(format!("its agent was stopped; given up after {MAX_ATTEMPTS} attempts"))
            }
            _ => fails(format!("the connection to its agent broke; given up after {MAX_ATTEMPTS} attempts")),
        };
        self.conclude(hold, end).await.map(Some)
    }

    fn connection(&self) -> Option<u64> {
        self.attempt.shared.fleet.connection_of(self.place.agent)
    }

    /// True if the agent that has answered, and no other in its place, says that nothing was or is half done.
    async fn is_as_before(&self, hold: &Hold, connection: Option<u64>) -> bool {
        let Some(order) = &hold.handed_out else { return false };
        let job = self.attempt.job.id.to_string();
        let settled = ask(&self.attempt.shared, order, &job).await;
        settled.is_ok_and(|settled| !settled.is_carried_through)
            && connection.is_some()
            && self.connection() == connection
    }

    /// All stands, and the restore pod's agent is there and has nothing half done. Ends early where `waiting` is given up.
    async fn make_ready(&self, hold: &mut Hold, waiting: &StandIn) -> Result<(), NotReady> {
        self.stop_with(hold, waiting).await.map_err(NotReady::Why)?;
        self.keep(hold).await?;
        steps::reached(Step::RestorePodCleared).await;
        // What has come since the plan.
        if let Some(obstacle) = waiting.look_patiently().await.obstacles.into_iter().next() {
            return Err(NotReady::Why(format!("it cannot go on: {obstacle}")));
        }
        self.bring_up(hold, waiting).await.map_err(NotReady::Why)?;
        let Some(order) = &hold.handed_out else { return Ok(()) };
        // Whoever had the order may go on with it yet.
        let limit = waiting.pod.start_limit.get();
        let job = self.attempt.job.id.to_string();
        let settled = settle(&self.attempt.shared, waiting, order, &job, limit).await;
        self.attempt.remark(Level::Warning, settled.map_err(NotReady::Why)?.said).await;
        Ok(())
    }

    /// Does it, and gives it up where somebody cancels the restore meanwhile. It is never cut off: what it has asked the
    /// API for would come true after the look that follows.
    async fn until_cancelled<T>(&self, work: impl Future<Output = T>, given_up: &CancellationToken) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            () = self.await_cancel() => given_up.cancel(),
            done = &mut work => return done,
        }
        work.await
    }

    async fn await_cancel(&self) {
        while !self.is_cancelled().await.unwrap_or(false) {
            tokio::time::sleep(CANCEL_LOOK).await;
        }
    }

    /// An agent that was told to end it has not done so.
    async fn overdue(&self) {
        self.await_cancel().await;
        tokio::time::sleep(CANCEL_GRACE).await;
    }

    /// True if no attempt follows this one.
    fn is_last(&self) -> bool {
        let Attempt { job, part, .. } = self.attempt;
        job.parts[*part].attempt + 1 >= MAX_ATTEMPTS
    }

    async fn is_cancelled(&self) -> Result<bool, CatalogError> {
        let now = self.attempt.shared.catalog.job(self.attempt.job.id).await?;
        Ok(now.is_none_or(|now| now.cancelling || now.state != JobState::Running))
    }

    /// An order is about to go out.
    async fn hand_out(&self, hold: &mut Hold) -> Result<(), CatalogError> {
        hold.handed_out = Some(HandedOut { agent: self.place.agent, source: self.place.source.clone() });
        self.keep(hold).await?;
        steps::reached(Step::RestorePodOrdered).await;
        Ok(())
    }

    /// How it ends is known. That is on record before anything is started: nobody restores over what is written then.
    async fn conclude(&self, hold: &mut Hold, end: End) -> Result<TaskEnd, CatalogError> {
        hold.end = Some(end.clone());
        self.keep(hold).await?;
        self.close(hold, end).await
    }

    /// Puts all right, and says what came of it.
    async fn close(&self, hold: &mut Hold, end: End) -> Result<TaskEnd, CatalogError> {
        self.show("starting");
        let limit = self.stand_in.pod.start_limit.get();
        let closed = close(&self.attempt.shared, self.stand_in, hold, limit).await?;
        self.attempt.remark(Level::Warning, closed.said).await;
        let told = match (closed.troubles.as_slice(), hold.stopped.as_slice()) {
            ([], []) => String::new(),
            ([], stopped) => format!("; started again: {}", all_told(stopped)),
            (troubles, _) => format!("; {}", troubles.join("; ")),
        };
        if matches!(end, End::Complete(_)) {
            self.attempt.remark(Level::Error, closed.troubles.clone()).await;
        }
        let is_cancelled = matches!(end, End::Cancelled);
        Ok(match told_end(hold, end) {
            TaskEnd::Failed { reason, retryable, result } => {
                TaskEnd::Failed { reason: reason + &told, retryable, result }
            }
            TaskEnd::Unknown { reason } => TaskEnd::Unknown { reason: reason + &told },
            _ if is_cancelled && !closed.troubles.is_empty() => {
                failed(format!("it was cancelled{told}"), None)
            }
            end => end,
        })
    }

    /// Stops all that ran, the one that is started last first, and waits for what rests already.
    async fn stop_all(&self, hold: &mut Hold) -> Result<(), String> {
        self.stop_with(hold, self.stand_in).await
    }

    async fn stop_with(&self, hold: &mut Hold, stand_in: &StandIn) -> Result<(), String> {
        self.show("stopping");
        for ran in hold.stopped.clone().iter().rev() {
            self.attempt.remark(Level::Info, vec![format!("stops {}", told(ran))]).await;
            take_down(stand_in, &ran.id).await?;
            let detail = ran.id.to_string();
            // An attempt that goes on has told it before.
            if !hold.steps.iter().any(|step| step.step == "stopped" && step.detail == detail) {
                hold.steps.push(RestoreStep { step: "stopped".to_owned(), at: self.now(), detail });
            }
        }
        for id in stand_in.workloads().filter(|id| hold.stopped.iter().all(|ran| ran.id != *id)) {
            await_gone(stand_in, &id).await?;
        }
        Ok(())
    }

    /// Returns when the restore pod's agent has joined.
    async fn bring_up(&self, hold: &Hold, stand_in: &StandIn) -> Result<(), String> {
        self.show("starting the restore pod");
        let pod = stand_in.id().workload();
        self.attempt.remark(Level::Info, vec![format!("starts its restore pod {pod}")]).await;
        // Where an order is out, nothing goes on without it, and one that has crashed is started late.
        let hopeless = hold.handed_out.is_none().then_some(HOPELESS);
        let patience = Patience { limit: stand_in.pod.start_limit.get(), hopeless };
        bring_up(stand_in, &self.attempt.shared.fleet, self.place.agent, patience).await
    }

    /// Starts what ran on what was restored.
    async fn start_all(&self, hold: &mut Hold) -> Result<(), String> {
        self.show("starting");
        for ran in &hold.stopped {
            self.attempt.remark(Level::Info, vec![format!("starts {}", told(ran))]).await;
            let started = bring_back(self.stand_in, ran).await;
            started.map_err(|cause| format!("{} did not come up: it {cause}", ran.id))?;
            let detail = ran.id.to_string();
            hold.steps.push(RestoreStep { step: "started".to_owned(), at: self.now(), detail });
        }
        Ok(())
    }

    /// The old state is live again, and runs.
    async fn take_back(&self, mut hold: Hold) -> Result<TaskEnd, CatalogError> {
        let cause = hold.undo.clone().expect("there is a reason");
        let done = hold.done.clone();
        self.attempt.remark(Level::Warning, vec![format!("is taken back: {cause}")]).await;
        let taken = self.take_back_data(&mut hold, &cause).await?;
        let mut steps = std::mem::take(&mut hold.steps);
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
        let result = done.map(|done| with_steps(done, steps, undone));
        self.conclude(&mut hold, End::Failed { reason, result }).await
    }

    async fn take_back_data(&self, hold: &mut Hold, cause: &str) -> Result<Result<(), String>, CatalogError> {
        const BROKE: &str = "the connection to its agent broke";
        if let Err(cause) = self.stop_all(hold).await {
            return Ok(Err(cause));
        }
        for _ in 0..MAX_ATTEMPTS {
            if let Err(cause) = self.bring_up(hold, self.stand_in).await {
                return Ok(Err(cause));
            }
            self.hand_out(hold).await?;
            let way = Way::TakeBack(cause.to_owned());
            let running = begin(self.attempt, TaskId::fresh(), self.backup, self.place, way).await;
            let Ok(running) = running else { continue };
            match follow(self.attempt, running).await {
                Ended::Restored(finished) if !finished.undone.is_empty() => {
                    // On record with the end.
                    hold.handed_out = None;
                    return Ok(match finished.replaced > 0 || has_old_state(hold.done.as_ref()) {
                        true => Ok(()),
                        false => Err("it had replaced nothing, and what it has created stays".to_owned()),
                    });
                }
                Ended::Failed { reason, .. } => return Ok(Err(reason)),
                Ended::Stalled(stall) => return Ok(Err(stalled(stall))),
                _ => {}
            }
        }
        Ok(Err(BROKE.to_owned()))
    }
}

/// Why no order went out.
fn of_end(end: TaskEnd) -> String {
    match end {
        TaskEnd::Failed { reason, .. } => reason,
        _ => "no order could be given".to_owned(),
    }
}

fn fails(reason: String) -> End {
    End::Failed { reason, result: None }
}

/// Why it does not run on what was restored.
enum NotUp {
    PodStays(String),
    Unhealthy(String),
}

/// Why no order can go out.
enum NotReady {
    Why(String),
    Catalog(CatalogError),
}

impl From<CatalogError> for NotReady {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
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
