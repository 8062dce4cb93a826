//! A folder of very many small files goes in and out, and no process takes more memory for it.
//!
//! In the gate 20,000 files; `NEURASHIELD_FILES=1000000` is the real thing, as the suite `million` runs it.
//! All of them lie in the source's root: the hard case for whatever holds the names of one folder, and
//! each of them is swapped by itself when it is restored in place.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use std::{env, thread};

use tests::{Answer, Process, System, assert_equal_folders};

const FILE: usize = 4096;
const MIB: u64 = 1 << 20;
/// What a process may take however many files there are.
const LIMIT: u64 = 256 * MIB;
/// What it may take in the gate, where a part that grows with the entries is still small.
const GATE_LIMIT: u64 = 128 * MIB;
const GATE_FILES: u64 = 20_000;

fn files() -> u64 {
    env::var("NEURASHIELD_FILES")
        .map_or(GATE_FILES, |text| text.parse().expect("NEURASHIELD_FILES is a number"))
}

/// 4 KiB that no other file has and that do not compress.
fn content(seed: u64) -> [u8; FILE] {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = [0; FILE];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn write(folder: &Path, name: u64, seed: u64) {
    let path = folder.join(format!("{name:07}.json"));
    File::create(path).and_then(|mut file| file.write_all(&content(seed))).expect("written");
}

fn make(folder: &Path, count: u64) {
    fs::create_dir_all(folder).expect("made");
    thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || (half..count).step_by(2).for_each(|n| write(folder, n, n)));
        }
    });
}

/// The daemons whose memory is watched, step by step.
struct Watch<'a> {
    system: &'a System,
    limit: u64,
}

impl Watch<'_> {
    /// Runs a command of `nsctl` and looks at what all three took meanwhile.
    fn step(&self, what: &str, arguments: &[&str]) -> Answer {
        for process in [Process::Agent, Process::Controller] {
            self.system.forget_peak(process);
        }
        let began = Instant::now();
        let (answer, nsctl) = self.system.nsctl_with_peak(arguments);
        let peaks = [
            ("agent", self.system.proc(Process::Agent, "status", "VmHWM") << 10),
            ("controller", self.system.proc(Process::Controller, "status", "VmHWM") << 10),
            ("nsctl", nsctl),
        ];
        let took = began.elapsed().as_secs_f64();
        let shown = peaks.map(|(who, bytes)| format!("{who} {} MiB", bytes / MIB)).join(", ");
        println!("{what}: {took:.1} s; {shown}");
        let answer = answer.expect(0);
        for (who, bytes) in peaks {
            assert!(bytes < self.limit, "{what}: {who} took {bytes} bytes");
        }
        answer
    }
}

#[test]
fn a_folder_of_very_many_files_goes_in_and_out_in_little_memory() {
    let count = files();
    let folder = tempfile::tempdir().expect("a folder");
    let (source, elsewhere) = (folder.path().join("source"), folder.path().join("elsewhere"));
    make(&source, count);
    let mut system = System::start(&[("models", &source)]);
    let watch = Watch { system: &system, limit: if count > GATE_FILES { LIMIT } else { GATE_LIMIT } };

    let job = watch.step(&format!("backup of {count} files"), &["backup", "-o", "json"]).json();
    assert_eq!(job["state"], "complete", "{job:#}");
    let job = watch.step("backup of the same", &["backup", "-o", "json"]).json();
    assert_eq!(job["state"], "complete", "{job:#}");
    watch.step("verify", &["verify", "-o", "json"]);
    let listing = watch.step("list", &["ls", "latest", "models", "-o", "json"]);
    assert_eq!(listing.out.lines().count() as u64, count);

    let to = elsewhere.to_str().expect("UTF-8");
    watch.step(
        "restore to a new folder",
        &["restore", "--timestamp", "latest", "--to", to, "--yes", "-o", "json"],
    );
    let reference = elsewhere.join("models");
    assert_equal_folders(&source, &reference);

    for n in (0..count).step_by(1_000) {
        fs::remove_file(source.join(format!("{n:07}.json"))).expect("removed");
        write(&source, n + 1, count + n);
        write(&source, count + n, n);
    }
    let plan = ["restore", "--timestamp", "latest", "--plan", "-o", "json"];
    let plan = watch.step("plan of a restore in place", &plan).json();
    let planned = &plan["sources"][0];
    let gone = count.div_ceil(1_000);
    assert_eq!(planned["replaced"]["count"], count - gone, "{plan:#}");
    assert_eq!(planned["created"]["count"], gone, "{plan:#}");
    assert_eq!(planned["removed"]["count"], gone, "{plan:#}");
    watch.step("restore in place", &["restore", "--timestamp", "latest", "--yes", "-o", "json"]);
    assert_equal_folders(&source, &reference);
    system.kill_agent();
    system.kill_controller();
}
