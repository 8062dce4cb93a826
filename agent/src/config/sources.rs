//! Sources as they are written.

use std::path::{Path, PathBuf};

use runtime::config::{Duration, Problem, Secret};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::{Environment, Hooks, Limits, NodeRpc, Objects, WindowConfig, absolute, check_name};
use crate::sources::blockchain::{Profile, Rung};
use crate::sources::files::Excludes;

/// One source that this agent serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct SourceConfig {
    /// What users call it, e.g. `models`.
    pub component: String,
    /// The source's stable name within its component.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where its data lies.
    #[serde(flatten)]
    pub data: SourceData,
    /// What is left out, in the syntax of `.gitignore`.
    pub exclude: Vec<String>,
    /// What is in a folder with a `CACHEDIR.TAG` is left out, too.
    pub exclude_caches: bool,
    /// File systems that are mounted below the source are left out.
    pub one_file_system: bool,
    /// How a chain's folder is read.
    #[serde(skip_serializing_if = "is_auto")]
    pub profile: Profile,
    /// How what writes into a chain's folder may be met.
    #[serde(skip_serializing_if = "are_usual")]
    pub quiesce: Vec<Rung>,
    /// Dumps below this folder may be imported as backups of this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imports: Option<PathBuf>,
    /// A server that cannot be read as of one instant may be locked for so long at most, against all who write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync_lock: Option<Duration>,
    /// How much its backups and restores may take.
    pub limits: Limits,
    /// When it may be backed up; none: at any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowConfig>,
    /// What is run before and after.
    pub hooks: Hooks,
}

/// What a source is. All but MongoDB are read as files by this release, a chain's stores as they are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Any folder.
    Files,
    /// What an IPFS node keeps, or the folder of its repository.
    Ipfs,
    /// The folder of a chain.
    Blockchain,
    /// Listed files, or objects of a Kubernetes cluster.
    Configs,
    /// What a MongoDB server holds, or the data folder of one that is stopped.
    Mongodb,
}

impl Kind {
    /// As it is written, in the configuration and in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Files => "files",
            Kind::Ipfs => "ipfs",
            Kind::Blockchain => "blockchain",
            Kind::Configs => "configs",
            Kind::Mongodb => "mongodb",
        }
    }
}

/// Where the data of a source lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SourceData {
    /// A folder with all that is in it.
    Folder {
        /// Absolute.
        path: PathBuf,
    },
    /// Files by glob.
    Listed {
        /// Absolute globs, e.g. `/etc/app/*.yaml`.
        files: Vec<String>,
    },
    /// A server, asked for what it holds. One of the two is set.
    Server {
        /// Its connection string.
        #[serde(skip_serializing_if = "Option::is_none")]
        uri: Option<Secret>,
        /// The file with its connection string.
        #[serde(skip_serializing_if = "Option::is_none")]
        uri_file: Option<PathBuf>,
    },
    /// Objects of a Kubernetes cluster.
    Objects {
        /// Which.
        kubernetes: Objects,
    },
    /// Environments of processes.
    Environment {
        /// Whose.
        env: Environment,
    },
    /// An IPFS node, asked for what it keeps.
    Node {
        /// How its RPC is reached.
        #[serde(flatten)]
        rpc: NodeRpc,
        /// The folder of its repository, for the keys that the RPC does not give.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
}

impl SourceConfig {
    pub(super) fn check(&self, path: &str) -> Result<(), Problem> {
        check_name(&format!("{path}.component"), &self.component)?;
        check_name(&format!("{path}.name"), &self.name)?;
        match &self.data {
            SourceData::Folder { path: folder } => absolute(&format!("{path}.path"), folder)?,
            SourceData::Server { uri_file: Some(file), .. } => absolute(&format!("{path}.uri_file"), file)?,
            SourceData::Server { uri: Some(uri), .. } if !is_server(uri.expose()) => {
                return Err(Problem::new(
                    format!("{path}.uri"),
                    "write mongodb://HOST, or mongodb://USER:PASSWORD@HOST",
                ));
            }
            SourceData::Server { .. } => {}
            SourceData::Objects { kubernetes } => kubernetes.check(&format!("{path}.kubernetes"))?,
            SourceData::Environment { env } => env.check(&format!("{path}.env"))?,
            SourceData::Node { rpc, path: folder } => {
                if let Some(folder) = folder {
                    absolute(&format!("{path}.path"), folder)?;
                }
                rpc.check(path)?;
            }
            SourceData::Listed { files } => {
                for (place, file) in files.iter().enumerate() {
                    let path = format!("{path}.files[{place}]");
                    absolute(&path, Path::new(file))?;
                    glob::Pattern::new(file).map_err(|error| Problem::new(path, not_a_glob(error.msg)))?;
                }
            }
        }
        if let Some(folder) = &self.imports {
            absolute(&format!("{path}.imports"), folder)?;
        }
        if let Some(longest) = self.fsync_lock
            && !(SHORTEST_LOCK..=LONGEST_LOCK).contains(&longest.get())
        {
            let path = format!("{path}.fsync_lock");
            return Err(Problem::new(path, "writers are held for 1s at least and 30m at most"));
        }
        for (place, pattern) in self.exclude.iter().enumerate() {
            Excludes::new(std::slice::from_ref(pattern)).map_err(|error| {
                Problem::new(format!("{path}.exclude[{place}]"), format!("not a pattern: {}", error.why))
            })?;
        }
        self.limits.check(&format!("{path}.limits"))?;
        if let Some(window) = &self.window {
            window.check(&format!("{path}.window"))?;
        }
        self.hooks.check(&format!("{path}.hooks"))
    }
}

