//! Which entries a list of paths and patterns stands for.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use repository::archive::path::EntryPath;

use super::walk::Wanted;
use crate::sources::{Problem, ProblemKind};

/// The tree of names to be read from `/` down, and what is wrong with the list.
pub(super) fn resolve(patterns: &[PathBuf]) -> (Wanted, Vec<Problem>) {
    let mut wanted = Wanted::Only(BTreeMap::new());
    let mut problems = Vec::new();
    for pattern in patterns {
        for path in expand(pattern, &mut problems) {
            match locate(&path) {
                Ok((entry, told)) => {
                    add(&mut wanted, &entry);
                    problems.extend(told);
                }
                Err(error) => problems.push(unreadable(&path, cause(&error))),
            }
        }
    }
    (wanted, problems)
}

fn expand(pattern: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let Some(text) = pattern.to_str().filter(|text| text.contains(['*', '?', '['])) else {
        return vec![pattern.to_owned()];
    };
    let found = match glob::glob(text) {
        Ok(found) => found,
        Err(error) => {
            problems.push(unreadable(pattern, format!("the pattern is wrong: {}", error.msg)));
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for path in found {
        match path {
            Ok(path) => paths.push(path),
            Err(error) => problems.push(unreadable(error.path(), cause(error.error()))),
        }
    }
    paths
}

/// Where `path` really lies: the folders above it may be reached by links, it itself is not followed.
fn locate(path: &Path) -> io::Result<(EntryPath, Option<Problem>)> {
    let kind = path.symlink_metadata()?.file_type();
    let real = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
        _ => path.canonicalize()?,
    };
    let entry = entry_path(&real)?;
    let told = kind.is_symlink().then(|| Problem {
        path: entry.clone(),
        kind: ProblemKind::LeftOut,
        cause: "it is a symbolic link: the link is kept, what it points to is not; list that path too".into(),
    });
    Ok((entry, told))
}

fn entry_path(real: &Path) -> io::Result<EntryPath> {
    let bytes = real.as_os_str().as_bytes();
    EntryPath::new(bytes.strip_prefix(b"/").unwrap_or(bytes)).map_err(io::Error::other)
}

fn add(wanted: &mut Wanted, path: &EntryPath) {
    let mut at = wanted;
    for name in path.names() {
        match at {
            Wanted::Whole => return,
            Wanted::Only(names) => {
                let below = || Wanted::Only(BTreeMap::new());
                at = names.entry(name.into()).or_insert_with(below);
            }
        }
    }
    *at = Wanted::Whole;
}

fn unreadable(path: &Path, cause: String) -> Problem {
    let path = std::path::absolute(path).ok().and_then(|path| entry_path(&path).ok()).unwrap_or_default();
    Problem { path, kind: ProblemKind::Unreadable, cause }
}

fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        _ => error.to_string(),
    }
}
