//! TLS, and a user who is known by a certificate (X.509): a scripted server, whose TLS is real, is read by the certificate
//! that the connection string names; without one, or with a server that nobody vouches for, it is a clear error.

use std::fs;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tests::{Process, System};

use crate::archive;
use crate::peer::Peer;
use crate::server::{system, uri};

/// Who vouches for others.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn make(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate, with its key behind it.
    fn vouches_for(&self, names: &[&str], user: &str) -> (CertificateDer<'static>, KeyPair, String) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, user);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        (certificate.der().clone(), key, pem)
    }
}

/// A server that wants a certificate of everybody.
fn peer(authority: &Authority) -> Peer {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).expect("a root");
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (certificate, key, _) = authority.vouches_for(&["127.0.0.1"], "server");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(
            vec![certificate],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect("a certificate with its key");
    Peer::start_with_tls(Arc::new(config))
}

#[test]
fn a_scripted_server_over_tls_is_read_by_a_user_who_is_known_by_a_certificate_and_by_nobody_else() {
    let (ours, others) = (Authority::make("ours"), Authority::make("others"));
    let peer = peer(&ours);
    let mut system = system("mongodb://nowhere", "");
    let written = |name: &str, text: &str| {
        let place = system.root().join(name);
        fs::write(&place, text).expect("written");
        place.display().to_string()
    };
    let (_, key, user) = ours.vouches_for(&[], "backup");
    let (user, key) = (written("user.pem", &user), key.serialize_pem());
    let stranger = written("stranger.pem", &others.vouches_for(&[], "backup").2);
    let (ours, others) = (written("ours.pem", &ours.pem), written("others.pem", &others.pem));
    let with = |system: &System, ca: &str, user: Option<&str>| {
        let user = user.map(|file| {
            format!("&tlsCertificateKeyFile={file}&authMechanism=MONGODB-X509&authSource=$external")
        });
        let options =
            format!("&tls=true&tlsCAFile={ca}{}&serverSelectionTimeoutMS=1500", user.unwrap_or_default());
        fs::write(system.root().join("uri"), format!("{}{options}", uri(peer.port))).expect("written");
    };
    with(&system, &ours, Some(&user));
    system.run(&["backup"]);
    assert_eq!(archive(&system)["consistency"], "snapshot");
    assert!(peer.sequence().contains(&"MONGODB-X509 of $external".to_owned()));

    // No certificate, one that the server does not know, a server that nobody vouches for, a file that is not there.
    let nobody = "no server answers at its address";
    let missing = system.root().join("missing.pem").display().to_string();
    for (ca, user, expected) in [
        (&ours, None, nobody),
        (&ours, Some(&stranger), nobody),
        (&others, Some(&user), nobody),
        (&ours, Some(&missing), "the options of the connection string do not fit together"),
    ] {
        with(&system, ca, user.map(String::as_str));
        let refused = system.nsctl(&["backup"]);
        let said = format!("{}{}", refused.out, refused.err);
        assert_ne!(refused.code, 0, "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(peer.sequence().is_empty(), "nothing was read");
    }
    let secret = key.lines().nth(1).expect("a line of the key");
    assert!(!system.log(Process::Agent).contains(secret));
    system.kill_agent();
}
