//! Jobs: order and cancel.

use std::collections::BTreeSet;

use proto::Failure;
use proto::convert::BackupChoice;
use proto::failure::reason;
use repository::names::{Component, SourceId};
use repository::verify::Depth;
use tonic::Code;

use crate::app::{App, catalog_failure};
use crate::catalog::Claim;
use crate::ids::JobId;
use crate::ingest::thread_died;
use crate::jobs::job::{Job, MONGODB, Order};
use crate::jobs::state::Refused;
use crate::jobs::{CancelError, SubmitError};

/// How much a verification reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HowMuch {
    /// What the configuration says.
    AsConfigured,
    /// So many bytes, and what is due.
    Budget(u64),
    /// All that the backup needs.
    All,
}

impl App {
    /// Orders a backup of these components, or of everything; or of a dump, as the server of one component.
    pub async fn start_backup(
        &self,
        mut components: Vec<Component>,
        pin: Option<String>,
        import: Option<String>,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        if import.is_some() {
            components = vec![self.imported_as(&components).await?];
        }
        self.are_known(&components).await?;
        self.submit(Order::Backup { components, pin, import }, request_id).await
    }

    /// Refuses components that no agent serves and no backup holds: a slip of the pen would become an alert.
    async fn are_known(&self, components: &[Component]) -> Result<(), Failure> {
        if components.is_empty() {
            return Ok(());
        }
        let held = self.catalog.newest_of_components().await.map_err(|error| catalog_failure(&error))?;
        let served = self.served_components().await?;
        let known: BTreeSet<String> =
            held.into_iter().map(|one| one.component).chain(served.iter().map(ToString::to_string)).collect();
        let Some(unknown) = components.iter().find(|one| !known.contains(one.as_str())) else {
            return Ok(());
        };
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        Err(Failure::invalid(format!("there is no component {unknown}"))
            .because(match known.as_slice() {
                [] => "no agent serves anything yet".to_owned(),
                known => {
                    format!("no agent serves it, and no backup holds it; there are {}", known.join(", "))
                }
            })
            .hint("`nsctl agent list` shows what is served"))
    }

    /// The component whose server a dump is backed up as: the one that was asked for, or the only one.
    async fn imported_as(&self, asked: &[Component]) -> Result<Component, Failure> {
        let agents = self.catalog.agents().await.map_err(|error| catalog_failure(&error))?;
        let served =
            agents.iter().filter(|agent| agent.revoked_at.is_none()).flat_map(|agent| &agent.sources);
        let servers: BTreeSet<&SourceId> = served
            .filter(|served| served.kind == MONGODB)
            .map(|served| &served.source)
            .filter(|source| asked.is_empty() || asked.contains(&source.component))
            .collect();
        match servers.iter().collect::<Vec<_>>().as_slice() {
            [only] => Ok(only.component.clone()),
            [] => {
                Err(Failure::new(Code::FailedPrecondition, reason::NOT_FOUND, "the dump cannot be imported")
                    .because("no agent serves a source of kind mongodb of that name")
                    .hint("`nsctl agent list` shows what is served; a dump is backed up as one of these"))
            }
            _ => Err(Failure::invalid("there are several servers that the dump could be of")
                .hint("say which with --component; a component with two of them takes no dump")),
        }
    }

    /// Orders a verification; of the newest backup unless one is named. It reads as much as the configuration
    /// says unless it is told otherwise.
    pub async fn start_verify(
        &self,
        choice: BackupChoice,
        components: Vec<Component>,
        (depth, drill): (Depth, bool),
        mut how_much: HowMuch,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        self.are_known(&components).await?;
        let record = self.newest(&choice).await?;
        if drill {
            if matches!(how_much, HowMuch::Budget(_)) {
                return Err(Failure::invalid("a drill reads all of what it restores")
                    .hint("leave out --budget, or choose another depth"));
            }
            how_much = HowMuch::All;
        }
        let is_of = |job: &Job| match (&job.order, &choice) {
            (Order::Verify { backup, drill: as_drill, .. }, BackupChoice::Named(name)) => {
                backup == name && *as_drill == drill
            }
            (Order::Verify { drill: as_drill, .. }, BackupChoice::Latest) => *as_drill == drill,
            _ => false,
        };
        // What was begun before is only told.
        if self.ordered_before(request_id, is_of).await?.is_none() && drill {
            self.can_drill(&record, &components).await?;
        }
        let (backup, budget) = (record.name, self.budget(depth, how_much));
        self.submit(Order::Verify { backup, components, depth, budget, drill }, request_id).await
    }

