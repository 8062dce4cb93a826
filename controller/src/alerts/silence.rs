//! Silence is a failure: what nobody tells is found by looking at facts.
//!
//! Pure: facts and time in, what is wrong out. Whoever calls raises what is new and resolves what is gone.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::alerts::{Event, Kind};
use crate::catalog::{OpenAlert, SinkState};
use crate::config::Alerts;

/// A certificate renews itself long before; what ends sooner than this did not.
const CERTIFICATE: SignedDuration = SignedDuration::from_hours(24 * 14);
pub(crate) const TOKEN: SignedDuration = SignedDuration::from_hours(24 * 7);
/// A sink that takes nothing for this long is told of at the others.
const SINK: SignedDuration = SignedDuration::from_mins(15);
/// An invitation that nobody has used for this long, or for most of its life.
pub(crate) const NEVER_JOINED: SignedDuration = SignedDuration::from_mins(30);
/// The key's owner is given a day before anybody is reminded.
const RECOVERY_KEY: SignedDuration = SignedDuration::from_hours(24);

/// The state grows slowly; with less room than this it will soon not be written any more.
const STATE_SPACE: u64 = 512 << 20;

/// The subject of what concerns the repository.
pub const REPOSITORY: &str = "repository";
/// The subject of what concerns the controller's own state.
pub const STATE: &str = "state";

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// By component: when its newest verified backup was begun, or since when there should have been one.
    pub verified: BTreeMap<String, Timestamp>,
    /// Agents that are not shut out, by name: when each was last seen, none where it is connected; and when
    /// its certificate ends.
    pub agents: BTreeMap<String, (Option<Timestamp>, Timestamp)>,
    /// Invitations that were not used, by name: when each was made.
    pub invitations: BTreeMap<String, Timestamp>,
    /// Free bytes of the repository's storage, where it tells.
    pub free: Option<u64>,
    /// Free bytes where the controller keeps its state.
    pub state_free: Option<u64>,
    /// Why the repository's storage did not say how it does, where it did not.
    pub storage_silent: Option<String>,
    /// What nothing is known of just now: it neither begins nor ends.
    pub unknown: BTreeSet<(Kind, &'static str)>,
    /// Until when the controller's certificate counts.
    pub certificate: Option<Timestamp>,
    /// API tokens that are in use, by name: until when each counts.
    pub tokens: BTreeMap<String, Timestamp>,
    /// Since when somebody should have confirmed to have the recovery key; none: somebody has.
    pub unconfirmed_since: Option<Timestamp>,
    /// By name: how each sink does, and whether it is a dead-man switch.
    pub sinks: BTreeMap<String, (SinkState, bool)>,
}

impl Facts {
    /// Adds an agent. Of several with one name, it is the one that was away for the longest that is told of,
    /// and the certificate that ends first.
    pub fn add_agent(&mut self, name: &str, away: Option<Timestamp>, ends_at: Timestamp) {
        let (seen, ends) = self.agents.entry(name.to_owned()).or_insert((away, ends_at));
        *seen = (*seen).into_iter().chain(away).min();
        *ends = (*ends).min(ends_at);
    }
}

/// Since when an agent that is not connected counts as away: it is given time after a start, unless it is told
/// as lost already, which a start does not change.
pub fn away_since(name: &str, seen: Timestamp, started: Timestamp, open: &[OpenAlert]) -> Timestamp {
    let is_lost = |open: &OpenAlert| open.event.kind == Kind::AgentLost && open.event.subject == name;
    if open.iter().any(is_lost) { seen } else { seen.max(started) }
}

/// A component may be without a verified backup for this long at most.
pub fn longest_objective(settings: &Alerts) -> std::time::Duration {
    let longest = settings.objectives.values().chain([&settings.objective]).map(|objective| objective.get());
    longest.max().unwrap_or_default()
}

