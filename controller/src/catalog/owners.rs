//! Which agent owns a source: the first that served it.
//!
//! Must stay true: no agent takes a source from an owner that is still let in, unless the operator invited
//! it under the owner's name; what it learns by serving a source (the keys of its domain, at a restore its
//! content) stays with the owner. See `docs/decisions/0005-first-agent-owns-a-source.md`.

use repository::names::SourceId;
use sqlx::{Row, Sqlite, Transaction};

use crate::catalog::{CatalogError, ServedSource};
use crate::ids::AgentId;

/// A source that an agent claims and that another one owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSource {
    /// Which source.
    pub source: SourceId,
    /// The name of the agent that owns it.
    pub owner: String,
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
        sqlx::query("INSERT INTO refused_sources (agent, component, name, owner) VALUES (?, ?, ?, ?)")
            .bind(agent.to_string())
            .bind(component)
            .bind(name)
            .bind(&owner)
            .execute(&mut **change)
            .await?;
        return Ok(Some(RefusedSource { source: served.source.clone(), owner }));
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
