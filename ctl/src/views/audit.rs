//! The audit log.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::{some, time};
use crate::output::table::{Rows, or_dash};
use crate::output::words::{counted, utc};

/// Lines of the log, the newest first.
#[derive(Debug, Serialize)]
pub(crate) struct Entries {
    pub(crate) entries: Vec<Entry>,
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) at: Option<Timestamp>,
    pub(crate) kind: String,
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) from: Option<String>,
    pub(crate) call: String,
    pub(crate) about: Option<String>,
    pub(crate) result: String,
    pub(crate) reason: Option<String>,
    pub(crate) of: Option<u64>,
    pub(crate) times: Option<u64>,
}

/// What a check of the whole log has found.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) intact: bool,
    pub(crate) lines: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) head: Option<String>,
    pub(crate) finding: Option<String>,
}

impl From<v1::ListAuditResponse> for Entries {
    fn from(wire: v1::ListAuditResponse) -> Self {
        Self { entries: wire.entries.into_iter().map(Entry::from).collect() }
    }
}

impl From<v1::AuditEntry> for Entry {
    fn from(wire: v1::AuditEntry) -> Self {
        let number = |number: u64| Some(number).filter(|number| *number > 0);
        Self {
            sequence: wire.sequence,
            at: time!(wire.at),
            kind: wire.kind,
            id: some(wire.id),
            name: some(wire.name),
            from: some(wire.from),
            call: wire.call,
            about: some(wire.about),
            result: wire.result,
            reason: some(wire.reason),
            of: number(wire.of),
            times: number(wire.times),
        }
    }
}

impl From<v1::CheckAuditResponse> for Check {
    fn from(wire: v1::CheckAuditResponse) -> Self {
        Self {
            intact: wire.finding.is_empty(),
            lines: wire.lines,
            first: wire.first,
            last: wire.last,
            head: some(wire.head),
            finding: some(wire.finding),
        }
    }
}

impl Entries {
    /// For people: a beginning whose end is there too is not shown.
    pub(crate) fn table(&self) -> String {
        let ended: BTreeSet<u64> = self.entries.iter().filter_map(|entry| entry.of).collect();
        let mut rows = Rows::new(&[">LINE", "TIME", "WHO", "FROM", "CALL", "RESULT", "ABOUT"]);
        let is_shown = |entry: &&Entry| entry.result != "begun" || !ended.contains(&entry.sequence);
        for entry in self.entries.iter().filter(is_shown) {
            rows.row([
                entry.sequence.to_string(),
                entry.at.map_or_else(|| "-".to_owned(), utc),
                entry.who(),
                entry.from.clone().unwrap_or_else(|| "-".to_owned()),
                entry.call.clone(),
                entry.outcome(),
                or_dash(entry.about.as_deref().unwrap_or_default()),
            ]);
        }
        rows.finish_or("nothing was asked for in that time")
    }
}

impl Entry {
    fn who(&self) -> String {
        match self.name.as_ref().or(self.id.as_ref()) {
            Some(name) => format!("{} {name}", self.kind),
            None => self.kind.clone(),
        }
    }

    fn outcome(&self) -> String {
        let mut text = self.result.clone();
        if let Some(reason) = &self.reason {
            text.push_str(&format!(" {reason}"));
        }
        if let Some(times) = self.times {
            text.push_str(&format!(" ({} more)", counted(times, "time", "times")));
        }
        text
    }
}

impl Check {
    pub(crate) fn text(&self) -> String {
        let lines = counted(self.lines, "line", "lines");
        let kept = match self.lines {
            0 => "the audit log is empty".to_owned(),
            _ => format!("{lines}, {} to {}", self.first, self.last),
        };
        let head = self.head.as_ref().map(|head| format!("\nends with {head}")).unwrap_or_default();
        match &self.finding {
            None => format!("intact: {kept}{head}"),
            Some(finding) => format!("DAMAGED: {finding}\n{kept}{head}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, result: &str, of: u64) -> v1::AuditEntry {
        let call = "Jobs/StartBackup".to_owned();
        let kind = "user".to_owned();
        v1::AuditEntry { sequence, result: result.to_owned(), of, call, kind, ..Default::default() }
    }

    #[test]
    fn a_call_is_one_line_and_one_that_never_ended_is_still_seen() {
        let wire = vec![entry(3, "begun", 0), entry(2, "done", 1), entry(1, "begun", 0)];
        let table = Entries::from(v1::ListAuditResponse { entries: wire }).table();
        let lines: Vec<&str> = table.lines().skip(1).map(str::trim_start).collect();
        assert!(lines.len() == 2 && lines[0].starts_with('3') && lines[1].starts_with('2'), "{table}");
    }
}
