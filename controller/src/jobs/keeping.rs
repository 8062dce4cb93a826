//! Which backups go, of those that there are now: the facts for `repository::retention`, and the brake.
//!
//! Must stay true: what the repository does not hold any more takes nobody's place (the catalog may be
//! behind); what the catalog does not know is never removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::names::{BackupName, SourceId};
use repository::prune::Brake;
use repository::retention::{ArchiveFacts, Facts, Proof, Rules};
use repository::verify::Depth;
use repository::work::WorkKind;

use crate::catalog::{Catalog, CatalogError, VerificationRecord};
use crate::depot::Depot;
use crate::jobs::job::{DRILLED, Removal};
use crate::jobs::own_rules::{AllRules, Origins, Verdict, verdicts};
use crate::jobs::safety::pin_that_counts;

/// So many backups may go without anybody having seen a plan.
const FEW: usize = 5;

/// What the configuration says of retention.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The rules.
    pub rules: Rules,
    /// Somebody has written them down there: no others count.
    pub is_declared: bool,
    /// Where days begin.
    pub zone: TimeZone,
}

/// The rules that count now, and what they decide.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub(crate) rules: AllRules,
    /// Newest first.
    pub(crate) verdicts: Vec<Verdict>,
}

/// No decision can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepingError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("a thread of the controller ended unexpectedly")]
    Thread(#[from] tokio::task::JoinError),
}

/// The rules that count now. Blocks.
pub(crate) fn rules_in_force(configured: &Configured, depot: &Depot) -> Result<Rules, RepositoryError> {
    match configured.is_declared {
        true => Ok(configured.rules.clone()),
        false => Ok(depot.repository().rules()?.unwrap_or_else(|| configured.rules.clone())),
    }
}

/// The rules of those schedules that have their own.
pub(crate) async fn rules_of_schedules(catalog: &Catalog) -> Result<BTreeMap<String, Rules>, CatalogError> {
    let schedules = catalog.schedules().await?.into_iter();
    let own = schedules.filter_map(|schedule| {
        let rules = schedule.definition.own_retention()?.rules();
        Some((schedule.name, rules))
    });
    Ok(own.collect())
}

/// Decides what becomes of each backup.
pub(crate) async fn decide_now(
    configured: &Configured,
    catalog: &Catalog,
    depot: &std::sync::Arc<Depot>,
    now: Timestamp,
) -> Result<Decided, KeepingError> {
    let records = catalog.backups_before(None, u32::MAX).await?;
    let names: Vec<&BackupName> = records.iter().map(|record| &record.name).collect();
    let mut proofs = catalog.verifications_of(&names).await?;
    let of_schedules = rules_of_schedules(catalog).await?;
    let origins = match of_schedules.is_empty() {
        true => Origins::new(),
        false => catalog.origins_of_backups().await?,
    };
    let (configured, depot) = (configured.clone(), depot.clone());
    let decided = tokio::task::spawn_blocking(move || {
        let rules = AllRules { general: rules_in_force(&configured, &depot)?, of_schedules };
        let there = depot.repository().names()?;
        let pins = depot.repository().pins()?;
        let readers = readers(&depot, now)?;
        let facts: Vec<Facts> = (records.into_iter())
            .filter(|record| there.contains(&record.name))
            .map(|record| Facts {
                pin: pin_that_counts(pins.of(&record), now),
                in_use: readers.get(&record.name).map(|reader| (*reader).to_owned()),
                ..facts(&record, proofs.remove(&record.name).unwrap_or_default())
            })
            .collect();
        let verdicts = verdicts(&facts, &rules, &origins, now, &configured.zone);
        Ok::<_, RepositoryError>(Decided { rules, verdicts })
    });
    Ok(decided.await??)
}

/// What running jobs, and whoever looks into a backup, read at this moment.
fn readers(depot: &Depot, now: Timestamp) -> Result<HashMap<BackupName, &'static str>, RepositoryError> {
    let mut readers = HashMap::new();
    for work in depot.repository().work(now)? {
        let reader = match work.kind {
            WorkKind::Backup => "a backup reads it",
            WorkKind::Restore => "a restore reads it",
            WorkKind::Verification => "it is being verified",
            WorkKind::Reading => "somebody reads it",
        };
        readers.extend(work.backups.into_iter().map(|name| (name, reader)));
    }
    Ok(readers)
}

fn facts(record: &BackupRecord, verifications: Vec<VerificationRecord>) -> Facts {
    let archives = record.archives.iter().map(|archive| ArchiveFacts {
        source: archive.source.clone(),
        outcome: archive.outcome,
        proofs: verifications
            .iter()
            .filter(|result| result.source == archive.source)
            .filter_map(proof)
            .filter(|proof| !proof.intact || !is_not_opened(&verifications, &archive.source))
            .collect(),
    });
    Facts {
        name: record.name.clone(),
        sequence: record.sequence,
        started_at: record.started_at,
        outcome: record.outcome,
        pin: None,
        in_use: None,
        archives: archives.collect(),
    }
}

/// True if the newest drill has not opened it: whatever was read of it, it is no reason for others to go.
fn is_not_opened(verifications: &[VerificationRecord], source: &SourceId) -> bool {
    verifications.iter().any(|result| result.source == *source && result.depth == DRILLED && !result.intact)
}

/// A depth of a newer program proves nothing to this one, and neither does a verification that has not read
/// everything yet.
fn proof(result: &VerificationRecord) -> Option<Proof> {
    let depth = match result.depth.as_str() {
        "listed" => Depth::Listed,
        "hashed" => Depth::Hashed,
        // With a drill all was read, too.
        "opened" | DRILLED => Depth::Opened,
        _ => return None,
    };
    if result.intact && !result.proves() {
        return None;
    }
    Some(Proof { depth, at: result.at, intact: result.intact })
}

impl Decided {
    /// What goes, with the rule for the note that stays of it.
    pub(crate) fn removals(&self) -> Vec<Removal> {
        let goes = self.verdicts.iter().filter(|verdict| verdict.goes());
        goes.map(|verdict| Removal { backup: verdict.name.clone(), rule: why_it_goes(verdict) }).collect()
    }

    /// Why a person has to approve the removals: a wrong rule, or a wrong clock, looks like this.
    pub(crate) fn brake(&self) -> Option<String> {
        let (goes, all) = (self.removals().len(), self.verdicts.len());
        (goes > FEW && goes * 2 > all).then(|| format!("{goes} of {all} backups would go"))
    }
}

/// Why one goes that goes.
pub(crate) fn why_it_goes(verdict: &Verdict) -> String {
    format!("kept by no rule ({})", verdict.by)
}

/// Why a person has to approve what prune would take away.
pub(crate) fn brake_words(brake: &Brake) -> String {
    format!(
        "{} % of the packs and {} % of their bytes would go at once",
        brake.packs_percent, brake.bytes_percent
    )
}

/// Of what was confirmed, what the rules still remove: never more than was seen.
pub(crate) fn confirmed(removals: Vec<Removal>, confirmed: Option<&[BackupName]>) -> Vec<Removal> {
    let Some(confirmed) = confirmed else { return removals };
    let seen: BTreeSet<&BackupName> = confirmed.iter().collect();
    removals.into_iter().filter(|removal| seen.contains(&removal.backup)).collect()
}
