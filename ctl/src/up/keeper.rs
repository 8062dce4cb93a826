//! Keeps the agent of `up` running: starts it again when it dies, less and less eagerly, and gives up when
//! it keeps dying young.

use std::convert::Infallible;
use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::Duration;

use runtime::backoff::Backoff;
use tokio::time::{Instant, sleep};

use crate::cli::AgentProcess;
use crate::output::exit::Trouble;
use crate::processes::{Program, environment_of_agent};
use crate::up::has_joined;

/// An agent that lived this long was well.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// So many deaths one after the other, each before that, are no accident.
const DEATHS: u32 = 6;
/// How often to look whether the agent has joined.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The agent and how it fares.
pub(super) struct Keeper {
    wanted: AgentProcess,
    program: Program,
    started: Instant,
    deaths: u32,
    backoff: Backoff,
}

impl Keeper {
    pub(super) fn start(wanted: AgentProcess) -> Result<Self, Trouble> {
        let program = start(&wanted)?;
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        Ok(Self { wanted, program, started: Instant::now(), deaths: 0, backoff })
    }

    /// Watches the agent for as long as it can be kept running; returns why it cannot any more. May be
    /// dropped at any time.
    pub(super) async fn keep(&mut self) -> Trouble {
        loop {
            let ended = tokio::select! {
                ended = self.program.ended() => ended,
                never = forget_token(&self.wanted) => match never {},
            };
            if let Err(trouble) = self.died(ended).await {
                return trouble;
            }
        }
    }

    async fn died(&mut self, ended: std::io::Result<ExitStatus>) -> Result<(), Trouble> {
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        if self.started.elapsed() > WELL_AFTER {
            self.deaths = 0;
            self.backoff.reset();
        }
        self.deaths += 1;
        if self.deaths >= DEATHS {
            return Err(Trouble::failed("the agent cannot be kept running")
                .because(format!("it ended {DEATHS} times within moments of its start, last with {how}"))
                .hint("its log above says why; `nsctl config check` looks at its settings"));
        }
        let delay = self.backoff.next_delay(chance());
        tracing::warn!(how, after = ?delay, "the agent ended; it is started again");
        sleep(delay).await;
        self.program = start(&self.wanted)?;
        self.started = Instant::now();
        Ok(())
    }

    pub(super) async fn stop(self) {
        self.program.stop().await;
        if has_joined(&self.wanted.state) {
            remove_token(&self.wanted);
        }
    }
}

/// A number that differs from one host and moment to the next.
fn chance() -> u64 {
    uuid::Uuid::now_v7().as_u64_pair().1
}

/// Removes the token as soon as it has served.
async fn forget_token(wanted: &AgentProcess) -> Infallible {
    while !has_joined(&wanted.state) {
        sleep(LOOK_EVERY).await;
    }
    remove_token(wanted);
    std::future::pending().await
}

fn remove_token(wanted: &AgentProcess) {
    if let Some(file) = &wanted.token_file {
        // It is worth nothing any more; if it stays, it only lies there.
        std::fs::remove_file(file).ok();
    }
}

fn start(wanted: &AgentProcess) -> Result<Program, Trouble> {
    Program::start("agent", &words(wanted), environment_of_agent(), None)
}

/// The hidden verb with its flags.
pub(crate) fn words(wanted: &AgentProcess) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        ["agent-process", "--controller", &wanted.controller].map(OsString::from).to_vec();
    words.extend(["--state".into(), wanted.state.clone().into_os_string()]);
    let optional = [("--config", &wanted.config), ("--token-file", &wanted.token_file)];
    for (flag, file) in optional {
        words.extend(file.iter().flat_map(|file| [flag.into(), file.clone().into_os_string()]));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Child;

    #[test]
    fn the_hidden_verb_understands_what_its_parent_tells_it() {
        let wanted = AgentProcess {
            config: Some("/etc/neurashield/neurashield.yaml".into()),
            controller: "https://127.0.0.1:8443".to_owned(),
            state: "/var/lib/agent".into(),
            token_file: None,
        };
        let words: Vec<OsString> = std::iter::once("nsctl".into()).chain(words(&wanted)).collect();
        let Some(Child::Agent(told)) = Child::asked_for(&words) else { panic!("an agent is asked for") };
        assert_eq!(told.config, wanted.config);
        assert_eq!(told.controller, wanted.controller);
        assert_eq!(told.state, wanted.state);
        assert_eq!(told.token_file, None);
    }
}
