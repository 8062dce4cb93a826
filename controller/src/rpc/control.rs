//! The control stream: Hello, Welcome, and then heartbeats and results up, tasks down.

use std::time::Instant;

use proto::v1::agent_message::Message;
use proto::v1::controller_message::Message as DownMessage;
use proto::v1::{
    AgentMessage, ControllerMessage, DrillOpener, Hello, RepositoryKey, TaskFailed, TaskLog, Welcome,
};
use proto::{Failure, convert};
use runtime::steps;
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use crate::app::{App, CLONE_HINT};
use crate::catalog::ServedSource;
use crate::fleet::{Connection, Down, Ended, HEARTBEAT, Instance, LOST_AFTER, Opens};
use crate::identity::AgentCertificate;
use crate::ids::{AgentId, TaskId};
use crate::rpc::life::Life;
use crate::steps::Step;

/// The version of the protocol that this program speaks.
const PROTOCOL: u32 = 1;
/// More than any agent serves.
const MAX_SOURCES: usize = 256;
/// Lines of one message for a job's log.
const MOST_LINES: usize = 64;

/// Greets the agent and keeps its connection for as long as it lasts.
pub(super) async fn open(
    app: App,
    certificate: AgentCertificate,
    life: Life,
    mut stream: Streaming<AgentMessage>,
) -> Result<mpsc::Receiver<Down>, Failure> {
    let agent = certificate.agent;
    let hello = hello(&mut stream).await?;
    let mut sources = served(&hello)?;
    let opens = opened(&hello)?;
    let host = convert::text("host", &hello.host, 256)?;
    let version = convert::text("version", &hello.version, 64)?;
    let instance = Instance::new(convert::array("instance", &hello.instance)?);
    if app.fleet.settle(agent, instance).await.is_err() {
        app.tell_clone(&certificate, &host).await;
        return Err(cloned());
    }
    let refused = app
        .catalog
        .hello(agent, &host, &version, &sources, &certificate.bounds, app.now())
        .await
        .map_err(|error| crate::app::catalog_failure(&error))?;
    steps::reached(Step::HelloRecorded).await;
    for owned in &refused {
        tracing::warn!(
            %agent, name = certificate.name, source = %owned.source, why = ?owned.owner,
            "a source that the agent may not serve was refused; `nsctl doctor` says what to do"
        );
    }
    sources.retain(|served| refused.iter().all(|owned| owned.source != served.source));
    let (connection, messages) = app.fleet.connect(agent, instance, sources, app.now()).map_err(|_away| {
        Failure::new(Code::ResourceExhausted, proto::failure::reason::BUSY, "too many agents are connected")
    })?;
    let drills_others = app.config.drills.may_drill_others(agent);
    app.fleet.mark(agent, connection.number(), opens, drills_others);
    if connection.is_second() {
        app.tell_clone(&certificate, &host).await;
    }
    tracing::info!(%agent, name = certificate.name, host, version, "agent connected");
    let (down, outgoing) = mpsc::channel(1);
    // A new channel has room for its first message.
    let _ = down.try_send(Ok(welcome(&app)));
    let tracked = app.shutdown.clone();
    tracked.spawn(
        format!("control stream of agent {agent}"),
        keep(app, connection, life, stream, messages, down),
    );
    Ok(outgoing)
}

fn cloned() -> Failure {
    Failure::new(
        Code::AlreadyExists,
        proto::failure::reason::AGENT_CLONED,
        "another process with this agent's identity is connected and alive",
    )
    .because("two processes cannot be one agent; the one that was there first is kept")
    .hint(CLONE_HINT)
}

