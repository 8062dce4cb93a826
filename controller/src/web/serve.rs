//! The two HTTP listeners.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::rpc::ServeError;
use crate::web::page;

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
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
        let stopped = stop.clone().cancelled_owned();
        let patience = async {
            stop.cancelled().await;
            tokio::time::sleep(GOODBYE).await;
        };
        tokio::select! {
            served = axum::serve(self.listener, router).with_graceful_shutdown(stopped) => served,
            () = patience => Ok(()),
        }
    }
}

/// The status page.
pub fn status(app: App) -> Router {
    Router::new().route("/", get(show)).fallback(nothing).with_state(app)
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

async fn show(State(app): State<App>) -> impl IntoResponse {
    match page::render(&app).await {
        Ok(page) => (StatusCode::OK, headers(), Html(page)),
        Err(failure) => {
            tracing::warn!(what = failure.what, why = failure.why, "the status page cannot be made");
            (StatusCode::SERVICE_UNAVAILABLE, headers(), Html(page::unavailable()))
        }
    }
}

async fn nothing() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, headers(), "there is nothing here\n")
}

async fn ready(State(app): State<App>) -> (StatusCode, String) {
    match app.unready().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn headers() -> HeaderMap {
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}
