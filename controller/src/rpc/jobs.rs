//! `Jobs`: order, watch, cancel.

use proto::convert::{BackupChoice, backup_choice, components};
use proto::v1::jobs_server::Jobs;
use proto::v1::{
    self, CancelJobRequest, GetJobRequest, JobEvent, ListJobsRequest, ListJobsResponse, PlanRestoreRequest,
    RestorePlan, StartBackupRequest, StartRestoreRequest, StartVerifyRequest, WatchJobRequest,
};
use proto::{Failure, convert};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::app::{App, HowMuch, RestoreRequest, catalog_failure};
use crate::ids::JobId;
use crate::jobs::Job;
use crate::jobs::job::Databases;
use crate::rpc::gate::About;
use crate::rpc::wire;

const USUAL_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;
/// A page ends after about so many bytes: a message has a limit.
const PAGE_BYTES: usize = 2 << 20;
const QUEUE: usize = 16;

pub(super) struct JobsService {
    pub(super) app: App,
}

impl JobsService {
    async fn answer(&self, job: Job) -> Result<Response<v1::Job>, Status> {
        let agents = self.app.agents().await?;
        let safety = match &job.order {
            crate::jobs::Order::Restore { safety, .. } => self.app.safety_backup(*safety).await?,
            _ => None,
        };
        let shown = wire::job(&self.app.runner.live().view(job), &agents);
        let safety_backup = safety.map(|name| name.to_string()).unwrap_or_default();
        Ok(Response::new(v1::Job { safety_backup, ..shown }))
    }
}

fn job_id(text: &str) -> Result<JobId, Failure> {
    text.parse()
        .map_err(|_| Failure::not_found(format!("there is no job {text:?}")).hint("`nsctl jobs` lists them"))
}

pub(super) fn request_id(text: &str) -> Result<Option<String>, convert::Invalid> {
    let text = convert::text("request_id", text, 128)?;
    Ok((!text.is_empty()).then_some(text))
}

fn restore_request(wire: &PlanRestoreRequest) -> Result<RestoreRequest, Failure> {
    let selection = wire.selection.clone().unwrap_or_default();
    let v1::Selection {
        globs,
        include,
        renames,
        drop_others,
        to_namespace,
        force_conflicts,
        signer_height,
        with_keys,
    } = selection;
    let to_namespace = convert::text("to_namespace", &to_namespace, 63)?;
    let names = renames.iter().flat_map(|one| [&one.from, &one.to]);
    let is_long = globs.iter().chain(&include).chain(names).any(|text| text.len() > 4_096);
    if globs.len().max(include.len()).max(renames.len()) > 256 || is_long {
        return Err(Failure::invalid("a selection has at most 256 patterns of 4,096 bytes"));
    }
    let renames = renames.into_iter().map(|one| (one.from, one.to)).collect();
    let folder = convert::text("folder", &wire.folder, 4_096)?;
    if !folder.is_empty() && !folder.starts_with('/') {
        return Err(Failure::invalid("the folder to restore to must be an absolute path"));
    }
    // What an undo restores, its restore says.
    let backup = match (wire.undo_of.as_str(), wire.backup.as_str()) {
        ("", named) => backup_choice("backup", named)?,
        (_, "") => BackupChoice::Latest,
        _ => return Err(Failure::invalid("a backup and a restore to take back exclude each other")),
    };
    Ok(RestoreRequest {
        backup,
        components: components("components", &wire.components)?,
        globs,
        databases: Databases {
            include,
            renames,
            drop_others,
            to_namespace,
            force_conflicts,
            signer_height,
            with_keys,
        },
        folder: (!folder.is_empty()).then_some(folder),
        agent: (!wire.agent.is_empty()).then(|| wire.agent.clone()),
        without_privileges: wire.without_privileges,
        without_safety_backup: wire.without_safety_backup,
        accept_doubts: wire.accept_doubts,
        undo_of: (!wire.undo_of.is_empty()).then(|| job_id(&wire.undo_of)).transpose()?,
    })
}

/// What of which backup is to go where, for the audit log.
fn restored(wire: &PlanRestoreRequest) -> String {
    let PlanRestoreRequest { backup, components, agent, folder, undo_of, .. } = wire;
    if !undo_of.is_empty() {
        return format!("takes back the restore {undo_of:?}");
    }
    let stated = wire.selection.as_ref().and_then(|selection| selection.signer_height);
    let stated =
        stated.map(|height| format!(", its validator has signed up to {height}")).unwrap_or_default();
    let keys = wire.selection.as_ref().is_some_and(|selection| selection.with_keys);
    let stated = format!("{stated}{}", if keys { ", with its keys" } else { "" });
    let safety = if wire.without_safety_backup { ", no safety backup" } else { "" };
    format!(
        "backup {backup:?}, agent {agent:?}, folder {folder:?}, components {components:?}{safety}{stated}"
    )
}

#[tonic::async_trait]
impl Jobs for JobsService {
    type WatchJobStream = ReceiverStream<Result<JobEvent, Status>>;

