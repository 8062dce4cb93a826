//! A repository from its first moment: keys, backups, foreign folders, what comes back.

mod support;

use std::sync::Arc;

use repository::backup::manifest::Outcome;
use repository::error::RepositoryError;
use repository::keys::{SlotKind, SlotSecret};
use repository::repo::Repository;
use repository::store::local::LocalStore;
use repository::store::memory::MemoryStore;
use repository::verify::Depth;
use support::*;
use zeroize::Zeroizing;

fn sample() -> Files {
    Files::from([
        ("a/large.bin", noise("large", 300_000)),
        ("a/small.txt", b"hello".to_vec()),
        ("b", noise("b", 1_000)),
        ("c/d/e", noise("e", 70_000)),
    ])
}

#[test]
fn what_was_backed_up_comes_back_after_the_controller_was_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = || Arc::new(LocalStore::open_or_make(folder.path()).expect("a store"));
    let made = Repository::init(store(), &secret(), at(0)).expect("a fresh repository");
    let record = back_up(&made.repository, &made.keys, &sample(), "job-1", 0).expect("committed");
    assert_eq!(
        (record.name.as_str(), record.sequence, record.outcome),
        ("20260101_010000", 1, Outcome::Complete)
    );
    assert!(folder.path().join("20260101_010000/models/models.json").is_file());

    let recovered = Arc::new(Repository::open(store()).expect("opens without a secret"));
    let key = made.recovery_key.reveal().parse().expect("as written down");
    let keys = recovered.unlock(&SlotSecret::Recovery(key)).expect("the recovery key opens it");
    let listing = recovered.list().expect("listed");
    assert_eq!(listing.backups, std::slice::from_ref(&record));
    assert_holds(&recovered, &keys, &record, &sample());
}

#[test]
fn sha256sum_alone_agrees_with_every_file_of_a_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    let record = back_up(&repository, &keys, &sample(), "job-1", 0).expect("committed");
    let check = std::process::Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(folder.path().join(record.name.as_str()))
        .output()
        .expect("sha256sum runs");
    assert!(check.status.success(), "{check:?}");
    assert_eq!(String::from_utf8_lossy(&check.stdout).lines().count(), 4);
}

#[test]
fn a_wrong_secret_opens_nothing() {
    let (repository, _) = init(MemoryStore::new());
    let wrong = SlotSecret::KeyFile(Zeroizing::new(vec![1; 32]));
    assert!(matches!(repository.unlock(&wrong), Err(RepositoryError::WrongKey { kind: SlotKind::KeyFile })));
}

#[test]
fn either_copy_of_slots_and_keyring_is_enough() {
    for damaged_copy in ["1", "2"] {
        let folder = tempfile::tempdir().expect("a folder");
        let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
        let record = back_up(&repository, &keys, &sample(), "job-1", 0).expect("committed");
        let list = std::process::Command::new("find")
            .args(["repository/keys", "-name", &format!("*.{damaged_copy}.json")])
            .current_dir(folder.path())
            .output()
            .expect("find runs");
        let names = String::from_utf8(list.stdout).expect("ASCII");
        assert_eq!(names.lines().count(), 3, "two slots and the keyring");
        names.lines().for_each(|name| std::fs::write(folder.path().join(name), b"{").expect("damaged"));
        let keys = repository.unlock(&secret()).expect("the other copies are enough");
        assert_holds(&repository, &keys, &record, &sample());
    }
}

#[test]
fn a_root_with_foreign_things_is_used_and_they_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for path in ["20200101_000000/database", "lost+found", "20200230_000000", "notes"] {
        std::fs::create_dir_all(root.join(path)).expect("made");
    }
    std::fs::write(root.join("20200101_000000/database/dump.tar"), b"old").expect("written");
    let (repository, keys) = init(LocalStore::open_or_make(root).expect("a store"));
    let record = back_up(&repository, &keys, &sample(), "job-1", 0).expect("committed");
    let listing = repository.list().expect("listed");
    assert_eq!(listing.backups, [record]);
    let legacy: Vec<_> = listing.legacy.iter().map(|old| (old.name.as_str(), old.contents.clone())).collect();
    assert_eq!(legacy, [("20200101_000000", vec!["database".to_owned()])]);
    assert_eq!(std::fs::read(root.join("20200101_000000/database/dump.tar")).expect("still there"), b"old");
}

