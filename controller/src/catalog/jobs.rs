//! Jobs and what was told of them.

use jiff::Timestamp;
use sqlx::Row;

use crate::alerts::{COVERED, Event, covered};
use crate::catalog::alerts::{open_subjects, raise};
use crate::catalog::{Catalog, CatalogError, Claim, from_json, micros, schedules, time, to_json};
use crate::ids::JobId;
use crate::jobs::Job;
use crate::jobs::job::{JobState, Order};
use crate::jobs::own_rules::Origins;

/// The most lines kept of one job; what comes after is in the program's log alone.
const MAX_EVENTS: i64 = 1_000;
/// So many old jobs go with each backup: more than any schedule brings.
const FORGOTTEN_AT_ONCE: u32 = 200;

/// A line that was told of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEventRecord {
    /// Counted from 1 within the job.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// info, warning, error.
    pub level: String,
    /// For people.
    pub line: String,
}

/// A job was written, or there was one already.
#[derive(Debug, Clone, PartialEq)]
pub enum Added {
    /// It is in the catalog.
    New,
    /// A call with the same request id has started this one before.
    Existed(Box<Job>),
    /// What it is for has its job already.
    Taken,
}

impl Catalog {
    /// Writes a new job, unless `request_id` has started one already; with what a schedule claims it for.
    pub async fn add_job(
        &self,
        job: &Job,
        request_id: Option<&str>,
        claim: Option<&Claim>,
    ) -> Result<Added, CatalogError> {
        let mut change = self.change().await?;
        if let Some(request_id) = request_id {
            let row: Option<String> = sqlx::query_scalar("SELECT record FROM jobs WHERE request_id = ?")
                .bind(request_id)
                .fetch_optional(&mut *change)
                .await?;
            if let Some(record) = row {
                return Ok(Added::Existed(Box::new(from_json(&record, "a job")?)));
            }
        }
        if let Some(claim) = claim
            && !schedules::take(&mut change, claim, job).await?
        {
            return Ok(Added::Taken);
        }
        sqlx::query("INSERT INTO jobs (id, request_id, ended, created_at, record) VALUES (?, ?, 0, ?, ?)")
            .bind(job.id.to_string())
            .bind(request_id)
            .bind(micros(job.created_at))
            .bind(to_json(job))
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        if claim.is_some() {
            self.alerts_raised.notify_one();
        }
        Ok(Added::New)
    }

    /// Writes a job's new state, the lines told of it and the alerts that it is worth, together. Returns the lines that were kept.
    pub async fn save_job(
        &self,
        job: &Job,
        lines: Vec<(&'static str, String)>,
        events: &[Event],
        now: Timestamp,
    ) -> Result<Vec<JobEventRecord>, CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE jobs SET ended = ?, record = ? WHERE id = ?")
            .bind(job.state.is_end())
            .bind(to_json(job))
            .bind(job.id.to_string())
            .execute(&mut *change)
            .await?;
        let mut last: i64 =
            sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM job_events WHERE job = ?")
                .bind(job.id.to_string())
                .fetch_one(&mut *change)
                .await?;
        let mut kept = Vec::new();
        for (level, line) in lines {
            if last >= MAX_EVENTS && !job.state.is_end() {
                continue;
            }
            last += 1;
            sqlx::query("INSERT INTO job_events (job, sequence, at, level, line) VALUES (?, ?, ?, ?, ?)")
                .bind(job.id.to_string())
                .bind(last)
                .bind(micros(now))
                .bind(level)
                .bind(&line)
                .execute(&mut *change)
                .await?;
            kept.push(JobEventRecord { sequence: last as u64, at: now, level: level.to_owned(), line });
        }
        raise(&mut change, events, now).await?;
        if job.state.is_end() {
            for kind in COVERED {
                let open = open_subjects(&mut change, kind).await?;
                raise(&mut change, &covered(job, kind, &open), now).await?;
            }
        }
        change.commit().await?;
        if !events.is_empty() {
            self.alerts_raised.notify_one();
        }
        Ok(kept)
    }

