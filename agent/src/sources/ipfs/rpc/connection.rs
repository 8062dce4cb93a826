//! The connections to a node: those that are kept for the next request, and new ones.
//!
//! Must stay true: a secret goes without TLS to no address that everybody can reach.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Body, Rpc, Trouble};
use crate::sources::ipfs::plain::{Reach, reach};
use crate::sources::ipfs::tls;

/// How long the node may be looked for.
const FIND: Duration = Duration::from_secs(10);
/// Connections that are kept for the next request.
const IDLE: usize = 16;

impl Rpc {
    pub(super) fn pooled(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    pub(super) fn keep(&self, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }

    pub(super) async fn connect(&self) -> Result<SendRequest<Body>, Trouble> {
        let nobody = "nothing answers at its address";
        let connected = timeout(FIND, TcpStream::connect(&self.authority)).await;
        let stream = connected.map_err(|_| Trouble::lost(nobody))?.map_err(|_| Trouble::lost(nobody))?;
        // What waits for an answer is small.
        let _ = stream.set_nodelay(true);
        if !self.address.is_secure() {
            self.may_see_secret(&stream)?;
            return self.shaken(stream).await;
        }
        let secured = timeout(FIND, tls::secure(&self.address, &self.authority, stream)).await;
        self.shaken(secured.map_err(|_| Trouble::lost(nobody))?.map_err(|why| Trouble::lost(&why))?).await
    }

    /// Whether a secret may go there without TLS, if there is one.
    fn may_see_secret(&self, stream: &TcpStream) -> Result<(), Trouble> {
        if !matches!(self.authorization, Ok(Some(_))) {
            return Ok(());
        }
        let address = stream.peer_addr().map_err(|_| Trouble::lost("nothing answers at its address"))?.ip();
        match reach(address) {
            Reach::Own => Ok(()),
            Reach::Private => {
                if !self.is_warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        rpc = %self.address.rpc,
                        "`rpc_auth` goes over the network without TLS: whoever listens there has it; use https://"
                    );
                }
                Ok(())
            }
            Reach::Public => {
                let why = format!(
                    "`rpc_auth` would go without TLS to {address}, an address that is not of a private network: use \
                     https:// in `rpc`"
                );
                Err(Trouble::not_allowed(why))
            }
        }
    }

    async fn shaken(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Body>, Trouble> {
        let nobody = "nothing answers at its address";
        let shaken = timeout(FIND, hyper::client::conn::http1::handshake(TokioIo::new(stream))).await;
        let (sender, connection) =
            shaken.map_err(|_| Trouble::lost(nobody))?.map_err(|_| Trouble::lost(nobody))?;
        self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an IPFS node ended");
            }
        });
        Ok(sender)
    }
}
