//! Retiring backups and collecting what no backup needs any more.
//!
//! A run goes: finish retirements that were cut off → delete trash whose time has come → take away what an
//! older mark named, if its time has come → plan → copy what lives out of packs that are small or mostly
//! dead → mark what nothing needs. Nothing is locked meanwhile: backups, restores and verifications go on.
//!
//! | module | what |
//! |---|---|
//! | `retire` | a note, and then a backup's folder goes |
//! | `walk` | what is alive |
//! | `plan` | pure: what is garbage, what is worth copying |
//! | `clocks` | pure: waiting by two clocks |
//! | `record` | marks and sealed marks, and what they mean for writers |
//! | `copy` | merging and rewriting without a key |
//! | `sweep` | sealing, the smaller index, the trash |
//! | `ballast` | room on a full disk |
//! | `run` | one run, in order |
//!
//! Must stay true: no blob that a committed backup needs is ever out of reach; a run can be killed
//! anywhere and repeated; two packs hold a blob rather than none.

mod ballast;
mod clocks;
mod copy;
mod plan;
mod record;
mod retire;
mod run;
mod sweep;
mod walk;

use jiff::{SignedDuration, Timestamp};

use crate::error::RepositoryError;
use crate::names::BackupName;
use crate::store::lease::LeaseError;
use crate::work::WorkRecord;

pub(crate) use retire::KnownNotes;
pub use retire::{RetireReport, RetiredNote, Retirement};

/// The fence is read again before each so many deletions.
const BATCH: usize = 100;

/// How prune works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneSettings {
    /// Between a mark and the sweep, by both clocks.
    pub grace: SignedDuration,
    /// Between the sweep and the deletion, by both clocks.
    pub trash_for: SignedDuration,
    /// Packs that nothing needs and that are younger than this stay: the next attempt of a backup that
    /// failed builds on them.
    pub young: SignedDuration,
    /// The most bytes that one run copies.
    pub copy_at_most: u64,
    /// The length of the ballast, in bytes; 0 for none.
    pub ballast: u64,
}

impl Default for PruneSettings {
    fn default() -> Self {
        Self {
            grace: SignedDuration::from_hours(24),
            trash_for: SignedDuration::from_hours(7 * 24),
            young: SignedDuration::from_hours(3 * 24),
            copy_at_most: 4 << 30,
            ballast: 64 << 20,
        }
    }
}

/// What a run is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOrder {
    /// How.
    pub settings: PruneSettings,
    /// No waiting by time: a person wants the space. Leases and the brake hold all the same.
    pub now: bool,
    /// The brake may be passed: a person has seen the plan.
    pub approved: bool,
    /// Plans as if these backups were retired already. A run pays no heed to it.
    pub without: Vec<BackupName>,
}

/// Watches over retiring and pruning.
pub trait Watch {
    /// The controller's clock, asked again and again: runs are long.
    fn now(&self) -> Timestamp;

    /// Says whether this process may still write: asked before each batch of at most 100 deletions.
    fn may_write(&self) -> Result<(), LeaseError>;

    /// A step is done and durable; the next begins when this returns.
    fn done(&self, _step: PruneStep) {}

    /// For people: `done` of `total` backups, packs to be made, or packs to be removed.
    fn progress(&self, _phase: Phase, _done: u64, _total: u64) {}

    /// True to stop at the next safe place, which is never far.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Backups are read, to know what is alive.
    Reading,
    /// Packs are merged and rewritten.
    Copying,
    /// Packs are removed.
    Removing,
}

/// What is done, so that a test can cut there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PruneStep {
    /// The note about a retired backup is written.
    NoteWritten,
    /// The backup is gone from the root.
    Withdrawn,
    /// What was left of it is deleted.
    Retired,
    /// Every backup was read.
    Walked,
    /// A new pack holds what lived in others.
    Rewritten,
    /// And the index names it.
    RewrittenIndexed,
    /// The mark is written.
    Marked,
    /// The mark is sealed.
    Sealed,
    /// The index files that the smaller one stands for are deleted.
    OldIndexDeleted,
    /// The index names nothing of what is sealed.
    IndexPublished,
    /// A batch of packs is in the trash.
    BatchTrashed,
    /// All of them are.
    Trashed,
    /// A batch of packs is deleted.
    Purged,
    /// The trash of one mark is empty and its record gone.
    TrashDeleted,
    /// There was no space, and the ballast is gone.
    BallastReleased,
    /// The ballast is there again.
    BallastMade,
}

