//! A live folder gets the archived state: what changed, what is gone, what is new.

mod files_support;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use agent::sources::files::{Excludes, FilesSource};
use agent::targets::files::{
    NoFaults, PathPatterns, Place, RestoreError, RestoreRequest, Selection, Tools, plan, preflight, recover,
    restore, survey, take_back_ended,
};
use agent::targets::{BlobError, BlobReader, CancelFlag};
use bytes::Bytes;
use files_support::live::*;
use files_support::*;
use repository::archive::entry::{EntryKind, FileContent, Pieces};
use repository::codec::Malformed;
use repository::ids::BlobId;

#[test]
fn a_changed_folder_gets_its_archived_state_and_the_old_one_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("same", "same"), ("changed", "before"), ("sub/gone", "gone"), ("removed/x", "x")]);
    fs::set_permissions(root, fs::Permissions::from_mode(0o751)).expect("a mode");
    let (archive, archived) = (Archive::of(root), look(root));
    write(root, &[("changed", "after"), ("sub/added", "added"), ("added/y", "y"), ("lost+found/z", "z")]);
    fs::remove_file(root.join("sub/gone")).expect("it goes");
    fs::remove_dir_all(root.join("removed")).expect("it goes");
    fs::set_permissions(root, fs::Permissions::from_mode(0o700)).expect("a mode");

    let report = archive.restore(&in_place(root, "one")).expect("it is restored");
    assert_eq!(read(root.join("lost+found/z")), "z", "not a part of anybody's data");
    fs::remove_dir_all(root.join("lost+found")).expect("it goes");
    assert_same(&without_root_time(look(root)), &without_root_time(archived.clone()));
    assert_eq!((report.overwritten, report.created, report.removed), (3, 1, 1));
    let [old] = &report.old[..] else { panic!("{:?}", report.old) };
    assert_eq!(read(old.join("changed")), "after");
    assert_eq!(read(old.join("added/y")), "y");
    assert_eq!(read(old.join("sub/added")), "added");

    write(root, &[("changed", "once more")]);
    let report = archive.restore(&in_place(root, "two")).expect("it is restored again");
    assert_same(&look(root), &archived);
    assert!(!old.exists(), "the next restore removes the old state of the one before");
    assert_eq!(read(report.old[0].join("changed")), "once more");
    assert_eq!(staging(root), [".neurashield-two"]);
    assert_eq!(recover(root, &NoFaults).expect("nothing to do"), Default::default());
    assert_eq!(read(report.old[0].join("changed")), "once more", "what is done is left alone");
}

#[test]
fn a_restore_that_has_ended_is_taken_back_by_what_it_has_kept_and_stopped_in_the_middle_it_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("same", "same"), ("changed", "then"), ("sub/gone", "then"), ("sub/deep/x", "then")]);
    let archive = Archive::of(root);
    write(root, &[("changed", "now"), ("sub/deep/x", "now"), ("sub/added", "now"), ("added/y", "now")]);
    fs::remove_file(root.join("sub/gone")).expect("it goes");
    let before = look(root);
    // A crash at any change of the disk: what looks at the folder next ends it.
    for at in 1..200 {
        archive.restore(&in_place(root, "one")).expect("it is restored");
        assert_eq!(read(root.join("changed")), "then");
        // A program that did not come up has begun to write.
        write(root, &[("changed", "half"), ("came", "later")]);
        let faults = Faults::crash(at);
        let taken = take_back_ended(root, "one", &faults, None);
        if faults.happened() {
            // The very last change is one of a time, and is only tried.
            assert!(taken.is_err() || at > 30, "crash {at}");
            recover(root, &NoFaults).expect("it is looked at");
            let again = take_back_ended(root, "one", &NoFaults, None).expect("it goes on");
            assert!(again.len() <= 1, "crash {at}: {again:?}");
        } else {
            let root = root.canonicalize().expect("a path");
            assert_eq!(taken.expect("it is taken back"), [root]);
        }
        assert_same(&without_root_time(look(root)), &without_root_time(before.clone()));
        assert_eq!(staging(root), Vec::<String>::new(), "crash {at}");
        if !faults.happened() {
            assert!(at > 10, "{at} changes of the disk");
            assert_eq!(
                take_back_ended(root, "one", &NoFaults, None).expect("nothing is left"),
                [""; 0].map(std::path::PathBuf::from)
            );
            return;
        }
    }
    panic!("it makes more changes than that");
}

