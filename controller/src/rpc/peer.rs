//! Who is at the other end.

use proto::Failure;
use proto::failure::reason;
use tonic::Code;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use crate::app::App;
use crate::identity::{AgentCertificate, CertificateRefused};

/// The agent that a call comes from, by the certificate of its connection. It must be known and not shut
/// out; one that a lost catalog has forgotten is taken in again.
pub(super) async fn agent(app: &App, extensions: &http::Extensions) -> Result<AgentCertificate, Failure> {
    let info = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = info.and_then(TlsConnectInfo::peer_certs);
    let certificate = certificates.as_deref().and_then(|chain| chain.first());
    let certificate = certificate.ok_or(CertificateRefused::Missing).map_err(refused)?;
    let certificate = AgentCertificate::read(certificate, app.repository_id(), app.now()).map_err(refused)?;
    app.admit(&certificate).await?;
    Ok(certificate)
}

/// True if the connection shows a certificate, whosever it is.
pub(super) fn shows_certificate(extensions: &http::Extensions) -> bool {
    let info = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    info.and_then(TlsConnectInfo::peer_certs).is_some_and(|chain| !chain.is_empty())
}

pub(super) fn refused(why: CertificateRefused) -> Failure {
    Failure::new(Code::Unauthenticated, reason::CERTIFICATE_REFUSED, "the agent's certificate is refused")
        .because(why.to_string())
        .hint("let the agent join again: make a token with `nsctl agent invite`")
}

/// True for the users whom the Unix socket serves: the controller's own, and root.
pub(super) fn may_command(peer: Option<u32>, own: u32) -> bool {
    peer.is_some_and(|peer| peer == own || peer == 0)
}

/// Why the socket does not serve a user.
pub(super) fn not_served(peer: Option<u32>) -> Failure {
    let who = peer.map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"));
    Failure::new(
        Code::PermissionDenied,
        reason::DENIED,
        "this socket serves the controller's own user and root",
    )
    .because(format!("the call came from {who}"))
    .hint("use sudo, or run nsctl as the controller's user")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_serves_its_own_user_and_root_and_nobody_else() {
        assert!(may_command(Some(1000), 1000));
        assert!(may_command(Some(0), 1000));
        assert!(!may_command(Some(1001), 1000));
        assert!(!may_command(Some(1000), 0));
        assert!(!may_command(None, 0));
    }
}
