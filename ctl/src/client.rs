//! The connection to the controller.
//!
//! Must stay true: every call has a deadline, but those that stream for as long as a job runs; an
//! address that this release cannot use is refused with the reason, before anything is sent.

use std::time::Duration;

use proto::v1::agents_client::AgentsClient;
use proto::v1::backups_client::BackupsClient;
use proto::v1::health_client::HealthClient;
use proto::v1::jobs_client::JobsClient;
use tonic::transport::{Channel, Endpoint};

use crate::output::exit::{Exit, Trouble};

/// Longest time for one answer. Planning a restore asks the agents, which may have to walk a folder.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The controller's frames; see docs/architecture.md.
const WINDOW_BYTES: u32 = 4 << 20;
/// The largest message that is taken: a list of backups with everything about them.
const MAX_MESSAGE: usize = 64 << 20;

/// A controller that answered.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to `server`, e.g. `unix:///run/neurashield/controller.sock`.
    pub(crate) async fn connect(server: &str) -> Result<Self, Trouble> {
        let path = socket_path(server)?;
        let endpoint = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|error| Trouble::usage(format!("{server} is no address")).caused_by(&error))?
            .connect_timeout(CONNECT_WITHIN)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .user_agent(concat!("nsctl/", env!("CARGO_PKG_VERSION")))
            .expect("the name of this program is a valid header");
        let channel = endpoint.connect().await.map_err(|error| unreachable(path, &error))?;
        Ok(Self { channel })
    }

    pub(crate) fn backups(&self) -> BackupsClient<Channel> {
        BackupsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn agents(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// A request with the deadline of a single answer.
pub(crate) fn ask<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

/// An absolute path of a Unix socket.
fn socket_path(server: &str) -> Result<&str, Trouble> {
    if server.starts_with("https:") || server.starts_with("http:") {
        return Err(Trouble::usage(format!("cannot connect to {server}"))
            .because("this release of nsctl speaks to the controller over its Unix socket only; https with tokens follows")
            .hint("run nsctl on the controller's machine with --server unix:///run/neurashield/controller.sock"));
    }
    let path = server.strip_prefix("unix://").or_else(|| server.strip_prefix("unix:")).unwrap_or(server);
    if !path.starts_with('/') {
        return Err(Trouble::usage(format!("{server} is no address of a controller"))
            .hint("give an absolute path: --server unix:///run/neurashield/controller.sock"));
    }
    Ok(path)
}

fn unreachable(path: &str, error: &tonic::transport::Error) -> Trouble {
    let cause = root_cause(error);
    let kind = cause.map(std::io::Error::kind);
    let trouble = match kind {
        Some(std::io::ErrorKind::NotFound) => Trouble::new(Exit::Unreachable, "no controller runs here")
            .because(format!("there is no socket {path}"))
            .hint("start one with `nsctl up`, or give the socket of a running one with --server"),
        Some(std::io::ErrorKind::ConnectionRefused) => {
            Trouble::new(Exit::Unreachable, "the controller does not run")
                .because(format!("nothing listens on {path}; the socket was left behind"))
                .hint("start the controller, e.g. with `nsctl up`, and read its log if it ends again")
        }
        Some(std::io::ErrorKind::PermissionDenied) => {
            Trouble::new(Exit::Denied, "the controller may not be used")
                .because(format!("you may not open {path}"))
                .hint("run nsctl as the user that the controller runs as, or as root")
        }
        _ => Trouble::new(Exit::Unreachable, format!("cannot connect to the controller at {path}"))
            .caused_by(error),
    };
    Trouble { details: proto::failure::chain(error), ..trouble }
}

/// The I/O error at the bottom of `error`, if there is one.
fn root_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absolute_path_of_a_socket_is_taken() {
        assert_eq!(socket_path("unix:///run/x.sock"), Ok("/run/x.sock"));
        assert_eq!(socket_path("unix:/run/x.sock"), Ok("/run/x.sock"));
        assert_eq!(socket_path("/run/x.sock"), Ok("/run/x.sock"));
        for wrong in ["https://backup.example.org:8443", "unix://x.sock", "x.sock", ""] {
            assert_eq!(socket_path(wrong).expect_err(wrong).exit, Exit::Usage);
        }
    }

    #[tokio::test]
    async fn a_controller_that_is_not_there_is_told_from_one_that_ended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("controller.sock");
        let server = format!("unix://{}", socket.display());
        let missing = Client::connect(&server).await.expect_err("there is no socket");
        assert_eq!((missing.exit, missing.what.as_str()), (Exit::Unreachable, "no controller runs here"));

        drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
        let ended = Client::connect(&server).await.expect_err("nothing listens");
        assert_eq!((ended.exit, ended.what.as_str()), (Exit::Unreachable, "the controller does not run"));
    }
}
