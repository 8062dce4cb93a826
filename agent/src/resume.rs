//! What the last process has left of restores: swaps are ended one way or the other, and what ran for them
//! runs again, before anything else reads or writes there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::connection::Agent;
use crate::nodes::end_at_start;
use crate::platform::Handle as Reached;
use crate::sources::mongodb::server::Server;
use crate::state::{Run, has_joined};
use crate::targets::files::{InProduction, recover_with};
use crate::targets::mongodb::{Recovered, RestoreError, recover};
use crate::tasks::Users;

/// How long a server is looked for at which a restore was under way, and any other.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_secs(2);
/// Between two tries to start what could not be started again: at first, and at last.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Ends what a crash has left, unless `stop` comes before it could begin: then the next start does.
pub(crate) async fn resume(agent: Arc<Agent>, stop: &CancellationToken) {
    let runtime = Handle::current();
    let (opened, resume) = (agent.clone(), move |runs| Resume::new(&agent, runtime, runs).all());
    let runs = opened.state.runs().all().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot look for programs that restores have stopped");
        Vec::new()
    });
    let stopped = runs.iter().flat_map(|(_, run)| &run.stopped).map(|one| &one.application.handle);
    let of_engine = |kind: fn(&Reached) -> bool| stopped.clone().find(|handle| kind(handle));
    let engines = [
        of_engine(|handle| matches!(handle, Reached::Container(_))),
        of_engine(|handle| matches!(handle, Reached::Workload(_))),
    ];
    for one in engines.into_iter().flatten() {
        // A swap is good or not by what starts on it: an engine that is late would make it a bad one.
        tokio::select! {
            () = stop.cancelled() => return,
            answer = opened.platform.await_engine(one) => if let Err(error) = answer {
                tracing::error!(%error, "what a restore has stopped cannot be started");
            },
        }
    }
    drop(opened);
    let resumed = tokio::task::spawn_blocking(move || resume(runs));
    resumed.await.expect("resuming restores does not panic");
}

/// Ends what interrupted restores have left at a server, starts what they had stopped, and adds them to `ended`,
/// those too that were ended before an error. Blocks.
pub(crate) fn end_at_server(
    agent: &Agent,
    runtime: &Handle,
    server: &Server,
    ended: &mut Vec<String>,
) -> Result<(), RestoreError> {
    let runs = agent.state.runs().all().unwrap_or_else(|error| {
        tracing::error!(%error, "cannot look for programs that restores have stopped");
        Vec::new()
    });
    let runs: BTreeMap<String, Run> = runs.into_iter().collect();
    let users = |id: &str| runs.get(id).map(|run| Users::resumed(agent, runtime.clone(), id, run.clone()));
    let holds = |id: &str| users(id).map_or(Ok(()), |users| users.start());
    recover(server, &agent.key.name(), &holds, &mut |id, how| {
        tracing::info!(restore = id, ?how, "ended a restore that was interrupted");
        if let Some(users) = users(id) {
            match how {
                Recovered::Finished(notes) => drop(users.end(|report| report.notes.extend(notes))),
                Recovered::TakenBack(cause) => drop(users.undone(&cause)),
                Recovered::Dropped => start_again(&users, id),
            }
        }
        ended.push(id.to_owned());
    })
}

/// Nothing was swapped: what was stopped runs again, or stays on record. However long ago that was, it is tried once:
/// nobody else could have.
pub(crate) fn start_again(users: &Users<'_>, id: &str) {
    let troubles = users.start_again();
    troubles.iter().for_each(|trouble| tracing::error!(restore = id, "{trouble}"));
    match (users.is_applying(), users.is_old()) {
        (true, true) => users.forget(),
        (true, false) => users.remember(),
        // What does not run is tried for a day from now on.
        (false, _) => users.settle(),
    }
}

/// Starts what restores that are over have stopped and could not start again, by and by, until it runs or a day has
/// gone by; until `stop`.
pub(crate) async fn keep_starting(agent: Arc<Agent>, stop: CancellationToken) {
    let (mut pause, retries) = (FIRST_PAUSE, Arc::new(Mutex::new(Retries::default())));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let (agent, runtime, retries) = (agent.clone(), Handle::current(), retries.clone());
        let tried = tokio::task::spawn_blocking(move || {
            let mut retries = retries.lock().unwrap_or_else(PoisonError::into_inner);
            start_those_on_record(&agent, &runtime, &mut retries)
        });
        let left = tokio::select! {
            () = stop.cancelled() => return,
            left = tried => left,
        };
        pause = match left {
            Ok(true) => LONGEST_PAUSE.min(pause * 2),
            Ok(false) | Err(_) => FIRST_PAUSE,
        };
    }
}

/// What was seen of the tries so far.
#[derive(Debug, Default)]
struct Retries {
    /// Nothing was tried yet, or nothing could be for a while: however old it is, nothing is given up untried.
    has_tried: bool,
    /// It was said for what they wait.
    has_said: bool,
}

