//! Could everything be restored today? In words, the worst first.
//!
//! Must stay true: nothing is called good that was not looked at.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use proto::v1::{Agent, ComponentHistory, HistoryDay, Objective, OpenAlert, Outcome, Schedule};

use crate::web::backups::{DRILL_FAILED, verified_all};
use crate::web::text::{Mood, State, age, at_in, listed, size, span, time};

const DAYS: usize = 30;
/// The kind of the alert that a component has no verified backup that is young enough.
const OVERDUE: &str = "backup_overdue";

/// What is known of one component.
pub(super) struct Component {
    pub(super) name: String,
    pub(super) state: State,
    /// The newest complete backup.
    pub(super) backup: String,
    pub(super) age: String,
    pub(super) verified: State,
    /// How old a verified backup may be, and whether it is.
    pub(super) objective: Option<State>,
    /// When it is backed up next, and by which schedule; none: by none.
    pub(super) next: Option<Next>,
    pub(super) size: String,
    pub(super) stored: String,
    /// The best of each of the last thirty days, the oldest first.
    pub(super) days: Vec<Day>,
    pub(super) days_said: String,
    /// The points of a line: the size over these days; empty: too little is known.
    pub(super) trend: String,
    pub(super) trend_said: String,
}

/// When something happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) soon: String,
    pub(super) at: String,
    pub(super) schedule: String,
}

/// The best backup of one day.
pub(super) struct Day {
    pub(super) at: usize,
    pub(super) class: &'static str,
    pub(super) said: String,
}

/// What an overview says first.
pub(super) struct Verdict {
    pub(super) state: State,
    pub(super) lines: Vec<State>,
}

/// What a verdict is made of.
pub(super) struct Facts<'a> {
    pub(super) history: &'a [ComponentHistory],
    pub(super) agents: &'a [Agent],
    pub(super) alerts: &'a [OpenAlert],
    pub(super) objectives: &'a [Objective],
    pub(super) schedules: &'a [Schedule],
    pub(super) now: Timestamp,
}

fn days(history: &[HistoryDay], today: Date) -> (Vec<Day>, String) {
    let best: BTreeMap<&str, &HistoryDay> = history.iter().map(|day| (day.day.as_str(), day)).collect();
    let mut complete = 0;
    let days = (0..DAYS).map(|at| {
        let ago = i64::try_from(DAYS - 1 - at).expect("thirty is few");
        let date = today.saturating_sub(ago.days()).to_string();
        let outcome = best.get(date.as_str()).map(|day| day.best());
        let (class, word) = match outcome {
            Some(Outcome::Complete) => ("day-good", "complete"),
            Some(Outcome::Incomplete) => ("day-fair", "incomplete"),
            Some(_) => ("day-bad", "failed"),
            None => ("day-none", "no backup"),
        };
        complete += usize::from(outcome == Some(Outcome::Complete));
        Day { at: at * 8, class, said: format!("{date}: {word}") }
    });
    let days = days.collect();
    (days, format!("A complete backup on {complete} of the last {DAYS} days"))
}

/// The size of complete backups over the last thirty days, as a line 238 wide and 28 high, and in words.
fn trend(history: &[HistoryDay], today: Date) -> (String, String) {
    let sizes: Vec<(i32, u64)> = (history.iter())
        .filter(|day| day.best() == Outcome::Complete)
        .filter_map(|day| {
            let ago = today.since(day.day.parse::<Date>().ok()?).ok()?.get_days();
            usize::try_from(ago).is_ok_and(|ago| ago < DAYS).then_some((ago, day.bytes))
        })
        .collect();
    // They come oldest first.
    let ((Some((_, first)), Some((_, last))), true) = ((sizes.first(), sizes.last()), sizes.len() > 1) else {
        return (String::new(), String::new());
    };
    let (low, high) =
        sizes.iter().fold((u64::MAX, 0), |(low, high), (_, size)| (low.min(*size), high.max(*size)));
    let point = |(ago, size): &(i32, u64)| {
        let across = 236.0 * (1.0 - f64::from(*ago) / (DAYS - 1) as f64) + 1.0;
        let up = if high == low { 0.5 } else { (size - low) as f64 / (high - low) as f64 };
        format!("{across:.1},{:.1}", 26.0 - 24.0 * up)
    };
    let points: Vec<String> = sizes.iter().map(point).collect();
    let said = match last.cmp(first) {
        std::cmp::Ordering::Equal => format!("Its size stayed {}", size(*last)),
        _ => format!("Its size went from {} to {}", size(*first), size(*last)),
    };
    (points.join(" "), said)
}

