//! Keeps the agent connected: joins where it has not, connects, and connects again for ever.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proto::Failure;
use proto::failure::reason;
use runtime::backoff::Backoff;
use runtime::clock::Clock;
use tokio_util::sync::CancellationToken;

use super::enrol;
use super::session::{self, SessionEnd};
use crate::chance;
use crate::config::AgentConfig;
use crate::drills::Marked;
use crate::pipeline::{RememberedBlobs, Room};
use crate::platform::Platform;
use crate::served::Served;
use crate::state::{AgentKey, Identity, StateFolder};
use crate::tasks::Hanging;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Where trying again cannot help before a person has done something.
const SLOW_PAUSE: Duration = Duration::from_secs(60);

/// All that the agent is, whatever the connection.
pub(crate) struct Agent {
    pub(crate) config: AgentConfig,
    pub(crate) state: StateFolder,
    pub(crate) key: AgentKey,
    pub(crate) served: Vec<Served>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Of this process: the controller tells two processes with one identity apart by it.
    pub(crate) instance: [u8; 16],
    /// Where all archives' segments are filled.
    pub(crate) room: Arc<Room>,
    /// What the controller has listed of each domain.
    pub(crate) listed: RememberedBlobs,
    /// What uses the data.
    pub(crate) platform: Platform,
    /// Where it makes drills; none: it is not marked for them.
    pub(crate) drills: Option<Marked>,
    /// Restores that are past the point at which they can be left.
    pub(crate) unbroken: AtomicUsize,
    /// Held while what a restore could not start again is tried once more.
    pub(crate) retrying: std::sync::Mutex<()>,
}

/// Works until `stop`, or until a task hangs: then only a new process can go on.
pub(crate) async fn keep_connected(
    agent: Arc<Agent>,
    known: Option<Identity>,
    stop: CancellationToken,
) -> Result<(), Hanging> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut identity = known;
    loop {
        let end = match &mut identity {
            Some(identity) => Box::pin(session::run(&agent, identity, &stop)).await,
            None => match join(&agent, &stop).await {
                Ok(joined) => {
                    identity = Some(joined);
                    continue;
                }
                Err(end) => end,
            },
        };
        let pause = match end {
            SessionEnd::Stopped => return Ok(()),
            SessionEnd::Hangs(hanging) => return Err(hanging),
            // Longer each time: a controller whose certificates are old when they come is not hurried.
            SessionEnd::Renewed => backoff.next_delay(chance()),
            SessionEnd::Lost { why, was_welcome } => {
                if was_welcome {
                    backoff.reset();
                }
                let pause = if needs_a_person(&why) { SLOW_PAUSE } else { backoff.next_delay(chance()) };
                tell(&why, pause);
                pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn join(agent: &Agent, stop: &CancellationToken) -> Result<Identity, SessionEnd> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(SessionEnd::Stopped),
        joined = enrol::join(&agent.config, &agent.state, &agent.key) => {
            joined.map_err(|why| SessionEnd::Lost { why, was_welcome: false })
        }
    }
}

fn needs_a_person(why: &Failure) -> bool {
    let reasons = [
        reason::AGENT_REVOKED,
        reason::AGENT_CLONED,
        reason::CERTIFICATE_REFUSED,
        reason::KEY_IN_USE,
        reason::TOKEN_REFUSED,
        reason::DENIED,
    ];
    reasons.contains(&why.reason.as_str())
}

fn tell(failure: &Failure, pause: Duration) {
    let (why, hint, again_in) = (&failure.why, &failure.hint, humane(pause));
    if needs_a_person(failure) {
        tracing::error!(why, hint, again_in, "{failure}");
    } else {
        tracing::warn!(why, hint, again_in, "{failure}");
    }
}

fn humane(pause: Duration) -> String {
    format!("{:.1}s", pause.as_secs_f64())
}
