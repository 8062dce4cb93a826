//! A probe: can each source be read, and what lies beside them that no source covers?

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use proto::{Failure, convert, v1};

use super::{TaskContext, blocking, uncovered};
use crate::served::Served;
use crate::sources::{Item, ProblemKind};

/// Entries that a probe looks at in each source.
const LOOK_AT: usize = 200;
/// The wire's limit.
const MOST_NAMESPACES: usize = 100;

/// Looks at every source.
pub(super) async fn run(context: &Arc<TaskContext>, task_id: &str) -> Result<v1::ProbeFinished, Failure> {
    let agent = Arc::clone(&context.agent);
    let folders: Vec<_> = agent.served.iter().flat_map(uncovered::roots).collect();
    let volumes = agent.platform.volumes_beside(&folders).await;
    let covered: BTreeSet<String> = agent.served.iter().flat_map(uncovered::namespaces).cloned().collect();
    let mut beside = agent.platform.namespaces_beside(&covered).await;
    beside.retain(|name| !agent.config.look_here.ignore_namespaces.contains(name));
    beside.truncate(MOST_NAMESPACES);
    let (sources, uncovered, state_free_bytes) = blocking(move || {
        let (state, now) = (&agent.config.state, agent.clock.now());
        let sources = agent.served.iter().map(|served| look_at(served, state, now)).collect();
        let free = rustix::fs::statvfs(state).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        (sources, uncovered::find(&agent.served, &agent.config, Path::new("/"), &volumes), free)
    })
    .await?;
    let now = Some(convert::to_wire_time(context.agent.clock.now()));
    Ok(v1::ProbeFinished {
        task_id: task_id.to_owned(),
        sources,
        uncovered,
        now,
        state_free_bytes,
        covered_namespaces: covered.into_iter().collect(),
        uncovered_namespaces: beside,
    })
}

fn look_at(served: &Served, state: &Path, now: jiff::Timestamp) -> v1::SourceHealth {
    let (reachable, finding, hint) = match first_entries(served, state, now) {
        Ok(Found { entries: 0, unreadable: None }) => {
            (true, "it is there and empty".to_owned(), "check that this is the right folder")
        }
        Ok(Found { entries, unreadable: None }) => (true, found(entries), ""),
        Ok(Found { unreadable: Some(problem), .. }) => {
            (true, problem, "let the agent's user read it, or exclude it")
        }
        Err(cause) => {
            (false, cause, "check that the folder is there, mounted, and readable for the agent's user")
        }
    };
    v1::SourceHealth {
        source: Some(convert::to_wire_source(&served.id)),
        reachable,
        finding: format!("{}: {finding}", served.location()),
        hint: hint.to_owned(),
    }
}

struct Found {
    entries: usize,
    unreadable: Option<String>,
}

fn found(entries: usize) -> String {
    let more = if entries >= LOOK_AT { " or more" } else { "" };
    format!("{entries}{more} entries")
}

fn first_entries(served: &Served, state: &Path, now: jiff::Timestamp) -> Result<Found, String> {
    let text = |error: &dyn std::error::Error| proto::failure::chain(error);
    let mut source = served.open(state, now).map_err(|error| text(&error))?;
    let mut found = Found { entries: 0, unreadable: None };
    while found.entries < LOOK_AT {
        match source.next().map_err(|error| text(&error))? {
            None => break,
            Some(Item::Entry(entry)) => found.entries += usize::from(!entry.path.is_root()),
            Some(Item::Problem(problem)) if problem.kind == ProblemKind::Unreadable => {
                found.unreadable = Some(format!("{} cannot be read: {}", problem.path, problem.cause));
                break;
            }
            Some(Item::Problem(_)) => {}
        }
    }
    Ok(found)
}
