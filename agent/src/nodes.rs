//! What dead processes have left at IPFS nodes: files that were being replaced become the old ones or the new ones,
//! what uses the node runs again, and holds go ([`crate::sources::ipfs::hold`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::connection::Agent;
use crate::resume::start_again;
use crate::served::Served;
use crate::sources::ipfs::hold;
use crate::sources::ipfs::rpc::Rpc;
use crate::state::Run;
use crate::targets::ipfs::{NodeError, Recovered, recover};
use crate::tasks::Users;

/// How long a node is looked for at which files were being replaced.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after a try in vain the next one comes.
const AGAIN: Duration = Duration::from_secs(20);

/// Ends what interrupted restores have left at a node, starts what they had stopped, and says which they were.
/// Blocks, within the runtime.
pub(crate) fn end_at_node(
    agent: &Agent,
    runtime: &Handle,
    rpc: &Arc<Rpc>,
    source: &str,
) -> Result<Vec<String>, NodeError> {
    let state = &agent.config.state;
    if !hold::is_unfinished(state, source) {
        return Ok(Vec::new());
    }
    let runs = agent.state.runs().all().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot look for programs that restores have stopped");
        Vec::new()
    });
    let runs: BTreeMap<String, Run> = runs.into_iter().collect();
    let users = |id: &str| runs.get(id).map(|run| Users::resumed(agent, runtime.clone(), id, run.clone()));
    let holds = |id: &str| users(id).map_or(Ok(()), |users| users.start());
    let mut ended = Vec::new();
    for (id, how) in recover(rpc, (state, source), &holds)? {
        tracing::info!(restore = id, ?how, "ended a restore that was interrupted");
        if let Some(users) = users(&id) {
            match how {
                Recovered::Finished(notes) => drop(users.end(|report| report.notes.extend(notes))),
                Recovered::TakenBack(cause) => drop(users.undone(&cause)),
                Recovered::Dropped => start_again(&users, &id),
            }
        }
        ended.push(id);
    }
    Ok(ended)
}

/// The same at a start: a node that was started together with this agent may need a while. `None`: it could not be
/// seen to it.
pub(crate) fn end_at_start(agent: &Agent, runtime: &Handle, served: &Served) -> Option<Vec<String>> {
    let (Some(address), source) = (served.node(), served.file_name()) else { return Some(Vec::new()) };
    let began = Instant::now();
    loop {
        match end_at_node(agent, runtime, &Arc::new(Rpc::new(address)), &source) {
            Ok(ended) => return Some(ended),
            Err(NodeError::Node(trouble)) if trouble.is_gone() && began.elapsed() < PATIENCE => {
                runtime.block_on(tokio::time::sleep(Duration::from_millis(500)));
            }
            Err(error) => {
                let cause = proto::failure::chain(&error);
                tracing::error!(
                    source,
                    "the files of an IPFS node are being replaced, and it is not ended: {cause}"
                );
                return None;
            }
        }
    }
}

/// Takes away what the last process has left at each node, as soon as that answers.
pub(crate) async fn reap_at_start(agent: Arc<Agent>, stop: CancellationToken) {
    let state: PathBuf = agent.config.state.clone();
    let nodes = agent.served.iter().filter_map(|one| Some((one.file_name(), one.node()?.clone())));
    let mut left: Vec<_> = nodes.filter(|(source, _)| hold::is_any_left(&state, source)).collect();
    let runtime = Handle::current();
    while !left.is_empty() {
        let (agent, runtime, stopped) = (agent.clone(), runtime.clone(), stop.clone());
        let tried = tokio::task::spawn_blocking(move || {
            left.retain(|(source, address)| {
                let rpc = Arc::new(Rpc::new(address).stopped_by(&stopped));
                let ended = end_at_node(&agent, &runtime, &rpc, source);
                let reaped = ended.and_then(|_| Ok(hold::reap(&rpc, &agent.config.state, source)?));
                match reaped {
                    Ok(reaped) => tracing::info!(source, reaped, "holds of the last run are gone"),
                    Err(error) => {
                        let cause = proto::failure::chain(&error);
                        tracing::warn!(source, "holds of the last run are still there: {cause}");
                        return true;
                    }
                }
                false
            });
            left
        });
        // A try in vain has its own limits: nobody waits for it at a stop.
        left = tokio::select! {
            () = stop.cancelled() => return,
            tried = tried => tried.expect("looking for holds does not panic"),
        };
        if !left.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}