async fn hello(stream: &mut Streaming<AgentMessage>) -> Result<Hello, Failure> {
    let first = tokio::time::timeout(LOST_AFTER, stream.message())
        .await
        .map_err(|_| Failure::invalid("the agent did not say hello"))??;
    match first.and_then(|message| message.message) {
        Some(Message::Hello(hello)) if hello.protocol == PROTOCOL => Ok(hello),
        Some(Message::Hello(hello)) => Err(Failure::new(
            Code::FailedPrecondition,
            proto::failure::reason::INVALID_REQUEST,
            format!("the agent speaks protocol {}, this controller {PROTOCOL}", hello.protocol),
        )
        .hint("bring controller and agent to the same release")),
        _ => Err(Failure::invalid("the first message of a control stream is Hello")),
    }
}

fn served(hello: &Hello) -> Result<Vec<ServedSource>, Failure> {
    if hello.sources.len() > MAX_SOURCES {
        return Err(Failure::invalid(format!("an agent serves at most {MAX_SOURCES} sources")));
    }
    let mut sources: Vec<ServedSource> = Vec::new();
    for wire in &hello.sources {
        let source = convert::source_id("source", wire.source.as_ref())?;
        if sources.iter().any(|known| known.source == source) {
            return Err(Failure::invalid(format!("the agent serves {source} twice"))
                .hint("give each source its own name"));
        }
        sources.push(ServedSource {
            source,
            kind: convert::text("kind", &wire.kind, 32)?,
            location: convert::text("location", &wire.location, 4_096)?,
        });
    }
    Ok(sources)
}

fn opened(hello: &Hello) -> Result<Vec<Opens>, Failure> {
    if hello.opens.len() > MAX_SOURCES {
        return Err(Failure::invalid(format!("an agent opens at most {MAX_SOURCES} sources in drills")));
    }
    let opens = |wire: &DrillOpener| {
        let component =
            wire.component.parse().map_err(|_| Failure::invalid("a component's name is wrong"))?;
        let name = (!wire.name.is_empty()).then(|| wire.name.parse()).transpose();
        let name = name.map_err(|_| Failure::invalid("a source's name is wrong"))?;
        Ok(Opens { component, name })
    };
    hello.opens.iter().map(opens).collect()
}

fn welcome(app: &App) -> ControllerMessage {
    let key = app.depot.repository().sealing_key();
    ControllerMessage {
        message: Some(DownMessage::Welcome(Welcome {
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_seconds: HEARTBEAT.as_secs() as u32,
            repository_key: Some(RepositoryKey { epoch: key.epoch, public_key: key.key.to_vec().into() }),
            repository_id: app.repository_id().as_bytes().to_vec().into(),
        })),
    }
}

/// Until the stream breaks, the agent falls silent, a newer connection takes over, or the stop.
async fn keep(
    app: App,
    connection: Connection,
    life: Life,
    stream: Streaming<AgentMessage>,
    messages: mpsc::Receiver<Down>,
    down: mpsc::Sender<Down>,
) {
    let agent = connection.agent();
    let cut = connection.cut();
    let stop = app.shutdown.token();
    let why = tokio::select! {
        biased;
        () = stop.cancelled() => "the controller stops",
        () = cut.cancelled() => "cut: a newer connection took over, or the agent was shut out or too slow",
        _ = life.over() => "the agent was shut out, or its certificate has ended",
        why = hear(&app, &connection, stream) => why,
        why = pass_on(messages, &down) => why,
    };
    let goodbye =
        Failure::new(Code::Unavailable, proto::failure::reason::UNREACHABLE, "the control stream ends")
            .because(why);
    // An agent that has gone away needs no goodbye.
    let _ = down.try_send(Err(goodbye.into()));
    // Written while it still counts as connected: whoever looks in between would see one that was away for long.
    if let Err(error) = app.catalog.seen(agent, app.now()).await {
        tracing::warn!(%agent, error = proto::failure::chain(&error), "when the agent was last seen is not recorded");
    }
    drop(connection);
    tracing::info!(%agent, why, "agent disconnected");
}

async fn pass_on(mut messages: mpsc::Receiver<Down>, down: &mpsc::Sender<Down>) -> &'static str {
    while let Some(message) = messages.recv().await {
        if down.send(message).await.is_err() {
            break;
        }
    }
    "the agent stopped listening"
}

