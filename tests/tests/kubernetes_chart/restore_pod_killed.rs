//! The controller and the restore pod are killed at every step, and cut off in the middle of a swap.

use std::time::{Duration, Instant};

use tests::{pause, wait_for};

use super::{Scene, nsctl};

const RESTORE_POD: &str = "app.kubernetes.io/component=restore-pod";

/// The controller and the restore pod, one after the other, at each step.
pub(super) fn one_after_the_other(scene: &Scene, backup: &str) {
    let steps = [
        "restore-pod-noted",
        "restore-pod-cleared",
        "restore-pod-joined",
        "restore-pod-ordered",
        "restore-pod-done",
        "restore-pod-gone",
        "restore-pod-started",
    ];
    for (n, step) in steps.into_iter().enumerate() {
        scene.fill(&format!("before-{n}"));
        scene.controller.ask(step);
        let id = scene.start(backup);
        wait_for(step, 120, || scene.controller.reached(step));
        if step != "restore-pod-noted" && step != "restore-pod-started" {
            assert_eq!(
                (scene.replicas("shop"), scene.replicas("web")),
                ("0".to_owned(), "0".to_owned()),
                "{step}"
            );
        }
        scene.controller.clear(step);
        scene.kill_controller();
        let job = scene.await_end(&id);
        assert_eq!(job["state"], "complete", "{step}: {job:#}");
        scene.assert_whole("one", step);
    }
    for (n, step) in ["staged-durable", "first-old-away", "swap-done"].into_iter().enumerate() {
        scene.fill(&format!("again-{n}"));
        scene.agent.ask(step);
        let id = scene.start(backup);
        wait_for(step, 120, || scene.agent.reached(step));
        scene.agent.clear(step);
        scene.kill("shop", RESTORE_POD);
        let job = scene.await_end(&id);
        assert_eq!(job["state"], "complete", "{step}: {job:#}");
        scene.assert_whole("one", step);
    }

    // An upgrade in the middle takes the restore pod to 0: it is brought up again.
    scene.fill("upgraded");
    scene.agent.ask("all-staged");
    let id = scene.start(backup);
    wait_for("all to be staged", 120, || scene.agent.reached("all-staged"));
    scene.agent.clear("all-staged");
    scene.cluster.kubectl(&["-n", "shop", "scale", "deployment/backup-restore-shop", "--replicas=0"]);
    let job = scene.await_end(&id);
    assert_eq!(job["state"], "complete", "{job:#}");
    scene.assert_whole("one", "after the restore pod was taken away");

    // Somebody cancels while it stands.
    scene.fill("cancelled");
    scene.controller.ask("restore-pod-cleared");
    let id = scene.start(backup);
    wait_for("all to stand", 120, || scene.controller.reached("restore-pod-cleared"));
    nsctl(&scene.cluster, &["cancel", &id]);
    scene.controller.let_go("restore-pod-cleared");
    assert_eq!(scene.await_end(&id)["state"], "cancelled");
    scene.await_whole();
    scene.controller.clear("restore-pod-cleared");
    scene.assert_filled("cancelled", "after it was cancelled");

    // All runs, and the job does not know it: nobody restores over what is written since.
    scene.controller.ask("restore-pod-over");
    let id = scene.start(backup);
    wait_for("all to run", 120, || scene.controller.reached("restore-pod-over"));
    scene.fill("since");
    scene.controller.clear("restore-pod-over");
    scene.kill_controller();
    let job = scene.await_end(&id);
    assert_eq!(job["state"], "complete", "{job:#}");
    scene.await_whole();
    scene.assert_filled("since", "what was written after the restore");
    scene.await_ready();
}

