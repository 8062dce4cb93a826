//! One object that the disk does not give (EIO), whichever it is: what is around it goes on without it, and
//! nothing was taken away or put in its place that would be missed when the disk gives it again.

mod scene;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::layout;
use repository::progress::{CancelFlag, Silent};
use repository::prune::{PruneError, PruneOrder};
use repository::repair::{GiveUp, Repair, Repaired};
use repository::repo::Repository;
use repository::store::faulty::{Effect, Fault, FaultyStore};
use repository::store::memory::MemoryStore;
use repository::store::{ListedKind, ObjectPath, Store};
use repository::verify::Depth;
use scene::*;
use support::*;

/// Three backups that share blobs, and the note of a fourth that was retired.
fn three() -> (Scene, Vec<(BackupRecord, Files)>) {
    let scene = Scene::new();
    let mut backups: Vec<(BackupRecord, Files)> = (1..=4)
        .map(|number| {
            let files = generation(number);
            (scene.back_up(&files, number, i64::from(number) * HOUR), files)
        })
        .collect();
    let (first, _) = backups.remove(0);
    scene.retire(&[&first]);
    let pinned = &backups[0].0.name;
    scene.repository.set_pin(pinned, Some("a test"), &scene.keys, at(5 * HOUR)).expect("pinned");
    (scene, backups)
}

fn objects(store: &MemoryStore, folder: Option<&ObjectPath>) -> Vec<ObjectPath> {
    let listed = store.list(folder).expect("listed").into_iter();
    let found = listed.flat_map(|listed| {
        let path = folder.map_or_else(|| ObjectPath::new(&listed.name), |at| at.join(&listed.name));
        match listed.kind {
            ListedKind::Object { .. } => vec![path],
            _ => objects(store, Some(&path)),
        }
    });
    found.collect()
}

fn copy_of(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    for path in objects(store, None) {
        copy.create(&path, &store.read(&path, 1 << 20).expect("read")).expect("copied");
    }
    copy
}

/// What a controller does before its first job.
fn start(repository: &Repository, keys: &KeyRing, eye: &Eye) {
    repository.complete_chain(keys, at(0)).expect("the chain is completed");
    repository.finish_retiring(eye).expect("what was retired goes");
    repository.find_unindexed().expect("the packs are looked at");
}

fn repair(repository: &Arc<Repository>, keys: &KeyRing) -> Repaired {
    repair_without(repository, keys, &[])
}

/// A repair by somebody who does without `give_up`.
fn repair_without(repository: &Arc<Repository>, keys: &KeyRing, give_up: &[GiveUp]) -> Repaired {
    let secret = secret();
    let (may_write, cancel) = (|| Ok(()), CancelFlag::new());
    let repair = Repair {
        repository,
        keys: Some(keys),
        secret: Some(&secret),
        may_write: Some(&may_write),
        give_up,
        reads_packs: true,
        progress: &Silent,
        cancel: &cancel,
        now: at(9 * DAY),
    };
    repair.run().expect("a repair is carried out")
}

