//! What uses the data, and how it is stopped and started: by configured commands, in containers, or as workloads
//! of a cluster.
//!
//! Must stay true: only what ran is stopped, and only what was stopped is started; what is told to stop has
//! stopped when the call returns, or the call fails; the agent never stops itself.

mod command;
mod docker;
mod environments;
pub(crate) mod frozen;
mod kubernetes;
mod namespaces;
mod order;
mod volumes;
mod writers;

pub(crate) use environments::{Environments, Given};
pub(crate) use volumes::Volume;
pub(crate) use writers::{writers, writers_of};

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::config::{AgentConfig, ApplicationConfig, DockerConfig, KubernetesConfig};
use crate::kubernetes::Cluster;
use docker::{Container, Docker, Health};
pub(crate) use kubernetes::Held;
use kubernetes::Workloads;

/// Between two looks at something that is being started.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A Docker Engine that does not answer yet is given so long: after a boot it may start later than we do.
const ENGINE_COMES: Duration = Duration::from_secs(120);
/// What has no check of its own has to run for so long.
const KEEPS_RUNNING: Duration = Duration::from_secs(2);

/// A program that uses a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Application {
    /// For people; no two have the same.
    pub(crate) name: String,
    /// How it is reached.
    pub(crate) handle: Handle,
    /// The names of those that it is started after.
    pub(crate) after: Vec<String>,
    /// It runs.
    pub(crate) runs: bool,
    /// There is a check of its health.
    pub(crate) is_checked: bool,
}

impl Application {
    /// The restore that will stop it.
    pub(crate) fn held_by(mut self, restore: &str) -> Self {
        if let Handle::Workload(held) = &mut self.handle {
            held.by = restore.to_owned();
        }
        self
    }
}

/// How an application is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Handle {
    /// By the commands of the configuration, under the application's name.
    Commands,
    /// As the container with this id.
    Container(String),
    /// As a workload of the cluster.
    Workload(Held),
}

impl Handle {
    /// For people and programs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Container(_) => "container",
            Self::Workload(_) => "workload",
        }
    }
}

/// What was found of one component.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What uses it, in the order in which it is started.
    pub(crate) applications: Vec<Application>,
    /// What runs, has its folder, and is not among them.
    pub(crate) others: Vec<Other>,
    /// What could not be found out, and nobody has said that it has to be.
    pub(crate) remarks: Vec<String>,
}

/// Something that has the folder and would not be stopped.
#[derive(Debug)]
pub(crate) struct Other {
    /// For people.
    pub(crate) name: String,
    /// How somebody says that it is to be stopped: the label, the annotation.
    pub(crate) mark: &'static str,
    /// What that is called.
    pub(crate) key: &'static str,
}

/// Something could not be asked, stopped or started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlatformError {
    #[error("the command {what} of the application {name} {cause}")]
    Command { name: String, what: &'static str, cause: String },
    #[error("the configuration knows no application {0} any more")]
    Unknown(String),
    #[error("the Docker Engine {0}")]
    Docker(String),
    /// What is there cannot be asked for.
    #[error("{0}")]
    Cluster(String),
    #[error("the cluster {0}")]
    Kubernetes(String),
    #[error(
        "this pod has no token of its service account, so workloads that have the folder mounted cannot be seen: let it \
         look for them (`workloads` of the chart), name what uses the folder under `applications`, or stop it yourself \
         and write `kubernetes: {{ enabled: false }}`"
    )]
    Blind,
    #[error(
        "the agent itself runs in {0}: give it a restore pod (`restore` under `joins` of the chart), or run it as a \
         Deployment of its own that mounts the same PersistentVolumeClaim, and restore there"
    )]
    Ourselves(String),
    #[error("{name} cannot be stopped for long enough: {keeper}")]
    Kept { name: String, keeper: String },
    #[error("the application {name} was not healthy within {seconds} seconds: {cause}")]
    Unhealthy { name: String, seconds: u64, cause: String },
    #[error("the application {0} still runs after it was stopped")]
    StillRuns(String),
}

/// The programs of this host that the agent may stop.
#[derive(Debug, Default)]
pub(crate) struct Platform {
    applications: Vec<ApplicationConfig>,
    settings: DockerConfig,
    cluster: KubernetesConfig,
    /// The way to it, once it was found.
    connected: OnceCell<Cluster>,
    /// The agent's name.
    agent: String,
}

impl Platform {
    pub(crate) fn new(config: &AgentConfig) -> Self {
        Self {
            applications: config.applications.clone(),
            settings: config.docker.clone(),
            cluster: config.kubernetes.clone(),
            connected: OnceCell::new(),
            agent: config.name.clone(),
        }
    }