fn is_server(uri: &str) -> bool {
    ["mongodb://", "mongodb+srv://"].iter().any(|scheme| uri.starts_with(scheme))
}

fn not_a_glob(why: &str) -> String {
    format!("not a glob: {why}")
}

/// A source with every key that the documentation knows, those too that this release refuses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    component: String,
    name: String,
    kind: WrittenKind,
    path: Option<PathBuf>,
    #[serde(default)]
    files: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    exclude_caches: bool,
    one_file_system: Option<bool>,
    #[serde(default)]
    limits: Limits,
    window: Option<WindowConfig>,
    #[serde(default)]
    hooks: Hooks,
    profile: Option<Profile>,
    quiesce: Option<Vec<WrittenRung>>,
    imports: Option<PathBuf>,
    fsync_lock: Option<Duration>,
    #[serde(default, rename = "container", deserialize_with = "refuse_container")]
    _container: (),
    rpc: Option<String>,
    rpc_auth: Option<Secret>,
    rpc_auth_file: Option<PathBuf>,
    rpc_ca: Option<PathBuf>,
    uri: Option<Secret>,
    uri_file: Option<PathBuf>,
    env: Option<Environment>,
    kubernetes: Option<Objects>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenRung {
    Snapshot,
    Bracket,
    Pause,
    Container,
    Stop,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenKind {
    Files,
    Ipfs,
    Blockchain,
    Configs,
    Mongodb,
}

impl TryFrom<Written> for SourceConfig {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let kind = match written.kind {
            WrittenKind::Files => Kind::Files,
            WrittenKind::Ipfs => Kind::Ipfs,
            WrittenKind::Blockchain => Kind::Blockchain,
            WrittenKind::Configs => Kind::Configs,
            WrittenKind::Mongodb => Kind::Mongodb,
        };
        let is_server = (kind == Kind::Mongodb && written.path.is_none()) || written.rpc.is_some();
        if written.rpc.is_some() && kind != Kind::Ipfs {
            return Err("only a source of kind ipfs has `rpc`");
        }
        let has_auth = written.rpc_auth.is_some() || written.rpc_auth_file.is_some();
        if written.rpc.is_none() && (has_auth || written.rpc_ca.is_some()) {
            return Err("`rpc_auth`, `rpc_auth_file` and `rpc_ca` are of use with `rpc` alone");
        }
        if written.rpc_auth.is_some() && written.rpc_auth_file.is_some() {
            return Err("a source has one of `rpc_auth` and `rpc_auth_file`");
        }
        let quiesce = match (&written.quiesce, kind) {
            (None, _) => Rung::USUAL.to_vec(),
            (Some(_), other) if other != Kind::Blockchain && (other != Kind::Ipfs || is_server) => {
                return Err("only a source of kind blockchain, or the folder of an IPFS node, has `quiesce`");
            }
            (Some(rungs), Kind::Ipfs) if rungs.contains(&WrittenRung::Snapshot) => {
                return Err("only a source of kind blockchain has `snapshot` in its `quiesce`");
            }
            (Some(rungs), _) => rungs.iter().map(|rung| rung.served()).collect::<Result<_, _>>()?,
        };
        if written.profile.is_some() && kind != Kind::Blockchain {
            return Err("only a source of kind blockchain has a `profile`");
        }
        if is_server
            && (!written.exclude.is_empty() || written.exclude_caches || written.one_file_system.is_some())
        {
            return Err(
                "a source that is asked by `uri` or `rpc` has no `exclude`, `exclude_caches` or `one_file_system`",
            );
        }
        if kind != Kind::Mongodb && (written.uri.is_some() || written.uri_file.is_some()) {
            return Err("only a source of kind mongodb has `uri` or `uri_file`");
        }
        if written.imports.is_some() && kind != Kind::Mongodb {
            return Err(
                "only a source of kind mongodb has `imports` (the folder whose dumps may be imported)",
            );
        }
        if written.fsync_lock.is_some() && (kind != Kind::Mongodb || !is_server) {
            return Err("only a source of kind mongodb with `uri` or `uri_file` has `fsync_lock`");
        }
        if written.kubernetes.is_some() && kind != Kind::Configs {
            return Err("only a source of kind configs has `kubernetes`");
        }
        if written.env.is_some() && kind != Kind::Configs {
            return Err("only a source of kind configs has `env`");
        }
        let data = match (kind, written.path, written.files) {
            (Kind::Configs, None, files)
                if files.is_empty() && written.env.is_some() && written.kubernetes.is_none() =>
            {
                SourceData::Environment { env: written.env.expect("it was looked at") }
            }
            (Kind::Configs, _, _) if written.env.is_some() => return Err(CONFIGS),
            (Kind::Ipfs, path, files) if files.is_empty() && written.rpc.is_some() => {
                let rpc = NodeRpc {
                    rpc: written.rpc.unwrap_or_default(),
                    rpc_auth: written.rpc_auth,
                    rpc_auth_file: written.rpc_auth_file,
                    rpc_ca: written.rpc_ca,
                };
                SourceData::Node { rpc, path }
            }
            (Kind::Ipfs, None, _) => {
                return Err(
                    "a source of kind ipfs has `rpc` (the node's address), `path` (its folder), or both",
                );
            }
            (Kind::Mongodb, None, files)
                if files.is_empty() && written.uri.is_some() != written.uri_file.is_some() =>
            {
                SourceData::Server { uri: written.uri, uri_file: written.uri_file }
            }
            (Kind::Mongodb, Some(path), files)
                if files.is_empty() && written.uri.is_none() && written.uri_file.is_none() =>
            {
                if !written.exclude.is_empty() || written.exclude_caches {
                    return Err(WHOLE_DATABASE);
                }
                SourceData::Folder { path }
            }
            (Kind::Mongodb, _, _) => return Err(MONGODB),
            (Kind::Configs, None, files) if files.is_empty() && written.kubernetes.is_some() => {
                SourceData::Objects { kubernetes: written.kubernetes.expect("it was looked at") }
            }
            (Kind::Configs, None, files) if !files.is_empty() && written.kubernetes.is_none() => {
                SourceData::Listed { files }
            }
            (Kind::Configs, _, _) => return Err(CONFIGS),
            (_, Some(path), files) if files.is_empty() => SourceData::Folder { path },
            _ => return Err("a source of this kind has `path` (a folder) and no `files`"),
        };
        let Written { component, name, exclude, exclude_caches, imports, fsync_lock, .. } = written;
        let (limits, window, hooks) = (written.limits, written.window, written.hooks);
        let profile = written.profile.unwrap_or_default();
        let one_file_system = written.one_file_system.unwrap_or(true);
        Ok(Self {
            component,
            name,
            kind,
            data,
            exclude,
            exclude_caches,
            one_file_system,
            profile,
            quiesce,
            imports,
            fsync_lock,
            limits,
            window,
            hooks,
        })
    }
}

