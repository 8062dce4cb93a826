//! The states of a job: an event comes in, the new job and what to do about it come out.
//!
//! Pure: no clock, no I/O, no task. The runner writes the new job to the catalog and only then carries out
//! the actions; after a crash it sends [`Event::ControllerRestarted`], and every action that was lost is
//! asked for again.
//!
//! Must stay true: a job that has ended never changes; an event of an attempt that is no longer the
//! current one changes nothing; a job without a usable part is never committed.

use jiff::Timestamp;
use repository::names::BackupName;

use crate::ids::{AgentId, TaskId};
use crate::jobs::job::{Cleared, Job, JobFailure, JobState, Order, Part, PartResult, PartState, Removal};

/// How often a part is begun before it counts as failed.
pub const MAX_ATTEMPTS: u32 = 3;
/// Why work failed whose code did.
pub const PANICKED: &str = "the controller failed at it, which is a bug; its log says where";

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Its turn has come, and this is what it consists of.
    Started {
        /// One for each source; those that cannot be begun have failed already.
        parts: Vec<Part>,
        /// The name of the backup that it makes, verifies or restores.
        backup: BackupName,
    },
    /// Its turn has come, and it cannot be begun at all.
    CannotStart(JobFailure),
    /// An attempt at a part has begun.
    TaskStarted {
        /// Which part.
        part: usize,
        /// The attempt.
        task: TaskId,
        /// Who works at it; none: the controller itself.
        agent: Option<AgentId>,
    },
    /// An attempt has ended.
    TaskEnded {
        /// Which part.
        part: usize,
        /// The attempt.
        task: TaskId,
        /// How.
        end: TaskEnd,
    },
    /// No attempt could be begun, and waiting longer is of no use.
    NobodyServes {
        /// Which part.
        part: usize,
        /// Why, in one line.
        reason: String,
    },
    /// The code that carried out an attempt has failed: a bug of the controller.
    AttemptPanicked {
        /// Which part.
        part: usize,
        /// How often it had been begun before.
        attempt: u32,
    },
    /// A person should know this of a part that goes on.
    Remark {
        /// Which part.
        part: usize,
        /// How much it matters.
        level: Level,
        /// A line each.
        lines: Vec<String>,
    },
    /// The turn of a retention or a prune has come.
    ClearingStarted {
        /// The backups that are to go; of a prune none.
        removals: Vec<Removal>,
    },
    /// A retention or a prune has ended.
    ClearingEnded(ClearingEnd),
    /// Somebody wants it to end.
    CancelRequested,
    /// The repository holds the backup.
    Committed,
    /// The repository refused the backup.
    CommitFailed(JobFailure),
    /// The controller has started anew and found the job in its catalog.
    ControllerRestarted,
}

/// How an attempt at a part ended.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEnd {
    /// It was done, and nothing is missing.
    Complete(PartResult),
    /// It was done, and something is missing.
    Incomplete(PartResult, String),
    /// It was not done, or what it looked at is damaged.
    Failed {
        /// In one line.
        reason: String,
        /// Another attempt may go better.
        retryable: bool,
        /// What there is to show all the same.
        result: Option<PartResult>,
    },
    /// Nobody knows whether it was done, and no other attempt is made.
    Unknown {
        /// In one line.
        reason: String,
    },
    /// The controller died in it, after what can fail was done: it goes on, and that is no new attempt.
    GoesOn,
    /// The connection to the agent broke.
    AgentLost,
    /// It was ended: on request, or because the agent was told to stop.
    Cancelled,
}

/// How a retention or a prune ended.
#[derive(Debug, Clone, PartialEq)]
pub enum ClearingEnd {
    /// It was done.
    Done(Cleared),
    /// It was not done, or not to its end.
    Failed(JobFailure),
    /// It was ended between two steps.
    Cancelled,
}

