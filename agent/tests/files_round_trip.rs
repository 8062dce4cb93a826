//! A nasty tree goes through source, archive and target, and comes back as it was.

mod files_support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use agent::sources::files::{Excludes, FilesSource};
use agent::sources::{Body, Item, ProblemKind, Source};
use agent::targets::files::{PathPatterns, Place, RestoreRequest, Selection};
use files_support::*;
use repository::archive::entry::{EntryKind, Layout, Pieces};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("the time can be set");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state as u8
    };
    (0..length).map(|_| step(&mut state)).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn nasty_tree(root: &Path) {
    fs::create_dir_all(root.join("a/b")).expect("folders");
    fs::create_dir(root.join("empty folder")).expect("a folder");
    File::create(root.join("empty")).expect("a file");
    fs::write(root.join("a/small"), b"small").expect("a file");
    fs::write(root.join("a-b"), b"sorts between").expect("a file");
    fs::write(root.join("large"), noise(3_000_000)).expect("a file");
    fs::write(root.join(OsStr::from_bytes(b"not\xfftext\n\\")), b"bytes").expect("a file");
    fs::write(root.join(OsStr::from_bytes(&[b'n'; 255])), b"long name").expect("a file");
    fs::write(root.join("a/first"), b"several names").expect("a file");
    fs::hard_link(root.join("a/first"), root.join("a/b/second")).expect("a link");
    fs::hard_link(root.join("a/first"), root.join("third")).expect("a link");
    symlink("nowhere/at all", root.join("dangling")).expect("a link");
    symlink("/etc/passwd", root.join("absolute")).expect("a link");
    fs::hard_link(root.join("dangling"), root.join("dangling too")).expect("a link");
    sparse(&root.join("sparse"), &[1 << 20, 3 << 20], 5 << 20);
    sparse(&root.join("starts with data"), &[0], 1 << 20);
    sparse(&root.join("only a hole"), &[], 1 << 20);
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
    if is_root() {
        let device = rustix::fs::makedev(1, 3);
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, root.join("null"), FileType::CharacterDevice, mode, device)
            .expect("a device");
        rustix::fs::chownat(
            CWD,
            root.join("a/small"),
            Some(rustix::fs::Uid::from_raw(1234)),
            Some(rustix::fs::Gid::from_raw(2345)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .expect("an owner");
        rustix::fs::lsetxattr(root.join("dangling"), "trusted.link", b"of a link", XattrFlags::empty())
            .expect("an attribute");
    }
    for (path, value) in
        [("a/small", &b"\0\xff"[..]), ("a", b"of a folder"), ("a/first", b"of several names")]
    {
        rustix::fs::setxattr(root.join(path), "user.test", value, XattrFlags::empty()).expect("an attribute");
    }
    let acl_of_1001 = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe9\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    rustix::fs::setxattr(root.join("a/b"), "system.posix_acl_default", acl_of_1001, XattrFlags::empty())
        .expect("a default ACL");
    let mut deep = root.join("deep");
    for level in 0..200 {
        deep.push(format!("level {level}"));
    }
    fs::create_dir_all(&deep).expect("folders");
    fs::write(deep.join("bottom"), b"deep").expect("a file");
    // A mode that keeps even its owner out is for root alone to read back.
    let closed = if is_root() { 0o000 } else { 0o400 };
    for (path, mode) in [("a/small", closed), ("large", 0o4755), ("empty folder", 0o1777), ("a-b", 0o640)] {
        set_mode(&root.join(path), mode);
    }
    for (path, seconds, nanoseconds) in [
        ("large", 1_700_000_000, 123_456_789),
        ("a-b", -86_400, 1),
        ("empty", -1, 999_999_999),
        ("dangling", 5, 7),
        ("fifo", 1_000_000_000, 9),
        ("empty folder", 1_234_567_890, 987_654_321),
        ("a/b", 1_600_000_000, 42),
        ("a", 1_500_000_000, 43),
        ("", 1_400_000_000, 44),
    ] {
        set_mtime(&root.join(path), seconds, nanoseconds);
    }
}

fn sparse(path: &Path, data_at: &[u64], size: u64) {
    let file = File::create(path).expect("a file");
    for offset in data_at {
        file.write_all_at(&noise(100_000), *offset).expect("data");
    }
    file.set_len(size).expect("a length");
}

fn into(path: PathBuf) -> RestoreRequest {
    let place = Place::NewFolder { path };
    request("test", place)
}

#[test]
fn a_nasty_tree_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("live");
    fs::create_dir(&root).expect("a folder");
    nasty_tree(&root);
    let archive = Archive::of(&root);
    assert_eq!(archive.problems, []);
    let before = look(&root);
    assert_eq!(archive.entries.len(), before.len());
    let report = archive.restore(&into(folder.path().join("new/below/copy"))).expect("it is restored");
    assert_same(&look(&folder.path().join("new/below/copy")), &before);
    assert_same(&look(&root), &before);
    assert_eq!(report.entries, before.len() as u64);
    assert_eq!(report.notes, Vec::<String>::new());
    assert_eq!(staging(&folder.path().join("new/below")), Vec::<String>::new());
}

