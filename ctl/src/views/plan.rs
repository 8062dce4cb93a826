//! What a restore would do.

use proto::{convert, v1};
use serde::Serialize;

use super::some;
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
    /// By how long the last restores took; none: there was none.
    pub(crate) estimated_seconds: Option<u64>,
    /// The restore that this one takes back.
    pub(crate) undo_of: Option<String>,
    /// What the backup lacks; empty: nothing is known against it.
    pub(crate) doubts: Vec<String>,
    pub(crate) safety_backup: SafetyBackup,
    pub(crate) remarks: Vec<String>,
    pub(crate) sources: Vec<SourcePlan>,
}

/// What is backed up before.
#[derive(Debug, Serialize)]
pub(crate) struct SafetyBackup {
    /// None: nothing is replaced, or nobody wants it.
    pub(crate) components: Vec<String>,
    /// So long it is pinned.
    pub(crate) kept_seconds: u64,
}

/// A program that is stopped, if it runs, and started again.
#[derive(Debug, Serialize)]
pub(crate) struct Application {
    pub(crate) name: String,
    /// `commands`, `container` or `workload`.
    pub(crate) kind: String,
    pub(crate) running: bool,
    /// Its health is waited for.
    pub(crate) checked: bool,
}

/// What happens in one place.
#[derive(Debug, Serialize)]
pub(crate) struct SourcePlan {
    pub(crate) component: String,
    pub(crate) source: String,
    pub(crate) place: String,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// That have to be free, beside what is there.
    pub(crate) needed_bytes: u64,
    /// None: nobody knows.
    pub(crate) free_bytes: Option<u64>,
    pub(crate) in_place: bool,
    /// What uses the place, in the order in which it is started.
    pub(crate) stops: Vec<Application>,
    pub(crate) replaced: Change,
    pub(crate) created: Change,
    pub(crate) removed: Change,
    /// What stays as it is; none: nothing that is there.
    pub(crate) leaves: Option<String>,
    pub(crate) remarks: Vec<String>,
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
        let request = wire.request.unwrap_or_default();
        let granted = !request.without_privileges;
        Self {
            digest: wire.digest,
            backup: wire.backup,
            fetch_bytes: wire.fetch_bytes,
            estimated_seconds: (wire.estimated_seconds > 0).then_some(wire.estimated_seconds),
            undo_of: some(request.undo_of),
            doubts: wire.doubts,
            safety_backup: SafetyBackup {
                components: wire.safety_components,
                kept_seconds: wire.safety_seconds,
            },
            remarks: wire.remarks,
            sources: wire.sources.into_iter().map(|source| SourcePlan::new(source, granted)).collect(),
        }
    }
}

