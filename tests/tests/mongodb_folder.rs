//! The data folder of a MongoDB server, as the server leaves it. No server can be had here: the files are made
//! up, and what a server does to `mongod.lock` is done by the source's hooks.

use std::fs;
use std::path::Path;

use tests::System;

const TURTLE: &str = "WiredTiger version string\nWiredTiger 11.2.0\nfile:WiredTiger.wt\ncheckpoint=1\n";

fn server_folder(data: &Path, lock: &str) {
    fs::create_dir_all(data.join("journal")).expect("made");
    for name in ["WiredTiger", "WiredTiger.wt", "_mdb_catalog.wt", "collection-0-1.wt"] {
        fs::write(data.join(name), name.repeat(1000)).expect("written");
    }
    let storage = mongodb::bson::rawdoc! { "storage": { "engine": "wiredTiger" } };
    fs::write(data.join("storage.bson"), storage.as_bytes()).expect("written");
    fs::write(data.join("WiredTiger.turtle"), TURTLE).expect("written");
    fs::write(data.join("mongod.lock"), lock).expect("written");
}

fn system(data: &Path, more: &str) -> System {
    let mut system = System::prepare(&[]);
    system.configure_agent(&format!(
        "  - {{ component: database, kind: mongodb, name: mongodb, path: {}{more} }}\n",
        data.display()
    ));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

#[test]
fn a_server_stopped_by_a_hook_is_backed_up_as_quiesced_and_comes_back_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("db");
    server_folder(&data, "4711\n");
    let lock = data.join("mongod.lock");
    let hooks = format!(
        ", hooks: {{ before_backup: {{ shell: \": > {0}\" }}, after_backup: {{ shell: \"echo 4711 > {0}\" }} }}",
        lock.display()
    );
    let system = system(&data, &hooks);
    system.run(&["backup"]);
    assert_eq!(fs::read_to_string(&lock).expect("read"), "4711\n", "it was started again");
    let shown = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    assert_eq!(shown["archives"][0]["kind"], "mongodb", "{shown:#}");
    assert_eq!(shown["archives"][0]["consistency"], "quiesced", "{shown:#}");

    system.run(&["verify", "--depth", "opened"]);
    let to = folder.path().join("restored");
    let (name, to_text) = (shown["name"].as_str().expect("a name"), to.to_str().expect("UTF-8"));
    let restore = ["restore", "--timestamp", name, "--components", "database", "--to", to_text, "--yes"];
    system.nsctl(&restore).expect(0);
    let restored = to.join("database");
    assert_eq!(fs::read(restored.join("mongod.lock")).expect("restored"), b"", "that of the stopped server");
    for file in ["WiredTiger.turtle", "WiredTiger.wt", "collection-0-1.wt"] {
        assert_eq!(
            fs::read(restored.join(file)).expect("restored"),
            fs::read(data.join(file)).expect("read")
        );
    }

    // In place only while no server has it: one that runs is named with what to do, and nothing is changed.
    let before = fs::read(data.join("collection-0-1.wt")).expect("read");
    fs::write(data.join("collection-0-1.wt"), "spoiled").expect("written");
    let restore = ["restore", "--timestamp", name, "--yes", "--no-safety-backup"];
    let lock_file = fs::File::options().write(true).open(&lock).expect("opened");
    lock_file.lock().expect("locked");
    let refused = system.nsctl(&restore);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(
        refused.code == 1 && said.contains("in use") && said.contains("`uri`"),
        "{}: {said}",
        refused.code
    );
    assert_eq!(fs::read(data.join("collection-0-1.wt")).expect("read"), b"spoiled");
    drop(lock_file);
    let part = system.nsctl(&[&restore[..], &["--path", "collection-0-1.wt"]].concat());
    assert!(part.err.contains("restored as a whole"), "{}{}", part.out, part.err);
    system.run(&restore);
    assert_eq!(fs::read(data.join("collection-0-1.wt")).expect("read"), before);
    assert_eq!(fs::read(&lock).expect("read"), b"", "that of the stopped server");
}

#[test]
fn a_server_that_runs_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("db");
    server_folder(&data, "4711\n");
    let system = system(&data, "");
    let refused = system.nsctl(&["backup"]);
    assert_ne!(refused.code, 0, "{}", refused.out);
    let said = refused.out + &refused.err;
    assert!(said.contains("mongod.lock is not empty"), "{said}");
    assert!(said.contains("stop the server for the time of the backup"), "{said}");
}
