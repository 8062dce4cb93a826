//! `Schedules`: list, set, remove, pause, resume, run now.

use std::time::Duration as Span;

use proto::Failure;
use proto::convert::{self, to_wire_time};
use proto::v1::schedules_server::Schedules;
use proto::v1::{
    self, ListSchedulesRequest, ListSchedulesResponse, PauseScheduleRequest, RemoveScheduleRequest,
    RemoveScheduleResponse, ResumeScheduleRequest, RunScheduleRequest, ScheduleRun, SetScheduleRequest,
};
use runtime::config::Duration;
use tonic::{Request, Response, Status};

use crate::app::{App, ScheduleView};
use crate::catalog::ScheduleOrigin;
use crate::config::{BackupSchedule, Components, Retention, Schedule, VerifyDepth, VerifySchedule};
use crate::jobs::job::DRILLED;
use crate::rpc::gate::About;
use crate::rpc::jobs::request_id;
use crate::rpc::retention::to_wire_rules;
use crate::rpc::wire;

/// What is left out of a schedule: as in the configuration.
const USUAL_CATCH_UP: Duration = Duration::from_secs(6 * 3_600);
const USUAL_WAIT: Duration = Duration::from_secs(4 * 3_600);

pub(super) struct SchedulesService {
    pub(super) app: App,
}

fn shown(view: &ScheduleView) -> v1::Schedule {
    let record = &view.record;
    let (catch_up, jitter) = record.definition.catch_up_and_jitter();
    let common = v1::Schedule {
        name: record.name.clone(),
        kind: "backup".to_owned(),
        cron: record.definition.cron().as_str().to_owned(),
        time_zone: record.time_zone.clone(),
        components: record.definition.components().iter().map(ToString::to_string).collect(),
        jitter_milliseconds: milliseconds(jitter),
        catch_up_milliseconds: milliseconds(catch_up),
        managed: record.origin == ScheduleOrigin::Declared,
        paused_at: record.paused_at.map(to_wire_time),
        next_planned_at: view.next.map(|next| to_wire_time(next.planned_at)),
        next_due_at: view.next.map(|next| to_wire_time(next.due_at)),
        last: last(view),
        ..v1::Schedule::default()
    };
    match &record.definition {
        Schedule::Backup(backup) => {
            let keeps = backup.retention.as_ref().map(|retention| to_wire_rules(&retention.rules()));
            v1::Schedule { keeps, ..common }
        }
        Schedule::Verify(verify) => v1::Schedule {
            kind: "verify".to_owned(),
            depth: depth_word(verify.depth).to_owned(),
            wait_for_backup_milliseconds: milliseconds(verify.wait_for_backup),
            retention: verify.retention,
            ..common
        },
    }
}

fn last(view: &ScheduleView) -> Option<ScheduleRun> {
    let run = view.last.as_ref()?;
    let id = |id: Option<crate::ids::JobId>| id.map(|id| id.to_string()).unwrap_or_default();
    let state = |job: &Option<crate::jobs::Job>| {
        job.as_ref().map_or(v1::JobState::Unspecified, |job| wire::job_state(job.state))
    };
    let missed = run.details.missed;
    Some(ScheduleRun {
        planned_at: run.planned_at.map(to_wire_time),
        ran_at: Some(to_wire_time(run.ran_at)),
        state: run.state.word().to_owned(),
        job_id: id(run.job),
        job_state: state(&view.job).into(),
        retention_job_id: id(run.retention_job),
        retention_state: state(&view.retention).into(),
        missed: missed.map_or(0, |(_, count)| count),
        first_missed_at: missed.map(|(first, _)| to_wire_time(first)),
        note: run.details.note.clone().unwrap_or_default(),
    })
}

fn milliseconds(span: Duration) -> u64 {
    span.get().as_millis() as u64
}

fn depth_word(depth: VerifyDepth) -> &'static str {
    match depth {
        VerifyDepth::Listed => "listed",
        VerifyDepth::Hashed => "hashed",
        VerifyDepth::Opened => "opened",
        VerifyDepth::Drilled => DRILLED,
    }
}

fn keeps(wire: &v1::RetentionRules) -> Retention {
    Retention {
        keep_within: wire.keep_within_seconds.map(Duration::from_secs),
        keep_last: wire.keep_last,
        keep_hourly: wire.keep_hourly,
        keep_daily: wire.keep_daily,
        keep_weekly: wire.keep_weekly,
        keep_monthly: wire.keep_monthly,
        keep_yearly: wire.keep_yearly,
        keep_complete: wire.keep_complete,
    }
}

