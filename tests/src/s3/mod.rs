//! Object storage for the suites: a small server in memory, MinIO, and a proxy that breaks what passes it.

mod bucket;
mod fake;
mod http;
mod minio;
mod proxy;

pub use bucket::TestBucket;
pub use fake::{FakeS3, Habits};
pub use minio::Minio;
pub use proxy::{Harm, Proxy};

/// The key that both servers know.
pub const KEY_ID: &str = "testkey";
/// Its secret.
pub const SECRET: &str = "testsecret";
/// Where they are.
pub const REGION: &str = "eu-test-1";