/// Everything that is wrong now.
pub fn wrong(facts: &Facts, settings: &Alerts, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    let since = |time: Timestamp| now.duration_since(time);
    for (component, verified) in &facts.verified {
        let objective = settings.objectives.get(component).unwrap_or(&settings.objective);
        if since(*verified).unsigned_abs() > objective.get() && since(*verified).is_positive() {
            events.push(Event::raised(Kind::BackupOverdue, component).saying(
                format!("{component} has no verified backup of the last {objective}"),
                format!("the newest is of {verified:.0}, or there is none"),
                "`nsctl jobs` and `nsctl doctor` tell what hinders it; then `nsctl backup` and `nsctl verify`",
            ));
        }
    }
    for (name, (seen, ends_at)) in &facts.agents {
        if let Some(seen) = seen.filter(|seen| since(*seen).unsigned_abs() > settings.agent_away.get()) {
            events.push(Event::raised(Kind::AgentLost, name).saying(
                format!("agent {name} is not connected"),
                format!("it was last seen at {seen:.0}"),
                "start it and see its log; if it is gone for good: `nsctl agent revoke`",
            ));
        }
        events.extend(expiring(&format!("agent {name}"), *ends_at, now));
    }
    for (name, made) in facts.invitations.iter().filter(|(_, made)| since(**made) > NEVER_JOINED) {
        events.push(Event::raised(Kind::AgentNeverJoined, name).saying(
            format!("the agent that was invited as {name} has not joined"),
            format!("its invitation of {made:.0} was not used"),
            "start the agent with its token, or take the invitation back: `nsctl agent invites`",
        ));
    }
    if let Some(why) = &facts.storage_silent {
        events.push(Event::raised(Kind::StorageSilent, REPOSITORY).saying(
            "the repository's storage does not answer",
            why,
            "see to its disk, its mount or its bucket; `nsctl doctor` tells more",
        ));
    }
    if let Some(free) = facts.state_free.filter(|free| *free < settings.low_space.bytes().min(STATE_SPACE)) {
        events.push(Event::raised(Kind::StorageNearlyFull, STATE).saying(
            "the disk with the controller's state is nearly full",
            format!("{} MiB are free", free >> 20),
            "make room on it, or move the state folder to a larger disk: without room, no job can be written down",
        ));
    }
    if let Some(free) = facts.free.filter(|free| *free < settings.low_space.bytes()) {
        events.push(Event::raised(Kind::StorageNearlyFull, REPOSITORY).saying(
            "the repository's storage is nearly full",
            format!("{} MiB are free", free >> 20),
            "make room, let retention keep less and run `nsctl prune`, or move it to a larger disk",
        ));
    }
    events.extend(facts.certificate.and_then(|ends_at| expiring("the controller", ends_at, now)));
    for (name, ends_at) in facts.tokens.iter().filter(|(_, ends_at)| ends_at.duration_since(now) < TOKEN) {
        events.push(Event::raised(Kind::KeyExpiring, name).saying(
            match *ends_at > now {
                true => format!("the API token {name} counts until {ends_at:.0}"),
                false => format!("the API token {name} has ended at {ends_at:.0}"),
            },
            "it is in use and does not renew itself",
            "make another one with `nsctl token create` and give it to whoever uses this one",
        ));
    }
    if facts.unconfirmed_since.is_some_and(|made| since(made) > RECOVERY_KEY) {
        events.push(Event::raised(Kind::RecoveryKeyUnconfirmed, REPOSITORY).saying(
            "nobody has confirmed to have the recovery key",
            "without it, a lost key file makes every backup unreadable",
            "keep a copy of it away from this machine, then run `nsctl repository key confirm`",
        ));
    }
    events.extend(facts.sinks.iter().filter_map(|(name, (state, is_ping))| sink(name, state, *is_ping, now)));
    events
}

fn expiring(whose: &str, ends_at: Timestamp, now: Timestamp) -> Option<Event> {
    (ends_at.duration_since(now) < CERTIFICATE).then(|| {
        Event::raised(Kind::CertificateExpiring, whose).saying(
            format!("the certificate of {whose} counts until {ends_at:.0}"),
            "it renews itself while it runs, and has not",
            "restart it and see its log; an agent whose certificate has ended has to be invited anew",
        )
    })
}

fn sink(name: &str, state: &SinkState, is_ping: bool, now: Timestamp) -> Option<Event> {
    let waits = state.failing_since.is_some_and(|since| now.duration_since(since).abs() > SINK);
    let gave_up = state.dead_at.is_some_and(|dead| state.delivered_at.is_none_or(|taken| taken < dead));
    (waits || gave_up).then(|| {
        let (kind, what) = match is_ping {
            true => (Kind::PingUnsent, format!("the ping {name} cannot be sent")),
            false => (Kind::SinkFailing, format!("alerts cannot be sent to {name}")),
        };
        let why = state.error.clone().unwrap_or_else(|| "it takes none".to_owned());
        let hint = format!("mend it, then try `nsctl alert test {name}`; what waits is sent by itself");
        Event::raised(kind, name).saying(what, why, hint)
    })
}

/// The events that make what is open what is wrong: new ones raised, those that are gone resolved. What is
/// open already is told again by its reminder alone, which the catalog knows; what only other parts raise and
/// what is `unknown` are left alone.
pub fn changes(
    wrong: Vec<Event>,
    unknown: &BTreeSet<(Kind, &'static str)>,
    open: &[OpenAlert],
) -> Vec<Event> {
    let is: BTreeSet<(Kind, String)> =
        wrong.iter().map(|event| (event.kind, event.subject.clone())).collect();
    let gone = open.iter().filter(|open| {
        open.event.kind.is_condition()
            && !is.contains(&(open.event.kind, open.event.subject.clone()))
            && !unknown.contains(&(open.event.kind, open.event.subject.as_str()))
    });
    let resolved = gone.map(|open| {
        Event::resolved(open.event.kind, open.event.subject.clone()).saying(
            format!("no longer: {}", open.event.what),
            format!("it was so since {:.0}", open.since),
            "",
        )
    });
    let resolved: Vec<Event> = resolved.collect();
    let is_open = |event: &Event| {
        open.iter().any(|open| open.event.kind == event.kind && open.event.subject == event.subject)
    };
    let new = wrong.into_iter().filter(|event| !is_open(event) || event.kind.reminds_after().is_some());
    new.chain(resolved).collect()
}
