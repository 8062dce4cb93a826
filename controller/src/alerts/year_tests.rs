//! A year of fake time against a model: six components with schedules in six zones, sources that fail, a
//! controller that is away and is killed between an event and its messages, a clock that is put forward and
//! back. Each failure and each silence is told once at each sink, each end once, and nothing else is.
//!
//! The model decides by itself what should be told: it knows when its sources were broken, what the clock
//! showed at each look, and counts planned times by days of the calendar. With `NEURASHIELD_YEAR=long` it is
//! the whole of 2028, which has a leap day; without it the two weeks around that day.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use repository::ids::RepositoryId;
use uuid::Uuid;

use super::silence::{Facts, changes, wrong};
use super::tests::{make_messages, sinks};
use super::*;
use crate::catalog::{
    Added, Catalog, Claim, RunDetails, RunRecord, RunState, ScheduleOrigin, ScheduleRecord,
};
use crate::config::{Alerts, Schedule};
use crate::ids::JobId;
use crate::jobs::job::{Part, PartState};
use crate::jobs::{Job, JobState, Order};
use crate::schedule::defined::timing;
use crate::schedule::{event, plan as schedule_plan};

const COMPONENTS: [(&str, &str); 6] = [
    ("berlin", "Europe/Berlin"),
    ("york", "America/New_York"),
    ("howe", "Australia/Lord_Howe"),
    ("cairo", "Africa/Cairo"),
    ("chatham", "Pacific/Chatham"),
    ("kolkata", "Asia/Kolkata"),
];
const CATCH_UP: SignedDuration = SignedDuration::from_hours(6);
const SINKS: [&str; 2] = ["hook", "mail"];
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Numbers that only look like chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What should be told, and by whom it is told apart.
type Told = BTreeMap<(Kind, String, bool), u32>;

struct Model {
    home: tempfile::TempDir,
    catalog: Catalog,
    alerts: Alerts,
    schedules: Vec<ScheduleRecord>,
    /// When each component's newest verified backup was begun, as the clock showed.
    verified: BTreeMap<String, Timestamp>,
    overdue: BTreeSet<String>,
    /// Components whose last backup failed, and schedules whose last time was missed.
    failed: BTreeSet<String>,
    missed: BTreeSet<String>,
    /// What the clock showed at the furthest look.
    furthest: Timestamp,
    expected: Told,
}

