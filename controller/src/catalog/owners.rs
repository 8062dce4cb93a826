//! Which agent owns a source: the first that served it.
//!
//! Must stay true: no agent takes a source from an owner that is still let in, unless the operator invited
//! it under the owner's name; what it learns by serving a source (the keys of its domain, at a restore its
//! content) stays with the owner. See `docs/decisions/0005-first-agent-owns-a-source.md`.

use repository::names::SourceId;
use sqlx::{Row, Sqlite, Transaction};

use crate::catalog::{CatalogError, ServedSource};
use crate::ids::AgentId;

/// Why an agent may not serve a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The agent of this name owns it.
    Another(String),
    /// The join key that the agent came in by does not name it.
    OutOfBounds,
}

impl Owner {
    /// Empty for [`Owner::OutOfBounds`]: no agent that owns something is without a name there.
    fn to_column(&self) -> &str {
        match self {
            Self::Another(name) if name.is_empty() => "?",
            Self::Another(name) => name,
            Self::OutOfBounds => "",
        }
    }

    pub(super) fn of_column(text: String) -> Self {
        if text.is_empty() { Self::OutOfBounds } else { Self::Another(text) }
    }
}

/// A source that an agent claims and may not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSource {
    /// Which source.
    pub source: SourceId,
    /// Why not.
    pub owner: Owner,
}

/// Keeps on record, for people, that the agent claimed the source.
pub(super) async fn refuse(
    change: &mut Transaction<'static, Sqlite>,
    agent: AgentId,
    served: &ServedSource,
    owner: Owner,
) -> Result<RefusedSource, CatalogError> {
    sqlx::query("INSERT INTO refused_sources (agent, component, name, owner) VALUES (?, ?, ?, ?)")
        .bind(agent.to_string())
        .bind(served.source.component.as_str())
        .bind(served.source.name.as_str())
        .bind(owner.to_column())
        .execute(&mut **change)
        .await?;
    Ok(RefusedSource { source: served.source.clone(), owner })
}

/// Makes `agent` the owner of the source, unless another agent owns it: then `Some`.
pub(super) async fn claim(
    change: &mut Transaction<'static, Sqlite>,
    agent: AgentId,
    served: &ServedSource,
) -> Result<Option<RefusedSource>, CatalogError> {
    let (component, name) = (served.source.component.as_str(), served.source.name.as_str());
    // An owner that was revoked, or that the catalog does not know, does not count.
    let owner = sqlx::query(
        "SELECT a.name FROM source_owners o JOIN agents a ON a.id = o.agent
         WHERE o.component = ? AND o.name = ? AND o.agent <> ? AND a.revoked_at IS NULL
           AND NOT EXISTS (SELECT 1 FROM agents me WHERE me.id = ? AND me.invited = 1 AND me.name = a.name)",
    )
    .bind(component)
    .bind(name)
    .bind(agent.to_string())
    .bind(agent.to_string())
    .fetch_optional(&mut **change)
    .await?;
    if let Some(owner) = owner {
        let owner: String = owner.try_get("name")?;
        return Ok(Some(refuse(change, agent, served, Owner::Another(owner)).await?));
    }
    sqlx::query(
        "INSERT INTO source_owners (component, name, agent) VALUES (?, ?, ?)
         ON CONFLICT (component, name) DO UPDATE SET agent = excluded.agent",
    )
    .bind(component)
    .bind(name)
    .bind(agent.to_string())
    .execute(&mut **change)
    .await?;
    Ok(None)
}