    /// What uses the component, and who else has the folder.
    pub(crate) async fn using(&self, component: &str, folder: Option<&Path>) -> Result<Found, PlatformError> {
        let mut found = Found::default();
        let used_by = self.applications.iter().filter(|one| one.uses.iter().any(|used| used == component));
        for one in used_by.clone().filter(|one| one.container.is_none()) {
            let runs = command::succeeds(one, "is_running", &one.is_running).await?;
            found.applications.push(Application {
                name: one.name.clone(),
                handle: Handle::Commands,
                after: one.after.clone(),
                runs,
                is_checked: !one.healthy.is_empty(),
            });
        }
        self.containers_using(component, folder, &mut found).await?;
        if self.cluster.is_asked() {
            let looked = async { self.workloads().await?.using(component, folder, &mut found).await };
            match looked.await {
                // Nobody has said that there are workloads of ours, and nobody has given us a right.
                Err(error @ PlatformError::Cluster(_)) if !self.cluster.is_configured() => {
                    found.remarks.push(format!("workloads are not looked for: {error}"));
                }
                looked => looked?,
            }
        } else if folder.is_some() && self.cluster.is_blind() {
            found.remarks.extend(unseen(used_by.count() > 0)?);
        }
        found.applications = order::for_start(found.applications);
        Ok(found)
    }

    async fn containers_using(
        &self,
        component: &str,
        folder: Option<&Path>,
        found: &mut Found,
    ) -> Result<(), PlatformError> {
        let used_by = self.applications.iter().filter(|one| one.uses.iter().any(|used| used == component));
        if let Some(docker) = self.docker() {
            let containers = match docker.containers().await {
                // Nobody has said that there are containers of ours.
                Err(error) if self.settings.enabled.is_none() && !used_by.clone().any(is_container) => {
                    found.remarks.push(format!("containers are not looked for: {error}"));
                    Vec::new()
                }
                containers => containers?,
            };
            let named: Vec<(&str, &ApplicationConfig)> =
                used_by.clone().filter_map(|one| Some((one.container.as_deref()?, one))).collect();
            if let Some((missing, _)) =
                named.iter().find(|(name, _)| !containers.iter().any(|one| one.is_called(name)))
            {
                return Err(PlatformError::Docker(format!("has no container {missing}")));
            }
            // One that is taken for ours by mistake is not stopped.
            let ours = docker::Container::ours(&containers)?;
            let folder = folder.map(|folder| {
                let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
                ours.map_or_else(|| real.clone(), |ours| ours.on_host(&real))
            });
            for one in containers.iter().filter(|one| !one.is_ours()) {
                let configured = named.iter().find(|(name, _)| one.is_called(name));
                if configured.is_some() || one.stops_for(component) {
                    let mut application = one.application(&containers);
                    if let Some((_, configured)) = configured {
                        application.name = configured.name.clone();
                        application.after.extend(configured.after.clone());
                    }
                    found.applications.push(application);
                } else if folder.as_deref().is_some_and(|folder| one.runs() && one.writes_in(folder)) {
                    let name = format!("the container {}", one.name());
                    found.others.push(Other { name, mark: "the label", key: docker::STOP_FOR });
                }
            }
        } else if let Some(one) = used_by.clone().find(|one| is_container(one)) {
            let cause = format!("is not asked, and {} is a container", one.name);
            return Err(PlatformError::Docker(cause));
        }
        Ok(())
    }

    /// Workloads that this agent has stopped and not started, as far as the cluster knows; none where it is not
    /// asked.
    pub(crate) async fn left_in_cluster(&self) -> Result<Vec<Application>, PlatformError> {
        match self.cluster.is_asked() {
            true => Ok(order::for_start(self.workloads().await?.left().await)),
            false => Ok(Vec::new()),
        }
    }

