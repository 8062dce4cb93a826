//! Agents and what they serve.

use std::collections::BTreeSet;

use jiff::Timestamp;
use repository::names::{Component, SourceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::catalog::owners::{Owner, RefusedSource, claim, refuse};
use crate::catalog::{Catalog, CatalogError, micros, time};
use crate::identity::SourceBounds;
use crate::ids::AgentId;

/// An agent that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    /// Its id.
    pub id: AgentId,
    /// What people call it.
    pub name: String,
    /// The host it last said hello from; empty: never.
    pub host: String,
    /// The version of its program; empty: not known.
    pub version: String,
    /// When it joined.
    pub joined_at: Timestamp,
    /// When it was last connected.
    pub last_seen_at: Option<Timestamp>,
    /// When its newest certificate ends.
    pub certificate_ends_at: Timestamp,
    /// Since when it is shut out.
    pub revoked_at: Option<Timestamp>,
    /// What it said it serves when it last said hello.
    pub sources: Vec<ServedSource>,
    /// What it said it serves and may not.
    pub refused: Vec<RefusedSource>,
    /// What it may serve.
    pub bounds: SourceBounds,
    /// Another process that showed its identity while it was alive.
    pub clone: Option<CloneSeen>,
}

/// Another process has shown an agent's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSeen {
    /// When it last did.
    pub at: Timestamp,
    /// The host that it said it runs on.
    pub host: String,
}

/// One source that an agent serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedSource {
    /// Component and name.
    pub source: SourceId,
    /// Its driver: files, ipfs, …
    pub kind: String,
    /// Where it is, for people.
    pub location: String,
}

impl Catalog {
    /// Every component that an agent serves which may still come back, by name.
    pub async fn served_components(&self) -> Result<Vec<Component>, CatalogError> {
        let agents = self.agents().await?;
        let active = agents.iter().filter(|agent| agent.revoked_at.is_none());
        let served = active.flat_map(|agent| &agent.sources);
        let all: BTreeSet<Component> = served.map(|source| source.source.component.clone()).collect();
        Ok(all.into_iter().collect())
    }

