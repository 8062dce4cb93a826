//! Backups and their archives.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;

use super::proven::Proven;
use super::{consistency, depth, outcome, some, time};
use crate::output::table::{Rows, or_dash};
use crate::output::words::{age, count, size, utc};

/// All backups.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Listing {
    /// Newest first.
    pub(crate) backups: Vec<Backup>,
    /// What older systems left in the same root.
    pub(crate) legacy: Vec<Legacy>,
    /// What cannot be trusted any more.
    pub(crate) damaged: Vec<Damaged>,
}

/// A backup whose own description is damaged.
#[derive(Debug, Serialize)]
pub(crate) struct Damaged {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// A backup of an older system.
#[derive(Debug, Serialize)]
pub(crate) struct Legacy {
    pub(crate) name: String,
    pub(crate) components: Vec<String>,
}

/// One backup.
#[derive(Debug, Serialize)]
pub(crate) struct Backup {
    pub(crate) name: String,
    pub(crate) sequence: u64,
    pub(crate) outcome: &'static str,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    /// Of all archives together, holes included.
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// What this backup added to the repository.
    pub(crate) stored_bytes: u64,
    /// Why it is kept beyond its time.
    pub(crate) pinned: Option<String>,
    /// The restore before which it was made; none: it is no safety backup.
    pub(crate) safety_of: Option<String>,
    /// Of a safety backup: its pin counts until then.
    pub(crate) safe_until: Option<Timestamp>,
    pub(crate) job: Option<String>,
    pub(crate) archives: Vec<Archive>,
}

/// One source's part of a backup.
#[derive(Debug, Serialize)]
pub(crate) struct Archive {
    pub(crate) component: String,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) outcome: &'static str,
    /// Why it is not complete.
    pub(crate) reason: Option<String>,
    /// What it is that comes back, as its manifest says; of one backup, not of a list.
    pub(crate) remarks: Vec<String>,
    pub(crate) consistency: &'static str,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) verifications: Vec<Verification>,
}

/// Figures of an archive.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) files: u64,
    pub(crate) folders: u64,
    pub(crate) links: u64,
    pub(crate) specials: u64,
    pub(crate) bytes: u64,
    pub(crate) unreadable: u64,
    pub(crate) vanished: u64,
    pub(crate) changed: u64,
    pub(crate) read_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) reused_files: u64,
}

/// The depth of what a program has opened.
const DRILLED: &str = "drilled";

/// The newest result at one depth.
#[derive(Debug, Serialize)]
pub(crate) struct Verification {
    pub(crate) depth: &'static str,
    pub(crate) at: Option<Timestamp>,
    pub(crate) intact: bool,
    pub(crate) findings: Vec<String>,
    pub(crate) proven: Proven,
}

impl Listing {
    /// Adds the next page.
    pub(crate) fn add(&mut self, page: v1::ListBackupsResponse) {
        let legacy = |old: v1::LegacyBackup| Legacy { name: old.name, components: old.components };
        self.backups.extend(page.backups.into_iter().map(Backup::from));
        self.legacy.extend(page.legacy.into_iter().map(legacy));
    }
}

impl From<v1::Backup> for Backup {
    fn from(wire: v1::Backup) -> Self {
        let outcome = outcome(wire.outcome());
        let archives: Vec<_> = wire.archives.into_iter().map(Archive::from).collect();
        let sum = |of: fn(&Counts) -> u64| archives.iter().map(|archive| of(&archive.counts)).sum();
        Self {
            name: wire.name,
            sequence: wire.sequence,
            outcome,
            started_at: time!(wire.started_at),
            ended_at: time!(wire.ended_at),
            bytes: sum(|counts| counts.bytes),
            files: sum(|counts| counts.files),
            stored_bytes: sum(|counts| counts.stored_bytes),
            pinned: some(wire.pinned),
            safety_of: some(wire.safety_of),
            safe_until: time!(wire.safe_until),
            job: some(wire.job_id),
            archives,
        }
    }
}

