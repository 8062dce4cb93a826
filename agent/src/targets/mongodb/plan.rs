//! What a restore into a server would do: facts about the archive and about what is live, and the plan that
//! follows. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::Document;

use super::archive::{Archived, Kind};
use super::select::{Name, Wanted};
use crate::sources::mongodb::names::JOURNALS;

/// So many of one kind are told.
const TOLD: usize = 10;
/// An index that lets documents expire has this.
pub(super) const EXPIRY: &str = "expireAfterSeconds";

/// Something that is there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Live {
    pub(crate) kind: Kind,
    pub(crate) options: Document,
}

/// What there is before a restore.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) archived: Vec<Archived>,
    /// Of every database that the server has or that is asked for, but for what the server has for itself.
    pub(crate) live: BTreeMap<Name, Live>,
    /// The server is the router of a sharded cluster.
    pub(crate) is_router: bool,
}

/// One collection or view that is restored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Restored {
    pub(crate) archived: Archived,
    pub(crate) target: Name,
}

impl Restored {
    /// The indexes that are built before the swap, and those that let documents expire.
    pub(super) fn indexes(&self) -> (Vec<Document>, Vec<Document>) {
        let made = self.archived.indexes.iter().filter(|index| {
            let is_id = index.get_str("name").is_ok_and(|name| name == "_id_");
            // Of a clustered collection: it comes with it.
            !is_id && !index.contains_key("clustered")
        });
        let cleaned = made.cloned().map(|mut index| {
            // The server knows better which version it builds, and where.
            index.remove("v");
            index.remove("ns");
            index
        });
        cleaned.partition(|index| !index.contains_key(EXPIRY))
    }

    /// How a collection is made; what lets its documents expire is not said then.
    pub(super) fn options(&self) -> Document {
        let mut options = self.archived.options.clone();
        options.remove(EXPIRY);
        options
    }

    /// After so many seconds its documents go without an index.
    pub(super) fn expires(&self) -> Option<mongodb::bson::Bson> {
        self.archived.options.get(EXPIRY).cloned()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.archived.documents.as_ref().map_or(0, |(_, bytes)| *bytes)
    }
}

/// What a restore would do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// In the order of the names in the archive.
    pub(crate) restored: Vec<Restored>,
    pub(crate) replaced: Vec<Name>,
    pub(crate) created: Vec<Name>,
    pub(crate) removed: Vec<Name>,
    pub(crate) bytes: u64,
    pub(crate) leaves: &'static str,
    pub(crate) remarks: Vec<String>,
    pub(crate) obstacles: Vec<String>,
}

/// The plan that follows from the facts.
pub(crate) fn plan(wanted: &Wanted, facts: &Facts) -> Plan {
    let mut plan = Plan { obstacles: wanted.faults(), ..Plan::default() };
    let (mut skipped, mut kept) = (Vec::new(), BTreeSet::new());
    for archived in &facts.archived {
        let Some(target) = wanted.target(archived) else { continue };
        match unfit(archived) {
            Some(why) => {
                skipped.push(format!("{} is not restored: {why}", archived.name));
                kept.insert(target);
            }
            None => plan.restored.push(Restored { archived: archived.clone(), target }),
        }
    }
    tell(&mut plan.remarks, skipped);
    let mut taken = BTreeSet::new();
    for restored in &plan.restored {
        let target = &restored.target;
        if !taken.insert(target) {
            plan.obstacles.push(format!("two of what is restored would be called {target}; rename one"));
        }
        plan.bytes += restored.bytes();
        match facts.live.get(target) {
            None => plan.created.push(target.clone()),
            Some(live) if live.kind == restored.archived.kind => plan.replaced.push(target.clone()),
            Some(live) => plan.obstacles.push(format!(
                "{target} is {} and was {} when it was backed up; rename or drop it, or leave it out",
                live.kind.word(),
                restored.archived.kind.word()
            )),
        }
    }
    plan.obstacles.extend(unfit_names(&plan.restored));
    if wanted.drops_others {
        let goes = |name: &&Name| {
            wanted.is_whole(&name.database)
                && !taken.contains(name)
                && !kept.contains(*name)
                && facts.live[*name].kind != Kind::TimeSeries
        };
        plan.removed = facts.live.keys().filter(goes).cloned().collect();
    } else if !facts.live.is_empty() {
        plan.leaves = "every collection that is there and not in this restore";
    }
    if plan.restored.is_empty() && plan.removed.is_empty() {
        let lacks = "the backup holds nothing of what is asked for that could be restored";
        plan.obstacles.push(lacks.to_owned());
    }
    indexes(&mut plan);
    if facts.is_router {
        plan.remarks.push("this is the router of a cluster: what is restored is not sharded".to_owned());
    }
    plan
}

