//! Alerts: what is open, what was sent, a try, and the look for silence.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proto::Failure;
use proto::failure::{chain, reason};
use runtime::config::Duration as Span;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::alerts::silence::{self, Facts};
use crate::alerts::{Kind, Message};
use crate::app::doctor::{Change, Finding};
use crate::app::storage_look::{PATIENCE, StorageLook};
use crate::app::verified::newest_verified;
use crate::app::{App, catalog_failure};
use crate::catalog::{Delivery, OpenAlert, ScheduleRecord, SinkState};
use crate::config::{Components, Schedule};

/// Facts are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A start is given this long before anybody who is not there yet counts as lost.
const AFTER_START: Duration = Duration::from_secs(30);

/// Everything that there is to say of alerts.
#[derive(Debug)]
pub struct AlertsNow {
    /// What is wrong, the oldest first.
    pub open: Vec<OpenAlert>,
    /// The configured sinks with how they do.
    pub sinks: BTreeMap<String, SinkState>,
}

impl App {
    /// What is wrong, and how the sinks do.
    pub async fn alerts_now(&self) -> Result<AlertsNow, Failure> {
        let read = async {
            let mut states = self.catalog.sink_states().await?;
            let names = self.alerts.sinks().names().into_iter();
            let sinks = names.map(|name| (name.clone(), states.remove(&name).unwrap_or_default())).collect();
            Ok(AlertsNow { open: self.catalog.open_alerts().await?, sinks })
        };
        read.await.map_err(|error| catalog_failure(&error))
    }

    /// How old the newest verified backup of each component that is served may be.
    pub async fn objectives(&self) -> Result<BTreeMap<String, Span>, Failure> {
        let alerts = &self.config.alerts;
        let agents = self.agents().await?;
        let served =
            agents.iter().filter(|agent| agent.revoked_at.is_none()).flat_map(|agent| &agent.sources);
        let components = served.map(|served| served.source.component.to_string());
        let of = |component: String| {
            let objective = *alerts.objectives.get(&component).unwrap_or(&alerts.objective);
            (component, objective)
        };
        Ok(components.map(of).collect())
    }

    /// The newest messages, the newest first.
    pub async fn alert_deliveries(&self, limit: u32) -> Result<Vec<Delivery>, Failure> {
        self.catalog.alert_deliveries(limit).await.map_err(|error| catalog_failure(&error))
    }

    /// Tries a sink.
    pub async fn test_alert(&self, sink: &str) -> Result<Message, Failure> {
        let names = self.alerts.sinks().names();
        if !names.iter().any(|name| name == sink) {
            let hint = match names.is_empty() {
                true => "none is configured: see \"Alerts\" in docs/operations.md".to_owned(),
                false => format!("there are: {}", names.join(", ")),
            };
            return Err(Failure::not_found("there is no such alert sink").hint(hint));
        }
        self.alerts.test(sink, self.now()).await.map_err(|failed| {
            let what = format!("the sink {sink} did not take the message");
            Failure { why: failed.why, ..Failure::new(Code::Unavailable, reason::STORAGE, what) }
                .hint("check its address, its secret and its TLS in the controller's configuration")
        })
    }