#[test]
fn the_archive_of_an_empty_folder_empties_none_in_which_something_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("a path");
    let archive = Archive::of(&root);
    let entries = || archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    let planned = || plan(&survey(&in_place(&root, "x"), &KEY, entries()).expect("it looks"));
    assert_eq!(planned().conflicts, Vec::<String>::new());
    let report = archive.restore(&in_place(&root, "x")).expect("it has nothing to do");
    assert_eq!((report.entries, report.overwritten, report.created, report.removed), (0, 0, 0, 0));

    write(&root, &[("came/x", "later")]);
    let [conflict] = &planned().conflicts[..] else { panic!("{:?}", planned().conflicts) };
    assert!(
        conflict.contains("holds nothing of this folder") && conflict.contains("1 entries"),
        "{conflict}"
    );
}

#[test]
fn a_path_is_swapped_alone_and_its_missing_folders_are_made_as_archived() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(
        root,
        &[("a/b/wanted", "then"), ("a/b/other", "then"), ("c/d/wanted", "then"), ("c/d/other", "then")],
    );
    fs::set_permissions(root.join("c"), fs::Permissions::from_mode(0o711)).expect("a mode");
    let (archive, archived) = (Archive::of(root), look(root));
    write(root, &[("a/b/wanted", "now"), ("a/b/other", "now")]);
    fs::remove_dir_all(root.join("c")).expect("it goes");

    let report = archive.restore(&paths(root, "x", &["**/wanted"])).expect("it is restored");
    assert_eq!((report.overwritten, report.created, report.removed), (1, 1, 0));
    assert_eq!((read(root.join("a/b/wanted")), read(root.join("a/b/other"))), ("then".into(), "now".into()));
    assert_eq!(read(root.join(".neurashield-x/old/a/b/wanted")), "now");
    assert!(!root.join("c/d/other").exists());
    let live = look(root);
    for path in ["c", "c/d", "c/d/wanted", "a/b/wanted"].map(Path::new) {
        assert_eq!(live[path], archived[path], "{path:?}");
    }
}

#[test]
fn paths_that_match_nothing_and_links_in_the_way_are_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, outside) = (folder.path().join("live"), folder.path().join("outside"));
    write(&root, &[("a/b", "then")]);
    write(&outside, &[("b", "canary")]);
    let archive = Archive::of(&root);
    fs::remove_dir_all(root.join("a")).expect("it goes");
    symlink(&outside, root.join("a")).expect("a link");
    let before = (look(&root), look(&outside));
    for pattern in ["a/b", "nothing"] {
        let error = archive.restore(&paths(&root, "x", &[pattern])).expect_err("refused");
        assert!(matches!(error, RestoreError::Refused { .. }), "{error:?}");
    }
    assert_same(&look(&root), &before.0);
    assert_same(&look(&outside), &before.1);
    assert_eq!(staging(&root), Vec::<String>::new());
}

#[test]
fn a_link_in_place_of_an_archived_folder_is_replaced_and_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, outside) = (folder.path().join("live"), folder.path().join("outside"));
    write(&root, &[("a/b", "then")]);
    write(&outside, &[("b", "canary")]);
    let (archive, archived) = (Archive::of(&root), look(&root));
    fs::remove_dir_all(root.join("a")).expect("it goes");
    symlink(&outside, root.join("a")).expect("a link");
    archive.restore(&in_place(&root, "x")).expect("it is restored");
    assert_same(&look(&root), &archived);
    assert_eq!(read(outside.join("b")), "canary");
    assert_eq!(fs::read_link(root.join(".neurashield-x/old/a")).expect("a link"), outside);
}

