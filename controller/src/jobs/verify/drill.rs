//! The deepest verification of an archive: an agent that is marked for it restores it into its scratch folder, and a
//! program of that agent's own opens it there.
//!
//! Must stay true: `drilled` is told only of what a program has opened; that nobody could look is no finding; the agent
//! says what it opens, and nothing that is sent names a program or a folder.

use std::time::Duration;

use proto::v1::controller_message::Message;
use proto::v1::{DrillFinished, StartDrill};
use repository::backup::manifest::BackupRecord;
use repository::names::SourceId;
use repository::progress::CancelFlag;
use repository::verify::Coverage;

use crate::catalog::VerificationRecord;
use crate::fleet::{Connected, Ended, RunningTask, TaskContext};
use crate::ids::{AgentId, TaskId};
use crate::jobs::backup::{common_end, follow, size, wait_until};
use crate::jobs::job::{Allowance, DRILLED, Databases, RestorePlace};
use crate::jobs::restore;
use crate::jobs::runner::Attempt;
use crate::jobs::state::TaskEnd;

/// How often it is looked whether the drill is to end.
const LOOK: Duration = Duration::from_millis(250);
/// Of one line that an agent says; it has its own bound.
const MOST_LETTERS: usize = 2_000;
/// Warnings that are kept of one drill.
const MOST_WARNINGS: usize = 100;
/// A finding of a drill begins with this.
const FAILED: &str = "the drill failed: ";

/// What became of a drill.
pub(super) enum Drilled {
    /// A program has opened what came back. For people.
    Opened(Vec<String>),
    /// It has not: this is the finding.
    Not(String),
    /// No agent opens it, and why.
    Nobody(String),
}

/// Makes it, and writes the result down.
pub(super) async fn drill(
    attempt: &Attempt,
    task: TaskId,
    record: &BackupRecord,
    cancel: &CancelFlag,
    is_named: bool,
) -> Result<Drilled, TaskEnd> {
    let shared = &attempt.shared;
    let part = &attempt.job.parts[attempt.part];
    let source = &part.source;
    let opens = || shared.fleet.connected().into_iter().find(|one| one.opens(source)).map(|one| one.agent);
    // One that was at it is coming back, perhaps; of what nobody has asked for by name nobody may ever come.
    let found = match is_named || part.attempt > 0 {
        true => tokio::select! {
            found = wait_until(shared, opens) => found,
            () = until(cancel) => return Err(TaskEnd::Cancelled),
        },
        false => opens(),
    };
    let Some(agent) = found else { return Ok(Drilled::Nobody(nobody(source, &shared.fleet.connected()))) };
    let _slot = tokio::select! {
        slot = shared.slot(agent) => slot,
        () = until(cancel) => return Err(TaskEnd::Cancelled),
    };
    let running = begin(attempt, task, record, agent).await?;
    let ended = tokio::select! {
        ended = follow(attempt, running) => ended,
        // It ends when the agent says so; the task may have come to it after the cancel.
        () = passed_on(attempt, task, cancel) => Ended::Cancelled,
    };
    let finished = match ended {
        Ended::Drilled(finished) => finished,
        other => return Err(common_end(other)),
    };
    let name =
        shared.catalog.agent(agent).await.ok().flatten().map_or_else(|| agent.to_string(), |one| one.name);
    let drilled = outcome(&finished, &name);
    let findings = match &drilled {
        Drilled::Not(finding) => vec![finding.clone()],
        _ => Vec::new(),
    };
    let result = VerificationRecord {
        source: source.clone(),
        depth: DRILLED.to_owned(),
        at: shared.clock.now(),
        intact: findings.is_empty(),
        findings,
        coverage: Coverage { now: finished.bytes, ..Coverage::default() },
    };
    shared.catalog.add_verification(&record.name, &result).await.map_err(|error| failed(&error))?;
    Ok(drilled)
}

