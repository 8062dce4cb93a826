//! `Audit`: list and prove.

use proto::convert::{from_wire_time, to_wire_time};
use proto::v1::audit_server::Audit;
use proto::v1::{AuditEntry, CheckAuditRequest, CheckAuditResponse, ListAuditRequest, ListAuditResponse};
use repository::ids::hex;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::audit::{Entry, Kind, Outcome};

const USUAL_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 1_000;

pub(super) struct AuditService {
    pub(super) app: App,
}

#[tonic::async_trait]
impl Audit for AuditService {
    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        let request = request.into_inner();
        let since = request.since.map(|since| from_wire_time("since", since)).transpose()?;
        let limit = match request.limit {
            0 => USUAL_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        let entries = self.app.audit_entries(since, limit as usize).await?;
        Ok(Response::new(ListAuditResponse { entries: entries.into_iter().map(entry).collect() }))
    }

    async fn check_audit(
        &self,
        _request: Request<CheckAuditRequest>,
    ) -> Result<Response<CheckAuditResponse>, Status> {
        let report = self.app.check_audit().await?;
        Ok(Response::new(CheckAuditResponse {
            lines: report.lines,
            first: report.first,
            last: report.last,
            head: if report.lines > 0 { hex(&report.hash) } else { String::new() },
            finding: report.known.or(report.finding).unwrap_or_default(),
        }))
    }
}

fn entry(entry: Entry) -> AuditEntry {
    let kind = match entry.kind {
        Kind::User => "user",
        Kind::Token => "token",
        Kind::Agent => "agent",
        Kind::Controller => "controller",
        Kind::Nobody => "nobody",
    };
    let result = match entry.result {
        Outcome::Begun => "begun",
        Outcome::Done => "done",
        Outcome::Failed => "failed",
        Outcome::Denied => "denied",
        Outcome::Noted => "noted",
    };
    AuditEntry {
        sequence: entry.sequence,
        at: Some(to_wire_time(entry.at)),
        kind: kind.to_owned(),
        id: entry.id,
        name: entry.name,
        from: entry.from,
        call: entry.call,
        about: entry.about,
        result: result.to_owned(),
        reason: entry.reason,
        of: entry.of,
        times: entry.times,
    }
}