#[test]
fn a_new_folder_must_not_exist_or_be_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    let live = folder.path().join("live");
    write(&live, &[("a", "then")]);
    let archive = Archive::of(&live);
    let request = |path: &str| RestoreRequest {
        place: Place::NewFolder { path: folder.path().join(path) },
        ..in_place(&live, "x")
    };
    write(folder.path(), &[("full/x", "x"), ("file", "x")]);
    fs::create_dir(folder.path().join("empty")).expect("a folder");
    for path in ["full", "file"] {
        let error = archive.restore(&request(path)).expect_err("it is in the way");
        assert!(matches!(error, RestoreError::Refused { .. }), "{error:?}");
    }
    assert_eq!(read(folder.path().join("full/x")), "x");
    for path in ["empty", "missing"] {
        archive.restore(&request(path)).expect("it is restored");
        assert_same(&look(&folder.path().join(path)), &look(&live));
    }
    assert_eq!(staging(folder.path()), Vec::<String>::new());
}

#[test]
fn listed_files_go_back_to_their_places_and_their_neighbours_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().canonicalize().expect("a path");
    write(
        &base,
        &[
            ("a/x.yaml", "then"),
            ("a/keep", "then"),
            ("b/y.yaml", "then"),
            ("c/d/z.yaml", "then"),
            ("w.yaml", "then"),
        ],
    );
    let patterns = ["*.yaml", "*/*.yaml", "c/d"].map(|pattern| base.join(pattern));
    let archive = Archive::read(FilesSource::listed(&patterns, Excludes::none()).expect("it opens"));
    assert_eq!(archive.problems, []);
    write(&base, &[("a/x.yaml", "now"), ("a/keep", "now"), ("b/more", "now"), ("w.yaml", "now")]);
    fs::remove_dir_all(base.join("c")).expect("it goes");
    let request = request("x", Place::Listed { root: "/".into() });
    let report = archive.restore(&request).expect("it is restored");
    assert_eq!((report.overwritten, report.created, report.removed), (3, 1, 0));
    for path in ["a/x.yaml", "b/y.yaml", "c/d/z.yaml", "w.yaml"] {
        assert_eq!(read(base.join(path)), "then", "{path}");
    }
    assert_eq!((read(base.join("a/keep")), read(base.join("b/more"))), ("now".into(), "now".into()));
    assert_eq!(read(base.join("a/.neurashield-x/old/x.yaml")), "now");
    let again = RestoreRequest { restore_id: "y".into(), ..request };
    archive.restore(&again).expect("it is restored again");
    assert_eq!(staging(&base.join("a")), [".neurashield-y"]);
}

