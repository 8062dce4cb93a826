//! What a source leaves out of its backups stays live through a restore in place, and what a restore of paths has
//! made goes when it is taken back.

mod files_support;

use std::fs;
use std::path::Path;

use agent::targets::files::{NoFaults, RestoreError, RestoreRequest, plan, recover, survey, take_back_ended};
use files_support::live::*;
use files_support::*;
use repository::archive::path::EntryPath;
use repository::codec::Malformed;

#[test]
fn what_the_source_leaves_out_stays_and_the_plan_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(
        root,
        &[("a/b/data", "then"), ("a/file", "then"), ("was.tmp", "then"), ("cache/CACHEDIR.TAG", TAG)],
    );
    let archived = look(root);
    let (archive, mut rules) = (Archive::of(root), leaving_out(&["*.tmp", "keys/"]));
    rules.caches = true;
    let excluded = ["a/b/x.tmp", "a/keys/one", "cache/found", "keys/two", "y.tmp"];
    write(root, &[("a/b/data", "now"), ("was.tmp", "now"), ("new/z.tmp", "now"), ("new/more", "now")]);
    write(root, &excluded.map(|path| (path, "only here")));
    // In the archive it is a file.
    fs::remove_file(root.join("a/file")).expect("it goes");
    write(root, &[("a/file/in.tmp", "now")]);

    let elsewhere = tempfile::tempdir().expect("a folder");
    let empty = RestoreRequest { stays: Some(rules.clone()), ..in_place(elsewhere.path(), "x") };
    let where_none_is = planned(&archive, &empty).leaves;
    let request = RestoreRequest { stays: Some(rules), ..in_place(root, "x") };
    let planned = planned(&archive, &request);
    assert_eq!(names(&planned.overwritten), ["a", "cache", "was.tmp"]);
    assert_eq!(names(&planned.removed), ["new"], "what is excluded is not removed");
    let [stay, go, _] = &planned.remarks[..] else { panic!("{:?}", planned.remarks) };
    assert!(
        stay.starts_with("5 entries") && stay.ends_with("a/b/x.tmp, a/keys, cache/found, keys, y.tmp"),
        "{stay}"
    );
    assert!(go.starts_with("3 entries") && go.ends_with("a/file/in.tmp, new/z.tmp, was.tmp"), "{go}");
    assert_eq!(planned.leaves, "what the source excludes");
    assert_eq!(where_none_is, "what the source excludes", "what comes and goes makes no other plan");

    let report = archive.restore(&request).expect("it is restored");
    assert_eq!((report.overwritten, report.created, report.removed), (3, 0, 1));
    for path in excluded {
        assert_eq!(read(root.join(path)), "only here", "{path}");
    }
    assert_eq!(
        [read(root.join("a/b/data")), read(root.join("a/file")), read(root.join("was.tmp"))],
        ["then"; 3]
    );
    assert_eq!(read(report.old[0].join("new/z.tmp")), "now");
    let in_b = |tree: &Tree| tree[Path::new("a/b")].mtime;
    assert_eq!(in_b(&look(root)), in_b(&archived), "what is carried along leaves the folder's time");

    // Paths: the same holds inside of what they name, and nothing else is touched.
    write(root, &[("a/b/data", "later")]);
    let request = RestoreRequest { stays: request.stays, ..paths(root, "y", &["a/b"]) };
    archive.restore(&request).expect("it is restored");
    assert_eq!(
        (read(root.join("a/b/data")), read(root.join("a/b/x.tmp"))),
        ("then".into(), "only here".into())
    );
}

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55";

#[test]
fn when_a_restore_of_paths_is_taken_back_what_it_has_made_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/x", "then"), ("a/y", "then"), ("b/c/z", "then")]);
    let wanted = Archive::of(root);
    fs::remove_file(root.join("a/y")).expect("it goes");
    fs::remove_dir_all(root.join("b")).expect("it goes");
    write(root, &[("a/x", "now"), ("a/other", "now")]);
    let (safety, before) = (Archive::of(root), told(root));

    wanted.restore(&paths(root, "one", &["a/[xy]", "b/c/z"])).expect("it is restored");
    assert_eq!([read(root.join("a/x")), read(root.join("a/y")), read(root.join("b/c/z"))], ["then"; 3]);
    write(root, &[("later", "of somebody")]);

    let back = undo(root, "two", &["a/[xy]", "b/c/z"]);
    let planned = planned(&safety, &back);
    assert_eq!(
        (names(&planned.removed), names(&planned.overwritten)),
        (vec!["a/y".into(), "b".into()], vec!["a/x".into()])
    );
    let report = safety.restore(&back).expect("it is taken back");
    assert_eq!((report.overwritten, report.created, report.removed), (1, 0, 2));
    assert_eq!(read(root.join("later")), "of somebody", "what no path names stays");
    fs::remove_file(root.join("later")).expect("it goes");
    assert_eq!(told(root), before);

    // One that has made all that it has brought: nothing of it is in the safety backup.
    wanted.restore(&paths(root, "three", &["b/c/z"])).expect("it is restored");
    let back = undo(root, "four", &["b/c/z"]);
    safety.restore(&back).expect("it is taken back");
    assert_eq!(told(root), before);
}

