//! Which packs one verification reads: pure, so that the same facts always give the same share.
//!
//! Must stay true: no proof gets older than the set time, budget or not; a budget reads what was never
//! read first, then what was read longest ago, so that damage that is known keeps nothing else from its turn; a run that was interrupted goes on with the rest of the same share.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::ids::PackId;

/// The next run is taken to come within this time at the earliest: who verifies twice on one day has not
/// promised to do so tomorrow.
const USUAL_PERIOD: SignedDuration = SignedDuration::from_hours(24);

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// So many bytes, up to the end of a pack; none: all that the backup needs.
    pub budget: Option<u64>,
    /// No proof is to get older than this.
    pub within: SignedDuration,
}

/// The run that is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// When it began. What was read since then was read by itself, before it was interrupted.
    pub since: Timestamp,
    /// When the one before began.
    pub last: Option<Timestamp>,
    /// The time now.
    pub now: Timestamp,
}

/// A pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// The pack.
    pub pack: PackId,
    /// Its length in bytes.
    pub bytes: u64,
    /// The backup that is verified needs it.
    pub is_needed: bool,
    /// When a verification first knew of it.
    pub seen_at: Timestamp,
    /// When it was last read to the depth that is asked for, whatever was found; none: never.
    pub read_at: Option<Timestamp>,
}

/// What to read in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// These packs; of what the run has read already, none.
    pub now: BTreeSet<PackId>,
    /// Bytes that are read beyond the budget, because their proofs would get too old.
    pub beyond: u64,
    /// Bytes that each run has to read so that everything comes round in time.
    pub needed: u64,
}

