//! Who this agent is, and which repository it writes to.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use repository::ids::RepositoryId;
use repository::pack::seal::SealingPublicKey;
use repository::signed::Sha256;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::StateFolder;

const KEY_FILE: &str = "agent.key";
const IDENTITY_FILE: &str = "identity.json";

/// The agent's private key. It never leaves the state folder and this process.
pub(crate) struct AgentKey {
    pair: KeyPair,
}

impl std::fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentKey(..)")
    }
}

/// What the controller gave this agent when it joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) agent_id: String,
    /// PEM.
    pub(crate) certificate: String,
    /// PEM.
    pub(crate) ca_certificate: String,
    /// The certificate before this one (PEM), until the controller has welcomed this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<String>,
    #[serde(flatten)]
    pub(crate) pin: RepositoryPin,
}

/// The repository that this agent writes to, and the key that it seals to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepositoryPin {
    #[serde(rename = "repository")]
    pub(crate) id: RepositoryId,
    #[serde(rename = "repository_key")]
    pub(crate) key: SealingPublicKey,
}

/// The controller shows another repository than the one that this agent joined.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PinBroken {
    #[error("the controller writes to the repository {found}; this agent joined {pinned}")]
    Repository { pinned: RepositoryId, found: RepositoryId },
    #[error(
        "the controller shows another key for the repository {repository} (epoch {epoch}) than at the join"
    )]
    Key { repository: RepositoryId, epoch: u32 },
}

impl PinBroken {
    /// What to do about it.
    pub(crate) const HINT: &str = "if the repository was replaced on purpose, stop the agent, remove \
         identity.json and agent.key from its state folder and join again with a token of `nsctl agent invite`; otherwise \
         somebody stands between agent and controller: find out who before anything else";
}

impl RepositoryPin {
    /// `found` must be what was pinned.
    pub(crate) fn check(&self, found: &RepositoryPin) -> Result<(), PinBroken> {
        if self.id != found.id {
            return Err(PinBroken::Repository { pinned: self.id, found: found.id });
        }
        if self.key != found.key {
            return Err(PinBroken::Key { repository: self.id, epoch: found.key.epoch });
        }
        Ok(())
    }
}

/// Key or identity cannot be read, made or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged: remove it and join again with a token of `nsctl agent invite`",
        path.display()
    )]
    Damaged { path: PathBuf },
    #[error(
        "others can read the agent's key {} (mode {mode:04o}): `chmod 600` it; if somebody may have read it, remove it \
         and identity.json, `nsctl agent revoke` this agent and join again",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("cannot keep it")]
    Write(#[from] runtime::atomic_file::WriteError),
    #[error("cannot make a key or a certificate request")]
    Make(#[from] rcgen::Error),
}

impl AgentKey {
    /// The key of this state folder, made where there is none. It is kept before it is used, so that a
    /// join whose answer was lost can be repeated with the same key.
    pub(crate) fn open(state: &StateFolder) -> Result<Self, IdentityError> {
        let path = state.file(KEY_FILE);
        match std::fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(pem) => match KeyPair::from_pem(&pem) {
                Ok(pair) => not_exposed(&path).map(|()| Self { pair }),
                Err(_) => Err(IdentityError::Damaged { path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pair = KeyPair::generate()?;
                let pem = Zeroizing::new(pair.serialize_pem());
                runtime::atomic_file::write(&path, pem.as_bytes(), runtime::atomic_file::PRIVATE)?;
                Ok(Self { pair })
            }
            Err(source) => Err(IdentityError::Read { path, source }),
        }
    }

    /// A signed certificate request: PKCS #10, DER.
    pub(crate) fn certificate_request(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&self.pair)?.der().to_vec())
    }

    /// What others may know this state folder by: it lasts as long as the key.
    pub(crate) fn name(&self) -> String {
        Sha256::of(self.pair.public_key_raw()).to_string()
    }

    /// For the TLS of this process alone.
    pub(crate) fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }
}

/// Refuses a key that others can read, as ssh does.
fn not_exposed(path: &Path) -> Result<(), IdentityError> {
    let cannot = |source| IdentityError::Read { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(cannot)?.permissions().mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(IdentityError::Exposed { path: path.to_owned(), mode }),
    }
}