async fn hear(app: &App, connection: &Connection, mut stream: Streaming<AgentMessage>) -> &'static str {
    let agent = connection.agent();
    let mut pace = Pace::new(Instant::now());
    loop {
        match tokio::time::timeout(LOST_AFTER, stream.message()).await {
            Err(_) => return "it was silent for too long",
            Ok(Ok(None)) => return "it hung up",
            Ok(Err(_)) => return "the connection broke",
            Ok(Ok(Some(AgentMessage { message }))) => {
                if !pace.allows(Instant::now()) {
                    return "it sent too many messages";
                }
                app.fleet.heard(agent, connection.number());
                // A message of a newer agent is not for us.
                if let Some(message) = message {
                    take(app, agent, message);
                }
            }
        }
    }
}

/// How many messages an agent may send: far more than one that works.
struct Pace {
    left: f64,
    since: Instant,
}

impl Pace {
    const AT_ONCE: f64 = 1_000.0;
    const IN_A_SECOND: f64 = 100.0;

    fn new(now: Instant) -> Self {
        Self { left: Self::AT_ONCE, since: now }
    }

    fn allows(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = (self.left + passed * Self::IN_A_SECOND).min(Self::AT_ONCE) - 1.0;
        self.left >= 0.0
    }
}

fn take(app: &App, agent: AgentId, message: Message) {
    let end = |task: &str, ended: Ended| {
        if let Ok(task) = task.parse::<TaskId>() {
            app.fleet.end(agent, task, ended);
        }
    };
    match message {
        Message::Hello(_) => tracing::warn!(%agent, "the agent said hello twice"),
        Message::Heartbeat(heartbeat) => app.fleet.cancel_strangers(agent, &heartbeat.running_tasks),
        Message::Progress(progress) => {
            if let Ok(task) = progress.task_id.parse() {
                app.fleet.progress(agent, task, progress);
            }
        }
        Message::Log(log) => {
            if let Ok(task) = log.task_id.parse() {
                app.fleet.log(agent, task, bounded(log));
            }
        }
        Message::Failed(failed) if failed.cancelled => end(&failed.task_id, Ended::Cancelled),
        Message::Failed(failed) => end(&failed.task_id, failure(&failed)),
        Message::RestorePlanned(planned) => {
            let plan = planned.plan.unwrap_or_default();
            end(&planned.task_id, Ended::Planned(Box::new(plan)));
        }
        Message::RestoreFinished(finished) => {
            end(&finished.task_id.clone(), Ended::Restored(Box::new(finished)))
        }
        Message::DrillFinished(drilled) => end(&drilled.task_id.clone(), Ended::Drilled(Box::new(drilled))),
        Message::ProbeFinished(probed) => end(&probed.task_id.clone(), Ended::Probed(Box::new(probed))),
    }
}

/// As many lines as a job's log takes, each a bounded one.
fn bounded(log: TaskLog) -> TaskLog {
    let lines = log.lines.iter().take(MOST_LINES).map(|line| Failure::invalid(line).what);
    TaskLog { lines: lines.collect(), ..log }
}

/// One bounded line of an agent's failure.
fn failure(failed: &TaskFailed) -> Ended {
    let checked = Failure::invalid(&failed.what).because(&failed.why).hint(&failed.hint);
    let mut reason = checked.what;
    for more in [checked.why, checked.hint].iter().filter(|more| !more.is_empty()) {
        reason.push_str(": ");
        reason.push_str(more);
    }
    Ended::Failed { reason, retryable: failed.retryable }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_agent_that_works_is_within_its_pace_and_a_flood_is_not() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!((0..6_000_u32).all(|n| pace.allows(start + Duration::from_millis(10) * n)));
        let mut pace = Pace::new(start);
        assert_eq!((0..2_000).filter(|_| pace.allows(start)).count(), 1_000);
    }
}
