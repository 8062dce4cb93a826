//! `nsctl repository …`: straight on a folder or a bucket, for the day on which there is no controller.
//!
//! Must stay true: what only reads never writes, not even a lease; secrets come from files or a prompt,
//! never from the command line; damage is told with the names of what it concerns, and leaves with 4.

mod check;
pub(crate) mod doctor;
mod export;
mod held;
mod init;
mod key;
mod list;
mod rebuild;
mod restore;
mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use controller::config::{ControllerConfig, USUAL_FILE};
use controller::jobs::safety::Safety;
use repository::backup::manifest::{BackupRecord, Outcome};
use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::names::{BackupName, SourceId};
use repository::repo::Repository;
use repository::store::Store;
use repository::store::local::LocalStore;
use repository::store::location::{Bucket, Location};
use repository::store::s3::S3Store;
use runtime::config::{Layers, load};

use crate::cli::repository::{Place, Verb};
use crate::output::Voice;
use crate::output::exit::{Ended, Exit, Trouble};

/// Runs what was typed. Blocks.
pub(crate) fn run(verb: Verb, voice: Voice) -> Ended {
    match verb {
        Verb::Init { place, key_file, passphrase_file } => {
            init::run(&place, key_file, passphrase_file, voice)
        }
        Verb::List { place, .. } => list::run(&place, voice),
        Verb::Check(wanted) => check::run(&wanted, voice),
        Verb::Restore(wanted) => restore::run(&wanted, voice),
        Verb::Export(wanted) => export::run(&wanted, voice),
        Verb::Rebuild(wanted) => rebuild::run(&wanted, voice),
        Verb::Key(wanted) => key::run(wanted, voice),
    }
}

fn open_store(place: &Place) -> Result<Arc<dyn Store>, Trouble> {
    match &place.repository {
        Location::Folder(folder) => {
            let store = LocalStore::open(folder).map_err(|error| {
                Trouble::failed(format!("cannot open the repository in {}", folder.display()))
                    .caused_by(&error)
                    .hint(
                        "give the repository's folder with --repository, and check that it is mounted and yours \
                         to read",
                    )
            })?;
            Ok(Arc::new(store))
        }
        Location::Bucket(bucket) => open_bucket(bucket, place.config.clone()),
    }
}

/// A bucket is reached as the controller reaches it: by its configuration, or by the same variables.
fn open_bucket(bucket: &Bucket, config: Option<PathBuf>) -> Result<Arc<dyn Store>, Trouble> {
    let layers = Layers::of_process(config, Path::new(USUAL_FILE));
    let cannot = |error: &dyn std::error::Error| {
        Trouble::usage(format!("cannot reach {bucket}")).caused_by(error).hint(
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and AWS_REGION, or give the \
             controller's configuration with --config",
        )
    };
    let loaded = load::<ControllerConfig>(&layers).map_err(|error| cannot(&error))?;
    let options = loaded.settings.s3.options().map_err(|error| cannot(&error))?;
    Ok(Arc::new(S3Store::open(bucket, &options).map_err(|error| cannot(&error))?))
}

fn open(place: &Place) -> Result<Arc<Repository>, Trouble> {
    Ok(Arc::new(Repository::open(open_store(place)?)?))
}

impl From<RepositoryError> for Trouble {
    fn from(error: RepositoryError) -> Self {
        let exit = match &error {
            RepositoryError::WrongKey { .. } => Exit::Denied,
            error if error.is_damage() => Exit::Damaged,
            _ => Exit::Failed,
        };
        let why = std::error::Error::source(&error).map(proto::failure::chain).unwrap_or_default();
        Trouble::new(exit, error.to_string()).because(why).hint(error.hint())
    }
}

/// A backup by its timestamp. `latest` is the newest, or the newest that holds this component complete. It is never a
/// safety backup, which holds what somebody wanted to be rid of.
fn backup(repository: &Repository, asked: &str, component: Option<&str>) -> Result<BackupRecord, Trouble> {
    if asked != "latest" {
        return named(repository, asked);
    }
    let fits = |record: &BackupRecord| component.is_none_or(|component| is_whole(record, component));
    ordinary(repository)?.into_iter().find(fits).ok_or_else(|| match component {
        Some(component) => not_whole(&[component]),
        None => Trouble::failed("there is no backup").hint("`nsctl repository list` shows what there is"),
    })
}

