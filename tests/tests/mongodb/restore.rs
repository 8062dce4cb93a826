//! Restores into the server itself: everything comes back in place, whatever is killed meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongodb::bson::{doc, rawdoc};
use tests::{Process, wait_for};

use crate::held::{Held, assert_nothing_is_lost, assert_same, assert_tidy, held, restore, small_shop, spoil};
use crate::server::{
    Server, fill, is_long, noise, system, system_that_can_be_held, system_with_an_application, uri,
};

#[test]
fn everything_that_was_dropped_or_changed_comes_back_in_place_under_its_name_or_another() {
    let server = Server::start("9");
    fill(&server);
    let databases = ["shop", "odd"];
    let before = held(&server, &databases);
    let system = system(&uri(server.port), "");
    let backup = system.run(&["backup"]);
    let first = backup["backup"].as_str().expect("a name");

    server.run("odd", doc! { "dropDatabase": 1 });
    server.run("shop", doc! { "drop": "c0" });
    server.run("shop", doc! { "delete": "c1", "deletes": [{ "q": {}, "limit": 0 }] });
    server.insert("shop", "c2", vec![doc! { "_id": 99_999, "new": true }]);
    server.insert("shop", "later", vec![doc! { "_id": 1 }]);
    let spoiled = held(&server, &databases);

    let plan = system.nsctl(&["restore", "--timestamp", "latest", "--plan", "-o", "json"]).expect(0).json();
    let place = &plan["sources"][0];
    let named = |kind: &str| place[kind]["names"].as_array().expect("names").clone();
    assert!(
        named("replaced").contains(&"shop.c1".into()) && named("created").contains(&"shop.c0".into()),
        "{plan:#}"
    );
    assert_eq!((place["removed"]["count"].as_u64(), place["free_bytes"].is_null()), (Some(0), true));
    let remarks = place["remarks"].to_string();
    assert!(
        remarks.contains("1 that let documents expire") && remarks.contains("older than 3600 s"),
        "{remarks}"
    );
    assert_same(&held(&server, &databases), &spoiled);
    assert_tidy(&server);

    let job = system.run(&restore(&[]));
    let mut expected = before.clone();
    expected.insert("shop.later".to_owned(), spoiled["shop.later"].clone());
    assert_same(&held(&server, &databases), &expected);
    assert_tidy(&server);

    // And the way back: what was replaced is there again, what was created stays, and so does what the restore
    // has left alone.
    server.insert("shop", "later", vec![doc! { "_id": 2 }]);
    let id = job["id"].as_str().expect("an id");
    system.run(&["undo", id, "--yes"]);
    let mut undone = expected.clone();
    undone.extend(spoiled.clone());
    undone.insert("shop.later".to_owned(), held(&server, &["shop"])["shop.later"].clone());
    assert_eq!(undone["shop.later"].0.len(), 2);
    assert_same(&held(&server, &databases), &undone);

    // One database as a copy, and nothing of another.
    system.run(&[
        "restore",
        "--timestamp",
        first,
        "--yes",
        "--rename",
        "shop=shop_copy",
        "--no-safety-backup",
    ]);
    let copied = held(&server, &["shop_copy"]);
    let of_shop = before.iter().filter_map(|(name, held)| {
        Some((format!("shop_copy.{}", name.strip_prefix("shop.")?), held.clone()))
    });
    assert_same(&copied, &of_shop.collect());
    assert_same(&held(&server, &databases), &undone);

    // One collection; and a whole database without what the backup lacks.
    system.run(&["restore", "--timestamp", first, "--yes", "--include", "shop.c1", "--no-safety-backup"]);
    undone.insert("shop.c1".to_owned(), before["shop.c1"].clone());
    assert_same(&held(&server, &databases), &undone);
    system.run(&[
        "restore",
        "--timestamp",
        first,
        "--yes",
        "--include",
        "shop",
        "--drop-others",
        "--no-safety-backup",
    ]);
    let shop: Held = before
        .iter()
        .filter(|(name, _)| name.starts_with("shop."))
        .map(|(n, h)| (n.clone(), h.clone()))
        .collect();
    assert_same(&held(&server, &["shop"]), &shop);
    assert_tidy(&server);
}