    /// The budget of a verification that reads so much; none: it reads all that its backup needs.
    pub(crate) fn budget(&self, depth: Depth, how_much: HowMuch) -> Option<u64> {
        match how_much {
            _ if depth == Depth::Listed => None,
            HowMuch::AsConfigured => self.runner.verification().budget,
            HowMuch::Budget(bytes) => Some(bytes),
            HowMuch::All => None,
        }
    }

    /// Orders a job. Repeating it with the same id starts nothing new.
    pub(super) async fn submit(&self, order: Order, request_id: Option<&str>) -> Result<Job, Failure> {
        self.runner.submit(order, request_id).await.map_err(|error| not_submitted(&error))
    }

    /// The same for a schedule, which claims what the job is for.
    pub(crate) async fn order_for(
        &self,
        schedule: &str,
        order: Order,
        request_id: Option<&str>,
        claim: Claim,
    ) -> Result<Job, Failure> {
        let claim = Some((schedule.to_owned(), claim));
        let submitted = self.runner.submit_for(order, request_id, claim).await;
        submitted.map_err(|error| not_submitted(&error))
    }

    /// The job that a call with the same request id has ordered before, if it `may` be what is asked for now.
    pub(super) async fn ordered_before(
        &self,
        request_id: Option<&str>,
        may_be: impl Fn(&Job) -> bool,
    ) -> Result<Option<Job>, Failure> {
        let Some(request_id) = request_id else { return Ok(None) };
        let job = self.catalog.job_of_request(request_id).await.map_err(|error| catalog_failure(&error))?;
        match job {
            Some(job) if !may_be(&job) => {
                Err(not_submitted(&SubmitError::OtherRequest(format!("the {} {}", job.kind(), job.id))))
            }
            job => Ok(job),
        }
    }

    /// One job as it is now.
    pub async fn job(&self, id: JobId) -> Result<Job, Failure> {
        let job = self.catalog.job(id).await.map_err(|error| catalog_failure(&error))?;
        job.ok_or_else(|| Failure::not_found(format!("there is no job {id}")).hint("`nsctl jobs` lists them"))
    }

    /// Asks a job to end. One that has ended already is fine.
    pub async fn cancel(&self, id: JobId) -> Result<Job, Failure> {
        match self.runner.cancel(id).await {
            Ok(()) | Err(CancelError::Refused(Refused::Ended)) => self.job(id).await,
            Err(CancelError::Unknown) => self.job(id).await,
            Err(CancelError::Refused(refused)) => Err(Failure::new(
                Code::FailedPrecondition,
                reason::TOO_LATE,
                "the job cannot be cancelled any more",
            )
            .because(refused.to_string())),
            Err(CancelError::Catalog(error)) => Err(catalog_failure(&error)),
            Err(CancelError::NotTaken) => {
                Err(Failure::new(Code::Unavailable, reason::BUSY, "the job was not cancelled")
                    .because("whoever carries it out gave it up in this moment, and it is taken up again")
                    .hint("try again"))
            }
            Err(CancelError::Failed(error)) => Err(thread_died(&error)),
        }
    }
}

pub(super) fn not_submitted(error: &SubmitError) -> Failure {
    match error {
        SubmitError::Full => Failure::new(Code::ResourceExhausted, reason::BUSY, error.to_string())
            .hint("wait for some of them, or cancel them: `nsctl jobs` lists them"),
        SubmitError::OtherRequest(_) => Failure::invalid(error.to_string())
            .hint("a request id stands for one order: use another one, or none, for this one"),
        SubmitError::Taken => Failure::new(Code::AlreadyExists, reason::BUSY, error.to_string())
            .hint("`nsctl schedule list` shows it"),
        SubmitError::Catalog(cause) => catalog_failure(cause),
        SubmitError::Failed(cause) => thread_died(cause),
    }
}
