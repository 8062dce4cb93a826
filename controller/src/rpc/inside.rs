//! The services for the web page: the same ones, in this process, behind the same gate.
//!
//! Must stay true: the page has no other way to act. What its user may, what is kept in the audit log and
//! how failed attempts are slowed down is decided where it is for everybody else.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, header};
use proto::v1::agents_server::AgentsServer;
use proto::v1::alerts_server::AlertsServer;
use proto::v1::audit_server::AuditServer;
use proto::v1::backups_server::BackupsServer;
use proto::v1::health_server::HealthServer;
use proto::v1::jobs_server::JobsServer;
use proto::v1::retention_server::RetentionServer;
use proto::v1::schedules_server::SchedulesServer;
use proto::v1::tokens_server::TokensServer;
use std::convert::Infallible;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Layer, Service};
use zeroize::Zeroizing;

use crate::app::App;
use crate::rpc::agents::AgentsService;
use crate::rpc::alerts::AlertsService;
use crate::rpc::audit::AuditService;
use crate::rpc::backups::BackupsService;
use crate::rpc::caller::PagePeer;
use crate::rpc::gate::{Gate, GateLayer};
use crate::rpc::health::HealthService;
use crate::rpc::jobs::JobsService;
use crate::rpc::retention::RetentionService;
use crate::rpc::schedules::SchedulesService;
use crate::rpc::tokens::TokensService;

/// The services behind the gate. Cheap to clone.
#[derive(Clone)]
pub struct Inside {
    gate: Gate<Routes>,
}

impl Inside {
    /// What the page uses of `app`.
    pub fn new(app: &App) -> Self {
        let routes = Routes::new(BackupsServer::new(BackupsService { app: app.clone() }))
            .add_service(JobsServer::new(JobsService { app: app.clone() }))
            .add_service(AgentsServer::new(AgentsService { app: app.clone() }))
            .add_service(SchedulesServer::new(SchedulesService { app: app.clone() }))
            .add_service(AlertsServer::new(AlertsService { app: app.clone() }))
            .add_service(AuditServer::new(AuditService { app: app.clone() }))
            .add_service(RetentionServer::new(RetentionService { app: app.clone() }))
            .add_service(TokensServer::new(TokensService { app: app.clone() }))
            .add_service(HealthServer::new(HealthService { app: app.clone() }))
            .prepare();
        Self { gate: GateLayer::new(app.clone()).layer(routes) }
    }

    /// The services for whoever shows this token from this address.
    pub fn with(&self, token: &str, from: IpAddr) -> Caller {
        let text = Zeroizing::new(format!("Bearer {token}"));
        // What cannot stand in a header is a token that nobody has.
        let mut bearer = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer "));
        bearer.set_sensitive(true);
        Caller { gate: self.gate.clone(), bearer, from }
    }
}

/// Somebody who uses the page.
#[derive(Clone)]
pub struct Caller {
    gate: Gate<Routes>,
    bearer: HeaderValue,
    from: IpAddr,
}

impl Service<Request<Body>> for Caller {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.gate.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(header::AUTHORIZATION, self.bearer.clone());
        request.extensions_mut().insert(PagePeer(self.from));
        self.gate.call(request)
    }
}
