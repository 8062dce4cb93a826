//! A folder that `mongodump` has written, or its stream ([`super::archived`]), read as if its server had been.
//!
//! Must stay true: all of it is looked through before the first byte goes into an archive, and a dump that is damaged
//! never becomes one; nothing but the layout of a dump is read, and nothing outside of the folder that the agent's
//! configuration names: whoever may order a backup may not read any file for that.

use std::collections::BTreeSet;
use std::fs::{self, FileType};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use repository::archive::entry::EntryKind;
use repository::archive::path::EntryPath;
use repository::check::{CheckedFile, ContentCheck, Severity};

use super::archived::StreamSource;
use super::stream::NoStream;
use crate::sources::files::{FilesSource, Rules};
use crate::sources::{Body, Item, Problem, ProblemKind, Source, SourceError};

const WHAT: &str = "the dump cannot be imported";
const SEE_TO_DUMP: &str = "make the dump anew by `mongodump --out DIR` or `--archive=FILE`, without --gzip, and import \
                           that; nothing was backed up";
const UNPACK: &str = "unpack it (`gunzip -r DIR`, or `gunzip < FILE` into another file), and import that; nothing was backed up";
const SEE_TO_IMPORTS: &str = "name the folder that holds the dumps as `imports` of the source in the agent's configuration, \
                              and give a dump below it";
/// Bytes that are looked through at once.
const PIECE: usize = 1 << 20;
/// How the files of a collection end.
pub(super) const DOCUMENTS: &str = ".bson";
pub(super) const DESCRIPTION: &str = ".metadata.json";
/// What the collection with the documents of a time series is called before its name.
const BUCKETS: &str = "system.buckets.";
/// More than a server takes as the definition of a view.
pub(super) const MAX_VIEW: u64 = 32 << 20;
/// Files of a dump are named `<db>/<file>`.
const DEPTH: usize = 2;

/// A folder that was looked through.
struct DumpSource {
    files: FilesSource,
    /// What is told before anything else.
    told: Option<String>,
}

/// Why a dump is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoDump {
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
    #[error("{0} is a link, one more name of a file, or no file")]
    NoFile(String),
    #[error("the name of {0} is no text")]
    NoText(String),
    #[error("{0} is missing, though its collection is described")]
    NoDocuments(String),
    #[error("{0} is compressed")]
    Compressed(String),
    #[error("{0} is damaged: {1}")]
    Damaged(String, String),
    #[error("{0} is cut off: the stream does not have its end")]
    NoEnd(String),
    #[error("it was written to while it was read")]
    Written,
    #[error(transparent)]
    Stream(#[from] NoStream),
}

/// Looks through the dump at `at`, which has to lie below `imports`, and begins to read it. Blocks.
pub(crate) fn open(
    at: &Path,
    imports: Option<&Path>,
    check: Option<Box<dyn ContentCheck>>,
    rules: Rules,
) -> Result<Box<dyn Source>, SourceError> {
    let real = place(at, imports).map_err(refused)?;
    let mut check = check.expect("a server's databases have a check");
    let told = format!(
        "it was imported from a dump, {}: of which moment that is, and whether of one, nobody here knows",
        at.display()
    );
    if !real.is_dir() {
        return Ok(Box::new(StreamSource::open(real, &mut *check, told).map_err(refused)?));
    }
    look_through(&real, &mut *check).map_err(refused)?;
    Ok(Box::new(DumpSource { files: FilesSource::folder(&real, rules)?, told: Some(told) }))
}