#[test]
fn entries_stand_in_path_order_and_holes_are_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    nasty_tree(folder.path());
    let archive = Archive::of(folder.path());
    assert!(archive.entries.is_sorted_by(|a, b| a.path < b.path), "in order, each once");
    let EntryKind::File(sparse) = &archive.entry("sparse").kind else { panic!("a file") };
    let Layout::Sparse(extents) = &sparse.layout else { panic!("sparse") };
    assert_eq!(extents.iter().map(|extent| extent.offset).collect::<Vec<_>>(), [1 << 20, 3 << 20]);
    assert!(sparse.data_length() < 300_000);
    let EntryKind::File(hole) = &archive.entry("only a hole").kind else { panic!("a file") };
    assert_eq!((hole.data_length(), hole.size), (0, 1 << 20));
    let EntryKind::File(large) = &archive.entry("large").kind else { panic!("a file") };
    assert!(matches!(&large.pieces, Pieces::Listed(lists) if lists.len() > 1), "the lists are tried too");
    let to = repository::archive::path::EntryPath::new(b"a/b/second").expect("a path");
    assert_eq!(archive.entry("a/first").kind, EntryKind::HardLink { to: to.clone() });
    assert_eq!(archive.entry("third").kind, EntryKind::HardLink { to });
}

#[test]
fn the_other_names_of_a_socket_are_left_out_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("source");
    fs::create_dir(&root).expect("a folder");
    let _listener = UnixListener::bind(root.join("a")).expect("a socket");
    fs::hard_link(root.join("a"), root.join("b")).expect("a link");
    fs::write(root.join("file"), b"file").expect("a file");
    let archive = Archive::of(&root);
    for place in [Place::NewFolder { path: folder.path().join("new") }, Place::InPlace { root: root.clone() }]
    {
        let request = request("x", place);
        let report = archive.restore(&request).expect("it is restored");
        assert!(report.notes[0].contains("2 (first a)"), "{:?}", report.notes);
    }
    assert!(folder.path().join("new/file").exists() && !folder.path().join("new/b").exists());
    assert!(root.join("b").symlink_metadata().is_ok(), "a live socket is not taken away");
}

#[test]
fn a_socket_is_kept_in_the_archive_and_left_out_with_a_note() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("live");
    fs::create_dir(&root).expect("a folder");
    let _listener = UnixListener::bind(root.join("socket")).expect("a socket");
    let archive = Archive::of(&root);
    assert_eq!(archive.entry("socket").kind, EntryKind::Socket);
    let report = archive.restore(&into(folder.path().join("copy"))).expect("it is restored");
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    assert!(report.notes[0].contains("1 (first socket)"), "{:?}", report.notes);
    let request = request("live", Place::InPlace { root: root.clone() });
    archive.restore(&request).expect("it is restored");
    assert!(root.join("socket").symlink_metadata().is_ok(), "a live socket is not taken away");
}