#[test]
fn what_cannot_go_back_is_kept_and_the_old_state_is_live() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/data", "then")]);
    let archive = Archive::of(root);
    write(root, &[("a/data", "now")]);
    let request = RestoreRequest { stays: Some(leaving_out(&["cache/"])), ..in_place(root, "x") };
    let cache = root.join("a/cache");
    // What is mounted on cannot be moved by itself.
    let swapped = || {
        write(root, &[("a/cache/x", "written since")]);
        std::mem::forget(Mounted::tmpfs(&cache));
    };
    let taken = restore_while(&archive, &request, &Meanwhile { staged: &|| (), swapped: Some(&swapped) });
    assert!(matches!(taken, Err(RestoreError::TakenBack(_))), "{taken:?}");
    assert_eq!(read(root.join("a/data")), "now");
    let kept = root.join(".neurashield-x/kept/a/cache");
    assert!(!cache.exists() && kept.exists());
    unmount(&kept);
    assert_eq!(read(kept.join("x")), "written since");
    let _alone = nobody_starts();
    recover(root, &NoFaults).expect("it is looked at");
    assert_eq!(read(kept.join("x")), "written since");

    // The next restore takes it for what an earlier one has kept.
    archive.restore(&RestoreRequest { restore_id: "y".into(), ..request }).expect("it is restored");
    assert_eq!((read(root.join("a/data")), kept.exists()), ("then".into(), false));
}

#[test]
fn what_comes_where_the_source_leaves_it_out_stays_whenever_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/b/data", "then"), ("file", "then")]);
    let archive = Archive::of(root);
    write(root, &[("a/b/data", "now"), ("file", "now")]);
    let request = RestoreRequest { stays: Some(leaving_out(&["*.tmp", "cache/"])), ..in_place(root, "x") };
    let late = ["a/b/late.tmp", "a/cache/deep/x", "cache/y", "late.tmp"];
    let staged = || write(root, &late.map(|path| (path, "only here")));

    // The swap is taken back: what programs wrote there since stays, too, and what else they wrote goes.
    let since = ["a/b/since.tmp", "a/cache/since", "since.tmp"];
    let swapped = || {
        assert_eq!((read(root.join("a/b/data")), read(root.join("file"))), ("then".into(), "then".into()));
        write(root, &since.map(|path| (path, "written since")));
        write(root, &[("a/b/lost", "by a program that did not come up"), ("a/b/late.tmp", "more")]);
    };
    let taken = restore_while(&archive, &request, &Meanwhile { staged: &staged, swapped: Some(&swapped) });
    assert!(matches!(taken, Err(RestoreError::TakenBack(_))), "{taken:?}");
    assert_eq!([read(root.join("a/b/data")), read(root.join("file"))], ["now"; 2]);
    assert_eq!(since.map(|path| read(root.join(path))), ["written since"; 3]);
    assert_eq!(read(root.join("a/b/late.tmp")), "more");
    assert!(!root.join("a/b/lost").exists());
    assert_eq!(staging(root), [""; 0], "nothing is left to be kept");

    late.iter().for_each(|path| drop(fs::remove_file(root.join(path))));
    let again = RestoreRequest { restore_id: "y".into(), ..request };
    restore_while(&archive, &again, &Meanwhile { staged: &staged, swapped: None }).expect("it is restored");
    assert_eq!([read(root.join("a/b/data")), read(root.join("file"))], ["then"; 2]);
    for path in late {
        assert_eq!(read(root.join(path)), "only here", "{path}");
    }
    assert_eq!(since.map(|path| read(root.join(path))), ["written since"; 3]);
}

#[test]
fn the_agents_own_state_outlives_a_restore_that_is_taken_back_after_a_boot() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("file", "then")]);
    let archive = Archive::of(root);
    write(root, &[("file", "now"), ("state/key", "of the agent")]);
    let state = root.join("state");
    let rules = leaving_out(&[]).leave_out(&state);
    archive.restore(&RestoreRequest { stays: Some(rules), ..in_place(root, "x") }).expect("it is restored");
    assert_eq!([read(root.join("file")), read(state.join("key"))], ["then", "of the agent"]);

    // After a boot its file system may have another number.
    let journal = root.join(".neurashield-x/journal");
    let device = rustix::fs::stat(&state).expect("it is there").st_dev;
    let (before, text) = (format!("\"own\":[[{device},"), read(&journal));
    assert!(text.contains(&before), "{text}");
    fs::write(&journal, text.replace(&before, "\"own\":[[987654,")).expect("written");
    let _alone = nobody_starts();
    let taken = take_back_ended(root, "x", &NoFaults, Some(&state)).expect("it is taken back");
    assert_eq!(taken.len(), 1);
    assert_eq!([read(root.join("file")), read(state.join("key"))], ["now", "of the agent"]);
}