    /// Waits until whatever reaches this one answers; not for ever.
    pub(crate) async fn await_engine(&self, handle: &Handle) -> Result<(), PlatformError> {
        let began = Instant::now();
        loop {
            let (answer, is_refused) = match handle {
                Handle::Commands => return Ok(()),
                Handle::Container(_) => {
                    let answer = match self.engine() {
                        Ok(docker) => docker.containers().await.map(drop),
                        Err(error) => Err(error),
                    };
                    (answer, self.settings.enabled == Some(false))
                }
                Handle::Workload(id) => {
                    let answer = async { self.workloads().await?.health(id).await.map(drop) }.await;
                    (answer, self.cluster.enabled == Some(false))
                }
            };
            if answer.is_ok() || is_refused || began.elapsed() >= ENGINE_COMES {
                return answer;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Stops it.
    pub(crate) async fn stop(&self, application: &Application) -> Result<(), PlatformError> {
        match &application.handle {
            Handle::Commands => {
                let one = self.configured(&application.name)?;
                command::run(one, "stop", &one.stop).await?;
                match command::succeeds(one, "is_running", &one.is_running).await? {
                    true => Err(PlatformError::StillRuns(one.name.clone())),
                    false => Ok(()),
                }
            }
            Handle::Container(id) => self.engine()?.stop(id, self.settings.stop_limit.get()).await,
            Handle::Workload(id) => self.workloads().await?.stop(id).await,
        }
    }

    /// Waits until nothing of what does not run is left; of a workload that may take a while.
    pub(crate) async fn await_gone(&self, application: &Application) -> Result<(), PlatformError> {
        match &application.handle {
            Handle::Workload(held) => self.workloads().await?.await_gone(&held.id).await,
            Handle::Commands | Handle::Container(_) => Ok(()),
        }
    }

    /// Starts it. One that runs already is fine.
    pub(crate) async fn start(&self, application: &Application) -> Result<(), PlatformError> {
        match &application.handle {
            Handle::Commands => {
                let one = self.configured(&application.name)?;
                match command::succeeds(one, "is_running", &one.is_running).await? {
                    true => Ok(()),
                    false => command::run(one, "start", &one.start).await,
                }
            }
            Handle::Container(id) => self.engine()?.start(id).await,
            Handle::Workload(id) => self.workloads().await?.start(id).await,
        }
    }

    /// Waits until it is healthy, or runs where nothing else is known of it.
    pub(crate) async fn await_health(&self, application: &Application) -> Result<(), PlatformError> {
        let limit = match &application.handle {
            Handle::Commands => self.configured(&application.name)?.health_limit,
            Handle::Container(_) => self.settings.health_limit,
            Handle::Workload(_) => self.cluster.health_limit,
        };
        let began = Instant::now();
        loop {
            let health = match self.health(application, began).await {
                // An answer that does not come says nothing of it.
                Err(error @ (PlatformError::Kubernetes(_) | PlatformError::Cluster(_))) => {
                    Health::Unknown(error.to_string())
                }
                health => health?,
            };
            let cause = match health {
                Health::Good => return Ok(()),
                Health::Bad(cause) | Health::Unknown(cause) if began.elapsed() >= limit.get() => cause,
                Health::Bad(_) | Health::Unknown(_) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            let (name, seconds) = (application.name.clone(), limit.get().as_secs());
            return Err(PlatformError::Unhealthy { name, seconds, cause });
        }
    }

    async fn health(&self, application: &Application, began: Instant) -> Result<Health, PlatformError> {
        match &application.handle {
            Handle::Commands => {
                let one = self.configured(&application.name)?;
                let (what, command) = match one.healthy.is_empty() {
                    true => ("is_running", &one.is_running),
                    false => ("healthy", &one.healthy),
                };
                match command::run(one, what, command).await {
                    Ok(()) => Ok(Health::Good),
                    Err(error) => Ok(Health::Bad(error.to_string())),
                }
            }
            Handle::Container(id) => {
                self.engine()?.health(id).await.map(|health| settled(health, application, began))
            }
            Handle::Workload(id) => {
                let health = self.workloads().await?.health(id).await?;
                Ok(settled(health, application, began))
            }
        }
    }

    async fn workloads(&self) -> Result<Workloads<'_>, PlatformError> {
        let connect = || Cluster::connect(&self.cluster);
        let cluster = self.connected.get_or_try_init(connect).await;
        let cluster = cluster.map_err(|trouble| PlatformError::Kubernetes(trouble.to_string()))?;
        Ok(Workloads::of(cluster.clone(), &self.cluster, &self.agent))
    }

    fn configured(&self, name: &str) -> Result<&ApplicationConfig, PlatformError> {
        let found = self.applications.iter().find(|one| one.name == name);
        found.ok_or_else(|| PlatformError::Unknown(name.to_owned()))
    }

    fn docker(&self) -> Option<Docker> {
        self.settings.engine().map(|socket| Docker::at(socket))
    }

    fn engine(&self) -> Result<Docker, PlatformError> {
        self.docker().ok_or_else(|| PlatformError::Docker("is not asked any more".to_owned()))
    }
}

/// What is said where workloads cannot be seen: somebody who has named what uses the component knows what that is.
fn unseen(somebody_knows: bool) -> Result<Option<String>, PlatformError> {
    match somebody_knows {
        true => Ok(Some(
            "workloads are not looked for: this pod has no token of its service account, so only the applications \
             of the configuration are stopped"
                .to_owned(),
        )),
        false => Err(PlatformError::Blind),
    }
}

/// What has no check of its own is well once it has run for a while.
fn settled(health: Health, application: &Application, began: Instant) -> Health {
    match health {
        Health::Good if !application.is_checked && began.elapsed() < KEEPS_RUNNING => {
            Health::Unknown("it has only just been started".to_owned())
        }
        health => health,
    }
}

fn is_container(application: &ApplicationConfig) -> bool {
    application.container.is_some()
}

impl Container {
    fn application(&self, all: &[Container]) -> Application {
        Application {
            name: self.name().to_owned(),
            handle: Handle::Container(self.id.clone()),
            after: self.after(all),
            runs: self.runs(),
            is_checked: self.is_checked(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_see_workloads_refuses_only_where_nobody_has_named_what_uses_the_data() {
        assert!(matches!(unseen(false), Err(PlatformError::Blind)));
        let said = unseen(true).expect("it goes on").expect("it is told");
        assert!(said.contains("no token of its service account"), "{said}");
    }
}
