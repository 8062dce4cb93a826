//! Reads objects of a Kubernetes cluster: ConfigMaps, Secrets where they are asked for, and other kinds on
//! request, each a file `kubernetes/NAMESPACE/KIND/NAME.json`, `KIND.GROUP` outside of the core group.
//!
//! The names of one kind in one namespace are listed first, without what is in the objects; then each object is
//! read when its turn comes. So memory is that of one object and of names, and only objects that are chosen are
//! ever asked for. An object is read whole at one moment; two of them are not: `fuzzy`.
//!
//! Must stay true: what may not be listed or read makes the archive incomplete and is named with the right that
//! is missing; what is left out is told; what is in an object reaches no error and no log.

mod environment;
mod pods;
mod tidy;
mod variables;

use std::collections::VecDeque;
use std::io;

use repository::archive::entry::{EntryKind, Layout, Metadata, Timestamp};
use repository::archive::path::EntryPath;
use serde_json::Value;
use tokio::runtime::Handle;

use super::ipfs::Text;
use super::{
    Body, Content, Item, Opened, Problem, ProblemKind, ReadError, Source, SourceEntry, SourceError, Stamp,
    StampClock,
};
use crate::config::{KubernetesConfig, Objects};
use crate::kubernetes::{Chosen, Cluster, Place, Resource, Trouble, text_at};
pub(crate) use environment::EnvironmentSource;
pub(crate) use tidy::tidied;

/// All objects lie below this folder.
pub(crate) const FOLDER: &str = "kubernetes";
/// What the files of objects end in.
pub(crate) const SUFFIX: &str = ".json";

/// Permissions of the files: they may be secret, and they are nobody's but their owner's.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Secrets that whatever makes them makes anew, and that are worth nothing elsewhere.
const NOT_KEPT: [(&str, &str); 3] = [
    (
        "helm.sh/release.v1",
        "what Helm notes of its releases is left out: `helm install` or `upgrade` writes it",
    ),
    (
        "kubernetes.io/service-account-token",
        "tokens of service accounts are left out: the cluster makes them, and no other takes them",
    ),
    ("bootstrap.kubernetes.io/token", "tokens for new nodes are left out: they are worth nothing for long"),
];
/// ConfigMaps that the cluster puts into every namespace.
const PUBLISHED: [&str; 2] = ["kube-root-ca.crt", "openshift-service-ca.crt"];

/// The chosen objects of a cluster.
pub(crate) struct ObjectsSource {
    cluster: Cluster,
    runtime: Handle,
    chosen: Objects,
    steps: VecDeque<Step>,
    metadata: Metadata,
}

enum Step {
    Item(Item),
    /// The folder, then all objects of the kind.
    Kind {
        namespace: String,
        resource: Resource,
    },
    /// What the containers of a pod are given.
    Pod {
        namespace: String,
        name: String,
        changed: Timestamp,
    },
    Object {
        namespace: String,
        resource: Resource,
        name: String,
        changed: Timestamp,
    },
}

impl ObjectsSource {
    /// Connects, and finds the kinds. Blocks; belongs on a thread on which the runtime can be waited for.
    pub(crate) fn open(
        chosen: &Objects,
        cluster: &KubernetesConfig,
        now: jiff::Timestamp,
    ) -> Result<Self, SourceError> {
        let runtime = Handle::current();
        let cluster = runtime.block_on(Cluster::connect(cluster)).map_err(not_read)?;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mtime = Timestamp { seconds: now.as_second(), nanoseconds: 0 };
        let metadata = Metadata { mode: FILE_MODE, uid, gid, mtime, xattrs: Vec::new() };
        let mut source = Self { cluster, runtime, chosen: chosen.clone(), steps: VecDeque::new(), metadata };
        source.plan()?;
        Ok(source)
    }