/// True if something is still not started. Nothing is tried while a restore has something stopped, or has not come to
/// its end: what it has left half swapped is nothing to start on.
fn start_those_on_record(agent: &Agent, runtime: &Handle, retries: &mut Retries) -> bool {
    let on_record = || agent.state.runs().all();
    match on_record() {
        Ok(runs) if !runs.iter().any(|(_, run)| run.is_over) => {
            *retries = Retries { has_tried: true, has_said: false };
            return false;
        }
        Ok(_) => {}
        Err(error) => {
            tracing::error!(%error, "cannot look for programs that restores have stopped");
            return true;
        }
    }
    let _nobody_stops = agent.retrying.lock().unwrap_or_else(PoisonError::into_inner);
    let runs = on_record().unwrap_or_default();
    let open: Vec<&str> = runs.iter().filter(|(_, run)| !run.is_over).map(|(id, _)| &**id).collect();
    if agent.unbroken.load(Ordering::Relaxed) > 0 || !open.is_empty() {
        retries.has_tried = false;
        if !std::mem::replace(&mut retries.has_said, true) {
            let of = open.join(", ");
            tracing::warn!(
                restores = of,
                "what could not be started again waits until these, or one that runs, have ended"
            );
        }
        return true;
    }
    let has_tried = std::mem::replace(retries, Retries { has_tried: true, has_said: false }).has_tried;
    for (id, run) in runs {
        let users = Users::resumed(agent, runtime.clone(), &id, run);
        let is_old = users.is_old();
        if is_old && has_tried {
            tracing::error!(restore = id, "gives up: for a day, not all that it stopped could be started");
            users.forget();
            continue;
        }
        tracing::info!(restore = id, "tries once more to start what could not be started again");
        let troubles = users.try_to_start();
        troubles.iter().for_each(|trouble| tracing::error!(restore = id, "{trouble}"));
        if is_old && !troubles.is_empty() {
            tracing::error!(restore = id, "gives up: this was its last try");
            users.forget();
        } else {
            users.settle();
        }
    }
    on_record().is_ok_and(|runs| !runs.is_empty())
}

/// What the cluster knows that this agent has stopped, and the agent does not: its state was lost.
fn start_those_left(agent: &Agent, runtime: &Handle, known: &BTreeSet<String>) {
    let left = match runtime.block_on(agent.platform.left_in_cluster()) {
        Ok(left) => left,
        Err(error) => {
            tracing::warn!("cannot look for workloads that restores have stopped: {error}");
            return;
        }
    };
    for one in left.iter().filter(|one| !known.contains(&one.name)) {
        tracing::warn!(
            application = one.name,
            "was stopped by a restore of which nothing is on record: starts"
        );
        if let Err(error) = runtime.block_on(agent.platform.start(one)) {
            tracing::error!(application = one.name, %error, "cannot be started again");
        }
    }
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

    fn all(mut self) {
        let mut left_at = self.at_servers();
        left_at.extend(self.at_nodes());
        let mut is_all_ended = left_at.is_empty();
        for source in &self.agent.served {
            for root in source.roots() {
                is_all_ended &= self.finish(&root);
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
        is_all_ended &= left.is_empty();
        let known: BTreeSet<String> = self.runs.values().flat_map(Run::names).collect();
        let served: BTreeSet<String> = self.agent.served.iter().map(|source| source.id.to_string()).collect();
        // Those that are over are for `keep_starting`, which waits while one of these is not.
        for (id, run) in self.runs.into_iter().filter(|(_, run)| !run.is_over) {
            // Nobody has looked where it swapped if that is not served any more.
            let is_left = |server: &String| left_at.contains(server) || !served.contains(server);
            if left.contains(&id) || run.server.as_ref().is_some_and(is_left) {
                tracing::error!(restore = id, "what it stopped is not started: its swap could not be ended");
                continue;
            }
            let users = Users::resumed(self.agent, self.runtime.clone(), &id, run);
            match swapped.get(&id) {
                Some(Ok(())) => drop(users.end(|_| ())),
                Some(Err(cause)) => drop(users.undone(cause)),
                None => start_again(&users, &id),
            }
        }
        // What is half swapped, or cannot be looked at, is nothing to start on; and an agent whose state is new may
        // have the name of one that goes on beside it.
        if is_all_ended && has_joined(&self.agent.config.state) {
            start_those_left(self.agent, &self.runtime, &known);
        }
    }

    /// The servers at which it cannot be seen to it.
    fn at_servers(&mut self) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        for source in &self.agent.served {
            let Some(uri) = source.server() else { continue };
            let name = source.id.to_string();
            // One that was started together with this agent may need a while.
            let is_due = self.runs.values().any(|run| run.server.as_ref() == Some(&name));
            let patience = if is_due { PATIENCE } else { GLANCE };
            let mut ids = Vec::new();
            let ended = Server::connect_within(&uri, patience)
                .map_err(|error| proto::failure::chain(&error))
                .and_then(|server| {
                    let ended = end_at_server(self.agent, &self.runtime, &server, &mut ids);
                    ended.map_err(|error| proto::failure::chain(&error))
                });
            ids.iter().for_each(|id| drop(self.runs.remove(id)));
            if let Err(cause) = ended {
                tracing::warn!(source = name, "cannot look for interrupted restores: {cause}");
                left.insert(name);
            }
        }
        left
    }

    /// The same of nodes.
    fn at_nodes(&mut self) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        for source in &self.agent.served {
            match end_at_start(self.agent, &self.runtime, source) {
                Some(ids) => ids.iter().for_each(|id| drop(self.runs.remove(id))),
                None => drop(left.insert(source.id.to_string())),
            }
        }
        left
    }

    /// False if something is left to do.
    fn finish(&self, root: &Path) -> bool {
        let state = Some(&*self.agent.config.state);
        match recover_with(root, &InProduction, &|id| self.holds(id), state) {
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
#[path = "resume_retry_tests.rs"]
mod retry_tests;
#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
