//! Each change of the file system that a restore makes fails once, in turn, and then everything from it
//! on as if the process had been killed: the folder always ends in the old state or in the new one.

mod files_support;

use std::fs;
use std::path::{Path, PathBuf};

use agent::sources::files::{Excludes, FilesSource, Rules};
use agent::targets::files::{
    NoFaults, PathPatterns, Place, RestoreError, RestoreRequest, Selection, Steps, recover,
};
use files_support::*;

/// A live folder, an archive of another state of it, and how the one becomes the other.
struct Case {
    folder: tempfile::TempDir,
    archive: Archive,
    place: fn(&Path) -> Place,
    selection: Selection,
    /// What is looked at, and where restores leave their staging folders.
    roots: &'static [&'static str],
    /// What the source leaves out, some of which is live.
    stays: Option<Rules>,
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    }
}

fn archived_state(root: &Path) {
    write(root, &[("same", "s"), ("changed/x", "then"), ("changed/sub/y", "then"), ("created", "then")]);
    fs::hard_link(root.join("created"), root.join("changed/linked")).expect("a link");
    std::os::unix::fs::symlink("same", root.join("link")).expect("a link");
}

impl Case {
    fn new(place: fn(&Path) -> Place, selection: Selection, roots: &'static [&'static str]) -> Self {
        // In memory where there is such a place: every restore waits for its file system to be durable.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = memory.expect("a folder");
        let base = folder.path().join("live");
        archived_state(&base);
        let archive = match place(&base) {
            Place::Listed { .. } => {
                let listed = ["changed/x", "changed/sub/y", "created", "gone"].map(|path| base.join(path));
                write(&base, &[("gone/z", "then")]);
                Archive::read(FilesSource::listed(&listed, Excludes::none()).expect("it opens"))
            }
            _ => Archive::of(&base),
        };
        let case = Self { folder, archive, place, selection, roots, stays: None };
        case.reset();
        case
    }

    fn base(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("a path").join("live")
    }

    /// The live state before the restore.
    fn reset(&self) {
        let base = self.base();
        fs::remove_dir_all(&base).expect("it goes");
        write(&base, &[("same", "s"), ("changed/x", "now"), ("changed/sub/y", "now"), ("removed/z", "now")]);
        if self.stays.is_some() {
            write(&base, &STAY.map(|path| (path, "stays")));
            write(&base, &[("removed/r.tmp", "goes")]);
        }
        match (self.place)(&base) {
            Place::NewFolder { path } => fs::create_dir(path).expect("an empty folder"),
            Place::Listed { .. } | Place::InPlace { .. } => {}
        }
    }

    fn request(&self) -> RestoreRequest {
        let place = (self.place)(&self.base());
        RestoreRequest {
            selection: self.selection.clone(),
            stays: self.stays.clone(),
            ..request("crash", place)
        }
    }

    /// Contents and kinds: times of live folders move with every rename in them.
    fn state(&self) -> Vec<(PathBuf, String, Vec<u8>, Option<PathBuf>)> {
        let facts = look(&self.base()).into_iter();
        facts
            .map(|(path, fact)| (path, format!("{} {:o}", fact.kind, fact.mode), fact.content, fact.same_as))
            .collect()
    }

    fn recover(&self) {
        for root in self.roots {
            recover(&self.base().join(root), &NoFaults).expect("it recovers");
        }
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        let roots = self.roots.iter().map(|root| self.base().join(root));
        roots.flat_map(|root| staging(&root).into_iter().map(move |name| root.join(name))).collect()
    }

    fn check(&self) {
        self.reset();
        let old = self.state();
        self.archive.restore(&self.request()).expect("without a fault it is restored");
        let new = self.state();
        assert_ne!(old, new, "there is something to do");
        for path in STAY.iter().filter(|_| self.stays.is_some()) {
            assert_eq!(fs::read_to_string(self.base().join(path)).expect(path), "stays");
        }
        let (mut at, mut ends) = (0, [0, 0]);
        loop {
            let happened = self.crash(at, &old, &new, &mut ends);
            let failed = self.fail_once(at, &old, &new);
            if !happened && !failed {
                break;
            }
            at += 1;
        }
        assert!(at > 20, "every step was tried: {at}");
        assert!(ends[0] > 0 && ends[1] > 0, "both ends are reached: {ends:?}");
    }

    /// Killed at step `at`, and killed again while it recovers.
    fn crash(&self, at: u64, old: &[StateLine], new: &[StateLine], ends: &mut [u64; 2]) -> bool {
        let mut happened = false;
        for again in [None, Some(at % 3), Some(at % 17)] {
            self.reset();
            let faults = Faults::crash(at);
            let restored = self.archive.restore_with(&self.request(), &faults);
            happened = faults.happened();
            if let Some(again) = again {
                for root in self.roots {
                    let _ = recover(&self.base().join(root), &Faults::crash(again));
                }
            }
            self.recover();
            let state = self.state();
            let is_new = state == new;
            assert!(is_new || state == old, "killed at step {at}, then {again:?}: {state:#?}");
            assert!(
                is_new || restored.is_err(),
                "killed at step {at}: success was reported and is not there"
            );
            ends[usize::from(is_new)] += 1;
            if !is_new {
                assert_eq!(self.left_behind(), Vec::<PathBuf>::new(), "killed at step {at}");
            }
        }
        happened
    }

    /// One call fails, and the program goes on.
    fn fail_once(&self, at: u64, old: &[StateLine], new: &[StateLine]) -> bool {
        self.reset();
        let faults = Faults::once(at);
        match self.archive.restore_with(&self.request(), &faults) {
            Ok(_) => assert_eq!(self.state(), new, "step {at} failed and did not matter"),
            Err(RestoreError::Interrupted { .. }) => panic!("step {at}: one failure can be undone"),
            Err(_) => {
                assert_eq!(self.state(), old, "step {at} failed and the error was reported");
                self.recover();
                assert_eq!(self.state(), old, "step {at}, and later");
            }
        }
        faults.happened()
    }
}

