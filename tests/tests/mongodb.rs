//! MongoDB, as a user sees it: what a server holds is backed up, comes back as the folder that `mongorestore`
//! reads, and whatever is wrong with the server is a clear error without a secret in it.
//!
//! The server is mongo-java-server, which is no mongod: it has no views, no options, no users and no
//! snapshots (docs/mongodb.md). `NEURASHIELD_MONGODB=long` takes 20,000 documents and two of 16 MiB.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use serde_json::Value;
use tests::{Forwarder, Process, System, wait_for};
use tokio_stream::StreamExt;

const PASSWORD: &str = "hunter2-and-more";

/// A server with its data in a file.
struct Server {
    child: Child,
    port: u16,
    runtime: tokio::runtime::Runtime,
    client: mongodb::Client,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(wire_version: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(tests::project().join("tests/engines/mongodb"))
            .arg(folder.path().join("data"))
            .env("NEURASHIELD_WIRE_VERSION", wire_version)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        let port =
            line.trim().strip_prefix("READY ").and_then(|port| port.parse().ok()).expect("it is ready");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        let client = runtime.block_on(async { mongodb::Client::with_uri_str(uri).await }).expect("a client");
        Self { child, port, runtime, client, _folder: folder }
    }

    fn insert(&self, database: &str, collection: &str, documents: Vec<Document>) {
        let collection = self.client.database(database).collection::<Document>(collection);
        self.runtime.block_on(async { collection.insert_many(documents).await }).expect("inserted");
    }

    fn run(&self, database: &str, command: Document) -> Document {
        self.runtime
            .block_on(async { self.client.database(database).run_command(command).await })
            .expect("done")
    }

    /// Every document of a collection, as the server gives it.
    fn documents(&self, database: &str, collection: &str) -> Vec<Vec<u8>> {
        let collection = self.client.database(database).collection::<RawDocumentBuf>(collection);
        self.runtime.block_on(async {
            let mut cursor = collection.find(doc! {}).batch_size(500).await.expect("a cursor");
            let mut documents = Vec::new();
            while let Some(document) = cursor.next().await {
                documents.push(document.expect("read").into_bytes());
            }
            documents
        })
    }

    /// The indexes of a collection by name, as JSON.
    fn indexes(&self, database: &str, collection: &str) -> BTreeMap<String, String> {
        let answer = self.run(database, doc! { "listIndexes": collection });
        let listed = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let one = |index: &Bson| {
            let index = index.as_document().expect("a document").clone();
            let name = index.get_str("name").expect("a name").to_owned();
            (name, json(&Bson::Document(index)).to_string())
        };
        listed.expect("listed").iter().map(one).collect()
    }
}

/// What indexes hold, in canonical Extended JSON.
fn json(value: &Bson) -> Value {
    match value {
        Bson::Int32(number) => serde_json::json!({ "$numberInt": number.to_string() }),
        Bson::Int64(number) => serde_json::json!({ "$numberLong": number.to_string() }),
        Bson::Double(number) => serde_json::json!({ "$numberDouble": format!("{number:?}") }),
        Bson::String(text) => text.as_str().into(),
        Bson::Boolean(boolean) => (*boolean).into(),
        Bson::Document(fields) => fields.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
        other => panic!("no index has {other}"),
    }
}

