//! Which steps there are, how each is brought about, and which faults fit it.

use std::fmt;

/// What happens while a process is held inside of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9` of the agent.
    AgentKilled,
    /// `kill -9` of the controller.
    ControllerKilled,
    /// Every connection between them breaks; the network is there again before the step goes on.
    StreamCut,
    /// The step ends, and then nobody hears of it: the network stays dark until it has, or whoever ordered
    /// the job has hung up.
    AnswerLost,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] =
        [Self::AgentKilled, Self::ControllerKilled, Self::StreamCut, Self::AnswerLost];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AgentKilled => "agent killed",
            Self::ControllerKilled => "controller killed",
            Self::StreamCut => "stream cut",
            Self::AnswerLost => "answer lost",
        })
    }
}

/// What goes on when the step is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Backup,
    Verify,
    /// The plan of a restore, which is then carried out.
    Plan,
    /// In place.
    Restore,
    /// A restore whose swap fails.
    Undo,
    /// The start of an agent that was killed in a swap.
    Recovery,
    /// The start of a controller that was killed in a backup.
    TakenUp,
    Cancel,
    /// A retention that removes backups.
    Retain,
    /// A prune of what a retention has left, without grace.
    Clear,
    /// A verification of what the backup does not hold.
    CannotStart,
    /// A backup while the agent stays away.
    NobodyServes,
    /// A backup of a source that has lost everything.
    Remark,
    CommitFailed,
    /// An attempt whose code panics.
    Panicked,
    /// The agent connects.
    Hello,
    /// The agent joins.
    Join,
    /// The agent, whose clock is ahead, renews its certificate.
    Renewal,
    /// A restore around which workloads of a cluster are stopped: in the suite `kubernetes`.
    Workloads,
    /// A backup of a chain that is written to: in the suite `engines`.
    Chain,
}

impl Scenario {
    /// How the job may end.
    pub(crate) fn ends(self) -> &'static [&'static str] {
        match self {
            // A crash of the agent ends in a new attempt, which may succeed.
            Self::Undo => &["failed", "complete"],
            // A crash before it was written down forgets what was asked for.
            Self::Cancel => &["cancelled", "complete"],
            Self::CommitFailed => &["failed", "complete"],
            Self::CannotStart | Self::NobodyServes => &["failed"],
            _ => &["complete"],
        }
    }

    pub(crate) fn restores(self) -> bool {
        matches!(self, Self::Plan | Self::Restore | Self::Undo | Self::Recovery)
    }
}

/// Who is answered when the step is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Nobody: what follows is a record.
    Nobody,
    /// The process at the other end of the network.
    Peer,
    /// The person, or program, that ordered something.
    Person,
}

use Answered::{Nobody, Peer, Person};
use Scenario as S;

