//! Which packs a verification with a budget reads: pure, so the same facts always give the same share.
//!
//! What was never proven is always read. Of the rest the oldest proofs go first, as many bytes as make
//! everything come round within the set time, and no more than the budget leaves.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::ids::PackId;

/// A run is taken to follow the last one by so much where nothing is known of the last one.
const USUAL_PERIOD: SignedDuration = SignedDuration::from_hours(24);

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// The most bytes to read in one run, new ones apart; none: as many as `within` asks for.
    pub budget: Option<u64>,
    /// No proof is to get older than this.
    pub within: SignedDuration,
}

/// A pack, and when it was last proven to the depth that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// The pack.
    pub pack: PackId,
    /// Its length in bytes.
    pub bytes: u64,
    /// None: never.
    pub proven_at: Option<Timestamp>,
}

/// What to read in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// These packs.
    pub now: BTreeSet<PackId>,
    /// Bytes whose proof is older than the goal allows and that the budget does not reach in this run.
    pub overdue: u64,
    /// Bytes a run has to read so that everything comes round in time.
    pub needed: u64,
}

/// This run's share. `last_run` is when the one before ended.
pub fn share(mut units: Vec<Unit>, goal: Goal, last_run: Option<Timestamp>, now: Timestamp) -> Share {
    units.sort_by_key(|unit| (unit.proven_at, unit.pack));
    units.dedup_by_key(|unit| unit.pack);
    let within = goal.within.max(SignedDuration::from_secs(1));
    let period =
        last_run.map_or(USUAL_PERIOD, |last| now.duration_since(last)).clamp(SignedDuration::ZERO, within);
    let total: u64 = units.iter().map(|unit| unit.bytes).sum();
    let part = period.as_millis() as f64 / within.as_millis().max(1) as f64;
    let needed = (total as f64 * part).ceil() as u64;
    let mut share = Share { needed, ..Share::default() };
    let (mut new, mut old) = (0, 0);
    for unit in units {
        let Some(at) = unit.proven_at else {
            new += unit.bytes;
            share.now.insert(unit.pack);
            continue;
        };
        let age = now.duration_since(at);
        let is_wanted = old < needed || age + period >= within;
        let is_afforded = goal.budget.is_none_or(|budget| new + old + unit.bytes <= budget);
        if is_wanted && is_afforded {
            old += unit.bytes;
            share.now.insert(unit.pack);
        } else if age > within {
            share.overdue += unit.bytes;
        }
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 86_400).expect("in range")
    }

    fn unit(number: u8, bytes: u64, proven: Option<i64>) -> Unit {
        Unit { pack: PackId::new([number; 32]), bytes, proven_at: proven.map(at) }
    }

    fn goal(budget: Option<u64>, days: i64) -> Goal {
        Goal { budget, within: DAY * days as i32 }
    }

    #[test]
    fn what_is_new_is_read_whatever_the_budget() {
        let units = vec![unit(1, 100, None), unit(2, 100, None), unit(3, 100, Some(0))];
        let share = share(units, goal(Some(10), 30), Some(at(0)), at(1));
        assert_eq!(share.now, BTreeSet::from([PackId::new([1; 32]), PackId::new([2; 32])]));
    }

    #[test]
    fn everything_comes_round_within_the_set_days_and_each_day_costs_about_the_same() {
        let mut proven = vec![0; 90];
        for day in 1..=60 {
            let units = (0..90).map(|n| unit(n as u8, 10, Some(proven[n]))).collect();
            let share = share(units, goal(None, 30), Some(at(day - 1)), at(day));
            assert!(share.now.len() <= 6, "day {day}: {}", share.now.len());
            assert_eq!(share.overdue, 0);
            for pack in &share.now {
                proven[usize::from(pack.as_bytes()[0])] = day;
            }
            let oldest = proven.iter().min().expect("there are some");
            assert!(day - oldest <= 30, "day {day}: the oldest proof is {} days old", day - oldest);
        }
    }

    #[test]
    fn the_oldest_go_first_and_a_budget_that_is_too_small_says_so() {
        let units: Vec<Unit> = (1..=10).map(|n| unit(n, 100, Some(i64::from(n)))).collect();
        let share = share(units, goal(Some(250), 30), Some(at(49)), at(50));
        assert_eq!(share.now, BTreeSet::from([PackId::new([1; 32]), PackId::new([2; 32])]));
        assert_eq!(share.overdue, 800);
    }

    #[test]
    fn a_clock_that_went_back_reads_no_less_than_what_is_new() {
        let share = share(vec![unit(1, 1, None), unit(2, 1, Some(9))], goal(None, 30), Some(at(9)), at(1));
        assert_eq!(share.now, BTreeSet::from([PackId::new([1; 32])]));
    }
}
