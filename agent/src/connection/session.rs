//! One connection, from Hello to its end.

use std::sync::Arc;
use std::time::Duration;

use proto::failure::reason;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::v1::agent_message::Message as Up;
use proto::v1::controller_message::Message as Down;
use proto::{Failure, convert, v1};
use runtime::steps;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::backlog::UpQueue;
use super::dial::{self, MAX_MESSAGE, Shown};
use super::enrol;
use super::keep::Agent;
use crate::state::Identity;
use crate::steps::Step;
use crate::tasks::{Hanging, TaskContext, Tasks, Work};

const PROTOCOL: u32 = 1;
/// Hello is answered within this time.
const WELCOME: Duration = Duration::from_secs(20);
const LEAST_HEARTBEAT: Duration = Duration::from_secs(1);
const MOST_HEARTBEAT: Duration = Duration::from_secs(60);
/// A renewal that failed is tried again after this time.
const RENEW_AGAIN: Duration = Duration::from_secs(3_600);
/// After so many heartbeats without a task, what the last task said has long been sent.
const IDLE_BEATS: u32 = 2;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// We were asked to stop.
    Stopped,
    /// The certificate is a new one and no task runs: the next connection shows it.
    Renewed,
    /// Tasks did not end with it.
    Hangs(Hanging),
    /// It broke, or never came to be.
    Lost {
        why: Failure,
        /// The controller had said Welcome.
        was_welcome: bool,
    },
}

/// Connects, works, and returns when the connection has ended and every task has cleaned up.
pub(super) async fn run(agent: &Arc<Agent>, identity: &mut Identity, stop: &CancellationToken) -> SessionEnd {
    let lost = |why| SessionEnd::Lost { why, was_welcome: false };
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => return SessionEnd::Stopped,
        opened = open(agent, identity) => opened,
    };
    let Opened { mut down, up, bulk, welcome } = match opened {
        Ok(opened) => opened,
        Err(why) => {
            if identity.fall_back() {
                tracing::warn!(
                    "the next attempt shows the other certificate, from before or after the renewal"
                );
            }
            return lost(why);
        }
    };
    if identity.previous.take().is_some()
        && let Err(error) = identity.save(&agent.state)
    {
        // It is done again after the next Welcome to this process's successor.
        tracing::warn!(%error, "the identity is not kept as it is now");
    }
    tracing::info!(controller = %agent.config.controller, version = welcome.controller_version, "connected");
    steps::reached(Step::Welcomed).await;
    let context =
        TaskContext { agent: Arc::clone(agent), pin: identity.pin, gateway: bulk.clone(), up: up.clone() };
    let tasks = Tasks::new(context);
    let end = serve(agent, identity, &tasks, &mut down, &up, bulk, &welcome, stop).await;
    // Before anything else is said to the controller: its jobs are handed out anew.
    match tasks.end().await {
        Ok(()) => end,
        Err(hanging) => SessionEnd::Hangs(hanging),
    }
}

struct Opened {
    down: Streaming<v1::ControllerMessage>,
    up: UpQueue,
    bulk: AgentGatewayClient<Channel>,
    welcome: v1::Welcome,
}

async fn open(agent: &Agent, identity: &Identity) -> Result<Opened, Failure> {
    let address = &agent.config.controller;
    let key = agent.key.pem();
    let shown = Shown { certificate: &identity.certificate, key: &key };
    let endpoint = dial::endpoint(address, &identity.ca_certificate, Some(&shown))?;
    let channel = endpoint.connect().await.map_err(|error| dial::unreachable(address, &error))?;
    let bulk = AgentGatewayClient::new(dial::bulk(&endpoint)).max_decoding_message_size(MAX_MESSAGE);
    let (up, outgoing) = UpQueue::new();
    up.send(Up::Hello(hello(agent))).await;
    let mut gateway = AgentGatewayClient::new(channel);
    let greeted = async {
        let mut down = gateway.control(ReceiverStream::new(outgoing)).await?.into_inner();
        let first = down.message().await?;
        Ok::<_, tonic::Status>((down, first))
    };
    let (down, first) = tokio::time::timeout(WELCOME, greeted)
        .await
        .map_err(|_| Failure::from(tonic::Status::deadline_exceeded("no answer to Hello")))?
        .map_err(Failure::from)?;
    let Some(Down::Welcome(welcome)) = first.and_then(|first| first.message) else {
        return Err(Failure::invalid("the controller did not answer Hello with Welcome")
            .hint("bring controller and agents to the same release"));
    };
    let found = enrol::pin(&welcome.repository_id, welcome.repository_key.as_ref())?;
    identity.pin.check(&found).map_err(|broken| enrol::pin_broken(&broken))?;
    Ok(Opened { down, up, bulk, welcome })
}

