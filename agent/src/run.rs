//! The agent's life: state, what a crash left, then the connection until it is asked to stop.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use runtime::clock::SystemClock;
use runtime::shutdown::{Drained, Shutdown};

use crate::chance;
use crate::config::{AgentConfig, Kind, discover};
use crate::connection::{Agent, keep_connected};
use crate::drills::Marked;
use crate::hooks;
use crate::locks::unlock_left;
use crate::nodes::reap_at_start;
use crate::pipeline::RememberedBlobs;
use crate::platform::Platform;
use crate::resume::{keep_starting, resume};
use crate::served::{Served, WrongSource};
use crate::sources::blockchain;
use crate::state::{AgentKey, Identity, IdentityError, StateError, StateFolder};

/// How long running work may take to end.
const STOP: Duration = Duration::from_secs(10);

/// The agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot start.
    #[error("the agent cannot start")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Work hangs that only the end of the process can end; whoever supervises it starts it again. Threads
    /// still hang: the runtime must not be waited for.
    #[error("the agent ends so that it can be started again")]
    Hangs(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl RunError {
    fn of(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Start(Box::new(error))
    }
}

impl From<StateError> for RunError {
    fn from(error: StateError) -> Self {
        Self::of(error)
    }
}

impl From<IdentityError> for RunError {
    fn from(error: IdentityError) -> Self {
        Self::of(error)
    }
}

impl From<WrongSource> for RunError {
    fn from(error: WrongSource) -> Self {
        Self::of(error)
    }
}

/// Runs the agent until `shutdown` is asked for, then ends its work within ten seconds. Needs the
/// process's crypto provider to be installed, and a tokio runtime with several threads.
///
/// # Errors
/// When it cannot start, or when work hangs; else, once it runs, it goes on trying.
pub async fn run(config: AgentConfig, shutdown: Shutdown) -> Result<(), RunError> {
    runtime::memory::keep_few_heaps();
    allow_deep_folders();
    let state = StateFolder::open(&config.state)?;
    // First of all: whatever keeps the agent from starting keeps nobody paused.
    blockchain::thaw_left(&config.state);
    let key = AgentKey::open(&state)?;
    let identity = Identity::load(&state)?;
    let served = served(&config, Path::new("/"))?;
    for source in &served {
        tracing::info!(source = %source.id, location = source.location(), "serves");
    }
    let agent = Arc::new(Agent {
        platform: Platform::new(&config),
        drills: Marked::begin(&config.drills, &config.folders()),
        config,
        state,
        key,
        served,
        clock: Arc::new(SystemClock),
        instance: instance(),
        room: Arc::default(),
        listed: RememberedBlobs::default(),
        unbroken: AtomicUsize::new(0),
        retrying: std::sync::Mutex::default(),
    });
    for folder in agent
        .served
        .iter()
        .filter(|served| matches!(served.kind, Kind::Blockchain | Kind::Ipfs))
        .filter_map(Served::folder)
    {
        blockchain::reap(folder);
    }
    resume(agent.clone(), &shutdown.token()).await;
    hooks::run_those_owed(agent.state.hooks(), &agent.served, &shutdown.token()).await;
    shutdown.spawn("locks at servers", unlock_left(agent.clone(), shutdown.token()));
    shutdown.spawn("holds at nodes", reap_at_start(agent.clone(), shutdown.token()));
    shutdown.spawn("starts after restores", keep_starting(agent.clone(), shutdown.token()));
    let stop = shutdown.clone();
    let connection = shutdown.spawn("connection", async move {
        let ended = Box::pin(keep_connected(agent, identity, stop.token())).await;
        stop.request();
        ended
    });
    match shutdown.drain(STOP).await {
        Drained::Clean => tracing::info!("{}", Drained::Clean),
        other => {
            tracing::warn!("{other}");
            return Ok(());
        }
    }
    let ended = connection.await.expect("the connection does not panic");
    ended.map_err(|hanging| {
        tracing::error!("{hanging}");
        RunError::Hangs(Box::new(hanging))
    })
}

/// Nobody else's: the number of this run of the process.
fn instance() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&chance().to_be_bytes());
    bytes[8..].copy_from_slice(&chance().to_be_bytes());
    bytes
}

/// A walk holds a folder open for each level that it is deep: asks for as many open files as the system
/// lets us have without a privilege.
fn allow_deep_folders() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The configured sources, or those found in the usual places below `root`, which is `/` but in tests.
fn served(config: &AgentConfig, root: &Path) -> Result<Vec<Served>, WrongSource> {
    let served = |source| Ok(Served::new(source)?.of_cluster(&config.kubernetes).of_engine(&config.docker));
    if !config.sources.is_empty() {
        return config.sources.iter().map(served).collect();
    }
    let found = discover(root);
    for place in &found.unserved {
        let hint = "dump the database into a folder and serve that with `kind: files`";
        tracing::warn!(
            component = place.component, path = %place.path.display(), hint,
            "found, and not served: this release cannot back it up while it is in use"
        );
    }
    for place in &found.missing {
        tracing::info!(component = place.component, path = %place.path.display(), "not found in the usual place");
    }
    if found.sources.is_empty() {
        tracing::warn!("nothing to serve: list `sources` in the configuration");
    }
    found.sources.iter().map(served).collect()
}

#[cfg(test)]
mod tests {
    use runtime::config::{Layers, load};

    use super::*;

    #[test]
    fn a_source_that_is_found_has_the_engine_of_the_configuration_as_a_listed_one_has() {
        let folder = tempfile::tempdir().unwrap();
        let (file, socket) = (folder.path().join("agent.yaml"), folder.path().join("engine.sock"));
        let text = format!(
            "controller: https://c:8443\ndocker: {{ enabled: true, socket: {} }}\n",
            socket.display()
        );
        std::fs::write(&file, text).unwrap();
        let layers = Layers { file: Some(file), variables: Default::default(), flags: Vec::new() };
        let config: AgentConfig = load(&layers).unwrap().settings;
        std::fs::create_dir_all(folder.path().join("app/backend/data/blockchain")).unwrap();
        let found = served(&config, folder.path()).unwrap();
        let engines: Vec<_> = found.iter().map(|one| one.engine.engine().cloned()).collect();
        assert_eq!(engines, [Some(socket)]);
    }
}
