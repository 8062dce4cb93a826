//! One suite for every store, the fakes included: what [`Store`] promises, asked in practice.
//!
//! What differs between storages (empty folders, a name that is both folder and object) is not asked.

use std::sync::Barrier;

use super::{Listed, ListedKind, ObjectPath, Store, StoreError};

/// Runs the suite; `make` gives a new, empty store each time. Panics, saying what was broken.
pub fn check(make: impl Fn() -> Box<dyn Store>) {
    check_for_one_writer(&make);
    of_many_creations_of_one_name_one_wins(&*make());
}

/// The same without what only storage can promise that decides between two writers at one moment.
pub fn check_for_one_writer(make: impl Fn() -> Box<dyn Store>) {
    let cases: [fn(&dyn Store); 20] = [
        create_never_replaces,
        replace_replaces,
        reading_has_limits,
        ranges_end_with_the_object,
        what_is_missing_is_said_to_be,
        lists_are_sorted_and_direct,
        a_missing_folder_lists_as_empty,
        deleting_twice_is_fine,
        deleting_a_folder_takes_it_all_and_no_more,
        an_upload_appears_when_it_is_finished,
        an_upload_never_replaces,
        an_upload_dropped_leaves_nothing,
        renaming_moves_and_never_replaces,
        publishing_moves_all_at_once_and_never_replaces,
        withdrawing_takes_back_what_was_published,
        it_says_when_an_object_was_written,
        a_folder_begun_again_by_its_owner_holds_nothing_of_before,
        lists_of_all_go_deep,
        many_sizes_come_in_the_order_asked_for,
        big_and_empty_objects_come_back_equal,
    ];
    for case in cases {
        case(&*make());
    }
}

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text)
}

fn create(store: &dyn Store, name: &str, bytes: &[u8]) {
    store.create(&path(name), bytes).expect("creating a new object");
}

fn content(store: &dyn Store, name: &str) -> Vec<u8> {
    store.read(&path(name), 1 << 30).expect("reading an object that was written")
}

fn names(store: &dyn Store, folder: Option<&str>) -> Vec<String> {
    let listed = store.list(folder.map(path).as_ref()).expect("listing");
    listed.into_iter().map(|listed| listed.name).collect()
}

#[track_caller]
fn assert_exists_already(answer: Result<(), StoreError>) {
    assert!(matches!(answer, Err(StoreError::AlreadyExists { .. })), "wanted AlreadyExists, got {answer:?}");
}

#[track_caller]
fn assert_not_found<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::NotFound { .. })), "wanted NotFound, got {answer:?}");
}

#[track_caller]
fn assert_failed<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Failed { .. })), "wanted Failed, got {answer:?}");
}

fn create_never_replaces(store: &dyn Store) {
    create(store, "deep/down/object", b"first");
    assert_exists_already(store.create(&path("deep/down/object"), b"second"));
    assert_eq!(content(store, "deep/down/object"), b"first");
    assert_eq!(store.size(&path("deep/down/object")).expect("size"), 5);
    assert_eq!(names(store, Some("deep/down")), ["object"], "a refused creation leaves nothing behind");
    assert_eq!(names(store, None), ["deep"], "a creation leaves nothing beside the object");
}

fn replace_replaces(store: &dyn Store) {
    for bytes in [b"a longer first".as_slice(), b"second", b""] {
        store.replace(&path("folder/object"), bytes).expect("replacing");
        assert_eq!(content(store, "folder/object"), bytes);
    }
    assert_eq!(names(store, Some("folder")), ["object"]);
}

fn reading_has_limits(store: &dyn Store) {
    create(store, "object", b"12345");
    assert_eq!(store.read(&path("object"), 5).expect("reading up to the limit"), b"12345");
    assert_failed(store.read(&path("object"), 4));
    assert_failed(store.read(&path("object"), 0));
}

