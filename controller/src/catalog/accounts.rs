//! Agents that joined by a service account: one for each account and name, whatever pod it runs in.

use jiff::Timestamp;
use sqlx::Row;

use crate::catalog::tokens::Admission;
use crate::catalog::{Catalog, CatalogError, micros};
use crate::identity::{AccountTerms, KeyDigest};
use crate::ids::AgentId;

/// A pod without a lasting state folder brings a new key at each start; so many are remembered.
const KEYS_KEPT: u32 = 8;

/// What became of a join by a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountUse {
    /// It is in: a new agent, or the one that this account has under this name.
    Joined(Admission),
    /// The agent of this name was revoked.
    Revoked,
    /// The account has as many agents as it may, not counting revoked ones.
    TooMany,
    /// The key belongs to another agent.
    KeyInUse,
}

impl Catalog {
    /// Lets the agent that has this key in on these terms: all or nothing.
    pub async fn join_by_account(
        &self,
        terms: &AccountTerms,
        key: &KeyDigest,
        certificate_ends_at: Timestamp,
        now: Timestamp,
    ) -> Result<AccountUse, CatalogError> {
        let account = terms.account.to_string();
        let mut change = self.change().await?;
        let agents = sqlx::query("SELECT id, name, revoked_at FROM agents WHERE account = ?")
            .bind(&account)
            .fetch_all(&mut *change)
            .await?;
        let (mut known, mut admitted) = (None::<AgentId>, 0_u32);
        for row in &agents {
            // Who was revoked has made room: names of nodes that are gone would fill it up for good.
            let is_revoked = row.try_get::<Option<i64>, _>("revoked_at")?.is_some();
            admitted += u32::from(!is_revoked);
            if row.try_get::<&str, _>("name")? != terms.name {
                continue;
            }
            if is_revoked {
                return Ok(AccountUse::Revoked);
            }
            let id = row.try_get::<&str, _>("id")?.parse();
            known = Some(id.map_err(|_| CatalogError::Damaged("an agent's id"))?);
        }
        let owner: Option<String> = sqlx::query_scalar("SELECT agent FROM agent_keys WHERE key = ?")
            .bind(&key.as_bytes()[..])
            .fetch_optional(&mut *change)
            .await?;
        if owner.is_some() && owner != known.map(|agent| agent.to_string()) {
            return Ok(AccountUse::KeyInUse);
        }
        let agent = match known {
            Some(agent) => agent,
            None if admitted >= terms.most => return Ok(AccountUse::TooMany),
            None => AgentId::fresh(),
        };
        sqlx::query(
            "INSERT INTO agents (id, name, invited, joined_at, certificate_ends_at, may_serve, account)
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET invited = excluded.invited,
             certificate_ends_at = excluded.certificate_ends_at, may_serve = excluded.may_serve",
        )
        .bind(agent.to_string())
        .bind(&terms.name)
        .bind(terms.is_named)
        .bind(micros(now))
        .bind(micros(certificate_ends_at))
        .bind(terms.bounds.to_string())
        .bind(&account)
        .execute(&mut *change)
        .await?;
        sqlx::query("INSERT OR IGNORE INTO agent_keys (key, agent) VALUES (?, ?)")
            .bind(&key.as_bytes()[..])
            .bind(agent.to_string())
            .execute(&mut *change)
            .await?;
        sqlx::query(
            "DELETE FROM agent_keys WHERE agent = ?1 AND rowid NOT IN
             (SELECT rowid FROM agent_keys WHERE agent = ?1 ORDER BY rowid DESC LIMIT ?2)",
        )
        .bind(agent.to_string())
        .bind(KEYS_KEPT)
        .execute(&mut *change)
        .await?;
        change.commit().await?;
        Ok(AccountUse::Joined(Admission { agent, name: terms.name.clone(), bounds: terms.bounds.clone() }))
    }
}
