//! A year of fake time: schedules in six zones, a controller that is away now and then, a clock that is put
//! forward and back. What the planner does is held against a calendar that is made without it, by looking at
//! every minute of the year.
//!
//! `NEURASHIELD_YEAR=long` is the whole of 2028, which has a leap day, for five fates of the controller;
//! without it the days around each change of a clock and the leap day, for one.

use std::collections::{BTreeMap, BTreeSet};

use controller::schedule::plan::{Facts, Record, Timing};
use controller::schedule::times::Times;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// On both sides of the equator, with half an hour, at midnight, and with none.
const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Pacific/Chatham",
    "Asia/Kolkata",
];

/// Minute, hour, day of month, month, day of week, each as the numbers that fit; with the hours of jitter and
/// of catching up.
struct Schedule {
    cron: &'static str,
    jitter: SignedDuration,
    catch_up: SignedDuration,
}

fn schedules() -> Vec<Schedule> {
    let schedule = |cron, jitter, catch_up| Schedule {
        cron,
        jitter: SignedDuration::from_mins(jitter),
        catch_up: SignedDuration::from_mins(catch_up),
    };
    vec![
        schedule("0 1 * * *", 0, 360),
        schedule("30 2 * * *", 20, 120),
        schedule("15 0,2,3,23 * * *", 0, 30),
        schedule("45 * * * *", 5, 360),
        schedule("0 0 29 2 *", 0, 600),
        schedule("10 2-4 1-7 * 0", 0, 90),
        schedule("0 5 * 3,10 1-5", 0, 1440),
    ]
}

/// Which numbers each field of a cron text names: a reading of its own, for the texts above.
struct Named {
    fields: [Vec<bool>; 5],
    days_are_either: bool,
}

impl Named {
    fn new(cron: &str) -> Self {
        let texts: Vec<&str> = cron.split_whitespace().collect();
        let number = |text: &str| -> usize { text.parse().expect("a number") };
        let field = |at: usize| {
            let mut named = vec![texts[at] == "*"; 60];
            for part in texts[at].split(',').filter(|part| *part != "*") {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                named[number(first)..=number(last)].fill(true);
            }
            named
        };
        let days_are_either = texts[2] != "*" && texts[4] != "*";
        Self { fields: [field(0), field(1), field(2), field(3), field(4)], days_are_either }
    }

    fn fits(&self, civil: DateTime) -> bool {
        let is_in = |at: usize, number: i8| self.fields[at][number as usize];
        if !is_in(0, civil.minute()) || !is_in(1, civil.hour()) || !is_in(3, civil.month()) {
            return false;
        }
        let (day, weekday) = (is_in(2, civil.day()), is_in(4, civil.weekday().to_sunday_zero_offset()));
        if self.days_are_either { day || weekday } else { day && weekday }
    }
}

/// Every planned time, by looking at the clock in each minute.
fn calendar(cron: &str, zone: &TimeZone, from: Timestamp, until: Timestamp) -> BTreeSet<Timestamp> {
    let minute = SignedDuration::from_mins(1);
    let by_passing = cron.split_whitespace().nth(1) == Some("*");
    let named = Named::new(cron);
    let mut planned = BTreeSet::new();
    // Three hours earlier, to know what the clock has shown before.
    let mut now = from - SignedDuration::from_hours(3);
    let mut furthest = zone.to_datetime(now - minute);
    while now <= until {
        let civil = zone.to_datetime(now);
        let mut due = by_passing && named.fits(civil);
        if !by_passing {
            // Whatever the clock shows for the first time, and whatever it has just leapt over.
            while furthest < civil {
                furthest = furthest.checked_add(minute).expect("within the calendar");
                due |= named.fits(furthest);
            }
        }
        if due && now >= from {
            planned.insert(now);
        }
        now += minute;
    }
    planned
}

/// Numbers that only look like chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What became of a planned time.
#[derive(Debug, Default)]
struct Fate {
    ran: Vec<Timestamp>,
    skipped: Vec<Timestamp>,
    missed: Vec<Timestamp>,
}

/// A controller's life.
struct Life<'a> {
    timing: &'a Timing,
    planned: &'a BTreeSet<Timestamp>,
    fates: BTreeMap<Timestamp, Fate>,
    /// What the clock showed at each look.
    looks: Vec<Timestamp>,
    records: Vec<Record>,
    order: i64,
    owed_from: Timestamp,
    /// In real time: since when the clock was seen to be before that.
    behind_since: Option<Timestamp>,
    /// In real time.
    busy_until: Timestamp,
}

