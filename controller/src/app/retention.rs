//! Retention and prune: the rules, the plans, their orders; pins.
//!
//! Must stay true: what somebody orders is what a plan has shown, by its digest; a plan that no longer says
//! the same is refused; where a plan takes much away, somebody has to have approved just that.

use std::time::Duration;

use aws_lc_rs::digest;
use jiff::Timestamp;
use proto::Failure;
use proto::convert::BackupChoice;
use proto::failure::reason;
use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::ids::hex;
use repository::names::BackupName;
use repository::prune::{PruneOrder, PrunePlan};
use repository::retention::Rules;
use serde::Serialize;
use tokio::sync::SemaphorePermit;
use tonic::Code;

use crate::app::backups::Verified;
use crate::app::{App, catalog_failure};
use crate::ingest::{repository_failure, thread_died};
use crate::jobs::Job;
use crate::jobs::clearing::{Planning, order};
use crate::jobs::job::Order;
use crate::jobs::keeping::{
    Decided, KeepingError, brake_words, decide_now, rules_in_force, rules_of_schedules,
};
use crate::jobs::own_rules::{AllRules, Verdict};
use crate::jobs::safety::Safety;

/// How long a plan waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that a rule may count: what is more keeps everything anyway.
const MAX_COUNT: u32 = 100_000;

/// What the rules would do.
#[derive(Debug)]
pub struct RetentionPlan {
    /// Confirms it.
    pub digest: String,
    /// The rules that count.
    pub rules: AllRules,
    /// By backup, newest first.
    pub verdicts: Vec<Verdict>,
    /// What would become of the packs.
    pub packs: PrunePlan,
    /// Why a person has to approve it.
    pub brake: Option<String>,
}

/// What prune would do.
#[derive(Debug)]
pub struct PlannedPrune {
    /// Confirms it.
    pub digest: String,
    /// What would become of the packs.
    pub packs: PrunePlan,
    /// Why a person has to approve it.
    pub brake: Option<String>,
}

impl App {
    /// The rules that count now.
    pub async fn retention(&self) -> Result<AllRules, Failure> {
        let app = self.clone();
        let general = self
            .on_repository(WHAT_RULES, move || rules_in_force(app.runner.retention(), &app.depot))
            .await?;
        let of_schedules =
            rules_of_schedules(&self.catalog).await.map_err(|error| catalog_failure(&error))?;
        Ok(AllRules { general, of_schedules })
    }

    /// Sets the rules, unless the configuration declares them.
    pub async fn set_retention(&self, rules: Rules) -> Result<AllRules, Failure> {
        if self.runner.retention().is_declared {
            return Err(Failure::new(
                Code::FailedPrecondition,
                reason::MANAGED,
                "the rules cannot be set here",
            )
            .because("the controller's configuration declares them")
            .hint("change `retention` in its file or environment and restart it, or take it out there"));
        }
        check(&rules)?;
        let (app, kept) = (self.clone(), rules.clone());
        self.on_repository("the rules cannot be kept", move || {
            app.depot.lease().check().map_err(RepositoryError::Fenced)?;
            app.depot.repository().set_rules(&kept, app.depot.keys(), app.now())
        })
        .await?;
        tracing::info!(%rules, "the rules of retention were set");
        self.retention().await
    }

    /// Keeps a backup for `reason`, or, without one, by the rules again.
    pub async fn pin(&self, choice: &BackupChoice, reason: Option<String>) -> Result<Verified, Failure> {
        let record = self.newest(choice).await?;
        let (name, reason) = (record.name.clone(), pin_of(&record, reason, self.now()));
        let (app, of_thread) = (self.clone(), reason);
        let record = self
            .on_repository("the pin cannot be kept", move || {
                app.depot.lease().check().map_err(RepositoryError::Fenced)?;
                let repository = app.depot.repository();
                repository.set_pin(&name, of_thread.as_deref(), app.depot.keys(), app.now())
            })
            .await?;
        self.catalog.put_backup(&record).await.map_err(|error| catalog_failure(&error))?;
        self.backup(&BackupChoice::Named(record.name)).await
    }

