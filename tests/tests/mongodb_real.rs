//! Backup, verification, restore in place and a copy under another name at the server that `MONGODB_URI` names, with
//! what that server has; and what it was asked for, by the driver's events. Beyond the gate: `MONGODB_URI=… tests/run
//! mongodb-real`. Only the database `neurashield_test` and its copy are written to, and both are dropped before and
//! after. A server that cannot be read as of one instant is locked for at most a minute, if its user may do that.

#[allow(dead_code, reason = "other programs of tests use the rest")]
#[path = "mongodb/sent.rs"]
mod sent;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};
use tests::System;
use tokio_stream::StreamExt;

const OURS: &str = "neurashield_test";
const COPY: &str = "neurashield_test_copy";

/// What a collection is, and what it holds.
#[derive(Debug, PartialEq)]
struct Held {
    described: Document,
    indexes: BTreeMap<String, Document>,
    documents: BTreeSet<Vec<u8>>,
}

async fn all(mut cursor: mongodb::Cursor<Document>) -> Vec<Document> {
    let mut all = Vec::new();
    while let Some(one) = cursor.next().await {
        all.push(one.expect("listed"));
    }
    all
}

/// Everything in a database, by name, but for what the server keeps for itself.
async fn held(database: &Database) -> BTreeMap<String, Held> {
    let mut held = BTreeMap::new();
    let listed = database.run_cursor_command(doc! { "listCollections": 1 }).await.expect("listed");
    for mut described in all(listed).await {
        let name = described.get_str("name").expect("a name").to_owned();
        if name.starts_with("system.") {
            continue;
        }
        let kind = described.get_str("type").unwrap_or("collection").to_owned();
        // What differs with every collection that is made.
        for own in ["info", "idIndex"] {
            described.remove(own);
        }
        let mut indexes = BTreeMap::new();
        if kind != "view" {
            let command = doc! { "listIndexes": &name };
            let listed = database.run_cursor_command(command).await.expect("listed");
            for mut index in all(listed).await {
                index.remove("ns");
                indexes.insert(index.get_str("name").expect("a name").to_owned(), index);
            }
        }
        let mut documents = BTreeSet::new();
        let found = database.collection::<RawDocumentBuf>(&name).find(doc! {}).await;
        let mut found = found.expect("read");
        while let Some(document) = found.next().await {
            documents.insert(document.expect("read").into_bytes());
        }
        held.insert(name, Held { described, indexes, documents });
    }
    held
}

/// Makes all that this server can make; says what it refuses.
async fn fill(database: &Database) {
    let makes = [
        doc! { "create": "plain" },
        doc! { "create": "odd name/ü" },
        doc! { "create": "empty" },
        doc! { "create": "validated", "validator": { "n": { "$gte": 0 } }, "validationLevel": "strict" },
        doc! { "create": "collated", "collation": { "locale": "de", "strength": 2 } },
        doc! { "create": "capped", "capped": true, "size": 1 << 20 },
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        doc! { "create": "series", "timeseries": { "timeField": "at", "metaField": "of" } },
        doc! { "create": "view", "viewOn": "plain", "pipeline": [{ "$match": { "n": { "$lt": 5 } } }] },
    ];
    for make in makes {
        let name = make.get_str("create").expect("a name").to_owned();
        if let Err(error) = database.run_command(make).await {
            println!("this server has no collection such as {name}: {error}");
            continue;
        }
        if name == "empty" || name == "view" {
            continue;
        }
        let document = |n: i64| {
            let at = DateTime::from_millis(1_700_000_000_000 + n * 1_000);
            doc! { "_id": n, "n": n, "at": at, "of": "x", "text": format!("text {n}"), "place": [1.0, n as f64 / 100.0] }
        };
        let documents: Vec<_> = (0..500).map(document).collect();
        database.collection::<Document>(&name).insert_many(documents).await.expect("inserted");
    }
    let indexes = [
        doc! { "key": { "n": 1, "text": -1 }, "name": "compound" },
        doc! { "key": { "n": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "gone": 1 }, "name": "sparse", "sparse": true },
        doc! { "key": { "n": -1 }, "name": "partial", "partialFilterExpression": { "n": { "$gt": 10 } } },
        doc! { "key": { "later": 1 }, "name": "expires", "expireAfterSeconds": 100_000_000 },
        doc! { "key": { "text": "text" }, "name": "words" },
        doc! { "key": { "text": "hashed" }, "name": "hashed" },
        doc! { "key": { "place": "2d" }, "name": "flat" },
        doc! { "key": { "hidden": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "$**": 1 }, "name": "wildcard" },
    ];
    for index in indexes {
        let name = index.get_str("name").expect("a name").to_owned();
        if let Err(error) = database.run_command(doc! { "createIndexes": "plain", "indexes": [index] }).await
        {
            println!("this server has no index such as {name}: {error}");
        }
    }
}

