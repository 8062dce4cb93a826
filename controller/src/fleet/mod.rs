//! The agents that are connected, and the tasks that they work at.
//!
//! Must stay true: an agent has one connection that counts, the newest; a task belongs to the connection
//! it was handed out on, and when that breaks every task of it ends as [`Ended::AgentLost`]; nobody but
//! the agent that was given a task can touch it; nothing here waits for an agent, queues are bounded, and
//! an agent that does not take its messages is cut off; a source is served by one agent at a time, the one
//! that the catalog let have it last.

mod connection;
mod instance;
mod task;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use proto::v1::controller_message::Message;
use proto::v1::{CancelTask, ControllerMessage};
use repository::names::{Component, SourceId, SourceName};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::catalog::ServedSource;
use crate::ids::{AgentId, TaskId};

pub use connection::Connection;
pub use instance::{Cloned, Instance};
pub use task::{ArchiveTask, Ended, RestoreTask, RunningTask, TaskContext};

use instance::Instances;
use task::TaskEntry;

/// Agents send a heartbeat this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// An agent that was silent for this long is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(20);
/// Messages that may wait for an agent.
const QUEUE: usize = 64;
/// More than any controller has.
const MAX_AGENTS: usize = 1_000;

/// A message on its way down a control stream.
pub type Down = Result<ControllerMessage, Status>;

/// An agent as it is connected now.
#[derive(Debug, Clone)]
pub struct Connected {
    /// Which one.
    pub agent: AgentId,
    /// What it serves.
    pub sources: Vec<ServedSource>,
    /// Since when.
    pub since: Timestamp,
    /// What it opens in drills; nothing: it is not marked for them.
    pub opens: Vec<Opens>,
    /// It may be given what other agents serve, to open it.
    pub drills_others: bool,
}

/// What an agent opens in drills, by its own configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opens {
    /// The component.
    pub component: Component,
    /// The source; none: every one of the component.
    pub name: Option<SourceName>,
}

impl Connected {
    /// True if the agent opens this source in drills, and may be given it: since it serves it, or since somebody has
    /// said so. What it says itself gives it nobody else's data.
    pub fn opens(&self, source: &SourceId) -> bool {
        let may = self.drills_others || self.sources.iter().any(|served| served.source == *source);
        may && self.says_it_opens(source)
    }

    /// True if the agent says so, whether it may or not.
    pub fn says_it_opens(&self, source: &SourceId) -> bool {
        let is_it = |opens: &Opens| {
            opens.component == source.component && opens.name.as_ref().is_none_or(|name| *name == source.name)
        };
        self.opens.iter().any(is_it)
    }
}

/// The agent is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is not connected")]
pub struct Away;

/// All connected agents. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fleet {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    next_connection: u64,
    agents: HashMap<AgentId, Line>,
    tasks: HashMap<TaskId, TaskEntry>,
    instances: HashMap<AgentId, Instances>,
    shut_out: HashMap<AgentId, CancellationToken>,
}

/// One connection.
#[derive(Debug)]
struct Line {
    number: u64,
    instance: Instance,
    heard: watch::Sender<tokio::time::Instant>,
    connected: Connected,
    down: mpsc::Sender<Down>,
    cut: CancellationToken,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(0) }
    }
}

impl Fleet {
    /// Nobody is connected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a connection; an older one of the same agent is cut. The messages for the agent come out
    /// of the receiver.
    pub fn connect(
        &self,
        agent: AgentId,
        instance: Instance,
        sources: Vec<ServedSource>,
        since: Timestamp,
    ) -> Result<(Connection, mpsc::Receiver<Down>), Away> {
        let (down, messages) = mpsc::channel(QUEUE);
        let cut = CancellationToken::new();
        let mut state = self.lock();
        if state.agents.len() >= MAX_AGENTS && !state.agents.contains_key(&agent) {
            return Err(Away);
        }
        state.next_connection += 1;
        let number = state.next_connection;
        state.hand_over(agent, &sources);
        let is_second = state.instances.entry(agent).or_default().appears(instance);
        let connected = Connected { agent, sources, since, opens: Vec::new(), drills_others: false };
        let heard = watch::Sender::new(tokio::time::Instant::now());
        let line = Line { number, instance, heard, connected, down, cut: cut.clone() };
        if let Some(older) = state.agents.insert(agent, line) {
            older.cut.cancel();
            state.lose_tasks(agent, older.number);
        }
        drop(state);
        self.announce();
        Ok((Connection::new(self.clone(), agent, number, cut, is_second), messages))
    }

