//! A drill: an archive is restored into the scratch folder, opened there by the owner's program, and removed.
//!
//! Must stay true: folder and program come from the agent's configuration alone; what the order says goes through the
//! same checks as a restore into a folder, and no privilege is given; nothing is written where there is no room for all
//! of it, or where a link of it leads out; keys of a node are left out, whatever the order says; that nobody could look
//! is no finding; whatever happens, what was restored goes before the drill counts as ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::failure::reason;
use proto::v1::agent_message::Message;
use proto::{Failure, convert, v1};
use repository::names::SourceId;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Archive, Counters, is_broken_off, not_readable, pass_on, progress_now};
use crate::config::Opener;
use crate::drills::Marked;
use crate::hooks::{self, HowFailed};
use crate::restore::{ArchiveEntries, Window};
use crate::targets::files::{self, Allowance, InProduction, RestoreError, RestoreReport, Tools};
use crate::targets::{CancelFlag, Progress};
use crate::tasks::{TaskContext, blocking, cancelled, telling};

/// Lines of the program that a finding tells.
const TOLD_LINES: usize = 3;
/// The longest of them, in letters.
const TOLD_LETTERS: usize = 200;
/// Warnings that a result lists.
const TOLD_WARNINGS: usize = 100;

/// How the restore went.
enum Restored {
    Whole(RestoreReport),
    /// What came is not what was backed up, and this is what is wrong with it.
    Not(String),
}

/// Makes one.
pub(in crate::tasks) async fn drill(
    context: &Arc<TaskContext>,
    wire: v1::StartDrill,
    cancel: &CancellationToken,
) -> Result<v1::DrillFinished, Failure> {
    let v1::StartDrill { task_id, order, job_id, backup } = wire;
    let mut order = order.ok_or_else(|| Failure::invalid("a drill without an order"))?;
    let source = convert::source_id("source", order.source.as_ref())?;
    let agent = &context.agent;
    let marked = agent.drills.as_ref().ok_or_else(|| not_marked(&source))?;
    let opener = marked.opener(&source).ok_or_else(|| not_marked(&source))?;
    let is_plain = order.into.is_none() && order.folder.is_empty() && !order.keeps_older;
    if !is_plain || order.selection.as_ref().is_some_and(|selection| *selection != v1::Selection::default()) {
        return Err(Failure::invalid("a drill is of a whole archive, and into the agent's own folder"));
    }
    // Whatever is sent, and of every kind: a chain may be backed up as plain files, too.
    order.leaves_keys = true;
    // Its id is checked with the rest of the order, before anything is made of it.
    order.folder = marked.place(&order.restore_id).display().to_string();
    let told = Told {
        task: convert::text("task_id", &task_id, 200)?,
        job: convert::text("job_id", &job_id, 200)?,
        backup: convert::text("backup", &backup, 200)?,
        source,
    };
    let done = Box::pin(restored_and_opened(context, &order, (marked, opener), &told, cancel)).await;
    // To the end, also of what was cancelled.
    let of_agent = Arc::clone(agent);
    let emptied = blocking(move || of_agent.drills.as_ref().map_or(Ok(()), Marked::empty));
    // It may take as long as the program took, and the controller waits for what it hears of.
    let removing = || progress_now(&told.task, "removing", &Counters::default());
    match telling(&context.up, removing, emptied).await {
        Ok(Ok(())) => done,
        Ok(Err(error)) => {
            let scratch = marked.scratch().display();
            let what = format!("the scratch folder {scratch} cannot be emptied: {error}");
            tracing::error!("{what}");
            done.and(Err(Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what)
                .hint("see to it; the agent's next start and the next drill try again")))
        }
        Err(failure) => done.and(Err(failure)),
    }
}

/// What is told of a drill, and to whom.
struct Told {
    task: String,
    job: String,
    backup: String,
    source: SourceId,
}

