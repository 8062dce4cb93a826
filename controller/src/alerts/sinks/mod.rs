//! Sinks: each kind's own format, and its way there.
//!
//! Must stay true: what is told of a failure holds no secret and no address; secrets are read for each
//! attempt and held no longer; nothing here decides when or how often.

mod address;
mod chat;
mod email;
mod http;
mod ping;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use runtime::config::{Secret, SecretSource};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::alerts::Message;
use crate::config::{Alerts, Sink};
use address::{Reach, Unreachable};

/// A message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Undelivered {
    /// In one line, without secrets.
    pub why: String,
    /// It will not go better until somebody mends something.
    pub refused: bool,
    /// How long the receiver wants to be left alone.
    pub after: Option<Duration>,
}

impl Undelivered {
    fn later(why: impl Into<String>) -> Self {
        Self { why: why.into(), refused: false, after: None }
    }

    fn refused(why: impl Into<String>) -> Self {
        Self { refused: true, ..Self::later(why) }
    }

    fn after(self, after: Option<Duration>) -> Self {
        Self { after, ..self }
    }
}

impl From<Unreachable> for Undelivered {
    fn from(error: Unreachable) -> Self {
        let refused = matches!(error, Unreachable::Private | Unreachable::Refused);
        Self { refused, ..Self::later(error.to_string()) }
    }
}

/// The trusted certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The configured file cannot be read.
    #[error("alerts.ca_file {}: no certificates can be read from it", file.display())]
    Ca {
        /// Which file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS for alerts cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// What all sinks share.
pub struct Sinks {
    alerts: Alerts,
    way: http::Way,
    extra: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for Sinks {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sinks").field("names", &self.alerts.sinks.keys()).finish_non_exhaustive()
    }
}

impl Sinks {
    /// The configured ones. Trusts the system's certificates and those of `ca_file`.
    pub fn new(alerts: &Alerts) -> Result<Self, SinkError> {
        let extra = alerts.ca_file.as_deref().map_or(Ok(Vec::new()), certificates)?;
        let mut roots = rustls::RootCertStore::empty();
        // Of the system's, those that cannot be read are left out, as every program does.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(extra.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let allow = if alerts.allow_private { Reach::Private } else { Reach::Public };
        Ok(Self { alerts: alerts.clone(), way: http::Way { allow, tls: Arc::new(tls) }, extra })
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.alerts.sinks.keys().cloned().collect()
    }

    /// What is configured.
    pub fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// True for a dead-man switch.
    pub fn is_ping(&self, name: &str) -> bool {
        matches!(self.alerts.sinks.get(name), Some(Sink::Ping(_)))
    }

    /// Sends a message once.
    pub async fn send(&self, name: &str, message: &Message, now: Timestamp) -> Result<(), Undelivered> {
        match self.alerts.sinks.get(name) {
            None => Err(Undelivered::refused("there is no such sink any more")),
            Some(Sink::Email(email)) => email::send(self, email, message, now).await,
            Some(Sink::Slack(channel)) => {
                let url = secret(channel.webhook_url.as_ref(), channel.webhook_url_file.as_ref())?;
                self.post(&url, json(), chat::slack(message)).await
            }
            Some(Sink::Discord(channel)) => {
                let url = secret(channel.webhook_url.as_ref(), channel.webhook_url_file.as_ref())?;
                self.post(&url, json(), chat::discord(message)).await
            }
            Some(Sink::Webhook(hook)) => webhook::send(self, hook, message, now).await,
            Some(Sink::Ping(ping)) => ping::send(self, ping, message).await,
        }
    }

    async fn post(&self, url: &Secret, headers: HeaderMap, body: Vec<u8>) -> Result<(), Undelivered> {
        let place = http::Place::parse(url.expose()).map_err(Undelivered::refused)?;
        self.way.post(http::Post { place, headers, body }).await
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, SinkError> {
    let failed = |source| SinkError::Ca { file: file.to_owned(), source };
    CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

fn secret(value: Option<&Secret>, file: Option<&PathBuf>) -> Result<Secret, Undelivered> {
    let source = SecretSource::from_pair(value, file).ok_or_else(|| Undelivered::refused("it is not set"))?;
    source.read().map_err(|error| Undelivered::refused(error.to_string()))
}

fn json() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// At most `limit` letters.
fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}
