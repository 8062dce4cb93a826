//! Alerts: what is open, what was sent, a try, and the look for silence.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proto::Failure;
use proto::failure::{chain, reason};
use repository::backup::manifest::{BackupRecord, Outcome};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::alerts::Message;
use crate::alerts::silence::{self, Facts};
use crate::app::{App, catalog_failure};
use crate::catalog::{Delivery, OpenAlert, ScheduleRecord, SinkState, VerificationRecord};
use crate::config::{Components, Schedule};

/// Facts are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A start is given this long before anybody who is not there yet counts as lost.
const AFTER_START: Duration = Duration::from_secs(30);
/// Backups that are looked at for a verified one.
pub(super) const LOOKED_AT: u32 = 100;
/// Of verifications, those that have read what is stored.
const DEPTHS: [&str; 3] = ["hashed", "opened", "drilled"];

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
            if let Err(failure) = self.look_once(started).await {
                tracing::error!(why = failure.why, "silence cannot be looked for: {}", failure.what);
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    async fn look_once(&self, started: Timestamp) -> Result<(), Failure> {
        let facts = self.facts(started).await?;
        let now = self.now();
        let wrong = silence::wrong(&facts, &self.config.alerts, now);
        let open = self.catalog.open_alerts().await.map_err(|error| catalog_failure(&error))?;
        let events = silence::changes(wrong, &open);
        if events.is_empty() {
            return Ok(());
        }
        self.catalog.raise_alerts(&events, now).await.map_err(|error| catalog_failure(&error))
    }

    pub(super) async fn facts(&self, started: Timestamp) -> Result<Facts, Failure> {
        let now = self.now();
        let agents = self.agents().await?;
        let mut facts = Facts { certificate: Some(self.server_certificate.ends_at()), ..Facts::default() };
        for agent in agents.iter().filter(|agent| agent.revoked_at.is_none()) {
            let seen = agent.last_seen_at.unwrap_or(agent.joined_at).max(started);
            let away = (!self.fleet.is_connected(agent.id)).then_some(seen);
            facts.agents.insert(agent.name.clone(), (away, agent.certificate_ends_at));
            for served in &agent.sources {
                let component = served.source.component.to_string();
                let since = facts.verified.entry(component).or_insert(agent.joined_at);
                *since = (*since).min(agent.joined_at);
            }
        }
        let of_catalog = async {
            let backups = self.catalog.backups_before(None, LOOKED_AT).await?;
            let names: Vec<_> = backups.iter().map(|backup| &backup.name).collect();
            let verifications = self.catalog.verifications_of(&names).await?;
            for (component, at) in
                newest_verified(&backups, |backup| verifications.get(&backup.name).map_or(&[], Vec::as_slice))
            {
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
                if is_used && token.revoked_at.is_none() && token.ends_at > now {
                    facts.tokens.insert(token.name, token.ends_at);
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
        let depot = self.depot.clone();
        let of_depot = tokio::task::spawn_blocking(move || {
            let repository = depot.repository();
            let free = repository.store().free_space().ok().flatten();
            // Where the keys cannot be read, nothing is known of them; the doctor tells that.
            let confirmed = repository.is_recovery_confirmed().unwrap_or(true);
            (free, confirmed)
        });
        match of_depot.await {
            Ok((free, confirmed)) => {
                facts.free = free;
                let made = agents.iter().map(|agent| agent.joined_at).min().unwrap_or(started);
                facts.unconfirmed_since = (!confirmed).then_some(made);
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "looking at the repository ended unexpectedly")
            }
        }
        Ok(facts)
    }
}

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

/// By component: when the newest backup was begun that holds it complete and that was found intact.
pub(super) fn newest_verified<'a>(
    backups: &[BackupRecord],
    verifications: impl Fn(&BackupRecord) -> &'a [VerificationRecord],
) -> BTreeMap<String, Timestamp> {
    let mut newest = BTreeMap::new();
    for backup in backups {
        let found = verifications(backup);
        let mut components: BTreeMap<String, bool> = BTreeMap::new();
        for archive in &backup.archives {
            let is_verified = found.iter().any(|one| {
                one.source == archive.source && one.proves() && DEPTHS.contains(&one.depth.as_str())
            });
            let good = archive.outcome != Outcome::Failed && is_verified;
            *components.entry(archive.source.component.to_string()).or_insert(true) &= good;
        }
        for (component, _) in components.into_iter().filter(|(_, good)| *good) {
            let at = newest.entry(component).or_insert(backup.started_at);
            *at = (*at).max(backup.started_at);
        }
    }
    newest
}
