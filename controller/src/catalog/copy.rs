//! Copies of the catalog for the repository, and what is taken back from them.
//!
//! A copy is a database of the same tables, made row by row: what a controller needs to go on is in it whole,
//! what grows with every job only as far as a limit, and what the repository tells by itself not at all. So a
//! copy beside the ten-thousandth backup is no larger than one beside the hundredth.

use std::path::Path;

use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Row};
use zeroize::Zeroizing;

use crate::catalog::{Catalog, CatalogError, micros, time};
use crate::ids::JobId;

/// Jobs in one copy, and rows of the other tables that grow.
const MOST_JOBS: u32 = 500;

/// How much of a table is in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// All of it: it does not grow with what is done.
    Whole,
    /// The rows that this condition chooses, with the live database under the name `live`.
    Where(&'static str),
    /// Nothing: the repository tells it, or it is found out anew.
    Nothing,
}

/// Every table, and how much of it the copy beside a backup has. A test holds it against the database.
const TABLES: &[(&str, Carried)] = &[
    ("_sqlx_migrations", Carried::Whole),
    ("agents", Carried::Whole),
    ("sources", Carried::Whole),
    ("source_owners", Carried::Whole),
    ("refused_sources", Carried::Whole),
    ("signers", Carried::Whole),
    ("signer_places", Carried::Whole),
    ("agent_keys", Carried::Whole),
    ("invitations", Carried::Whole),
    ("api_tokens", Carried::Whole),
    ("audit_head", Carried::Whole),
    ("schedules", Carried::Whole),
    (
        "schedule_runs",
        Carried::Where(
            "open = 1 OR id > (SELECT coalesce(max(id), 0) FROM live.schedule_runs) - 500 OR id IN \
             (SELECT max(id) FROM live.schedule_runs GROUP BY schedule)",
        ),
    ),
    ("alert_open", Carried::Whole),
    (
        "alert_events",
        Carried::Where("sequence > (SELECT coalesce(max(sequence), 0) FROM live.alert_events) - 500"),
    ),
    (
        "alert_pending",
        Carried::Where("event > (SELECT coalesce(max(sequence), 0) FROM live.alert_events) - 500"),
    ),
    (
        "alert_outbox",
        Carried::Where("id IN (SELECT id FROM live.alert_outbox ORDER BY made_at DESC LIMIT 200)"),
    ),
    ("verification_runs", Carried::Whole),
    (
        "verifications",
        Carried::Where("backup IN (SELECT name FROM live.backups ORDER BY sequence DESC LIMIT 100)"),
    ),
    // Those that have not ended, those that no file of history has, and some to be seen at once.
    (
        "jobs",
        Carried::Where(
            "id IN (SELECT id FROM live.jobs WHERE ended = 0 UNION \
             SELECT id FROM (SELECT id FROM live.jobs WHERE ended = 1 AND stored = 0 \
             ORDER BY created_at DESC LIMIT 500) UNION \
             SELECT id FROM (SELECT id FROM live.jobs ORDER BY created_at DESC, id DESC LIMIT 20))",
        ),
    ),
    ("job_events", Carried::Where("job IN (SELECT id FROM main.jobs)")),
    // Of workloads that stand now; when the copy is read, others do.
    ("restore_pods", Carried::Nothing),
    ("backups", Carried::Nothing),
    ("backup_components", Carried::Nothing),
    ("pack_proofs", Carried::Nothing),
    ("page_proofs", Carried::Nothing),
];

/// A file of history has jobs and what belongs to them.
const HISTORY: &[(&str, Carried)] = &[
    ("_sqlx_migrations", Carried::Whole),
    ("jobs", Carried::Where("id IN (SELECT value FROM json_each(?1))")),
    ("job_events", Carried::Where("job IN (SELECT id FROM main.jobs)")),
    (
        "schedule_runs",
        Carried::Where("job IN (SELECT id FROM main.jobs) OR retention_job IN (SELECT id FROM main.jobs)"),
    ),
    (
        "verifications",
        Carried::Where(
            "at >= (SELECT min(created_at) FROM main.jobs) AND at <= (SELECT max(created_at) FROM main.jobs) \
             + 86400000000",
        ),
    ),
];

