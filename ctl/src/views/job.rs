//! Jobs, their parts and their events.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::backup::Counts;
use super::plan::SourcePlan;
use super::proven::Proven;
use super::{some, time};
use crate::output::exit::Exit;
use crate::output::progress::Reached;
use crate::output::table::{Rows, or_dash};
use crate::output::words::{age, count, counted, size, utc};

/// With this begins the finding of a drill.
const DRILL: &str = "the drill failed: ";

/// Jobs, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct Jobs {
    pub(crate) jobs: Vec<Job>,
}

/// One job.
#[derive(Debug, Serialize)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) state: State,
    /// The backup that it makes, verifies or restores.
    pub(crate) backup: Option<String>,
    /// The schedule that ordered it; none: somebody did.
    pub(crate) schedule: Option<String>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    /// What was ordered, a line each.
    pub(crate) plan: Vec<String>,
    /// Of a safety backup: the restore that waits for it.
    pub(crate) safety_of: Option<String>,
    /// Of a restore: the job of its safety backup, and that backup once it is made.
    pub(crate) safety_job: Option<String>,
    pub(crate) safety_backup: Option<String>,
    /// Of a restore: the restore that it takes back.
    pub(crate) undo_of: Option<String>,
    /// Of a restore: of the plan that was confirmed.
    pub(crate) digest: Option<String>,
    pub(crate) failure: Option<Failure>,
    pub(crate) parts: Vec<Part>,
    /// Of a retention or a prune.
    pub(crate) cleared: Option<Cleared>,
    /// Of a job without parts.
    #[serde(skip)]
    progress: Option<Reached>,
}

/// What a retention or a prune has done.
#[derive(Debug, Serialize)]
pub(crate) struct Cleared {
    /// Backups that are gone.
    pub(crate) backups: Vec<String>,
    /// Packs that were deleted, and their bytes.
    pub(crate) packs: u64,
    pub(crate) freed_bytes: u64,
    pub(crate) rewritten_bytes: u64,
    /// Marked: a later run frees them, not before `waits_until`.
    pub(crate) waiting_bytes: u64,
    pub(crate) waits_until: Option<Timestamp>,
    pub(crate) remarks: Vec<String>,
}

/// Why a job failed.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) why: Option<String>,
    pub(crate) hint: Option<String>,
}

/// Where a job or its part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Unknown,
    Queued,
    Running,
    Committing,
    Complete,
    Incomplete,
    Failed,
    Cancelled,
}

/// One source's part of a job.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) component: String,
    pub(crate) source: String,
    pub(crate) agent: Option<String>,
    pub(crate) state: State,
    pub(crate) attempt: u32,
    pub(crate) step: Option<String>,
    pub(crate) done_bytes: u64,
    /// 0: not known.
    pub(crate) total_bytes: u64,
    pub(crate) done_entries: u64,
    pub(crate) sent_bytes: u64,
    /// Of a backup that got so far.
    pub(crate) counts: Option<Counts>,
    /// Of a verification: what is damaged.
    pub(crate) findings: Vec<String>,
    /// Of a verification: how much is proven.
    pub(crate) proven: Option<Proven>,
    /// Of a restore that got so far.
    pub(crate) restored: Option<Restored>,
    /// Of a restore: what was confirmed.
    pub(crate) plan: Option<SourcePlan>,
    pub(crate) reason: Option<String>,
    pub(crate) problems: Vec<Problem>,
}

/// What a restore did.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Where the replaced state is kept.
    pub(crate) previous_state: Option<String>,
    pub(crate) warnings: Vec<String>,
    /// How many entries were swapped, each with all below it.
    pub(crate) replaced: u64,
    pub(crate) created: u64,
    pub(crate) removed: u64,
    /// What was done, in order.
    pub(crate) steps: Vec<Step>,
    /// Why all of it was taken back: what was there before is there again.
    pub(crate) undone: Option<String>,
}

/// A step of a restore.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// `staged`, `stopped`, `swapped`, `started` or `undone`.
    pub(crate) step: String,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) detail: Option<String>,
}