fn ranges_end_with_the_object(store: &dyn Store) {
    create(store, "object", b"0123456789");
    let range = |offset, length| store.read_range(&path("object"), offset, length);
    assert_eq!(range(0, 10).expect("all of it"), b"0123456789");
    assert_eq!(range(3, 4).expect("a middle part"), b"3456");
    assert_eq!(range(10, 0).expect("nothing at the end"), b"");
    assert_failed(range(3, 8));
    assert_failed(range(11, 0));
    assert_failed(range(u64::MAX, 2));
    assert_failed(range(0, u64::MAX));
}

fn what_is_missing_is_said_to_be(store: &dyn Store) {
    create(store, "folder/other", b"x");
    for missing in ["object", "folder/object", "nowhere/object"] {
        assert_not_found(store.read(&path(missing), 10));
        assert_not_found(store.read_range(&path(missing), 0, 1));
        assert_not_found(store.size(&path(missing)));
        assert_not_found(store.rename(&path(missing), &path("to")));
    }
    assert_not_found(store.publish(&path("nowhere"), &path("to"), "last"));
    assert_not_found(store.modified(&path("nowhere")));
}

fn lists_are_sorted_and_direct(store: &dyn Store) {
    for name in
        ["folder/b", "folder/a.json", "folder/inner/deep/x", "folder/a", "folder/Z", "folder-beside/y", "top"]
    {
        create(store, name, name.as_bytes());
    }
    let object = |name: &str, size| Listed { name: name.to_owned(), kind: ListedKind::Object { size } };
    let folder = |name: &str| Listed { name: name.to_owned(), kind: ListedKind::Folder };
    let wanted = [object("Z", 8), object("a", 8), object("a.json", 13), object("b", 8), folder("inner")];
    assert_eq!(store.list(Some(&path("folder"))).expect("listing"), wanted);
    assert_eq!(
        store.list(None).expect("listing"),
        [folder("folder"), folder("folder-beside"), object("top", 3)]
    );
}

fn a_missing_folder_lists_as_empty(store: &dyn Store) {
    assert_eq!(store.list(None).expect("listing the root"), []);
    assert_eq!(store.list(Some(&path("no/such/folder"))).expect("listing a missing folder"), []);
}

fn deleting_twice_is_fine(store: &dyn Store) {
    create(store, "folder/object", b"x");
    create(store, "folder/other", b"y");
    for _ in 0..2 {
        store.delete(&path("folder/object")).expect("deleting");
        store.delete(&path("nowhere/object")).expect("deleting what was never there");
    }
    assert_not_found(store.read(&path("folder/object"), 10));
    assert_eq!(names(store, Some("folder")), ["other"]);
    create(store, "folder/object", b"new");
    assert_eq!(content(store, "folder/object"), b"new");
}

fn deleting_a_folder_takes_it_all_and_no_more(store: &dyn Store) {
    for name in ["folder/a", "folder/inner/deep/b", "folder-beside/c"] {
        create(store, name, b"x");
    }
    for _ in 0..2 {
        store.delete_folder(&path("folder")).expect("deleting a folder");
        store.delete_folder(&path("no/where")).expect("deleting what was never there");
    }
    assert_eq!(names(store, None), ["folder-beside"]);
    assert_eq!(content(store, "folder-beside/c"), b"x");
    create(store, "folder/inner/deep/b", b"again");
    assert_eq!(content(store, "folder/inner/deep/b"), b"again");
}

fn an_upload_appears_when_it_is_finished(store: &dyn Store) {
    let mut upload = store.upload().expect("starting an upload");
    upload.write(b"first ").expect("writing");
    upload.write(b"").expect("writing nothing");
    upload.write(b"second").expect("writing");
    assert_eq!(names(store, None), Vec::<String>::new(), "an upload is not listed before it is finished");
    upload.finish(&path("packs/ab/object")).expect("finishing");
    assert_eq!(content(store, "packs/ab/object"), b"first second");
    store.upload().expect("starting").finish(&path("packs/ab/empty")).expect("finishing an empty one");
    assert_eq!(names(store, Some("packs/ab")), ["empty", "object"]);
    assert_eq!(names(store, None), ["packs"]);
}

fn an_upload_never_replaces(store: &dyn Store) {
    create(store, "packs/object", b"first");
    let mut upload = store.upload().expect("starting an upload");
    upload.write(b"second").expect("writing");
    assert_exists_already(upload.finish(&path("packs/object")));
    assert_eq!(content(store, "packs/object"), b"first");
    assert_eq!(names(store, None), ["packs"]);
}

