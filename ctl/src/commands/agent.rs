//! `nsctl agent list`, `invite`, `invites` and `revoke`.

use proto::v1;
use runtime::clock::{Clock, SystemClock};

use crate::cli;
use crate::client::{Client, ask};
use crate::output::exit::{Ended, Exit, Trouble};
use crate::output::words::utc;
use crate::output::{Voice, can_ask, confirm};
use crate::views::agent::{Agent, Agents, Invitation};
use crate::views::invites::{Invite, Invites};

pub(super) async fn run(client: Client, wanted: cli::Agent, voice: Voice) -> Ended {
    match wanted {
        cli::Agent::List(_) => list(client, voice).await,
        cli::Agent::Invite { name, valid, uses, sources, .. } => {
            let uses = uses.unwrap_or_default();
            let request = v1::InviteAgentRequest { name, valid_seconds: valid, uses, sources };
            invite(client, request, voice).await
        }
        cli::Agent::Invites { revoke: None, .. } => invites(client, voice).await,
        cli::Agent::Invites { revoke: Some(id), .. } => uninvite(client, id, voice).await,
        cli::Agent::Revoke { agent, yes, .. } => revoke(client, agent, yes, voice).await,
    }
}

async fn list(client: Client, voice: Voice) -> Ended {
    let wire = client.agents().list_agents(ask(v1::ListAgentsRequest {})).await?.into_inner();
    let agents = Agents { agents: wire.agents.into_iter().map(Agent::from).collect() };
    voice.result(&agents, |agents| agents.table(SystemClock.now()))?;
    Ok(Exit::Done)
}

async fn invite(client: Client, request: v1::InviteAgentRequest, voice: Voice) -> Ended {
    let whom = match request.uses {
        0 => "one agent join, once".to_owned(),
        1 => "1 agent join".to_owned(),
        uses => format!("{uses} agents join"),
    };
    let invitation = Invitation::from(client.agents().invite_agent(ask(request)).await?.into_inner());
    voice.result(&invitation, |invitation| invitation.token.clone())?;
    let until = invitation.ends_at.map_or_else(String::new, |at| format!(" until {}", utc(at)));
    voice.say(format!("this token lets {whom}{until}; hand it over in a file that only the agent can read"));
    Ok(Exit::Done)
}

async fn invites(client: Client, voice: Voice) -> Ended {
    let wire = client.agents().list_invitations(ask(v1::ListInvitationsRequest {})).await?.into_inner();
    let open = Invites { invitations: wire.invitations.into_iter().map(Invite::from).collect() };
    voice.result(&open, |open| open.table())?;
    Ok(Exit::Done)
}

async fn uninvite(client: Client, id: String, voice: Voice) -> Ended {
    let request = v1::RevokeInvitationRequest { id };
    let wire = client.agents().revoke_invitation(ask(request)).await?.into_inner();
    let revoked = Invites { invitations: vec![wire.into()] };
    voice.result(&revoked, |revoked| revoked.table())?;
    voice.say("nobody can join with it any more; agents that have joined with it stay");
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
