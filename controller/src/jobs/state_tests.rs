use std::collections::HashSet;

use repository::names::SourceId;

use super::*;
use crate::ids::JobId;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn name() -> BackupName {
    "20260101_010000".parse().expect("a name")
}

fn source(text: &str) -> SourceId {
    text.parse().expect("a source")
}

fn backup() -> Job {
    Job::queued(JobId::fresh(), Order::Backup { components: Vec::new(), pin: None, import: None }, NOW)
}

fn verify() -> Job {
    let order = Order::Verify {
        backup: name(),
        components: Vec::new(),
        depth: repository::verify::Depth::Opened,
        drill: false,
        budget: None,
    };
    Job::queued(JobId::fresh(), order, NOW)
}

fn started(job: &Job, sources: &[&str]) -> Job {
    let parts = sources.iter().map(|name| Part::waiting(source(name), "files")).collect();
    step(job, Event::Started { parts, backup: name() }).0
}

fn step(job: &Job, event: Event) -> (Job, Vec<Action>) {
    let (job, actions) = advance(job, event, NOW).expect("the event fits");
    (job, actions.into_iter().filter(|action| !matches!(action, Action::Tell(..))).collect())
}

fn found(findings: &[&str]) -> PartResult {
    let findings = findings.iter().map(ToString::to_string).collect();
    PartResult::Verified { findings, bytes: 0, entries: 0, proven: Default::default() }
}

/// The job with an attempt at `part` under way.
fn at_work(job: &Job, part: usize) -> (Job, TaskId) {
    let task = TaskId::fresh();
    (step(job, Event::TaskStarted { part, task, agent: None }).0, task)
}

fn end(job: &Job, part: usize, end: TaskEnd) -> (Job, Vec<Action>) {
    let (job, task) = at_work(job, part);
    step(&job, Event::TaskEnded { part, task, end })
}

#[test]
fn a_backup_is_committed_once_all_its_parts_have_ended() {
    let job = started(&backup(), &["models/a", "ipfs/b"]);
    let (job, actions) = end(&job, 0, TaskEnd::Complete(found(&[])));
    assert_eq!((job.state, actions), (JobState::Running, vec![]));
    let (job, actions) = end(&job, 1, TaskEnd::Complete(found(&[])));
    assert_eq!((job.state, actions), (JobState::Committing, vec![Action::Commit]));
    assert_eq!(step(&job, Event::Committed).0.state, JobState::Complete);
}

#[test]
fn a_backup_that_misses_a_part_is_incomplete() {
    let job = started(&backup(), &["models/a", "ipfs/b"]);
    let (job, _) = end(&job, 0, TaskEnd::Complete(found(&[])));
    let (job, actions) = step(&job, Event::NobodyServes { part: 1, reason: "no agent serves it".into() });
    assert_eq!(actions, [Action::Commit]);
    let job = step(&job, Event::Committed).0;
    assert_eq!(
        (job.state, job.parts[1].reason.as_deref()),
        (JobState::Incomplete, Some("no agent serves it"))
    );
}

#[test]
fn a_backup_without_a_usable_part_is_not_committed() {
    let parts = vec![Part::impossible(source("models/a"), "files", "no agent serves it")];
    let (job, actions) = step(&backup(), Event::Started { parts, backup: name() });
    assert_eq!((job.state, actions), (JobState::Failed, vec![]));
    let why = job.failure.expect("a reason").why;
    assert_eq!(why, "models/a: no agent serves it");
    let (job, _) = step(&backup(), Event::Started { parts: vec![], backup: name() });
    assert_eq!(job.state, JobState::Failed);
}

fn retention() -> Job {
    Job::queued(JobId::fresh(), Order::Retention { confirmed: None, approved: false }, NOW)
}

/// A retention that is about to remove a backup.
fn removing() -> Job {
    let removals = vec![Removal { backup: name(), rule: "kept by no rule".to_owned() }];
    let (job, actions) = step(&retention(), Event::ClearingStarted { removals });
    assert_eq!((job.state, actions), (JobState::Running, vec![Action::Clear]));
    job
}

