//! Whose lock it is: answers that were lost, locks and unlocks of somebody else. What is not ours is never taken away,
//! and what may be ours is not called `quiesced`.

use std::fs;
use std::time::SystemTime;

use serde_json::Value;
use tests::{Process, System, wait_for};

use crate::archive;
use crate::locked::{LOCK, begun_and_held, guards, manifest, records, signal, unlocks};
use crate::peer::{Lock, Peer, Role, Unlock};
use crate::server::{system, uri};

#[test]
fn a_lock_of_a_scripted_server_whose_answer_is_lost_is_undone_whenever_it_comes() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let mut system = system(&uri(peer.port), LOCK);
    let is_undone = |system: &System| {
        wait_for("it to be unlocked", 15, || (peer.locks() == 0).then_some(()));
        tests::pause(1_500);
        assert_eq!((unlocks(&peer), records(system)), (1, 1));
    };
    // Its connection goes.
    peer.at_lock(Lock::Unanswered);
    system.run(&["backup"]);
    assert_eq!(archive(&system)["consistency"], "fuzzy");
    assert_eq!((peer.locks(), records(&system)), (0, 1));
    // Nothing is asked for once more meanwhile.
    let job = system.run(&["backup"]).to_string();
    assert!(job.contains("an earlier lock of it may not have been let go"), "{job}");
    assert_eq!(records(&system), 1);
    peer.sequence();
    // Whoever locks it first, and whatever comes of the answer to its unlock: what was asked for may come yet. And it may
    // let nobody in then.
    peer.let_nobody_in(true);
    peer.lock();
    is_undone(&system);
    peer.let_nobody_in(false);
    peer.lock();
    is_undone(&system);
    peer.at_unlock(Unlock::Lost);
    peer.lock();
    is_undone(&system);
    peer.at_unlock(Unlock::Answered);
    peer.lock();
    is_undone(&system);
    // Its guard does not wait for it for longer than it may, and neither does who comes after it.
    signal(guards(system.pid(Process::Agent))[0], "TERM");
    grows_old(&mut system);

    // Its guard dies, and it comes once nobody waits for the answer any more. It says already that it is locked: an unlock
    // would wait behind it.
    peer.at_lock(Lock::Late);
    let job = system.start_job(&["backup"]);
    wait_for("the lock to be asked for", 30, || {
        peer.sequence().iter().any(|one| one == "fsync").then_some(())
    });
    signal(guards(system.pid(Process::Agent))[0], "KILL");
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!(archive(&system)["consistency"], "fuzzy");
    tests::pause(2_500);
    assert_eq!((peer.locks(), records(&system), unlocks(&peer)), (0, 1, 0));
    peer.at_lock(Lock::Taken);
    is_undone(&system);
    grows_old(&mut system);
    system.run(&["backup"]);
    assert_eq!(manifest(&system)["quiesce"]["by"], "lock");
}

/// What was asked for was so more than 20 minutes ago.
fn grows_old(system: &mut System) {
    system.kill_agent();
    let listed = fs::read_dir(system.root().join("agent")).expect("a folder").flatten();
    let mut files = listed.filter(|one| one.file_name().to_string_lossy().starts_with("locked-"));
    let path = files.next().expect("a record").path();
    let mut record: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    let asked = record["stage"]["asked"].as_u64().expect("it waits for what it has asked for");
    record["stage"]["asked"] = (asked - 21 * 60).into();
    fs::write(&path, record.to_string()).expect("written");
    system.start_agent();
    wait_for("the record to go", 30, || (records(system) == 0).then_some(()));
    system.await_agent();
}

