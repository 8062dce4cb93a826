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

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use controller::config::{ControllerConfig, USUAL_FILE};
use controller::jobs::safety::Safety;
use repository::backup::manifest::BackupRecord;
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

/// A backup by its timestamp. `latest` is the newest that holds every asked component complete, or every one that any
/// backup holds. It is never a safety backup, which holds what somebody wanted to be rid of.
fn backup(repository: &Repository, asked: &str, components: &[String]) -> Result<BackupRecord, Trouble> {
    if asked != "latest" {
        let name: BackupName = asked.parse().map_err(|error| {
            Trouble::usage("there is no such backup")
                .caused_by(&error)
                .hint("`nsctl repository list` shows what there is; `latest` is the newest")
        })?;
        return Ok(repository.backup(&name)?);
    }
    let listing = repository.list()?;
    let ordinary: Vec<BackupRecord> =
        listing.backups.into_iter().filter(|record| Safety::of(record).is_none()).collect();
    let held = ordinary.iter().flat_map(|record| &record.archives);
    let held: BTreeSet<&str> = held.map(|archive| archive.source.component.as_str()).collect();
    let wanted: BTreeSet<&str> = match components {
        [] => held,
        asked => asked.iter().map(String::as_str).collect(),
    };
    if let Some(newest) = ordinary.iter().find(|record| wanted.iter().all(|one| is_whole(record, one))) {
        return Ok(newest.clone());
    }
    let each = wanted.iter().map(|one| match ordinary.iter().find(|record| is_whole(record, one)) {
        Some(record) => format!("{one} in {}", record.name),
        None => format!("{one} in none"),
    });
    let each: Vec<String> = each.collect();
    Err(match each.as_slice() {
        [] => Trouble::failed("there is no backup").hint("`nsctl repository list` shows what there is"),
        each => Trouble::failed("no backup holds all of that complete")
            .because(format!("the newest that hold each complete: {}", each.join(", ")))
            .hint("restore in parts, by --components, or give a --timestamp to take what one has"),
    })
}

fn is_whole(record: &BackupRecord, component: &str) -> bool {
    use repository::backup::manifest::Outcome;
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