#[test]
fn a_retention_is_taken_up_with_what_was_written_down_and_ends_as_it_went() {
    let (again, actions) = step(&removing(), Event::ControllerRestarted);
    assert_eq!((actions, &again.removals[0].backup), (vec![Action::Clear], &name()));
    let cleared = Cleared { backups: vec![name()], ..Cleared::default() };
    let (job, actions) = step(&again, Event::ClearingEnded(ClearingEnd::Done(cleared)));
    assert_eq!((job.state, actions), (JobState::Complete, vec![]));
    assert_eq!(job.cleared.expect("what it did").backups, [name()]);
    let failure =
        JobFailure::new("the retention did not go through", "a manifest cannot be read", "repair it");
    let (job, _) = step(&again, Event::ClearingEnded(ClearingEnd::Failed(failure.clone())));
    assert_eq!((job.state, job.failure), (JobState::Failed, Some(failure)));
}

#[test]
fn a_cancelled_retention_ends_between_two_steps() {
    let (job, actions) = step(&removing(), Event::CancelRequested);
    assert_eq!(
        (job.state, actions),
        (JobState::Running, vec![Action::CancelClearing]),
        "its thread is waited for"
    );
    let ended = step(&job, Event::ClearingEnded(ClearingEnd::Cancelled)).0;
    assert_eq!(ended.state, JobState::Cancelled);
    assert_eq!(
        step(&job, Event::ControllerRestarted).0.state,
        JobState::Cancelled,
        "or is gone with its process"
    );
}

#[test]
fn no_other_job_removes_anything() {
    let event = || Event::ClearingStarted { removals: Vec::new() };
    assert_eq!(advance(&backup(), event(), NOW), Err(Refused::Stale));
    let running = started(&verify(), &["models/a"]);
    let end = Event::ClearingEnded(ClearingEnd::Cancelled);
    assert_eq!(advance(&running, end, NOW), Err(Refused::Stale));
}

#[test]
fn a_lost_agent_is_waited_for_three_times_and_then_no_more() {
    let mut job = started(&backup(), &["models/a"]);
    for attempt in 1..MAX_ATTEMPTS {
        let (next, actions) = end(&job, 0, TaskEnd::AgentLost);
        assert_eq!((next.parts[0].attempt, actions), (attempt, vec![Action::Attempt { part: 0 }]));
        job = next;
    }
    let (job, actions) = end(&job, 0, TaskEnd::AgentLost);
    assert_eq!((job.state, actions), (JobState::Failed, vec![]));
    assert!(job.parts[0].reason.as_deref().is_some_and(|reason| reason.contains("after 3 attempts")));
}

#[test]
fn what_was_never_answered_is_unknown_until_an_attempt_answers() {
    let (job, _) = end(&started(&backup(), &["models/a"]), 0, TaskEnd::AgentLost);
    assert!(job.parts[0].is_unknown);
    let (stopped, _) = end(&job, 0, TaskEnd::Cancelled);
    assert!(stopped.parts[0].is_unknown, "who ends for other reasons says nothing of what was done before");
    let failed = TaskEnd::Failed { reason: "no such folder".into(), retryable: false, result: None };
    let (failed, _) = end(&job, 0, failed);
    assert!(!failed.parts[0].is_unknown);
    let (job, _) = at_work(&started(&backup(), &["models/a"]), 0);
    let (job, _) = step(&job, Event::ControllerRestarted);
    assert!(job.parts[0].is_unknown);
}

#[test]
fn a_failure_that_another_attempt_cannot_mend_is_final() {
    let failed = TaskEnd::Failed { reason: "no such folder".into(), retryable: false, result: None };
    let (job, _) = end(&started(&backup(), &["models/a"]), 0, failed);
    assert_eq!((job.state, job.parts[0].attempt), (JobState::Failed, 1));
    let passing = TaskEnd::Failed { reason: "disk full".into(), retryable: true, result: None };
    let (job, actions) = end(&started(&backup(), &["models/a"]), 0, passing);
    assert_eq!((job.state, actions), (JobState::Running, vec![Action::Attempt { part: 0 }]));
}