/// Jobs that no file of history has yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unstored {
    /// The oldest of them, at most as many as a file holds.
    pub(crate) jobs: Vec<JobId>,
    /// When the oldest was ordered.
    pub(crate) since: Option<Timestamp>,
}

/// What is in a file beside the tables.
pub(crate) type StateFile = (String, Zeroizing<Vec<u8>>);

impl Catalog {
    /// Writes a copy to the file `to`, which must not exist, with these files of the state folder in it.
    pub(crate) async fn copy_to(&self, to: &Path, files: &[StateFile]) -> Result<(), CatalogError> {
        let mut copy = self.begin_copy(to, TABLES, None).await?;
        sqlx::query("CREATE TABLE state_files (name TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT")
            .execute(&mut copy)
            .await?;
        for (name, bytes) in files {
            sqlx::query("INSERT INTO state_files (name, bytes) VALUES (?, ?)")
                .bind(name)
                .bind(bytes.as_slice())
                .execute(&mut copy)
                .await?;
        }
        end_copy(copy).await
    }

    /// The same for a file of history, with these jobs alone.
    pub(crate) async fn copy_history_to(&self, to: &Path, jobs: &[JobId]) -> Result<(), CatalogError> {
        let jobs: Vec<String> = jobs.iter().map(JobId::to_string).collect();
        end_copy(self.begin_copy(to, HISTORY, Some(super::to_json(&jobs))).await?).await
    }