/// What a source had to tell of one entry.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) path: String,
    pub(crate) kind: &'static str,
    pub(crate) cause: String,
}

/// Something that happened to a job.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) at: Option<Timestamp>,
    pub(crate) level: String,
    pub(crate) line: String,
    pub(crate) state: State,
}

impl From<v1::JobState> for State {
    fn from(wire: v1::JobState) -> Self {
        match wire {
            v1::JobState::Unspecified => State::Unknown,
            v1::JobState::Queued => State::Queued,
            v1::JobState::Running => State::Running,
            v1::JobState::Committing => State::Committing,
            v1::JobState::Complete => State::Complete,
            v1::JobState::Incomplete => State::Incomplete,
            v1::JobState::Failed => State::Failed,
            v1::JobState::Cancelled => State::Cancelled,
        }
    }
}

impl State {
    pub(crate) fn has_ended(self) -> bool {
        matches!(self, State::Complete | State::Incomplete | State::Failed | State::Cancelled)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Queued => "queued",
            State::Running => "running",
            State::Committing => "committing",
            State::Complete => "complete",
            State::Incomplete => "incomplete",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

impl From<v1::Job> for Job {
    fn from(wire: v1::Job) -> Self {
        let state = wire.state().into();
        let failure =
            some(wire.what).map(|what| Failure { what, why: some(wire.why), hint: some(wire.hint) });
        Self {
            id: wire.id,
            kind: wire.kind,
            schedule: some(wire.schedule),
            state,
            backup: some(wire.backup),
            created_at: time!(wire.created_at),
            started_at: time!(wire.started_at),
            ended_at: time!(wire.ended_at),
            safety_of: some(wire.safety_of),
            safety_job: some(wire.safety_job),
            safety_backup: some(wire.safety_backup),
            undo_of: some(wire.undo_of),
            digest: some(wire.digest),
            plan: wire.plan,
            failure,
            parts: wire.parts.into_iter().map(Part::from).collect(),
            cleared: wire.cleared.map(Cleared::from),
            progress: wire.progress.map(|progress| Reached {
                step: progress.step,
                done: progress.done_bytes,
                total: progress.total_bytes,
                entries: progress.done_entries,
            }),
        }
    }
}

impl From<v1::Cleared> for Cleared {
    fn from(wire: v1::Cleared) -> Self {
        Self {
            backups: wire.backups,
            packs: wire.packs,
            freed_bytes: wire.freed_bytes,
            rewritten_bytes: wire.rewritten_bytes,
            waiting_bytes: wire.waiting_bytes,
            waits_until: time!(wire.waits_until),
            remarks: wire.remarks,
        }
    }
}

impl Cleared {
    /// For people.
    fn text(&self) -> String {
        let mut text = format!(
            "{} removed, {} freed ({} deleted",
            counted(self.backups.len() as u64, "backup", "backups"),
            size(self.freed_bytes),
            counted(self.packs, "pack", "packs")
        );
        if self.rewritten_bytes > 0 {
            text.push_str(&format!(", {} written anew", size(self.rewritten_bytes)));
        }
        text.push(')');
        if self.waiting_bytes > 0 {
            let until = self.waits_until.map_or_else(String::new, |at| format!(", not before {}", utc(at)));
            text.push_str(&format!("\n{} are freed by a later run{until}", size(self.waiting_bytes)));
        }
        self.backups.iter().for_each(|name| text.push_str(&format!("\nremoved: {name}")));
        self.remarks.iter().for_each(|line| text.push_str(&format!("\n{line}")));
        text
    }
}

impl From<v1::JobPart> for Part {
    fn from(wire: v1::JobPart) -> Self {
        let state = wire.state().into();
        let (source, progress) = (wire.source.unwrap_or_default(), wire.progress.unwrap_or_default());
        Self {
            component: source.component,
            source: source.name,
            agent: some(wire.agent),
            state,
            attempt: wire.attempt,
            step: some(progress.step),
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            done_entries: progress.done_entries,
            sent_bytes: progress.sent_bytes,
            counts: wire.counts.map(Counts::from),
            findings: wire.findings,
            proven: wire.proven.map(Proven::from),
            restored: wire.restored.map(Restored::from),
            plan: wire.plan.map(|plan| SourcePlan::new(plan, true)),
            reason: some(wire.reason),
            problems: wire.problems.into_iter().map(Problem::from).collect(),
        }
    }
}

impl From<v1::RestoreFinished> for Restored {
    fn from(wire: v1::RestoreFinished) -> Self {
        Self {
            entries: wire.entries,
            bytes: wire.bytes,
            previous_state: some(wire.previous_state),
            warnings: wire.warnings,
            replaced: wire.replaced,
            created: wire.created,
            removed: wire.removed,
            steps: (wire.steps.into_iter())
                .map(|done| Step {
                    step: done.step,
                    ended_at: time!(done.ended_at),
                    detail: some(done.detail),
                })
                .collect(),
            undone: some(wire.undone),
        }
    }
}

impl From<v1::EntryProblem> for Problem {
    fn from(wire: v1::EntryProblem) -> Self {
        let kind = match wire.kind() {
            v1::entry_problem::Kind::Unreadable => "unreadable",
            v1::entry_problem::Kind::Vanished => "vanished",
            v1::entry_problem::Kind::Changed => "changed",
            v1::entry_problem::Kind::LeftOut => "left_out",
            v1::entry_problem::Kind::Suspect => "suspect",
            v1::entry_problem::Kind::Unspecified => "unknown",
        };
        Self { path: super::entry::path_text(&wire.path), kind, cause: wire.cause }
    }
}

impl From<v1::JobEvent> for Event {
    fn from(wire: v1::JobEvent) -> Self {
        let state = wire.job.map_or(State::Unknown, |job| job.state().into());
        Self { sequence: wire.sequence, at: time!(wire.at), level: wire.level, line: wire.line, state }
    }
}

impl Event {
    pub(crate) fn line(&self) -> String {
        let at = self.at.map_or_else(|| "-".to_owned(), utc);
        format!("{at}  {:<7}  {}", self.level, self.line)
    }
}

impl Jobs {
    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut rows = Rows::new(&["JOB", "KIND", "STATE", "BACKUP", "AGE", "STARTED", "WHY"]);
        for job in &self.jobs {
            rows.row([
                job.id.clone(),
                job.kind.clone(),
                job.state.word().to_owned(),
                or_dash(job.backup.as_deref().unwrap_or_default()),
                job.created_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                job.created_at.map_or_else(|| "-".to_owned(), utc),
                or_dash(job.failure.as_ref().map_or("", |failure| &failure.what)),
            ]);
        }
        rows.finish_or("no jobs yet")
    }
}

/// The last three cells of a part's row.
type Figures = fn(&Part) -> [String; 3];

impl Job {
    /// All parts together.
    pub(crate) fn reached(&self) -> Reached {
        if let Some(progress) = &self.progress {
            return progress.clone();
        }
        let sum = |of: fn(&Part) -> u64| self.parts.iter().map(of).sum();
        let all_known = self.parts.iter().all(|part| part.total_bytes > 0 || part.state.has_ended());
        let total = |part: &Part| if part.total_bytes > 0 { part.total_bytes } else { part.done_bytes };
        let mut steps: Vec<_> = self.parts.iter().filter(|part| !part.state.has_ended()).collect();
        steps.retain(|part| part.step.is_some());
        let step = match (steps.first(), self.state) {
            (Some(part), State::Running) => {
                format!("{} {}", part.step.as_deref().unwrap_or_default(), part.component)
            }
            _ => self.state.word().to_owned(),
        };
        Reached {
            step,
            done: sum(|part| part.done_bytes),
            total: if all_known { self.parts.iter().map(total).sum() } else { 0 },
            entries: sum(|part| part.done_entries),
        }
    }

