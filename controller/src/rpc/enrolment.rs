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
        let joined = self.app.join(&request.token, &request.certificate_request, &request.name).await?;
        about.say(format!("agent {} {:?}", joined.agent, request.name));
        Ok(Response::new(self.app.join_response(joined.agent, joined.issued)))
    }
}
