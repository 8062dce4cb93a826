//! A controller that does what a test tells it: an authority, a listener with TLS, and sessions whose
//! messages the test reads and writes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::config::{AgentConfig, SourceConfig};
use proto::token::JoinToken;
use proto::v1::agent_gateway_server::{AgentGateway, AgentGatewayServer};
use proto::v1::agent_message::Message as Up;
use proto::v1::controller_message::Message as Down;
use proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use proto::v1::{self, AgentMessage, ControllerMessage};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use runtime::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// How long a test waits for what has to come; on a loaded machine, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const REPOSITORY: [u8; 16] = [5; 16];
pub(crate) const KEY: [u8; 32] = [6; 32];

/// The controller.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) sessions: mpsc::Receiver<Session>,
    /// `ListBlobs` calls; each stays unanswered until its agent gives up.
    pub(crate) listings: mpsc::Receiver<Listing>,
    pub(crate) renewals: mpsc::Receiver<()>,
    state: Arc<State>,
}

/// A `ListBlobs` call that is not answered.
pub(crate) struct Listing(pub(crate) mpsc::Sender<Result<v1::BlobTables, Status>>);

/// One control stream.
pub(crate) struct Session {
    /// What the agent showed; DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) up: Streaming<AgentMessage>,
    pub(crate) down: mpsc::Sender<Result<ControllerMessage, Status>>,
}

struct State {
    ca: Issuer<'static, KeyPair>,
    ca_der: Vec<u8>,
    ca_pem: String,
    secret: [u8; 32],
    sessions: mpsc::Sender<Session>,
    listings: mpsc::Sender<Listing>,
    renewals: mpsc::Sender<()>,
    /// While it is held, renewals are not answered.
    answers_renewals: Arc<tokio::sync::Mutex<()>>,
    /// How long the certificates live from now on, in seconds; they began two hours ago.
    life: Mutex<i64>,
    refuses: Mutex<Option<Status>>,
}

impl Fake {
    /// A controller that does not listen yet, at an address that is free.
    pub(crate) async fn new() -> Self {
        runtime::tls::install_crypto_provider();
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("an address");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let (sessions_in, sessions) = mpsc::channel(8);
        let (listings_in, listings) = mpsc::channel(8);
        let (renewals_in, renewals) = mpsc::channel(8);
        let state = State {
            ca_der: certificate.der().to_vec(),
            ca_pem: certificate.pem(),
            ca: Issuer::new(params, key),
            secret: [9; 32],
            sessions: sessions_in,
            listings: listings_in,
            renewals: renewals_in,
            answers_renewals: Arc::default(),
            life: Mutex::new(86_400),
            refuses: Mutex::new(None),
        };
        Self { address, sessions, listings, renewals, state: Arc::new(state) }
    }

    /// Begins to listen.
    pub(crate) async fn listen(&self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.state.ca).expect("signed");
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate.pem(), key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(&self.state.ca_pem))
            .client_auth_optional(true);
        let server = Server::builder()
            .tls_config(tls)
            .expect("sound certificates")
            .add_service(EnrolmentServer::from_arc(self.state.clone()))
            .add_service(AgentGatewayServer::from_arc(self.state.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }

    pub(crate) async fn listening() -> Self {
        let fake = Self::new().await;
        fake.listen().await;
        fake
    }

    pub(crate) fn token(&self) -> String {
        JoinToken::new(self.state.secret, self.state.ca_der.clone()).to_text().to_string()
    }

    /// From now on certificates end so many seconds from now.
    pub(crate) fn certificates_live(&self, seconds: i64) {
        *self.state.life.lock().expect("locks") = seconds;
    }

    /// Renewals are not answered for as long as what is returned lives.
    pub(crate) async fn hold_renewals(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.state.answers_renewals).lock_owned().await
    }

    /// From now on control streams are refused.
    pub(crate) fn refuse(&self, status: Status) {
        *self.state.refuses.lock().expect("locks") = Some(status);
    }

    /// The next control stream, after its Hello.
    pub(crate) async fn hello(&mut self) -> (v1::Hello, Session) {
        let mut session = within(self.sessions.recv()).await.expect("the fake lives");
        match session.next().await {
            Some(Up::Hello(hello)) => (hello, session),
            other => panic!("not a Hello: {other:?}"),
        }
    }

    /// The next control stream, after its Hello and our Welcome.
    pub(crate) async fn welcome(&mut self) -> Session {
        let (_, session) = self.hello().await;
        session.send(Down::Welcome(welcome())).await;
        session
    }
}

pub(crate) fn welcome() -> v1::Welcome {
    v1::Welcome {
        controller_version: "0".into(),
        heartbeat_seconds: 1,
        repository_key: Some(repository_key()),
        repository_id: REPOSITORY.to_vec().into(),
    }
}

pub(crate) fn repository_key() -> v1::RepositoryKey {
    v1::RepositoryKey { epoch: 1, public_key: KEY.to_vec().into() }
}

impl Session {
    pub(crate) async fn send(&self, message: Down) {
        self.down.send(Ok(ControllerMessage { message: Some(message) })).await.expect("the agent listens");
    }

