//! `Retention`: the rules, plans and orders of retention and prune; pins.

use proto::convert::{backup_choice, required, to_wire_outcome, to_wire_time};
use proto::v1::retention_server::Retention;
use proto::v1::{
    self, Backup, GetRetentionRequest, PinBackupRequest, PlanPruneRequest, PlanRetentionRequest, PrunePlan,
    RetentionDecision, RetentionPlan, RetentionRules, SetRetentionRequest, StartPruneRequest,
    StartRetentionRequest, UnpinBackupRequest,
};
use proto::{Failure, convert};
use repository::retention::Rules;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::jobs::Job;
use crate::jobs::keeping::why_it_goes;
use crate::jobs::own_rules::{AllRules, Verdict};
use crate::rpc::gate::About;
use crate::rpc::jobs::request_id;
use crate::rpc::wire;

/// The longest reason of a pin, in bytes.
const MAX_REASON: usize = 500;

pub(super) struct RetentionService {
    pub(super) app: App,
}

impl RetentionService {
    fn rules(&self, rules: &AllRules) -> RetentionRules {
        let own = rules.of_schedules.iter();
        RetentionRules {
            managed: self.app.runner.retention().is_declared,
            time_zone: self.app.config.time_zone.clone(),
            of_schedules: own.map(|(schedule, rules)| (schedule.clone(), to_wire_rules(rules))).collect(),
            ..to_wire_rules(&rules.general)
        }
    }

    async fn answer(&self, job: Job) -> Result<Response<v1::Job>, Status> {
        Ok(Response::new(wire::job(&self.app.runner.live().view(job), &[])))
    }

    async fn pin(&self, backup: &str, reason: Option<String>) -> Result<Response<Backup>, Status> {
        let (record, verified) = self.app.pin(&backup_choice("backup", backup)?, reason).await?;
        Ok(Response::new(wire::backup(&record, &verified)))
    }
}

/// Rules for the wire.
pub(super) fn to_wire_rules(rules: &Rules) -> RetentionRules {
    RetentionRules {
        keep_within_seconds: rules.keep_within_seconds,
        keep_last: rules.keep_last,
        keep_hourly: rules.keep_hourly,
        keep_daily: rules.keep_daily,
        keep_weekly: rules.keep_weekly,
        keep_monthly: rules.keep_monthly,
        keep_yearly: rules.keep_yearly,
        keep_complete: rules.keep_complete,
        ..RetentionRules::default()
    }
}

fn rules(wire: &RetentionRules) -> Rules {
    Rules {
        keep_within_seconds: wire.keep_within_seconds,
        keep_last: wire.keep_last,
        keep_hourly: wire.keep_hourly,
        keep_daily: wire.keep_daily,
        keep_weekly: wire.keep_weekly,
        keep_monthly: wire.keep_monthly,
        keep_yearly: wire.keep_yearly,
        keep_complete: wire.keep_complete,
    }
}

#[tonic::async_trait]
impl Retention for RetentionService {
    async fn get_retention(
        &self,
        _request: Request<GetRetentionRequest>,
    ) -> Result<Response<RetentionRules>, Status> {
        Ok(Response::new(self.rules(&self.app.retention().await?)))
    }

    async fn set_retention(
        &self,
        request: Request<SetRetentionRequest>,
    ) -> Result<Response<RetentionRules>, Status> {
        let about = About::of(&request);
        let wanted = rules(required("rules", request.get_ref().rules.as_ref())?);
        about.say(&wanted);
        Ok(Response::new(self.rules(&self.app.set_retention(wanted).await?)))
    }

    async fn plan_retention(
        &self,
        _request: Request<PlanRetentionRequest>,
    ) -> Result<Response<RetentionPlan>, Status> {
        let plan = self.app.plan_retention().await?;
        let decision = |verdict: &Verdict| RetentionDecision {
            backup: verdict.name.to_string(),
            sequence: verdict.sequence,
            outcome: to_wire_outcome(verdict.outcome).into(),
            goes: verdict.goes(),
            reasons: match verdict.goes() {
                true => vec![why_it_goes(verdict)],
                false => verdict.keeps.clone(),
            },
        };
        Ok(Response::new(RetentionPlan {
            digest: plan.digest,
            rules: Some(self.rules(&plan.rules)),
            backups: plan.verdicts.iter().map(decision).collect(),
            freed_bytes: plan.packs.taken,
            rewritten_bytes: plan.packs.rewritten.bytes + plan.packs.merged.bytes,
            rewritten_packs: plan.packs.rewritten.packs + plan.packs.merged.packs,
            repository_bytes: plan.packs.total.bytes,
            brake: plan.brake.unwrap_or_default(),
            missing_blobs: plan.packs.missing_blobs,
        }))
    }

    async fn start_retention(
        &self,
        request: Request<StartRetentionRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let id = request_id(&request.request_id)?;
        let job = self.app.start_retention(&request.digest, request.approved, id.as_deref()).await?;
        about.say(format!("job {}{}", job.id, if request.approved { ", approved" } else { "" }));
        self.answer(job).await
    }

    async fn plan_prune(&self, request: Request<PlanPruneRequest>) -> Result<Response<PrunePlan>, Status> {
        let wanted = request.into_inner();
        let plan = self.app.plan_prune(wanted.now).await?;
        let packs = plan.packs;
        Ok(Response::new(PrunePlan {
            digest: plan.digest,
            dead_packs: packs.dead.packs,
            dead_bytes: packs.dead.bytes,
            young_bytes: packs.young.bytes,
            rewritten_packs: packs.rewritten.packs + packs.merged.packs,
            rewritten_bytes: packs.rewritten.bytes + packs.merged.bytes,
            freed_bytes: packs.taken,
            trash_bytes: packs.trash.bytes,
            waiting_bytes: packs.marked.as_ref().map_or(0, |mark| mark.amount.bytes),
            waits_until: packs.marked.as_ref().map(|mark| to_wire_time(mark.not_before)),
            brake: plan.brake.unwrap_or_default(),
            request: Some(wanted),
            repository_bytes: packs.total.bytes,
            missing_blobs: packs.missing_blobs,
        }))
    }

    async fn start_prune(&self, request: Request<StartPruneRequest>) -> Result<Response<v1::Job>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let now = required("request", request.request.as_ref())?.now;
        let id = request_id(&request.request_id)?;
        let job = self.app.start_prune(now, &request.digest, request.approved, id.as_deref()).await?;
        let words = [(now, ", now"), (request.approved, ", approved")];
        let words: String = words.iter().filter(|(said, _)| *said).map(|(_, word)| *word).collect();
        about.say(format!("job {}{words}", job.id));
        self.answer(job).await
    }

    async fn pin_backup(&self, request: Request<PinBackupRequest>) -> Result<Response<Backup>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        about.say(format!("backup {:?}", request.backup));
        let reason = convert::text("reason", &request.reason, MAX_REASON)?;
        if reason.trim().is_empty() {
            return Err(Failure::invalid("a pin needs a reason").hint("say why with --reason").into());
        }
        self.pin(&request.backup, Some(reason)).await
    }

    async fn unpin_backup(&self, request: Request<UnpinBackupRequest>) -> Result<Response<Backup>, Status> {
        let about = About::of(&request);
        let backup = request.into_inner().backup;
        about.say(format!("backup {backup:?}"));
        self.pin(&backup, None).await
    }
}