#[test]
fn a_kill_in_the_load_or_between_two_renames_loses_no_collection_and_the_restore_comes_to_its_end() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    let in_each = [
        ("first-staged", Process::Agent),
        ("first-staged", Process::Controller),
        ("first-old-away", Process::Agent),
        ("first-old-away", Process::Controller),
    ];
    let long = [
        ("staging-begun", Process::Agent),
        ("staged-durable", Process::Agent),
        ("swap-begun", Process::Agent),
        ("first-swapped", Process::Agent),
        ("middle-old-away", Process::Agent),
        ("middle-swapped", Process::Controller),
        ("last-swapped", Process::Agent),
        ("swap-durable", Process::Agent),
        ("swap-done", Process::Agent),
        ("older-reaped", Process::Agent),
        ("staging-tidied", Process::Agent),
    ];
    let more: &[_] = if is_long() { &long } else { &[] };
    for (round, (step, killed)) in (0..).zip(in_each.iter().chain(more)) {
        let spoiled = spoil(&server, round);
        system.steps().ask(step);
        let job = system.start_job(&restore(&["--no-safety-backup"]));
        wait_for(&format!("{step} to be reached"), 30, || system.steps().reached(step));
        match killed {
            Process::Agent => {
                system.kill_agent();
                if *step != "swap-done" && *step != "older-reaped" && *step != "staging-tidied" {
                    assert_nothing_is_lost(&server, &spoiled, step);
                }
                system.steps().clear(step);
                system.start_agent();
            }
            Process::Controller => {
                system.kill_controller();
                system.steps().let_go(step);
                system.start_controller();
            }
        }
        let ended = system.await_end(&job);
        assert_eq!(ended["state"], "complete", "killed at {step}: {ended:#}");
        assert_same(&held(&server, &["shop"]), &before);
        assert_tidy(&server);
    }
}

#[test]
fn what_uses_the_database_is_stopped_for_the_swap_and_all_is_renamed_back_if_it_does_not_come_up() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let (mut system, application) = system_with_an_application(&uri(server.port));
    system.run(&["backup"]);
    server.insert("shop", "extra", vec![doc! { "_id": 1 }]);
    let spoiled = spoil(&server, 0);

    application.fail("healthy", true);
    let refused = system.nsctl(&restore(&["--no-safety-backup", "--drop-others"]));
    let said = format!("{}{}", refused.out, refused.err);
    assert!(refused.code == 1 && said.contains("did not come up"), "{}: {said}", refused.code);
    assert_same(&held(&server, &["shop"]), &spoiled);
    assert_tidy(&server);

    // And if the agent dies in the middle of that, its next start goes on with it.
    system.steps().ask("first-moved-back");
    let job = system.start_job(&restore(&["--no-safety-backup", "--drop-others"]));
    wait_for("the first to be moved back", 120, || system.steps().reached("first-moved-back"));
    system.kill_agent();
    assert_nothing_is_lost(&server, &spoiled, "first-moved-back");
    system.steps().clear("first-moved-back");
    system.start_agent();
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "failed", "{ended:#}");
    assert!(ended.to_string().contains("taken back"), "{ended:#}");
    assert_same(&held(&server, &["shop"]), &spoiled);
    assert_tidy(&server);

    application.fail("healthy", false);
    let starts = application.starts();
    system.run(&restore(&["--no-safety-backup", "--drop-others"]));
    assert!(application.runs() && application.starts() == starts + 1);
    assert_same(&held(&server, &["shop"]), &before);
    assert_tidy(&server);
    application.stop();
    system.kill_agent();
}

