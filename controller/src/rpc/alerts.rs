//! `Alerts`: what is wrong, what was sent, and a try.

use proto::convert::to_wire_time;
use proto::v1;
use proto::v1::alerts_server::Alerts;
use proto::v1::{
    ListAlertsRequest, ListAlertsResponse, ListDeliveriesRequest, ListDeliveriesResponse, TestSinkRequest,
    TestSinkResponse,
};
use tonic::{Request, Response, Status};

use crate::alerts::{Event, Sign};
use crate::app::App;
use crate::catalog::{Delivery, OpenAlert};
use crate::config::Route;
use crate::rpc::configuration::sink_kind;

const USUAL_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 1_000;

pub(super) struct AlertsService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Alerts for AlertsService {
    async fn list_alerts(
        &self,
        _request: Request<ListAlertsRequest>,
    ) -> Result<Response<ListAlertsResponse>, Status> {
        let now = self.app.alerts_now().await?;
        let kinds = &self.app.config.alerts.sinks;
        let routes = &self.app.config.alerts.routes;
        let sinks = now.sinks.into_iter().map(|(name, state)| v1::SinkState {
            kind: kinds.get(&name).map_or("", sink_kind).to_owned(),
            waiting: state.waiting,
            dead: state.dead,
            delivered_at: state.delivered_at.map(to_wire_time),
            error: state.error.unwrap_or_default(),
            routed: !routes.is_empty(),
            events: kinds_for(routes, &name),
            name,
        });
        let objectives = self.app.objectives().await?.into_iter();
        let objectives =
            objectives.map(|(component, of)| v1::Objective { component, seconds: of.get().as_secs() });
        Ok(Response::new(ListAlertsResponse {
            alerts: now.open.into_iter().map(open).collect(),
            sinks: sinks.collect(),
            objectives: objectives.collect(),
        }))
    }

    async fn test_sink(
        &self,
        request: Request<TestSinkRequest>,
    ) -> Result<Response<TestSinkResponse>, Status> {
        let message = self.app.test_alert(&request.into_inner().sink).await?;
        Ok(Response::new(TestSinkResponse { message_id: message.id.to_string() }))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<ListDeliveriesResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => USUAL_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        let deliveries = self.app.alert_deliveries(limit).await?;
        Ok(Response::new(ListDeliveriesResponse {
            deliveries: deliveries.into_iter().map(delivery).collect(),
        }))
    }
}

/// The kinds of events that routes lead to a sink, each once, in the order in which they are written.
fn kinds_for(routes: &[Route], sink: &str) -> Vec<String> {
    let mut kinds = Vec::new();
    for route in routes.iter().filter(|route| route.to.iter().any(|name| name == sink)) {
        for kind in &route.events {
            if !kinds.iter().any(|known| known == kind.word()) {
                kinds.push(kind.word().to_owned());
            }
        }
    }
    kinds
}

fn open(open: OpenAlert) -> v1::OpenAlert {
    v1::OpenAlert {
        since: Some(to_wire_time(open.since)),
        told_at: Some(to_wire_time(open.told_at)),
        event: Some(event(&open.event)),
    }
}

fn event(event: &Event) -> v1::AlertEvent {
    v1::AlertEvent {
        id: event.id.to_string(),
        kind: event.kind.word().to_owned(),
        subject: event.subject.clone(),
        resolved: event.sign == Sign::Resolved,
        severity: event.severity().word().to_owned(),
        at: Some(to_wire_time(event.at)),
        what: event.what.clone(),
        why: event.why.clone(),
        hint: event.hint.clone(),
        job_id: event.job.map(|job| job.to_string()).unwrap_or_default(),
        backup: event.backup.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn delivery(delivery: Delivery) -> v1::Delivery {
    let waits = delivery.state == "waiting";
    v1::Delivery {
        id: delivery.message.id.to_string(),
        sink: delivery.sink,
        made_at: Some(to_wire_time(delivery.message.made_at)),
        state: delivery.state,
        attempts: delivery.attempts,
        next_at: waits.then(|| to_wire_time(delivery.next_at)),
        ended_at: delivery.ended_at.map(to_wire_time),
        error: delivery.error.unwrap_or_default(),
        title: delivery.message.title(),
        total: delivery.message.total(),
        events: delivery.message.events.iter().map(event).collect(),
    }
}
