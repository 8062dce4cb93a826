//! Archives of real folders.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;

use repository::pack::blob::Class;

use super::bench::{Bench, noise};
use crate::cache::Day;

/// A folder with a bit of everything: about 34 MiB.
fn fill(data: &Path) {
    fs::create_dir_all(data.join("a/b/c")).expect("folders");
    fs::create_dir(data.join("empty folder")).expect("a folder");
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("small", b"some text".to_vec()),
        ("edge", noise(1, 256 << 10)),
        ("past the edge", noise(2, (256 << 10) + 1)),
        ("a/big", noise(3, 9 << 20)),
        ("a/text", b"the same line again and again\n".repeat(700_000)),
        ("a/b/copy of big", noise(3, 9 << 20)),
    ] {
        fs::write(data.join(name), bytes).expect("writes");
    }
    for n in 0..3_000 {
        fs::write(data.join(format!("a/b/c/{n}")), noise(n, (n as usize * 7) % 1_500)).expect("writes");
    }
    fs::write(data.join(OsStr::from_bytes(b"no\xfftext")), b"bytes").expect("writes");
    symlink("a/b/nowhere", data.join("link")).expect("links");
    fs::hard_link(data.join("small"), data.join("z second name")).expect("links");
    let sparse = File::create(data.join("sparse")).expect("creates");
    sparse.set_len(50 << 20).expect("grows");
    sparse.write_all_at(&noise(5, 1 << 20), 8 << 20).expect("writes");
    sparse.write_all_at(b"the end", (50 << 20) - 7).expect("writes");
}

#[test]
fn every_byte_comes_back() {
    let bench = Bench::new();
    fill(&bench.data());
    let archived = bench.backup();
    assert_eq!(archived.problems.kept(), []);
    assert_eq!((archived.counts.files, archived.counts.folders, archived.counts.links), (3_009, 5, 2));
    assert_eq!(archived.counts.reused_files, 0);
    assert_eq!(archived.counts.read_bytes, bench.reads.bytes.load(Ordering::SeqCst) as u64);
    bench.assert_comes_back(&archived);
}

#[test]
fn equal_contents_are_stored_once() {
    let bench = Bench::new();
    fs::write(bench.data().join("one"), noise(3, 9 << 20)).expect("writes");
    fs::write(bench.data().join("two"), noise(3, 9 << 20)).expect("writes");
    let archived = bench.backup();
    assert!(bench.wire.bytes(Class::Data) < 10 << 20);
    bench.assert_comes_back(&archived);
}

#[test]
fn a_second_run_over_unchanged_files_opens_none_and_sends_next_to_nothing() {
    let bench = Bench::new();
    fill(&bench.data());
    let first = bench.backup();
    let data = bench.wire.bytes(Class::Data);
    let second = bench.backup();
    assert_eq!(bench.reads.opened.load(Ordering::SeqCst), 0);
    assert_eq!((second.counts.read_bytes, second.counts.reused_files), (0, first.counts.files));
    assert_eq!(second.counts.stored_bytes, 0);
    assert_eq!(bench.wire.bytes(Class::Data), data);
    assert_eq!(second.root, first.root);
    bench.assert_comes_back(&second);
}

#[test]
fn without_a_cache_all_is_read_again_and_nothing_sent_again() {
    let bench = Bench::new();
    fill(&bench.data());
    bench.backup();
    let data = bench.wire.bytes(Class::Data);
    fs::remove_file(bench.cache()).expect("removes");
    let second = bench.backup();
    assert_eq!(second.counts.reused_files, 0);
    assert_eq!(bench.wire.bytes(Class::Data), data);
    bench.assert_comes_back(&second);
}

#[test]
fn a_change_sends_the_changed_part_and_reads_the_changed_file() {
    let bench = Bench::new();
    fill(&bench.data());
    bench.backup();
    let big = bench.data().join("a/big");
    let mut bytes = fs::read(&big).expect("reads");
    bytes.splice(4_000_000..4_000_000, *b"inserted in the middle");
    fs::write(&big, bytes).expect("writes");
    fs::write(bench.data().join("a/b/c/new"), b"a new small file").expect("writes");
    let second = bench.backup();
    assert_eq!(bench.reads.opened.load(Ordering::SeqCst), 2);
    assert!(second.counts.stored_bytes < 6 << 20, "{}", second.counts.stored_bytes);
    bench.assert_comes_back(&second);
}

#[test]
fn a_file_with_new_times_and_old_content_is_read_and_not_sent() {
    let bench = Bench::new();
    fill(&bench.data());
    bench.backup();
    let data = bench.wire.bytes(Class::Data);
    for name in ["small", "a/b/c/7", "a/big"] {
        let file = File::options().write(true).open(bench.data().join(name)).expect("opens");
        file.set_modified(std::time::UNIX_EPOCH).expect("sets its time");
    }
    let second = bench.backup();
    assert_eq!(bench.reads.opened.load(Ordering::SeqCst), 3);
    assert_eq!(bench.wire.bytes(Class::Data), data);
    bench.assert_comes_back(&second);
}

#[test]
fn in_thirty_days_every_file_is_really_read_once_and_nothing_sent() {
    let mut bench = Bench::new();
    for n in 0..400 {
        fs::write(bench.data().join(format!("{n}")), noise(n, 2_000)).expect("writes");
    }
    bench.backup();
    let data = bench.wire.bytes(Class::Data);
    let mut opened = 0;
    for day in 1..=30 {
        bench.today = Day(20_000 + day);
        bench.backup();
        opened += bench.reads.opened.load(Ordering::SeqCst);
    }
    assert_eq!(opened, 400);
    assert_eq!(bench.wire.bytes(Class::Data), data);
}

#[test]
fn a_bundle_of_which_most_is_gone_is_made_anew() {
    let bench = Bench::new();
    for n in 0..100 {
        fs::write(bench.data().join(format!("{n:03}")), noise(n, 8_000)).expect("writes");
    }
    bench.backup();
    for n in 40..100 {
        fs::remove_file(bench.data().join(format!("{n:03}"))).expect("removes");
    }
    bench.backup();
    assert_eq!(bench.reads.opened.load(Ordering::SeqCst), 0, "the run after a deletion only notices");
    let third = bench.backup();
    assert_eq!(bench.reads.opened.load(Ordering::SeqCst), 40);
    assert_eq!(third.counts.reused_files, 0);
    bench.assert_comes_back(&third);
    bench.backup();
    assert_eq!(bench.reads.opened.load(Ordering::SeqCst), 0);
}

#[test]
fn a_blob_that_the_repository_lost_is_sent_again() {
    let bench = Bench::new();
    fill(&bench.data());
    bench.backup();
    bench
        .wire
        .segments
        .lock()
        .expect("locks")
        .retain(|_, segment| segment.table.header.class == Class::Metadata);
    let second = bench.backup();
    assert_eq!(second.counts.reused_files, 3, "only empty files need no blob");
    bench.assert_comes_back(&second);
}

#[test]
fn files_that_changed_within_the_last_minute_are_read_again_next_time() {
    let bench = Bench::new();
    fs::write(bench.data().join("old"), b"old").expect("writes");
    let young = File::create(bench.data().join("young")).expect("creates");
    young
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000 - 59))
        .expect("sets");
    bench.backup();
    bench.backup();
    assert_eq!(bench.reads.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn an_empty_folder_is_an_archive() {
    let bench = Bench::new();
    let archived = bench.backup();
    assert_eq!((archived.counts.folders, archived.counts.files), (1, 0));
    bench.assert_comes_back(&archived);
}
