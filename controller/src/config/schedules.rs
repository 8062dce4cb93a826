//! Schedules as they are written. When a cron text is due, `schedule::times` knows.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use repository::names::Component;
use runtime::config::{Duration, Problem};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::Retention;
use crate::schedule::times::{NoTimes, Times};

/// What is to happen at which times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Written")]
pub enum Schedule {
    /// A backup.
    Backup(BackupSchedule),
    /// A verification.
    Verify(VerifySchedule),
}

/// A backup at certain times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupSchedule {
    /// When.
    #[serde(rename = "backup")]
    pub cron: Cron,
    /// Of what.
    pub components: Components,
    /// How late a missed time is still made up for.
    pub catch_up: Duration,
    /// Up to so much is added to the time by chance.
    pub jitter: Duration,
    /// Where its hours are meant; none: where all of them are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Which of its backups are kept; none: as of all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// A verification at certain times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifySchedule {
    /// When.
    #[serde(rename = "verify")]
    pub cron: Cron,
    /// Of what.
    pub components: Components,
    /// How deep.
    pub depth: VerifyDepth,
    /// How long to wait for a backup that still runs.
    pub wait_for_backup: Duration,
    /// The rules of retention are applied after it.
    pub retention: bool,
    /// How late a missed time is still made up for.
    pub catch_up: Duration,
    /// Up to so much is added to the time by chance.
    pub jitter: Duration,
    /// Where its hours are meant; none: where all of them are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// How deep a verification goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyDepth {
    /// Every pack is there with its size.
    Listed,
    /// Every pack has its digest.
    Hashed,
    /// Every blob opens and every entry can be read.
    Opened,
    /// And it is restored into a scratch folder and opened there, at an agent that is marked for it.
    Drilled,
}

const HOUR_SECONDS: u64 = 3600;

/// The keys of a schedule.
pub(super) const KEYS: [&str; 9] = [
    "backup",
    "verify",
    "components",
    "depth",
    "wait_for_backup",
    "retention",
    "catch_up",
    "jitter",
    "time_zone",
];

/// A schedule with every key that either kind may have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    backup: Option<Cron>,
    verify: Option<Cron>,
    components: Option<Components>,
    depth: Option<VerifyDepth>,
    wait_for_backup: Option<Duration>,
    retention: Option<WrittenRetention>,
    catch_up: Option<Duration>,
    jitter: Option<Duration>,
    time_zone: Option<String>,
}

/// Of a backup: its rules. Of a verification: whether the rules are applied after it.
enum WrittenRetention {
    Applied(bool),
    Rules(Retention),
}

impl<'de> Deserialize<'de> for WrittenRetention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RetentionVisitor)
    }
}

struct RetentionVisitor;

