//! A restore that another agent has taken over and ended while its own stood still between two renames.

use mongodb::bson::doc;
use tests::wait_for;

use crate::held::{assert_same, held, restore, small_shop, spoil};
use crate::server::{Server, system_that_can_be_held, uri};

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