#[test]
fn whichever_object_the_disk_does_not_give_the_rest_goes_on_and_all_is_there_when_it_gives_it_again() {
    let (scene, backups) = three();
    let newest_line = layout::chain_line(backups.last().expect("three").0.sequence);
    let all = objects(&scene.disk, None);
    assert!(all.len() > 20, "{all:?}");
    for lost in all {
        let disk = FaultyStore::new(copy_of(&scene.disk));
        disk.fail(Fault::new(Effect::Unreadable).path(lost.as_str()).and_all_later());
        let repository = Arc::new(Repository::open(Arc::new(disk.clone())).expect("opens"));
        let keys = repository.unlock(&secret()).expect("unlocks");
        start(&repository, &keys, &scene.eye);

        // The others are listed and come back.
        let listed: BTreeSet<_> =
            repository.list().expect("listed").backups.into_iter().map(|record| record.name).collect();
        for (record, files) in &backups {
            let own = layout::backup(&record.name);
            if *lost.as_str() == *own.join(layout::BACKUP_JSON).as_str() {
                assert!(!listed.contains(&record.name), "{lost}");
                continue;
            }
            assert!(listed.contains(&record.name), "{lost}: {} is not listed", record.name);
            let is_needed = lost.as_str().starts_with(own.as_str()) || lost.as_str().contains("/packs/");
            if !is_needed {
                assert_holds(&repository, &keys, record, files);
            }
        }

        // New ones are made; only the end of the chain has to be known for that.
        let files = generation(9);
        match back_up_reusing(&repository, &keys, &files, 9, 9 * HOUR) {
            Ok(record) => assert_ne!(lost, newest_line, "{}", record.name),
            Err(RepositoryError::ChainEnd { sequence: 4 }) => assert_eq!(lost, newest_line),
            Err(error) => panic!("{lost}: {error:?}"),
        }

        // Neither prune nor a repair does harm, whether or not they can do their work.
        let order = PruneOrder { now: true, ..scene.order() };
        let pruned = repository.prune(&order, &scene.eye);
        assert!(
            matches!(
                pruned,
                Ok(_)
                    | Err(RepositoryError::Prune(
                        PruneError::Unreadable { .. }
                            | PruneError::Unknown { .. }
                            | PruneError::Missing { .. }
                    ))
            ),
            "{lost}: {pruned:?}"
        );
        let repaired = repair(&repository, &keys);
        let is_pruned = disk.inner().size(&lost).is_err();
        assert!(disk.unfired() == 0 || is_pruned, "nobody reads {lost}");
        if lost == newest_line {
            // What was written anew lies elsewhere on the disk.
            disk.heal();
            back_up_reusing(&repository, &keys, &files, 10, 10 * HOUR).expect("the line was written anew");
        }

        // The disk gives it again.
        disk.heal();
        let repository = Arc::new(Repository::open(Arc::new(disk.clone())).expect("opens"));
        start(&repository, &keys, &scene.eye);
        repository.prune(&order, &scene.eye).unwrap_or_else(|error| panic!("{lost}: {error:?}"));
        repair(&repository, &keys);
        let told = format!("{lost}: {pruned:?}, {repaired:?}");
        assert_eq!(repository.list().expect("listed").backups.len(), 4, "{told}");
        for (record, files) in &backups {
            let found = findings(&repository, Some(&keys), record, Depth::Opened);
            assert_eq!(found, Vec::<String>::new(), "{told}");
            assert_holds(&repository, &keys, record, files);
        }
    }
}

#[test]
fn an_index_file_that_cannot_be_read_stays_while_a_pack_cannot_either() {
    let (scene, backups) = three();
    let all = objects(&scene.disk, None);
    let [index, packs] = ["/index/", "/packs/"]
        .map(|part| all.iter().filter(|path| path.as_str().contains(part)).collect::<Vec<_>>());
    assert!(index.len() > 1 && packs.len() > 2, "{all:?}");
    for (file, pack) in index.iter().flat_map(|file| packs.iter().map(move |pack| (file, pack))) {
        let disk = FaultyStore::new(copy_of(&scene.disk));
        for lost in [file, pack] {
            disk.fail(Fault::new(Effect::Unreadable).path(lost.as_str()).and_all_later());
        }
        let repository = Arc::new(Repository::open(Arc::new(disk.clone())).expect("opens"));
        start(&repository, &scene.keys, &scene.eye);
        repository.rebuild_index().expect("made anew");
        assert!(disk.inner().size(file).is_ok(), "{file} is gone, and may have told of {pack}");
        disk.heal();
        repository.rebuild_index().expect("made anew");
        assert!(disk.inner().size(file).is_err(), "{file} is replaced by what the packs say");
        for (record, files) in &backups {
            assert_holds(&repository, &scene.keys, record, files);
        }
    }
}

