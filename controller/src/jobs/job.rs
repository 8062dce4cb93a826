//! What a job is: an order, a state, one part for each source. Kept in the catalog as JSON.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use repository::backup::manifest::ArchiveManifest;
use repository::names::{BackupName, Component, SourceId};
use repository::verify::Depth;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, JobId, TaskId};
use crate::jobs::confirmed::Confirmed;
use crate::jobs::safety::Safety;

/// A backup, a verification, a restore, a retention or a prune, from its order to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Which one.
    pub id: JobId,
    /// What was ordered.
    pub order: Order,
    /// Where it stands.
    pub state: JobState,
    /// The backup that it makes, verifies or restores; none while a backup is queued.
    pub backup: Option<BackupName>,
    /// When it was ordered.
    pub created_at: Timestamp,
    /// When it left the queue.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// One for each source; none while it is queued, and none of a retention or a prune.
    pub parts: Vec<Part>,
    /// What a retention removes.
    #[serde(default)]
    pub removals: Vec<Removal>,
    /// What a retention or a prune has done.
    #[serde(default)]
    pub cleared: Option<Cleared>,
    /// Why it failed.
    pub failure: Option<JobFailure>,
    /// Somebody asked to end it.
    pub cancelling: bool,
    /// The schedule that ordered it; none: somebody did.
    #[serde(default)]
    pub schedule: Option<String>,
}

/// What was ordered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// Make a backup.
    Backup {
        /// Of these; none: of all that any agent serves.
        components: Vec<Component>,
        /// Why it is to be kept; none: it is not pinned.
        pin: Option<String>,
        /// A dump's folder at the agent, which is backed up as the one server that is meant.
        #[serde(default)]
        import: Option<String>,
    },
    /// Verify a backup.
    Verify {
        /// Which.
        backup: BackupName,
        /// These parts; none: all.
        components: Vec<Component>,
        /// How thoroughly.
        depth: Depth,
        /// So many bytes, and what is due; none: all that the backup needs.
        #[serde(default)]
        budget: Option<u64>,
        /// And restored into a scratch folder and opened there, at an agent that is marked for it.
        #[serde(default)]
        drill: bool,
    },
    /// Restore from a backup.
    Restore {
        /// Which.
        backup: BackupName,
        /// What goes where, as it was planned and confirmed.
        places: Vec<RestorePlace>,
        /// The job that backs up before what is replaced; none: nothing is, or nobody wants it.
        #[serde(default)]
        safety: Option<JobId>,
        /// The restore that this one takes back.
        #[serde(default)]
        undo_of: Option<JobId>,
        /// Of the confirmed plan.
        #[serde(default)]
        digest: String,
    },
    /// Remove the backups that no rule keeps, and then what nothing needs any more.
    Retention {
        /// None but these, as they were planned and confirmed; none: whatever the rules say.
        confirmed: Option<Vec<BackupName>>,
        /// A person has seen that much goes.
        approved: bool,
    },
    /// Free the space of what nothing needs any more.
    Prune {
        /// Without grace.
        now: bool,
        /// A person has seen that much goes.
        approved: bool,
    },
}

impl Order {
    /// True if somebody who asks for `other` once more, as whose answer was lost does, could mean this one. What was
    /// worked out when it was ordered (which backup is the newest, what a plan says) may be another one by now.
    pub fn asks_for_the_same(&self, other: &Order) -> bool {
        match (self, other) {
            (
                Self::Backup { components, import, pin },
                Self::Backup { components: others, import: of_other, pin: kept },
            ) => {
                let is_safety = [self, other].iter().all(|order| Safety::of_order(order).is_some());
                components == others && import == of_other && (pin == kept || is_safety)
            }
            (
                Self::Verify { components, depth, drill, .. },
                Self::Verify { components: others, depth: of_other, drill: as_other, .. },
            ) => components == others && (depth, drill) == (of_other, as_other),
            (
                Self::Restore { places, undo_of, .. },
                Self::Restore { places: others, undo_of: of_other, .. },
            ) => {
                let sources = |places: &[RestorePlace]| -> BTreeSet<SourceId> {
                    places.iter().map(|place| place.source.clone()).collect()
                };
                undo_of == of_other && sources(places) == sources(others)
            }
            (Self::Retention { .. }, Self::Retention { .. }) => true,
            (Self::Prune { now, .. }, Self::Prune { now: of_other, .. }) => now == of_other,
            _ => false,
        }
    }