fn an_upload_dropped_leaves_nothing(store: &dyn Store) {
    let mut upload = store.upload().expect("starting an upload");
    upload.write(&[7; 100_000]).expect("writing");
    drop(upload);
    assert_eq!(store.list(None).expect("listing"), []);
}

fn renaming_moves_and_never_replaces(store: &dyn Store) {
    create(store, "packs/a", b"a");
    create(store, "packs/b", b"b");
    assert_exists_already(store.rename(&path("packs/a"), &path("packs/b")));
    assert_eq!(content(store, "packs/a"), b"a");
    assert_eq!(content(store, "packs/b"), b"b");
    store.rename(&path("packs/a"), &path("trash/new/a")).expect("renaming into a new folder");
    assert_eq!(content(store, "trash/new/a"), b"a");
    assert_not_found(store.read(&path("packs/a"), 10));
    assert_not_found(store.rename(&path("packs/a"), &path("trash/new/c")));
}

fn publishing_moves_all_at_once_and_never_replaces(store: &dyn Store) {
    let (from, other, to) = (path("staging/one"), path("staging/two"), path("20260101_010000"));
    let stage = |from: &ObjectPath| store.stage(from, &to, "backup.json", from.name()).expect("staging");
    let (place, second) = (stage(&from), stage(&other));
    create(store, place.join("database/source.json").as_str(), b"manifest");
    assert_not_found(store.publish(&from, &to, "backup.json"));
    create(store, "staging/one/backup.json", b"one");
    create(store, second.join("models/source.json").as_str(), b"of the second");
    create(store, "staging/two/backup.json", b"two");
    assert_not_found(store.read(&to.join("backup.json"), 10));
    store.publish(&from, &to, "backup.json").expect("publishing");
    assert_eq!(content(store, "20260101_010000/backup.json"), b"one");
    assert_eq!(content(store, "20260101_010000/database/source.json"), b"manifest");
    assert_eq!(names(store, Some("staging/one")), Vec::<String>::new());

    assert_exists_already(store.publish(&other, &to, "backup.json"));
    assert_exists_already(store.publish(&from, &to, "backup.json"));
    assert_eq!(content(store, "20260101_010000/backup.json"), b"one");
    assert_eq!(content(store, "20260101_010000/database/source.json"), b"manifest");
    assert_eq!(content(store, "staging/two/backup.json"), b"two");
}

fn a_folder_begun_again_by_its_owner_holds_nothing_of_before(store: &dyn Store) {
    let (from, to) = (path("staging/one"), path("20260101_010000"));
    for round in ["first", "second"] {
        let place = store.stage(&from, &to, "backup.json", "job").expect("staging");
        create(store, place.join("same").as_str(), round.as_bytes());
        create(store, place.join(round).as_str(), b"x");
        create(store, "staging/one/backup.json", round.as_bytes());
    }
    store.publish(&from, &to, "backup.json").expect("publishing");
    assert_eq!(names(store, Some("20260101_010000")), ["backup.json", "same", "second"]);
    assert_eq!(content(store, "20260101_010000/same"), b"second");
    assert_eq!(content(store, "20260101_010000/backup.json"), b"second");
}

fn lists_of_all_go_deep(store: &dyn Store) {
    for name in ["folder/b", "folder/inner/deep/x", "folder/a", "folder-beside/y", "folder/inner/w"] {
        create(store, name, name.as_bytes());
    }
    let wanted = [("a", 8), ("b", 8), ("inner/deep/x", 19), ("inner/w", 14)];
    let wanted = wanted.map(|(name, size)| (name.to_owned(), size));
    assert_eq!(store.list_all(&path("folder")).expect("listing"), wanted);
    assert_eq!(store.list_all(&path("nowhere")).expect("listing"), []);
}

