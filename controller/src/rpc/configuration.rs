//! `Configuration`: what is configured, without any secret.

use proto::v1::configuration_server::Configuration;
use proto::v1::{AlertSink, ListAlertSinksRequest, ListAlertSinksResponse};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::config::Sink;

pub(super) struct ConfigurationService {
    pub(super) app: App,
}

pub(super) fn sink_kind(sink: &Sink) -> &'static str {
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
