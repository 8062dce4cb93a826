//! The connection between agent and server of MongoDB, cut by a proxy in the load of a restore and between two renames.
//! What was lost between two renames is waited for, half a minute each: this waits beside other tests.

#[allow(dead_code, reason = "other programs of tests use the rest")]
#[path = "mongodb/held.rs"]
mod held;
#[allow(dead_code, reason = "other programs of tests use the rest")]
#[path = "mongodb/server.rs"]
mod server;

use std::sync::Arc;

use held::{Held, assert_nothing_is_lost, assert_same, assert_tidy, held, restore, small_shop, spoil};
use server::{Server, impatient_uri, is_long, system_that_can_be_held};
use tests::{Forwarder, wait_for};

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