/// A system that backs up the server at `uri`.
fn system(uri: &str, more: &str) -> System {
    let mut system = System::prepare(&[]);
    fs::write(system.root().join("uri"), uri).expect("written");
    system.configure_agent(&format!(
        "  - {{ component: database, kind: mongodb, name: mongodb, uri_file: {}{more} }}\n",
        system.root().join("uri").display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

fn uri(port: u16) -> String {
    format!("mongodb://127.0.0.1:{port}/?directConnection=true")
}

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

fn is_long() -> bool {
    std::env::var("NEURASHIELD_MONGODB").is_ok_and(|form| form == "long")
}

/// Collections of all sorts, by what their files are called.
fn fill(server: &Server) -> BTreeMap<(&'static str, String), String> {
    let (collections, per) = if is_long() { (40, 500) } else { (8, 50) };
    let mut files = BTreeMap::new();
    for n in 0..collections {
        let name = format!("c{n}");
        let document =
            |i: i32| doc! { "_id": i, "n": n, "text": "x".repeat(100), "d": f64::from(i), "l": [i, "é"] };
        server.insert("shop", &name, (0..per).map(document).collect());
        files.insert(("shop", name.clone()), name);
    }
    let odd =
        [("sp ace", "sp+ace"), ("ünï.code", "%C3%BCn%C3%AF.code"), ("x%y", "x%25y"), ("-dash", "-dash")];
    for (name, file) in odd {
        server.insert("odd", name, vec![doc! { "name": name }]);
        files.insert(("odd", name.to_owned()), file.to_owned());
    }
    // More than a small file and more than a batch: it is read as it comes.
    server.insert("shop", "large", (0..2_500).map(|i| doc! { "_id": i, "noise": noise(i, 1_000) }).collect());
    files.insert(("shop", "large".to_owned()), "large".to_owned());
    if is_long() {
        let whole = |i: i32| doc! { "_id": i, "whole": "w".repeat((16 << 20) - 100) };
        (0..2).for_each(|i| server.insert("shop", "sixteen", vec![whole(i)]));
        files.insert(("shop", "sixteen".to_owned()), "sixteen".to_owned());
    }
    let indexes = vec![
        doc! { "key": { "n": 1, "_id": -1 }, "name": "compound" },
        doc! { "key": { "text": "text" }, "name": "words" },
        doc! { "key": { "u": 1 }, "name": "unique", "unique": true, "sparse": true },
        doc! { "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 3_600 },
        doc! { "key": { "p": 1 }, "name": "partial", "partialFilterExpression": { "p": { "$gt": 1 } } },
        doc! { "key": { "h": "hashed" }, "name": "hashed" },
        doc! { "key": { "g": "2dsphere" }, "name": "sphere" },
        doc! { "key": { "hid": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "c": 1 }, "name": "collated", "collation": { "locale": "en", "strength": 2 } },
    ];
    server.run("shop", doc! { "createIndexes": "c0", "indexes": indexes });
    files
}

fn noise(seed: i32, length: usize) -> String {
    let mut state = u64::from(seed.unsigned_abs()) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 40) as u8 % 26)
    };
    (0..length).map(|_| next()).collect()
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

    // Under a running writer, whose documents are of no importance here.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..2_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                server.insert("busy", "written", vec![doc! { "n": n }]);
            }
        });
        wait_for("the writer to write", 10, || {
            (!server.documents("busy", "written").is_empty()).then_some(())
        });
        system.run(&["backup"]);
        stop.store(true, Ordering::Relaxed);
    });
    let first = archive(&system);
    assert_eq!((first["kind"].as_str(), first["consistency"].as_str()), (Some("mongodb"), Some("fuzzy")));
    system.run(&["verify", "--depth", "opened"]);

    // What did not change is not stored once more, although it is read.
    system.run(&["backup"]);
    let second = archive(&system);
    let figure = |archive: &Value, name: &str| archive["counts"][name].as_u64().or(archive[name].as_u64());
    let (read, stored) = (figure(&second, "read_bytes"), figure(&second, "stored_bytes"));
    assert!(read > Some(2_000_000) && stored < Some(200_000), "{second:#}");

    let held: BTreeMap<_, _> =
        files.keys().map(|(database, name)| ((*database, name), server.documents(database, name))).collect();
    let kept = server.indexes("shop", "c0");
    assert_eq!(kept.len(), 10, "{kept:?}");
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
    assert!(!parsed(&dump.join("busy/written.bson")).is_empty());

    // In place is refused, before anything is done.
    let refused = system.nsctl(&["restore", "--timestamp", "latest", "--yes"]);
    assert_ne!(refused.code, 0);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("does not write into MongoDB itself") && said.contains("mongorestore"), "{said}");
}

#[test]
fn a_server_that_cannot_be_read_is_a_clear_error_without_a_secret() {
    let old = Server::start("6");
    let fine = Server::start("9");
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number");
    let cases = [
        (format!("127.0.0.1:{}", nobody.port()), "no server answers at its address"),
        (format!("127.0.0.1:{}", old.port), "its version is too old"),
        (format!("127.0.0.1:{}", fine.port), "it refuses the user or the password"),
        ("127.0.0.1:1/?tls=perhaps&x=".to_owned(), "the connection string cannot be understood"),
    ];
    let mut system = system("mongodb://nowhere", "");
    for (hosts, expected) in cases {
        let user = if expected.contains("old") { String::new() } else { format!("backup:{PASSWORD}@") };
        let options = if hosts.contains('?') { "" } else { "/?serverSelectionTimeoutMS=1500" };
        fs::write(system.root().join("uri"), format!("mongodb://{user}{hosts}{options}")).expect("written");
        let failed = system.nsctl(&["backup"]);
        assert_ne!(failed.code, 0, "{expected}: {}", failed.out);
        let said = format!("{}{}", failed.out, failed.err);
        assert!(said.contains(expected), "{expected}:\n{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
    for process in [Process::Agent, Process::Controller] {
        assert!(!system.log(process).contains(PASSWORD), "{}", system.log(process));
    }
    system.kill_agent();
}

#[test]
fn a_connection_cut_while_a_collection_is_read_ends_the_backup_and_the_next_one_is_whole() {
    let server = Server::start("9");
    server.insert("shop", "large", (0..6_000).map(|i| doc! { "_id": i, "noise": noise(i, 1_000) }).collect());
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