/// What is known of each component that is served or in a backup.
pub(super) fn components(facts: &Facts<'_>) -> Vec<Component> {
    let mut all: BTreeMap<String, ComponentHistory> =
        served(facts).map(|component| (component.to_owned(), ComponentHistory::default())).collect();
    // Of what was made before a restore alone, nobody would restore.
    let known = |one: &&ComponentHistory| one.last_outcome() != Outcome::Unspecified;
    all.extend(facts.history.iter().filter(known).map(|one| (one.component.clone(), one.clone())));
    all.into_iter().map(|(name, history)| component(name, &history, facts)).collect()
}

/// The components of agents that may come back.
fn served<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a str> {
    let agents = facts.agents.iter().filter(|agent| !agent.revoked);
    let served = agents.flat_map(|agent| &agent.sources).filter_map(|served| served.source.as_ref());
    served.map(|source| source.component.as_str())
}

fn component(name: String, history: &ComponentHistory, facts: &Facts<'_>) -> Component {
    let today = facts.now.to_zoned(TimeZone::UTC).date();
    let (days, days_said) = days(&history.days, today);
    let (trend, trend_said) = trend(&history.days, today);
    let mut component = Component {
        state: State::new(Mood::Bad, "no complete backup"),
        backup: String::new(),
        age: String::new(),
        verified: State::new(Mood::Plain, "not verified"),
        objective: None,
        next: next(&name, facts),
        size: String::new(),
        stored: String::new(),
        days,
        days_said,
        trend,
        trend_said,
        name,
    };
    let mut is_late = facts
        .alerts
        .iter()
        .filter_map(|alert| alert.event.as_ref())
        .any(|event| event.kind == OVERDUE && event.subject == component.name);
    let objective = facts.objectives.iter().find(|one| one.component == component.name);
    let objective = objective.map(|one| i64::try_from(one.seconds).unwrap_or(i64::MAX));
    if let Some(backup) = &history.complete {
        let counts = || backup.archives.iter().filter_map(|archive| archive.counts);
        component.verified = verified_all(&backup.archives, facts.now);
        let last_failed = history.last_outcome() == Outcome::Failed;
        let made = time(backup.started_at);
        let old = made.map(|at| facts.now.duration_since(at).as_secs());
        // Younger than the newest complete one is no verified one.
        is_late |= old.zip(objective).is_some_and(|(old, longest)| old > longest);
        component.state = match component.verified.mood {
            // Damaged, or not opened by its drill.
            Mood::Bad => State::new(Mood::Bad, component.verified.word.clone()),
            _ if last_failed => State::new(Mood::Fair, "the last backup failed"),
            Mood::Good if is_late => State::new(Mood::Fair, "older than it should be"),
            Mood::Good => State::new(Mood::Good, "could be restored"),
            _ => State::new(Mood::Fair, "not verified yet"),
        };
        component.backup = backup.name.clone();
        component.age = made.map(|at| age(at, facts.now)).unwrap_or_default();
        component.size = size(counts().map(|counts| counts.bytes).sum());
        component.stored = size(counts().map(|counts| counts.stored_bytes).sum());
    }
    component.objective = objective.map(|longest| {
        let within = span(longest);
        match (is_late, component.verified.mood) {
            (true, _) => State::new(Mood::Bad, format!("missed: {within}")),
            (_, Mood::Good) => State::new(Mood::Good, format!("met: {within}")),
            _ => State::new(Mood::Plain, within),
        }
    });
    component
}