    /// The next message; `None` when the agent has gone.
    pub(crate) async fn next(&mut self) -> Option<Up> {
        within(self.up.message()).await.ok().flatten().and_then(|message| message.message)
    }

    /// The next message that is no heartbeat and no progress.
    pub(crate) async fn result(&mut self) -> Option<Up> {
        loop {
            match self.next().await {
                Some(Up::Heartbeat(_) | Up::Progress(_)) => {}
                other => return other,
            }
        }
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes in time")
}

/// An agent on threads of this process.
pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    pub(crate) ended: JoinHandle<Result<(), agent::RunError>>,
}

/// Starts an agent that serves the folder `data` as models/models.
pub(crate) fn start(fake: &Fake, state: &Path, data: &Path, token: Option<String>) -> Running {
    let config = AgentConfig {
        name: "tester".into(),
        controller: format!("https://{}", fake.address),
        state: state.to_owned(),
        sources: vec![SourceConfig {
            component: "models".into(),
            name: "models".into(),
            kind: agent::config::Kind::Files,
            data: agent::config::SourceData::Folder { path: data.to_owned() },
            exclude: Vec::new(),
            exclude_caches: false,
            one_file_system: true,
            profile: Default::default(),
            quiesce: Vec::new(),
            imports: None,
            fsync_lock: None,
            limits: Default::default(),
            window: None,
            hooks: Default::default(),
        }],
        ..AgentConfig::default()
    };
    let config = AgentConfig { join: join(token), ..config };
    let shutdown = Shutdown::new();
    Running { ended: tokio::spawn(agent::run(config, shutdown.clone())), shutdown }
}

fn join(token: Option<String>) -> agent::config::Join {
    agent::config::Join { token: token.map(runtime::config::Secret::new), ..Default::default() }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.request();
        within(self.ended).await.expect("no panic").expect("it had started");
    }
}

impl State {
    fn answer(&self, request: &[u8]) -> v1::JoinResponse {
        let request = CertificateSigningRequestParams::from_der(&request.to_vec().into());
        let mut request = request.expect("a signed request");
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64;
        let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds as u64);
        request.params.not_before = at(now - 7_200);
        request.params.not_after = at(now + *self.life.lock().expect("locks"));
        let certificate = request.signed_by(&self.ca).expect("signed");
        v1::JoinResponse {
            agent_id: "a-1".into(),
            certificate: certificate.der().to_vec().into(),
            ca_certificate: self.ca_der.clone().into(),
            repository_id: REPOSITORY.to_vec().into(),
            repository_key: Some(repository_key()),
        }
    }
}

#[tonic::async_trait]
impl Enrolment for State {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        let token = JoinToken::parse(&request.token).expect("a token");
        if *token.secret() != self.secret || request.name != "tester" {
            return Err(Status::permission_denied("not ours"));
        }
        Ok(Response::new(self.answer(&request.certificate_request)))
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl AgentGateway for State {
    type ControlStream = Answers<ControllerMessage>;
    type ListBlobsStream = Answers<v1::BlobTables>;
    type OpenArchiveStream = Answers<v1::OpenedSegment>;
    type FetchBlobsStream = Answers<v1::FetchedBlob>;

    async fn control(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let shown = request.peer_certs().and_then(|certificates| certificates.first().cloned());
        let shown = shown.ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let refused = self.refuses.lock().expect("locks").clone();
        let (down, outgoing) = mpsc::channel(8);
        let session = Session { certificate: shown.to_vec(), up: request.into_inner(), down };
        self.sessions.send(session).await.expect("the test listens");
        refused.map_or_else(|| Ok(Response::new(ReceiverStream::new(outgoing))), Err)
    }

    async fn list_blobs(
        &self,
        _: Request<v1::ListBlobsRequest>,
    ) -> Result<Response<Self::ListBlobsStream>, Status> {
        let (tables, outgoing) = mpsc::channel(1);
        self.listings.send(Listing(tables)).await.expect("the test listens");
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        self.renewals.send(()).await.expect("the test listens");
        let _turn = self.answers_renewals.lock().await;
        Ok(Response::new(self.answer(&request.into_inner().certificate_request)))
    }

    async fn put_segment(
        &self,
        _: Request<Streaming<v1::PutSegmentRequest>>,
    ) -> Result<Response<v1::PutSegmentResponse>, Status> {
        Err(Status::unimplemented("not by this fake"))
    }

    async fn finish_archive(
        &self,
        _: Request<Streaming<v1::FinishArchiveRequest>>,
    ) -> Result<Response<v1::FinishArchiveResponse>, Status> {
        Err(Status::unimplemented("not by this fake"))
    }

    async fn open_archive(
        &self,
        _: Request<v1::OpenArchiveRequest>,
    ) -> Result<Response<Self::OpenArchiveStream>, Status> {
        Err(Status::unimplemented("not by this fake"))
    }

    async fn fetch_blobs(
        &self,
        _: Request<Streaming<v1::FetchBlobsRequest>>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        Err(Status::unimplemented("not by this fake"))
    }
}