    /// The exit code of a command that waited for this job.
    pub(crate) fn exit(&self) -> Exit {
        let damaged = self.parts.iter().any(|part| !part.findings.is_empty());
        match self.state {
            State::Failed | State::Incomplete if self.kind == "verify" && damaged => Exit::Damaged,
            State::Complete if damaged => Exit::Damaged,
            State::Complete => Exit::Done,
            State::Incomplete => Exit::Incomplete,
            _ => Exit::Failed,
        }
    }

    /// How it ended, for people.
    pub(crate) fn summary(&self) -> String {
        let backup = self.backup.as_deref().unwrap_or("(none)");
        let head = match self.exit() {
            Exit::Damaged => {
                let mut all = self.parts.iter().flat_map(|part| &part.findings);
                // A program did not open it: that may have other reasons than what was read of it.
                let word =
                    if all.all(|finding| finding.starts_with(DRILL)) { "DRILL FAILED" } else { "DAMAGED" };
                format!("{} of backup {backup}: {word}", self.kind)
            }
            _ if self.kind == "backup" && self.backup.is_some() => {
                format!("backup {backup}: {}", self.state.word())
            }
            _ if self.backup.is_some() => format!("{} of backup {backup}: {}", self.kind, self.state.word()),
            _ => format!("{}: {}", self.kind, self.state.word()),
        };
        if let Some(cleared) = &self.cleared {
            return format!("{head}\n\n{}", cleared.text());
        }
        let mut text = format!("{head}\n\n{}", self.parts());
        for part in &self.parts {
            part.remarks().iter().for_each(|line| text.push_str(&format!("\n{line}")));
        }
        text
    }

