//! A server that is locked while it is read. No engine here has `fsync`: each server is a scripted peer, which keeps what
//! it was asked and how often it is locked.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use tests::{Process, System, wait_for};

use crate::archive;
use crate::peer::{Peer, Role, Unlock};
use crate::server::{system, uri};

pub(crate) const LOCK: &str = ", fsync_lock: 5m";

pub(crate) fn manifest(system: &System) -> Value {
    let shown = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    let name = shown["name"].as_str().expect("a name");
    let path = system.repository().join(name).join("database/mongodb.json");
    serde_json::from_slice(&fs::read(path).expect("a manifest")).expect("JSON")
}

/// The records of locks that the agent has.
pub(crate) fn records(system: &System) -> usize {
    let listed = fs::read_dir(system.root().join("agent")).expect("a folder").flatten();
    listed.filter(|one| one.file_name().to_string_lossy().starts_with("locked-")).count()
}

/// The guards that this agent has started, or of an agent that is gone.
pub(crate) fn guards(agent: u32) -> Vec<u32> {
    let ids = fs::read_dir("/proc").expect("there").flatten();
    let ids = ids.filter_map(|one| one.file_name().to_str()?.parse::<u32>().ok());
    let is_guard = |id: &u32| {
        let words = fs::read(Path::new("/proc").join(id.to_string()).join("cmdline")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse().ok());
        words.windows(10).any(|word| word == b"guard-lock") && parent == Some(agent)
    };
    ids.filter(is_guard).collect()
}

pub(crate) fn signal(process: u32, signal: &str) {
    let sent =
        std::process::Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status();
    assert!(sent.expect("it runs").success());
}

/// Begins a backup, and returns once the collections are being read under the lock.
pub(crate) fn begun_and_held(system: &System, peer: &Peer) -> String {
    peer.hold_finds(true);
    let job = system.start_job(&["backup"]);
    // Both: what is read ahead has a connection of its own, and a locked server may let nobody in anew.
    let mut seen = Vec::new();
    wait_for("both collections to be read", 30, || {
        seen.extend(peer.sequence());
        ["a", "b"].iter().all(|name| seen.iter().any(|one| one == name)).then_some(())
    });
    assert_eq!((peer.locks(), records(system)), (1, 1));
    job
}

#[test]
fn a_scripted_server_is_locked_while_it_is_read_where_that_is_allowed_and_the_manifest_says_for_how_long() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let not_allowed = system(&uri(peer.port), "");
    not_allowed.run(&["backup"]);
    assert_eq!(archive(&not_allowed)["consistency"], "fuzzy");
    assert_eq!(peer.sequence().len(), 2);
    drop(not_allowed);

    let system = system(&uri(peer.port), LOCK);
    let job = system.run(&["backup"]);
    assert!(!job.to_string().contains("fuzzy"), "{job:#}");
    let sequence = peer.sequence();
    assert_eq!(
        (sequence.first().map(String::as_str), sequence.last().map(String::as_str)),
        (Some("fsync"), Some("fsyncUnlock"))
    );
    assert_eq!(sequence.len(), 4, "{sequence:?}");
    assert_eq!((peer.locks(), records(&system)), (0, 0));
    let manifest = manifest(&system);
    assert_eq!((&manifest["consistency"], &manifest["quiesce"]["by"]), (&"quiesced".into(), &"lock".into()));
    let held = manifest["quiesce"]["held_ms"].as_u64().expect("a number");
    assert!(held < 30_000, "{held}");
    system.run(&["verify", "--depth", "opened"]);
}

