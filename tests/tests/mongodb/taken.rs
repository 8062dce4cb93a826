//! A restore that another agent has taken over and ended while its own stood still, or that was taken over from an agent
//! that may send something late. The other agent is played here; two real ones are in `mongodb_cut`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use mongodb::bson::{Document, RawDocumentBuf, doc};
use tests::{pause, wait_for};

use crate::held::{assert_same, held, restore, small_shop, spoil};
use crate::server::{Server, system, system_that_can_be_held, uri};

const JOURNALS: &str = "neurashield_restore";

#[test]
fn whoever_stood_still_while_its_restore_was_taken_over_and_ended_renames_nothing_more() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    spoil(&server, 0);
    let step = "first-swapped";
    system.steps().ask(step);
    let job = system.start_job(&restore(&["--no-safety-backup"]));
    wait_for(&format!("{step} to be reached"), 60, || system.steps().reached(step));
    // As another agent would: all is made live, what was there before goes, and so does the journal.
    let id = server.collections(JOURNALS).pop().expect("a journal");
    let names = server.collections("shop");
    for n in 0..4 {
        let new = format!("neurashield-restore.{id}.new.{n}");
        let (live, old) = (format!("c{n}"), format!("neurashield-restore.{id}.old.{n}"));
        if names.contains(&new) {
            if names.contains(&live) {
                server.run("shop", doc! { "drop": &live });
            }
            let to = format!("shop.{live}");
            server.run("admin", doc! { "renameCollection": format!("shop.{new}"), "to": to });
        }
        if names.contains(&old) {
            server.run("shop", doc! { "drop": old });
        }
    }
    server.run(JOURNALS, doc! { "drop": id });
    assert_same(&held(&server, &["shop"]), &before);
    system.steps().let_go(step);
    let ended = wait_for("the restore to end", 60, || {
        let job = system.job(&job)?;
        (job["state"] == "failed").then_some(job)
    });
    assert!(ended.to_string().contains("another agent"), "{ended:#}");
    // The journal is nobody's to make anew; this engine makes a collection of what finds nothing to change.
    assert_same(&held(&server, &["shop"]), &before);
    system.kill_agent();
}

#[test]
fn whoever_stood_still_while_its_load_was_taken_over_and_ended_leaves_nothing_behind() {
    let server = Server::start("9");
    small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    let spoiled = spoil(&server, 0);
    let step = "first-staged";
    system.steps().ask(step);
    let job = system.start_job(&restore(&["--no-safety-backup"]));
    wait_for(&format!("{step} to be reached"), 60, || system.steps().reached(step));
    // As another agent would: what was loaded goes, and the journal.
    let id = server.collections(JOURNALS).pop().expect("a journal");
    server.run("shop", doc! { "drop": format!("neurashield-restore.{id}.new.0") });
    server.run(JOURNALS, doc! { "drop": &id });
    system.steps().let_go(step);
    let ended = wait_for("the restore to end", 60, || {
        let job = system.job(&job)?;
        (job["state"] == "failed").then_some(job)
    });
    let said = ended.to_string();
    assert!(said.contains("another agent has taken the restore over"), "{ended:#}");
    assert!(said.contains("what is live is as it was"), "{ended:#}");
    // No journal names it: what is left now would be left for ever.
    assert_same(&held(&server, &["shop"]), &spoiled);
    assert!(server.read(JOURNALS, &id).is_empty(), "{:?}", server.read(JOURNALS, &id));
    system.kill_agent();
}

fn step(number: i32, collection: &str) -> Document {
    doc! { "_id": number, "database": "shop", "collection": collection, "replaces": true, "expiring": [] }
}

fn one(id: i32) -> Vec<Vec<u8>> {
    vec![RawDocumentBuf::try_from(doc! { "_id": id }).expect("a document").into_bytes()]
}

