//! What became of components over time. It is read from a table that holds a row for each component of each
//! backup (migration 90), so that no record has to be opened for it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use repository::backup::manifest::{BackupRecord, Outcome};
use repository::names::{BackupName, Component};
use sqlx::Row;

use crate::catalog::{Catalog, CatalogError, from_json, to_json};
use crate::jobs::Job;

/// What a day brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRecord {
    /// As `2026-01-31`.
    pub day: String,
    /// The best of its backups.
    pub best: Outcome,
    /// How many there were.
    pub backups: u64,
    /// Of the largest complete one.
    pub bytes: u64,
}

/// The newest backups of a component that are no safety backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestRecord {
    /// Which component.
    pub component: String,
    /// The newest that holds it complete.
    pub complete: Option<BackupName>,
    /// The newest that holds anything of it.
    pub usable: Option<BackupName>,
    /// How the newest of any outcome ended; none: there are safety backups alone.
    pub last: Option<Outcome>,
}

/// From one moment to before another, each as the name of a backup of that moment.
pub(crate) type Stretch<'a> = (&'a BackupName, &'a BackupName);

const AS_DAY: &str = "substr(backup, 1, 4) || '-' || substr(backup, 5, 2) || '-' || substr(backup, 7, 2)";

impl Catalog {
    /// The backups of a stretch of time, the newest first.
    pub async fn backups_within(
        &self,
        (from, until): Stretch<'_>,
        limit: u32,
    ) -> Result<Vec<BackupRecord>, CatalogError> {
        let records: Vec<String> = sqlx::query_scalar(
            "SELECT record FROM backups WHERE name >= ? AND name < ? ORDER BY name DESC LIMIT ?",
        )
        .bind(from.as_str())
        .bind(until.as_str())
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        records.iter().map(|record| from_json(record, "a backup")).collect()
    }

    /// When a job of this schedule has looked at each component last, whatever came of it.
    pub async fn last_looked_at_by(
        &self,
        schedule: &str,
    ) -> Result<BTreeMap<String, Timestamp>, CatalogError> {
        const JOBS: u32 = 200;
        let records: Vec<String> = sqlx::query_scalar(
            "SELECT record FROM jobs WHERE ended = 1 AND json_extract(record, '$.schedule') = ?
             ORDER BY created_at DESC, id DESC LIMIT ?",
        )
        .bind(schedule)
        .bind(JOBS)
        .fetch_all(&self.readers)
        .await?;
        let mut last = BTreeMap::new();
        for record in &records {
            let job: Job = from_json(record, "a job")?;
            for part in &job.parts {
                last.entry(part.source.component.to_string()).or_insert(job.created_at);
            }
        }
        Ok(last)
    }