#[test]
fn of_a_scripted_set_the_secondary_is_locked_and_read_and_never_the_primary() {
    let (primary, secondary) = (Peer::start(), Peer::start());
    let ports = vec![primary.port, secondary.port];
    for peer in [&primary, &secondary] {
        peer.be(Role::Old(ports.clone()));
    }
    let system = system(&format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", primary.port), LOCK);
    system.run(&["backup"]);
    assert_eq!(manifest(&system)["quiesce"]["by"], "lock");
    assert_eq!((primary.sequence(), secondary.sequence().len()), (Vec::new(), 4));

    // By a connection string that means the secondary alone, the primary is known by what the secondary says of it.
    let of_one = uri(secondary.port);
    for (ms, expected) in [(60_000, "quiesced"), (60_001, "fuzzy")] {
        secondary.be_behind(ms);
        secondary.sequence();
        let system = crate::server::system(&of_one, LOCK);
        let job = system.run(&["backup"]).to_string();
        assert_eq!(archive(&system)["consistency"], expected, "{job}");
        assert_eq!(job.contains("is more than 60 seconds behind"), expected == "fuzzy", "{job}");
    }

    // With no secondary that answers, the primary is read as it is.
    secondary.be(Role::Router);
    let job = system.run(&["backup"]).to_string();
    assert!(job.contains("no secondary answers, and the primary of a set is not locked"), "{job}");
    assert_eq!(primary.sequence().len(), 2);
}

#[test]
fn a_scripted_server_that_may_not_be_locked_is_read_fuzzy_and_left_as_it_is() {
    const FORBIDDEN: i32 = 13;
    let peer = Peer::start();
    let system = system(&uri(peer.port), LOCK);
    let told = |role, expected: &str| {
        peer.be(role);
        let job = system.run(&["backup"]).to_string();
        assert!(job.contains(expected), "{expected}: {job}");
        assert_eq!(archive(&system)["consistency"], "fuzzy");
        assert_eq!(records(&system), 0);
        let mut sequence = peer.sequence();
        // Collections are asked for side by side.
        sequence.sort_unstable();
        sequence
    };
    assert_eq!(told(Role::Router, "the router of a cluster is never locked"), ["a", "b"]);
    peer.refuse_change("fsync", FORBIDDEN);
    assert_eq!(told(Role::Alone, "give it the role `hostManager`"), ["a", "b", "fsync"]);
    // To lock and to unlock are two rights.
    peer.refuse_change("none", FORBIDDEN);
    peer.give_rights(&["fsync"]);
    assert_eq!(told(Role::Alone, "has not the right `unlock`"), ["a", "b"]);
    peer.give_rights(&["fsync", "unlock"]);
    // The only member that is listed is not the only one there is.
    peer.hide_members(1);
    let only = || Role::Old(vec![peer.port]);
    assert_eq!(told(only(), "its set has other members, hidden ones"), ["a", "b"]);
    peer.hide_members(0);
    peer.refuse_change("replsetgetstatus", FORBIDDEN);
    assert_eq!(told(only(), "give the user the role `clusterMonitor`"), ["a", "b"]);
    // Who has locked is not to be seen: without a count an unlock whose answer is lost could be anybody's.
    peer.refuse_change("none", FORBIDDEN);
    peer.be_silent(true);
    let expected = "how many unlocks it has carried out is not known (the user may not read all of it): give the user \
                    the role `clusterMonitor`";
    assert_eq!(told(Role::Alone, expected), ["a", "b"]);
    peer.be_silent(false);
    // One that was started anew could not be told from the one that was locked.
    peer.be_nameless(true);
    assert_eq!(told(Role::Alone, "only servers from 4.4 on are locked"), ["a", "b"]);
    peer.be_nameless(false);
    // Every writer would wait behind the lock for as long.
    peer.be_held_up(true);
    assert_eq!(told(Role::Alone, "a client's update has held what a lock waits for"), ["a", "b"]);
    peer.be_held_up(false);
    // What somebody else has locked is theirs to unlock.
    peer.lock();
    assert_eq!(told(Role::Alone, "somebody else has locked it"), ["a", "b"]);
    assert_eq!(peer.locks(), 1);
}

#[test]
fn a_scripted_server_is_not_locked_for_longer_than_is_allowed_and_the_next_attempt_reads_it_fuzzy() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let system = system(&uri(peer.port), ", fsync_lock: 2s");
    let job = begun_and_held(&system, &peer);
    wait_for("the lock to be let go", 15, || (peer.locks() == 0).then_some(()));
    peer.hold_finds(false);
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(archive(&system)["consistency"], "fuzzy");
    assert!(ended.to_string().contains("its lock was let go the last time before all was read"), "{ended:#}");
    assert_eq!((peer.locks(), records(&system), manifest(&system)["quiesce"].is_null()), (0, 0, true));
}