pub(super) fn refused(why: NoDump) -> SourceError {
    let hint = match &why {
        NoDump::NotAllowed | NoDump::Elsewhere(_) => SEE_TO_IMPORTS,
        NoDump::Compressed(_) | NoDump::Stream(NoStream::Compressed) => UNPACK,
        _ => SEE_TO_DUMP,
    };
    SourceError::Unfit { what: WHAT, hint, source: why.into() }
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

/// Finds what would keep the dump from being restored, and what would be left out of it.
fn look_through(folder: &Path, check: &mut dyn ContentCheck) -> Result<(), NoDump> {
    let mut files = BTreeSet::new();
    let mut collections = 0;
    for (database, kind) in listed(folder, "")? {
        if !kind.is_dir() {
            continue;
        }
        let listed = listed(&folder.join(&database), &format!("{database}/"))?;
        let names: BTreeSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        for (file, kind) in &listed {
            let path = format!("{database}/{file}");
            if file.ends_with(".bson.gz") || file.ends_with(".metadata.json.gz") {
                return Err(NoDump::Compressed(path));
            }
            let described = file.strip_suffix(DESCRIPTION);
            if described.is_none() && !file.ends_with(DOCUMENTS) {
                continue;
            }
            let place = folder.join(&path);
            if !kind.is_file() || !is_first_name(&place, &mut files)? {
                return Err(NoDump::NoFile(path));
            }
            look_at(folder, &path, check)?;
            if let Some(collection) = described {
                collections += 1;
                if !has_documents(collection, &names, &place)? {
                    return Err(NoDump::NoDocuments(format!("{database}/{collection}{DOCUMENTS}")));
                }
            }
        }
    }
    if collections == 0 { Err(NoDump::Nothing) } else { Ok(()) }
}

/// False of one more name of a file that was met: it would be archived as a link.
fn is_first_name(place: &Path, files: &mut BTreeSet<(u64, u64)>) -> Result<bool, NoDump> {
    let unread = |source| NoDump::Unread { path: place.to_owned(), source };
    let found = fs::symlink_metadata(place).map_err(unread)?;
    Ok(found.nlink() == 1 || files.insert((found.dev(), found.ino())))
}

/// False if a description is that of a collection whose documents are not there: a view has none, a time series
/// has buckets.
fn has_documents(collection: &str, names: &BTreeSet<&str>, description: &Path) -> Result<bool, NoDump> {
    if names.contains(format!("{collection}{DOCUMENTS}").as_str())
        || names.contains(format!("{BUCKETS}{collection}{DOCUMENTS}").as_str())
    {
        return Ok(true);
    }
    let unread = |source| NoDump::Unread { path: description.to_owned(), source };
    let mut text = Vec::new();
    fs::File::open(description).map_err(unread)?.take(MAX_VIEW).read_to_end(&mut text).map_err(unread)?;
    Ok(is_view(&text))
}

/// True of the description of a view.
pub(super) fn is_view(description: &[u8]) -> bool {
    let described: serde_json::Value = serde_json::from_slice(description).unwrap_or_default();
    described["options"]["viewOn"].is_string()
}

fn look_at(folder: &Path, path: &str, check: &mut dyn ContentCheck) -> Result<(), NoDump> {
    let place = folder.join(path);
    let unread = |source| NoDump::Unread { path: place.clone(), source };
    let mut file = fs::File::open(&place).map_err(unread)?;
    let length = file.metadata().map_err(unread)?.len();
    judge(check, path, length, &mut |piece| file.read(piece).map_err(unread))
}

/// Gives the bytes of a file to the check, and refuses what it calls broken.
pub(super) fn judge(
    check: &mut dyn ContentCheck,
    path: &str,
    length: u64,
    read: &mut dyn FnMut(&mut [u8]) -> Result<usize, NoDump>,
) -> Result<(), NoDump> {
    let mut is_wanted = check.file(CheckedFile { path: path.as_bytes(), length, is_proven: false });
    let mut piece = vec![0; PIECE];
    while is_wanted {
        let count = read(&mut piece)?;
        if count == 0 {
            break;
        }
        is_wanted = check.bytes(&piece[..count]);
    }
    let broken = check.file_end().into_iter().find(|found| found.severity == Severity::Broken);
    broken.map_or(Ok(()), |found| Err(NoDump::Damaged(path.to_owned(), found.what)))
}

/// Names in a folder, in their order, and what they are. One that is a link or no text, and so would be archived
/// as something else or not at all, is refused.
fn listed(folder: &Path, prefix: &str) -> Result<Vec<(String, FileType)>, NoDump> {
    let unread = |source| NoDump::Unread { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let kind = entry.file_type().map_err(unread)?;
        match entry.file_name().into_string() {
            Ok(name) if !kind.is_symlink() => names.push((name, kind)),
            Ok(name) => return Err(NoDump::NoFile(format!("{prefix}{name}"))),
            Err(name) => return Err(NoDump::NoText(format!("{prefix}{}", name.display()))),
        }
    }
    names.sort_by(|(one, _), (other, _)| one.cmp(other));
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

    /// What a dump is refused for that is like this one but for what `change` does to its folder `shop`.
    fn refused(change: &dyn Fn(&Path)) -> Option<String> {
        let root = tempfile::tempdir().expect("a folder");
        let shop = root.path().join("shop");
        fs::create_dir(&shop).expect("made");
        for (name, text) in [
            ("a.bson", ""),
            ("a.metadata.json", r#"{"options":{},"indexes":[]}"#),
            ("v.metadata.json", r#"{"options":{"viewOn":"a","pipeline":[]},"indexes":[]}"#),
            ("t.metadata.json", r#"{"options":{"timeseries":{"timeField":"t"}},"indexes":[]}"#),
            ("system.buckets.t.bson", ""),
        ] {
            fs::write(shop.join(name), text).expect("written");
        }
        change(&shop);
        let now = jiff::Timestamp::UNIX_EPOCH;
        let subject = repository::check::Subject { kind: "mongodb", component: "database", now };
        let mut check = formats::check_of(&subject).expect("there is one");
        look_through(root.path(), &mut *check).err().map(|why| why.to_string())
    }

    #[test]
    fn a_dump_that_would_be_archived_short_is_refused_by_name() {
        use std::os::unix::ffi::OsStrExt;
        assert_eq!(refused(&|_| ()), None);
        let has = |change: &dyn Fn(&Path), what: &str| {
            let why = refused(change).expect("refused");
            assert!(why.contains(what), "{why}");
        };
        has(&|shop| fs::remove_file(shop.join("a.bson")).expect("gone"), "shop/a.bson is missing");
        has(
            &|shop| fs::remove_file(shop.join("system.buckets.t.bson")).expect("gone"),
            "shop/t.bson is missing",
        );
        let link = |shop: &Path| std::os::unix::fs::symlink("a.bson", shop.join("b.bson")).expect("linked");
        has(&link, "shop/b.bson is a link");
        let of_folder =
            |shop: &Path| std::os::unix::fs::symlink("shop", shop.with_file_name("log")).expect("linked");
        has(&of_folder, "log is a link");
        let second = |shop: &Path| fs::hard_link(shop.join("a.bson"), shop.join("b.bson")).expect("linked");
        has(&second, "shop/b.bson is a link");
        has(&|shop| fs::create_dir(shop.join("b.bson")).expect("made"), "shop/b.bson is a link");
        let odd = |shop: &Path| {
            let name = std::ffi::OsStr::from_bytes(b"b\xff.bson");
            fs::write(shop.join(name), "").expect("written");
        };
        has(&odd, "is no text");
    }
}
