//! What a certificate says of its holder.

use jiff::Timestamp;
use repository::ids::RepositoryId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::bounds::SourceBounds;
use crate::ids::AgentId;

/// A public key, as the SHA-256 of its SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a key in the form of a SubjectPublicKeyInfo (DER).
    pub fn of(public_key: impl AsRef<[u8]>) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public_key.as_ref());
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The digest of the key that a certificate (X.509, DER) is for; `None`: it is no certificate.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self::of(certificate.public_key().raw))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A certificate does not make its holder an agent of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    /// There was none.
    #[error("the connection shows no certificate")]
    Missing,
    /// It is not one of our agents' certificates.
    #[error("the certificate is not one of an agent")]
    NotAnAgent,
    /// It belongs to another repository.
    #[error("the certificate is of another repository")]
    OtherRepository,
    /// It has ended or does not count yet.
    #[error("the certificate is out of its time")]
    OutOfTime,
}

/// What an agent's certificate says. That our authority signed it, TLS has checked.
#[derive(Debug, Clone)]
pub struct AgentCertificate {
    /// Whose it is.
    pub agent: AgentId,
    /// The agent's name when it was made: for people.
    pub name: String,
    /// Which sources its holder may serve.
    pub bounds: SourceBounds,
    /// Which key it is for.
    pub key: KeyDigest,
    /// From when on it no longer counts.
    pub ends_at: Timestamp,
}

impl AgentCertificate {
    /// Reads the certificate of a connection (X.509, DER).
    pub fn read(der: &[u8], repository: RepositoryId, now: Timestamp) -> Result<Self, CertificateRefused> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| CertificateRefused::NotAnAgent)?;
        if !rest.is_empty() {
            return Err(CertificateRefused::NotAnAgent);
        }
        let names =
            certificate.subject_alternative_name().ok().flatten().ok_or(CertificateRefused::NotAnAgent)?;
        let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
            return Err(CertificateRefused::NotAnAgent);
        };
        let (of, agent) = parse_agent_uri(uri).ok_or(CertificateRefused::NotAnAgent)?;
        if of != repository {
            return Err(CertificateRefused::OtherRepository);
        }
        let life = certificate.validity();
        let at = |second: i64| Timestamp::from_second(second).map_err(|_| CertificateRefused::OutOfTime);
        let (starts_at, ends_at) = (at(life.not_before.timestamp())?, at(life.not_after.timestamp())?);
        if now < starts_at || now >= ends_at {
            return Err(CertificateRefused::OutOfTime);
        }
        let name =
            certificate.subject().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
        let mut units = certificate.subject().iter_organizational_unit();
        let bounds = match (units.next(), units.next()) {
            (None, _) => SourceBounds::default(),
            (Some(unit), None) => unit
                .as_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .filter(|bounds: &SourceBounds| !bounds.are_none())
                .ok_or(CertificateRefused::NotAnAgent)?,
            (Some(_), Some(_)) => return Err(CertificateRefused::NotAnAgent),
        };
        let key = KeyDigest::of(certificate.public_key().raw);
        Ok(Self { agent, name: name.to_owned(), bounds, key, ends_at })
    }
}

/// The identity of an agent, as its certificate carries it.
pub(super) fn agent_uri(repository: RepositoryId, agent: AgentId) -> String {
    format!("spiffe://{repository}/agent/{agent}")
}

fn parse_agent_uri(uri: &str) -> Option<(RepositoryId, AgentId)> {
    let (repository, agent) = uri.strip_prefix("spiffe://")?.split_once("/agent/")?;
    Some((repository.parse().ok()?, agent.parse().ok()?))
}
