//! Which backups are kept. Pure: facts and a time in, a decision with its reasons for each backup out.
//!
//! Must stay true:
//! - What one rule keeps stays: another rule never makes more go.
//! - Order is the controller's sequence, never a name: a backup made while a clock was wrong takes no other
//!   one's place (see [`mod@times`]).
//! - What is incomplete takes no complete one's place: a rule that counts, counts the complete ones and, apart
//!   from them, all.
//! - A backup goes only if, for each source that it has data of, a newer backup holds that source no worse and
//!   is verified. So the newest verified one of each source stays whatever its age; and who knows less of
//!   verifications (nobody verified, the catalog was lost) removes less.

mod times;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use crate::backup::manifest::Outcome;
use crate::names::{BackupName, SourceId};
use crate::verify::Depth;
use times::times;

/// What is kept. A rule that is not set keeps nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// All that are younger than so many seconds.
    pub keep_within_seconds: Option<u64>,
    /// The newest so many.
    pub keep_last: Option<u32>,
    /// The newest of each of so many hours.
    pub keep_hourly: Option<u32>,
    /// The newest of each of so many days.
    pub keep_daily: Option<u32>,
    /// The newest of each of so many weeks, which begin on Monday.
    pub keep_weekly: Option<u32>,
    /// The newest of each of so many months.
    pub keep_monthly: Option<u32>,
    /// The newest of each of so many years.
    pub keep_yearly: Option<u32>,
    /// The newest so many complete ones, whatever their age; 0 counts as 1.
    pub keep_complete: u32,
}

/// A span of the calendar, of which one backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week by ISO 8601.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// What is known of one backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Its name.
    pub name: BackupName,
    /// Its place in the order of backups.
    pub sequence: u64,
    /// When it was begun, by the clock of that time.
    pub started_at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Why somebody wants it kept.
    pub pin: Option<String>,
    /// Who reads it at this moment.
    pub in_use: Option<String>,
    /// Its archives.
    pub archives: Vec<ArchiveFacts>,
}

/// What is known of one archive.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchiveFacts {
    /// Of which source.
    pub source: SourceId,
    /// How it ended.
    pub outcome: Outcome,
    /// What verifications found.
    pub proofs: Vec<Proof>,
}

/// The result of one verification of one archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// How deep it looked.
    pub depth: Depth,
    /// When.
    pub at: Timestamp,
    /// Nothing was found.
    pub intact: bool,
}

/// Why a backup is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// Somebody wants it.
    Pinned(String),
    /// It is read at this moment.
    InUse(String),
    /// It is younger than so many seconds.
    Within(u64),
    /// It is one of the newest so many.
    Last(u32),
    /// It is the newest of one of so many periods.
    Newest(Period, u32),
    /// It is one of the newest so many complete ones.
    Complete(u32),
    /// It is the newest verified one of this source.
    Verified(SourceId),
    /// No newer verified backup holds this source as well as it does.
    NotReplaced(SourceId),
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub name: BackupName,
    /// Its place in the order of backups.
    pub sequence: u64,
    /// Why it is kept, the strongest reason first; none: it goes.
    pub keeps: Vec<Keep>,
}

impl Decision {
    /// True if nothing keeps it.
    pub fn goes(&self) -> bool {
        self.keeps.is_empty()
    }
}

impl ArchiveFacts {
    /// True if every pack that it needs was read and found right, and nothing deeper or later says otherwise.
    pub fn is_verified(&self) -> bool {
        let doubts = |proof: &Proof| {
            self.proofs
                .iter()
                .any(|other| !other.intact && (other.at >= proof.at || other.depth > proof.depth))
        };
        self.proofs.iter().any(|proof| proof.intact && proof.depth >= Depth::Hashed && !doubts(proof))
    }
}

/// Decides what becomes of each backup, newest first. `zone` says where days begin.
pub fn decide(backups: &[Facts], rules: &Rules, now: Timestamp, zone: &TimeZone) -> Vec<Decision> {
    let mut backups: Vec<&Facts> = backups.iter().collect();
    backups.sort_by(|a, b| (b.sequence, &b.name).cmp(&(a.sequence, &a.name)));
    let times = times(&backups, now);
    let mut keeps: Vec<BTreeSet<Keep>> = vec![BTreeSet::new(); backups.len()];

    for (at, backup) in backups.iter().enumerate() {
        keeps[at].extend(backup.pin.clone().map(Keep::Pinned));
        keeps[at].extend(backup.in_use.clone().map(Keep::InUse));
        keeps[at].extend(
            rules.keep_within_seconds.filter(|limit| is_within(now, times[at], *limit)).map(Keep::Within),
        );
    }
    let of_all: Vec<usize> = (0..backups.len()).collect();
    let complete: Vec<usize> =
        of_all.iter().copied().filter(|at| backups[*at].outcome == Outcome::Complete).collect();
    for counted in [&of_all, &complete] {
        if let Some(count) = rules.keep_last {
            for at in counted.iter().take(count as usize) {
                keeps[*at].insert(Keep::Last(count));
            }
        }
        for (period, count) in rules.periods() {
            for at in newest_of_each(counted, &times, period, count, zone) {
                keeps[at].insert(Keep::Newest(period, count));
            }
        }
    }
    let minimum = rules.keep_complete.max(1);
    for at in complete.iter().take(minimum as usize) {
        keeps[*at].insert(Keep::Complete(minimum));
    }
    keep_what_nothing_replaces(&backups, &mut keeps);

    let decided = backups.iter().zip(keeps);
    decided
        .map(|(backup, keeps)| Decision {
            name: backup.name.clone(),
            sequence: backup.sequence,
            keeps: keeps.into_iter().collect(),
        })
        .collect()
}

