//! Scales workloads down and up, and waits until it has come true.
//!
//! Must stay true: every step may be repeated; one that somebody has started already is left as it is; nothing waits
//! for ever.

use std::time::Duration;

use runtime::steps;
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::ids::AgentId;
use crate::kubernetes::{ApiTrouble, Ran, StandIn, WorkloadId};
use crate::steps::Step;

/// Between two looks at something that changes.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long a restore pod's agent is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// At the most.
    pub(super) limit: Duration,
    /// A pod that will not start by itself, or not soon, is given up after so long. None where nothing else can go on
    /// without it: one that has crashed before is started late.
    pub(super) hopeless: Option<Duration>,
}

pub(super) fn told(ran: &Ran) -> String {
    let s = if ran.replicas == 1 { "" } else { "s" };
    format!("{} ({} replica{s})", ran.id, ran.replicas)
}

pub(super) fn all_told(all: &[Ran]) -> String {
    all.iter().map(told).collect::<Vec<_>>().join(", ")
}

/// Scales to 0 and returns when no pod is left.
pub(super) async fn take_down(stand_in: &StandIn, id: &WorkloadId) -> Result<(), String> {
    let began = Instant::now();
    let limit = stand_in.pod.stop_limit.get();
    let tell = async || match stand_in.replicas(id).await? {
        None | Some(0) => Ok::<_, ApiTrouble>(()),
        Some(_) => stand_in.api.scale(id, 0, false).await,
    };
    let mut is_told = false;
    loop {
        stand_in.goes_on()?;
        if !is_told {
            is_told = match tell().await {
                Ok(()) => true,
                Err(trouble) if !trouble.is_passing() || began.elapsed() >= limit => {
                    return Err(format!("{id} cannot be stopped: {trouble}"));
                }
                Err(_) => false,
            };
        }
        let left = match stand_in.left_of(id).await {
            Ok(None) if is_told => return Ok(()),
            Ok(left) => left.unwrap_or_default(),
            Err(trouble) => trouble.to_string(),
        };
        if began.elapsed() >= limit {
            let seconds = limit.as_secs();
            return Err(format!("{id} is not gone {seconds} s after it was stopped (`stop_limit`): {left}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Returns when no pod is left of one that rests already. It is told nothing.
pub(super) async fn await_gone(stand_in: &StandIn, id: &WorkloadId) -> Result<(), String> {
    let (began, limit) = (Instant::now(), stand_in.pod.stop_limit.get());
    loop {
        stand_in.goes_on()?;
        let left = match stand_in.left_of(id).await {
            Ok(None) => return Ok(()),
            Ok(Some(left)) => left,
            Err(trouble) => trouble.to_string(),
        };
        if began.elapsed() >= limit {
            return Err(format!("{id}, which was stopped before, is not gone: {left}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Brings the restore pod up, if it is not, and returns when its agent has joined.
pub(super) async fn bring_up(
    stand_in: &StandIn,
    fleet: &Fleet,
    agent: AgentId,
    patience: Patience,
) -> Result<(), String> {
    let pod = stand_in.id().workload();
    let began = Instant::now();
    // Where it is not up, a connection that is there is the sidecar's, and half open.
    let mut before = None;
    let tell = async |before: &mut Option<Option<u64>>| {
        let is_up = stand_in.replicas(&pod).await?.is_some_and(|replicas| replicas > 0);
        before.get_or_insert_with(|| fleet.connection_of(agent).filter(|_| !is_up));
        match is_up {
            true => Ok::<_, ApiTrouble>(()),
            false => stand_in.api.scale(&pod, 1, false).await,
        }
    };
    while let Err(trouble) = tell(&mut before).await {
        if !trouble.is_passing() || began.elapsed() >= patience.limit {
            return Err(format!("the restore pod {pod} cannot be started: {trouble}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        stand_in.goes_on()?;
    }
    let before = before.flatten();
    let mut hopeless_since = None;
    loop {
        stand_in.goes_on()?;
        if fleet.connection_of(agent).is_some_and(|now| Some(now) != before) {
            return Ok(());
        }
        let waits = stand_in.waits_for(&pod).await.unwrap_or_default();
        match waits.is_hopeless {
            true => drop(hopeless_since.get_or_insert(Instant::now())),
            false => hopeless_since = None,
        }
        let is_hopeless = (hopeless_since.zip(patience.hopeless))
            .is_some_and(|(since, given_up): (Instant, _)| since.elapsed() >= given_up);
        if is_hopeless || began.elapsed() >= patience.limit {
            let seconds = began.elapsed().as_secs();
            let why = match waits.why.as_str() {
                "" => "its pod runs and its agent does not join: see its log".to_owned(),
                why => why.to_owned(),
            };
            return Err(format!("the restore pod {pod} did not join within {seconds} seconds: {why}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Makes it what it was and waits until it is ready.
pub(super) async fn bring_back(stand_in: &StandIn, ran: &Ran) -> Result<(), String> {
    let began = Instant::now();
    while let Err(trouble) = start(stand_in, ran).await {
        // An API server that is away comes back, and what it answers then counts.
        if !trouble.is_passing() || began.elapsed() >= stand_in.pod.health_limit.get() {
            return Err(format!("cannot be started: {trouble}"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    steps::reached(Step::RestorePodStarted).await;
    await_health(stand_in, ran).await
}

/// Makes it what it was. One that somebody has started already is left as it is.
pub(super) async fn start(stand_in: &StandIn, ran: &Ran) -> Result<(), ApiTrouble> {
    match stand_in.replicas(&ran.id).await? {
        Some(0) => stand_in.api.scale(&ran.id, ran.replicas, false).await,
        None | Some(_) => Ok(()),
    }
}

pub(super) async fn await_health(stand_in: &StandIn, ran: &Ran) -> Result<(), String> {
    let began = Instant::now();
    let limit = stand_in.pod.health_limit.get();
    loop {
        let lacks = match stand_in.lacks(&ran.id).await {
            Ok(None) => return Ok(()),
            Ok(Some(lacks)) => lacks,
            // An answer that does not come says nothing of it.
            Err(trouble) => trouble.to_string(),
        };
        if began.elapsed() >= limit {
            let waits = stand_in.waits_for(&ran.id).await.unwrap_or_default();
            let why = if waits.why.is_empty() { lacks } else { format!("{lacks}: {}", waits.why) };
            return Err(format!("was not healthy within {} seconds: {why}", limit.as_secs()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
