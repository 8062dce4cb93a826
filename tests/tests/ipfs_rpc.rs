//! The RPC of an IPFS node behind HTTPS and a secret, as a user sets it: the node is backed up with the right ones; a
//! wrong secret, none, or a certificate that nobody trusts is told; the secret is in no log, no list and no backup.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tests::ipfs::{Node, fill};
use tests::{Process, System};

const TOKEN: &str = "s3cret-t0ken-of-the-node";

/// A port that speaks TLS, asks for the secret, and passes on to the node.
struct Front {
    port: u16,
    certificate: String,
}

impl Front {
    fn before(node: u16) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("a certificate with its key");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let config = config.clone();
                std::thread::spawn(move || {
                    let connection = ServerConnection::new(config).expect("a connection");
                    drop(Self::serve(StreamOwned::new(connection, client), node));
                });
            }
        });
        Self { port, certificate: certificate.pem() }
    }

    /// One request, whose body has a length.
    fn serve(client: StreamOwned<ServerConnection, TcpStream>, node: u16) -> std::io::Result<()> {
        let mut from = BufReader::new(client);
        let (mut head, mut length, mut is_known) = (String::new(), 0, false);
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            let small = line.to_ascii_lowercase();
            if let Some(value) = small.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if small.starts_with("authorization:") {
                is_known |= line.trim_end().ends_with(&format!("Bearer {TOKEN}"));
                continue;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let client = from.get_mut();
        if is_known {
            let mut node = TcpStream::connect(("127.0.0.1", node))?;
            write!(node, "{head}Connection: close\r\n\r\n")?;
            node.write_all(&body)?;
            std::io::copy(&mut node, client)?;
        } else {
            write!(client, "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        }
        client.conn.send_close_notify();
        client.flush()
    }
}

fn source(port: u16, more: &str) -> String {
    format!("  - {{ component: ipfs, kind: ipfs, name: ipfs, rpc: \"https://127.0.0.1:{port}\"{more} }}\n")
}

fn agent_anew(system: &mut System, source: &str) {
    system.kill_agent();
    system.reconfigure_agent("kind: ipfs", source);
    system.start_agent();
    system.await_agent();
}

fn write(file: &Path, text: &str) -> String {
    std::fs::write(file, text).expect("written");
    file.display().to_string()
}

#[test]
fn a_node_behind_https_and_a_secret_is_backed_up_and_the_secret_is_seen_by_nobody() {
    let node = Node::start();
    let filled = fill(&node, 10);
    let front = Front::before(node.port());
    let mut system = System::prepare(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let ca = write(&folder.path().join("ca.pem"), &front.certificate);
    let secret = write(&folder.path().join("auth"), &format!("bearer:{TOKEN}\n"));
    system.configure_agent(&source(front.port, &format!(", rpc_ca: {ca}, rpc_auth_file: {secret}")));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let job = system.run(&["backup"]);
    assert_eq!(job["state"], "complete", "{job:#}");
    let listed = system.nsctl(&["ls", "latest", "ipfs", "-R"]).expect(0).out;
    for cid in filled.pinned.keys() {
        assert!(listed.contains(cid.as_str()), "{cid}: {listed}");
    }
    let tar = folder.path().join("all.tar");
    system.nsctl(&["export", "latest", "ipfs", "-o", tar.to_str().expect("UTF-8")]).expect(0);
    let bytes = std::fs::read(&tar).expect("read");
    let is_in = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(is_in("config.json") && !is_in(TOKEN), "the secret is in a backup");
    // The file is read anew for each run.
    write(&folder.path().join("auth"), "bearer:wr0ng-t0ken");
    let refused = |system: &System, told: &str| {
        let answer = system.nsctl(&["backup"]);
        let shown = format!("{}{}", answer.out, answer.err);
        assert!(answer.code != 0 && shown.contains(told), "{told}: {shown}");
        assert!(!shown.contains("t0ken"), "{shown}");
    };
    refused(&system, "asks for another `rpc_auth`");
    // Nobody trusts this certificate unless it is said.
    agent_anew(&mut system, &source(front.port, &format!(", rpc_auth: \"bearer:{TOKEN}\"")));
    refused(&system, "`rpc_ca` names the file");
    let config = system.nsctl(&["show", "latest", "-o", "json"]).out;
    for text in [config, system.log(Process::Agent), system.log(Process::Controller)] {
        assert!(!text.contains("t0ken"), "the secret is in a log or a list");
    }
    agent_anew(&mut system, &source(front.port, &format!(", rpc_ca: {ca}")));
    refused(&system, "asks for another `rpc_auth`");
    write(&folder.path().join("auth"), &format!("bearer:{TOKEN}"));
    agent_anew(&mut system, &source(front.port, &format!(", rpc_ca: {ca}, rpc_auth_file: {secret}")));
    system.run(&["backup"]);
    assert!(!system.log(Process::Agent).contains("panicked"));
}