impl From<v1::Archive> for Archive {
    fn from(wire: v1::Archive) -> Self {
        let (outcome, consistency) = (outcome(wire.outcome()), consistency(wire.consistency()));
        let source = wire.source.unwrap_or_default();
        Self {
            component: source.component,
            source: source.name,
            kind: wire.kind,
            outcome,
            reason: some(wire.reason),
            remarks: wire.remarks,
            consistency,
            counts: wire.counts.map(Counts::from).unwrap_or_default(),
            verifications: wire.verifications.into_iter().map(Verification::from).collect(),
        }
    }
}

impl From<v1::ArchiveCounts> for Counts {
    fn from(wire: v1::ArchiveCounts) -> Self {
        Self {
            files: wire.files,
            folders: wire.folders,
            links: wire.links,
            specials: wire.specials,
            bytes: wire.bytes,
            unreadable: wire.unreadable,
            vanished: wire.vanished,
            changed: wire.changed,
            read_bytes: wire.read_bytes,
            stored_bytes: wire.stored_bytes,
            reused_files: wire.reused_files,
        }
    }
}

impl From<v1::Verification> for Verification {
    fn from(wire: v1::Verification) -> Self {
        let depth = depth(wire.depth());
        let proven = wire.proven.map(Proven::from).unwrap_or_default();
        Self { depth, at: time!(wire.at), intact: wire.intact, findings: wire.findings, proven }
    }
}

impl Listing {
    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut rows =
            Rows::new(&["BACKUP", "AGE", "OUTCOME", "COMPONENTS", ">SIZE", ">NEW", "VERIFIED", "PINNED"]);
        for backup in &self.backups {
            rows.row([
                backup.name.clone(),
                backup.ended_at.map_or_else(|| "-".to_owned(), |at| age(at, now)),
                backup.outcome.to_owned(),
                backup.components(),
                size(backup.bytes),
                size(backup.stored_bytes),
                backup.verified(now),
                or_dash(backup.pinned.as_deref().unwrap_or_default()),
            ]);
        }
        for old in &self.legacy {
            let [dash, none, nothing, unknown, unpinned] = std::array::from_fn(|_| "-".to_owned());
            let components = or_dash(&old.components.join(","));
            rows.row([
                old.name.clone(),
                dash,
                "legacy".to_owned(),
                components,
                none,
                nothing,
                unknown,
                unpinned,
            ]);
        }
        let mut text = rows.finish_or("no backups yet; make one with `nsctl backup`");
        for damaged in &self.damaged {
            text.push_str(&format!("\n{}: DAMAGED: {}", damaged.name, damaged.reason));
        }
        text
    }
}

impl Backup {
    /// The components in it, those that are not complete in brackets.
    fn components(&self) -> String {
        let word = |archive: &Archive| match archive.outcome {
            "complete" => archive.component.clone(),
            _ => format!("[{}]", archive.component),
        };
        let mut words: Vec<_> = self.archives.iter().map(word).collect();
        words.dedup();
        words.join(",")
    }