#[test]
fn a_name_that_was_kept_taken_and_is_not_empty_a_day_later_blocks_nothing_and_loses_nothing() {
    let server = Server::start("9");
    let system = system(&uri(server.port), "");
    let of_theirs = |word: &str| format!("neurashield-restore.theirs-2.{word}");
    let lies = |name: &str, id: i32| server.insert("shop", name, vec![doc! { "_id": id }]);
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_millis();
    let day_ago = i64::try_from(now).expect("it fits") - 90_000_000;
    let names = ["old.0", "came.0", "old.1", "came.1"].map(|word| {
        doc! { "database": "shop", "collection": of_theirs(word) }
    });
    let head = doc! {
        "_id": "head", "phase": "built", "databases": ["shop"], "owner": "another", "beat": 7_i64,
        "fences": names.to_vec(), "fenced_at": day_ago,
    };
    server.insert(JOURNALS, "theirs-2", vec![head, step(0, "a"), step(1, "b")]);
    // `a` was renamed late before its fence was there; what lies in the fence of `b` is nobody's that is known.
    lies(&of_theirs("old.0"), 1);
    server.run("shop", doc! { "create": of_theirs("came.0") });
    lies("b", 2);
    lies(&of_theirs("old.1"), 3);
    let job = system.run(&["backup"]);
    assert_eq!(server.documents("shop", "a"), one(1), "it has its name back");
    assert_eq!(server.documents("shop", "b"), one(2));
    assert_eq!(server.documents("shop", &of_theirs("old.1")), one(3), "it is nobody's to drop");
    let mut left = server.collections("shop");
    left.sort_unstable();
    assert_eq!(left, ["a".to_owned(), "b".to_owned(), of_theirs("old.1")]);
    assert!(server.collections(JOURNALS).is_empty());
    let told = job.to_string();
    assert!(told.contains(&of_theirs("old.1")) && told.contains("drop it if you do not need it"), "{job:#}");
    system.run(&["backup"]);
}

#[test]
fn what_a_late_owner_sends_while_its_restore_is_taken_back_finds_its_name_taken_at_once() {
    let server = Server::start("9");
    small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    // By which name this agent's journals are known.
    spoil(&server, 0);
    system.steps().ask("first-staged");
    let job = system.start_job(&restore(&["--no-safety-backup"]));
    wait_for("first-staged to be reached", 60, || system.steps().reached("first-staged"));
    let id = server.collections(JOURNALS).pop().expect("a journal");
    let head = server.read(JOURNALS, &id).into_iter().find(|one| one.contains_key("owner"));
    let us = head.expect("a head").get_str("owner").expect("a name").to_owned();
    system.steps().let_go("first-staged");
    assert_eq!(system.await_end(&job)["state"], "complete");

    // It has taken over a restore between two renames, and is about to take it back.
    let of_theirs = |word: &str| format!("neurashield-restore.theirs-3.{word}");
    let lies = |name: &str, id: i32| server.insert("shop", name, vec![doc! { "_id": id }]);
    let names = ["old.1", "came.1"].map(|word| doc! { "database": "shop", "collection": of_theirs(word) });
    let head = doc! {
        "_id": "head", "phase": "undoing", "databases": ["shop"], "owner": &us, "beat": 7_i64,
        "fences": names.to_vec(),
    };
    server.insert(JOURNALS, "theirs-3", vec![head, step(0, "a"), step(1, "b")]);
    lies("a", 10);
    lies(&of_theirs("new.0"), 11);
    lies("b", 21);
    lies(&of_theirs("old.1"), 20);
    system.steps().ask("first-moved-back");
    let job = system.start_job(&["backup"]);
    wait_for("first-moved-back to be reached", 60, || system.steps().reached("first-moved-back"));
    assert_eq!(server.documents("shop", "b"), one(20));
    for late in ["old.1", "came.1"] {
        let late = doc! { "renameCollection": "shop.b", "to": format!("shop.{}", of_theirs(late)) };
        let late = server.runtime.block_on(async { server.client.database("admin").run_command(late).await });
        assert!(late.expect_err("its name is taken").to_string().contains("exists"));
    }
    system.steps().let_go("first-moved-back");
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!((server.documents("shop", "a"), server.documents("shop", "b")), (one(10), one(20)));
    system.kill_agent();
}

