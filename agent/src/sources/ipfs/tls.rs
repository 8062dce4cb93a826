//! TLS to the RPC of a node.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::NodeRpc;

/// Shakes hands; an error says why the node is not taken for the one that is meant. The files are read anew for each
/// connection: certificates are replaced.
pub(super) async fn secure(
    address: &NodeRpc,
    authority: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| "the host in its address is no name".to_owned())?;
    let file = address.rpc_ca.clone();
    let roots = tokio::task::spawn_blocking(move || roots(file.as_deref())).await;
    let roots = roots.map_err(|error| error.to_string())??;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        format!(
            "no TLS with it: {error}; `rpc_ca` names the file of the certificates that its own is signed by"
        )
    })
}

/// The certificates of the file, or those that the system trusts.
fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        // Those that cannot be read are left out, as every program does.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let wrong = |why: &dyn std::fmt::Display| format!("the certificates of {}: {why}", file.display());
    let text = std::fs::read(file).map_err(|error| wrong(&error))?;
    let blocks = pem::parse_many(text).map_err(|error| wrong(&error))?;
    let blocks = blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE");
    for block in blocks {
        roots.add(CertificateDer::from(block.into_contents())).map_err(|error| wrong(&error))?;
    }
    match roots.is_empty() {
        true => Err(wrong(&"there are none in it")),
        false => Ok(roots),
    }
}