    /// The deepest verification that all complete archives have, or `damaged`.
    fn verified(&self, now: Timestamp) -> String {
        let complete = || self.archives.iter().filter(|archive| archive.outcome == "complete");
        let mut wrong =
            complete().flat_map(|archive| &archive.verifications).filter(|result| !result.intact).peekable();
        if wrong.peek().is_some() {
            // A program did not open it: that may have other reasons than what was read of it.
            let is_read = wrong.all(|result| result.depth == DRILLED);
            return if is_read { "drill failed" } else { "damaged" }.to_owned();
        }
        let results = ["drilled", "opened", "hashed", "listed"].into_iter().filter_map(|depth| {
            let of = |archive: &'_ Archive| -> Option<(Timestamp, u64)> {
                let result = archive.verifications.iter().find(|result| result.depth == depth)?;
                // As old as the oldest reading that it rests on.
                let at = result.proven.oldest.into_iter().chain(result.at).min()?;
                Some((at, result.proven.percent()))
            };
            let each: Vec<_> = complete().map(of).collect::<Option<_>>()?;
            let percent = each.iter().map(|(_, percent)| *percent).min()?;
            let oldest = each.iter().map(|(at, _)| *at).min()?;
            Some((depth, percent, age(oldest, now)))
        });
        // One that has read everything says more than a deeper one that has not.
        let all: Vec<_> = results.collect();
        match all.iter().find(|(_, percent, _)| *percent == 100).or(all.first()) {
            Some((depth, 100, age)) => format!("{depth} {age}"),
            Some((depth, percent, age)) => format!("{depth} {percent} % {age}"),
            None => "-".to_owned(),
        }
    }

    pub(crate) fn table(&self, now: Timestamp) -> String {
        let mut text =
            format!("backup    {} (sequence {})\noutcome   {}\n", self.name, self.sequence, self.outcome);
        for (word, at) in [("started", self.started_at), ("ended", self.ended_at)] {
            if let Some(at) = at {
                text.push_str(&format!("{word:<9} {} ({})\n", utc(at), age(at, now)));
            }
        }
        for (word, value) in [("pinned", &self.pinned), ("job", &self.job)] {
            if let Some(value) = value {
                text.push_str(&format!("{word:<9} {value}\n"));
            }
        }
        text.push_str(&format!("verified  {}\n\n", self.verified(now)));
        text.push_str(&archives(&self.archives));
        for archive in &self.archives {
            text.push_str(&archive.remarks(now));
        }
        text
    }
}

fn archives(archives: &[Archive]) -> String {
    let headers =
        ["COMPONENT", "SOURCE", "KIND", "OUTCOME", "CONSISTENCY", ">FILES", ">SIZE", ">READ", ">NEW"];
    let mut rows = Rows::new(&headers);
    for archive in archives {
        rows.row([
            archive.component.clone(),
            archive.source.clone(),
            archive.kind.clone(),
            archive.outcome.to_owned(),
            archive.consistency.to_owned(),
            count(archive.counts.files),
            size(archive.counts.bytes),
            size(archive.counts.read_bytes),
            size(archive.counts.stored_bytes),
        ]);
    }
    rows.finish_or("no archives")
}