    fn plan(&mut self) -> Result<(), SourceError> {
        let (root, top) = (EntryPath::root(), path_of(&[FOLDER]));
        let mut kinds = vec![Resource::config_maps()];
        if self.chosen.secrets || !self.chosen.secret_names.is_empty() {
            kinds.push(Resource::secrets());
        }
        let mut problems = Vec::new();
        for kind in &self.chosen.kinds {
            match self.runtime.block_on(self.cluster.kind(&kind.group, &kind.version, &kind.kind)) {
                Ok(resource) => kinds.push(resource),
                Err(trouble @ (Trouble::NoKind(_) | Trouble::NotInNamespaces(_))) => {
                    problems.push(unreadable(top.clone(), &trouble));
                }
                Err(trouble) => return Err(not_read(trouble)),
            }
        }
        if self.chosen.pod_env {
            kinds.push(Resource::pods());
        }
        kinds.sort_by_key(Resource::full_kind);
        let mut namespaces = self.chosen.namespaces.clone();
        namespaces.sort();
        self.steps.push_back(Step::Item(self.folder(root)));
        self.steps.push_back(Step::Item(self.folder(top)));
        self.steps.extend(problems.into_iter().map(Step::Item));
        for namespace in namespaces {
            self.steps.push_back(Step::Item(self.folder(path_of(&[FOLDER, &namespace]))));
            if let Some(problem) = self.missing(&namespace)? {
                self.steps.push_back(Step::Item(problem));
            }
            let of_kind =
                |resource: &Resource| Step::Kind { namespace: namespace.clone(), resource: resource.clone() };
            self.steps.extend(kinds.iter().map(of_kind));
        }
        Ok(())
    }

    /// What there is to tell of a namespace that is not there: of its objects the API says that there are none.
    fn missing(&self, namespace: &str) -> Result<Option<Item>, SourceError> {
        let any = Chosen { first: Some(1), ..Chosen::default() };
        let maps = Resource::config_maps();
        match self.runtime.block_on(self.cluster.list_metadata(&maps, namespace, &any, Some)) {
            Ok(some) if some.is_empty() => {
                let cause =
                    "nothing is there, not even what a cluster puts into every namespace: is it called so?";
                Ok(Some(problem(path_of(&[FOLDER, namespace]), ProblemKind::Unreadable, cause.to_owned())))
            }
            // What may not be listed is told where it is listed.
            Ok(_) | Err(Trouble::Forbidden { .. }) => Ok(None),
            Err(trouble) => Err(not_read(trouble)),
        }
    }

    /// The objects of a kind take its place among the steps.
    fn list(&mut self, namespace: String, resource: Resource) -> Result<(), SourceError> {
        let folder = path_of(&[FOLDER, &namespace, &resource.full_kind()]);
        let mut steps = vec![Step::Item(self.folder(folder.clone()))];
        let is_secrets = resource == Resource::secrets();
        if is_secrets && !self.chosen.secret_names.is_empty() {
            steps.extend(self.named_secrets(&namespace, &folder)?);
            self.put_first(steps);
            return Ok(());
        }
        let without: Vec<String> = NOT_KEPT.iter().map(|(kind, _)| format!("type!={kind}")).collect();
        let fields = if is_secrets { without.join(",") } else { String::new() };
        let chosen = Chosen { labels: &self.chosen.labels, fields: &fields, first: None };
        let is_maps = resource == Resource::config_maps();
        let of = |object: Value| {
            let name = text_at(&object, "/metadata/name").to_owned();
            let is_left_out = name.is_empty() || (is_maps && PUBLISHED.contains(&name.as_str()));
            (!is_left_out).then(|| (name, tidy::changed(&object)))
        };
        match self.runtime.block_on(self.cluster.list_metadata(&resource, &namespace, &chosen, of)) {
            Ok(mut names) => {
                // In the order of their files, which is not that of their names; what is kept of a pod is a folder.
                let suffix = if resource == Resource::pods() { "" } else { SUFFIX };
                names.sort_by_key(|(name, _)| format!("{name}{suffix}"));
                names.dedup_by(|one, other| one.0 == other.0);
                let of = |(name, changed)| match resource == Resource::pods() {
                    true => Step::Pod { namespace: namespace.clone(), name, changed },
                    false => {
                        let (namespace, resource) = (namespace.clone(), resource.clone());
                        Step::Object { namespace, resource, name, changed }
                    }
                };
                steps.extend(names.into_iter().map(of));
                if is_secrets {
                    steps.extend(self.left_out(&namespace, &folder)?.into_iter().map(Step::Item));
                }
            }
            Err(
                trouble @ (Trouble::Forbidden { .. } | Trouble::TooMany { .. } | Trouble::Refused { .. }),
            ) => {
                steps.push(Step::Item(unreadable(folder, &trouble)));
            }
            Err(trouble) => return Err(not_read(trouble)),
        }
        self.put_first(steps);
        Ok(())
    }