async fn restored_and_opened(
    context: &Arc<TaskContext>,
    order: &v1::RestoreOrder,
    (marked, opener): (&Marked, &Opener),
    told: &Told,
    cancel: &CancellationToken,
) -> Result<v1::DrillFinished, Failure> {
    let restored = Box::pin(restored(context, order, told, cancel)).await?;
    // Whatever broke off then is not the archive's.
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    let report = match restored {
        Restored::Whole(report) => report,
        Restored::Not(finding) => {
            let task_id = told.task.clone();
            return Ok(v1::DrillFinished { task_id, finding, ..v1::DrillFinished::default() });
        }
    };
    context.up.offer(Message::Progress(v1::TaskProgress {
        task_id: told.task.clone(),
        step: "opening".to_owned(),
        done_bytes: report.bytes,
        done_entries: report.entries,
        ..v1::TaskProgress::default()
    }));
    let folder = marked.place(&order.restore_id).display().to_string();
    let ran = hooks::run_to_the_end(&opener.hook(&folder), variables(told, &folder), cancel).await;
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    let program = opener.command.first().cloned().unwrap_or_default();
    let mut lines: Vec<String> = ran.lines.iter().map(|line| format!("drill: {line}")).collect();
    lines.push(match &ran.failure {
        None => format!("drill: {program} has opened it"),
        Some(why) => format!("drill: {program} {why}"),
    });
    let warning = ran.failure.is_some();
    context.up.send(Message::Log(v1::TaskLog { task_id: told.task.clone(), warning, lines })).await;
    let finding = match ran.failure {
        None => String::new(),
        Some(why) => {
            let said = not_opened(&program, &why, &ran.lines);
            match ran.how {
                HowFailed::Itself => said,
                HowFailed::NotStarted => {
                    return Err(not_made(&told.source).because(said).hint(
                        "see to `drills.open` in the agent's configuration, and that the program is there",
                    ));
                }
                HowFailed::Killed => return Err(killed(&told.source).because(said)),
            }
        }
    };
    let RestoreReport { entries, bytes, notes, .. } = report;
    let warnings = notes.into_iter().take(TOLD_WARNINGS).collect();
    Ok(v1::DrillFinished { task_id: told.task.clone(), entries, bytes, finding, warnings, program })
}

/// Plans, and writes where all of it has room.
async fn restored(
    context: &Arc<TaskContext>,
    order: &v1::RestoreOrder,
    told: &Told,
    cancel: &CancellationToken,
) -> Result<Restored, Failure> {
    let mut archive = Archive::open(context, &told.task, Some(order), cancel).await?;
    archive.is_drill = true;
    let pages_to_plan = archive.blobs(context, Window::PAGES).await?;
    let pages = archive.blobs(context, Window::PAGES).await?;
    let mut data = archive.blobs(context, Window::CONTENTS).await?;
    let counters = Arc::new(Counters::default());
    let flag = CancelFlag::default();
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || progress_now(&told.task, "restoring", &counters);
    let written = {
        let (counters, source) = (Arc::clone(&counters), told.source.clone());
        let (agent, runtime) = (Arc::clone(&context.agent), Handle::current());
        blocking(move || {
            let marked = agent.drills.as_ref().ok_or_else(|| not_marked(&source))?;
            // What an end that could not remove it has left.
            marked.empty().map_err(|error| not_made(&source).caused_by(&error))?;
            let plan = match archive.plan(&agent, &runtime, pages_to_plan) {
                Ok((plan, _)) => plan,
                Err(failure) if failure.reason == reason::DAMAGED => {
                    return Ok(Restored::Not(in_words(&failure)));
                }
                Err(failure) => return Err(failure),
            };
            fits(&source, marked, &plan)?;
            let id = &archive.request.restore_id;
            marked.make(id).map_err(|error| not_made(&source).caused_by(&error))?;
            let entries = match ArchiveEntries::open(pages, &archive.order.root) {
                Ok(entries) => entries,
                Err(error) if error.is_broken_off() => return Err(not_readable(&error)),
                Err(error) => return Ok(Restored::Not(unreadable(&error))),
            };
            let progress = Counted(&counters);
            let id_key = &archive.order.keys.id_key;
            let tools = Tools { id_key, progress: &progress, cancel: &flag, steps: &InProduction };
            let allowance = Allowance { entries: plan.entries, bytes: plan.bytes, ..Allowance::default() };
            match files::restore(&archive.request, allowance, entries, &mut data, tools) {
                Ok(report) if report.bytes == plan.bytes => Ok(Restored::Whole(report)),
                Ok(report) => {
                    Ok(Restored::Not(format!("{} bytes of {} came back", report.bytes, plan.bytes)))
                }
                Err(error) => not_restored(&source, &error),
            }
        })
    };
    telling(&context.up, tell, written).await?
}

/// Refuses what cannot go ahead: nothing is written.
fn fits(source: &SourceId, marked: &Marked, plan: &v1::SourcePlan) -> Result<(), Failure> {
    if plan.needed_bytes > plan.free_bytes {
        let (needed, free) = (plan.needed_bytes, plan.free_bytes);
        return Err(not_made(source)
            .because(format!(
                "it needs {needed} bytes in {}, and {free} are free",
                marked.scratch().display()
            ))
            .hint("make room there, or give `drills.scratch` a larger place; nothing was written"));
    }
    match plan.obstacles.is_empty() {
        true => Ok(()),
        false => Err(not_made(source)
            .because(plan.obstacles.join("; "))
            .hint("see to it, then verify again; nothing was written")),
    }
}