#[test]
fn a_backup_of_which_neither_its_folder_nor_its_line_is_left_keeps_prune_from_what_it_may_need() {
    let (scene, backups) = three();
    let (second, files) = &backups[0];
    let line = layout::chain_line(second.sequence);
    let folder = layout::backup(&second.name);
    let content: Vec<_> = objects(&scene.disk, Some(&folder))
        .into_iter()
        .map(|path| (scene.disk.read(&path, 1 << 20).expect("read"), path))
        .collect();
    let sound = scene.disk.read(&line, 1 << 20).expect("read");
    for damage in [Some(vec![0; sound.len()]), None] {
        match &damage {
            Some(bytes) => scene.disk.replace(&line, bytes).expect("damaged"),
            None => scene.disk.delete(&line).expect("deleted"),
        }
        scene.disk.delete_folder(&folder).expect("deleted");
        scene.clock(2 * DAY);
        let repository = scene.reopened();
        let order = PruneOrder { now: true, ..scene.order() };
        match repository.prune(&order, &scene.eye) {
            Err(RepositoryError::Prune(PruneError::Unknown { sequence })) => assert_eq!(sequence, 2),
            other => panic!("{damage:?}: {other:?}"),
        }
        content.iter().for_each(|(bytes, path)| scene.disk.create(path, bytes).expect("brought back"));
        let repository = scene.reopened();
        repository.prune(&order, &scene.eye).expect("nothing is unknown any more");
        assert_holds(&repository, &scene.keys, second, files);
        repair(&repository, &scene.keys);
        scene.disk.replace(&line, &sound).expect("as it was");
    }
}

#[test]
fn a_place_that_nothing_tells_of_any_more_can_be_given_up_and_only_such_a_one() {
    let (scene, backups) = three();
    let (second, _) = &backups[0];
    scene.disk.delete(&layout::chain_line(second.sequence)).expect("deleted");
    scene.disk.delete_folder(&layout::backup(&second.name)).expect("deleted");
    scene.clock(2 * DAY);
    let repository = scene.reopened();
    let repaired = repair_without(&repository, &scene.keys, &[GiveUp::Place(3), GiveUp::Place(9)]);
    assert_eq!(repaired.left.len(), 2, "{repaired:?}");
    let order = PruneOrder { now: true, ..scene.order() };
    repository.prune(&order, &scene.eye).expect_err("place 2 is unknown");

    let repaired = repair_without(&repository, &scene.keys, &[GiveUp::Place(2)]);
    assert_eq!((repaired.mended.len(), repaired.left.len()), (1, 0), "{repaired:?}");
    let repository = scene.reopened();
    let listing = repository.list().expect("listed");
    assert!(listing.chain.is_empty() && listing.unknown.is_empty(), "{listing:?}");
    repository.prune(&order, &scene.eye).expect("nothing is unknown any more");
    assert_eq!(
        repair(&repository, &scene.keys),
        repair_without(&repository, &scene.keys, &[GiveUp::Place(2)])
    );
    for (record, files) in &backups[1..] {
        assert_holds(&repository, &scene.keys, record, files);
    }
    back_up_reusing(&repository, &scene.keys, &generation(9), 9, 3 * DAY).expect("the chain goes on");
    assert_eq!(scene.reopened().list().expect("listed").chain, Vec::<String>::new());
}