/// So many packs of so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Packs.
    pub packs: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }

    fn add_all(&mut self, other: Amount) {
        self.packs += other.packs;
        self.bytes += other.bytes;
    }
}

/// What a run would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunePlan {
    /// All packs.
    pub total: Amount,
    /// Packs of which nothing is needed, young ones left out.
    pub dead: Amount,
    /// Packs of which nothing is needed yet, and that are too young to be taken.
    pub young: Amount,
    /// Packs all of whose needed blobs lie in others too.
    pub spare: Amount,
    /// Packs that are mostly dead, and are written anew without it.
    pub rewritten: Amount,
    /// Small packs that become few.
    pub merged: Amount,
    /// Bytes that are taken away for good: dead packs and holes together.
    pub taken: u64,
    /// Why it would not be done without a person's word.
    pub brake: Option<Brake>,
    /// A mark that waits; nothing new is marked before it is done with.
    pub marked: Option<MarkState>,
    /// What lies in the trash.
    pub trash: Amount,
    /// Blobs that backups need and no pack has: damage, for a verification to name.
    pub missing_blobs: u64,
}

/// More than a fifth would go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brake {
    /// Of the packs, so many in a hundred.
    pub packs_percent: u8,
    /// Of the bytes, so many in a hundred.
    pub bytes_percent: u8,
}

/// A mark that was not swept yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkState {
    /// When it was made.
    pub at: Timestamp,
    /// What it names.
    pub amount: Amount,
    /// The work it waits for.
    pub waits_for: Vec<WorkRecord>,
    /// Not before this either.
    pub not_before: Timestamp,
}

/// What a run has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What it found to do.
    pub plan: PrunePlan,
    /// Retirements that had been cut off.
    pub finished_retiring: Vec<BackupName>,
    /// Deleted for good.
    pub deleted: Amount,
    /// Moved to the trash.
    pub swept: Amount,
    /// Packs of the trash that were needed again. Never in the normal course.
    pub brought_back: u64,
    /// New packs that stand for small or mostly dead ones.
    pub copied: Amount,
    /// Marked now.
    pub marked: Amount,
    /// A mark whose time has not come.
    pub waiting: Option<MarkState>,
    /// The brake held: nothing was marked.
    pub held: Option<Brake>,
}

/// Where prune stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneState {
    /// A mark that was not swept yet.
    pub marked: Option<MarkState>,
    /// What lies in the trash.
    pub trash: Amount,
}

/// Prune cannot go on; nothing was taken away.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// One at a time.
    #[error("backups are being retired or pruned already")]
    Running,
    /// What a backup needs cannot be known.
    #[error("backup {backup} cannot be read, so that nothing may be taken away")]
    Unreadable {
        /// Which.
        backup: BackupName,
        /// Why.
        #[source]
        source: Box<RepositoryError>,
    },
    /// A backup is gone and nobody retired it.
    #[error("backup {backup} is in the chain and its folder is missing, so that nothing may be taken away")]
    Missing {
        /// Which.
        backup: BackupName,
    },
    /// A backup is gone, and so is the line that says which it was.
    #[error(
        "line {sequence} of the chain cannot be had and no backup here is the one it tells of, so that nothing may be taken away"
    )]
    Unknown {
        /// The place in the order.
        sequence: u64,
    },
    /// The clocks cannot both be right.
    #[error(
        "it is {controller} here and {storage} at the repository's storage, so that no grace can be measured"
    )]
    ClocksDiffer {
        /// Here.
        controller: Timestamp,
        /// There.
        storage: Timestamp,
    },
    /// A clock stepped back.
    #[error("it was {was} before and is {is} now: a clock went back, so that no grace can be measured")]
    ClockWentBack {
        /// Then.
        was: Timestamp,
        /// Now.
        is: Timestamp,
    },
}

impl PruneError {
    /// What to do, in one line.
    pub fn hint(&self) -> &'static str {
        match self {
            PruneError::Running => "wait until it has ended",
            PruneError::Unreadable { .. } => {
                "repair it (`nsctl repository check --repair`), or do without it (`… --repair --give-up BACKUP`)"
            }
            PruneError::Missing { .. } => {
                "bring the folder back, or do without it: `nsctl repository check --repair --give-up BACKUP`"
            }
            PruneError::Unknown { .. } => {
                "bring that backup's folder, or the line (`repository/chain`), back from a copy of this repository; or do without it: `nsctl repository check --repair --give-up N`"
            }
            PruneError::ClocksDiffer { .. } | PruneError::ClockWentBack { .. } => {
                "set both clocks right (NTP) and run it again"
            }
        }
    }
}
