//! The harness of the whole-system suites: real processes on real sockets, in a folder of their own.
//!
//! Must stay true: the suites see what a user sees (exit codes, JSON, bytes on disk) and nothing inside
//! the programs; waiting always has a condition and an end; whatever was started is killed.

mod api_server;
mod application;
mod clock;
mod disk;
mod docker;
mod forwarder;
pub mod ipfs;
mod kubernetes;
pub mod s3;
mod steps;
mod system;

pub use api_server::ApiServer;
pub use application::Application;
pub use disk::Disk;
pub use docker::DockerEngine;
pub use forwarder::Forwarder;
pub use kubernetes::{Cluster, SHELL_IMAGE};
pub use steps::{NamedStep, Steps};
pub use system::{Answer, Process, System};

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the built programs: where this test lies, too.
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps").to_owned();
    assert!(
        folder.join("nsctl").is_file(),
        "build the programs first: tests/run does, `cargo test -p tests` does not"
    );
    folder
}

/// The root of this project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Panics with the differences unless two folders are equal: names, bytes, modes, owners, times, links,
/// holes, extended attributes. Told by a program that shares no code with those under test.
pub fn assert_equal_folders(left: &Path, right: &Path) {
    if let Some(said) = differences_between_folders(left, right, &[]) {
        panic!("{} and {} differ:\n{said}", left.display(), right.display());
    }
}

/// The same as an answer: what differs.
pub fn compare_folders(left: &Path, right: &Path) -> Result<(), String> {
    differences_between_folders(left, right, &[]).map_or(Ok(()), Err)
}

/// What differs between two folders; `None` if they are equal.
pub fn differences_between_folders(left: &Path, right: &Path, options: &[&str]) -> Option<String> {
    let output = Command::new("python3")
        .arg(project().join("tests/compare.py"))
        .args([left, right])
        .args(["--ignore", ".neurashield-*"])
        .args(options)
        .output()
        .expect("python3 runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (!output.status.success()).then(|| said.concat())
}

/// Writes the benchmark data set in the given scale: 1.0 is 2 GiB in 24,000 files. The rule of
/// `shared/bench/make-dataset`, in a copy that belongs to this project's tests.
pub fn make_dataset(folder: &Path, scale: f64) {
    let status = Command::new("python3")
        .arg(project().join("tests/make-dataset"))
        .arg(folder)
        .args(["--scale", &scale.to_string()])
        .status()
        .expect("python3 runs");
    assert!(status.success(), "the data set could not be made");
}

/// Lets every file in `folder` be older than the cache's limit of a minute, without waiting for it: as if
/// the data had been written some time before the backup.
///
/// The change time cannot be set, so this waits until the youngest one is old enough.
pub fn let_it_settle(folder: &Path) {
    let youngest = || {
        let output = Command::new("find").arg(folder).args(["-printf", "%C@\n"]).output().expect("find runs");
        let text = String::from_utf8(output.stdout).expect("numbers");
        text.lines().map(|line| line.parse::<f64>().expect("a number")).fold(0.0, f64::max)
    };
    let now = || {
        let output = Command::new("date").arg("+%s.%N").output().expect("date runs");
        String::from_utf8(output.stdout).expect("a number").trim().parse::<f64>().expect("a number")
    };
    while now() - youngest() < 62.0 {
        pause(500);
    }
}

/// Waits until `condition` gives a value; panics with `what` after `seconds`.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed().as_secs() < seconds, "waited {seconds} s in vain for: {what}");
        pause(20);
    }
}

#[allow(clippy::disallowed_methods)] // between two looks at another process
/// Lets others go on for so long.
pub fn pause(milliseconds: u64) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}
