//! `nsctl agent list`, `invite` and `revoke`.

use proto::v1;
use runtime::clock::{Clock, SystemClock};

use crate::cli;
use crate::client::{Client, ask};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::utc;
use crate::output::{Voice, can_ask, confirm};
use crate::views::agent::{Agent, Agents, Invitation};

pub(super) async fn run(client: Client, wanted: cli::Agent, voice: Voice) -> Ended {
    match wanted {
        cli::Agent::List(_) => list(client, voice).await,
        cli::Agent::Invite { name, valid, .. } => invite(client, name, valid, voice).await,
        cli::Agent::Revoke { agent, yes, .. } => revoke(client, agent, yes, voice).await,
    }
}

async fn list(client: Client, voice: Voice) -> Ended {
    let wire = client.agents().list_agents(ask(v1::ListAgentsRequest {})).await?.into_inner();
    let agents = Agents { agents: wire.agents.into_iter().map(Agent::from).collect() };
    voice.result(&agents, |agents| agents.table(SystemClock.now()))?;
    Ok(Exit::Done)
}

async fn invite(client: Client, name: String, valid_seconds: u32, voice: Voice) -> Ended {
    let request = v1::InviteAgentRequest { name, valid_seconds };
    let invitation = Invitation::from(client.agents().invite_agent(ask(request)).await?.into_inner());
    voice.result(&invitation, |invitation| invitation.token.clone())?;
    let until = invitation.ends_at.map_or_else(String::new, |at| format!(" until {}", utc(at)));
    voice.say(format!(
        "this token lets one agent join, once{until}; hand it over in a file that only the agent can read"
    ));
    Ok(Exit::Done)
}

async fn revoke(client: Client, agent: String, yes: bool, voice: Voice) -> Ended {
    if !yes {
        if !can_ask() {
            return Err(Trouble::usage("shutting an agent out has to be confirmed")
                .because("there is no terminal to ask on")
                .hint("add --yes"));
        }
        if !confirm(&format!("The agent {agent} can never connect again with its identity."))? {
            voice.say("nothing was changed");
            return Ok(Exit::Failed);
        }
    }
    let wire = client.agents().revoke_agent(ask(v1::RevokeAgentRequest { id: agent })).await?.into_inner();
    let agents = Agents { agents: vec![wire.into()] };
    voice.result(&agents, |agents| agents.table(SystemClock.now()))?;
    Ok(Exit::Done)
}