#[test]
fn what_is_excluded_and_what_restores_leave_behind_is_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in ["keep", "cache/deep", "sub/cache", "sub/.neurashield-x/new", ".neurashield-y"] {
        fs::create_dir_all(folder.path().join(path)).expect("folders");
    }
    fs::write(folder.path().join("keep/a.tmp"), b"x").expect("a file");
    fs::write(folder.path().join(".neurashield-file"), b"x").expect("a file");
    let exclude = Excludes::new(&["*.tmp".to_owned(), "/cache".to_owned()]).expect("patterns");
    let archive = Archive::read(FilesSource::folder(folder.path(), exclude).expect("it opens"));
    let paths: Vec<String> = archive.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, [".", ".neurashield-file", "keep", "sub", "sub/cache"]);
}

#[test]
fn listed_files_stand_under_their_absolute_paths_and_what_is_missing_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().canonicalize().expect("a path");
    fs::create_dir_all(base.join("app/whole/below")).expect("folders");
    for name in ["app/one.yaml", "app/two.yaml", "app/other.txt", "app/whole/below/file"] {
        fs::write(base.join(name), name).expect("a file");
    }
    symlink("one.yaml", base.join("app/link")).expect("a link");
    symlink("app", base.join("linked")).expect("a link");
    let patterns =
        ["linked/*.yaml", "app/whole", "app/link", "app/missing", "app/*.none"].map(|p| base.join(p));
    let archive = Archive::read(FilesSource::listed(&patterns, Excludes::none()).expect("it opens"));
    let inside = base.strip_prefix("/").expect("absolute");
    let below: Vec<String> = (archive.entries.iter())
        .filter_map(|entry| {
            Some(
                Path::new(OsStr::from_bytes(entry.path.as_bytes()))
                    .strip_prefix(inside)
                    .ok()?
                    .display()
                    .to_string(),
            )
        })
        .collect();
    let expected = [
        "",
        "app",
        "app/link",
        "app/one.yaml",
        "app/two.yaml",
        "app/whole",
        "app/whole/below",
        "app/whole/below/file",
    ];
    assert_eq!(below, expected);
    assert!(archive.entries[0].path.is_root());
    let above = archive.entries.iter().filter(|entry| entry.kind == EntryKind::Folder).count();
    assert_eq!(above, inside.components().count() + 1 + 3, "each folder above is an entry, `/` too");
    let mut problems: Vec<_> = archive.problems.iter().map(|p| (p.kind, p.cause.as_str())).collect();
    problems.sort_by_key(|(_, cause)| *cause);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(problems[0], (ProblemKind::Unreadable, "it does not exist"));
    assert_eq!(problems[1].0, ProblemKind::LeftOut);
}

/// The file of that name, listed and not yet opened.
fn listed(root: &Path, name: &str) -> Box<dyn agent::sources::Content> {
    let mut source = FilesSource::folder(root, Excludes::none()).expect("it opens");
    while let Some(item) = source.next().expect("it goes on") {
        if let Item::Entry(entry) = item
            && entry.path.as_bytes() == name.as_bytes()
            && let Body::File { content, .. } = entry.body
        {
            return content;
        }
    }
    panic!("{name} is listed");
}