#[test]
fn init_refuses_a_repository_and_the_remains_of_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = || Arc::new(LocalStore::open_or_make(folder.path()).expect("a store"));
    let made = Repository::init(store(), &secret(), at(0)).expect("a fresh repository");
    back_up(&made.repository, &made.keys, &sample(), "job-1", 0).expect("committed");
    let again = Repository::init(store(), &secret(), at(0));
    assert!(matches!(again, Err(RepositoryError::AlreadyThere { .. })));
    for file in ["repository/config.json", "repository/config.copy.json"] {
        std::fs::remove_file(folder.path().join(file)).expect("removed");
        let again = Repository::init(store(), &secret(), at(0));
        assert!(again.is_err(), "there is something in the way, with or without {file}");
    }
    assert!(matches!(Repository::init(store(), &secret(), at(0)), Err(RepositoryError::Headless { .. })));
    assert!(matches!(Repository::open(store()), Err(RepositoryError::Headless { .. })));
}

#[test]
fn a_repository_opens_by_the_copy_of_its_config_and_the_next_writer_makes_the_other_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = || Arc::new(LocalStore::open_or_make(folder.path()).expect("a store"));
    let made = Repository::init(store(), &secret(), at(0)).expect("a fresh repository");
    let record = back_up(&made.repository, &made.keys, &sample(), "job-1", 0).expect("committed");
    let files = ["config.json", "config.copy.json"].map(|name| folder.path().join("repository").join(name));
    let right = std::fs::read(&files[0]).expect("read");
    assert_eq!(std::fs::read(&files[1]).expect("read"), right);
    let mut flipped = right.clone();
    flipped[40] ^= 1;
    for file in &files {
        for damage in [None, Some(&flipped), Some(&vec![]), Some(&vec![b'x'; 2 << 20])] {
            match damage {
                None => std::fs::remove_file(file).expect("removed"),
                Some(damage) => std::fs::write(file, damage).expect("damaged"),
            }
            let opened = Repository::open(store()).expect("opens by the other one");
            opened.unlock(&secret()).expect("unlocked");
            assert_eq!(opened.list().expect("listed").backups, std::slice::from_ref(&record));
            opened.keep_config_twice().expect("written");
            for file in &files {
                assert_eq!(std::fs::read(file).expect("read"), right);
            }
        }
    }
}

#[test]
fn names_are_unique_and_order_follows_the_sequence() {
    let (repository, keys) = init(MemoryStore::new());
    let first = back_up(&repository, &keys, &sample(), "job-1", 100).expect("committed");
    let second = back_up(&repository, &keys, &sample(), "job-2", 100).expect("the same second");
    let third = back_up(&repository, &keys, &sample(), "job-3", 0).expect("the clock went back");
    assert_eq!([&first, &second, &third].map(|record| record.sequence), [1, 2, 3]);
    assert_eq!(second.name.as_str(), "20260101_010141");
    let newest = &repository.list().expect("listed").backups[0];
    assert_eq!(newest.name, third.name, "the newest is the last committed, whatever its name says");
}

#[test]
fn a_lost_index_is_told_stops_no_restore_and_is_made_again_without_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = || Arc::new(LocalStore::open_or_make(folder.path()).expect("a store"));
    let made = Repository::init(store(), &secret(), at(0)).expect("a fresh repository");
    let record = back_up(&made.repository, &made.keys, &sample(), "job-1", 0).expect("committed");
    std::fs::remove_dir_all(folder.path().join("repository/index")).expect("lost");
    let opened = Arc::new(Repository::open(store()).expect("opens"));
    assert_holds(&opened, &made.keys, &record, &sample());
    let findings = findings(&opened, None, &record, Depth::Listed);
    assert_eq!(findings, ["6 blobs are in no index file; the packs were asked instead"]);
    assert_eq!(opened.rebuild_index().expect("rebuilt"), 2);
    assert_eq!(self::findings(&opened, None, &record, Depth::Hashed), Vec::<String>::new());
    assert_holds(&opened, &made.keys, &record, &sample());
}

#[test]
fn a_sound_backup_is_intact_at_every_depth() {
    let (repository, keys) = init(MemoryStore::new());
    let record = back_up(&repository, &keys, &sample(), "job-1", 0).expect("committed");
    for depth in [Depth::Listed, Depth::Hashed, Depth::Opened] {
        assert_eq!(findings(&repository, Some(&keys), &record, depth), Vec::<String>::new(), "{depth:?}");
    }
}
