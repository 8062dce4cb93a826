//! How long the storage lasts. Pure: facts and time in, days out.

use jiff::{SignedDuration, Timestamp};

/// Only this much of the past tells of the future.
const WINDOW: SignedDuration = SignedDuration::from_hours(24 * 30);
/// Less past than this tells nothing.
const LEAST: SignedDuration = SignedDuration::from_hours(24);
const DAY: f64 = 86_400.0;

/// How many bytes were added or freed, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// By a backup.
    Added(Timestamp, u64),
    /// By a prune.
    Freed(Timestamp, u64),
}

/// Days until `free` bytes are used up, if things go on as they did; none: they are not growing, or too
/// little is known.
pub(crate) fn days_until_full(changes: &[Change], free: u64, now: Timestamp) -> Option<f64> {
    let (mut grown, mut since, mut backups) = (0.0, now, 0);
    for change in changes {
        let (at, bytes) = match *change {
            Change::Added(at, bytes) => (at, bytes as f64),
            Change::Freed(at, bytes) => (at, -(bytes as f64)),
        };
        if at > now || now.duration_since(at) > WINDOW {
            continue;
        }
        grown += bytes;
        since = since.min(at);
        backups += u32::from(matches!(change, Change::Added(..)));
    }
    let seen = now.duration_since(since);
    // The first backup of all is the data itself, no growth: with it alone nothing can be said.
    (backups >= 3 && seen >= LEAST && grown > 0.0).then(|| free as f64 / (grown / seen.as_secs_f64() * DAY))
}

/// The same without the very first backup, which brings everything at once.
pub(crate) fn without_the_first(mut changes: Vec<Change>, is_whole_history: bool) -> Vec<Change> {
    let first = changes.iter().enumerate().filter_map(|(place, change)| match change {
        Change::Added(at, _) => Some((*at, place)),
        Change::Freed(..) => None,
    });
    if let Some((_, place)) = first.min().filter(|_| is_whole_history) {
        changes.remove(place);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + day * 86_400).unwrap()
    }

    #[test]
    fn a_steady_growth_says_how_many_days_are_left() {
        let changes: Vec<Change> = (0..10).map(|n| Change::Added(day(n), 100)).collect();
        assert_eq!(days_until_full(&changes, 1_000, day(10)), Some(10.0));
        assert_eq!(days_until_full(&changes, 0, day(10)), Some(0.0));
    }

    #[test]
    fn what_prune_frees_counts_and_without_growth_nothing_is_said() {
        let mut changes: Vec<Change> = (0..10).map(|n| Change::Added(day(n), 100)).collect();
        changes.push(Change::Freed(day(9), 500));
        assert_eq!(days_until_full(&changes, 1_000, day(10)), Some(20.0));
        changes.push(Change::Freed(day(9), 500));
        assert_eq!(days_until_full(&changes, 1_000, day(10)), None);
    }

    #[test]
    fn a_first_day_and_an_old_past_say_nothing() {
        let fresh: Vec<Change> =
            (0..5).map(|n| Change::Added(day(0) + SignedDuration::from_mins(n), 100)).collect();
        assert_eq!(days_until_full(&fresh, 10, day(0) + SignedDuration::from_hours(1)), None);
        let old: Vec<Change> = (0..5).map(|n| Change::Added(day(n), 100)).collect();
        assert_eq!(days_until_full(&old, 10, day(100)), None);
    }

    #[test]
    fn the_first_backup_of_all_is_no_growth() {
        let changes = vec![Change::Added(day(1), 5), Change::Freed(day(0), 1), Change::Added(day(0), 9_000)];
        assert_eq!(
            without_the_first(changes.clone(), true),
            [Change::Added(day(1), 5), Change::Freed(day(0), 1)]
        );
        assert_eq!(without_the_first(changes.clone(), false), changes);
    }
}
