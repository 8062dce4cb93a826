//! Looks at what is left of a repository, as the next controller and its users would.

use repository::backup::manifest::BackupRecord;
use repository::keys::SlotSecret;
use repository::names::BackupName;
use repository::verify::Depth;

use super::{Controller, Fate, Pace, Storage, Told};
use crate::support::*;

/// What of that which is listed is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    All,
    None,
}

/// Says what is wrong with a repository whose users were told `told`. Goes on with it: it is another one
/// afterwards.
pub fn survives(storage: Storage<'_>, told: &Told) -> Result<(), String> {
    let started = Controller::start(storage, 1_000, None);
    let started = started.map_err(|error| told_at_length("start", &*error))?.0;
    let repository = &started.repository;
    check_listed(&started, told, Read::All)?;
    for key in &told.recovery_keys {
        let opened = repository.unlock(&SlotSecret::Recovery(key.clone()));
        opened.map_err(|error| told_at_length("unlock with a recovery key that was shown", &error))?;
    }
    let confirmed = repository.is_recovery_confirmed();
    let confirmed = confirmed.map_err(|error| told_at_length("look for the confirmation", &error))?;
    if told.is_confirmed && !confirmed {
        return Err("the confirmation of the recovery key is lost".to_owned());
    }

    // The job that was cut off is tried again under its name, and then comes the next night.
    let mut told = told.clone();
    let begun = told.backups.iter().filter(|(_, (_, fate))| *fate == Fate::Begun);
    let mut due: Vec<_> = begun.map(|(name, (files, _))| (name.clone(), files.clone())).collect();
    let next = Files::from([("a", noise("a", 900)), ("next", noise("next", 900))]);
    due.push((BackupName::from_time(at(2_000)), next.into()));
    for (name, files) in due {
        let record = started.back_up(name.clone(), &files);
        let record = record.map_err(|error| told_at_length(&format!("back up {name}"), &error))?;
        told.backups.insert(name, (files.clone(), Fate::Complete));
        check_backup(&started, &record, &files)?;
    }
    check_listed(&started, &told, Read::None)?;
    for pace in [Pace::InStages, Pace::AtOnce] {
        started.prune(pace).map_err(|error| told_at_length("prune", &error))?;
    }
    check_listed(&started, &told, Read::All)
}

/// The same of a controller that runs.
pub(super) fn check(controller: &Controller, told: &Told) -> Result<(), String> {
    check_listed(controller, told, Read::All)
}

fn check_listed(controller: &Controller, told: &Told, read: Read) -> Result<(), String> {
    let listing = controller.repository.list().map_err(|error| told_at_length("list", &error))?;
    for (name, (_, fate)) in &told.backups {
        let is_there = listing.backups.iter().any(|record| record.name == *name);
        if *fate == Fate::Complete && !is_there {
            return Err(format!("backup {name} was acknowledged and is lost"));
        }
        if *fate == Fate::Retired && is_there {
            return Err(format!("backup {name} was retired and is listed"));
        }
    }
    if !(listing.damaged.is_empty()
        && listing.legacy.is_empty()
        && listing.lost.is_empty()
        && listing.chain.is_empty())
    {
        return Err(format!("the list shows what is not whole: {listing:?}"));
    }
    for record in &listing.backups {
        let (files, _) = told
            .backups
            .get(&record.name)
            .ok_or_else(|| format!("backup {} is listed and nobody began it", record.name))?;
        if read == Read::All {
            check_backup(controller, record, files)?;
        }
    }
    Ok(())
}

fn check_backup(controller: &Controller, record: &BackupRecord, files: &Files) -> Result<(), String> {
    let name = &record.name;
    let found = try_findings(&controller.repository, Some(&controller.keys), record, Depth::Opened);
    let found = found.map_err(|error| told_at_length(&format!("verify {name}"), &error))?;
    if !found.is_empty() {
        return Err(format!("backup {name} is not intact: {}", found.join("; ")));
    }
    let read = read_back(&controller.repository, &controller.keys, record);
    let read = read.map_err(|error| told_at_length(&format!("restore {name}"), &error))?;
    let expected: Vec<_> = files.iter().map(|(path, bytes)| (path.to_string(), bytes.clone())).collect();
    if read != expected {
        return Err(format!("backup {name} comes back different"));
    }
    Ok(())
}

/// What could not be done, with all its causes.
fn told_at_length(what: &str, error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(format!("cannot {what}: {error}"), |told, cause| format!("{told}: {cause}"))
}
