//! MongoDB, as a user sees it: what a server holds is backed up, comes back as the folder that `mongorestore`
//! reads, and whatever is wrong with the server is a clear error without a secret in it.
//!
//! The server is mongo-java-server, which is no mongod: it has no views, no options, no users and no
//! snapshots (docs/mongodb.md). `NEURASHIELD_MONGODB=long` kills at more steps.

#[path = "mongodb/dump.rs"]
mod dump;
#[path = "mongodb/events.rs"]
mod events;
#[path = "mongodb/full.rs"]
mod full;
#[path = "mongodb/held.rs"]
mod held;
#[path = "mongodb/import.rs"]
mod import;
#[path = "mongodb/journals.rs"]
mod journals;
#[path = "mongodb/locked.rs"]
mod locked;
#[path = "mongodb/peer/mod.rs"]
mod peer;
#[path = "mongodb/restore.rs"]
mod restore;
#[path = "mongodb/sent.rs"]
mod sent;
#[path = "mongodb/server.rs"]
mod server;
#[path = "mongodb/stream.rs"]
mod stream;
#[path = "mongodb/taken.rs"]
mod taken;
#[path = "mongodb/tls.rs"]
mod tls;
#[path = "mongodb/unlocked.rs"]
mod unlocked;
#[path = "mongodb/wrong.rs"]
mod wrong;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use mongodb::bson::{RawDocumentBuf, Timestamp, doc};
use peer::{Peer, TOO_OLD};
use serde_json::Value;
use server::{Server, fill, noise, system, uri};
use tests::{Forwarder, System, wait_for};

/// The documents of a `.bson` file, by the length that each begins with.
fn parsed(file: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(file).expect("it is there");
    let (mut rest, mut documents) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        let (document, after) = rest.split_at(length);
        assert_eq!(document.last(), Some(&0), "{} holds something else than documents", file.display());
        documents.push(document.to_vec());
        rest = after;
    }
    documents
}

fn archive(system: &System) -> Value {
    let shown = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    shown["archives"][0].clone()
}