#[test]
fn a_real_server_gives_and_takes_back_all_that_it_has() {
    let uri = std::env::var("MONGODB_URI")
        .expect("set MONGODB_URI to the connection string of a server on which neurashield_test may be made and dropped");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(Client::with_uri_str(&uri)).expect("it is a connection string");
    let [ours, copy] = [OURS, COPY].map(|name| client.database(name));
    let drop_both = || {
        runtime.block_on(async {
            ours.drop().await.expect("dropped");
            copy.drop().await.expect("dropped");
        });
    };
    drop_both();
    runtime.block_on(fill(&ours));
    let before = runtime.block_on(held(&ours));
    assert!(before.len() > 3 && before["plain"].documents.len() == 500, "{:?}", before.keys());

    let mut system = System::prepare(&[]);
    system.set_variable("NEURASHIELD_LOG", "info,neurashield_mongodb=trace");
    system.set_variable("NEURASHIELD_LOG_FORMAT", "json");
    fs::write(system.root().join("uri"), &uri).expect("written");
    system.configure_agent(&format!(
        "  - {{ component: database, kind: mongodb, name: mongodb, uri_file: {}, fsync_lock: 1m }}\n",
        system.root().join("uri").display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let job = system.nsctl(&["backup", "-o", "json"]).json();
    println!("the backup: {} {}", job["state"], job["parts"]);
    assert!(job["state"] == "complete" || job["state"] == "incomplete", "{job:#}");
    let name = job["backup"].as_str().expect("a name");
    let shown = system.nsctl(&["show", name, "-o", "json"]).expect(0).json();
    let consistency = shown["archives"][0]["consistency"].as_str().expect("a word");
    println!("its consistency: {consistency}");
    let commands = sent::sent(&system);
    match consistency {
        "snapshot" => sent::assert_of_one_instant(&commands),
        "quiesced" => {
            sent::assert_locked_once(&commands);
            let now = runtime.block_on(async {
                client.database("admin").run_command(doc! { "currentOp": 1, "$ownOps": true }).await
            });
            assert!(!now.expect("told").get_bool("fsyncLock").unwrap_or_default(), "it is locked still");
        }
        // What the server refused is told.
        _ => assert!(job.to_string().contains("and it was not locked"), "{job:#}"),
    }
    let users = runtime.block_on(async { client.database("admin").list_collection_names().await });
    if users.is_ok_and(|names| names.iter().any(|name| name == "system.users")) {
        sent::assert_users_are_read(&commands);
    }
    system.run(&["verify", "--timestamp", name, "--depth", "opened"]);

    let restore = ["restore", "--timestamp", name, "--yes", "--accept-doubts", "--no-safety-backup"];
    runtime.block_on(async { ours.drop().await.expect("dropped") });
    system.run(&[&restore[..], &["--include", OURS]].concat());
    let after = runtime.block_on(held(&ours));
    // Time series are left to mongorestore.
    let restored =
        |held: &&String| before[*held].described.get_str("type").is_ok_and(|kind| kind != "timeseries");
    for name in before.keys().filter(restored) {
        assert_eq!(after.get(name), Some(&before[name]), "{name} is not what it was");
    }
    // Over what is live, and beside it.
    system.run(&[&restore[..], &["--include", OURS]].concat());
    system.run(&[&restore[..], &["--rename", &format!("{OURS}={COPY}")]].concat());
    let copied = runtime.block_on(held(&copy));
    assert_eq!(copied["plain"].documents, before["plain"].documents);
    assert_eq!(copied["plain"].indexes, before["plain"].indexes);
    let left = runtime.block_on(async { ours.list_collection_names().await }).expect("listed");
    assert!(!left.iter().any(|name| name.starts_with("neurashield")), "{left:?}");
    system.kill_agent();
    drop_both();
}