impl Rules {
    /// The rules of the calendar that are set.
    pub fn periods(&self) -> impl Iterator<Item = (Period, u32)> {
        let counts = [
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Year, self.keep_yearly),
        ];
        counts.into_iter().filter_map(|(period, count)| Some((period, count?)))
    }

    /// True if some rule keeps more than the minimum.
    pub fn keeps_anything(&self) -> bool {
        self.keep_within_seconds.is_some_and(|seconds| seconds > 0)
            || self.keep_last.is_some_and(|count| count > 0)
            || self.periods().any(|(_, count)| count > 0)
    }
}

fn is_within(now: Timestamp, time: Timestamp, seconds: u64) -> bool {
    let limit = i64::try_from(seconds).unwrap_or(i64::MAX);
    now.duration_since(time) <= SignedDuration::from_secs(limit)
}

/// The newest of each of the `count` newest periods that hold any of `counted`, which is newest first.
fn newest_of_each(
    counted: &[usize],
    times: &[Timestamp],
    period: Period,
    count: u32,
    zone: &TimeZone,
) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut newest = Vec::new();
    for at in counted {
        if seen.len() >= count as usize {
            break;
        }
        if seen.insert(period.of(&times[*at].to_zoned(zone.clone()))) {
            newest.push(*at);
        }
    }
    newest
}

impl Period {
    /// The period that a time lies in: equal for two times in the same one.
    fn of(self, time: &Zoned) -> (i16, i16, i8, i64) {
        let date = time.date();
        match self {
            // The instant of its start, since a clock that is set back shows an hour twice.
            Self::Hour => (date.year(), date.day_of_year(), time.hour(), time.offset().seconds().into()),
            Self::Day => (date.year(), date.day_of_year(), 0, 0),
            Self::Week => {
                let week = date.iso_week_date();
                (week.year(), week.week().into(), 0, 0)
            }
            Self::Month => (date.year(), date.month().into(), 0, 0),
            Self::Year => (date.year(), 0, 0, 0),
        }
    }
}

/// Keeps each backup that holds a source for which there is no newer one, verified and no worse. `backups` is
/// newest first.
fn keep_what_nothing_replaces(backups: &[&Facts], keeps: &mut [BTreeSet<Keep>]) {
    /// What was seen of a source among the backups that are newer.
    #[derive(Default, Clone, Copy)]
    struct Seen {
        complete: bool,
        any: bool,
    }
    let mut newer: BTreeMap<&SourceId, Seen> = BTreeMap::new();
    for (backup, keeps) in backups.iter().zip(keeps) {
        for archive in backup.archives.iter().filter(|archive| archive.outcome != Outcome::Failed) {
            let seen = newer.entry(&archive.source).or_default();
            let is_complete = archive.outcome == Outcome::Complete;
            let is_replaced = if is_complete { seen.complete } else { seen.any };
            let is_verified = archive.is_verified();
            if !is_replaced {
                let source = archive.source.clone();
                keeps.insert(if is_verified { Keep::Verified(source) } else { Keep::NotReplaced(source) });
            }
            if is_verified {
                seen.any = true;
                seen.complete |= is_complete;
            }
        }
    }
}

/// In one line, for people.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.keep_within_seconds.map(|seconds| format!("within {}", span(seconds))));
        words.extend(self.keep_last.map(|count| format!("last {count}")));
        words.extend(self.periods().map(|(period, count)| format!("{count} {}", period.word())));
        words.push(format!("{} complete", self.keep_complete));
        f.write_str(&words.join(", "))
    }
}

/// In one line, for people.
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(reason) => write!(f, "pinned: {reason}"),
            Self::InUse(by) => write!(f, "in use: {by}"),
            Self::Within(seconds) => write!(f, "within {}", span(*seconds)),
            Self::Last(1) => f.write_str("the newest"),
            Self::Last(count) => write!(f, "one of the newest {count}"),
            Self::Newest(period, count) => write!(f, "one of {count} {}", period.word()),
            Self::Complete(1) => f.write_str("the newest complete one"),
            Self::Complete(count) => write!(f, "one of the newest {count} complete ones"),
            Self::Verified(source) => write!(f, "the newest verified one of {source}"),
            Self::NotReplaced(source) => write!(f, "no newer verified one of {source}"),
        }
    }
}

impl Period {
    fn word(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// A length of time in the largest unit that says all of it: `30d`, `36h`, `90s`.
fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let fits = units.iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{seconds}s"), |(unit, word)| format!("{}{word}", seconds / unit))
}

#[cfg(test)]
mod tests;
