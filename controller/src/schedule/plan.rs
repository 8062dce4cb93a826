//! What a schedule does now: facts and time in, a decision out. Pure.
//!
//! Must stay true: a planned time runs once at most, whatever restarts, edits and steps of the clock lie
//! between; one that was slept through is made up for once while it is inside its window, and told as missed
//! after it; nothing from before a schedule was made, changed or resumed is ever made up for.
//!
//! The memory is the list of what was decided, each with its planned time and its place in the order of
//! deciding; how far the clock had come is not kept, since a clock that was wrong would have it wrong, too.

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};

use super::times::Times;

/// Missed times are counted up to this one.
pub const MISSED_COUNTED: u32 = 1_000;
/// A run that was made while the clock was this much ahead is not the run of its planned time.
const FAR_AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// A clock that was put back is taken for right after it has stayed there for so long.
const BACK_FOR_GOOD: SignedDuration = SignedDuration::from_hours(1);
const TICK: SignedDuration = SignedDuration::from_micros(1);

/// When a schedule is due.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Its planned times.
    pub times: Times,
    /// Up to so much is added to each planned time.
    pub jitter: SignedDuration,
    /// How long after that a run is still made up for.
    pub catch_up: SignedDuration,
    /// What makes its jitter other than that of other schedules, here and elsewhere.
    pub salt: String,
}

/// What was decided about a planned time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The planned time; of several that were missed together, the last.
    pub planned_at: Timestamp,
    /// Its place in the order of deciding.
    pub order: i64,
    /// It was told as missed; otherwise it ran, or was skipped.
    pub missed: bool,
}

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The time, as the clock shows it.
    pub now: Timestamp,
    /// Planned times up to here are not owed.
    pub owed_from: Timestamp,
    /// For how long, by what has passed and not by the clock, it has been seen to be earlier than that.
    pub behind_for: SignedDuration,
    /// Nothing is to be started.
    pub paused: bool,
    /// An earlier run of this schedule still goes on.
    pub busy: bool,
    /// What was decided before, by planned time.
    pub records: &'a [Record],
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// The clock was put back before `owed_from` and stayed there: it is this from now on.
    pub owed_from: Option<Timestamp>,
    /// Told as missed, and still to come by the clock: these records do not count any more.
    pub withdrawn: Vec<Timestamp>,
    /// Not made up for.
    pub missed: Option<Missed>,
    /// Due now.
    pub due: Option<Due>,
    /// What comes next.
    pub next: Option<Next>,
}

/// Planned times that nobody was there for, and whose window is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// The first of those that were counted.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
    /// How many; [`MISSED_COUNTED`] stands for that many or more.
    pub count: u32,
}

/// A planned time that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The planned time.
    pub planned_at: Timestamp,
    /// Whether it is started, or skipped since an earlier run goes on.
    pub start: bool,
}

/// A planned time that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// The planned time.
    pub planned_at: Timestamp,
    /// The same with its jitter.
    pub due_at: Timestamp,
}

