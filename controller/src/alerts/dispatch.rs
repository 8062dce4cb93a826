//! Sends what was written down: routes and folds events, and carries each sink's messages to it.
//!
//! Must stay true: everything is read from the catalog, so that a start after a kill goes on where the last
//! life was; a sink that hangs or refuses holds no other one up; nothing is held in memory but one message
//! for each sink.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runtime::clock::Clock;
use runtime::shutdown::Shutdown;
use runtime::steps;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::alerts::plan::{again, fold, fold_pings, sinks_of};
use crate::alerts::sinks::{SinkError, Sinks};
use crate::alerts::{Again, Message, Undelivered};
use crate::catalog::{Catalog, CatalogError};
use crate::config::Alerts;
use crate::metrics::{Metrics, families};
use crate::steps::Step;

/// What waits for a window or for company is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const TRIM_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// The sinks and what carries messages to them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    catalog: Catalog,
    sinks: Arc<Sinks>,
    /// By sink: told when it has a new message.
    made: Arc<HashMap<String, Notify>>,
    metrics: Metrics,
}

impl Dispatcher {
    /// A dispatcher that does nothing yet; [`Dispatcher::start`] sets it going.
    pub fn new(alerts: &Alerts, catalog: Catalog, metrics: Metrics) -> Result<Self, SinkError> {
        let sinks = Sinks::new(alerts)?;
        let made = sinks.names().into_iter().map(|name| (name, Notify::new())).collect();
        Ok(Self { catalog, sinks: Arc::new(sinks), made: Arc::new(made), metrics })
    }

    /// Tries a sink now, past the outbox.
    pub async fn test(&self, sink: &str, now: Timestamp) -> Result<Message, Undelivered> {
        let message = Message::test(now);
        self.sinks.send(sink, &message, now).await.map(|()| message)
    }

    /// The configured sinks.
    pub fn sinks(&self) -> &Sinks {
        &self.sinks
    }

    /// Runs until the stop: one task that plans, one for each sink.
    pub fn start(&self, clock: &Arc<dyn Clock>, shutdown: &Shutdown) {
        let stop = shutdown.token();
        for name in self.sinks.names() {
            let carrying = self.clone().carry(name.clone(), clock.clone(), stop.clone());
            shutdown.spawn(format!("alerts to {name}"), carrying);
        }
        shutdown.spawn("alerts", self.clone().plan(clock.clone(), stop));
    }

    async fn plan(self, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut trimmed: Option<Timestamp> = None;
        let mut taken_up = false;
        loop {
            let now = clock.now();
            let result = async {
                if !taken_up {
                    self.catalog.take_up_alerts(&self.sinks.names(), now).await?;
                    taken_up = true;
                    self.made.values().for_each(Notify::notify_one);
                }
                if trimmed.is_none_or(|at| now.duration_since(at).abs() >= TRIM_EVERY) {
                    self.catalog.forget_old_alerts(now).await?;
                    trimmed = Some(now);
                }
                self.make_messages(now).await
            };
            if let Err(error) = result.await {
                tracing::error!(
                    error = proto::failure::chain(&error),
                    "alerts cannot be planned; it is tried again"
                );
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.catalog.alerts_raised.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Routes what is new, and makes messages of what may go out now.
    async fn make_messages(&self, now: Timestamp) -> Result<(), CatalogError> {
        let alerts = self.sinks.alerts();
        while self.catalog.has_unrouted_alerts().await? {
            steps::reached(Step::AlertsUnrouted).await;
            self.catalog.route_alerts(|event| sinks_of(alerts, event)).await?;
        }
        for (sink, made) in self.made.iter() {
            let is_ping = self.sinks.is_ping(sink);
            let folded = self.catalog.fold_alerts(
                sink,
                is_ping,
                |events, recent| if is_ping { fold_pings(events) } else { fold(events, &recent, now) },
                now,
            );
            if folded.await? > 0 {
                made.notify_one();
            }
        }
        Ok(())
    }

    /// Carries one sink's messages to it.
    async fn carry(self, sink: String, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let made = &self.made[&sink];
        loop {
            let wait = match self.send_next(&sink, &*clock).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(
                        sink,
                        error = proto::failure::chain(&error),
                        "the outbox of alerts cannot be read"
                    );
                    LOOK_AGAIN
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = made.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Sends what is due, one after the other. Says how long nothing will be.
    async fn send_next(&self, sink: &str, clock: &dyn Clock) -> Result<Duration, CatalogError> {
        loop {
            let (due, next) = self.catalog.due_alert(sink, clock.now()).await?;
            let Some(due) = due else {
                let wait = next.map(|next| next.duration_since(clock.now()));
                let wait = wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or(LOOK_AGAIN);
                // A clock that jumps must not leave a message lying.
                return Ok(wait.clamp(Duration::from_millis(100), LOOK_AGAIN * 6));
            };
            let id = due.message.id;
            match self.sinks.send(sink, &due.message, clock.now()).await {
                Ok(()) => {
                    self.metrics.add(&families::DELIVERIES, &[sink, "delivered"], 1);
                    self.catalog.alert_delivered(id, clock.now()).await?;
                    tracing::info!(sink, message = %id, "alert delivered");
                }
                Err(failed) => {
                    let now = clock.now();
                    let random = RandomState::new().hash_one(id);
                    let attempts = due.attempts.saturating_add(1);
                    let again =
                        again(due.message.made_at, attempts, failed.refused, failed.after, random, now);
                    tracing::warn!(sink, message = %id, attempts, why = failed.why, "alert not delivered");
                    let result = if matches!(again, Again::Never) { "given_up" } else { "refused" };
                    self.metrics.add(&families::DELIVERIES, &[sink, result], 1);
                    self.catalog.alert_failed(id, &failed.why, again, now).await?;
                }
            }
        }
    }
}