#[test]
fn every_document_and_index_comes_back_in_the_folder_that_mongorestore_reads() {
    let server = Server::start("9");
    let files = fill(&server);
    let system = system(&uri(server.port), "");

    // Under a running writer that waits for one member alone to have what it writes.
    let (stop, written) = (AtomicBool::new(false), AtomicI32::new(0));
    let (job, before) = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..2_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                server.insert_relaxed("busy", "written", doc! { "_id": n });
                written.store(n + 1, Ordering::Release);
            }
        });
        wait_for("the writer to write", 10, || (written.load(Ordering::Acquire) > 0).then_some(()));
        let before = written.load(Ordering::Acquire);
        let job = system.run(&["backup"]);
        stop.store(true, Ordering::Relaxed);
        (job, before)
    });
    let first_name = job["backup"].as_str().expect("a name").to_owned();
    let first = archive(&system);
    assert_eq!((first["kind"].as_str(), first["consistency"].as_str()), (Some("mongodb"), Some("fuzzy")));
    assert!(job.to_string().contains("the server is no replica set: make it one"), "{job:#}");
    system.run(&["verify", "--depth", "opened"]);

    // What did not change is not stored once more, although it is read.
    system.run(&["backup"]);
    let second = archive(&system);
    let figure = |archive: &Value, name: &str| archive["counts"][name].as_u64().or(archive[name].as_u64());
    let (read, stored) = (figure(&second, "read_bytes"), figure(&second, "stored_bytes"));
    assert!(read > Some(600_000) && stored < Some(100_000), "{second:#}");

    let held: BTreeMap<_, _> =
        files.keys().map(|(database, name)| ((*database, name), server.documents(database, name))).collect();
    let kept = server.indexes("shop", "c0");
    assert_eq!(kept.len(), 14, "{kept:?}");
    for database in ["shop", "odd"] {
        server.run(database, doc! { "dropDatabase": 1 });
    }

    let place = system.root().join("dump");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let dump = place.join("database");
    let prelude: Value =
        serde_json::from_slice(&fs::read(dump.join("prelude.json")).expect("it is there")).expect("JSON");
    assert_eq!(prelude["ServerVersion"], "4.4.0");
    for ((database, name), file) in &files {
        let came = parsed(&dump.join(database).join(format!("{file}.bson")));
        let were = &held[&(*database, name)];
        assert!(!were.is_empty() && came == *were, "{database}.{name}: {} and {}", came.len(), were.len());
        let described = fs::read(dump.join(database).join(format!("{file}.metadata.json"))).expect("there");
        if name == "c0" {
            let text = String::from_utf8_lossy(&described);
            let key = r#""key":{"n":{"$numberInt":"1"},"_id":{"$numberInt":"-1"}}"#;
            assert!(text.contains(key), "the order of an index's keys matters: {text}");
        }
        let described: Value = serde_json::from_slice(&described).expect("JSON");
        assert_eq!(described["collectionName"], **name);
        if name == "c0" {
            let came = described["indexes"].as_array().expect("indexes").iter();
            let came: BTreeMap<String, String> = came
                .map(|index| (index["name"].as_str().expect("a name").to_owned(), index.to_string()))
                .collect();
            assert_eq!(came, kept);
        }
    }
    // What was acknowledged before the backup began is in it, and nothing that was never written.
    let place = system.root().join("first");
    system.run(&["restore", "--timestamp", &first_name, "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let ids: Vec<i32> = parsed(&place.join("database/busy/written.bson"))
        .into_iter()
        .map(|one| RawDocumentBuf::from_bytes(one).expect("a document").get_i32("_id").expect("a number"))
        .collect();
    let there: BTreeSet<i32> = ids.iter().copied().collect();
    assert_eq!(there.len(), ids.len(), "none is there twice");
    assert!((0..before).all(|n| there.contains(&n)), "{before} were written before the backup: {there:?}");
    assert!(there.iter().all(|n| *n <= written.load(Ordering::Acquire)), "{there:?}");
}

#[test]
fn a_scripted_replica_set_is_read_as_of_one_instant_and_fuzzy_once_its_history_was_too_short() {
    let peer = Peer::start();
    let system = system(&uri(peer.port), "");
    let job = system.run(&["backup"]);
    assert_eq!(archive(&system)["consistency"], "snapshot", "{job:#}");
    assert!(!job.to_string().contains("fuzzy"), "{job:#}");
    let finds = peer.finds();
    // Collections are asked for side by side.
    let mut collections: Vec<_> = finds.iter().filter_map(|find| find.get_str("find").ok()).collect();
    assert_eq!(collections[0], "system.version");
    collections.sort_unstable();
    assert_eq!(collections, ["a", "b", "system.version"]);
    let instant = Timestamp { time: 7, increment: 3 };
    for (at, find) in finds.iter().enumerate() {
        let concern = find.get_document("readConcern").expect("a read concern");
        assert_eq!(concern.get_str("level").expect("a level"), "snapshot");
        let expected = (at > 0).then_some(instant);
        assert_eq!(concern.get_timestamp("atClusterTime").ok(), expected, "only the first is free to choose");
    }

    // The attempt that comes too late is followed by one that asks for less, and says so.
    peer.refuse("b", TOO_OLD);
    let job = system.run(&["backup"]);
    assert_eq!(archive(&system)["consistency"], "fuzzy", "{job:#}");
    assert!(job.to_string().contains("minSnapshotHistoryWindowInSeconds"), "{job:#}");
    let last = peer.finds();
    let last: Vec<_> = last.iter().rev().take(2).collect();
    assert!(last.iter().all(|find| !find.contains_key("readConcern")), "{last:?}");
}

#[test]
fn a_scripted_replica_set_whose_collections_are_renamed_meanwhile_loses_none_of_them_silently() {
    let peer = Peer::start();
    let system = system(&uri(peer.port), "");
    // Around the instant: another one is taken, and what there was at it is read.
    peer.list([vec![("a", 1), ("b", 2)], vec![("a", 1), ("c", 2)]]);
    let job = system.run(&["backup"]);
    assert!(!job.to_string().contains("renamed"), "{job:#}");
    let finds = peer.finds();
    let asked: Vec<_> = finds.iter().filter_map(|find| find.get_str("find").ok()).collect();
    assert_eq!(asked.iter().filter(|name| **name == "system.version").count(), 2, "{asked:?}");
    assert!(asked.contains(&"c") && !asked.contains(&"b"), "{asked:?}");

    // While it is read: it is not known which of its names was read when.
    peer.list([vec![("a", 1), ("b", 2)], vec![("a", 1), ("b", 2)], vec![("a", 1), ("d", 2), ("e", 3)]]);
    let missing = system.nsctl(&["backup", "-o", "json"]).expect(3).json();
    let said = missing.to_string();
    assert!(said.contains("shop/d.bson") && said.contains("was shop.b before"), "{missing:#}");
    assert!(!said.contains("shop/e.bson"), "it came after the instant: {missing:#}");

    peer.list([vec![("a", 1), ("b", 2)], vec![("a", 1), ("b", 2)], vec![("a", 1)]]);
    let told = system.run(&["backup"]);
    assert!(told.to_string().contains("it was dropped while the server was read"), "{told:#}");
}

#[test]
fn a_collection_that_comes_or_goes_while_a_server_is_read_fuzzy_is_told() {
    let server = Server::start("9");
    server.insert("shop", "large", (0..3_300).map(|i| doc! { "_id": i, "noise": noise(i, 1_000) }).collect());
    server.insert("shop", "later", vec![doc! { "_id": 1 }]);
    let system = system(&uri(server.port), ", limits: { read: 1500kB }");
    let job = system.start_job(&["backup"]);
    wait_for("the first collection to be read", 30, || {
        let job = system.job(&job)?;
        (job["parts"][0]["done_entries"].as_u64() >= Some(4)).then_some(())
    });
    server.insert("shop", "new", vec![doc! { "_id": 1 }]);
    server.run("shop", doc! { "drop": "later" });
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    let said = ended.to_string();
    for (path, what) in [("shop/new.bson", "it came while"), ("shop/later.bson", "it was dropped while")] {
        assert!(said.contains(path) && said.contains(what), "{path}: {ended:#}");
    }
}

#[test]
fn a_scripted_server_that_gives_not_all_has_an_incomplete_backup_and_one_that_lost_a_collection_a_whole_one()
{
    const FORBIDDEN: i32 = 13;
    const NOT_FOUND: i32 = 26;
    let peer = Peer::start();
    let system = system(&uri(peer.port), "");
    peer.refuse("b", FORBIDDEN);
    let missing = system.nsctl(&["backup", "-o", "json"]).expect(3).json();
    assert_eq!(missing["state"], "incomplete", "{missing:#}");
    let said = missing.to_string();
    assert!(said.contains("the user may not read all of it") && said.contains("shop/b.bson"), "{said}");
    assert!(!said.contains("shop/a.bson"), "{said}");

    // What it lacks is not taken for what is to go, and where nothing would go, that is not in the way.
    let name = missing["backup"].as_str().expect("a name");
    let plan =
        system.nsctl(&["restore", "--timestamp", name, "--drop-others", "--plan", "-o", "json"]).json();
    assert_eq!(plan["sources"][0]["removed"]["count"], 0, "{plan:#}");
    assert!(!plan.to_string().contains("what --drop-others would remove"), "{plan:#}");

    peer.refuse("b", NOT_FOUND);
    let job = system.run(&["backup"]);
    assert!(job.to_string().contains("shop/b.bson"), "it is told: {job:#}");
}

#[test]
fn a_scripted_server_with_users_a_view_and_a_time_series_becomes_the_folder_that_mongorestore_reads() {
    let peer = Peer::start();
    peer.have_all();
    let system = system(&uri(peer.port), "");
    system.run(&["backup"]);
    let place = system.root().join("dump");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let files = |folder: &str| {
        let listed = fs::read_dir(place.join("database").join(folder)).expect("it is there");
        let names = listed.map(|one| one.expect("listed").file_name().into_string().expect("UTF-8"));
        names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        files("admin"),
        "system.roles.bson system.roles.metadata.json system.users.bson system.users.metadata.json"
    );
    assert_eq!(
        files("shop"),
        "a.bson a.metadata.json b.bson b.metadata.json system.buckets.t.bson t.metadata.json v.metadata.json"
    );
    let described = |file: &str| -> Value {
        let text = fs::read(place.join("database/shop").join(file)).expect("it is there");
        serde_json::from_slice(&text).expect("JSON")
    };
    let view = described("v.metadata.json");
    assert_eq!((&view["type"], &view["options"]["viewOn"]), (&"view".into(), &"a".into()), "{view:#}");
    assert_eq!(view["indexes"], Value::Array(Vec::new()));
    let series = described("t.metadata.json");
    assert_eq!(series["options"]["timeseries"]["timeField"], "at", "{series:#}");
    // In place they are named as what is left out.
    let plan = system.nsctl(&["restore", "--timestamp", "latest", "--plan", "-o", "json"]).expect(0);
    for left in ["admin.system.users is not restored", "shop.t is not restored: a time series"] {
        assert!(plan.out.contains(left), "{left}: {}", plan.out);
    }
}

#[test]
fn a_connection_cut_while_a_collection_is_read_ends_the_backup_and_the_next_one_is_whole() {
    let server = Server::start("9");
    server.insert("shop", "large", (0..3_300).map(|i| doc! { "_id": i, "noise": noise(i, 1_000) }).collect());
    let network = Arc::new(Forwarder::to(server.port));
    let system = system(&uri(network.port()), ", limits: { read: 1500kB }");
    let job = system.start_job(&["backup"]);
    // The root, the prelude, the database: and then its one collection.
    wait_for("the collection to be read", 30, || {
        let job = system.job(&job)?;
        (job["parts"][0]["done_entries"].as_u64() >= Some(4)).then_some(())
    });
    network.dark();
    network.cut();
    let ended = system.await_end(&job);
    assert_ne!(ended["state"], "complete", "{ended:#}");
    assert!(ended.to_string().contains("the connection to it is lost"), "{ended:#}");
    network.light();
    system.run(&["backup"]);
    let place = system.root().join("dump");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    assert_eq!(parsed(&place.join("database/shop/large.bson")), server.documents("shop", "large"));
}

#[test]
fn a_kill_of_agent_or_controller_while_a_server_is_read_ends_in_a_whole_backup() {
    let server = Server::start("9");
    server.insert("shop", "large", (0..3_300).map(|i| doc! { "_id": i, "noise": noise(i, 1_000) }).collect());
    let mut system = system(&uri(server.port), ", limits: { read: 1500kB }");
    for killed in ["agent", "controller"] {
        let job = system.start_job(&["backup"]);
        wait_for("the collection to be read", 30, || {
            let job = system.job(&job)?;
            (job["parts"][0]["done_entries"].as_u64() >= Some(4)).then_some(())
        });
        match killed {
            "agent" => {
                system.kill_agent();
                system.start_agent();
            }
            _ => {
                system.kill_controller();
                system.start_controller();
            }
        }
        system.await_agent();
        let ended = system.await_end(&job);
        assert_eq!(ended["state"], "complete", "{killed}: {ended:#}");
        let place = system.root().join(format!("without-{killed}"));
        system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
        let came = parsed(&place.join("database/shop/large.bson"));
        assert!(came == server.documents("shop", "large"), "{killed}: {} documents", came.len());
    }
}
