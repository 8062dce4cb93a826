//! An agent that sends more than it may: refused with the reason, and nothing that was there before is lost.

use std::fs::{self, File};
use std::io::{Read, copy};
use std::path::Path;
use std::time::{Duration, Instant};

use tests::System;

/// Bytes that do not shrink.
fn noise(file: &Path, bytes: u64) {
    let random = File::open("/dev/urandom").expect("the random source");
    copy(&mut random.take(bytes), &mut File::create(file).expect("made")).expect("written");
}

fn system(quotas: &str, folder: &Path) -> System {
    let mut system = System::prepare(&[("models", folder)]);
    system.configure_controller(&format!("quotas: [ {{ agents: \"test-*\", {quotas} }} ]\n"));
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    system
}

#[test]
fn more_bytes_or_entries_than_an_agent_may_send_are_refused_and_less_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    noise(&folder.path().join("small"), 1 << 20);
    let system = system("bytes_per_archive: 24MiB, entries_per_archive: 50", folder.path());
    system.run(&["backup"]);

    let large = folder.path().join("large");
    noise(&large, 60 << 20);
    let refused = system.nsctl(&["backup"]).expect(1);
    for word in ["quota", "bytes_per_archive", "quotas"] {
        assert!(refused.err.contains(word), "{word}: {}", refused.err);
    }
    fs::remove_file(&large).expect("removed");
    for n in 0..60 {
        fs::write(folder.path().join(n.to_string()), "entry").expect("written");
    }
    let refused = system.nsctl(&["backup"]).expect(1);
    assert!(refused.err.contains("entries_per_archive"), "{}", refused.err);
    for n in 0..60 {
        fs::remove_file(folder.path().join(n.to_string())).expect("removed");
    }

    system.run(&["backup"]);
    system.nsctl(&["verify"]).expect(0);
    let listing = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listing["backups"].as_array().map(Vec::len), Some(2), "what was refused left no backup");
    let agents = system.nsctl(&["agent", "list", "-o", "json"]).expect(0).json();
    let agent = &agents["agents"][0];
    assert!(agent["quota_refusals"].as_u64() >= Some(2), "{agent:#}");
    let today = agent["bytes_today"].as_u64().expect("a number");
    assert!((1 << 20..30 << 20).contains(&today), "{agent:#}");
}

#[test]
fn a_rate_slows_and_refuses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    noise(&folder.path().join("weights"), 12 << 20);
    let system = system("rate: 4MiB", folder.path());
    let began = Instant::now();
    system.run(&["backup"]);
    assert!(
        began.elapsed() >= Duration::from_millis(1_800),
        "12 MiB at 4 MiB a second: {:?}",
        began.elapsed()
    );
}
