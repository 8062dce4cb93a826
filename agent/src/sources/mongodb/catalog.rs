//! What a server holds, as the entries that it becomes; and how a collection is described.

use std::collections::BTreeSet;

use mongodb::bson::raw::RawDocument;
use mongodb::bson::{RawDocumentBuf, doc};
use repository::archive::path::EntryPath;

use super::changes::Collections;
use super::extjson;
use super::names::{BUILT, HEAD, JOURNALS, PHASES, Staged, file_name};
use super::server::{Listing, Server, Trouble};
use crate::sources::{ProblemKind, SourceError};

/// Where the server keeps the documents of the time series X: `system.buckets.X`.
const BUCKETS: &str = "system.buckets.";
/// What a dump keeps of the collections that the server has for itself: users, roles, and stored functions.
const KEPT: [(&str, &str); 3] =
    [("admin", "system.users"), ("admin", "system.roles"), ("admin", "system.version")];

/// An entry to be.
pub(super) struct Planned {
    pub(super) path: EntryPath,
    pub(super) what: What,
}

/// What an entry holds.
pub(super) enum What {
    Folder,
    Text(Vec<u8>),
    /// Of the collection that `listCollections` describes so.
    Metadata {
        database: String,
        listed: RawDocumentBuf,
    },
    Documents {
        database: String,
        collection: String,
    },
    /// It is not in the archive.
    Unread {
        kind: ProblemKind,
        cause: &'static str,
    },
}

/// All that the server holds, in path order; and the collections among it.
pub(super) fn plan(server: &Server) -> Result<(Vec<Planned>, Collections), SourceError> {
    let prelude = serde_json::json!({
        "ServerVersion": server.version,
        "ToolVersion": concat!("neurashield ", env!("CARGO_PKG_VERSION")),
    });
    let mut plan = Plan::default();
    plan.planned.push(Planned { path: EntryPath::root(), what: What::Folder });
    plan.add("prelude.json", None, What::Text(format!("{prelude}\n").into_bytes()));
    let databases = databases(server)?;
    for name in databases.iter().filter(|name| *name != JOURNALS) {
        plan.database(server, name)?;
    }
    if databases.iter().any(|name| name == JOURNALS) {
        plan.journals(server)?;
    }
    plan.planned.sort_by(|one, other| one.path.cmp(&other.path));
    Ok((plan.planned, plan.collections))
}

/// The collections that would be read now.
pub(super) fn collections(server: &Server) -> Result<Collections, SourceError> {
    let mut plan = Plan::default();
    for name in databases(server)?.iter().filter(|name| *name != JOURNALS) {
        plan.database(server, name)?;
    }
    Ok(plan.collections)
}

fn databases(server: &Server) -> Result<Vec<String>, SourceError> {
    let answer = server.command("admin", doc! { "listDatabases": 1, "nameOnly": true })?;
    let listed = answer.get_array("databases").map(Vec::as_slice).unwrap_or_default();
    let name = |one: &mongodb::bson::Bson| one.as_document()?.get_str("name").ok().map(str::to_owned);
    Ok(listed.iter().map(|one| name(one).unwrap_or_default()).collect())
}

/// How far the restore is that a journal is of.
#[derive(Debug, PartialEq, Eq)]
enum JournalSays {
    /// Names may be on their way.
    GoesOn,
    /// There is only something left to drop.
    Built,
    /// Nothing that this release knows.
    Nothing,
}

fn journal_says(head: Option<&RawDocument>, is_empty: bool) -> JournalSays {
    match head.map(|head| head.get_str("phase").unwrap_or_default()) {
        Some(BUILT) => JournalSays::Built,
        Some(phase) if PHASES.contains(&phase) => JournalSays::GoesOn,
        None if is_empty => JournalSays::GoesOn,
        _ => JournalSays::Nothing,
    }
}

#[derive(Default)]
struct Plan {
    planned: Vec<Planned>,
    collections: Collections,
    /// The restores that have something aside which was live before.
    away: BTreeSet<String>,
}

impl Plan {
    fn add(&mut self, name: &str, within: Option<&str>, what: What) {
        let folder = within.map_or(Ok(EntryPath::root()), |folder| EntryPath::new(folder.as_bytes()));
        match folder.and_then(|folder| folder.join(name.as_bytes())) {
            Ok(path) => self.planned.push(Planned { path, what }),
            Err(_) => self.planned.push(Planned {
                path: EntryPath::root(),
                what: What::Unread {
                    kind: ProblemKind::Unreadable,
                    cause: "a database has an impossible name",
                },
            }),
        }
    }