impl Timing {
    /// When the run that is planned for this time is started: the same on every day that asks.
    pub fn due_at(&self, planned_at: Timestamp) -> Timestamp {
        let Ok(range @ 1..) = u64::try_from(self.jitter.as_millis()) else { return planned_at };
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.salt.as_bytes());
        context.update(&planned_at.as_second().to_be_bytes());
        let drawn = context.finish();
        let drawn = u64::from_be_bytes(drawn.as_ref()[..8].try_into().expect("a digest has 32 bytes"));
        let jitter = SignedDuration::from_millis((drawn % range) as i64);
        planned_at.checked_add(jitter).unwrap_or(planned_at)
    }

    /// True while a run that is planned for this time may begin.
    fn is_open(&self, planned_at: Timestamp, now: Timestamp) -> bool {
        now.duration_since(self.due_at(planned_at)) <= self.catch_up
    }

    /// Decides.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let Facts { now, records, .. } = *facts;
        if facts.paused {
            return Decision::default();
        }
        let withdrawn: Vec<Timestamp> = (records.iter())
            .filter(|record| record.missed && record.planned_at > now)
            .map(|record| record.planned_at)
            .collect();
        // A clock that is behind for one look must not undo what an edit or a resume has settled.
        let is_back = now < facts.owed_from && facts.behind_for >= BACK_FOR_GOOD;
        let owed_from = is_back.then(|| now.checked_sub(facts.behind_for).unwrap_or(Timestamp::MIN));
        let settled = self.settled(facts, owed_from.unwrap_or(facts.owed_from));
        let due = self.newest_due(settled, now).map(|planned_at| Due { planned_at, start: !facts.busy });
        let missed = self.missed(settled, now);
        // What is decided in this moment is settled for what comes next.
        let decided = due.map(|due| due.planned_at).into_iter().chain(missed.map(|missed| missed.last));
        let next = self.next(decided.fold(settled, Timestamp::max), facts);
        Decision { owed_from, withdrawn, missed, due, next }
    }

    /// The last planned time that nothing has to be decided about any more.
    fn settled(&self, facts: &Facts<'_>, owed_from: Timestamp) -> Timestamp {
        let past = facts.records.partition_point(|record| record.planned_at <= facts.now);
        let decided = (0..past).rev().find(|at| !self.is_void(facts.records, *at));
        let decided = decided.map(|at| facts.records[at].planned_at);
        decided.into_iter().fold(owed_from, Timestamp::max)
    }

    /// True for a record from a time that never came: the clock was far ahead when it was made, was put
    /// right, and what is planned right before has been decided since. A clock that was behind for a while
    /// looks different: then nothing right before was decided anew.
    fn is_void(&self, records: &[Record], at: usize) -> bool {
        let record = records[at];
        let Some(before) = at.checked_sub(1).map(|before| records[before]) else { return false };
        if before.order < record.order {
            return false;
        }
        let later = records.iter().filter(|other| other.order > record.order);
        let went_back_to = later.map(|other| other.planned_at).min().unwrap_or(record.planned_at);
        record.planned_at.duration_since(went_back_to) > FAR_AHEAD
            && self.times.last(record.planned_at - TICK).is_some_and(|last| before.planned_at >= last)
    }

    /// The newest planned time after `settled` that may begin now.
    fn newest_due(&self, settled: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let mut until = now;
        loop {
            let planned_at = self.times.last(until).filter(|planned_at| *planned_at > settled)?;
            if now.duration_since(planned_at) > self.catch_up + self.jitter {
                return None;
            }
            if self.due_at(planned_at) <= now && self.is_open(planned_at, now) {
                return Some(planned_at);
            }
            until = planned_at - TICK;
        }
    }

    /// Those after `settled` whose window is over.
    fn missed(&self, settled: Timestamp, now: Timestamp) -> Option<Missed> {
        let mut until = now.checked_sub(self.catch_up).ok()?;
        let mut missed: Option<Missed> = None;
        while let Some(planned_at) = self.times.last(until).filter(|planned_at| *planned_at > settled) {
            until = planned_at - TICK;
            if self.is_open(planned_at, now) {
                continue;
            }
            let (last, count) = missed.map_or((planned_at, 0), |missed| (missed.last, missed.count));
            missed = Some(Missed { first: planned_at, last, count: count + 1 });
            if count + 1 == MISSED_COUNTED {
                break;
            }
        }
        missed
    }

    /// The first planned time that is still to be decided about.
    fn next(&self, settled: Timestamp, facts: &Facts<'_>) -> Option<Next> {
        // Those whose jitter is not over yet are among what comes.
        let earliest = facts.now.checked_sub(self.jitter).unwrap_or(facts.now);
        let mut after = settled.max(earliest);
        loop {
            let planned_at = self.times.next(after)?;
            after = planned_at;
            let due_at = self.due_at(planned_at);
            let found = facts.records.binary_search_by_key(&planned_at, |record| record.planned_at);
            let is_decided = found.is_ok_and(|at| {
                let record = facts.records[at];
                !record.missed && !self.is_void(facts.records, at)
            });
            if due_at > facts.now && !is_decided {
                return Some(Next { planned_at, due_at });
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
