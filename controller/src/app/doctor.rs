//! The doctor: looks at everything that a backup or a restore needs, and says what to do.
//!
//! Must stay true: every finding is of a check in [`CHECKS`], from which the troubleshooting guide is made
//! as well; what can be tried is tried for real; a part that cannot be looked at is a finding, and the rest
//! is looked at all the same.

mod agents;
mod checks;
mod finding;
mod growth;
mod repository;
mod work;

use jiff::{SignedDuration, Timestamp};
use proto::Failure;

use crate::app::App;

pub use checks::{CHECKS, Check};
pub use finding::{Finding, FindingLevel};
pub(super) use growth::{Change, days_until_full};
pub use repository::state_folder;

use checks as c;

/// A large repository is listed within this time; whoever asks waits for two minutes.
const STORAGE_TAKES: std::time::Duration = std::time::Duration::from_secs(60);
const SOON: SignedDuration = SignedDuration::from_hours(24 * 14);

impl App {
    /// Looks at everything.
    pub async fn examine(&self) -> Vec<Finding> {
        let now = self.now();
        let mut findings = Vec::new();
        let of_catalog = |failure: Failure| {
            Finding::problem(&c::STATE_SPACE, format!("{}: {}", failure.what, failure.why)).hint(failure.hint)
        };
        let changes = self.changes().await.unwrap_or_else(|failure| {
            findings.push(of_catalog(failure));
            Vec::new()
        });
        let known = repository::Known {
            now,
            low_space: self.config.alerts.low_space.bytes(),
            changes,
            has_key: self.config.key.source().is_some(),
        };
        let (depot, state) = (self.depot.clone(), self.config.state.clone());
        let look = move || repository::examine(&depot, &state, &known);
        let of_repository = self.storages.lock().await.doctor.look(STORAGE_TAKES, look).await;
        findings.extend(of_repository.unwrap_or_else(|why| {
            let what = format!("the repository's storage cannot be looked at: {why}");
            vec![Finding::problem(&c::OPENS, what)]
        }));
        findings.push(certificate("the controller's certificate", self.server_certificate.ends_at(), now));
        findings.push(match self.audit.damage().await {
            None => Finding::fine(&c::AUDIT, "the audit log was whole when it was opened"),
            Some(damage) => Finding::problem(&c::AUDIT, format!("the audit log is damaged: {damage}")),
        });
        match self.agents().await {
            Ok(agents) => {
                match self.examine_work(&agents).await {
                    Ok(of_work) => findings.extend(of_work),
                    Err(failure) => findings.push(of_catalog(failure)),
                }
                findings.extend(self.examine_agents(&agents).await);
            }
            Err(failure) => findings.push(of_catalog(failure)),
        }
        findings
    }
}

fn certificate(whose: &str, ends_at: Timestamp, now: Timestamp) -> Finding {
    let finding = format!("{whose} counts until {ends_at:.0}");
    match ends_at {
        end if end <= now => Finding::problem(&c::CERTIFICATE, format!("{whose} has ended on {ends_at:.0}"))
            .hint("restart it, or let it join again"),
        end if end <= now + SOON => Finding::warning(&c::CERTIFICATE, finding),
        _ => Finding::fine(&c::CERTIFICATE, finding),
    }
}
