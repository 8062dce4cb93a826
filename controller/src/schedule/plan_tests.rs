use jiff::tz::TimeZone;

use super::*;

fn at(text: &str) -> Timestamp {
    let padded = if text.len() == 16 { format!("{text}:00Z") } else { format!("{text}Z") };
    padded.parse().expect("a time")
}

fn timing(cron: &str, jitter_minutes: i64, catch_up_hours: i64) -> Timing {
    Timing {
        times: Times::new(cron, TimeZone::UTC).expect("a cron text"),
        jitter: SignedDuration::from_mins(jitter_minutes),
        catch_up: SignedDuration::from_hours(catch_up_hours),
        salt: "daily".to_owned(),
    }
}

/// A schedule with its memory, as the catalog keeps it.
struct Kept {
    timing: Timing,
    owed_from: Timestamp,
    /// The first look at which the clock was before that.
    behind_since: Option<Timestamp>,
    records: Vec<Record>,
    order: i64,
}

impl Kept {
    fn new(timing: Timing, made: &str) -> Self {
        Self { timing, owed_from: at(made), behind_since: None, records: Vec::new(), order: 0 }
    }

    fn decide(&self, now: &str, busy: bool) -> Decision {
        let (now, owed_from) = (at(now), self.owed_from);
        let behind_for = self.behind_since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
        let facts = Facts { now, owed_from, behind_for, paused: false, busy, records: &self.records };
        self.timing.decide(&facts)
    }

    fn keep(&mut self, planned_at: Timestamp, missed: bool) {
        self.order += 1;
        self.records.retain(|record| record.planned_at != planned_at);
        self.records.push(Record { planned_at, order: self.order, missed });
        self.records.sort_by_key(|record| record.planned_at);
    }

    /// Decides and carries it out: what was started, how many were missed.
    fn look(&mut self, now: &str) -> (Option<Timestamp>, u32) {
        let is_behind = at(now) < self.owed_from;
        self.behind_since = is_behind.then(|| self.behind_since.unwrap_or(at(now)));
        let decision = self.decide(now, false);
        self.owed_from = decision.owed_from.unwrap_or(self.owed_from);
        self.records.retain(|record| !decision.withdrawn.contains(&record.planned_at));
        if let Some(missed) = decision.missed {
            self.keep(missed.last, true);
        }
        if let Some(due) = decision.due {
            self.keep(due.planned_at, false);
        }
        (decision.due.map(|due| due.planned_at), decision.missed.map_or(0, |missed| missed.count))
    }
}

#[test]
fn the_first_start_makes_up_for_nothing() {
    let mut kept = Kept::new(timing("0 1 * * *", 0, 6), "2026-11-25T02:00");
    assert_eq!(kept.look("2026-11-25T02:00"), (None, 0));
    assert_eq!(kept.look("2026-11-26T00:59"), (None, 0));
    assert_eq!(kept.look("2026-11-26T01:00"), (Some(at("2026-11-26T01:00")), 0));
    assert_eq!(kept.look("2026-11-26T01:00"), (None, 0));
}

#[test]
fn a_night_that_was_slept_through_is_made_up_for_once_inside_its_window_and_told_after_it() {
    let slept = |until: &str| {
        let mut kept = Kept::new(timing("0 1 * * *", 0, 6), "2026-11-20T02:00");
        let first = kept.look(until);
        assert_eq!(kept.look(until), (None, 0), "nothing is said or done twice");
        first
    };
    assert_eq!(slept("2026-11-21T07:00"), (Some(at("2026-11-21T01:00")), 0));
    assert_eq!(slept("2026-11-21T07:00:01"), (None, 1));
    assert_eq!(slept("2026-11-24T03:00"), (Some(at("2026-11-24T01:00")), 3));
    assert_eq!(slept("2026-11-24T12:00"), (None, 4));
    // Hours that were slept through are made up for by one run.
    let mut kept = Kept::new(timing("0 * * * *", 0, 6), "2026-11-20T02:30");
    assert_eq!(kept.look("2026-11-20T07:30"), (Some(at("2026-11-20T07:00")), 0));
    let mut kept = Kept::new(timing("* * * * *", 0, 1), "2026-11-20T02:30");
    assert_eq!(kept.look("2027-11-20T07:30"), (Some(at("2027-11-20T07:30")), MISSED_COUNTED));
}

#[test]
fn a_run_that_meets_its_own_earlier_one_is_skipped_and_the_next_is_not() {
    let mut kept = Kept::new(timing("0 * * * *", 0, 6), "2026-11-20T02:30");
    assert_eq!(kept.look("2026-11-20T03:00").0, Some(at("2026-11-20T03:00")));
    let due = kept.decide("2026-11-20T04:00", true).due.expect("due");
    assert!(!due.start);
    kept.keep(due.planned_at, false);
    assert_eq!(kept.look("2026-11-20T04:10"), (None, 0), "skipped is not put off");
    assert_eq!(kept.look("2026-11-20T05:00").0, Some(at("2026-11-20T05:00")));
}

