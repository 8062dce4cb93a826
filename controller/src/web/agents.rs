//! The agents, and how another one joins.
//!
//! Must stay true: an invitation's text is shown once, in the answer to the form that made it.

use askama::Template;
use axum::body::Bytes;
use axum::response::Response;
use jiff::Timestamp;
use proto::Failure;
use proto::v1::agents_client::AgentsClient;
use proto::v1::{
    Agent, Invitation, InviteAgentRequest, ListAgentsRequest, ListInvitationsRequest, RevokeInvitationRequest,
};

use crate::web::form::Form;
use crate::web::site::{Asked, Frame, redirect, render};
use crate::web::text::{Mood, State, age, printable, size, source_words, time};

struct Line {
    name: String,
    state: State,
    host: String,
    serves: Vec<(String, String)>,
    seen: String,
    version: String,
    today: String,
}

struct Invited {
    id: String,
    name: String,
    uses: String,
    ends: String,
}

#[derive(Template)]
#[template(path = "agents.html")]
struct Agents {
    frame: Frame,
    agents: Vec<Line>,
    invited: Vec<Invited>,
    /// The text of an invitation that was just made, and when it ends.
    fresh: Option<(String, String)>,
}

/// How an agent is.
pub(super) fn state(agent: &Agent) -> State {
    match (agent.revoked, agent.clone_seen_at.is_some(), agent.connected) {
        (true, ..) => State::new(Mood::Plain, "revoked"),
        (_, true, _) => State::new(Mood::Bad, "cloned"),
        (.., true) => State::new(Mood::Good, "connected"),
        (.., false) => State::new(Mood::Bad, "away"),
    }
}

fn line(agent: Agent, now: Timestamp) -> Line {
    let state = state(&agent);
    let serves = agent.sources.iter().map(|served| {
        let source = served.source.clone().unwrap_or_default();
        (source_words(&source), printable(served.location.as_bytes()))
    });
    Line {
        serves: serves.collect(),
        state,
        seen: time(agent.last_seen_at).map_or("never".to_owned(), |at| age(at, now)),
        today: size(agent.bytes_today),
        name: agent.name,
        host: agent.host,
        version: agent.version,
    }
}

fn invited(invitation: Invitation, now: Timestamp) -> Invited {
    Invited {
        uses: match invitation.reusable {
            true => format!("{} of {} used", invitation.used, invitation.uses),
            false => "once".to_owned(),
        },
        ends: time(invitation.ends_at).map(|at| age(at, now)).unwrap_or_default(),
        name: if invitation.name.is_empty() { "any name".to_owned() } else { invitation.name },
        id: invitation.id,
    }
}

pub(super) async fn show(asked: Asked) -> Response {
    let made = shown(&asked, None).await;
    asked.answer(made)
}

async fn shown(asked: &Asked, fresh: Option<(String, String)>) -> Result<Response, Failure> {
    let (frame, now) = (asked.frame("Agents"), asked.site.app.now());
    let mut client = AgentsClient::new(asked.caller.clone());
    let listed = client.list_agents(ListAgentsRequest {}).await?.into_inner();
    let invitations = match frame.is_admin {
        true => client.list_invitations(ListInvitationsRequest {}).await?.into_inner().invitations,
        false => Vec::new(),
    };
    let mut agents: Vec<Line> = listed.agents.into_iter().map(|agent| line(agent, now)).collect();
    // Whoever is missing first, whoever is gone for good last.
    agents.sort_by_key(|agent| (agent.state.mood == Mood::Plain, agent.state.mood));
    let invited = invitations.into_iter().map(|one| invited(one, now)).collect();
    render(&Agents { frame, agents, invited, fresh })
}

pub(super) async fn invite(asked: Asked, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(form) => order(&asked, &form).await,
        Err(failure) => Err(failure),
    };
    asked.answer(made)
}

async fn order(asked: &Asked, form: &Form) -> Result<Response, Failure> {
    let sources = form.get("sources").split([',', ' ', '\n']).map(str::trim).filter(|one| !one.is_empty());
    let request = InviteAgentRequest {
        name: form.get("name").trim().to_owned(),
        valid_seconds: 0,
        uses: 0,
        sources: sources.map(str::to_owned).collect(),
    };
    let made = AgentsClient::new(asked.caller.clone()).invite_agent(request).await?.into_inner();
    let ends = time(made.ends_at).map(|at| age(at, asked.site.app.now())).unwrap_or_default();
    shown(asked, Some((made.token, ends))).await
}

pub(super) async fn uninvite(asked: Asked, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(form) => {
            let request = RevokeInvitationRequest { id: form.get("id").to_owned() };
            let done = AgentsClient::new(asked.caller.clone()).revoke_invitation(request).await;
            done.map(|_| redirect(&format!("{}agents", asked.site.base))).map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    asked.answer(made)
}
