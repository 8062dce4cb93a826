//! `Agents`: list, invite, shut out.

use jiff::SignedDuration;
use proto::convert::{self, to_wire_time};
use proto::v1::agents_server::Agents;
use proto::v1::{
    Agent, InviteAgentRequest, InviteAgentResponse, ListAgentsRequest, ListAgentsResponse, RevokeAgentRequest,
};
use tonic::{Request, Response, Status};

use crate::app::App;
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
        let agents = agents.iter().map(|agent| wire::agent(agent, self.app.fleet.is_connected(agent.id)));
        Ok(Response::new(ListAgentsResponse { agents: agents.collect() }))
    }

    async fn invite_agent(
        &self,
        request: Request<InviteAgentRequest>,
    ) -> Result<Response<InviteAgentResponse>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let name = convert::text("name", &request.name, 64)?;
        about.say(format!("agent {name:?}"));
        let life =
            (request.valid_seconds > 0).then(|| SignedDuration::from_secs(request.valid_seconds.into()));
        let invitation = self.app.invite(&name, life).await?;
        Ok(Response::new(InviteAgentResponse {
            token: invitation.token.to_text().to_string(),
            ends_at: Some(to_wire_time(invitation.ends_at)),
        }))
    }

    async fn revoke_agent(&self, request: Request<RevokeAgentRequest>) -> Result<Response<Agent>, Status> {
        let about = About::of(&request);
        let agent = self.app.revoke(&request.into_inner().id).await?;
        about.say(format!("agent {} {:?}", agent.id, agent.name));
        Ok(Response::new(wire::agent(&agent, false)))
    }
}