    /// What the agent opens in drills, as it has said on this connection, and whether others' sources may be among it.
    pub fn mark(&self, agent: AgentId, number: u64, opens: Vec<Opens>, drills_others: bool) {
        if let Some(line) = self.lock().agents.get_mut(&agent).filter(|line| line.number == number) {
            (line.connected.opens, line.connected.drills_others) = (opens, drills_others);
        }
        self.announce();
    }

    fn disconnect(&self, agent: AgentId, number: u64) {
        self.lock().hang_up(agent, number);
        self.announce();
    }

    /// Ends everything that an agent has open, now and later.
    pub fn shut_out(&self, agent: AgentId) {
        let mut state = self.lock();
        state.shut_out.entry(agent).or_default().cancel();
        if let Some(line) = state.agents.get(&agent) {
            line.cut.cancel();
            let number = line.number;
            state.hang_up(agent, number);
        }
        drop(state);
        self.announce();
    }

    /// Cancelled once the agent is shut out.
    pub fn shut_out_of(&self, agent: AgentId) -> CancellationToken {
        self.lock().shut_out.entry(agent).or_default().clone()
    }

    /// Everybody who is connected now.
    pub fn connected(&self) -> Vec<Connected> {
        let mut all: Vec<_> = self.lock().agents.values().map(|line| line.connected.clone()).collect();
        all.sort_by_key(|connected| connected.agent);
        all
    }

    /// True if the agent is connected now.
    pub fn is_connected(&self, agent: AgentId) -> bool {
        self.lock().agents.contains_key(&agent)
    }

    /// The connection of an agent that is connected now: another number is another connection.
    pub(crate) fn connection_of(&self, agent: AgentId) -> Option<u64> {
        self.lock().agents.get(&agent).map(|line| line.number)
    }

    /// Changes whenever an agent comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Hands a task to an agent: `message` makes the words for it.
    pub fn begin(
        &self,
        agent: AgentId,
        task: TaskId,
        context: TaskContext,
        message: Message,
    ) -> Result<RunningTask, Away> {
        let mut state = self.lock();
        let line = state.agents.get(&agent).ok_or(Away)?;
        let number = line.number;
        let down = ControllerMessage { message: Some(message) };
        if line.down.try_send(Ok(down)).is_err() {
            line.cut.cancel();
            return Err(Away);
        }
        let (entry, running) = TaskEntry::new(self.clone(), agent, number, task, context);
        state.tasks.insert(task, entry);
        Ok(running)
    }

    /// What a task is about, for the agent that it was given to and, if it makes an archive, that still
    /// serves the source.
    pub fn task(&self, agent: AgentId, task: TaskId) -> Option<TaskContext> {
        let state = self.lock();
        let entry = state.tasks.get(&task).filter(|entry| entry.agent == agent)?;
        if let TaskContext::Archive(archive) = &entry.context {
            let served = &state.agents.get(&agent)?.connected.sources;
            served.iter().find(|served| served.source == archive.source)?;
        }
        Some(entry.context.clone())
    }

    /// The agent tells how far it is; of other agents' tasks and ended ones nothing is heard.
    pub fn progress(&self, agent: AgentId, task: TaskId, progress: proto::v1::TaskProgress) {
        if let Some(entry) = self.lock().tasks.get(&task).filter(|entry| entry.agent == agent) {
            entry.progress.send_replace(Some(progress));
        }
    }

