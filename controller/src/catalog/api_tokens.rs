//! API tokens: kept as hashes only.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::catalog::{Catalog, CatalogError, micros, time};
use crate::identity::Role;
use crate::ids::TokenId;

/// What is known of a token. No secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTokenRecord {
    /// Its id.
    pub id: TokenId,
    /// What people call it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it no longer counts.
    pub ends_at: Timestamp,
    /// Since when it does not count any more.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Who made it.
    pub created_by: String,
}

impl ApiTokenRecord {
    /// True if it counts.
    pub fn counts(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now < self.ends_at
    }
}

impl Catalog {
    /// Remembers a token by the SHA-256 of its secret, unless `most` of them count already. Forgets those
    /// that stopped to count before `forget`.
    pub async fn add_api_token(
        &self,
        token: &ApiTokenRecord,
        hash: &[u8; 32],
        most: i64,
        forget: Timestamp,
    ) -> Result<bool, CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM api_tokens WHERE min(ends_at, coalesce(revoked_at, ends_at)) < ?")
            .bind(micros(forget))
            .execute(&mut *change)
            .await?;
        let there: i64 =
            sqlx::query_scalar("SELECT count(*) FROM api_tokens").fetch_one(&mut *change).await?;
        if there >= most {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO api_tokens (id, name, role, hash, created_at, ends_at, created_by)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(token.id.to_string())
        .bind(&token.name)
        .bind(token.role.word())
        .bind(&hash[..])
        .bind(micros(token.created_at))
        .bind(micros(token.ends_at))
        .bind(&token.created_by)
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        Ok(true)
    }

    /// A token and the SHA-256 of its secret.
    pub async fn api_token(&self, id: TokenId) -> Result<Option<(ApiTokenRecord, Vec<u8>)>, CatalogError> {
        let row = sqlx::query("SELECT * FROM api_tokens WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| Ok((read(&row)?, row.try_get("hash")?))).transpose()
    }

    /// All tokens, the newest first.
    pub async fn api_tokens(&self) -> Result<Vec<ApiTokenRecord>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM api_tokens ORDER BY id DESC").fetch_all(&self.readers).await?;
        rows.iter().map(read).collect()
    }

    /// The token does not count any more.
    pub async fn revoke_api_token(&self, id: TokenId, now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE api_tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?")
            .bind(micros(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// The token was used.
    pub async fn api_token_used(&self, id: TokenId, now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE api_tokens SET last_used_at = ? WHERE id = ?")
            .bind(micros(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }
}

fn read(row: &SqliteRow) -> Result<ApiTokenRecord, CatalogError> {
    let optional = |column| row.try_get::<Option<i64>, _>(column)?.map(time).transpose();
    let word: String = row.try_get("role")?;
    Ok(ApiTokenRecord {
        id: row.try_get::<String, _>("id")?.parse().map_err(|_| CatalogError::Damaged("a token's id"))?,
        name: row.try_get("name")?,
        role: Role::of_word(&word).ok_or(CatalogError::Damaged("a token's role"))?,
        created_at: time(row.try_get("created_at")?)?,
        ends_at: time(row.try_get("ends_at")?)?,
        revoked_at: optional("revoked_at")?,
        last_used_at: optional("last_used_at")?,
        created_by: row.try_get("created_by")?,
    })
}
