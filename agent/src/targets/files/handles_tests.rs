use std::fs;
use std::os::unix::fs::symlink;

use super::*;

type Way = fn(BorrowedFd<'_>, &[u8], OFlags, Mode, Mounts) -> io::Result<OwnedFd>;

fn errno(opened: io::Result<OwnedFd>) -> Option<Errno> {
    opened.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw_os_error)
}

#[test]
fn a_name_leads_through_no_link_and_no_mount_with_and_without_openat2() {
    let home = tempfile::tempdir().expect("a folder");
    fs::create_dir(home.path().join("folder")).expect("made");
    symlink("/etc", home.path().join("link")).expect("made");
    let handle = walk(home.path()).expect("it is there").handle;
    let here = format!("{}", handle.as_raw_fd());
    let root = walk(Path::new("/")).expect("it is there").handle;
    let fds = walk(Path::new("/proc/self/fd")).expect("it is there").handle;
    let (own, kernel): (Way, Way) = (by_hand, by_kernel);
    for way in [own].into_iter().chain(has_openat2().then_some(kernel)) {
        let open = |folder: &OwnedFd, name: &str, mounts| {
            way(folder.as_fd(), name.as_bytes(), FOLDER, Mode::empty(), mounts)
        };
        assert!(open(&handle, "folder", Mounts::Refused).is_ok());
        let link = errno(open(&handle, "link", Mounts::Crossed));
        assert!(matches!(link, Some(Errno::LOOP | Errno::NOTDIR)), "{link:?}");
        let magic = errno(open(&fds, &here, Mounts::Crossed));
        assert!(matches!(magic, Some(Errno::LOOP | Errno::NOTDIR)), "{magic:?}");
        assert_eq!(errno(open(&root, "proc", Mounts::Refused)), Some(Errno::XDEV));
        assert!(open(&root, "proc", Mounts::Crossed).is_ok());
    }
}

#[test]
fn only_a_single_name_is_opened() {
    let home = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(home.path().join("a/b")).expect("made");
    let handle = walk(home.path()).expect("it is there").handle;
    for wrong in ["", "..", "a/b", "/etc", "a/../.."] {
        assert_eq!(
            open_folder(&handle, wrong.as_bytes()).expect_err("not one name").kind(),
            io::ErrorKind::InvalidInput
        );
    }
    assert!(open_below(&handle, &EntryPath::new(b"a/b").expect("a path"), Mounts::Refused).is_ok());
}

#[test]
fn our_own_links_are_followed_on_the_way_and_nobody_elses() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().canonicalize().expect("it is there");
    fs::create_dir_all(home.join("real/inner")).expect("made");
    symlink("real", home.join("link")).expect("made");
    symlink("../nowhere", home.join("real/dangling")).expect("made");
    let walked = walk(&home.join("link/inner/../inner/new/deep")).expect("it can be walked");
    assert_eq!(walked.path, home.join("real/inner"));
    assert_eq!(walked.missing, ["new", "deep"]);
    let dangling = walk(&home.join("link/dangling")).expect_err("it leads to nothing");
    assert_eq!(dangling.kind(), io::ErrorKind::NotFound);
    symlink("loop", home.join("loop")).expect("made");
    assert!(walk(&home.join("loop")).is_err());
    // Only root can make a link for somebody else.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(home.join("link"), Some(12_345), None).expect("given away");
        let foreign = walk(&home.join("link/inner")).expect_err("somebody else's link");
        assert!(foreign.to_string().contains("a symbolic link of user 12345"), "{foreign}");
    }
}