#[test]
fn whoever_died_right_after_a_name_was_given_back_leaves_it_open_to_no_late_owner_and_lost_to_nobody() {
    let server = Server::start("9");
    let mut system = system_that_can_be_held(&uri(server.port), "");
    let of_theirs = |word: &str| format!("neurashield-restore.theirs-4.{word}");
    let lies = |name: &str, id: i32| server.insert("shop", name, vec![doc! { "_id": id }]);
    let begins = |phase: &str| {
        let names =
            ["old.1", "came.1"].map(|word| doc! { "database": "shop", "collection": of_theirs(word) });
        let head = doc! {
            "_id": "head", "phase": phase, "databases": ["shop"], "beat": 7_i64, "fences": names.to_vec(),
        };
        server.insert(JOURNALS, "theirs-4", vec![head, step(0, "a"), step(1, "b")]);
    };
    // `b` has its name back, and the name under which it lay is free: `a` is still to come.
    lies("a", 10);
    lies(&of_theirs("new.0"), 11);
    lies("b", 20);
    lies(&of_theirs("new.1"), 21);
    begins("undoing");
    system.steps().ask("first-moved-back");
    let job = system.start_job(&["backup"]);
    wait_for("first-moved-back to be reached", 60, || system.steps().reached("first-moved-back"));
    let late = doc! { "renameCollection": "shop.b", "to": format!("shop.{}", of_theirs("old.1")) };
    let late = server.runtime.block_on(async { server.client.database("admin").run_command(late).await });
    assert!(late.expect_err("its name is taken").to_string().contains("exists"));
    system.steps().let_go("first-moved-back");
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!((server.documents("shop", "a"), server.documents("shop", "b")), (one(10), one(20)));

    // It was carried there once all was taken back: it gets its name back now, and not a day later.
    server.run(JOURNALS, doc! { "drop": "theirs-4" });
    for name in ["old.1", "came.1"] {
        server.run("shop", doc! { "drop": of_theirs(name) });
    }
    server.run("admin", doc! { "renameCollection": "shop.b", "to": format!("shop.{}", of_theirs("old.1")) });
    begins("loading");
    system.run(&["backup"]);
    assert_eq!((server.documents("shop", "a"), server.documents("shop", "b")), (one(10), one(20)));
    assert!(server.documents("shop", &of_theirs("old.1")).is_empty());
    system.kill_agent();
}

#[test]
fn whoever_takes_a_restore_back_again_does_not_take_what_keeps_a_name_taken_for_what_was_live() {
    let server = Server::start("9");
    let mut system = system_that_can_be_held(&uri(server.port), "");
    let of_theirs = |word: &str| format!("neurashield-restore.theirs-5.{word}");
    let lies = |name: &str, id: i32| server.insert("shop", name, vec![doc! { "_id": id }]);
    let names = ["old.1", "came.1"].map(|word| doc! { "database": "shop", "collection": of_theirs(word) });
    let head = doc! {
        "_id": "head", "phase": "undoing", "databases": ["shop"], "beat": 7_i64, "fences": names.to_vec(),
    };
    let removed = doc! { "_id": 1, "database": "shop", "collection": "b", "removed": true, "expiring": [] };
    // `b` has its name back, and the one under which it lay is taken: there the first one was cut off, `a` is to come.
    // What was loaded is staged; there was none; it was dropped by hand.
    for (at, second, is_staged) in [(0, step(1, "b"), true), (1, removed, false), (2, step(1, "b"), false)] {
        lies("a", 10);
        lies(&of_theirs("new.0"), 11);
        lies("b", 20);
        server.run("shop", doc! { "create": of_theirs("old.1") });
        if is_staged {
            lies(&of_theirs("new.1"), 21);
        }
        server.insert(JOURNALS, "theirs-5", vec![head.clone(), step(0, "a"), second]);
        system.steps().ask("first-moved-back");
        let job = system.start_job(&["backup"]);
        wait_for("first-moved-back to be reached", 60, || system.steps().reached("first-moved-back"));
        if at < 2 {
            // It is taken all the time.
            let late = doc! { "renameCollection": "shop.b", "to": format!("shop.{}", of_theirs("old.1")) };
            let late =
                server.runtime.block_on(async { server.client.database("admin").run_command(late).await });
            assert!(late.expect_err("its name is taken").to_string().contains("exists"));
        }
        system.steps().let_go("first-moved-back");
        assert_eq!(system.await_end(&job)["state"], "complete");
        assert_eq!(server.documents("shop", "a"), one(10));
        let lies_now = server.collections("shop").into_iter().filter(|name| {
            (name == "b" || name.contains(".came.")) && server.documents("shop", name) == one(20)
        });
        let lies_now: Vec<_> = lies_now.collect();
        match at {
            0 | 1 => assert_eq!(lies_now, ["b".to_owned()], "it stays where it is"),
            // What is live then cannot be known: it is not dropped.
            _ => assert_eq!(lies_now.len(), 1, "{lies_now:?}"),
        }
        for name in server.collections("shop") {
            server.run("shop", doc! { "drop": name });
        }
        server.run(JOURNALS, doc! { "drop": "theirs-5" });
    }
    system.kill_agent();
}

