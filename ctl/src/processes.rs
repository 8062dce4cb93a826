//! Controller and agent as processes of their own: this very program under a hidden verb.
//!
//! Must stay true: a child never outlives its parent (it stops when its stdin ends, however the parent
//! went); no secret is in a child's arguments; an agent's environment holds nothing of the controller.

use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use agent::config::AgentConfig;
use controller::config::ControllerConfig;
use runtime::config::{Flag, Layers, Loaded, load};
use runtime::shutdown::Shutdown;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::cli::{self, AgentProcess};
use crate::commands::block_on;
use crate::output::exit::{Ended, Exit, Trouble};

/// How long a child has for its graceful stop; longer than its own deadlines.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// A running child.
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    /// Apart from the child, whose own would be closed by waiting for it.
    stdin: Option<ChildStdin>,
}

impl Program {
    /// Starts this program with `words`. What it logs goes to `log`, or where our own does.
    pub(crate) fn start(
        name: &'static str,
        words: &[OsString],
        environment: Vec<(OsString, OsString)>,
        log: Option<File>,
    ) -> Result<Self, Trouble> {
        let cannot =
            |error: std::io::Error| Trouble::failed(format!("cannot start the {name}")).caused_by(&error);
        let stderr = log.map_or_else(Stdio::inherit, Stdio::from);
        // Not `current_exe`: after an upgrade in place that name is another program's, or nobody's.
        let mut child = Command::new("/proc/self/exe")
            .arg0("nsctl")
            .args(words)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            // Ctrl-C is for us; the children are stopped in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits until it ends. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to stop, and kills it if it does not in time. Fine if it has ended.
    pub(crate) async fn stop(mut self) {
        drop(self.stdin);
        if timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            tracing::warn!(program = self.name, "it did not stop in time and is killed");
            self.child.kill().await.ok();
        }
    }
}

/// The environment for an agent: this process's without what is meant for the controller.
pub(crate) fn environment_of_agent() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_none_or(is_for_agent)).collect()
}

/// The environment for the demo's children: nothing that configures anything but logs.
pub(crate) fn environment_of_demo() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_none_or(is_neutral)).collect()
}

fn is_for_agent(name: &str) -> bool {
    const OURS: [&str; 5] = [
        "NEURASHIELD_AGENT__",
        "NEURASHIELD_SOURCES__",
        "NEURASHIELD_NAME",
        "NEURASHIELD_JOIN__",
        "NEURASHIELD_STATE",
    ];
    is_neutral(name) || OURS.iter().any(|start| name.starts_with(start))
}

fn is_neutral(name: &str) -> bool {
    let is_ours = name.starts_with("NEURASHIELD_") || name.starts_with("NSCTL_");
    !is_ours || name.starts_with("NEURASHIELD_LOG")
}

/// Runs as a child of `up` or `demo`.
pub(crate) fn run(child: cli::Child) -> Ended {
    match child {
        cli::Child::Agent(wanted) => run_agent(wanted),
        cli::Child::Controller { config } => run_controller(config),
    }
}

fn run_agent(wanted: AgentProcess) -> Ended {
    let flag = |path, value| Flag { name: "its parent", path, value };
    let path = |path: PathBuf| {
        path.into_os_string().into_string().map_err(|_| Trouble::usage("a path is not UTF-8"))
    };
    let mut layers = Layers::of_process(wanted.config, std::path::Path::new("/nonexistent"));
    layers.flags.push(flag("controller", wanted.controller));
    layers.flags.push(flag("state", path(wanted.state)?));
    if let Some(file) = wanted.token_file {
        layers.flags.push(flag("join.token_file", path(file)?));
    }
    let config: Loaded<AgentConfig> =
        load(&layers).map_err(|error| Trouble::usage("the agent cannot be configured").caused_by(&error))?;
    child("agent", |shutdown| agent::run(config.settings, shutdown))
}

fn run_controller(config: PathBuf) -> Ended {
    let layers = Layers { file: Some(config), ..Layers::default() };
    let config: Loaded<ControllerConfig> = load(&layers)
        .map_err(|error| Trouble::usage("the controller cannot be configured").caused_by(&error))?;
    child("controller", |shutdown| controller::run(config.settings, shutdown))
}

/// What both do: logs, the end of stdin as the request to stop, and an exit code.
fn child<F, E>(name: &str, program: impl FnOnce(Shutdown) -> F) -> Ended
where
    F: Future<Output = Result<(), E>>,
    E: std::error::Error,
{
    prepare()?;
    block_on(async {
        let shutdown = Shutdown::new();
        shutdown
            .listen_to_signals()
            .map_err(|error| Trouble::failed("cannot watch for signals").caused_by(&error))?;
        stop_with_stdin(shutdown.clone());
        let ended = Box::pin(program(shutdown)).await;
        ended.map_err(|error| Trouble::failed(format!("the {name} ended")).caused_by(&error))?;
        Ok(Exit::Done)
    })
}

/// Logs and cryptography, once for a process.
pub(crate) fn prepare() -> Result<(), Trouble> {
    runtime::telemetry::init().map_err(|error| Trouble::usage("logs cannot be set up").caused_by(&error))?;
    runtime::tls::install_crypto_provider();
    Ok(())
}

/// Not a task: a read of stdin cannot be taken back, and this thread just ends with the process.
fn stop_with_stdin(shutdown: Shutdown) {
    std::thread::spawn(move || {
        // Our parent never writes anything: whatever comes, it is the end.
        std::io::stdin().read_exact(&mut [0]).ok();
        shutdown.request();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_never_sees_what_opens_the_repository() {
        for secret in [
            "NEURASHIELD_KEY__PASSPHRASE",
            "NEURASHIELD_KEY__FILE",
            "NEURASHIELD_CONTROLLER__KEY__PASSPHRASE",
            "NEURASHIELD_SMTP_PASSWORD",
            "NEURASHIELD_WEB_PASSWORD",
            "NSCTL_TOKEN",
        ] {
            assert!(!is_for_agent(secret), "{secret}");
        }
        for harmless in
            ["PATH", "NEURASHIELD_LOG", "NEURASHIELD_SOURCES__0__PATH", "NEURASHIELD_AGENT__STATE"]
        {
            assert!(is_for_agent(harmless), "{harmless}");
        }
    }

    #[test]
    fn the_demo_ignores_the_settings_of_this_machine() {
        assert!(is_neutral("HOME") && is_neutral("NEURASHIELD_LOG_FORMAT"));
        assert!(!is_neutral("NEURASHIELD_REPOSITORY") && !is_neutral("NEURASHIELD_STATE"));
    }
}