    /// All that is known of it, for people.
    pub(crate) fn report(&self) -> String {
        let at = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), utc);
        let by = self.schedule.as_ref().map_or_else(String::new, |name| format!(" by the schedule {name}"));
        let mut text = format!(
            "job {}\nordered {}{by}\nstarted {}\nended {}\n",
            self.id,
            at(self.created_at),
            at(self.started_at),
            at(self.ended_at)
        );
        self.plan.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        text.push_str(&format!("\n{}", self.summary()));
        if let Some(failure) = &self.failure {
            let lines = [Some(&failure.what), failure.why.as_ref(), failure.hint.as_ref()];
            lines.into_iter().flatten().for_each(|line| text.push_str(&format!("\n{line}")));
        }
        let mut line = |word: &str, value: Option<&String>| {
            value.iter().for_each(|value| text.push_str(&format!("\n{word}: {value}")));
        };
        line("safety backup of the restore", self.safety_of.as_ref());
        line("safety backup", self.safety_backup.as_ref().or(self.safety_job.as_ref()));
        line("takes back the restore", self.undo_of.as_ref());
        for restored in self.parts.iter().filter_map(|part| part.restored.as_ref()) {
            for step in &restored.steps {
                let at = step.ended_at.map_or_else(|| "-".to_owned(), utc);
                let detail = step.detail.as_deref().unwrap_or_default();
                text.push_str(&format!("\n{at}  {}  {detail}", step.step));
            }
        }
        text
    }

    fn parts(&self) -> String {
        let (names, figures): (&[&str], Figures) = match self.kind.as_str() {
            "backup" => (&[">FILES", ">SIZE", ">NEW"], Part::backup_figures),
            "restore" => (&[">ENTRIES", ">SIZE", "KEPT OLD STATE"], Part::restore_figures),
            _ => (&[">ENTRIES", ">READ", "RESULT"], Part::verify_figures),
        };
        let headers: Vec<_> = ["COMPONENT", "SOURCE", "STATE"].iter().chain(names).copied().collect();
        let mut rows = Rows::new(&headers);
        for part in &self.parts {
            let [first, second, third] = figures(part);
            let state = part.state.word().to_owned();
            rows.row([part.component.clone(), part.source.clone(), state, first, second, third]);
        }
        rows.finish_or("it had no parts")
    }
}

impl Part {
    fn backup_figures(&self) -> [String; 3] {
        match &self.counts {
            Some(counts) => [count(counts.files), size(counts.bytes), size(counts.stored_bytes)],
            None => std::array::from_fn(|_| "-".to_owned()),
        }
    }

