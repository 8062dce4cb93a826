//! The demo's folder, its two programs, and the ways to them.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::v1;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::sample::COMPONENTS;
use crate::cli::AgentProcess;
use crate::client::{Client, ask};
use crate::output::exit::{Exit, Trouble};
use crate::processes::{Program, environment_of_demo};
use crate::up::{answering, keeper, token_file};

const WEB_PORT: u16 = 8080;
/// How long a program may take until it can be used.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often the controller is started with other ports.
const ATTEMPTS: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The name of a Unix socket has 108 bytes at most.
const LONGEST_FOLDER: usize = 80;

/// Everything that the demo has made and started.
pub(super) struct Stage {
    folder: PathBuf,
    ports: Ports,
    controller: Option<Program>,
    agent: Option<Program>,
}

/// Where the controller listens.
struct Ports {
    web: SocketAddr,
    grpc: SocketAddr,
    probes: SocketAddr,
}

impl Default for Ports {
    fn default() -> Self {
        let none = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { web: none, grpc: none, probes: none }
    }
}

impl Ports {
    /// The usual port for the page if it is free; free ones for the rest, all held until all are known.
    fn free() -> io::Result<Self> {
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let held = [bind(WEB_PORT).or_else(|_| bind(0))?, bind(0)?, bind(0)?];
        let [web, grpc, probes] = held.each_ref().map(TcpListener::local_addr);
        Ok(Self { web: web?, grpc: grpc?, probes: probes? })
    }
}

impl Stage {
    /// A new folder, this user's alone.
    pub(super) fn new() -> Result<Self, Trouble> {
        let folder = make_folder().map_err(|error| {
            Trouble::failed("cannot make a folder for the demo")
                .caused_by(&error)
                .hint("set TMPDIR to a folder that you may write to and that has 600 MiB of room")
        })?;
        Ok(Self { folder, ports: Ports::default(), controller: None, agent: None })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The data that is backed up.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    pub(super) fn grpc(&self) -> SocketAddr {
        self.ports.grpc
    }

    fn server(&self) -> String {
        format!("unix://{}", self.folder.join("controller.sock").display())
    }

    /// Starts the controller, which makes its repository, then the agent, which joins by a one-time token.
    /// Returns their process ids.
    pub(super) async fn start(&mut self) -> Result<(Client, u32, u32), Trouble> {
        let (client, controller) = self.start_controller().await?;
        let agent = self.start_agent(&client).await?;
        Ok((client, controller, agent))
    }

    /// A free port may be taken by another program before ours gets it: then with others.
    async fn start_controller(&mut self) -> Result<(Client, u32), Trouble> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            self.ports = Ports::free()
                .map_err(|error| Trouble::failed("there is no free port on 127.0.0.1").caused_by(&error))?;
            let (config, server, log) = (self.write_config()?, self.server(), self.log("controller.log")?);
            let words = ["controller-process".into(), "--config".into(), config.into_os_string()];
            let started = Program::start("controller", &words, environment_of_demo(), Some(log))?;
            let controller = self.controller.insert(started);
            let id = controller.id();
            tokio::select! {
                client = timeout(READY_WITHIN, answering(&server)) => {
                    let client = client.map_err(|_| not_ready("controller", "it did not answer in time"))?;
                    return Ok((client, id));
                }
                ended = controller.ended() => last = how(ended),
            }
        }
        Err(not_ready("controller", &last))
    }

    async fn start_agent(&mut self, client: &Client) -> Result<u32, Trouble> {
        let state = self.folder.join("agent");
        let wanted = AgentProcess {
            config: Some(self.config()),
            controller: format!("https://{}", self.ports.grpc),
            token_file: token_file(client, "demo", &state).await?,
            state,
        };
        let (words, log) = (keeper::words(&wanted), self.log("agent.log")?);
        let agent = self.agent.insert(Program::start("agent", &words, environment_of_demo(), Some(log))?);
        let id = agent.id();
        tokio::select! {
            connected = timeout(READY_WITHIN, connected(client)) => {
                connected.map_err(|_| not_ready("agent", "it did not connect in time"))??;
            }
            ended = agent.ended() => return Err(not_ready("agent", &how(ended))),
        }
        Ok(id)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("neurashield.yaml")
    }

    /// Both sections of the configuration, as a person would write them.
    fn write_config(&self) -> Result<PathBuf, Trouble> {
        let source = |(component, kind): (&str, &str)| {
            let folder = self.data().join(component);
            match kind {
                "configs" => {
                    let files = folder.join("*.yaml");
                    json!({ "component": component, "name": component, "kind": kind, "files": [files] })
                }
                _ => json!({ "component": component, "name": component, "kind": kind, "path": folder }),
            }
        };
        let config = json!({
            "controller": {
                "repository": self.repository(),
                "state": self.folder.join("controller"),
                // At 01:00 nothing is to come between the steps.
                "schedules": {},
                "listen": {
                    "grpc": self.ports.grpc, "web": self.ports.web, "probes": self.ports.probes,
                    "socket": self.folder.join("controller.sock"),
                },
            },
            "agent": { "name": "demo", "sources": COMPONENTS.map(source) },
        });
        let file = self.config();
        // JSON is YAML.
        fs::write(&file, format!("{config:#}\n"))
            .map_err(|error| Trouble::failed("cannot write the configuration").caused_by(&error))?;
        Ok(file)
    }

    fn log(&self, name: &str) -> Result<File, Trouble> {
        File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(name))
            .map_err(|error| Trouble::failed("cannot make a log file").caused_by(&error))
    }

    /// What to do while the demo waits.
    pub(super) fn invitation(&self) -> String {
        let taken = match self.ports.web.port() {
            WEB_PORT => String::new(),
            _ => format!("  (port {WEB_PORT} is taken)"),
        };
        let server = self.server();
        format!(
            "\nThe page: http://localhost:{}{taken}; sign in with what this prints:\n\
             \x20 nsctl --server {server} token create me --role admin\n\
             Look around from another terminal, e.g.\n\
             \x20 nsctl --server {server} list\n\
             \x20 nsctl --server {server} ls latest models\n\
             Ctrl-C ends the demo and removes its folder.",
            self.ports.web.port()
        )
    }

    /// Stops both programs, the agent first. Fine if they never ran.
    pub(super) async fn stop(&mut self) {
        for program in [self.agent.take(), self.controller.take()].into_iter().flatten() {
            program.stop().await;
        }
    }
}

async fn connected(client: &Client) -> Result<(), Trouble> {
    loop {
        let agents = client.agents().list_agents(ask(v1::ListAgentsRequest {})).await?.into_inner().agents;
        if agents.iter().any(|agent| agent.connected && agent.sources.len() == COMPONENTS.len()) {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

fn how(ended: io::Result<std::process::ExitStatus>) -> String {
    ended.map_or_else(|error| error.to_string(), |status| format!("it ended with {status}"))
}

fn not_ready(name: &str, why: &str) -> Trouble {
    Trouble::new(Exit::Unreachable, format!("the {name} did not start"))
        .because(why)
        .hint(format!("read {name}.log in the demo's folder"))
}

fn make_folder() -> io::Result<PathBuf> {
    let mut base = std::env::temp_dir();
    if base.as_os_str().len() > LONGEST_FOLDER {
        base = PathBuf::from("/tmp");
    }
    let folder = base.join(format!("neurashield-demo-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}