#[test]
fn where_the_end_of_the_chain_and_its_backup_cannot_be_read_a_person_lets_it_go_on() {
    let (scene, backups) = three();
    let (newest, files) = backups.last().expect("three");
    let disk = FaultyStore::new(copy_of(&scene.disk));
    let lost = [layout::chain_line(newest.sequence), layout::backup(&newest.name).join(layout::BACKUP_JSON)];
    for path in &lost {
        disk.fail(Fault::new(Effect::Unreadable).path(path.as_str()).and_all_later());
    }
    let open = || Arc::new(Repository::open(Arc::new(disk.clone())).expect("opens"));
    let repository = open();
    start(&repository, &scene.keys, &scene.eye);
    let is_at_an_end = |error: &RepositoryError| matches!(error, RepositoryError::ChainEnd { sequence } if *sequence == newest.sequence);
    let refused =
        back_up_reusing(&repository, &scene.keys, files, 9, 9 * HOUR).expect_err("no end to follow");
    assert!(is_at_an_end(&refused), "{refused:?}");

    let place = GiveUp::Place(newest.sequence);
    let repaired = repair_without(&repository, &scene.keys, std::slice::from_ref(&place));
    assert!(repaired.left.is_empty(), "{repaired:?}");
    let repository = open();
    start(&repository, &scene.keys, &scene.eye);
    let next = back_up_reusing(&repository, &scene.keys, files, 9, 9 * HOUR).expect("the chain goes on");
    assert_eq!(next.sequence, newest.sequence + 1);
    let order = PruneOrder { now: true, ..scene.order() };
    match repository.prune(&order, &scene.eye) {
        Err(RepositoryError::Prune(PruneError::Unreadable { backup, .. })) => assert_eq!(backup, newest.name),
        other => panic!("{other:?}"),
    }

    // The disk gives both again, or a person gives the backup up as well.
    let healed = FaultyStore::new(copy_of(disk.inner()));
    let repository = Arc::new(Repository::open(Arc::new(healed)).expect("opens"));
    start(&repository, &scene.keys, &scene.eye);
    let listing = repository.list().expect("listed");
    assert!(listing.chain.is_empty() && listing.backups.len() == 4, "{listing:?}");
    assert_holds(&repository, &scene.keys, newest, files);
    repository.prune(&order, &scene.eye).expect("all is known");

    let repository = open();
    let asked = [next.name.clone(), newest.name.clone()].map(GiveUp::Backup);
    let repaired = repair_without(&repository, &scene.keys, &asked);
    assert_eq!(repaired.left.len(), 1, "one of them is sound: {repaired:?}");
    let repository = open();
    start(&repository, &scene.keys, &scene.eye);
    repository.prune(&order, &scene.eye).expect("nothing is unknown any more");
    assert_eq!(repository.list().expect("listed").damaged.len(), 0);
    assert_holds(&repository, &scene.keys, &next, files);
}

#[test]
fn a_backup_that_somebody_deleted_or_damaged_can_be_given_up_and_no_sound_one() {
    for is_deleted in [true, false] {
        let (scene, backups) = three();
        let (second, _) = &backups[0];
        let folder = layout::backup(&second.name);
        if is_deleted {
            scene.disk.delete_folder(&folder).expect("deleted");
        } else {
            scene.disk.replace(&folder.join(layout::BACKUP_JSON), b"{}").expect("damaged");
        }
        scene.clock(2 * DAY);
        let repository = scene.reopened();
        let order = PruneOrder { now: true, ..scene.order() };
        repository.prune(&order, &scene.eye).expect_err("the backup may come back");
        let asked: Vec<_> =
            backups.iter().take(2).map(|(record, _)| GiveUp::Backup(record.name.clone())).collect();
        let repaired = repair_without(&repository, &scene.keys, &asked);
        assert_eq!(repaired.left.len(), 1, "the sound one stays: {repaired:?}");
        let repository = scene.reopened();
        repository.prune(&order, &scene.eye).expect("it is done without");
        let listing = repository.list().expect("listed");
        assert!(
            listing.lost.is_empty() && listing.damaged.is_empty() && listing.chain.is_empty(),
            "{listing:?}"
        );
        assert_eq!(listing.backups.len(), 2);
        for (record, files) in &backups[1..] {
            assert_holds(&repository, &scene.keys, record, files);
        }
        let aside = objects(&scene.disk, Some(&layout::quarantine()));
        assert_eq!(aside.is_empty(), is_deleted, "what is left of it is put aside: {aside:?}");
    }
}
