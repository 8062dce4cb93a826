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
    is_second: bool,
}

impl Connection {
    pub(super) fn new(
        fleet: Fleet,
        agent: AgentId,
        number: u64,
        cut: CancellationToken,
        is_second: bool,
    ) -> Self {
        Self { fleet, agent, number, cut, is_second }
    }

    /// The agent at its other end.
    pub fn agent(&self) -> AgentId {
        self.agent
    }

    /// Which of all connections it is.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// True if the process at its other end had lost its place to another one before: both live.
    pub fn is_second(&self) -> bool {
        self.is_second
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
