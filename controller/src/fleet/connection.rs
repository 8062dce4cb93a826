//! One agent's control stream, for as long as it lasts.

use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::ids::AgentId;

/// A registered connection. Dropped, it is over, and so are its tasks.
#[derive(Debug)]
pub struct Connection {
    fleet: Fleet,
    agent: AgentId,
    number: u64,
    cut: CancellationToken,
}

impl Connection {
    pub(super) fn new(fleet: Fleet, agent: AgentId, number: u64, cut: CancellationToken) -> Self {
        Self { fleet, agent, number, cut }
    }

    /// The agent at its other end.
    pub fn agent(&self) -> AgentId {
        self.agent
    }

    /// Resolves when the connection must end: a newer one took its place, or the agent was shut out.
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.fleet.disconnect(self.agent, self.number);
    }
}