impl Life<'_> {
    fn keep(&mut self, planned_at: Timestamp, missed: bool) {
        self.order += 1;
        self.records.retain(|record| record.planned_at != planned_at);
        let place = self.records.partition_point(|record| record.planned_at < planned_at);
        self.records.insert(place, Record { planned_at, order: self.order, missed });
        // As the catalog does.
        if self.records.len() > 500 {
            let oldest = self.records.iter().map(|record| record.order).min().expect("there are some");
            self.records.retain(|record| record.order > oldest);
        }
    }

    /// One look at the clock; says when the next is worth it.
    fn look(&mut self, real: Timestamp, now: Timestamp, chance: &mut Chance) -> Option<Timestamp> {
        self.looks.push(now);
        let busy = real < self.busy_until;
        let owed_from = self.owed_from;
        self.behind_since = (now < owed_from).then(|| self.behind_since.unwrap_or(real));
        let behind_for = self.behind_since.map_or(SignedDuration::ZERO, |since| real.duration_since(since));
        let facts = Facts { now, owed_from, behind_for, paused: false, busy, records: &self.records };
        let decision = self.timing.decide(&facts);
        self.owed_from = decision.owed_from.unwrap_or(self.owed_from);
        for withdrawn in decision.withdrawn {
            self.records.retain(|record| record.planned_at != withdrawn);
        }
        if let Some(missed) = decision.missed {
            let told: Vec<Timestamp> = self.planned.range(missed.first..=missed.last).copied().collect();
            assert!(told.contains(&missed.first) && told.contains(&missed.last), "{missed:?} is not planned");
            for planned_at in told {
                assert!(now - self.timing.catch_up > planned_at, "{planned_at} was told as missed at {now}");
                self.fates.entry(planned_at).or_default().missed.push(now);
            }
            self.keep(missed.last, true);
        }
        if let Some(due) = decision.due {
            let fate = self.fates.entry(due.planned_at).or_default();
            match due.start {
                true => {
                    fate.ran.push(now);
                    // Most take a while, some take longer than the time to the next.
                    let minutes = if chance.below(12) == 0 { 200 } else { 1 + chance.below(20) };
                    self.busy_until = real + SignedDuration::from_mins(minutes as i64);
                }
                false => fate.skipped.push(now),
            }
            self.keep(due.planned_at, false);
        }
        decision.next.map(|next| next.due_at)
    }

    /// Everything that was planned came to exactly one end, and to the right one.
    fn check(&self, name: &str) {
        for (planned_at, fate) in &self.fates {
            assert!(self.planned.contains(planned_at), "{name}: {planned_at} was not planned: {fate:?}");
            let due_at = self.timing.due_at(*planned_at);
            assert!(fate.ran.len() + fate.skipped.len() <= 1, "{name}: {planned_at} twice: {fate:?}");
            for at in fate.ran.iter().chain(&fate.skipped) {
                assert!(
                    *at >= due_at && *at <= due_at + self.timing.catch_up,
                    "{name}: {planned_at} {fate:?}"
                );
            }
        }
        let (first, last) = (self.looks[0], self.looks[self.looks.len() - 1]);
        for planned_at in self.planned.iter().filter(|planned_at| **planned_at > first) {
            let (due_at, none) = (self.timing.due_at(*planned_at), Fate::default());
            let fate = self.fates.get(planned_at).unwrap_or(&none);
            if !fate.ran.is_empty() || !fate.skipped.is_empty() || !fate.missed.is_empty() || due_at > last {
                continue;
            }
            // A later one was due as well when it could have begun: that one has made up for it.
            let seen =
                self.looks.iter().filter(|look| **look >= due_at && **look <= due_at + self.timing.catch_up);
            let made_up = |look: &Timestamp| {
                let later = self.planned.range(planned_at..=look).skip(1);
                later.into_iter().any(|later| self.timing.due_at(*later) <= *look)
            };
            let alone: Vec<&Timestamp> = seen.filter(|look| !made_up(look)).collect();
            assert!(
                alone.is_empty(),
                "{name}: {planned_at} was not run, skipped or missed; looked at {alone:?}"
            );
        }
    }
}

