//! What the doctor asks of storage, repository, keys and state folder. Blocks.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use proto::failure::chain;
use repository::backup::listing::Listing;
use repository::error::RepositoryError;
use repository::repo::Repository;
use repository::store::ObjectPath;

use crate::app::doctor::checks as c;
use crate::app::doctor::growth::{Change, days_until_full};
use crate::app::doctor::{Check, Finding};
use crate::depot::Depot;
use crate::ids::TaskId;

const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// A backup that ended so long ago is no longer on its way into the list.
const COPY_MADE: SignedDuration = SignedDuration::from_mins(10);
/// Of the state folder.
const LITTLE_STATE: u64 = 256 << 20;
/// Entries of the state folder whose modes are looked at.
const LOOKED_AT: usize = 1_000;
const SOON: f64 = 14.0;

/// What is known already.
pub(super) struct Known {
    pub(super) now: Timestamp,
    /// With less free than this, the storage counts as nearly full.
    pub(super) low_space: u64,
    pub(super) changes: Vec<Change>,
    pub(super) has_key: bool,
}

pub(super) fn examine(depot: &Depot, state: &Path, known: &Known) -> Vec<Finding> {
    let repository = depot.repository();
    let mut findings = space(depot, known);
    findings.extend(writable(depot, known.now));
    findings.push(lease(depot));
    let warnings = repository.store().warnings().into_iter();
    findings.extend(warnings.map(|words| Finding::warning(&c::STORAGE, words)));
    findings.extend(match depot.list() {
        Ok(listing) => {
            let mut findings = listed(&listing, known.now);
            findings.extend(catalog_copy(repository, &listing, known.now));
            findings
        }
        Err(error) => vec![of_error(&c::OPENS, "the repository cannot be listed", &error)],
    });
    findings.push(match repository.is_recovery_confirmed() {
        Ok(true) => Finding::fine(&c::RECOVERY, "the recovery key is confirmed"),
        Ok(false) => Finding::warning(&c::RECOVERY, "nobody has confirmed to have the recovery key"),
        Err(error) => of_error(&c::RECOVERY, "the keys cannot be read", &error),
    });
    findings.push(match known.has_key {
        true => Finding::fine(&c::KEY, "the repository is unlocked by the configured key"),
        false => Finding::fine(&c::KEY, "the repository is unlocked by the key file in the state folder"),
    });
    findings.push(rescue(repository));
    findings.extend(state_folder(state));
    findings
}

fn of_error(check: &'static Check, what: &str, error: &RepositoryError) -> Finding {
    Finding::problem(check, format!("{what}: {}", chain(error))).hint(error.hint())
}

fn space(depot: &Depot, known: &Known) -> Vec<Finding> {
    let store = depot.repository().store();
    let free = match store.free_space() {
        Ok(Some(free)) => free,
        Ok(None) => {
            return vec![Finding::fine(
                &c::SPACE,
                format!("{} does not tell its free space", store.location()),
            )];
        }
        Err(error) => return vec![Finding::problem(&c::SPACE, chain(&error)).hint(error.hint())],
    };
    let words = format!("{} MiB are free in {}", free >> 20, store.location());
    let mut findings = vec![match free < known.low_space {
        true => Finding::problem(&c::SPACE, words),
        false => Finding::fine(&c::SPACE, words),
    }];
    findings.push(match days_until_full(&known.changes, free, known.now) {
        None => {
            Finding::fine(&c::FULL_SOON, "the repository does not grow, or too little is known of it yet")
        }
        Some(days) if days < SOON => Finding::warning(
            &c::FULL_SOON,
            format!("at the rate of the last 30 days the storage is full in {days:.0} days"),
        ),
        Some(days) => Finding::fine(
            &c::FULL_SOON,
            format!("at the rate of the last 30 days the storage lasts {days:.0} days"),
        ),
    });
    findings
}

/// Tried for real; and what is written shows the storage's own time.
fn writable(depot: &Depot, now: Timestamp) -> Vec<Finding> {
    let store = depot.repository().store();
    let path = ObjectPath::new("repository/staging").join(format!("doctor-{}", TaskId::fresh()));
    let written = store.create(&path, b"doctor").and_then(|()| {
        let written = store.modified(&path);
        store.delete(&path)?;
        written
    });
    match written {
        Ok(at) => {
            vec![Finding::fine(&c::WRITABLE, "the repository can be written"), storage_clock(now, at)]
        }
        Err(error) => vec![Finding::problem(&c::WRITABLE, chain(&error)).hint(error.hint())],
    }
}

fn storage_clock(now: Timestamp, at: Timestamp) -> Finding {
    let apart = now.duration_since(at).abs();
    match apart > AHEAD {
        true => Finding::problem(
            &c::CLOCK,
            format!("it is {now:.0} here and {at:.0} at the storage: {} minutes apart", apart.as_mins()),
        ),
        false => Finding::fine(&c::CLOCK, "the storage's clock agrees with this machine's"),
    }
}

