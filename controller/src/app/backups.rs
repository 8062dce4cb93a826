//! Backups: list, find, and keep the catalog's list true.

use std::collections::BTreeSet;

use proto::Failure;
use proto::convert::BackupChoice;
use repository::backup::listing::LegacyBackup;
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Outcome};
use repository::names::{Component, SourceName};

use crate::app::{App, catalog_failure};
use crate::catalog::VerificationRecord;
use crate::ingest::{repository_failure, thread_died};

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

    /// All backups, the newest first, and those of older systems.
    pub async fn backups(&self) -> Result<(Vec<Verified>, Vec<LegacyBackup>), Failure> {
        let depot = self.depot.clone();
        let listing =
            tokio::task::spawn_blocking(move || depot.list()).await.map_err(|error| thread_died(&error))?;
        let legacy =
            listing.map_err(|error| repository_failure("the repository cannot be listed", &error))?.legacy;
        let mut backups = Vec::new();
        for record in self.records().await? {
            backups.push(self.with_verifications(record).await?);
        }
        Ok((backups, legacy))
    }

    /// The backups that the catalog knows, the newest first.
    pub async fn records(&self) -> Result<Vec<BackupRecord>, Failure> {
        self.catalog.backups().await.map_err(|error| catalog_failure(&error))
    }

    /// One backup. The latest is the newest one.
    pub async fn backup(&self, choice: &BackupChoice) -> Result<Verified, Failure> {
        let record = self.newest(choice).await?;
        self.with_verifications(record).await
    }

    async fn with_verifications(&self, record: BackupRecord) -> Result<Verified, Failure> {
        let found =
            self.catalog.verifications(&record.name).await.map_err(|error| catalog_failure(&error))?;
        Ok((record, found))
    }

    /// The chosen backup; the latest is the newest one.
    pub async fn newest(&self, choice: &BackupChoice) -> Result<BackupRecord, Failure> {
        self.choose(choice, |_| true, "there is no backup yet").await
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
        self.choose(choice, |record| holds_complete(record, &all), &none).await
    }

    /// What `all` means: every component that an agent serves which may still come back.
    async fn served_components(&self) -> Result<Vec<Component>, Failure> {
        let agents = self.agents().await?;
        let active = agents.iter().filter(|agent| agent.revoked_at.is_none());
        let served = active.flat_map(|agent| &agent.sources);
        let all: BTreeSet<Component> = served.map(|source| source.source.component.clone()).collect();
        Ok(all.into_iter().collect())
    }

    async fn choose(
        &self,
        choice: &BackupChoice,
        fits: impl Fn(&BackupRecord) -> bool,
        none: &str,
    ) -> Result<BackupRecord, Failure> {
        let records = self.records().await?;
        let found = match choice {
            BackupChoice::Latest => records.into_iter().find(fits),
            BackupChoice::Named(name) => records.into_iter().find(|record| record.name == *name),
        };
        found.ok_or_else(|| match choice {
            BackupChoice::Latest => {
                Failure::not_found(none).hint("`nsctl list` shows what there is; --components names less")
            }
            BackupChoice::Named(name) => Failure::not_found(format!("there is no backup {name}"))
                .hint("`nsctl list` shows what there is"),
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

fn holds_complete(record: &BackupRecord, components: &[Component]) -> bool {
    if components.is_empty() {
        return record.outcome == Outcome::Complete;
    }
    components.iter().all(|component| {
        let mut archives =
            record.archives.iter().filter(|archive| archive.source.component == *component).peekable();
        archives.peek().is_some() && archives.all(|archive| archive.outcome == Outcome::Complete)
    })
}
