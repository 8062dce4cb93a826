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
use uuid::Uuid;

use crate::alerts::plan::{again, fold, fold_pings, sinks_of};
use crate::alerts::sinks::{SinkError, Sinks};
use crate::alerts::{Again, Message, Undelivered};
use crate::catalog::{Catalog, CatalogError};
use crate::config::Alerts;
use crate::guarded::watched;
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
        self.sinks.send(sink, &message, now).await?;
        if let Err(error) = self.catalog.note_tried(sink, &message, now).await {
            tracing::warn!(sink, error = proto::failure::chain(&error), "the try of a sink is not recorded");
        }
        Ok(message)
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
            let name = format!("alerts to {name}");
            shutdown.spawn(name.clone(), watched(name, shutdown.clone(), carrying));
        }
        let planning = self.clone().plan(clock.clone(), stop);
        shutdown.spawn("alerts", watched("alerts".to_owned(), shutdown.clone(), planning));
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
        let mut unwritten = None;
        loop {
            let wait = match self.send_next(&sink, &*clock, &mut unwritten).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(
                        sink,
                        error = proto::failure::chain(&error),
                        "the outbox of alerts cannot be read or written"
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

    /// Sends what is due, one after the other. Says how long nothing will be. What became of a message is in
    /// `unwritten` until the catalog has it: nothing more is sent before, and it least of all.
    async fn send_next(
        &self,
        sink: &str,
        clock: &dyn Clock,
        unwritten: &mut Option<Sent>,
    ) -> Result<Duration, CatalogError> {
        loop {
            if let Some(sent) = &*unwritten {
                self.write(sink, sent).await?;
                *unwritten = None;
            }
            let (due, next) = self.catalog.due_alert(sink, clock.now()).await?;
            let Some(due) = due else {
                let wait = next.map(|next| next.duration_since(clock.now()));
                let wait = wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or(LOOK_AGAIN);
                // A clock that jumps must not leave a message lying.
                return Ok(wait.clamp(Duration::from_millis(100), LOOK_AGAIN * 6));
            };
            let id = due.message.id;
            let failed = self.sinks.send(sink, &due.message, clock.now()).await.err();
            let at = clock.now();
            let failed = failed.map(|failed| {
                let random = RandomState::new().hash_one(id);
                let attempts = due.attempts.saturating_add(1);
                tracing::warn!(sink, message = %id, attempts, why = failed.why, "alert not delivered");
                let again = again(due.message.made_at, attempts, failed.refused, failed.after, random, at);
                (failed.why, again)
            });
            let result = match &failed {
                None => "delivered",
                Some((_, Again::Never)) => "given_up",
                Some(_) => "refused",
            };
            self.metrics.add(&families::DELIVERIES, &[sink, result], 1);
            *unwritten = Some(Sent { id, at, failed });
        }
    }

    async fn write(&self, sink: &str, sent: &Sent) -> Result<(), CatalogError> {
        let Sent { id, at, failed } = sent;
        match failed {
            None => {
                self.catalog.alert_delivered(*id, self.sinks.is_ping(sink), *at).await?;
                tracing::info!(sink, message = %id, "alert delivered");
                Ok(())
            }
            Some((why, again)) => self.catalog.alert_failed(*id, why, *again, *at).await,
        }
    }
}

/// A message was sent: why it was not taken, where it was not, and when it is sent again.
struct Sent {
    id: Uuid,
    at: Timestamp,
    failed: Option<(String, Again)>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runtime::clock::SystemClock;
    use runtime::config::Secret;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::alerts::{Event, Kind};
    use crate::config::{Sink, Webhook};

    /// Takes whatever comes, and says how much that was.
    async fn receiver() -> (String, tokio::sync::watch::Receiver<u32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = format!("http://{}/", listener.local_addr().expect("an address"));
        let (count, counted) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        (address, counted)
    }

    #[tokio::test]
    async fn what_was_delivered_is_not_sent_again_while_the_catalog_cannot_be_written() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("catalog.sqlite");
        let catalog = Catalog::open(&path).await.expect("opened");
        let (address, counted) = receiver().await;
        let url = Some(Secret::new(address));
        let hook = Webhook { url, url_file: None, secret: None, secret_file: None, headers: BTreeMap::new() };
        let sinks = [("hook".to_owned(), Sink::Webhook(hook))].into();
        let alerts = Alerts { sinks, allow_private: true, ..Alerts::default() };
        let dispatcher = Dispatcher::new(&alerts, catalog.clone(), Metrics::default()).expect("made");
        let clock = SystemClock;
        for subject in ["one", "two"] {
            let event = Event::raised(Kind::BackupFailed, subject).saying("it failed", "", "");
            catalog.raise_alerts(&[event], clock.now()).await.expect("written");
            dispatcher.make_messages(clock.now()).await.expect("made");
        }
        let statement = |text: &'static str| {
            let url = format!("sqlite://{}", path.display());
            async move {
                use sqlx::Connection;
                let mut other = sqlx::SqliteConnection::connect(&url).await.expect("opened");
                sqlx::query(text).execute(&mut other).await.expect("done");
            }
        };
        statement("CREATE TRIGGER full BEFORE UPDATE ON alert_outbox BEGIN SELECT RAISE(FAIL, 'full'); END")
            .await;
        let mut unwritten = None;
        for _ in 0..3 {
            dispatcher.send_next("hook", &clock, &mut unwritten).await.expect_err("it cannot be written");
        }
        assert_eq!(*counted.borrow(), 1, "it was taken the first time");
        statement("DROP TRIGGER full").await;
        dispatcher.send_next("hook", &clock, &mut unwritten).await.expect("written");
        let states: Vec<_> = catalog.alert_deliveries(10).await.expect("read");
        assert!(
            states.iter().all(|one| (one.state.as_str(), one.attempts) == ("delivered", 1)),
            "{states:?}"
        );
        assert_eq!(*counted.borrow() as usize, states.len());
    }
}
