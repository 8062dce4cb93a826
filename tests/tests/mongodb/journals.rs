//! Journals of restores that nobody understands, beside ones that are to be ended: they are named with what to do, keep no
//! other from being ended, and are in the way only where something that was live lies aside.

use mongodb::bson::doc;

use crate::server::{Server, system, uri};

const JOURNALS: &str = "neurashield_restore";

#[test]
fn a_journal_without_its_head_blocks_nothing_unless_something_that_was_live_waits_for_it() {
    let server = Server::start("9");
    server.insert("shop", "orders", vec![doc! { "_id": 1 }]);
    let system = system(&uri(server.port), "");
    system.run(&["backup"]);

    // Torn, and from some other release; and one that was interrupted while it loaded.
    let step =
        doc! { "_id": 0, "database": "shop", "collection": "orders", "replaces": true, "expiring": [] };
    server.insert(JOURNALS, "torn-0", vec![step]);
    server.insert(JOURNALS, "other-0", vec![doc! { "_id": "head", "phase": "of another release" }]);
    let interrupted = |id: &str| {
        let head = doc! { "_id": "head", "phase": "loading", "databases": ["shop"] };
        server.insert(JOURNALS, id, vec![head]);
        server.insert("shop", &format!("neurashield-restore.{id}.new.0"), vec![doc! { "_id": 1 }]);
    };
    let is_ended = |id: &str| {
        let staged = format!("neurashield-restore.{id}.new.0");
        !server.collections(JOURNALS).contains(&id.to_owned())
            && !server.collections("shop").contains(&staged)
    };
    interrupted("zz-0");
    let told = system.run(&["backup"]).to_string();
    assert!(told.contains("one of them cannot be understood") && told.contains("drop it"), "{told}");
    assert!(is_ended("zz-0"), "{:?}", server.collections(JOURNALS));
    assert!(server.collections(JOURNALS).contains(&"torn-0".to_owned()), "it is nobody's to drop");
    let restore =
        ["restore", "--timestamp", "latest", "--yes", "--no-safety-backup", "--include", "shop.orders"];
    system.run(&restore);

    // What was live lies aside: nobody may take what is there for all there is.
    server.insert("shop", "neurashield-restore.torn-0.old.3", vec![doc! { "_id": 7 }]);
    interrupted("zz-1");
    for command in [&["backup"][..], &restore] {
        let refused = system.nsctl(command);
        let said = format!("{}{}", refused.out, refused.err);
        assert_ne!(refused.code, 0, "{said}");
        for what in
            ["neurashield_restore.torn-0", "shop.neurashield-restore.torn-0.old.3", "renameCollection"]
        {
            assert!(said.contains(what), "{what}: {said}");
        }
    }
    assert!(is_ended("zz-1"), "the other one is ended all the same");

    // As it was said.
    let from = "shop.neurashield-restore.torn-0.old.3";
    server.run("admin", doc! { "renameCollection": from, "to": "shop.back" });
    server.run(JOURNALS, doc! { "drop": "torn-0" });
    system.run(&["backup"]);
}
