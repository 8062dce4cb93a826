//! 20,000 documents in 40 collections, with documents of 16 MiB, of each type and under odd names: backed up while they
//! are written to, verified, dropped, and restored in place.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Decimal128, RawDocument, Regex, Timestamp, doc, oid::ObjectId};
use tests::wait_for;

use crate::held::{Held, assert_same, assert_tidy, held, restore};
use crate::server::{Server, fill_with, system, uri};

const COLLECTIONS: i32 = 40;
const PER: i32 = 500;
/// As large as a document may be, but for its fields' names.
const WHOLE: usize = (16 << 20) - 100;
/// What the writer writes to, beside all that is compared.
const BUSY: &str = "busy";

/// A value of each type that mongo-java-server gives as it was taken.
fn types() -> Vec<Bson> {
    let binary = |subtype| Bson::Binary(Binary { subtype, bytes: (0..16).collect() });
    let mut types = vec![
        Bson::Double(f64::NAN),
        Bson::Double(-0.0),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Int32(i32::MIN),
        Bson::Int64(i64::MAX),
        Bson::Boolean(false),
        Bson::Null,
        Bson::MinKey,
        Bson::MaxKey,
        Bson::ObjectId(ObjectId::from_bytes([7; 12])),
        Bson::Timestamp(Timestamp { time: 7, increment: 9 }),
        Bson::DateTime(mongodb::bson::DateTime::from_millis(-1)),
        Bson::String("\u{0}é\u{10ffff}".to_owned()),
        Bson::JavaScriptCode("1 + 1".to_owned()),
        Bson::Array(vec![Bson::Document(doc! {}), Bson::Array(Vec::new())]),
        Bson::RegularExpression(Regex {
            pattern: "^a".try_into().expect("text"),
            options: "i".try_into().expect("text"),
        }),
        binary(BinarySubtype::Generic),
        binary(BinarySubtype::UuidOld),
        binary(BinarySubtype::Uuid),
    ];
    for number in ["NaN", "0", "1E+400"] {
        types.push(Bson::Decimal128(number.parse::<Decimal128>().expect("a number")));
    }
    types
}

fn whole_set(server: &Server) -> Held {
    fill_with(server, COLLECTIONS, PER);
    for i in 0..2 {
        server.insert("shop", "sixteen", vec![doc! { "_id": i, "whole": "w".repeat(WHOLE) }]);
    }
    let of_each = (0..).zip(types()).map(|(i, value)| doc! { "_id": i, "value": value });
    server.insert("odd", "types", of_each.collect());
    held(server, &["shop", "odd"])
}

#[test]
fn twenty_thousand_documents_of_a_server_in_use_are_dropped_and_come_back_each_with_its_index_and_under_a_new_name()
 {
    let server = Server::start("9");
    let before = whole_set(&server);
    let documents: usize = before.values().map(|(documents, _)| documents.len()).sum();
    assert!(documents > 20_000 && before.len() == 46, "{documents} in {}", before.len());
    assert_eq!(before["shop.c0"].1.len(), 14, "{:?}", before["shop.c0"].1.keys());
    let system = system(&uri(server.port), "");

    let (stop, written) = (AtomicBool::new(false), AtomicI32::new(0));
    let acknowledged = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..2_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                server.insert(BUSY, "written", vec![doc! { "_id": n }]);
                written.store(n + 1, Ordering::Release);
            }
        });
        wait_for("the writer to write", 10, || (written.load(Ordering::Acquire) > 0).then_some(()));
        let acknowledged = written.load(Ordering::Acquire);
        system.run(&["backup"]);
        stop.store(true, Ordering::Relaxed);
        acknowledged
    });
    system.run(&["verify", "--depth", "opened"]);

    for database in ["shop", "odd", BUSY] {
        server.run(database, doc! { "dropDatabase": 1 });
        assert!(server.collections(database).is_empty());
    }
    system.run(&restore(&["--no-safety-backup"]));
    assert_same(&held(&server, &["shop", "odd"]), &before);
    assert_tidy(&server);
    // What was acknowledged before the backup began is there, and nothing that was never written.
    let came = server.documents(BUSY, "written");
    let id = |one: &Vec<u8>| RawDocument::from_bytes(one).map(|one| one.get_i32("_id")).expect("BSON");
    let ids: BTreeSet<i32> = came.iter().map(|one| id(one).expect("a number")).collect();
    assert!(
        ids.len() == came.len() && (0..acknowledged).all(|n| ids.contains(&n)),
        "{acknowledged}: {ids:?}"
    );
    assert!(ids.iter().all(|n| *n < written.load(Ordering::Acquire)), "{ids:?}");

    // One collection under a new name, and nothing else.
    system.run(&restore(&["--no-safety-backup", "--rename", "shop.c0=shop.c0 anew"]));
    let mut renamed = before.clone();
    renamed.insert("shop.c0 anew".to_owned(), before["shop.c0"].clone());
    assert_same(&held(&server, &["shop", "odd"]), &renamed);
    assert_tidy(&server);
}