    /// What the rules would remove now, and what that would free.
    pub async fn plan_retention(&self) -> Result<RetentionPlan, Failure> {
        let _alone = self.alone().await?;
        let decided = self.decide().await?;
        let without = decided.removals().into_iter().map(|removal| removal.backup).collect();
        // As if nothing were too young: what it frees in the end.
        let packs = self.plan_packs(PruneOrder { without, ..order(true, false) }).await?;
        let brake = decided.brake().or_else(|| packs.brake.as_ref().map(brake_words));
        Ok(RetentionPlan {
            digest: digest_of_retention(&decided),
            rules: decided.rules,
            verdicts: decided.verdicts,
            packs,
            brake,
        })
    }

    /// Orders what a plan has shown.
    pub async fn start_retention(
        &self,
        digest: &str,
        approved: bool,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        if let Some(job) =
            self.ordered_before(request_id, |job| matches!(job.order, Order::Retention { .. })).await?
        {
            return Ok(job);
        }
        let plan = self.plan_retention().await?;
        confirmed(&plan.digest, digest, &plan.brake, approved)?;
        let goes = plan.verdicts.iter().filter(|verdict| verdict.goes());
        let confirmed: Vec<BackupName> = goes.map(|verdict| verdict.name.clone()).collect();
        self.submit(Order::Retention { confirmed: Some(confirmed), approved }, request_id).await
    }

    /// What of the packs nothing needs any more.
    pub async fn plan_prune(&self, now: bool) -> Result<PlannedPrune, Failure> {
        let _alone = self.alone().await?;
        let packs = self.plan_packs(order(now, false)).await?;
        let brake = packs.brake.as_ref().map(brake_words);
        Ok(PlannedPrune { digest: digest_of_prune(&packs, now), packs, brake })
    }

    /// Orders what a plan has shown.
    pub async fn start_prune(
        &self,
        now: bool,
        digest: &str,
        approved: bool,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        if let Some(job) = self
            .ordered_before(
                request_id,
                |job| matches!(&job.order, Order::Prune { now: of_it, .. } if *of_it == now),
            )
            .await?
        {
            return Ok(job);
        }
        let plan = self.plan_prune(now).await?;
        confirmed(&plan.digest, digest, &plan.brake, approved)?;
        // Approved is what was seen: without a brake there is nothing to pass it with later.
        let approved = approved && plan.brake.is_some();
        self.submit(Order::Prune { now, approved }, request_id).await
    }

    /// Room for a plan: beside a retention or a prune there is none.
    async fn alone(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let busy = || {
            Failure::new(Code::ResourceExhausted, reason::BUSY, "this cannot be planned now")
                .because("a retention, a prune or another plan is under way")
                .hint("`nsctl jobs` shows it; try again when it has ended")
        };
        let alone = tokio::time::timeout(PATIENCE, self.runner.clearing().acquire()).await;
        alone
            .map_err(|_| busy())?
            .map_err(|error| Failure::internal("the controller stops").caused_by(&error))
    }

    async fn decide(&self) -> Result<Decided, Failure> {
        let decided = decide_now(self.runner.retention(), &self.catalog, &self.depot, self.now()).await;
        decided.map_err(|error| match &error {
            KeepingError::Repository(error) => repository_failure(WHAT_RULES, error),
            KeepingError::Catalog(error) => catalog_failure(error),
            KeepingError::Thread(error) => thread_died(error),
        })
    }

    async fn plan_packs(&self, order: PruneOrder) -> Result<PrunePlan, Failure> {
        let app = self.clone();
        self.on_repository("what can be freed cannot be found out", move || {
            let watch = Planning { depot: &app.depot, now: &|| app.now() };
            app.depot.repository().plan_prune(&order, &watch)
        })
        .await
    }

    async fn on_repository<T: Send + 'static>(
        &self,
        what: &str,
        act: impl FnOnce() -> Result<T, RepositoryError> + Send + 'static,
    ) -> Result<T, Failure> {
        let acted = tokio::task::spawn_blocking(act).await.map_err(|error| thread_died(&error))?;
        acted.map_err(|error| repository_failure(what, &error))
    }
}