#[test]
fn what_somebody_else_has_locked_at_a_scripted_server_is_never_unlocked() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let mut system = system(&uri(peer.port), LOCK);
    // Who dies before it has asked has locked nothing.
    system.kill_agent();
    peer.lock();
    let intended = serde_json::json!({
        "source": "any", "member": format!("127.0.0.1:{}", peer.port), "process": "", "stage": "intended",
    });
    fs::write(system.root().join("agent/locked-00"), intended.to_string()).expect("written");
    system.start_agent();
    wait_for("the record to go", 30, || (records(&system) == 0).then_some(()));
    assert_eq!((peer.locks(), unlocks(&peer)), (1, 0));
    peer.unlock();
    system.await_agent();

    // Nor has one whose lock was asked for so long ago that it cannot come any more; a younger one may come yet.
    system.kill_agent();
    let asked = |age: u64| {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_secs();
        serde_json::json!({
            "source": "database+mongodb", "member": format!("127.0.0.1:{}", peer.port), "process": "",
            "stage": { "asked": now - age }, "unlocks": 0,
        })
    };
    fs::write(system.root().join("agent/locked-01"), asked(21 * 60).to_string()).expect("written");
    fs::write(system.root().join("agent/locked-02"), asked(19 * 60).to_string()).expect("written");
    system.start_agent();
    wait_for("one record to go", 30, || (records(&system) == 1).then_some(()));
    assert!(system.root().join("agent/locked-02").exists());
    fs::remove_file(system.root().join("agent/locked-02")).expect("it is there");
    system.await_agent();

    // Two lock at once: ours is taken back, and the other one is told.
    peer.at_lock(Lock::Shared);
    system.run(&["backup"]);
    assert_eq!(archive(&system)["consistency"], "fuzzy");
    wait_for("ours to be taken back", 15, || (records(&system) == 0).then_some(()));
    assert_eq!((peer.locks(), unlocks(&peer)), (1, 1));
    let told = "stays locked: somebody else has locked it, too";
    wait_for("it to be told", 5, || system.log(Process::Agent).contains(told).then_some(()));
    peer.unlock();

    // And the answer to that is lost: another one would be theirs.
    peer.at_unlock(Unlock::Lost);
    system.run(&["backup"]);
    wait_for("it to be told", 15, || (doubts(&system) > 0).then_some(()));
    peer.at_unlock(Unlock::Answered);
    tests::pause(2_500);
    assert_eq!((peer.locks(), unlocks(&peer), records(&system)), (1, 1, 1));
}

/// How often the log has told that only a person can say what is to be done.
fn doubts(system: &System) -> usize {
    const TOLD: &str =
        "the answer to our unlock was lost, one was carried out, and it is locked all the same";
    system.log(Process::Agent).matches(TOLD).count()
}

#[test]
fn a_scripted_server_that_somebody_has_unlocked_and_that_stays_locked_is_not_called_quiesced() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let system = system(&uri(peer.port), LOCK);
    let job = begun_and_held(&system, &peer);
    // No look sees it; and then our own unlock is not answered, and somebody has locked once more.
    peer.unlock_and_lock();
    peer.lock();
    peer.at_unlock(Unlock::Lost);
    peer.hold_finds(false);
    wait_for("it to be told", 15, || (doubts(&system) > 0).then_some(()));
    peer.at_unlock(Unlock::Answered);
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(archive(&system)["consistency"], "fuzzy");
    assert!(manifest(&system)["quiesce"].is_null());
    assert!(ended.to_string().contains("an earlier lock of it may not have been undone"), "{ended:#}");
    assert_eq!((peer.locks(), records(&system)), (1, 1));
}

#[test]
fn what_is_read_of_a_scripted_server_after_its_time_is_up_is_not_called_quiesced_whatever_comes_of_the_unlock()
 {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let system = system(&uri(peer.port), ", fsync_lock: 2s");
    let job = begun_and_held(&system, &peer);
    peer.at_unlock(Unlock::Late);
    wait_for("the unlock to be sent", 15, || (unlocks(&peer) > 0).then_some(()));
    // All is read while it is worked on, and it comes when somebody else has locked it, too: nobody can say any more
    // who is unlocked.
    peer.hold_finds(false);
    tests::pause(3_000);
    peer.lock();
    peer.at_unlock(Unlock::Answered);
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(archive(&system)["consistency"], "fuzzy", "{ended:#}");
    assert_eq!((peer.locks(), manifest(&system)["quiesce"].is_null()), (1, true));
}

