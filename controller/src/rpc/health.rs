//! `Health`: the doctor.

use proto::v1::finding::Level;
use proto::v1::health_server::Health;
use proto::v1::{ExamineRequest, ExamineResponse, Finding};
use tonic::{Request, Response, Status};

use crate::app::{self, App};

pub(super) struct HealthService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn examine(&self, _request: Request<ExamineRequest>) -> Result<Response<ExamineResponse>, Status> {
        let findings = self.app.examine().await.into_iter().map(finding).collect();
        Ok(Response::new(ExamineResponse { findings }))
    }
}

fn finding(finding: app::Finding) -> Finding {
    let level = match finding.level {
        app::FindingLevel::Fine => Level::Fine,
        app::FindingLevel::Warning => Level::Warning,
        app::FindingLevel::Problem => Level::Problem,
    };
    Finding {
        level: level.into(),
        area: finding.area.to_owned(),
        finding: finding.finding,
        hint: finding.hint,
    }
}