    /// True for what takes something away from the repository.
    pub fn clears(&self) -> bool {
        matches!(self, Self::Retention { .. } | Self::Prune { .. })
    }
}

/// A backup that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Which.
    pub backup: BackupName,
    /// Why, in one line; it stays in the chain.
    pub rule: String,
}

/// What a retention or a prune has done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cleared {
    /// Backups that are gone.
    pub backups: Vec<BackupName>,
    /// Packs that were deleted.
    pub packs: u64,
    /// Bytes that they had.
    pub freed_bytes: u64,
    /// Bytes of packs that were written anew.
    pub rewritten_bytes: u64,
    /// Bytes that a later run frees.
    pub waiting_bytes: u64,
    /// When that may be.
    pub waits_until: Option<Timestamp>,
    /// What a person should know.
    pub remarks: Vec<String>,
}

/// One source's part of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlace {
    /// The source whose archive it is.
    pub source: SourceId,
    /// The driver that made it.
    pub kind: String,
    /// The agent that writes it back.
    pub agent: AgentId,
    /// Into this folder on the agent's host; none: in place.
    pub folder: Option<String>,
    /// Only entries that match one of these; none: all.
    pub globs: Vec<String>,
    /// Which collections of a server's databases.
    #[serde(default)]
    pub databases: Databases,
    /// What the confirmed plan allows to be written there; nothing before there is a plan.
    #[serde(default)]
    pub allowance: Allowance,
    /// The confirmed plan; none before there is one.
    #[serde(default)]
    pub confirmed: Option<Confirmed>,
    /// It takes back an earlier restore: what that has made goes, and the state that it had replaced is kept.
    #[serde(default)]
    pub takes_back: bool,
}

/// What is chosen of what lies at a server, the databases of one or the objects of a cluster; by itself all of
/// them, each under its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Databases {
    /// `DB` or `DB.COLLECTION`, in which `*` stands for any letters; none: all, or what is renamed. Of a cluster
    /// `[NAMESPACE/]KIND/NAME[:KEY]`.
    pub include: Vec<String>,
    /// Old and new names.
    pub renames: Vec<(String, String)>,
    /// What is live and not in the backup goes.
    pub drop_others: bool,
    /// Objects go into this namespace; empty: each into its own.
    #[serde(default)]
    pub to_namespace: String,
    /// Fields of objects that another manager has set are taken over.
    #[serde(default)]
    pub force_conflicts: bool,
    /// Up to which height a chain's validator has signed, as the operator states.
    #[serde(default)]
    pub signer_height: Option<u64>,
    /// The keys of a chain's node come along into another folder, too.
    #[serde(default)]
    pub with_keys: bool,
}

impl Databases {
    /// True if something was said of them.
    pub fn is_chosen(&self) -> bool {
        *self != Self::default()
    }

