//! The application services: one implementation of every operation, whoever asks for it.
//!
//! Must stay true: nothing here knows how a request came in; every error says what failed, why, and what
//! to do.

mod agents;
mod alerts;
mod audit;
pub mod backups;
mod browse;
mod doctor;
mod drills;
mod history;
mod jobs;
mod legacy;
mod metrics;
mod plan;
mod retention;
mod room;
mod schedules;
mod sign_in;
mod signers;
mod storage_look;
mod tokens;
mod undo;
mod verified;

use std::sync::Arc;

use jiff::Timestamp;
use proto::Failure;
use proto::failure::reason;
use repository::ids::RepositoryId;
use repository::names::BackupName;
use repository::work::{Work, WorkKind};
use runtime::clock::Clock;
use runtime::shutdown::Shutdown;
use tonic::Code;

use crate::alerts::Dispatcher;
use crate::audit::Audit;
use crate::catalog::{Catalog, CatalogError};
use crate::config::ControllerConfig;
use crate::depot::Depot;
use crate::fleet::Fleet;
use crate::identity::{ApiTokens, Enrolment, ServerCertificate};
use crate::ids::TaskId;
use crate::ingest::{Quotas, repository_failure, thread_died};
use crate::jobs::Runner;
use crate::jobs::leases::{self, HoldError};
use crate::metrics::Metrics;
use crate::schedule::Scheduler;
use crate::state::StateFolder;

pub use agents::Accounts;
pub(crate) use agents::{CLONE_HINT, agent_revoked};
pub use alerts::AlertsNow;
pub use backups::ArchiveChoice;
pub use browse::Reading;
pub use doctor::{CHECKS, Check, Finding, FindingLevel, state_folder};
pub use history::{ComponentHistory, History};
pub use jobs::HowMuch;
pub use legacy::Legacy;
pub use plan::{Plan, RestoreRequest, ShownPlans};
pub use retention::{PlannedPrune, RetentionPlan};
pub use room::Room;
pub use schedules::ScheduleView;

/// Everything that the controller can do. Cheap to clone.
#[derive(Clone)]
pub struct App {
    shared: Arc<Parts>,
    /// What was told last to whoever asks for metrics.
    told: Arc<metrics::Told>,
    /// The looks at storage that may hang.
    storages: Arc<tokio::sync::Mutex<alerts::Storages>>,
    started_at: Timestamp,
}

/// What the services are made of.
pub struct Parts {
    /// What is configured.
    pub config: ControllerConfig,
    /// The state folder.
    pub state: StateFolder,
    /// The database.
    pub catalog: Catalog,
    /// The repository.
    pub depot: Arc<Depot>,
    /// Who is connected.
    pub fleet: Fleet,
    /// The jobs.
    pub runner: Runner,
    /// What the loop of schedules shares with them.
    pub scheduler: Scheduler,
    /// How much agents may send.
    pub quotas: Quotas,
    /// What older systems left in the repository's root.
    pub legacy: Legacy,
    /// How agents join.
    pub enrolment: Enrolment,
    /// Who may join by a service account; nothing where nobody may.
    pub accounts: Option<Accounts>,
    /// How people and automation prove who they are.
    pub tokens: ApiTokens,
    /// Whom to tell what.
    pub alerts: Dispatcher,
    /// Who asked for what.
    pub audit: Arc<Audit>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The stop.
    pub shutdown: Shutdown,
    /// The plans of restores that were shown last.
    pub plans: ShownPlans,
    /// What the server shows.
    pub server_certificate: Arc<ServerCertificate>,
    /// What is counted.
    pub metrics: Metrics,
}

impl App {
    /// The services on top of these parts.
    pub fn new(parts: Parts) -> Self {
        let started_at = parts.clock.now();
        Self { shared: Arc::new(parts), told: Arc::default(), storages: Arc::default(), started_at }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Holds a backup that is read outside of a job, until what it gives is dropped.
    pub(crate) async fn hold(&self, backup: &BackupName, kind: WorkKind) -> Result<Work, Failure> {
        let id = TaskId::fresh().to_string();
        let held = leases::hold(&self.depot, id, kind, vec![backup.clone()], self.now()).await;
        held.map_err(|error| match &error {
            HoldError::Repository(error) => repository_failure("the backup cannot be held", error),
            HoldError::Thread(error) => thread_died(error),
        })
    }

    /// The repository that this controller writes.
    pub fn repository_id(&self) -> RepositoryId {
        self.depot.repository().config().id
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.shared
    }
}

/// The catalog failed; the cause goes to the log as well.
pub(crate) fn catalog_failure(error: &CatalogError) -> Failure {
    let failure = Failure::new(Code::Internal, reason::STORAGE, "the controller's catalog cannot be used")
        .caused_by(error)
        .hint("check space and permissions of the controller's state folder");
    tracing::error!(why = failure.why, "the catalog cannot be used");
    failure
}