/// A program that was started on what was restored, by a controller that then died, has written since: what is not
/// healthy on it is not taken back by itself.
pub(super) fn after_it_was_started(scene: &Scene, bad: &str) {
    scene.fill("good");
    scene.controller.ask("restore-pod-started");
    let id = scene.start_with(bad, &[]);
    wait_for("the start", 180, || scene.controller.reached("restore-pod-started"));
    std::fs::write(scene.data.join("sub/noise"), "written since").expect("written");
    scene.controller.clear("restore-pod-started");
    scene.kill_controller();
    let job = scene.await_end(&id);
    let told = job["parts"][0]["reason"].as_str().unwrap_or_default();
    assert!(job["state"] == "failed" && told.contains("not taken back by itself"), "{job:#}");
    scene.await_whole();
    let noise = std::fs::read_to_string(scene.data.join("sub/noise")).expect("read");
    assert_eq!(noise, "written since");
    nsctl(&scene.cluster, &["undo", &id, "--yes"]);
    scene.assert_whole("good", "after the undo");
}

/// What has stopped stays stopped until nothing is half swapped, whoever has ended meanwhile.
pub(super) fn in_the_middle_and_nothing_starts_there(scene: &Scene, backup: &str) {
    // Three times, the last time in the middle of the swap; the container is started later each time.
    scene.fill("lost");
    scene.agent.ask("staged-durable");
    let id = scene.start_with(backup, &[]);
    for (held, next) in [
        ("staged-durable", Some("staged-durable")),
        ("staged-durable", Some("first-old-away")),
        ("first-old-away", None),
    ] {
        wait_for(held, 150, || scene.agent.reached(held));
        scene.agent.clear(held);
        if let Some(next) = next {
            scene.agent.ask(next);
        }
        scene.kill_process("shop", RESTORE_POD);
    }
    let job = scene.await_end(&id);
    assert_eq!(job["state"], "failed", "{job:#}");
    scene.await_whole();
    scene.assert_whole("one", "lost in the middle of its swap: it was carried through");
    let told = job["parts"][0]["reason"].as_str().unwrap_or_default();
    assert!(told.contains("may be live: `nsctl undo"), "{job:#}");
    nsctl(&scene.cluster, &["undo", &id, "--yes"]);
    scene.assert_whole("lost", "after the undo of a restore of which nobody knew whether it was done");

    // Cancelled while it says nothing in the middle of its swap.
    scene.fill("halfway");
    scene.agent.ask("first-old-away");
    let id = scene.start(backup);
    wait_for("the swap", 120, || scene.agent.reached("first-old-away"));
    nsctl(&scene.cluster, &["cancel", &id]);
    let since = Instant::now();
    // Longer than an agent has to say that it has ended it.
    while since.elapsed() < Duration::from_secs(50) {
        assert_eq!(scene.all_replicas(), ["0", "0", "1"], "nothing starts in the middle of a swap");
        pause(1_000);
    }
    scene.agent.let_go("first-old-away");
    let job = scene.await_end(&id);
    assert_eq!(job["state"], "cancelled", "{job:#}");
    scene.await_whole();
    scene.agent.clear("first-old-away");
    scene.assert_whole("one", "cancelled in the middle of its swap: it was carried through");
}

/// The restore pod, then the controller, in the middle of a restore that is taken back.
pub(super) fn while_it_is_taken_back(scene: &Scene, bad: &str) {
    for (step, kills_controller) in [("first-moved-back", false), ("undo-begun", true)] {
        scene.fill("good");
        scene.agent.ask(step);
        let id = scene.start(bad);
        wait_for(step, 180, || scene.agent.reached(step));
        match kills_controller {
            true => {
                scene.kill_controller();
                scene.agent.let_go(step);
            }
            false => {
                scene.agent.clear(step);
                scene.kill("shop", RESTORE_POD);
            }
        }
        let job = scene.await_end(&id);
        let told = job["parts"][0]["reason"].as_str().unwrap_or_default();
        assert!(job["state"] == "failed" && told.contains("all of it was taken back"), "{step}: {job:#}");
        scene.agent.clear(step);
        scene.await_whole();
        scene.assert_whole("good", step);
    }
}
