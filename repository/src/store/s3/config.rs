//! How object storage is reached: address, credentials, patience.

use std::fmt;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use zeroize::Zeroizing;

use crate::store::location::Bucket;

/// How a bucket is reached. What is left out comes from the `AWS_…` variables of the environment, as for
/// other programs, and from the machine's role where those do not say either.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// The server's address; none: Amazon's.
    pub endpoint: Option<String>,
    /// The region; none: `us-east-1`.
    pub region: Option<String>,
    /// The bucket's name is part of the host name.
    pub virtual_hosted: bool,
    /// The key.
    pub credentials: Option<Credentials>,
    /// Certificates in PEM that are trusted in place of the system's.
    pub ca: Option<Vec<u8>>,
    /// Without TLS.
    pub allow_http: bool,
    /// How long is waited.
    pub patience: Patience,
}

/// A key and its secret.
#[derive(Clone)]
pub struct Credentials {
    /// Its id.
    pub key_id: String,
    /// Its secret.
    pub secret: Zeroizing<String>,
    /// Of a temporary key.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

/// How long is waited, and how often something is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For a request that moves little.
    pub small: Duration,
    /// For one that moves up to 24 MiB.
    pub large: Duration,
    /// How often a request is tried again after a failure that may pass.
    pub retries: usize,
    /// No further try after this time.
    pub give_up: Duration,
    /// The first pause before another try; each one may be twice as long as the one before.
    pub first_pause: Duration,
    /// The longest pause between two tries.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            small: Duration::from_secs(30),
            // 24 MiB at 50 KB/s.
            large: Duration::from_secs(480),
            retries: 8,
            give_up: Duration::from_secs(90),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
        }
    }
}

/// Object storage cannot be reached as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Without TLS, and that was not allowed.
    #[error("{endpoint} is not encrypted; use https, or allow http for it expressly")]
    Plain {
        /// The address.
        endpoint: String,
    },
    /// The address is none.
    #[error("the endpoint is no address; write https://HOST or https://HOST:PORT")]
    Endpoint,
    /// The trusted certificates cannot be read.
    #[error("the file of trusted certificates holds none in PEM")]
    Ca,
    /// Only half a key.
    #[error("a key needs both its id and its secret; only one of the two is set")]
    HalfKey,
    /// No key at all.
    #[error(
        "there is no key for {bucket}; set an access key and its secret, or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )]
    NoKey {
        /// The bucket.
        bucket: String,
    },
    /// The library refuses the settings.
    #[error("the settings for object storage do not fit together")]
    Settings,
}

/// The two clients: they differ in their patience alone.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) small: AmazonS3,
    pub(super) large: AmazonS3,
    /// For people.
    pub(super) endpoint: String,
}

impl S3Options {
    pub(super) fn connect(&self, bucket: &Bucket) -> Result<Clients, ConnectError> {
        let builder = self.builder(bucket)?;
        let patience = &self.patience;
        let build = |within: Duration| {
            let options = self.client_options()?.with_timeout(within);
            let built = builder.clone().with_retry(patience.retry()).with_client_options(options).build();
            // What the library says may repeat settings.
            built.map_err(|_| ConnectError::Settings)
        };
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        Ok(Clients {
            small: build(patience.small)?,
            large: build(patience.large)?,
            endpoint: endpoint.unwrap_or_else(|| "Amazon S3".to_owned()),
        })
    }

    fn builder(&self, bucket: &Bucket) -> Result<AmazonS3Builder, ConnectError> {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&bucket.name)
            .with_virtual_hosted_style_request(self.virtual_hosted)
            // One by one: not every server knows the other way, and little is deleted.
            .with_disable_bulk_delete(true);
        if let Some(special) = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint) {
            builder = builder.with_endpoint(special);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(endpoint) = builder.get_config_value(&AmazonS3ConfigKey::Endpoint) {
            let endpoint = self.address(endpoint, bucket)?;
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, &endpoint).with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(Credentials { key_id, secret, session_token }) = &self.credentials {
            builder = builder.with_access_key_id(key_id).with_secret_access_key(secret.as_str());
            if let Some(token) = session_token {
                builder = builder.with_token(token.as_str());
            }
        }
        let has = |key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
        match (has(AmazonS3ConfigKey::AccessKeyId), has(AmazonS3ConfigKey::SecretAccessKey)) {
            (true, true) => {}
            (false, false) => {
                let role = [
                    AmazonS3ConfigKey::WebIdentityTokenFile,
                    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
                    AmazonS3ConfigKey::ContainerCredentialsFullUri,
                ];
                // A machine of Amazon's may have a role by itself; elsewhere nobody answers that question.
                if has(AmazonS3ConfigKey::Endpoint) && !role.into_iter().any(has) {
                    return Err(ConnectError::NoKey { bucket: bucket.to_string() });
                }
            }
            _ => return Err(ConnectError::HalfKey),
        }
        Ok(builder)
    }

    /// The endpoint, checked; with the bucket's name in it where that is how this server is asked.
    fn address(&self, endpoint: String, bucket: &Bucket) -> Result<String, ConnectError> {
        let (scheme, host) = endpoint.split_once("://").ok_or(ConnectError::Endpoint)?;
        if host.is_empty() || host.contains(['@', '?', '#']) {
            return Err(ConnectError::Endpoint);
        }
        match scheme {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return Err(ConnectError::Plain { endpoint }),
            _ => return Err(ConnectError::Endpoint),
        }
        Ok(if self.virtual_hosted { format!("{scheme}://{}.{host}", bucket.name) } else { endpoint })
    }

    fn client_options(&self) -> Result<ClientOptions, ConnectError> {
        let mut options =
            ClientOptions::new().with_allow_http(self.allow_http).with_connect_timeout(self.patience.connect);
        // Where certificates are given, or none are needed, a machine may have none of its own.
        options = options.with_no_system_certificates(self.ca.is_some() || self.allow_http);
        if let Some(pem) = &self.ca {
            let certificates = Certificate::from_pem_bundle(pem).map_err(|_| ConnectError::Ca)?;
            if certificates.is_empty() {
                return Err(ConnectError::Ca);
            }
            for certificate in certificates {
                options = options.with_root_certificate(certificate);
            }
        }
        Ok(options)
    }
}

impl Patience {
    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: self.first_pause,
                max_backoff: self.longest_pause,
                ..BackoffConfig::default()
            },
            max_retries: self.retries,
            retry_timeout: self.give_up,
        }
    }
}
