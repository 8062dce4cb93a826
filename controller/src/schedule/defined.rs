//! Which schedules there are: what the configuration declares, the program's own, and what was set by calls.
//!
//! Must stay true: whatever changes the times of a schedule makes them count from that moment on: nothing
//! that would have been due before is ever run for it.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use repository::ids::RepositoryId;
use repository::verify::Depth;

use crate::catalog::{Catalog, CatalogError, ScheduleOrigin, ScheduleRecord};
use crate::config::{ControllerConfig, Schedule, VerifyDepth};
use crate::schedule::plan::Timing;
use crate::schedule::times::{NoTimes, Times};

/// However short the window: this late is on time.
const PUNCTUAL: SignedDuration = SignedDuration::from_secs(60);

/// A schedule with this definition, made or changed now; `before` is what it was.
pub(crate) fn defined(
    name: &str,
    origin: ScheduleOrigin,
    definition: Schedule,
    config: &ControllerConfig,
    before: Option<&ScheduleRecord>,
    now: Timestamp,
) -> ScheduleRecord {
    let time_zone = definition.time_zone().unwrap_or(&config.time_zone).to_owned();
    let same_times = before.filter(|before| {
        let is_backup = |schedule: &Schedule| matches!(schedule, Schedule::Backup(_));
        before.definition.cron() == definition.cron()
            && before.time_zone == time_zone
            && is_backup(&before.definition) == is_backup(&definition)
    });
    ScheduleRecord {
        name: name.to_owned(),
        origin,
        definition,
        time_zone,
        owed_from: same_times.map_or(now, |before| before.owed_from),
        paused_at: before.and_then(|before| before.paused_at),
    }
}

/// Makes the catalog's schedules those that count now: those of the configuration, and beside them those that
/// were set.
pub(crate) async fn declare(
    catalog: &Catalog,
    config: &ControllerConfig,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let there = catalog.schedules().await?;
    for (name, definition) in &config.schedules {
        let before = there.iter().find(|record| record.name == *name);
        let origin = match config.declared_schedules.contains(name) {
            true => ScheduleOrigin::Declared,
            false => ScheduleOrigin::Default,
        };
        // What somebody made of one of the program's own stays.
        let (origin, definition) = match before {
            Some(set) if set.origin == ScheduleOrigin::Set && origin == ScheduleOrigin::Default => {
                (ScheduleOrigin::Set, set.definition.clone())
            }
            _ => (origin, definition.clone()),
        };
        let record = defined(name, origin, definition, config, before, now);
        if before != Some(&record) {
            catalog.put_schedule(&record).await?;
        }
    }
    let configured: BTreeSet<&String> = config.schedules.keys().collect();
    for gone in there.iter().filter(|record| !configured.contains(&record.name)) {
        match gone.origin {
            ScheduleOrigin::Set => {
                let record =
                    defined(&gone.name, gone.origin, gone.definition.clone(), config, Some(gone), now);
                catalog.put_schedule(&record).await?;
            }
            _ => catalog.remove_schedule(&gone.name, now).await?,
        }
    }
    Ok(())
}

/// When the schedule is due. With the repository's id its jitter is another one than that of the same
/// schedule elsewhere: that is what jitter is for.
pub(crate) fn timing(record: &ScheduleRecord, repository: RepositoryId) -> Result<Timing, NoTimes> {
    let zone = TimeZone::get(&record.time_zone);
    let zone = zone.map_err(|error| NoTimes::Unreadable(error.to_string()))?;
    let (catch_up, jitter) = record.definition.catch_up_and_jitter();
    let signed = |span: runtime::config::Duration| {
        SignedDuration::try_from(span.get()).expect("`check` has seen that it is at most a year")
    };
    Ok(Timing {
        times: Times::new(record.definition.cron().as_str(), zone)?,
        jitter: signed(jitter),
        catch_up: signed(catch_up).max(PUNCTUAL),
        salt: format!("{repository}/{}", record.name),
    })
}

/// As the repository's verification wants it, and whether it is a drill, too.
pub(crate) fn depth(depth: VerifyDepth) -> (Depth, bool) {
    match depth {
        VerifyDepth::Listed => (Depth::Listed, false),
        VerifyDepth::Hashed => (Depth::Hashed, false),
        VerifyDepth::Opened => (Depth::Opened, false),
        VerifyDepth::Drilled => (Depth::Opened, true),
    }
}
