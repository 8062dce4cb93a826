//! Schedules, and what became of their planned times.
//!
//! Must stay true: a row says that a planned time was decided about, and comes in the transaction in which its
//! job does; so wherever the controller is killed, no time runs twice and none is lost.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::alerts::Event;
use crate::catalog::alerts::raise;
use crate::catalog::{Catalog, CatalogError, from_json, micros, time, to_json};
use crate::config::Schedule;
use crate::ids::JobId;
use crate::jobs::Job;
use crate::schedule::event::{removed, runs_again};
use crate::schedule::plan::Record;

/// Rows that are kept of each schedule.
const KEPT: i64 = 1_000;

/// Who says what a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleOrigin {
    /// The configuration: only it can change the schedule.
    Declared,
    /// The program.
    Default,
    /// Somebody, by a call.
    Set,
}

impl ScheduleOrigin {
    fn word(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Default => "default",
            Self::Set => "set",
        }
    }

    fn of_word(word: &str) -> Result<Self, CatalogError> {
        [Self::Declared, Self::Default, Self::Set]
            .into_iter()
            .find(|origin| origin.word() == word)
            .ok_or(CatalogError::Damaged("a schedule"))
    }
}

/// A schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRecord {
    /// Its name.
    pub name: String,
    /// Who says so.
    pub origin: ScheduleOrigin,
    /// What, and when.
    pub definition: Schedule,
    /// Where its hours are meant.
    pub time_zone: String,
    /// What was planned up to here is not owed.
    pub owed_from: Timestamp,
    /// Since when nothing is started.
    pub paused_at: Option<Timestamp>,
}

/// What became of a planned time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// A job was ordered.
    Started,
    /// A verification waits for a backup.
    Waiting,
    /// An earlier run of the schedule still went on.
    Skipped,
    /// Nobody was there in time.
    Missed,
    /// There was nothing to verify.
    Empty,
}

impl RunState {
    /// As people and the catalog write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Waiting => "waiting",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
            Self::Empty => "empty",
        }
    }

    fn of_word(word: &str) -> Result<Self, CatalogError> {
        [Self::Started, Self::Waiting, Self::Skipped, Self::Missed, Self::Empty]
            .into_iter()
            .find(|state| state.word() == word)
            .ok_or(CatalogError::Damaged("a run of a schedule"))
    }
}

/// What else is known of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunDetails {
    /// Of those that were missed together: the first, and how many.
    pub missed: Option<(Timestamp, u32)>,
    /// The backup's job that a verification waits for, and until when.
    pub waits_for: Option<(JobId, Timestamp)>,
    /// What a person should know.
    pub note: Option<String>,
}

/// A run of a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// Its place in the order of deciding.
    pub id: i64,
    /// Of which schedule.
    pub schedule: String,
    /// For when it was planned; none: somebody ran it by hand.
    pub planned_at: Option<Timestamp>,
    /// When it was decided.
    pub ran_at: Timestamp,
    /// What became of it.
    pub state: RunState,
    /// Its job.
    pub job: Option<JobId>,
    /// The retention after it.
    pub retention_job: Option<JobId>,
    /// The rest.
    pub details: RunDetails,
}

/// What a job that is ordered by a schedule is for.
#[derive(Debug, Clone)]
pub enum Claim {
    /// A planned time, or, without one, an order by hand.
    Run {
        /// The schedule.
        schedule: String,
        /// For when it was planned.
        planned_at: Option<Timestamp>,
        /// A row of that planned time that does not count any more.
        replaces: Option<i64>,
    },
    /// The verification that this run has waited with.
    Waited {
        /// Which run.
        run: i64,
        /// What a person should know of it.
        note: Option<String>,
        /// What has to be told with it.
        events: Vec<Event>,
    },
    /// The retention after this run's verification.
    Retention {
        /// Which run.
        run: i64,
    },
}

