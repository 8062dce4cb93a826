//! A folder that is changed while it is read, by threads that do it for real.

mod files_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent::sources::ProblemKind;
use agent::sources::files::{Excludes, FilesSource};
use agent::targets::files::Place;
use files_support::*;
use repository::archive::entry::EntryKind;
use rustix::fs::{CWD, FileType, Mode};

const NAMES: u32 = 8;
const SECRET: &[u8] = b"what lies outside of the source and must be in no archive";

/// Makes `name` into one thing after the other: files that grow and shrink, links to what is outside, fifos
/// and folders.
fn turn_round(root: &Path, outside: &Path, name: u32, stop: &AtomicBool) {
    let path = root.join(name.to_string());
    for turn in (0..8).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        let _ = match (turn + name) % 8 {
            0 => fs::write(&path, vec![b'x'; 300_000]),
            1 => fs::write(&path, b"x").and_then(|()| fs::write(&path, [b'x'; 70_000])),
            2 => symlink(outside.join("secret"), &path),
            3 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).map_err(Into::into),
            4 => fs::create_dir(&path).and_then(|()| fs::write(path.join("secret"), b"x")),
            5 => symlink(outside, &path),
            6 => fs::write(&path, b""),
            _ => Ok(()),
        };
    }
}

/// Ends the threads, also where the test fails: a scope waits for them.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_source_that_changes_under_the_reader_is_read_to_its_end_in_order_and_nothing_outside_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, outside) = (folder.path().join("source"), folder.path().join("outside"));
    for place in [&root, &outside] {
        fs::create_dir(place).expect("a folder");
    }
    fs::write(outside.join("secret"), SECRET).expect("a file");
    fs::write(root.join("quiet"), b"never changed").expect("a file");
    let stop = AtomicBool::new(false);
    let (mut rounds, mut told, mut kinds) = (0, 0, [0; 3]);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for name in 0..NAMES {
            let (root, outside, stop) = (&root, &outside, &stop);
            scope.spawn(move || turn_round(root, outside, name, stop));
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1_500) || rounds < 20 {
            let archive = Archive::read(FilesSource::folder(&root, Excludes::none()).expect("it opens"));
            let paths: Vec<_> = archive.entries.iter().map(|entry| entry.path.clone()).collect();
            assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
            assert!(paths.iter().any(|path| path.as_bytes() == b"quiet"));
            for blob in archive.blobs.values() {
                assert!(!blob.windows(SECRET.len()).any(|part| part == SECRET), "a link was followed");
            }
            let allowed = [ProblemKind::Vanished, ProblemKind::Changed];
            assert!(
                archive.problems.iter().all(|problem| allowed.contains(&problem.kind)),
                "{:?}",
                archive.problems
            );
            for entry in &archive.entries {
                match entry.kind {
                    EntryKind::File(_) => kinds[0] += 1,
                    EntryKind::Symlink { .. } => kinds[1] += 1,
                    _ => kinds[2] += 1,
                }
            }
            let place = Place::NewFolder { path: folder.path().join(format!("copy{rounds}")) };
            let id = format!("r{rounds}");
            let request = request(&id, place);
            archive.restore(&request).expect("what was read can be restored");
            (rounds, told) = (rounds + 1, told + archive.problems.len());
        }
    });
    println!("{rounds} rounds, {told} problems, {kinds:?} files, links and others");
    assert!(told > 0 && kinds.iter().all(|count| *count > 0), "the races happened: {told}, {kinds:?}");
}
