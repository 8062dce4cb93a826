//! A folder that `mongodump` has written, read as if its server had been.
//!
//! Must stay true: all of it is looked through before the first byte goes into an archive, and a dump that is damaged
//! never becomes one; nothing but the layout of a dump is read, and nothing outside of the folder that the agent's
//! configuration names: whoever may order a backup may not read any file for that.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use repository::archive::entry::EntryKind;
use repository::archive::path::EntryPath;
use repository::check::{CheckedFile, ContentCheck, Severity};

use crate::sources::files::{FilesSource, Rules};
use crate::sources::{Body, Item, Problem, ProblemKind, Source, SourceError};

const WHAT: &str = "the dump cannot be imported";
const SEE_TO_DUMP: &str =
    "make the dump anew by `mongodump --out DIR`, without --gzip, and import that; nothing was backed up";
const SEE_TO_IMPORTS: &str = "name the folder that holds the dumps as `imports` of the source in the agent's configuration, \
                              and give a dump below it";
/// Bytes that are looked through at once.
const PIECE: usize = 1 << 20;
/// Files of a dump are named `<db>/<file>`.
const DEPTH: usize = 2;

/// A dump that was looked through.
pub(crate) struct DumpSource {
    files: FilesSource,
    /// What is told before anything else.
    told: Option<String>,
}

/// Why a dump is refused.
#[derive(Debug, thiserror::Error)]
enum NoDump {
    #[error("this agent does not import dumps for this source")]
    NotAllowed,
    #[error("it does not lie below {}", .0.display())]
    Elsewhere(PathBuf),
    #[error("cannot read {}", .path.display())]
    Unread {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("it holds no database with a collection")]
    Nothing,
    #[error("{0} is compressed")]
    Compressed(String),
    #[error("{0} is damaged: {1}")]
    Damaged(String, String),
}

impl DumpSource {
    /// Looks through the dump in `folder`, which has to lie below `imports`. Blocks.
    pub(crate) fn open(
        folder: &Path,
        imports: Option<&Path>,
        check: Option<Box<dyn ContentCheck>>,
        rules: Rules,
    ) -> Result<Self, SourceError> {
        let refused = |why: NoDump| {
            let hint = match &why {
                NoDump::NotAllowed | NoDump::Elsewhere(_) => SEE_TO_IMPORTS,
                _ => SEE_TO_DUMP,
            };
            SourceError::Unfit { what: WHAT, hint, source: why.into() }
        };
        let real = place(folder, imports).map_err(refused)?;
        look_through(&real, check).map_err(refused)?;
        let told = format!(
            "it was imported from a dump, {}: of which moment that is, and whether of one, nobody here knows",
            folder.display()
        );
        Ok(Self { files: FilesSource::folder(&real, rules)?, told: Some(told) })
    }
}

impl Source for DumpSource {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let problem = |path, kind, cause| Item::Problem(Problem { path, kind, cause });
        if let Some(cause) = self.told.take() {
            return Ok(Some(problem(EntryPath::root(), ProblemKind::Suspect, cause)));
        }
        Ok(match self.files.next()? {
            Some(Item::Entry(entry)) if !is_of_dump(&entry.path, &entry.body) => {
                let cause = "it is no part of a dump of databases".to_owned();
                Some(problem(entry.path, ProblemKind::LeftOut, cause))
            }
            next => next,
        })
    }
}

/// The folder itself, if dumps are imported from there.
fn place(folder: &Path, imports: Option<&Path>) -> Result<PathBuf, NoDump> {
    let real =
        |path: &Path| path.canonicalize().map_err(|source| NoDump::Unread { path: path.to_owned(), source });
    let imports = imports.ok_or(NoDump::NotAllowed)?;
    let (within, real) = (real(imports)?, real(folder)?);
    if real.starts_with(&within) { Ok(real) } else { Err(NoDump::Elsewhere(imports.to_owned())) }
}

/// True of what a dump consists of.
fn is_of_dump(path: &EntryPath, body: &Body) -> bool {
    let names: Vec<&[u8]> = path.names().collect();
    match (body, names.as_slice()) {
        (Body::Plain(EntryKind::Folder), names) => names.len() < DEPTH,
        (Body::File { .. }, [name]) => *name == b"prelude.json",
        (Body::File { .. }, [_, name]) => name.ends_with(b".bson") || name.ends_with(b".metadata.json"),
        _ => false,
    }
}

/// Finds what would keep the dump from being restored.
fn look_through(folder: &Path, check: Option<Box<dyn ContentCheck>>) -> Result<(), NoDump> {
    let mut check = check.expect("a server's databases have a check");
    let mut collections = 0;
    for (database, is_folder) in listed(folder)? {
        if !is_folder {
            continue;
        }
        for (file, is_folder) in listed(&folder.join(&database))? {
            let path = format!("{database}/{file}");
            if file.ends_with(".bson.gz") || file.ends_with(".metadata.json.gz") {
                return Err(NoDump::Compressed(path));
            }
            if is_folder || !(file.ends_with(".bson") || file.ends_with(".metadata.json")) {
                continue;
            }
            collections += u64::from(file.ends_with(".metadata.json"));
            look_at(folder, &path, &mut *check)?;
        }
    }
    if collections == 0 { Err(NoDump::Nothing) } else { Ok(()) }
}

fn look_at(folder: &Path, path: &str, check: &mut dyn ContentCheck) -> Result<(), NoDump> {
    let place = folder.join(path);
    let unread = |source| NoDump::Unread { path: place.clone(), source };
    let mut file = fs::File::open(&place).map_err(unread)?;
    let length = file.metadata().map_err(unread)?.len();
    let mut is_wanted = check.file(CheckedFile { path: path.as_bytes(), length, is_proven: false });
    let mut piece = vec![0; PIECE];
    while is_wanted {
        let count = file.read(&mut piece).map_err(unread)?;
        if count == 0 {
            break;
        }
        is_wanted = check.bytes(&piece[..count]);
    }
    let broken = check.file_end().into_iter().find(|found| found.severity == Severity::Broken);
    broken.map_or(Ok(()), |found| Err(NoDump::Damaged(path.to_owned(), found.what)))
}

/// Names in a folder, in their order, and which are folders; links are neither followed nor listed.
fn listed(folder: &Path) -> Result<Vec<(String, bool)>, NoDump> {
    let unread = |source| NoDump::Unread { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let kind = entry.file_type().map_err(unread)?;
        if let (false, Ok(name)) = (kind.is_symlink(), entry.file_name().into_string()) {
            names.push((name, kind.is_dir()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_below_the_one_that_is_named_is_imported_from() {
        let root = tempfile::tempdir().expect("a folder");
        let imports = root.path().join("dumps");
        for folder in ["dumps/one", "dumps2", "secret"] {
            fs::create_dir_all(root.path().join(folder)).expect("made");
        }
        std::os::unix::fs::symlink(root.path().join("secret"), imports.join("link")).expect("linked");
        let at = |path: &str| place(&root.path().join(path), Some(&imports));
        assert!(at("dumps/one").is_ok() && at("dumps").is_ok());
        for other in ["dumps2", "dumps/../secret", "dumps/link"] {
            assert!(matches!(at(other), Err(NoDump::Elsewhere(_))), "{other}");
        }
        assert!(matches!(at("dumps/none"), Err(NoDump::Unread { .. })));
        assert!(matches!(place(&imports, None), Err(NoDump::NotAllowed)));
    }
}