    /// Looks for silence until the stop.
    pub(crate) async fn look_for_silence(self, stop: CancellationToken) {
        let started = self.now();
        if stop.run_until_cancelled(tokio::time::sleep(AFTER_START)).await.is_none() {
            return;
        }
        loop {
            let look = self.look_once(started);
            let Some(looked) = stop.run_until_cancelled(look).await else { return };
            if let Err(failure) = looked {
                tracing::error!(why = failure.why, "silence cannot be looked for: {}", failure.what);
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    async fn look_once(&self, started: Timestamp) -> Result<(), Failure> {
        let open = self.catalog.open_alerts().await.map_err(|error| catalog_failure(&error))?;
        let facts = self.facts(started, &open).await?;
        let now = self.now();
        let wrong = silence::wrong(&facts, &self.config.alerts, now);
        let events = silence::changes(wrong, &facts.unknown, &open);
        if events.is_empty() {
            return Ok(());
        }
        self.catalog.raise_alerts(&events, now).await.map_err(|error| catalog_failure(&error))
    }

    /// Everything that is looked at, as of now. An agent that is not there is given time from `started` on.
    pub(super) async fn facts(&self, started: Timestamp, open: &[OpenAlert]) -> Result<Facts, Failure> {
        let now = self.now();
        let agents = self.agents().await?;
        let mut facts = Facts { certificate: Some(self.server_certificate.ends_at()), ..Facts::default() };
        for agent in agents.iter().filter(|agent| agent.revoked_at.is_none()) {
            let seen = agent.last_seen_at.unwrap_or(agent.joined_at);
            let seen = silence::away_since(&agent.name, seen, started, open);
            let away = (!self.fleet.is_connected(agent.id)).then_some(seen);
            facts.add_agent(&agent.name, away, agent.certificate_ends_at);
            for served in &agent.sources {
                let component = served.source.component.to_string();
                let since = facts.verified.entry(component).or_insert(agent.joined_at);
                *since = (*since).min(agent.joined_at);
            }
        }
        let of_catalog = async {
            let served = facts.verified.keys().cloned().collect();
            let longest = silence::longest_objective(&self.config.alerts);
            for (component, at) in newest_verified(&self.catalog, served, longest, now).await? {
                // A component that nobody serves any more has no backup to come.
                facts.verified.entry(component).and_modify(|since| *since = at);
            }
            facts.sinks = self
                .catalog
                .sink_states()
                .await?
                .into_iter()
                .filter_map(|(name, state)| {
                    let alerts = self.alerts.sinks();
                    alerts.names().contains(&name).then(|| (name.clone(), (state, alerts.is_ping(&name))))
                })
                .collect();
            for invitation in self.catalog.open_invitations(now).await? {
                if invitation.used == 0 {
                    let name = match invitation.terms.name.is_empty() {
                        true => invitation.id,
                        false => invitation.terms.name,
                    };
                    facts.invitations.insert(name, invitation.created_at);
                }
            }
            for token in self.tokens.list().await? {
                let is_used =
                    token.last_used_at.is_some_and(|at| now.duration_since(at).as_hours() < 24 * 30);
                // One that has ended is still what somebody uses, until it is revoked or long forgotten.
                if is_used && token.revoked_at.is_none() {
                    let ends_at = facts.tokens.entry(token.name).or_insert(token.ends_at);
                    *ends_at = (*ends_at).max(token.ends_at);
                }
            }
            Ok(())
        };
        of_catalog.await.map_err(|error| catalog_failure(&error))?;
        // Those of the configuration are there, too.
        let schedules = self.catalog.schedules().await.map_err(|error| catalog_failure(&error))?;
        if let Some(scheduled) = scheduled(&schedules) {
            facts.verified.retain(|component, _| scheduled.contains(component));
        }
        let made = agents.iter().map(|agent| agent.joined_at).min().unwrap_or(started);
        self.look_at_storages(&mut facts, made).await;
        Ok(facts)
    }

    /// What the repository's storage and the state's disk say. `made` is since when somebody should have the
    /// recovery key.
    async fn look_at_storages(&self, facts: &mut Facts, made: Timestamp) {
        let Storages { repository: of_repository, state: of_state, .. } = &mut *self.storages.lock().await;
        let (depot, state) = (self.depot.clone(), self.config.state.clone());
        let of_repository = of_repository.look(PATIENCE, move || {
            let repository = depot.repository();
            let free = repository.store().free_space().map_err(|error| chain(&error));
            // Where the keys cannot be read, nothing is known of them; the doctor tells that.
            (free, repository.is_recovery_confirmed().ok())
        });
        let of_state = of_state.look(PATIENCE, move || {
            let found = rustix::fs::statvfs(&state).ok()?;
            Some(found.f_bavail.saturating_mul(found.f_frsize))
        });
        let (of_repository, of_state) = tokio::join!(of_repository, of_state);
        let (free, confirmed) = match of_repository {
            Ok((free, confirmed)) => (free, confirmed),
            Err(why) => (Err(why), None),
        };
        match free {
            Ok(free) => facts.free = free,
            Err(why) => {
                facts.storage_silent = Some(why);
                facts.unknown.insert((Kind::StorageNearlyFull, silence::REPOSITORY));
            }
        }
        match confirmed {
            Some(confirmed) => facts.unconfirmed_since = (!confirmed).then_some(made),
            None => {
                facts.unknown.insert((Kind::RecoveryKeyUnconfirmed, silence::REPOSITORY));
            }
        }
        match of_state {
            Ok(Some(free)) => facts.state_free = Some(free),
            _ => {
                facts.unknown.insert((Kind::StorageNearlyFull, silence::STATE));
            }
        }
    }
}

/// Where it is looked at how storage does: by one look at a time, whoever asks.
#[derive(Debug, Default)]
pub(super) struct Storages {
    repository: StorageLook<OfRepository>,
    state: StorageLook<Option<u64>>,
    /// For the figures: all bytes of the repository's folder, and the free ones of the state's.
    pub(super) room: StorageLook<(Option<u64>, Option<u64>)>,
    /// For whoever wants to know at once how much is free in the repository's storage.
    pub(super) free: StorageLook<Option<u64>>,
    /// What had grown or was freed, when somebody asked last.
    pub(super) changes: Option<(Instant, Vec<Change>)>,
    /// For the doctor.
    pub(super) doctor: StorageLook<Vec<Finding>>,
}

/// What a repository's storage says: its free bytes, where it knows them, and whether somebody has shown to
/// have the recovery key, where its keys can be read.
type OfRepository = (Result<Option<u64>, String>, Option<bool>);

/// The components that schedules back up; `None`: all.
fn scheduled(schedules: &[ScheduleRecord]) -> Option<Vec<String>> {
    let mut named = Vec::new();
    for schedule in schedules {
        if let Schedule::Backup(backup) = &schedule.definition {
            match &backup.components {
                Components::All => return None,
                Components::Named(names) => named.extend(names.iter().cloned()),
            }
        }
    }
    (!named.is_empty()).then_some(named)
}
