//! Which backup a schedule verifies: pure.
//!
//! Must stay true: where components are backed up at times of their own, each has its turn; nobody's backup stays
//! unverified because another component's is newer.

use jiff::Timestamp;
use repository::names::BackupName;

/// A component that is to be verified.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The newest backup that holds anything of it.
    pub(crate) newest: BackupName,
    /// How many of all that are to be verified that one holds complete.
    pub(crate) holds: usize,
    /// When the schedule has looked at it last; none: never.
    pub(crate) verified: Option<Timestamp>,
}

/// The backup that holds the component whose turn it is, the one that was verified longest ago; among those that do, the
/// one that holds most, and the newest.
pub(crate) fn target(wanted: &[Wanted]) -> Option<BackupName> {
    let turn = |name: &BackupName| {
        let held = || wanted.iter().filter(|one| one.newest == *name);
        // By the day: components of one backup are verified one after the other.
        let longest_ago = held().map(|one| one.verified.map(|at| at.as_second() / 86_400)).min();
        let holds = held().map(|one| one.holds).max();
        (longest_ago, std::cmp::Reverse(holds), std::cmp::Reverse(name.clone()))
    };
    wanted.iter().map(|one| &one.newest).min_by_key(|name| turn(name)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The daily backup holds all.
    fn wanted(of: &[(&str, Option<i64>)]) -> Vec<Wanted> {
        let one = |(newest, hour): &(&str, Option<i64>)| Wanted {
            newest: newest.parse().expect("a name"),
            holds: if newest.ends_with("1_010000") { of.len() } else { 1 },
            verified: hour.map(|hour| Timestamp::from_second(hour * 3_600).expect("a time")),
        };
        of.iter().map(one).collect()
    }

    fn chosen(of: &[(&str, Option<i64>)]) -> Option<String> {
        target(&wanted(of)).map(|name| name.to_string())
    }

    #[test]
    fn what_is_backed_up_more_often_keeps_nothing_else_from_being_verified() {
        const DAILY: &str = "20260101_010000";
        const HOURLY: &str = "20260101_040000";
        const WEEKLY: &str = "20251230_010000";
        assert_eq!(chosen(&[]), None);
        // Nothing was verified yet: the one that holds most.
        assert_eq!(chosen(&[(HOURLY, None), (DAILY, None)]).as_deref(), Some(DAILY));
        assert_eq!(chosen(&[(HOURLY, None), (DAILY, None), (DAILY, None)]).as_deref(), Some(DAILY));
        // All were verified in the night before, one after the other.
        assert_eq!(chosen(&[(HOURLY, Some(5)), (DAILY, Some(6)), (DAILY, Some(6))]).as_deref(), Some(DAILY));
        // What was never verified, and then what was not for longer.
        assert_eq!(chosen(&[(HOURLY, Some(29)), (DAILY, Some(29)), (WEEKLY, None)]).as_deref(), Some(WEEKLY));
        assert_eq!(chosen(&[(DAILY, Some(53)), (WEEKLY, Some(29))]).as_deref(), Some(WEEKLY));
        assert_eq!(chosen(&[(DAILY, Some(53)), (WEEKLY, Some(77))]).as_deref(), Some(DAILY));
        assert_eq!(chosen(&[(HOURLY, Some(53)), (WEEKLY, Some(53))]).as_deref(), Some(HOURLY));
    }
}
