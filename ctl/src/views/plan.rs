//! What a restore would do.

use proto::{convert, v1};
use serde::Serialize;

use crate::output::words::{count, counted, size};

/// Names shown per place and kind of change.
const SHOWN: usize = 10;

/// A plan for all sources of a restore.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    /// Confirms the plan.
    pub(crate) digest: String,
    pub(crate) backup: String,
    /// At most this much is fetched from the repository.
    pub(crate) fetch_bytes: u64,
    pub(crate) sources: Vec<SourcePlan>,
}

/// What happens in one place.
#[derive(Debug, Serialize)]
pub(crate) struct SourcePlan {
    pub(crate) component: String,
    pub(crate) source: String,
    pub(crate) place: String,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) replaced: Change,
    pub(crate) created: Change,
    pub(crate) removed: Change,
    /// Entries that give somebody rights.
    pub(crate) privileges: Vec<Privileged>,
    /// Why it cannot go ahead; empty: it can.
    pub(crate) obstacles: Vec<String>,
}

/// Entries that have one kind of privilege.
#[derive(Debug, Serialize)]
pub(crate) struct Privileged {
    /// `setuid`, `setgid`, `device`, `capability` or `attribute`.
    pub(crate) kind: &'static str,
    pub(crate) count: u64,
    /// The first hundred.
    pub(crate) names: Vec<String>,
    /// Whether they are restored with it.
    pub(crate) granted: bool,
}

/// Names of top-level entries, of which there may be more than are listed.
#[derive(Debug, Serialize)]
pub(crate) struct Change {
    pub(crate) count: u64,
    pub(crate) names: Vec<String>,
}

impl From<v1::RestorePlan> for Plan {
    fn from(wire: v1::RestorePlan) -> Self {
        let granted = !wire.request.is_some_and(|request| request.without_privileges);
        Self {
            digest: wire.digest,
            backup: wire.backup,
            fetch_bytes: wire.fetch_bytes,
            sources: wire.sources.into_iter().map(|source| SourcePlan::new(source, granted)).collect(),
        }
    }
}

impl SourcePlan {
    fn new(wire: v1::SourcePlan, granted: bool) -> Self {
        let source = wire.source.unwrap_or_default();
        Self {
            component: source.component,
            source: source.name,
            place: wire.place,
            entries: wire.entries,
            bytes: wire.bytes,
            free_bytes: wire.free_bytes,
            replaced: Change { count: wire.replaced_count, names: wire.replaced },
            created: Change { count: wire.created_count, names: wire.created },
            removed: Change { count: wire.removed_count, names: wire.removed },
            privileges: (wire.privileges.into_iter())
                .map(|held| Privileged {
                    kind: convert::privilege_word(held.privilege()),
                    count: held.count,
                    names: held.names,
                    granted,
                })
                .collect(),
            obstacles: wire.obstacles,
        }
    }
}

impl Plan {
    pub(crate) fn can_go_ahead(&self) -> bool {
        self.sources.iter().all(|source| source.obstacles.is_empty())
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text =
            format!("restore of backup {}, at most {} to fetch\n", self.backup, size(self.fetch_bytes));
        for source in &self.sources {
            text.push_str(&source.text());
        }
        text
    }
}

impl SourcePlan {
    fn text(&self) -> String {
        let mut text = format!(
            "\n{}/{} into {}\n  {}, {} ({} free there)\n",
            self.component,
            self.source,
            self.place,
            counted(self.entries, "entry", "entries"),
            size(self.bytes),
            size(self.free_bytes)
        );
        for (word, change) in
            [("replaces", &self.replaced), ("creates", &self.created), ("REMOVES", &self.removed)]
        {
            if change.count > 0 {
                text.push_str(&format!("  {word} {}\n", change.text()));
            }
        }
        for privileged in &self.privileges {
            text.push_str(&format!("  {}\n", privileged.text()));
        }
        for obstacle in &self.obstacles {
            text.push_str(&format!("  CANNOT GO AHEAD: {obstacle}\n"));
        }
        text
    }
}

impl Change {
    fn text(&self) -> String {
        counted_names(self.count, &self.names)
    }
}

impl Privileged {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let word = if self.granted { "gives rights" } else { "LEAVES OUT RIGHTS" };
        format!("{word}, {} {}", self.kind, counted_names(self.count, &self.names))
    }
}

fn counted_names(number: u64, names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    let rest = number.saturating_sub(shown.len() as u64);
    let more = if rest > 0 { format!(" and {} more", count(rest)) } else { String::new() };
    format!("{}: {}{more}", count(number), shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_what_is_removed_and_what_is_in_its_way() {
        let plan = Plan::from(v1::RestorePlan {
            backup: "20260101_010000".into(),
            sources: vec![v1::SourcePlan {
                source: Some(v1::SourceId { component: "models".into(), name: "models".into() }),
                place: "/app/models".into(),
                entries: 1,
                removed: (0..10).map(|n| format!("f{n}")).collect(),
                removed_count: 12,
                obstacles: vec!["too little space".into()],
                privileges: vec![v1::PrivilegedEntries {
                    privilege: v1::Privilege::Setuid.into(),
                    count: 2,
                    names: vec!["bin/su".into()],
                }],
                ..Default::default()
            }],
            ..Default::default()
        });
        assert!(!plan.can_go_ahead());
        let text = plan.text();
        assert!(text.contains("1 entry, 0 B"), "{text}");
        assert!(text.contains("REMOVES 12: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 and 2 more"), "{text}");
        assert!(text.contains("CANNOT GO AHEAD: too little space"), "{text}");
        assert!(text.contains("gives rights, setuid 2: bin/su and 1 more"), "{text}");
    }
}