#[test]
fn an_attempt_that_is_over_can_no_longer_say_anything() {
    let job = started(&backup(), &["models/a"]);
    let (job, old) = at_work(&job, 0);
    let (job, _) = step(&job, Event::TaskEnded { part: 0, task: old, end: TaskEnd::AgentLost });
    let (job, _) = at_work(&job, 0);
    let late = Event::TaskEnded { part: 0, task: old, end: TaskEnd::Complete(found(&[])) };
    assert_eq!(advance(&job, late, NOW), Err(Refused::Stale));
}

#[test]
fn a_cancelled_job_ends_its_tasks_and_commits_nothing() {
    let job = started(&backup(), &["models/a", "ipfs/b", "configs/c"]);
    let (job, _) = end(&job, 0, TaskEnd::Complete(found(&[])));
    let (job, task) = at_work(&job, 1);
    let (job, actions) = step(&job, Event::CancelRequested);
    assert_eq!((job.state, actions), (JobState::Running, vec![Action::CancelTask { task }]));
    assert_eq!(job.parts[2].state, PartState::Cancelled);
    let late = Event::TaskStarted { part: 2, task: TaskId::fresh(), agent: None };
    assert_eq!(advance(&job, late, NOW), Err(Refused::Stale));
    for last in [TaskEnd::Cancelled, TaskEnd::AgentLost, TaskEnd::Complete(found(&[]))] {
        let (job, actions) = step(&job, Event::TaskEnded { part: 1, task, end: last });
        assert_eq!((job.state, actions), (JobState::Cancelled, vec![]));
    }
}

#[test]
fn a_task_that_was_ended_and_that_nobody_cancelled_is_begun_again() {
    let (job, actions) = end(&started(&backup(), &["models/a"]), 0, TaskEnd::Cancelled);
    assert_eq!((job.state, actions), (JobState::Running, vec![Action::Attempt { part: 0 }]));
}

#[test]
fn an_attempt_whose_code_panics_ends_and_is_begun_again() {
    let waiting = started(&backup(), &["models/a"]);
    let (at_work, _) = at_work(&waiting, 0);
    let (job, actions) = step(&at_work, Event::AttemptPanicked { part: 0, attempt: 0 });
    assert_eq!((job.state, actions), (JobState::Running, vec![Action::Attempt { part: 0 }]));
    let late = Event::AttemptPanicked { part: 0, attempt: 0 };
    assert_eq!(advance(&job, late, NOW), Err(Refused::Stale), "that attempt is over");
    let (job, _) = step(&waiting, Event::AttemptPanicked { part: 0, attempt: 0 });
    assert_eq!(job.state, JobState::Failed);
}

#[test]
fn a_commit_cannot_be_cancelled() {
    let (job, _) = end(&started(&backup(), &["models/a"]), 0, TaskEnd::Complete(found(&[])));
    assert_eq!(advance(&job, Event::CancelRequested, NOW), Err(Refused::Committing));
    let failure = JobFailure::new("the storage is full", "", "make room");
    assert_eq!(step(&job, Event::CommitFailed(failure)).0.state, JobState::Failed);
}

#[test]
fn after_a_restart_everything_that_was_lost_is_asked_for_again() {
    assert_eq!(step(&backup(), Event::ControllerRestarted).0.state, JobState::Queued);
    let job = started(&backup(), &["models/a", "ipfs/b"]);
    let (job, _) = end(&job, 0, TaskEnd::Complete(found(&[])));
    let (job, _) = at_work(&job, 1);
    let (job, actions) = step(&job, Event::ControllerRestarted);
    assert_eq!(actions, [Action::Attempt { part: 1 }]);
    let (job, _) = end(&job, 1, TaskEnd::Complete(found(&[])));
    let (job, actions) = step(&job, Event::ControllerRestarted);
    assert_eq!((job.state, actions), (JobState::Committing, vec![Action::Commit]));
}

#[test]
fn a_job_that_was_being_cancelled_stays_so_after_a_restart() {
    let (job, _) = at_work(&started(&backup(), &["models/a"]), 0);
    let (job, _) = step(&job, Event::CancelRequested);
    let (job, actions) = step(&job, Event::ControllerRestarted);
    assert_eq!((job.state, actions), (JobState::Cancelled, vec![]));
}