#[test]
fn whoever_dies_while_a_scripted_server_is_locked_it_is_unlocked_once_and_by_the_agent_s_next_start_at_the_latest()
 {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let mut system = system(&uri(peer.port), LOCK);
    // The agent: its guard sees it.
    let job = begun_and_held(&system, &peer);
    system.kill_agent();
    wait_for("the guard to unlock", 15, || (peer.locks() == 0 && records(&system) == 0).then_some(()));
    peer.hold_finds(false);
    assert_eq!(unlocks(&peer), 1);
    system.start_agent();
    system.await_agent();
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!(manifest(&system)["quiesce"]["by"], "lock");
    peer.sequence();

    // The guard: the agent unlocks, and what was read since is not called quiesced.
    let job = begun_and_held(&system, &peer);
    let guard = guards(system.pid(Process::Agent));
    assert_eq!(guard.len(), 1);
    signal(guard[0], "KILL");
    wait_for("the agent to unlock", 15, || (peer.locks() == 0 && records(&system) == 0).then_some(()));
    peer.hold_finds(false);
    assert_eq!(unlocks(&peer), 1);
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!(archive(&system)["consistency"], "fuzzy");

    // Both: the next start does. One that was started anew meanwhile has nothing to unlock.
    for is_restarted in [false, true] {
        system.kill_agent();
        system.start_agent();
        system.await_agent();
        peer.sequence();
        let job = begun_and_held(&system, &peer);
        let agent = system.pid(Process::Agent);
        let guard = guards(agent);
        assert_eq!(guard.len(), 1);
        // Neither sees the other's end.
        signal(agent, "STOP");
        signal(guard[0], "KILL");
        system.kill_agent();
        assert_eq!((peer.locks(), records(&system)), (1, 1));
        if is_restarted {
            peer.restart();
            peer.lock();
        }
        peer.hold_finds(false);
        peer.sequence();
        system.start_agent();
        wait_for("the record to go", 30, || (records(&system) == 0).then_some(()));
        if is_restarted {
            assert_eq!(peer.locks(), 1, "it is somebody else's");
            peer.restart();
        }
        assert_eq!(peer.locks(), 0);
        system.await_agent();
        assert_eq!(system.await_end(&job)["state"], "complete");
        assert_eq!((peer.locks(), records(&system)), (0, 0));
    }
}

pub(crate) fn unlocks(peer: &Peer) -> usize {
    peer.sequence().iter().filter(|one| *one == "fsyncUnlock").count()
}

#[test]
fn a_look_at_a_scripted_server_that_hangs_keeps_it_locked_for_no_longer() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let system = system(&uri(peer.port), LOCK);
    let job = begun_and_held(&system, &peer);
    peer.hang_looks(1);
    wait_for("a look to hang", 10, || (peer.hanging() == 0).then_some(()));
    let began = Instant::now();
    peer.hold_finds(false);
    wait_for("the lock to be let go", 15, || (peer.locks() == 0).then_some(()));
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!(manifest(&system)["quiesce"]["by"], "lock");

    // None is answered any more: it is unlocked all the same.
    let job = begun_and_held(&system, &peer);
    peer.hang_looks(i64::MAX);
    let began = Instant::now();
    tests::pause(1_500);
    peer.hold_finds(false);
    wait_for("the lock to be let go", 15, || (peer.locks() == 0).then_some(()));
    assert!(began.elapsed().as_secs() < 6, "{:?}", began.elapsed());
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!((manifest(&system)["quiesce"]["by"].as_str(), records(&system)), (Some("lock"), 0));
}

#[test]
fn a_scripted_server_that_is_slow_and_lets_nobody_in_while_it_is_locked_is_unlocked() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let system = system(&uri(peer.port), LOCK);
    let job = begun_and_held(&system, &peer);
    peer.let_nobody_in(true);
    let before = peer.pings();
    peer.slow_pings(7_000);
    wait_for("the connection to be used", 15, || (peer.pings() > before).then_some(()));
    // Longer than a look may take that something waits for: it is not broken off.
    tests::pause(5_500);
    let began = Instant::now();
    peer.hold_finds(false);
    wait_for("the lock to be let go", 20, || (peer.locks() == 0).then_some(()));
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    assert_eq!(system.await_end(&job)["state"], "complete");
    assert_eq!((manifest(&system)["quiesce"]["by"].as_str(), records(&system)), (Some("lock"), 0));
}

