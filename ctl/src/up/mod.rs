//! `nsctl up`: the single-host service. The controller runs in this process, the agent in one of its own
//! that has no key and an identity of its own.
//!
//! Must stay true: the agent of `up` is an agent like any other; it joins by a one-time token and speaks
//! mTLS to the controller beside it. What ends either of the two for good ends the service, so that
//! whoever supervises it sees it.

pub(crate) mod keeper;
pub(crate) mod settings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use controller::start::Addresses;
use controller::{Controller, StartError};
use proto::v1;
use runtime::shutdown::Shutdown;
use tokio::time::sleep;

use crate::cli::AgentProcess;
use crate::client::{Client, ask};
use crate::commands::block_on;
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};
use crate::processes;
use crate::views::schedule::Schedules;
use keeper::Keeper;
use settings::Both;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a token of ours can be used: the agent starts within moments.
const TOKEN_SECONDS: u32 = 600;

/// Runs the service until it is asked to stop.
pub(crate) fn run(config: Option<PathBuf>, voice: Voice) -> Ended {
    let both = settings::read(config)?;
    processes::prepare()?;
    block_on(async { Box::pin(serve(both, voice)).await })
}

async fn serve(both: Both, voice: Voice) -> Ended {
    let Both { controller, agent } = both;
    let shutdown = Shutdown::new();
    shutdown
        .listen_to_signals()
        .map_err(|error| Trouble::failed("cannot watch for signals").caused_by(&error))?;
    let started = Controller::start(controller.settings, shutdown.clone()).await;
    let controller = started.map_err(|error| cannot_start(&error))?;
    let addresses = controller.addresses().clone();
    let mut running = tokio::spawn(controller.serve());
    let client = Client::at_socket(&format!("unix://{}", addresses.socket.display())).await?;

    let wanted = AgentProcess {
        config: agent.file,
        controller: agent.settings.controller.clone(),
        state: agent.settings.state.clone(),
        token_file: token_file(&client, &agent.settings.name, &agent.settings.state).await?,
    };
    let mut keeper = Keeper::start(wanted)?;
    voice.say(ready(&addresses, &coming(&client).await?));
    let stopped = shutdown.token();
    let trouble = tokio::select! {
        () = stopped.cancelled() => None,
        trouble = keeper.keep() => Some(trouble),
        ended = &mut running => {
            keeper.stop().await;
            return Err(controller_ended(ended));
        }
    };
    shutdown.request();
    let ((), ended) = tokio::join!(keeper.stop(), running);
    match (trouble, ended) {
        (Some(trouble), _) => Err(trouble),
        (None, Ok(_)) => Ok(Exit::Done),
        (None, ended) => Err(controller_ended(ended)),
    }
}

/// Tries until the controller answers a call at its socket.
pub(crate) async fn answering(server: &str) -> Client {
    loop {
        if let Ok(client) = Client::at_socket(server).await
            && client.agents().list_agents(ask(v1::ListAgentsRequest {})).await.is_ok()
        {
            return client;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A fresh token in a file that only this user can read; `None` if the agent has joined before.
pub(crate) async fn token_file(
    client: &Client,
    name: &str,
    state: &Path,
) -> Result<Option<PathBuf>, Trouble> {
    if has_joined(state) {
        return Ok(None);
    }
    let request = v1::InviteAgentRequest {
        name: name.to_owned(),
        valid_seconds: TOKEN_SECONDS,
        ..v1::InviteAgentRequest::default()
    };
    let token = client.agents().invite_agent(ask(request)).await?.into_inner().token;
    let cannot = |error: &dyn std::error::Error| {
        Trouble::failed(format!("cannot use the agent's state folder {}", state.display()))
            .caused_by(error)
            .hint("choose a folder that this user may write to: `state` in the section `agent:`")
    };
    std::fs::create_dir_all(state).map_err(|error| cannot(&error))?;
    let file = state.join("join-token");
    runtime::atomic_file::write(&file, token.as_bytes(), runtime::atomic_file::PRIVATE)
        .map_err(|error| cannot(&error))?;
    Ok(Some(file))
}

/// Whether the agent with this state folder has an identity.
pub(crate) fn has_joined(state: &Path) -> bool {
    state.join("identity.json").exists()
}

fn cannot_start(error: &StartError) -> Trouble {
    Trouble::failed("the controller cannot start").caused_by(error).hint(
        "mend the cause and start it again; `nsctl config show --origin` says where each setting comes from",
    )
}

/// Nobody asked it to.
fn controller_ended<T>(ended: Result<T, tokio::task::JoinError>) -> Trouble {
    let why = ended.err().map_or_else(|| "it was not asked to".to_owned(), |error| error.to_string());
    Trouble::failed("the controller ended").because(why).hint("its log above says more; start it again")
}

/// What comes by itself.
async fn coming(client: &Client) -> Result<Vec<String>, Trouble> {
    let wire = client.schedules().list_schedules(ask(v1::ListSchedulesRequest {})).await?.into_inner();
    Ok(Schedules::from(wire).coming())
}

fn ready(at: &Addresses, coming: &[String]) -> String {
    let coming: String = coming.iter().map(|line| format!("\x20 next    {line}\n")).collect();
    format!(
        "NeuraShield Backup is ready\n\
         \x20 page    http://{}\n\
         \x20 agents, and nsctl with a token  https://{}\n\
         \x20 probes  http://{}\n\
         \x20 nsctl   --server unix://{}\n\
         {coming}\
         Ctrl-C stops it.",
        settings::reachable(at.web),
        settings::reachable(at.grpc),
        settings::reachable(at.probes),
        at.socket.display(),
    )
}
