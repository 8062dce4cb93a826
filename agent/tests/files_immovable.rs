//! What a restore in place cannot move or must not: mounts, the agent's own state, repositories of backups, folders
//! in which nobody may write. It is told before anything is stopped.

mod files_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use agent::sources::files::Rules;
use agent::steps::Step;
use agent::targets::CancelFlag;
use agent::targets::files::{Allowance, RestoreError, RestoreRequest, Tools, restore};
use files_support::live::*;
use files_support::*;
use repository::codec::Malformed;

#[test]
fn what_is_never_moved_is_in_the_way_wherever_it_lies() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/data", "then"), ("x", "then")]);
    let archive = Archive::of(root);
    write(root, &[("a/data", "now")]);
    let conflicts = |rules: Rules| {
        let request = RestoreRequest { stays: Some(rules), ..in_place(root, "x") };
        planned(&archive, &request).conflicts
    };
    let told = |rules: &dyn Fn() -> Rules, what: &str, of: &str| {
        let conflicts = conflicts(rules());
        assert!(conflicts.len() == 1 && conflicts[0].starts_with(of), "{what}: {conflicts:?}");
    };
    // Also where an exclude names it, or a folder around it, and where that goes with a folder that is not in the backup.
    let lies = [("a/backups", "backups/"), ("a/big/deep/backups", "big/"), ("new/backups", "backups/")];
    for (place, exclude) in lies {
        for pattern in [exclude, "*.tmp"] {
            let at = root.join(place).join("repository");
            write(&at, &[("config.json", "{}"), ("packs/x", ""), ("chain/1", "")]);
            told(&|| leaving_out(&[pattern]), pattern, &format!("{place} is a repository of backups"));
            fs::remove_dir_all(root.join(place)).expect("removed");
        }
    }
    for (state, of) in [("a/var/agent", "a "), ("new/var/agent", "new ")] {
        write(root, &[(&format!("{state}/key"), "of the agent")]);
        for pattern in ["var/", "agent/", "*.tmp"] {
            let rules = || leaving_out(&[pattern]).leave_out(&root.join(state));
            told(&rules, pattern, &format!("{of}is, or holds, the agent's own state"));
        }
        fs::remove_dir_all(root.join(state).parent().expect("one above")).expect("removed");
    }
    fs::remove_dir_all(root.join("new")).expect("removed");

    // Where the agent sees its state elsewhere than here, as a container's volume.
    let volume = root.join("a/volumes/state");
    write(root, &[("a/volumes/state/key", "of the agent")]);
    let seen = tempfile::tempdir().expect("a folder");
    let mounted = Mounted::by(seen.path(), &["--bind", volume.to_str().expect("text")]);
    for pattern in ["volumes/", "state/", "*.tmp"] {
        let rules = || leaving_out(&[pattern]).leave_out(seen.path());
        told(&rules, pattern, "a/volumes/state is, or holds, the agent's own state");
    }
    drop(mounted);
    fs::remove_dir_all(root.join("a/volumes")).expect("removed");

    // What is mounted there is in no backup.
    let uploads = root.join("a/deep/up loads");
    fs::create_dir_all(&uploads).expect("made");
    let mounted = Mounted::tmpfs(&uploads);
    for pattern in ["*.tmp", "deep/"] {
        told(&|| leaving_out(&[pattern]), pattern, "a/deep/up loads is a mount point");
    }
    let request = RestoreRequest { stays: Some(leaving_out(&[])), ..in_place(root, "x") };
    assert_eq!(planned(&archive, &request).conflicts.len(), 1);
    let elsewhere = RestoreRequest { selection: paths(root, "x", &["a/data"]).selection, ..request.clone() };
    assert_eq!(planned(&archive, &elsewhere).conflicts, [""; 0]);
    drop(mounted);
    assert_eq!(planned(&archive, &request).conflicts, [""; 0]);

    // And where it is mounted since.
    let staged = || std::mem::forget(Mounted::tmpfs(&uploads));
    let refused = restore_while(&archive, &request, &Meanwhile { staged: &staged, swapped: None });
    unmount(&uploads);
    let error = refused.expect_err("it is refused").to_string();
    assert!(error.contains("up loads") && error.contains("mounted"), "{error}");
    assert_eq!(read(root.join("a/data")), "now");
    assert_eq!(staging(root), [""; 0]);
}

