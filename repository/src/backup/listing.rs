//! What backups there are: read back from the folders, each signature checked.

use std::collections::{BTreeSet, HashSet};

use super::manifest::{ArchiveManifest, BackupRecord};
use super::wishes::Pins;
use crate::error::RepositoryError;
use crate::layout;
use crate::names::{BackupName, SourceId};
use crate::refs::Refs;
use crate::repo::{Repository, refuse_unknown_format};
use crate::side_by_side::side_by_side;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::{ABANDONED, ListedKind};

/// The longest refs file, in bytes.
pub(crate) const MAX_REFS: u64 = 256 << 20;

/// Everything with a timestamp in a repository's root.
#[derive(Debug, Default)]
pub struct Listing {
    /// Committed backups, newest first by sequence, with the pins that they have now.
    pub backups: Vec<BackupRecord>,
    /// Timestamp folders of an older system, by name.
    pub legacy: Vec<LegacyBackup>,
    /// Backups whose `backup.json` is not to be trusted or not to be read, with the reason.
    pub damaged: Vec<(BackupName, RepositoryError)>,
    /// Backups that the chain knows and that are no longer there, though nobody retired them.
    pub lost: Vec<BackupName>,
    /// What is wrong with the chain itself, a line each.
    pub chain: Vec<String>,
    /// Places in the order whose line is not to be had, and of which neither a backup nor the note of a
    /// retired one says that it was theirs.
    pub unknown: BTreeSet<u64>,
}

/// A timestamp folder that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyBackup {
    /// Its name.
    pub name: BackupName,
    /// What lies in it, by name.
    pub contents: Vec<String>,
}

impl Repository {
    /// Lists the root. A damaged backup does not hide the others.
    pub fn list(&self) -> Result<Listing, RepositoryError> {
        let mut listing = Listing::default();
        // First: what is committed meanwhile is in no line yet, and so is not missed.
        let chain = self.chain()?;
        let folders = self.store.list(None)?.into_iter();
        let folders = folders.filter(|listed| listed.kind == ListedKind::Folder);
        let names: Vec<BackupName> = folders.filter_map(|listed| listed.name.parse().ok()).collect();
        let bearable = |error: &RepositoryError| {
            error.is_foreign() || error.is_of_one_object() || matches!(error, RepositoryError::TooNew { .. })
        };
        let backups = side_by_side(&names, |name| match self.backup(name) {
            Err(error) if !bearable(&error) => Err(error),
            found => Ok(found),
        })?;
        for (name, backup) in names.into_iter().zip(backups) {
            match backup {
                Ok(record) => listing.backups.push(record),
                Err(error) if error.is_foreign() => listing.legacy.extend(self.legacy_backup(name)?),
                Err(error) => listing.damaged.push((name, error)),
            }
        }
        listing.backups.sort_by_key(|record| std::cmp::Reverse(record.sequence));
        let pins = self.pins()?;
        listing.backups.iter_mut().for_each(|record| record.pin = pins.of(record));
        let there = listing.backups.iter().map(|record| &record.name);
        let there: HashSet<&BackupName> = there.chain(listing.damaged.iter().map(|(name, _)| name)).collect();
        let lost = chain.lines.iter().map(|line| &line.name).filter(|name| !there.contains(name));
        listing.lost = lost.cloned().collect();
        listing.unknown = chain.holes().clone();
        listing.chain = chain.findings;
        // Asked last: what is retired meanwhile is not lost. What a crash left of one goes at the next start.
        let notes = self.retired()?;
        notes.iter().for_each(|note| {
            listing.unknown.remove(&note.sequence);
        });
        let retired: BTreeSet<BackupName> = notes.into_iter().map(|note| note.name).collect();
        listing.backups.retain(|record| !retired.contains(&record.name));
        listing.legacy.retain(|legacy| !retired.contains(&legacy.name));
        listing.damaged.retain(|(name, _)| !retired.contains(name));
        listing.lost.retain(|name| !retired.contains(name));
        if self.store.lists_may_lag() {
            self.ask_for_lost(&mut listing, &pins)?;
        }
        listing.backups.iter().for_each(|record| {
            listing.unknown.remove(&record.sequence);
        });
        Ok(listing)
    }

    /// A list may lag: a backup that has a line in the chain and was not listed is asked for by its name.
    fn ask_for_lost(&self, listing: &mut Listing, pins: &Pins) -> Result<(), RepositoryError> {
        for name in std::mem::take(&mut listing.lost) {
            match self.backup(&name) {
                Ok(mut record) => {
                    record.pin = pins.of(&record);
                    listing.backups.push(record);
                }
                Err(error) if error.is_foreign() => listing.lost.push(name),
                Err(error) if error.is_of_one_object() => listing.damaged.push((name, error)),
                Err(error) => return Err(error),
            }
        }
        listing.backups.sort_by_key(|record| std::cmp::Reverse(record.sequence));
        Ok(())
    }

    /// The names of all folders in the root that can be a backup's; one listing, and nothing is read.
    pub fn names(&self) -> Result<BTreeSet<BackupName>, RepositoryError> {
        let listed = self.store.list(None)?.into_iter();
        let folders = listed.filter(|listed| listed.kind == ListedKind::Folder);
        Ok(folders.filter_map(|listed| listed.name.parse().ok()).collect())
    }

