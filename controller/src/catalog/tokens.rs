//! Invitations: one-time tokens and join keys, kept as hashes only; and which key belongs to which agent.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::catalog::{Catalog, CatalogError, micros, time};
use crate::identity::{AgentCertificate, KeyDigest, SourceBounds, Terms, name_pattern};
use crate::ids::AgentId;

/// Letters of the hash by which people name an invitation.
const ID_DIGITS: usize = 12;

/// How an agent has come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Its id.
    pub agent: AgentId,
    /// What it is called.
    pub name: String,
    /// What it may serve.
    pub bounds: SourceBounds,
}

/// What became of the use of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUse {
    /// It was good, and one use of it is gone now.
    Fresh(Admission),
    /// The same key has used it before: the same agent.
    Again(Admission),
    /// It is not good: unknown, used up, or out of time.
    Refused,
    /// It is good, and does not let an agent of this name in.
    WrongName,
    /// The key belongs to an agent that joined in another way.
    KeyInUse,
}

/// An invitation that can still be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationRecord {
    /// The beginning of its hash.
    pub id: String,
    /// What it allows.
    pub terms: Terms,
    /// How many agents have joined with it.
    pub used: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it can be used.
    pub ends_at: Timestamp,
}

const OPEN: &str = "SELECT *, (SELECT count(*) FROM agent_keys k WHERE k.token = i.hash) AS used
     FROM invitations i WHERE i.ends_at >= ?
       AND i.uses > (SELECT count(*) FROM agent_keys k WHERE k.token = i.hash) ORDER BY i.created_at, i.hash";

impl Catalog {
    /// Remembers an invitation by the SHA-256 of its secret.
    pub async fn add_invitation(
        &self,
        hash: &[u8; 32],
        terms: &Terms,
        now: Timestamp,
        ends_at: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("DELETE FROM invitations WHERE ends_at < ?")
            .bind(micros(now))
            .execute(&mut *change)
            .await?;
        sqlx::query(
            "INSERT INTO invitations (hash, name, reusable, uses, sources, created_at, ends_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&hash[..])
        .bind(&terms.name)
        .bind(terms.is_reusable)
        .bind(terms.uses)
        .bind(terms.bounds.to_string())
        .bind(micros(now))
        .bind(micros(ends_at))
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// The invitations that can still be used, the oldest first.
    pub async fn open_invitations(&self, now: Timestamp) -> Result<Vec<InvitationRecord>, CatalogError> {
        let rows = sqlx::query(OPEN).bind(micros(now)).fetch_all(&self.readers).await?;
        rows.iter().map(read_invitation).collect()
    }

    /// Takes back the open invitation with this id; `None` where there is none.
    pub async fn revoke_invitation(
        &self,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<InvitationRecord>, CatalogError> {
        let mut change = self.change().await?;
        let rows = sqlx::query(OPEN).bind(micros(now)).fetch_all(&mut *change).await?;
        for row in &rows {
            let record = read_invitation(row)?;
            if record.id == id {
                sqlx::query("DELETE FROM invitations WHERE hash = ?")
                    .bind(row.try_get::<Vec<u8>, _>("hash")?)
                    .execute(&mut *change)
                    .await?;
                change.commit().await?;
                return Ok(Some(record));
            }
        }
        Ok(None)
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
        let invitation = sqlx::query("SELECT *, 0 AS used FROM invitations WHERE hash = ? AND ends_at >= ?")
            .bind(&hash[..])
            .bind(micros(now))
            .fetch_optional(&mut *change)
            .await?;
        let Some(invitation) = invitation else { return Ok(TokenUse::Refused) };
        let terms = read_invitation(&invitation)?.terms;
        let known = sqlx::query("SELECT agent, token FROM agent_keys WHERE key = ?")
            .bind(&key.as_bytes()[..])
            .fetch_optional(&mut *change)
            .await?;
        if let Some(known) = known {
            if known.try_get::<Option<Vec<u8>>, _>("token")?.as_deref() != Some(&hash[..]) {
                return Ok(TokenUse::KeyInUse);
            }
            let agent = known.try_get::<String, _>("agent")?;
            let agent = agent.parse().map_err(|_| CatalogError::Damaged("an agent's id"))?;
            let name = name_of(&mut change, agent).await?;
            return Ok(TokenUse::Again(Admission { agent, name, bounds: terms.bounds }));
        }
        let used: u32 = sqlx::query_scalar("SELECT count(*) FROM agent_keys WHERE token = ?")
            .bind(&hash[..])
            .fetch_one(&mut *change)
            .await?;
        if used >= terms.uses {
            return Ok(TokenUse::Refused);
        }
        let is_named = !terms.is_reusable && !terms.name.is_empty();
        let name = if is_named { &terms.name } else { asked_name };
        if terms.is_reusable && !fits(&terms.name, asked_name)? {
            return Ok(TokenUse::WrongName);
        }
        let agent = AgentId::fresh();
        sqlx::query(
            "INSERT INTO agents (id, name, invited, joined_at, certificate_ends_at, may_serve)
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(agent.to_string())
        .bind(name)
        .bind(is_named)
        .bind(micros(now))
        .bind(micros(certificate_ends_at))
        .bind(terms.bounds.to_string())
        .execute(&mut *change)
        .await?;
        sqlx::query("INSERT INTO agent_keys (key, agent, token) VALUES (?, ?, ?)")
            .bind(&key.as_bytes()[..])
            .bind(agent.to_string())
            .bind(&hash[..])
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(TokenUse::Fresh(Admission { agent, name: name.to_owned(), bounds: terms.bounds }))
    }

    /// Remembers what the certificate of an agent says that the catalog had forgotten.
    pub async fn remember_certificate(&self, certificate: &AgentCertificate) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("INSERT OR IGNORE INTO agent_keys (key, agent) VALUES (?, ?)")
            .bind(&certificate.key.as_bytes()[..])
            .bind(certificate.agent.to_string())
            .execute(&mut *change)
            .await?;
        sqlx::query("UPDATE agents SET may_serve = ? WHERE id = ?")
            .bind(certificate.bounds.to_string())
            .bind(certificate.agent.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }
}

fn fits(pattern: &str, name: &str) -> Result<bool, CatalogError> {
    let pattern = name_pattern(pattern).map_err(|_| CatalogError::Damaged("a join key's pattern"))?;
    Ok(!name.is_empty() && pattern.matches(name))
}

async fn name_of(change: &mut Transaction<'static, Sqlite>, agent: AgentId) -> Result<String, CatalogError> {
    Ok(sqlx::query_scalar("SELECT name FROM agents WHERE id = ?")
        .bind(agent.to_string())
        .fetch_one(&mut **change)
        .await?)
}

fn read_invitation(row: &SqliteRow) -> Result<InvitationRecord, CatalogError> {
    let hash: Vec<u8> = row.try_get("hash")?;
    let bounds: String = row.try_get("sources")?;
    let mut id = repository::ids::hex(&hash);
    id.truncate(ID_DIGITS);
    Ok(InvitationRecord {
        id,
        terms: Terms {
            name: row.try_get("name")?,
            is_reusable: row.try_get("reusable")?,
            uses: row.try_get("uses")?,
            bounds: bounds.parse().map_err(|_| CatalogError::Damaged("a join key's sources"))?,
        },
        used: row.try_get("used")?,
        created_at: time(row.try_get("created_at")?)?,
        ends_at: time(row.try_get("ends_at")?)?,
    })
}