/// The newest backup that has had the time for it has a copy of the catalog beside it.
fn catalog_copy(repository: &Repository, listing: &Listing, now: Timestamp) -> Option<Finding> {
    let newest = listing.backups.iter().find(|backup| backup.ended_at < now - COPY_MADE)?;
    let name = &newest.name;
    Some(match repository.store().size(&repository::layout::catalog_beside(name)) {
        Ok(_) => {
            Finding::fine(&c::CATALOG_COPY, format!("backup {name} has a copy of the catalog beside it"))
        }
        Err(error) if error.is_not_found() => {
            Finding::warning(&c::CATALOG_COPY, format!("backup {name} has no copy of the catalog beside it"))
        }
        Err(error) => Finding::problem(&c::CATALOG_COPY, chain(&error)).hint(error.hint()),
    })
}

fn lease(depot: &Depot) -> Finding {
    match depot.lease().check() {
        Ok(()) => Finding::fine(&c::LEASE, "this controller holds the right to write it"),
        Err(error) => Finding::problem(&c::LEASE, chain(&error)),
    }
}

fn listed(listing: &Listing, now: Timestamp) -> Vec<Finding> {
    let count = listing.backups.len();
    let mut findings = vec![Finding::fine(&c::OPENS, format!("it opens, and holds {count} backups"))];
    findings.extend(listing.damaged.iter().map(|(name, error)| {
        Finding::problem(&c::DAMAGED, format!("backup {name} is damaged: {}", chain(error)))
            .hint(error.hint())
    }));
    findings.extend(listing.lost.iter().map(|name| {
        Finding::problem(&c::LOST, format!("backup {name} is gone from the repository's folder"))
    }));
    findings.extend(listing.chain.iter().map(|finding| Finding::problem(&c::CHAIN, finding.clone())));
    let ahead = listing.backups.iter().find(|backup| backup.name.time() > now + AHEAD);
    findings.push(match ahead {
        Some(backup) => Finding::problem(&c::CLOCK, format!("backup {} was made in the future", backup.name)),
        None => Finding::fine(&c::CLOCK, "no backup is ahead of this machine's clock"),
    });
    findings
}

fn rescue(repository: &Repository) -> Finding {
    match repository.rescue() {
        Ok(Some(contents)) if contents.program().is_some() => {
            Finding::fine(&c::RESCUE, "it brings the programs with it that restore it (repository/rescue)")
        }
        Ok(Some(_)) => {
            Finding::warning(&c::RESCUE, "its rescue folder holds rescue.py, but no static nsctl").hint(
                "make one with `deploy/static-programs FOLDER nsctl`, put it beside neurashield-controller as nsctl-static, restart",
            )
        }
        Ok(None) => Finding::warning(&c::RESCUE, "its rescue folder is missing or not whole"),
        Err(error) => of_error(&c::RESCUE, "the rescue folder cannot be read", &error),
    }
}

/// The state folder: room, and nobody else's eyes.
pub fn state_folder(folder: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    match rustix::fs::statvfs(folder) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let words = format!("{} MiB are free in the state folder {}", free >> 20, folder.display());
            findings.push(match free < LITTLE_STATE {
                true => Finding::problem(&c::STATE_SPACE, words),
                false => Finding::fine(&c::STATE_SPACE, words),
            });
        }
        Err(error) => findings.push(Finding::problem(
            &c::STATE_SPACE,
            format!("the state folder {} cannot be used: {error}", folder.display()),
        )),
    }
    let open_to_others = |path: &Path| {
        let there = std::fs::symlink_metadata(path).ok()?;
        let mode = there.permissions().mode() & 0o7777;
        (!there.file_type().is_symlink() && mode & 0o077 != 0).then_some(mode)
    };
    match open_to_others(folder) {
        Some(mode) => findings.push(Finding::problem(
            &c::STATE_MODES,
            format!("others can look into the state folder {} (mode {mode:04o})", folder.display()),
        )),
        None => findings.push(Finding::fine(&c::STATE_MODES, "the state folder is its owner's alone")),
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(LOOKED_AT);
    // What the folder's own mode does not keep from others, each key has to by its own.
    let secret = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".key") || name.contains("recovery-key")
    });
    findings.extend(secret.filter_map(|entry| {
        let mode = open_to_others(&entry.path())?;
        Some(Finding::problem(
            &c::STATE_MODES,
            format!("others may read {} (mode {mode:04o})", entry.path().display()),
        ))
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::FindingLevel;

    #[test]
    fn a_state_folder_that_others_may_read_is_told_with_each_key_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let key = folder.path().join("ca.key");
        std::fs::write(&key, "secret").unwrap();
        chmod(&key, 0o600);
        chmod(folder.path(), 0o700);
        let wrong = || {
            let findings = state_folder(folder.path());
            findings
                .into_iter()
                .filter(|finding| finding.check == &c::STATE_MODES)
                .filter(|finding| finding.level == FindingLevel::Problem)
                .count()
        };
        assert_eq!(wrong(), 0);
        chmod(&key, 0o640);
        assert_eq!(wrong(), 1);
        chmod(folder.path(), 0o755);
        assert_eq!(wrong(), 2);
    }
}
