//! What each day brought, and what there is of each component: for whoever wants to see years at a glance.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use proto::Failure;
use repository::names::BackupName;

use crate::app::backups::Verified;
use crate::app::{App, catalog_failure};
use crate::catalog::{CatalogError, DayRecord, NewestRecord};

/// What is told of unless somebody asks for another stretch of time: today and the days before it.
const USUAL_DAYS: i64 = 30;
/// The longest stretch that is told of.
const MOST: SignedDuration = SignedDuration::from_hours(24 * 400);

/// What became of backups.
pub struct History {
    /// Of all that is in a backup, by name.
    pub components: Vec<ComponentHistory>,
    /// Of whole backups, the oldest first.
    pub days: Vec<DayRecord>,
    /// How many there are, of any time.
    pub backups: u64,
    /// The bytes of the data in all of them.
    pub bytes: u64,
}

/// What became of one component.
pub struct ComponentHistory {
    /// The newest backups of it.
    pub newest: NewestRecord,
    /// The newest complete one.
    pub complete: Option<Verified>,
    /// The oldest first.
    pub days: Vec<DayRecord>,
}

impl App {
    /// The history from one moment to before another; unless told otherwise, of today and the 29 days before.
    pub async fn history(
        &self,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<History, Failure> {
        // One that began a moment ago counts, too.
        let until = until.unwrap_or_else(|| self.now() + SignedDuration::from_mins(5));
        let wrong = |why: String| {
            Failure::invalid("no stretch of time that can be told of")
                .because(why)
                .hint("ask for 400 days at most, the first before the last")
        };
        let from = match from {
            Some(from) => from,
            None => first_day(until)
                .ok_or_else(|| wrong(format!("there are no {USUAL_DAYS} days before {until:.0}")))?,
        };
        if from >= until || until.duration_since(from) > MOST {
            return Err(wrong(format!("it is from {from:.0} to {until:.0}")));
        }
        let (from, until) = (BackupName::from_time(from), BackupName::from_time(until));
        self.read_history(&from, &until).await.map_err(|error| catalog_failure(&error))
    }

    async fn read_history(&self, from: &BackupName, until: &BackupName) -> Result<History, CatalogError> {
        let catalog = &self.catalog;
        let mut of_components: BTreeMap<String, Vec<DayRecord>> = BTreeMap::new();
        for (component, day) in catalog.days_of_components((from, until)).await? {
            of_components.entry(component).or_default().push(day);
        }
        let newest = catalog.newest_of_components().await?;
        // Mostly one backup holds the newest of all.
        let mut names: Vec<&BackupName> = newest.iter().filter_map(|one| one.complete.as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        let mut found = catalog.verifications_of(&names).await?;
        let records = catalog.backups_named(&names).await?.into_iter();
        let complete: HashMap<BackupName, Verified> = records
            .map(|record| {
                let verified = found.remove(&record.name).unwrap_or_default();
                (record.name.clone(), (record, verified))
            })
            .collect();
        let component = |newest: NewestRecord| ComponentHistory {
            complete: newest.complete.as_ref().and_then(|name| complete.get(name).cloned()),
            days: of_components.remove(&newest.component).unwrap_or_default(),
            newest,
        };
        let components = newest.into_iter().map(component).collect();
        let (backups, bytes) = catalog.held().await?;
        Ok(History { components, days: catalog.days_of_backups((from, until)).await?, backups, bytes })
    }
}

/// The first of the usual days; none: it would be before all time.
fn first_day(until: Timestamp) -> Option<Timestamp> {
    let first = until.checked_sub(SignedDuration::from_hours(24 * (USUAL_DAYS - 1))).ok()?;
    let midnight = first.to_zoned(jiff::tz::TimeZone::UTC).start_of_day();
    Some(midnight.map_or(first, |midnight| midnight.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_days_end_with_the_last_one_and_nothing_is_before_all_time() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(first_day(at("2026-01-30T12:00:00Z")), Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(first_day(Timestamp::MIN), None);
    }
}