/// This run's share of `units`.
pub fn share(mut units: Vec<Unit>, goal: Goal, run: Run) -> Share {
    // A time of the future was written by a clock that was wrong: nothing can be relied on.
    for unit in &mut units {
        unit.read_at = unit.read_at.filter(|at| *at <= run.now);
    }
    units.sort_by_key(|unit| (unit.read_at, !unit.is_needed, unit.seen_at, unit.pack));
    units.dedup_by_key(|unit| unit.pack);
    let within = goal.within.max(SignedDuration::from_secs(1));
    let since_last = run.last.map_or(USUAL_PERIOD, |last| run.since.duration_since(last));
    let period = since_last.max(USUAL_PERIOD).min(within);
    let total: u64 = units.iter().map(|unit| unit.bytes).sum();
    let part = period.as_secs_f64() / within.as_secs_f64();
    let mut share = Share { needed: (total as f64 * part).ceil() as u64, ..Share::default() };
    let is_done = |unit: &Unit| unit.read_at.is_some_and(|at| at >= run.since);
    let mut read: u64 = units.iter().filter(|unit| is_done(unit)).map(|unit| unit.bytes).sum();
    for unit in units.iter().filter(|unit| !is_done(unit)) {
        let known_since = unit.read_at.unwrap_or(unit.seen_at.min(run.now));
        let is_due = run.since.duration_since(known_since) + period > within;
        let is_afforded = match goal.budget {
            None => unit.is_needed,
            Some(budget) => read < budget,
        };
        if !is_afforded && !is_due {
            continue;
        }
        if goal.budget.is_some() && !is_afforded {
            share.beyond += unit.bytes;
        }
        read += unit.bytes;
        share.now.insert(unit.pack);
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
        let read_at = proven.map(at);
        Unit { pack: pack(number), bytes, is_needed: true, seen_at: at(0), read_at }
    }

    fn pack(number: u8) -> PackId {
        PackId::new([number; 32])
    }

    fn packs(numbers: &[u8]) -> BTreeSet<PackId> {
        numbers.iter().copied().map(pack).collect()
    }

    fn goal(budget: Option<u64>, days: i32) -> Goal {
        Goal { budget, within: DAY * days }
    }

    fn run(day: i64) -> Run {
        Run { since: at(day), last: Some(at(day - 1)), now: at(day) }
    }

    #[test]
    fn what_was_never_read_goes_first_and_of_that_what_the_backup_needs() {
        let spare = Unit { is_needed: false, ..unit(1, 100, None) };
        let units = vec![spare, unit(2, 100, None), unit(3, 100, Some(0)), unit(4, 100, None)];
        assert_eq!(share(units.clone(), goal(Some(150), 30), run(1)).now, packs(&[2, 4]));
        assert_eq!(share(units.clone(), goal(Some(250), 30), run(1)).now, packs(&[1, 2, 4]));
        assert_eq!(share(units, goal(Some(999), 30), run(1)).now, packs(&[1, 2, 3, 4]));
    }

    #[test]
    fn budgeted_runs_cover_everything_in_the_number_of_runs_that_the_budget_says_and_come_round_again() {
        let (count, budget) = (90_u8, 125);
        let runs = (u64::from(count) * 10).div_ceil(budget) as i64;
        let mut proven = vec![None; usize::from(count)];
        for day in 1..=3 * runs {
            let units = (0..count).map(|n| unit(n, 10, proven[usize::from(n)])).collect();
            let share = share(units, goal(Some(budget), 30), run(day));
            assert!((12..=13).contains(&share.now.len()), "day {day}: {}", share.now.len());
            assert_eq!(share.beyond, 0);
            for pack in &share.now {
                proven[usize::from(pack.as_bytes()[0])] = Some(day);
            }
            if day >= runs {
                let oldest = proven.iter().map(|at| at.expect("all were read")).min().expect("some");
                assert!(day - oldest < runs, "day {day}: the oldest proof is of day {oldest}");
            }
        }
    }

    #[test]
    fn whatever_a_run_proved_before_it_was_killed_is_not_read_again_and_counts() {
        let first: Vec<Unit> = (1..=9).map(|n| unit(n, 100, Some(i64::from(n)))).collect();
        let whole = share(first.clone(), goal(Some(400), 90), run(20));
        assert_eq!(whole.now, packs(&[1, 2, 3, 4]));
        for killed_after in 0..=4 {
            let mut units = first.clone();
            units[..killed_after].iter_mut().for_each(|unit| unit.read_at = Some(at(21)));
            let rest = share(units, goal(Some(400), 90), Run { now: at(22), ..run(20) });
            let expected: Vec<u8> = (killed_after as u8 + 1..=4).collect();
            assert_eq!(rest.now, packs(&expected), "killed after {killed_after}");
        }
    }

    #[test]
    fn no_proof_gets_too_old_even_if_the_budget_must_be_exceeded() {
        let units: Vec<Unit> = (1..=10).map(|n| unit(n, 100, Some(i64::from(n)))).collect();
        // The next run is tomorrow: what would then be 30 days old and more is read today.
        let today = share(units.clone(), goal(Some(150), 30), run(36));
        assert_eq!((today.now, today.beyond), (packs(&[1, 2, 3, 4, 5, 6]), 400));
        // Who verifies once in ten days has to look further ahead.
        let rare = Run { last: Some(at(26)), ..run(36) };
        assert_eq!(share(units, goal(Some(150), 30), rare).now.len(), 10);
        let never = Unit { seen_at: at(6), ..unit(1, 100, None) };
        let others = (2..=4).map(|n| unit(n, 100, None));
        let units: Vec<Unit> = others.map(|unit| Unit { seen_at: at(30), ..unit }).chain([never]).collect();
        assert_eq!(share(units, goal(Some(1), 30), run(36)).beyond, 0, "the oldest is in the budget");
    }

    #[test]
    fn without_a_budget_all_that_the_backup_needs_is_read_and_elsewhere_what_is_due() {
        let spare = |number, proven| Unit { is_needed: false, ..unit(number, 100, proven) };
        let units = vec![unit(1, 100, Some(35)), unit(2, 100, None), spare(3, Some(35)), spare(4, Some(2))];
        let share = share(units, goal(None, 30), run(36));
        assert_eq!((share.now, share.beyond), (packs(&[1, 2, 4]), 0));
    }

    #[test]
    fn a_budget_that_cannot_suffice_is_told_by_what_would() {
        let units: Vec<Unit> = (1..=30).map(|n| unit(n, 100, Some(0))).collect();
        assert_eq!(share(units, goal(Some(10), 30), run(1)).needed, 100);
    }

    #[test]
    fn a_time_of_the_future_proves_nothing() {
        let share = share(vec![unit(1, 10, Some(9)), unit(2, 10, Some(0))], goal(Some(5), 30), run(1));
        assert_eq!(share.now, packs(&[1]));
    }
}
