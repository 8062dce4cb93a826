//! The audit log: who asked the controller for what, and what came of it.
//!
//! Must stay true: a call that changes something is refused unless its beginning is in the log, durably,
//! before anything is done; its end is in the log before it is answered. Every denial is counted. Nothing
//! secret is in it.

mod check;
mod denials;
mod line;
mod log;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use repository::ids::hex;
use runtime::clock::Clock;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError};
use denials::{Denial, Denials};
use log::Log;

pub use check::Report;
pub use line::{AuditKey, Entry, Head, Kind, Outcome};
pub use log::LogError;

/// Reads a line of the log, whoever wrote it: for those who throw bytes at it (`tests/decoders`).
pub fn read_line(bytes: &[u8]) {
    let _ = (line::look_at(bytes), line::read(bytes, &AuditKey::new(&[0; 32])));
}

/// The controller's own entries.
const DAMAGE: &str = "damage found";
const ROTATED: &str = "rotated";
const TORN: &str = "torn line";
const UNKNOWN: &str = "end not known";
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The audit log failed.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Its files.
    #[error("the audit log cannot be used")]
    Log(#[from] LogError),
    /// The note of where it ends.
    #[error("the end of the audit log cannot be noted")]
    Catalog(#[from] CatalogError),
    /// A thread ended unexpectedly.
    #[error("a thread of the audit log ended unexpectedly")]
    Thread(#[from] tokio::task::JoinError),
}

/// Who asks, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// What kind of caller.
    pub kind: Kind,
    /// A uid, a token's id, an agent's id; empty: nobody's.
    pub id: String,
    /// What people call the token or the agent.
    pub name: String,
    /// The address of the caller; empty: the socket.
    pub from: String,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::User => "user",
            Kind::Token => "token",
            Kind::Agent => "agent",
            Kind::Controller => "controller",
            Kind::Nobody => return f.write_str("nobody"),
        };
        match self.name.is_empty() {
            true => write!(f, "{kind} {}", self.id),
            false => write!(f, "{kind} {}", self.name),
        }
    }
}

/// A call whose beginning is in the log.
#[derive(Debug)]
pub struct Begun {
    entry: Entry,
}

/// The log, and the denials that are folded on their way into it.
pub struct Audit {
    log: Arc<AsyncMutex<Log>>,
    denials: Mutex<Denials>,
    catalog: Catalog,
    clock: Arc<dyn Clock>,
}

impl Audit {
    /// The log in `folder`, which exists and nobody else can read.
    pub async fn open(
        folder: &Path,
        key: AuditKey,
        catalog: Catalog,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        let head = catalog.audit_head().await?;
        let (folder, now) = (folder.to_owned(), clock.now());
        let opened =
            tokio::task::spawn_blocking(move || Log::open(&folder, key, head.as_ref(), log::LIMITS, now));
        let log = opened.await??;
        if let Some(damage) = log.damage() {
            tracing::error!(damage, "the audit log is damaged; it goes on in a new file");
        }
        let end = log.head();
        if end.sequence > 0 {
            catalog.set_audit_head(&end).await?;
        }
        Ok(Self { log: Arc::new(AsyncMutex::new(log)), denials: Mutex::default(), catalog, clock })
    }

    /// Says that `who` is about to do `call`. Without this nothing may be changed.
    pub async fn begin(&self, who: &Who, call: &str) -> Result<Begun, AuditError> {
        let mut entry = self.entry(who, call, Outcome::Begun);
        entry.sequence = self.append(entry.clone()).await?;
        Ok(Begun { entry })
    }

    /// Says what came of it: `None`, or the word for why it failed.
    pub async fn end(&self, begun: Begun, about: &str, failed: Option<String>) -> Result<(), AuditError> {
        let result = if failed.is_some() { Outcome::Failed } else { Outcome::Done };
        let entry = Entry {
            at: self.clock.now(),
            about: line::text(about),
            result,
            reason: failed.unwrap_or_default(),
            of: begun.entry.sequence,
            ..begun.entry
        };
        self.append(entry).await.map(|_| ())
    }

    /// Says that `who` has done `call`: for a call that can be repeated if this fails.
    pub async fn done(&self, who: &Who, call: &str, about: &str) -> Result<(), AuditError> {
        let mut entry = self.entry(who, call, Outcome::Done);
        entry.about = line::text(about);
        self.append(entry).await.map(|_| ())
    }

