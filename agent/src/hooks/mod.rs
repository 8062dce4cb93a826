//! Hooks: the owner's programs around a backup and a restore of a source.
//!
//! Must stay true: a program comes from the agent's configuration alone. The later hook runs however the work
//! between has ended; if the agent dies in between, its next start runs it before anything else. What a hook
//! says goes to the job's log, bounded; what is secret in its settings is shown nowhere, nor are its arguments.

mod guard;
mod journal;
mod output;
mod run;

pub(crate) use guard::guard;
pub(crate) use journal::{Journal, Kind, Occasion};
pub(crate) use run::{HowFailed, run_to_the_end};

use std::time::Duration;

use proto::failure::reason;
use proto::v1::agent_message::Message;
use proto::{Failure, v1};
use repository::names::SourceId;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::config::{Hook, Hooks, OnFailure};
use crate::connection::UpQueue;
use crate::served::Served;
use crate::tasks::cancelled;

/// How long an attempt waits for the hooks of an earlier one: less than the controller waits for progress.
const TURN: Duration = Duration::from_mins(10);

/// What a later hook is told of how the work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Complete,
    Failed,
    Cancelled,
    /// The agent died meanwhile.
    Interrupted,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The hooks of one kind of work.
struct Around<'a> {
    before: Named<'a>,
    failed: Named<'a>,
    after: Named<'a>,
}

/// A hook with the name of its place; none: nothing is run there.
type Named<'a> = (&'static str, Option<&'a Hook>);

fn around(hooks: &Hooks, kind: Kind) -> Around<'_> {
    match kind {
        Kind::Backup => Around {
            before: ("before_backup", hooks.before_backup.as_ref()),
            failed: ("failed_backup", hooks.failed_backup.as_ref()),
            after: ("after_backup", hooks.after_backup.as_ref()),
        },
        Kind::Restore => Around {
            before: ("before_restore", hooks.before_restore.as_ref()),
            failed: ("failed_restore", None),
            after: ("after_restore", hooks.after_restore.as_ref()),
        },
    }
}

/// How long the later hooks of a source may take, whatever they are for.
pub(crate) fn longest(hooks: &Hooks) -> Duration {
    let later = [Kind::Backup, Kind::Restore].map(|kind| {
        let Around { failed, after, .. } = around(hooks, kind);
        [failed, after].iter().filter_map(|(_, hook)| Some(hook.as_ref()?.timeout.get())).sum::<Duration>()
    });
    later.into_iter().max().unwrap_or_default()
}

/// Where hooks are run for.
pub(crate) struct Stage<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) up: &'a UpQueue,
    pub(crate) cancel: &'a CancellationToken,
}

/// Does `work` between the source's hooks. Without hooks this is `work`.
pub(crate) async fn between<T>(
    stage: Stage<'_>,
    served: &Served,
    occasion: Occasion,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Around { before, failed, after } = around(&served.hooks, occasion.kind);
    if [&before, &failed, &after].iter().all(|(_, hook)| hook.is_none()) {
        return work.await;
    }
    let _turn = tokio::select! {
        biased;
        () = stage.cancel.cancelled() => return Err(cancelled()),
        turn = tokio::time::timeout(TURN, stage.journal.turn(&served.id)) => {
            turn.map_err(|_| still_at_it(&served.id))?
        }
    };
    let owes = failed.1.is_some() || after.1.is_some();
    if owes {
        stage.journal.begin(&occasion).map_err(|error| not_begun(&served.id, &error))?;
    }
    let result = match stage.run(&served.id, before, &occasion, None, stage.cancel).await {
        Ok(()) => work.await,
        Err(failure) => Err(failure),
    };
    let outcome = match &result {
        Ok(_) => Outcome::Complete,
        Err(_) if stage.cancel.is_cancelled() => Outcome::Cancelled,
        Err(_) => Outcome::Failed,
    };
    // What was cancelled is tidied up after all the same.
    let to_the_end = CancellationToken::new();
    if result.is_err() {
        let _ = stage.run(&served.id, failed, &occasion, Some(outcome), &to_the_end).await;
    }
    let last = stage.run(&served.id, after, &occasion, Some(outcome), &to_the_end).await;
    if owes {
        stage.journal.end(&occasion);
    }
    result.and_then(|made| last.map(|()| made))
}

