//! The main job on the benchmark data set: agent and controller as two processes, over mutual TLS, and
//! every byte, mode, time, link and attribute comes back.
//!
//! In the gate on a twentieth of the data; `NEURASHIELD_SCALE=1` is the whole of it (2 GiB, 24,000 files), as
//! the `speed` suite runs it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use tests::{Process, System, assert_equal_folders, let_it_settle, make_dataset};

const COMPONENTS: [&str; 5] = ["models", "blockchain", "ipfs", "database", "configs"];
const MIB: u64 = 1 << 20;

fn scale() -> f64 {
    env::var("NEURASHIELD_SCALE").map_or(0.05, |text| text.parse().expect("NEURASHIELD_SCALE is a number"))
}

/// What the data set lacks: the things that backups get wrong.
fn add_oddities(folder: &Path) {
    let script = r#"
        set -e; cd "$1"
        mkdir -p odd/empty "odd/with space" odd/deep/er/and/er
        : > odd/empty-file
        printf 'not utf-8' > "$(printf 'odd/name-\377\376')"
        ln odd/empty-file odd/deep/hard-link
        ln -s ../nowhere odd/dangling; ln -s /etc/hostname odd/absolute; ln -s . odd/loop
        mkfifo odd/fifo
        truncate -s 50M odd/sparse; printf middle | dd of=odd/sparse bs=1 seek=20000000 conv=notrunc status=none
        printf x > odd/setuid; chmod 4711 odd/setuid
        printf x > odd/unreadable; chmod 0 odd/unreadable
        printf x > odd/old; touch -d '1960-02-03 04:05:06.123456789' odd/old
        touch -d '2001-01-01 00:00:00.000000001' odd/empty
        chmod 1777 odd/deep; chmod 0500 odd/deep/er
        chown 12345:54321 odd/empty-file
        setfattr -n user.note -v 'kept' odd/old 2>/dev/null || python3 -c 'import os; os.setxattr("odd/old", "user.note", b"kept")'
    "#;
    let status = Command::new("bash").args(["-c", script, "bash"]).arg(folder).status().expect("bash runs");
    assert!(status.success());
}

#[test]
fn the_data_set_goes_over_the_wire_and_comes_back_equal() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    make_dataset(&data, scale());
    add_oddities(&data.join("models"));
    let_it_settle(&data);
    let places: Vec<_> = COMPONENTS.iter().map(|name| (*name, data.join(name))).collect();
    let sources: Vec<_> = places.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let mut system = System::start(&sources);

    system.run(&["backup"]);

    // Nothing changed: nothing is read, next to nothing is sent.
    let read_before = system.proc(Process::Agent, "io", "rchar");
    let second = system.run(&["backup"]);
    let read = system.proc(Process::Agent, "io", "rchar") - read_before;
    let parts = second["parts"].as_array().expect("parts");
    let sent: u64 = parts.iter().map(|part| part["sent_bytes"].as_u64().expect("a number")).sum();
    let cache = folder_size(&system.root().join("agent"));
    println!("second backup: sent {sent} bytes, read {read} bytes, cache and state {cache} bytes");
    assert!(sent < MIB, "{sent} bytes were sent");
    assert!(read < MIB + cache, "{read} bytes were read, the cache has {cache}");

    let report = system.nsctl(&["verify", "-o", "json"]).expect(0);
    assert_eq!(report.json()["state"], "complete");

    let elsewhere = folder.path().join("restored");
    system.run(&["restore", "--timestamp", "latest", "--to", elsewhere.to_str().expect("UTF-8"), "--yes"]);
    for (name, path) in &places {
        assert_equal_folders(path, &elsewhere.join(name));
    }

    for process in [Process::Agent, Process::Controller] {
        let peak = system.proc(process, "status", "VmHWM");
        println!("{process:?}: VmHWM {} MiB", peak / 1024);
        assert!(peak < 256 * 1024, "{process:?} needed {peak} KiB");
    }
    system.kill_agent();
    system.kill_controller();
}

#[test]
fn a_changed_a_deleted_and_a_new_file_are_what_a_restore_in_place_undoes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, before) = (folder.path().join("data"), folder.path().join("before"));
    make_dataset(&data, 0.01);
    add_oddities(&data.join("ipfs"));
    let system = System::start(&[("configs", &data.join("configs")), ("ipfs", &data.join("ipfs"))]);
    system.run(&["backup"]);
    let status = Command::new("cp").arg("-a").args([&data, &before]).status().expect("cp runs");
    assert!(status.success());

    let kept = first_file(&data.join("configs"));
    fs::write(&kept, "changed").expect("written");
    fs::write(data.join("configs/new"), "new").expect("written");
    fs::remove_dir_all(data.join("ipfs/odd/deep")).expect("removed");
    fs::remove_dir_all(data.join("ipfs/blocks")).expect("removed");

    let plan = system.nsctl(&["restore", "--timestamp", "latest", "--plan", "-o", "json"]).expect(0);
    assert!(plan.out.contains("new"), "the plan names what will go: {}", plan.out);
    assert_eq!(fs::read_to_string(&kept).expect("read"), "changed", "a plan does nothing");
    assert_eq!(system.nsctl(&["restore", "--timestamp", "latest"]).code, 2, "off a terminal it needs --yes");

    system.run(&["restore", "--timestamp", "latest", "--components", "ipfs", "--yes"]);
    assert_equal_folders(&data.join("ipfs"), &before.join("ipfs"));
    assert_eq!(fs::read_to_string(&kept).expect("read"), "changed", "another component is left alone");

    let relative = kept.strip_prefix(data.join("configs")).expect("below").to_str().expect("UTF-8");
    system.run(&["restore", "--timestamp", "latest", "--components", "configs", "--path", relative, "--yes"]);
    assert_ne!(fs::read_to_string(&kept).expect("read"), "changed");
    assert!(data.join("configs/new").exists(), "only the asked path is touched");

    system.run(&["restore", "--timestamp", "latest", "--yes"]);
    assert_equal_folders(&data, &before);
}

#[test]
fn an_unreadable_file_makes_the_backup_incomplete_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir_all(&data).expect("made");
    fs::write(data.join("fine"), "fine").expect("written");
    let mut system = System::prepare(&[("models", &data), ("ipfs", &folder.path().join("missing"))]);
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let answer = system.nsctl(&["backup", "-o", "json"]).expect(3);
    let job = answer.json();
    assert_eq!(job["state"], "incomplete");
    assert!(answer.err.contains("ipfs") || answer.out.contains("cannot open the folder"), "{answer:?}");
    assert_eq!(fs::read_dir(system.repository()).expect("listed").count(), 2, "it is committed, and says so");
    let latest = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json();
    assert_eq!(latest["outcome"], "incomplete");
    let refused = system.nsctl(&["restore", "--timestamp", "latest", "--components", "ipfs", "--yes"]);
    assert_eq!(refused.code, 1, "{refused:?}");
}

fn first_file(folder: &Path) -> std::path::PathBuf {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("listed").map(|entry| entry.expect("read").path()).collect();
    entries.sort();
    entries
        .into_iter()
        .map(|path| if path.is_dir() { first_file(&path) } else { path })
        .find(|path| path.metadata().is_ok_and(|status| status.permissions().mode() & 0o400 != 0))
        .expect("a readable file")
}

fn folder_size(folder: &Path) -> u64 {
    let output = Command::new("du").args(["-sb"]).arg(folder).output().expect("du runs");
    let text = String::from_utf8(output.stdout).expect("numbers");
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
}
