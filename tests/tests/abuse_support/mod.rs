//! Peers of the controller's port that mean harm: raw TCP, raw TLS, raw HTTP/2, and identities of all kinds.
#![allow(unreachable_pub, dead_code)] // a module of two test programs

pub mod insider;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use proto::token::JoinToken;
use proto::v1::JoinRequest;
use proto::v1::enrolment_client::EnrolmentClient;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// A call without a certificate that everybody may try.
const JOIN: &str = "https://localhost/neurashield.backup.v1.Enrolment/Join";
/// A call of agents.
pub const PUT: &str = "https://localhost/neurashield.backup.v1.AgentGateway/PutSegment";
/// How HTTP/2 begins, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Of HTTP/2 frames.
const PING: u8 = 6;
const SETTINGS: u8 = 4;

/// The port under attack, and whom its controller is known by.
#[derive(Clone)]
pub struct Target {
    pub port: u16,
    pub ca: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
    /// As it stands in the certificate.
    pub uri: String,
}

pub fn pem(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

impl Target {
    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A TCP connection from another address of this machine than the system under test uses.
    pub async fn tcp(&self, from: u8) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::from([127, 0, 0, from]), 0))?;
        socket.connect(self.address()).await
    }

    pub async fn tls(&self, from: u8, shown: Option<&Identity>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key, .. }) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a certificate")
            }
        };
        config.alpn_protocols.push(b"h2".to_vec());
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, self.tcp(from).await?).await
    }

    /// HTTP/2 whose connection is driven until it ends.
    pub async fn h2(&self, from: u8, shown: Option<&Identity>) -> Option<SendRequest<Bytes>> {
        let tls = self.tls(from, shown).await.ok()?;
        let (send, connection) = h2::client::handshake(tls).await.ok()?;
        tokio::spawn(connection);
        Some(send)
    }

    pub async fn channel(&self, shown: Option<&Identity>) -> Result<Channel, tonic::transport::Error> {
        self.channel_for(shown, Duration::from_secs(20)).await
    }

    /// A channel whose calls may last for `patience`.
    pub async fn channel_for(
        &self,
        shown: Option<&Identity>,
        patience: Duration,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        if let Some(Identity { certificate, key, .. }) = shown {
            tls = tls.identity(tonic::transport::Identity::from_pem(certificate, key));
        }
        let address = format!("https://localhost:{}", self.port);
        Endpoint::from_shared(address)?.tls_config(tls)?.timeout(patience).connect().await
    }

    /// Trades a token for an identity.
    pub async fn join(&self, token: &str, name: &str) -> Result<Identity, tonic::Status> {
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::new(Vec::new()).expect("no names").serialize_request(&key);
        let request = JoinRequest {
            token: token.to_owned(),
            certificate_request: request.expect("a request").der().to_vec().into(),
            name: name.to_owned(),
            ..JoinRequest::default()
        };
        let channel = self.channel(None).await.expect("it answers");
        let answer = EnrolmentClient::new(channel).join(request).await?.into_inner();
        let repository = repository::ids::hex(&answer.repository_id);
        let uri = format!("spiffe://{repository}/agent/{}", answer.agent_id);
        Ok(Identity { certificate: pem(&answer.certificate), key: key.serialize_pem(), uri })
    }
}

/// The target that a token is for.
pub fn target(port: u16, token: &str) -> Target {
    let token = JoinToken::parse(token).expect("a token");
    Target { port, ca: pem(token.ca_certificate()) }
}

/// Certificates that somebody who holds an authority's key could make.
pub struct Forger {
    issuer: Issuer<'static, KeyPair>,
}

impl Forger {
    /// With the authority of the controller with this state folder.
    pub fn with_key_of(state: &Path) -> Self {
        let read = |name| std::fs::read_to_string(state.join(name)).expect("read");
        let key = KeyPair::from_pem(&read("ca.key")).expect("a key");
        Self { issuer: Issuer::from_ca_cert_pem(&read("ca.crt"), key).expect("an authority") }
    }

    /// A client's certificate with this URI, valid up to the end of `year`.
    pub fn certificate(&self, uri: &str, year: i32, usage: ExtendedKeyUsagePurpose) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "forged");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Identity { certificate: certificate.pem(), key: key.serialize_pem(), uri: uri.to_owned() }
    }
}

/// Begins and takes back `count` calls as fast as it can, over as many connections as it takes: how many
/// connections. The frames are written by hand, since a decent client never sends a call that it has taken
/// back already.
pub async fn resets(target: Target, shown: Option<Identity>, count: u32) -> usize {
    const AT_ONCE: u32 = 100;
    let (mut sent, mut connections) = (0, 0);
    let path = if shown.is_some() { PUT } else { JOIN }.trim_start_matches("https://localhost");
    let until = Instant::now() + Duration::from_secs(240);
    while sent < count {
        assert!(Instant::now() < until, "{sent} resets in time");
        let Ok(tls) = target.tls(66, shown.as_ref()).await else {
            // Turned away: there is a limit of connections.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        connections += 1;
        let (mut answers, mut words) = tokio::io::split(tls);
        let mut bytes = PREFACE.to_vec();
        let mut stream = 1;
        let flood = async {
            while sent < count {
                for _ in 0..AT_ONCE {
                    call_and_reset(&mut bytes, stream, path);
                    stream += 2;
                }
                if words.write_all(&bytes).await.is_err() || words.flush().await.is_err() {
                    return;
                }
                bytes.clear();
                sent += AT_ONCE;
            }
        };
        let mut rest = Vec::new();
        tokio::select! { () = flood => {}, _ = answers.read_to_end(&mut rest) => {} }
        if connections == 1 && sent >= count {
            // All of them fitted into what the kernel holds for one connection: it ends all the same.
            let end = tokio::time::timeout(Duration::from_secs(40), answers.read_to_end(&mut rest)).await;
            assert!(end.is_ok(), "a connection that resets and resets is ended");
        }
    }
    connections
}

/// HEADERS that begin a call, and RST_STREAM that takes it back.
fn call_and_reset(bytes: &mut Vec<u8>, stream: u32, path: &str) {
    // HPACK: method POST, scheme https, path and authority as literals.
    let mut headers = vec![0x83, 0x87, 0x04, path.len() as u8];
    headers.extend_from_slice(path.as_bytes());
    headers.extend_from_slice(b"\x01\x09localhost");
    bytes.extend_from_slice(&[0, 0, headers.len() as u8, 1, 4]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&headers);
    bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 8]);
}

