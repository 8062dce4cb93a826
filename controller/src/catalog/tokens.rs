//! Join tokens: kept as hashes only, each good for one agent.

use jiff::Timestamp;
use sqlx::Row;

use crate::catalog::{Catalog, CatalogError, micros, time};
use crate::identity::KeyDigest;
use crate::ids::AgentId;

/// What became of the use of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUse {
    /// It was good, and is used up now: the agent's id and the name it was invited under (empty: any).
    Fresh(AgentId, String),
    /// The same key has used it before: the same agent.
    Again(AgentId, String),
    /// It is not good: unknown, used by another key, or out of time.
    Refused,
}

impl Catalog {
    /// Remembers a token by the SHA-256 of its secret.
    pub async fn add_token(
        &self,
        hash: &[u8; 32],
        name: &str,
        now: Timestamp,
        ends_at: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM join_tokens WHERE ends_at < ?")
            .bind(micros(now))
            .execute(&mut *change)
            .await?;
        sqlx::query("INSERT INTO join_tokens (hash, name, created_at, ends_at) VALUES (?, ?, ?, ?)")
            .bind(&hash[..])
            .bind(name)
            .bind(micros(now))
            .bind(micros(ends_at))
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// How many tokens can still be used.
    pub async fn count_open_tokens(&self, now: Timestamp) -> Result<i64, CatalogError> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM join_tokens WHERE used_by IS NULL AND ends_at >= ?")
            .bind(micros(now))
            .fetch_one(&self.readers)
            .await?)
    }

    /// Uses a token for the agent that has this key: all or nothing.
    pub async fn use_token(
        &self,
        hash: &[u8; 32],
        key: &KeyDigest,
        asked_name: &str,
        certificate_ends_at: Timestamp,
        now: Timestamp,
    ) -> Result<TokenUse, CatalogError> {
        let mut change = self.change().await?;
        let token = sqlx::query("SELECT name, ends_at, used_by, used_key FROM join_tokens WHERE hash = ?")
            .bind(&hash[..])
            .fetch_optional(&mut *change)
            .await?;
        let Some(token) = token else { return Ok(TokenUse::Refused) };
        if time(token.try_get("ends_at")?)? < now {
            return Ok(TokenUse::Refused);
        }
        let invited: String = token.try_get("name")?;
        let name = if invited.is_empty() { asked_name } else { &invited };
        if let Some(used_by) = token.try_get::<Option<String>, _>("used_by")? {
            let same_key =
                token.try_get::<Option<Vec<u8>>, _>("used_key")?.as_deref() == Some(&key.as_bytes()[..]);
            let agent = used_by.parse().map_err(|_| CatalogError::Damaged("an agent's id"))?;
            return Ok(if same_key { TokenUse::Again(agent, name.to_owned()) } else { TokenUse::Refused });
        }
        let agent = AgentId::fresh();
        sqlx::query(
            "INSERT INTO agents (id, name, invited, joined_at, certificate_ends_at) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(agent.to_string())
        .bind(name)
        .bind(!invited.is_empty())
        .bind(micros(now))
        .bind(micros(certificate_ends_at))
        .execute(&mut *change)
        .await?;
        sqlx::query("UPDATE join_tokens SET used_by = ?, used_key = ? WHERE hash = ?")
            .bind(agent.to_string())
            .bind(&key.as_bytes()[..])
            .bind(&hash[..])
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(TokenUse::Fresh(agent, name.to_owned()))
    }
}
