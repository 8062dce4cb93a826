//! The controller's own authority: an ECDSA P-256 key that signs the server's and the agents' certificates.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use repository::ids::RepositoryId;
use zeroize::Zeroizing;

use crate::identity::bounds::SourceBounds;
use crate::identity::certificate::{KeyDigest, agent_uri};
use crate::ids::AgentId;
use crate::state::{StateError, StateFolder};

const CA_KEY_FILE: &str = "ca.key";
const CA_CERTIFICATE_FILE: &str = "ca.crt";
const CA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3_652);
/// An agent renews when a third of it is left, so it can be away for weeks.
pub(super) const AGENT_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// Made anew at every start, and when a third of it is left.
pub(super) const SERVER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 397);
/// Clocks differ: a certificate is valid from a little before it was made.
const EARLIER: SignedDuration = SignedDuration::from_hours(1);
const MAX_REQUEST: usize = 16 * 1024;

/// The authority cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its files cannot be read or written.
    #[error("the controller's certificate authority cannot be loaded")]
    State(#[from] StateError),
    /// Its key or certificate is not usable, or a certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS does not take it.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The request is not one that we sign.
    #[error("the certificate request is refused: {0}")]
    Request(&'static str),
}

/// Signs certificates.
pub struct Authority {
    certificate: Vec<u8>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    repository: RepositoryId,
}

/// A certificate for an agent.
#[derive(Debug, Clone)]
pub struct Issued {
    /// X.509, DER.
    pub certificate: Vec<u8>,
    /// Which key it is for.
    pub key: KeyDigest,
    /// From when on it no longer counts.
    pub ends_at: Timestamp,
}

/// A certificate for the gRPC server: PEM.
pub struct ServerIdentity {
    /// The server's certificate.
    pub certificate: String,
    /// Its key.
    pub key: Zeroizing<String>,
    /// From when on it no longer counts.
    pub ends_at: Timestamp,
}

impl Authority {
    /// The authority of this state folder, made where there is none.
    pub fn open(
        state: &StateFolder,
        repository: RepositoryId,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let (key, pem) = match (state.read(CA_KEY_FILE)?, state.read(CA_CERTIFICATE_FILE)?) {
            (Some(key), Some(certificate)) => {
                (text(state, CA_KEY_FILE, &key)?, text(state, CA_CERTIFICATE_FILE, &certificate)?)
            }
            _ => make(state, repository, now)?,
        };
        let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key)?)?;
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|_| AuthorityError::from(damaged(state, CA_CERTIFICATE_FILE)))?;
        Ok(Self { certificate: parsed.contents, certificate_pem: pem.to_string(), issuer, repository })
    }

    /// The authority's certificate: X.509, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The repository whose agents it certifies.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// A certificate for `agent` and the key of `request` (PKCS #10, DER). Names in the request are ignored.
    pub fn certify(
        &self,
        request: &[u8],
        agent: AgentId,
        name: &str,
        bounds: &SourceBounds,
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let mut request = checked_request(request)?;
        let key = KeyDigest::of(request.public_key_der());
        let ends_at = now + AGENT_LIFE;
        let mut params = leaf(now, ends_at, name);
        if !bounds.are_none() {
            params.distinguished_name.push(DnType::OrganizationalUnitName, bounds.to_string());
        }
        let uri = agent_uri(self.repository, agent);
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params = params;
        let certificate = request.signed_by(&self.issuer)?;
        Ok(Issued { certificate: certificate.der().to_vec(), key, ends_at })
    }

    /// A certificate for the server itself, valid under `names` (DNS names and IP addresses).
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<ServerIdentity, AuthorityError> {
        let key = KeyPair::generate()?;
        let ends_at = now + SERVER_LIFE;
        let mut params = leaf(now, ends_at, "neurashield controller");
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerIdentity {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            ends_at,
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("repository", &self.repository).finish_non_exhaustive()
    }
}

/// The public key digest of a certificate request, for a check before anything is signed.
pub(super) fn key_of_request(request: &[u8]) -> Result<KeyDigest, AuthorityError> {
    Ok(KeyDigest::of(checked_request(request)?.public_key_der()))
}

trait PublicKeyDer {
    fn public_key_der(&self) -> Vec<u8>;
}

impl PublicKeyDer for CertificateSigningRequestParams {
    fn public_key_der(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.public_key)
    }
}

/// Parses the request and checks that it is signed by the key it asks for.
fn checked_request(request: &[u8]) -> Result<CertificateSigningRequestParams, AuthorityError> {
    if request.len() > MAX_REQUEST {
        return Err(AuthorityError::Request("it is longer than 16 KiB"));
    }
    CertificateSigningRequestParams::from_der(&request.to_vec().into())
        .map_err(|_| AuthorityError::Request("it is not a signed PKCS #10 request"))
}

fn make(
    state: &StateFolder,
    repository: RepositoryId,
    now: Timestamp,
) -> Result<(Zeroizing<String>, Zeroizing<String>), AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, format!("NeuraShield Backup {repository}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, now, now + CA_LIFE);
    let certificate = params.self_signed(&key)?;
    let key = Zeroizing::new(key.serialize_pem());
    let pem = Zeroizing::new(certificate.pem());
    state.write(CA_KEY_FILE, key.as_bytes())?;
    state.write(CA_CERTIFICATE_FILE, pem.as_bytes())?;
    Ok((key, pem))
}

fn leaf(now: Timestamp, ends_at: Timestamp, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_life(&mut params, now, ends_at);
    params
}

/// Sets from when to when a certificate counts, to the second.
fn set_life(params: &mut CertificateParams, now: Timestamp, ends_at: Timestamp) {
    let after_1970 = |time: Timestamp| Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    params.not_before = date_time_ymd(1970, 1, 1) + after_1970(now - EARLIER);
    params.not_after = date_time_ymd(1970, 1, 1) + after_1970(ends_at);
}

fn text(state: &StateFolder, name: &str, bytes: &[u8]) -> Result<Zeroizing<String>, StateError> {
    std::str::from_utf8(bytes).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| damaged(state, name))
}

fn damaged(state: &StateFolder, name: &str) -> StateError {
    StateError::Damaged { path: state.path(name), expected: "PEM text" }
}