/// Lives through the time with this luck: away for minutes up to days, the clock put forward and back.
fn live(
    timing: &Timing,
    planned: &BTreeSet<Timestamp>,
    from: Timestamp,
    until: Timestamp,
    luck: u64,
) -> [usize; 3] {
    // In a short life more happens, and it is looked at more closely.
    let is_short = until.duration_since(from) < SignedDuration::from_hours(24 * 30);
    let (often, look_again) = if is_short { (60, 20) } else { (1_000, 60) };
    let look_again = SignedDuration::from_mins(look_again);
    let mut chance = Chance(luck);
    let mut life = Life {
        timing,
        planned,
        fates: BTreeMap::new(),
        looks: Vec::new(),
        records: Vec::new(),
        order: 0,
        owed_from: from,
        behind_since: None,
        busy_until: from,
    };
    let (mut real, mut ahead) = (from, SignedDuration::ZERO);
    while real < until {
        let now = real + ahead;
        let next = life.look(real, now, &mut chance);
        let wait = next.map_or(look_again, |due| (due - now).try_into().expect("no calendar units"));
        real += wait.clamp(SignedDuration::from_millis(1), look_again);
        match chance.below(often) {
            0 => real += SignedDuration::from_hours(chance.below(80) as i64),
            1..=3 => real += SignedDuration::from_mins(chance.below(500) as i64),
            4..=5 => ahead = SignedDuration::from_secs(chance.below(20 * 3_600) as i64 - 10 * 3_600),
            6..=12 => ahead = SignedDuration::from_secs(chance.below(240) as i64 - 120),
            13..=16 => ahead = SignedDuration::ZERO,
            _ => {}
        }
    }
    life.check(&format!("{} in {:?}, luck {luck}", timing.salt, timing.times.zone().iana_name()));
    let count = |of: fn(&Fate) -> bool| life.fates.values().filter(|fate| of(fate)).count();
    [
        count(|fate| !fate.ran.is_empty()),
        count(|fate| !fate.skipped.is_empty()),
        count(|fate| !fate.missed.is_empty()),
    ]
}

/// The spans to live through: the year, or some days around each change of a clock in it.
fn spans(long: bool, zone: &TimeZone) -> Vec<(Timestamp, Timestamp)> {
    let [first, last] =
        ["2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z"].map(|text| text.parse().expect("a time"));
    if long {
        return vec![(first, last)];
    }
    let days = |count: i64| SignedDuration::from_hours(24 * count);
    let leap_day: Timestamp = "2028-02-29T00:00:00Z".parse().expect("a time");
    let changes = zone.following(first).map(|change| change.timestamp()).take_while(|change| *change < last);
    let around = changes.chain([leap_day]).map(|change| (change - days(1), change + days(2)));
    around.collect()
}

#[test]
fn no_planned_time_is_missed_or_doubled_whatever_the_controller_and_its_clock_go_through() {
    let long = std::env::var("NEURASHIELD_YEAR").is_ok_and(|form| form == "long");
    let (lives, taken) = if long { (5, usize::MAX) } else { (1, 5) };
    let (mut ends, mut changes) = ([0; 3], 0);
    for name in ZONES {
        let zone = TimeZone::get(name).expect("a zone");
        for (from, until) in spans(long, &zone) {
            changes += zone.following(from).take_while(|change| change.timestamp() < until).count();
            for Schedule { cron, jitter, catch_up } in schedules().into_iter().take(taken) {
                let times = Times::new(cron, zone.clone()).expect("a cron text");
                let beyond = until + SignedDuration::from_hours(24);
                let planned = calendar(cron, &zone, from, beyond);
                let mut by_planner = BTreeSet::new();
                let mut at = from - SignedDuration::from_secs(1);
                while let Some(next) = times.next(at).filter(|next| *next <= beyond) {
                    by_planner.insert(next);
                    at = next;
                }
                assert_eq!(by_planner, planned, "{cron} in {name}");
                // Of the times before the span and after it the calendar knows nothing.
                let (from, until) =
                    (from + SignedDuration::from_hours(12), until - SignedDuration::from_hours(12));
                let timing = Timing { times, jitter, catch_up, salt: cron.to_owned() };
                for luck in 0..lives {
                    let lived =
                        live(&timing, &planned, from, until, luck * 1_000_003 + from.as_second() as u64);
                    (0..3).for_each(|at| ends[at] += lived[at]);
                }
            }
        }
    }
    println!("{changes} changes of clocks; {} ran, {} skipped, {} told as missed", ends[0], ends[1], ends[2]);
    assert!(changes >= 10, "five of the zones change their clocks twice");
    assert!(ends[0] > 200 && ends.iter().all(|count| *count > 0), "the lives are not harmless: {ends:?}");
}
