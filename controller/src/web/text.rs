//! Figures and states as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use prost_types::Timestamp as WireTime;
use proto::convert::from_wire_time;
use proto::v1;
use proto::v1::SourceId;

/// How good something is. It is always shown with a word, never by its colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mood {
    Bad,
    Fair,
    Busy,
    Plain,
    Good,
}

impl Mood {
    /// Its class in the stylesheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Fair => "fair",
            Self::Busy => "busy",
            Self::Plain => "plain",
            Self::Good => "good",
        }
    }

    /// The shape beside its word.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Bad => "✕",
            Self::Fair => "!",
            Self::Busy => "…",
            Self::Plain => "–",
            Self::Good => "✓",
        }
    }
}

/// A state: how good it is, and its word.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) mood: Mood,
    pub(super) word: String,
}

impl State {
    pub(super) fn new(mood: Mood, word: impl Into<String>) -> Self {
        Self { mood, word: word.into() }
    }
}

pub(super) fn outcome(outcome: v1::Outcome) -> State {
    match outcome {
        v1::Outcome::Complete => State::new(Mood::Good, "complete"),
        v1::Outcome::Incomplete => State::new(Mood::Fair, "incomplete"),
        v1::Outcome::Failed => State::new(Mood::Bad, "failed"),
        v1::Outcome::Unspecified => State::new(Mood::Plain, "unknown"),
    }
}

pub(super) fn job_state(state: v1::JobState) -> State {
    use v1::JobState as S;
    match state {
        S::Queued => State::new(Mood::Busy, "waiting"),
        S::Running => State::new(Mood::Busy, "running"),
        S::Committing => State::new(Mood::Busy, "committing"),
        S::Complete => State::new(Mood::Good, "complete"),
        S::Incomplete => State::new(Mood::Fair, "incomplete"),
        S::Failed => State::new(Mood::Bad, "failed"),
        S::Cancelled => State::new(Mood::Fair, "cancelled"),
        S::Unspecified => State::new(Mood::Plain, "unknown"),
    }
}

pub(super) fn time(time: Option<WireTime>) -> Option<Timestamp> {
    time.and_then(|time| from_wire_time("time", time).ok())
}

/// UTC to the minute.
pub(super) fn utc(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A time in a zone and in UTC. The zone's name is IANA's; one that is not known is left out.
pub(super) fn at_in(at: Timestamp, zone: &str) -> String {
    let there = TimeZone::get(zone).ok().filter(|_| zone != "UTC");
    let Some(there) = there.map(|there| at.to_zoned(there)) else { return utc(at) };
    let here = at.to_zoned(TimeZone::UTC);
    let of_utc = if there.date() == here.date() { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" };
    format!("{} {zone} ({})", there.strftime("%Y-%m-%d %H:%M"), here.strftime(of_utc))
}

/// How long ago, or in how long.
pub(super) fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(time).as_secs();
    match seconds {
        0..60 => "just now".to_owned(),
        60.. => format!("{} ago", span(seconds)),
        _ => format!("in {}", span(-seconds)),
    }
}

/// A length of time in one unit.
pub(super) fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.5 would be written as 1024.
    while value >= 1_023.5 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// What a source is called: its component, and its name where that says more.
pub(super) fn source_words(source: &SourceId) -> String {
    match source.name == source.component || source.name.is_empty() {
        true => source.component.clone(),
        false => format!("{}/{}", source.component, source.name),
    }
}

/// A name of any bytes as text: what is not text, or would move, hide or turn what stands beside it, is
/// shown as what it is.
pub(super) fn printable(bytes: &[u8]) -> String {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        match c.is_control() || turns(c) {
            true => text.extend(c.escape_unicode()),
            false => text.push(c),
        }
    }
    text
}

/// A text with commands in it, `as here`: its parts, and which of them are commands.
pub(super) fn marked(text: &str) -> Vec<(bool, &str)> {
    // A mark that nobody has ended marks nothing.
    if !text.matches('`').count().is_multiple_of(2) {
        return vec![(false, text)];
    }
    text.split('`')
        .enumerate()
        .map(|(nth, part)| (nth % 2 == 1, part))
        .filter(|(_, part)| !part.is_empty())
        .collect()
}

/// `1 file`, `2 files`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [size(0), size(1_023), size(1_536), size(200 << 20)],
            ["0 B", "1023 B", "1.5 KiB", "200 MiB"]
        );
        let now = Timestamp::UNIX_EPOCH;
        let at = |seconds| age(now - jiff::SignedDuration::from_secs(seconds), now);
        assert_eq!(
            [at(0), at(119), at(600), at(-86_400)],
            ["just now", "119 s ago", "10 min ago", "in 24 h"]
        );
        assert_eq!(printable(b"a\nb\xff"), "a\\u{a}b\u{fffd}");
        assert_eq!([listed(&["a"]), listed(&["a", "b", "c"])], ["a", "a, b and c"]);
        assert_eq!(marked("run `nsctl jobs`"), [(false, "run "), (true, "nsctl jobs")]);
        assert_eq!(marked("it's `so"), [(false, "it's `so")]);
        let at = "2026-11-26T23:30:00Z".parse().expect("a time");
        assert_eq!(at_in(at, "Europe/Paris"), "2026-11-27 00:30 Europe/Paris (2026-11-26 23:30 UTC)");
        assert_eq!(
            [at_in(at, "UTC"), at_in(at, "No/Where")],
            ["2026-11-26 23:30 UTC", "2026-11-26 23:30 UTC"]
        );
    }
}