    /// Timestamp folders of an older system; looks into none whose name is `known` as one of ours.
    pub fn legacy(&self, known: &HashSet<BackupName>) -> Result<Vec<LegacyBackup>, RepositoryError> {
        let mut legacy = Vec::new();
        for listed in self.store.list(None)? {
            let (Ok(name), ListedKind::Folder) = (listed.name.parse::<BackupName>(), listed.kind) else {
                continue;
            };
            if known.contains(&name) {
                continue;
            }
            match self.backup(&name) {
                Err(error) if error.is_foreign() => legacy.extend(self.legacy_backup(name)?),
                Err(error)
                    if !error.is_of_one_object() && !matches!(error, RepositoryError::TooNew { .. }) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(legacy)
    }

    /// A timestamp folder without a backup, unless a writer of ours left it so. What may not even be looked
    /// into is shown all the same.
    fn legacy_backup(&self, name: BackupName) -> Result<Option<LegacyBackup>, RepositoryError> {
        if self.is_left_over(&name)? {
            return Ok(None);
        }
        let contents = self.store.list(Some(&layout::backup(&name))).unwrap_or_default();
        Ok(Some(LegacyBackup { name, contents: contents.into_iter().map(|listed| listed.name).collect() }))
    }

    /// A backup's record, its signature checked.
    pub fn backup(&self, name: &BackupName) -> Result<BackupRecord, RepositoryError> {
        self.backup_with_digest(name).map(|(record, _)| record)
    }

    pub(crate) fn backup_with_digest(
        &self,
        name: &BackupName,
    ) -> Result<(BackupRecord, Sha256), RepositoryError> {
        let path = layout::backup(name).join(layout::BACKUP_JSON);
        let file = match self.store.read(&path, MAX_JSON) {
            Err(error) if error.is_not_found() => {
                return Err(RepositoryError::NoBackup { name: name.clone() });
            }
            other => other?,
        };
        if file == ABANDONED {
            return Err(RepositoryError::NoBackup { name: name.clone() });
        }
        let record: BackupRecord = self
            .config
            .signing_key
            .verify(&file)
            .map_err(|source| RepositoryError::Signature { path: path.clone(), source })?;
        refuse_unknown_format(record.format)?;
        // A whole folder that was renamed or brought from elsewhere is signed, and still not this backup.
        if record.name != *name || record.repository != self.config.id {
            return Err(RepositoryError::Checksum { path });
        }
        Ok((record, Sha256::of(&file)))
    }

    /// An archive's manifest, checked against its backup.
    pub fn archive(
        &self,
        record: &BackupRecord,
        source: &SourceId,
    ) -> Result<ArchiveManifest, RepositoryError> {
        let line = record.archive(source).ok_or_else(|| no_archive(record, source))?;
        let path = layout::manifest(&layout::backup(&record.name), source);
        let file = self.store.read(&path, MAX_JSON)?;
        if Sha256::of(&file) != line.manifest {
            return Err(RepositoryError::Checksum { path });
        }
        let manifest: ArchiveManifest =
            serde_json::from_slice(&file).map_err(|_| RepositoryError::Damaged {
                path,
                source: crate::codec::Malformed::new("archive manifest", "it cannot be understood"),
            })?;
        refuse_unknown_format(manifest.format)?;
        Ok(manifest)
    }

    /// An archive's refs. One damaged copy inside the file is told in the log and costs nothing.
    pub fn refs(&self, record: &BackupRecord, source: &SourceId) -> Result<Refs, RepositoryError> {
        let line = record.archive(source).ok_or_else(|| no_archive(record, source))?;
        let Some(sum) = line.refs else {
            return Err(RepositoryError::ArchiveFailed {
                name: record.name.clone(),
                source_id: source.clone(),
                reason: line.reason.clone().unwrap_or_else(|| "no reason was recorded".to_owned()),
            });
        };
        let path = layout::refs(&layout::backup(&record.name), source);
        let file = self.store.read(&path, MAX_REFS)?;
        let refs =
            Refs::decode(&file).map_err(|source| RepositoryError::Damaged { path: path.clone(), source })?;
        // The file as a whole may be hurt in one copy; what was read must still encode to what was written.
        if Sha256::of(&refs.encode()) != sum {
            return Err(RepositoryError::Checksum { path });
        }
        if Sha256::of(&file) != sum {
            tracing::warn!(%path, "one of the two copies in this file is damaged");
        }
        Ok(refs)
    }
}

fn no_archive(record: &BackupRecord, source: &SourceId) -> RepositoryError {
    RepositoryError::NoArchive { name: record.name.clone(), source_id: source.clone() }
}

/// The page that stands in every backup's folder.
pub(crate) fn restore_md(record: &BackupRecord) -> String {
    let name = &record.name;
    let mut components: Vec<&str> =
        record.archives.iter().map(|archive| archive.source.component.as_str()).collect();
    components.dedup();
    let components = components.join(", ");
    format!(
        "# Backup {name}\n\n\
         Made by NeuraShield Backup: {components}.\n\n\
         Are these files intact?     sha256sum -c SHA256SUMS\n\
         Are the packs intact?       cd ../repository/packs && for p in */*; do [ \"$(sha256sum <$p)\" = \"${{p#*/}}  -\" ] || echo \"damaged: $p\"; done\n\n\
         Restore with the controller running:\n\n\
         \x20   nsctl restore --timestamp {name}\n\n\
         Restore with nothing but this folder's parent and the recovery key:\n\n\
         \x20   nsctl repository restore --repository .. --recovery-key-file KEY --timestamp {name} --to FOLDER\n\n\
         Restore when there is no nsctl either: ../repository/rescue/README.md\n\n\
         Every byte of the format is described in ../repository/rescue/FORMAT.md.\n"
    )
}
