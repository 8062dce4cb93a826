//! Messages: what goes to one sink at once, and its words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::alerts::{Event, Severity, Sign};

/// Events that a message tells one by one; of more it gives the counts.
const SHOWN: usize = 20;

/// Something to send. Written down whole, so that every attempt says the same under the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Stays the same however often it is sent.
    pub id: Uuid,
    /// When it was made.
    pub made_at: Timestamp,
    /// The events, the oldest first; of many the first.
    pub events: Vec<Event>,
    /// How many more there are.
    pub more: u64,
    /// How many of each kind, where there are more than are told.
    pub counts: BTreeMap<String, u64>,
    /// Somebody tries the sink; nothing has happened.
    pub test: bool,
}

impl Message {
    /// Of these events, at least one.
    pub fn of(events: Vec<Event>, now: Timestamp) -> Self {
        let more = events.len().saturating_sub(SHOWN);
        let mut counts = BTreeMap::new();
        if events.len() > 1 {
            for event in &events {
                *counts.entry(word(event)).or_default() += 1;
            }
        }
        let events = events.into_iter().take(SHOWN).collect();
        Self { id: Uuid::now_v7(), made_at: now, events, more: more as u64, counts, test: false }
    }

    /// To try a sink.
    pub fn test(now: Timestamp) -> Self {
        let (events, counts) = (Vec::new(), BTreeMap::new());
        Self { id: Uuid::now_v7(), made_at: now, events, more: 0, counts, test: true }
    }

    /// How many events it stands for.
    pub fn total(&self) -> u64 {
        self.events.len() as u64 + self.more
    }

    /// The most that any of it matters.
    pub fn severity(&self) -> Severity {
        self.events.iter().map(Event::severity).max().unwrap_or(Severity::Notice)
    }

    /// Everything in it is an end.
    pub fn is_recovery(&self) -> bool {
        !self.events.is_empty() && self.events.iter().all(|event| event.sign == Sign::Resolved)
    }

    /// In one line.
    pub fn title(&self) -> String {
        match self.events.as_slice() {
            [] => "[TEST] this sink is reached by NeuraShield Backup".to_owned(),
            [event] if self.more == 0 => format!("[{}] {}", mark(event), one_line(&event.what)),
            _ => {
                let mark = match self.is_recovery() {
                    true => "RECOVERED",
                    false => severity_mark(self.severity()),
                };
                format!("[{mark}] {} more alerts", self.total())
            }
        }
    }

    /// In plain words, several lines.
    pub fn text(&self) -> String {
        const FITS: &str = "a String takes every text";
        let mut out = String::new();
        if self.test {
            out.push_str("Somebody ran `nsctl alert test`. Nothing has happened.\n");
        }
        for (kind, count) in &self.counts {
            writeln!(out, "{count} × {kind}").expect(FITS);
        }
        for event in &self.events {
            if !out.is_empty() {
                out.push('\n');
            }
            writeln!(out, "[{}] {}", mark(event), one_line(&event.what)).expect(FITS);
            for (name, words) in details(event) {
                writeln!(out, "{name}: {words}").expect(FITS);
            }
        }
        if self.more > 0 {
            writeln!(out, "\nand {} more, which `nsctl alert history` lists", self.more).expect(FITS);
        }
        out
    }
}

/// What else there is to say of an event, by name.
pub(super) fn details(event: &Event) -> Vec<(&'static str, String)> {
    let job = event.job.map(|job| job.to_string()).unwrap_or_default();
    let all = [
        ("why", one_line(&event.why)),
        ("what to do", one_line(&event.hint)),
        ("about", one_line(&event.subject)),
        ("job", job),
        ("at", format!("{:.0}", event.at)),
    ];
    all.into_iter().filter(|(_, words)| !words.is_empty()).collect()
}

/// The word before an event's line.
pub(super) fn mark(event: &Event) -> &'static str {
    match event.sign {
        Sign::Resolved => "RECOVERED",
        Sign::Raised => severity_mark(event.severity()),
    }
}

fn severity_mark(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "INFO",
        Severity::Notice => "NOTICE",
        Severity::Warning => "WARNING",
        Severity::Critical => "CRITICAL",
    }
}

fn word(event: &Event) -> String {
    match event.sign {
        Sign::Raised => event.kind.word().to_owned(),
        Sign::Resolved => format!("{} (recovered)", event.kind.word()),
    }
}

/// Without what could begin another line or hide something: subjects become headers.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(1_000).collect()
}