impl Catalog {
    /// All schedules, by name.
    pub async fn schedules(&self) -> Result<Vec<ScheduleRecord>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM schedules ORDER BY name").fetch_all(&self.readers).await?;
        rows.iter().map(schedule).collect()
    }

    /// Writes a schedule as it is now.
    pub async fn put_schedule(&self, record: &ScheduleRecord) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT OR REPLACE INTO schedules (name, origin, definition, time_zone, owed_from, paused_at) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&record.name)
        .bind(record.origin.word())
        .bind(to_json(&record.definition))
        .bind(&record.time_zone)
        .bind(micros(record.owed_from))
        .bind(record.paused_at.map(micros))
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// Sets from when on planned times are owed.
    pub async fn set_owed_from(&self, schedule: &str, owed_from: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE schedules SET owed_from = ? WHERE name = ?")
            .bind(micros(owed_from))
            .bind(schedule)
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// Removes a schedule; what became of its planned times stays, and nothing is missed any more.
    pub async fn remove_schedule(&self, name: &str, now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM schedules WHERE name = ?").bind(name).execute(&mut *change).await?;
        raise(&mut change, &removed(name), now).await?;
        change.commit().await?;
        self.alerts_raised.notify_one();
        Ok(())
    }

    /// What was decided about a schedule's planned times, by planned time.
    pub async fn decided(&self, schedule: &str) -> Result<Vec<Record>, CatalogError> {
        let rows = sqlx::query(
            "SELECT id, planned_at, state = 'missed' AS missed FROM schedule_runs \
             WHERE schedule = ? AND planned_at IS NOT NULL ORDER BY planned_at",
        )
        .bind(schedule)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Record {
                    planned_at: time(row.try_get("planned_at")?)?,
                    order: row.try_get("id")?,
                    missed: row.try_get("missed")?,
                })
            })
            .collect()
    }

    /// The runs that something is still to be done about, the oldest first.
    pub async fn open_runs(&self) -> Result<Vec<RunRecord>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM schedule_runs WHERE open = 1 ORDER BY id")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(run).collect()
    }

    /// The newest run of a schedule.
    pub async fn last_run(&self, schedule: &str) -> Result<Option<RunRecord>, CatalogError> {
        let row = sqlx::query("SELECT * FROM schedule_runs WHERE schedule = ? ORDER BY id DESC LIMIT 1")
            .bind(schedule)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(run).transpose()
    }

    /// Writes down what became of a planned time without a job, and the events of that. False if it was
    /// written before.
    pub async fn add_run(
        &self,
        run: &RunRecord,
        replaces: Option<i64>,
        events: &[Event],
    ) -> Result<bool, CatalogError> {
        let mut change = self.change().await?;
        if !insert(&mut change, run, replaces).await? {
            return Ok(false);
        }
        raise(&mut change, events, run.ran_at).await?;
        change.commit().await?;
        self.alerts_raised.notify_one();
        Ok(true)
    }

    /// Forgets that planned times were missed: they are still to come.
    pub async fn withdraw_missed(&self, schedule: &str, planned: &[Timestamp]) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        for planned_at in planned {
            sqlx::query(
                "DELETE FROM schedule_runs WHERE schedule = ? AND planned_at = ? AND state = 'missed'",
            )
            .bind(schedule)
            .bind(micros(*planned_at))
            .execute(&mut *change)
            .await?;
        }
        Ok(change.commit().await?)
    }

    /// Nothing more is to be done about a run. What is to be told of that is written with it.
    pub async fn close_run(
        &self,
        run: &RunRecord,
        events: &[Event],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE schedule_runs SET open = 0, state = ?, record = ? WHERE id = ?")
            .bind(run.state.word())
            .bind(to_json(&run.details))
            .bind(run.id)
            .execute(&mut *change)
            .await?;
        raise(&mut change, events, now).await?;
        change.commit().await?;
        self.alerts_raised.notify_one();
        Ok(())
    }
}

