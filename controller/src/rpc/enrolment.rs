//! `Enrolment`: the one call that needs no certificate.

use proto::v1::enrolment_server::Enrolment;
use proto::v1::{JoinRequest, JoinResponse};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::rpc::gate::About;

pub(super) struct EnrolmentService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let (asked, name) = (&request.certificate_request, &request.name);
        let joined = match request.service_account_token.as_str() {
            "" => {
                let joined = self.app.join(&request.token, asked, name).await?;
                about.say(format!("agent {} {name:?}", joined.agent));
                joined
            }
            token => {
                let (joined, account) = self.app.join_by_account(token, asked, name).await?;
                about.say(format!("agent {} {name:?} service account {account}", joined.agent));
                joined
            }
        };
        Ok(Response::new(self.app.join_response(joined.agent, joined.issued)))
    }
}
