//! Backups: list, find, and keep the catalog's list true.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use proto::Failure;
use proto::convert::BackupChoice;
use repository::backup::listing::LegacyBackup;
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Outcome};
use repository::names::{BackupName, Component, SourceId, SourceName};

use crate::app::{App, catalog_failure};
use crate::catalog::VerificationRecord;
use crate::ingest::{repository_failure, thread_died};
use crate::jobs::safety::Safety;

/// The most backups on a page, and about how many bytes: a message has a limit.
const PAGE: u32 = 200;
const PAGE_BYTES: usize = 1 << 20;

/// The kind of sources whose manifests have remarks.
const CHAIN: &str = "blockchain";

/// A part of the list of backups.
pub struct Page {
    /// The newest first.
    pub backups: Vec<Verified>,
    /// Those of older systems; on the first page only.
    pub legacy: Vec<LegacyBackup>,
    /// There are older ones.
    pub more: bool,
}

/// A backup with what verification found.
pub type Verified = (BackupRecord, Vec<VerificationRecord>);

/// One archive of one backup.
#[derive(Debug, Clone)]
pub struct ArchiveChoice {
    /// In which backup.
    pub backup: BackupChoice,
    /// Of which component.
    pub component: Component,
    /// Of which source; none: the only one.
    pub name: Option<SourceName>,
}

impl App {
    /// Reads the repository's backups into the catalog.
    pub async fn sync_with_repository(&self) -> Result<(), Failure> {
        let depot = self.depot.clone();
        let listing =
            tokio::task::spawn_blocking(move || depot.list()).await.map_err(|error| thread_died(&error))?;
        let listing =
            listing.map_err(|error| repository_failure("the repository cannot be listed", &error))?;
        self.catalog.replace_backups(&listing.backups).await.map_err(|error| catalog_failure(&error))
    }

    /// A page of the backups, the newest first: at most `limit` of those with a sequence below `before`.
    pub async fn backups(&self, limit: u32, before: Option<u64>) -> Result<Page, Failure> {
        let limit = limit_of(limit);
        // One more than is shown tells whether there is more.
        let records = self.catalog.backups_before(before, limit + 1).await;
        let legacy = match before {
            None => self.legacy().await?,
            Some(_) => Vec::new(),
        };
        let page = self.page_of(records.map_err(|error| catalog_failure(&error))?, limit).await?;
        Ok(Page { legacy, ..page })
    }

    /// A page of the backups of a stretch of time, the newest first; what older systems left is left out.
    pub async fn backups_within(
        &self,
        limit: u32,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Page, Failure> {
        let limit = limit_of(limit);
        let [from, until] = [from.unwrap_or(Timestamp::UNIX_EPOCH), until.unwrap_or(Timestamp::MAX)]
            .map(BackupName::from_time);
        let records = self.catalog.backups_within((&from, &until), limit + 1).await;
        self.page_of(records.map_err(|error| catalog_failure(&error))?, limit).await
    }

    async fn page_of(&self, mut records: Vec<BackupRecord>, limit: u32) -> Result<Page, Failure> {
        let mut more = records.len() > limit as usize;
        records.truncate(limit as usize);
        let names: Vec<&BackupName> = records.iter().map(|record| &record.name).collect();
        let found = self.catalog.verifications_of(&names).await;
        let mut found = found.map_err(|error| catalog_failure(&error))?;
        let (mut backups, mut bytes) = (Vec::with_capacity(records.len()), 0);
        for record in records {
            if bytes > PAGE_BYTES {
                more = true;
                break;
            }
            let verified = found.remove(&record.name).unwrap_or_default();
            let findings =
                verified.iter().flat_map(|result| &result.findings).map(String::len).sum::<usize>();
            bytes += findings + 1_024 * (1 + record.archives.len());
            backups.push((record, verified));
        }
        Ok(Page { backups, legacy: Vec::new(), more })
    }

    /// The newest backups, the newest first.
    pub async fn newest_backups(&self, count: u32) -> Result<Vec<BackupRecord>, Failure> {
        self.catalog.backups_before(None, count).await.map_err(|error| catalog_failure(&error))
    }

    /// One backup. The latest is the newest one.
    pub async fn backup(&self, choice: &BackupChoice) -> Result<Verified, Failure> {
        let record = self.newest(choice).await?;
        self.with_verifications(record).await
    }

    /// What the archives' manifests say of what it is that comes back, by source. Only those of chains say anything. One
    /// that cannot be read says so.
    pub async fn remarks(&self, record: &BackupRecord) -> Result<HashMap<SourceId, Vec<String>>, Failure> {
        let of_chains =
            |archive: &&ArchiveRecord| archive.kind == CHAIN && archive.outcome != Outcome::Failed;
        let sources: Vec<SourceId> =
            record.archives.iter().filter(of_chains).map(|archive| archive.source.clone()).collect();
        if sources.is_empty() {
            return Ok(HashMap::new());
        }
        let (depot, record) = (self.depot.clone(), record.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let of = |source: SourceId| {
                let remarks = match depot.repository().archive(&record, &source) {
                    Ok(manifest) => manifest.remarks,
                    Err(error) => {
                        vec![format!("its description cannot be read: {}", proto::failure::chain(&error))]
                    }
                };
                (source, remarks)
            };
            sources.into_iter().map(of).collect()
        });
        reading.await.map_err(|error| thread_died(&error))
    }

