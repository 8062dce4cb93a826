//! From the controller's own words to the wire's.

use jiff::Timestamp;
use proto::convert::{to_wire_consistency, to_wire_counts, to_wire_outcome, to_wire_source, to_wire_time};
use proto::v1;
use repository::archive::entry::{Entry, EntryKind};
use repository::backup::listing::LegacyBackup;
use repository::backup::manifest::{ArchiveRecord, BackupRecord};
use repository::keys::DomainKeys;
use repository::read::kind_word;
use repository::verify::Depth;

use crate::catalog::{AgentRecord, ApiTokenRecord, InvitationRecord, ServedSource, VerificationRecord};
use crate::identity::Role;
use crate::ids::JobId;
use crate::jobs::job::{
    Cleared, DRILLED, JobState, Order, Part, PartResult, PartState, Problem, ProblemKind,
};
use crate::jobs::safety::Safety;
use crate::jobs::{JobView, Watched};
use crate::rpc::ordered;

pub(crate) fn domain_keys(keys: &DomainKeys) -> v1::DomainKeys {
    v1::DomainKeys {
        domain_id: keys.domain.as_bytes().to_vec().into(),
        id_key: keys.id_key.expose().to_vec().into(),
        gear_key: keys.gear_key.expose().to_vec().into(),
    }
}

fn time(time: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    time.map(to_wire_time)
}

pub(crate) fn role(wire: v1::Role) -> Option<Role> {
    match wire {
        v1::Role::Unspecified => None,
        v1::Role::Viewer => Some(Role::Viewer),
        v1::Role::Operator => Some(Role::Operator),
        v1::Role::Admin => Some(Role::Admin),
    }
}

pub(crate) fn token(record: &ApiTokenRecord) -> v1::Token {
    let role = match record.role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
    };
    v1::Token {
        id: record.id.to_string(),
        name: record.name.clone(),
        role: role.into(),
        created_at: Some(to_wire_time(record.created_at)),
        ends_at: Some(to_wire_time(record.ends_at)),
        revoked_at: time(record.revoked_at),
        last_used_at: time(record.last_used_at),
        created_by: record.created_by.clone(),
    }
}

pub(crate) fn backup(record: &BackupRecord, verifications: &[VerificationRecord]) -> v1::Backup {
    let safety = Safety::of(record);
    v1::Backup {
        name: record.name.to_string(),
        sequence: record.sequence,
        outcome: to_wire_outcome(record.outcome).into(),
        started_at: Some(to_wire_time(record.started_at)),
        ended_at: Some(to_wire_time(record.ended_at)),
        archives: record.archives.iter().map(|line| archive(line, verifications)).collect(),
        pinned: record.pin.clone().unwrap_or_default(),
        job_id: record.job.clone(),
        safety_of: safety.map(|safety| safety.restore.to_string()).unwrap_or_default(),
        safe_until: time(safety.map(|safety| safety.until)),
    }
}

fn archive(record: &ArchiveRecord, verifications: &[VerificationRecord]) -> v1::Archive {
    let of_this = verifications.iter().filter(|result| result.source == record.source);
    v1::Archive {
        source: Some(to_wire_source(&record.source)),
        kind: record.kind.clone(),
        outcome: to_wire_outcome(record.outcome).into(),
        reason: record.reason.clone().unwrap_or_default(),
        consistency: to_wire_consistency(record.consistency).into(),
        counts: Some(to_wire_counts(&record.counts)),
        verifications: of_this.map(verification).collect(),
        remarks: Vec::new(),
    }
}

fn verification(record: &VerificationRecord) -> v1::Verification {
    let depth = match record.depth.as_str() {
        "listed" => v1::Depth::Listed,
        "hashed" => v1::Depth::Hashed,
        "opened" => v1::Depth::Opened,
        DRILLED => v1::Depth::Drilled,
        _ => v1::Depth::Unspecified,
    };
    v1::Verification {
        depth: depth.into(),
        at: Some(to_wire_time(record.at)),
        intact: record.intact,
        findings: record.findings.clone(),
        proven: Some(v1::Proven {
            now_bytes: record.coverage.now,
            earlier_bytes: record.coverage.earlier,
            oldest: time(record.coverage.oldest),
            unread_bytes: record.coverage.unread,
            notes: Vec::new(),
        }),
    }
}

pub(crate) fn legacy(backup: &LegacyBackup) -> v1::LegacyBackup {
    v1::LegacyBackup { name: backup.name.to_string(), components: backup.contents.clone() }
}