    /// The folder of a pod with a file for each of its containers.
    fn pod(&mut self, namespace: &str, name: &str, changed: Timestamp) -> Result<(), SourceError> {
        let resource = Resource::pods();
        let above = path_of(&[FOLDER, namespace, &resource.full_kind()]);
        let Ok(folder) = above.join(name.as_bytes()) else { return Ok(()) };
        let place = Place { resource: &resource, namespace, name };
        let pod = match self.runtime.block_on(self.cluster.get(&place)) {
            Ok(Some(pod)) => pod,
            Ok(None) => {
                let cause = "it was gone when it was asked for".to_owned();
                self.put_first(vec![Step::Item(problem(folder, ProblemKind::Vanished, cause))]);
                return Ok(());
            }
            Err(trouble @ (Trouble::Forbidden { .. } | Trouble::Refused { .. })) => {
                self.put_first(vec![Step::Item(unreadable(folder, &trouble))]);
                return Ok(());
            }
            Err(trouble) => return Err(not_read(trouble)),
        };
        let mut steps = vec![Step::Item(self.folder(folder.clone()))];
        for (file, bytes) in pods::files(&pod) {
            let Ok(path) = folder.join(file.as_bytes()) else { continue };
            let stamp = Stamp { inode: 0, size: 0, mtime: changed, ctime: changed };
            let content = Box::new(Text::new(bytes, stamp));
            let metadata = Metadata { mtime: changed, ..self.metadata.clone() };
            let body = Body::File { stamp, clock: StampClock::Nobodys, content };
            steps.push(Step::Item(Item::Entry(SourceEntry { path, metadata, body })));
        }
        self.put_first(steps);
        Ok(())
    }

    fn put_first(&mut self, steps: Vec<Step>) {
        for step in steps.into_iter().rev() {
            self.steps.push_front(step);
        }
    }

    /// The Secrets that are named, each asked for by itself: a role that names them allows no other question.
    fn named_secrets(&self, namespace: &str, folder: &EntryPath) -> Result<Vec<Step>, SourceError> {
        let secrets = Resource::secrets();
        let mut names = self.chosen.secret_names.clone();
        names.sort_by_key(|name| format!("{name}{SUFFIX}"));
        names.dedup();
        let mut steps = Vec::new();
        for name in names {
            let fields = format!("metadata.name={name}");
            let chosen = Chosen { labels: "", fields: &fields, first: Some(1) };
            let of = |object: Value| Some(tidy::changed(&object));
            match self.runtime.block_on(self.cluster.list_metadata(&secrets, namespace, &chosen, of)) {
                Ok(found) => steps.push(match found.first() {
                    Some(&changed) => {
                        let (namespace, resource) = (namespace.to_owned(), secrets.clone());
                        Step::Object { namespace, resource, name, changed }
                    }
                    None => {
                        let cause = format!("there is no Secret {name}, which the configuration names");
                        Step::Item(problem(folder.clone(), ProblemKind::Unreadable, cause))
                    }
                }),
                Err(trouble @ (Trouble::Forbidden { .. } | Trouble::Refused { .. })) => {
                    steps.push(Step::Item(unreadable(folder.clone(), &trouble)));
                }
                Err(trouble) => return Err(not_read(trouble)),
            }
        }
        Ok(steps)
    }

