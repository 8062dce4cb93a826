//! The certificate that the server shows, renewed while it runs.
//!
//! Must stay true: what a new connection is shown counts for a third of its life at least, as long as the
//! controller runs; connections that are open are not touched.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runtime::clock::Clock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::identity::authority::{Authority, AuthorityError, SERVER_LIFE, ServerIdentity};

/// How often its age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// What HTTP/2 is called when a connection agrees on its protocol.
const HTTP_2: &[u8] = b"h2";

/// The server's certificate and key of this moment.
pub struct ServerCertificate {
    authority: Arc<Authority>,
    names: Vec<String>,
    shown: RwLock<Shown>,
}

#[derive(Clone)]
struct Shown {
    key: Arc<CertifiedKey>,
    ends_at: Timestamp,
}

impl ServerCertificate {
    /// A fresh one, valid under `names`.
    pub fn new(
        authority: Arc<Authority>,
        names: Vec<String>,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let shown = RwLock::new(usable(&authority.server(&names, now)?)?);
        Ok(Self { authority, names, shown })
    }

    /// Until when it counts.
    pub fn ends_at(&self) -> Timestamp {
        self.shown().ends_at
    }

    /// Makes a new one if only a third of its life is left; true if it did.
    pub fn renew_if_due(&self, now: Timestamp) -> Result<bool, AuthorityError> {
        let third = SignedDuration::from_secs(SERVER_LIFE.as_secs() / 3);
        if now < self.ends_at() - third {
            return Ok(false);
        }
        let new = usable(&self.authority.server(&self.names, now)?)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// Keeps it fresh until `stop`.
    pub async fn keep(self: Arc<Self>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            match self.renew_if_due(clock.now()) {
                Ok(false) => {}
                Ok(true) => tracing::info!(ends_at = %self.ends_at(), "the server's certificate was renewed"),
                Err(error) => tracing::error!(
                    error = proto::failure::chain(&error),
                    "the server's certificate was not renewed; it is tried again in an hour"
                ),
            }
        }
    }

    /// TLS 1.3 that shows this certificate and takes clients without one, or with one that our authority
    /// has signed.
    pub fn tls(self: &Arc<Self>) -> Result<ServerConfig, AuthorityError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.authority.certificate().to_vec()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|_| AuthorityError::Tls(rustls::Error::General("no client can be verified".into())))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.alpn_protocols.push(HTTP_2.to_vec());
        // No session is resumed: each connection shows its certificate anew, and nothing is kept of one.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").field("ends_at", &self.ends_at()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Resolver(Arc<ServerCertificate>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.shown().key)
    }
}

fn usable(identity: &ServerIdentity) -> Result<Shown, AuthorityError> {
    let unusable = |_| AuthorityError::Tls(rustls::Error::General("it is not PEM".into()));
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(unusable)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)?;
    Ok(Shown { key: Arc::new(CertifiedKey::new(vec![certificate], key)), ends_at: identity.ends_at })
}

#[cfg(test)]
mod tests {
    use repository::ids::RepositoryId;

    use super::*;
    use crate::state::StateFolder;

    #[test]
    fn it_is_renewed_while_the_controller_runs_and_before_it_ends() {
        let home = tempfile::tempdir().expect("a folder");
        let state = StateFolder::open(home.path()).expect("opened");
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().expect("a time");
        let authority = Authority::open(&state, RepositoryId::random(), now).expect("an authority");
        let certificate =
            ServerCertificate::new(Arc::new(authority), vec!["localhost".into()], now).expect("made");
        let (first, ends_at) = (certificate.shown().key, certificate.ends_at());
        assert!(!certificate.renew_if_due(now + SignedDuration::from_hours(24 * 200)).expect("looked"));
        let late = now + SignedDuration::from_hours(24 * 300);
        assert!(certificate.renew_if_due(late).expect("renewed"));
        assert!(certificate.ends_at() > ends_at && certificate.shown().key.cert != first.cert);
        assert!(!certificate.renew_if_due(late).expect("looked"));
    }
}