    /// True if a backup that is there holds bytes of the component.
    pub async fn has_held(&self, component: &Component) -> Result<bool, CatalogError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM backup_components WHERE component = ? AND bytes > 0)";
        Ok(sqlx::query_scalar(sql).bind(component.as_str()).fetch_one(&self.readers).await?)
    }

    /// Those of these backups that are there.
    pub async fn backups_named(&self, names: &[&BackupName]) -> Result<Vec<BackupRecord>, CatalogError> {
        let records: Vec<String> =
            sqlx::query_scalar("SELECT record FROM backups WHERE name IN (SELECT value FROM json_each(?))")
                .bind(to_json(&names))
                .fetch_all(&self.readers)
                .await?;
        records.iter().map(|record| from_json(record, "a backup")).collect()
    }

    /// The days of each component, the oldest first; safety backups are left out.
    pub async fn days_of_components(
        &self,
        (from, until): Stretch<'_>,
    ) -> Result<Vec<(String, DayRecord)>, CatalogError> {
        let sql = of_days(
            "SELECT component, ",
            " AS day, min(outcome) AS best, count(*) AS backups,
                    coalesce(max(bytes) FILTER (WHERE outcome = 1), 0) AS bytes
             FROM backup_components WHERE backup >= ? AND backup < ? AND safety = 0
             GROUP BY component, day ORDER BY component, day",
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(from.as_str())
            .bind(until.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok((row.try_get("component")?, day(row)?))).collect()
    }

    /// The days of whole backups, the oldest first.
    pub async fn days_of_backups(&self, (from, until): Stretch<'_>) -> Result<Vec<DayRecord>, CatalogError> {
        let sql = of_days(
            "SELECT ",
            " AS day, min(outcome) AS best, count(*) AS backups,
                    coalesce(max(bytes) FILTER (WHERE outcome = 1), 0) AS bytes
             FROM (SELECT backup, sum(bytes) AS bytes,
                          CASE WHEN max(outcome) = 1 THEN 1 WHEN min(outcome) = 3 THEN 3 ELSE 2 END AS outcome
                   FROM backup_components WHERE backup >= ? AND backup < ? GROUP BY backup)
             GROUP BY day ORDER BY day",
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(from.as_str())
            .bind(until.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(day).collect()
    }

    /// The newest backups of every component that is in one, by name.
    pub async fn newest_of_components(&self) -> Result<Vec<NewestRecord>, CatalogError> {
        // From each name to the next by the index: however many backups there are, few rows are looked at.
        let rows = sqlx::query(
            "WITH RECURSIVE named (component) AS (
                 SELECT min(component) FROM backup_components
                 UNION ALL
                 SELECT (SELECT min(component) FROM backup_components AS next
                         WHERE next.component > named.component)
                 FROM named WHERE named.component IS NOT NULL)
             SELECT component,
                    (SELECT backup FROM backup_components AS one
                     WHERE one.component = named.component AND safety = 0 AND outcome = 1
                     ORDER BY sequence DESC LIMIT 1) AS complete,
                    (SELECT backup FROM backup_components AS one
                     WHERE one.component = named.component AND safety = 0 AND outcome < 3
                     ORDER BY sequence DESC LIMIT 1) AS usable,
                    (SELECT outcome FROM backup_components AS one
                     WHERE one.component = named.component AND safety = 0
                     ORDER BY sequence DESC LIMIT 1) AS last
             FROM named WHERE component IS NOT NULL",
        )
        .fetch_all(&self.readers)
        .await?;
        let newest = |row: &sqlx::sqlite::SqliteRow| {
            let wrong = |_| CatalogError::Damaged("a backup's name");
            let named = |column: &str| -> Result<Option<BackupName>, CatalogError> {
                let name = row.try_get::<Option<String>, _>(column)?;
                name.map(|name| name.parse().map_err(wrong)).transpose()
            };
            Ok(NewestRecord {
                component: row.try_get("component")?,
                complete: named("complete")?,
                usable: named("usable")?,
                last: row.try_get::<Option<i64>, _>("last")?.map(outcome),
            })
        };
        rows.iter().map(newest).collect()
    }

    /// How many backups there are, and the bytes of the data in all of them.
    pub async fn held(&self) -> Result<(u64, u64), CatalogError> {
        let bytes: f64 =
            sqlx::query_scalar("SELECT total(bytes) FROM backup_components").fetch_one(&self.readers).await?;
        Ok((self.count_backups().await?, bytes as u64))
    }
}

fn of_days(before: &str, after: &str) -> String {
    format!("{before}{AS_DAY}{after}")
}

/// An outcome as the table has it: the worse, the higher.
pub(super) fn number_of(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Complete => 1,
        Outcome::Incomplete => 2,
        Outcome::Failed => 3,
    }
}

fn outcome(number: i64) -> Outcome {
    match number {
        1 => Outcome::Complete,
        2 => Outcome::Incomplete,
        _ => Outcome::Failed,
    }
}