#[test]
fn a_scripted_server_that_stood_still_for_longer_than_a_driver_waits_and_lets_nobody_in_is_unlocked() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    // A driver that is told so asks every ten seconds whether it is there, and waits for two.
    let system = system(&format!("{}&connectTimeoutMS=2000", uri(peer.port)), LOCK);
    let job = begun_and_held(&system, &peer);
    peer.let_nobody_in(true);
    peer.freeze(true);
    tests::pause(15_000);
    assert_eq!((peer.locks(), records(&system)), (1, 1));
    peer.freeze(false);
    peer.hold_finds(false);
    wait_for("the lock to be let go", 20, || (peer.locks() == 0).then_some(()));
    assert_eq!(unlocks(&peer), 1);
    // Who reads has lost its connections, and with them what it had begun to read.
    let ended = system.await_end(&job);
    assert_eq!((ended["state"].as_str(), records(&system)), (Some("failed"), 0), "{ended:#}");
    assert!(ended.to_string().contains("the connection to it is lost"), "{ended:#}");
    peer.let_nobody_in(false);
    system.run(&["backup"]);
    assert_eq!(manifest(&system)["quiesce"]["by"], "lock");
}

#[test]
fn a_lock_of_a_scripted_server_that_was_gone_in_the_middle_is_not_called_quiesced_though_all_was_read() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let mut system = system(&uri(peer.port), LOCK);
    for what in [
        "unlocked by another",
        "unlocked and locked by another",
        "locked and unlocked by another, and an unlock is lost",
        "restarted",
        "restarted and locked by another",
        "its guard told to end",
        "its guard told to end, and the answer to its unlock is lost",
    ] {
        let job = begun_and_held(&system, &peer);
        match what {
            "unlocked by another" => peer.unlock(),
            "unlocked and locked by another" => peer.unlock_and_lock(),
            "locked and unlocked by another, and an unlock is lost" => {
                peer.lock();
                peer.unlock();
                peer.at_unlock(Unlock::Dropped);
                peer.hold_finds(false);
                wait_for("the unlock to be sent", 15, || (unlocks(&peer) > 0).then_some(()));
                peer.at_unlock(Unlock::Answered);
            }
            "its guard told to end, and the answer to its unlock is lost" => {
                peer.at_unlock(Unlock::Late);
                let agent = system.pid(Process::Agent);
                signal(guards(agent)[0], "TERM");
                wait_for("the guard to end", 15, || guards(agent).is_empty().then_some(()));
                peer.at_unlock(Unlock::Answered);
            }
            "restarted" => peer.restart(),
            "its guard told to end" => {
                signal(guards(system.pid(Process::Agent))[0], "TERM");
                wait_for("it to unlock", 15, || (peer.locks() == 0).then_some(()));
            }
            _ => {
                peer.restart();
                peer.lock();
            }
        }
        peer.hold_finds(false);
        let ended = system.await_end(&job);
        assert_eq!(ended["state"], "complete", "{what}: {ended:#}");
        assert_eq!(archive(&system)["consistency"], "fuzzy", "{what}");
        assert!(manifest(&system)["quiesce"].is_null(), "{what}");
        wait_for("the record to go", 15, || (records(&system) == 0).then_some(()));
        if what == "restarted and locked by another" {
            assert_eq!(peer.locks(), 1, "{what}");
            peer.unlock();
        }
        let is_sent = what.contains("guard") || what.contains("unlock is") || what.contains("and locked");
        let is_sent = is_sent && what != "restarted and locked by another";
        let sent = unlocks(&peer);
        // Before a look has seen that it is unlocked, an unlock is sent, which the server refuses.
        let is_refused = what == "unlocked by another" && sent == 1;
        assert!(is_refused || sent == usize::from(is_sent), "{what}: {sent}");
        assert_eq!(peer.locks(), 0, "{what}");
        // Where somebody else unlocks it, it does not lock any more before it is started anew.
        if what == "unlocked by another" {
            system.kill_agent();
            system.start_agent();
            system.await_agent();
        }
    }
}