impl WrittenRung {
    fn served(self) -> Result<Rung, &'static str> {
        match self {
            Self::Snapshot => Ok(Rung::Snapshot),
            Self::Bracket => Ok(Rung::Bracket),
            Self::Pause => Ok(Rung::Pause),
            Self::Container => Ok(Rung::Container),
            Self::Stop => Err(
                "`quiesce` has `snapshot`, `bracket`, `pause` and `container`; a node is stopped by the hooks before_backup and after_backup",
            ),
        }
    }
}

fn are_usual(rungs: &[Rung]) -> bool {
    rungs == Rung::USUAL
}

fn is_auto(profile: &Profile) -> bool {
    *profile == Profile::Auto
}

const SHORTEST_LOCK: std::time::Duration = std::time::Duration::from_secs(1);
const LONGEST_LOCK: std::time::Duration = std::time::Duration::from_secs(30 * 60);

const CONFIGS: &str = "a source of kind configs has `files` (a list of globs), `kubernetes` (which objects of a \
                       cluster) or `env` (whose environment), one of them, and no `path`; for both, write two sources";
const MONGODB: &str = "a source of kind mongodb has one of `uri`, `uri_file` (a server that is asked) and `path` (the \
                       data folder of a server that is stopped meanwhile), and no `files`";
const WHOLE_DATABASE: &str = "the data folder of a database has neither `exclude` nor `exclude_caches`: it is of use only \
                              as a whole";

/// A function that refuses a key, saying what to do instead.
macro_rules! refusals {
    ($($name:ident: $reason:literal;)*) => {$(
        fn $name<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
            Err(D::Error::custom(concat!("not served by this release: ", $reason)))
        }
    )*};
}

refusals! {
    refuse_container: "a node is paused by its processes, where the agent sees them; leave the key out, and let \
                       hooks stop a node that needs it";
}
