//! A controller on real sockets, and an agent that does what the test says.
#![allow(dead_code, unreachable_pub)] // each test program compiles this module and uses its part

pub mod agent;
pub mod archive;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use controller::app::App;
use controller::config::{ControllerConfig, Listen, Verifying};
use controller::start::{Addresses, Controller};
use jiff::Timestamp;
use proto::v1::jobs_client::JobsClient;
use proto::v1::{Job, JobState, StartBackupRequest, WatchJobRequest};
use runtime::clock::{Clock, SystemClock};
use runtime::shutdown::Shutdown;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything here takes; what waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long an agent that is away is waited for in these tests.
pub const AGENT_WAIT: Duration = Duration::from_millis(1_500);

pub struct Running {
    pub app: App,
    pub addresses: Addresses,
    pub shutdown: Shutdown,
    serving: JoinHandle<()>,
}

/// Starts a controller whose repository and state lie in `home`.
pub async fn start(home: &Path) -> Running {
    start_as(home, Verifying::default(), Arc::new(SystemClock)).await
}

/// The same with settings of verification and a clock.
pub async fn start_as(home: &Path, verification: Verifying, clock: Arc<dyn Clock>) -> Running {
    let nowhere = "127.0.0.1:0".parse().expect("an address");
    let socket = home.join("run/controller.sock");
    let config = ControllerConfig {
        repository: home.join("backups").into(),
        state: home.join("state"),
        listen: Listen { grpc: nowhere, web: nowhere, probes: nowhere, socket },
        verification,
        ..ControllerConfig::default()
    };
    let shutdown = Shutdown::new();
    let controller = Controller::start_with(config, shutdown.clone(), clock, AGENT_WAIT);
    let controller = controller.await.expect("the controller starts");
    let (app, addresses) = (controller.app().clone(), controller.addresses().clone());
    Running { app, addresses, shutdown, serving: tokio::spawn(controller.serve()) }
}

impl Running {
    /// Stops gracefully and waits for the rest.
    pub async fn stop(self) {
        self.shutdown.request();
        drop(self.app);
        tokio::time::timeout(PATIENCE, self.serving)
            .await
            .expect("it stops in time")
            .expect("it does not panic");
    }

    /// A token for one agent.
    pub async fn token(&self) -> proto::token::JoinToken {
        self.app.invite("", None).await.expect("invited").token
    }

    pub async fn people(&self) -> Channel {
        let address = format!("unix://{}", self.addresses.socket.display());
        Endpoint::from_shared(address).expect("an address").connect().await.expect("the socket answers")
    }

    pub async fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(self.people().await)
    }

    pub async fn start_backup(&self, components: &[&str]) -> Job {
        let request = StartBackupRequest {
            components: components.iter().map(ToString::to_string).collect(),
            ..StartBackupRequest::default()
        };
        self.jobs().await.start_backup(request).await.expect("ordered").into_inner()
    }

    /// The job once it has ended, and every line that was told of it.
    pub async fn ended(&self, id: &str) -> (Job, Vec<String>) {
        let watch = WatchJobRequest { id: id.to_owned(), after: 0 };
        let mut events = self.jobs().await.watch_job(watch).await.expect("watched").into_inner();
        let (mut last, mut lines) = (None, Vec::new());
        let follow = async {
            while let Some(event) = events.message().await.expect("the stream does not break") {
                if !event.line.is_empty() {
                    lines.push(event.line);
                }
                last = event.job.or(last.take());
            }
        };
        tokio::time::timeout(PATIENCE, follow).await.expect("the job ends in time");
        (last.expect("the stream ends with the job"), lines)
    }
}

pub fn state(job: &Job) -> JobState {
    job.state()
}

/// Changes a bit of each pack.
pub fn damage_packs(home: &Path) {
    for folder in std::fs::read_dir(home.join("backups/repository/packs")).expect("packs") {
        for pack in std::fs::read_dir(folder.expect("a folder").path()).expect("listed") {
            let path = pack.expect("a pack").path();
            let mut bytes = std::fs::read(&path).expect("read");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::remove_file(&path).expect("removed");
            std::fs::write(&path, bytes).expect("written");
        }
    }
}

pub fn now() -> Timestamp {
    runtime::clock::Clock::now(&SystemClock)
}