    /// The kind of source that is meant where no component was named; none: any.
    pub fn of_kind(&self) -> Option<&'static str> {
        let of_cluster = !self.to_namespace.is_empty() || self.include.iter().any(|one| one.contains('/'));
        let of_server = !self.include.is_empty() || !self.renames.is_empty() || self.drop_others;
        match (of_cluster, of_server) {
            (true, _) => Some("configs"),
            (false, true) => Some("mongodb"),
            (false, false) => None,
        }
    }

    /// For people: nothing where nothing was said.
    pub fn told(&self) -> String {
        /// So many are named; an undo may mean thousands.
        const NAMED: usize = 20;
        let renames = self.renames.iter().map(|(from, to)| format!("{from} as {to}"));
        let all: Vec<String> = self.include.iter().cloned().chain(renames).collect();
        let mut told = all[..all.len().min(NAMED)].join(", ");
        if all.len() > NAMED {
            told.push_str(&format!(" and {} more", all.len() - NAMED));
        }
        if !self.to_namespace.is_empty() {
            let before = if told.is_empty() { "all" } else { &told };
            told = format!("{before} into the namespace {}", self.to_namespace);
        }
        if let Some(height) = self.signer_height {
            let signed = format!("and its validator has signed up to height {height}");
            told = if told.is_empty() { signed } else { format!("{told}, {signed}") };
        }
        if self.force_conflicts {
            told.push_str(if told.is_empty() {
                "and what others manage is taken over"
            } else {
                ", and what others manage is taken over"
            });
        }
        if self.drop_others {
            told.push_str(if told.is_empty() {
                "and nothing else stays"
            } else {
                ", and nothing else stays"
            });
        }
        told
    }
}

/// What a confirmed plan allows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allowance {
    /// Entries that may be written.
    pub entries: u64,
    /// Bytes of content that may be written.
    pub bytes: u64,
    /// How many entries may have a privilege, by the word that `proto` gives it.
    pub privileges: BTreeMap<String, u64>,
}

/// A depth as people and the catalog write it.
pub fn depth_word(depth: Depth) -> &'static str {
    match depth {
        Depth::Listed => "listed",
        Depth::Hashed => "hashed",
        Depth::Opened => "opened",
    }
}

/// The deepest of all: what it is called, by people and in the catalog.
pub const DRILLED: &str = "drilled";

/// The same for a verification that may be a drill, too.
pub fn depth_words(depth: Depth, drill: bool) -> &'static str {
    if drill { DRILLED } else { depth_word(depth) }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its turn.
    Queued,
    /// Its parts are at work.
    Running,
    /// All parts of a backup have ended; the repository is told. It can no longer be cancelled.
    Committing,
    /// Everything that was asked for was done.
    Complete,
    /// It was done, and something is missing.
    Incomplete,
    /// It was not done; or a verification found damage.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl JobState {
    /// True if nothing will change any more.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Complete | Self::Incomplete | Self::Failed | Self::Cancelled)
    }
}

/// The kind of a source that is a server with databases.
pub(crate) const MONGODB: &str = "mongodb";

/// One source's part of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Component and name.
    pub source: SourceId,
    /// Its driver.
    pub kind: String,
    /// The agent that works, or worked last, at it.
    pub agent: Option<AgentId>,
    /// Where it stands.
    pub state: PartState,
    /// How often it was begun.
    pub attempt: u32,
    /// Why it is not complete, in one line.
    pub reason: Option<String>,
    /// What it brought.
    pub result: Option<PartResult>,
    /// An attempt was begun whose answer never came, and none after it has told how things stand: what it was
    /// to do may be done.
    #[serde(default)]
    pub is_unknown: bool,
}

impl Part {
    /// A part that nobody works at yet.
    pub fn waiting(source: SourceId, kind: impl Into<String>) -> Self {
        let state = PartState::Waiting;
        let (agent, attempt, reason, result) = (None, 0, None, None);
        Self { source, kind: kind.into(), agent, state, attempt, reason, result, is_unknown: false }
    }

    /// A part that cannot even be begun.
    pub fn impossible(source: SourceId, kind: impl Into<String>, reason: impl Into<String>) -> Self {
        let failed = Self::waiting(source, kind);
        Self { state: PartState::Failed, reason: Some(reason.into()), ..failed }
    }
}

/// Where a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// Nobody works at it: its agent is waited for, or there is no room yet.
    Waiting,
    /// It is worked at under this task.
    Running {
        /// The attempt.
        task: TaskId,
    },
    /// Done.
    Complete,
    /// Done, and something is missing.
    Incomplete,
    /// Not done, or found damaged.
    Failed,
    /// Ended before it was done.
    Cancelled,
}

