//! Safety backups: what a restore in place will replace is backed up before, as an ordinary backup that is
//! pinned for a time.
//!
//! What marks it stands in its pin, so that it lies in the repository and outlives the catalog. Its job is
//! ordered ahead of the restore's and touches the same components, so the queue lets it end first.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use repository::backup::manifest::BackupRecord;

use crate::catalog::{Catalog, CatalogError};
use crate::ids::JobId;
use crate::jobs::job::{Job, JobFailure, JobState, Order, PartState, RestorePlace};

const BEFORE: &str = "safety backup before restore ";
const UNTIL: &str = ", kept until ";
/// And by somebody, for what comes behind it.
const PINNED: &str = "; pinned: ";

/// What a safety backup is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safety {
    /// The restore's job.
    pub restore: JobId,
    /// Until then the pin counts.
    pub until: Timestamp,
}

/// The text is no mark of a safety backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the mark of a safety backup")]
pub struct NoMark;

impl fmt::Display for Safety {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BEFORE}{}{UNTIL}{}", self.restore, self.until)
    }
}

impl FromStr for Safety {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<Self, NoMark> {
        let (restore, until) =
            text.strip_prefix(BEFORE).and_then(|rest| rest.split_once(UNTIL)).ok_or(NoMark)?;
        let restore = restore.parse().map_err(|_| NoMark)?;
        let until = until.split_once(PINNED).map_or(until, |(until, _)| until);
        Ok(Self { restore, until: until.parse().map_err(|_| NoMark)? })
    }
}

impl Safety {
    /// One that is made now and kept for so long.
    pub(crate) fn now(restore: JobId, now: Timestamp, kept: std::time::Duration) -> Self {
        let kept = SignedDuration::try_from(kept).unwrap_or(SignedDuration::MAX);
        let until = now.checked_add(kept).unwrap_or(Timestamp::MAX);
        Self { restore, until: until.round(jiff::Unit::Second).unwrap_or(until) }
    }

    /// Its mark where somebody keeps it for a reason of his own.
    pub(crate) fn pinned(self, reason: &str) -> String {
        format!("{self}{PINNED}{reason}")
    }

    /// Of a backup that was made as one.
    pub fn of(record: &BackupRecord) -> Option<Self> {
        record.pin.as_deref()?.parse().ok()
    }

    /// Of a job that makes one.
    pub fn of_order(order: &Order) -> Option<Self> {
        match order {
            Order::Backup { pin, .. } => pin.as_deref()?.parse().ok(),
            _ => None,
        }
    }
}

/// A pin, unless it is a safety backup's whose time is over.
pub(crate) fn pin_that_counts(pin: Option<String>, now: Timestamp) -> Option<String> {
    pin.filter(|reason| match reason.parse::<Safety>() {
        Ok(safety) => now < safety.until || reason.contains(PINNED),
        Err(NoMark) => true,
    })
}

/// Why a restore may not begin, if its safety backup is not what it should be.
pub(super) async fn check(
    catalog: &Catalog,
    safety: JobId,
    places: &[RestorePlace],
) -> Result<Option<JobFailure>, CatalogError> {
    let Some(job) = catalog.job(safety).await? else {
        return Ok(Some(failure(safety, "its job is not known any more".to_owned())));
    };
    Ok(lacks(&job, places).map(|why| failure(safety, why)))
}

fn failure(safety: JobId, why: String) -> JobFailure {
    JobFailure::new(
        "the restore did not begin: what it would replace could not be backed up",
        why,
        format!("`nsctl logs {safety}` tells more; --no-safety-backup restores without it"),
    )
}

/// Why the backup of this job does not hold what is replaced in these places.
fn lacks(job: &Job, places: &[RestorePlace]) -> Option<String> {
    if !matches!(job.state, JobState::Complete | JobState::Incomplete) {
        let why = job.failure.as_ref().map(|failure| format!("{}: {}", failure.what, failure.why));
        return Some(why.unwrap_or_else(|| "the safety backup was not made".to_owned()));
    }
    places.iter().filter(|place| place.folder.is_none()).find_map(|place| {
        let part = job.parts.iter().find(|part| part.source == place.source);
        match part {
            Some(part) if part.state == PartState::Complete => None,
            Some(part) => {
                let reason = part.reason.as_deref().unwrap_or("it is incomplete");
                Some(format!("{}: {reason}", place.source))
            }
            None => Some(format!("{} is not in the safety backup", place.source)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AgentId;
    use crate::jobs::job::Part;

    #[test]
    fn the_mark_of_a_safety_backup_is_read_as_it_was_written() {
        let now: Timestamp = "2026-11-26T01:00:00.25Z".parse().expect("a time");
        let safety = Safety::now(JobId::fresh(), now, std::time::Duration::from_secs(7 * 86_400));
        assert_eq!(safety.to_string().parse(), Ok(safety));
        assert_eq!(safety.until.to_string(), "2026-12-03T01:00:00Z");
        assert_eq!("before the upgrade".parse::<Safety>(), Err(NoMark));
        assert_eq!(safety.pinned("for the audit, kept until 2030").parse(), Ok(safety));
    }

    #[test]
    fn the_pin_of_a_safety_backup_counts_until_its_time_and_a_persons_for_ever() {
        let safety = Safety { restore: JobId::fresh(), until: Timestamp::from_second(100).expect("a time") };
        let at = |second| Timestamp::from_second(second).expect("a time");
        let pin = Some(safety.to_string());
        assert_eq!(pin_that_counts(pin.clone(), at(99)), pin);
        assert_eq!(pin_that_counts(pin, at(100)), None);
        let both = Some(safety.pinned("for the audit"));
        assert_eq!(pin_that_counts(both.clone(), at(1_000)), both);
        let persons = Some("before the upgrade".to_owned());
        assert_eq!(pin_that_counts(persons.clone(), at(1_000)), persons);
    }

    #[test]
    fn a_restore_waits_for_a_whole_backup_of_what_it_replaces() {
        let place = |source: &str, folder: Option<&str>| RestorePlace {
            source: source.parse().expect("a source"),
            kind: "files".into(),
            agent: AgentId::fresh(),
            folder: folder.map(str::to_owned),
            globs: Vec::new(),
            databases: Default::default(),
            allowance: Default::default(),
            confirmed: None,
            takes_back: false,
        };
        let part =
            |source: &str, state| Part { state, ..Part::waiting(source.parse().expect("one"), "files") };
        let job = |state, parts| {
            let order = Order::Backup { components: Vec::new(), pin: None, import: None };
            Job { state, parts, ..Job::queued(JobId::fresh(), order, Timestamp::UNIX_EPOCH) }
        };
        let places = [place("models/a", None), place("ipfs/a", Some("/elsewhere"))];
        let whole = vec![part("models/a", PartState::Complete), part("models/b", PartState::Failed)];
        assert_eq!(lacks(&job(JobState::Incomplete, whole.clone()), &places), None);
        assert!(lacks(&job(JobState::Failed, whole), &places).is_some());
        let half = vec![part("models/a", PartState::Incomplete)];
        assert!(lacks(&job(JobState::Incomplete, half), &places).is_some());
        assert!(lacks(&job(JobState::Complete, Vec::new()), &places).is_some());
    }
}
