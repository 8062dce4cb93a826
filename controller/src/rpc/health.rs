//! `Health`: the doctor; and what `grpc.health.v1` says of the controller.

use std::time::Duration;

use proto::v1::finding::Level;
use proto::v1::health_server::Health;
use proto::v1::{
    DescribeRequest, DescribeResponse, ExamineRequest, ExamineResponse, Finding, GetRoomRequest, Room,
};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::{self, App};

/// A change shows at most this much later.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Says over `grpc.health.v1` whether the controller can do its work, until the stop.
pub(super) async fn report(app: App, reporter: HealthReporter) {
    let stop = app.shutdown.token();
    loop {
        let status = match app.unready().await {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status).await;
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return reporter.set_service_status("", ServingStatus::NotServing).await;
        }
    }
}

pub(super) struct HealthService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn examine(&self, _request: Request<ExamineRequest>) -> Result<Response<ExamineResponse>, Status> {
        let findings = self.app.examine().await.into_iter().map(finding).collect();
        Ok(Response::new(ExamineResponse { findings }))
    }

    async fn get_room(&self, _request: Request<GetRoomRequest>) -> Result<Response<Room>, Status> {
        let room = self.app.room().await?;
        Ok(Response::new(Room {
            used_bytes: room.used,
            free_bytes: room.free,
            days_until_full: room.days_until_full,
        }))
    }

    async fn describe(
        &self,
        _request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(self.app.describe().await))
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
        area: finding.check.area.to_owned(),
        check: finding.check.id.to_owned(),
        why: finding.check.why.to_owned(),
        finding: finding.finding,
        hint: finding.hint,
    }
}