#[test]
fn a_key_that_a_fuzzy_backup_has_twice_is_named_and_nothing_is_replaced() {
    let server = Server::start("9");
    let document = |i: i32| doc! { "_id": i, "key": i, "noise": noise(i, 1_000) };
    server.insert("shop", "keys", (0..3_300).map(document).collect());
    // It is built once all is live, and tried before.
    let unique = doc! { "key": { "key": 1 }, "name": "one", "unique": true, "expireAfterSeconds": 1_000_000 };
    server.run("shop", doc! { "createIndexes": "keys", "indexes": [unique] });
    let mut system = system(&uri(server.port), ", limits: { read: 1500kB }");
    // The first document has been read when its key goes to the last one, which has not.
    let job = system.start_job(&["backup"]);
    wait_for("the collection to be read", 30, || {
        let job = system.job(&job)?;
        (job["parts"][0]["done_entries"].as_u64() >= Some(4)).then_some(())
    });
    for (id, key) in [(0, -1), (3_299, 0)] {
        let set = doc! { "q": { "_id": id }, "u": { "$set": { "key": key } } };
        server.run("shop", doc! { "update": "keys", "updates": [set] });
    }
    assert_eq!(system.await_end(&job)["state"], "complete");
    let live = held(&server, &["shop"]);

    let refused = system.nsctl(&restore(&["--no-safety-backup"]));
    assert_eq!(refused.code, 1, "{}{}", refused.out, refused.err);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("shop.keys: its unique index one cannot be built"), "{said}");
    assert!(said.contains("the documents with the _id 0 and 3299"), "{said}");
    assert_same(&held(&server, &["shop"]), &live);
    assert_tidy(&server);
    system.kill_agent();
}

#[test]
fn what_somebody_goes_on_writing_between_two_renames_is_kept_and_told_and_is_not_in_the_way() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    spoil(&server, 0);
    system.steps().ask("first-old-away");
    let job = system.start_job(&restore(&["--no-safety-backup"]));
    wait_for("the first collection to be out of the way", 120, || system.steps().reached("first-old-away"));
    assert!(!server.collections("shop").contains(&"c0".to_owned()));

    let stop = AtomicBool::new(false);
    let (ended, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) && written < 5_000 {
                server.insert("shop", "c0", vec![doc! { "_id": format!("came {written}") }]);
                written += 1;
                // Who leaves no moment between two writes makes the restore go back, as it may.
                std::thread::park_timeout(Duration::from_millis(10));
            }
            written
        });
        wait_for("the writer to write", 10, || {
            server.collections("shop").contains(&"c0".to_owned()).then_some(())
        });
        system.steps().let_go("first-old-away");
        let ended = system.await_end(&job);
        stop.store(true, Ordering::Relaxed);
        (ended, writer.join().expect("it ends"))
    });
    assert_eq!(ended["state"], "complete", "{ended:#}");
    let told = "shop.c0: somebody wrote to it while it was replaced; what came is kept as shop.neurashield-";
    assert!(ended.to_string().contains(told), "{ended:#}");
    let names = server.collections("shop");
    let kept: Vec<&String> = names.iter().filter(|name| name.contains(".came.")).collect();
    assert!(!kept.is_empty(), "{names:?}");
    let kept = kept.into_iter().map(String::as_str).chain(["c0"]);
    let came: BTreeSet<Vec<u8>> = kept.flat_map(|name| server.documents("shop", name)).collect();
    for n in 0..written {
        let document = rawdoc! { "_id": format!("came {n}") };
        assert!(
            came.contains(document.as_bytes()),
            "the {n}th of {written} is neither kept nor live: {names:?}"
        );
    }
    let now = held(&server, &["shop"]);
    assert!(now["shop.c0"].0.is_superset(&before["shop.c0"].0) && now["shop.c1"] == before["shop.c1"]);
    system.kill_agent();
}
