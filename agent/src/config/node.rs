//! How the RPC of an IPFS node is reached: where, with which secret, and by whose certificate.
//!
//! Must stay true: the secret is seen by nobody but the node.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use runtime::config::{Problem, Secret, SecretSource};
use serde::Serialize;

use super::absolute;

const SECRET: &str = "must be bearer:TOKEN or basic:USER:PASSWORD, as the node has it in API.Authorizations";

/// The RPC of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRpc {
    /// Its address: `http://HOST:PORT` or `https://HOST:PORT`.
    pub rpc: String,
    /// What it asks for: `bearer:TOKEN` or `basic:USER:PASSWORD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_auth: Option<Secret>,
    /// The file with that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_auth_file: Option<PathBuf>,
    /// The file with the certificates that its own is to be signed by; unset: those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_ca: Option<PathBuf>,
}

impl NodeRpc {
    /// One that asks for nothing.
    #[cfg(test)]
    pub(crate) fn at(address: &str) -> Self {
        Self { rpc: address.to_owned(), rpc_auth: None, rpc_auth_file: None, rpc_ca: None }
    }

    /// True for HTTPS.
    pub(crate) fn is_secure(&self) -> bool {
        self.rpc.starts_with("https://")
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> Result<String, &'static str> {
        const SHAPE: &str = "must be http://HOST:PORT or https://HOST:PORT";
        let rest = self.rpc.strip_prefix("http://").or_else(|| self.rpc.strip_prefix("https://"));
        let authority = rest.ok_or(SHAPE)?.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or(SHAPE)?;
        let host_is_fine = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
        match host_is_fine && port.parse::<u16>().is_ok_and(|port| port > 0) {
            true => Ok(authority.to_owned()),
            false => Err(SHAPE),
        }
    }

    /// The header that it asks for, if it asks for one; read anew each time, since a file may change. Blocks.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let source = SecretSource::from_pair(self.rpc_auth.as_ref(), self.rpc_auth_file.as_ref());
        let Some(source) = source else { return Ok(None) };
        let secret = source.read().map_err(|error| proto::failure::chain(&error))?;
        header(&secret).map(Some).ok_or_else(|| format!("`rpc_auth` {SECRET}"))
    }

    pub(super) fn check(&self, path: &str) -> Result<(), Problem> {
        self.authority().map_err(|why| Problem::new(format!("{path}.rpc"), why))?;
        if self.rpc_auth.as_ref().is_some_and(|secret| header(secret).is_none()) {
            return Err(Problem::new(format!("{path}.rpc_auth"), SECRET));
        }
        if let Some(file) = &self.rpc_auth_file {
            absolute(&format!("{path}.rpc_auth_file"), file)?;
        }
        match &self.rpc_ca {
            Some(_) if !self.is_secure() => {
                Err(Problem::new(format!("{path}.rpc_ca"), "is of use with https:// alone"))
            }
            Some(file) => absolute(&format!("{path}.rpc_ca"), file),
            None => Ok(()),
        }
    }
}

/// As it is sent.
fn header(secret: &Secret) -> Option<HeaderValue> {
    let (kind, rest) = secret.expose().split_once(':')?;
    let text = match (kind, rest) {
        (_, "") => return None,
        ("bearer", token) => format!("Bearer {token}"),
        // Without a colon it is encoded already.
        ("basic", pair) if pair.contains(':') => format!("Basic {}", STANDARD.encode(pair)),
        ("basic", encoded) => format!("Basic {encoded}"),
        _ => return None,
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let authority = |address: &str| NodeRpc::at(address).authority();
        assert_eq!(authority("http://127.0.0.1:5001/").as_deref(), Ok("127.0.0.1:5001"));
        assert_eq!(authority("https://[::1]:5001").as_deref(), Ok("[::1]:5001"));
        for wrong in
            ["ftp://a:1", "a:1", "http://a", "http://u:p@a:1", "http://a:1/x", "https://a:0", "http://:1"]
        {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_written_as_kubo_writes_it_and_is_not_shown() {
        let sent =
            |text: &str| header(&Secret::new(text)).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(sent("bearer:to:ken").as_deref(), Some("Bearer to:ken"));
        assert_eq!(sent("basic:me:pass:word").as_deref(), Some("Basic bWU6cGFzczp3b3Jk"));
        assert_eq!(sent("basic:bWU6cGFzcw==").as_deref(), Some("Basic bWU6cGFzcw=="));
        for wrong in ["token", "bearer:", "digest:x", "bearer:a\nb"] {
            assert_eq!(sent(wrong), None, "{wrong:?}");
        }
        let node = NodeRpc { rpc_auth: Some(Secret::new("bearer:hunter2")), ..NodeRpc::at("http://a:1") };
        let shown = format!("{node:?} {:?}", node.authorization());
        assert!(!shown.contains("hunter2"), "{shown}");
        let plain = NodeRpc { rpc_ca: Some("/ca".into()), ..NodeRpc::at("http://a:1") };
        assert!(plain.check("x").is_err());
        assert!(NodeRpc { rpc: "https://a:1".to_owned(), ..plain }.check("x").is_ok());
        let gone = NodeRpc { rpc_auth_file: Some("/nowhere/at/all".into()), ..NodeRpc::at("http://a:1") };
        assert!(gone.authorization().expect_err("it is not there").contains("/nowhere/at/all"));
    }
}
