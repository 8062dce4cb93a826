//! How old the newest verified backup of each component is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use repository::backup::manifest::{BackupRecord, Outcome};

use crate::catalog::{Catalog, CatalogError, VerificationRecord};
use crate::jobs::safety::Safety;

/// Backups that are looked at together.
const PAGE: u32 = 100;
/// A clock may be put back by so much without meaning anything.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);
/// Of verifications, those that have read what is stored.
const DEPTHS: [&str; 3] = ["hashed", "opened", "drilled"];

/// By component: when the newest backup was begun that holds it complete and that was found intact. It is
/// looked for until each of those that are `served` is found, or backups are older than `longest`.
pub(super) async fn newest_verified(
    catalog: &Catalog,
    mut served: BTreeSet<String>,
    longest: Duration,
    now: Timestamp,
) -> Result<BTreeMap<String, Timestamp>, CatalogError> {
    let oldest = now.checked_sub(longest).unwrap_or(Timestamp::MIN);
    let (mut newest, mut before) = (BTreeMap::new(), None);
    loop {
        let backups = catalog.backups_before(before, PAGE).await?;
        let names: Vec<_> = backups.iter().map(|backup| &backup.name).collect();
        let verifications = catalog.verifications_of(&names).await?;
        let found = |backup: &BackupRecord| verifications.get(&backup.name).map_or(&[][..], Vec::as_slice);
        for (component, at) in of_these(&backups, found, now) {
            served.remove(&component);
            let newer = newest.entry(component).or_insert(at);
            *newer = (*newer).max(at);
        }
        before = backups.last().map(|backup| backup.sequence);
        let are_old = backups.iter().all(|backup| backup.started_at < oldest);
        if served.is_empty() || are_old || backups.len() < PAGE as usize {
            return Ok(newest);
        }
    }
}

/// One that is of a time to come was made while the clock was ahead, and says nothing of how old it is.
fn of_these<'a>(
    backups: &[BackupRecord],
    verifications: impl Fn(&BackupRecord) -> &'a [VerificationRecord],
    now: Timestamp,
) -> BTreeMap<String, Timestamp> {
    let mut newest = BTreeMap::new();
    let is_of_its_time = |backup: &&BackupRecord| backup.started_at <= now + CLOCKS_DIFFER;
    for backup in backups.iter().filter(is_of_its_time).filter(|backup| Safety::of(backup).is_none()) {
        let found = verifications(backup);
        let mut components: BTreeMap<String, bool> = BTreeMap::new();
        for archive in &backup.archives {
            let is_verified = found.iter().any(|one| {
                one.source == archive.source && one.proves() && DEPTHS.contains(&one.depth.as_str())
            });
            let good = archive.outcome != Outcome::Failed && is_verified;
            *components.entry(archive.source.component.to_string()).or_insert(true) &= good;
        }
        for (component, _) in components.into_iter().filter(|(_, good)| *good) {
            let at = newest.entry(component).or_insert(backup.started_at);
            *at = (*at).max(backup.started_at);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use repository::ids::RepositoryId;
    use repository::verify::Coverage;

    use super::*;

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    /// A backup of one component that was verified.
    async fn add(catalog: &Catalog, sequence: u64, component: &str, minute: i64) {
        let started_at = start() + SignedDuration::from_mins(minute);
        let record: BackupRecord = serde_json::from_value(serde_json::json!({
            "format": repository::backup::manifest::FORMAT,
            "repository": RepositoryId::new([1; 16]),
            "name": started_at.strftime("%Y%m%d_%H%M%S").to_string(),
            "sequence": sequence, "job": "job", "started_at": started_at, "ended_at": started_at,
            "outcome": Outcome::Complete, "pin": null, "previous": null,
            "archives": [{
                "component": component, "source": "a", "kind": "files", "outcome": Outcome::Complete,
                "reason": null, "consistency": null, "counts": repository::backup::manifest::Counts::default(),
                "manifest": "00".repeat(32), "refs": null,
            }],
        }))
        .expect("a backup");
        let verification = VerificationRecord {
            source: record.archives[0].source.clone(),
            depth: "opened".to_owned(),
            at: started_at,
            intact: true,
            findings: Vec::new(),
            coverage: Coverage { now: 1, ..Coverage::default() },
        };
        catalog.put_backup(&record).await.expect("written");
        catalog.add_verification(&record.name, &verification).await.expect("written");
    }

    #[tokio::test]
    async fn a_component_is_looked_for_past_many_backups_of_others_and_of_times_to_come() {
        let home = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(&home.path().join("catalog.sqlite")).await.expect("opened");
        add(&catalog, 1, "rare", 0).await;
        for nth in 1..=110 {
            add(&catalog, 1 + nth as u64, "often", nth).await;
        }
        // The clock was a month ahead.
        add(&catalog, 200, "often", 30 * 24 * 60).await;
        add(&catalog, 201, "rare", 30 * 24 * 60 + 1).await;
        let now = start() + SignedDuration::from_mins(120);
        let served = || ["often", "rare"].map(str::to_owned).into();
        let day = Duration::from_secs(86_400);
        let found = newest_verified(&catalog, served(), day, now).await.expect("read");
        let minutes = |minutes| start() + SignedDuration::from_mins(minutes);
        let expected = [("often".to_owned(), minutes(110)), ("rare".to_owned(), minutes(0))];
        assert_eq!(found, expected.into());
    }
}
