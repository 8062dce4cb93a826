//! The controller's steps, for tests of failures (see [`runtime::steps`]): the end of everything that is
//! written down or answered.
//!
//! Must stay true: each transition of a job has two, one before its new state is in the catalog and one
//! after (a new [`Event`] does not compile without them); each step of a commit has one.

use repository::prune::PruneStep;

use crate::jobs::state::Event;

runtime::named_steps! {
    /// What can be held.
    pub enum Step {
        /// A job that was ordered is in the catalog; whoever ordered it has no answer.
        JobOrdered = "job-ordered",
        /// A job's turn has come and its parts are known; that is not written down.
        StartedUnwritten = "started-unwritten",
        /// It is written down that a job has started; no part is begun.
        StartedWritten = "started-written",
        /// A job's turn has come and it cannot be begun; that is not written down.
        CannotStartUnwritten = "cannot-start-unwritten",
        /// It is written down that a job cannot be begun.
        CannotStartWritten = "cannot-start-written",
        /// An attempt is to begin; that is not written down.
        TaskStartedUnwritten = "task-started-unwritten",
        /// It is written down that an attempt has begun; its agent was told nothing.
        TaskStartedWritten = "task-started-written",
        /// An attempt has ended; that is not written down.
        TaskEndedUnwritten = "task-ended-unwritten",
        /// It is written down that an attempt has ended; nothing that follows is begun.
        TaskEndedWritten = "task-ended-written",
        /// No agent came for a part; that is not written down.
        NobodyServesUnwritten = "nobody-serves-unwritten",
        /// It is written down that no agent came for a part; nothing that follows is begun.
        NobodyServesWritten = "nobody-serves-written",
        /// The code of an attempt has failed; that is not written down.
        PanickedUnwritten = "panicked-unwritten",
        /// It is written down that the code of an attempt has failed; nothing that follows is begun.
        PanickedWritten = "panicked-written",
        /// There is something to remark of a part; that is not written down.
        RemarkUnwritten = "remark-unwritten",
        /// A remark is written down.
        RemarkWritten = "remark-written",
        /// Somebody wants a job to end; that is not written down.
        CancelUnwritten = "cancel-unwritten",
        /// It is written down that somebody wants a job to end; its agents were told nothing.
        CancelWritten = "cancel-written",
        /// The repository holds a job's backup; that is not written down.
        CommittedUnwritten = "committed-unwritten",
        /// It is written down that a backup is complete.
        CommittedWritten = "committed-written",
        /// The repository has refused a job's backup; that is not written down.
        CommitFailedUnwritten = "commit-failed-unwritten",
        /// It is written down that a backup was refused.
        CommitFailedWritten = "commit-failed-written",
        /// A job of the last life is taken up again; that is not written down.
        RestartedUnwritten = "restarted-unwritten",
        /// It is written down that a job was taken up again; nothing of it is begun.
        RestartedWritten = "restarted-written",
        /// It is known what a retention or a prune takes away; that is not written down.
        ClearingStartedUnwritten = "clearing-started-unwritten",
        /// It is written down what a retention or a prune takes away; nothing is gone.
        ClearingStartedWritten = "clearing-started-written",
        /// A retention or a prune has ended; that is not written down.
        ClearingEndedUnwritten = "clearing-ended-unwritten",
        /// It is written down that a retention or a prune has ended.
        ClearingEndedWritten = "clearing-ended-written",
        /// The chain says that a backup was removed; its folder is in its place.
        RetirementNoted = "retirement-noted",
        /// A backup's folder is out of its place; it is not deleted.
        BackupWithdrawn = "backup-withdrawn",
        /// A backup is gone.
        BackupRetired = "backup-retired",
        /// Prune knows what every backup needs; nothing is marked.
        PruneWalked = "prune-walked",
        /// What is garbage is marked; nothing is taken away.
        PruneMarked = "prune-marked",
        /// The index that leaves the garbage out is there; its packs are in their places.
        PruneIndexed = "prune-indexed",
        /// Some packs are in the trash.
        PruneBatchTrashed = "prune-batch-trashed",
        /// All packs that were marked are in the trash.
        PruneTrashed = "prune-trashed",
        /// The trash is empty.
        PruneDeleted = "prune-deleted",
        /// The catalog knows which backups a retention left; its job does not.
        ClearingListed = "clearing-listed",
        /// An event is written down; it is given to no sink.
        AlertsUnrouted = "alerts-unrouted",
        /// An agent has been sent its order.
        TaskHandedOut = "task-handed-out",
        /// All bytes of a segment have come; its pack is not durable.
        SegmentReceived = "segment-received",
        /// A segment's pack is durable; the agent has no answer.
        SegmentDurable = "segment-durable",
        /// An archive is whole and its refs are kept; its task has not ended.
        RefsKept = "refs-kept",
        /// An archive's task has ended; the agent has no answer.
        ArchiveAccepted = "archive-accepted",
        /// A commit has begun.
        CommitBegun = "commit-begun",
        /// Everything that a backup needs was found.
        CommitResolved = "commit-resolved",
        /// The index names everything that a backup needs.
        CommitIndexed = "commit-indexed",
        /// A backup's first archive is staged.
        CommitFirstStaged = "commit-first-staged",
        /// A backup's last archive is staged.
        CommitLastStaged = "commit-last-staged",
        /// Everything of a backup is staged but `backup.json`.
        CommitSummed = "commit-summed",
        /// `backup.json` is staged.
        CommitStaged = "commit-staged",
        /// The lease allows the rename.
        CommitAllowed = "commit-allowed",
        /// A backup is in its place; the chain does not have it.
        CommitRenamed = "commit-renamed",
        /// The chain has a backup; the catalog does not.
        CommitChained = "commit-chained",
        /// The catalog lists a backup; its job does not know.
        BackupListed = "backup-listed",
        /// A verification is about to read.
        VerificationBegun = "verification-begun",
        /// An archive was verified; no verdict of its packs is kept.
        VerificationRead = "verification-read",
        /// Some of what a verification has proven is in the catalog; it goes on.
        ProofsKept = "proofs-kept",
        /// The verdicts of an archive's packs are kept; the catalog does not have the result.
        VerdictsKept = "verdicts-kept",
        /// The catalog has a verification's result; its job does not.
        VerificationRecorded = "verification-recorded",
        /// A restore is planned; whoever asked has no answer.
        RestorePlanned = "restore-planned",
        /// An agent has been sent what opens an archive, but for the end of the answer.
        ArchiveOpened = "archive-opened",
        /// A blob was read for an agent that restores; it has not been sent.
        BlobRead = "blob-read",
        /// What a restore pod stands in for is on record; nothing is told to stop.
        RestorePodNoted = "restore-pod-noted",
        /// What a restore pod stands in for is gone; its pod is not there.
        RestorePodCleared = "restore-pod-cleared",
        /// The agent of a restore pod has joined; it is told nothing.
        RestorePodJoined = "restore-pod-joined",
        /// It is on record that a restore pod is given its order; it has none.
        RestorePodOrdered = "restore-pod-ordered",
        /// It is on record that a restore pod has restored; it is there yet.
        RestorePodDone = "restore-pod-done",
        /// A restore pod is gone; nothing that it stood in for is told to start.
        RestorePodGone = "restore-pod-gone",
        /// What a restore pod stood in for is told to start; that it did is not on record.
        RestorePodStarted = "restore-pod-started",
        /// All that a restore pod stood in for runs, and how the part ends is on record; the job does not know it.
        RestorePodOver = "restore-pod-over",
        /// An agent that said hello is in the catalog; it has no answer.
        HelloRecorded = "hello-recorded",
        /// An agent that joins is in the catalog; it has no answer.
        JoinRecorded = "join-recorded",
        /// An agent has a new certificate in the catalog; it has no answer.
        RenewalRecorded = "renewal-recorded",
    }
}