    /// The agent has something for the log of a task's job. What finds no room is left out.
    pub fn log(&self, agent: AgentId, task: TaskId, said: proto::v1::TaskLog) {
        if let Some(entry) = self.lock().tasks.get(&task).filter(|entry| entry.agent == agent) {
            let _ = entry.log.try_send(said);
        }
    }

    /// The task has ended. False if it had ended before or belongs to another agent. An agent that ends a
    /// task which nobody cancelled is about to stop: its connection is over, so that it gets nothing more
    /// before it is back.
    pub fn end(&self, agent: AgentId, task: TaskId, ended: Ended) -> bool {
        let mut state = self.lock();
        if state.tasks.get(&task).is_none_or(|entry| entry.agent != agent) {
            return false;
        }
        let Some(entry) = state.tasks.remove(&task) else { return false };
        let leaves = matches!(ended, Ended::Cancelled) && !entry.cancelled;
        let connection = entry.connection;
        if leaves && let Some(line) = state.agents.get(&agent).filter(|line| line.number == connection) {
            line.cut.cancel();
            state.hang_up(agent, connection);
        }
        drop(state);
        if leaves {
            self.announce();
        }
        entry.end(ended)
    }

    /// Asks the agent to end a task. It ends when the agent says so.
    pub fn cancel(&self, task: TaskId) {
        let mut state = self.lock();
        if let Some(entry) = state.tasks.get_mut(&task) {
            entry.cancelled = true;
            let agent = entry.agent;
            state.tell_cancel(agent, task);
        }
    }

    /// Tells an agent to end tasks that it works at and that are none of ours.
    pub fn cancel_strangers(&self, agent: AgentId, running: &[String]) {
        let state = self.lock();
        for task in running.iter().filter_map(|text| text.parse::<TaskId>().ok()) {
            if !state.tasks.contains_key(&task) {
                state.tell_cancel(agent, task);
            }
        }
    }

    /// Forgets a task that nobody waits for any more.
    fn abandon(&self, task: TaskId) {
        let mut state = self.lock();
        if let Some(entry) = state.tasks.remove(&task) {
            state.tell_cancel(entry.agent, task);
        }
    }

    fn announce(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What `agent` serves from now on, no other agent does; a task of another at one of these ends.
    fn hand_over(&mut self, agent: AgentId, sources: &[ServedSource]) {
        let is_taken = |source: &SourceId| sources.iter().any(|taken| taken.source == *source);
        for (_, line) in self.agents.iter_mut().filter(|(other, _)| **other != agent) {
            line.connected.sources.retain(|served| !is_taken(&served.source));
        }
        let lost = self.tasks.extract_if(|_, entry| match &entry.context {
            TaskContext::Archive(archive) => entry.agent != agent && is_taken(&archive.source),
            TaskContext::Restore(_) | TaskContext::Settling | TaskContext::Probe => false,
        });
        for (task, entry) in lost.collect::<Vec<_>>() {
            self.tell_cancel(entry.agent, task);
            entry.end(Ended::AgentLost);
        }
    }

    fn hang_up(&mut self, agent: AgentId, connection: u64) {
        if self.agents.get(&agent).is_some_and(|line| line.number == connection) {
            self.agents.remove(&agent);
        }
        self.lose_tasks(agent, connection);
    }

    fn lose_tasks(&mut self, agent: AgentId, connection: u64) {
        let lost = self.tasks.extract_if(|_, entry| entry.agent == agent && entry.connection == connection);
        for (_, entry) in lost {
            entry.end(Ended::AgentLost);
        }
    }

    fn tell_cancel(&self, agent: AgentId, task: TaskId) {
        let Some(line) = self.agents.get(&agent) else { return };
        let message = Message::Cancel(CancelTask { task_id: task.to_string() });
        if line.down.try_send(Ok(ControllerMessage { message: Some(message) })).is_err() {
            line.cut.cancel();
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