    async fn begin_copy(
        &self,
        to: &Path,
        tables: &[(&str, Carried)],
        jobs: Option<String>,
    ) -> Result<SqliteConnection, CatalogError> {
        // Nothing of it has to last: it is read once and removed.
        let options = SqliteConnectOptions::new()
            .filename(to)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Off)
            .synchronous(SqliteSynchronous::Off)
            .foreign_keys(false);
        let mut copy = SqliteConnection::connect_with(&options).await?;
        sqlx::query("ATTACH DATABASE ? AS live")
            .bind(self.file.to_string_lossy().into_owned())
            .execute(&mut copy)
            .await?;
        // One moment of the live database for all that is read.
        sqlx::query("BEGIN").execute(&mut copy).await?;
        let schema: Vec<String> = sqlx::query_scalar(
            "SELECT sql FROM live.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite~_%' ESCAPE '~' \
             ORDER BY type = 'table' DESC",
        )
        .fetch_all(&mut copy)
        .await?;
        for sql in schema {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut copy).await?;
        }
        for (table, carried) in tables {
            let chosen = match carried {
                Carried::Whole => String::new(),
                Carried::Where(condition) => format!(" WHERE {condition}"),
                Carried::Nothing => continue,
            };
            let sql = format!("INSERT INTO main.{table} SELECT * FROM live.{table}{chosen}");
            let query = sqlx::query(AssertSqlSafe(sql));
            let query = match &jobs {
                Some(jobs) if chosen.contains("?1") => query.bind(jobs),
                _ => query,
            };
            query.execute(&mut copy).await?;
        }
        Ok(copy)
    }

    /// The ended jobs that no file of history has.
    pub(crate) async fn unstored_jobs(&self) -> Result<Unstored, CatalogError> {
        let rows = sqlx::query(
            "SELECT id, created_at FROM jobs WHERE ended = 1 AND stored = 0 ORDER BY created_at LIMIT ?",
        )
        .bind(MOST_JOBS)
        .fetch_all(&self.readers)
        .await?;
        let id = |text: String| text.parse().map_err(|_| CatalogError::Damaged("a job's id"));
        let jobs = rows.iter().map(|row| id(row.try_get("id")?)).collect::<Result<Vec<JobId>, _>>()?;
        let since = rows.first().map(|row| time(row.try_get("created_at")?)).transpose()?;
        Ok(Unstored { jobs, since })
    }

    /// A file of history has these jobs from now on.
    pub(crate) async fn set_stored(&self, jobs: &[JobId]) -> Result<(), CatalogError> {
        let jobs: Vec<String> = jobs.iter().map(JobId::to_string).collect();
        let mut change = self.change().await?;
        sqlx::query("UPDATE jobs SET stored = 1 WHERE id IN (SELECT value FROM json_each(?))")
            .bind(super::to_json(&jobs))
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// Takes the files of the state folder out of a copy that is the catalog from now on.
    pub(crate) async fn take_state_files(&self) -> Result<Vec<StateFile>, CatalogError> {
        let mut writer = self.writer.acquire().await?;
        let rows = sqlx::query("SELECT name, bytes FROM state_files").fetch_all(&mut *writer).await?;
        let files = rows
            .iter()
            .map(|row| Ok((row.try_get("name")?, Zeroizing::new(row.try_get::<Vec<u8>, _>("bytes")?))))
            .collect::<Result<Vec<_>, CatalogError>>()?;
        // The authority's key does not stay behind in free pages.
        sqlx::query("PRAGMA secure_delete = ON").fetch_all(&mut *writer).await?;
        sqlx::query("DROP TABLE state_files").execute(&mut *writer).await?;
        Ok(files)
    }

    /// Adds what another copy tells of jobs that have ended, of runs of schedules and of verifications, where
    /// nothing is known of them here, and returns those jobs, known or not. `other` is a catalog of this
    /// release that nobody has open.
    pub(crate) async fn add_history_of(&self, other: &Path) -> Result<Vec<JobId>, CatalogError> {
        let mut writer = self.writer.acquire().await?;
        sqlx::query("ATTACH DATABASE ? AS other")
            .bind(other.to_string_lossy().into_owned())
            .execute(&mut *writer)
            .await?;
        let result = add_history(&mut writer).await;
        sqlx::query("DETACH DATABASE other").execute(&mut *writer).await?;
        result
    }

    /// After a loss: results about backups that are not there any more go.
    pub(crate) async fn forget_lost_verifications(&self) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM verifications WHERE backup NOT IN (SELECT name FROM backups)")
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// After a loss: a job that a manifest tells of, unless it is known.
    pub(crate) async fn add_found_job(
        &self,
        job: &crate::jobs::Job,
        line: &str,
    ) -> Result<bool, CatalogError> {
        let mut change = self.change().await?;
        let added = sqlx::query(
            "INSERT INTO jobs (id, ended, created_at, record) VALUES (?, 1, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(job.id.to_string())
        .bind(micros(job.created_at))
        .bind(super::to_json(job))
        .execute(&mut *change)
        .await?
        .rows_affected()
            == 1;
        if added {
            sqlx::query(
                "INSERT INTO job_events (job, sequence, at, level, line) VALUES (?, 1, ?, 'info', ?)",
            )
            .bind(job.id.to_string())
            .bind(micros(job.ended_at.unwrap_or(job.created_at)))
            .bind(line)
            .execute(&mut *change)
            .await?;
        }
        change.commit().await?;
        Ok(added)
    }

    /// How many rows of agents, schedules and jobs there are.
    pub(crate) async fn figures(&self) -> Result<[u64; 3], CatalogError> {
        let mut figures = [0; 3];
        let of =
            ["SELECT count(*) FROM agents", "SELECT count(*) FROM schedules", "SELECT count(*) FROM jobs"];
        for (figure, sql) in figures.iter_mut().zip(of) {
            *figure = sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.readers).await?.unsigned_abs();
        }
        Ok(figures)
    }
}