/// What is live and excluded, and lies in folders that the archive has.
const STAY: [&str; 4] = ["top.tmp", "cache/deep/x", "changed/sub/y.tmp", "changed/z.tmp"];

type StateLine = (PathBuf, String, Vec<u8>, Option<PathBuf>);

#[test]
fn a_whole_folder_in_place() {
    Case::new(|base| Place::InPlace { root: base.to_owned() }, Selection::Whole, &[""]).check();
}

#[test]
fn a_whole_folder_in_place_in_which_something_stays() {
    let mut case = Case::new(|base| Place::InPlace { root: base.to_owned() }, Selection::Whole, &[""]);
    let exclude = ["*.tmp", "/cache/"].map(str::to_owned);
    case.stays = Some(Rules::from(Excludes::new(&exclude).expect("patterns")));
    case.check();
}

#[test]
fn some_paths_in_place() {
    let patterns =
        PathPatterns::new(&["changed/sub".to_owned(), "created".to_owned(), "changed/linked".to_owned()]);
    let selection = Selection::Paths(patterns.expect("patterns"));
    Case::new(|base| Place::InPlace { root: base.to_owned() }, selection, &[""]).check();
}

#[test]
fn a_new_folder() {
    Case::new(|base| Place::NewFolder { path: base.join("new") }, Selection::Whole, &[""]).check();
}

#[test]
fn listed_files_in_several_folders() {
    let roots = &["", "changed", "changed/sub"];
    Case::new(|_| Place::Listed { root: "/".into() }, Selection::Whole, roots).check();
}

/// Killed before the rename with this number.
struct KilledAtRename {
    renames: std::cell::Cell<u64>,
    at: u64,
}

impl Steps for KilledAtRename {
    fn before(&self, what: &'static str) -> std::io::Result<()> {
        self.renames.set(self.renames.get() + u64::from(what == "rename"));
        if self.renames.get() > self.at { Err(std::io::Error::other("killed")) } else { Ok(()) }
    }
}