fn day(row: &sqlx::sqlite::SqliteRow) -> Result<DayRecord, CatalogError> {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(DayRecord {
        day: row.try_get("day")?,
        best: outcome(row.try_get("best")?),
        backups: count(row.try_get("backups")?),
        bytes: count(row.try_get("bytes")?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MIGRATION: &str = include_str!("../../migrations/0090_history_of_components.sql");

    fn name(text: &str) -> BackupName {
        text.parse().expect("a name")
    }

    /// A backup with these archives: component, source, outcome, bytes.
    fn backup(
        text: &str,
        sequence: u64,
        pin: Option<&str>,
        archives: &[(&str, &str, Outcome, u64)],
    ) -> BackupRecord {
        let archives: Vec<_> = archives
            .iter()
            .map(|(component, source, outcome, bytes)| {
                json!({
                    "component": component, "source": source, "kind": "files", "outcome": outcome,
                    "reason": null, "consistency": null, "counts": { "bytes": bytes },
                    "manifest": "00".repeat(32), "refs": null,
                })
            })
            .collect();
        let time = name(text).time();
        serde_json::from_value(json!({
            "format": repository::backup::manifest::FORMAT,
            "repository": repository::ids::RepositoryId::new([1; 16]),
            "name": text, "sequence": sequence, "job": "job", "started_at": time, "ended_at": time,
            "outcome": "incomplete", "pin": pin, "previous": null, "archives": archives,
        }))
        .expect("a backup")
    }

    async fn rows(catalog: &Catalog) -> Vec<(String, String, i64, i64, i64, i64)> {
        sqlx::query_as("SELECT * FROM backup_components ORDER BY backup, component")
            .fetch_all(&catalog.readers)
            .await
            .expect("read")
    }

    #[tokio::test]
    async fn days_and_newest_backups_are_told_without_reading_records() {
        use Outcome::{Complete, Failed, Incomplete};
        let home = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(&home.path().join("catalog.sqlite")).await.expect("opened");
        let safety = "safety backup before restore 01a21776-df6d-75ae-b48f-478a620c59f6, \
                      kept until 2026-02-01T00:00:00Z";
        let all = [
            backup(
                "20260101_010000",
                1,
                None,
                &[("configs", "a", Complete, 1), ("models", "a", Complete, 5)],
            ),
            backup("20260102_010000", 2, None, &[("models", "a", Complete, 7), ("models", "b", Failed, 0)]),
            backup("20260102_020000", 3, None, &[("models", "a", Complete, 4), ("models", "b", Complete, 2)]),
            backup("20260103_010000", 4, Some("for the audit"), &[("models", "a", Incomplete, 9)]),
            backup(
                "20260104_010000",
                5,
                Some(safety),
                &[("models", "a", Complete, 9), ("ipfs", "a", Complete, 1)],
            ),
        ];
        catalog.replace_backups(&all).await.expect("written");
        let (from, until) = (name("20260101_000000"), name("20260104_000000"));
        let days = catalog.days_of_components((&from, &until)).await.expect("read");
        let day = |day: &str, best, backups, bytes| DayRecord { day: day.to_owned(), best, backups, bytes };
        let models = |day| ("models".to_owned(), day);
        assert_eq!(
            days,
            [
                ("configs".to_owned(), day("2026-01-01", Complete, 1, 1)),
                models(day("2026-01-01", Complete, 1, 5)),
                models(day("2026-01-02", Complete, 2, 6)),
                models(day("2026-01-03", Incomplete, 1, 0)),
            ]
        );
        let whole = catalog.days_of_backups((&from, &name("20270101_000000"))).await.expect("read");
        assert_eq!(
            whole,
            [
                day("2026-01-01", Complete, 1, 6),
                day("2026-01-02", Complete, 2, 6),
                day("2026-01-03", Incomplete, 1, 0),
                day("2026-01-04", Complete, 1, 10),
            ]
        );
        let newest = catalog.newest_of_components().await.expect("read");
        let of = |component: &str, complete: Option<&str>, usable: Option<&str>, last| NewestRecord {
            component: component.to_owned(),
            complete: complete.map(name),
            usable: usable.map(name),
            last,
        };
        assert_eq!(
            newest,
            [
                of("configs", Some("20260101_010000"), Some("20260101_010000"), Some(Complete)),
                of("ipfs", None, None, None),
                of("models", Some("20260102_020000"), Some("20260103_010000"), Some(Incomplete)),
            ]
        );
        assert_eq!(catalog.held().await.expect("read"), (5, 38));
        let within = catalog.backups_within((&from, &until), 2).await.expect("read");
        let names: Vec<&str> = within.iter().map(|backup| backup.name.as_str()).collect();
        assert_eq!(names, ["20260103_010000", "20260102_020000"], "the newest first");
        catalog.forget_backups(&[&name("20260102_020000")]).await.expect("forgotten");
        let newest = catalog.newest_of_components().await.expect("read");
        assert_eq!(newest[2].complete, Some(name("20260101_010000")));
    }

    #[tokio::test]
    async fn an_earlier_database_gets_the_same_rows_as_what_is_written_now() {
        let home = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(&home.path().join("catalog.sqlite")).await.expect("opened");
        assert!(catalog.newest_of_components().await.expect("read").is_empty());
        let safety = "safety backup before restore 01a21776-df6d-75ae-b48f-478a620c59f6, \
                      kept until 2026-02-01T00:00:00Z";
        let two = [("models", "a", Outcome::Complete, 1 << 40), ("models", "b", Outcome::Incomplete, 3)];
        let mut one = backup("20260101_010000", 1, None, &two);
        catalog.put_backup(&one).await.expect("written");
        catalog.put_backup(&backup("20260102_010000", 2, Some(safety), &two)).await.expect("written");
        one.pin = Some("for the audit".to_owned());
        catalog.put_backup(&one).await.expect("changed");
        let written = rows(&catalog).await;
        assert_eq!(written.iter().map(|row| row.5).collect::<Vec<_>>(), [0, 1]);
        let fill = &MIGRATION[MIGRATION.find("INSERT INTO").expect("the rows of what is there")..];
        sqlx::query("DELETE FROM backup_components").execute(&catalog.writer).await.expect("emptied");
        sqlx::query(sqlx::AssertSqlSafe(fill.to_owned())).execute(&catalog.writer).await.expect("filled");
        assert_eq!(rows(&catalog).await, written);
    }
}