impl<'de> Visitor<'de> for RetentionVisitor {
    type Value = WrittenRetention;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("of a backup rules like { keep_within: 7d }, of a verification true or false")
    }

    fn visit_bool<E: de::Error>(self, applied: bool) -> Result<WrittenRetention, E> {
        Ok(WrittenRetention::Applied(applied))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<WrittenRetention, E> {
        match text.trim() {
            "true" => Ok(WrittenRetention::Applied(true)),
            "false" => Ok(WrittenRetention::Applied(false)),
            _ => {
                Err(E::custom("of a backup rules like { keep_within: 7d }, of a verification true or false"))
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WrittenRetention, A::Error> {
        Retention::deserialize(MapAccessDeserializer::new(map)).map(WrittenRetention::Rules)
    }
}

impl TryFrom<Written> for Schedule {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let components = written.components.unwrap_or(Components::All);
        let catch_up = written.catch_up.unwrap_or(Duration::from_secs(6 * HOUR_SECONDS));
        let jitter = written.jitter.unwrap_or(Duration::from_secs(0));
        let time_zone = written.time_zone;
        let (applied, rules) = match written.retention {
            None => (None, None),
            Some(WrittenRetention::Applied(applied)) => (Some(applied), None),
            Some(WrittenRetention::Rules(rules)) => (None, Some(rules)),
        };
        match (written.backup, written.verify) {
            (Some(_), None) if written.depth.is_some() || written.wait_for_backup.is_some() => {
                Err("`depth` and `wait_for_backup` belong to `verify`, this schedule is a `backup`")
            }
            (Some(_), None) if applied.is_some() => {
                Err("the `retention` of a `backup` are the rules for its backups, e.g. { keep_within: 7d }")
            }
            (None, Some(_)) if rules.is_some() => Err(
                "the `retention` of a `verify` is true or false; rules belong to a `backup`, or to `retention` \
                 outside of `schedules`",
            ),
            (Some(cron), None) => {
                let retention = rules;
                Ok(Self::Backup(BackupSchedule { cron, components, catch_up, jitter, time_zone, retention }))
            }
            (None, Some(cron)) => Ok(Self::Verify(VerifySchedule {
                cron,
                components,
                depth: written.depth.unwrap_or(VerifyDepth::Opened),
                wait_for_backup: written.wait_for_backup.unwrap_or(Duration::from_secs(4 * HOUR_SECONDS)),
                retention: applied.unwrap_or(true),
                catch_up,
                jitter,
                time_zone,
            })),
            _ => Err("a schedule has either `backup` or `verify` with its times, e.g. backup: \"0 1 * * *\""),
        }
    }
}

/// Which components: `all`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Components {
    /// All that agents serve.
    All,
    /// These.
    Named(Vec<String>),
}

impl Serialize for Components {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Components {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ComponentsVisitor)
    }
}

struct ComponentsVisitor;

