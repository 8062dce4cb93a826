//! What a server holds, compared; a small shop that restores are tried on, and what must be true of it after each.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::doc;

use crate::server::{Server, noise};

/// Every document and index of some databases, by collection.
pub(crate) type Held = BTreeMap<String, (BTreeSet<Vec<u8>>, BTreeMap<String, String>)>;

pub(crate) fn held(server: &Server, databases: &[&str]) -> Held {
    let mut held = Held::new();
    for database in databases {
        for name in server.collections(database) {
            let documents: Vec<_> = server.documents(database, &name);
            let (count, documents) = (documents.len(), BTreeSet::from_iter(documents));
            assert_eq!(count, documents.len(), "{database}.{name} has a document twice");
            held.insert(format!("{database}.{name}"), (documents, server.indexes(database, &name)));
        }
    }
    held
}

/// Says which collections differ, and not every byte of them.
pub(crate) fn assert_same(now: &Held, before: &Held) {
    assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, (documents, indexes)) in before {
        let (documents_now, indexes_now) = &now[name];
        let counts = (documents_now.len(), documents.len());
        assert!(documents_now == documents, "the documents of {name} differ: {counts:?}");
        assert_eq!(indexes_now, indexes, "the indexes of {name}");
    }
}

pub(crate) fn restore<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "--timestamp", "latest", "--yes"], more].concat()
}

/// Nothing of a restore is left at the server: this one keeps databases that are empty.
pub(crate) fn assert_tidy(server: &Server) {
    for database in server.databases() {
        let names = server.collections(&database);
        let is_left = |name: &String| name.starts_with("neurashield") || database == "neurashield_restore";
        assert!(!names.iter().any(is_left), "{database}: {names:?}");
    }
}

/// A shop with a few small collections, each with an index.
pub(crate) fn small_shop(server: &Server) -> Held {
    for n in 0..4 {
        let name = format!("c{n}");
        server.insert(
            "shop",
            &name,
            (0..20).map(|i| doc! { "_id": i, "n": n, "text": noise(i, 200) }).collect(),
        );
        let index = doc! { "key": { "n": 1, "text": -1 }, "name": "n" };
        server.run("shop", doc! { "createIndexes": &name, "indexes": [index] });
    }
    held(server, &["shop"])
}

/// Something else is live in each collection but one, which is gone.
pub(crate) fn spoil(server: &Server, round: i32) -> Held {
    for n in 0..3 {
        let name = format!("c{n}");
        server.run("shop", doc! { "delete": &name, "deletes": [{ "q": {}, "limit": 0 }] });
        server.insert("shop", &name, vec![doc! { "_id": 1, "n": n, "round": round }]);
    }
    if server.collections("shop").contains(&"c3".to_owned()) {
        server.run("shop", doc! { "drop": "c3" });
    }
    held(server, &["shop"])
}

/// Wherever a restore is, the documents of each collection lie somewhere whole: the old ones or the new ones.
pub(crate) fn assert_nothing_is_lost(server: &Server, spoiled: &Held, step: &str) {
    let there: BTreeSet<BTreeSet<Vec<u8>>> =
        held(server, &["shop"]).into_values().map(|(documents, _)| documents).collect();
    for (name, (documents, _)) in spoiled {
        assert!(there.contains(documents), "killed at {step}, what {name} had held is nowhere");
    }
}
