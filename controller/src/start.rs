//! From settings to a running controller, and back to rest.
//!
//! Order of the start: state folder (locked) → repository (leased, pinned, unlocked) → catalog (made from
//! the repository where it is missing) → identity → listeners bound → work. Whatever cannot be had is told
//! before anything is served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::Failure;
use runtime::clock::{Clock, SystemClock};
use runtime::shutdown::{Drained, Shutdown};
use tokio_util::sync::CancellationToken;

use crate::alerts::{Dispatcher, SinkError};
use crate::app::{Accounts, App, Legacy, Parts, ScheduleView, ShownPlans};
use crate::audit::{Audit, AuditError, AuditKey};
use crate::catalog::{Catalog, CatalogError};
use crate::config::ControllerConfig;
use crate::depot::{self, Depot, DepotError};
use crate::fleet::Fleet;
use crate::guarded;
use crate::identity::{AccountRules, ApiTokens, Authority, AuthorityError, Enrolment, ServerCertificate};
use crate::ingest::Quotas;
use crate::jobs::{Configured, Runner, Settings};
use crate::kubernetes::{self, ClusterError, RestorePods, TokenReviews};
use crate::metrics::Metrics;
use crate::rpc::{AgentServer, PeopleServer, ServeError};
use crate::safekeeping::CATALOG_FILE;
use crate::schedule::{Scheduler, keeper};
use crate::state::{StateError, StateFolder};
use crate::web::{self, WebServer};

/// How long an agent that is away is waited for before its source counts as missing.
const AGENT_WAIT: Duration = Duration::from_secs(60);
/// What still runs this long after a stop was asked for is left to the end of the process.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// A lease that another controller holds is waited for, a little longer than it lasts: after a crash with
/// a lost state folder it simply ends.
const LEASE_PATIENCE: Duration = Duration::from_secs(100);
/// A lease of running work lasts for a day.
const RENEW_WORK: Duration = Duration::from_secs(3_600);
const LEASE_AGAIN: Duration = Duration::from_secs(5);