impl<'de> Visitor<'de> for ComponentsVisitor {
    type Value = Components;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("`all` or a list of component names")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Components, E> {
        match text.trim() {
            "all" => Ok(Components::All),
            names => named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Components, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = items.next_element()? {
            names.push(name);
        }
        named(names)
    }
}

fn named<E: de::Error>(names: Vec<String>) -> Result<Components, E> {
    match names.iter().any(String::is_empty) || names.is_empty() {
        true => Err(E::custom("expected `all` or at least one component name")),
        false => Ok(Components::Named(names)),
    }
}

/// Five fields of cron: minute, hour, day of month, month, day of week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Cron(String);

/// Each field: its name, its lowest and highest number, and the words it may have instead.
const FIELDS: [(&str, u8, u8, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 7, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

impl Cron {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Cron {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            let help = "not a cron text; write five fields: minute hour day-of-month month day-of-week, e.g. \
                        \"0 1 * * *\"";
            return Err(help.to_owned());
        }
        for (field, (name, lowest, highest, words)) in fields.iter().zip(FIELDS) {
            if !field.split(',').all(|item| is_item(item, lowest, highest, words)) {
                return Err(format!(
                    "no {name} of a cron text; allowed: *, {lowest} to {highest}, A-B, */N, and \
                     lists of these with commas"
                ));
            }
        }
        Ok(Self(fields.join(" ")))
    }
}

/// `*`, a number or word, a range of them, each with `/step` if wanted.
fn is_item(item: &str, lowest: u8, highest: u8, words: &[&str]) -> bool {
    let number = |text: &str| {
        let word = words.iter().position(|word| text.eq_ignore_ascii_case(word));
        word.and_then(|place| u8::try_from(place).ok()?.checked_add(lowest))
            .or_else(|| text.parse().ok())
            .filter(|number| (lowest..=highest).contains(number))
    };
    let (range, step) = item.split_once('/').unwrap_or((item, "1"));
    let step_fits = step.parse::<u8>().is_ok_and(|step| step > 0);
    let range_fits = match range.split_once('-') {
        _ if range == "*" => true,
        Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
        None => number(range).is_some(),
    };
    step_fits && range_fits
}

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Schedule {
    /// When.
    pub fn cron(&self) -> &Cron {
        match self {
            Self::Backup(backup) => &backup.cron,
            Self::Verify(verify) => &verify.cron,
        }
    }

    /// Of what; none: of everything.
    pub fn components(&self) -> Vec<Component> {
        let components = match self {
            Self::Backup(backup) => &backup.components,
            Self::Verify(verify) => &verify.components,
        };
        match components {
            Components::All => Vec::new(),
            Components::Named(names) => names.iter().filter_map(|name| name.parse().ok()).collect(),
        }
    }

    /// How late a missed time is still made up for, and how much is added to it by chance.
    pub fn catch_up_and_jitter(&self) -> (Duration, Duration) {
        match self {
            Self::Backup(backup) => (backup.catch_up, backup.jitter),
            Self::Verify(verify) => (verify.catch_up, verify.jitter),
        }
    }

    /// Where its hours are meant, if it says so.
    pub fn time_zone(&self) -> Option<&str> {
        match self {
            Self::Backup(backup) => backup.time_zone.as_deref(),
            Self::Verify(verify) => verify.time_zone.as_deref(),
        }
    }

    /// Which of its backups are kept, if it says so.
    pub fn own_retention(&self) -> Option<&Retention> {
        match self {
            Self::Backup(backup) => backup.retention.as_ref(),
            Self::Verify(_) => None,
        }
    }

    /// What the types alone cannot tell: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let (when, components) = match self {
            Self::Backup(backup) => ("backup", &backup.components),
            Self::Verify(verify) => ("verify", &verify.components),
        };
        let times = Times::new(self.cron().as_str(), TimeZone::UTC).map_err(|error| match error {
            NoTimes::Never => (when, "no day of any year is like that".to_owned()),
            NoTimes::Unreadable(why) => (when, format!("not a cron text: {why}")),
        })?;
        let zone = self.time_zone();
        if zone.is_some_and(|zone| TimeZone::get(zone).is_err()) {
            return Err(("time_zone", UNKNOWN_ZONE.to_owned()));
        }
        if let Components::Named(names) = components
            && let Some(wrong) = names.iter().position(|name| name.parse::<Component>().is_err())
        {
            return Err(("components", format!("the {}. is no component's name", wrong + 1)));
        }
        if let Some((_, why)) = self.own_retention().and_then(Retention::wrong) {
            return Err(("retention", why.to_owned()));
        }
        let (catch_up, jitter) = self.catch_up_and_jitter();
        for (key, span, most) in [("jitter", jitter, Duration::from_days(1)), ("catch_up", catch_up, MOST)] {
            if span > most {
                return Err((key, format!("at most {most}")));
            }
        }
        // Otherwise a run might come after the one that is planned later, which is then none of its own.
        if jitter > Duration::from_secs(0) && smallest_gap(&times).is_some_and(|gap| jitter.get() >= gap) {
            return Err(("jitter", "must be shorter than the time from one run to the next".to_owned()));
        }
        match self {
            Self::Verify(verify) if verify.wait_for_backup > MOST => {
                Err(("wait_for_backup", format!("at most {MOST}")))
            }
            _ => Ok(()),
        }
    }
}

/// The shortest time from one planned run to the next, of a hundred of them.
fn smallest_gap(times: &Times) -> Option<std::time::Duration> {
    let begin = Timestamp::UNIX_EPOCH;
    let planned = std::iter::successors(times.next(begin), |last| times.next(*last));
    let planned: Vec<Timestamp> = planned.take(101).collect();
    planned.windows(2).map(|pair| pair[1].duration_since(pair[0]).unsigned_abs()).min()
}

/// The longest time to catch up or to wait.
const MOST: Duration = Duration::from_days(366);

/// What is said of a zone that is none.
pub(super) const UNKNOWN_ZONE: &str = "unknown zone; write an IANA name, e.g. UTC or Europe/Paris";

/// True for what a schedule can be called: it has to fit into a variable's name, too.
pub fn is_schedule_name(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter);
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.len() <= 64 && name.chars().all(fits)
}

pub(super) fn check(schedules: &BTreeMap<String, Schedule>) -> Result<(), Problem> {
    for (name, schedule) in schedules {
        if !is_schedule_name(name) {
            return Err(Problem::new(
                format!("schedules.{name}"),
                "names of schedules are lower-case letters, digits, - and _, starting with a letter, at most 64",
            ));
        }
        let checked = schedule.check();
        checked.map_err(|(key, why)| Problem::new(format!("schedules.{name}.{key}"), why))?;
    }
    Ok(())
}