fn hello(agent: &Agent) -> v1::Hello {
    v1::Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        host: runtime::host::hostname(),
        instance: agent.instance.to_vec().into(),
        sources: agent.served.iter().map(crate::served::Served::to_wire).collect(),
        opens: agent.drills.iter().flat_map(|marked| marked.openers()).map(opens).collect(),
    }
}

fn opens(opener: &crate::config::Opener) -> v1::DrillOpener {
    v1::DrillOpener { component: opener.component.clone(), name: opener.name.clone().unwrap_or_default() }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one connection, used only here")]
async fn serve(
    agent: &Arc<Agent>,
    identity: &mut Identity,
    tasks: &Tasks,
    down: &mut Streaming<v1::ControllerMessage>,
    up: &UpQueue,
    bulk: AgentGatewayClient<Channel>,
    welcome: &v1::Welcome,
    stop: &CancellationToken,
) -> SessionEnd {
    let period = Duration::from_secs(u64::from(welcome.heartbeat_seconds));
    let mut heartbeat = tokio::time::interval(period.clamp(LEAST_HEARTBEAT, MOST_HEARTBEAT));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A branch of its own, so that heartbeats go on while the controller is asked.
    let mut renewal = std::pin::pin!(renewed(agent, identity.clone(), bulk));
    let (mut is_renewed, mut idle_beats) = (false, 0_u32);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return SessionEnd::Stopped,
            message = down.message() => match message {
                Ok(Some(message)) => obey(tasks, message),
                Ok(None) => return lost(ended()),
                Err(status) => return lost(Failure::from(status)),
            },
            _ = heartbeat.tick() => {
                let running_tasks = tasks.running();
                idle_beats = if running_tasks.is_empty() { idle_beats.saturating_add(1) } else { 0 };
                if is_renewed && idle_beats >= IDLE_BEATS {
                    return SessionEnd::Renewed;
                }
                up.offer(Up::Heartbeat(v1::Heartbeat { running_tasks }));
            }
            new = &mut renewal, if !is_renewed => (*identity, is_renewed) = (new, true),
        }
    }
}

/// The identity with a new certificate, once it was time for one and the controller has given it.
async fn renewed(agent: &Agent, old: Identity, gateway: AgentGatewayClient<Channel>) -> Identity {
    loop {
        let left = until_renewal(agent, &old);
        if !left.is_zero() {
            tokio::time::sleep(left).await;
            continue;
        }
        match enrol::renew(gateway.clone(), &agent.state, &agent.key, &old).await {
            Ok(new) => return new,
            Err(failure) => {
                let (why, hint) = (&failure.why, &failure.hint);
                tracing::warn!(why, hint, "the certificate was not renewed: {failure}");
                tokio::time::sleep(RENEW_AGAIN).await;
            }
        }
    }
}

fn lost(why: Failure) -> SessionEnd {
    SessionEnd::Lost { why, was_welcome: true }
}

fn ended() -> Failure {
    Failure::new(Code::Unavailable, reason::UNREACHABLE, "the controller ended the connection")
}

fn until_renewal(agent: &Agent, identity: &Identity) -> Duration {
    let left = identity.renew_at().as_second() - agent.clock.now().as_second();
    // A timer cannot sleep for years; it only has to fire again.
    Duration::from_secs(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(30 * 86_400))
}

/// Passes on what the controller asks for. What this release does not know is left alone: the
/// controller sees from Hello what it can ask for.
fn obey(tasks: &Tasks, message: v1::ControllerMessage) {
    match message.message {
        Some(Down::StartArchive(order)) => take(tasks, order.task_id.clone(), Work::Archive(order)),
        Some(Down::PlanRestore(order)) => take(tasks, order.task_id.clone(), Work::Plan(Box::new(order))),
        Some(Down::StartRestore(order)) => take(tasks, order.task_id.clone(), Work::Restore(Box::new(order))),
        Some(Down::SettleRestore(order)) => take(tasks, order.task_id.clone(), Work::Settle(order)),
        Some(Down::StartDrill(order)) => take(tasks, order.task_id.clone(), Work::Drill(Box::new(order))),
        Some(Down::Probe(order)) => take(tasks, order.task_id, Work::Probe),
        Some(Down::Cancel(order)) => tasks.cancel(&order.task_id),
        Some(Down::Welcome(_)) | None => tracing::debug!("a message that this release does not act on"),
    }
}

fn take(tasks: &Tasks, task_id: String, work: Work) {
    match convert::text("task_id", &task_id, 200) {
        Ok(task_id) if !task_id.is_empty() => tasks.start(task_id, work),
        Ok(_) => tracing::warn!("a task without an id was not taken"),
        Err(error) => tracing::warn!("a task was not taken: {error}"),
    }
}
