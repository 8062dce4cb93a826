//! The connection between agent and server of MongoDB, cut by a proxy in the load of a restore and between two renames;
//! restores of agents that stand still, or cannot count, beside another agent.
//! What was lost between two renames is waited for, half a minute each, and another agent that seems to have died for two
//! minutes: this waits beside other tests.

#[allow(dead_code, reason = "other programs of tests use the rest")]
#[path = "mongodb/held.rs"]
mod held;
#[allow(dead_code, reason = "other programs of tests use the rest")]
#[path = "mongodb/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use held::{Held, assert_nothing_is_lost, assert_same, assert_tidy, held, restore, small_shop, spoil};
use mongodb::bson::doc;
use server::{Server, impatient_uri, is_long, system, system_that_can_be_held, uri};
use tests::{Forwarder, Process, System, pause, wait_for};

#[test]
fn a_connection_cut_in_the_load_or_between_two_renames_leaves_all_as_it_was_or_is_ended_by_the_next_task() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let network = Arc::new(Forwarder::to(server.port));
    let mut system = system_that_can_be_held(&impatient_uri(network.port()), "");
    let backup = system.run(&["backup"]);
    let first = backup["backup"].as_str().expect("a name");
    let between: &[_] = if is_long() { &["first-old-away", "middle-old-away"] } else { &["first-old-away"] };
    let cuts = ["first-staged"].iter().chain(between);
    for (round, step) in (0..).zip(cuts) {
        let spoiled = spoil(&server, round);
        system.steps().ask(step);
        let job = system.start_job(&restore(&["--no-safety-backup"]));
        wait_for(&format!("{step} to be reached"), 30, || system.steps().reached(step));
        network.dark();
        network.cut();
        system.steps().let_go(step);
        let ended = wait_for("the restore to end", 120, || {
            let job = system.job(&job)?;
            (job["state"] == "failed").then_some(job)
        });
        assert_nothing_is_lost(&server, &spoiled, step);
        if *step == "first-staged" {
            assert!(ended.to_string().contains("what is live is as it was"), "{ended:#}");
            let live: Held = held(&server, &["shop"]);
            assert!(spoiled.iter().all(|(name, was)| live.get(name) == Some(was)), "cut at {step}");
        } else {
            assert!(ended.to_string().contains("in the middle of its swap"), "{ended:#}");
        }
        network.light();
        system.run(&["backup", "--components", "database"]);
        let now = held(&server, &["shop"]);
        match *step {
            "first-staged" => assert_same(&now, &spoiled),
            // What was begun is finished: nothing that uses it says no.
            _ => assert_same(&now, &before),
        }
        assert_tidy(&server);
        // The next round restores the first backup's documents once more.
        system.run(&["restore", "--timestamp", first, "--yes", "--no-safety-backup"]);
        assert_same(&held(&server, &["shop"]), &before);
        system.run(&["backup"]);
    }
    system.kill_agent();
}

#[test]
fn a_restore_of_another_agent_that_goes_on_is_left_alone_and_ended_once_that_agent_is_gone() {
    const JOURNALS: &str = "neurashield_restore";
    let server = Server::start("9");
    server.insert("shop", "orders", vec![doc! { "_id": 1 }]);
    let before = held(&server, &["shop"]);
    let mut system = system(&uri(server.port), "");
    system.run(&["backup"]);
    // As another agent would have it that is loading: it counts up a number.
    let head =
        doc! { "_id": "head", "phase": "loading", "databases": ["shop"], "owner": "another", "beat": 0_i64 };
    server.insert(JOURNALS, "theirs-0", vec![head]);
    let staged = "neurashield-restore.theirs-0.new.0";
    server.insert("shop", staged, vec![doc! { "_id": 2 }]);
    let count = || {
        let count = doc! { "q": { "_id": "head" }, "u": { "$inc": { "beat": 1_i64 } } };
        server.run(JOURNALS, doc! { "update": "theirs-0", "updates": [count] });
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                count();
                pause(200);
            }
        });
        for command in [&["backup"][..], &restore(&["--no-safety-backup"])] {
            let refused = system.nsctl(command);
            let said = format!("{}{}", refused.out, refused.err);
            assert_ne!(refused.code, 0, "{said}");
            assert!(said.contains("another agent restores there (theirs-0)"), "{said}");
            assert!(server.collections("shop").contains(&staged.to_owned()), "it is theirs");
        }
        stop.store(true, Ordering::Relaxed);
    });
    // It stands still between two renames now: `a` was replaced, `b` is about to be renamed away.
    server.run(JOURNALS, doc! { "drop": "theirs-0" });
    server.run("shop", doc! { "drop": staged });
    let head =
        doc! { "_id": "head", "phase": "swapping", "databases": ["shop"], "owner": "another", "beat": 7_i64 };
    let step = |number: i32, collection: &str| {
        doc! {
            "_id": number, "database": "shop", "collection": collection, "replaces": true, "expiring": [],
        }
    };
    server.insert(JOURNALS, "theirs-1", vec![head, step(0, "a"), step(1, "b")]);
    let lies = |name: &str, of: i32| server.insert("shop", name, vec![doc! { "_id": of }]);
    let of_theirs = |word: &str| format!("neurashield-restore.theirs-1.{word}");
    lies("a", 10);
    lies(&of_theirs("old.0"), 11);
    lies("b", 21);
    lies(&of_theirs("new.1"), 20);
    // It has set something aside already: what comes next goes to another name.
    lies(&of_theirs("came.1"), 22);
    // Whoever comes next waits until what it has sent has ended, and ends it.
    system.run(&["backup"]);
    let mut expected = before.clone();
    for (name, of) in [("a", 10), ("b", 20)] {
        let text = server.documents("shop", name);
        let document = mongodb::bson::RawDocumentBuf::try_from(doc! { "_id": of }).expect("a document");
        assert_eq!(text, [document.into_bytes()], "{name}");
        expected.insert(format!("shop.{name}"), held(&server, &["shop"])[&format!("shop.{name}")].clone());
    }
    // What it sends all the same finds its name taken.
    for late in ["old.1", "came.1", "came.10000001"] {
        let to = format!("shop.{}", of_theirs(late));
        let late = doc! { "renameCollection": "shop.b", "to": to };
        let late = server.runtime.block_on(async { server.client.database("admin").run_command(late).await });
        assert!(late.expect_err("its name is taken").to_string().contains("exists"));
    }
    let left = server.collections("shop");
    assert!(!left.contains(&of_theirs("old.0")) && !left.contains(&of_theirs("new.1")), "{left:?}");
    // It is in nobody's way meanwhile, and a day later its names are free.
    system.run(&restore(&["--no-safety-backup", "--include", "shop.orders"]));
    let day = doc! { "$inc": { "fenced_at": -90_000_000_i64 } };
    server.run(JOURNALS, doc! { "update": "theirs-1", "updates": [{ "q": { "_id": "head" }, "u": day }] });
    system.run(&["backup"]);
    // What somebody wrote is nobody's to drop.
    server.run("shop", doc! { "drop": of_theirs("came.1") });
    assert_same(&held(&server, &["shop"]), &expected);
    assert_tidy(&server);
    system.kill_agent();
}