#[test]
fn a_plan_names_what_is_replaced_also_where_a_path_names_the_folder_that_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/x.yaml", "then"), ("a/y.yaml", "then"), ("w.yaml", "then")]);
    let archive = Archive::of(root);
    write(root, &[("a/x.yaml", "now"), ("new", "now")]);
    let named = |patterns: &[&str]| {
        let plan = planned(&archive, &paths(root, "x", patterns));
        assert_eq!(plan.conflicts, [""; 0]);
        (names(&plan.overwritten), names(&plan.created), names(&plan.removed))
    };
    let of = |replaced: &[&str]| (replaced.iter().map(|name| (*name).to_owned()).collect(), vec![], vec![]);
    for all in ["**", "*", "*/", "/**"] {
        assert_eq!(named(&[all]), of(&["a", "w.yaml"]), "{all}");
    }
    assert_eq!(named(&["a/*"]), of(&["a/x.yaml", "a/y.yaml"]));
    let told = |patterns: &[&str]| planned(&archive, &paths(root, "x", patterns)).remarks.join("; ");
    assert!(told(&["a"]).contains("1 is a folder: what lies in it and is not in the backup goes, too"));
    assert_eq!(told(&["a/*", "w.yaml"]), "");
    let done = archive.restore(&paths(root, "x", &["**"])).expect("it is restored");
    assert_eq!((done.overwritten, done.created, done.removed), (2, 0, 0));
    assert_eq!((read(root.join("a/x.yaml")), read(root.join("new"))), ("then".into(), "now".into()));
    // A variable that is not set.
    for nothing in ["", "/", "//"] {
        PathPatterns::new(&[nothing.to_owned()]).expect_err("it names no path");
    }

    // What is not there is not made: something may have to be mounted there.
    let gone = survey(
        &in_place(&root.join("gone"), "z"),
        &KEY,
        archive.entries.iter().cloned().map(Ok::<_, Malformed>),
    );
    assert!(gone.expect_err("refused").to_string().contains("it is not there: mount what belongs there"));

    // Listed files: the folders that they lie in stay.
    let base = folder.path().canonicalize().expect("there");
    let archive =
        Archive::read(FilesSource::listed(&[base.join("a/*.yaml")], Excludes::none()).expect("it opens"));
    let within = base.strip_prefix("/").expect("absolute").to_str().expect("text");
    for all in ["**".to_owned(), "*".to_owned(), within.to_owned(), format!("{within}/a")] {
        let place = Place::Listed { root: "/".into() };
        let selection = Selection::Paths(PathPatterns::new(std::slice::from_ref(&all)).expect("a pattern"));
        let plan = planned(&archive, &RestoreRequest { selection, ..request("y", place) });
        assert_eq!(
            names(&plan.overwritten),
            ["x", "y"].map(|name| format!("{within}/a/{name}.yaml")),
            "{all}"
        );
        assert_eq!((plan.created_count, plan.removed_count), (0, 0), "{all}");
        let stat = rustix::fs::statvfs(&base).expect("there");
        assert!(plan.free_space.abs_diff(stat.f_bavail * stat.f_frsize) < 1 << 30, "of where they lie");
    }
}

#[test]
fn what_is_live_and_the_same_is_not_fetched() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
    write(root, &[("a/small", "small"), ("a/other", "other"), ("moded", "moded"), ("empty", "")]);
    fs::write(root.join("large"), &large).expect("a file");
    let sparse = fs::File::create(root.join("a/sparse")).expect("a file");
    sparse.write_all_at(&large[..3 << 19], 1 << 20).expect("written");
    sparse.set_len(9 << 20).expect("a hole at its end");
    let (mut archive, archived) = (Archive::of(root), look(root));
    let all = std::mem::take(&mut archive.blobs);
    fs::set_permissions(root.join("moded"), fs::Permissions::from_mode(0o600)).expect("a mode");
    write(root, &[("added/y", "y")]);

    let report = archive.restore(&in_place(root, "one")).expect("it needs no blob");
    assert_same(&without_root_time(look(root)), &without_root_time(archived.clone()));
    assert_eq!(report.bytes, 5 + 5 + 5 + 12_000_000 + (3 << 19));
    assert_eq!(report.bytes_from_here, report.bytes);
    let blocks = fs::metadata(root.join("a/sparse")).expect("it is there").blocks();
    assert!(blocks * 512 < 3 << 20, "its holes are holes: {blocks}");

    // One is changed behind its time, one is longer, one is a link to what looks right, one is gone.
    let modified = fs::metadata(root.join("large")).and_then(|old| old.modified()).expect("a time");
    let file = fs::File::options().write(true).open(root.join("large")).expect("opened");
    file.write_all_at(b"rot", 11_999_990).expect("written");
    file.set_modified(modified).expect("a time");
    fs::write(root.join("a/small"), "longer").expect("written");
    fs::rename(root.join("moded"), folder.path().join("elsewhere")).expect("moved");
    symlink(folder.path().join("elsewhere"), root.join("moded")).expect("a link");
    fs::remove_file(root.join("a/other")).expect("removed");
    let before = look(root);
    let error = archive.restore(&in_place(root, "two")).expect_err("there are no blobs");
    assert!(matches!(error, RestoreError::Blob { .. }), "{error:?}");
    assert_same(&look(root), &before);
    archive.blobs = all;
    let (request, cancel) = (in_place(root, "three"), CancelFlag::default());
    let tools = Tools { id_key: &KEY, progress: &(), cancel: &cancel, steps: &NoFaults };
    let mut blobs =
        Noting { blobs: Blobs { blobs: &archive.blobs, hinted: Vec::new() }, hinted: HashSet::new() };
    let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    let report =
        restore(&request, archive.planned(&request), entries, &mut blobs, tools).expect("it is restored");
    let of_sparse =
        archive.entries.iter().find(|entry| entry.path.as_bytes() == b"a/sparse").expect("it is there");
    let EntryKind::File(FileContent { pieces: Pieces::Listed(lists), .. }) = &of_sparse.kind else {
        panic!("{of_sparse:?}")
    };
    assert!(!lists.is_empty() && !blobs.hinted.is_empty());
    assert!(lists.iter().all(|list| !blobs.hinted.contains(list)), "nobody fetches ahead what is live");
    assert_same(&without_root_time(look(root)), &without_root_time(archived));
    assert_eq!(report.bytes_from_here, 3 << 19, "the sparse file alone");
    assert_eq!(report.bytes, 5 + 5 + 5 + 12_000_000 + (3 << 19));
}

