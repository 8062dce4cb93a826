//! What a source leaves out by rule, and that each reason is told once.

mod files_support;

use std::fs;
use std::path::Path;
use std::process::Command;

use agent::sources::files::{Excludes, FilesSource, Rules};
use agent::sources::{Problem, ProblemKind};
use files_support::*;

fn rules(patterns: &[&str]) -> Rules {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Excludes::new(&patterns).expect("patterns").into()
}

fn write(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, b"x").expect("a file");
    }
}

/// The paths that are kept, and what is told.
fn kept(root: &Path, rules: Rules) -> (Vec<String>, Vec<Problem>) {
    let archive = Archive::read(FilesSource::folder(root, rules).expect("it opens"));
    (archive.entries.iter().map(|entry| entry.path.to_string()).collect(), archive.problems)
}

#[test]
fn patterns_are_those_of_gitignore_and_what_they_leave_out_is_told_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = ["a.log", "kept.log", "cache", "b/cache/x", "b/c.log", "b/build/y", "build/z"];
    write(folder.path(), &files);
    let (paths, told) = kept(folder.path(), rules(&["*.log", "!kept.log", "cache/", "/build"]));
    assert_eq!(paths, [".", "b", "b/build", "b/build/y", "cache", "kept.log"]);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!((told.kind, told.path.to_string()), (ProblemKind::LeftOut, "a.log".to_owned()));
    assert_eq!(told.cause, "`exclude` matches it, and 3 more");
}

#[test]
fn a_tagged_cache_is_kept_as_a_folder_with_its_tag_alone_if_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &["c/CACHEDIR.TAG", "c/big", "c/sub/big", "d/CACHEDIR.TAG", "d/data"]);
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n";
    fs::write(folder.path().join("c/CACHEDIR.TAG"), tag).expect("written");
    let mut asked = rules(&[]);
    asked.caches = true;
    let (paths, told) = kept(folder.path(), asked);
    assert_eq!(paths, [".", "c", "c/CACHEDIR.TAG", "d", "d/CACHEDIR.TAG", "d/data"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].cause.contains("CACHEDIR.TAG") && told[0].kind == ProblemKind::LeftOut, "{told:?}");
    let (paths, told) = kept(folder.path(), rules(&[]));
    assert!(paths.contains(&"c/sub/big".to_owned()) && told.is_empty(), "{paths:?} {told:?}");
}

#[test]
fn a_repository_and_the_agents_own_state_inside_a_source_are_left_out_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    write(
        folder.path(),
        &["data", "state/key", "backups/repository/config.json", "backups/20260101_010000/x"],
    );
    for below in ["packs", "chain"] {
        fs::create_dir(folder.path().join("backups/repository").join(below)).expect("a folder");
    }
    let own = || rules(&[]).leave_out(&folder.path().join("state"));
    let (paths, told) = kept(folder.path(), own());
    assert_eq!(paths, [".", "backups", "data"]);
    let mut told: Vec<_> = told.iter().map(|told| (told.path.to_string(), told.kind)).collect();
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let left_out = ProblemKind::LeftOut;
    assert_eq!(told, [("backups".to_owned(), left_out), ("state".to_owned(), left_out)]);

    let (paths, told) = kept(&folder.path().join("backups"), own());
    assert_eq!(paths, ["."]);
    assert_eq!(told[0].kind, ProblemKind::Unreadable, "a source that is a repository is a mistake: {told:?}");
}

/// A file system in memory at a folder, for as long as this lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn at(place: &'a Path, kind: &str) -> Self {
        fs::create_dir(place).expect("a folder");
        let status = Command::new("mount").args(["-t", kind, kind]).arg(place).status().expect("mount runs");
        assert!(status.success(), "{kind} can be mounted");
        Self(place)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn other_file_systems_are_crossed_only_if_asked_for_and_the_kernels_own_never() {
    let folder = tempfile::tempdir().expect("a folder");
    let (memory, proc) = (folder.path().join("memory"), folder.path().join("proc"));
    let _mounted = [Mounted::at(&memory, "tmpfs"), Mounted::at(&proc, "proc")];
    write(folder.path(), &["memory/sub/file", "z"]);
    let (paths, told) = kept(folder.path(), rules(&[]));
    assert_eq!(paths, [".", "memory", "proc", "z"]);
    assert_eq!(told.len(), 2, "{told:?}");

    let mut across = rules(&[]);
    across.one_file_system = false;
    let (paths, told) = kept(folder.path(), across);
    assert_eq!(paths, [".", "memory", "memory/sub", "memory/sub/file", "proc", "z"]);
    assert_eq!((told.len(), told[0].path.to_string()), (1, "proc".to_owned()), "{told:?}");
}