    /// Forgets jobs that were ordered before this time and have ended, some at once, with what was told of them.
    pub(crate) async fn forget_jobs(&self, before: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "DELETE FROM jobs WHERE id IN
                 (SELECT id FROM jobs WHERE created_at < ? AND ended = 1 ORDER BY created_at LIMIT ?)",
        )
        .bind(micros(before))
        .bind(FORGOTTEN_AT_ONCE)
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, CatalogError> {
        let record: Option<String> = sqlx::query_scalar("SELECT record FROM jobs WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        record.map(|record| from_json(&record, "a job")).transpose()
    }

    /// Which schedule has ordered each backup whose job is known.
    pub async fn origins_of_backups(&self) -> Result<Origins, CatalogError> {
        let rows = sqlx::query(
            "SELECT record ->> '$.backup' AS backup, record ->> '$.schedule' AS schedule FROM jobs
             WHERE record ->> '$.order.kind' = 'backup' AND record ->> '$.backup' IS NOT NULL",
        )
        .fetch_all(&self.readers)
        .await?;
        let origins = rows.iter().map(|row| {
            let name: String = row.try_get("backup")?;
            let name = name.parse().map_err(|_| CatalogError::Damaged("a job"))?;
            Ok((name, row.try_get("schedule")?))
        });
        origins.collect()
    }

    /// The job that this request id has started.
    pub async fn job_of_request(&self, request_id: &str) -> Result<Option<Job>, CatalogError> {
        let record: Option<String> = sqlx::query_scalar("SELECT record FROM jobs WHERE request_id = ?")
            .bind(request_id)
            .fetch_optional(&self.readers)
            .await?;
        record.map(|record| from_json(&record, "a job")).transpose()
    }

    /// The newest jobs, the newest first.
    pub async fn jobs(&self, limit: u32) -> Result<Vec<Job>, CatalogError> {
        let records: Vec<String> =
            sqlx::query_scalar("SELECT record FROM jobs ORDER BY created_at DESC, id DESC LIMIT ?")
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        records.iter().map(|record| from_json(record, "a job")).collect()
    }

    /// The job that has taken this restore back, as a whole.
    pub async fn undo_of(&self, restore: JobId) -> Result<Option<JobId>, CatalogError> {
        let records: Vec<String> = sqlx::query_scalar(
            "SELECT record FROM jobs WHERE ended = 1 AND instr(record, ?) > 0 ORDER BY created_at DESC, id DESC",
        )
        .bind(restore.to_string())
        .fetch_all(&self.readers)
        .await?;
        for record in &records {
            let job: Job = from_json(record, "a job")?;
            if let Order::Restore { undo_of: Some(of), .. } = &job.order
                && *of == restore
                && job.state == JobState::Complete
            {
                return Ok(Some(job.id));
            }
        }
        Ok(None)
    }

    /// The newest jobs that were ordered before this one, the newest first; none if there is no such job.
    pub async fn jobs_before(&self, before: JobId, limit: u32) -> Result<Vec<Job>, CatalogError> {
        let records: Vec<String> = sqlx::query_scalar(
            "SELECT record FROM jobs WHERE (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = ?)
             ORDER BY created_at DESC, id DESC LIMIT ?",
        )
        .bind(before.to_string())
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        records.iter().map(|record| from_json(record, "a job")).collect()
    }

    /// The jobs that have not ended, the oldest first.
    pub async fn alive_jobs(&self) -> Result<Vec<Job>, CatalogError> {
        let records: Vec<String> =
            sqlx::query_scalar("SELECT record FROM jobs WHERE ended = 0 ORDER BY created_at, id")
                .fetch_all(&self.readers)
                .await?;
        records.iter().map(|record| from_json(record, "a job")).collect()
    }

    /// What was told of a job after the event with the sequence `after`.
    pub async fn job_events(&self, id: JobId, after: u64) -> Result<Vec<JobEventRecord>, CatalogError> {
        let rows = sqlx::query(
            "SELECT sequence, at, level, line FROM job_events WHERE job = ? AND sequence > ? ORDER BY sequence",
        )
        .bind(id.to_string())
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(JobEventRecord {
                    sequence: row.try_get::<i64, _>("sequence")?.unsigned_abs(),
                    at: time(row.try_get("at")?)?,
                    level: row.try_get("level")?,
                    line: row.try_get("line")?,
                })
            })
            .collect()
    }
}