    async fn start_backup(&self, request: Request<StartBackupRequest>) -> Result<Response<v1::Job>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let components = components("components", &request.components)?;
        let pin = convert::text("pin", &request.pin, 500)?;
        let id = request_id(&request.request_id)?;
        let pin = (!pin.is_empty()).then_some(pin);
        let import = convert::text("import", &request.import, 4_096)?;
        if !import.is_empty() && !import.starts_with('/') {
            return Err(Failure::invalid("a dump is named by an absolute path at the agent").into());
        }
        let import = (!import.is_empty()).then_some(import);
        let of_dump = import.as_ref().map(|folder| format!(", import of {folder:?}")).unwrap_or_default();
        let job = self.app.start_backup(components, pin, import, id.as_deref()).await?;
        about.say(format!("job {}{of_dump}", job.id));
        self.answer(job).await
    }

    async fn start_verify(&self, request: Request<StartVerifyRequest>) -> Result<Response<v1::Job>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let depth = wire::depth(request.depth()).ok_or_else(|| Failure::invalid("the depth is not known"))?;
        let choice = backup_choice("backup", &request.backup)?;
        let components = components("components", &request.components)?;
        let id = request_id(&request.request_id)?;
        let how_much = match (request.all, request.budget_bytes) {
            (true, 0) => HowMuch::All,
            (true, _) => return Err(Failure::invalid("a budget and everything exclude each other").into()),
            (false, 0) => HowMuch::AsConfigured,
            (false, bytes) => HowMuch::Budget(bytes),
        };
        let job = self.app.start_verify(choice, components, depth, how_much, id.as_deref()).await?;
        about.say(format!("job {}, backup {:?}", job.id, request.backup));
        self.answer(job).await
    }

    async fn plan_restore(
        &self,
        request: Request<PlanRestoreRequest>,
    ) -> Result<Response<RestorePlan>, Status> {
        let about = About::of(&request);
        let wire = request.into_inner();
        about.say(restored(&wire));
        let plan = self.app.plan_restore(&restore_request(&wire)?).await?;
        Ok(Response::new(RestorePlan {
            digest: plan.digest,
            backup: plan.backup.to_string(),
            sources: plan.sources,
            fetch_bytes: plan.fetch_bytes,
            request: Some(wire),
            doubts: plan.doubts,
            safety_components: plan.safety_components.iter().map(ToString::to_string).collect(),
            safety_seconds: self.app.config.restores.keep_safety_backup.get().as_secs(),
            estimated_seconds: plan.estimated_seconds,
            remarks: plan.remarks,
        }))
    }

    async fn start_restore(
        &self,
        request: Request<StartRestoreRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let about = About::of(&request);
        let request = request.into_inner();
        let wanted = convert::required("request", request.request.as_ref())?;
        about.say(restored(wanted));
        let id = request_id(&request.request_id)?;
        let job = self.app.start_restore(&restore_request(wanted)?, &request.digest, id.as_deref()).await?;
        about.say(format!("job {}, {}", job.id, restored(wanted)));
        self.answer(job).await
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let ListJobsRequest { limit, before } = request.into_inner();
        let limit = match limit {
            0 => USUAL_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        let (catalog, agents) = (&self.app.catalog, self.app.agents().await?);
        // One more than is shown tells whether there is more.
        let found = match before.as_str() {
            "" => catalog.jobs(limit + 1).await,
            before => catalog.jobs_before(job_id(before)?, limit + 1).await,
        };
        let found = found.map_err(|error| catalog_failure(&error))?;
        let (count, live) = (found.len(), self.app.runner.live());
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        for job in found.into_iter().take(limit as usize) {
            let job = wire::job(&live.view(job), &agents);
            bytes += proto::length_on_the_wire(&job);
            jobs.push(job);
            if bytes > PAGE_BYTES {
                break;
            }
        }
        let more = count > jobs.len();
        Ok(Response::new(ListJobsResponse { jobs, more }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        let job = self.app.job(job_id(&request.into_inner().id)?).await?;
        self.answer(job).await
    }

    async fn watch_job(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.id)?;
        self.app.job(id).await?;
        let agents = self.app.agents().await?;
        let mut watched = self.app.runner.live().watch(self.app.catalog.clone(), id, request.after);
        let (events, answer) = mpsc::channel(QUEUE);
        let stop = self.app.shutdown.token();
        self.app.shutdown.spawn(format!("watcher of {id}"), async move {
            let pass_on = async {
                while let Some(next) = watched.recv().await {
                    let event = next.map(|watched| wire::event(&watched, &agents));
                    let event = event.map_err(|error| catalog_failure(&error).into());
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {
                    let stops = Failure::new(tonic::Code::Unavailable, proto::failure::reason::UNREACHABLE, "the controller stops")
                        .hint("the job goes on when the controller is started again");
                    // A watcher that has gone away needs no goodbye.
                    let _ = events.try_send(Err(stops.into()));
                }
                () = pass_on => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<v1::Job>, Status> {
        let about = About::of(&request);
        let id = job_id(&request.into_inner().id)?;
        about.say(format!("job {id}"));
        let job = self.app.cancel(id).await?;
        self.answer(job).await
    }
}