/// Notes what it was told in advance.
struct Noting<'a> {
    blobs: Blobs<'a>,
    hinted: HashSet<BlobId>,
}

impl BlobReader for Noting<'_> {
    fn hint(&mut self, upcoming: &[BlobId]) {
        self.hinted.extend(upcoming);
        self.blobs.hint(upcoming);
    }

    fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError> {
        self.blobs.blob(id)
    }
}

/// Asks the restore to stop when the first blob is fetched.
struct Cancelling<'a>(Blobs<'a>, &'a CancelFlag);

impl BlobReader for Cancelling<'_> {
    fn hint(&mut self, upcoming: &[BlobId]) {
        self.0.hint(upcoming);
    }

    fn blob(&mut self, id: &BlobId) -> Result<Bytes, BlobError> {
        self.1.cancel();
        self.0.blob(id)
    }
}

#[test]
fn a_cancelled_restore_and_one_that_lacks_a_blob_leave_no_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/b", "then"), ("c", "then")]);
    let archive = Archive::of(root);
    write(root, &[("c", "now")]);
    let before = look(root);
    let cancel = CancelFlag::default();
    let tools = Tools { id_key: &KEY, progress: &(), cancel: &cancel, steps: &NoFaults };
    let mut blobs = Cancelling(Blobs { blobs: &archive.blobs, hinted: Vec::new() }, &cancel);
    let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    let error =
        restore(&in_place(root, "x"), archive.planned(&in_place(root, "x")), entries, &mut blobs, tools)
            .expect_err("cancelled");
    assert!(matches!(error, RestoreError::Cancelled), "{error:?}");
    assert_same(&look(root), &before);

    let mut without = archive;
    without.blobs.clear();
    let error = without.restore(&in_place(root, "x")).expect_err("no blobs");
    assert!(matches!(&error, RestoreError::Blob { path, .. } if path.as_bytes() == b"c"), "{error:?}");
    assert_same(&look(root), &before);
    assert_eq!(staging(root), Vec::<String>::new());
}

#[test]
fn a_hard_link_whose_content_is_not_selected_says_what_to_select_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/first", "then")]);
    fs::hard_link(root.join("a/first"), root.join("second")).expect("a link");
    let archive = Archive::of(root);
    let error = archive.restore(&paths(root, "x", &["second"])).expect_err("no content");
    assert!(error.to_string().contains("another name of a/first"), "{error}");
    archive.restore(&paths(root, "x", &["second", "a/first"])).expect("both are restored");
    assert_eq!(look(root)[Path::new("second")].same_as, Some("a/first".into()));
}