/// Why something is not loaded by this release.
fn unfit(archived: &Archived) -> Option<&'static str> {
    let Archived { name: Name { database, collection }, .. } = archived;
    if let Some(of) = collection.strip_prefix("system.buckets.") {
        let _ = of;
        return Some("it is a part of a time series");
    }
    match archived.kind {
        _ if database == "admin" => {
            Some("users, roles and what else is in `admin` are loaded by `mongorestore`, see docs/mongodb.md")
        }
        Kind::TimeSeries => Some("a time series cannot be renamed; load it by `mongorestore`"),
        Kind::Collection if collection.starts_with("system.") => Some("the server has it for itself"),
        Kind::Collection if !archived.is_described => Some("the backup lacks its description"),
        Kind::Collection if archived.documents.is_none() => Some("the backup lacks its documents"),
        Kind::Collection if archived.options.contains_key("encryptedFields") => {
            Some("what belongs to encrypted fields is loaded by `mongorestore`")
        }
        Kind::Collection | Kind::View => None,
    }
}

/// Names that no server takes.
fn unfit_names(restored: &[Restored]) -> Vec<String> {
    let databases: BTreeSet<&str> = restored.iter().map(|one| one.target.database.as_str()).collect();
    let wrong = |name: &&str| {
        name.is_empty() || name.len() > 63 || name.contains(['/', '\\', ' ', '"', '$', '.', '\0'])
    };
    let reserved = |name: &&str| ["admin", "local", "config", JOURNALS].contains(name);
    let mut told: Vec<String> = databases
        .iter()
        .filter(|name| wrong(name))
        .map(|name| format!("no database can be called {name:?}"))
        .collect();
    told.extend(databases.iter().filter(|name| reserved(name)).map(|name| {
        format!("nothing is restored into the database {name}, which the server has for itself")
    }));
    told
}

/// What is said of indexes.
fn indexes(plan: &mut Plan) {
    let (mut before, mut after) = (0, Vec::new());
    for restored in &plan.restored {
        let (plain, expiring) = restored.indexes();
        before += plain.len();
        for index in expiring {
            let name = index.get_str("name").unwrap_or_default();
            let seconds = index.get(EXPIRY).map(ToString::to_string).unwrap_or_default();
            after.push(format!(
                "{}: what its index {name} calls older than {seconds} s is deleted by the server soon after",
                restored.target
            ));
        }
        if let Some(seconds) = restored.expires() {
            after.push(format!(
                "{}: what is older than {seconds} s is deleted by the server soon after",
                restored.target
            ));
        }
    }
    if before + after.len() > 0 {
        plan.remarks.push(format!(
            "indexes: {before} are built and checked before anything is replaced, {} that let documents \
             expire at the end",
            after.len()
        ));
    }
    tell(&mut plan.remarks, after);
}