#[test]
fn a_restore_that_another_agent_has_taken_over_before_it_was_live_for_good_is_not_called_complete() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    spoil(&server, 0);
    let step = "swap-durable";
    system.steps().ask(step);
    let job = system.start_job(&restore(&["--no-safety-backup"]));
    wait_for(&format!("{step} to be reached"), 60, || system.steps().reached(step));
    let id = server.collections(JOURNALS).pop().expect("a journal");
    let change = doc! { "$set": { "owner": "another" } };
    server.run(JOURNALS, doc! { "update": &id, "updates": [{ "q": { "_id": "head" }, "u": change }] });
    system.steps().let_go(step);
    let ended = wait_for("the restore to end", 60, || {
        let job = system.job(&job)?;
        (job["state"] == "failed").then_some(job)
    });
    assert!(ended.to_string().contains("in the middle of its swap"), "{ended:#}");
    // What was there before is left for whoever ends it.
    let now = held(&server, &["shop"]);
    assert!(now.keys().any(|name| name.contains(".old.")), "{:?}", now.keys());
    let live = |(name, _): &(String, _)| !name.contains("neurashield-restore.");
    assert_same(&now.into_iter().filter(live).collect(), &before);
    system.kill_agent();
}

#[test]
fn a_restore_that_was_claimed_and_counts_all_the_same_is_left_alone_by_the_agent_that_has_claimed_it() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    spoil(&server, 0);
    // Of this agent, which dies in its load: as if it had claimed it from another one, which goes on.
    system.steps().ask("first-staged");
    let job = system.start_job(&restore(&["--no-safety-backup"]));
    wait_for("first-staged to be reached", 60, || system.steps().reached("first-staged"));
    system.kill_agent();
    let id = server.collections(JOURNALS).pop().expect("a journal");
    let change = |change: Document| {
        server.run(JOURNALS, doc! { "update": &id, "updates": [{ "q": { "_id": "head" }, "u": change }] })
    };
    change(doc! { "$set": { "claimed": true } });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                change(doc! { "$inc": { "beat": 1_i64 } });
                pause(200);
            }
        });
        system.start_agent();
        system.await_agent();
        let said = system.nsctl(&["backup"]);
        stop.store(true, Ordering::Relaxed);
        assert_ne!(said.code, 0, "{}", said.out);
        let said = format!("{}{}", said.out, said.err);
        assert!(said.contains(&format!("another agent restores there ({id})")), "{said}");
    });
    assert!(server.collections("shop").contains(&format!("neurashield-restore.{id}.new.0")));
    // It is only its own again: ended at once.
    change(doc! { "$unset": { "claimed": true } });
    system.await_end(&job);
    system.run(&restore(&["--no-safety-backup"]));
    assert_same(&held(&server, &["shop"]), &before);
    system.kill_agent();
}
