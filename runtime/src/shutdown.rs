//! The graceful stop: a signal asks, tasks end in their own time, a deadline or a second signal ends the
//! waiting.
//!
//! Must stay true: `stop` is asked for once and seen by everybody through one token; whoever still runs at
//! the end is named, because a stop that hangs without a name cannot be repaired.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Stops a program. Clones share one stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    abort: CancellationToken,
    tracker: TaskTracker,
    running: Arc<Mutex<Running>>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    names: BTreeMap<u64, String>,
}

/// How a stop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// Every task ended.
    Clean,
    /// The deadline passed; these tasks still ran.
    DeadlinePassed {
        /// The names they were spawned with.
        running: Vec<String>,
    },
    /// A second signal (or [`Shutdown::abort`]) came; these tasks still ran.
    Aborted {
        /// The names they were spawned with.
        running: Vec<String>,
    },
}

impl fmt::Display for Drained {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => out.write_str("stopped: every task ended"),
            Self::DeadlinePassed { running } => {
                write!(out, "stopped at the deadline; still running: {}", running.join(", "))
            }
            Self::Aborted { running } => {
                write!(out, "stopped at once by a second request; still running: {}", running.join(", "))
            }
        }
    }
}

impl Shutdown {
    /// A stop that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on SIGTERM and SIGINT ask for the stop, and a second one aborts the waiting. Needs a tokio
    /// runtime.
    pub fn listen_to_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        // Not tracked: it ends with the process, and nothing has to wait for it.
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "stop asked for; a second signal stops at once");
            shutdown.request();
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "second signal: stop at once");
            shutdown.abort();
        });
        Ok(())
    }

    /// Cancelled when the stop is asked for. Tasks watch it and end.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks for the stop.
    pub fn request(&self) {
        self.stop.cancel();
    }

    /// Asks for the stop, and ends the waiting for tasks.
    pub fn abort(&self) {
        self.stop.cancel();
        self.abort.cancel();
    }

    /// Runs a task that [`drain`](Self::drain) waits for. It has to watch [`token`](Self::token).
    pub fn spawn<F>(&self, name: impl Into<String>, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let entry = Entry::new(&self.running, name.into());
        self.tracker.spawn(async move {
            let _entry = entry;
            task.await
        })
    }

    /// Waits until the stop is asked for, then until every task has ended, at most `deadline` long. Tasks that
    /// still run then are left to the end of the runtime.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.stop.cancelled().await;
        self.tracker.close();
        tokio::select! {
            biased;
            () = self.tracker.wait() => Drained::Clean,
            () = self.abort.cancelled() => Drained::Aborted { running: self.running() },
            () = tokio::time::sleep(deadline) => Drained::DeadlinePassed { running: self.running() },
        }
    }

    fn running(&self) -> Vec<String> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.names.values().cloned().collect()
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// The name of a running task; taken off the list however the task ends.
struct Entry {
    number: u64,
    running: Arc<Mutex<Running>>,
}

impl Entry {
    fn new(running: &Arc<Mutex<Running>>, name: String) -> Self {
        let mut list = running.lock().unwrap_or_else(PoisonError::into_inner);
        let number = list.next;
        list.next += 1;
        list.names.insert(number, name);
        Self { number, running: running.clone() }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).names.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn tasks_that_watch_the_token_end_cleanly() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let task = shutdown.spawn("worker", async move {
            token.cancelled().await;
            7
        });
        shutdown.request();
        assert_eq!(shutdown.drain(LONG).await, Drained::Clean);
        assert_eq!(task.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn the_deadline_ends_the_waiting_and_names_who_still_runs() {
        let shutdown = Shutdown::new();
        shutdown.spawn("quick", async {}).await.unwrap();
        shutdown.spawn("stubborn", std::future::pending::<()>());
        shutdown.request();
        let drained = shutdown.drain(Duration::from_millis(1)).await;
        assert_eq!(drained, Drained::DeadlinePassed { running: vec!["stubborn".to_owned()] });
        assert_eq!(drained.to_string(), "stopped at the deadline; still running: stubborn");
    }

    #[tokio::test]
    async fn an_abort_does_not_wait_for_the_deadline() {
        let shutdown = Shutdown::new();
        shutdown.spawn("stubborn", std::future::pending::<()>());
        shutdown.abort();
        assert_eq!(shutdown.drain(LONG).await, Drained::Aborted { running: vec!["stubborn".to_owned()] });
    }

    #[tokio::test]
    async fn a_task_that_panics_is_no_longer_waited_for() {
        let shutdown = Shutdown::new();
        let task = shutdown.spawn("broken", async { panic!("on purpose") });
        assert!(task.await.unwrap_err().is_panic());
        shutdown.request();
        assert_eq!(shutdown.drain(LONG).await, Drained::Clean);
    }
}