/// Something to do after the new state was written down.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Begin an attempt at this part, when there is room and an agent.
    Attempt {
        /// Which part.
        part: usize,
    },
    /// End this attempt.
    CancelTask {
        /// The attempt.
        task: TaskId,
    },
    /// Write the backup to the repository.
    Commit,
    /// Remove and free what is to go. May be repeated.
    Clear,
    /// End that between two steps.
    CancelClearing,
    /// Tell whoever watches, and the job's log.
    Tell(Level, String),
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Things go as they should.
    Info,
    /// Something is missing or late.
    Warning,
    /// Something failed.
    Error,
}

/// The event does not fit the job's state; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The job has ended.
    #[error("the job has ended")]
    Ended,
    /// The job is being committed.
    #[error("the backup is being committed and can no longer be cancelled")]
    Committing,
    /// The event is about an attempt or a state that is over.
    #[error("the event is out of date")]
    Stale,
}

/// The job after `event`, and what to do then.
pub fn advance(job: &Job, event: Event, now: Timestamp) -> Result<(Job, Vec<Action>), Refused> {
    if job.state.is_end() {
        return Err(Refused::Ended);
    }
    let mut next = Step { job: job.clone(), actions: Vec::new(), now };
    match (job.state, event) {
        (JobState::Queued, Event::Started { parts, backup }) => next.start(parts, backup),
        (JobState::Queued, Event::CannotStart(failure)) => next.fail(failure),
        (JobState::Queued, Event::CancelRequested) => next.end(JobState::Cancelled),
        (JobState::Queued, Event::ControllerRestarted) => {}
        (JobState::Running, Event::TaskStarted { part, task, agent }) => {
            next.task_started(part, task, agent)?
        }
        (JobState::Running, Event::TaskEnded { part, task, end }) => next.task_ended(part, task, end)?,
        (JobState::Running, Event::NobodyServes { part, reason }) => next.nobody_serves(part, reason)?,
        (JobState::Running, Event::AttemptPanicked { part, attempt }) => next.panicked(part, attempt)?,
        (JobState::Running, Event::Remark { part, level, lines }) => {
            let source = next.part(part)?.source.clone();
            lines.iter().for_each(|line| next.tell(level, format!("{source} {line}")));
        }
        (JobState::Queued, Event::ClearingStarted { removals }) if job.order.clears() => {
            next.start_clearing(removals)
        }
        (JobState::Running, Event::ClearingEnded(end)) if job.order.clears() => next.clearing_ended(end),
        (JobState::Running, Event::CancelRequested) if job.order.clears() => next.cancel_clearing(),
        (JobState::Running, Event::ControllerRestarted) if job.order.clears() => next.clear_again(),
        (JobState::Running, Event::CancelRequested) => next.cancel(),
        (JobState::Running, Event::ControllerRestarted) => next.take_up_again(),
        (JobState::Committing, Event::Committed) => next.committed(),
        (JobState::Committing, Event::CommitFailed(failure)) => next.fail(failure),
        (JobState::Committing, Event::ControllerRestarted) => next.actions.push(Action::Commit),
        (JobState::Committing, Event::CancelRequested) => return Err(Refused::Committing),
        _ => return Err(Refused::Stale),
    }
    Ok((next.job, next.actions))
}

/// A job on its way from one state to the next.
struct Step {
    job: Job,
    actions: Vec<Action>,
    now: Timestamp,
}

impl Step {
    fn tell(&mut self, level: Level, line: impl Into<String>) {
        self.actions.push(Action::Tell(level, line.into()));
    }

    fn part(&mut self, part: usize) -> Result<&mut Part, Refused> {
        self.job.parts.get_mut(part).ok_or(Refused::Stale)
    }

    fn start(&mut self, parts: Vec<Part>, backup: BackupName) {
        self.job.state = JobState::Running;
        self.job.started_at = Some(self.now);
        self.tell(Level::Info, format!("{} of {backup} started", self.job.kind()));
        self.job.backup = Some(backup);
        for part in &parts {
            if let Some(reason) = &part.reason {
                let level = if part.state == PartState::Failed { Level::Error } else { Level::Warning };
                self.actions.push(Action::Tell(level, format!("{}: {reason}", part.source)));
            }
        }
        self.job.parts = parts;
        self.attempt_waiting();
        self.settle();
    }