/// What to restore of which backups. `latest` is of each component the newest that holds it complete: agents, which would
/// say what belongs together, may be gone, and a component may have backups of its own.
fn chosen(
    repository: &Repository,
    asked: &str,
    components: &[String],
) -> Result<Vec<(BackupRecord, Vec<SourceId>)>, Trouble> {
    if asked != "latest" {
        let record = named(repository, asked)?;
        let sources = sources(&record, components)?;
        return Ok(vec![(record, sources)]);
    }
    let ordinary = ordinary(repository)?;
    let held = ordinary.iter().flat_map(|record| &record.archives);
    let held = held.filter(|archive| archive.outcome != Outcome::Failed);
    let held: BTreeSet<&str> = held.map(|archive| archive.source.component.as_str()).collect();
    let wanted: BTreeSet<&str> = match components {
        [] => held,
        asked => asked.iter().map(String::as_str).collect(),
    };
    let newest = |component: &str| ordinary.iter().position(|record| is_whole(record, component));
    let lacking: Vec<&str> = wanted.iter().copied().filter(|one| newest(one).is_none()).collect();
    if !lacking.is_empty() {
        return Err(not_whole(&lacking));
    }
    if wanted.is_empty() {
        return Err(Trouble::failed("there is no backup").hint("`nsctl repository list` shows what there is"));
    }
    let mut of_each: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for component in wanted {
        of_each.entry(newest(component).expect("it was found")).or_default().push(component.to_owned());
    }
    of_each
        .into_iter()
        .map(|(nth, components)| Ok((ordinary[nth].clone(), sources(&ordinary[nth], &components)?)))
        .collect()
}

fn named(repository: &Repository, asked: &str) -> Result<BackupRecord, Trouble> {
    let name: BackupName = asked.parse().map_err(|error| {
        Trouble::usage("there is no such backup")
            .caused_by(&error)
            .hint("`nsctl repository list` shows what there is; `latest` is the newest")
    })?;
    Ok(repository.backup(&name)?)
}

/// The newest first, without safety backups.
fn ordinary(repository: &Repository) -> Result<Vec<BackupRecord>, Trouble> {
    Ok(repository.list()?.backups.into_iter().filter(|record| Safety::of(record).is_none()).collect())
}

fn not_whole(components: &[&str]) -> Trouble {
    Trouble::failed(format!("no backup holds {} complete", components.join(", "))).hint(
        "`nsctl repository list` shows what there is; give a --timestamp to take what one has, or name others with \
         --components",
    )
}

fn is_whole(record: &BackupRecord, component: &str) -> bool {
    let of = record.archives.iter().filter(|archive| archive.source.component.as_str() == component);
    let mut of = of.peekable();
    of.peek().is_some() && of.all(|archive| archive.outcome == Outcome::Complete)
}

/// The sources of a backup that belong to the asked components; none asked: all.
fn sources(record: &BackupRecord, components: &[String]) -> Result<Vec<SourceId>, Trouble> {
    let all = record.archives.iter().map(|archive| &archive.source);
    if let Some(absent) = components.iter().find(|asked| !all.clone().any(|source| belongs(source, asked))) {
        return Err(no_component(record, absent));
    }
    let wanted =
        |source: &&SourceId| components.is_empty() || components.iter().any(|asked| belongs(source, asked));
    Ok(all.filter(wanted).cloned().collect())
}

fn belongs(source: &SourceId, component: &str) -> bool {
    source.component.as_str() == component
}

/// `models`, or `models/yolo` where the component has several sources.
fn source(record: &BackupRecord, asked: &str) -> Result<SourceId, Trouble> {
    let (component, name) = asked.split_once('/').unwrap_or((asked, ""));
    let fits = |source: &&SourceId| {
        source.component.as_str() == component && (name.is_empty() || source.name.as_str() == name)
    };
    let found: Vec<_> = record.archives.iter().map(|archive| &archive.source).filter(fits).collect();
    match found.as_slice() {
        [] => Err(no_component(record, asked)),
        [only] => Ok((*only).clone()),
        several => {
            let names: Vec<_> = several.iter().map(ToString::to_string).collect();
            Err(Trouble::usage(format!("the component {component} has several sources"))
                .hint(format!("give one of {}", names.join(", "))))
        }
    }
}

fn no_component(record: &BackupRecord, asked: &str) -> Trouble {
    let names: Vec<_> = record.archives.iter().map(|archive| archive.source.to_string()).collect();
    Trouble::usage(format!("backup {} holds nothing of {asked}", record.name))
        .hint(format!("it holds {}", names.join(", ")))
}

/// Up to `limit` bytes of a small file, or of stdin for `-`.
fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, Trouble> {
    let cannot =
        |error: std::io::Error| Trouble::usage(format!("cannot read {}", path.display())).caused_by(&error);
    let mut bytes = Vec::new();
    let reader: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).map_err(cannot)?),
    };
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > limit {
        return Err(Trouble::usage(format!("{} is too long to be a key", path.display()))
            .because(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// The keyring that the given secret opens.
fn unlock(repository: &Repository, secret: &crate::cli::repository::Secret) -> Result<KeyRing, Trouble> {
    Ok(repository.unlock(&secret::read(secret)?)?)
}
