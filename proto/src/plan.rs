//! What of a plan has changed since somebody confirmed it.
//!
//! Must stay true: the controller and the agent ask the same question, so that neither carries out what the
//! other would refuse.

use std::collections::BTreeSet;

use crate::convert::privilege_word;
use crate::v1::{Privilege, PrivilegedEntries, SourcePlan};

/// Names told of each kind of change.
const TOLD: usize = 5;

/// What `now` does that `confirmed` did not, or the other way round, a line each; nothing if it is the same.
/// Free space comes and goes, and whether a program runs just now as well.
pub fn changes(confirmed: &SourcePlan, now: &SourcePlan) -> Vec<String> {
    let mut changes = Vec::new();
    let mut differ = |what: &str, before: &str, after: &str| {
        if before != after {
            changes.push(format!("{what} is {after} now, and was {before}"));
        }
    };
    differ("the place", &confirmed.place, &now.place);
    for (what, of) in COUNTS {
        differ(what, &of(confirmed).to_string(), &of(now).to_string());
    }
    for privilege in KINDS {
        let count = |plan: &SourcePlan| {
            let held = plan.privileges.iter().find(|held| held.privilege() == privilege);
            held.map_or(0, |held: &PrivilegedEntries| held.count).to_string()
        };
        let what = format!("the number of entries with {}", privilege_word(privilege));
        differ(&what, &count(confirmed), &count(now));
    }
    differ("what stays", &confirmed.leaves, &now.leaves);
    let programs = |plan: &SourcePlan| plan.stops.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    for (word, before, after) in [
        ("replaced", &confirmed.replaced, &now.replaced),
        ("created", &confirmed.created, &now.created),
        ("removed", &confirmed.removed, &now.removed),
        ("stopped", &programs(confirmed), &programs(now)),
    ] {
        changes.extend(names(word, before, after));
    }
    if changes.is_empty() && confirmed.ground != now.ground {
        changes.push("other entries are there than when it was planned".to_owned());
    }
    changes
}

type Count = fn(&SourcePlan) -> u64;

const COUNTS: [(&str, Count); 5] = [
    ("the number of entries", |plan| plan.entries),
    ("the number of bytes", |plan| plan.bytes),
    ("the number of replaced entries", |plan| plan.replaced_count),
    ("the number of created entries", |plan| plan.created_count),
    ("the number of removed entries", |plan| plan.removed_count),
];

const KINDS: [Privilege; 5] =
    [Privilege::Setuid, Privilege::Setgid, Privilege::Device, Privilege::Capability, Privilege::Attribute];

fn names(word: &str, before: &[String], after: &[String]) -> Option<String> {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), after.iter().collect());
    let list = |names: &mut dyn Iterator<Item = &&String>| {
        names.take(TOLD).map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let more = list(&mut after.difference(&before));
    let fewer = list(&mut before.difference(&after));
    match (more.is_empty(), fewer.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("now {word}, too: {more}")),
        (true, false) => Some(format!("no longer {word}: {fewer}")),
        (false, false) => Some(format!("now {word}, too: {more}; no longer {word}: {fewer}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Application;

    fn plan() -> SourcePlan {
        SourcePlan {
            place: "/data".into(),
            entries: 3,
            removed: vec!["extra".into()],
            removed_count: 1,
            stops: vec![Application { name: "api".into(), running: true, ..Application::default() }],
            ..SourcePlan::default()
        }
    }

    #[test]
    fn what_has_changed_is_named() {
        assert_eq!(changes(&plan(), &plan()), [""; 0]);
        let now = SourcePlan { removed: vec!["extra".into(), "new".into()], removed_count: 2, ..plan() };
        let told = changes(&plan(), &now);
        assert_eq!(
            told,
            [
                "the number of removed entries is 2 now, and was 1".to_owned(),
                "now removed, too: new".to_owned()
            ]
        );
        let now = SourcePlan { stops: Vec::new(), ..plan() };
        assert_eq!(changes(&plan(), &now), ["no longer stopped: api"]);
        let now = SourcePlan { ground: vec![1].into(), ..plan() };
        assert_eq!(changes(&plan(), &now).len(), 1);
    }

    #[test]
    fn what_comes_and_goes_is_no_change() {
        let mut now = SourcePlan { free_bytes: 99, remarks: vec!["x".into()], ..plan() };
        now.stops[0].running = false;
        assert_eq!(changes(&plan(), &now), [""; 0]);
    }
}
