//! A server that speaks MongoDB's protocol, and what tests put into it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, WriteConcern};
use serde_json::Value;
use tests::{Application, System};
use tokio_stream::StreamExt;

/// The process that has all servers of this test program, and ends with it.
struct Engine {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

static ENGINE: LazyLock<Mutex<Engine>> = LazyLock::new(|| {
    let mut child = Command::new(tests::project().join("tests/engines/mongodb"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    Mutex::new(Engine { _child: child, input, output: BufReader::new(output) })
});

/// A server with its data in a file.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) client: mongodb::Client,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(wire_version: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut line = String::new();
        {
            let mut engine = ENGINE.lock().expect("nobody panics with it");
            let file = folder.path().join("data");
            writeln!(engine.input, "{wire_version} {}", file.display()).expect("written");
            engine.output.read_line(&mut line).expect("read");
        }
        let port =
            line.trim().strip_prefix("READY ").and_then(|port| port.parse().ok()).expect("it is ready");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        let client = runtime.block_on(async { mongodb::Client::with_uri_str(uri).await }).expect("a client");
        Self { port, runtime, client, _folder: folder }
    }

    pub(crate) fn insert(&self, database: &str, collection: &str, documents: Vec<Document>) {
        let collection = self.client.database(database).collection::<Document>(collection);
        self.runtime.block_on(async { collection.insert_many(documents).await }).expect("inserted");
    }

    /// Writes a document and waits for no more than that one member has it.
    pub(crate) fn insert_relaxed(&self, database: &str, collection: &str, document: Document) {
        let collection = self.client.database(database).collection::<Document>(collection);
        let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        self.runtime
            .block_on(async { collection.insert_one(document).write_concern(one).await })
            .expect("inserted");
    }

    pub(crate) fn run(&self, database: &str, command: Document) -> Document {
        self.runtime
            .block_on(async { self.client.database(database).run_command(command).await })
            .expect("done")
    }

    /// The names of all databases.
    pub(crate) fn databases(&self) -> Vec<String> {
        let answer = self.run("admin", doc! { "listDatabases": 1, "nameOnly": true });
        let names = answer.get_array("databases").expect("listed").iter();
        names
            .map(|one| one.as_document().and_then(|one| one.get_str("name").ok()).expect("a name").to_owned())
            .collect()
    }

    /// The names of all collections of a database, but for the server's own.
    pub(crate) fn collections(&self, database: &str) -> Vec<String> {
        let database = self.client.database(database);
        let names = self.runtime.block_on(async { database.list_collection_names().await }).expect("listed");
        names.into_iter().filter(|name| !name.starts_with("system.")).collect()
    }

    /// Every document of a collection, as the server gives it.
    pub(crate) fn documents(&self, database: &str, collection: &str) -> Vec<Vec<u8>> {
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

    /// The same, read.
    pub(crate) fn read(&self, database: &str, collection: &str) -> Vec<Document> {
        let read = |bytes| {
            let raw = RawDocumentBuf::from_bytes(bytes).expect("a document");
            Document::try_from(&*raw).expect("a document")
        };
        self.documents(database, collection).into_iter().map(read).collect()
    }

    /// The indexes of a collection by name, as JSON.
    pub(crate) fn indexes(&self, database: &str, collection: &str) -> BTreeMap<String, String> {
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
pub(crate) fn system(uri: &str, more: &str) -> System {
    started(System::prepare(&[]), uri, more, "")
}

/// The same; its agent logs which commands it sends.
pub(crate) fn system_that_tells(uri: &str, more: &str) -> System {
    let mut system = System::prepare(&[]);
    system.set_variable("NEURASHIELD_LOG", "info,neurashield_mongodb=trace");
    system.set_variable("NEURASHIELD_LOG_FORMAT", "json");
    started(system, uri, more, "")
}

/// The same for a test of failures.
pub(crate) fn system_that_can_be_held(uri: &str, more: &str) -> System {
    started(System::prepare_held(&[]), uri, more, "")
}

/// The same with an application that uses the component.
pub(crate) fn system_with_an_application(uri: &str) -> (System, Application) {
    let system = System::prepare_held(&[]);
    let data = system.root().join("application");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("value"), "here").expect("written");
    let application = Application::new(&data, &system.root().join("run"));
    application.start();
    (started(system, uri, "", &application.settings("database")), application)
}

fn started(mut system: System, uri: &str, more: &str, lines: &str) -> System {
    fs::write(system.root().join("uri"), uri).expect("written");
    system.configure_agent(&format!(
        "  - {{ component: database, kind: mongodb, name: mongodb, uri_file: {}{more} }}\n{lines}",
        system.root().join("uri").display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

pub(crate) fn uri(port: u16) -> String {
    format!("mongodb://127.0.0.1:{port}/?directConnection=true")
}

/// The same, for a test that takes the server away: it is not looked for for long.
pub(crate) fn impatient_uri(port: u16) -> String {
    format!("{}&serverSelectionTimeoutMS=1500&connectTimeoutMS=1500", uri(port))
}

pub(crate) fn is_long() -> bool {
    std::env::var("NEURASHIELD_MONGODB").is_ok_and(|form| form == "long")
}

/// Collections of all sorts, by what their files are called.
pub(crate) fn fill(server: &Server) -> BTreeMap<(&'static str, String), String> {
    let mut files = fill_with(server, 8, 50);
    // More than a small file and more than a batch: it is read as it comes.
    server.insert("shop", "large", (0..1_200).map(|i| doc! { "_id": i, "noise": noise(i, 500) }).collect());
    files.insert(("shop", "large".to_owned()), "large".to_owned());
    files
}

/// So many collections with so many documents each, and some with odd names. The first has an index of each kind that
/// the server knows.
pub(crate) fn fill_with(
    server: &Server,
    collections: i32,
    per: i32,
) -> BTreeMap<(&'static str, String), String> {
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
    server.run("shop", doc! { "createIndexes": "c0", "indexes": every_kind() });
    files
}

/// An index of each kind that mongo-java-server knows.
fn every_kind() -> Vec<Document> {
    vec![
        doc! { "key": { "n": 1 }, "name": "ascending" },
        doc! { "key": { "d": -1 }, "name": "descending" },
        doc! { "key": { "n": 1, "_id": -1 }, "name": "compound" },
        doc! { "key": { "text": "text" }, "name": "words" },
        doc! { "key": { "u": 1 }, "name": "unique", "unique": true, "sparse": true },
        doc! { "key": { "s": 1 }, "name": "sparse", "sparse": true },
        doc! { "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 3_600 },
        doc! { "key": { "p": 1 }, "name": "partial", "partialFilterExpression": { "p": { "$gt": 1 } } },
        doc! { "key": { "h": "hashed" }, "name": "hashed" },
        doc! { "key": { "f": "2d" }, "name": "flat" },
        doc! { "key": { "g": "2dsphere" }, "name": "sphere" },
        doc! { "key": { "hid": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "c": 1 }, "name": "collated", "collation": { "locale": "en", "strength": 2 } },
    ]
}

pub(crate) fn noise(seed: i32, length: usize) -> String {
    let mut state = u64::from(seed.unsigned_abs()) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 40) as u8 % 26)
    };
    (0..length).map(|_| next()).collect()
}
