//! Archives that were made to do harm are refused, and nothing changes, inside or outside of the target.

mod files_support;

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent::targets::files::{
    Allowance, NoFaults, PathPatterns, Place, RestoreError, RestoreRequest, Selection, Steps, recover,
};
use files_support::*;
use repository::archive::entry::{Entry, EntryKind, Extent, FileContent, Layout, Metadata, Piece, Pieces};
use repository::archive::path::EntryPath;

fn entry(path: &str, kind: EntryKind) -> Entry {
    let mode = if kind == EntryKind::Folder { 0o755 } else { 0o644 };
    let metadata = Metadata { mode, ..Metadata::default() };
    Entry { path: EntryPath::new(path.as_bytes()).expect("a path"), metadata, kind }
}

fn link_to(path: &str) -> EntryKind {
    EntryKind::HardLink { to: EntryPath::new(path.as_bytes()).expect("a path") }
}

fn symlink_to(target: &Path) -> EntryKind {
    EntryKind::Symlink { target: target.to_str().expect("text").into() }
}

/// An archive with these entries below its root; each file holds its own path.
fn archive(entries: Vec<(&str, Option<EntryKind>)>) -> Archive {
    let mut archive = Archive::default();
    archive.entries.push(entry("", EntryKind::Folder));
    for (path, kind) in entries {
        let kind = kind.unwrap_or_else(|| dense(&mut archive, path.as_bytes()));
        archive.entries.push(entry(path, kind));
    }
    archive
}

#[track_caller]
fn assert_refused(archive: &Archive) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("live");
    fs::create_dir_all(&root).expect("a folder");
    fs::write(root.join("canary"), b"live").expect("a file");
    let before = (look(&root), look(folder.path()));
    let places =
        [Place::InPlace { root: root.clone() }, Place::NewFolder { path: folder.path().join("new") }];
    for place in places {
        let request = request("x", place);
        let error = archive.restore(&request).expect_err("it is refused");
        assert!(matches!(error, RestoreError::Archive { .. }), "{error:?}");
    }
    assert_same(&look(&root), &before.0);
    assert_same(&look(folder.path()), &before.1);
    assert_eq!(staging(&root), Vec::<String>::new());
}

/// A folder that archives try to write to, with a canary in it.
fn outside() -> (tempfile::TempDir, Tree) {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("canary"), b"outside").expect("a file");
    let tree = look(outside.path());
    (outside, tree)
}

#[test]
fn nothing_is_written_through_a_link_of_the_archive() {
    let (outside, before) = outside();
    let link = || Some(symlink_to(outside.path()));
    assert_refused(&archive(vec![("a", link()), ("a/b", None)]));
    assert_refused(&archive(vec![("a", link()), ("a", Some(EntryKind::Folder)), ("a/b", None)]));
    assert_refused(&archive(vec![("a", Some(EntryKind::Folder)), ("a", link()), ("a/b", None)]));
    assert_refused(&archive(vec![("a", link()), ("a", None)]));
    assert_refused(&archive(vec![("a", link()), ("a/canary", None)]));
    assert_same(&look(outside.path()), &before);
}

#[test]
fn entries_out_of_place_are_refused() {
    let folder = || Some(EntryKind::Folder);
    assert_refused(&archive(vec![("b", None), ("a", None)]));
    assert_refused(&archive(vec![("a", None), ("a", None)]));
    assert_refused(&archive(vec![("a", None), ("a/b", None)]));
    assert_refused(&archive(vec![("a/b", None)]));
    assert_refused(&archive(vec![("a", folder()), ("b", folder()), ("a/c", None)]));
    assert_refused(&archive(vec![("a", folder()), ("", folder())]));
    let mut rootless = archive(vec![("a", None)]);
    rootless.entries.remove(0);
    assert_refused(&rootless);
    assert_refused(&Archive::default());
}

#[test]
fn a_hard_link_to_what_is_not_an_earlier_file_of_the_archive_is_refused() {
    let folder = || Some(EntryKind::Folder);
    assert_refused(&archive(vec![("a", Some(link_to("z"))), ("z", None)]));
    assert_refused(&archive(vec![("a", Some(link_to("a")))]));
    assert_refused(&archive(vec![("b", Some(link_to("a")))]));
    assert_refused(&archive(vec![("a", folder()), ("b", Some(link_to("a")))]));
    assert_refused(&archive(vec![("b", Some(link_to("")))]));
    // Through a link of the archive, to a file that is really there.
    let (outside, before) = outside();
    assert_refused(&archive(vec![("a", Some(symlink_to(outside.path()))), ("b", Some(link_to("a/canary")))]));
    assert_same(&look(outside.path()), &before);
}