impl PartState {
    /// True if nothing will change any more.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running { .. })
    }
}

/// What a part brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartResult {
    /// An archive. Its refs lie in the state folder until the backup is committed.
    Archive {
        /// The attempt that made it: its refs are the ones that count.
        task: TaskId,
        /// As it will stand in the repository.
        manifest: Box<ArchiveManifest>,
        /// The first problems, for people.
        problems: Vec<Problem>,
    },
    /// A verification.
    Verified {
        /// What is damaged, a line each; empty: it is intact.
        findings: Vec<String>,
        /// Bytes of packs that this job has read, those included that only other backups need.
        bytes: u64,
        /// Entries that were found readable; 0 where the depth does not look at them.
        entries: u64,
        /// How much is proven, and when it was.
        #[serde(default)]
        proven: Proven,
    },
    /// A restore.
    Restored {
        /// How many entries were written.
        entries: u64,
        /// How many bytes were written.
        bytes: u64,
        /// Where the replaced state is kept; none: there was none.
        previous_state: Option<String>,
        /// What a person should know.
        warnings: Vec<String>,
        /// How many entries were replaced, created and removed, each with all below it.
        #[serde(default)]
        swapped: [u64; 3],
        /// What was replaced and removed at a server, by name; empty: not told.
        #[serde(default)]
        names: Vec<String>,
        /// What was done, in order.
        #[serde(default)]
        steps: Vec<RestoreStep>,
        /// Why all of it was taken back.
        #[serde(default)]
        undone: Option<String>,
    },
}

/// A step of a restore that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreStep {
    /// In one word.
    pub step: String,
    /// When it had ended.
    pub at: Timestamp,
    /// For people.
    pub detail: String,
}

/// How much of an archive is proven, in bytes of the packs that it needs. Nothing is claimed beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// By this job.
    pub now: u64,
    /// Earlier, and not read again.
    pub earlier: u64,
    /// When the oldest of those was.
    pub oldest: Option<Timestamp>,
    /// Never.
    pub unread: u64,
    /// What a person should know: what was mended, what a budget did not suffice for.
    pub notes: Vec<String>,
}

/// Something that a source could not give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `unreadable`, `vanished`, `changed`, `left_out`, `suspect`.
    pub kind: ProblemKind,
    /// In the archive, as bytes.
    pub path: Vec<u8>,
    /// In one line.
    pub cause: String,
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// It was there and could not be read.
    Unreadable,
    /// It was gone when its turn came.
    Vanished,
    /// It changed while it was read.
    Changed,
    /// It was left out by a rule: another file system, the target of a listed link.
    LeftOut,
    /// It is archived as it is, and is not what its name says.
    Suspect,
}

/// Why a job failed: a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub hint: String,
}

impl JobFailure {
    /// From three lines.
    pub fn new(what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), hint: hint.into() }
    }
}

impl Job {
    /// A job that waits for its turn.
    pub fn queued(id: JobId, order: Order, now: Timestamp) -> Self {
        let backup = match &order {
            Order::Backup { .. } | Order::Retention { .. } | Order::Prune { .. } => None,
            Order::Verify { backup, .. } | Order::Restore { backup, .. } => Some(backup.clone()),
        };
        Self {
            id,
            order,
            state: JobState::Queued,
            backup,
            created_at: now,
            started_at: None,
            ended_at: None,
            parts: Vec::new(),
            removals: Vec::new(),
            cleared: None,
            failure: None,
            cancelling: false,
            schedule: None,
        }
    }

    /// `backup`, `verify`, `restore`, `retention` or `prune`.
    pub fn kind(&self) -> &'static str {
        match self.order {
            Order::Backup { .. } => "backup",
            Order::Verify { .. } => "verify",
            Order::Restore { .. } => "restore",
            Order::Retention { .. } => "retention",
            Order::Prune { .. } => "prune",
        }
    }
}
