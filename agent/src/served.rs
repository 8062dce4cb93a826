//! The sources that this agent serves: what the configuration says, made usable.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::{convert, v1};
use repository::check::Subject;
use repository::names::{InvalidName, SourceId};
use runtime::config::SecretSource;
use tokio_util::sync::CancellationToken;

use crate::config::{
    DockerConfig, Hooks, Kind, KubernetesConfig, NodeRpc, Objects, SourceConfig, SourceData,
};
use crate::limits::SourceLimits;
use crate::sources::blockchain::{ChainSource, Profile, Rung, Way};
use crate::sources::configs::{EnvironmentSource, ObjectsSource};
use crate::sources::files::{Excludes, FilesSource, Rules, WrongPattern};
use crate::sources::ipfs::IpfsSource;
use crate::sources::ipfs::volume::VolumeSource;
use crate::sources::mongodb::dump;
use crate::sources::mongodb::folder::FolderSource;
use crate::sources::mongodb::{self, History, MongoSource, Terms, lock};
use crate::sources::{Source, SourceError};
use crate::targets::files::Place;

/// One source with what it needs.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) id: SourceId,
    pub(crate) kind: Kind,
    pub(crate) data: SourceData,
    pub(crate) limits: SourceLimits,
    pub(crate) hooks: Hooks,
    history: History,
    exclude: Vec<String>,
    exclude_caches: bool,
    one_file_system: bool,
    profile: Profile,
    quiesce: Vec<Rung>,
    cluster: KubernetesConfig,
    imports: Option<PathBuf>,
    fsync_lock: Option<Duration>,
    /// The Docker Engine. Whether it is there is looked for each time: it may start after the agent.
    pub(crate) engine: DockerConfig,
}

/// A configured source cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the configured source {component}/{name} is wrong")]
pub(crate) struct WrongSource {
    component: String,
    name: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// A source cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Pattern(#[from] WrongPattern),
}

impl Served {
    pub(crate) fn new(config: &SourceConfig) -> Result<Self, WrongSource> {
        let SourceConfig { component, name, kind, data, .. } = config;
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| WrongSource {
            component: component.clone(),
            name: name.clone(),
            source,
        };
        let id = SourceId {
            component: component.parse().map_err(|error: InvalidName| wrong(error.into()))?,
            name: name.parse().map_err(|error: InvalidName| wrong(error.into()))?,
        };
        let limits = SourceLimits::new(&config.limits, config.window.as_ref());
        Ok(Self {
            id,
            kind: *kind,
            data: data.clone(),
            limits: limits.map_err(|error| wrong(error.into()))?,
            hooks: config.hooks.clone(),
            history: History::default(),
            exclude: config.exclude.clone(),
            exclude_caches: config.exclude_caches,
            one_file_system: config.one_file_system,
            profile: config.profile,
            quiesce: config.quiesce.clone(),
            cluster: KubernetesConfig::default(),
            imports: config.imports.clone(),
            fsync_lock: config.fsync_lock.map(runtime::config::Duration::get),
            engine: DockerConfig { enabled: Some(false), ..DockerConfig::default() },
        })
    }

    /// Its objects are those of the cluster that this means.
    pub(crate) fn of_cluster(self, cluster: &KubernetesConfig) -> Self {
        Self { cluster: cluster.clone(), ..self }
    }

    /// Its containers are those of the engine that this means.
    pub(crate) fn of_engine(self, engine: &DockerConfig) -> Self {
        Self { engine: engine.clone(), ..self }
    }

    /// Begins to read it; the agent's own `state` folder is never a part of it. Blocks, within the runtime.
    pub(crate) fn open(&self, state: &Path, now: jiff::Timestamp) -> Result<Box<dyn Source>, OpenError> {
        let rules = self.rules(state)?;
        Ok(match &self.data {
            SourceData::Folder { path } => Box::new(FilesSource::folder(path, rules)?),
            SourceData::Listed { files } => {
                let patterns: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
                Box::new(FilesSource::listed(&patterns, rules)?)
            }
            SourceData::Server { .. } => {
                let uri = self.server().expect("the configuration has one of them");
                Box::new(MongoSource::open(&uri, now, &self.history, None)?)
            }
            SourceData::Objects { kubernetes } => {
                Box::new(ObjectsSource::open(kubernetes, &self.cluster, now)?)
            }
            SourceData::Environment { env } => {
                Box::new(EnvironmentSource::open(env, &self.engine.socket, now, &CancellationToken::new()))
            }
            SourceData::Node { rpc, path } => {
                Box::new(IpfsSource::open(rpc, path.as_deref(), state, self.file_name(), now, None)?)
            }
        })
    }