/// The depth, and whether it is a drill; `None` for one that this program does not know.
pub(crate) fn depth(wire: v1::Depth) -> Option<(Depth, bool)> {
    match wire {
        v1::Depth::Unspecified => None,
        v1::Depth::Listed => Some((Depth::Listed, false)),
        v1::Depth::Hashed => Some((Depth::Hashed, false)),
        v1::Depth::Opened => Some((Depth::Opened, false)),
        v1::Depth::Drilled => Some((Depth::Opened, true)),
    }
}

/// An agent, with the bytes that it sent today and how often its quota refused it.
pub(crate) fn agent(
    record: &AgentRecord,
    connected: bool,
    (bytes_today, quota_refusals): (u64, u64),
) -> v1::Agent {
    v1::Agent {
        id: record.id.to_string(),
        name: record.name.clone(),
        host: record.host.clone(),
        version: record.version.clone(),
        connected,
        revoked: record.revoked_at.is_some(),
        joined_at: Some(to_wire_time(record.joined_at)),
        last_seen_at: time(record.last_seen_at),
        certificate_ends_at: Some(to_wire_time(record.certificate_ends_at)),
        sources: record.sources.iter().map(served).collect(),
        may_serve: record.bounds.patterns(),
        clone_seen_at: time(record.clone.as_ref().map(|clone| clone.at)),
        clone_host: record.clone.as_ref().map(|clone| clone.host.clone()).unwrap_or_default(),
        bytes_today,
        quota_refusals,
    }
}

pub(crate) fn invitation(record: &InvitationRecord) -> v1::Invitation {
    v1::Invitation {
        id: record.id.clone(),
        name: record.terms.name.clone(),
        reusable: record.terms.is_reusable,
        uses: record.terms.uses,
        used: record.used,
        sources: record.terms.bounds.patterns(),
        created_at: Some(to_wire_time(record.created_at)),
        ends_at: Some(to_wire_time(record.ends_at)),
    }
}

fn served(source: &ServedSource) -> v1::ServedSource {
    v1::ServedSource {
        source: Some(to_wire_source(&source.source)),
        kind: source.kind.clone(),
        location: source.location.clone(),
    }
}

pub(crate) fn job(view: &JobView, agents: &[AgentRecord]) -> v1::Job {
    let JobView { job, progress } = view;
    let failure = job.failure.as_ref();
    let line =
        |text: fn(&crate::jobs::job::JobFailure) -> &String| failure.map(text).cloned().unwrap_or_default();
    let parts = job.parts.iter().enumerate();
    let none = (&[][..], None, None, "");
    let (places, safety, undo_of, digest) = match &job.order {
        Order::Restore { places, safety, undo_of, digest, .. } => (&places[..], *safety, *undo_of, &**digest),
        _ => none,
    };
    let plan = |at: usize| {
        let place = places.get(at)?;
        place.confirmed.as_ref().map(|plan| plan.to_wire(&place.source))
    };
    let id = |id: Option<JobId>| id.map(|id| id.to_string()).unwrap_or_default();
    v1::Job {
        id: job.id.to_string(),
        kind: job.kind().to_owned(),
        state: job_state(job.state).into(),
        backup: job.backup.as_ref().map(ToString::to_string).unwrap_or_default(),
        created_at: Some(to_wire_time(job.created_at)),
        ended_at: time(job.ended_at),
        parts: parts
            .map(|(at, part)| v1::JobPart {
                plan: plan(at),
                ..job_part(part, progress.get(at).cloned().flatten(), agents)
            })
            .collect(),
        what: line(|failure| &failure.what),
        why: line(|failure| &failure.why),
        hint: line(|failure| &failure.hint),
        cleared: job.cleared.as_ref().map(cleared),
        progress: job.parts.is_empty().then(|| progress.first().cloned().flatten()).flatten(),
        schedule: job.schedule.clone().unwrap_or_default(),
        safety_of: id(Safety::of_order(&job.order).map(|safety| safety.restore)),
        safety_job: id(safety),
        // It is in another job, which whoever shows this one looks up.
        safety_backup: String::new(),
        undo_of: id(undo_of),
        digest: digest.to_owned(),
        started_at: time(job.started_at),
        plan: ordered::lines(job, agents),
    }
}

fn cleared(cleared: &Cleared) -> v1::Cleared {
    v1::Cleared {
        backups: cleared.backups.iter().map(ToString::to_string).collect(),
        freed_bytes: cleared.freed_bytes,
        rewritten_bytes: cleared.rewritten_bytes,
        packs: cleared.packs,
        waiting_bytes: cleared.waiting_bytes,
        waits_until: time(cleared.waits_until),
        remarks: cleared.remarks.clone(),
    }
}