fn definition(wire: &SetScheduleRequest) -> Result<Schedule, Failure> {
    let cron = wire.cron.parse().map_err(Failure::invalid)?;
    let components: Vec<String> =
        convert::components("components", &wire.components)?.iter().map(ToString::to_string).collect();
    let components = match components.is_empty() {
        true => Components::All,
        false => Components::Named(components),
    };
    let span = |wire: Option<u64>, usual: Duration| match wire {
        // `check` says what is too long.
        Some(wire) => Duration::from_secs(Span::from_millis(wire).as_secs()),
        None => usual,
    };
    let zone = convert::text("time_zone", &wire.time_zone, 64)?;
    let time_zone = (!zone.is_empty()).then_some(zone);
    let jitter = span(wire.jitter_milliseconds, Duration::from_secs(0));
    let catch_up = span(wire.catch_up_milliseconds, USUAL_CATCH_UP);
    match wire.kind.as_str() {
        "backup"
            if !wire.depth.is_empty()
                || wire.wait_for_backup_milliseconds.is_some()
                || wire.retention.is_some() =>
        {
            Err(Failure::invalid("depth, waiting for a backup and retention belong to a verification"))
        }
        "backup" => {
            let retention = wire.keeps.as_ref().map(keeps);
            Ok(Schedule::Backup(BackupSchedule { cron, components, catch_up, jitter, time_zone, retention }))
        }
        "verify" if wire.keeps.is_some() => {
            Err(Failure::invalid("rules for backups belong to the schedule of a backup"))
        }
        "verify" => Ok(Schedule::Verify(VerifySchedule {
            cron,
            components,
            depth: match wire.depth.as_str() {
                "listed" => VerifyDepth::Listed,
                "hashed" => VerifyDepth::Hashed,
                "" | "opened" => VerifyDepth::Opened,
                DRILLED => VerifyDepth::Drilled,
                _ => return Err(Failure::invalid("the depth is not known")),
            },
            wait_for_backup: span(wire.wait_for_backup_milliseconds, USUAL_WAIT),
            retention: wire.retention.unwrap_or(true),
            catch_up,
            jitter,
            time_zone,
        })),
        _ => Err(Failure::invalid("a schedule is of a backup or of a verification")),
    }
}

#[tonic::async_trait]
impl Schedules for SchedulesService {
    async fn list_schedules(
        &self,
        _request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let schedules = self.app.schedules().await?;
        Ok(Response::new(ListSchedulesResponse { schedules: schedules.iter().map(shown).collect() }))
    }

    async fn set_schedule(
        &self,
        request: Request<SetScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let SetScheduleRequest { name, kind, cron, time_zone, components, .. } = &request;
        about.say(format!(
            "schedule {name:?}: {kind:?} at {cron:?}, zone {time_zone:?}, components {components:?}"
        ));
        Ok(Response::new(shown(&self.app.set_schedule(name, definition(&request)?).await?)))
    }

    async fn remove_schedule(
        &self,
        request: Request<RemoveScheduleRequest>,
    ) -> Result<Response<RemoveScheduleResponse>, Status> {
        let (about, name) = (About::of(&request), request.into_inner().name);
        about.say(format!("schedule {name:?}"));
        self.app.remove_schedule(&name).await?;
        Ok(Response::new(RemoveScheduleResponse {}))
    }

    async fn pause_schedule(
        &self,
        request: Request<PauseScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let (about, name) = (About::of(&request), request.into_inner().name);
        about.say(format!("schedule {name:?}"));
        Ok(Response::new(shown(&self.app.pause_schedule(&name).await?)))
    }

    async fn resume_schedule(
        &self,
        request: Request<ResumeScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let (about, name) = (About::of(&request), request.into_inner().name);
        about.say(format!("schedule {name:?}"));
        Ok(Response::new(shown(&self.app.resume_schedule(&name).await?)))
    }

    async fn run_schedule(&self, request: Request<RunScheduleRequest>) -> Result<Response<v1::Job>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        about.say(format!("schedule {:?}", request.name));
        let id = request_id(&request.request_id)?;
        let job = self.app.run_schedule(&request.name, id.as_deref()).await?;
        about.say(format!("schedule {:?}, job {}", request.name, job.id));
        let agents = self.app.agents().await?;
        Ok(Response::new(wire::job(&self.app.runner.live().view(job), &agents)))
    }
}