#[test]
fn what_a_program_wrote_after_the_crash_is_kept_beside_the_new_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("data", "then")]);
    let archive = Archive::of(root);
    write(root, &[("data", "now")]);
    let place = Place::InPlace { root: root.to_owned() };
    let request = request("x", place);
    let killed = KilledAtRename { renames: Default::default(), at: 1 };
    let error = archive.restore_with(&request, &killed).expect_err("killed");
    assert!(matches!(error, RestoreError::Interrupted { .. }), "{error:?}");
    assert!(!root.join("data").exists(), "between the two renames");
    write(root, &[("data", "later")]);
    let recovered = recover(root, &NoFaults).expect("it recovers");
    assert_eq!(recovered.finished, [root]);
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    assert_eq!(read("data"), "then");
    assert_eq!(read(".neurashield-x/old/data"), "now");
    assert_eq!(read(".neurashield-x/late/data"), "later");
}

#[test]
fn a_second_restore_ends_the_one_that_was_interrupted_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, &[("a", "then"), ("b", "then")]);
    let archive = Archive::of(root);
    write(root, &[("a", "now"), ("b", "now")]);
    let request = |id: &str| request(id, Place::InPlace { root: root.to_owned() });
    let killed = KilledAtRename { renames: Default::default(), at: 3 };
    archive.restore_with(&request("one"), &killed).expect_err("killed");
    let report = archive.restore(&request("two")).expect("it is restored");
    assert_eq!(report.overwritten, 2);
    assert_eq!(fs::read_to_string(root.join("b")).expect("a file"), "then");
    assert_eq!(staging(root), [".neurashield-two"]);
}

/// Where the journal of a restore of listed files lies, and one of the folders that serve it.
const FIRST: &str = "a";
const SERVES: &str = "b";

/// Listed files in two folders, `b/created` being new; true if it was killed before the rename `at`.
fn listed_and_killed(folder: &Path, at: u64) -> bool {
    let files = ["a/x", "b/created", "b/y"];
    write(folder, &files.map(|file| (file, "then")));
    let listed = files.map(|file| folder.join(file));
    let archive = Archive::read(FilesSource::listed(&listed, Excludes::none()).expect("it opens"));
    write(folder, &[("a/x", "now"), ("b/y", "now")]);
    fs::remove_file(folder.join("b/created")).expect("it goes");
    let place = Place::Listed { root: "/".into() };
    let request = request("x", place);
    let killed = KilledAtRename { renames: Default::default(), at };
    archive.restore_with(&request, &killed).is_err()
}

#[test]
fn while_the_folder_with_the_journal_is_not_mounted_those_that_serve_it_are_left_for_it() {
    let mut kills = 0;
    for at in 0.. {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().canonicalize().expect("a path");
        if !listed_and_killed(&base, at) {
            break;
        }
        kills += 1;
        // The disk is away; the folder that it is mounted on is there, and empty.
        fs::rename(base.join(FIRST), base.join("disk")).expect("it goes");
        fs::create_dir(base.join(FIRST)).expect("a folder");
        assert_eq!(recover(&base.join(FIRST), &NoFaults).expect("nothing to do"), Default::default());
        let recovered = recover(&base.join(SERVES), &NoFaults).expect("nothing is decided");
        assert_eq!(recovered.left, [base.join(SERVES)], "killed before rename {at}");
        // A later restore to the folder that serves takes it for no old state either.
        write(&base, &[("source/other", "then")]);
        let selection = Selection::Paths(PathPatterns::new(&["other".to_owned()]).expect("patterns"));
        let place = Place::InPlace { root: base.join(SERVES) };
        let request = RestoreRequest { selection, ..request("later", place) };
        Archive::of(&base.join("source")).restore(&request).expect("another file is restored");

        fs::remove_dir(base.join(FIRST)).expect("it goes");
        fs::rename(base.join("disk"), base.join(FIRST)).expect("it comes back");
        let recovered = recover(&base.join(SERVES), &NoFaults).expect("it recovers");
        assert_eq!(recovered.finished, [base.join(FIRST)], "killed before rename {at}");
        for path in ["a/x", "b/created", "b/y", "b/other"] {
            assert_eq!(fs::read_to_string(base.join(path)).expect("a file"), "then", "{path}, {at}");
        }
        assert_eq!(recover(&base.join(SERVES), &NoFaults).expect("over"), Default::default());
    }
    assert!(kills >= 5, "every rename was tried: {kills}");
}