#[test]
fn a_mount_that_comes_in_the_last_moment_holds_nothing_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/b/data", "then"), ("x", "then")]);
    let archive = Archive::of(root);
    write(root, &[("a/b/data", "now"), ("a/b/x.log", "live"), ("x", "now")]);
    let before = told(root);
    let request = RestoreRequest { stays: Some(leaving_out(&["*.log"])), ..in_place(root, "x") };
    let place = root.join("a/b");
    let mount = || std::mem::forget(Mounted::tmpfs(&place));
    let steps = At(Step::StagedDurable, &mount);
    let (cancel, allowance) = (CancelFlag::default(), Allowance::all(&planned(&archive, &request)));
    let tools = Tools { id_key: &KEY, progress: &(), cancel: &cancel, steps: &steps };
    let mut blobs = Blobs { blobs: &archive.blobs, hinted: Vec::new() };
    let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    let error = restore(&request, allowance, entries, &mut blobs, tools).expect_err("it cannot be carried");
    assert!(!matches!(error, RestoreError::Interrupted { .. }), "{error:?}");
    unmount(&place);
    assert_eq!(told(root), before);
    assert_eq!(staging(root), [""; 0]);
}

#[test]
fn what_cannot_be_moved_is_told_before_anything_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a/data", "then"), ("x", "then")]);
    let archive = Archive::of(root);
    write(root, &[("a/data", "now")]);
    let cache = root.join("a/cache");
    let mounted = Mounted::tmpfs(&cache);
    let request = RestoreRequest { stays: Some(leaving_out(&["cache/"])), ..in_place(root, "x") };
    let conflicts = planned(&archive, &request).conflicts;
    assert!(
        conflicts.len() == 1 && conflicts[0].contains("a/cache") && conflicts[0].contains("mount point"),
        "{conflicts:?}"
    );
    drop(mounted);
    assert_eq!(planned(&archive, &request).conflicts, [""; 0]);

    // The agent's own state is not moved either; at the top it stays where it is.
    for (state, told) in [("a/state", 1), ("state", 0)] {
        write(root, &[(&format!("{state}/file"), "of the agent")]);
        let rules = leaving_out(&[]).leave_out(&root.join(state));
        let conflicts =
            planned(&archive, &RestoreRequest { stays: Some(rules), ..in_place(root, "x") }).conflicts;
        assert_eq!(conflicts.iter().filter(|one| one.contains("own state")).count(), told, "{conflicts:?}");
    }

    // Nor is a repository of backups, of which the archive has the folder alone. Nothing is told where none of it moves.
    for folder in ["backups", "a/backups"] {
        write(
            root,
            &[("repository/config.json", "{}"), ("repository/packs/x", ""), ("repository/chain/1", "")],
        );
        fs::create_dir_all(root.join(folder)).expect("made");
        fs::rename(root.join("repository"), root.join(folder).join("repository")).expect("moved");
        let rules = || Some(leaving_out(&[]));
        let plan = planned(&archive, &RestoreRequest { stays: rules(), ..in_place(root, "x") });
        assert!(
            plan.conflicts.len() == 1
                && plan.conflicts[0].starts_with(&format!("{folder} is a repository of backups")),
            "{:?}",
            plan.conflicts
        );
        let within = planned(&archive, &RestoreRequest { stays: rules(), ..paths(root, "x", &["a/data"]) });
        assert_eq!(within.conflicts, [""; 0], "beside it");
        let elsewhere = RestoreRequest { stays: rules(), ..paths(root, "x", &["x"]) };
        assert_eq!(planned(&archive, &elsewhere).conflicts, [""; 0]);
        fs::remove_dir_all(root.join(folder)).expect("removed");
    }

    // The same of what an undo would take away: the folder around it is not what is in the way.
    write(root, &[("made/one", "restored"), ("made/two", "restored")]);
    let two = root.join("made/two");
    let mounted = Mounted::bound(&two);
    let plan = planned(&archive, &undo(root, "y", &["made/*"]));
    assert_eq!(names(&plan.removed), ["made/one", "made/two"]);
    assert!(
        plan.conflicts.len() == 1 && plan.conflicts[0].contains("made/two is a mount point"),
        "{:?}",
        plan.conflicts
    );
    drop(mounted);
    let plan = planned(&archive, &undo(root, "y", &["made/*"]));
    assert_eq!((names(&plan.removed), plan.conflicts), (vec!["made".to_owned()], Vec::new()));
}

/// Started by itself as a user who is not root.
const AS_NOBODY: &str = "NEURASHIELD_TEST_AS_NOBODY";

