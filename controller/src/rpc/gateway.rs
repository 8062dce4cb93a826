//! `AgentGateway`: what agents call, each by its certificate, each for its own tasks.

use std::sync::Arc;

use proto::v1::agent_gateway_server::AgentGateway;
use proto::v1::finish_archive_request::Part;
use proto::v1::{
    AgentMessage, BlobTables, ControllerMessage, FetchBlobsRequest, FetchedBlob, FinishArchiveRequest,
    FinishArchiveResponse, JoinResponse, ListBlobsRequest, OpenArchiveRequest, OpenedSegment,
    PutSegmentRequest, PutSegmentResponse, RenewCertificateRequest,
};
use proto::{Failure, convert};
use runtime::steps;
use tonic::{Request, Response, Status, Streaming};

use crate::app::{App, catalog_failure};
use crate::catalog::Seen;
use crate::fleet::{ArchiveTask, Ended, RestoreTask, TaskContext};
use crate::identity::AgentCertificate;
use crate::ids::TaskId;
use crate::ingest::{self, Allowance, Place, Work};
use crate::rpc::caller::Caller;
use crate::rpc::control;
use crate::rpc::gate::About;
use crate::rpc::life::{Answers, Life};
use crate::steps::Step;

pub(super) struct GatewayService {
    app: App,
}

impl GatewayService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    fn allowance(&self, agent: &AgentCertificate) -> Arc<Allowance> {
        self.app.quotas.of(agent.agent, &agent.name)
    }

    async fn places(&self, agent: &AgentCertificate, work: Work) -> Result<(Place, Place), Status> {
        Ok(self.allowance(agent).places(work).await)
    }

    fn task(&self, agent: &AgentCertificate, task: &str) -> Result<(TaskId, TaskContext), Failure> {
        let id = task.parse::<TaskId>().map_err(|_| ingest::task_gone())?;
        let context = self.app.fleet.task(agent.agent, id).ok_or_else(ingest::task_gone)?;
        Ok((id, context))
    }

    fn archive(&self, agent: &AgentCertificate, task: &str) -> Result<(TaskId, Arc<ArchiveTask>), Failure> {
        match self.task(agent, task)? {
            (id, TaskContext::Archive(context)) => Ok((id, context)),
            _ => Err(Failure::invalid("this task makes no archive")),
        }
    }

    fn restore(&self, agent: &AgentCertificate, task: &str) -> Result<Arc<RestoreTask>, Failure> {
        match self.task(agent, task)? {
            (_, TaskContext::Restore(context)) => Ok(context),
            _ => Err(Failure::invalid("this task restores nothing")),
        }
    }
}

/// The agent of a call, as the gate knows it, and the call's body.
fn agent<T>(request: Request<T>) -> Result<(AgentCertificate, T), Failure> {
    let Some(Caller::Agent(agent)) = request.extensions().get::<Caller>().cloned() else {
        return Err(Failure::internal("a call of an agent has passed the gate without one"));
    };
    Ok((*agent, request.into_inner()))
}

/// The first message of a stream.
async fn first<T>(stream: &mut Streaming<T>) -> Result<T, Failure> {
    ingest::next_message(stream).await?.ok_or_else(|| Failure::invalid("the stream holds no message"))
}

#[tonic::async_trait]
impl AgentGateway for GatewayService {
    type ControlStream = Answers<ControllerMessage>;
    type ListBlobsStream = Answers<BlobTables>;
    type OpenArchiveStream = Answers<OpenedSegment>;
    type FetchBlobsStream = Answers<FetchedBlob>;

    async fn control(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let (agent, stream) = agent(request)?;
        let life = Life::of(&self.app, &agent);
        let down = control::open(self.app.clone(), agent, life.clone(), stream).await?;
        Ok(Response::new(life.answers(down)))
    }

    async fn list_blobs(
        &self,
        request: Request<ListBlobsRequest>,
    ) -> Result<Response<Self::ListBlobsStream>, Status> {
        let (agent, request) = agent(request)?;
        let (_, task) = self.archive(&agent, &request.task_id)?;
        let life = Life::of(&self.app, &agent);
        let places = life.during(self.places(&agent, Work::List)).await?;
        let repository = self.app.depot.repository().clone();
        let tables = ingest::list_blobs(repository, task.clone(), request.listed, places);
        Ok(Response::new(life.answers(tables)))
    }