/// The controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The repository cannot be used.
    #[error(transparent)]
    Depot(#[from] DepotError),
    /// The catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The certificates cannot be had.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The audit log cannot be used.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The Kubernetes cluster of the configuration cannot be asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The sinks of alerts cannot be set up.
    #[error(transparent)]
    Alerts(#[from] SinkError),
    /// An address or the socket cannot be had.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The repository's backups cannot be read into the catalog.
    #[error("{} ({})", .0.what, .0.why)]
    Sync(Failure),
    /// A thread ended unexpectedly.
    #[error("a thread of the controller ended unexpectedly")]
    Thread(#[from] tokio::task::JoinError),
    /// The stop was asked for before the start was done.
    #[error("the controller was stopped while it was starting")]
    Stopped,
}

/// A controller that is ready to serve.
pub struct Controller {
    app: App,
    agents: AgentServer,
    people: PeopleServer,
    web: WebServer,
    probes: WebServer,
    addresses: Addresses,
    /// For what is told to a Kubernetes cluster; nothing where there is none.
    cluster: Option<kube::Client>,
}

/// Where a controller listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// gRPC with TLS.
    pub grpc: SocketAddr,
    /// The web page.
    pub web: SocketAddr,
    /// Probes.
    pub probes: SocketAddr,
    /// The Unix socket.
    pub socket: PathBuf,
}

/// Runs a controller until the stop is asked for, and waits until it is at rest.
pub async fn run(config: ControllerConfig, shutdown: Shutdown) -> Result<(), StartError> {
    runtime::memory::keep_few_heaps();
    Controller::start(config, shutdown).await?.serve().await;
    Ok(())
}

impl Controller {
    /// Opens everything and binds every address. Nothing is served yet.
    pub async fn start(config: ControllerConfig, shutdown: Shutdown) -> Result<Self, StartError> {
        Self::start_with(config, shutdown, Arc::new(SystemClock), AGENT_WAIT).await
    }

    /// The same with a clock of one's own, and another patience with agents that are away.
    pub async fn start_with(
        config: ControllerConfig,
        shutdown: Shutdown,
        clock: Arc<dyn Clock>,
        agent_wait: Duration,
    ) -> Result<Self, StartError> {
        runtime::tls::install_crypto_provider();
        let state = StateFolder::open(&config.state)?;
        let (state, depot) = open_depot(config.clone(), state, &shutdown, &*clock).await?;
        let depot = Arc::new(depot);
        let catalog = Catalog::open(&state.path(CATALOG_FILE)).await?;
        let now = clock.now();
        let authority = Arc::new(Authority::open(&state, depot.repository().config().id, now)?);
        let key = AuditKey::new(&depot.keys().signing().derived("audit log"));
        let audit = Audit::open(&state.path("audit"), key, catalog.clone(), clock.clone()).await?;
        let server_certificate = ServerCertificate::new(authority.clone(), config.certificate_names(), now)?;
        let server_certificate = Arc::new(server_certificate);
        let agents = AgentServer::bind(config.listen.grpc, server_certificate.tls()?).await?;
        let people = PeopleServer::bind(&config.listen.socket).await?;
        let web = WebServer::bind(config.listen.web).await?;
        let probes = WebServer::bind(config.listen.probes).await?;
        let addresses = addresses(&config, &agents, &web, &probes)?;
        let fleet = Fleet::new();
        let retention = Configured {
            rules: config.retention.rules(),
            is_declared: config.retention_is_declared,
            zone: config.zone(),
        };
        let scheduler = Scheduler::default();
        let (ended, verification) = (scheduler.wake().clone(), config.verification.goal());
        let (jobs_folder, state_folder) = (state.path("jobs"), config.state.clone());
        let jobs_kept_for = config.history.kept_for();
        let metrics = Metrics::default();
        let cluster = match config.kubernetes.is_unused() {
            true => None,
            false => Some(kubernetes::connect(&config.kubernetes).await?),
        };
        let settings = Settings {
            agent_wait,
            jobs_folder,
            state_folder,
            jobs_kept_for,
            retention,
            ended,
            verification,
            metrics: metrics.clone(),
            restore_pods: RestorePods::new(&config.kubernetes.restore_pods, cluster.clone()),
        };
        let runner = Runner::new(
            catalog.clone(),
            depot.clone(),
            fleet.clone(),
            clock.clone(),
            settings,
            shutdown.clone(),
        );
        let accounts =
            cluster.clone().filter(|_| !config.kubernetes.agents.is_empty()).map(|client| Accounts {
                rules: AccountRules::new(&config.kubernetes.agents),
                reviews: TokenReviews::new(client, config.kubernetes.audience.clone()),
            });
        for (sink, why) in config.alerts.unreadable() {
            tracing::error!(sink, "alerts cannot be sent: {why}");
        }
        let app = App::new(Parts {
            alerts: Dispatcher::new(&config.alerts, catalog.clone(), metrics.clone())?,
            quotas: Quotas::new(&config.quotas),
            legacy: Legacy::default(),
            scheduler,
            config,
            state,
            enrolment: Enrolment::new(authority.clone(), catalog.clone()),
            accounts,
            tokens: ApiTokens::new(authority, catalog.clone()),
            audit: Arc::new(audit),
            catalog,
            depot,
            fleet,
            runner,
            clock,
            shutdown,
            plans: ShownPlans::default(),
            server_certificate,
            metrics,
        });
        app.sync_with_repository().await.map_err(StartError::Sync)?;
        app.declare_schedules().await?;
        Ok(Self { app, agents, people, web, probes, addresses, cluster })
    }

    /// Its services, for whoever runs in the same process.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until the stop is asked for, and waits until it is at rest.
    pub async fn serve(self) {
        let Self { app, agents, people, web, probes, addresses, cluster } = self;
        let shutdown = app.shutdown.clone();
        let stop = shutdown.token();
        tracing::info!(
            grpc = %addresses.grpc, web = %addresses.web, probes = %addresses.probes,
            socket = %addresses.socket.display(), repository = %app.repository_id(), "controller ready"
        );
        let lease = app.depot.lease().clone();
        shutdown.spawn("lease", lease.keep(app.clock.clone(), stop.clone()));
        shutdown.spawn("leases of work", keep_leases(app.clone(), stop.clone()));
        let certificate = app.server_certificate.clone();
        shutdown.spawn("server certificate", certificate.keep(app.clock.clone(), stop.clone()));
        let filled = depot::rescue::fill(app.depot.clone(), app.config.rescue_program.clone());
        shutdown.spawn("rescue folder", filled);
        let maps = app.config.kubernetes.authority.clone();
        if let Some(client) = cluster.filter(|_| !maps.is_empty()) {
            let certificate = app.enrolment.authority().certificate_pem().to_owned();
            shutdown.spawn(
                "authority in config maps",
                kubernetes::authority::publish(client, maps, certificate, stop.clone()),
            );
        }
        app.alerts.start(&app.clock, &shutdown);
        let silence = app.clone().look_for_silence(stop.clone());
        shutdown.spawn("silence", guarded::watched("silence".to_owned(), shutdown.clone(), silence));
        shutdown.spawn("audit log", app.audit.clone().keep(stop.clone()));
        tell_schedules(&app).await;
        let schedules = keeper::keep(app.clone(), stop.clone());
        shutdown.spawn("schedules", guarded::watched("schedules".to_owned(), shutdown.clone(), schedules));
        shutdown.spawn("job queue", watched("job queue", shutdown.clone(), app.runner.clone().run()));
        shutdown.spawn("restore pods", app.runner.clone().keep_restore_pods());
        shutdown.spawn(
            "gRPC server",
            watched("gRPC server", shutdown.clone(), agents.serve(app.clone(), stop.clone())),
        );
        shutdown
            .spawn("socket", watched("socket", shutdown.clone(), people.serve(app.clone(), stop.clone())));
        let page = web.serve(web::site(app.clone()), stop.clone());
        shutdown.spawn("web page", watched("web page", shutdown.clone(), page));
        let served = probes.serve(web::probes(app.clone()), stop);
        shutdown.spawn("probes", watched("probes", shutdown.clone(), served));
        let drained = shutdown.drain(STOP_WITHIN).await;
        app.catalog.close().await;
        let depot = app.depot.clone();
        let give_back = move || {
            depot.repository().clear_ended_work();
            depot.lease().release();
        };
        if let Err(error) = tokio::task::spawn_blocking(give_back).await {
            tracing::warn!(%error, "the lease was not given back; it expires by itself");
        }
        match drained {
            Drained::Clean => tracing::info!("{drained}"),
            _ => tracing::warn!("{drained}"),
        }
    }
}

/// Says what comes by itself.
async fn tell_schedules(app: &App) {
    let Ok(schedules) = app.schedules().await else { return };
    for ScheduleView { record, next, .. } in schedules {
        let (schedule, cron, zone) = (record.name, record.definition.cron().as_str(), record.time_zone);
        match next {
            Some(next) => tracing::info!(schedule, cron, zone, next = %next.due_at, "schedule"),
            None => tracing::warn!(schedule, cron, zone, "the schedule is paused: nothing runs by it"),
        }
    }
}

/// Makes the leases of running work last on, until the stop.
async fn keep_leases(app: App, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(RENEW_WORK)).await.is_some() {
        let (depot, now) = (app.depot.clone(), app.now());
        match tokio::task::spawn_blocking(move || depot.repository().renew_work(now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = proto::failure::chain(&error),
                "the leases of running work were not renewed; it is tried again"
            ),
            Err(error) => tracing::error!(%error, "renewing the leases of running work ended unexpectedly"),
        }
    }
}

