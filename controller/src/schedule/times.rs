//! When a cron text falls due in a time zone.
//!
//! croner knows which civil times a text names; what becomes of them where a clock is put forward or back is
//! decided here, since a time that runs twice, or not at all, is the usual fault of schedulers.
//!
//! Must stay true: a named time that a clock leaps over is due once, at the leap; one that comes twice is due
//! the first time. A text that names every hour goes by the time that passes: it is due whenever the clock
//! shows a named minute, so that it neither pauses nor doubles.

use std::sync::Arc;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// One second: cron knows nothing smaller.
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The times of a cron text in a zone. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Times {
    cron: Arc<Cron>,
    zone: TimeZone,
    every_hour: bool,
}

/// A text that no time fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTimes {
    /// It is no cron text.
    #[error("not a cron text of five fields ({0})")]
    Unreadable(String),
    /// It can be read, and no day is ever like that.
    #[error("no day of any year fits this cron text")]
    Never,
}

impl Times {
    /// The times of `text`: minute, hour, day of month, month, day of week.
    pub fn new(text: &str, zone: TimeZone) -> Result<Self, NoTimes> {
        if text.split_whitespace().count() != 5 {
            return Err(NoTimes::Unreadable("it has other than five".to_owned()));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| NoTimes::Unreadable(error.to_string()))?;
        let anywhere = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
        cron.find_next_occurrence(&anywhere, true).map_err(|_| NoTimes::Never)?;
        let hours = text.split_whitespace().nth(1).unwrap_or_default();
        let every_hour = ["*", "*/1", "0-23"].contains(&hours);
        Ok(Self { cron: Arc::new(cron), zone, every_hour })
    }