#[test]
fn content_that_is_not_what_was_backed_up_is_refused() {
    let whole = archive(vec![("a", None)]);
    let change = |change: &dyn Fn(&mut FileContent)| {
        let mut archive = whole.clone();
        let EntryKind::File(content) = &mut archive.entry_mut("a").kind else { panic!("a file") };
        change(content);
        assert_refused(&archive);
    };
    let first = |content: &FileContent| match &content.pieces {
        Pieces::Inline(pieces) => pieces[0],
        Pieces::Listed(_) => panic!("it is small"),
    };
    change(&|content| content.id = repository::ids::ContentId::new([0; 32]));
    change(&|content| content.size += 1);
    change(&|content| content.pieces = Pieces::Inline(Vec::new()));
    change(&|content| content.pieces = Pieces::Inline(vec![first(content), first(content)]));
    change(&|content| content.pieces = Pieces::Inline(vec![Piece { offset: u32::MAX, ..first(content) }]));
    change(&|content| content.pieces = Pieces::Inline(vec![Piece { length: u32::MAX, ..first(content) }]));
    change(&|content| content.layout = Layout::Sparse(vec![Extent { offset: 0, length: u64::MAX }]));
    change(&|content| content.layout = Layout::Sparse(vec![Extent { offset: u64::MAX, length: 1 }]));
    let overlap = vec![Extent { offset: 0, length: 1 }, Extent { offset: 0, length: 1 }];
    change(&|content| content.layout = Layout::Sparse(overlap.clone()));
}

#[test]
fn an_archive_cannot_plant_a_staging_folder_that_is_believed_later() {
    let folder = || Some(EntryKind::Folder);
    assert_refused(&archive(vec![(".neurashield-evil", folder()), (".neurashield-evil/journal", None)]));
    assert_refused(&archive(vec![("a", folder()), ("a/.neurashield-evil", folder())]));
}

#[test]
fn a_staging_folder_that_others_may_write_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let planted = folder.path().join(".neurashield-planted");
    for name in ["new", "old", "late"] {
        fs::create_dir_all(planted.join(name)).expect("folders");
    }
    fs::write(planted.join("new/file"), b"planted").expect("a file");
    let journal =
        "{\"begin\":{\"format\":1}}\n{\"move\":{\"area\":0,\"path\":\"file\",\"put\":true}}\n\"swapping\"\n";
    fs::write(planted.join("journal"), journal).expect("a journal");
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o755)).expect("a mode");
    recover(folder.path(), &NoFaults).expect("it is left alone");
    assert!(!folder.path().join("file").exists());
    assert!(planted.join("new/file").exists());
    // The same journal in a folder that is ours alone is ours, and is carried out.
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o700)).expect("a mode");
    recover(folder.path(), &NoFaults).expect("it is finished");
    assert!(folder.path().join("file").exists());
}

#[test]
fn more_than_the_confirmed_plan_says_is_not_restored() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::write(root.join("canary"), b"live").expect("a file");
    let before = without_root_time(look(root));
    let archive = archive(vec![("a", None), ("b", Some(EntryKind::Folder)), ("b/c", None)]);
    let planned = archive.planned(&in_place(root, "x"));
    assert_eq!((planned.entries, planned.bytes), (4, 4));
    for less in [
        Allowance { entries: planned.entries - 2, ..planned.clone() },
        Allowance { bytes: planned.bytes - 1, ..planned.clone() },
        Allowance::default(),
    ] {
        let error = archive.restore_within(&in_place(root, "x"), less, &NoFaults).expect_err("too much");
        assert!(error.to_string().contains("more than the confirmed plan says"), "{error}");
        assert_same(&without_root_time(look(root)), &before);
        assert_eq!(staging(root), Vec::<String>::new());
    }
    archive.restore_within(&in_place(root, "x"), planned, &NoFaults).expect("as planned");
}

#[test]
fn a_privilege_that_was_not_granted_is_left_out_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let device = EntryKind::Device { block: false, major: 1, minor: 3 };
    let mut archive = archive(vec![("dir", Some(EntryKind::Folder)), ("null", Some(device)), ("su", None)]);
    archive.entry_mut("dir").metadata.mode = 0o2755;
    archive.entry_mut("su").metadata.mode = 0o6755;
    let planned = archive.planned(&in_place(root, "x"));
    let allowance = Allowance { privileges: Default::default(), ..planned };
    let report = archive.restore_within(&in_place(root, "x"), allowance, &NoFaults).expect("restored");
    let mode = |name: &str| root.join(name).metadata().expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode("dir"), mode("su")), (0o2755, 0o755), "a folder's bit gives nobody rights");
    assert!(!root.join("null").exists());
    let told = "privileges that were not granted left out: 3 (first null, device)";
    assert!(report.notes.iter().any(|note| note == told), "{:?}", report.notes);
}

