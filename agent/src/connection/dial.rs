//! How a connection is made: TLS, windows, keep-alive.

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use proto::Failure;
use proto::failure::reason;
use tokio::io::BufReader;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};
use tower::ServiceExt;

/// Bulk data goes in messages of this many bytes.
pub(crate) const PART_BYTES: usize = 512 << 10;
/// The longest message that is taken: the largest blob and some.
pub(crate) const MAX_MESSAGE: usize = 80 << 20;

/// What is read at once where much comes: TLS asks for four kibibytes at a time.
const READ_AHEAD: usize = 64 << 10;
const FRAME: u32 = 1 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const CONNECT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);

/// A certificate and its key, both PEM.
pub(super) struct Shown<'a> {
    pub(super) certificate: &'a str,
    pub(super) key: &'a str,
}

/// How `address` is reached: behind a certificate of the authority `ca_certificate` (PEM), showing a
/// certificate of our own where there is one.
pub(super) fn endpoint(
    address: &str,
    ca_certificate: &str,
    shown: Option<&Shown<'_>>,
) -> Result<Endpoint, Failure> {
    let wrong = |error: tonic::transport::Error| {
        Failure::new(Code::InvalidArgument, reason::INVALID_REQUEST, "the connection cannot be set up")
            .caused_by(&error)
            .hint("check `controller` in the configuration, and join again if the identity is damaged")
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_certificate));
    if let Some(Shown { certificate, key }) = shown {
        tls = tls.identity(TlsIdentity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(wrong)?;
    let endpoint = endpoint.tls_config(tls).map_err(wrong)?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .max_frame_size(FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .keep_alive_while_idle(true))
}

/// A connection of its own for bulk data, made when it is used first.
pub(super) fn bulk(endpoint: &Endpoint) -> Channel {
    let mut tcp = HttpConnector::new();
    // TLS is put on it by the endpoint.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let read_ahead = |tcp: TokioIo<_>| TokioIo::new(BufReader::with_capacity(READ_AHEAD, tcp.into_inner()));
    endpoint.connect_with_connector_lazy(tcp.map_response(read_ahead))
}

/// The controller at `address` was not reached.
pub(super) fn unreachable(address: &str, error: &tonic::transport::Error) -> Failure {
    Failure::new(Code::Unavailable, reason::UNREACHABLE, format!("cannot reach the controller at {address}"))
        .caused_by(error)
        .hint("check that it runs, that the address is right and that a firewall lets it through")
}