    /// Says that `who` may not do `call`, or only counts it if that was said not long ago.
    pub async fn denied(&self, who: &Who, call: &str, reason: &str) {
        let denial = Denial {
            kind: who.kind,
            id: line::text(&who.id),
            name: line::text(&who.name),
            from: line::text(&who.from),
            call: line::text(call),
            reason: line::text(reason),
        };
        let now = self.clock.now();
        let told = self.denials.lock().unwrap_or_else(PoisonError::into_inner).note(denial, now);
        self.tell(told.map(|denial| (denial, 0)).into_iter().collect()).await;
    }

    /// Tells the denials that were only counted; all of them, or those that are due.
    async fn tell_counted(&self, all: bool) {
        let now = self.clock.now();
        let told = self.denials.lock().unwrap_or_else(PoisonError::into_inner).told(all, now);
        self.tell(told).await;
    }

    /// Denials that are taken from the count are told, whoever waits for it. As few at a time as are folded.
    async fn tell(&self, told: Vec<(Denial, u64)>) {
        let entries = told.into_iter().map(|(denial, times)| {
            let who = Who { kind: denial.kind, id: denial.id, name: denial.name, from: denial.from };
            let entry = self.entry(&who, &denial.call, Outcome::Denied);
            Entry { reason: denial.reason, times, ..entry }
        });
        let (log, catalog, entries) = (self.log.clone(), self.catalog.clone(), entries.collect::<Vec<_>>());
        let telling = tokio::spawn(async move {
            for entry in entries {
                if let Err(error) = append(&log, &catalog, entry).await {
                    tracing::error!(
                        error = proto::failure::chain(&error),
                        "a denial is not in the audit log"
                    );
                }
            }
        });
        if let Err(error) = telling.await {
            tracing::error!(%error, "denials are not in the audit log");
        }
    }

    /// Tells counted denials from time to time, and at the stop.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(TELL_EVERY)).await.is_some() {
            self.tell_counted(false).await;
        }
        self.tell_counted(true).await;
    }

    fn entry(&self, who: &Who, call: &str, result: Outcome) -> Entry {
        Entry {
            sequence: 0,
            at: self.clock.now(),
            kind: who.kind,
            id: line::text(&who.id),
            name: line::text(&who.name),
            from: line::text(&who.from),
            call: line::text(call),
            about: String::new(),
            result,
            reason: String::new(),
            of: 0,
            times: 0,
        }
    }

    async fn append(&self, entry: Entry) -> Result<u64, AuditError> {
        let (log, catalog) = (self.log.clone(), self.catalog.clone());
        tokio::spawn(async move { append(&log, &catalog, entry).await }).await?
    }

    /// What was wrong with the log when it was opened.
    pub async fn damage(&self) -> Option<String> {
        self.log.lock().await.damage().map(str::to_owned)
    }

    /// The newest entries, at most `limit`, none older than `since`; the newest first.
    pub async fn list(&self, since: Option<Timestamp>, limit: usize) -> Result<Vec<Entry>, AuditError> {
        self.tell_counted(true).await;
        let log = self.log.clone().lock_owned().await;
        Ok(tokio::task::spawn_blocking(move || log.newest(since, limit)).await??)
    }

    /// Proves the whole log.
    pub async fn check(&self) -> Result<Report, AuditError> {
        let log = self.log.clone().lock_owned().await;
        let noted = self.catalog.audit_head().await?;
        let is_noted = noted == (log.head().sequence > 0).then(|| log.head());
        let mut report = tokio::task::spawn_blocking(move || log.check()).await??;
        if !is_noted {
            let finding = "the catalog's note of where the log ends is not the controller's";
            report.finding.get_or_insert(finding.to_owned());
        }
        Ok(report)
    }
}

/// One at a time, so that the catalog's note never goes back; in a task of its own, so that a caller who
/// hangs up leaves neither a line without its note nor a note without its line.
async fn append(log: &Arc<AsyncMutex<Log>>, catalog: &Catalog, entry: Entry) -> Result<u64, AuditError> {
    let mut log = log.clone().lock_owned().await;
    let (head, entry, log) =
        tokio::task::spawn_blocking(move || log.append(&entry).map(|head| (head, entry, log))).await??;
    catalog.set_audit_head(&head).await?;
    drop(log);
    // The program's own log usually goes to another place: a copy of where this one ends.
    tracing::info!(
        sequence = head.sequence, hash = hex(&head.hash), call = entry.call, id = entry.id,
        result = ?entry.result, "audit"
    );
    Ok(head.sequence)
}

#[cfg(test)]
mod tests;
