//! How a repository in object storage is reached, as it is written.

use std::path::PathBuf;

use repository::store::s3::{Credentials, S3Options};
use runtime::config::{Problem, Secret, SecretError, SecretSource};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::absolute;

/// Longer than any bundle of certificates.
const MAX_CA_BYTES: u64 = 4 << 20;

/// Settings for a bucket. What is left out comes from the variables that other programs know, too:
/// `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectStorage {
    /// The server's address; none: Amazon's.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// The bucket's name is in the path of an address; false: in the name of the host.
    pub path_style: bool,
    /// The id of the key.
    pub access_key_id: Option<String>,
    /// The key's secret.
    pub secret_access_key: Option<Secret>,
    /// A file that holds the key's secret.
    pub secret_access_key_file: Option<PathBuf>,
    /// The token of a temporary key.
    pub session_token: Option<Secret>,
    /// A file that holds the token of a temporary key.
    pub session_token_file: Option<PathBuf>,
    /// Certificates in PEM that are trusted in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Without TLS: everybody on the way sees names, sizes and who asks.
    pub allow_http: bool,
}

impl Default for ObjectStorage {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: true,
            access_key_id: None,
            secret_access_key: None,
            secret_access_key_file: None,
            session_token: None,
            session_token_file: None,
            ca_file: None,
            allow_http: false,
        }
    }
}

/// The settings name something that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectStorageError {
    /// A secret.
    #[error("the key for object storage cannot be read")]
    Secret(#[from] SecretError),
    /// The trusted certificates.
    #[error("cannot read the trusted certificates in {}", file.display())]
    Ca {
        /// Where they are.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl ObjectStorage {
    pub(super) fn check(&self) -> Result<(), Problem> {
        let problem = |key: &str, reason: &str| Err(Problem::new(format!("s3.{key}"), reason));
        let files = [
            ("secret_access_key_file", &self.secret_access_key_file),
            ("session_token_file", &self.session_token_file),
            ("ca_file", &self.ca_file),
        ];
        for (key, file) in files {
            file.as_deref().map_or(Ok(()), |file| absolute(&format!("s3.{key}"), file))?;
        }
        match self.endpoint.as_deref().map(|endpoint| endpoint.split_once("://")) {
            None | Some(Some(("https", _))) => {}
            Some(Some(("http", _))) if self.allow_http => {}
            Some(Some(("http", _))) => {
                return problem("endpoint", "not encrypted; write https://…, or set s3.allow_http to true");
            }
            Some(_) => return problem("endpoint", "write an address: https://HOST or https://HOST:PORT"),
        }
        let has_secret = self.secret().is_some();
        if self.access_key_id.is_some() != has_secret {
            return problem("access_key_id", "set both access_key_id and secret_access_key, or neither");
        }
        if self.secret_access_key.is_some() && self.secret_access_key_file.is_some() {
            return problem("secret_access_key", "set secret_access_key or secret_access_key_file, not both");
        }
        Ok(())
    }

    fn secret(&self) -> Option<SecretSource> {
        SecretSource::from_pair(self.secret_access_key.as_ref(), self.secret_access_key_file.as_ref())
    }

    /// Reads what is in files, and says how the bucket is reached.
    pub fn options(&self) -> Result<S3Options, ObjectStorageError> {
        let kept = |secret: Secret| Zeroizing::new(secret.expose().to_owned());
        let token = SecretSource::from_pair(self.session_token.as_ref(), self.session_token_file.as_ref());
        let session_token = token.map(|token| token.read().map(kept)).transpose()?;
        let credentials = match (&self.access_key_id, self.secret()) {
            (Some(key_id), Some(secret)) => {
                Some(Credentials { key_id: key_id.clone(), secret: kept(secret.read()?), session_token })
            }
            _ => None,
        };
        Ok(S3Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            virtual_hosted: !self.path_style,
            credentials,
            ca: self.ca_file.as_ref().map(read_ca).transpose()?,
            allow_http: self.allow_http,
            ..S3Options::default()
        })
    }
}

fn read_ca(file: &PathBuf) -> Result<Vec<u8>, ObjectStorageError> {
    let failed = |source| ObjectStorageError::Ca { file: file.clone(), source };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(opened, MAX_CA_BYTES), &mut bytes).map_err(failed)?;
    Ok(bytes)
}
