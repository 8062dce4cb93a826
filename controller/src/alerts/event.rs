//! Events: something that somebody has to be told, and the end of it.
//!
//! Must stay true: what an event says holds no secret, no content and no name of a file; the text is written
//! by whoever raises it, the kind decides how much it matters.

use jiff::Timestamp;
use repository::names::BackupName;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::JobId;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Things go as they should; told only where a route asks for it.
    Info,
    /// Somebody wants to know it.
    Notice,
    /// Something needs attention within days.
    Warning,
    /// Data may be without a backup that can be trusted.
    Critical,
}

impl Severity {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $severity:ident, $shape:ident;)*) => {
        /// What can be told.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As it is written in routes and messages.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// How much it matters where it is raised.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity),* }
            }

            fn shape(self) -> Shape {
                match self { $(Self::$name => Shape::$shape),* }
            }
        }
    };
}

/// When an event of a kind is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Each time, and nothing stays wrong.
    Told,
    /// Each time, and it stays wrong until it recovers.
    Failure,
    /// Once, until it recovers.
    Condition,
}

kinds! {
    /// A backup has begun.
    BackupStarted = "backup_started", Info, Told;
    /// A backup is complete.
    BackupSucceeded = "backup_succeeded", Info, Told;
    /// A backup lacks something.
    BackupIncomplete = "backup_incomplete", Warning, Failure;
    /// A backup failed.
    BackupFailed = "backup_failed", Critical, Failure;
    /// A backup was due and was not made.
    BackupMissed = "backup_missed", Critical, Failure;
    /// The newest verified backup of a component is older than it may be.
    BackupOverdue = "backup_overdue", Critical, Condition;
    /// A verification found nothing wrong.
    VerifySucceeded = "verify_succeeded", Info, Told;
    /// A verification failed or found damage.
    VerifyFailed = "verify_failed", Critical, Failure;
    /// A verification found nothing wrong, and there was nothing to read of a part.
    VerifyIncomplete = "verify_incomplete", Warning, Failure;
    /// A verification found nothing wrong in what its budget allowed, and has never read the rest.
    VerifyPartial = "verify_partial", Info, Told;
    /// A verification was due and was not made.
    VerifyMissed = "verify_missed", Warning, Failure;
    /// A restore is done.
    RestoreSucceeded = "restore_succeeded", Notice, Told;
    /// A restore failed.
    RestoreFailed = "restore_failed", Critical, Failure;
    /// A retention or a prune failed.
    RetentionFailed = "retention_failed", Warning, Failure;
    /// An agent is not connected any more.
    AgentLost = "agent_lost", Warning, Condition;
    /// An agent was invited and never came.
    AgentNeverJoined = "agent_never_joined", Warning, Condition;
    /// The repository's storage is nearly full.
    StorageNearlyFull = "storage_nearly_full", Critical, Condition;
    /// The repository's storage does not answer.
    StorageSilent = "storage_silent", Critical, Condition;
    /// A certificate ends soon and was not renewed.
    CertificateExpiring = "certificate_expiring", Warning, Condition;
    /// An API token that is in use ends soon.
    KeyExpiring = "key_expiring", Warning, Condition;
    /// Nobody has confirmed to have the recovery key.
    RecoveryKeyUnconfirmed = "recovery_key_unconfirmed", Warning, Condition;
    /// A dead-man ping could not be sent.
    PingUnsent = "ping_unsent", Critical, Condition;
    /// A sink takes no messages.
    SinkFailing = "sink_failing", Critical, Condition;
    /// Something that should not be so.
    Anomaly = "anomaly", Warning, Told;
}

impl Kind {
    /// Told once and not again until it has recovered.
    pub fn is_condition(self) -> bool {
        self.shape() == Shape::Condition
    }

    /// Stays wrong until it recovers.
    pub fn stays(self) -> bool {
        self.shape() != Shape::Told
    }

    /// After which time a condition that goes on is told again; none: never.
    pub fn reminds_after(self) -> Option<jiff::SignedDuration> {
        (self == Self::RecoveryKeyUnconfirmed).then(|| jiff::SignedDuration::from_hours(24 * 7))
    }
}

/// Whether it begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// It is so.
    Raised,
    /// It is so no more.
    Resolved,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Stays the same however often it is told.
    pub id: Uuid,
    /// What.
    pub kind: Kind,
    /// Of what: the schedule, the agent, the component. With the kind, what makes two events the same.
    pub subject: String,
    /// Whether it begins or ends.
    pub sign: Sign,
    /// What happened, in one line.
    pub what: String,
    /// Why; may be empty.
    pub why: String,
    /// What to do; may be empty.
    pub hint: String,
    /// The job that it is about.
    pub job: Option<JobId>,
    /// The backup that it is about.
    pub backup: Option<BackupName>,
    /// When it was written down.
    pub at: Timestamp,
}

impl Event {
    /// Something is so. When, is set where it is written down.
    pub fn raised(kind: Kind, subject: impl Into<String>) -> Self {
        Self::new(kind, subject.into(), Sign::Raised)
    }

    /// Something is so no more; told only where it was raised.
    pub fn resolved(kind: Kind, subject: impl Into<String>) -> Self {
        Self::new(kind, subject.into(), Sign::Resolved)
    }

    fn new(kind: Kind, subject: String, sign: Sign) -> Self {
        Self {
            id: Uuid::now_v7(),
            kind,
            subject,
            sign,
            what: String::new(),
            why: String::new(),
            hint: String::new(),
            job: None,
            backup: None,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    /// In words: what, why, and what to do.
    pub fn saying(self, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), hint: hint.into(), ..self }
    }

    /// About this job.
    pub fn of_job(self, job: JobId) -> Self {
        Self { job: Some(job), ..self }
    }

    /// About this backup.
    pub fn of_backup(self, backup: Option<&BackupName>) -> Self {
        Self { backup: backup.cloned(), ..self }
    }

    /// How much it matters: an end matters to those who were told of the beginning.
    pub fn severity(&self) -> Severity {
        match self.sign {
            Sign::Raised => self.kind.severity(),
            Sign::Resolved => self.kind.severity().min(Severity::Notice),
        }
    }
}