#[test]
fn a_folder_in_which_nobody_may_write_takes_nothing_along() {
    if std::env::var_os(AS_NOBODY).is_none() {
        // Root may write everywhere. Nobody else may come to where the test lies.
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let test = folder.path().join("test");
        fs::copy(std::env::current_exe().expect("a program"), &test).expect("copied");
        // One of each for whoever is not root, with a folder of root's in it: one may write in the second.
        let place = folder.path().join("place");
        write(&place, &[("mine/cache/x", "live"), ("all/cache/x", "live")]);
        fs::set_permissions(place.join("all/cache"), fs::Permissions::from_mode(0o777)).expect("set");
        for path in ["", "mine", "all"] {
            std::os::unix::fs::chown(place.join(path), Some(65_534), Some(65_534)).expect("given");
        }
        let own = folder.path().join("own");
        fs::create_dir(&own).expect("made");
        std::os::unix::fs::chown(&own, Some(65_534), Some(65_534)).expect("given");
        let status = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
                "--bounding-set=-all",
            ])
            .arg(test)
            .args(["--exact", "a_folder_in_which_nobody_may_write_takes_nothing_along", "--nocapture"])
            .env(AS_NOBODY, &place)
            .env("TMPDIR", &own)
            .status()
            .expect("setpriv runs");
        assert!(status.success(), "as a user who is not root");
        return;
    }
    assert!(!rustix::process::geteuid().is_root());
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("closed/data", "then"), ("open/data", "then")]);
    let mode = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).expect("set")
    };
    // A folder that is somebody else's cannot be given another parent unless one may write in it.
    let place = std::path::PathBuf::from(std::env::var_os(AS_NOBODY).expect("a place"));
    let other = tempfile::tempdir().expect("a folder");
    write(other.path(), &[("mine/data", "then"), ("all/data", "then")]);
    let archive = Archive::of(other.path());
    let request = RestoreRequest { stays: Some(leaving_out(&["cache/"])), ..in_place(&place, "x") };
    let conflicts = planned(&archive, &request).conflicts;
    assert!(conflicts.len() == 1 && conflicts[0].contains("mine/cache"), "{conflicts:?}");
    let one = RestoreRequest { selection: paths(&place, "x", &["all"]).selection, ..request };
    archive.restore(&one).expect("it is restored");
    assert_eq!([read(place.join("all/data")), read(place.join("all/cache/x"))], ["then", "live"]);

    mode("closed", 0o555);
    let archive = Archive::of(root);
    let request = RestoreRequest { stays: Some(leaving_out(&["*.tmp"])), ..in_place(root, "x") };
    // The live one is open, and the one that would take its place is not.
    mode("closed", 0o755);
    write(root, &[("closed/x.tmp", "live"), ("open/y.tmp", "live")]);
    let conflicts = planned(&archive, &request).conflicts;
    assert!(conflicts.len() == 1 && conflicts[0].contains("closed/x.tmp"), "{conflicts:?}");
    // And the other way round.
    fs::remove_file(root.join("closed/x.tmp")).expect("it goes");
    mode("open", 0o555);
    let conflicts = planned(&archive, &request).conflicts;
    assert!(conflicts.len() == 1 && conflicts[0].contains("open/y.tmp"), "{conflicts:?}");
    mode("open", 0o755);
    // What lies in a folder that cannot be read may have to stay only where there are rules.
    fs::create_dir(root.join("open/hidden")).expect("made");
    mode("open/hidden", 0o000);
    let plain = RestoreRequest { stays: Some(leaving_out(&[])), ..request.clone() };
    assert_eq!(planned(&archive, &plain).conflicts, [""; 0]);
    let conflicts = planned(&archive, &request).conflicts;
    assert!(conflicts.len() == 1 && conflicts[0].contains("open/hidden"), "{conflicts:?}");
    // The same of one whose names can be listed and not looked at, and where another path is restored.
    mode("open/hidden", 0o700);
    write(root, &[("open/hidden/one", "live"), ("open/hidden/two", "live")]);
    mode("open/hidden", 0o444);
    assert_eq!(planned(&archive, &plain).conflicts, [""; 0]);
    let conflicts = planned(&archive, &request).conflicts;
    assert!(
        conflicts.len() == 1 && conflicts[0].contains("open/hidden/one") && conflicts[0].contains("1 more"),
        "{conflicts:?}"
    );
    let elsewhere =
        RestoreRequest { selection: paths(root, "x", &["closed/data"]).selection, ..request.clone() };
    assert_eq!(planned(&archive, &elsewhere).conflicts, [""; 0]);
    archive.restore(&RestoreRequest { restore_id: "plain".into(), ..plain }).expect("it is restored");
    assert_eq!(read(root.join("open/data")), "then");
    let old = root.join(".neurashield-plain/old/open");
    fs::set_permissions(old.join("hidden"), fs::Permissions::from_mode(0o700)).expect("set");
    fs::rename(old.join("y.tmp"), root.join("open/y.tmp")).expect("back");
    archive.restore(&request).expect("it is restored");
    assert_eq!(
        (read(root.join("open/y.tmp")), read(root.join("closed/data"))),
        ("live".into(), "then".into())
    );
}