impl Stage<'_> {
    /// Runs a hook, if there is one, and tells of it; an error only where its failure is the component's.
    async fn run(
        &self,
        source: &SourceId,
        (place, hook): Named<'_>,
        occasion: &Occasion,
        outcome: Option<Outcome>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let Some(hook) = hook else { return Ok(()) };
        self.up.offer(Message::Progress(v1::TaskProgress {
            task_id: occasion.task.clone(),
            step: "hook".to_owned(),
            ..v1::TaskProgress::default()
        }));
        let ran = run::run(hook, variables(place, source, occasion, outcome), cancel).await;
        let mut lines: Vec<String> = ran.lines.iter().map(|line| format!("hook {place}: {line}")).collect();
        let Some(why) = ran.failure else {
            tracing::info!(task = occasion.task, hook = place, %source, "the hook has run");
            lines.push(format!("hook {place} has run"));
            self.tell(occasion, false, lines).await;
            return Ok(());
        };
        tracing::warn!(task = occasion.task, hook = place, %source, why, "the hook failed");
        lines.push(format!("hook {place} {why}"));
        self.tell(occasion, true, lines).await;
        let usual = if place.starts_with("before_") { OnFailure::Fail } else { OnFailure::Warn };
        match hook.on_failure.unwrap_or(usual) {
            OnFailure::Warn => Ok(()),
            OnFailure::Fail => Err(failed(source, place, &why, ran.lines.last())),
        }
    }

    async fn tell(&self, occasion: &Occasion, warning: bool, lines: Vec<String>) {
        self.up.send(Message::Log(v1::TaskLog { task_id: occasion.task.clone(), warning, lines })).await;
    }
}

fn still_at_it(source: &SourceId) -> Failure {
    Failure::new(
        Code::Unavailable,
        reason::BUSY,
        format!("an earlier attempt at {source} is still between its hooks"),
    )
    .because(format!("it has not ended within {} minutes", TURN.as_secs() / 60))
    .hint("see in the agent's log what it waits for; `timeout` of a hook limits how long one takes")
}

fn variables(
    place: &str,
    source: &SourceId,
    occasion: &Occasion,
    outcome: Option<Outcome>,
) -> Vec<(String, String)> {
    let mut all = vec![
        ("HOOK", place.to_owned()),
        ("COMPONENT", source.component.to_string()),
        ("SOURCE", source.to_string()),
        ("TASK", occasion.task.clone()),
        ("JOB", occasion.job.clone()),
        ("BACKUP", occasion.backup.clone()),
        ("STARTED_AT", format!("{:.0}", occasion.started_at)),
    ];
    all.extend(outcome.map(|outcome| ("RESULT", outcome.word().to_owned())));
    all.into_iter().map(|(name, value)| (format!("NEURASHIELD_{name}"), value)).collect()
}

fn failed(source: &SourceId, place: &str, why: &str, last_line: Option<&String>) -> Failure {
    let what = format!("the hook {place} of {source} {why}");
    let failure = Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what);
    let failure = match last_line {
        Some(line) => failure.because(line.chars().take(200).collect::<String>()),
        None => failure,
    };
    failure.hint("see what it has said with `nsctl logs`, mend it, or let it only warn (`on_failure: warn`)")
}

fn not_begun(source: &SourceId, error: &std::io::Error) -> Failure {
    Failure::new(Code::FailedPrecondition, reason::INTERNAL, format!("the hooks of {source} cannot be run"))
        .because(format!("the agent cannot note them in its state folder: {}", proto::failure::chain(error)))
        .hint("make room in the agent's state folder, and let its user write there")
}

/// Runs the hooks that the last process owed. Before anything else: a source may be locked by its first one.
/// What `stop` ends stays owed.
pub(crate) async fn run_those_owed(journal: &Journal, served: &[Served], stop: &CancellationToken) {
    let left = match journal.left() {
        Ok(left) => left,
        Err(error) => {
            tracing::error!(%error, "the hooks that an earlier process owed cannot be read: see whether a source is still locked");
            return;
        }
    };
    for occasion in left {
        let source = served.iter().find(|served| occasion.is_of(&served.id));
        let Some(served) = source else {
            let (component, name) = (&occasion.component, &occasion.name);
            tracing::warn!(component, name, "a hook is owed to a source that is not configured any more");
            journal.end(&occasion);
            continue;
        };
        let Around { failed, after, .. } = around(&served.hooks, occasion.kind);
        for (place, hook) in [failed, after] {
            let Some(hook) = hook else { continue };
            let variables = variables(place, &served.id, &occasion, Some(Outcome::Interrupted));
            let ran = run::run(hook, variables, stop).await;
            if stop.is_cancelled() {
                return;
            }
            let said = ran.lines.join(" | ");
            match ran.failure {
                None => tracing::info!(
                    hook = place, source = %served.id, said, "ran the hook that the last process owed"
                ),
                Some(why) => tracing::error!(
                    hook = place, source = %served.id, why, said, "the hook that the last process owed failed"
                ),
            }
        }
        journal.end(&occasion);
    }
}