    /// All agents, the oldest first.
    pub async fn agents(&self) -> Result<Vec<AgentRecord>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM agents ORDER BY id").fetch_all(&self.readers).await?;
        let mut agents = rows.iter().map(read_agent).collect::<Result<Vec<_>, _>>()?;
        let rows =
            sqlx::query("SELECT * FROM sources ORDER BY component, name").fetch_all(&self.readers).await?;
        for row in rows {
            let (id, source) = read_source(&row)?;
            if let Some(agent) = agents.iter_mut().find(|agent| agent.id == id) {
                agent.sources.push(source);
            }
        }
        let rows = sqlx::query("SELECT * FROM refused_sources ORDER BY component, name")
            .fetch_all(&self.readers)
            .await?;
        for row in rows {
            let id = agent_id(&row, "agent")?;
            let owner: String = row.try_get("owner")?;
            let refused = RefusedSource { source: source_id(&row)?, owner: Owner::of_column(owner) };
            if let Some(agent) = agents.iter_mut().find(|agent| agent.id == id) {
                agent.refused.push(refused);
            }
        }
        Ok(agents)
    }

    /// One agent.
    pub async fn agent(&self, id: AgentId) -> Result<Option<AgentRecord>, CatalogError> {
        Ok(self.agents().await?.into_iter().find(|agent| agent.id == id))
    }

    /// True if the agent is known and not shut out; `None` where it is not known.
    pub async fn is_admitted(&self, id: AgentId) -> Result<Option<bool>, CatalogError> {
        let row = sqlx::query("SELECT revoked_at IS NULL AS admitted FROM agents WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|row| row.try_get("admitted")).transpose()?)
    }

    /// Makes the record of an agent anew whose certificate is good but that the catalog has forgotten.
    pub async fn readmit(
        &self,
        id: AgentId,
        name: &str,
        ends_at: Timestamp,
        revoked: bool,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query(
            "INSERT INTO agents (id, name, joined_at, certificate_ends_at, revoked_at) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(micros(now))
        .bind(micros(ends_at))
        .bind(revoked.then_some(micros(now)))
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    /// The agent is connected and says what it is and serves. Returns what of it the agent may not serve:
    /// `bounds` leave it out, or another agent owns it.
    pub async fn hello(
        &self,
        id: AgentId,
        host: &str,
        version: &str,
        sources: &[ServedSource],
        bounds: &SourceBounds,
        now: Timestamp,
    ) -> Result<Vec<RefusedSource>, CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE agents SET host = ?, version = ?, last_seen_at = ? WHERE id = ?")
            .bind(host)
            .bind(version)
            .bind(micros(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        for delete in ["DELETE FROM sources WHERE agent = ?", "DELETE FROM refused_sources WHERE agent = ?"] {
            sqlx::query(delete).bind(id.to_string()).execute(&mut *change).await?;
        }
        let mut refused = Vec::new();
        for served in sources {
            let is_refused = match bounds.allow(&served.source) {
                true => claim(&mut change, id, served).await?,
                false => Some(refuse(&mut change, id, served, Owner::OutOfBounds).await?),
            };
            if let Some(why) = is_refused {
                refused.push(why);
                continue;
            }
            sqlx::query(
                "INSERT INTO sources (agent, component, name, kind, location) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(id.to_string())
            .bind(served.source.component.as_str())
            .bind(served.source.name.as_str())
            .bind(&served.kind)
            .bind(&served.location)
            .execute(&mut *change)
            .await?;
        }
        change.commit().await?;
        Ok(refused)
    }

    /// Another process has shown the agent's identity.
    pub async fn clone_seen(&self, id: AgentId, host: &str, now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE agents SET clone_seen_at = ?, clone_host = ? WHERE id = ?")
            .bind(micros(now))
            .bind(host)
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// The agent was connected until now.
    pub async fn seen(&self, id: AgentId, now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE agents SET last_seen_at = ? WHERE id = ?")
            .bind(micros(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// The agent has a new certificate.
    pub async fn certificate_renewed(&self, id: AgentId, ends_at: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE agents SET certificate_ends_at = ? WHERE id = ?")
            .bind(micros(ends_at))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    /// Shuts an agent out.
    pub async fn revoke(&self, id: AgentId, now: Timestamp) -> Result<(), CatalogError> {
        let mut change = self.change().await?;
        sqlx::query("UPDATE agents SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?")
            .bind(micros(now))
            .bind(id.to_string())
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }
}

fn read_agent(row: &SqliteRow) -> Result<AgentRecord, CatalogError> {
    let optional = |column| row.try_get::<Option<i64>, _>(column)?.map(time).transpose();
    Ok(AgentRecord {
        id: agent_id(row, "id")?,
        name: row.try_get("name")?,
        host: row.try_get("host")?,
        version: row.try_get("version")?,
        joined_at: time(row.try_get("joined_at")?)?,
        last_seen_at: optional("last_seen_at")?,
        certificate_ends_at: time(row.try_get("certificate_ends_at")?)?,
        revoked_at: optional("revoked_at")?,
        sources: Vec::new(),
        refused: Vec::new(),
        bounds: row
            .try_get::<String, _>("may_serve")?
            .parse()
            .map_err(|_| CatalogError::Damaged("an agent's bounds"))?,
        clone: match optional("clone_seen_at")? {
            Some(at) => Some(CloneSeen { at, host: row.try_get("clone_host")? }),
            None => None,
        },
    })
}

fn read_source(row: &SqliteRow) -> Result<(AgentId, ServedSource), CatalogError> {
    let text = |column| -> Result<String, sqlx::Error> { row.try_get(column) };
    let served = ServedSource { source: source_id(row)?, kind: text("kind")?, location: text("location")? };
    Ok((agent_id(row, "agent")?, served))
}

fn source_id(row: &SqliteRow) -> Result<SourceId, CatalogError> {
    let text = |column| -> Result<String, sqlx::Error> { row.try_get(column) };
    let wrong = |_| CatalogError::Damaged("a source's name");
    Ok(SourceId {
        component: text("component")?.parse().map_err(wrong)?,
        name: text("name")?.parse().map_err(wrong)?,
    })
}

fn agent_id(row: &SqliteRow, column: &str) -> Result<AgentId, CatalogError> {
    row.try_get::<String, _>(column)?.parse().map_err(|_| CatalogError::Damaged("an agent's id"))
}
