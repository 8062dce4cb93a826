//! The backups of the repository, kept here so that a list needs no reading, and what verification found.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use repository::backup::manifest::BackupRecord;
use repository::names::{BackupName, SourceId};
use repository::verify::Coverage;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::catalog::history::number_of;
use crate::catalog::{Catalog, CatalogError, from_json, micros, time, to_json};
use crate::jobs::safety::Safety;

/// How many backups are read at once by whoever looks for one.
const LOOKED_AT_ONCE: u32 = 50;

/// The newest result of verifying one archive to one depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationRecord {
    /// Which archive.
    pub source: SourceId,
    /// listed, hashed, opened.
    pub depth: String,
    /// When.
    pub at: Timestamp,
    /// Nothing was found.
    pub intact: bool,
    /// What was found, a line each.
    pub findings: Vec<String>,
    /// How much of it was read then and earlier, and how much never.
    pub coverage: Coverage,
}

impl VerificationRecord {
    /// True if every pack that the archive needs was read, then or earlier, and nothing was found: less than
    /// that proves nothing.
    pub fn proves(&self) -> bool {
        self.intact && self.coverage.unread == 0
    }
}

impl Catalog {
    /// Makes the catalog's backups those that the repository holds.
    pub async fn replace_backups(&self, backups: &[BackupRecord]) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        let names: Vec<&str> = backups.iter().map(|backup| backup.name.as_str()).collect();
        sqlx::query("DELETE FROM backups WHERE name NOT IN (SELECT value FROM json_each(?))")
            .bind(to_json(&names))
            .execute(&mut *change)
            .await?;
        for backup in backups {
            write(&mut change, backup).await?;
        }
        Ok(change.commit().await?)
    }

    /// Adds a backup that was committed just now, or what is new of one.
    pub async fn put_backup(&self, backup: &BackupRecord) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        write(&mut change, backup).await?;
        Ok(change.commit().await?)
    }

    /// Forgets backups that the repository does not hold any more, and what verification found of them.
    pub async fn forget_backups(&self, names: &[&BackupName]) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM backups WHERE name IN (SELECT value FROM json_each(?))")
            .bind(to_json(&names))
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// At most `limit` backups with a sequence below `before`, the newest first.
    pub async fn backups_before(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<BackupRecord>, CatalogError> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let records: Vec<String> = sqlx::query_scalar(
            "SELECT record FROM backups WHERE sequence < ? ORDER BY sequence DESC LIMIT ?",
        )
        .bind(before)
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        records.iter().map(|record| from_json(record, "a backup")).collect()
    }

    /// The newest backup that `fits` among the newest `within`. Mostly it is the first, so that few are read.
    pub async fn newest_backup(
        &self,
        within: u32,
        fits: impl Fn(&BackupRecord) -> bool,
    ) -> Result<Option<BackupRecord>, CatalogError> {
        let (mut before, mut left, mut page) = (None, within, 1);
        while left > 0 {
            page = left.min(page);
            let records = self.backups_before(before, page).await?;
            let Some(oldest) = records.last() else { break };
            before = Some(oldest.sequence);
            if let Some(found) = records.into_iter().find(&fits) {
                return Ok(Some(found));
            }
            left -= page;
            page = LOOKED_AT_ONCE;
        }
        Ok(None)
    }

    /// How many backups there are.
    pub async fn count_backups(&self) -> Result<u64, CatalogError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM backups").fetch_one(&self.readers).await?;
        Ok(counted(count))
    }

    /// The names of all backups.
    pub async fn backup_names(&self) -> Result<HashSet<BackupName>, CatalogError> {
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM backups").fetch_all(&self.readers).await?;
        let wrong = |_| CatalogError::Damaged("a backup's name");
        names.iter().map(|name| name.parse().map_err(wrong)).collect()
    }

    /// One backup.
    pub async fn backup(&self, name: &BackupName) -> Result<Option<BackupRecord>, CatalogError> {
        let record: Option<String> = sqlx::query_scalar("SELECT record FROM backups WHERE name = ?")
            .bind(name.as_str())
            .fetch_optional(&self.readers)
            .await?;
        record.map(|record| from_json(&record, "a backup")).transpose()
    }

    /// Remembers the result of a verification.
    pub async fn add_verification(
        &self,
        backup: &BackupName,
        result: &VerificationRecord,
    ) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT OR REPLACE INTO verifications
                 (backup, component, source, depth, at, intact, findings,
                  now_bytes, earlier_bytes, unread_bytes, oldest_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
             WHERE EXISTS (SELECT 1 FROM backups WHERE name = ?1)",
        )
        .bind(backup.as_str())
        .bind(result.source.component.as_str())
        .bind(result.source.name.as_str())
        .bind(&result.depth)
        .bind(micros(result.at))
        .bind(result.intact)
        .bind(to_json(&result.findings))
        .bind(stored(result.coverage.now))
        .bind(stored(result.coverage.earlier))
        .bind(stored(result.coverage.unread))
        .bind(result.coverage.oldest.map(micros))
        .execute(&mut *change)
        .await?;
        if result.proves() {
            // All of it was read since, and more thoroughly: what was found before is mended.
            let shallower: &[&str] = match result.depth.as_str() {
                "opened" => &["listed", "hashed"],
                "hashed" => &["listed"],
                _ => &[],
            };
            sqlx::query(
                "DELETE FROM verifications
                 WHERE backup = ? AND component = ? AND source = ? AND intact = 0 AND at < ?
                   AND depth IN (SELECT value FROM json_each(?))",
            )
            .bind(backup.as_str())
            .bind(result.source.component.as_str())
            .bind(result.source.name.as_str())
            .bind(micros(result.coverage.oldest.unwrap_or(result.at).min(result.at)))
            .bind(to_json(&shallower))
            .execute(&mut *change)
            .await?;
        }
        Ok(change.commit().await?)
    }

    /// The results for one backup.
    pub async fn verifications(&self, backup: &BackupName) -> Result<Vec<VerificationRecord>, CatalogError> {
        Ok(self.verifications_of(&[backup]).await?.remove(backup).unwrap_or_default())
    }

    /// The results for several backups.
    pub async fn verifications_of(
        &self,
        backups: &[&BackupName],
    ) -> Result<HashMap<BackupName, Vec<VerificationRecord>>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM verifications WHERE backup IN (SELECT value FROM json_each(?))
             ORDER BY backup, component, source, at",
        )
        .bind(to_json(&backups))
        .fetch_all(&self.readers)
        .await?;
        let mut found: HashMap<BackupName, Vec<VerificationRecord>> = HashMap::new();
        for row in &rows {
            let backup = row.try_get::<String, _>("backup")?;
            let backup = backup.parse().map_err(|_| CatalogError::Damaged("a backup's name"))?;
            found.entry(backup).or_default().push(verification(row)?);
        }
        Ok(found)
    }
}