    fn start_clearing(&mut self, removals: Vec<Removal>) {
        self.job.state = JobState::Running;
        self.job.started_at = Some(self.now);
        let kind = self.job.kind();
        self.tell(Level::Info, format!("{kind} started"));
        for removal in &removals {
            self.tell(Level::Info, format!("backup {} goes: {}", removal.backup, removal.rule));
        }
        self.job.removals = removals;
        self.actions.push(Action::Clear);
    }

    fn clearing_ended(&mut self, end: ClearingEnd) {
        match end {
            ClearingEnd::Done(cleared) => {
                cleared.remarks.iter().for_each(|line| self.tell(Level::Warning, line.clone()));
                self.job.cleared = Some(cleared);
                self.end(JobState::Complete);
            }
            ClearingEnd::Failed(failure) => self.fail(failure),
            ClearingEnd::Cancelled => self.end(JobState::Cancelled),
        }
    }

    /// What was removed stays removed; the rest is left as it is.
    fn cancel_clearing(&mut self) {
        if !self.job.cancelling {
            self.job.cancelling = true;
            self.tell(Level::Warning, "cancelling");
        }
        self.actions.push(Action::CancelClearing);
    }

    fn clear_again(&mut self) {
        self.tell(Level::Warning, "the controller was started anew; the job goes on");
        match self.job.cancelling {
            true => self.end(JobState::Cancelled),
            false => self.actions.push(Action::Clear),
        }
    }

    fn attempt_waiting(&mut self) {
        let waiting = self.job.parts.iter().enumerate().filter(|(_, part)| part.state == PartState::Waiting);
        self.actions.extend(waiting.map(|(part, _)| Action::Attempt { part }));
    }

    fn task_started(&mut self, at: usize, task: TaskId, agent: Option<AgentId>) -> Result<(), Refused> {
        let cancelling = self.job.cancelling;
        let part = self.part(at)?;
        if part.state != PartState::Waiting || cancelling {
            return Err(Refused::Stale);
        }
        (part.state, part.agent, part.attempt) = (PartState::Running { task }, agent, part.attempt + 1);
        let (source, attempt) = (part.source.clone(), part.attempt);
        if attempt > 1 {
            self.tell(Level::Info, format!("{source}: attempt {attempt} of {MAX_ATTEMPTS}"));
        }
        Ok(())
    }

    fn task_ended(&mut self, at: usize, task: TaskId, end: TaskEnd) -> Result<(), Refused> {
        if self.part(at)?.state != (PartState::Running { task }) {
            return Err(Refused::Stale);
        }
        self.job.parts[at].is_unknown = match end {
            TaskEnd::AgentLost | TaskEnd::Unknown { .. } => true,
            TaskEnd::Cancelled => self.job.parts[at].is_unknown,
            TaskEnd::GoesOn => true,
            _ => false,
        };
        match end {
            TaskEnd::Complete(result) => self.end_part(at, PartState::Complete, None, Some(result)),
            TaskEnd::Incomplete(result, reason) => {
                self.end_part(at, PartState::Incomplete, Some(reason), Some(result))
            }
            TaskEnd::Failed { reason, retryable: true, .. } => self.again_or_fail(at, reason),
            TaskEnd::Failed { reason, retryable: false, result } => {
                self.end_part(at, PartState::Failed, Some(reason), result);
            }
            TaskEnd::Unknown { reason } => self.end_part(at, PartState::Failed, Some(reason), None),
            // With what follows a restart of the controller it is begun.
            TaskEnd::GoesOn => {
                let part = &mut self.job.parts[at];
                (part.state, part.attempt) = (PartState::Waiting, part.attempt.saturating_sub(1));
            }
            TaskEnd::AgentLost => self.again_or_fail(at, "the connection to the agent broke".to_owned()),
            // Asked for or not: an agent that is stopped ends its tasks on its own.
            TaskEnd::Cancelled => self.again_or_fail(at, "the agent was stopped".to_owned()),
        }
        self.settle();
        Ok(())
    }

