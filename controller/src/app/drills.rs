//! Drills: whether somebody can make one, before it is ordered.

use proto::Failure;
use proto::failure::reason;
use repository::backup::manifest::{BackupRecord, Outcome};
use repository::names::{Component, SourceId};
use tonic::Code;

use crate::app::{App, catalog_failure};
use crate::fleet::Connected;
use crate::jobs::{how_to_mark, not_given};

impl App {
    /// Refuses a drill of components that no connected agent opens; where none was named, one of a backup of which
    /// nothing is opened.
    pub(super) async fn can_drill(
        &self,
        backup: &BackupRecord,
        components: &[Component],
    ) -> Result<(), Failure> {
        let connected = self.fleet.connected();
        let holds = |component: &Component| components.is_empty() || components.contains(component);
        let archives = backup.archives.iter().filter(|archive| archive.outcome != Outcome::Failed);
        let sources: Vec<&SourceId> =
            archives.map(|archive| &archive.source).filter(|source| holds(&source.component)).collect();
        let missing = unopened(&sources, &connected);
        let is_some_enough = components.is_empty() && missing.len() < sources.len();
        let Some(first) = missing.first().filter(|_| !is_some_enough) else { return Ok(()) };
        let agents = self.catalog.agents().await.map_err(|error| catalog_failure(&error))?;
        let is_away = |id| connected.iter().all(|one| one.agent != id);
        let away: Vec<String> = agents
            .into_iter()
            .filter(|agent| agent.revoked_at.is_none() && is_away(agent.id))
            .map(|agent| agent.name)
            .collect();
        let what = format!("no agent that is connected opens `{}` in drills", first.component);
        if let Some(hint) = not_given(first, &connected) {
            return Err(Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what)
                .because(
                    "an agent says that it opens it, and does not serve it: it would be given others' data",
                )
                .hint(hint));
        }
        let hint = how_to_mark(first);
        // One that is away may be the one.
        Err(match away.as_slice() {
            [] => Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what)
                .because("no agent's configuration says what opens it")
                .hint(hint),
            away => Failure::new(Code::Unavailable, reason::AGENT_AWAY, what)
                .because(format!("not connected: {}", away.join(", ")))
                .hint(format!("start the agent that opens it, or {hint}")),
        })
    }
}

fn unopened<'a>(sources: &[&'a SourceId], connected: &[Connected]) -> Vec<&'a SourceId> {
    sources.iter().copied().filter(|source| !connected.iter().any(|agent| agent.opens(source))).collect()
}