/// The next backup of a component by itself; of one that no agent serves any more there is none.
fn next(component: &str, facts: &Facts<'_>) -> Option<Next> {
    if !served(facts).any(|served| served == component) {
        return None;
    }
    let takes = |schedule: &&Schedule| {
        let named = &schedule.components;
        schedule.kind == "backup" && (named.is_empty() || named.iter().any(|name| name == component))
    };
    let due = facts.schedules.iter().filter(takes);
    let due = due.filter_map(|schedule| Some((time(schedule.next_planned_at)?, schedule)));
    due.min_by_key(|(at, _)| *at).map(|(at, schedule)| Next {
        soon: age(at, facts.now),
        at: at_in(at, &schedule.time_zone),
        schedule: schedule.name.clone(),
    })
}

/// The verdict over all of it.
pub(super) fn verdict(components: &[Component], facts: &Facts<'_>) -> Verdict {
    let mut lines = Vec::new();
    for component in components {
        let (name, word) = (&component.name, &component.state.word);
        match component.state.mood {
            Mood::Bad if component.backup.is_empty() => {
                lines.push(State::new(
                    Mood::Bad,
                    format!("{name} cannot be restored: there is no complete backup of it."),
                ));
            }
            Mood::Bad if word == DRILL_FAILED => lines.push(State::new(
                Mood::Bad,
                format!(
                    "The drill of the newest complete backup of {name} failed: see why, or choose an older one."
                ),
            )),
            Mood::Bad => lines.push(State::new(
                Mood::Bad,
                format!("The newest complete backup of {name} was found damaged: choose an older one."),
            )),
            Mood::Good => {}
            _ => lines.push(State::new(Mood::Fair, format!("{name}: {word}."))),
        }
    }
    lines.extend(of_agents(facts.agents, facts.now));
    let events = facts.alerts.iter().filter_map(|alert| alert.event.as_ref());
    for event in events {
        let mood = if event.severity == "critical" { Mood::Bad } else { Mood::Fair };
        lines.push(State::new(mood, format!("Alert: {}.", event.what.trim_end_matches('.'))));
    }
    let good: Vec<&str> = (components.iter())
        .filter(|component| component.state.mood == Mood::Good)
        .map(|component| component.name.as_str())
        .collect();
    if !good.is_empty() {
        let text = format!("{} could be restored, and what would be restored was looked at.", listed(&good));
        lines.push(State::new(Mood::Good, text));
    }
    let worst = lines.iter().map(|line| line.mood).min().filter(|_| !components.is_empty());
    // It says nothing of today.
    lines.extend(of_plans(components));
    lines.sort_by_key(|line| line.mood);
    let state = match worst {
        None => State::new(Mood::Plain, "Nothing is backed up yet"),
        Some(Mood::Bad) if good.is_empty() => State::new(Mood::Bad, "Do not count on a restore today"),
        Some(Mood::Bad) => State::new(Mood::Bad, "Not everything could be restored today"),
        Some(Mood::Good) => State::new(Mood::Good, "Everything could be restored today"),
        Some(_) => State::new(Mood::Fair, "A restore would probably work; look at this first"),
    };
    if components.is_empty() {
        lines.push(State::new(Mood::Plain, "No agent serves anything: invite one."));
    }
    Verdict { state, lines }
}

fn of_agents(agents: &[Agent], now: Timestamp) -> Vec<State> {
    let away = agents.iter().filter(|agent| !agent.revoked && !agent.connected);
    let line = |agent: &Agent| {
        let since = time(agent.last_seen_at).map_or("never".to_owned(), |at| age(at, now));
        let text =
            format!("The agent {} is away (last seen {since}): what it serves is not backed up.", agent.name);
        State::new(Mood::Fair, text)
    };
    away.map(line).collect()
}

