//! MinIO: built once per machine by `tests/engines/minio`, started on a free port in a folder of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{KEY_ID, REGION, SECRET};
use crate::{project, system, wait_for};

/// A server with its data. Dropped, both are gone.
#[derive(Debug)]
pub struct Minio {
    port: u16,
    folder: TempDir,
    process: Option<Child>,
    /// The folder of its certificate, if it has one.
    certificates: Option<PathBuf>,
}

impl Minio {
    /// A fresh server.
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// A fresh server with the certificate `public.crt` and the key `private.key` in `folder`.
    pub fn start_with_tls(folder: &Path) -> Self {
        Self::start_as(Some(folder.to_owned()))
    }

    fn start_as(certificates: Option<PathBuf>) -> Self {
        let folder = tempfile::Builder::new().prefix("neurashield-minio-").tempdir().expect("a folder");
        let mut minio = Self { port: system::free_port(), folder, process: None, certificates };
        minio.run();
        minio
    }

    fn address(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it can be reaped");
        }
    }

    /// Starts it again on what it kept.
    pub fn run(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        let process = Command::new(program())
            .args(["server", "--quiet", "--address", &format!("127.0.0.1:{}", self.port)])
            .args(self.certificates.iter().flat_map(|folder| [OsStr::new("--certs-dir"), folder.as_os_str()]))
            .arg(self.folder.path().join("data"))
            .env("MINIO_ROOT_USER", KEY_ID)
            .env("MINIO_ROOT_PASSWORD", SECRET)
            .env("MINIO_REGION", REGION)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("MinIO starts");
        self.process = Some(process);
        let address = format!("{}/minio/health/live", self.address());
        wait_for("MinIO to answer", 60, || {
            let asked = Command::new("curl").args(["-skf", "-o", "/dev/null", &address]).status();
            asked.expect("curl runs").success().then_some(())
        });
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) {
        let address = format!("{}/{name}", self.address());
        // It answers that it lives before it can do this.
        wait_for("MinIO to make a bucket", 60, || {
            let status = Command::new("curl")
                .args(["-skf", "-o", "/dev/null", "-X", "PUT", &address])
                .args([
                    "--aws-sigv4",
                    &format!("aws:amz:{REGION}:s3"),
                    "--user",
                    &format!("{KEY_ID}:{SECRET}"),
                ])
                .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
                .status();
            status.expect("curl runs").success().then_some(())
        });
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> String {
    let output = Command::new(project().join("tests/engines/minio"))
        .stderr(Stdio::inherit())
        .output()
        .expect("the script runs");
    assert!(output.status.success(), "MinIO cannot be had");
    String::from_utf8(output.stdout).expect("a path").trim().to_owned()
}