/// A part of the controller that ends with an error takes the whole controller with it: half a controller
/// helps nobody, and whoever watches the process starts it anew.
async fn watched<E: std::error::Error>(
    name: &'static str,
    shutdown: Shutdown,
    work: impl Future<Output = Result<(), E>>,
) {
    if let Err(error) = work.await {
        tracing::error!(
            part = name,
            error = proto::failure::chain(&error),
            "a part of the controller failed; it stops"
        );
        shutdown.request();
    }
}

fn addresses(
    config: &ControllerConfig,
    agents: &AgentServer,
    web: &WebServer,
    probes: &WebServer,
) -> Result<Addresses, ServeError> {
    let failed = |source| ServeError::Listen { place: "the configured addresses".to_owned(), source };
    Ok(Addresses {
        grpc: agents.address().map_err(failed)?,
        web: web.address().map_err(failed)?,
        probes: probes.address().map_err(failed)?,
        socket: config.listen.socket.clone(),
    })
}

/// Opens the repository; waits for a while where another controller holds it.
async fn open_depot(
    config: ControllerConfig,
    state: StateFolder,
    shutdown: &Shutdown,
    clock: &dyn Clock,
) -> Result<(StateFolder, Depot), StartError> {
    let (state, config) = (Arc::new(state), Arc::new(config));
    let stop = shutdown.token();
    let mut waited = Duration::ZERO;
    let depot = loop {
        let (state, config, now): (_, _, Timestamp) = (state.clone(), config.clone(), clock.now());
        match tokio::task::spawn_blocking(move || Depot::open(&config, &state, now)).await? {
            Err(DepotError::Lease(held @ repository::store::lease::LeaseError::Held { .. }))
                if waited < LEASE_PATIENCE =>
            {
                tracing::warn!(why = %held, "waiting for the repository");
                if stop.run_until_cancelled(tokio::time::sleep(LEASE_AGAIN)).await.is_none() {
                    return Err(StartError::Stopped);
                }
                waited += LEASE_AGAIN;
            }
            other => break other?,
        }
    };
    let state = Arc::into_inner(state).expect("the opening thread has ended and dropped its handle");
    Ok((state, depot))
}
