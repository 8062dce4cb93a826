//! What is wrong, whom it is told to, and what was told.

use askama::Template;
use axum::body::Bytes;
use axum::response::Response;
use jiff::Timestamp;
use proto::Failure;
use proto::v1::alerts_client::AlertsClient;
use proto::v1::{Delivery, ListAlertsRequest, ListDeliveriesRequest, OpenAlert, SinkState, TestSinkRequest};

use crate::web::site::{Asked, Frame, render};
use crate::web::text::{Mood, State, age, counted, time};

struct Open {
    state: State,
    since: String,
    what: String,
    why: String,
    hint: String,
    job: String,
    backup: String,
}

struct Sink {
    name: String,
    kind: String,
    state: State,
    last: String,
    error: String,
    /// Which events go to it.
    takes: String,
}

struct Told {
    sink: String,
    title: String,
    when: String,
    state: State,
    error: String,
}

#[derive(Template)]
#[template(path = "alerts.html")]
struct Alerts {
    frame: Frame,
    open: Vec<Open>,
    sinks: Vec<Sink>,
    told: Vec<Told>,
    /// A sink that was just tried, and what went wrong, if anything did.
    tried: Option<(String, Option<Failure>)>,
}

fn open(alert: OpenAlert, now: Timestamp) -> Open {
    let event = alert.event.unwrap_or_default();
    let mood = if event.severity == "critical" { Mood::Bad } else { Mood::Fair };
    Open {
        state: State::new(mood, event.severity),
        since: time(alert.since).map(|at| age(at, now)).unwrap_or_default(),
        what: event.what,
        why: event.why,
        hint: event.hint,
        job: event.job_id,
        backup: event.backup,
    }
}

fn sink(sink: SinkState, now: Timestamp) -> Sink {
    let state = match (sink.dead, sink.error.is_empty(), sink.waiting) {
        (0, true, 0) => State::new(Mood::Good, "takes messages"),
        (0, true, waiting) => State::new(Mood::Busy, format!("{waiting} waiting")),
        (0, false, waiting) => State::new(Mood::Bad, format!("failing, {waiting} waiting")),
        (dead, ..) => State::new(Mood::Bad, format!("{} given up", counted(dead, "message", "messages"))),
    };
    let takes = match (sink.events.is_empty(), sink.routed, sink.kind.as_str()) {
        (false, ..) => sink.events.iter().map(|kind| kind.replace('_', " ")).collect::<Vec<_>>().join(", "),
        (true, _, "ping") => "every backup".to_owned(),
        (true, true, _) => "nothing: no route leads to it".to_owned(),
        (true, false, _) => "whatever somebody should know".to_owned(),
    };
    Sink {
        state,
        takes,
        last: time(sink.delivered_at).map_or("nothing yet".to_owned(), |at| age(at, now)),
        name: sink.name,
        kind: sink.kind,
        error: sink.error,
    }
}

fn told(delivery: Delivery, now: Timestamp) -> Told {
    let mood = match delivery.state.as_str() {
        "delivered" => Mood::Good,
        "waiting" => Mood::Busy,
        _ => Mood::Bad,
    };
    let attempts = match delivery.attempts {
        0 | 1 => String::new(),
        more => format!(", {more} attempts"),
    };
    Told {
        state: State::new(mood, format!("{}{attempts}", delivery.state)),
        when: time(delivery.made_at).map(|at| age(at, now)).unwrap_or_default(),
        sink: delivery.sink,
        title: delivery.title,
        error: delivery.error,
    }
}

pub(super) async fn show(asked: Asked) -> Response {
    let made = shown(&asked, None).await;
    asked.answer(made)
}

async fn shown(asked: &Asked, tried: Option<(String, Option<Failure>)>) -> Result<Response, Failure> {
    let now = asked.site.app.now();
    let mut client = AlertsClient::new(asked.caller.clone());
    let listed = client.list_alerts(ListAlertsRequest {}).await?.into_inner();
    let deliveries = client.list_deliveries(ListDeliveriesRequest { limit: 30 }).await?.into_inner();
    let mut open: Vec<Open> = listed.alerts.into_iter().map(|alert| open(alert, now)).collect();
    open.sort_by_key(|alert| alert.state.mood);
    render(&Alerts {
        frame: asked.frame("Alerts"),
        open,
        sinks: listed.sinks.into_iter().map(|one| sink(one, now)).collect(),
        told: deliveries.deliveries.into_iter().map(|one| told(one, now)).collect(),
        tried,
    })
}

pub(super) async fn test(asked: Asked, body: Bytes) -> Response {
    let made = async {
        let sink = asked.form(&body)?.get("sink").to_owned();
        let request = TestSinkRequest { sink: sink.clone() };
        let tried = AlertsClient::new(asked.caller.clone()).test_sink(request).await.map_err(Failure::from);
        match tried {
            Err(failure)
                if matches!(failure.code, tonic::Code::PermissionDenied | tonic::Code::Unauthenticated) =>
            {
                Err(failure)
            }
            tried => shown(&asked, Some((sink, tried.err()))).await,
        }
    };
    let made = made.await;
    asked.answer(made)
}
