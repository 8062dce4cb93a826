//! The controller's port attacked from within: by an agent that has a certificate and an order. Takes minutes,
//! since what drips is given up by the clock; the suite `abuse` runs it.

#[path = "abuse_support/mod.rs"]
mod support;

use std::fs;
use std::sync::Arc;

use proto::Failure;
use proto::failure::reason;
use support::insider::Insider;
use tests::{Process, System};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// What the controller's memory may grow by, in KiB.
const MAY_GROW: u64 = 16 << 10;

/// A certificate and an order are not enough to take places, space or memory for ever.
#[test]
fn an_agent_with_an_order_that_means_harm_is_stopped_and_others_are_served() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("weights"), vec![7; 5 << 20]).expect("written");
    let system = System::start(&[("models", folder.path())]);
    system.run(&["backup"]);
    let invite = ["agent", "invite", "-o", "json", "--name", "mallory"];
    let invitation = system.nsctl(&invite).expect(0).json()["token"].as_str().expect("a token").to_owned();
    let target = support::target(system.grpc_port(), &invitation);
    let threads = Runtime::new().expect("threads");
    let mallory = threads.block_on(target.join(&invitation, "mallory")).expect("joined");
    let mut insider = threads.block_on(Insider::connect(&target, &mallory, "configs/mallory"));
    let job = system.start_job(&["backup", "--components", "configs"]);
    let task = threads.block_on(insider.order()).task_id;
    let memory = || system.proc(Process::Controller, "status", "VmHWM");
    system.run(&["verify"]);
    let small = memory();

    let refused = threads.block_on(insider.longer_than_announced(&task));
    assert_eq!(Failure::from(refused).reason, reason::INVALID_REQUEST);
    let unread = threads.block_on(insider.unread(&task, 40));
    let _inside = threads.enter();
    let insider = Arc::new(insider);
    let mut drips = JoinSet::new();
    for segment in 0..40 {
        let (insider, task) = (insider.clone(), task.clone());
        drips.spawn(async move { insider.dripping(&task, segment).await });
    }
    let mut served = 0;
    while served < 3 || !drips.is_empty() {
        system.run(&["verify"]);
        system.nsctl(&["ls", "latest", "models"]).expect(0);
        served += 1;
        while let Some(ended) = drips.try_join_next() {
            let refused = ended.expect("it ended");
            let why = Failure::from(refused).reason;
            assert_ne!(why, reason::UNREACHABLE, "ended by an answer of the controller");
        }
    }
    let grown = memory().saturating_sub(small);
    eprintln!("{served} verifications meanwhile; the memory grew from {small} KiB by {grown} KiB");
    assert!(grown < MAY_GROW, "the controller's memory grew from {small} KiB by {grown} KiB");
    system.nsctl(&["agent", "revoke", "mallory", "--yes"]).expect(0);
    let ended = system.await_end(&job);
    assert_ne!(ended["state"], "complete", "{ended}");
    drop((unread, insider));
    system.run(&["backup", "--components", "models"]);
    system.run(&["verify"]);
}