pub(crate) fn job_state(state: JobState) -> v1::JobState {
    match state {
        JobState::Queued => v1::JobState::Queued,
        JobState::Running => v1::JobState::Running,
        JobState::Committing => v1::JobState::Committing,
        JobState::Complete => v1::JobState::Complete,
        JobState::Incomplete => v1::JobState::Incomplete,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    }
}

fn job_part(part: &Part, progress: Option<v1::TaskProgress>, agents: &[AgentRecord]) -> v1::JobPart {
    let state = match part.state {
        PartState::Waiting => v1::JobState::Queued,
        PartState::Running { .. } => v1::JobState::Running,
        PartState::Complete => v1::JobState::Complete,
        PartState::Incomplete => v1::JobState::Incomplete,
        PartState::Failed => v1::JobState::Failed,
        PartState::Cancelled => v1::JobState::Cancelled,
    };
    let agent = part.agent.map(|id| {
        let known = agents.iter().find(|agent| agent.id == id);
        known.map_or_else(|| id.to_string(), |agent| agent.name.clone())
    });
    let mut wire = v1::JobPart {
        source: Some(to_wire_source(&part.source)),
        agent: agent.unwrap_or_default(),
        state: state.into(),
        attempt: part.attempt,
        progress,
        reason: part.reason.clone().unwrap_or_default(),
        ..v1::JobPart::default()
    };
    match &part.result {
        None => {}
        Some(PartResult::Archive { manifest, problems, .. }) => {
            wire.counts = Some(to_wire_counts(&manifest.counts));
            wire.problems = problems.iter().map(problem).collect();
        }
        Some(PartResult::Verified { findings, bytes, entries, proven }) => {
            wire.findings = findings.clone();
            wire.proven = Some(v1::Proven {
                now_bytes: proven.now,
                earlier_bytes: proven.earlier,
                oldest: time(proven.oldest),
                unread_bytes: proven.unread,
                notes: proven.notes.clone(),
            });
            wire.progress = Some(v1::TaskProgress {
                step: "verified".to_owned(),
                done_bytes: *bytes,
                total_bytes: *bytes,
                done_entries: *entries,
                ..v1::TaskProgress::default()
            });
        }
        Some(PartResult::Restored {
            entries,
            bytes,
            previous_state,
            warnings,
            swapped: [replaced, created, removed],
            names,
            steps,
            undone,
        }) => {
            wire.restored = Some(v1::RestoreFinished {
                task_id: String::new(),
                entries: *entries,
                bytes: *bytes,
                previous_state: previous_state.clone().unwrap_or_default(),
                warnings: warnings.clone(),
                replaced: *replaced,
                created: *created,
                removed: *removed,
                names: names.clone(),
                steps: (steps.iter())
                    .map(|done| v1::RestoreStep {
                        step: done.step.clone(),
                        ended_at: Some(to_wire_time(done.at)),
                        detail: done.detail.clone(),
                    })
                    .collect(),
                undone: undone.clone().unwrap_or_default(),
            });
        }
    }
    wire
}

fn problem(problem: &Problem) -> v1::EntryProblem {
    use v1::entry_problem::Kind;
    let kind = match problem.kind {
        ProblemKind::Unreadable => Kind::Unreadable,
        ProblemKind::Vanished => Kind::Vanished,
        ProblemKind::Changed => Kind::Changed,
        ProblemKind::LeftOut => Kind::LeftOut,
        ProblemKind::Suspect => Kind::Suspect,
    };
    v1::EntryProblem { kind: kind.into(), path: problem.path.clone().into(), cause: problem.cause.clone() }
}

pub(crate) fn entry(entry: &Entry) -> v1::EntryLine {
    let metadata = &entry.metadata;
    let (size, target) = match &entry.kind {
        EntryKind::File(content) => (content.size, Vec::new()),
        EntryKind::Symlink { target } => (0, target.clone()),
        EntryKind::HardLink { to } => (0, to.as_bytes().to_vec()),
        _ => (0, Vec::new()),
    };
    v1::EntryLine {
        path: entry.path.as_bytes().to_vec().into(),
        kind: kind_word(&entry.kind).to_owned(),
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime_seconds: metadata.mtime.seconds,
        mtime_nanoseconds: metadata.mtime.nanoseconds,
        size,
        target: target.into(),
    }
}

pub(crate) fn event(watched: &Watched, agents: &[AgentRecord]) -> v1::JobEvent {
    let line = watched.line.as_ref();
    v1::JobEvent {
        sequence: line.map_or(watched.sequence, |line| line.sequence),
        at: Some(to_wire_time(watched.at)),
        level: line.map_or("info", |line| line.level.as_str()).to_owned(),
        line: line.map(|line| line.line.clone()).unwrap_or_default(),
        job: watched.view.as_deref().map(|view| job(view, agents)),
    }
}
