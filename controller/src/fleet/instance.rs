//! Two live processes with one identity: a copied state folder, a cloned machine.
//!
//! Must stay true: an agent that was started again is not taken for a clone, even where its old connection
//! is still half open; of two that live, the one that was there first stays.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Fleet, HEARTBEAT};
use crate::ids::AgentId;

/// What was under way when the newcomer said hello proves nothing: its sender may have ended since.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// A connection on which two heartbeats in a row are missing is half open.
const HALF_OPEN_AFTER: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs() + 2);
/// So many instances of an agent are remembered.
const REMEMBERED: usize = 8;

/// One run of an agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance([u8; 16]);

impl Instance {
    /// As the agent says it.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Another process with the same identity is connected and alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another process with the same identity is connected and alive")]
pub struct Cloned;

/// The instances of one agent in the order in which they appeared.
#[derive(Debug, Default)]
pub(super) struct Instances(Vec<Instance>);

impl Instances {
    /// Remembers one. True if it comes back after another one had taken its place: both processes live.
    pub(super) fn appears(&mut self, instance: Instance) -> bool {
        if self.0.last() == Some(&instance) {
            return false;
        }
        let before = self.0.len();
        self.0.retain(|known| *known != instance);
        let returns = self.0.len() < before;
        self.0.push(instance);
        if self.0.len() > REMEMBERED {
            self.0.remove(0);
        }
        returns
    }
}

impl Fleet {
    /// Waits until it is clear whether this process may take the agent's place: at once where nobody else
    /// has it, else as soon as the other one is gone or has been silent for too long. An error if the other
    /// one says something meanwhile.
    pub async fn settle(&self, agent: AgentId, instance: Instance) -> Result<(), Cloned> {
        self.settle_within(agent, instance, UNDER_WAY, HALF_OPEN_AFTER).await
    }

    async fn settle_within(
        &self,
        agent: AgentId,
        instance: Instance,
        under_way: Duration,
        half_open_after: Duration,
    ) -> Result<(), Cloned> {
        let other = {
            let state = self.lock();
            let line = state.agents.get(&agent).filter(|line| line.instance != instance);
            line.map(|line| line.heard.subscribe())
        };
        let Some(mut heard) = other else { return Ok(()) };
        let began = Instant::now();
        let speaks = async {
            // The sender goes with its connection.
            while heard.changed().await.is_ok() {
                if *heard.borrow_and_update() > began + under_way {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(half_open_after, speaks).await {
            Ok(true) => Err(Cloned),
            Ok(false) | Err(_) => Ok(()),
        }
    }

    /// Something was heard on this connection.
    pub fn heard(&self, agent: AgentId, number: u64) {
        if let Some(line) = self.lock().agents.get(&agent).filter(|line| line.number == number) {
            line.heard.send_replace(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Instance = Instance::new([1; 16]);
    const TWO: Instance = Instance::new([2; 16]);

    fn connected(agent: AgentId) -> (Fleet, crate::fleet::Connection) {
        let fleet = Fleet::new();
        let (line, _messages) = fleet.connect(agent, ONE, vec![], jiff::Timestamp::UNIX_EPOCH).expect("room");
        (fleet, line)
    }

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_millis(400);
    const NEVER: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_second_process_is_refused_while_the_first_one_speaks() {
        let agent = AgentId::fresh();
        let (fleet, line) = connected(agent);
        let beats = async {
            loop {
                tokio::time::sleep(SOON).await;
                fleet.heard(agent, line.number());
            }
        };
        tokio::select! {
            settled = fleet.settle_within(agent, TWO, LATE, NEVER) => assert_eq!(settled, Err(Cloned)),
            () = beats => {}
        }
    }

    #[tokio::test]
    async fn a_restarted_agent_takes_the_place_of_a_half_open_connection() {
        let agent = AgentId::fresh();
        let (fleet, line) = connected(agent);
        let late_words = async {
            // What its dead predecessor had sent just before arrives late.
            tokio::time::sleep(SOON).await;
            fleet.heard(agent, line.number());
        };
        let began = Instant::now();
        let (settled, ()) = tokio::join!(fleet.settle_within(agent, TWO, LATE / 2, LATE), late_words);
        assert_eq!(settled, Ok(()));
        assert!(began.elapsed() >= LATE);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_connection_that_ends_or_is_its_own() {
        let agent = AgentId::fresh();
        let (fleet, line) = connected(agent);
        assert_eq!(fleet.settle_within(agent, ONE, SOON, NEVER).await, Ok(()));
        let hang_up = async {
            tokio::time::sleep(SOON).await;
            drop(line);
        };
        let both = async { tokio::join!(fleet.settle_within(agent, TWO, SOON, NEVER), hang_up) };
        let (settled, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("at once");
        assert_eq!(settled, Ok(()));
    }

    #[test]
    fn an_instance_that_comes_back_after_another_is_a_second_process() {
        let mut instances = Instances::default();
        assert_eq!(
            [ONE, ONE, TWO, TWO, ONE].map(|one| instances.appears(one)),
            [false, false, false, false, true]
        );
    }
}
