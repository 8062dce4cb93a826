//! The two gRPC servers: TCP with TLS, and a Unix socket for people on this machine.
//!
//! Must stay true: every limit of a connection stands here; both serve the same services, and nothing but
//! through the gate.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::v1::agent_gateway_server::AgentGatewayServer;
use proto::v1::agents_server::AgentsServer;
use proto::v1::alerts_server::AlertsServer;
use proto::v1::audit_server::AuditServer;
use proto::v1::backups_server::BackupsServer;
use proto::v1::configuration_server::ConfigurationServer;
use proto::v1::enrolment_server::EnrolmentServer;
use proto::v1::health_server::HealthServer;
use proto::v1::jobs_server::JobsServer;
use proto::v1::retention_server::RetentionServer;
use proto::v1::schedules_server::SchedulesServer;
use proto::v1::signers_server::SignersServer;
use proto::v1::tokens_server::TokensServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::app::App;
use crate::rpc::agents::AgentsService;
use crate::rpc::alerts::AlertsService;
use crate::rpc::audit::AuditService;
use crate::rpc::backups::BackupsService;
use crate::rpc::book::{Book, Limits};
use crate::rpc::configuration::ConfigurationService;
use crate::rpc::counted::CountedLayer;
use crate::rpc::door;
use crate::rpc::enrolment::EnrolmentService;
use crate::rpc::gate::GateLayer;
use crate::rpc::gateway::GatewayService;
use crate::rpc::health::{self, HealthService};
use crate::rpc::jobs::JobsService;
use crate::rpc::retention::RetentionService;
use crate::rpc::schedules::SchedulesService;
use crate::rpc::signers::SignersService;
use crate::rpc::tokens::TokensService;

const FRAME: u32 = 1 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const MAX_STREAMS: u32 = 128;
const CALLS_PER_CONNECTION: usize = 64;
/// Of messages that come in. Agents send segments and refs in pieces of half a MiB.
const MAX_MESSAGE: usize = 2 << 20;
/// Of messages that go out: a sealed blob, or the keys and lines of one segment.
const MAX_ANSWER: usize = 80 << 20;
const HEADERS: u32 = 64 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Of the messages of those who are not known yet: a join token and a certificate request.
const MAX_JOIN: usize = 64 << 10;
/// Calls that a peer has begun and taken back before they were looked at; with more, its connection ends.
const MAX_RESETS_WAITING: usize = 16;
/// Calls that were reset because of the peer's own faults; with more, its connection ends.
const MAX_FAULTS: usize = 64;
/// Connections that are still open after a stop are left this long to end by themselves.
const GOODBYE: Duration = Duration::from_secs(3);

/// A server cannot be set up, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address or the socket cannot be listened at.
    #[error("cannot listen at {place}")]
    Listen {
        /// Where.
        place: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another controller listens at the socket.
    #[error("another controller listens at {socket}")]
    Taken {
        /// Which socket.
        socket: PathBuf,
    },
    /// gRPC or TLS failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors for reflection cannot be read.
    #[error("the gRPC reflection service cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

fn builder() -> Server {
    Server::builder()
        .max_frame_size(FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_ANSWER))
        .http2_max_header_list_size(HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS_WAITING))
        .http2_max_local_error_reset_streams(Some(MAX_FAULTS))
}

