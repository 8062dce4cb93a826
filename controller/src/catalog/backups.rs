//! The backups of the repository, kept here so that a list needs no reading, and what verification found.

use jiff::Timestamp;
use repository::backup::manifest::BackupRecord;
use repository::names::{BackupName, SourceId};
use sqlx::Row;

use crate::catalog::{Catalog, CatalogError, from_json, micros, time, to_json};

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
            sqlx::query(
                "INSERT INTO backups (name, sequence, record) VALUES (?, ?, ?)
                 ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence, record = excluded.record",
            )
            .bind(backup.name.as_str())
            .bind(i64::try_from(backup.sequence).map_err(|_| CatalogError::Damaged("a backup's sequence"))?)
            .bind(to_json(backup))
            .execute(&mut *change)
            .await?;
        }
        Ok(change.commit().await?)
    }

    /// All backups, the newest first.
    pub async fn backups(&self) -> Result<Vec<BackupRecord>, CatalogError> {
        let records: Vec<String> = sqlx::query_scalar("SELECT record FROM backups ORDER BY sequence DESC")
            .fetch_all(&self.readers)
            .await?;
        records.iter().map(|record| from_json(record, "a backup")).collect()
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
            "INSERT OR REPLACE INTO verifications (backup, component, source, depth, at, intact, findings)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS (SELECT 1 FROM backups WHERE name = ?1)",
        )
        .bind(backup.as_str())
        .bind(result.source.component.as_str())
        .bind(result.source.name.as_str())
        .bind(&result.depth)
        .bind(micros(result.at))
        .bind(result.intact)
        .bind(to_json(&result.findings))
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// The results for one backup.
    pub async fn verifications(&self, backup: &BackupName) -> Result<Vec<VerificationRecord>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM verifications WHERE backup = ? ORDER BY component, source, at")
            .bind(backup.as_str())
            .fetch_all(&self.readers)
            .await?;
        let wrong = |_| CatalogError::Damaged("a source's name");
        rows.iter()
            .map(|row| {
                Ok(VerificationRecord {
                    source: SourceId {
                        component: row.try_get::<String, _>("component")?.parse().map_err(wrong)?,
                        name: row.try_get::<String, _>("source")?.parse().map_err(wrong)?,
                    },
                    depth: row.try_get("depth")?,
                    at: time(row.try_get("at")?)?,
                    intact: row.try_get("intact")?,
                    findings: from_json(row.try_get("findings")?, "a verification")?,
                })
            })
            .collect()
    }
}