#[test]
fn the_answer_to_an_unlock_of_a_scripted_server_is_lost_and_no_lock_of_another_is_taken() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let mut system = system(&uri(peer.port), LOCK);
    // It has not come: it is sent again, and that is told.
    let job = begun_and_held(&system, &peer);
    peer.at_unlock(Unlock::Dropped);
    peer.hold_finds(false);
    wait_for("the unlock to be sent", 15, || (unlocks(&peer) > 0).then_some(()));
    peer.at_unlock(Unlock::Answered);
    wait_for("it to be unlocked", 15, || (peer.locks() == 0 && records(&system) == 0).then_some(()));
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert!(system.log(Process::Agent).contains("the server has not carried out the first unlock"));
    assert_eq!(manifest(&system)["quiesce"]["by"], "lock");
    peer.sequence();

    // It has come late, and somebody else has locked meanwhile: nothing is sent beside it.
    let job = begun_and_held(&system, &peer);
    peer.at_unlock(Unlock::Late);
    peer.hold_finds(false);
    wait_for("the unlock to be sent", 15, || (unlocks(&peer) > 0).then_some(()));
    tests::pause(3_000);
    assert_eq!((peer.locks(), unlocks(&peer)), (1, 0));
    peer.lock();
    peer.at_unlock(Unlock::Answered);
    wait_for("it to be told", 15, || (doubts(&system) > 0).then_some(()));
    assert_eq!((peer.locks(), unlocks(&peer), records(&system)), (1, 0, 1));
    assert_eq!(system.await_end(&job)["state"], "complete");
    // Whoever has locked it unlocks it: then there is nothing more to ask.
    peer.unlock();
    system.run(&["backup"]);
    assert_eq!((peer.locks(), records(&system)), (0, 0));
    peer.sequence();

    // It is begun with just when it is counted: that it will be carried out is waited for.
    let before = doubts(&system);
    let job = begun_and_held(&system, &peer);
    peer.at_unlock(Unlock::AtCount);
    peer.hold_finds(false);
    wait_for("the unlock to be sent", 15, || (unlocks(&peer) > 0).then_some(()));
    tests::pause(3_000);
    peer.at_unlock(Unlock::Answered);
    wait_for("the record to go", 15, || (records(&system) == 0).then_some(()));
    assert_eq!((peer.locks(), unlocks(&peer), doubts(&system)), (0, 0, before));
    assert_eq!(system.await_end(&job)["state"], "complete");
    system.kill_agent();
    system.start_agent();
    system.await_agent();
    peer.sequence();

    // It is refused without a number: an answer it is all the same, and what is locked since is somebody else's.
    let before = doubts(&system);
    let job = begun_and_held(&system, &peer);
    peer.at_unlock(Unlock::Unnumbered);
    peer.hold_finds(false);
    wait_for("it to be told", 15, || (doubts(&system) > before).then_some(()));
    peer.at_unlock(Unlock::Answered);
    tests::pause(1_500);
    assert_eq!((peer.locks(), unlocks(&peer), records(&system)), (1, 1, 1));
    assert_eq!(system.await_end(&job)["state"], "complete");
    peer.unlock();
    system.run(&["backup"]);
    assert_eq!((peer.locks(), records(&system)), (0, 0));
    peer.sequence();

    // It was carried out, and somebody else had locked it meanwhile.
    const LEFT: &str = "an earlier run may have left a MongoDB server locked";
    let told_of = |system: &System| system.log(Process::Agent).matches(LEFT).count();
    let (before, told_before) = (doubts(&system), told_of(&system));
    let job = begun_and_held(&system, &peer);
    peer.lock();
    peer.at_unlock(Unlock::Lost);
    peer.hold_finds(false);
    wait_for("it to be told", 15, || (doubts(&system) > before).then_some(()));
    peer.at_unlock(Unlock::Answered);
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!((peer.locks(), unlocks(&peer), records(&system)), (1, 1, 1));
    // What is locked is read well: what is not known is told by each backup, and by the log once.
    for _ in 0..2 {
        let told = system.run(&["backup"]).to_string();
        assert!(told.contains("an earlier lock of it may not have been undone"), "{told}");
        assert_eq!(archive(&system)["consistency"], "fuzzy");
    }
    assert_eq!(told_of(&system), told_before + 1);
    assert_eq!((peer.locks(), unlocks(&peer), records(&system)), (1, 0, 1));
    peer.unlock();
    let told = system.run(&["backup"]).to_string();
    assert!(!told.contains("an earlier lock of it"), "{told}");
    assert_eq!(
        (peer.locks(), records(&system), manifest(&system)["quiesce"]["by"].as_str()),
        (0, 0, Some("lock"))
    );
}