impl Model {
    async fn begin(at: Timestamp) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::open(&home.path().join("catalog.sqlite")).await.expect("opened");
        let mut schedules = Vec::new();
        for (component, zone) in COMPONENTS {
            let definition: Schedule = serde_json::from_value(serde_json::json!({
                "backup": "0 1 * * *", "components": [component], "catch_up": "6h", "jitter": "0s",
                "time_zone": zone,
            }))
            .expect("a schedule");
            let record = ScheduleRecord {
                name: component.to_owned(),
                origin: ScheduleOrigin::Declared,
                definition,
                time_zone: zone.to_owned(),
                owed_from: at,
                paused_at: None,
            };
            catalog.put_schedule(&record).await.expect("written");
            schedules.push(record);
        }
        let verified = COMPONENTS.map(|(component, _)| (component.to_owned(), at)).into();
        let (alerts, expected) = (sinks(&SINKS), Told::new());
        let (overdue, failed, missed) = Default::default();
        Self { home, catalog, alerts, schedules, verified, overdue, failed, missed, furthest: at, expected }
    }

    fn expect(&mut self, kind: Kind, subject: &str, raised: bool) {
        *self.expected.entry((kind, subject.to_owned(), raised)).or_default() += 1;
    }

    /// The times that a schedule plans after `from` and up to `until`, by the days of its calendar.
    fn planned(zone: &str, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let zone = TimeZone::get(zone).expect("a zone");
        let day = |at: Timestamp| at.to_zoned(zone.clone()).date();
        let one = |date: Date| {
            date.at(1, 0, 0, 0).to_zoned(zone.clone()).expect("no day of these lacks this hour").timestamp()
        };
        let days = day(from).yesterday().expect("in this age").series(jiff::Span::new().days(1));
        let days = days.take_while(|date| *date <= day(until));
        days.map(one).filter(|at| from < *at && *at <= until).collect()
    }

    /// A look at everything, as the controller's two loops do it. `broken` are the sources that fail now.
    async fn look(&mut self, now: Timestamp, broken: &BTreeSet<&str>) {
        let gone_by = self.furthest;
        for (at, (component, zone)) in COMPONENTS.into_iter().enumerate() {
            let planned = Self::planned(zone, gone_by, now);
            let (late, open): (Vec<Timestamp>, Vec<Timestamp>) =
                planned.into_iter().partition(|planned| now.duration_since(*planned) > CATCH_UP);
            if !late.is_empty() {
                self.expect(Kind::BackupMissed, component, true);
                self.missed.insert(component.to_owned());
            }
            if !open.is_empty() {
                if self.missed.remove(component) {
                    self.expect(Kind::BackupMissed, component, false);
                }
                if broken.contains(component) {
                    self.expect(Kind::BackupFailed, component, true);
                    self.failed.insert(component.to_owned());
                } else {
                    self.verified.insert(component.to_owned(), now);
                    if self.failed.remove(component) {
                        self.expect(Kind::BackupFailed, component, false);
                    }
                }
            }
            self.keep_schedule(at, now, broken.contains(component)).await;
        }
        self.furthest = self.furthest.max(now);

        let objective = SignedDuration::try_from(self.alerts.objective.get()).expect("in range");
        for (component, verified) in self.verified.clone() {
            let is_late = now.duration_since(verified) > objective;
            let was_late = self.overdue.contains(&component);
            if is_late != was_late {
                self.expect(Kind::BackupOverdue, &component, is_late);
            }
            if is_late {
                self.overdue.insert(component)
            } else {
                self.overdue.remove(&component)
            };
        }
        let facts = Facts { verified: self.verified.clone(), ..Facts::default() };
        let open = self.catalog.open_alerts().await.expect("read");
        let events = changes(wrong(&facts, &self.alerts, now), &facts.unknown, &open);
        if !events.is_empty() {
            self.catalog.raise_alerts(&events, now).await.expect("written");
        }
    }

    /// What the keeper of schedules does at a look, with jobs that end at once.
    async fn keep_schedule(&self, at: usize, now: Timestamp, fails: bool) {
        let schedule = &self.schedules[at];
        let records = self.catalog.decided(&schedule.name).await.expect("read");
        let timing = timing(schedule, RepositoryId::new([7; 16])).expect("readable");
        let facts = schedule_plan::Facts {
            now,
            owed_from: schedule.owed_from,
            behind_for: SignedDuration::ZERO,
            paused: false,
            busy: false,
            records: &records,
        };
        let decision = timing.decide(&facts);
        assert!(decision.withdrawn.is_empty() && decision.owed_from.is_none(), "the model's clock is tame");
        if let Some(missed) = decision.missed {
            let run = RunRecord {
                id: 0,
                schedule: schedule.name.clone(),
                planned_at: Some(missed.last),
                ran_at: now,
                state: RunState::Missed,
                job: None,
                retention_job: None,
                details: RunDetails::default(),
            };
            let event = event::missed(schedule, &missed);
            self.catalog.add_run(&run, None, std::slice::from_ref(&event)).await.expect("written");
        }
        if let Some(due) = decision.due {
            self.back_up(schedule, due.planned_at, now, fails).await;
        }
    }

    async fn back_up(&self, schedule: &ScheduleRecord, planned_at: Timestamp, now: Timestamp, fails: bool) {
        let order = Order::Backup { components: schedule.definition.components(), pin: None, import: None };
        let source = format!("{0}/{0}", schedule.name).parse().expect("a source");
        let queued = Job { schedule: Some(schedule.name.clone()), ..Job::queued(JobId::fresh(), order, now) };
        let claim =
            Claim::Run { schedule: schedule.name.clone(), planned_at: Some(planned_at), replaces: None };
        let added = self.catalog.add_job(&queued, None, Some(&claim)).await.expect("written");
        assert_eq!(added, Added::New, "no time runs twice");
        let part = Part {
            state: if fails { PartState::Failed } else { PartState::Complete },
            ..Part::waiting(source, "files")
        };
        let state = if fails { JobState::Failed } else { JobState::Complete };
        let ended = Job { state, ended_at: Some(now), parts: vec![part], ..queued };
        let events = job_events(JobState::Running, &ended);
        self.catalog.save_job(&ended, Vec::new(), &events, now).await.expect("written");
        self.catalog
            .close_run(&self.catalog.last_run(&schedule.name).await.expect("read").expect("a run"), &[], now)
            .await
            .expect("written");
    }

    /// The controller dies where it is, and another one opens what it has left.
    async fn kill(&mut self) {
        self.catalog = Catalog::open(&self.home.path().join("catalog.sqlite")).await.expect("opened");
    }
}

/// What a year brings: at which hours the controller is away, which sources are broken, how the clock is off.
struct Fate {
    away: Vec<(i64, i64)>,
    broken: Vec<(usize, i64, i64)>,
    off: Vec<(i64, i64)>,
}

impl Fate {
    /// In so many hours. The clock is off by less than what is caught up with: then nothing is missed by it.
    fn draw(chance: &mut Chance, hours: i64) -> Self {
        let days = hours / 24;
        let mut below =
            |end: i64| i64::try_from(chance.below(u64::try_from(end).expect("positive"))).expect("small");
        let away = (0..days / 9 + 2)
            .map(|_| {
                let from = below(hours);
                (from, from + 1 + below(80))
            })
            .collect();
        let broken = (0..days / 4 + 4)
            .map(|_| {
                let from = below(hours);
                (below(6) as usize, from, from + 12 + below(120))
            })
            .collect();
        let off = (0..days / 12 + 2).map(|_| (24 + below(hours - 24), below(5) - 2)).collect();
        Self { away, broken, off }
    }
}

