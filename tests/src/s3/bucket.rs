//! A bucket for one system of the suites: its settings for every program, and a copy of it to be looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use repository::store::location::Bucket;
use repository::store::s3::{Credentials, Patience, S3Options, S3Store};
use repository::store::{ListedKind, ObjectPath, Store};
use zeroize::Zeroizing;

use super::{KEY_ID, REGION, SECRET};

/// The name of the bucket that the suites use.
const NAME: &str = "backups";

/// Where a suite says that its systems are to use a bucket: the address of a server.
const ENDPOINT: &str = "NEURASHIELD_TEST_S3";

/// A part of a bucket that nobody else uses.
#[derive(Debug, Clone)]
pub struct TestBucket {
    endpoint: String,
    prefix: ObjectPath,
}

impl TestBucket {
    /// The bucket's name.
    pub const NAME: &str = NAME;

    /// A fresh part of the bucket of the server at `port` of this machine.
    pub fn at(port: u16) -> Self {
        Self::on(format!("http://127.0.0.1:{port}"))
    }

    /// The same of a server with a certificate.
    pub fn with_tls(port: u16) -> Self {
        Self::on(format!("https://127.0.0.1:{port}"))
    }

    /// A fresh part of the bucket that the suite names; `None`: it names none.
    pub fn of_environment() -> Option<Self> {
        std::env::var(ENDPOINT).ok().map(Self::on)
    }

    fn on(endpoint: String) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { endpoint, prefix: ObjectPath::new(format!("system-{}-{number}", std::process::id())) }
    }

    /// As people write it.
    pub fn location(&self) -> String {
        format!("s3://{NAME}/{}", self.prefix)
    }

    /// For the controller's configuration.
    pub(crate) fn settings(&self) -> String {
        format!(
            "repository: {}\ns3: {{ endpoint: \"{}\", region: {REGION}, access_key_id: {KEY_ID}, \
             secret_access_key: {SECRET}, allow_http: true }}\n",
            self.location(),
            self.endpoint
        )
    }

    /// For `nsctl repository`: what other programs know, too, and that TLS is not needed.
    pub fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", REGION),
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("NEURASHIELD_S3__ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// A store in it.
    pub fn store(&self) -> S3Store {
        let options = S3Options {
            endpoint: Some(self.endpoint.clone()),
            region: Some(REGION.to_owned()),
            credentials: Some(Credentials {
                key_id: KEY_ID.to_owned(),
                secret: Zeroizing::new(SECRET.to_owned()),
                session_token: None,
            }),
            allow_http: true,
            patience: Patience {
                first_pause: Duration::from_millis(2),
                longest_pause: Duration::from_millis(50),
                ..Patience::default()
            },
            ..S3Options::default()
        };
        let bucket = Bucket { name: NAME.to_owned(), prefix: Some(self.prefix.clone()) };
        S3Store::open(&bucket, &options).expect("these settings fit")
    }

    /// Copies all of it into the folder `to`, which is made anew, as any program for buckets would.
    pub(crate) fn copy_to(&self, to: &Path) -> PathBuf {
        if to.exists() {
            fs::remove_dir_all(to).expect("the copy of before is removed");
        }
        fs::create_dir_all(to).expect("made");
        let store = self.store();
        let mut names = Vec::new();
        for listed in store.list(None).expect("listed") {
            match listed.kind {
                ListedKind::Folder => {
                    let below = store.list_all(&ObjectPath::new(&listed.name)).expect("listed");
                    names.extend(below.into_iter().map(|(name, _)| format!("{}/{name}", listed.name)));
                }
                _ => names.push(listed.name),
            }
        }
        for name in names {
            let path = to.join(&name);
            fs::create_dir_all(path.parent().expect("below the copy")).expect("made");
            // What a running controller takes away meanwhile is not there to be copied.
            match store.read(&ObjectPath::new(name), 1 << 30) {
                Err(error) if error.is_not_found() => {}
                bytes => fs::write(path, bytes.expect("read")).expect("written"),
            }
        }
        to.to_owned()
    }
}
