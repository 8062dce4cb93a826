//! What snapshots leave behind: nothing, at whichever step the agent dies, and a word of those that cannot be removed.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tests::{Disk, Process, System, wait_for};

use super::snapshots::{
    Writes, backed_up, btrfs, count, disk, give, is_of_a_snapshot, of_a_user, start_as_user, subvolume,
    users_node,
};
use super::{left_in, manifest, started};

/// The agent dies at `step`, and what it has left is gone after its next start.
fn killed_at(
    system: &mut System,
    disk: &Disk,
    node: &Path,
    step: &str,
    start: &dyn Fn(&mut System),
    first: &str,
) {
    system.steps().ask(if first.is_empty() { step } else { first });
    let job = system.start_job(&["backup"]);
    if !first.is_empty() {
        wait_for(first, 30, || system.steps().reached(first));
        system.steps().ask(step);
        system.steps().let_go(first);
    }
    wait_for(step, 30, || system.steps().reached(step));
    let left = left_in(node);
    system.kill_agent();
    assert_eq!(left, 1, "{step}: what is killed here has to be there");
    [step, first].iter().filter(|one| !one.is_empty()).for_each(|one| system.steps().clear(one));
    // No backup begins meanwhile.
    let controller = system.pid(Process::Controller).to_string();
    assert!(Command::new("kill").args(["-STOP", &controller]).status().expect("it runs").success());
    start(system);
    wait_for(&format!("what is left to go: {step}"), 20, || {
        (left_in(node) == 0 && count(disk) == 1).then_some(())
    });
    assert!(Command::new("kill").args(["-CONT", &controller]).status().expect("it runs").success());
    system.await_agent();
    assert_eq!(system.await_end(&job)["state"], "complete", "{step}");
    is_of_a_snapshot(system, disk, node, step);
}

#[test]
fn an_agent_that_dies_at_any_step_of_a_snapshot_leaves_none_after_its_next_start() {
    let disk = disk();
    let node = subvolume(&disk, "node");
    let _writes = Writes::into(&node.join("db"));
    let mut system = started(System::prepare_held(&[]), &node, "", None);
    for step in ["hold-begun", "snapshot-tried", "snapshot-made", "snapshot-gone"] {
        killed_at(&mut system, &disk, &node, step, &System::start_agent, "");
    }
}

#[test]
fn an_agent_without_rights_that_dies_while_it_empties_a_snapshot_leaves_none_after_its_next_start() {
    let disk = disk();
    let node = users_node(&disk);
    let _writes = Writes::into(&node.join("data/db"));
    let mut system = of_a_user(&node, "", true);
    // Of the one that is made to try it, and of the snapshot itself.
    for first in ["", "snapshot-made"] {
        for step in ["snapshot-writable", "snapshot-emptied"] {
            killed_at(&mut system, &disk, &node, step, &start_as_user, first);
        }
    }
}

#[test]
fn a_snapshot_that_cannot_be_removed_is_told_by_every_backup_until_it_is_gone() {
    let disk = disk();
    let node = users_node(&disk);
    let _writes = Writes::into(&node.join("data/db"));
    let system = of_a_user(&node, "", true);
    system.steps().ask("snapshot-made");
    let job = system.start_job(&["backup"]);
    wait_for("the snapshot", 30, || system.steps().reached("snapshot-made"));
    // Somebody gives a folder of it to root meanwhile.
    let mut hold = fs::read_dir(&node).expect("listed").map(|one| one.expect("one").path());
    let hold = hold.find(|path| path.to_string_lossy().contains(".neurashield-hold-")).expect("there");
    let snapshot = hold.join("snapshot");
    btrfs(&["property", "set", "-f", "-ts", snapshot.to_str().expect("UTF-8"), "ro"], Path::new("false"));
    let taken = snapshot.join("data/db");
    chown(&taken, Some(0), Some(0)).expect("taken");
    system.steps().let_go("snapshot-made");
    let ended = system.await_end(&job);
    let first = ended["parts"][0]["problems"].to_string();
    assert_eq!(
        (&ended["state"], &manifest(&system)["consistency"]),
        (&json!("complete"), &json!("snapshot"))
    );
    assert!(first.contains("1 of its snapshots could not be removed"), "{first}");
    let (told, _) = backed_up(&system);
    assert!(told.iter().any(|line| line.contains("1 of its snapshots could not be removed")), "{told:?}");
    assert_eq!(count(&disk), 2);
    give(&taken);
    assert_eq!(backed_up(&system).0, [""; 0]);
    is_of_a_snapshot(&system, &disk, &node, "it could be removed at last");
}
