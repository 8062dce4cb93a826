//! Denials that come again and again are told once and counted then, so that nobody fills the disk, or
//! pushes older lines out of the log, by knocking.
//!
//! Must stay true: memory and lines are bounded whoever knocks, however often and from wherever; the first
//! denial of its kind is told at once.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::line::Kind;

/// Kinds of denial that are told apart; what comes beyond them is told as one.
const MOST: usize = 64;
/// After this time a denial of the same kind is told again.
const FOLD: SignedDuration = SignedDuration::from_hours(1);

/// A denial, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Denial {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) from: String,
    pub(super) call: String,
    pub(super) reason: String,
}

impl Denial {
    fn of_many() -> Self {
        let text = String::new;
        Self {
            kind: Kind::Nobody,
            id: text(),
            name: text(),
            from: "several".to_owned(),
            call: "several".to_owned(),
            reason: text(),
        }
    }
}

#[derive(Debug)]
struct Folded {
    since: Timestamp,
    again: u64,
}

/// The denials of the last hour.
#[derive(Debug, Default)]
pub(super) struct Denials {
    folded: HashMap<Denial, Folded>,
}

impl Denials {
    /// A denial has happened. What is to be told of it now.
    pub(super) fn note(&mut self, denial: Denial, now: Timestamp) -> Option<Denial> {
        let known = self.folded.contains_key(&denial);
        let denial = if known || self.folded.len() < MOST { denial } else { Denial::of_many() };
        if let Some(folded) = self.folded.get_mut(&denial) {
            folded.again += 1;
            return None;
        }
        self.folded.insert(denial.clone(), Folded { since: now, again: 0 });
        Some(denial)
    }

    /// What has come again and was not told yet: all of it, or only what is due.
    pub(super) fn told(&mut self, all: bool, now: Timestamp) -> Vec<(Denial, u64)> {
        let is_due = |folded: &Folded| now.duration_since(folded.since) >= FOLD;
        let mut told = Vec::new();
        for (denial, folded) in &mut self.folded {
            if folded.again > 0 && (all || is_due(folded)) {
                told.push((denial.clone(), std::mem::take(&mut folded.again)));
            }
        }
        self.folded.retain(|_, folded| !is_due(folded));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(from: u32) -> Denial {
        Denial { from: format!("10.0.0.{from}"), call: "Jobs/ListJobs".into(), ..Denial::of_many() }
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes)
    }

    #[test]
    fn the_first_is_told_and_the_others_are_counted() {
        let mut denials = Denials::default();
        assert_eq!(denials.note(denial(1), at(0)), Some(denial(1)));
        for minute in 0..50 {
            assert_eq!(denials.note(denial(1), at(minute)), None);
        }
        assert!(denials.told(false, at(59)).is_empty());
        assert_eq!(denials.told(false, at(60)), [(denial(1), 50)]);
        assert_eq!(denials.note(denial(1), at(61)), Some(denial(1)), "an hour later it is told again");
    }

    #[test]
    fn a_reader_sees_what_was_counted_so_far() {
        let mut denials = Denials::default();
        denials.note(denial(1), at(0));
        denials.note(denial(1), at(1));
        assert_eq!(denials.told(true, at(2)), [(denial(1), 1)]);
        assert!(denials.told(true, at(3)).is_empty(), "once");
        assert_eq!(denials.note(denial(1), at(4)), None, "and goes on to be counted");
    }

    #[test]
    fn a_hundred_thousand_from_everywhere_are_a_few_lines() {
        let mut denials = Denials::default();
        let told = (0..100_000).filter(|from| denials.note(denial(*from), at(0)).is_some()).count();
        assert_eq!(told, MOST + 1);
        let counted = denials.told(true, at(1));
        assert!(denials.folded.len() <= MOST + 1);
        assert_eq!(counted.iter().map(|(_, times)| times).sum::<u64>(), 100_000 - told as u64);
    }
}
