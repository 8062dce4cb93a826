//! Agents and tokens.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::time;
use crate::output::table::{Rows, or_dash};
use crate::output::words::{age, utc};

/// All agents.
#[derive(Debug, Serialize)]
pub(crate) struct Agents {
    pub(crate) agents: Vec<Agent>,
}

/// One agent.
#[derive(Debug, Serialize)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) version: String,
    pub(crate) connected: bool,
    pub(crate) revoked: bool,
    pub(crate) joined_at: Option<Timestamp>,
    pub(crate) last_seen_at: Option<Timestamp>,
    pub(crate) certificate_ends_at: Option<Timestamp>,
    pub(crate) sources: Vec<Source>,
    /// Patterns; none: anything.
    pub(crate) may_serve: Vec<String>,
    pub(crate) clone: Option<CloneSeen>,
    pub(crate) bytes_today: u64,
    pub(crate) quota_refusals: u64,
}

/// Another process that showed its identity.
#[derive(Debug, Serialize)]
pub(crate) struct CloneSeen {
    pub(crate) seen_at: Timestamp,
    pub(crate) host: String,
}

/// What an agent serves.
#[derive(Debug, Serialize)]
pub(crate) struct Source {
    pub(crate) component: String,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) location: String,
}

/// A one-time token.
#[derive(Debug, Serialize)]
pub(crate) struct Invitation {
    pub(crate) token: String,
    pub(crate) ends_at: Option<Timestamp>,
}

impl From<v1::Agent> for Agent {
    fn from(wire: v1::Agent) -> Self {
        let seen: Option<Timestamp> = time!(wire.clone_seen_at);
        Self {
            clone: seen.map(|seen_at| CloneSeen { seen_at, host: wire.clone_host }),
            may_serve: wire.may_serve,
            bytes_today: wire.bytes_today,
            quota_refusals: wire.quota_refusals,
            id: wire.id,
            name: wire.name,
            host: wire.host,
            version: wire.version,
            connected: wire.connected,
            revoked: wire.revoked,
            joined_at: time!(wire.joined_at),
            last_seen_at: time!(wire.last_seen_at),
            certificate_ends_at: time!(wire.certificate_ends_at),
            sources: wire.sources.into_iter().map(Source::from).collect(),
        }
    }
}

impl From<v1::ServedSource> for Source {
    fn from(wire: v1::ServedSource) -> Self {
        let source = wire.source.unwrap_or_default();
        Self { component: source.component, source: source.name, kind: wire.kind, location: wire.location }
    }
}

impl From<v1::InviteAgentResponse> for Invitation {
    fn from(wire: v1::InviteAgentResponse) -> Self {
        Self { token: wire.token, ends_at: time!(wire.ends_at) }
    }
}

impl Agents {
    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut rows =
            Rows::new(&["AGENT", "NAME", "HOST", "STATE", "SEEN", "CERTIFICATE UNTIL", "SERVES", "VERSION"]);
        for agent in &self.agents {
            let serves: Vec<_> =
                agent.sources.iter().map(|s| format!("{}/{}", s.component, s.source)).collect();
            rows.row([
                agent.id.clone(),
                or_dash(&agent.name),
                or_dash(&agent.host),
                agent.state(now).to_owned(),
                agent.last_seen_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                agent.certificate_ends_at.map_or_else(|| "-".to_owned(), utc),
                or_dash(&serves.join(",")),
                or_dash(&agent.version),
            ]);
        }
        rows.finish_or("no agents yet; invite one with `nsctl agent invite`")
    }
}

impl Agent {
    fn state(&self, now: Timestamp) -> &'static str {
        // As long as `nsctl doctor` tells of it.
        let is_cloned = self
            .clone
            .as_ref()
            .is_some_and(|clone| now.duration_since(clone.seen_at) < jiff::SignedDuration::from_hours(24));
        match (self.revoked, is_cloned, self.connected) {
            (true, _, _) => "revoked",
            (false, true, true) => "connected, cloned",
            (false, true, false) => "away, cloned",
            (false, false, true) => "connected",
            (false, false, false) => "away",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_agent_is_never_shown_as_connected() {
        let wire = v1::Agent { id: "a".into(), connected: true, revoked: true, ..Default::default() };
        let table = Agents { agents: vec![wire.into()] }.table(Timestamp::UNIX_EPOCH);
        assert!(table.contains("revoked") && !table.contains("connected"), "{table}");
    }
}