impl Identity {
    /// The identity of this state folder; `None` before the first join.
    pub(crate) fn load(state: &StateFolder) -> Result<Option<Self>, IdentityError> {
        let path = state.file(IDENTITY_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        Self::read(&bytes).ok_or(IdentityError::Damaged { path }).map(Some)
    }

    /// The identity that these bytes of a file say; `None` if they say none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|identity: &Self| identity.life().is_some())
    }

    /// Keeps it.
    pub(crate) fn save(&self, state: &StateFolder) -> Result<(), IdentityError> {
        let json = serde_json::to_vec_pretty(self).expect("an identity is plain text");
        let path = state.file(IDENTITY_FILE);
        Ok(runtime::atomic_file::write(&path, &json, runtime::atomic_file::PRIVATE)?)
    }

    /// From when to when its certificate counts; `None` if it is not one.
    fn life(&self) -> Option<(Timestamp, Timestamp)> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.certificate.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        Some((time(certificate.validity().not_before)?, time(certificate.validity().not_after)?))
    }

    /// Shows the certificate before this one again, if there still is one: the controller did not take this
    /// one. The two change places, so that neither is lost.
    pub(crate) fn fall_back(&mut self) -> bool {
        let Some(previous) = &mut self.previous else { return false };
        std::mem::swap(&mut self.certificate, previous);
        if self.life().is_some() {
            return true;
        }
        // What was kept beside it is no certificate.
        self.certificate = self.previous.take().expect("it was there a moment ago");
        false
    }

    /// When to ask for a new certificate: after two thirds of its life.
    pub(crate) fn renew_at(&self) -> Timestamp {
        let (from, to) = self.life().expect("it was parsed when it was loaded or received");
        let third = (to.as_second() - from.as_second()).max(0) / 3;
        Timestamp::from_second(to.as_second() - third).expect("it lies between two timestamps")
    }

    /// True if its certificate is one.
    pub(crate) fn is_sound(&self) -> bool {
        self.life().is_some()
    }
}

/// True if the agent whose state folder is `state` has joined a controller. Takes no lock: the agent may
/// run. An identity that is damaged or may not be read is one too: it is for the agent to say so.
pub fn has_joined(state: &Path) -> bool {
    !matches!(state.join(IDENTITY_FILE).try_exists(), Ok(false))
}

/// A certificate as PEM.
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(repository: u8, key: u8) -> RepositoryPin {
        let key = SealingPublicKey { epoch: 1, key: [key; 32] };
        RepositoryPin { id: RepositoryId::new([repository; 16]), key }
    }

    #[test]
    fn another_repository_or_key_than_the_pinned_one_is_refused() {
        assert_eq!(pin(1, 1).check(&pin(1, 1)), Ok(()));
        assert!(matches!(pin(1, 1).check(&pin(2, 1)), Err(PinBroken::Repository { .. })));
        assert!(matches!(pin(1, 1).check(&pin(1, 2)), Err(PinBroken::Key { .. })));
    }

    #[test]
    fn the_key_is_made_once_and_is_the_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = StateFolder::open(folder.path()).expect("opens");
        let first = AgentKey::open(&state).expect("made").pem();
        assert_eq!(first, AgentKey::open(&state).expect("read").pem());
        let mode = std::fs::metadata(folder.path().join(KEY_FILE)).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Identity::load(&state).expect("no error").is_none());
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let der = params.self_signed(&pair).expect("signed").der().to_vec();
        let certificate = certificate_pem(&der);
        let identity = Identity {
            agent_id: "a".into(),
            ca_certificate: certificate.clone(),
            certificate,
            previous: None,
            pin: pin(1, 1),
        };
        assert_eq!(identity.renew_at().to_string(), "2026-01-21T00:00:00Z");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = StateFolder::open(folder.path()).expect("opens");
        assert!(!has_joined(folder.path()) && !has_joined(&folder.path().join("missing")));
        identity.save(&state).expect("kept");
        assert!(has_joined(folder.path()));
        assert_eq!(Identity::load(&state).expect("no error"), Some(identity));
    }
}