    fn again_or_fail(&mut self, at: usize, reason: String) {
        let cancelling = self.job.cancelling;
        let part = &mut self.job.parts[at];
        if cancelling {
            self.end_part(at, PartState::Cancelled, None, None);
        } else if part.attempt < MAX_ATTEMPTS {
            part.state = PartState::Waiting;
            let line = format!("{}: {reason}; it will be tried again", part.source);
            self.tell(Level::Warning, line);
            self.actions.push(Action::Attempt { part: at });
        } else {
            let reason = format!("{reason}; given up after {} attempts", part.attempt);
            self.end_part(at, PartState::Failed, Some(reason), None);
        }
    }

    fn end_part(&mut self, at: usize, state: PartState, reason: Option<String>, result: Option<PartResult>) {
        let part = &mut self.job.parts[at];
        (part.state, part.result) = (state, result);
        let source = &part.source;
        let (level, line) = match (state, &reason) {
            (PartState::Complete, _) => (Level::Info, format!("{source}: done")),
            (PartState::Incomplete, Some(reason)) => {
                (Level::Warning, format!("{source}: done, but {reason}"))
            }
            (PartState::Cancelled, _) => (Level::Warning, format!("{source}: cancelled")),
            (_, reason) => (Level::Error, format!("{source}: {}", reason.as_deref().unwrap_or("failed"))),
        };
        part.reason = reason;
        self.tell(level, line);
    }

    fn nobody_serves(&mut self, at: usize, reason: String) -> Result<(), Refused> {
        if self.part(at)?.state != PartState::Waiting {
            return Err(Refused::Stale);
        }
        self.end_part(at, PartState::Failed, Some(reason), None);
        self.settle();
        Ok(())
    }

    fn panicked(&mut self, at: usize, before: u32) -> Result<(), Refused> {
        let part = self.part(at)?;
        match part.state {
            PartState::Waiting if part.attempt == before => self.nobody_serves(at, PANICKED.to_owned()),
            PartState::Running { task } if part.attempt == before + 1 => {
                let end = TaskEnd::Failed { reason: PANICKED.to_owned(), retryable: true, result: None };
                self.task_ended(at, task, end)?;
                self.job.parts[at].is_unknown = true;
                Ok(())
            }
            _ => Err(Refused::Stale),
        }
    }

    fn cancel(&mut self) {
        if !self.job.cancelling {
            self.job.cancelling = true;
            self.tell(Level::Warning, "cancelling");
        }
        for at in 0..self.job.parts.len() {
            match self.job.parts[at].state {
                PartState::Waiting => self.end_part(at, PartState::Cancelled, None, None),
                PartState::Running { task } => self.actions.push(Action::CancelTask { task }),
                _ => {}
            }
        }
        self.settle();
    }

    /// What ran when the controller ended is begun anew: its tasks died with their connections.
    fn take_up_again(&mut self) {
        self.tell(Level::Warning, "the controller was started anew; the job goes on");
        for at in 0..self.job.parts.len() {
            match self.job.parts[at].state {
                PartState::Waiting if self.job.cancelling => {
                    self.end_part(at, PartState::Cancelled, None, None)
                }
                PartState::Waiting => self.actions.push(Action::Attempt { part: at }),
                PartState::Running { .. } => {
                    self.job.parts[at].is_unknown = true;
                    self.again_or_fail(at, "the controller was started anew".to_owned())
                }
                _ => {}
            }
        }
        self.settle();
    }

