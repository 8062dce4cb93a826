//! What is wrong with a server, a user or a disk: a clear error, an exit code that is none of success, no secret
//! anywhere, and nothing live that has changed. What goes wrong while something is read or loaded is with the rest of it
//! (docs/mongodb.md lists which test shows which).

use std::fs;

use tests::{Process, System};

use crate::held::{held, restore};
use crate::peer::Peer;
use crate::server::{Server, system, uri};

const PASSWORD: &str = "hunter2-and-more";

/// Neither what people were told nor what was logged has the password in it.
fn assert_secret(system: &System) {
    for process in [Process::Agent, Process::Controller] {
        assert!(!system.log(process).contains(PASSWORD), "{}", system.log(process));
    }
}

#[test]
fn a_server_that_cannot_be_read_is_a_clear_error_without_a_secret() {
    let old = Server::start("6");
    let fine = Server::start("9");
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number");
    let cases = [
        (format!("127.0.0.1:{}", nobody.port()), "no server answers at its address"),
        (format!("127.0.0.1:{}", old.port), "its version is too old"),
        (format!("127.0.0.1:{}", fine.port), "it refuses the user or the password"),
        ("127.0.0.1:1/?tls=perhaps&x=".to_owned(), "the connection string cannot be understood"),
        ("+srv".to_owned(), "mongodb+srv:// is not served by this release: list the hosts"),
    ];
    let mut system = system("mongodb://nowhere", "");
    for (hosts, expected) in cases {
        let user = if expected.contains("old") { String::new() } else { format!("backup:{PASSWORD}@") };
        let options = if hosts.contains('?') { "" } else { "/?serverSelectionTimeoutMS=1500" };
        let text = match hosts.as_str() {
            "+srv" => format!("mongodb+srv://{user}cluster.example.net/"),
            _ => format!("mongodb://{user}{hosts}{options}"),
        };
        fs::write(system.root().join("uri"), text).expect("written");
        let failed = system.nsctl(&["backup"]);
        assert_ne!(failed.code, 0, "{expected}: {}", failed.out);
        let said = format!("{}{}", failed.out, failed.err);
        assert!(said.contains(expected), "{expected}:\n{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
    for process in [Process::Agent, Process::Controller] {
        assert!(!system.log(process).contains(PASSWORD), "{}", system.log(process));
    }
    system.kill_agent();
}

#[test]
fn a_scripted_server_that_forbids_a_restore_or_whose_disk_is_full_says_so_and_nothing_live_is_renamed() {
    const FORBIDDEN: i32 = 13;
    const DISK_FULL: i32 = 14_031;
    let peer = Peer::start();
    let system = system(&uri(peer.port), "");
    system.run(&["backup"]);
    let restore = ["restore", "--timestamp", "latest", "--yes", "--no-safety-backup", "--include", "shop.a"];
    let cases =
        [("create", FORBIDDEN, "the user may not do that"), ("insert", DISK_FULL, "its disk is full")];
    for (command, code, expected) in cases {
        peer.refuse_change(command, code);
        let refused = system.nsctl(&restore);
        assert_eq!(refused.code, 1, "{command}: {}{}", refused.out, refused.err);
        let said = format!("{}{}", refused.out, refused.err);
        assert!(said.contains(expected), "{expected}:\n{said}");
        let changes = peer.changes();
        let of_live = |one: &&mongodb::bson::Document| {
            one.get_str("renameCollection").is_ok_and(|from| !from.contains(".trial."))
        };
        assert_eq!(changes.iter().filter(of_live).count(), 0, "{changes:?}");
        // Each is to be confirmed by most members, and has an end.
        let is_bounded = |one: &mongodb::bson::Document| {
            let concern = one.get_document("writeConcern").expect("a concern");
            concern.get_str("w").is_ok_and(|word| word == "majority") && one.contains_key("maxTimeMS")
        };
        let quick = ["create", "renameCollection", "drop", "update"];
        // But for what only says that the restore goes on.
        let is_beat = |one: &mongodb::bson::Document| format!("{one:?}").contains("$inc");
        let quick =
            changes.iter().filter(|one| quick.iter().any(|name| one.contains_key(*name)) && !is_beat(one));
        assert!(quick.clone().count() > 1 && quick.clone().all(is_bounded), "{changes:?}");
    }
}

#[test]
fn a_scripted_server_that_refuses_a_password_is_neither_read_nor_changed() {
    let peer = Peer::start();
    let mut system = system(&uri(peer.port), "");
    system.run(&["backup"]);
    peer.sequence();
    peer.changes();
    peer.refuse_passwords();
    let with_user = format!(
        "mongodb://backup:{PASSWORD}@127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=1500",
        peer.port
    );
    fs::write(system.root().join("uri"), with_user).expect("written");
    for command in [&["backup"][..], &restore(&["--no-safety-backup"])] {
        let refused = system.nsctl(command);
        let said = format!("{}{}", refused.out, refused.err);
        assert_ne!(refused.code, 0, "{said}");
        assert!(said.contains("it refuses the user or the password"), "{said}");
        assert!(said.contains("check user, password and `authSource`"), "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
        // It was asked for a proof, and for nothing else.
        let asked = peer.sequence();
        assert!(!asked.is_empty() && asked.iter().all(|one| one == "saslContinue"), "{asked:?}");
        assert!(peer.changes().is_empty());
    }
    assert_secret(&system);
    system.kill_agent();
}

#[test]
fn a_scripted_server_whose_user_may_not_list_says_at_connect_which_role_is_missing() {
    let peer = Peer::start();
    let system = system(&uri(peer.port), "");
    for command in ["listdatabases", "listcollections"] {
        peer.refuse_change(command, 13);
        let refused = system.nsctl(&["backup"]);
        let said = format!("{}{}", refused.out, refused.err);
        assert_ne!(refused.code, 0, "{said}");
        assert!(said.contains("the user may not read all of it"), "{said}");
        assert!(said.contains("give the user the role `backup` in the database `admin`"), "{said}");
        assert_eq!(peer.sequence(), [""; 0], "nothing was read");
    }
}

#[test]
fn a_server_that_is_gone_when_it_is_to_be_restored_is_named_and_holds_what_it_held() {
    let server = Server::start("9");
    server.insert("shop", "orders", vec![mongodb::bson::doc! { "_id": 1 }]);
    let network = tests::Forwarder::to(server.port);
    let mut system = system(&crate::server::impatient_uri(network.port()), "");
    system.run(&["backup"]);
    let before = held(&server, &["shop"]);
    network.dark();
    let refused = system.nsctl(&restore(&["--no-safety-backup"]));
    let said = format!("{}{}", refused.out, refused.err);
    assert_ne!(refused.code, 0, "{said}");
    assert!(said.contains("no server answers at its address"), "{said}");
    assert_eq!(held(&server, &["shop"]), before);
    system.kill_agent();
}