#[test]
fn a_file_that_changes_while_it_is_read_shows_by_its_stamp() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    fs::write(&path, noise(200_000)).expect("a file");
    let mut content = listed(folder.path(), "file");
    let opened = content.open().expect("it opens");
    let mut buffer = vec![0; 1000];
    assert_eq!(content.read(&mut buffer).expect("a read"), 1000);
    fs::write(&path, b"shorter").expect("it shrinks");
    assert_eq!(content.read(&mut buffer).expect("a read at the end"), 0);
    assert_ne!(content.close().expect("a stamp"), opened.stamp);

    let mut content = listed(folder.path(), "file");
    let opened = content.open().expect("it opens");
    fs::write(&path, b"longer than before").expect("it grows");
    assert_eq!(content.read(&mut buffer).expect("a read"), "shorter".len(), "no further than at the open");
    assert_eq!(content.read(&mut buffer).expect("the end"), 0);
    assert_ne!(content.close().expect("a stamp"), opened.stamp);
}

#[test]
fn a_file_that_vanishes_or_turns_into_something_else_is_told_and_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    let swaps: [fn(&Path); 5] = [
        |_| {},
        |path| fs::create_dir(path).expect("a folder"),
        |path| symlink("/etc/passwd", path).expect("a link"),
        |path| rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).expect("a fifo"),
        |path| {
            fs::write(path.with_extension("other"), b"another").expect("a file");
            fs::rename(path.with_extension("other"), path).expect("a rename");
        },
    ];
    for swap in swaps {
        fs::write(&path, b"what was listed").expect("a file");
        let mut content = listed(folder.path(), "file");
        // Held open, so that the new file cannot get the same inode.
        let _held = File::open(&path).expect("it opens");
        fs::remove_file(&path).expect("it vanishes");
        swap(&path);
        let error = content.open().err().expect("it is not what was listed");
        assert!(error.vanished, "{error:?}");
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
}

#[test]
fn a_folder_that_vanishes_or_turns_into_something_else_is_told_and_the_rest_goes_on() {
    let swaps: [fn(&Path); 3] = [
        |_| {},
        |path| symlink("/etc", path).expect("a link"),
        |path| fs::write(path, b"x").expect("a file"),
    ];
    for swap in swaps {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a", "b"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        fs::write(folder.path().join("a/last"), b"x").expect("a file");
        fs::write(folder.path().join("c"), b"x").expect("a file");
        let mut source = FilesSource::folder(folder.path(), Excludes::none()).expect("it opens");
        let mut paths = Vec::new();
        while let Some(item) = source.next().expect("it goes on") {
            match item {
                Item::Entry(entry) => paths.push(entry.path.to_string()),
                Item::Problem(problem) => panic!("{problem:?}"),
            }
            if paths.last().is_some_and(|path| path == "a/last") {
                fs::remove_dir(folder.path().join("b")).expect("it vanishes");
                swap(&folder.path().join("b"));
                break;
            }
        }
        let rest: Vec<_> = std::iter::from_fn(|| source.next().expect("it goes on")).collect();
        // What it is by now may be kept, but nothing of what a link leads to.
        for item in &rest {
            match item {
                Item::Entry(entry) => assert!([&b"b"[..], b"c"].contains(&entry.path.as_bytes())),
                Item::Problem(problem) => assert_eq!(problem.kind, ProblemKind::Vanished),
            }
        }
        assert_eq!(rest.len(), 2);
    }
}

#[test]
fn selected_paths_come_back_with_the_folders_above_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("live");
    fs::create_dir(&root).expect("a folder");
    nasty_tree(&root);
    let archive = Archive::of(&root);
    let patterns = PathPatterns::new(&["/a/b".to_owned(), "*-b".to_owned()]).expect("patterns");
    let copy = folder.path().join("copy");
    let request = RestoreRequest { selection: Selection::Paths(patterns), ..into(copy.clone()) };
    archive.restore(&request).expect("it is restored");
    let (whole, part) = (look(&root), look(&copy));
    let names: Vec<_> = part.keys().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["", "a", "a/b", "a/b/second", "a-b"]);
    for path in ["a", "a-b", "a/b"].map(Path::new) {
        assert_eq!(part[path], whole[path], "{path:?}");
    }
}
