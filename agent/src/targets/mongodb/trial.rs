//! What there is at a server before a restore, and whether one would work: tried for real.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};

use super::archive::{Archived, Kind};
use super::error::{RestoreError, failed};
use super::plan::{Facts, Live, Plan};
use super::select::Name;
use crate::sources::mongodb::names::{JOURNALS, Staged};
use crate::sources::mongodb::server::{Server, Trouble};
use crate::steps::Step;

/// What the names of a trial say instead of a restore's id.
const TRIAL: &str = "trial";
/// What the server has for itself.
const OWN: [&str; 4] = ["admin", "config", "local", JOURNALS];

/// What there is, beside what the archive holds.
pub(crate) fn survey(server: &Server, archived: Vec<Archived>) -> Result<Facts, RestoreError> {
    let answer = server.command("admin", doc! { "listDatabases": 1, "nameOnly": true });
    let answer = answer.map_err(failed("list the databases"))?;
    let databases = answer.get_array("databases").into_iter().flatten();
    let databases = databases.filter_map(|one| one.as_document()?.get_str("name").ok().map(str::to_owned));
    let databases: Vec<String> = databases.filter(|name| !OWN.contains(&name.as_str())).collect();
    let live = live(server, &databases)?;
    let role =
        server.command("admin", doc! { "isMaster": 1 }).map_err(failed("ask the server what it is"))?;
    Ok(Facts { archived, live, is_router: role.get_str("msg").is_ok_and(|word| word == "isdbgrid") })
}

/// The collections and views of these databases, but for those of restores and of the server itself.
pub(super) fn live(server: &Server, databases: &[String]) -> Result<BTreeMap<Name, Live>, RestoreError> {
    let mut live = BTreeMap::new();
    for database in databases {
        let listed = server.list(database, doc! { "listCollections": 1 });
        for one in listed.map_err(failed(format!("list the collections of {database}")))? {
            let collection = one.get_str("name").unwrap_or_default();
            if collection.starts_with("system.") || Staged::of(collection).is_some() {
                continue;
            }
            let options = one.get_document("options").ok().and_then(|raw| Document::try_from(raw).ok());
            let kind = Kind::of(one.get_str("type").unwrap_or_default());
            let name = Name { database: database.clone(), collection: collection.to_owned() };
            live.insert(name, Live { kind, options: options.unwrap_or_default() });
        }
    }
    Ok(live)
}

/// Bytes that are free where the server has its data, if it says so.
fn free(server: &Server, database: &str) -> Option<u64> {
    let stats = server.command(database, doc! { "dbStats": 1 }).ok()?;
    let number = |key: &str| {
        let value = stats.get(key)?;
        let real = value.as_f64().or(value.as_i64().map(|n| n as f64)).or(value.as_i32().map(f64::from))?;
        Some(real.max(0.0) as u64)
    };
    Some(number("fsTotalSize")?.saturating_sub(number("fsUsedSize")?))
}

/// What is in the way of a restore, a line each; and how much is free, if the server says so. Makes, renames
/// and drops a collection in every database that it goes into.
pub(crate) fn preflight(server: &Server, plan: &Plan) -> (Vec<String>, Option<u64>) {
    let targets = plan.restored.iter().map(|one| &one.target).chain(&plan.removed);
    let databases: BTreeSet<&str> = targets.map(|name| name.database.as_str()).collect();
    let mut obstacles = Vec::new();
    for database in databases.iter().copied().chain([JOURNALS]) {
        if let Err(trouble) = attempt(server, database) {
            let hint = trouble.hint;
            obstacles.push(format!("the database {database} does not take a restore: {trouble}; {hint}"));
        }
    }
    let free = databases.first().and_then(|database| free(server, database));
    if let Some(free) = free.filter(|free| *free < plan.bytes) {
        obstacles.push(format!(
            "the server has {free} bytes free, and up to {} are needed beside what is live; make room, or \
             restore a part of it with --include",
            plan.bytes
        ));
    }
    (obstacles, free)
}

fn attempt(server: &Server, database: &str) -> Result<(), Trouble> {
    // Two trials would be in each other's way.
    static TRYING: Mutex<()> = Mutex::new(());
    let _trying = TRYING.lock().unwrap_or_else(PoisonError::into_inner);
    let [new, old] = [Staged::New, Staged::Old].map(|staged| staged.name(TRIAL, 0));
    let listed = server.list(database, doc! { "listCollections": 1, "nameOnly": true })?;
    let is_there = |name: &str| listed.iter().any(|one| one.get_str("name").is_ok_and(|one| one == name));
    let drop = |name: &str| server.change(database, doc! { "drop": name }, None);
    // Of a trial whose process has died.
    for name in [&new, &old] {
        if is_there(name) {
            drop(name)?;
        }
    }
    server.change(database, doc! { "create": &new }, None)?;
    let tried = (|| {
        // One of its own each time: not every server forgets the keys of what was renamed and dropped.
        let documents = vec![doc! { "_id": ObjectId::new() }];
        server.change(database, doc! { "insert": &new, "documents": documents }, None)?;
        let indexes = vec![doc! { "key": { "x": 1 }, "name": "x" }];
        server.change(database, doc! { "createIndexes": &new, "indexes": indexes }, None)?;
        runtime::steps::reach(Step::TrialMade);
        let to = format!("{database}.{old}");
        server.change("admin", doc! { "renameCollection": format!("{database}.{new}"), "to": to }, None)
    })();
    let dropped = drop(if tried.is_ok() { &old } else { &new });
    tried.and(dropped).map(|_| ())
}
