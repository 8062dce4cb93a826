//! Imports of the stream of `mongodump --archive`: one that this test writes, byte by byte and with collections in turns
//! as `mongodump` would, and one that was exported before; one that is damaged becomes no backup.

use std::fs;
use std::path::Path;

use mongodb::bson::{doc, rawdoc};
use serde_json::Value;

use crate::dump::checksum;
use crate::parsed;
use crate::server::{Server, fill, system, uri};

const TERMINATOR: [u8; 4] = [0xff; 4];
const ID: &str = r#"{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}"#;
const TEXT: &str =
    r#"{"v":{"$numberInt":"2"},"key":{"text":{"$numberInt":"-1"}},"name":"by_text","unique":true}"#;

/// A stream in the making.
struct Writer(Vec<u8>);

impl Writer {
    fn begin(announced: &[(&str, &str, &str, &str)]) -> Self {
        let head = rawdoc! {
            "concurrent_collections": 4, "version": "0.1", "server_version": "6.0.1", "tool_version": "100.9",
        };
        let mut writer = Self([&[0x6d, 0xe2, 0x99, 0x81], head.as_bytes()].concat());
        for (database, collection, kind, metadata) in announced.iter().copied() {
            let said = rawdoc! {
                "db": database, "collection": collection, "metadata": metadata, "size": 0, "type": kind,
            };
            writer.0.extend_from_slice(said.as_bytes());
        }
        writer.0.extend_from_slice(&TERMINATOR);
        writer
    }

    fn head(&mut self, (database, collection): (&str, &str), is_end: bool, sum: i64) {
        let head = rawdoc! { "db": database, "collection": collection, "EOF": is_end, "CRC": sum };
        self.0.extend_from_slice(head.as_bytes());
    }

    fn block(&mut self, of: (&str, &str), documents: &[Vec<u8>]) {
        self.head(of, false, 0);
        documents.iter().for_each(|document| self.0.extend_from_slice(document));
        self.0.extend_from_slice(&TERMINATOR);
    }

    fn end(&mut self, of: (&str, &str), documents: &[Vec<u8>]) {
        self.head(of, true, checksum(documents).cast_signed());
        self.0.extend_from_slice(&TERMINATOR);
    }
}

fn documents() -> Vec<Vec<u8>> {
    (0..2_000).map(|i| rawdoc! { "_id": i, "text": format!("number {i}") }.into_bytes()).collect()
}