#[test]
fn jitter_is_the_same_whenever_it_is_asked_and_other_for_other_schedules_and_days() {
    let [one, other] = ["daily", "weekly"].map(|salt| {
        let timing = Timing { salt: salt.to_owned(), ..timing("0 1 * * *", 60, 6) };
        ["2026-11-26T01:00", "2026-11-27T01:00"].map(|planned| timing.due_at(at(planned)) - at(planned))
    });
    let all = [one[0], one[1], other[0], other[1]];
    for (place, jitter) in all.iter().enumerate() {
        assert!((0..3600).contains(&jitter.get_seconds()), "{jitter}");
        assert!(all[..place].iter().all(|earlier| earlier.fieldwise() != jitter.fieldwise()), "{all:?}");
    }
    let mut kept = Kept::new(timing("0 1 * * *", 60, 6), "2026-11-25T02:00");
    let due_at = kept.timing.due_at(at("2026-11-26T01:00"));
    let next = kept.decide("2026-11-26T01:00", false).next.expect("one comes");
    assert_eq!((next.planned_at, next.due_at), (at("2026-11-26T01:00"), due_at));
    let before = (due_at - SignedDuration::from_secs(1)).strftime("%FT%T").to_string();
    assert_eq!(kept.look(&before), (None, 0));
    let after = (due_at + SignedDuration::from_secs(1)).strftime("%FT%T").to_string();
    assert_eq!(kept.look(&after).0, Some(at("2026-11-26T01:00")));
    assert_eq!(kept.look(&after), (None, 0));
}

#[test]
fn a_clock_that_is_put_back_fires_nothing_again_and_loses_nothing() {
    let mut kept = Kept::new(timing("0 1 * * *", 0, 6), "2026-11-20T02:00");
    assert!(kept.look("2026-11-21T01:00").0.is_some());
    assert_eq!(kept.look("2026-11-21T00:30"), (None, 0));
    assert_eq!(
        kept.decide("2026-11-21T00:30", false).next.map(|next| next.planned_at),
        Some(at("2026-11-22T01:00"))
    );
    assert_eq!(kept.look("2026-11-21T01:00"), (None, 0));
    assert!(kept.look("2026-11-22T01:00").0.is_some());
    // Three days ahead for a moment: those days are told as missed, and come all the same.
    assert_eq!(kept.look("2026-11-25T12:00"), (None, 3));
    assert_eq!(kept.look("2026-11-22T13:00"), (None, 0));
    for day in ["2026-11-23T01:00", "2026-11-24T01:00", "2026-11-25T01:00", "2026-11-26T01:00"] {
        assert_eq!(kept.look(day), (Some(at(day)), 0));
    }
}

#[test]
fn a_clock_that_was_a_year_ahead_for_two_nights_costs_no_run_then_or_a_year_later() {
    let mut kept = Kept::new(timing("0 1 * * *", 0, 6), "2026-11-20T02:00");
    assert!(kept.look("2026-11-21T01:00").0.is_some());
    assert_eq!(kept.look("2027-11-21T03:00"), (Some(at("2027-11-21T01:00")), 364));
    assert_eq!(kept.look("2027-11-22T01:00"), (Some(at("2027-11-22T01:00")), 0));
    let mut day = at("2026-11-22T01:00");
    while day < at("2027-11-25T00:00") {
        let now = day.strftime("%FT%T").to_string();
        assert_eq!(kept.look(&now), (Some(day), 0));
        assert_eq!(kept.look(&now), (None, 0));
        day += SignedDuration::from_hours(24);
    }
}

#[test]
fn a_clock_that_was_behind_for_a_while_fires_nothing_again_and_tells_nothing_false() {
    let mut kept = Kept::new(timing("0 1 * * *", 0, 6), "2026-11-20T02:00");
    for day in ["2026-11-21T01:00", "2026-11-22T01:00"] {
        assert!(kept.look(day).0.is_some());
    }
    assert_eq!(kept.look("1970-01-01T00:00"), (None, 0));
    assert!(kept.look("1970-01-01T01:00").0.is_some());
    assert!(kept.look("1970-01-02T01:00").0.is_some());
    assert_eq!(kept.look("2026-11-22T03:00"), (None, 0));
    assert_eq!(kept.look("2026-11-23T01:00"), (Some(at("2026-11-23T01:00")), 0));
}

#[test]
fn a_clock_that_is_behind_for_a_moment_does_not_undo_that_an_edit_makes_up_for_nothing() {
    let mut kept = Kept::new(timing("30 11 * * *", 0, 6), "2026-11-20T12:00");
    assert_eq!(kept.look("2026-11-20T11:10"), (None, 0));
    assert_eq!(kept.look("2026-11-20T12:06"), (None, 0));
    assert_eq!(kept.look("2026-11-21T11:30").0, Some(at("2026-11-21T11:30")));
    // It was made while the clock was a day ahead: an hour later the clock is believed, and what it showed
    // since then is owed.
    let mut kept = Kept::new(timing("30 11 * * *", 0, 6), "2026-11-21T11:00");
    assert_eq!(kept.look("2026-11-20T11:00"), (None, 0));
    assert_eq!(kept.look("2026-11-20T11:59"), (None, 0));
    assert_eq!(kept.look("2026-11-20T12:00"), (Some(at("2026-11-20T11:30")), 0));
}

#[test]
fn nothing_is_decided_of_a_schedule_that_is_paused() {
    let kept = Kept::new(timing("0 1 * * *", 0, 6), "2026-11-20T02:00");
    let facts = Facts {
        now: at("2026-11-25T01:00"),
        owed_from: kept.owed_from,
        behind_for: SignedDuration::ZERO,
        paused: true,
        busy: false,
        records: &[],
    };
    assert_eq!(kept.timing.decide(&facts), Decision::default());
}
