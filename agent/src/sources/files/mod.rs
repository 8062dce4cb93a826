//! The files source: a folder, or a list of files, as an archive.
//!
//! Must stay true: everything is reached through the handle of its folder and by a single name, never
//! by a joined path, so that a link that is swapped in while we read cannot lead anywhere else; what is
//! held in memory has a limit however many entries a folder has ([`names`]) and however many hard links
//! (`first_names`); what is read is not changed, not even its access time where the system lets us.
//!
//! Absent on purpose: no page is dropped from the system's cache after reading. The pages may be the
//! application's own, and what we alone have touched is the first that the system gives up.

mod clocks;
mod content;
mod excludes;
mod first_names;
mod held;
mod listed;
pub(crate) mod metadata;
pub(crate) mod names;
mod rules;
mod walk;

pub use excludes::{Excludes, WrongPattern};
pub use rules::Rules;
pub(crate) use rules::is_repository;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::sources::{Item, Source, SourceError};
use walk::{Walk, Wanted};

/// How the name of a restore's staging folder starts; such folders are in no backup.
pub const STAGING_PREFIX: &str = ".neurashield-";

/// Reads a folder or listed files.
pub struct FilesSource {
    walk: Walk,
}

impl FilesSource {
    /// All of the folder `root`, which becomes the archive's root entry, but for what `rules` leave out.
    /// `root` itself may be a symbolic link.
    pub fn folder(root: &Path, rules: impl Into<Rules>) -> Result<Self, SourceError> {
        Ok(Self { walk: Walk::start(root, Wanted::Whole, rules.into())? })
    }

    /// As [`Self::folder`], of one that is open.
    pub(crate) fn opened(folder: OwnedFd, rules: Rules) -> io::Result<Self> {
        Ok(Self { walk: Walk::opened(folder, Wanted::Whole, rules)? })
    }

    /// The files and folders that `patterns` name: absolute paths, in which `*`, `?`, `[…]` and `**`
    /// stand for any name. The archive's root is `/`, and the folders above a listed file are entries
    /// too; a listed folder is read whole. A path without a wildcard that does not exist is a problem;
    /// a wildcard that matches nothing is not.
    pub fn listed(patterns: &[PathBuf], rules: impl Into<Rules>) -> Result<Self, SourceError> {
        let (wanted, problems) = listed::resolve(patterns);
        let mut walk = Walk::start(Path::new("/"), wanted, rules.into())?;
        walk.tell(problems);
        Ok(Self { walk })
    }

    /// Puts `problems` before all that is to come.
    pub(crate) fn tell(&mut self, problems: Vec<crate::sources::Problem>) {
        self.walk.tell(problems);
    }
}

impl Source for FilesSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        Ok(self.walk.next())
    }
}
