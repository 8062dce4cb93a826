//! What can be looked at where no controller answers. Only reads.

use std::path::{Path, PathBuf};

use controller::app::{CHECKS, Check, Finding, state_folder};
use controller::config::{ControllerConfig, USUAL_FILE};
use proto::failure::chain;
use repository::repo::Repository;
use repository::store::Store;
use repository::store::local::LocalStore;
use repository::store::location::Location;
use runtime::config::{Layers, load};

use crate::access::Access;
use crate::output::exit::Trouble;
use crate::up::settings::USUAL_FILE as OF_BOTH;
use crate::views::health::Examination;

/// The finding that no controller answers, and whatever this machine tells of the reason.
pub(crate) fn examine(access: &Access, config: Option<PathBuf>, trouble: &Trouble) -> Examination {
    let unreachable =
        Finding::problem(check("controller-reachable"), format!("{}: {}", trouble.what, trouble.why));
    let mut findings = vec![unreachable.hint(trouble.hint.clone())];
    // Of another machine nothing can be seen from here.
    if config.is_some() || matches!(access, Access::Socket { .. }) {
        findings.extend(of_this_machine(config));
    }
    Examination { findings: findings.into_iter().map(Into::into).collect() }
}

fn check(id: &str) -> &'static Check {
    CHECKS.iter().find(|check| check.id == id).expect("the list has it")
}

fn of_this_machine(config: Option<PathBuf>) -> Vec<Finding> {
    let usual = if Path::new(USUAL_FILE).exists() { USUAL_FILE } else { OF_BOTH };
    let layers = Layers::of_process(config, Path::new(usual));
    let loaded = match load::<ControllerConfig>(&layers) {
        Ok(loaded) => loaded,
        Err(error) => {
            let finding = format!("the controller\'s configuration cannot be used: {}", chain(&error));
            return vec![Finding::problem(check("configuration"), finding)];
        }
    };
    let settings = &loaded.settings;
    let mut findings =
        vec![Finding::fine(check("configuration"), "the controller\'s configuration can be used")];
    findings.extend(state_folder(&settings.state));
    if let Location::Folder(folder) = &settings.repository {
        findings.extend(of_folder(folder));
    }
    findings
}

fn of_folder(folder: &Path) -> Vec<Finding> {
    let place = folder.display();
    let mut findings = Vec::new();
    let store = match LocalStore::open(folder) {
        Ok(store) => store,
        Err(error) => {
            let finding = format!("the repository\'s folder {place} cannot be used: {}", chain(&error));
            return vec![Finding::problem(check("storage-writable"), finding)];
        }
    };
    if let Ok(Some(free)) = store.free_space() {
        let words = format!("{} MiB are free in {place}", free >> 20);
        findings.push(match free {
            0 => Finding::problem(check("disk-space"), words),
            _ => Finding::fine(check("disk-space"), words),
        });
    }
    if let Err(error) = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        let finding = format!("{place} cannot be written by this user: {error}");
        findings.push(Finding::warning(check("storage-writable"), finding));
    }
    let listing = Repository::open(std::sync::Arc::new(store)).and_then(|repository| repository.list());
    match listing {
        Ok(listing) => {
            let count = listing.backups.len();
            findings.push(Finding::fine(
                check("repository-opens"),
                format!("it opens, and holds {count} backups"),
            ));
            findings.extend(listing.damaged.iter().map(|(name, error)| {
                let finding = format!("backup {name} is damaged: {}", chain(error));
                Finding::problem(check("backup-damaged"), finding).hint(error.hint())
            }));
            findings.extend(listing.lost.iter().map(|name| {
                Finding::problem(check("timestamp-missing"), format!("backup {name} is gone from {place}"))
            }));
        }
        Err(error) => findings.push(
            Finding::problem(
                check("repository-opens"),
                format!("{place} cannot be listed: {}", chain(&error)),
            )
            .hint(error.hint()),
        ),
    }
    findings
}