/// Every service there is.
async fn services(app: &App) -> Result<Routes, ServeError> {
    let gateway = AgentGatewayServer::new(GatewayService::new(app.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_ANSWER);
    let enrolment = EnrolmentService { app: app.clone() };
    let enrolment = EnrolmentServer::new(enrolment).max_decoding_message_size(MAX_JOIN);
    let backups = BackupsServer::new(BackupsService { app: app.clone() });
    let jobs = JobsServer::new(JobsService { app: app.clone() });
    let retention = RetentionServer::new(RetentionService { app: app.clone() });
    let schedules = SchedulesServer::new(SchedulesService { app: app.clone() });
    let agents = AgentsServer::new(AgentsService { app: app.clone() });
    let alerts = AlertsServer::new(AlertsService { app: app.clone() });
    let configuration = ConfigurationServer::new(ConfigurationService { app: app.clone() });
    let examination = HealthServer::new(HealthService { app: app.clone() });
    let tokens = TokensServer::new(TokensService { app: app.clone() });
    let signers = SignersServer::new(SignersService { app: app.clone() });
    let audit = AuditServer::new(AuditService { app: app.clone() });
    let (reporter, health) = tonic_health::server::health_reporter();
    app.shutdown.spawn("health of gRPC", health::report(app.clone(), reporter));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(Routes::new(gateway)
        .add_service(enrolment)
        .add_service(backups.max_decoding_message_size(MAX_MESSAGE))
        .add_service(jobs.max_decoding_message_size(MAX_MESSAGE))
        .add_service(retention.max_decoding_message_size(MAX_MESSAGE))
        .add_service(schedules.max_decoding_message_size(MAX_MESSAGE))
        .add_service(agents.max_decoding_message_size(MAX_MESSAGE))
        .add_service(alerts.max_decoding_message_size(MAX_MESSAGE))
        .add_service(configuration.max_decoding_message_size(MAX_MESSAGE))
        .add_service(examination.max_decoding_message_size(MAX_MESSAGE))
        .add_service(tokens.max_decoding_message_size(MAX_MESSAGE))
        .add_service(signers.max_decoding_message_size(MAX_MESSAGE))
        .add_service(audit.max_decoding_message_size(MAX_MESSAGE))
        .add_service(health)
        .add_service(reflection))
}

/// gRPC with TLS, for agents by certificate and for people and automation by token.
pub struct AgentServer {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl AgentServer {
    /// Listens at `address` with this TLS.
    pub async fn bind(address: SocketAddr, tls: rustls::ServerConfig) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { place: address.to_string(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Self { listener, tls: TlsAcceptor::from(Arc::new(tls)) })
    }

    /// The address that it listens at.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn serve(self, app: App, stop: CancellationToken) -> Result<(), ServeError> {
        let routes = services(&app).await?;
        let book = Book::new(Limits::USUAL);
        let incoming = door::open(self.listener, self.tls, book.clone(), app.metrics.clone(), stop.clone());
        let server = builder().layer(CountedLayer(book)).layer(GateLayer::new(app)).add_routes(routes);
        until(stop.clone(), server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned())).await
    }
}

/// gRPC on a Unix socket, for people on this machine.
pub struct PeopleServer {
    listener: UnixListener,
    socket: PathBuf,
}

impl PeopleServer {
    /// Listens at `socket`, which only its owner may use. A socket that a dead controller left is replaced.
    pub async fn bind(socket: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { place: socket.display().to_string(), source };
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        match std::fs::symlink_metadata(socket) {
            Ok(there) if there.file_type().is_socket() => {
                if tokio::net::UnixStream::connect(socket).await.is_ok() {
                    return Err(ServeError::Taken { socket: socket.to_owned() });
                }
                std::fs::remove_file(socket).map_err(failed)?;
            }
            Ok(_) => return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(socket).map_err(failed)?;
        // Until this line the umask decides; every call is checked by its peer's user all the same.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, socket: socket.to_owned() })
    }

    /// Serves until `stop`, then removes the socket.
    pub async fn serve(self, app: App, stop: CancellationToken) -> Result<(), ServeError> {
        let routes = services(&app).await?;
        let incoming = UnixListenerStream::new(self.listener);
        let server = builder().layer(GateLayer::new(app)).add_routes(routes);
        let served =
            until(stop.clone(), server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned())).await;
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::warn!(socket = %self.socket.display(), %error, "the socket was not removed");
        }
        served
    }
}

/// Waits for a server that was told to stop, for as long as is decent.
async fn until(
    stop: CancellationToken,
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
) -> Result<(), ServeError> {
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        () = patience => Ok(()),
    }
}