    /// Ends the job, or goes on to the commit, once every part has ended.
    fn settle(&mut self) {
        if !self.job.parts.iter().all(|part| part.state.is_end()) {
            return;
        }
        let usable = |part: &Part| matches!(part.state, PartState::Complete | PartState::Incomplete);
        let failed = self.job.parts.iter().filter(|part| part.state == PartState::Failed).count();
        let is_backup = matches!(self.job.order, Order::Backup { .. });
        if self.job.cancelling {
            self.end(JobState::Cancelled);
        } else if is_backup && self.job.parts.iter().any(usable) {
            self.job.state = JobState::Committing;
            self.actions.push(Action::Commit);
        } else if is_backup || failed > 0 || self.job.parts.is_empty() {
            let failure = why_it_failed(&self.job);
            self.fail(failure);
        } else {
            let whole = self.job.parts.iter().all(|part| part.state == PartState::Complete);
            self.end(if whole { JobState::Complete } else { JobState::Incomplete });
        }
    }

    fn committed(&mut self) {
        let whole = self.job.parts.iter().all(|part| part.state == PartState::Complete);
        self.end(if whole { JobState::Complete } else { JobState::Incomplete });
    }

    fn fail(&mut self, failure: JobFailure) {
        let line = match failure.why.is_empty() {
            true => failure.what.clone(),
            false => format!("{}: {}", failure.what, failure.why),
        };
        self.tell(Level::Error, line);
        self.job.failure = Some(failure);
        self.end(JobState::Failed);
    }

    fn end(&mut self, state: JobState) {
        self.job.state = state;
        self.job.ended_at = Some(self.now);
        let kind = self.job.kind();
        match state {
            JobState::Complete => self.tell(Level::Info, format!("{kind} complete")),
            JobState::Incomplete => self.tell(Level::Warning, format!("{kind} incomplete")),
            JobState::Cancelled => self.tell(Level::Warning, format!("{kind} cancelled")),
            _ => self.tell(Level::Error, format!("{kind} failed")),
        }
    }
}

/// True of a part that has failed and whose old state is perhaps not there.
fn is_or_may_be_live(part: &Part) -> bool {
    let is_live = matches!(part.result, Some(PartResult::Restored { undone: None, .. }));
    part.state == PartState::Failed && (part.is_unknown || is_live)
}

fn why_it_failed(job: &Job) -> JobFailure {
    let failed: Vec<&Part> = job.parts.iter().filter(|part| part.state == PartState::Failed).collect();
    let why = match failed.as_slice() {
        [] => "no source was found".to_owned(),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            format!("{}: {}{more}", first.source, first.reason.as_deref().unwrap_or("failed"))
        }
    };
    let damaged = |part: &&Part| matches!(&part.result, Some(PartResult::Verified { findings, .. }) if !findings.is_empty());
    match job.order {
        Order::Backup { .. } => JobFailure::new(
            "no source could be backed up, so nothing was added to the repository",
            why,
            "see `nsctl doctor`",
        ),
        Order::Verify { drill: true, .. } if failed.iter().any(damaged) => JobFailure::new(
            "the drill failed",
            why,
            "`nsctl logs` has what the program said; where the archive is damaged make a new backup now; older \
             backups may open: drill them, too",
        ),
        Order::Verify { .. } if failed.iter().any(damaged) => JobFailure::new(
            "verification found damage",
            why,
            "make a new backup now, and verify older ones, which may hold the same data intact; what was broken at its source \
             already (a config file, a model) has to be mended there first",
        ),
        Order::Verify { .. } => {
            JobFailure::new("the backup could not be verified", why, "see `nsctl doctor`")
        }
        Order::Retention { .. } | Order::Prune { .. } => unreachable!("a clearing has no parts that fail"),
        Order::Restore { .. } => JobFailure::new(
            "the restore failed",
            why,
            match job.parts.iter().any(is_or_may_be_live) {
                true => {
                    "what was restored is live, or may be: look at the reason, then `nsctl undo` or restore again"
                }
                false => {
                    "what could not be restored is as it was before; look at the reason, then restore again"
                }
            },
        ),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