/// Sends frames of HTTP/2 that ask for an answer each, and never reads one: whether the connection ended.
async fn frames(target: Target, kind: u8, length: u8, count: usize) -> bool {
    let mut tls = target.tls(67, None).await.expect("TLS");
    let mut bytes = PREFACE.to_vec();
    let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
    frame.resize(9 + usize::from(length), 0);
    (0..count).for_each(|_| bytes.extend_from_slice(&frame));
    let written = tokio::time::timeout(Duration::from_secs(40), async {
        tls.write_all(&bytes).await?;
        // What was not refused so far is read to its end: the connection has no call.
        let mut end = Vec::new();
        tls.read_to_end(&mut end).await
    });
    written.await.is_ok()
}

pub async fn pings(target: Target, count: usize) {
    assert!(frames(target, PING, 8, count).await, "a flood of pings ends");
}

pub async fn settings(target: Target, count: usize) {
    assert!(frames(target, SETTINGS, 0, count).await, "a flood of settings ends");
}

/// Bytes that are no TLS: the connection ends at once.
pub async fn no_tls(target: Target, bytes: &[u8]) {
    let mut tcp = target.tcp(68).await.expect("accepted");
    tcp.write_all(bytes).await.expect("written");
    ends_within(tcp, 15, "what is no TLS").await;
}

/// A connection on which nothing comes ends.
pub async fn ends_within(mut stream: impl tokio::io::AsyncRead + Unpin, seconds: u64, what: &str) {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(seconds), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "{what} is ended within {seconds} s");
}

/// Takes many connections and says nothing on them: all of them end.
pub async fn silent(target: Target, count: usize) {
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..count {
        let tcp = target.tcp(69).await.expect("the kernel accepts");
        waiting.spawn(ends_within(tcp, 25, "a connection without a handshake"));
    }
    while let Some(ended) = waiting.join_next().await {
        ended.expect("it ends");
    }
}

/// Shakes hands and does nothing more.
pub async fn idle(target: Target) {
    let mut tls = target.tls(70, None).await.expect("TLS");
    tls.write_all(PREFACE).await.expect("written");
    ends_within(tls, 30, "a connection without a call").await;
}

/// A request that comes a byte a second, for ever.
pub async fn trickle(target: Target) {
    let mut send = target.h2(71, None).await.expect("HTTP/2").ready().await.expect("ready");
    let request = http::Request::post(JOIN).header("content-type", "application/grpc");
    let (answer, mut stream) = send.send_request(request.body(()).expect("a request"), false).expect("sent");
    let drip = async {
        loop {
            if stream.send_data(Bytes::from_static(&[0]), false).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let refused = async {
        let _ = answer.await;
    };
    let both = async {
        tokio::select! { () = drip => {}, () = refused => {} }
    };
    let ended = tokio::time::timeout(Duration::from_secs(40), both).await;
    assert!(ended.is_ok(), "a request that never ends is ended");
}

/// A message longer than any may be: refused before it is read.
pub async fn oversized(target: Target) {
    let request = JoinRequest { token: "x".repeat(4 << 20), ..JoinRequest::default() };
    let channel = target.channel(None).await.expect("it answers");
    let refused = EnrolmentClient::new(channel).join(request).await;
    assert!(refused.is_err());
    let mut send = target.h2(72, None).await.expect("HTTP/2").ready().await.expect("ready");
    let request = http::Request::post(JOIN).header("x-much", "x".repeat(200 << 10));
    if let Ok((answer, _)) = send.send_request(request.body(()).expect("a request"), true) {
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("answered in time");
        assert!(answer.map_or(true, |answer| answer.status() == 431), "its headers are too long");
    }
}

/// An upload of nothing that never ends, by an agent that has a certificate.
pub async fn endless_upload(target: Target, shown: Identity, seconds: u64) {
    let mut send = target.h2(73, Some(&shown)).await.expect("HTTP/2").ready().await.expect("ready");
    let request =
        http::Request::post(PUT).header("content-type", "application/grpc").header("te", "trailers");
    let (answer, mut stream) = send.send_request(request.body(()).expect("a request"), false).expect("sent");
    let empty = Bytes::from_static(&[0; 5]);
    let drip = async {
        while stream.send_data(empty.clone(), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let refused = async {
        let _ = answer.await;
    };
    let both = async {
        tokio::select! { () = drip => {}, () = refused => {} }
    };
    let ended = tokio::time::timeout(Duration::from_secs(seconds), both).await;
    assert!(ended.is_ok(), "an upload of nothing is ended within {seconds} s");
}
