//! `Agents`: list, invite, shut out.

use jiff::SignedDuration;
use proto::Failure;
use proto::convert::{self, to_wire_time};
use proto::v1::agents_server::Agents;
use proto::v1::{
    Agent, Invitation, InviteAgentRequest, InviteAgentResponse, ListAgentsRequest, ListAgentsResponse,
    ListInvitationsRequest, ListInvitationsResponse, RevokeAgentRequest, RevokeInvitationRequest,
};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::identity::{InvalidPattern, SourceBounds, Terms, name_pattern};
use crate::rpc::gate::About;
use crate::rpc::wire;

pub(super) struct AgentsService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Agents for AgentsService {
    async fn list_agents(
        &self,
        _request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let agents = self.app.agents().await?;
        let now = self.app.now();
        let agents = agents.iter().map(|agent| {
            let used = self.app.quotas.used_by(agent.id, now);
            wire::agent(agent, self.app.fleet.is_connected(agent.id), used)
        });
        Ok(Response::new(ListAgentsResponse { agents: agents.collect() }))
    }

    async fn invite_agent(
        &self,
        request: Request<InviteAgentRequest>,
    ) -> Result<Response<InviteAgentResponse>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let terms = terms(&request)?;
        about.say(format!("agents {:?}, {} of them", terms.name, terms.uses));
        let life =
            (request.valid_seconds > 0).then(|| SignedDuration::from_secs(request.valid_seconds.into()));
        let invitation = self.app.invite_on(&terms, life).await?;
        Ok(Response::new(InviteAgentResponse {
            token: invitation.token.to_text().to_string(),
            ends_at: Some(to_wire_time(invitation.ends_at)),
        }))
    }

    async fn list_invitations(
        &self,
        _request: Request<ListInvitationsRequest>,
    ) -> Result<Response<ListInvitationsResponse>, Status> {
        let invitations = self.app.invitations().await?;
        let invitations = invitations.iter().map(wire::invitation).collect();
        Ok(Response::new(ListInvitationsResponse { invitations }))
    }

    async fn revoke_invitation(
        &self,
        request: Request<RevokeInvitationRequest>,
    ) -> Result<Response<Invitation>, Status> {
        let about = About::of(&request);
        let record = self.app.revoke_invitation(&request.into_inner().id).await?;
        about.say(format!("invitation {}", record.id));
        Ok(Response::new(wire::invitation(&record)))
    }

    async fn revoke_agent(&self, request: Request<RevokeAgentRequest>) -> Result<Response<Agent>, Status> {
        let about = About::of(&request);
        let agent = self.app.revoke(&request.into_inner().id).await?;
        about.say(format!("agent {} {:?}", agent.id, agent.name));
        Ok(Response::new(wire::agent(&agent, false, self.app.quotas.used_by(agent.id, self.app.now()))))
    }
}

/// More agents than a controller takes.
const MAX_USES: u32 = 1_000;

/// What an invitation is to allow.
fn terms(request: &InviteAgentRequest) -> Result<Terms, Failure> {
    let wrong = |error: InvalidPattern| Failure::invalid(error.to_string());
    let name = convert::text("name", &request.name, 64)?;
    let is_reusable = request.uses > 0;
    if request.uses > MAX_USES {
        return Err(Failure::invalid(format!("a join key is for at most {MAX_USES} agents")));
    }
    if is_reusable {
        name_pattern(&name).map_err(wrong)?;
    }
    let bounds = SourceBounds::new(&request.sources).map_err(wrong)?;
    Ok(Terms { name, is_reusable, uses: request.uses.max(1), bounds })
}
