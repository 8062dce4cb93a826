//! What confirms a plan: a digest over all of it that matters.
//!
//! Must stay true: a plan that would do something else has another digest, and what only comes and goes (free
//! space) is not in it.

use aws_lc_rs::digest;
use proto::v1::SourcePlan;
use repository::ids::hex;
use repository::names::{BackupName, Component};
use serde::Serialize;

use crate::jobs::job::RestorePlace;

/// What a plan says beside its places.
#[derive(Serialize)]
pub(super) struct Seen<'a> {
    pub(super) backup: &'a BackupName,
    pub(super) doubts: &'a [String],
    pub(super) safety: &'a [Component],
}

/// SHA-256 over what matters of a plan, in one notation.
pub(super) fn digest_of(seen: &Seen<'_>, places: &[RestorePlace], sources: &[SourcePlan]) -> String {
    #[derive(Serialize)]
    struct Facts<'a> {
        seen: &'a Seen<'a>,
        places: Vec<Planned<'a>>,
    }
    #[derive(Serialize)]
    struct Planned<'a> {
        place: &'a RestorePlace,
        at: &'a str,
        counts: [u64; 5],
        ground: String,
        stops: Vec<&'a str>,
    }
    let of_source = |plan: &SourcePlan| {
        [plan.entries, plan.bytes, plan.replaced_count, plan.created_count, plan.removed_count]
    };
    let places = places.iter().zip(sources).map(|(place, plan)| {
        let stops = plan.stops.iter().map(|one| one.name.as_str()).collect();
        let (at, counts, ground) = (plan.place.as_str(), of_source(plan), hex(&plan.ground));
        Planned { place, at, counts, ground, stops }
    });
    let facts = Facts { seen, places: places.collect() };
    let json = serde_json::to_vec(&facts).expect("the facts of a plan have a JSON form");
    hex(digest::digest(&digest::SHA256, &json).as_ref())
}

#[cfg(test)]
mod tests {
    use proto::v1::{Privilege, PrivilegedEntries};

    use super::super::judged::allowance;
    use super::*;
    use crate::jobs::job::{Allowance, Databases};

    fn place(source: &str) -> RestorePlace {
        RestorePlace {
            source: source.parse().expect("a source"),
            kind: "files".into(),
            agent: "01970000-0000-7000-8000-000000000000".parse().expect("an agent"),
            folder: None,
            globs: Vec::new(),
            databases: Databases::default(),
            allowance: Allowance::default(),
            confirmed: None,
            takes_back: false,
        }
    }

    fn seen(backup: &BackupName) -> Seen<'_> {
        Seen { backup, doubts: &[], safety: &[] }
    }

    #[test]
    fn a_plan_grants_the_privileges_that_it_shows_and_confirms_them() {
        let setuid = |count| PrivilegedEntries {
            privilege: Privilege::Setuid.into(),
            count,
            names: vec!["bin/su".into()],
        };
        let plan = |count| SourcePlan { entries: 3, privileges: vec![setuid(count)], ..Default::default() };
        assert_eq!(allowance(&plan(2), false).privileges, [("setuid".to_owned(), 2)].into());
        assert_eq!(allowance(&plan(2), true).privileges, [].into());
        let name = "20260101_010000".parse().expect("a name");
        let digest = |count, without| {
            let place = RestorePlace { allowance: allowance(&plan(count), without), ..place("models/a") };
            digest_of(&seen(&name), &[place], &[plan(count)])
        };
        assert_eq!(digest(2, false), digest(2, false));
        assert_ne!(digest(2, false), digest(3, false));
        assert_ne!(digest(2, false), digest(2, true));
    }

    #[test]
    fn a_plan_that_would_do_something_else_has_another_digest() {
        let name = "20260101_010000".parse().expect("a name");
        let (places, plan) =
            (vec![place("models/a")], SourcePlan { place: "/data".into(), entries: 3, ..Default::default() });
        let digest = |places: &[RestorePlace], plan: &SourcePlan| {
            digest_of(&seen(&name), places, std::slice::from_ref(plan))
        };
        let first = digest(&places, &plan);
        assert_eq!(
            first,
            digest(&places, &SourcePlan { free_bytes: 99, ..plan.clone() }),
            "free space comes and goes"
        );
        for other in [
            SourcePlan { place: "/other".into(), ..plan.clone() },
            SourcePlan { removed_count: 1, ..plan.clone() },
            SourcePlan { entries: 4, ..plan.clone() },
            SourcePlan { ground: vec![1].into(), ..plan.clone() },
            SourcePlan {
                stops: vec![proto::v1::Application { name: "api".into(), ..Default::default() }],
                ..plan.clone()
            },
        ] {
            assert_ne!(first, digest(&places, &other));
        }
        assert_ne!(first, digest(&[RestorePlace { globs: vec!["*.db".into()], ..place("models/a") }], &plan));
    }
}