    async fn with_verifications(&self, record: BackupRecord) -> Result<Verified, Failure> {
        let found =
            self.catalog.verifications(&record.name).await.map_err(|error| catalog_failure(&error))?;
        Ok((record, found))
    }

    /// The chosen backup; the latest is the newest one.
    pub async fn newest(&self, choice: &BackupChoice) -> Result<BackupRecord, Failure> {
        // A safety backup holds what somebody wanted to be rid of: the latest is never one.
        self.choose(choice, |record| Safety::of(record).is_none(), "there is no backup yet").await
    }

    /// The chosen backup; the latest is the newest that holds every asked component complete, or all of
    /// its own where none is asked for.
    pub async fn newest_complete(
        &self,
        choice: &BackupChoice,
        components: &[Component],
    ) -> Result<BackupRecord, Failure> {
        let mut all = components.to_vec();
        if components.is_empty() {
            all = self.served_components().await?;
        }
        let names: Vec<&str> = all.iter().map(Component::as_str).collect();
        let none = format!("no backup holds all of {} complete", names.join(", "));
        let fits = |record: &BackupRecord| Safety::of(record).is_none() && holds_complete(record, &all);
        self.choose(choice, fits, &none).await
    }

    /// What `all` means: every component that an agent serves which may still come back.
    pub(super) async fn served_components(&self) -> Result<Vec<Component>, Failure> {
        self.catalog.served_components().await.map_err(|error| catalog_failure(&error))
    }

    async fn choose(
        &self,
        choice: &BackupChoice,
        fits: impl Fn(&BackupRecord) -> bool,
        none: &str,
    ) -> Result<BackupRecord, Failure> {
        let found = match choice {
            BackupChoice::Latest => self.catalog.newest_backup(u32::MAX, fits).await,
            BackupChoice::Named(name) => self.catalog.backup(name).await,
        };
        if let Some(found) = found.map_err(|error| catalog_failure(&error))? {
            return Ok(found);
        }
        let hint = "`nsctl list` shows what there is";
        let holds_any = self.catalog.count_backups().await.map_err(|error| catalog_failure(&error))? > 0;
        Err(match choice {
            BackupChoice::Latest => Failure::not_found(none).hint(match holds_any {
                true => "`nsctl list` shows what there is; ask for less with --components",
                false => "`nsctl backup` makes one",
            }),
            BackupChoice::Named(name) => {
                let known = self.catalog.backup_names().await.map_err(|error| catalog_failure(&error))?;
                let failure = Failure::not_found(format!("there is no backup {name}")).hint(hint);
                match nearest(name, known.iter()).as_slice() {
                    [] => failure.because("there is no backup at all"),
                    near => failure.because(format!("the nearest are {}", near.join(", "))),
                }
            }
        })
    }

    /// The chosen archive and its backup.
    pub async fn archive(&self, choice: &ArchiveChoice) -> Result<(BackupRecord, ArchiveRecord), Failure> {
        let record = self.newest_complete(&choice.backup, std::slice::from_ref(&choice.component)).await?;
        let named = |archive: &&ArchiveRecord| {
            archive.source.component == choice.component
                && choice.name.as_ref().is_none_or(|name| archive.source.name == *name)
        };
        let found: Vec<ArchiveRecord> = record.archives.iter().filter(named).cloned().collect();
        match found.as_slice() {
            [archive] => Ok((record, archive.clone())),
            [] => Err(Failure::not_found(format!(
                "backup {} holds nothing of {}",
                record.name, choice.component
            ))
            .hint(format!("`nsctl show {}` shows what it holds", record.name))),
            several => {
                let names: Vec<String> = several.iter().map(|archive| archive.source.to_string()).collect();
                Err(Failure::invalid(format!(
                    "{} has several sources: {}",
                    choice.component,
                    names.join(", ")
                ))
                .hint("name one of them"))
            }
        }
    }
}

fn limit_of(asked: u32) -> u32 {
    match asked {
        0 => PAGE,
        limit => limit.min(PAGE),
    }
}

/// The last names before this one, and the first after it.
fn nearest<'a>(name: &BackupName, known: impl Iterator<Item = &'a BackupName>) -> Vec<String> {
    const EACH_SIDE: usize = 2;
    let known: BTreeSet<String> = known.map(ToString::to_string).collect();
    let name = name.to_string();
    let mut near: Vec<String> = known.range(..name.clone()).rev().take(EACH_SIDE).cloned().collect();
    near.reverse();
    near.extend(known.range(name..).take(EACH_SIDE).cloned());
    near
}

/// True if it holds each of these complete; of none: if it is complete itself.
pub(crate) fn holds_complete(record: &BackupRecord, components: &[Component]) -> bool {
    if components.is_empty() {
        return record.outcome == Outcome::Complete;
    }
    components.iter().all(|component| {
        let mut archives =
            record.archives.iter().filter(|archive| archive.source.component == *component).peekable();
        archives.peek().is_some() && archives.all(|archive| archive.outcome == Outcome::Complete)
    })
}
