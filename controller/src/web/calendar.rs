//! A month of backups, day by day.

use std::collections::BTreeMap;

use jiff::ToSpan;
use jiff::civil::Date;

use crate::web::text::{State, counted};

/// A month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Month(Date);

/// A day of a calendar; one that belongs to another month has no number.
#[derive(Debug, Clone)]
pub(super) struct Day {
    pub(super) number: Option<i8>,
    pub(super) date: String,
    /// The best backup of the day; none: there is none.
    pub(super) state: Option<State>,
    pub(super) said: String,
}

impl Month {
    /// The month of a day.
    pub(super) fn of(date: Date) -> Self {
        Self(date.first_of_month())
    }

    /// From `2026-11`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        format!("{text}-01").parse().ok().map(Self)
    }

    /// As `2026-11`.
    pub(super) fn key(self) -> String {
        self.0.strftime("%Y-%m").to_string()
    }

    pub(super) fn words(self) -> String {
        self.0.strftime("%B %Y").to_string()
    }

    pub(super) fn first(self) -> Date {
        self.0
    }

    /// The first day of the next month.
    pub(super) fn end(self) -> Date {
        self.0.last_of_month().tomorrow().unwrap_or(Date::MAX)
    }

    pub(super) fn before(self) -> Self {
        Self::of(self.0.yesterday().unwrap_or(Date::MIN))
    }

    pub(super) fn after(self) -> Self {
        Self::of(self.end())
    }

    /// Its weeks, from Monday on, with how many backups each day has, and how the best of them is.
    pub(super) fn weeks(self, days: impl IntoIterator<Item = (Date, (u64, State))>) -> Vec<Vec<Day>> {
        let days: BTreeMap<Date, (u64, State)> = days.into_iter().collect();
        let lead = i64::from(self.0.weekday().to_monday_zero_offset());
        let start = self.0.checked_sub(lead.days()).unwrap_or(self.0);
        let mut weeks = Vec::new();
        let mut at = start;
        while at < self.end() {
            let week: Vec<Day> =
                at.series(1.day()).take(7).map(|date| self.day(date, days.get(&date))).collect();
            weeks.push(week);
            at = at.saturating_add(7.days());
        }
        weeks
    }

    fn day(self, date: Date, found: Option<&(u64, State)>) -> Day {
        let is_ours = date >= self.0 && date < self.end();
        let said = found.map(|(count, state)| {
            let words = date.strftime("%-d %B %Y");
            format!("{words}: {}, the best {}", counted(*count, "backup", "backups"), state.word)
        });
        Day {
            number: is_ours.then(|| date.day()),
            date: date.to_string(),
            state: found.filter(|_| is_ours).map(|(_, state)| state.clone()),
            said: said.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::text::Mood;

    #[test]
    fn a_month_has_its_days_in_weeks_from_monday_on_and_each_shows_its_best_backup() {
        let month = Month::parse("2026-11").expect("a month");
        assert_eq!((month.before().key(), month.after().key()), ("2026-10".into(), "2026-12".into()));
        assert_eq!((month.words(), month.end().to_string()), ("November 2026".into(), "2026-12-01".into()));
        let date = |text: &str| text.parse::<Date>().expect("a date");
        let state = |mood| State::new(mood, "so");
        let weeks = month.weeks([
            (date("2026-11-30"), (2, state(Mood::Good))),
            (date("2026-12-01"), (1, state(Mood::Good))),
        ]);
        assert_eq!((weeks.len(), weeks.iter().all(|week| week.len() == 7)), (6, true));
        assert_eq!((weeks[0][5].number, weeks[0][6].number), (None, Some(1)), "the first is a Sunday");
        assert_eq!(weeks[5][0].state.as_ref().map(|state| state.mood), Some(Mood::Good));
        assert_eq!(weeks[5][0].said, "30 November 2026: 2 backups, the best so");
        assert!(weeks[5][1].number.is_none() && weeks[5][1].state.is_none(), "another month's");
        assert!(Month::parse("2026-13").is_none() && Month::parse("").is_none());
    }
}