async fn write(change: &mut Transaction<'static, Sqlite>, backup: &BackupRecord) -> Result<(), CatalogError> {
    let sequence =
        i64::try_from(backup.sequence).map_err(|_| CatalogError::Damaged("a backup's sequence"))?;
    let written = sqlx::query(
        "INSERT INTO backups (name, sequence, record) VALUES (?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence, record = excluded.record
         WHERE sequence != excluded.sequence OR record != excluded.record",
    )
    .bind(backup.name.as_str())
    .bind(sequence)
    .bind(to_json(backup))
    .execute(&mut **change)
    .await?;
    if written.rows_affected() > 0 {
        write_components(change, backup, sequence).await?;
    }
    Ok(())
}

/// What became of each component, beside the record.
async fn write_components(
    change: &mut Transaction<'static, Sqlite>,
    backup: &BackupRecord,
    sequence: i64,
) -> Result<(), CatalogError> {
    let mut components: BTreeMap<&str, (i64, u64)> = BTreeMap::new();
    for archive in &backup.archives {
        let (worst, bytes) = components.entry(archive.source.component.as_str()).or_default();
        *worst = (*worst).max(number_of(archive.outcome));
        *bytes = bytes.saturating_add(archive.counts.bytes);
    }
    sqlx::query("DELETE FROM backup_components WHERE backup = ?")
        .bind(backup.name.as_str())
        .execute(&mut **change)
        .await?;
    for (component, (outcome, bytes)) in components {
        sqlx::query(
            "INSERT INTO backup_components (backup, component, sequence, outcome, bytes, safety)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(backup.name.as_str())
        .bind(component)
        .bind(sequence)
        .bind(outcome)
        .bind(stored(bytes))
        .bind(Safety::of(backup).is_some())
        .execute(&mut **change)
        .await?;
    }
    Ok(())
}

fn verification(row: &SqliteRow) -> Result<VerificationRecord, CatalogError> {
    let wrong = |_| CatalogError::Damaged("a source's name");
    Ok(VerificationRecord {
        source: SourceId {
            component: row.try_get::<String, _>("component")?.parse().map_err(wrong)?,
            name: row.try_get::<String, _>("source")?.parse().map_err(wrong)?,
        },
        depth: row.try_get("depth")?,
        at: time(row.try_get("at")?)?,
        intact: row.try_get("intact")?,
        findings: from_json(row.try_get("findings")?, "a verification")?,
        coverage: Coverage {
            now: counted(row.try_get("now_bytes")?),
            earlier: counted(row.try_get("earlier_bytes")?),
            unread: counted(row.try_get("unread_bytes")?),
            oldest: row.try_get::<Option<i64>, _>("oldest_at")?.map(time).transpose()?,
        },
    })
}

/// SQLite's integers have a sign; no repository comes near the end of them.
fn stored(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn counted(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}
