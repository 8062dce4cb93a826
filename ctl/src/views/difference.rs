//! What differs between two backups, as `diff` shows it.

use proto::v1;
use serde::Serialize;

use super::entry::Entry;
use crate::output::words::{count, size};

/// One event of a comparison.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Difference {
    /// An entry is not the same in both.
    Entry(Box<Differing>),
    /// A source was not compared.
    Source {
        component: String,
        source: String,
        /// The one of the two backups that has it, if only one has.
        only_in: Option<String>,
        reason: String,
    },
    /// The last one.
    Counts(Counts),
}

/// An entry that is not the same in both.
#[derive(Debug, Serialize)]
pub(crate) struct Differing {
    pub(crate) change: Change,
    pub(crate) component: String,
    pub(crate) source: String,
    pub(crate) path: String,
    /// In what, of one that is in both: `kind`, `size`, `target`, `time`, `mode`, `owner`.
    pub(crate) differs: Vec<&'static str>,
    /// In the first backup.
    pub(crate) before: Option<Entry>,
    /// In the second.
    pub(crate) after: Option<Entry>,
}

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    Added,
    Removed,
    Changed,
    Metadata,
}

/// How much differs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) first: String,
    pub(crate) second: String,
    pub(crate) added: u64,
    pub(crate) removed: u64,
    pub(crate) changed: u64,
    pub(crate) metadata: u64,
    pub(crate) same: u64,
    /// Of files that are in the second alone.
    pub(crate) added_bytes: u64,
    /// Of files that are in the first alone.
    pub(crate) removed_bytes: u64,
}

/// In what two entries of the same path differ, and what that is. A folder's time changes with what is in it and does
/// not count.
pub(crate) fn differs(before: &v1::EntryLine, after: &v1::EntryLine) -> Option<(Change, Vec<&'static str>)> {
    if before.kind != after.kind {
        return Some((Change::Changed, vec!["kind"]));
    }
    let time = |line: &v1::EntryLine| (line.mtime_seconds, line.mtime_nanoseconds);
    let aspects = [
        ("size", before.size != after.size),
        ("target", before.target != after.target),
        ("time", time(before) != time(after) && after.kind != "folder"),
        ("mode", before.mode != after.mode),
        ("owner", (before.uid, before.gid) != (after.uid, after.gid)),
    ];
    let differs: Vec<_> = aspects.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    // Of a file nothing else tells whether its bytes are the same; a link is where it leads.
    let is_content = |name: &&str| match *name {
        "size" | "target" => true,
        "time" => after.kind == "file",
        _ => false,
    };
    let change = if differs.iter().any(is_content) { Change::Changed } else { Change::Metadata };
    (!differs.is_empty()).then_some((change, differs))
}

impl Counts {
    pub(crate) fn add(&mut self, one: &Differing) {
        match one.change {
            Change::Added => {
                self.added += 1;
                self.added_bytes += one.after.as_ref().map_or(0, |entry| entry.bytes);
            }
            Change::Removed => {
                self.removed += 1;
                self.removed_bytes += one.before.as_ref().map_or(0, |entry| entry.bytes);
            }
            Change::Changed => self.changed += 1,
            Change::Metadata => self.metadata += 1,
        }
    }
}

impl Difference {
    /// A line with one letter in front; `label` is what the source is called beside the others.
    pub(crate) fn line(&self, label: &str) -> String {
        match self {
            Self::Entry(one) => one.line(label),
            Self::Source { reason, .. } => format!("!  {label}  {reason}"),
            Self::Counts(counts) => format!(
                "{} → {}: {} added ({}), {} removed ({}), {} changed, {} in metadata only, {} the same",
                counts.first,
                counts.second,
                count(counts.added),
                size(counts.added_bytes),
                count(counts.removed),
                size(counts.removed_bytes),
                count(counts.changed),
                count(counts.metadata),
                count(counts.same),
            ),
        }
    }
}

impl Differing {
    fn line(&self, label: &str) -> String {
        let letter = match self.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => 'M',
            Change::Metadata => 'U',
        };
        let folder = match self.after.as_ref().or(self.before.as_ref()) {
            Some(entry) if entry.kind == "folder" => "/",
            _ => "",
        };
        let mut line = format!("{letter}  {label}  {}{folder}", self.path);
        if let (Some(before), Some(after)) = (&self.before, &self.after) {
            let word = |name: &&str| match *name {
                "kind" => format!("{} → {}", before.kind, after.kind),
                "size" => format!("{} → {}", bytes(before.bytes), bytes(after.bytes)),
                "mode" => format!("mode {} → {}", before.mode, after.mode),
                "owner" => format!("owner {}:{} → {}:{}", before.uid, before.gid, after.uid, after.gid),
                other => other.to_owned(),
            };
            let words: Vec<_> = self.differs.iter().map(word).collect();
            line.push_str(&format!("  ({})", words.join(", ")));
        }
        line
    }
}

/// To the byte: two sizes that differ by one must not look the same.
fn bytes(bytes: u64) -> String {
    format!("{} B", count(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str) -> v1::EntryLine {
        v1::EntryLine {
            path: b"a".as_slice().into(),
            kind: kind.into(),
            mode: 0o644,
            size: 5,
            ..Default::default()
        }
    }

    fn change(kind: &str, of: impl Fn(&mut v1::EntryLine)) -> Option<(Change, Vec<&'static str>)> {
        let (before, mut after) = (line(kind), line(kind));
        of(&mut after);
        differs(&before, &after)
    }

    #[test]
    fn what_may_be_other_bytes_is_changed_and_the_rest_is_metadata() {
        assert_eq!(change("file", |_| {}), None);
        assert_eq!(change("file", |one| one.mtime_nanoseconds = 1), Some((Change::Changed, vec!["time"])));
        assert_eq!(change("file", |one| one.size = 6), Some((Change::Changed, vec!["size"])));
        assert_eq!(change("file", |one| one.mode = 0o600), Some((Change::Metadata, vec!["mode"])));
        assert_eq!(
            change("file", |one| (one.uid, one.mode) = (1, 0)),
            Some((Change::Metadata, vec!["mode", "owner"]))
        );
        assert_eq!(change("folder", |one| one.mtime_seconds = 9), None);
        assert_eq!(change("symlink", |one| one.mtime_seconds = 9), Some((Change::Metadata, vec!["time"])));
        assert_eq!(
            change("symlink", |one| one.target = b"x".as_slice().into()),
            Some((Change::Changed, vec!["target"]))
        );
        assert_eq!(change("file", |one| one.kind = "folder".into()), Some((Change::Changed, vec!["kind"])));
    }
}