fn outcome(finished: &DrillFinished, agent: &str) -> Drilled {
    if !finished.finding.is_empty() {
        return Drilled::Not(format!("{FAILED}{}", line(&finished.finding)));
    }
    let opened = format!(
        "restored ({} entries, {}) and opened by {} at {agent}",
        finished.entries,
        size(finished.bytes),
        line(&finished.program)
    );
    let warnings = finished.warnings.iter().take(MOST_WARNINGS).map(|warning| line(warning));
    Drilled::Opened([opened].into_iter().chain(warnings).collect())
}

/// What an agent says, in one bounded line.
fn line(text: &str) -> String {
    text.chars().take(MOST_LETTERS).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Why nobody can drill this source, and what to do.
fn nobody(source: &SourceId, connected: &[Connected]) -> String {
    match not_given(source, connected) {
        Some(hint) => format!("who opens it in drills does not serve it: {hint}"),
        None => format!("no agent that is connected opens it in drills: {}", how_to_mark(source)),
    }
}

/// What to do where an agent says that it opens what it may not be given.
pub(crate) fn not_given(source: &SourceId, connected: &[Connected]) -> Option<String> {
    let one = connected.iter().find(|one| one.says_it_opens(source) && !one.opens(source))?;
    Some(format!("add the agent {} to `drills.agents` of the controller's configuration", one.agent))
}

/// What to do where no agent opens it.
pub(crate) fn how_to_mark(source: &SourceId) -> String {
    format!(
        "add `drills.open` for {} to the configuration of an agent of this release, and start it again; its log says if \
         its scratch folder cannot be used",
        source.component
    )
}

async fn begin(
    attempt: &Attempt,
    task: TaskId,
    record: &BackupRecord,
    agent: AgentId,
) -> Result<RunningTask, TaskEnd> {
    let (shared, part) = (&attempt.shared, &attempt.job.parts[attempt.part]);
    let place = RestorePlace {
        source: part.source.clone(),
        kind: part.kind.clone(),
        agent,
        // The agent has its own, and says it to nobody. With a folder keys of a chain stay out.
        folder: Some(String::new()),
        globs: Vec::new(),
        databases: Databases::default(),
        allowance: Allowance::default(),
        confirmed: None,
        takes_back: false,
    };
    let id = restore::restore_id(attempt.job.id, attempt.part);
    let ordered = restore::order(shared.depot.clone(), &shared.catalog, record.clone(), place, id).await;
    let (context, order) =
        ordered.map_err(|reason| TaskEnd::Failed { reason, retryable: false, result: None })?;
    let message = Message::StartDrill(StartDrill {
        task_id: task.to_string(),
        order: Some(order),
        job_id: attempt.job.id.to_string(),
        backup: record.name.to_string(),
    });
    let begun = shared.fleet.begin(agent, task, TaskContext::Restore(std::sync::Arc::new(context)), message);
    begun.map_err(|_away| TaskEnd::AgentLost)
}

async fn until(cancel: &CancelFlag) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells the agent once the job is cancelled, and never ends.
async fn passed_on(attempt: &Attempt, task: TaskId, cancel: &CancelFlag) {
    until(cancel).await;
    attempt.shared.fleet.cancel(task);
    std::future::pending().await
}

fn failed(error: &dyn std::error::Error) -> TaskEnd {
    TaskEnd::Failed { reason: proto::failure::chain(error), retryable: false, result: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_program_has_opened_is_drilled() {
        let finished = DrillFinished {
            entries: 3,
            bytes: 2048,
            program: "/usr/bin/geth".to_owned(),
            warnings: vec!["keys left out: 1".to_owned()],
            ..DrillFinished::default()
        };
        let Drilled::Opened(notes) = outcome(&finished, "a") else { panic!("it was opened") };
        assert_eq!(
            notes,
            ["restored (3 entries, 2.0 KiB) and opened by /usr/bin/geth at a", "keys left out: 1"]
        );
        let finished = DrillFinished { finding: "ended with 1\nsaying: x".to_owned(), ..finished };
        let Drilled::Not(finding) = outcome(&finished, "a") else { panic!("it was not") };
        assert_eq!(finding, "the drill failed: ended with 1 saying: x");
    }
}
