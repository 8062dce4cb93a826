//! Imports: a dump that this test writes, byte by byte as `mongodump` would, becomes a backup that is restored into a
//! server; one that is damaged, or lies elsewhere, becomes none.

use std::fs;
use std::path::Path;

use mongodb::bson::{RawDocumentBuf, rawdoc};

use crate::parsed;
use crate::server::{Server, system, uri};

/// The dump of a database `old` with two collections, one of an odd name, and of an empty one.
fn write_dump(folder: &Path) -> Vec<RawDocumentBuf> {
    let documents: Vec<_> = (0..2_000).map(|i| rawdoc! { "_id": i, "text": format!("number {i}") }).collect();
    let database = folder.join("old");
    fs::create_dir_all(&database).expect("made");
    fs::write(folder.join("prelude.json"), r#"{"ServerVersion":"6.0.1","ToolVersion":"100.9"}"#)
        .expect("written");
    let id = r#"{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}"#;
    let text =
        r#"{"v":{"$numberInt":"2"},"key":{"text":{"$numberInt":"-1"}},"name":"by_text","unique":true}"#;
    for (name, file, indexes, count) in [
        ("orders", "orders", format!("{id},{text}"), 2_000),
        ("a b/c", "a+b%2Fc", id.to_owned(), 3),
        ("none", "none", id.to_owned(), 0),
    ] {
        let bytes: Vec<u8> = documents[..count].iter().flat_map(|one| one.as_bytes().to_vec()).collect();
        fs::write(database.join(format!("{file}.bson")), bytes).expect("written");
        let described = format!(
            r#"{{"indexes":[{indexes}],"uuid":"00112233445566778899aabbccddeeff","collectionName":"{name}","type":"collection"}}"#
        );
        fs::write(database.join(format!("{file}.metadata.json")), described).expect("written");
    }
    // What lies beside it is left out, and told.
    fs::write(folder.join("oplog.bson"), "").expect("written");
    documents
}

#[test]
fn a_dump_becomes_a_backup_that_is_restored_in_place_and_a_damaged_one_becomes_none() {
    let server = Server::start("9");
    let dumps = tempfile::tempdir().expect("a folder");
    let one = dumps.path().join("dumps/one");
    let documents = write_dump(&one);
    let system = system(&uri(server.port), &format!(", imports: {}", dumps.path().join("dumps").display()));
    let import = |folder: &Path| {
        let folder = folder.to_str().expect("UTF-8");
        system.nsctl(&["import", "mongodump", folder, "-o", "json"])
    };
    let backups = || {
        let listed = system.nsctl(&["list", "-o", "json"]).expect(0).json();
        listed["backups"].as_array().expect("backups").len()
    };

    // What is no dump, or one that cannot be restored, or lies elsewhere: it is said why, and nothing is backed up.
    let elsewhere = dumps.path().join("elsewhere");
    write_dump(&elsewhere);
    let cut = dumps.path().join("dumps/cut");
    write_dump(&cut);
    let file = cut.join("old/orders.bson");
    let whole = fs::read(&file).expect("read");
    fs::write(&file, &whole[..whole.len() - 5]).expect("written");
    let twice = dumps.path().join("dumps/twice");
    write_dump(&twice);
    let file = twice.join("old/orders.bson");
    fs::write(&file, [&whole[..], documents[7].as_bytes()].concat()).expect("written");
    let compressed = dumps.path().join("dumps/compressed");
    write_dump(&compressed);
    fs::rename(compressed.join("old/none.bson"), compressed.join("old/none.bson.gz")).expect("renamed");
    let empty = dumps.path().join("dumps/empty");
    fs::create_dir(&empty).expect("made");
    for (folder, expected) in [
        (&elsewhere, "does not lie below"),
        (&cut, "old/orders.bson is damaged"),
        (&twice, "old/orders.bson is damaged"),
        (&compressed, "none.bson.gz is compressed"),
        (&compressed, "gunzip -r DIR"),
        (&empty, "holds no database"),
    ] {
        let refused = import(folder);
        let said = format!("{}{}", refused.out, refused.err);
        assert!(refused.code == 1 && said.contains(expected), "{expected}: {} {said}", refused.code);
        assert_eq!(backups(), 0, "{expected}");
    }

    let job = import(&one).expect(0).json();
    assert_eq!((job["state"].as_str(), backups()), (Some("complete"), 1), "{job:#}");
    let told = job.to_string();
    assert!(told.contains("it was imported from a dump") && told.contains("oplog.bson"), "{told}");
    system.run(&["verify", "--depth", "opened"]);
    system.run(&["restore", "--timestamp", "latest", "--yes", "--no-safety-backup"]);
    let came = server.documents("old", "orders");
    assert_eq!(came.len(), documents.len());
    assert!(came.iter().all(|one| documents.iter().any(|of| of.as_bytes() == one.as_slice())));
    assert_eq!(server.documents("old", "a b/c").len(), 3);
    assert!(server.collections("old").contains(&"none".to_owned()));
    let index = &server.indexes("old", "orders")["by_text"];
    assert!(index.contains(r#""unique":true"#), "{index}");

    let place = system.root().join("dump");
    system.run(&["restore", "--timestamp", "latest", "--to", place.to_str().expect("UTF-8"), "--yes"]);
    let file = place.join("database/old/a+b%2Fc.bson");
    let three: Vec<_> = documents[..3].iter().map(|one| one.as_bytes().to_vec()).collect();
    assert_eq!(parsed(&file), three);
}