    /// Nothing is backed up between two renames.
    fn journals(&mut self, server: &Server) -> Result<(), SourceError> {
        let left = server.list(JOURNALS, doc! { "listCollections": 1 })?;
        // One that is tried out leaves nothing, or what a later trial drops.
        for name in left.iter().map(|one| name_of(one)).filter(|name| Staged::of(name).is_none()) {
            let head = server.list(JOURNALS, doc! { "find": name, "filter": { "_id": HEAD }, "limit": 1 })?;
            let is_empty =
                head.is_empty() && server.list(JOURNALS, doc! { "find": name, "limit": 1 })?.is_empty();
            match journal_says(head.first().map(|head| &**head), is_empty) {
                JournalSays::Built => {}
                // Where nothing that was live lies aside, no name is missing.
                JournalSays::Nothing if !self.away.contains(name) => {
                    let cause = "it has journals of restores, and one of them cannot be understood: nothing that \
                                 was live waits for it; look at it, and drop it if you do not need it";
                    self.add(JOURNALS, None, What::Unread { kind: ProblemKind::LeftOut, cause });
                }
                JournalSays::GoesOn | JournalSays::Nothing => {
                    return Err(SourceError::Server {
                        hint: "if a restore goes on there, wait for its end; else the next backup finishes it or \
                               takes it back, or says why not",
                        source: "a restore was interrupted there and is not ended".into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn database(&mut self, server: &Server, database: &str) -> Result<(), SourceError> {
        let own = match database {
            "local" => Some("it belongs to this one server and is made anew by any other"),
            "config" => Some("it describes this cluster and would not fit another"),
            _ => None,
        };
        if let Some(cause) = own {
            self.add(database, None, What::Unread { kind: ProblemKind::LeftOut, cause });
            return Ok(());
        }
        self.add(database, None, What::Folder);
        let listed = server.list(database, doc! { "listCollections": 1 })?;
        let names: BTreeSet<String> = listed.iter().map(|one| name_of(one).to_owned()).collect();
        for listed in listed {
            self.collection(database, listed, &names);
        }
        Ok(())
    }

    fn collection(&mut self, database: &str, listed: RawDocumentBuf, names: &BTreeSet<String>) {
        let collection = name_of(&listed).to_owned();
        let kind = listed.get_str("type").unwrap_or_default().to_owned();
        let file = file_name(&collection);
        let (bson, json) = (format!("{file}.bson"), format!("{file}.metadata.json"));
        let documents = What::Documents { database: database.to_owned(), collection: collection.clone() };
        if let Some((id, Staged::Old, _)) = Staged::of(&collection) {
            self.away.insert(id.to_owned());
        }
        if let Some(of) = collection.strip_prefix(BUCKETS)
            && names.contains(of)
        {
            // Its description is that of the time series, and so is its name for people.
            self.collections.add(database, of, &listed);
            return self.add(&bson, Some(database), documents);
        }
        match kind.as_str() {
            "view" => {}
            "timeseries" if names.contains(&format!("{BUCKETS}{collection}")) => {}
            "timeseries" => {
                let cause = "this release cannot read time series of servers from 8.3 on";
                self.add(&bson, Some(database), What::Unread { kind: ProblemKind::Unreadable, cause });
            }
            _ => match skipped(database, &collection) {
                Some(_) if collection == "system.views" => return,
                Some(cause) => {
                    let what = What::Unread { kind: ProblemKind::LeftOut, cause };
                    return self.add(&bson, Some(database), what);
                }
                None => {
                    self.collections.add(database, &collection, &listed);
                    self.add(&bson, Some(database), documents);
                }
            },
        }
        self.add(&json, Some(database), What::Metadata { database: database.to_owned(), listed });
    }
}

/// Why a collection is no part of a dump. Views are described one by one.
fn skipped(database: &str, collection: &str) -> Option<&'static str> {
    if Staged::of(collection).is_some() {
        return Some("a restore has left it; drop it if you do not need it");
    }
    let is_system = collection.starts_with("system.") && collection != "system.js";
    if KEPT.contains(&(database, collection)) {
        None
    } else if is_system || collection.starts_with("__mdb_internal") {
        Some("the server keeps it for itself and makes it anew")
    } else {
        None
    }
}

fn name_of(listed: &RawDocument) -> &str {
    listed.get_str("name").unwrap_or_default()
}

/// Asks for the indexes of a collection; none: it is a view.
pub(super) fn indexes(server: &Server, database: &str, listed: &RawDocument) -> Option<Listing> {
    let is_view = listed.get_str("type").is_ok_and(|kind| kind == "view");
    (!is_view).then(|| server.list_ahead(database, doc! { "listIndexes": name_of(listed) }))
}

/// The description of a collection, as `mongodump` writes it: its options and indexes as the server gave them.
pub(super) fn metadata_json(listed: &RawDocument, indexes: &[RawDocumentBuf]) -> Result<Vec<u8>, Trouble> {
    let (name, kind) = (name_of(listed), listed.get_str("type").unwrap_or_default());
    let json = describe(listed, indexes, name, kind);
    json.map_err(|error| Trouble::unfit(&error.to_string())).map(String::into_bytes)
}

fn describe(
    listed: &RawDocument,
    indexes: &[RawDocumentBuf],
    name: &str,
    kind: &str,
) -> Result<String, extjson::NoBson> {
    let mut json = "{".to_owned();
    if let Ok(options) = listed.get_document("options")
        && options.iter().next().is_some()
    {
        json.push_str("\"options\":");
        extjson::document(&mut json, options)?;
        json.push(',');
    }
    json.push_str("\"indexes\":[");
    for (at, index) in indexes.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        extjson::document(&mut json, index)?;
    }
    json.push(']');
    let uuid = listed.get_document("info").and_then(|info| info.get_binary("uuid"));
    if let Ok(uuid) = uuid {
        let digits: String = uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        json.push_str(&format!(",\"uuid\":\"{digits}\""));
    }
    json.push_str(",\"collectionName\":");
    extjson::text(&mut json, name);
    if !kind.is_empty() {
        json.push_str(",\"type\":");
        extjson::text(&mut json, kind);
    }
    json.push('}');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{Binary, rawdoc};

    fn planned(database: &str, collections: &[RawDocumentBuf]) -> Vec<String> {
        let names = collections.iter().map(|one| name_of(one).to_owned()).collect();
        let mut plan = Plan::default();
        for listed in collections {
            plan.collection(database, listed.clone(), &names);
        }
        let told = |one: Planned| match one.what {
            What::Unread { kind, .. } => format!("{}: {kind:?}", one.path),
            _ => one.path.to_string(),
        };
        plan.planned.into_iter().map(told).collect()
    }

    fn listed(name: &str, kind: &str) -> RawDocumentBuf {
        rawdoc! { "name": name, "type": kind }
    }

    #[test]
    fn a_journal_that_nobody_understands_is_none_that_goes_on() {
        let says = |head: Option<&RawDocumentBuf>, is_empty| journal_says(head.map(|head| &**head), is_empty);
        for phase in PHASES {
            let expected = if phase == BUILT { JournalSays::Built } else { JournalSays::GoesOn };
            assert_eq!(says(Some(&rawdoc! { "_id": "head", "phase": phase }), false), expected);
        }
        assert_eq!(says(Some(&rawdoc! { "_id": "head", "phase": "other" }), false), JournalSays::Nothing);
        assert_eq!(says(None, false), JournalSays::Nothing);
        assert_eq!(says(None, true), JournalSays::GoesOn);
    }

    // What no engine here has, by what a server would list.
    #[test]
    fn views_and_time_series_as_a_server_lists_them_become_what_mongorestore_reads() {
        let with_buckets = [
            listed("v", "view"),
            listed("t", "timeseries"),
            listed("system.buckets.t", "collection"),
            listed("system.views", "collection"),
            listed("system.profile", "collection"),
            listed("system.js", "collection"),
        ];
        let expected = [
            "shop/v.metadata.json",
            "shop/t.metadata.json",
            "shop/system.buckets.t.bson",
            "shop/system.profile.bson: LeftOut",
            "shop/system.js.bson",
            "shop/system.js.metadata.json",
        ];
        assert_eq!(planned("shop", &with_buckets), expected);
        assert_eq!(planned("shop", &[listed("t", "timeseries")])[0], "shop/t.bson: Unreadable");
        let users = ["system.users", "system.keys"].map(|name| listed(name, "collection"));
        let expected = [
            "admin/system.users.bson",
            "admin/system.users.metadata.json",
            "admin/system.keys.bson: LeftOut",
        ];
        assert_eq!(planned("admin", &users), expected);
    }

    #[test]
    fn a_description_holds_options_and_indexes_as_they_came() {
        let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![0xab; 16] };
        let listed = rawdoc! {
            "name": "v v", "type": "view", "options": { "viewOn": "a", "pipeline": [] }, "info": { "uuid": uuid },
        };
        let index = rawdoc! { "v": 2, "key": { "z": 1, "a": -1 }, "name": "z_1_a_-1", "not_known": true };
        let json = describe(&listed, &[index], "v v", "view").expect("it is BSON");
        let expected = concat!(
            r#"{"options":{"viewOn":"a","pipeline":[]},"indexes":[{"v":{"$numberInt":"2"},"#,
            r#""key":{"z":{"$numberInt":"1"},"a":{"$numberInt":"-1"}},"name":"z_1_a_-1","not_known":true}],"#,
            r#""uuid":"abababababababababababababababab","collectionName":"v v","type":"view"}"#
        );
        assert_eq!(json, expected);
        let plain = describe(&rawdoc! { "name": "c", "options": {} }, &[], "c", "").expect("it is BSON");
        assert_eq!(plain, r#"{"indexes":[],"collectionName":"c"}"#);
    }
}
