//! Where the doctor's probe looks for data that no source covers.

use std::path::{Path, PathBuf};

use runtime::config::Problem;
use serde::{Deserialize, Serialize};

use super::absolute;
use super::kubernetes::check_namespaces;

/// Folders whose contents ought to be in a backup.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LookHere {
    /// Each folder in one of these ought to be covered by a source.
    pub folders: Vec<PathBuf>,
    /// What need not be, with all that lies in it.
    pub ignore: Vec<PathBuf>,
    /// Namespaces of a cluster that need not be in a backup.
    pub ignore_namespaces: Vec<String>,
}

impl LookHere {
    pub(super) fn check(&self) -> Result<(), Problem> {
        let each = |key: &'static str, paths: &[PathBuf]| {
            let numbered = paths.iter().enumerate();
            numbered.map(|(place, path)| absolute(&format!("look_here.{key}[{place}]"), path)).collect()
        };
        let folders: Result<Vec<()>, Problem> = each("folders", &self.folders);
        folders.and_then(|_| each("ignore", &self.ignore).map(|_: Vec<()>| ()))?;
        check_namespaces("look_here.ignore_namespaces", &self.ignore_namespaces)
    }

    /// True for what need not be in a backup.
    pub(crate) fn ignores(&self, path: &Path) -> bool {
        self.ignore.iter().any(|ignored| path.starts_with(ignored))
    }
}
