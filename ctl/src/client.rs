//! The connection to the controller.
//!
//! Must stay true: every call has a deadline, but those that stream for as long as a job runs; whatever
//! keeps a connection from being made is told with what to do.

use std::io;
use std::time::Duration;

use proto::api_token::ApiToken;
use proto::v1::agents_client::AgentsClient;
use proto::v1::alerts_client::AlertsClient;
use proto::v1::audit_client::AuditClient;
use proto::v1::backups_client::BackupsClient;
use proto::v1::health_client::HealthClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::retention_client::RetentionClient;
use proto::v1::schedules_client::SchedulesClient;
use proto::v1::signers_client::SignersClient;
use proto::v1::tokens_client::TokensClient;
use rustls::CertificateError;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::access::Access;
use crate::output::exit::{Exit, Trouble};

/// Longest time for one answer. Planning a restore asks the agents, which may have to walk a folder.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
/// The controller's frames; see docs/architecture.md.
const WINDOW_BYTES: u32 = 4 << 20;
/// The largest message that is taken: a list of backups with everything about them.
const MAX_MESSAGE: usize = 64 << 20;

/// A controller that answered.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    wire: Wire,
}

/// A connection, and what every call over it shows.
type Wire = InterceptedService<Channel, Shown>;

/// The token that each call shows, where there is one.
#[derive(Debug, Clone)]
pub(crate) struct Shown(Option<MetadataValue<Ascii>>);