    fn left_out(&self, namespace: &str, folder: &EntryPath) -> Result<Vec<Item>, SourceError> {
        let (secrets, mut told) = (Resource::secrets(), Vec::new());
        for (kind, why) in NOT_KEPT {
            let fields = format!("type={kind}");
            let any = Chosen { labels: &self.chosen.labels, fields: &fields, first: Some(1) };
            let some = self.cluster.list_metadata(&secrets, namespace, &any, Some);
            if !self.runtime.block_on(some).map_err(not_read)?.is_empty() {
                told.push(problem(folder.clone(), ProblemKind::LeftOut, why.to_owned()));
            }
        }
        Ok(told)
    }

    fn folder(&self, path: EntryPath) -> Item {
        let metadata = Metadata { mode: FOLDER_MODE, ..self.metadata.clone() };
        Item::Entry(SourceEntry { path, metadata, body: Body::Plain(EntryKind::Folder) })
    }
}

impl Source for ObjectsSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        loop {
            match self.steps.pop_front() {
                None => return Ok(None),
                Some(Step::Item(item)) => return Ok(Some(item)),
                Some(Step::Kind { namespace, resource }) => self.list(namespace, resource)?,
                Some(Step::Pod { namespace, name, changed }) => self.pod(&namespace, &name, changed)?,
                Some(Step::Object { namespace, resource, name, changed }) => {
                    let file = format!("{name}{SUFFIX}");
                    let folder = path_of(&[FOLDER, &namespace, &resource.full_kind()]);
                    let Ok(path) = folder.join(file.as_bytes()) else {
                        let cause = format!(
                            "its name is too long for a file: {}…",
                            name.get(..60).unwrap_or_default()
                        );
                        return Ok(Some(problem(folder, ProblemKind::Unreadable, cause)));
                    };
                    let stamp = Stamp { inode: 0, size: 0, mtime: changed, ctime: changed };
                    let (cluster, runtime) = (self.cluster.clone(), self.runtime.clone());
                    let content = ObjectContent {
                        cluster,
                        runtime,
                        of: (namespace, resource, name),
                        bytes: Vec::new(),
                        read: 0,
                        stamp,
                    };
                    let metadata = Metadata { mtime: changed, ..self.metadata.clone() };
                    let body = Body::File { stamp, clock: StampClock::Nobodys, content: Box::new(content) };
                    return Ok(Some(Item::Entry(SourceEntry { path, metadata, body })));
                }
            }
        }
    }
}

/// One object, read when it is opened.
struct ObjectContent {
    cluster: Cluster,
    runtime: Handle,
    of: (String, Resource, String),
    bytes: Vec<u8>,
    read: usize,
    stamp: Stamp,
}

impl Content for ObjectContent {
    fn open(&mut self) -> Result<Opened, ReadError> {
        let (namespace, resource, name) = &self.of;
        let place = Place { resource, namespace, name };
        let failed = |trouble: Trouble| ReadError { vanished: false, source: io::Error::other(trouble) };
        let Some(object) = self.runtime.block_on(self.cluster.get(&place)).map_err(failed)? else {
            return Err(ReadError { vanished: true, source: io::ErrorKind::NotFound.into() });
        };
        self.bytes = tidy::written(tidied(object, resource));
        self.read = 0;
        self.stamp.size = self.bytes.len() as u64;
        Ok(Opened { stamp: self.stamp, layout: Layout::Dense, is_stream: false })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let rest = &self.bytes[self.read..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        Ok(count)
    }

    fn close(&mut self) -> Result<Stamp, ReadError> {
        Ok(self.stamp)
    }
}

/// Namespaces and kinds are checked before: they are names of folders.
fn path_of(names: &[&str]) -> EntryPath {
    EntryPath::new(names.join("/").as_bytes()).expect("names of namespaces and kinds are names of folders")
}

fn problem(path: EntryPath, kind: ProblemKind, cause: String) -> Item {
    Item::Problem(Problem { path, kind, cause })
}

fn unreadable(path: EntryPath, trouble: &Trouble) -> Item {
    problem(path, ProblemKind::Unreadable, format!("{trouble}; {}", trouble.hint()))
}

fn not_read(trouble: Trouble) -> SourceError {
    SourceError::Server { hint: trouble.hint(), source: trouble.into() }
}