    /// Where its hours are meant.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first time after `after`; none before the end of the calendar.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self.every_hour {
            true => self.next_by_passing(after),
            false => {
                let mut civil = self.civil(after);
                loop {
                    civil = self.cron.find_next_occurrence(&civil, false).ok()?;
                    if let Some(due) = self.due(civil).filter(|due| *due > after) {
                        return Some(due);
                    }
                }
            }
        }
    }

    /// The last time that is not after `until`.
    pub fn last(&self, until: Timestamp) -> Option<Timestamp> {
        if self.every_hour {
            return self.last_by_passing(until);
        }
        let mut civil = self.civil(until);
        if let AmbiguousOffset::Fold { before, after } = self.zone.to_ambiguous_timestamp(civil).offset() {
            // Later named times of an hour that comes twice were due when it came first.
            civil = civil.checked_add(before.duration_since(after)).ok()?;
        }
        let mut inclusive = true;
        loop {
            civil = self.cron.find_previous_occurrence(&civil, inclusive).ok()?;
            inclusive = false;
            if let Some(due) = self.due(civil).filter(|due| *due <= until) {
                return Some(due);
            }
        }
    }

    fn civil(&self, time: Timestamp) -> DateTime {
        self.zone.to_datetime(time)
    }

    /// When a named time is due: at its first passing, or at the leap over it.
    fn due(&self, civil: DateTime) -> Option<Timestamp> {
        let at = |offset: Offset| offset.to_timestamp(civil).ok();
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => at(offset),
            AmbiguousOffset::Fold { before, .. } => at(before),
            AmbiguousOffset::Gap { before, .. } => {
                let beyond = at(before)?.checked_add(SECOND).ok()?;
                self.zone.preceding(beyond).next().map(|leap| leap.timestamp())
            }
        }
    }

    /// Piece by piece between two changes of the clock: within one, civil and real time pass alike.
    fn next_by_passing(&self, after: Timestamp) -> Option<Timestamp> {
        let (mut from, mut inclusive) = (after, false);
        loop {
            let offset = self.zone.to_offset(from);
            let change = self.zone.following(from).next().map(|change| change.timestamp());
            let civil = self.cron.find_next_occurrence(&offset.to_datetime(from), inclusive).ok()?;
            let found = offset.to_timestamp(civil).ok();
            match change {
                Some(change) if found.is_none_or(|found| found >= change) => {
                    (from, inclusive) = (change, true)
                }
                _ => return found,
            }
        }
    }

    fn last_by_passing(&self, until: Timestamp) -> Option<Timestamp> {
        let mut from = until;
        loop {
            let offset = self.zone.to_offset(from);
            let within = from.checked_add(SECOND).ok()?;
            let change = self.zone.preceding(within).map(|change| change.timestamp());
            let change = change.into_iter().find(|change| *change <= from);
            let civil = self.cron.find_previous_occurrence(&offset.to_datetime(from), true).ok()?;
            let found = offset.to_timestamp(civil).ok();
            match change {
                Some(change) if found.is_none_or(|found| found < change) => {
                    from = change.checked_sub(SECOND).ok()?;
                }
                _ => return found,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(text: &str, zone: &str) -> Times {
        Times::new(text, TimeZone::get(zone).expect("a zone")).expect("a cron text")
    }

    /// All times from `from` until `until`, forwards; backwards they have to be the same.
    fn between(times: &Times, from: &str, until: &str) -> Vec<String> {
        let (from, until): (Timestamp, Timestamp) =
            (from.parse().expect("a time"), until.parse().expect("a time"));
        let mut forwards = Vec::new();
        let mut at = from;
        while let Some(next) = times.next(at).filter(|next| *next <= until) {
            forwards.push(next);
            at = next;
        }
        let mut backwards = Vec::new();
        let mut at = until;
        while let Some(last) = times.last(at).filter(|last| *last > from) {
            backwards.push(last);
            at = last - SECOND;
        }
        backwards.reverse();
        assert_eq!(forwards, backwards);
        forwards.iter().map(|time| time.strftime("%m-%d %H:%M").to_string()).collect()
    }

    #[test]
    fn a_time_that_is_leapt_over_is_due_once_at_the_leap() {
        // In Berlin the clock goes from 02:00 to 03:00 at 01:00 UTC.
        let berlin =
            |text| between(&times(text, "Europe/Berlin"), "2027-03-27T12:00:00Z", "2027-03-28T12:00:00Z");
        assert_eq!(berlin("30 2 * * *"), ["03-28 01:00"]);
        assert_eq!(berlin("0,30 2 * * *"), ["03-28 01:00"]);
        assert_eq!(berlin("0 2,3 * * *"), ["03-28 01:00"]);
        assert_eq!(berlin("30 1-3 * * *"), ["03-28 00:30", "03-28 01:00", "03-28 01:30"]);
        // In Cairo it goes from midnight to one.
        let cairo =
            between(&times("0 0 * * *", "Africa/Cairo"), "2027-04-29T12:00:00Z", "2027-04-30T12:00:00Z");
        assert_eq!(cairo, ["04-29 22:00"]);
        // Samoa left out a whole day.
        let apia =
            between(&times("0 5 * * *", "Pacific/Apia"), "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z");
        assert_eq!(apia, ["12-29 15:00", "12-30 10:00", "12-30 15:00"]);
    }

    #[test]
    fn a_time_that_comes_twice_is_due_the_first_time() {
        let berlin =
            |text| between(&times(text, "Europe/Berlin"), "2027-10-30T12:00:00Z", "2027-10-31T04:00:00Z");
        assert_eq!(berlin("30 2 * * *"), ["10-31 00:30"]);
        assert_eq!(berlin("0,30 2,3 * * *"), ["10-31 00:00", "10-31 00:30", "10-31 02:00", "10-31 02:30"]);
    }

    #[test]
    fn every_hour_goes_by_the_time_that_passes() {
        let hourly = |text, zone, from, until| between(&times(text, zone), from, until).len();
        for text in ["30 * * * *", "30 0-23 * * *"] {
            assert_eq!(hourly(text, "Europe/Berlin", "2027-03-27T12:00:00Z", "2027-03-28T12:00:00Z"), 24);
            assert_eq!(hourly(text, "Europe/Berlin", "2027-10-30T12:00:00Z", "2027-10-31T12:00:00Z"), 24);
        }
        // Half an hour is leapt over there, and no minute of it is named.
        assert_eq!(
            between(
                &times("45 * * * *", "Australia/Lord_Howe"),
                "2027-10-02T14:00:00Z",
                "2027-10-02T17:30:00Z"
            ),
            ["10-02 14:15", "10-02 15:15", "10-02 15:45", "10-02 16:45"]
        );
    }

    #[test]
    fn days_that_never_are_and_what_is_no_cron_text_are_refused() {
        let utc = TimeZone::UTC;
        assert_eq!(Times::new("0 1 30 2 *", utc.clone()).map(|_| ()), Err(NoTimes::Never));
        for wrong in ["0 1 * *", "0 0 1 * * *", "@daily", "60 1 * * *", "5/15 * * * *", ""] {
            assert!(matches!(Times::new(wrong, utc.clone()), Err(NoTimes::Unreadable(_))), "{wrong}");
        }
        assert_eq!(
            between(&times("0 1 29 2 *", "UTC"), "2026-01-01T00:00:00Z", "2032-03-01T00:00:00Z"),
            ["02-29 01:00", "02-29 01:00"]
        );
    }
}