impl Shown {
    fn token(token: &ApiToken) -> Self {
        let text = format!("Bearer {}", *token.bearer());
        let mut value = MetadataValue::try_from(text).expect("a token is ASCII");
        // Not shown by Debug, not kept in header tables.
        value.set_sensitive(true);
        Self(Some(value))
    }
}

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// Connects to a controller.
    pub(crate) async fn connect(access: &Access) -> Result<Self, Trouble> {
        let (channel, shown) = match access {
            Access::Socket { path } => {
                let endpoint = endpoint(&format!("unix://{path}"))?;
                let channel = endpoint.connect().await.map_err(|error| no_socket(path, &error))?;
                (channel, Shown(None))
            }
            Access::Https { url, token, authority } => {
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
                let endpoint = endpoint(url)?
                    .tls_config(tls)
                    .map_err(|error| {
                        Trouble::usage(format!("cannot connect to {url}")).caused_by(&error).hint(
                            "write https://HOST:8443; --ca-file holds the certificate of an authority as PEM",
                        )
                    })?
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE_ANSWER);
                let channel = endpoint.connect().await.map_err(|error| no_tls(url, &error))?;
                (channel, token.as_ref().map_or(Shown(None), Shown::token))
            }
        };
        Ok(Self { wire: InterceptedService::new(channel, shown) })
    }

    /// Connects to the controller behind the socket `server`.
    pub(crate) async fn at_socket(server: &str) -> Result<Self, Trouble> {
        Self::connect(&Access::socket(server)?).await
    }

    pub(crate) fn backups(&self) -> BackupsClient<Wire> {
        BackupsClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn jobs(&self) -> JobsClient<Wire> {
        JobsClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn retention(&self) -> RetentionClient<Wire> {
        RetentionClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn schedules(&self) -> SchedulesClient<Wire> {
        SchedulesClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn agents(&self) -> AgentsClient<Wire> {
        AgentsClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn alerts(&self) -> AlertsClient<Wire> {
        AlertsClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn health(&self) -> HealthClient<Wire> {
        HealthClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// What `grpc.health.v1` says.
    pub(crate) fn readiness(&self) -> tonic_health::pb::health_client::HealthClient<Wire> {
        tonic_health::pb::health_client::HealthClient::new(self.wire.clone())
    }

    pub(crate) fn tokens(&self) -> TokensClient<Wire> {
        TokensClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn signers(&self) -> SignersClient<Wire> {
        SignersClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn audit(&self) -> AuditClient<Wire> {
        AuditClient::new(self.wire.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// A request with the deadline of a single answer.
pub(crate) fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

fn endpoint(address: &str) -> Result<Endpoint, Trouble> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| Trouble::usage(format!("{address} is no address")).caused_by(&error))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_WITHIN)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .user_agent(concat!("nsctl/", env!("CARGO_PKG_VERSION")))
        .expect("the name of this program is a valid header");
    Ok(endpoint)
}

type AnyError = dyn std::error::Error + 'static;

fn no_socket(path: &str, error: &tonic::transport::Error) -> Trouble {
    let trouble = match cause::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => Trouble::new(Exit::Unreachable, "no controller runs here")
            .because(format!("there is no socket {path}"))
            .hint("start one with `nsctl up`, or give the socket of a running one with --server"),
        Some(io::ErrorKind::ConnectionRefused) => {
            Trouble::new(Exit::Unreachable, "the controller does not run")
                .because(format!("nothing listens on {path}; the socket was left behind"))
                .hint("start the controller, e.g. with `nsctl up`, and read its log if it ends again")
        }
        Some(io::ErrorKind::PermissionDenied) => Trouble::new(Exit::Denied, "the controller may not be used")
            .because(format!("you may not open {path}"))
            .hint("run nsctl as the user that the controller runs as, or as root"),
        _ => Trouble::new(Exit::Unreachable, format!("cannot connect to the controller at {path}"))
            .caused_by(error),
    };
    Trouble { details: proto::failure::chain(error), ..trouble }
}

fn no_tls(url: &str, error: &tonic::transport::Error) -> Trouble {
    let cannot = Trouble::new(Exit::Unreachable, format!("cannot connect to the controller at {url}"));
    let trouble = match (cause::<rustls::Error>(error), cause::<io::Error>(error).map(io::Error::kind)) {
        (Some(rustls::Error::InvalidCertificate(why)), _) => of_certificate(url, why),
        (Some(other), _) => cannot
            .because(format!("TLS failed: {other}"))
            .hint("is that the port of the controller's gRPC, 8443 unless configured otherwise?"),
        (None, Some(io::ErrorKind::ConnectionRefused)) => cannot
            .because("nothing listens there")
            .hint("is the controller running, and are address and port right?"),
        _ => cannot.caused_by(error).hint("check the address, the network and the firewall between"),
    };
    Trouble { details: proto::failure::chain(error), ..trouble }
}

/// The controller was there and did not prove who it is: nothing was sent to it.
fn of_certificate(url: &str, why: &CertificateError) -> Trouble {
    let told = |what: &str| Trouble::new(Exit::Unreachable, format!("{url} {what}"));
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            told("is not the controller that the token is for")
                .because("its certificate is of another authority; the token was not sent")
                .hint("check the address; each controller takes the tokens that it made itself")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => told(
            "shows a certificate for other names",
        )
        .because("the name in --server is none of those that the controller was given")
        .hint("use a name that it has, or add this one to `grpc_names` in its configuration and restart it"),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => told("shows a certificate that does not count now")
            .because(why.to_string())
            .hint("check the clocks of both machines; a restart of the controller makes a new certificate"),
        other => told("shows a certificate that cannot be trusted").because(other.to_string()),
    }
}

/// The first error of this type among the causes of `error`, those that an I/O error carries included.
fn cause<T: std::error::Error + 'static>(error: &AnyError) -> Option<&T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match carried {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_controller_that_is_not_there_is_told_from_one_that_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("controller.sock");
        let server = format!("unix://{}", socket.display());
        let missing = Client::at_socket(&server).await.expect_err("there is no socket");
        assert_eq!((missing.exit, missing.what.as_str()), (Exit::Unreachable, "no controller runs here"));

        drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
        let ended = Client::at_socket(&server).await.expect_err("nothing listens");
        assert_eq!((ended.exit, ended.what.as_str()), (Exit::Unreachable, "the controller does not run"));
    }

    #[test]
    fn the_shown_token_is_not_shown_by_debug() {
        let shown = Shown::token(&ApiToken::new([1; 16], [0xab; 32], None));
        assert!(!format!("{shown:?}").contains("abab"));
    }
}