    async fn put_segment(
        &self,
        request: Request<Streaming<PutSegmentRequest>>,
    ) -> Result<Response<PutSegmentResponse>, Status> {
        let (agent, mut stream) = agent(request)?;
        let allowance = self.allowance(&agent);
        let taken = async {
            let own = allowance.own_place(Work::Upload).await;
            let head = first(&mut stream).await?;
            let (_, task) = self.archive(&agent, &head.task_id)?;
            let repository = self.app.depot.repository().clone();
            let reserved = allowance.reserve(&task, ingest::length(&head)?, self.app.now())?;
            // An agent that is slowed waits here, and holds no place of others.
            allowance.keep_pace(head.length).await;
            let places = (own, allowance.shared_place(Work::Upload).await);
            let domain = task.domain.domain;
            let answer = ingest::put_segment(repository, domain, head, stream, (reserved, places)).await?;
            Ok(Response::new(answer))
        };
        Life::of(&self.app, &agent).during(taken).await
    }

    async fn finish_archive(
        &self,
        request: Request<Streaming<FinishArchiveRequest>>,
    ) -> Result<Response<FinishArchiveResponse>, Status> {
        let (agent, mut stream) = agent(request)?;
        let finished = async {
            let Some(Part::Summary(summary)) = first(&mut stream).await?.part else {
                return Err(Failure::invalid("the end of an archive begins with its summary").into());
            };
            let (id, task) = self.archive(&agent, &summary.task_id)?;
            let entries = summary.counts.as_ref().map_or(0, ingest::entries);
            let allowance = self.allowance(&agent);
            allowance.check_entries(entries, self.app.now())?;
            let places = allowance.places(Work::End).await;
            let repository = self.app.depot.repository().clone();
            let seen = Seen::of(&task.source, summary.signed.as_ref(), self.app.depot.keys(), self.app.now());
            let told = (seen.as_ref().and_then(Seen::key), self.app.now());
            let (answer, ended) =
                ingest::finish_archive(repository, task, summary, stream, places, told).await?;
            // Before the archive counts: what is known of a validator is never less than what backups have of it.
            if let (Some(seen), Some(Ended::Archived { .. })) = (seen, &ended) {
                let kept = self.app.catalog.sees_signed(&seen, self.app.now()).await;
                kept.map_err(|error| catalog_failure(&error))?;
            }
            if let Some(ended) = ended
                && !self.app.fleet.end(agent.agent, id, ended)
            {
                return Err(ingest::task_gone().into());
            }
            steps::reached(Step::ArchiveAccepted).await;
            Ok(Response::new(answer?))
        };
        Life::of(&self.app, &agent).during(finished).await
    }

    async fn open_archive(
        &self,
        request: Request<OpenArchiveRequest>,
    ) -> Result<Response<Self::OpenArchiveStream>, Status> {
        let (agent, request) = agent(request)?;
        let task = self.restore(&agent, &request.task_id)?;
        let (repository, keys) = (self.app.depot.repository().clone(), self.app.depot.keys().clone());
        let life = Life::of(&self.app, &agent);
        let places = life.during(self.places(&agent, Work::Read)).await?;
        let segments = ingest::open_archive(repository, keys, task, places);
        Ok(Response::new(life.answers(segments)))
    }

    async fn fetch_blobs(
        &self,
        request: Request<Streaming<FetchBlobsRequest>>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        let (agent, mut stream) = agent(request)?;
        let life = Life::of(&self.app, &agent);
        let head = life.during(async { Ok(first(&mut stream).await?) }).await?;
        let task = self.restore(&agent, &head.task_id)?;
        let (repository, keys) = (self.app.depot.repository().clone(), self.app.depot.keys().clone());
        let places = life.during(self.places(&agent, Work::Read)).await?;
        let blobs = ingest::fetch_blobs(repository, keys, task, head, stream, places);
        Ok(Response::new(life.answers(blobs)))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<JoinResponse>, Status> {
        let about = About::of(&request);
        let (agent, request) = agent(request)?;
        about.say(format!("agent {} {:?}", agent.agent, agent.name));
        if request.certificate_request.is_empty() {
            return Err(convert::Invalid::new("certificate_request", "is missing").into());
        }
        let issued = self.app.renew(&agent, &request.certificate_request).await?;
        Ok(Response::new(self.app.join_response(agent.agent, issued)))
    }
}
