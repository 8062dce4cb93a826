//! What the configuration says of drills.
//!
//! Must stay true: what an agent says that it opens gives it nobody else's data; only this does.

use runtime::config::Problem;
use serde::{Deserialize, Serialize};

use crate::ids::AgentId;

/// Settings of drills. What is opened, and by what, stands in the configuration of each agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drills {
    /// Agents that may be given, for a drill, what other agents have backed up; by their ids.
    pub agents: Vec<String>,
}

impl Drills {
    pub(super) fn check(&self) -> Result<(), Problem> {
        let is_wrong = |text: &String| text.parse::<AgentId>().is_err();
        match self.agents.iter().position(is_wrong) {
            None => Ok(()),
            Some(place) => {
                let reason = "write the agent's id, as `nsctl agent list` shows it: a name may be another agent's, too";
                Err(Problem::new(format!("drills.agents[{place}]"), reason))
            }
        }
    }

    /// True if this agent may drill what others have backed up.
    pub(crate) fn may_drill_others(&self, agent: AgentId) -> bool {
        self.agents.iter().any(|text| text.parse() == Ok(agent))
    }
}