/// The first of them, and how many more there are.
pub(super) fn tell(remarks: &mut Vec<String>, lines: Vec<String>) {
    let more = lines.len().saturating_sub(TOLD);
    remarks.extend(lines.into_iter().take(TOLD));
    if more > 0 {
        remarks.push(format!("and {more} more of these"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    fn name(name: &str) -> Name {
        let (database, collection) = name.split_once('.').expect("a whole name");
        Name { database: database.to_owned(), collection: collection.to_owned() }
    }

    fn archived(of: &str, kind: Kind) -> Archived {
        let path = repository::archive::path::EntryPath::new(b"x").expect("a path");
        let documents = (kind == Kind::Collection).then_some((path, 10));
        Archived {
            name: name(of),
            kind,
            options: Document::new(),
            indexes: Vec::new(),
            documents,
            is_described: true,
        }
    }

    fn facts(archived: Vec<Archived>, live: &[(&str, Kind)]) -> Facts {
        let one = |(of, kind): &(&str, Kind)| (name(of), Live { kind: *kind, options: Document::new() });
        Facts { archived, live: live.iter().map(one).collect(), is_router: false }
    }

    use Kind::{Collection, TimeSeries, View};

    #[test]
    fn what_is_there_is_replaced_and_stays_where_the_backup_lacks_it() {
        let facts = facts(
            vec![archived("shop.a", Collection), archived("shop.b", Collection), archived("shop.v", View)],
            &[("shop.a", Collection), ("shop.z", Collection), ("shop.t", TimeSeries), ("own.x", Collection)],
        );
        let told = plan(&Wanted::default(), &facts);
        assert_eq!(
            (told.replaced, told.created),
            (vec![name("shop.a")], vec![name("shop.b"), name("shop.v")])
        );
        assert_eq!((told.removed, told.bytes, told.obstacles), (Vec::new(), 20, Vec::<String>::new()));
        let dropping = Wanted { drops_others: true, ..Wanted::default() };
        assert_eq!(plan(&dropping, &facts).removed, [name("own.x"), name("shop.z")]);
        let of_shop = Wanted { include: vec!["shop".into()], ..dropping };
        assert_eq!(plan(&of_shop, &facts).removed, [name("shop.z")]);
        // What the backup has and cannot give is not lost for that.
        let mut lacking = facts.clone();
        lacking.archived.push(Archived { documents: None, ..archived("shop.z", Collection) });
        assert!(plan(&of_shop, &lacking).removed.is_empty());
        let renames = vec![("shop".to_owned(), JOURNALS.to_owned())];
        let reserved = Wanted { renames, ..Wanted::default() };
        assert!(plan(&reserved, &facts).obstacles[0].contains(JOURNALS));
    }

    #[test]
    fn what_cannot_be_restored_is_told_and_what_is_in_the_way_stops_it() {
        let users = archived("admin.system.users", Collection);
        let lacking = Archived { documents: None, ..archived("shop.half", Collection) };
        let all = vec![users, lacking, archived("shop.t", TimeSeries), archived("shop.a", Collection)];
        let told = plan(&Wanted::default(), &facts(all.clone(), &[("shop.a", View)]));
        assert_eq!(told.remarks.len(), 3, "{:?}", told.remarks);
        assert_eq!(told.obstacles.len(), 1, "{:?}", told.obstacles);
        let nothing = plan(&Wanted::default(), &facts(all[..3].to_vec(), &[]));
        assert!(nothing.obstacles[0].contains("holds nothing"), "{:?}", nothing.obstacles);
        let renames = vec![("shop.a".to_owned(), "shop.b".to_owned())];
        let twice = vec![archived("shop.a", Collection), archived("shop.b", Collection)];
        let clash = Wanted { include: vec!["shop".into()], renames, ..Wanted::default() };
        assert!(plan(&clash, &facts(twice, &[])).obstacles[0].contains("shop.b"));
        let renames = vec![("shop".to_owned(), "local".to_owned())];
        let reserved = Wanted { renames, ..Wanted::default() };
        assert!(plan(&reserved, &facts(all, &[])).obstacles[0].contains("local"));
    }

    #[test]
    fn indexes_that_let_documents_expire_come_last_and_are_warned_of() {
        let mut one = archived("shop.a", Collection);
        one.indexes = vec![
            doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
            doc! { "v": 2, "key": { "x": 1, "a": -1 }, "name": "x", "hidden": true, "ns": "shop.a" },
            doc! { "v": 2, "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 60 },
        ];
        let restored = Restored { target: one.name.clone(), archived: one.clone() };
        let (before, after) = restored.indexes();
        assert_eq!(before, [doc! { "key": { "x": 1, "a": -1 }, "name": "x", "hidden": true }]);
        assert_eq!(after, [doc! { "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 60 }]);
        let told = plan(&Wanted::default(), &facts(vec![one], &[])).remarks;
        assert!(told[0].contains("1 are built") && told[1].contains("ttl calls older than 60 s"), "{told:?}");
    }
}