fn signal(process: u32, signal: &str) {
    let sent =
        std::process::Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status();
    assert!(sent.expect("it runs").success());
}

/// A restore that is held between two renames, and its system.
fn held_in_the_swap(server: &Server, system: &System) -> String {
    let step = "first-swapped";
    system.steps().ask(step);
    let job = system.start_job(&restore(&["--no-safety-backup"]));
    wait_for(&format!("{step} to be reached"), 60, || system.steps().reached(step));
    assert!(server.collections("shop").iter().any(|name| name.contains(".old.")));
    job
}

/// What is live.
fn live(server: &Server) -> Held {
    let live = held(server, &["shop"]);
    live.into_iter().filter(|(name, _)| !name.contains("neurashield-restore.")).collect()
}

#[test]
fn an_agent_that_stands_still_or_cannot_count_renames_nothing_more_once_its_lease_has_run_out() {
    std::thread::scope(|scope| {
        scope.spawn(a_stopped_agent_finds_its_restore_ended_by_a_second_one);
        scope.spawn(a_count_that_is_not_confirmed_is_waited_for_and_then_ends_the_restore);
    });
}

fn a_stopped_agent_finds_its_restore_ended_by_a_second_one() {
    let server = Server::start("9");
    let before = small_shop(&server);
    let mut first = system_that_can_be_held(&uri(server.port), "");
    first.run(&["backup"]);
    let second = system(&uri(server.port), "");
    spoil(&server, 0);
    let job = held_in_the_swap(&server, &first);
    signal(first.pid(Process::Agent), "STOP");
    // It waits until the lease has run out, makes all live, and backs up.
    let began = std::time::Instant::now();
    second.run(&["backup"]);
    assert!(began.elapsed().as_secs() > 90, "a lease and what was sent under it are waited for");
    assert_same(&live(&server), &before);
    // What somebody writes since is what a late rename would lose.
    server.insert("shop", "c2", vec![doc! { "_id": 1_000 }]);
    let now = held(&server, &["shop"]);
    signal(first.pid(Process::Agent), "CONT");
    first.steps().let_go("first-swapped");
    let told = "the journal of the restore is not there any more, or is another agent's";
    wait_for("it to give up", 60, || first.log(Process::Agent).contains(told).then_some(()));
    first.await_end(&job);
    assert_same(&held(&server, &["shop"]), &now);
    first.kill_agent();
}

fn a_count_that_is_not_confirmed_is_waited_for_and_then_ends_the_restore() {
    const JOURNALS: &str = "neurashield_restore";
    let server = Server::start("9");
    let before = small_shop(&server);
    let mut system = system_that_can_be_held(&uri(server.port), "");
    system.run(&["backup"]);
    // What is no number cannot be counted up.
    let count = |value: mongodb::bson::Bson| {
        for id in server.collections(JOURNALS) {
            let change = doc! { "q": { "_id": "head" }, "u": { "$set": { "beat": value.clone() } } };
            server.run(JOURNALS, doc! { "update": id, "updates": [change] });
        }
    };
    // For a while: it waits, and goes on.
    spoil(&server, 0);
    let job = held_in_the_swap(&server, &system);
    count("none".into());
    pause(21_000);
    let between = held(&server, &["shop"]);
    system.steps().let_go("first-swapped");
    pause(4_000);
    assert_same(&held(&server, &["shop"]), &between);
    count(1_000_i64.into());
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_same(&held(&server, &["shop"]), &before);

    // For long: it renames nothing, neither on nor back.
    let spoiled = spoil(&server, 1);
    let job = held_in_the_swap(&server, &system);
    count("none".into());
    pause(21_000);
    let between = held(&server, &["shop"]);
    system.steps().let_go("first-swapped");
    let ended = wait_for("the restore to end", 120, || {
        let job = system.job(&job)?;
        (job["state"] == "failed").then_some(job)
    });
    assert!(ended.to_string().contains("has not confirmed for a while"), "{ended:#}");
    assert_same(&held(&server, &["shop"]), &between);
    // Once it can count, the next task ends it.
    count(1_000_i64.into());
    system.run(&["backup"]);
    assert_same(&held(&server, &["shop"]), &spoiled);
    system.kill_agent();
}