impl Step {
    /// The step that a run of prune has reached; what has none here is tested with the library.
    pub(crate) fn of_prune(step: PruneStep) -> Option<Self> {
        Some(match step {
            PruneStep::NoteWritten => Self::RetirementNoted,
            PruneStep::Withdrawn => Self::BackupWithdrawn,
            PruneStep::Retired => Self::BackupRetired,
            PruneStep::Walked => Self::PruneWalked,
            PruneStep::Marked => Self::PruneMarked,
            PruneStep::IndexPublished => Self::PruneIndexed,
            PruneStep::BatchTrashed => Self::PruneBatchTrashed,
            PruneStep::Trashed => Self::PruneTrashed,
            PruneStep::TrashDeleted => Self::PruneDeleted,
            PruneStep::Purged
            | PruneStep::Rewritten
            | PruneStep::RewrittenIndexed
            | PruneStep::Sealed
            | PruneStep::OldIndexDeleted
            | PruneStep::BallastReleased
            | PruneStep::BallastMade => return None,
        })
    }

    /// The two steps of the transition that `event` makes: before it is written down, and after.
    pub(crate) fn of(event: &Event) -> [Self; 2] {
        match event {
            Event::Started { .. } => [Self::StartedUnwritten, Self::StartedWritten],
            Event::CannotStart(_) => [Self::CannotStartUnwritten, Self::CannotStartWritten],
            Event::TaskStarted { .. } => [Self::TaskStartedUnwritten, Self::TaskStartedWritten],
            Event::TaskEnded { .. } => [Self::TaskEndedUnwritten, Self::TaskEndedWritten],
            Event::NobodyServes { .. } => [Self::NobodyServesUnwritten, Self::NobodyServesWritten],
            Event::AttemptPanicked { .. } => [Self::PanickedUnwritten, Self::PanickedWritten],
            Event::Remark { .. } => [Self::RemarkUnwritten, Self::RemarkWritten],
            Event::ClearingStarted { .. } => [Self::ClearingStartedUnwritten, Self::ClearingStartedWritten],
            Event::ClearingEnded(_) => [Self::ClearingEndedUnwritten, Self::ClearingEndedWritten],
            Event::CancelRequested => [Self::CancelUnwritten, Self::CancelWritten],
            Event::Committed => [Self::CommittedUnwritten, Self::CommittedWritten],
            Event::CommitFailed(_) => [Self::CommitFailedUnwritten, Self::CommitFailedWritten],
            Event::ControllerRestarted => [Self::RestartedUnwritten, Self::RestartedWritten],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use runtime::steps::Named;

    use super::*;
    use crate::ids::TaskId;
    use crate::jobs::job::JobFailure;
    use crate::jobs::state::{ClearingEnd, Level, TaskEnd};

    #[test]
    fn every_step_has_a_name_of_its_own_that_can_be_a_files() {
        let names: BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'-'))));
    }

    #[test]
    fn every_transition_has_two_steps_that_no_other_has() {
        let (part, task) = (0, TaskId::fresh());
        let failure = || JobFailure::new("it failed", "why", "what to do");
        let events = [
            Event::Started { parts: Vec::new(), backup: "20260101_010000".parse().expect("a name") },
            Event::CannotStart(failure()),
            Event::TaskStarted { part, task, agent: None },
            Event::TaskEnded { part, task, end: TaskEnd::AgentLost },
            Event::NobodyServes { part, reason: String::new() },
            Event::AttemptPanicked { part, attempt: 1 },
            Event::Remark { part, level: Level::Warning, lines: Vec::new() },
            Event::ClearingStarted { removals: Vec::new() },
            Event::ClearingEnded(ClearingEnd::Cancelled),
            Event::CancelRequested,
            Event::Committed,
            Event::CommitFailed(failure()),
            Event::ControllerRestarted,
        ];
        let steps: BTreeSet<_> = events.iter().flat_map(Step::of).map(Step::name).collect();
        assert_eq!(steps.len(), 2 * events.len());
        let in_the_table = Step::ALL
            .iter()
            .filter(|step| step.name().ends_with("-unwritten") || step.name().ends_with("-written"));
        assert_eq!(in_the_table.count(), steps.len(), "there is no step of an event that is gone");
    }
}
