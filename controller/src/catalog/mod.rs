//! The controller's database: SQLite, one file in the state folder.
//!
//! Must stay true: one writer (a pool of one connection, every change in a transaction that takes the
//! write lock first), durable before it is acted on (`synchronous = FULL`), and nothing in it that is
//! needed to restore: the repository alone is enough, and [`Catalog::replace_backups`] reads it again.

mod accounts;
mod agents;
mod alerts;
mod api_tokens;
mod audit_head;
mod backups;
mod copy;
mod history;
mod jobs;
mod outbox;
mod owners;
mod proofs;
mod restore_pods;
mod schedules;
mod signed;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use tokio::sync::Notify;

pub use accounts::AccountUse;
pub use agents::{AgentRecord, CloneSeen, ServedSource};
pub use alerts::OpenAlert;
pub use api_tokens::ApiTokenRecord;
pub use backups::VerificationRecord;
pub(crate) use copy::StateFile;
pub use history::{DayRecord, NewestRecord};
pub use jobs::{Added, JobEventRecord};
pub use outbox::{Delivery, SinkState};
pub use owners::{Owner, RefusedSource};
pub use proofs::{KnownPack, Note};
pub(crate) use restore_pods::Kept;
pub use schedules::{Claim, RunDetails, RunRecord, RunState, ScheduleOrigin, ScheduleRecord};
pub(crate) use signed::normal as normal_address;
pub use signed::{Seen, SignerRecord};
pub use tokens::{Admission, InvitationRecord, TokenUse};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
const READERS: u32 = 4;

/// The catalog cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The database failed.
    #[error("the catalog's database failed")]
    Database(#[from] sqlx::Error),
    /// The database is of a newer release, or a migration failed.
    #[error("the catalog's tables cannot be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row does not hold what it should.
    #[error(
        "the catalog holds {0} that cannot be read; `nsctl repository rebuild --state` makes the state folder anew"
    )]
    Damaged(&'static str),
    /// The file cannot be deleted.
    #[error("cannot delete the catalog's file {path}")]
    Delete {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The catalog. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    readers: SqlitePool,
    writer: SqlitePool,
    /// Where it lies.
    file: Arc<Path>,
    /// Told when an event may have been written.
    pub(crate) alerts_raised: Arc<Notify>,
}

impl Catalog {
    /// Opens the database at `path`, making it and its tables where they are missing.
    pub async fn open(path: &Path) -> Result<Self, CatalogError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .foreign_keys(true);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        MIGRATIONS.run(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await?;
        Ok(Self { readers, writer, file: path.into(), alerts_raised: Arc::default() })
    }

    /// Deletes the database at `path`, for a rebuild. No catalog may be open on it.
    pub fn delete(path: &Path) -> Result<(), CatalogError> {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            match std::fs::remove_file(&name) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(CatalogError::Delete { path: name.into(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Closes the database's files.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A transaction that holds the write lock from its first moment, so that what it reads stays true.
    async fn change(&self) -> Result<Transaction<'static, Sqlite>, CatalogError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

fn time(micros: i64) -> Result<Timestamp, CatalogError> {
    Timestamp::from_microsecond(micros).map_err(|_| CatalogError::Damaged("a time"))
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("records have text keys and no failing serializers")
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T, CatalogError> {
    serde_json::from_str(text).map_err(|_| CatalogError::Damaged(what))
}

#[cfg(test)]
mod tests;
