//! Could everything be restored today? In words, the worst first.
//!
//! Must stay true: nothing is called good that was not looked at.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proto::v1::{Agent, Backup, OpenAlert, Outcome};

use crate::web::backups::verified;
use crate::web::text::{Mood, State, age, listed, size, time};

const DAYS: usize = 30;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What is known of one component.
pub(super) struct Component {
    pub(super) name: String,
    pub(super) state: State,
    /// The newest complete backup.
    pub(super) backup: String,
    pub(super) age: String,
    pub(super) verified: State,
    pub(super) size: String,
    pub(super) stored: String,
    /// The best of each of the last thirty days, the oldest first.
    pub(super) days: Vec<Day>,
    pub(super) days_said: String,
    /// The points of a line: the size over these days; empty: too little is known.
    pub(super) trend: String,
    pub(super) trend_said: String,
}

/// The best backup of one day.
pub(super) struct Day {
    pub(super) at: usize,
    pub(super) class: &'static str,
}

/// What an overview says first.
pub(super) struct Verdict {
    pub(super) state: State,
    pub(super) lines: Vec<State>,
}

fn days(best: &[Option<Outcome>; DAYS]) -> (Vec<Day>, String) {
    let complete = best.iter().filter(|day| **day == Some(Outcome::Complete)).count();
    let class = |day: &Option<Outcome>| match day {
        Some(Outcome::Complete) => "day-good",
        Some(Outcome::Incomplete) => "day-fair",
        Some(_) => "day-bad",
        None => "day-none",
    };
    let days = best.iter().enumerate().map(|(at, day)| Day { at: at * 8, class: class(day) }).collect();
    (days, format!("A complete backup on {complete} of the last {DAYS} days"))
}

/// The size of complete backups over the last thirty days, as a line 238 wide and 28 high, and in words.
fn trend(sizes: &[(i64, u64)]) -> (String, String) {
    // They come newest first.
    let ((Some((_, last)), Some((_, first))), true) = ((sizes.first(), sizes.last()), sizes.len() > 1) else {
        return (String::new(), String::new());
    };
    let (low, high) =
        sizes.iter().fold((u64::MAX, 0), |(low, high), (_, size)| (low.min(*size), high.max(*size)));
    let span = (DAY * 30).as_secs();
    let point = |(ago, size): &(i64, u64)| {
        let across = 238.0 * (1.0 - *ago as f64 / span as f64);
        let up = if high == low { 0.5 } else { (size - low) as f64 / (high - low) as f64 };
        format!("{across:.1},{:.1}", 26.0 - 24.0 * up)
    };
    let points: Vec<String> = sizes.iter().rev().map(point).collect();
    let said = match last.cmp(first) {
        std::cmp::Ordering::Equal => format!("Its size stayed {}", size(*last)),
        _ => format!("Its size went from {} to {}", size(*first), size(*last)),
    };
    (points.join(" "), said)
}

/// What is known of each component that is served or in a backup; backups come newest first.
pub(super) fn components(backups: &[Backup], agents: &[Agent], now: Timestamp) -> Vec<Component> {
    let served = agents.iter().filter(|agent| !agent.revoked).flat_map(|agent| &agent.sources);
    let mut all: BTreeMap<String, Vec<(&Backup, &proto::v1::Archive)>> = served
        .filter_map(|served| served.source.as_ref())
        .map(|source| (source.component.clone(), Vec::new()))
        .collect();
    // What was made before a restore holds what somebody wanted to be rid of.
    for backup in backups.iter().filter(|backup| backup.safety_of.is_empty()) {
        for archive in &backup.archives {
            let component = archive.source.clone().unwrap_or_default().component;
            all.entry(component).or_default().push((backup, archive));
        }
    }
    all.into_iter().map(|(name, archives)| component(name, &archives, now)).collect()
}

