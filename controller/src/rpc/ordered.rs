//! What was ordered, in words.

use repository::names::Component;

use crate::catalog::AgentRecord;
use crate::ids::AgentId;
use crate::jobs::Job;
use crate::jobs::job::{Order, RestorePlace, depth_words};

/// So many removals are named; a job's page has a limit.
const NAMED: usize = 100;

/// What a job is to do, a line each.
pub(super) fn lines(job: &Job, agents: &[AgentRecord]) -> Vec<String> {
    match &job.order {
        Order::Backup { components, pin, import } => {
            let mut lines = vec![match import {
                None => format!("of {}", parts(components)),
                Some(folder) => format!("of the dump in {folder}"),
            }];
            lines.extend(pin.as_ref().map(|reason| format!("pinned: {reason}")));
            lines
        }
        Order::Verify { components, depth, budget, drill, .. } => {
            let mut lines =
                vec![format!("of {}, to the depth {}", parts(components), depth_words(*depth, *drill))];
            lines.extend(budget.map(|bytes| format!("{bytes} bytes are read, and what is due")));
            lines
        }
        Order::Restore { places, .. } => places.iter().map(|place| restored(place, agents)).collect(),
        Order::Retention { confirmed, .. } => {
            let mut lines = vec![match confirmed {
                None => "what no rule keeps goes".to_owned(),
                Some(names) => {
                    format!("of {} backups that were confirmed go those that no rule keeps", names.len())
                }
            }];
            let named = job.removals.iter().take(NAMED);
            lines.extend(named.map(|removal| format!("{} goes: {}", removal.backup, removal.rule)));
            let more = job.removals.len().saturating_sub(NAMED);
            lines.extend((more > 0).then(|| format!("and {more} more")));
            lines
        }
        Order::Prune { now: true, .. } => vec!["what nothing needs any more goes at once".to_owned()],
        Order::Prune { now: false, .. } => {
            vec!["what nothing needs any more goes, each step in its time".to_owned()]
        }
    }
}

fn parts(components: &[Component]) -> String {
    match components {
        [] => "everything".to_owned(),
        some => some.iter().map(Component::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn restored(place: &RestorePlace, agents: &[AgentRecord]) -> String {
    let to = place.folder.as_deref().unwrap_or("its own place");
    let mut line = format!("{} to {to} by {}", place.source, name(place.agent, agents));
    if !place.globs.is_empty() {
        line.push_str(&format!(", only {}", place.globs.join(", ")));
    }
    if place.databases.is_chosen() {
        line.push_str(&format!(", {}", place.databases.told()));
    }
    line
}

fn name(id: AgentId, agents: &[AgentRecord]) -> String {
    let known = agents.iter().find(|agent| agent.id == id);
    known.map_or_else(|| id.to_string(), |agent| agent.name.clone())
}
