//! Alerts.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::{some, time};
use crate::output::table::{Rows, or_dash};
use crate::output::words::age;

/// What is wrong, and how the sinks do.
#[derive(Debug, Serialize)]
pub(crate) struct Alerts {
    pub(crate) alerts: Vec<OpenAlert>,
    pub(crate) sinks: Vec<Sink>,
}

/// Something that is wrong until it recovers.
#[derive(Debug, Serialize)]
pub(crate) struct OpenAlert {
    pub(crate) since: Option<Timestamp>,
    pub(crate) told_at: Option<Timestamp>,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// Something that was told.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) subject: Option<String>,
    pub(crate) state: &'static str,
    pub(crate) severity: String,
    pub(crate) at: Option<Timestamp>,
    pub(crate) what: String,
    pub(crate) why: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) job: Option<String>,
    pub(crate) backup: Option<String>,
}

/// A way to reach somebody.
#[derive(Debug, Serialize)]
pub(crate) struct Sink {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) waiting: u64,
    pub(crate) dead: u64,
    pub(crate) delivered_at: Option<Timestamp>,
    pub(crate) error: Option<String>,
}

/// A message that a sink has taken to try it.
#[derive(Debug, Serialize)]
pub(crate) struct Tried {
    pub(crate) sink: String,
    pub(crate) id: String,
}

/// What was sent.
#[derive(Debug, Serialize)]
pub(crate) struct Deliveries {
    pub(crate) deliveries: Vec<Delivery>,
}

/// One message.
#[derive(Debug, Serialize)]
pub(crate) struct Delivery {
    pub(crate) id: String,
    pub(crate) sink: String,
    pub(crate) made_at: Option<Timestamp>,
    pub(crate) state: String,
    pub(crate) attempts: u32,
    pub(crate) next_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) error: Option<String>,
    pub(crate) title: String,
    pub(crate) total: u64,
    pub(crate) events: Vec<Event>,
}

impl From<v1::AlertEvent> for Event {
    fn from(wire: v1::AlertEvent) -> Self {
        Self {
            id: wire.id,
            kind: wire.kind,
            subject: some(wire.subject),
            state: if wire.resolved { "resolved" } else { "raised" },
            severity: wire.severity,
            at: time!(wire.at),
            what: wire.what,
            why: some(wire.why),
            hint: some(wire.hint),
            job: some(wire.job_id),
            backup: some(wire.backup),
        }
    }
}

impl From<v1::ListAlertsResponse> for Alerts {
    fn from(wire: v1::ListAlertsResponse) -> Self {
        let alerts = wire.alerts.into_iter().map(|open| OpenAlert {
            since: time!(open.since),
            told_at: time!(open.told_at),
            event: open.event.unwrap_or_default().into(),
        });
        let sinks = wire.sinks.into_iter().map(|sink| Sink {
            name: sink.name,
            kind: sink.kind,
            waiting: sink.waiting,
            dead: sink.dead,
            delivered_at: time!(sink.delivered_at),
            error: some(sink.error),
        });
        Self { alerts: alerts.collect(), sinks: sinks.collect() }
    }
}

impl From<v1::ListDeliveriesResponse> for Deliveries {
    fn from(wire: v1::ListDeliveriesResponse) -> Self {
        let deliveries = wire.deliveries.into_iter().map(|one| Delivery {
            id: one.id,
            sink: one.sink,
            made_at: time!(one.made_at),
            state: one.state,
            attempts: one.attempts,
            next_at: time!(one.next_at),
            ended_at: time!(one.ended_at),
            error: some(one.error),
            title: one.title,
            total: one.total,
            events: one.events.into_iter().map(Event::from).collect(),
        });
        Self { deliveries: deliveries.collect() }
    }
}

impl Alerts {
    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut open = Rows::new(&["SINCE", "SEVERITY", "KIND", "ABOUT", "WHAT", "WHY", "WHAT TO DO"]);
        for OpenAlert { since, event, .. } in &self.alerts {
            open.row([
                since.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                event.severity.clone(),
                event.kind.clone(),
                or_dash(event.subject.as_deref().unwrap_or_default()),
                event.what.clone(),
                or_dash(event.why.as_deref().unwrap_or_default()),
                or_dash(event.hint.as_deref().unwrap_or_default()),
            ]);
        }
        let mut sinks = Rows::new(&["SINK", "KIND", "DELIVERED", ">WAITING", ">DEAD", "LAST ERROR"]);
        for sink in &self.sinks {
            sinks.row([
                sink.name.clone(),
                sink.kind.clone(),
                sink.delivered_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                sink.waiting.to_string(),
                sink.dead.to_string(),
                or_dash(sink.error.as_deref().unwrap_or_default()),
            ]);
        }
        let none = "no alert sink is configured: nobody is told (docs/operations.md, \"Alerts\")";
        format!("{}\n\n{}", open.finish_or("nothing is wrong"), sinks.finish_or(none))
    }
}

impl Deliveries {
    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut rows = Rows::new(&["MADE", "SINK", "STATE", ">ATTEMPTS", "TITLE", "ERROR"]);
        for one in &self.deliveries {
            rows.row([
                one.made_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                one.sink.clone(),
                one.state.clone(),
                one.attempts.to_string(),
                one.title.clone(),
                or_dash(one.error.as_deref().unwrap_or_default()),
            ]);
        }
        rows.finish_or("no alert was sent yet")
    }
}