fn component(name: String, archives: &[(&Backup, &proto::v1::Archive)], now: Timestamp) -> Component {
    let mut best = [None; DAYS];
    for (backup, archive) in archives {
        let Some(at) = time(backup.started_at) else { continue };
        let ago = now.duration_since(at).as_secs().max(0) / DAY.as_secs();
        let Some(day) = usize::try_from(ago).ok().and_then(|ago| best.get_mut((DAYS - 1).checked_sub(ago)?))
        else {
            continue;
        };
        // The words of an outcome are numbered from the best on.
        *day = Some(day.map_or(archive.outcome(), |seen: Outcome| seen.min(archive.outcome())));
    }
    let (days, days_said) = days(&best);
    let sizes: Vec<(i64, u64)> = (archives.iter())
        .filter(|(_, archive)| archive.outcome() == Outcome::Complete)
        .filter_map(|(backup, archive)| {
            let ago = now.duration_since(time(backup.started_at)?).as_secs();
            (0..DAY.as_secs() * 30).contains(&ago).then_some((ago, archive.counts?.bytes))
        })
        .collect();
    let (trend, trend_said) = trend(&sizes);
    let newest = archives.iter().find(|(_, archive)| archive.outcome() == Outcome::Complete);
    let Some((backup, archive)) = newest else {
        let verified = State::new(Mood::Plain, "not verified");
        let (backup, age, size, stored) = <(String, String, String, String)>::default();
        let state = State::new(Mood::Bad, "no complete backup");
        return Component {
            name,
            state,
            backup,
            age,
            verified,
            size,
            stored,
            days,
            days_said,
            trend,
            trend_said,
        };
    };
    let verified = verified(archive, now);
    let last_failed = archives.first().is_some_and(|(_, last)| last.outcome() == Outcome::Failed);
    let state = match verified.mood {
        Mood::Bad => State::new(Mood::Bad, "damaged"),
        _ if last_failed => State::new(Mood::Fair, "the last backup failed"),
        Mood::Good => State::new(Mood::Good, "could be restored"),
        _ => State::new(Mood::Fair, "not verified yet"),
    };
    let counts = archive.counts.unwrap_or_default();
    Component {
        name,
        state,
        backup: backup.name.clone(),
        age: time(backup.started_at).map(|at| age(at, now)).unwrap_or_default(),
        verified,
        size: size(counts.bytes),
        stored: size(counts.stored_bytes),
        days,
        days_said,
        trend,
        trend_said,
    }
}

/// The verdict over all of it.
pub(super) fn verdict(
    components: &[Component],
    agents: &[Agent],
    alerts: &[OpenAlert],
    now: Timestamp,
) -> Verdict {
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
            Mood::Bad => lines.push(State::new(
                Mood::Bad,
                format!("The newest complete backup of {name} was found damaged: choose an older one."),
            )),
            Mood::Good => {}
            _ => lines.push(State::new(Mood::Fair, format!("{name}: {word}."))),
        }
    }
    for agent in agents.iter().filter(|agent| !agent.revoked && !agent.connected) {
        let since = time(agent.last_seen_at).map(|at| age(at, now));
        let since = since.unwrap_or_else(|| "never".to_owned());
        let text =
            format!("The agent {} is away (last seen {since}): what it serves is not backed up.", agent.name);
        lines.push(State::new(Mood::Fair, text));
    }
    for event in alerts.iter().filter_map(|alert| alert.event.as_ref()) {
        let mood = if event.severity == "critical" { Mood::Bad } else { Mood::Fair };
        lines.push(State::new(mood, format!("Alert: {}.", event.what.trim_end_matches('.'))));
    }
    lines.sort_by_key(|line| line.mood);
    let good: Vec<&str> = (components.iter())
        .filter(|component| component.state.mood == Mood::Good)
        .map(|component| component.name.as_str())
        .collect();
    if !good.is_empty() {
        let text = format!("{} could be restored, and what would be restored was looked at.", listed(&good));
        lines.push(State::new(Mood::Good, text));
    }
    let worst = lines.first().map(|line| line.mood);
    let state = match worst {
        None => State::new(Mood::Plain, "Nothing is backed up yet"),
        Some(Mood::Bad) if good.is_empty() => State::new(Mood::Bad, "Do not count on a restore today"),
        Some(Mood::Bad) => State::new(Mood::Bad, "Not everything could be restored today"),
        Some(Mood::Good) => State::new(Mood::Good, "Everything could be restored today"),
        Some(_) => State::new(Mood::Fair, "A restore would probably work; look at this first"),
    };
    if worst.is_none() {
        lines
            .push(State::new(Mood::Plain, "No agent serves anything. Invite one with `nsctl agent invite`."));
    }
    Verdict { state, lines }
}