/// What no schedule backs up.
fn of_plans(components: &[Component]) -> Option<State> {
    let unplanned: Vec<&str> = (components.iter())
        .filter(|component| component.next.is_none())
        .map(|component| component.name.as_str())
        .collect();
    let is = if unplanned.len() == 1 { "is" } else { "are" };
    let text = format!("{} {is} backed up by no schedule that runs.", listed(&unplanned));
    (!unplanned.is_empty()).then(|| State::new(Mood::Fair, text))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proto::convert::to_wire_time;
    use proto::v1::{Archive, Backup, Depth, ServedSource, SourceId, Verification};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 40)
    }

    /// One backup and nothing else.
    fn history(outcome: Outcome, verified: Option<bool>) -> ComponentHistory {
        let source = Some(SourceId { component: "models".to_owned(), name: "models".to_owned() });
        let at = Some(to_wire_time(now()));
        let found = verified.map(|intact| Verification {
            depth: Depth::Opened.into(),
            at,
            intact,
            ..Verification::default()
        });
        let archive = Archive {
            source,
            outcome: outcome.into(),
            verifications: found.into_iter().collect(),
            ..Archive::default()
        };
        let backup = Backup {
            name: "20260101_010000".to_owned(),
            started_at: at,
            archives: vec![archive],
            ..Backup::default()
        };
        ComponentHistory {
            component: "models".to_owned(),
            complete: (outcome == Outcome::Complete).then_some(backup),
            last_outcome: outcome.into(),
            days: Vec::new(),
        }
    }

    fn nightly() -> Schedule {
        Schedule {
            name: "daily".to_owned(),
            kind: "backup".to_owned(),
            time_zone: "Europe/Paris".to_owned(),
            next_planned_at: Some(to_wire_time(now() + SignedDuration::from_hours(3))),
            ..Schedule::default()
        }
    }

    fn facts<'a>(history: &'a [ComponentHistory], schedules: &'a [Schedule]) -> Facts<'a> {
        Facts { history, agents: &[], alerts: &[], objectives: &[], schedules, now: now() }
    }

    /// One that serves `models`.
    fn agent() -> Agent {
        let source = Some(SourceId { component: "models".to_owned(), name: "models".to_owned() });
        let sources = vec![ServedSource { source, ..ServedSource::default() }];
        Agent { name: "one".to_owned(), connected: true, sources, ..Agent::default() }
    }

    fn said(history: &[ComponentHistory]) -> (Mood, Vec<String>) {
        let schedules = [nightly()];
        let agents = [agent()];
        // What nobody has backed up yet is told by itself.
        let agents = if history.iter().any(|one| one.complete.is_some()) { &agents[..] } else { &[] };
        let facts = Facts { agents, ..facts(history, &schedules) };
        let verdict = verdict(&components(&facts), &facts);
        (verdict.state.mood, verdict.lines.into_iter().map(|line| line.word).collect())
    }

    #[test]
    fn only_what_was_looked_at_is_called_good() {
        assert_eq!(said(&[]).0, Mood::Plain);
        assert_eq!(said(&[history(Outcome::Failed, None)]).0, Mood::Bad);
        assert_eq!(said(&[history(Outcome::Complete, None)]).0, Mood::Fair);
        assert_eq!(said(&[history(Outcome::Complete, Some(false))]).0, Mood::Bad);
        assert_eq!(said(&[history(Outcome::Complete, Some(true))]).0, Mood::Good);
        let mut failed_since = history(Outcome::Complete, Some(true));
        failed_since.last_outcome = Outcome::Failed.into();
        let line = "models: the last backup failed.".to_owned();
        assert_eq!(said(&[failed_since]), (Mood::Fair, vec![line]));
    }

    #[test]
    fn what_was_made_before_restores_alone_is_not_what_one_would_restore() {
        let safety_alone = ComponentHistory {
            last_outcome: Outcome::Unspecified.into(),
            ..history(Outcome::Incomplete, None)
        };
        assert_eq!(said(&[safety_alone]).0, Mood::Plain);
    }

    #[test]
    fn an_objective_that_is_missed_and_a_component_without_a_schedule_are_told() {
        let mut old = history(Outcome::Complete, Some(true));
        let made = now() - SignedDuration::from_hours(40);
        old.complete.iter_mut().for_each(|backup| backup.started_at = Some(to_wire_time(made)));
        let one = |hours: u64| Objective { component: "models".to_owned(), seconds: hours * 3_600 };
        let all = [old];
        for (hours, mood, objective) in [(36, Mood::Fair, "missed: 36 h"), (48, Mood::Good, "met: 2 days")] {
            let objectives = [one(hours)];
            let facts = Facts { objectives: &objectives, ..facts(&all, &[]) };
            let components = components(&facts);
            assert_eq!(components[0].objective.as_ref().expect("known").word, objective);
            let verdict = verdict(&components, &facts);
            assert_eq!(verdict.state.mood, mood, "{hours}");
            let lines: Vec<&str> = verdict.lines.iter().map(|line| line.word.as_str()).collect();
            assert!(lines.contains(&"models is backed up by no schedule that runs."), "{lines:?}");
            assert_eq!(lines.contains(&"models: older than it should be."), hours == 36);
        }
    }

    #[test]
    fn the_next_backup_is_told_in_the_zone_of_its_schedule_and_in_utc() {
        let (all, schedules) = ([history(Outcome::Complete, Some(true))], [nightly()]);
        let mut agents = [agent()];
        let of = |agents: &[Agent], schedules: &[Schedule]| {
            components(&Facts { agents, ..facts(&all, schedules) })[0].next.clone()
        };
        let next = of(&agents, &schedules).expect("planned");
        assert_eq!((next.soon.as_str(), next.schedule.as_str()), ("in 3 h", "daily"));
        assert_eq!(next.at, "1970-02-10 04:00 Europe/Paris (03:00 UTC)");
        let others = [Schedule { components: vec!["configs".to_owned()], ..nightly() }];
        assert_eq!(of(&agents, &others), None);
        agents[0].revoked = true;
        assert_eq!(of(&agents, &schedules), None, "nobody serves it any more");
    }

    fn day(day: &str, best: Outcome, bytes: u64) -> HistoryDay {
        HistoryDay { day: day.to_owned(), best: best.into(), backups: 1, bytes }
    }

    #[test]
    fn a_size_is_a_line_from_the_oldest_to_the_newest() {
        let today = "2026-03-30".parse().expect("a date");
        let one = day("2026-03-30", Outcome::Complete, 2_048);
        assert_eq!(
            trend(std::slice::from_ref(&one), today),
            (String::new(), String::new()),
            "one point is no line"
        );
        let (points, said) = trend(&[day("2026-03-01", Outcome::Complete, 1_024), one.clone()], today);
        assert_eq!(points, "1.0,26.0 237.0,2.0");
        assert_eq!(said, "Its size went from 1.0 KiB to 2.0 KiB");
        let older = day("2026-02-28", Outcome::Complete, 1);
        assert_eq!(trend(&[older, one], today).1, "", "of another month");
    }

    #[test]
    fn a_day_shows_its_best_backup() {
        let today = "2026-03-30".parse().expect("a date");
        let some = [day("2026-03-01", Outcome::Incomplete, 0), day("2026-03-30", Outcome::Complete, 1)];
        let (days, said) = days(&some, today);
        assert_eq!((days[0].class, days[1].class, days[29].class), ("day-fair", "day-none", "day-good"));
        assert_eq!(days[0].said, "2026-03-01: incomplete");
        assert_eq!((days.len(), said.as_str()), (30, "A complete backup on 1 of the last 30 days"));
    }
}
