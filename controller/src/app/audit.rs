//! The audit log: list and prove.

use jiff::Timestamp;
use proto::Failure;
use proto::failure::reason;
use tonic::Code;

use crate::app::App;
use crate::audit::{AuditError, Entry, Report};

impl App {
    /// The newest entries, at most `limit`, none older than `since`; the newest first.
    pub async fn audit_entries(&self, since: Option<Timestamp>, limit: usize) -> Result<Vec<Entry>, Failure> {
        self.audit.list(since, limit).await.map_err(|error| unreadable(&error))
    }

    /// Proves the whole log.
    pub async fn check_audit(&self) -> Result<Report, Failure> {
        let report = self.audit.check().await.map_err(|error| unreadable(&error))?;
        if let Some(finding) = report.known.as_ref().or(report.finding.as_ref()) {
            tracing::error!(finding, "the audit log is damaged");
        }
        Ok(report)
    }
}

fn unreadable(error: &AuditError) -> Failure {
    Failure::new(Code::Internal, reason::STORAGE, "the audit log cannot be read")
        .caused_by(error)
        .hint("check the folder `audit` in the controller's state folder")
}
