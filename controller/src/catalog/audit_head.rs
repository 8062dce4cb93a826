//! Where the audit log ends, as far as the catalog was told.

use sqlx::Row;

use crate::audit::Head;
use crate::catalog::{Catalog, CatalogError};

impl Catalog {
    /// The end of the audit log; `None` where nothing was ever logged, or the catalog was made anew.
    pub async fn audit_head(&self) -> Result<Option<Head>, CatalogError> {
        let row = sqlx::query("SELECT * FROM audit_head").fetch_optional(&self.readers).await?;
        let Some(row) = row else { return Ok(None) };
        let bytes = |column| -> Result<[u8; 32], CatalogError> {
            let bytes: Vec<u8> = row.try_get(column)?;
            bytes.try_into().map_err(|_| CatalogError::Damaged("the end of the audit log"))
        };
        let sequence: i64 = row.try_get("sequence")?;
        Ok(Some(Head { sequence: sequence.cast_unsigned(), hash: bytes("hash")?, mac: bytes("mac")? }))
    }

    /// The audit log ends here now.
    pub async fn set_audit_head(&self, head: &Head) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("INSERT OR REPLACE INTO audit_head (one, sequence, hash, mac) VALUES (1, ?, ?, ?)")
            .bind(head.sequence.cast_signed())
            .bind(&head.hash[..])
            .bind(&head.mac[..])
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }
}