#[test]
fn an_undo_takes_no_folder_away_in_which_something_is_that_no_path_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("tenant1/app.conf", "then"), ("gone/app.conf", "then"), ("kept/app.conf", "then")]);
    let wanted = Archive::of(root);
    write(root, &[("tenant1/app.conf", "now")]);
    fs::remove_dir_all(root.join("gone")).expect("it goes");
    // The archive of the safety backup has this one, empty.
    fs::remove_file(root.join("kept/app.conf")).expect("it goes");
    let (safety, before) = (Archive::of(root), told(root));
    wanted.restore(&paths(root, "one", &["*/app.conf"])).expect("it is restored");
    let somebodys = [("tenant9/app.conf", "somebody's"), ("tenant9/data/db", "somebody's")];
    write(root, &somebodys);
    write(root, &[("tenant8/x/app.conf", "deeper")]);

    let request =
        RestoreRequest { stays: Some(leaving_out(&["*.tmp"])), ..undo(root, "two", &["*/app.conf"]) };
    let plan = planned(&safety, &request);
    assert_eq!(names(&plan.removed), ["gone", "kept/app.conf", "tenant9/app.conf"]);
    assert_eq!(names(&plan.overwritten), ["tenant1/app.conf"]);
    safety.restore(&request).expect("it is taken back");
    assert_eq!(read(root.join("tenant9/data/db")), "somebody's");
    for path in ["tenant8", "tenant9"] {
        fs::remove_dir_all(root.join(path)).expect(path);
    }
    assert_eq!(told(root), before);
}

#[test]
fn an_undo_ends_where_something_came_into_a_folder_that_would_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("made/by/it", "then"), ("x", "then")]);
    let wanted = Archive::of(root);
    fs::remove_dir_all(root.join("made")).expect("it goes");
    let safety = Archive::of(root);
    wanted.restore(&paths(root, "one", &["made/by/it"])).expect("it is restored");
    let request = undo(root, "two", &["made/by/it"]);
    assert_eq!(names(&planned(&safety, &request).removed), ["made"]);
    let staged = || write(root, &[("made/late", "somebody's")]);
    let refused = restore_while(&safety, &request, &Meanwhile { staged: &staged, swapped: None });
    let error = refused.expect_err("it is refused").to_string();
    assert!(error.contains("made") && error.contains("plan again"), "{error}");
    assert_eq!(
        (read(root.join("made/by/it")), read(root.join("made/late"))),
        ("then".into(), "somebody's".into())
    );
    // Planned once more, it takes away what it has made.
    safety.restore(&request).expect("it is taken back");
    assert_eq!(names(&planned(&safety, &request).removed), [""; 0]);
    assert!(!root.join("made/by").exists());
    assert_eq!(read(root.join("made/late")), "somebody's");
}

#[test]
fn only_what_goes_or_is_carried_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let kept: Vec<String> = (0..50).map(|n| format!("data/{n}")).collect();
    kept.iter().for_each(|path| write(root, &[(path, "then")]));
    write(root, &[("etc/x", "then")]);
    let archive = Archive::of(root);
    let excluded = ["top.log", "logs/deep.log", "data/a.log"];
    write(root, &excluded.map(|path| (path, "live")));

    // What the archive has is overwritten, and nothing that has to go.
    let facts = |request: &RestoreRequest| {
        let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
        survey(request, &KEY, entries).expect("it looks")
    };
    let taken = facts(&undo(root, "x", &["data/*"]));
    assert_eq!(
        (taken.strays, taken.strays_missed, taken.overwritten.count),
        (vec![EntryPath::new(b"data/a.log").expect("a path")], 0, 50)
    );
    // Nothing of it is carried where another path is restored; of all that, what lies below the top.
    let rules = Some(leaving_out(&["*.log"]));
    let one = facts(&RestoreRequest { stays: rules.clone(), ..paths(root, "x", &["etc/x"]) });
    assert_eq!((one.carried, one.stay.count), (0, 0));
    let all = facts(&RestoreRequest { stays: rules, ..in_place(root, "x") });
    assert_eq!((all.carried, all.stay.count, all.go.count), (1, 2, 1));
    for (facts, told) in [
        (agent::targets::files::Facts { carried: 100_001, ..all.clone() }, "100001 entries"),
        (agent::targets::files::Facts { strays_missed: 1, ..all }, "more than 100000 entries"),
    ] {
        let conflicts = plan(&facts).conflicts;
        assert!(conflicts.iter().any(|one| one.contains(told)), "{conflicts:?}");
    }
}
