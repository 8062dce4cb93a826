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

use std::time::Duration;

use jiff::Timestamp;
use proto::v1::TaskProgress;
use repository::names::BackupName;
use runtime::steps;
use tokio::sync::OwnedMutexGuard;

use crate::catalog::CatalogError;
use crate::fleet::Ended;
use crate::ids::TaskId;
use crate::jobs::backup::{follow, wait_until};
use crate::jobs::job::{JobState, PartResult, RestorePlace, RestoreStep};
use crate::jobs::restore::{NoPlan, Way, ask_for_plan, begin, restore_end};
use crate::jobs::runner::Attempt;
use crate::jobs::state::{Event, Level, MAX_ATTEMPTS, TaskEnd};
use crate::kubernetes::{End, HandedOut, Hold, StandIn};
use crate::steps::Step;

use closing::{Closed, close, close_left, is_left};
use scale::{LOOK_AGAIN, Patience, all_told, bring_back, bring_up, take_down, told};

pub(super) use closing::keep;

/// A pod that will not start by itself is given up after so long.
const HOPELESS: Duration = Duration::from_secs(15);

/// Restores one place.
pub(super) async fn attempt(attempt: &Attempt, backup: &BackupName, place: &RestorePlace, stand_in: StandIn) {
    let shared = &attempt.shared;
    let (_turn, ours) = match own_turn(attempt, &stand_in).await {
        Ok(Turn::Ours(turn, hold)) => (turn, hold),
        Ok(Turn::NotOver(why)) => return not_begun(attempt, why).await,
        Err(error) => return not_begun(attempt, proto::failure::chain(&error)).await,
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
    let end = match work.run(ours).await {
        Ok(end) => end,
        Err(error) => failed(proto::failure::chain(&error), None),
    };
    // The record stays until this is in the catalog: [`keep`] takes it off.
    attempt.end(task, end).await;
}

enum Turn {
    /// With what is on record of this part, where an attempt before has begun.
    Ours(OwnedMutexGuard<()>, Option<Hold>),
    /// What another restore has left cannot be put right.
    NotOver(String),
}

/// Waits for the pod, and puts right what a part that has ended has left.
async fn own_turn(attempt: &Attempt, stand_in: &StandIn) -> Result<Turn, CatalogError> {
    let shared = &attempt.shared;
    loop {
        let turn = stand_in.turn.clone().lock_owned().await;
        let Some(hold) = shared.catalog.hold(&stand_in.id()).await? else {
            return Ok(Turn::Ours(turn, None));
        };
        if hold.job == attempt.job.id && hold.part == attempt.part {
            return Ok(Turn::Ours(turn, Some(hold)));
        }
        if is_left(shared, &hold).await? {
            let troubles = close_left(shared, stand_in, hold, stand_in.pod.start_limit.get()).await?;
            return Ok(match troubles.as_slice() {
                [] => Turn::Ours(turn, None),
                troubles => Turn::NotOver(format!("an earlier restore is not over: {}", troubles.join("; "))),
            });
        }
        // Another part is between two attempts.
        drop(turn);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn not_begun(attempt: &Attempt, reason: String) {
    attempt.mailbox.tell(Event::NobodyServes { part: attempt.part, reason }).await;
}

fn failed(reason: String, result: Option<PartResult>) -> TaskEnd {
    TaskEnd::Failed { reason, retryable: false, result }
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
            if let Err(cause) = take_down(self.stand_in, &self.stand_in.id().workload()).await {
                let reason = format!(
                    "it is restored, and {cause}; what it stands in for is started when it is gone: {}",
                    all_told(&hold.stopped)
                );
                let result = hold.done.clone();
                hold.end = Some(End::Failed { reason: reason.clone(), result: result.clone() });
                self.keep(&hold).await?;
                return Ok(failed(reason, result));
            }
            steps::reached(Step::RestorePodGone).await;
            match self.start_all(&mut hold).await {
                Ok(()) => return self.complete(hold).await,
                Err(cause) => {
                    hold.undo = Some(cause);
                    self.keep(&hold).await?;
                }
            }
        }
        self.take_back(hold).await
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
            undo: None,
            end: None,
            is_over: false,
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
            return self.conclude(hold, fails(cause)).await.map(Some);
        }
        self.keep(hold).await?;
        steps::reached(Step::RestorePodCleared).await;
        if self.is_cancelled().await? {
            return self.conclude(hold, End::Cancelled).await.map(Some);
        }
        if let Err(cause) = self.bring_up(hold).await {
            let cause = match hold.handed_out {
                None => format!("{cause}; the live data is as it was"),
                Some(_) => cause,
            };
            return self.conclude(hold, fails(cause)).await.map(Some);
        }
        steps::reached(Step::RestorePodJoined).await;
        if self.is_cancelled().await? {
            return self.conclude(hold, End::Cancelled).await.map(Some);
        }
        self.hand_out(hold).await?;
        let end = match begin(self.attempt, self.task, self.backup, self.place, Way::StandIn).await {
            Ok(running) => {
                steps::reached(Step::TaskHandedOut).await;
                restore_end(follow(self.attempt, running).await)
            }
            Err(end) => end,
        };
        let end = match end {
            TaskEnd::Complete(result) => {
                (hold.done, hold.handed_out) = (Some(result), None);
                self.keep(hold).await?;
                steps::reached(Step::RestorePodDone).await;
                return Ok(None);
            }
            // The same once more: the restore pod stays, and what it stands in for stays stopped.
            TaskEnd::AgentLost | TaskEnd::Cancelled | TaskEnd::Failed { retryable: true, .. }
                if !self.is_last().await? =>
            {
                return Ok(Some(end));
            }
            _ if self.is_cancelled().await? => End::Cancelled,
            TaskEnd::Failed { reason, result, .. } => End::Failed { reason, result },
            _ => fails(format!("the connection to its agent broke; given up after {MAX_ATTEMPTS} attempts")),
        };
        self.conclude(hold, end).await.map(Some)
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
        let Closed { said, troubles } = match hold.is_over {
            true => Closed::default(),
            false => close(&self.attempt.shared, self.stand_in, hold, limit).await?,
        };
        self.attempt.remark(Level::Warning, said).await;
        Ok(match end {
            End::Failed { reason, result } => failed(
                match (troubles.as_slice(), hold.stopped.as_slice()) {
                    ([], []) => reason,
                    ([], stopped) => format!("{reason}; started again: {}", all_told(stopped)),
                    (troubles, _) => format!("{reason}; {}", troubles.join("; ")),
                },
                result,
            ),
            End::Complete(result) => {
                self.attempt.remark(Level::Error, troubles).await;
                TaskEnd::Complete(result)
            }
            End::Cancelled => {
                self.attempt.remark(Level::Error, troubles).await;
                TaskEnd::Cancelled
            }
        })
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
    async fn bring_up(&self, hold: &Hold) -> Result<(), String> {
        self.show("starting the restore pod");
        let pod = self.stand_in.id().workload();
        self.attempt.remark(Level::Info, vec![format!("starts its restore pod {pod}")]).await;
        // Where an order is out, nothing goes on without it, and one that has crashed is started late.
        let hopeless = hold.handed_out.is_none().then_some(HOPELESS);
        let patience = Patience { limit: self.stand_in.pod.start_limit.get(), hopeless };
        bring_up(self.stand_in, &self.attempt.shared.fleet, self.place.agent, patience).await
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
        let taken = match has_old_state(done.as_ref()) {
            true => self.take_back_data(&mut hold, &cause).await?,
            false => Err("it had replaced nothing, and what it has created stays".to_owned()),
        };
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
            if let Err(cause) = self.bring_up(hold).await {
                return Ok(Err(cause));
            }
            self.hand_out(hold).await?;
            let way = Way::TakeBack(cause.to_owned());
            let running = begin(self.attempt, TaskId::fresh(), self.backup, self.place, way).await;
            let Ok(running) = running else { continue };
            match follow(self.attempt, running).await {
                Ended::Restored(finished) if !finished.undone.is_empty() => {
                    hold.handed_out = None;
                    self.keep(hold).await?;
                    return Ok(Ok(()));
                }
                Ended::Failed { reason, .. } => return Ok(Err(reason)),
                _ => {}
            }
        }
        Ok(Err(BROKE.to_owned()))
    }
}

fn fails(reason: String) -> End {
    End::Failed { reason, result: None }
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
