//! What a source leaves out of its backups stays live through a restore in place, and what a restore of paths has
//! made goes when it is taken back.

mod files_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::{PoisonError, RwLock};

use agent::sources::files::{Excludes, Rules};
use agent::steps::Step;
use agent::targets::files::{
    Allowance, NoFaults, PathPatterns, Place, RestoreError, RestorePlan, RestoreReport, RestoreRequest,
    Selection, Steps, Tools, plan, recover, restore, survey, take_back_ended,
};
use agent::targets::{CancelFlag, Progress};
use files_support::*;
use repository::archive::path::EntryPath;
use repository::codec::Malformed;

fn in_place(root: &Path, id: &str) -> RestoreRequest {
    let place = Place::InPlace { root: root.to_owned() };
    RestoreRequest {
        restore_id: id.into(),
        place,
        selection: Selection::Whole,
        keeps_older: false,
        stays: None,
        signer_height: None,
        signer_seen: None,
        leaves_keys: false,
    }
}

fn paths(root: &Path, id: &str, patterns: &[&str]) -> RestoreRequest {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let selection = Selection::Paths(PathPatterns::new(&patterns).expect("patterns"));
    RestoreRequest { selection, ..in_place(root, id) }
}

/// Takes back a restore of these paths.
fn undo(root: &Path, id: &str, patterns: &[&str]) -> RestoreRequest {
    RestoreRequest { keeps_older: true, ..paths(root, id, patterns) }
}

fn leaving_out(patterns: &[&str]) -> Rules {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Rules::from(Excludes::new(&patterns).expect("patterns"))
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("a file")
}

fn planned(archive: &Archive, request: &RestoreRequest) -> RestorePlan {
    let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    plan(&survey(request, entries).expect("it looks"))
}

fn names(paths: &[EntryPath]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

/// Does this once all is staged, and this once all is swapped, which is then taken back.
struct Meanwhile<'a> {
    staged: &'a dyn Fn(),
    swapped: Option<&'a dyn Fn()>,
}

impl Progress for Meanwhile<'_> {
    fn bytes_written(&self, _count: u64) {}
    fn entry_written(&self) {}
    fn staged(&self) -> Result<(), String> {
        (self.staged)();
        Ok(())
    }
    fn swap_begins(&self) {}
    fn swapped(&self) -> Result<(), String> {
        self.swapped.map_or(Ok(()), |swapped| {
            swapped();
            Err("it does not come up".to_owned())
        })
    }
}

fn restore_while(
    archive: &Archive,
    request: &RestoreRequest,
    meanwhile: &Meanwhile<'_>,
) -> Result<RestoreReport, RestoreError> {
    let (cancel, allowance) = (CancelFlag::default(), Allowance::all(&planned(archive, request)));
    let tools = Tools { id_key: &KEY, progress: meanwhile, cancel: &cancel, steps: &NoFaults };
    let mut blobs = Blobs { blobs: &archive.blobs, hinted: Vec::new() };
    let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    restore(request, allowance, entries, &mut blobs, tools)
}

/// All but times: what goes into a folder and comes out of it shows there.
fn told(root: &Path) -> Vec<(std::path::PathBuf, String, u32, Vec<u8>)> {
    look(root).into_iter().map(|(path, fact)| (path, fact.kind, fact.mode, fact.content)).collect()
}

/// Written while a process is started: until it runs its program it has all handles of this one, with their locks.
static STARTS: RwLock<()> = RwLock::new(());

/// While this lives nobody else holds a lock of a restore that has ended.
fn nobody_starts() -> impl Sized {
    STARTS.read().unwrap_or_else(PoisonError::into_inner)
}

fn run(command: &mut Command) -> ExitStatus {
    let _started = STARTS.write().unwrap_or_else(PoisonError::into_inner);
    command.status().expect("it runs")
}

/// A file system of its own at this place, for as long as this lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(place: &'a Path) -> Self {
        fs::create_dir_all(place).expect("a folder");
        Self::by(place, &["-t", "tmpfs", "tmpfs"])
    }

    /// The place bound to itself.
    fn bound(place: &'a Path) -> Self {
        Self::by(place, &["--bind", place.to_str().expect("text")])
    }

    fn by(place: &'a Path, words: &[&str]) -> Self {
        let status = run(Command::new("mount").args(words).arg(place));
        assert!(status.success(), "it can be mounted");
        Self(place)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        unmount(self.0);
    }
}

fn unmount(place: &Path) {
    run(Command::new("umount").arg("--lazy").arg(place));
}

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
    let [stay, go] = &planned.remarks[..] else { panic!("{:?}", planned.remarks) };
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

/// Does this at that step.
struct At<'a>(Step, &'a dyn Fn());

impl Steps for At<'_> {
    fn before(&self, _what: &'static str) -> std::io::Result<()> {
        Ok(())
    }
    fn done(&self, step: Step) -> std::io::Result<()> {
        if step == self.0 {
            (self.1)();
        }
        Ok(())
    }
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
        survey(request, entries).expect("it looks")
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