const WHAT_RULES: &str = "which backups are kept cannot be found out";

fn check(rules: &Rules) -> Result<(), Failure> {
    let counts = rules.periods().map(|(_, count)| count).chain(rules.keep_last).chain([rules.keep_complete]);
    if counts.max().is_some_and(|count| count > MAX_COUNT) {
        return Err(Failure::invalid(format!("a rule counts more than {MAX_COUNT}")));
    }
    if rules.keep_complete == 0 {
        return Err(Failure::invalid("keep_complete is at least 1: the newest complete backup always stays"));
    }
    if !rules.keeps_anything() {
        return Err(Failure::invalid("no rule keeps anything").hint("set keep_within, keep_last or another"));
    }
    Ok(())
}

/// A plan that still says the same, and that was approved where it has to be.
fn confirmed(now: &str, seen: &str, brake: &Option<String>, approved: bool) -> Result<(), Failure> {
    if now != seen {
        return Err(Failure::new(Code::FailedPrecondition, reason::PLAN_CHANGED, "the plan is out of date")
            .because("what would be removed has changed since it was planned")
            .hint("look at the new plan, then confirm that one"));
    }
    match brake {
        Some(why) if !approved => {
            Err(Failure::new(Code::FailedPrecondition, reason::NOT_APPROVED, "this takes much away at once")
                .because(why.clone())
                .hint("if it is meant, look at the plan and run it again with --approve"))
        }
        _ => Ok(()),
    }
}

fn digest_of_retention(decided: &Decided) -> String {
    let names: Vec<BackupName> = decided.removals().into_iter().map(|removal| removal.backup).collect();
    digest_of(&("retention", &decided.rules.general, &decided.rules.of_schedules, names))
}

/// What is dead for certain; what is young or waits is another run's.
fn digest_of_prune(plan: &PrunePlan, now: bool) -> String {
    let dead = [plan.dead.packs, plan.dead.bytes];
    let copied = [plan.rewritten.packs, plan.rewritten.bytes, plan.merged.packs, plan.merged.bytes];
    digest_of(&("prune", now, dead, copied, plan.brake.is_some()))
}

/// SHA-256 over what matters of a plan, in one notation.
fn digest_of(facts: &impl Serialize) -> String {
    let json = serde_json::to_vec(facts).expect("the facts of a plan have a JSON form");
    hex(digest::digest(&digest::SHA256, &json).as_ref())
}

/// What the pin becomes: whatever somebody does with a safety backup's, it stays told what it is, for `latest` never
/// means one.
fn pin_of(record: &BackupRecord, reason: Option<String>, now: Timestamp) -> Option<String> {
    match (Safety::of(record), reason) {
        (None, reason) => reason,
        (Some(safety), Some(reason)) => Some(safety.pinned(&reason)),
        (Some(safety), None) => Some(Safety { until: safety.until.min(now), ..safety }.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_or_not_approved_is_refused() {
        let word = |result: Result<(), Failure>| result.map_err(|failure| failure.reason);
        assert_eq!(word(confirmed("a", "a", &None, false)), Ok(()));
        assert_eq!(word(confirmed("a", "b", &None, true)), Err(reason::PLAN_CHANGED.to_owned()));
        let brake = Some("9 of 10 backups would go".to_owned());
        assert_eq!(word(confirmed("a", "a", &brake, false)), Err(reason::NOT_APPROVED.to_owned()));
        assert_eq!(word(confirmed("a", "a", &brake, true)), Ok(()));
    }

    #[test]
    fn rules_that_keep_nothing_or_everything_by_mistake_are_refused() {
        let rules = |keep_last, keep_complete| Rules {
            keep_within_seconds: None,
            keep_last,
            keep_hourly: None,
            keep_daily: None,
            keep_weekly: None,
            keep_monthly: None,
            keep_yearly: None,
            keep_complete,
        };
        assert!(check(&rules(Some(3), 1)).is_ok());
        for wrong in [rules(None, 1), rules(Some(0), 1), rules(Some(3), 0), rules(Some(u32::MAX), 1)] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }
}
