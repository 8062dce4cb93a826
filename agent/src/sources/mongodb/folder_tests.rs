//! Looks at folders as a server leaves them. The files are made up: only their names, their lengths and the
//! turtle's text matter here.

use std::os::unix::fs::symlink;

use super::*;

/// The folder of a server that was stopped.
fn stopped() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in NEEDED {
        fs::write(folder.path().join(name), name).expect("written");
    }
    fs::write(folder.path().join(LOCK), "").expect("written");
    checkpoint(folder.path(), 1);
    folder
}

/// Replaces the turtle, as WiredTiger does at each checkpoint.
fn checkpoint(folder: &Path, number: u64) {
    let new = folder.join("WiredTiger.turtle.set");
    let text = format!("WiredTiger version string\nWiredTiger 11.2.0\n{METADATA}\ncheckpoint={number}\n");
    fs::write(&new, text).expect("written");
    fs::rename(new, folder.join(TURTLE)).expect("renamed");
}

#[test]
fn a_stopped_server_is_still_stopped_as_long_as_nobody_starts_it() {
    let folder = stopped();
    let before = Stopped::look(folder.path()).expect("it is stopped");
    assert_eq!(Stopped::look(folder.path()).expect("it is stopped"), before);
    before.still(folder.path()).expect("nothing ran");
}

#[test]
fn a_server_that_runs_or_has_crashed_is_refused() {
    let folder = stopped();
    let before = Stopped::look(folder.path()).expect("it is stopped");
    fs::write(folder.path().join(LOCK), "4711\n").expect("written");
    assert!(matches!(Stopped::look(folder.path()), Err(NotStopped::Runs)));
    assert!(matches!(before.still(folder.path()), Err(NotStopped::Runs)));
}

#[test]
fn a_server_that_started_and_stopped_between_the_looks_is_noticed() {
    let folder = stopped();
    let before = Stopped::look(folder.path()).expect("it is stopped");
    checkpoint(folder.path(), 2);
    assert!(matches!(before.still(folder.path()), Err(NotStopped::Ran)));

    let before = Stopped::look(folder.path()).expect("it is stopped");
    fs::write(folder.path().join(LOCK), "4711\n").expect("written");
    fs::write(folder.path().join(LOCK), "").expect("written");
    assert!(matches!(before.still(folder.path()), Err(NotStopped::Ran)));
}

#[test]
fn each_file_that_a_database_needs_is_missed_by_name() {
    for name in NEEDED.into_iter().chain([LOCK]) {
        let folder = stopped();
        let file = folder.path().join(name);
        fs::remove_file(&file).expect("removed");
        let missed = |found| matches!(found, Err(NotStopped::NotWhole(which)) if which == name);
        assert!(missed(Stopped::look(folder.path())), "{name} is missing");
        symlink("/dev/null", &file).expect("linked");
        assert!(missed(Stopped::look(folder.path())), "{name} is a link");
        if name != LOCK {
            fs::remove_file(&file).expect("removed");
            fs::write(&file, "").expect("written");
            assert!(missed(Stopped::look(folder.path())), "{name} is empty");
        }
    }
}

#[test]
fn a_turtle_without_its_metadata_is_damage_however_long_it_is() {
    let folder = stopped();
    for text in ["\0\0\0\0", "WiredTiger version string\n"] {
        fs::write(folder.path().join(TURTLE), text).expect("written");
        assert!(matches!(Stopped::look(folder.path()), Err(NotStopped::Turtle)), "{text:?}");
    }
    let far = format!("{}\n{METADATA}\n", "x".repeat(1 << 20));
    fs::write(folder.path().join(TURTLE), far).expect("written");
    assert!(matches!(Stopped::look(folder.path()), Err(NotStopped::Turtle)));
}

#[test]
fn a_server_has_its_folder_in_use_as_long_as_it_holds_its_lock_and_not_once_it_was_killed() {
    let folder = stopped();
    let lock = fs::File::options().write(true).open(folder.path().join(LOCK)).expect("it is there");
    assert!(!is_in_use(folder.path()));
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    assert!(is_in_use(folder.path()));
    assert!(matches!(Stopped::look(folder.path()), Err(NotStopped::Runs)));
    drop(lock);
    fs::write(folder.path().join(LOCK), "4711\n").expect("written");
    assert!(!is_in_use(folder.path()));
    assert!(!is_in_use(&folder.path().join("nothing")));
}

#[test]
fn a_folder_is_called_quiesced_and_ends_with_an_error_if_the_server_ran_while_it_was_read() {
    let folder = stopped();
    let open = || {
        let excludes = crate::sources::files::Excludes::new(&[]).expect("no pattern is wrong");
        FolderSource::open(folder.path(), Rules::from(excludes)).expect("it is stopped")
    };
    let mut source = open();
    assert_eq!(source.consistency(), Consistency::Quiesced);
    let mut count = 0;
    while source.next().expect("it is stopped still").is_some() {
        count += 1;
    }
    assert_eq!(count, 1 + NEEDED.len() + 1);
    let mut source = open();
    assert!(source.next().expect("its root").is_some());
    checkpoint(folder.path(), 2);
    let ended = loop {
        match source.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the server ran"),
            Err(error) => break error,
        }
    };
    assert!(proto::failure::chain(&ended).contains("the server ran while its folder was read"));
}
