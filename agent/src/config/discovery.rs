//! The places where the users' data usually lies, for an agent without configured sources.

use std::path::{Path, PathBuf};

use super::sources::{Kind, SourceConfig, SourceData};
use super::{Hooks, Limits};
use crate::sources::blockchain::Rung;

/// A usual place: what is expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The component it would be.
    pub component: &'static str,
    /// The folder.
    pub path: PathBuf,
}

/// What was found, and what not. To be told to the operator in full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// Sources that can be served.
    pub sources: Vec<SourceConfig>,
    /// Places that exist and cannot be served by this release: a database's files that change under the
    /// reader are no backup.
    pub unserved: Vec<Place>,
    /// Places that do not exist.
    pub missing: Vec<Place>,
}

/// Component, source name, kind (none where this release cannot serve it) and folder.
const USUAL: [(&str, &str, Option<Kind>, &str); 4] = [
    ("database", "mongodb", None, "app/backend/data/db"),
    ("models", "models", Some(Kind::Files), "app/ai_models/models"),
    ("blockchain", "chain", Some(Kind::Blockchain), "app/backend/data/blockchain"),
    ("ipfs", "ipfs", Some(Kind::Ipfs), "data/ipfs"),
];

/// Looks for the usual places below `root`, which is `/` but in tests. Only asks whether folders exist.
pub fn discover(root: &Path) -> Discovery {
    let mut discovery = Discovery::default();
    for (component, name, kind, folder) in USUAL {
        let place = Place { component, path: root.join(folder) };
        match kind {
            _ if !place.path.is_dir() => discovery.missing.push(place),
            None => discovery.unserved.push(place),
            Some(kind) => discovery.sources.push(SourceConfig {
                component: component.to_owned(),
                name: name.to_owned(),
                kind,
                data: SourceData::Folder { path: place.path },
                exclude: Vec::new(),
                exclude_caches: false,
                one_file_system: true,
                profile: Default::default(),
                quiesce: Rung::USUAL.to_vec(),
                imports: None,
                fsync_lock: None,
                limits: Limits::default(),
                window: None,
                hooks: Hooks::default(),
            }),
        }
    }
    discovery
}
