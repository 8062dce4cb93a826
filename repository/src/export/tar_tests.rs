use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::archive::entry::{FileContent, Layout, Metadata, Pieces};
use crate::archive::path::EntryPath;
use crate::ids::ContentId;

use super::*;

fn entry(path: &str, kind: EntryKind) -> Entry {
    let mtime = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
    let metadata = Metadata { mode: 0o640, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
    Entry { path: EntryPath::new(path.as_bytes()).expect("a path"), metadata, kind }
}

fn file(path: &str, size: u64) -> Entry {
    let content = FileContent {
        size,
        id: ContentId::new([0; 32]),
        layout: Layout::Dense,
        pieces: Pieces::Inline(vec![]),
    };
    entry(path, EntryKind::File(content))
}

#[test]
fn gnu_tar_reads_back_what_was_written() {
    let long = format!("folder/{}", "x".repeat(200));
    let mut tar = Vec::new();
    let mut add = |entry: &Entry, content: &[u8]| {
        tar.extend(header(entry).expect("a header"));
        tar.extend_from_slice(content);
        tar.resize(tar.len() + padding(content.len() as u64), 0);
    };
    add(&entry("folder", EntryKind::Folder), b"");
    add(&file(&long, 5), b"hello");
    add(&entry("link", EntryKind::Symlink { target: b"folder/nowhere".to_vec() }), b"");
    add(&entry("hard", EntryKind::HardLink { to: EntryPath::new(long.as_bytes()).expect("a path") }), b"");
    tar.resize(tar.len() + END, 0);

    let home = tempfile::tempdir().expect("a folder");
    let archive = home.path().join("a.tar");
    std::fs::write(&archive, &tar).expect("written");
    std::fs::create_dir(home.path().join("out")).expect("made");
    let output = Command::new("tar")
        .args(["--no-same-owner", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(home.path().join("out"))
        .output()
        .expect("tar runs");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let out = home.path().join("out");
    assert_eq!(std::fs::read(out.join(&long)).expect("there"), b"hello");
    let metadata = std::fs::metadata(out.join(&long)).expect("there");
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec(), metadata.mode() & 0o777),
        (1_700_000_000, 123_456_789, 0o640)
    );
    assert_eq!(metadata.ino(), std::fs::metadata(out.join("hard")).expect("there").ino());
    assert_eq!(std::fs::read_link(out.join("link")).expect("there").to_str(), Some("folder/nowhere"));
}

#[test]
fn a_record_counts_its_own_length() {
    for length in [1, 90, 91, 92, 93, 980, 990, 9_990] {
        let mut out = Vec::new();
        record(&mut out, b"key", &vec![b'v'; length]);
        let text = String::from_utf8(out.clone()).expect("ASCII");
        let (count, _) = text.split_once(' ').expect("a length");
        assert_eq!(count.parse(), Ok(out.len()));
    }
}

#[test]
fn times_before_1970_have_their_sign_in_front() {
    assert_eq!(decimal(Timestamp { seconds: -1, nanoseconds: 250_000_000 }), "-0.750000000");
    assert_eq!(decimal(Timestamp { seconds: 5, nanoseconds: 1 }), "5.000000001");
}