#[tokio::test]
async fn in_a_year_each_failure_and_each_silence_of_six_zones_is_told_once_at_each_sink() {
    let is_long = std::env::var("NEURASHIELD_YEAR").is_ok_and(|word| word == "long");
    let (start, hours) = match is_long {
        true => ("2028-01-01T00:30:00Z", 366 * 24),
        false => ("2028-02-22T00:30:00Z", 14 * 24),
    };
    let start: Timestamp = start.parse().expect("a time");
    let mut chance = Chance(20_281_126);
    let mut fate = Fate::draw(&mut chance, hours);
    fate.off.sort_unstable();
    let mut model = Model::begin(start).await;
    let (mut shown, mut was_away) = (Vec::new(), false);
    for hour in 0..hours {
        if fate.away.iter().any(|(from, to)| (*from..*to).contains(&hour)) {
            was_away = true;
            continue;
        }
        // Mostly right; for some hours after it was set wrong it stays so.
        let off = fate.off.iter().rfind(|(at, _)| *at <= hour && hour < *at + 10).map_or(0, |(_, off)| *off);
        let now = start + HOUR * i32::try_from(hour + off).expect("small");
        shown.push(now);
        let broken: BTreeSet<&str> = (fate.broken.iter())
            .filter(|(_, from, to)| (*from..*to).contains(&hour))
            .map(|(at, ..)| COMPONENTS[*at].0)
            .collect();
        if was_away {
            model.kill().await;
            was_away = false;
        }
        model.look(now, &broken).await;
        // Killed between an event and its messages: they are made by the next life.
        if chance.below(5) == 0 {
            model.kill().await;
        } else {
            make_messages(&model.catalog, &model.alerts, now).await;
        }
    }
    // What still waits for company; then a thousand at once.
    for hour in [0, 1, 2] {
        make_messages(
            &model.catalog,
            &model.alerts,
            start + HOUR * i32::try_from(hours + hour).expect("small"),
        )
        .await;
    }
    let storm = start + HOUR * i32::try_from(hours + 24).expect("small");
    let thousand: Vec<Event> =
        (0..1_000).map(|nth| Event::raised(Kind::Anomaly, format!("storm {nth}"))).collect();
    model.catalog.raise_alerts(&thousand, storm).await.expect("written");
    for second in [0, 30, 61, 120, 600] {
        make_messages(&model.catalog, &model.alerts, storm + SignedDuration::from_secs(second)).await;
    }
    // What found no room in its window.
    make_messages(&model.catalog, &model.alerts, storm + HOUR).await;

    let made = messages_by_sink(&model.catalog).await;
    for sink in SINKS {
        let made = &made[sink];
        let mut seen = BTreeSet::<Uuid>::new();
        let mut told = Told::new();
        let (mut of_storm, mut all_of_storm) = (0, 0);
        for message in made {
            for event in &message.events {
                assert!(seen.insert(event.id), "{sink}: told twice: {event:?}");
                let is_storm = event.kind == Kind::Anomaly && event.subject.starts_with("storm");
                if !is_storm {
                    *told
                        .entry((event.kind, event.subject.clone(), event.sign == Sign::Raised))
                        .or_default() += 1;
                }
            }
            if message.made_at >= storm {
                of_storm += usize::from(message.made_at < storm + HOUR);
                all_of_storm += message.total();
            }
        }
        assert_eq!(told, model.expected, "{sink}");
        assert!(
            of_storm <= plan::AT_MOST && all_of_storm >= 1_000,
            "{of_storm} messages, {all_of_storm} events"
        );
    }
    let count = |kind| {
        model
            .expected
            .iter()
            .filter(|((one, _, raised), _)| *one == kind && *raised)
            .map(|(_, n)| n)
            .sum::<u32>()
    };
    eprintln!(
        "{} looks: {} failures, {} missed, {} silences",
        shown.len(),
        count(Kind::BackupFailed),
        count(Kind::BackupMissed),
        count(Kind::BackupOverdue)
    );
    for kind in [Kind::BackupFailed, Kind::BackupMissed, Kind::BackupOverdue] {
        assert!(count(kind) > 0, "this year has brought no {kind:?}");
    }
}

async fn messages_by_sink(catalog: &Catalog) -> BTreeMap<String, Vec<Message>> {
    let mut by_sink = BTreeMap::<String, Vec<Message>>::new();
    for delivery in catalog.alert_deliveries(100_000).await.expect("read") {
        by_sink.entry(delivery.sink).or_default().push(delivery.message);
    }
    by_sink
}