    fn restore_figures(&self) -> [String; 3] {
        match &self.restored {
            Some(done) => [
                count(done.entries),
                size(done.bytes),
                or_dash(done.previous_state.as_deref().unwrap_or_default()),
            ],
            None => std::array::from_fn(|_| "-".to_owned()),
        }
    }

    fn verify_figures(&self) -> [String; 3] {
        let is_in_part = self.proven.as_ref().is_some_and(|proven| proven.unread_bytes > 0);
        let result = match (self.findings.len() as u64, self.state) {
            (0, _) if is_in_part => "in part".to_owned(),
            (0, State::Complete) => "intact".to_owned(),
            (0, _) => "-".to_owned(),
            (damages, _) => counted(damages, "finding", "findings"),
        };
        [count(self.done_entries), size(self.done_bytes), result]
    }

    /// Lines about what is not as it should be.
    fn remarks(&self) -> Vec<String> {
        let name = format!("{}/{}", self.component, self.source);
        let mut lines: Vec<String> = Vec::new();
        // Of a drill it may be the finding, word for word.
        let reason = self.reason.iter().filter(|reason| !self.findings.contains(reason));
        lines.extend(reason.map(|reason| format!("{name}: {reason}")));
        lines.extend(self.findings.iter().map(|finding| match finding.starts_with(DRILL) {
            true => format!("{name}: {finding}"),
            false => format!("{name}: damaged: {finding}"),
        }));
        if let Some(proven) = &self.proven {
            lines.extend(proven.in_words().map(|words| format!("{name}: {words}")));
            lines.extend(proven.notes.iter().map(|note| format!("{name}: {note}")));
        }
        lines.extend(self.problems.iter().map(|p| format!("{name}: {}: {}: {}", p.kind, p.path, p.cause)));
        let warnings = self.restored.iter().flat_map(|restored| &restored.warnings);
        lines.extend(warnings.map(|warning| format!("{name}: {warning}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(kind: &str, state: v1::JobState, findings: &[&str]) -> Job {
        let part = v1::JobPart {
            source: Some(v1::SourceId { component: "models".into(), name: "models".into() }),
            state: state as i32,
            findings: findings.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        Job::from(v1::Job {
            id: "j".into(),
            kind: kind.into(),
            state: state as i32,
            backup: "20260101_010000".into(),
            parts: vec![part],
            ..Default::default()
        })
    }

    #[test]
    fn the_exit_code_tells_damage_from_failure_and_from_what_is_missing() {
        assert_eq!(job("backup", v1::JobState::Complete, &[]).exit(), Exit::Done);
        assert_eq!(job("backup", v1::JobState::Incomplete, &[]).exit(), Exit::Incomplete);
        assert_eq!(job("backup", v1::JobState::Cancelled, &[]).exit(), Exit::Failed);
        assert_eq!(job("verify", v1::JobState::Failed, &["pack ab"]).exit(), Exit::Damaged);
        assert_eq!(job("verify", v1::JobState::Complete, &["pack ab"]).exit(), Exit::Damaged);
        assert_eq!(job("verify", v1::JobState::Failed, &[]).exit(), Exit::Failed);
    }

    #[test]
    fn the_summary_names_what_is_damaged() {
        let text = job("verify", v1::JobState::Failed, &["pack ab34 has a wrong SHA-256"]).summary();
        assert!(text.starts_with("verify of backup 20260101_010000: DAMAGED"), "{text}");
        assert!(text.contains("models/models: damaged: pack ab34 has a wrong SHA-256"), "{text}");
    }

    #[test]
    fn a_total_is_given_only_when_every_part_knows_its_own() {
        let mut job = job("backup", v1::JobState::Running, &[]);
        job.parts[0].done_bytes = 5;
        assert_eq!(job.reached().total, 0);
        job.parts[0].total_bytes = 10;
        assert_eq!((job.reached().done, job.reached().total), (5, 10));
    }
}