/// What is wrong with the archive is a finding; that nobody could look is a failure.
fn not_restored(source: &SourceId, error: &RestoreError) -> Result<Restored, Failure> {
    match error {
        RestoreError::Cancelled => Err(cancelled()),
        error if is_broken_off(error) => Err(Failure::new(
            Code::Unavailable,
            reason::UNREACHABLE,
            format!("the drill of {source} broke off"),
        )
        .caused_by(error)),
        RestoreError::Archive { .. } | RestoreError::Entries(_) | RestoreError::Blob { .. } => {
            Ok(Restored::Not(unreadable(error)))
        }
        error => {
            Err(not_made(source).caused_by(error).hint("check space and permissions of `drills.scratch`"))
        }
    }
}

fn unreadable(error: &dyn std::error::Error) -> String {
    format!("it cannot be restored: {}", proto::failure::chain(error))
}

fn in_words(failure: &Failure) -> String {
    match failure.why.as_str() {
        "" => failure.what.clone(),
        why => format!("{}: {why}", failure.what),
    }
}

/// One line: what the program has ended with, and its last words.
fn not_opened(program: &str, why: &str, lines: &[String]) -> String {
    let last = &lines[lines.len().saturating_sub(TOLD_LINES)..];
    let last: Vec<String> = last.iter().map(|line| line.chars().take(TOLD_LETTERS).collect()).collect();
    match last.is_empty() {
        true => format!("{program} {why} and said nothing"),
        false => format!("{program} {why}, saying: {}", last.join(" | ")),
    }
}

fn variables(told: &Told, folder: &str) -> Vec<(String, String)> {
    [
        ("COMPONENT", told.source.component.to_string()),
        ("SOURCE", told.source.to_string()),
        ("TASK", told.task.clone()),
        ("JOB", told.job.clone()),
        ("BACKUP", told.backup.clone()),
        ("FOLDER", folder.to_owned()),
    ]
    .map(|(name, value)| (format!("NEURASHIELD_{name}"), value))
    .into()
}

fn not_made(source: &SourceId) -> Failure {
    Failure::new(Code::FailedPrecondition, reason::OBSTACLES, format!("the drill of {source} cannot be made"))
}

/// It may come to its end another time.
fn killed(source: &SourceId) -> Failure {
    Failure::new(Code::Unavailable, reason::UNREACHABLE, format!("the drill of {source} broke off"))
        .hint("see who ended the program (a stop of the agent, a lack of memory), then verify again")
}

fn not_marked(source: &SourceId) -> Failure {
    not_made(source)
        .because("this agent does not open it, or its scratch folder cannot be used")
        .hint("see to `drills` in the agent's configuration and to its log")
}

/// Counts; nothing is kept on record: the scratch folder is emptied at each start.
struct Counted<'a>(&'a Counters);

impl Progress for Counted<'_> {
    fn bytes_written(&self, count: u64) {
        self.0.bytes.fetch_add(count, Ordering::Relaxed);
    }

    fn entry_written(&self) {
        self.0.entries.fetch_add(1, Ordering::Relaxed);
    }

    fn swap_begins(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::EntriesError;
    use crate::targets::BlobError;

    #[test]
    fn what_could_not_be_fetched_is_no_finding() {
        let source: SourceId = "models/models".parse().expect("a source");
        let id = repository::ids::BlobId::new([1; 32]);
        let fetch = || BlobError::Fetch { id, cause: "the connection broke".to_owned() };
        let path = || repository::archive::path::EntryPath::new(b"a").expect("a path");
        let entries = |error: BlobError| RestoreError::Entries(Box::new(EntriesError::from(error)));
        for error in [entries(fetch()), RestoreError::Blob { path: path(), source: fetch() }] {
            let failure = not_restored(&source, &error).err().expect("nobody could look");
            assert_eq!(failure.reason, reason::UNREACHABLE, "{failure}");
        }
        // So it is while it is planned, whose damage is a finding.
        assert_eq!(not_readable(&fetch().into()).reason, reason::UNREACHABLE);
        assert_eq!(super::super::not_restored("/x", &entries(fetch())).reason, reason::UNREACHABLE);
        assert_eq!(not_readable(&BlobError::Missing(id).into()).reason, reason::DAMAGED);
        for error in
            [entries(BlobError::Missing(id)), entries(BlobError::Damaged { id, cause: String::new() })]
        {
            assert!(matches!(not_restored(&source, &error), Ok(Restored::Not(_))), "{error}");
        }
    }

    #[test]
    fn a_finding_is_one_line_with_the_last_words() {
        let lines: Vec<String> = (0..5).map(|nth| format!("line {nth}")).collect();
        assert_eq!(
            not_opened("/usr/bin/geth", "ended with 1", &lines),
            "/usr/bin/geth ended with 1, saying: line 2 | line 3 | line 4"
        );
        assert_eq!(not_opened("/bin/x", "ended with 1", &[]), "/bin/x ended with 1 and said nothing");
        let long = vec!["y".repeat(10_000)];
        assert!(not_opened("/bin/x", "ended with 1", &long).len() < 300);
    }
}
