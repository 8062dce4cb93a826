//! Carrying out a plan that somebody has confirmed.
//!
//! Must stay true: a plan is made anew before it is carried out, and one that no longer says the same, or that
//! something is in the way of, changes nothing; the safety backup is ordered before the restore that waits for it.

use std::collections::BTreeSet;

use proto::Failure;
use proto::convert::BackupChoice;
use proto::failure::reason;
use repository::names::Component;
use tonic::Code;

use super::{Plan, RestoreRequest};
use crate::app::App;
use crate::app::jobs::not_submitted;
use crate::ids::JobId;
use crate::jobs::Job;
use crate::jobs::job::{Order, RestorePlace};
use crate::jobs::safety::Safety;

impl App {
    /// Carries out a plan, if it still says what `digest` confirmed.
    pub async fn start_restore(
        &self,
        request: &RestoreRequest,
        digest: &str,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        // A second plan would tell of what the first call has changed since.
        if let Some(job) = self.ordered_before(request_id, |job| is_of(request, job)).await? {
            return Ok(job);
        }
        let plan = self.plan_restore(request).await?;
        if plan.digest != digest {
            return Err(Failure::new(
                Code::FailedPrecondition,
                reason::PLAN_CHANGED,
                "the plan is out of date",
            )
            .because(match self.plans.changes(digest, &plan.sources).as_slice() {
                [] => "what the restore would do has changed since it was planned".to_owned(),
                changes => changes.join("; "),
            })
            .hint("look at the new plan, then restore again"));
        }
        let obstacles = plan.sources.iter().flat_map(|source| &source.obstacles);
        if let Some(first) = obstacles.clone().next() {
            return Err(Failure::new(
                Code::FailedPrecondition,
                reason::OBSTACLES,
                "the restore cannot go ahead",
            )
            .because(match obstacles.count() {
                1 => first.clone(),
                count => format!("{first} (and {} more)", count - 1),
            })
            .hint("clear what is in its way, or restore elsewhere with --to FOLDER"));
        }
        if !plan.doubts.is_empty() && !request.accept_doubts {
            let what = format!("the backup {} is not whole; nothing was changed", plan.backup);
            return Err(Failure::new(Code::FailedPrecondition, reason::NOT_APPROVED, what)
                .because(plan.doubts.join("; "))
                .hint("choose another backup, or restore this one with --accept-doubts"));
        }
        self.order_restore(request, plan, request_id).await
    }

    /// Orders the safety backup and, behind it, the restore.
    async fn order_restore(
        &self,
        request: &RestoreRequest,
        plan: Plan,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        let mut id = JobId::fresh();
        let mut safety = None;
        if !plan.safety_components.is_empty() {
            let kept = self.config.restores.keep_safety_backup.get();
            let pin = Some(Safety::now(id, self.now(), kept).to_string());
            let order = Order::Backup { components: plan.safety_components, pin, import: None };
            let of_safety = request_id.map(|request| format!("{request} (safety backup)"));
            let job = self.submit(order, of_safety.as_deref()).await?;
            // One that a call before this one has ordered names the restore that it is for.
            id = Safety::of_order(&job.order).map_or(id, |known| known.restore);
            safety = Some(job.id);
        }
        let order = Order::Restore {
            backup: plan.backup,
            places: plan.places,
            safety,
            undo_of: request.undo_of,
            digest: plan.digest,
        };
        let submitted = self.runner.submit_as(id, order, request_id).await;
        if let (Err(_), Some(safety)) = (&submitted, safety) {
            // Nobody waits for it any more; if it cannot be cancelled it is a backup like others.
            let _ = self.runner.cancel(safety).await;
        }
        submitted.map_err(|error| not_submitted(&error))
    }
}

/// True if this job can be what the request has ordered before.
fn is_of(request: &RestoreRequest, job: &Job) -> bool {
    let Order::Restore { backup, places, undo_of, .. } = &job.order else { return false };
    if request.undo_of.is_some() || undo_of.is_some() {
        return request.undo_of == *undo_of;
    }
    let is_backup = match &request.backup {
        BackupChoice::Latest => true,
        BackupChoice::Named(name) => name == backup,
    };
    let is_place = |place: &RestorePlace| {
        let is_there = match (&request.folder, &place.folder) {
            (Some(asked), Some(folder)) => folder.starts_with(asked.trim_end_matches('/')),
            (asked, folder) => asked.is_none() && folder.is_none(),
        };
        is_there && place.globs == request.globs && place.databases == request.databases
    };
    let asked: BTreeSet<&Component> = request.components.iter().collect();
    is_backup
        && places.iter().all(is_place)
        && (asked.is_empty() || asked == places.iter().map(|place| &place.source.component).collect())
}
