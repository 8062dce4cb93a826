//! A plan as it was confirmed: kept with the job, shown in its report, and sent along with the order, so that
//! the agent does what was seen or nothing.

use proto::convert::{privilege_of_word, privilege_word, to_wire_source};
use proto::v1;
use repository::names::SourceId;
use serde::{Deserialize, Serialize};

/// What somebody has seen of one place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confirmed {
    place: String,
    entries: u64,
    bytes: u64,
    needed_bytes: u64,
    free_bytes: u64,
    replaced: Names,
    created: Names,
    removed: Names,
    privileges: Vec<(String, Names)>,
    stops: Vec<Stop>,
    leaves: String,
    remarks: Vec<String>,
    ground: Vec<u8>,
    in_place: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Names {
    count: u64,
    names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stop {
    name: String,
    kind: String,
    running: bool,
    checked: bool,
}

impl From<&v1::SourcePlan> for Confirmed {
    fn from(wire: &v1::SourcePlan) -> Self {
        let names = |count, names: &[String]| Names { count, names: names.to_vec() };
        Self {
            place: wire.place.clone(),
            entries: wire.entries,
            bytes: wire.bytes,
            needed_bytes: wire.needed_bytes,
            free_bytes: wire.free_bytes,
            replaced: names(wire.replaced_count, &wire.replaced),
            created: names(wire.created_count, &wire.created),
            removed: names(wire.removed_count, &wire.removed),
            privileges: (wire.privileges.iter())
                .map(|held| (privilege_word(held.privilege()).to_owned(), names(held.count, &held.names)))
                .collect(),
            stops: (wire.stops.iter().cloned())
                .map(|v1::Application { name, kind, running, checked }| Stop { name, kind, running, checked })
                .collect(),
            leaves: wire.leaves.clone(),
            remarks: wire.remarks.clone(),
            ground: wire.ground.to_vec(),
            in_place: wire.in_place,
        }
    }
}

impl Confirmed {
    /// For the wire, as the plan of this source.
    pub fn to_wire(&self, source: &SourceId) -> v1::SourcePlan {
        v1::SourcePlan {
            source: Some(to_wire_source(source)),
            place: self.place.clone(),
            entries: self.entries,
            bytes: self.bytes,
            needed_bytes: self.needed_bytes,
            free_bytes: self.free_bytes,
            replaced: self.replaced.names.clone(),
            replaced_count: self.replaced.count,
            created: self.created.names.clone(),
            created_count: self.created.count,
            removed: self.removed.names.clone(),
            removed_count: self.removed.count,
            privileges: (self.privileges.iter())
                .map(|(word, held)| v1::PrivilegedEntries {
                    privilege: privilege_of_word(word).into(),
                    count: held.count,
                    names: held.names.clone(),
                })
                .collect(),
            stops: (self.stops.iter().cloned())
                .map(|Stop { name, kind, running, checked }| v1::Application { name, kind, running, checked })
                .collect(),
            leaves: self.leaves.clone(),
            remarks: self.remarks.clone(),
            ground: self.ground.clone().into(),
            in_place: self.in_place,
            leaves_keys: false,
            obstacles: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmed_plan_comes_back_as_it_was() {
        let plan = v1::SourcePlan {
            source: Some(v1::SourceId { component: "models".into(), name: "a".into() }),
            place: "/data".into(),
            entries: 3,
            bytes: 4,
            needed_bytes: 5,
            free_bytes: 6,
            replaced: vec!["r".into()],
            replaced_count: 7,
            created: vec!["c".into()],
            created_count: 8,
            removed: vec!["x".into()],
            removed_count: 9,
            privileges: vec![v1::PrivilegedEntries {
                privilege: v1::Privilege::Device.into(),
                count: 2,
                names: vec!["dev".into()],
            }],
            stops: vec![v1::Application {
                name: "api".into(),
                kind: "commands".into(),
                running: true,
                checked: true,
            }],
            leaves: "all".into(),
            remarks: vec!["look".into()],
            ground: vec![1, 2].into(),
            in_place: true,
            leaves_keys: false,
            obstacles: Vec::new(),
        };
        let kept = Confirmed::from(&plan);
        let json = serde_json::to_string(&kept).expect("a JSON form");
        let read: Confirmed = serde_json::from_str(&json).expect("read");
        assert_eq!(read.to_wire(&"models/a".parse().expect("a source")), plan);
    }
}