impl SourcePlan {
    pub(crate) fn new(wire: v1::SourcePlan, granted: bool) -> Self {
        let source = wire.source.unwrap_or_default();
        Self {
            component: source.component,
            source: source.name,
            place: wire.place,
            entries: wire.entries,
            bytes: wire.bytes,
            needed_bytes: wire.needed_bytes,
            free_bytes: (wire.free_bytes != u64::MAX).then_some(wire.free_bytes),
            in_place: wire.in_place,
            stops: (wire.stops.into_iter())
                .map(|v1::Application { name, kind, running, checked }| Application {
                    name,
                    kind,
                    running,
                    checked,
                })
                .collect(),
            replaced: Change { count: wire.replaced_count, names: wire.replaced },
            created: Change { count: wire.created_count, names: wire.created },
            removed: Change { count: wire.removed_count, names: wire.removed },
            leaves: some(wire.leaves),
            remarks: wire.remarks,
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

    /// What is in its way, each once with the sources that it stands before.
    pub(crate) fn obstacles(&self) -> String {
        let mut told: Vec<(&str, Vec<String>)> = Vec::new();
        for source in &self.sources {
            for obstacle in &source.obstacles {
                let label = format!("{}/{}", source.component, source.source);
                match told.iter_mut().find(|(known, _)| known == obstacle) {
                    Some((_, labels)) => labels.push(label),
                    None => told.push((obstacle, vec![label])),
                }
            }
        }
        let line = |(obstacle, labels): (&str, Vec<String>)| format!("{}: {obstacle}", labels.join(", "));
        told.into_iter().map(line).collect::<Vec<_>>().join("; ")
    }

    /// What to do about that.
    pub(crate) fn way_out(&self) -> String {
        let (stuck, free): (Vec<_>, Vec<_>) =
            self.sources.iter().partition(|source| !source.obstacles.is_empty());
        if !free.is_empty() {
            let mut names: Vec<_> = free.iter().map(|source| source.component.as_str()).collect();
            names.dedup();
            return format!("nothing is in the way of --components {}", names.join(","));
        }
        match stuck.iter().any(|source| source.in_place) {
            true => "see to what is in its way, or restore elsewhere with --to FOLDER".to_owned(),
            false => "see to what is in its way, or choose another folder".to_owned(),
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let what = match &self.undo_of {
            Some(restore) => format!("taking back the restore {restore} by backup {}", self.backup),
            None => format!("restore of backup {}", self.backup),
        };
        let time = match self.estimated_seconds {
            Some(seconds) => format!(", about {} by the last restores", span(seconds)),
            None => String::new(),
        };
        let mut text = format!("{what}, at most {} to fetch{time}\n", size(self.fetch_bytes));
        self.doubts.iter().for_each(|doubt| text.push_str(&format!("  NOT WHOLE: {doubt}\n")));
        let safety = &self.safety_backup;
        if !safety.components.is_empty() {
            let (components, kept) = (safety.components.join(", "), span(safety.kept_seconds));
            text.push_str(&format!("  backs up before: {components} (pinned for {kept})\n"));
        }
        self.remarks.iter().for_each(|remark| text.push_str(&format!("  {remark}\n")));
        for source in &self.sources {
            text.push_str(&source.text());
        }
        text
    }
}

impl SourcePlan {
    fn text(&self) -> String {
        let mut text = format!(
            "\n{}/{} into {}\n  {}, {} ({} needed beside what is there, {})\n",
            self.component,
            self.source,
            self.place,
            counted(self.entries, "entry", "entries"),
            size(self.bytes),
            size(self.needed_bytes),
            self.free_bytes
                .map_or("what is free is not known".to_owned(), |free| format!("{} free", size(free)))
        );
        let running = self.stops.iter().rev().filter(|one| one.running);
        let running: Vec<&str> = running.map(|one| one.name.as_str()).collect();
        if !running.is_empty() {
            text.push_str(&format!("  stops, and starts again: {}\n", running.join(", ")));
        }
        for (word, change) in
            [("replaces", &self.replaced), ("creates", &self.created), ("REMOVES", &self.removed)]
        {
            if change.count > 0 {
                text.push_str(&format!("  {word} {}\n", change.text()));
            }
        }
        if let Some(leaves) = &self.leaves {
            text.push_str(&format!("  leaves {leaves}\n"));
        }
        self.remarks.iter().for_each(|remark| text.push_str(&format!("  {remark}\n")));
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

/// A span of time in its largest units.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => counted(seconds, "second", "seconds"),
        120..7_200 => format!("{} minutes", seconds.div_ceil(60)),
        7_200..172_800 => format!("{} hours", seconds.div_ceil(3_600)),
        _ => format!("{} days", seconds.div_ceil(86_400)),
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
                stops: vec![
                    v1::Application { name: "db".into(), running: true, ..Default::default() },
                    v1::Application { name: "cache".into(), running: false, ..Default::default() },
                    v1::Application { name: "api".into(), running: true, ..Default::default() },
                ],
                leaves: "everything else that is there".into(),
                ..Default::default()
            }],
            doubts: vec!["models/models is incomplete: 2 entries could not be read".into()],
            safety_components: vec!["models".into()],
            safety_seconds: 7 * 86_400,
            estimated_seconds: 90,
            ..Default::default()
        });
        assert!(!plan.can_go_ahead());
        assert_eq!(plan.obstacles(), "models/models: too little space");
        let text = plan.text();
        assert!(text.contains("1 entry, 0 B"), "{text}");
        assert!(text.contains("REMOVES 12: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 and 2 more"), "{text}");
        assert!(text.contains("CANNOT GO AHEAD: too little space"), "{text}");
        assert!(text.contains("stops, and starts again: api, db\n"), "{text}");
        assert!(text.contains("backs up before: models (pinned for 7 days)"), "{text}");
        assert!(text.contains("about 90 seconds by the last restores"), "{text}");
        assert!(text.contains("NOT WHOLE: models/models is incomplete"), "{text}");
        assert!(text.contains("leaves everything else that is there"), "{text}");
        assert!(text.contains("gives rights, setuid 2: bin/su and 1 more"), "{text}");
    }
}
