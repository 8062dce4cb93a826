//! Restore plans: what would be done, confirmed by a digest.
//!
//! Must stay true: nothing is restored that was not planned and confirmed; a plan is made anew before it is
//! carried out, and one that no longer says the same is refused.

mod digest;
mod judged;
mod places;
mod shown;
mod start;

use proto::Failure;
use proto::convert::BackupChoice;
use proto::v1::SourcePlan;
use repository::names::{BackupName, Component};
use repository::work::WorkKind;
use runtime::steps;

use crate::app::App;
use crate::ids::JobId;
use crate::jobs::confirmed::Confirmed;
use crate::jobs::job::{Databases, RestorePlace};
use crate::steps::Step;

use digest::{Seen, digest_of};
use judged::{allowance, remarks, removes_what_is_lacking, replaced_components};
use places::{chosen_archives, components_of};
pub use shown::ShownPlans;

/// What somebody wants to have restored.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// From which backup.
    pub backup: BackupChoice,
    /// Which components; none: all that the backup holds.
    pub components: Vec<Component>,
    /// Which entries, by pattern; none: all.
    pub globs: Vec<String>,
    /// Which collections of a server's databases.
    pub databases: Databases,
    /// Into this folder; none: in place.
    pub folder: Option<String>,
    /// By this agent (id or name); none: the one that serves the source.
    pub agent: Option<String>,
    /// What gives somebody rights (setuid and the like) is left out.
    pub without_privileges: bool,
    /// What is replaced is not backed up before.
    pub without_safety_backup: bool,
    /// The backup may be incomplete or damaged.
    pub accept_doubts: bool,
    /// Takes this restore back; of the rest only the three flags count.
    pub undo_of: Option<JobId>,
}

/// What would be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Confirms it.
    pub digest: String,
    /// From this backup.
    pub backup: BackupName,
    /// By source.
    pub sources: Vec<SourcePlan>,
    /// Sealed bytes that would be fetched, at most.
    pub fetch_bytes: u64,
    /// What the backup lacks, a line each.
    pub doubts: Vec<String>,
    /// What is backed up before.
    pub safety_components: Vec<Component>,
    /// By how long the last restores took; 0: there was none.
    pub estimated_seconds: u64,
    /// What a person should know before.
    pub remarks: Vec<String>,
    places: Vec<RestorePlace>,
}

impl App {
    /// What a restore would do.
    pub async fn plan_restore(&self, request: &RestoreRequest) -> Result<Plan, Failure> {
        let undo;
        let (request, taken_back) = match request.undo_of {
            Some(restore) => {
                undo = self.undo_of(restore, request).await?;
                (&undo.0, Some(undo.1.as_slice()))
            }
            None => (request, None),
        };
        let record = self.newest_complete(&request.backup, &request.components).await?;
        let _held = self.hold(&record.name, WorkKind::Restore).await?;
        let archives = chosen_archives(&record, &components_of(request, &record)?, taken_back)?;
        let mut places = self.places(request, &record, &archives, taken_back).await?;
        let mut sources = self.ask_for_plans(&record, &places).await?;
        for (archive, plan) in archives.iter().zip(&mut sources) {
            plan.obstacles.extend(removes_what_is_lacking(request, archive, plan));
        }
        for (place, plan) in places.iter_mut().zip(&sources) {
            place.allowance = allowance(plan, request.without_privileges);
        }
        let fetch_bytes = self.fetch_bytes(&record, &places).await?;
        let doubts = self.doubts(&record, &archives).await?;
        let safety_components = match request.without_safety_backup {
            true => Vec::new(),
            false => replaced_components(&sources, &places),
        };
        let remarks = remarks(request, &sources, &places);
        let estimated_seconds = self.estimate(sources.iter().map(|plan| plan.bytes).sum()).await?;
        let seen = Seen { backup: &record.name, doubts: &doubts, safety: &safety_components };
        let digest = digest_of(&seen, &places, &sources);
        for (place, plan) in places.iter_mut().zip(&sources) {
            place.confirmed = Some(Confirmed::from(plan));
        }
        steps::reached(Step::RestorePlanned).await;
        let plan = Plan {
            digest,
            backup: record.name,
            sources,
            fetch_bytes,
            doubts,
            safety_components,
            estimated_seconds,
            remarks,
            places,
        };
        self.plans.show(&plan);
        Ok(plan)
    }
}
