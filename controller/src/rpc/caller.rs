//! Who a call comes from: found out once, by [`super::gate`], before any handler sees the call.

use std::net::IpAddr;

use http::Extensions;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};

use crate::audit::{Kind, Who};
use crate::catalog::ApiTokenRecord;
use crate::identity::{AgentCertificate, Role};
use crate::rpc::calls::May;

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// An agent, by the certificate of its connection.
    Agent(Box<AgentCertificate>),
    /// A user of this machine, by the credentials of the socket's other end.
    User(u32),
    /// The holder of an API token.
    Token(Box<ApiTokenRecord>),
    /// Somebody who did not say who they are.
    Nobody,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// The Unix socket, and its user where the system tells it.
    Socket(Option<u32>),
    /// TCP, and the address.
    Network(Option<IpAddr>),
}

/// The address of a browser, in a call that the web page makes for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PagePeer(pub(super) IpAddr);

impl Peer {
    /// The other end of the connection that a call came over.
    pub(super) fn of(extensions: &Extensions) -> Self {
        if let Some(PagePeer(address)) = extensions.get::<PagePeer>() {
            return Self::Network(Some(*address));
        }
        if let Some(socket) = extensions.get::<UdsConnectInfo>() {
            return Self::Socket(socket.peer_cred.map(|peer| peer.uid()));
        }
        let info = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        Self::Network(info.and_then(|info| info.get_ref().remote_addr()).map(|address| address.ip()))
    }
}

impl Caller {
    /// True if it may make such a call.
    pub(super) fn may(&self, may: May) -> bool {
        match may {
            May::Anyone => true,
            May::Agents => matches!(self, Self::Agent(_)),
            May::From(least) => self.role().is_some_and(|role| role >= least),
        }
    }

    /// What people may do; agents have no role.
    pub(super) fn role(&self) -> Option<Role> {
        match self {
            Self::User(_) => Some(Role::Admin),
            Self::Token(token) => Some(token.role),
            Self::Agent(_) | Self::Nobody => None,
        }
    }

    /// For the audit log.
    pub(super) fn who(&self, peer: Peer) -> Who {
        let from = match peer {
            Peer::Network(Some(address)) => address.to_canonical().to_string(),
            Peer::Network(None) => "unknown".to_owned(),
            Peer::Socket(_) => String::new(),
        };
        let (kind, id, name) = match self {
            Self::Agent(agent) => (Kind::Agent, agent.agent.to_string(), agent.name.clone()),
            Self::User(uid) => (Kind::User, uid.to_string(), String::new()),
            Self::Token(token) => (Kind::Token, token.id.to_string(), token.name.clone()),
            Self::Nobody => {
                let uid = if let Peer::Socket(Some(uid)) = peer { uid.to_string() } else { String::new() };
                (Kind::Nobody, uid, String::new())
            }
        };
        Who { kind, id, name, from }
    }
}
