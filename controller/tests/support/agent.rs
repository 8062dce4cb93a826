//! The agent's side of the wire, by hand.

use std::net::SocketAddr;

use proto::token::JoinToken;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::v1::agent_message::Message as Up;
use proto::v1::controller_message::Message as Down;
use proto::v1::enrolment_client::EnrolmentClient;
use proto::v1::finish_archive_request::Part;
use proto::v1::{
    AgentMessage, ArchiveSummary, ControllerMessage, FinishArchiveRequest, FinishArchiveResponse, Hello,
    JoinRequest, JoinResponse, PutSegmentRequest, ServedSource, StartArchive,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};

use super::PATIENCE;
use super::archive::{Files, seal};

/// What an agent keeps after its join.
#[derive(Clone)]
pub struct Joined {
    pub id: String,
    pub key: String,
    pub certificate: String,
    pub ca: String,
    /// Of its process.
    pub instance: [u8; 16],
}

pub struct Agent {
    pub gateway: AgentGatewayClient<Channel>,
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<ControllerMessage>,
}

pub fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let value =
            three.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * at) & 63) as usize] as char;
            text.push(if at > three.len() { '=' } else { digit });
        }
    }
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

pub async fn channel(address: SocketAddr, ca: &str, identity: Option<(&str, &str)>) -> Channel {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint =
        Endpoint::from_shared(format!("https://localhost:{}", address.port())).expect("an address");
    endpoint.tls_config(tls).expect("TLS").connect().await.expect("the controller answers")
}

pub fn certificate_request(key: &KeyPair) -> Vec<u8> {
    let params = CertificateParams::new(Vec::new()).expect("no names");
    params.serialize_request(key).expect("a request").der().to_vec()
}

/// Trades the token for a certificate.
pub async fn join(address: SocketAddr, token: &JoinToken, name: &str) -> Result<Joined, Status> {
    let key = KeyPair::generate().expect("a key");
    let ca = pem(token.ca_certificate());
    let request = JoinRequest {
        token: token.to_text().to_string(),
        certificate_request: certificate_request(&key).into(),
        name: name.to_owned(),
        ..JoinRequest::default()
    };
    let answer: JoinResponse =
        EnrolmentClient::new(channel(address, &ca, None).await).join(request).await?.into_inner();
    let certificate = pem(&answer.certificate);
    Ok(Joined { id: answer.agent_id, key: key.serialize_pem(), certificate, ca, instance: [0; 16] })
}

impl Joined {
    pub async fn gateway(&self, address: SocketAddr) -> AgentGatewayClient<Channel> {
        let channel = channel(address, &self.ca, Some((&self.certificate, &self.key))).await;
        AgentGatewayClient::new(channel).max_decoding_message_size(80 << 20)
    }

    /// Says Hello and is welcomed.
    pub async fn connect(&self, address: SocketAddr, sources: &[&str]) -> Result<Agent, Status> {
        let mut gateway = self.gateway(address).await;
        let (up, messages) = mpsc::channel(16);
        let served = |source: &&str| ServedSource {
            source: Some(proto::convert::to_wire_source(&source.parse().expect("a source"))),
            kind: (if source.starts_with("blockchain/") { "blockchain" } else { "files" }).into(),
            location: "/somewhere".into(),
        };
        let hello = Hello {
            version: "test".into(),
            protocol: 1,
            host: "test-host".into(),
            sources: sources.iter().map(served).collect(),
            instance: self.instance.to_vec().into(),
            opens: Vec::new(),
        };
        up.try_send(AgentMessage { message: Some(Up::Hello(hello)) }).expect("room");
        let down = gateway.control(ReceiverStream::new(messages)).await?.into_inner();
        let mut agent = Agent { gateway, up, down };
        let welcome = agent.next().await;
        assert!(matches!(welcome, Some(Down::Welcome(_))), "{welcome:?}");
        Ok(agent)
    }
}

impl Agent {
    /// The next message down; `None` once the stream has ended, with or without an error.
    pub async fn next(&mut self) -> Option<Down> {
        let next =
            tokio::time::timeout(PATIENCE, self.down.message()).await.expect("the controller says something");
        next.ok().flatten().and_then(|message| message.message)
    }

    pub async fn say(&self, message: Up) {
        self.up.send(AgentMessage { message: Some(message) }).await.expect("the stream is open");
    }

    pub async fn expect_archive(&mut self) -> StartArchive {
        match self.next().await {
            Some(Down::StartArchive(order)) => order,
            other => panic!("expected an order for an archive, not {other:?}"),
        }
    }

    /// Seals these files as the order says and sends everything.
    pub async fn make_archive(
        &mut self,
        repository: &[u8],
        order: &StartArchive,
        files: &Files,
    ) -> FinishArchiveResponse {
        let sealed = seal(repository, order, files);
        for segment in &sealed.segments {
            let bytes = [segment.head.to_vec(), segment.body.to_vec()].concat();
            let existed = self.put(&order.task_id, segment.id().as_bytes(), &bytes).await.expect("taken in");
            assert!(!existed);
        }
        let summary = ArchiveSummary { task_id: order.task_id.clone(), ..sealed.summary };
        self.finish(summary, sealed.refs).await.expect("answered")
    }

    pub async fn put(&mut self, task: &str, segment: &[u8], bytes: &[u8]) -> Result<bool, Status> {
        let mut messages = vec![PutSegmentRequest {
            task_id: task.to_owned(),
            segment_id: segment.to_vec().into(),
            length: bytes.len() as u64,
            ..PutSegmentRequest::default()
        }];
        messages.extend(
            bytes
                .chunks(1_000)
                .map(|data| PutSegmentRequest { data: data.to_vec().into(), ..Default::default() }),
        );
        Ok(self.gateway.put_segment(tokio_stream::iter(messages)).await?.into_inner().existed)
    }

    pub async fn finish(
        &mut self,
        summary: ArchiveSummary,
        refs: Vec<u8>,
    ) -> Result<FinishArchiveResponse, Status> {
        let parts = [Part::Summary(summary), Part::Refs(refs.into())];
        let messages = parts.map(|part| FinishArchiveRequest { part: Some(part) });
        Ok(self.gateway.finish_archive(tokio_stream::iter(messages)).await?.into_inner())
    }
}
