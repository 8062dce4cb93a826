//! `Tokens`: make, list, revoke.

use jiff::SignedDuration;
use proto::v1::tokens_server::Tokens;
use proto::v1::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse, RevokeTokenRequest, Token,
};
use proto::{Failure, convert};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::audit::Who;
use crate::rpc::gate::About;
use crate::rpc::wire;

pub(super) struct TokensService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Tokens for TokensService {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let about = About::of(&request);
        let by = request.extensions().get::<Who>().map(Who::to_string).unwrap_or_default();
        let request = request.into_inner();
        let name = convert::text("name", &request.name, 64)?;
        about.say(format!("token {name:?}"));
        let role = wire::role(request.role()).ok_or_else(|| Failure::invalid("the role is not known"))?;
        let life =
            (request.valid_seconds > 0).then(|| SignedDuration::from_secs(request.valid_seconds.into()));
        let (token, record) = self.app.create_token(&name, role, life, &by).await?;
        about.say(format!("token {} {name:?}, {}, until {}", record.id, role.word(), record.ends_at));
        let text = token.to_text().to_string();
        Ok(Response::new(CreateTokenResponse { text, token: Some(wire::token(&record)) }))
    }

    async fn list_tokens(
        &self,
        _request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let tokens = self.app.api_tokens().await?;
        Ok(Response::new(ListTokensResponse { tokens: tokens.iter().map(wire::token).collect() }))
    }

    async fn revoke_token(&self, request: Request<RevokeTokenRequest>) -> Result<Response<Token>, Status> {
        let about = About::of(&request);
        let record = self.app.revoke_token(&request.into_inner().id).await?;
        about.say(format!("token {} {:?}", record.id, record.name));
        Ok(Response::new(wire::token(&record)))
    }
}