fn many_sizes_come_in_the_order_asked_for(store: &dyn Store) {
    let paths: Vec<ObjectPath> = (0..40).map(|nth| path("sizes").join(nth)).collect();
    for (nth, path) in paths.iter().enumerate().filter(|(nth, _)| nth % 5 != 3) {
        create(store, path.as_str(), &vec![7; nth]);
    }
    for (nth, size) in store.sizes(&paths).into_iter().enumerate() {
        match nth % 5 {
            3 => assert_not_found(size),
            _ => assert_eq!(size.expect("it is there"), nth as u64),
        }
    }
}

fn withdrawing_takes_back_what_was_published(store: &dyn Store) {
    let (staged, folder, garbage) = (path("staging/one"), path("20260101_010000"), path("trash/one"));
    create(store, "20260101_010000x/backup.json", b"beside");
    for round in [b"first".as_slice(), b"again"] {
        let place = store.stage(&staged, &folder, "backup.json", "job").expect("staging");
        create(store, place.join("database/source.json").as_str(), b"manifest");
        create(store, "staging/one/backup.json", round);
        store.publish(&staged, &folder, "backup.json").expect("publishing");
        for _ in 0..2 {
            store.withdraw(&folder, &garbage, "backup.json").expect("withdrawing");
            assert_eq!(names(store, Some(folder.as_str())), Vec::<String>::new());
            assert_not_found(store.read(&path("20260101_010000/backup.json"), 10));
        }
        store.delete_folder(&garbage).expect("deleting what is left of it");
        assert_eq!(names(store, Some("trash")), Vec::<String>::new());
    }
    assert_eq!(content(store, "20260101_010000x/backup.json"), b"beside");
    store.withdraw(&path("nowhere"), &garbage, "backup.json").expect("withdrawing what was never there");
}

fn it_says_when_an_object_was_written(store: &dyn Store) {
    create(store, "folder/object", b"x");
    let first = store.modified(&path("folder/object")).expect("the time of an object");
    store.replace(&path("folder/object"), b"y").expect("replacing");
    let second = store.modified(&path("folder/object")).expect("the time of a replaced object");
    assert!(first <= second, "replaced at {second}, made at {first}");
    store.rename(&path("folder/object"), &path("folder/moved")).expect("renaming");
    let moved = store.modified(&path("folder/moved")).expect("the time of a moved object");
    assert!(second <= moved, "moved, it was written at {moved}; before, at {second}");
}

fn of_many_creations_of_one_name_one_wins(store: &dyn Store) {
    const WRITERS: u8 = 8;
    for round in 0..20 {
        let object = path("contested").join(round);
        let start = Barrier::new(usize::from(WRITERS));
        let create = |writer: u8| {
            start.wait();
            if writer.is_multiple_of(2) {
                return store.create(&object, &[writer; 1000]);
            }
            let mut upload = store.upload()?;
            upload.write(&[writer; 1000])?;
            upload.finish(&object)
        };
        let answers: Vec<(u8, Result<(), StoreError>)> = std::thread::scope(|scope| {
            let create = &create;
            let threads: Vec<_> =
                (0..WRITERS).map(|writer| scope.spawn(move || (writer, create(writer)))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a writer panicked")).collect()
        });
        let (winners, losers): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.is_ok());
        assert_eq!(winners.len(), 1, "exactly one creation of a name succeeds");
        losers.into_iter().for_each(|(_, answer)| assert_exists_already(answer));
        assert_eq!(content(store, object.as_str()), [winners[0].0; 1000], "the winner's bytes, whole");
    }
}

fn big_and_empty_objects_come_back_equal(store: &dyn Store) {
    let big: Vec<u8> = (0..20_000_003_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    create(store, "big", &big);
    create(store, "empty", b"");
    let mut upload = store.upload().expect("starting an upload");
    big.chunks(1_000_001).for_each(|part| upload.write(part).expect("writing"));
    upload.finish(&path("uploaded")).expect("finishing");
    for name in ["big", "uploaded"] {
        assert!(content(store, name) == big, "{name} differs");
        let tail = store.read_range(&path(name), 19_999_999, 4).expect("the end of it");
        assert_eq!(tail, big[19_999_999..]);
    }
    assert_eq!(content(store, "empty"), b"");
    assert_eq!(store.size(&path("empty")).expect("size"), 0);
}