#[cfg(test)]
mod tests {
    use proto::convert::to_wire_time;
    use proto::v1::{Archive, Depth, SourceId, Verification};

    use super::*;

    fn backup(outcome: Outcome, verified: Option<bool>, now: Timestamp) -> Backup {
        let source = Some(SourceId { component: "models".to_owned(), name: "models".to_owned() });
        let at = Some(to_wire_time(now));
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
        Backup {
            name: "20260101_010000".to_owned(),
            started_at: at,
            archives: vec![archive],
            ..Backup::default()
        }
    }

    fn said(backups: &[Backup], now: Timestamp) -> (Mood, Vec<String>) {
        let verdict = verdict(&components(backups, &[], now), &[], &[], now);
        (verdict.state.mood, verdict.lines.into_iter().map(|line| line.word).collect())
    }

    #[test]
    fn only_what_was_looked_at_is_called_good() {
        let now = Timestamp::UNIX_EPOCH + DAY * 40;
        assert_eq!(said(&[], now).0, Mood::Plain);
        assert_eq!(said(&[backup(Outcome::Failed, None, now)], now).0, Mood::Bad);
        assert_eq!(said(&[backup(Outcome::Complete, None, now)], now).0, Mood::Fair);
        assert_eq!(said(&[backup(Outcome::Complete, Some(false), now)], now).0, Mood::Bad);
        assert_eq!(said(&[backup(Outcome::Complete, Some(true), now)], now).0, Mood::Good);
        let failed_since = [backup(Outcome::Failed, None, now), backup(Outcome::Complete, Some(true), now)];
        assert_eq!(
            said(&failed_since, now),
            (Mood::Fair, vec!["models: the last backup failed.".to_owned()])
        );
    }

    #[test]
    fn what_was_made_before_a_restore_is_not_what_one_would_restore() {
        let now = Timestamp::UNIX_EPOCH + DAY * 40;
        let safety = Backup { safety_of: "01".to_owned(), ..backup(Outcome::Complete, Some(true), now) };
        assert_eq!(said(&[safety], now).0, Mood::Plain);
    }

    #[test]
    fn a_size_is_a_line_from_the_oldest_to_the_newest() {
        let days = DAY.as_secs();
        assert_eq!(trend(&[(0, 5)]), (String::new(), String::new()), "one point is no line");
        let (points, said) = trend(&[(0, 2_048), (15 * days, 1_024)]);
        assert_eq!(
            (points.as_str(), said.as_str()),
            ("119.0,26.0 238.0,2.0", "Its size went from 1.0 KiB to 2.0 KiB")
        );
        assert_eq!(trend(&[(0, 7), (days, 7)]).1, "Its size stayed 7 B");
    }

    #[test]
    fn a_day_shows_its_best_backup() {
        let now = Timestamp::UNIX_EPOCH + DAY * 40;
        let all = [
            backup(Outcome::Failed, None, now),
            backup(Outcome::Complete, None, now),
            backup(Outcome::Incomplete, None, now - DAY * 29),
            backup(Outcome::Complete, None, now - DAY * 30),
        ];
        let component = components(&all, &[], now).remove(0);
        let classes: Vec<&str> = component.days.iter().map(|day| day.class).collect();
        assert_eq!((classes[0], classes[1], classes[29]), ("day-fair", "day-none", "day-good"));
        assert_eq!(component.days_said, "A complete backup on 1 of the last 30 days");
    }
}