#[test]
fn a_new_folder_behind_somebody_elses_link_is_refused() {
    let (outside, before) = outside();
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(outside.path(), &link).expect("a link");
    if std::os::unix::fs::lchown(&link, Some(12_345), None).is_err() {
        eprintln!("only root meets links of others whom it could not trust");
        return;
    }
    let place = Place::NewFolder { path: link.join("way/new") };
    let request = request("x", place);
    let error = archive(vec![("a", None)]).restore(&request).expect_err("it is refused");
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(source.contains("a symbolic link of user 12345"), "{source}");
    assert_same(&look(outside.path()), &before);
}

#[test]
fn the_old_state_is_removed_without_following_what_was_put_into_it() {
    let (outside, before) = outside();
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::create_dir(root.join("live")).expect("a folder");
    std::os::unix::fs::symlink(outside.path(), root.join("live/link")).expect("a link");
    let archive = archive(vec![("a", None)]);
    archive.restore(&in_place(root, "one")).expect("restored");
    let old = root.join(".neurashield-one/old/live");
    // Somebody had the folder open and goes on in it.
    std::os::unix::fs::symlink(outside.path(), old.join("later")).expect("a link");
    archive.restore(&in_place(root, "two")).expect("restored");
    assert_eq!(staging(root), [".neurashield-two"]);
    assert_same(&look(outside.path()), &before);
}

#[test]
fn a_folder_that_only_leads_to_what_is_selected_gets_no_privilege_and_uses_none_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let mut archive =
        archive(vec![("way", Some(EntryKind::Folder)), ("way/file", None), ("way/other", None)]);
    for path in ["way", "way/file"] {
        archive.entry_mut(path).metadata.xattrs = vec![(b"trusted.x".to_vec(), b"x".to_vec())];
    }
    let patterns = PathPatterns::new(&["way/file".to_owned()]).expect("patterns");
    let request = RestoreRequest { selection: Selection::Paths(patterns), ..in_place(root, "x") };
    let planned = archive.planned(&request);
    assert_eq!(planned.privileges.values().collect::<Vec<_>>(), [&1], "the plan shows that of the file");
    let report = archive.restore_within(&request, planned, &NoFaults).expect("restored");
    assert!(root.join("way/file").exists());
    assert_eq!(look(root)[Path::new("way")].xattrs, []);
    let told = "privileges that were not granted left out: 1 (first way, attribute)";
    assert!(report.notes.iter().any(|note| note == told), "{:?}", report.notes);
}

type Plant = fn(&Path) -> io::Result<()>;

/// Whoever owns `parent` puts a folder of his own, as `planted` makes it, where we have just made `name`.
struct PutsAnother<'a> {
    parent: &'a Path,
    name: &'a str,
    planted: Plant,
    is_done: Cell<bool>,
}

impl Steps for PutsAnother<'_> {
    fn before(&self, what: &'static str) -> io::Result<()> {
        let made = self.parent.join(self.name);
        if what == "open the made folder" && made.exists() && !self.is_done.replace(true) {
            fs::rename(&made, self.parent.join("away"))?;
            fs::create_dir(&made)?;
            (self.planted)(&made)?;
        }
        Ok(())
    }
}

fn open_to_all(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))
}

fn of_another(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(folder, Some(12_345), None)
}

#[test]
fn a_folder_that_somebody_puts_in_place_of_one_just_made_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let live = folder.path().join("live");
    let new = || Place::NewFolder { path: live.join("way/new") };
    let here = || Place::InPlace { root: live.clone() };
    let mut cases: Vec<(Place, &str, Plant)> = vec![(here(), ".neurashield-x", open_to_all)];
    if rustix::process::geteuid().is_root() {
        cases.push((here(), ".neurashield-x", of_another));
        cases.push((new(), "way", of_another));
    }
    for (place, name, planted) in cases {
        fs::create_dir(&live).expect("a folder");
        fs::write(live.join("canary"), b"live").expect("a file");
        let request = request("x", place);
        let steps = PutsAnother { parent: &live, name, planted, is_done: Cell::new(false) };
        let error = archive(vec![("a", None)]).restore_with(&request, &steps).expect_err("it is refused");
        assert!(steps.is_done.get(), "{name} was exchanged");
        let source = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(source.contains("somebody put another folder there"), "{source}");
        assert_eq!(fs::read_dir(live.join(name)).expect("lists").count(), 0, "nothing is written there");
        assert_eq!(fs::read(live.join("canary")).expect("a file"), b"live");
        fs::remove_dir_all(&live).expect("it goes");
    }
}
