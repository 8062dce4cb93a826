//! How far validators have signed, as backups have seen it.
//!
//! Must stay true: what is known of a source never goes back.

use repository::names::SourceId;
use sqlx::Row;

use crate::catalog::{Catalog, CatalogError};

impl Catalog {
    /// A backup of the source has seen that its validator has signed so far: height, round and step.
    pub async fn saw_signed(
        &self,
        source: &SourceId,
        (height, round, step): (i64, i64, i32),
    ) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT INTO signed_heights (component, name, height, round, step) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (component, name) DO UPDATE SET
                 height = excluded.height, round = excluded.round, step = excluded.step
             WHERE (excluded.height, excluded.round, excluded.step) > (height, round, step)",
        )
        .bind(source.component.as_str())
        .bind(source.name.as_str())
        .bind(height)
        .bind(round)
        .bind(step)
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// The highest that any backup of the source has seen.
    pub async fn signed(&self, source: &SourceId) -> Result<Option<(i64, i64, i32)>, CatalogError> {
        let row =
            sqlx::query("SELECT height, round, step FROM signed_heights WHERE component = ? AND name = ?")
                .bind(source.component.as_str())
                .bind(source.name.as_str())
                .fetch_optional(&self.readers)
                .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((row.try_get("height")?, row.try_get("round")?, row.try_get("step")?)))
    }
}