/// Takes what the job is for, within the transaction that adds the job, and tells that the schedule runs
/// again. False if it is taken already.
pub(super) async fn take(
    change: &mut Transaction<'static, Sqlite>,
    claim: &Claim,
    job: &Job,
) -> Result<bool, CatalogError> {
    let again = job.schedule.as_deref().and_then(|schedule| runs_again(schedule, job));
    raise(change, again.as_slice(), job.created_at).await?;
    let taken = match claim {
        Claim::Run { schedule, planned_at, replaces } => {
            let run = RunRecord {
                id: 0,
                schedule: schedule.clone(),
                planned_at: *planned_at,
                ran_at: job.created_at,
                state: RunState::Started,
                job: Some(job.id),
                retention_job: None,
                details: RunDetails::default(),
            };
            return insert(change, &run, *replaces).await;
        }
        Claim::Waited { run, note, events } => {
            raise(change, events, job.created_at).await?;
            sqlx::query(
                "UPDATE schedule_runs SET state = 'started', job = ?, record = ? \
             WHERE id = ? AND state = 'waiting' AND open = 1",
            )
            .bind(job.id.to_string())
            .bind(to_json(&RunDetails { note: note.clone(), ..RunDetails::default() }))
            .bind(run)
        }
        Claim::Retention { run } => sqlx::query(
            "UPDATE schedule_runs SET retention_job = ? WHERE id = ? AND retention_job IS NULL AND open = 1",
        )
        .bind(job.id.to_string())
        .bind(run),
    };
    Ok(taken.execute(&mut **change).await?.rows_affected() == 1)
}

async fn insert(
    change: &mut Transaction<'static, Sqlite>,
    run: &RunRecord,
    replaces: Option<i64>,
) -> Result<bool, CatalogError> {
    sqlx::query("DELETE FROM schedule_runs WHERE id = ?").bind(replaces).execute(&mut **change).await?;
    let is_open = matches!(run.state, RunState::Started | RunState::Waiting);
    let inserted = sqlx::query(
        "INSERT INTO schedule_runs (schedule, planned_at, ran_at, state, open, job, record) \
         VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(&run.schedule)
    .bind(run.planned_at.map(micros))
    .bind(micros(run.ran_at))
    .bind(run.state.word())
    .bind(is_open)
    .bind(run.job.map(|job| job.to_string()))
    .bind(to_json(&run.details))
    .execute(&mut **change)
    .await?;
    sqlx::query(
        "DELETE FROM schedule_runs WHERE schedule = ? AND open = 0 AND id <= \
         (SELECT id FROM schedule_runs WHERE schedule = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
    )
    .bind(&run.schedule)
    .bind(&run.schedule)
    .bind(KEPT)
    .execute(&mut **change)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

fn schedule(row: &SqliteRow) -> Result<ScheduleRecord, CatalogError> {
    Ok(ScheduleRecord {
        name: row.try_get("name")?,
        origin: ScheduleOrigin::of_word(row.try_get("origin")?)?,
        definition: from_json(row.try_get("definition")?, "a schedule")?,
        time_zone: row.try_get("time_zone")?,
        owed_from: time(row.try_get("owed_from")?)?,
        paused_at: row.try_get::<Option<i64>, _>("paused_at")?.map(time).transpose()?,
    })
}

fn run(row: &SqliteRow) -> Result<RunRecord, CatalogError> {
    let job = |column: &str| -> Result<Option<JobId>, CatalogError> {
        let id: Option<String> = row.try_get(column)?;
        id.map(|id| id.parse()).transpose().map_err(|_| CatalogError::Damaged("a run of a schedule"))
    };
    Ok(RunRecord {
        id: row.try_get("id")?,
        schedule: row.try_get("schedule")?,
        planned_at: row.try_get::<Option<i64>, _>("planned_at")?.map(time).transpose()?,
        ran_at: time(row.try_get("ran_at")?)?,
        state: RunState::of_word(row.try_get("state")?)?,
        job: job("job")?,
        retention_job: job("retention_job")?,
        details: from_json(row.try_get("record")?, "a run of a schedule")?,
    })
}