/// Two collections in turns, an empty one, a view, a time series, and the log of operations.
fn written() -> Vec<u8> {
    let all = documents();
    let described = |indexes: &str, name: &str, kind: &str, options: &str| {
        format!(r#"{{"options":{options},"indexes":[{indexes}],"collectionName":"{name}","type":"{kind}"}}"#)
    };
    let (odd, view) = ("a b/c", r#"{"viewOn":"orders","pipeline":[]}"#);
    let series = r#"{"timeseries":{"timeField":"at"}}"#;
    let orders = described(&format!("{ID},{TEXT}"), "orders", "collection", "{}");
    let mut writer = Writer::begin(&[
        ("old", "orders", "collection", &orders),
        ("old", odd, "collection", &described(ID, odd, "collection", "{}")),
        ("old", "none", "collection", &described(ID, "none", "collection", "{}")),
        ("old", "seen", "view", &described("", "seen", "view", view)),
        ("times", "t", "timeseries", &described("", "t", "timeseries", series)),
        ("", "oplog", "", ""),
    ]);
    let (orders, odd, buckets) = (("old", "orders"), ("old", odd), ("times", "system.buckets.t"));
    writer.block(orders, &all[..700]);
    writer.block(odd, &all[..2]);
    writer.block(orders, &all[700..701]);
    writer.block(buckets, &all[5..6]);
    // A collection that ends at a full buffer has a block of nothing.
    writer.block(odd, &[]);
    writer.block(orders, &all[701..]);
    writer.block(odd, &all[2..3]);
    writer.end(odd, &all[..3]);
    writer.end(buckets, &all[5..6]);
    writer.end(("old", "none"), &[]);
    writer.end(orders, &all);
    writer.block(("", "oplog"), &all[..1]);
    writer.end(("", "oplog"), &all[..1]);
    writer.0
}

#[test]
fn a_stream_becomes_a_backup_that_is_restored_in_place_and_a_damaged_one_becomes_none() {
    let server = Server::start("9");
    let dumps = tempfile::tempdir().expect("a folder");
    let folder = dumps.path().join("dumps");
    fs::create_dir(&folder).expect("made");
    let system = system(&uri(server.port), &format!(", imports: {}", folder.display()));
    let import = |file: &Path| {
        let file = file.to_str().expect("UTF-8");
        system.nsctl(&["import", "mongodump", "--archive", file, "-o", "json"])
    };
    let backups = || {
        let listed = system.nsctl(&["list", "-o", "json"]).expect(0).json();
        listed["backups"].as_array().expect("backups").len()
    };

    let (whole, all) = (written(), documents());
    let find = |what: &[u8]| whole.windows(what.len()).position(|at| at == what).expect("it is there");
    let mut flipped = whole.clone();
    flipped[find(b"number 1234") + 3] ^= 1;
    let mut claimed = whole.clone();
    let first = find(&all[0]);
    claimed[first..first + 4].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let mut out = Writer::begin(&[("../old", "orders", "collection", "{}")]);
    out.end(("../old", "orders"), &[]);
    let mut unknown = Writer(whole.clone());
    unknown.block(("other", "orders"), &all[..1]);
    let mut twice = Writer::begin(&[("old", "orders", "collection", &format!(r#"{{"indexes":[{ID}]}}"#))]);
    let same = [all[0].clone(), all[0].clone()];
    twice.block(("old", "orders"), &same);
    twice.end(("old", "orders"), &same);
    let cases = [
        ("cut", whole[..whole.len() - 700].to_vec(), "cut off"),
        ("half", whole[..whole.len() / 2].to_vec(), "cut off"),
        ("flipped", flipped, "old/orders.bson is damaged: its documents have another checksum"),
        ("claimed", claimed, "it holds what is no document"),
        ("out", out.0, "cannot be the name of a collection"),
        ("unknown", unknown.0, "a block is of no announced collection"),
        ("twice", twice.0, "have the _id of another"),
        ("compressed", [&[0x1f, 0x8b][..], &whole].concat(), "it is compressed"),
        ("compressed", [&[0x1f, 0x8b][..], &whole].concat(), "`gunzip < FILE` into another file"),
        ("text", b"_id,text\n1,number 1\n".to_vec(), "it is no stream of mongodump --archive"),
        ("nothing", Vec::new(), "it is no stream of mongodump --archive"),
    ];
    for (name, bytes, expected) in cases {
        let file = folder.join(name);
        fs::write(&file, bytes).expect("written");
        let refused = import(&file);
        let said = format!("{}{}", refused.out, refused.err);
        assert!(refused.code == 1 && said.contains(expected), "{name}, {expected}: {} {said}", refused.code);
        assert_eq!(backups(), 0, "{name}");
    }
    assert!(server.databases().iter().all(|name| name != "old" && name != "times"));
    let elsewhere = dumps.path().join("elsewhere");
    fs::write(&elsewhere, &whole).expect("written");
    let refused = import(&elsewhere);
    assert!(refused.code == 1 && format!("{}{}", refused.out, refused.err).contains("does not lie below"));

    let one = folder.join("one.archive");
    fs::write(&one, &whole).expect("written");
    let job = import(&one).expect(0).json();
    assert_eq!((job["state"].as_str(), backups()), (Some("complete"), 1), "{job:#}");
    let told = job.to_string();
    assert!(told.contains("it was imported from a dump") && told.contains("oplog.bson"), "{told}");
    system.run(&["verify", "--depth", "opened"]);
    system.run(&[
        "restore",
        "--timestamp",
        "latest",
        "--yes",
        "--no-safety-backup",
        "--include",
        "old.orders",
        "--include",
        "old.a b*",
        "--include",
        "old.none",
    ]);
    assert_eq!(server.documents("old", "orders"), all);
    assert_eq!(server.documents("old", "a b/c"), all[..3]);
    assert!(server.collections("old").contains(&"none".to_owned()));
    assert!(server.indexes("old", "orders")["by_text"].contains(r#""unique":true"#));

    // What no engine here has stands in the folder that mongorestore reads.
    let place = system.root().join("dump");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let of = |path: &str| place.join("database").join(path);
    assert_eq!(parsed(&of("times/system.buckets.t.bson")), all[5..6]);
    assert!(!of("times/t.bson").exists() && !of("old/seen.bson").exists() && !of("oplog.bson").exists());
    let json = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(of(path)).expect("it is there")).expect("JSON")
    };
    assert_eq!(json("old/seen.metadata.json")["options"]["viewOn"], "orders");
    assert_eq!(json("times/t.metadata.json")["options"]["timeseries"]["timeField"], "at");
    assert_eq!(json("prelude.json")["ServerVersion"], "6.0.1");
}

#[test]
fn what_was_exported_as_a_stream_is_imported_and_holds_the_same_documents() {
    let server = Server::start("9");
    let files = fill(&server);
    server.run("shop", doc! { "create": "empty" });
    let dumps = tempfile::tempdir().expect("a folder");
    let system = system(&uri(server.port), &format!(", imports: {}", dumps.path().display()));
    system.run(&["backup"]);
    let stream = dumps.path().join("exported");
    let path = stream.to_str().expect("UTF-8");
    system.nsctl(&["export", "latest", "database", "--format", "mongodump-archive", "-o", path]).expect(0);
    for database in ["shop", "odd"] {
        server.run(database, doc! { "dropDatabase": 1 });
    }
    let job = system.nsctl(&["import", "mongodump", "--archive", path, "-o", "json"]).expect(0).json();
    assert_eq!(job["state"], "complete", "{job:#}");

    let [before, after] = ["before", "after"].map(|name| system.root().join(name));
    let listed = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    let names: Vec<_> =
        listed["backups"].as_array().expect("backups").iter().map(|one| &one["name"]).collect();
    assert_eq!(names.len(), 2, "{listed:#}");
    let newest = job["backup"].as_str().expect("a name");
    let oldest = names.into_iter().filter_map(Value::as_str).find(|name| *name != newest).expect("a name");
    for (name, place) in [(oldest, &before), (newest, &after)] {
        system.run(&["restore", "--timestamp", name, "--to", place.to_str().expect("UTF-8"), "--yes"]);
    }
    for ((database, _), file) in &files {
        for ending in ["bson", "metadata.json"] {
            let path = format!("database/{database}/{file}.{ending}");
            let [before, after] = [&before, &after].map(|place| fs::read(place.join(&path)).expect(&path));
            assert!(before == after, "{path}");
        }
    }
    assert_eq!(fs::read(after.join("database/shop/empty.bson")).expect("it is there"), b"");
}
