//! What the last process has left of restores: swaps are ended one way or the other, and what ran for them
//! runs again, before anything else reads or writes there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::connection::Agent;
use crate::platform::Handle as Reached;
use crate::state::Run;
use crate::targets::files::{InProduction, recover_with};
use crate::tasks::Users;

/// Ends what a crash has left, unless `stop` comes before it could begin: then the next start does.
pub(crate) async fn resume(agent: Arc<Agent>, stop: &CancellationToken) {
    let runtime = Handle::current();
    let (opened, resume) = (agent.clone(), move |runs| Resume::new(&agent, runtime, runs).all());
    let runs = opened.state.runs().all().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot look for programs that restores have stopped");
        Vec::new()
    });
    let stopped = runs.iter().flat_map(|(_, run)| &run.stopped);
    if stopped.into_iter().any(|one| matches!(one.application.handle, Reached::Container(_))) {
        // A swap is good or not by what starts on it: an engine that is late would make it a bad one.
        tokio::select! {
            () = stop.cancelled() => return,
            answer = opened.platform.await_engine() => if let Err(error) = answer {
                tracing::error!(%error, "containers that a restore has stopped cannot be started");
            },
        }
    }
    drop(opened);
    let resumed = tokio::task::spawn_blocking(move || resume(runs));
    resumed.await.expect("resuming restores does not panic");
}

struct Resume<'a> {
    agent: &'a Agent,
    runtime: Handle,
    /// By the restore's id: what was stopped, and how its swap has ended once that is known.
    runs: BTreeMap<String, Run>,
    swapped: RefCell<BTreeMap<String, Result<(), String>>>,
}

impl<'a> Resume<'a> {
    fn new(agent: &'a Agent, runtime: Handle, runs: Vec<(String, Run)>) -> Self {
        Self { agent, runtime, runs: runs.into_iter().collect(), swapped: RefCell::default() }
    }

    fn all(self) {
        for source in &self.agent.served {
            for root in source.roots() {
                self.finish(&root);
            }
        }
        // A folder that is not there may be one that is not mounted yet.
        let left = RefCell::new(Vec::new());
        let ended = self.agent.state.recover_restores(|id, folder| {
            let ended = self.finish(folder) && folder.is_dir();
            if !ended {
                left.borrow_mut().push(id.to_owned());
            }
            ended
        });
        if let Err(error) = ended {
            tracing::error!(%error, "cannot look for restores that were interrupted");
        }
        let (swapped, left) = (self.swapped.into_inner(), left.into_inner());
        for (id, run) in self.runs {
            if left.contains(&id) {
                tracing::error!(restore = id, "what it stopped is not started: its swap could not be ended");
                continue;
            }
            let users = Users::resumed(self.agent, self.runtime.clone(), &id, run);
            match swapped.get(&id) {
                Some(Ok(())) => drop(users.end(|_| ())),
                Some(Err(cause)) => drop(users.undone(cause)),
                None => {
                    let troubles = users.start_again();
                    troubles.iter().for_each(|trouble| tracing::error!(restore = id, "{trouble}"));
                    match troubles.is_empty() || users.is_old() {
                        true => users.forget(),
                        false => users.remember(),
                    }
                }
            }
        }
    }

    /// False if something is left to do.
    fn finish(&self, root: &Path) -> bool {
        match recover_with(root, &InProduction, &|id| self.holds(id)) {
            Ok(recovered) => {
                for path in &recovered.finished {
                    tracing::info!(path = %path.display(), "finished a restore that was interrupted");
                }
                for path in &recovered.undone {
                    tracing::info!(path = %path.display(), "took back a restore that was interrupted");
                }
                recovered.left.is_empty()
            }
            Err(error) => {
                let cause = proto::failure::chain(&error);
                tracing::error!(
                    path = %root.display(),
                    "an interrupted restore could not be ended: {cause}; see to it and restart the agent"
                );
                false
            }
        }
    }

    /// The swap of this restore is done: starts what ran.
    fn holds(&self, id: &str) -> Result<(), String> {
        let Some(run) = self.runs.get(id) else { return Ok(()) };
        let started = Users::resumed(self.agent, self.runtime.clone(), id, run.clone()).start();
        self.swapped.borrow_mut().insert(id.to_owned(), started.clone());
        started
    }
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
