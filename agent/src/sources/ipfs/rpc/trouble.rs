//! What the node does not give, and what that says of everything else.
//!
//! Must stay true: what the node says when it refuses goes into the log and nowhere else: it may name files.

use http::StatusCode;
use serde_json::Value;

use crate::sources::SourceError;

/// The node does not give something.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Trouble {
    why: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It refuses this, or has answered something that cannot be used.
    Refused,
    /// It does not know the command.
    NotKnown,
    /// It does not let us call the command.
    NotAllowed,
    /// It is not there, or says no more: nothing else would be given either. What it was told to do may be done or
    /// not, or later.
    Gone,
}

impl Trouble {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), kind: Kind::Refused }
    }

    pub(super) fn lost(why: &str) -> Self {
        Self { why: why.to_owned(), kind: Kind::Gone }
    }

    pub(super) fn not_allowed(why: impl Into<String>) -> Self {
        Self { why: why.into(), kind: Kind::NotAllowed }
    }

    /// Nothing else would be given either, and what was asked for may still happen.
    pub(crate) fn is_gone(&self) -> bool {
        self.kind == Kind::Gone
    }

    /// The node does not have the command.
    pub(crate) fn is_not_known(&self) -> bool {
        self.kind == Kind::NotKnown
    }

    /// Asking the same of something else would be in vain.
    pub(crate) fn is_of_each(&self) -> bool {
        matches!(self.kind, Kind::NotAllowed | Kind::Gone)
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self.kind {
            Kind::Gone => "check that the node runs and that `rpc` is the address of its RPC, then try again",
            Kind::NotAllowed => {
                "check that `rpc` is the address of its RPC, and that `rpc_auth` is what it asks for and may call this \
                 (AllowedPaths in its API.Authorizations), then try again"
            }
            Kind::Refused | Kind::NotKnown => "see to the node, then try again; the agent's log says more",
        }
    }
}

impl From<Trouble> for SourceError {
    fn from(trouble: Trouble) -> Self {
        SourceError::Server { hint: trouble.hint(), source: trouble.into() }
    }
}

/// That the node refuses a call.
pub(super) fn refused(call: &str, status: StatusCode, said: &[u8]) -> Trouble {
    let message: Option<String> = serde_json::from_slice::<Value>(said)
        .ok()
        .and_then(|said| Some(said.get("Message")?.as_str()?.to_owned()));
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(said).into_owned());
    let command = call.split('?').next().unwrap_or_default().trim_start_matches("/api/v0/");
    tracing::debug!(command, %status, message, "an IPFS node refuses");
    match status {
        StatusCode::UNAUTHORIZED => {
            Trouble::not_allowed(format!("it asks for another `rpc_auth` at {command}"))
        }
        StatusCode::FORBIDDEN => Trouble::not_allowed(format!("it does not let us call {command}")),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            Trouble { why: format!("it does not know the command {command}"), kind: Kind::NotKnown }
        }
        _ => Trouble::new(format!("it refuses the command {command}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_does_not_mean_that_the_node_is_gone() {
        let not_allowed = refused("/api/v0/pin/add?x", StatusCode::FORBIDDEN, b"");
        assert!(!not_allowed.is_gone() && not_allowed.is_of_each());
        assert_eq!(not_allowed.to_string(), "it does not let us call pin/add");
        let not_known = refused("/api/v0/files/flush", StatusCode::NOT_FOUND, b"");
        assert!(!not_known.is_gone() && not_known.is_not_known());
        let refused = refused("/api/v0/block/get", StatusCode::INTERNAL_SERVER_ERROR, b"{}");
        assert!(!refused.is_gone() && !refused.is_of_each() && !refused.is_not_known());
        assert!(Trouble::lost("x").is_gone());
    }
}