impl Archive {
    /// Lines about what is not as it should be, or should be known; empty if there is nothing.
    fn remarks(&self, now: Timestamp) -> String {
        let name = format!("{}/{}", self.component, self.source);
        let mut text = String::new();
        if let Some(reason) = &self.reason {
            text.push_str(&format!("\n{name}: {reason}"));
        }
        for remark in &self.remarks {
            text.push_str(&format!("\n{name}: {remark}"));
        }
        let Counts { unreadable, vanished, changed, .. } = self.counts;
        if unreadable + vanished + changed > 0 {
            let told = format!("{unreadable} unreadable, {vanished} vanished, {changed} changed while read");
            text.push_str(&format!("\n{name}: {told}"));
        }
        for result in &self.verifications {
            if let Some(words) = result.proven.in_words() {
                text.push_str(&format!("\n{name}: {}: {words}", result.depth));
            }
        }
        let drilled = self.verifications.iter().filter(|result| result.depth == DRILLED && result.intact);
        for at in drilled.filter_map(|result| result.at) {
            text.push_str(&format!("\n{name}: drilled {}", age(at, now)));
        }
        for result in self.verifications.iter().filter(|result| !result.intact) {
            for finding in &result.findings {
                text.push_str(&match result.depth == DRILLED {
                    true => format!("\n{name}: {finding}"),
                    false => format!("\n{name}: damaged ({}): {finding}", result.depth),
                });
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::Backup {
        let source = v1::SourceId { component: "models".into(), name: "models".into() };
        let counts =
            v1::ArchiveCounts { files: 3, bytes: 3 << 20, stored_bytes: 1 << 20, ..Default::default() };
        let at = proto::convert::to_wire_time("2026-01-01T05:00:00Z".parse().expect("valid"));
        let verification = v1::Verification {
            depth: v1::Depth::Opened as i32,
            at: Some(at),
            intact: true,
            findings: vec![],
            proven: None,
        };
        v1::Backup {
            name: "20260101_010000".into(),
            sequence: 7,
            outcome: v1::Outcome::Complete as i32,
            started_at: Some(proto::convert::to_wire_time("2026-01-01T01:00:00Z".parse().expect("valid"))),
            ended_at: None,
            archives: vec![v1::Archive {
                source: Some(source),
                kind: "files".into(),
                outcome: v1::Outcome::Complete as i32,
                consistency: v1::Consistency::Fuzzy as i32,
                counts: Some(counts),
                verifications: vec![verification],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn json_has_utc_times_integers_and_null_for_nothing() {
        let json = serde_json::to_value(Backup::from(wire())).expect("serialises");
        assert_eq!(json["started_at"], "2026-01-01T01:00:00Z");
        assert_eq!(json["ended_at"], serde_json::Value::Null);
        assert_eq!(json["pinned"], serde_json::Value::Null);
        assert_eq!(json["bytes"], 3 << 20);
        assert_eq!(json["archives"][0]["stored_bytes"], 1 << 20);
        assert_eq!(json["archives"][0]["consistency"], "fuzzy");
    }

    #[test]
    fn yaml_has_the_fields_of_json() {
        let view = Backup::from(wire());
        let yaml = serde_saphyr::to_string(&view).expect("serialises");
        let back: serde_json::Value = serde_saphyr::from_str(&yaml).expect("valid YAML");
        assert_eq!(back, serde_json::to_value(&view).expect("serialises"));
    }

    #[test]
    fn the_list_shows_ages_sizes_and_older_systems() {
        let legacy =
            vec![v1::LegacyBackup { name: "20240101_010000".into(), components: vec!["database".into()] }];
        let mut listing = Listing::default();
        listing.add(v1::ListBackupsResponse { backups: vec![wire()], legacy, more: false });
        let table = listing.table("2026-01-01T06:00:00Z".parse().expect("valid"));
        let lines: Vec<_> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "BACKUP AGE OUTCOME COMPONENTS SIZE NEW VERIFIED PINNED",
                "20260101_010000 - complete models 3.00 MiB 1.00 MiB opened 60m ago -",
                "20240101_010000 - legacy database - - - -",
            ]
        );
    }

    #[test]
    fn the_list_says_how_much_was_read_and_how_long_ago_the_oldest_of_it() {
        let proven = |depth: v1::Depth, oldest: &str, unread_bytes| v1::Verification {
            depth: depth as i32,
            at: Some(proto::convert::to_wire_time("2026-01-01T05:00:00Z".parse().expect("valid"))),
            intact: true,
            findings: vec![],
            proven: Some(v1::Proven {
                now_bytes: 20,
                earlier_bytes: 10,
                oldest: Some(proto::convert::to_wire_time(oldest.parse().expect("valid"))),
                unread_bytes,
                notes: vec![],
            }),
        };
        let in_part = proven(v1::Depth::Opened, "2025-12-30T06:00:00Z", 70);
        let whole = proven(v1::Depth::Hashed, "2025-12-29T06:00:00Z", 0);
        let verified = |verifications| {
            let mut wire = wire();
            wire.archives[0].verifications = verifications;
            Backup::from(wire).verified("2026-01-01T06:00:00Z".parse().expect("valid"))
        };
        assert_eq!(verified(vec![in_part.clone()]), "opened 30 % 2d ago");
        assert_eq!(verified(vec![in_part, whole]), "hashed 3d ago");
    }

    #[test]
    fn damage_found_at_any_depth_is_shown() {
        let mut wire = wire();
        wire.archives[0].verifications[0].intact = false;
        wire.archives[0].verifications[0].findings = vec!["pack ab34 is damaged".into()];
        let table = Backup::from(wire).table("2026-01-01T06:00:00Z".parse().expect("valid"));
        assert!(table.contains("verified  damaged"), "{table}");
        assert!(table.contains("models/models: damaged (opened): pack ab34 is damaged"), "{table}");
    }
}