#[test]
fn a_verification_that_finds_damage_has_failed_and_says_what_to_do() {
    let damaged =
        TaskEnd::Failed { reason: "1 finding".into(), retryable: false, result: Some(found(&["pack ab"])) };
    let (job, actions) = end(&started(&verify(), &["models/a"]), 0, damaged);
    assert_eq!((job.state, actions), (JobState::Failed, vec![]));
    assert_eq!(job.failure.expect("a reason").what, "verification found damage");
    let (job, _) = end(&started(&verify(), &["models/a"]), 0, TaskEnd::Complete(found(&[])));
    assert_eq!(job.state, JobState::Complete);
}

/// Walks through every state that two parts can reach by any events in any order.
#[test]
fn whatever_happens_a_job_ends_whole_or_goes_on() {
    let tasks = [TaskId::fresh(), TaskId::fresh()];
    let ends = [
        TaskEnd::Complete(found(&[])),
        TaskEnd::Incomplete(found(&[]), "2 files".into()),
        TaskEnd::Failed { reason: "x".into(), retryable: true, result: None },
        TaskEnd::Failed { reason: "y".into(), retryable: false, result: None },
        TaskEnd::AgentLost,
        TaskEnd::Cancelled,
    ];
    let parts = vec![Part::waiting(source("a/a"), "files"), Part::waiting(source("b/b"), "files")];
    let failure = JobFailure::new("x", "y", "z");
    let mut events = vec![
        Event::Started { parts, backup: name() },
        Event::CannotStart(failure.clone()),
        Event::CancelRequested,
        Event::Committed,
        Event::CommitFailed(failure),
        Event::ControllerRestarted,
    ];
    for part in 0..3 {
        let task = tasks[part % 2];
        events.push(Event::TaskStarted { part, task, agent: None });
        events.push(Event::NobodyServes { part, reason: "n".into() });
        events.push(Event::Remark { part, level: Level::Warning, lines: vec!["is empty".into()] });
        events.extend((0..=MAX_ATTEMPTS).map(|attempt| Event::AttemptPanicked { part, attempt }));
        events.extend(ends.iter().map(|end| Event::TaskEnded { part, task, end: end.clone() }));
    }
    for order in [backup(), verify()] {
        let mut seen = HashSet::new();
        let mut open = vec![order];
        while let Some(job) = open.pop() {
            if !seen.insert(serde_json::to_string(&job).expect("JSON")) {
                continue;
            }
            for event in &events {
                let Ok((next, actions)) = advance(&job, event.clone(), NOW) else { continue };
                check(&job, &next, &actions);
                open.push(next);
            }
        }
        assert!(seen.len() > 500, "{} states", seen.len());
    }
}

fn check(before: &Job, after: &Job, actions: &[Action]) {
    assert!(!before.state.is_end(), "an ended job changed");
    assert_eq!(after.state.is_end(), after.ended_at.is_some());
    assert_eq!(after.state == JobState::Failed, after.failure.is_some());
    let commits = actions.contains(&Action::Commit);
    assert!(!commits || after.state == JobState::Committing);
    if after.state == JobState::Committing {
        let usable = |part: &Part| matches!(part.state, PartState::Complete | PartState::Incomplete);
        assert!(after.parts.iter().any(usable) && !after.cancelling);
    }
    if matches!(after.state, JobState::Complete | JobState::Incomplete) {
        let whole = after.parts.iter().all(|part| part.state == PartState::Complete);
        assert_eq!(whole, after.state == JobState::Complete);
        let usable = |part: &Part| matches!(part.state, PartState::Complete | PartState::Incomplete);
        let is_backup = matches!(after.order, Order::Backup { .. });
        assert!(!is_backup || after.parts.iter().any(usable), "a backup of nothing was called incomplete");
    }
    if after.state == JobState::Running {
        assert!(after.parts.iter().any(|part| !part.state.is_end()), "nothing would ever end it");
        assert!(after.parts.iter().all(|part| part.attempt <= MAX_ATTEMPTS));
        if after.cancelling {
            assert!(after.parts.iter().all(|part| part.state != PartState::Waiting));
        }
    }
    for action in actions {
        if let Action::Attempt { part } = action {
            assert_eq!(after.parts[*part].state, PartState::Waiting);
        }
    }
}