/// Every step of both programs.
pub(crate) const ROWS: &[(&str, Scenario, Answered)] = &[
    ("job-ordered", S::Backup, Person),
    ("started-unwritten", S::Backup, Nobody),
    ("started-written", S::Backup, Nobody),
    ("cannot-start-unwritten", S::CannotStart, Nobody),
    ("cannot-start-written", S::CannotStart, Nobody),
    ("task-started-unwritten", S::Backup, Nobody),
    ("task-started-written", S::Restore, Nobody),
    ("task-ended-unwritten", S::Backup, Nobody),
    ("task-ended-written", S::Restore, Nobody),
    ("nobody-serves-unwritten", S::NobodyServes, Nobody),
    ("nobody-serves-written", S::NobodyServes, Nobody),
    ("panicked-unwritten", S::Panicked, Nobody),
    ("panicked-written", S::Panicked, Nobody),
    ("remark-unwritten", S::Remark, Nobody),
    ("remark-written", S::Remark, Nobody),
    ("cancel-unwritten", S::Cancel, Nobody),
    ("cancel-written", S::Cancel, Person),
    ("committed-unwritten", S::Backup, Nobody),
    ("committed-written", S::Backup, Nobody),
    ("commit-failed-unwritten", S::CommitFailed, Nobody),
    ("commit-failed-written", S::CommitFailed, Nobody),
    ("restarted-unwritten", S::TakenUp, Nobody),
    ("restarted-written", S::TakenUp, Nobody),
    ("clearing-started-unwritten", S::Retain, Nobody),
    ("clearing-started-written", S::Clear, Nobody),
    ("clearing-ended-unwritten", S::Clear, Nobody),
    ("clearing-ended-written", S::Retain, Nobody),
    ("retirement-noted", S::Retain, Nobody),
    ("backup-withdrawn", S::Retain, Nobody),
    ("backup-retired", S::Retain, Nobody),
    ("prune-walked", S::Retain, Nobody),
    ("prune-marked", S::Clear, Nobody),
    ("prune-indexed", S::Clear, Nobody),
    ("prune-batch-trashed", S::Clear, Nobody),
    ("prune-trashed", S::Clear, Nobody),
    ("prune-deleted", S::Clear, Nobody),
    ("clearing-listed", S::Retain, Nobody),
    ("alerts-unrouted", S::Backup, Nobody),
    ("task-handed-out", S::Backup, Peer),
    ("segment-received", S::Backup, Nobody),
    ("segment-durable", S::Backup, Peer),
    ("refs-kept", S::Backup, Peer),
    ("archive-accepted", S::Backup, Peer),
    ("commit-begun", S::Backup, Nobody),
    ("commit-resolved", S::Backup, Nobody),
    ("commit-indexed", S::Backup, Nobody),
    ("commit-first-staged", S::Backup, Nobody),
    ("commit-last-staged", S::Backup, Nobody),
    ("commit-summed", S::Backup, Nobody),
    ("commit-staged", S::Backup, Nobody),
    ("commit-allowed", S::Backup, Nobody),
    ("commit-renamed", S::Backup, Nobody),
    ("commit-chained", S::Backup, Nobody),
    ("backup-listed", S::Backup, Nobody),
    ("verification-begun", S::Verify, Nobody),
    ("verification-read", S::Verify, Nobody),
    ("proofs-kept", S::Verify, Nobody),
    ("verdicts-kept", S::Verify, Nobody),
    ("verification-recorded", S::Verify, Nobody),
    ("restore-planned", S::Plan, Person),
    ("archive-opened", S::Restore, Peer),
    ("blob-read", S::Restore, Peer),
    ("restore-pod-noted", S::Workloads, Nobody),
    ("restore-pod-cleared", S::Workloads, Nobody),
    ("restore-pod-joined", S::Workloads, Nobody),
    ("restore-pod-ordered", S::Workloads, Nobody),
    ("restore-pod-done", S::Workloads, Nobody),
    ("restore-pod-gone", S::Workloads, Nobody),
    ("restore-pod-started", S::Workloads, Nobody),
    ("restore-pod-over", S::Workloads, Nobody),
    ("hello-recorded", S::Hello, Peer),
    ("join-recorded", S::Join, Peer),
    ("renewal-recorded", S::Renewal, Peer),
    ("renewal-answered", S::Renewal, Nobody),
    ("renewal-kept", S::Renewal, Nobody),
    ("join-answered", S::Join, Nobody),
    ("join-kept", S::Join, Nobody),
    ("welcomed", S::Hello, Nobody),
    ("task-taken", S::Restore, Nobody),
    ("blobs-known", S::Backup, Nobody),
    ("hold-begun", S::Chain, Nobody),
    ("hold-filled", S::Chain, Nobody),
    ("hold-linked", S::Chain, Nobody),
    ("snapshot-tried", S::Chain, Nobody),
    ("snapshot-made", S::Chain, Nobody),
    ("snapshot-writable", S::Chain, Nobody),
    ("snapshot-emptied", S::Chain, Nobody),
    ("snapshot-gone", S::Chain, Nobody),
    ("pause-noted", S::Chain, Nobody),
    ("pause-guarded", S::Chain, Nobody),
    ("pause-begun", S::Chain, Nobody),
    ("pause-filled", S::Chain, Nobody),
    ("pause-told", S::Chain, Nobody),
    ("pause-ended", S::Chain, Nobody),
    ("segment-sealed", S::Backup, Nobody),
    ("segment-answered", S::Backup, Nobody),
    ("archive-made", S::Backup, Peer),
    ("archive-answered", S::Backup, Nobody),
    ("cache-kept", S::Backup, Nobody),
    ("keys-known", S::Restore, Nobody),
    ("trial-made", S::Plan, Nobody),
    ("plan-tried", S::Plan, Peer),
    ("place-on-record", S::Restore, Nobody),
    ("staging-begun", S::Restore, Nobody),
    ("first-staged", S::Restore, Nobody),
    ("all-staged", S::Restore, Nobody),
    ("staged-durable", S::Restore, Nobody),
    ("workload-noted", S::Workloads, Nobody),
    ("workload-told", S::Workloads, Nobody),
    ("workload-scaled", S::Workloads, Nobody),
    ("swap-begun", S::Restore, Nobody),
    ("first-old-away", S::Restore, Nobody),
    ("first-swapped", S::Restore, Nobody),
    ("middle-old-away", S::Restore, Nobody),
    ("middle-swapped", S::Restore, Nobody),
    ("last-swapped", S::Restore, Nobody),
    ("root-set", S::Restore, Nobody),
    ("swap-durable", S::Restore, Nobody),
    ("swap-done", S::Restore, Peer),
    ("undo-begun", S::Undo, Nobody),
    ("first-moved-back", S::Undo, Nobody),
    ("undo-durable", S::Undo, Nobody),
    ("undo-done", S::Undo, Peer),
    ("older-reaped", S::Restore, Peer),
    ("staging-tidied", S::Restore, Peer),
    ("off-record", S::Restore, Peer),
    ("result-due", S::Restore, Peer),
    ("recovery-begun", S::Recovery, Nobody),
    ("recovery-ended", S::Recovery, Nobody),
];

/// Why a fault does not fit a step; `None` if it does.
pub(crate) fn why_not(scenario: Scenario, answered: Answered, fault: Fault) -> Option<&'static str> {
    match (scenario, fault, answered) {
        (S::Workloads, _, _) => Some("it takes a cluster: `kubernetes_restore` and `kubernetes` hold it"),
        (S::Chain, _, _) => {
            Some("it takes an engine that writes: `chains` holds it, and `chains_hosts` for snapshots")
        }
        (_, Fault::AnswerLost, Nobody) => Some("a record follows, not an answer"),
        (S::NobodyServes, Fault::AgentKilled | Fault::StreamCut, _) => {
            Some("the agent is away: that is what the step is")
        }
        _ => None,
    }
}

/// The cells that the gate runs: one of each kind.
pub(crate) const SAMPLE: &[(&str, Fault)] = &[
    ("segment-durable", Fault::AnswerLost),
    ("archive-made", Fault::AgentKilled),
    ("commit-staged", Fault::ControllerKilled),
    ("commit-renamed", Fault::ControllerKilled),
    ("backup-withdrawn", Fault::ControllerKilled),
    ("prune-trashed", Fault::ControllerKilled),
    ("job-ordered", Fault::AnswerLost),
    ("first-old-away", Fault::AgentKilled),
    ("middle-swapped", Fault::StreamCut),
    ("result-due", Fault::AnswerLost),
];
