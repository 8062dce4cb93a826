//! The two HTTP listeners.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::rpc::ServeError;

/// Connections that are still open after a stop are left this long to end by themselves.
const GOODBYE: Duration = Duration::from_secs(1);

/// A listener for plain HTTP.
pub struct WebServer {
    listener: TcpListener,
}

impl WebServer {
    /// Listens at `address`.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { place: address.to_string(), source };
        Ok(Self { listener: TcpListener::bind(address).await.map_err(failed)? })
    }

    /// The address that it listens at.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> io::Result<()> {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let stopped = stop.clone().cancelled_owned();
        let patience = async {
            stop.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            served = axum::serve(self.listener, service).with_graceful_shutdown(stopped) => served,
            () = patience => Ok(()),
        }
    }
}

/// `/livez`, and the same as `/healthz`: the process answers. `/readyz`: it can do its work. `/metrics`: in
/// Prometheus' text format.
pub fn probes(app: App) -> Router {
    let alive = || async { "ok\n" };
    Router::new()
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, app.metrics_text().await.to_string())
}

async fn ready(State(app): State<App>) -> (StatusCode, String) {
    match app.unready().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