async fn end_copy(mut copy: SqliteConnection) -> Result<(), CatalogError> {
    sqlx::query("COMMIT").execute(&mut copy).await?;
    Ok(copy.close().await?)
}

/// The ids of runs are the order in which they were decided: what comes from history is not the last run.
const IN_ORDER: [&str; 4] = [
    "CREATE TEMP TABLE decided AS \
     SELECT id, row_number() OVER (ORDER BY ran_at, id) AS place FROM main.schedule_runs",
    "UPDATE main.schedule_runs SET id = -(SELECT place FROM decided WHERE decided.id = schedule_runs.id)",
    "UPDATE main.schedule_runs SET id = -id",
    "DROP TABLE decided",
];

/// What is known of a validator never goes back, whichever copy it is from; but by what somebody has stated since. Of
/// each side counts what it has seen, or was told, no earlier than the last statement of either.
const HIGHEST_SIGNED: &str = "INSERT INTO main.signers
         (id, address, component, name, height, round, step, seen_at, stated_at, stated_by, reason)
     SELECT id, address, component, name, height, round, step, seen_at, stated_at, stated_by, reason
     FROM other.signers WHERE true
     ON CONFLICT (id) DO UPDATE SET
         address = coalesce(excluded.address, address),
         component = iif(excluded.seen_at > seen_at, excluded.component, component),
         name = iif(excluded.seen_at > seen_at, excluded.name, name),
         (height, round, step) = (
             SELECT h, r, s FROM (
                 SELECT signers.height AS h, signers.round AS r, signers.step AS s, signers.seen_at AS at
                 UNION ALL SELECT excluded.height, excluded.round, excluded.step, excluded.seen_at)
             WHERE at >= max(coalesce(signers.stated_at, 0), coalesce(excluded.stated_at, 0))
             ORDER BY h DESC, r DESC, s DESC LIMIT 1),
         seen_at = max(seen_at, excluded.seen_at),
         (stated_at, stated_by, reason) = (
             SELECT t, b, w FROM (
                 SELECT signers.stated_at AS t, signers.stated_by AS b, signers.reason AS w
                 UNION ALL SELECT excluded.stated_at, excluded.stated_by, excluded.reason)
             ORDER BY t DESC LIMIT 1)";

/// Where their keys were seen, in either.
const SIGNER_PLACES: &str = "INSERT OR IGNORE INTO main.signer_places (id, component, name)
     SELECT id, component, name FROM other.signer_places";

async fn add_history(writer: &mut SqliteConnection) -> Result<Vec<JobId>, CatalogError> {
    const TAKEN: [(&str, &str); 4] = [
        ("jobs", "ended = 1"),
        (
            "job_events",
            "job IN (SELECT id FROM main.jobs) AND job IN (SELECT id FROM other.jobs WHERE ended = 1)",
        ),
        ("schedule_runs", "open = 0"),
        ("verifications", "backup IN (SELECT name FROM main.backups)"),
    ];
    let mut change = writer.begin().await?;
    for (table, chosen) in TAKEN {
        let columns: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM pragma_table_info(?) WHERE NOT (name = 'id' AND type = 'INTEGER')",
        )
        .bind(table)
        .fetch_all(&mut *change)
        .await?;
        let columns = columns.join(", ");
        let sql = format!(
            "INSERT OR IGNORE INTO main.{table} ({columns}) SELECT {columns} FROM other.{table} WHERE {chosen}"
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *change).await?;
    }
    for sql in IN_ORDER {
        sqlx::query(sql).execute(&mut *change).await?;
    }
    for sql in [HIGHEST_SIGNED, SIGNER_PLACES] {
        sqlx::query(sql).execute(&mut *change).await?;
    }
    let ended: Vec<String> =
        sqlx::query_scalar("SELECT id FROM other.jobs WHERE ended = 1").fetch_all(&mut *change).await?;
    change.commit().await?;
    Ok(ended.iter().filter_map(|id| id.parse().ok()).collect())
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
