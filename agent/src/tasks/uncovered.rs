//! Data that lies where data usually lies, or where the configuration says that all of it matters, and that
//! no source covers: nobody would miss it before it is needed.
//!
//! Must stay true: only names are looked at, a bounded number of them, and no link is followed; a server is
//! asked for nothing but to answer on this host.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::v1::UncoveredData;

use crate::config::{AgentConfig, SourceData, discover};
use crate::platform::Volume;
use crate::served::Served;

/// Folders that are looked at in each configured place.
const LOOK_AT: usize = 500;
/// What is told of one agent; the wire's limit.
const MOST: usize = 100;
/// Where MongoDB listens unless told otherwise, and for how long it may take to say so.
const MONGODB: u16 = 27017;
const ANSWERS_WITHIN: Duration = Duration::from_millis(300);
/// What lies in every file system and is no data.
const NO_DATA: [&str; 2] = ["lost+found", ".neurashield"];

/// Looks below `root`, which is `/` but in tests. Blocks.
pub(super) fn find(
    served: &[Served],
    config: &AgentConfig,
    root: &Path,
    volumes: &[Volume],
) -> Vec<UncoveredData> {
    let covered: Vec<PathBuf> = served.iter().flat_map(roots).collect();
    let mut found = Vec::new();
    let usual = discover(root);
    let servable = usual.sources.iter().filter_map(|source| match &source.data {
        SourceData::Folder { path } => Some((source.component.as_str(), path, true)),
        SourceData::Listed { .. }
        | SourceData::Server { .. }
        | SourceData::Objects { .. }
        | SourceData::Environment { .. }
        | SourceData::Node { .. } => None,
    });
    let others = usual.unserved.iter().map(|place| (place.component, &place.path, false));
    for (component, path, is_servable) in servable.chain(others) {
        let hint = match is_servable {
            true => "",
            false => {
                "its files change under a reader: back it up by `kind: mongodb` with a `uri`, and name the folder under \
                 `look_here.ignore`"
            }
        };
        found.push((path.clone(), format!("what is usually the component {component}"), hint));
    }
    for folder in &config.look_here.folders {
        let below = fs::read_dir(folder).into_iter().flatten().flatten().take(LOOK_AT);
        let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        let mut paths: Vec<PathBuf> = below.filter(is_folder).map(|entry| entry.path()).collect();
        paths.sort();
        found.extend(paths.into_iter().map(|path| (path, "data".to_owned(), "")));
    }
    found.retain(|(path, ..)| {
        !is_covered(path, &covered) && !config.look_here.ignores(path) && holds_data(path)
    });
    let volumes = volumes.iter().filter(|volume| !config.look_here.ignores(&volume.place));
    found.extend(volumes.map(|volume| {
        let hint = "mount it into the agent's container and make it a source, or name the folder under `look_here.ignore`";
        (volume.place.clone(), format!("the Docker volume {}", volume.name), hint)
    }));
    found.dedup_by(|one, other| one.0 == other.0);
    let has_database = served.iter().any(|served| served.id.component.as_str() == "database");
    if !has_database && answers(MONGODB) {
        let what = "a server at MongoDB's usual port".to_owned();
        found.push((
            format!("127.0.0.1:{MONGODB}").into(),
            what,
            "back it up by `kind: mongodb` with a `uri`",
        ));
    }
    found.truncate(MOST);
    let told = |(path, what, hint): (PathBuf, String, &str)| UncoveredData {
        path: path.display().to_string(),
        what,
        hint: hint.to_owned(),
    };
    found.into_iter().map(told).collect()
}

fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, ANSWERS_WITHIN).is_ok()
}

pub(super) fn roots(served: &Served) -> Vec<PathBuf> {
    match &served.data {
        SourceData::Folder { path } => vec![path.clone()],
        SourceData::Listed { files } => files.iter().map(PathBuf::from).collect(),
        SourceData::Node { path, .. } => path.iter().cloned().collect(),
        SourceData::Server { .. } | SourceData::Objects { .. } | SourceData::Environment { .. } => Vec::new(),
    }
}

/// The namespaces of whose objects the source holds some.
pub(super) fn namespaces(served: &Served) -> &[String] {
    match &served.data {
        SourceData::Objects { kubernetes } => &kubernetes.namespaces,
        _ => &[],
    }
}

/// In a source, or around one: then somebody has thought about it.
fn is_covered(path: &Path, covered: &[PathBuf]) -> bool {
    covered.iter().any(|source| path.starts_with(source) || source.starts_with(path))
}

fn holds_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !NO_DATA.iter().any(|no_data| name.starts_with(no_data))
        && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Hooks, Kind, Limits, LookHere, SourceConfig};

    fn folder(root: &Path, path: &str) -> PathBuf {
        let path = root.join(path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), "data").unwrap();
        path
    }

    fn serving(path: &Path) -> Served {
        Served::new(&SourceConfig {
            component: "models".to_owned(),
            name: "models".to_owned(),
            kind: Kind::Files,
            data: SourceData::Folder { path: path.to_owned() },
            exclude: Vec::new(),
            exclude_caches: false,
            one_file_system: true,
            profile: Default::default(),
            quiesce: Vec::new(),
            imports: None,
            fsync_lock: None,
            limits: Limits::default(),
            window: None,
            hooks: Hooks::default(),
        })
        .unwrap()
    }

    fn paths(found: &[UncoveredData]) -> Vec<&str> {
        found.iter().map(|data| data.path.as_str()).collect()
    }

    #[test]
    fn usual_places_that_no_source_covers_are_found() {
        let root = tempfile::tempdir().unwrap();
        let chain = folder(root.path(), "app/backend/data/blockchain");
        let database = folder(root.path(), "app/backend/data/db");
        let models = folder(root.path(), "app/ai_models/models");
        fs::create_dir_all(root.path().join("data/ipfs")).unwrap();
        let config = AgentConfig::default();
        // The empty one is no data.
        let found = find(&[serving(&models)], &config, root.path(), &[]);
        assert_eq!(paths(&found), [chain.to_str().unwrap(), database.to_str().unwrap()]);
        assert!(found[1].hint.contains("by `kind: mongodb`"), "{:?}", found[1]);
        // A source around all of them covers them.
        assert!(find(&[serving(root.path())], &config, root.path(), &[]).is_empty());
    }

    #[test]
    fn each_folder_of_a_place_that_matters_is_covered_ignored_or_told() {
        let root = tempfile::tempdir().unwrap();
        let volumes = root.path().join("volumes");
        let [a, b, c] = ["a", "b", "c"].map(|name| folder(&volumes, name));
        folder(&volumes, "lost+found");
        std::os::unix::fs::symlink(&a, volumes.join("link")).unwrap();
        fs::write(volumes.join("file"), "no folder").unwrap();
        let look_here = LookHere { folders: vec![volumes], ignore: vec![c], ..LookHere::default() };
        let config = AgentConfig { look_here, ..AgentConfig::default() };
        let found = find(&[serving(&a.join("deeper"))], &config, &root.path().join("nothing-here"), &[]);
        assert_eq!(paths(&found), [b.to_str().unwrap()]);
    }
}
