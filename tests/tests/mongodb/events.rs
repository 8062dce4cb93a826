//! What no engine here can do, by the commands that the driver says it has sent: sessions of snapshots, users and roles,
//! a lock. The suite `mongodb-real` looks at the same.

use serde_json::Value;

use crate::peer::{Peer, Role};
use crate::sent::{assert_locked_once, assert_of_one_instant, assert_users_are_read, of, sent};
use crate::server::{system_that_tells, uri};

#[test]
fn a_scripted_set_is_sent_sessions_of_one_instant_and_asked_for_its_users_and_roles() {
    let peer = Peer::start();
    peer.have_all();
    let system = system_that_tells(&uri(peer.port), "");
    system.run(&["backup"]);
    let sent = sent(&system);
    assert_of_one_instant(&sent);
    assert_users_are_read(&sent);
    assert!(of(&sent, "fsync").is_empty());
    // Nothing of it is restored in place: a plan writes to neither.
    system.nsctl(&["restore", "--timestamp", "latest", "--plan"]).expect(0);
    let sent = crate::sent::sent(&system);
    let is_change = |one: &&Value| {
        one["database"] == "admin" && (one["command"] == "insert" || one["command"] == "create")
    };
    assert_eq!(sent.iter().filter(is_change).count(), 0);
}

#[test]
fn a_scripted_server_that_is_no_set_is_sent_one_lock_and_one_unlock() {
    let peer = Peer::start();
    peer.be(Role::Alone);
    let system = system_that_tells(&uri(peer.port), ", fsync_lock: 1m");
    system.run(&["backup"]);
    assert_locked_once(&sent(&system));
}