#[test]
fn the_plan_says_what_the_restore_then_does_and_looking_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("a path");
    write(&root, &[("changed/x", "then"), ("gone", "then"), ("same", "then")]);
    let archive = Archive::of(&root);
    write(&root, &[("changed/x", "now"), ("added/y", "now")]);
    fs::remove_file(root.join("gone")).expect("it goes");
    let entries = || archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    let before = look(&root);
    for (request, [overwritten, created, removed]) in [
        (in_place(&root, "one"), [&["changed", "same"][..], &["gone"], &["added"]]),
        (paths(&root, "two", &["changed/*", "gone"]), [&["changed/x", "gone"], &[], &[]]),
    ] {
        let facts = survey(&request, &KEY, entries()).expect("it looks");
        let plan = plan(&facts);
        let names = |paths: &[repository::archive::path::EntryPath]| -> Vec<String> {
            paths.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&plan.overwritten), overwritten);
        assert_eq!(names(&plan.created), created);
        assert_eq!(names(&plan.removed), removed);
        assert_eq!(plan.conflicts, Vec::<String>::new());
        assert_eq!(preflight(&facts, "x", &NoFaults), Vec::<String>::new());
        assert!(plan.free_space > plan.bytes_to_write && plan.bytes_to_write > 0);
        if request.restore_id == "one" {
            assert_same(&without_root_time(look(&root)), &without_root_time(before.clone()));
        }
        let report = archive.restore(&request).expect("it is restored");
        let counts = [report.overwritten, report.created, report.removed];
        assert_eq!(
            counts,
            [plan.overwritten.len(), plan.created.len(), plan.removed.len()].map(|n| n as u64)
        );
        assert_eq!(report.bytes, plan.bytes_to_write);
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &[("a", "then")]);
    let archive = Archive::of(folder.path());
    let request = in_place(folder.path(), "x");
    let facts =
        survey(&request, &KEY, archive.entries.iter().cloned().map(Ok::<_, Malformed>)).expect("it looks");
    let troubles = preflight(&facts, "x", &Faults::once(3));
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    assert!(troubles[0].contains(&folder.path().display().to_string()), "{troubles:?}");
    assert_eq!(staging(folder.path()), Vec::<String>::new(), "nothing is left behind");
}

#[test]
fn what_the_live_folder_hands_down_is_not_inherited_and_closed_folders_are_swapped_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("closed/below/x", "then"), ("file", "then")]);
    for path in ["closed/below", "closed"] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o555)).expect("a mode");
    }
    let hands_down = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x07\0\xe9\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root, "system.posix_acl_default", hands_down, flags).expect("a default ACL");
    let (archive, archived) = (Archive::of(root), look(root));
    write(root, &[("file", "now")]);
    for id in ["one", "two"] {
        archive.restore(&in_place(root, id)).expect("it is restored");
        assert_same(&look(root), &archived);
    }
}

#[test]
fn an_owner_is_restored_by_root_and_otherwise_noted_and_costs_the_setuid_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("live");
    write(&root, &[("program", "then")]);
    let mut archive = Archive::of(&root);
    let metadata = &mut archive.entry_mut("program").metadata;
    (metadata.uid, metadata.gid, metadata.mode) = (12_345, 23_456, 0o6755);
    let report = archive.restore(&in_place(&root, "x")).expect("it is restored");
    let fact = &look(&root)[Path::new("program")];
    if rustix::process::geteuid().is_root() {
        assert_eq!((fact.owner, fact.mode), ((12_345, 23_456), 0o6755));
        assert_eq!(report.notes, Vec::<String>::new());
    } else {
        assert_eq!(fact.mode, 0o755);
        assert!(report.notes[0].contains("1 (first program)"), "{:?}", report.notes);
    }
}

#[test]
fn a_restore_that_is_tried_again_after_it_had_succeeded_keeps_the_state_from_before_the_first_attempt() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("data", "then")]);
    let archive = Archive::of(root);
    write(root, &[("data", "now")]);
    let first = archive.restore(&in_place(root, "x")).expect("it is restored");
    let second = archive.restore(&in_place(root, "x")).expect("it is restored again");
    assert_eq!(read(root.join("data")), "then");
    assert_eq!(read(first.old[0].join("data")), "now");
    assert_eq!(second.old.len(), 2, "{:?}", second.old);
    assert_eq!(second.old[0], first.old[0]);
    archive.restore(&in_place(root, "y")).expect("another restore");
    assert_eq!(staging(root), [".neurashield-y"]);
}