    /// The connection string of the server that is served, if it is one.
    pub(crate) fn server(&self) -> Option<SecretSource> {
        match &self.data {
            SourceData::Server { uri, uri_file } => SecretSource::from_pair(uri.as_ref(), uri_file.as_ref()),
            SourceData::Folder { .. }
            | SourceData::Listed { .. }
            | SourceData::Objects { .. }
            | SourceData::Environment { .. }
            | SourceData::Node { .. } => None,
        }
    }

    /// As [`Served::open`], for a backup: what has to fit together is held before it is read. Gives up when
    /// `cancel` is cancelled. `is_new`: no backup holds anything of it yet.
    pub(crate) fn open_for_backup(
        &self,
        state: &Path,
        now: jiff::Timestamp,
        is_new: bool,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn Source>, OpenError> {
        match (self.kind, &self.data) {
            (Kind::Blockchain, SourceData::Folder { path }) => {
                let way = self.way(self.profile, path, state);
                Ok(Box::new(ChainSource::open(path, self.rules(state)?, &way, cancel)?))
            }
            (Kind::Ipfs, SourceData::Folder { path }) => {
                let way = self.way(Profile::Auto, path, state);
                Ok(Box::new(VolumeSource::open(path, self.rules(state)?, &way, is_new, cancel)?))
            }
            (_, SourceData::Environment { env }) => {
                Ok(Box::new(EnvironmentSource::open(env, &self.engine.socket, now, cancel)))
            }
            (Kind::Mongodb, SourceData::Folder { path }) => {
                Ok(Box::new(FolderSource::open(path, self.rules(state)?)?))
            }
            (Kind::Mongodb, SourceData::Server { .. }) => {
                let (uri, source) =
                    (self.server().expect("the configuration has one of them"), self.file_name());
                let left = lock::unlock_before(state, &source, &uri);
                let terms = self.fsync_lock.map(|longest| Terms { state: state.to_owned(), source, longest });
                let mut source = MongoSource::open(&uri, now, &self.history, terms.as_ref())?;
                source.tell(left);
                Ok(Box::new(source))
            }
            (_, SourceData::Node { rpc, path }) => Ok(Box::new(IpfsSource::open(
                rpc,
                path.as_deref(),
                state,
                self.file_name(),
                now,
                Some(cancel),
            )?)),
            _ => self.open(state, now),
        }
    }

    /// How the node's folder `root` is held while it is read.
    fn way<'a>(&'a self, profile: Profile, root: &'a Path, state: &'a Path) -> Way<'a> {
        let engine = self.engine.engine().map(PathBuf::as_path);
        Way { profile, rungs: &self.quiesce, engine, root, state }
    }

    /// Begins to read a dump instead of what is served, once it was looked through. Blocks.
    pub(crate) fn open_dump(
        &self,
        at: &Path,
        state: &Path,
        now: jiff::Timestamp,
    ) -> Result<Box<dyn Source>, OpenError> {
        let component = self.id.component.as_str();
        let check = formats::check_of(&Subject { kind: self.kind.as_str(), component, now });
        let rules = Rules::from(Excludes::new(&[])?).leave_out(state);
        Ok(dump::open(at, self.imports.as_deref(), check, rules)?)
    }

    /// The same source without what is run around its backups.
    pub(crate) fn without_hooks(self) -> Self {
        Self { hooks: Hooks::default(), ..self }
    }

    /// What a backup leaves out of the folder, and a restore in place lets stay.
    pub(crate) fn rules(&self, state: &Path) -> Result<Rules, WrongPattern> {
        Ok(Rules {
            caches: self.exclude_caches,
            one_file_system: self.one_file_system,
            ..Rules::from(Excludes::new(&self.exclude)?).leave_out(state)
        })
    }

    /// Where the files of a restore in place go; none into a server.
    pub(crate) fn place(&self) -> Option<Place> {
        match &self.data {
            SourceData::Folder { path } => Some(Place::InPlace { root: path.clone() }),
            SourceData::Listed { .. } => Some(Place::Listed { root: PathBuf::from("/") }),
            SourceData::Server { .. }
            | SourceData::Objects { .. }
            | SourceData::Environment { .. }
            | SourceData::Node { .. } => None,
        }
    }

    /// The objects of a cluster that are served, and how the cluster is reached.
    pub(crate) fn objects(&self) -> Option<(&Objects, &KubernetesConfig)> {
        match &self.data {
            SourceData::Objects { kubernetes } => Some((kubernetes, &self.cluster)),
            _ => None,
        }
    }

    /// How the node is reached, if it is one.
    pub(crate) fn node(&self) -> Option<&NodeRpc> {
        match &self.data {
            SourceData::Node { rpc, .. } => Some(rpc),
            _ => None,
        }
    }

    /// What its own files in the agent's state are called. Component and name have no `+` in them.
    pub(crate) fn file_name(&self) -> String {
        format!("{}+{}", self.id.component, self.id.name)
    }

    /// The data folder of a database's server, if it is one.
    pub(crate) fn database(&self) -> Option<&Path> {
        if self.kind == Kind::Mongodb { self.folder() } else { None }
    }

    /// The folder that is served as a whole, if it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.data {
            SourceData::Folder { path } => Some(path),
            SourceData::Listed { .. }
            | SourceData::Server { .. }
            | SourceData::Objects { .. }
            | SourceData::Environment { .. }
            | SourceData::Node { .. } => None,
        }
    }

    /// The folders in which a restore may have left something unfinished.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        match &self.data {
            SourceData::Folder { path } => vec![path.clone()],
            SourceData::Listed { files } => {
                let parents = files.iter().filter_map(|file| Path::new(file).parent());
                let mut roots: Vec<PathBuf> =
                    std::iter::once(Path::new("/")).chain(parents).map(Path::to_owned).collect();
                roots.sort();
                roots.dedup();
                roots
            }
            SourceData::Server { .. }
            | SourceData::Objects { .. }
            | SourceData::Environment { .. }
            | SourceData::Node { .. } => Vec::new(),
        }
    }

    /// Where it is, for people.
    pub(crate) fn location(&self) -> String {
        match &self.data {
            SourceData::Folder { path } => path.display().to_string(),
            SourceData::Listed { files } => files.join(", "),
            SourceData::Objects { kubernetes } => {
                format!("the namespaces {}", kubernetes.namespaces.join(", "))
            }
            SourceData::Environment { env } => env.location(),
            SourceData::Node { rpc, .. } => rpc.rpc.clone(),
            SourceData::Server { uri: Some(uri), .. } => mongodb::without_user(uri.expose()),
            SourceData::Server { uri_file, .. } => {
                let file = uri_file.as_deref().unwrap_or(Path::new("`uri`"));
                format!("the server that {} names", file.display())
            }
        }
    }

    /// As [`Served::location`], for a failure whose text ends in an archive's manifest: a manifest needs no
    /// key, so listed files, which are entries, are not named.
    pub(crate) fn for_manifests(&self) -> String {
        match &self.data {
            SourceData::Folder { .. }
            | SourceData::Server { .. }
            | SourceData::Objects { .. }
            | SourceData::Environment { .. }
            | SourceData::Node { .. } => self.location(),
            SourceData::Listed { files } => format!("each of the {} listed paths", files.len()),
        }
    }

    /// As the controller is told of it.
    pub(crate) fn to_wire(&self) -> v1::ServedSource {
        v1::ServedSource {
            source: Some(convert::to_wire_source(&self.id)),
            kind: self.kind.as_str().to_owned(),
            location: self.location(),
        }
    }
}
