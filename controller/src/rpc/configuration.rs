//! `Configuration`: what is configured, without any secret.

use proto::v1::configuration_server::Configuration;
use proto::v1::{
    AlertSink, ListAlertSinksRequest, ListAlertSinksResponse, ListSchedulesRequest, ListSchedulesResponse,
    Schedule as WireSchedule,
};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::config::{Components, Schedule, Sink};

pub(super) struct ConfigurationService {
    pub(super) app: App,
}

fn names(components: &Components) -> Vec<String> {
    match components {
        Components::All => Vec::new(),
        Components::Named(named) => named.clone(),
    }
}

fn sink_kind(sink: &Sink) -> &'static str {
    match sink {
        Sink::Email(_) => "email",
        Sink::Slack(_) => "slack",
        Sink::Discord(_) => "discord",
        Sink::Webhook(_) => "webhook",
        Sink::Ping(_) => "ping",
    }
}

#[tonic::async_trait]
impl Configuration for ConfigurationService {
    async fn list_schedules(
        &self,
        _request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let config = &self.app.config;
        let schedule = |(name, schedule): (&String, &Schedule)| {
            let (kind, cron, components) = match schedule {
                Schedule::Backup(backup) => ("backup", &backup.cron, &backup.components),
                Schedule::Verify(verify) => ("verify", &verify.cron, &verify.components),
            };
            WireSchedule {
                name: name.clone(),
                kind: kind.to_owned(),
                cron: cron.as_str().to_owned(),
                time_zone: config.time_zone.clone(),
                components: names(components),
            }
        };
        Ok(Response::new(ListSchedulesResponse {
            schedules: config.schedules.iter().map(schedule).collect(),
        }))
    }

    async fn list_alert_sinks(
        &self,
        _request: Request<ListAlertSinksRequest>,
    ) -> Result<Response<ListAlertSinksResponse>, Status> {
        let sink = |(name, sink): (&String, &Sink)| AlertSink {
            name: name.clone(),
            kind: sink_kind(sink).to_owned(),
        };
        Ok(Response::new(ListAlertSinksResponse {
            sinks: self.app.config.alerts.sinks.iter().map(sink).collect(),
        }))
    }
}
