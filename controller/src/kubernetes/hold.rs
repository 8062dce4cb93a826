//! What a restore by a restore pod has stopped, and how far it is: its record in the catalog.
//!
//! Must stay true: it is written before the step that it tells of ([`Hold::handed_out`] before the order, [`Hold::done`]
//! and [`Hold::end`] before anything is started), so that whoever comes after a crash neither starts programs on a
//! volume that may be half swapped nor restores over what they have written since.

use repository::names::SourceId;
use serde::{Deserialize, Serialize};

use super::api::WorkloadId;
use crate::ids::{AgentId, JobId};
use crate::jobs::job::{PartResult, RestoreStep};

/// What a restore has stopped, and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// The restore.
    pub(crate) job: JobId,
    /// Which of its parts.
    pub(crate) part: usize,
    /// What ran, in the order in which it is started.
    pub(crate) stopped: Vec<Ran>,
    /// What was done, for the report.
    pub(crate) steps: Vec<RestoreStep>,
    /// An order is out whose end is not known: the volume may be half swapped.
    #[serde(default)]
    pub(crate) handed_out: Option<HandedOut>,
    /// What the restore has brought, once it has.
    pub(crate) done: Option<PartResult>,
    /// What was stopped is told to start on what the restore has brought.
    #[serde(default)]
    pub(crate) was_started: bool,
    /// Why it is taken back.
    pub(crate) undo: Option<String>,
    /// How the part ends, once that is known: what was stopped is started, and nothing is restored any more.
    #[serde(default)]
    pub(crate) end: Option<End>,
    /// What was restored may be live, whatever is heard of the order that went out last: one before it was lost, or an
    /// agent has carried its swap through.
    #[serde(default)]
    pub(crate) may_be_live: bool,
    /// All is told to run again. It is kept until the end is in the job.
    #[serde(default)]
    pub(crate) is_over: bool,
}

impl Hold {
    /// True if nobody can say that the state before the restore is live.
    pub(crate) fn is_unknown(&self) -> bool {
        self.may_be_live || self.handed_out.is_some()
    }
}

/// A workload that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) id: WorkloadId,
    pub(crate) replicas: i64,
}

/// Whom an order was given to, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedOut {
    pub(crate) agent: AgentId,
    pub(crate) source: SourceId,
}

/// How a part ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Complete(PartResult),
    Failed { reason: String, result: Option<PartResult> },
    Cancelled,
}
