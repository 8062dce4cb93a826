//! Restores in place that cannot be done: each is refused before anything is stopped, with what to do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tests::{Application, Process, System, programs, wait_for};

fn noise(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let random = fs::File::open("/dev/urandom").expect("the random source");
    std::io::Read::read_to_end(&mut std::io::Read::take(random, length), &mut bytes).expect("read");
    bytes
}

/// A small file system, mounted at the folder until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(folder: &Path, options: &str) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(folder).status();
        assert!(status.is_ok_and(|status| status.success()), "this test mounts a small disk: run it as root");
        Self(folder.to_owned())
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(std::thread::panicking() || status.is_ok_and(|status| status.success()));
    }
}

#[test]
fn what_cannot_be_restored_is_refused_before_anything_is_stopped() {
    let system = System::prepare(&[]);
    let data = system.root().join("data");
    fs::create_dir(&data).expect("made");
    let disk = Disk::at(&data, "size=3m");
    fs::write(data.join("large"), noise(1 << 20)).expect("written");
    fs::write(data.join("value"), "one").expect("written");
    fs::create_dir(data.join("folder")).expect("made");
    fs::write(data.join("folder/inside"), "inside").expect("written");
    let app = Application::new(&data, &system.root().join("run"));
    let mut system = system;
    system.serve(&[("models", &data)]);
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    let name = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    app.start();
    let refused = |words: &[&str], code: i32, parts: &[&str]| {
        let all = [&["restore", "--yes", "--no-safety-backup"], words].concat();
        let said = system.nsctl(&all).expect(code).err;
        assert!(parts.iter().all(|part| said.contains(part)), "{words:?}: {said}");
        assert!(said.contains("to do: "), "{said}");
        assert_eq!((app.value().as_str(), app.starts()), ("one", 1), "nothing was touched");
    };
    refused(
        &["--timestamp", "20200101_000000"],
        1,
        &["there is no backup 20200101_000000", "the nearest are", &name],
    );
    refused(&["--timestamp", &name, "--components", "ipfs"], 1, &["holds nothing usable of ipfs"]);
    refused(&["--timestamp", &name, "--to-agent", "nobody"], 1, &["nobody"]);
    let inside = data.join("folder").display().to_string();
    refused(&["--timestamp", &name, "--to", &inside], 1, &["in use"]);
    refused(&["--timestamp", &name], 1, &["writes to", "applications"]);
    app.stop();

    let refused = |parts: &[&str]| {
        let answer =
            system.nsctl(&["restore", "--yes", "--no-safety-backup", "--timestamp", &name]).expect(1);
        assert!(parts.iter().all(|part| answer.err.contains(part)), "{}", answer.err);
        assert_eq!(fs::read(data.join("value")).expect("read"), b"one");
    };
    fs::write(data.join("more"), vec![7; 1_500_000]).expect("written");
    refused(&["bytes are needed beside the live state", "make room"]);
    fs::remove_file(data.join("more")).expect("removed");
    disk.remount("ro");
    refused(&["Read-only", "mount it read-write"]);
    disk.remount("rw");
    let mounted = Disk::at(&data.join("folder"), "size=1m");
    refused(&["folder is a mount point"]);
    drop(mounted);

    // A backup that was found damaged is asked about: here in its data, so that it can still be planned.
    let folders = fs::read_dir(system.repository().join("repository/packs")).expect("listed");
    let packs = folders.flat_map(|entry| fs::read_dir(entry.expect("an entry").path()).expect("listed"));
    let packs = packs.map(|entry| entry.expect("an entry").path());
    let largest = packs.max_by_key(|pack| pack.metadata().expect("its size").len()).expect("a pack");
    let mut bytes = fs::read(&largest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&largest, fs::Permissions::from_mode(0o600)).expect("set");
    fs::write(&largest, bytes).expect("written");
    system.nsctl(&["verify", "--depth", "hashed"]).expect(4);
    refused(&["is not whole", "was found damaged", "--accept-doubts"]);
}

/// One more agent of the system, of this name, that serves this folder. Ends when it is dropped.
struct OtherAgent(Child);

impl OtherAgent {
    fn join(system: &System, name: &str, folder: &Path) -> Self {
        system.invite();
        let root = system.root();
        let own = fs::read_to_string(root.join("agent.yaml")).expect("read");
        let of_own = |key: &str| own.lines().find(|line| line.starts_with(key)).expect("a line").to_owned();
        let text = format!(
            "name: {name}\n{}\nstate: {}\n{}\nsources:\n  - {{ component: uploads, kind: files, name: uploads, path: \
             {} }}\n",
            of_own("controller:"),
            root.join(name).display(),
            of_own("join:"),
            folder.display()
        );
        let file = root.join(format!("{name}.yaml"));
        fs::write(&file, text).expect("written");
        let log = fs::File::create(root.join(format!("{name}.log"))).expect("a log");
        let child = Command::new(programs().join("neurashield-agent"))
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let other = Self(child);
        wait_for("the other agent", 60, || {
            let agents = system.nsctl(&["agent", "list", "-o", "json"]).expect(0).json();
            let mut agents = agents["agents"].as_array().expect("a list").iter();
            agents.any(|one| one["name"] == name && one["connected"] == true).then_some(())
        });
        other
    }
}

impl Drop for OtherAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_that_does_not_serve_it_a_folder_of_somebody_else_and_a_missing_key_refuse_it() {
    let mut system = System::prepare(&[]);
    let data = system.root().join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("value"), "one").expect("written");
    let app = Application::in_care_of(&mut system, &data);
    let name = system.run(&["backup"])["backup"].as_str().expect("a name").to_owned();
    app.set("two");
    let restore = ["restore", "--yes", "--no-safety-backup", "--timestamp", name.as_str()];
    let untouched = || {
        assert_eq!((app.value().as_str(), app.starts()), ("two", 1), "nothing was touched");
        let mut names =
            fs::read_dir(&data).expect("listed").map(|entry| entry.expect("an entry").file_name());
        assert!(names.all(|name| !name.to_string_lossy().starts_with(".neurashield-")), "nothing is left");
    };
    let refused = |system: &System, more: &[&str], parts: &[&str]| {
        let said = system.nsctl(&[&restore[..], more].concat()).expect(1).err;
        assert!(parts.iter().all(|part| said.contains(part)), "{more:?}: {said}");
        assert!(said.contains("to do: "), "{said}");
        untouched();
    };

    let elsewhere = system.root().join("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    let other = OtherAgent::join(&system, "other", &elsewhere);
    refused(&system, &["--to-agent", "other"], &["models/models", "does not serve"]);
    assert_eq!(fs::read_dir(&elsewhere).expect("listed").count(), 0);
    drop(other);

    // Root that may do no more than the modes of files say, before a folder that is somebody else's.
    system.kill_agent();
    chown(&data, Some(4_711), Some(4_711)).expect("given");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("set");
    system.start_agent_by(&["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]);
    system.await_agent();
    let place = data.display().to_string();
    refused(&system, &[], &[&place, "give the agent's user write access"]);
    chown(&data, Some(0), Some(0)).expect("given back");

    // Without what opens its private key the controller reads nothing back, and does not begin.
    system.kill_controller();
    let key = system.root().join("controller/repository.key");
    let away = system.root().join("key");
    fs::rename(&key, &away).expect("it goes");
    system.begin_controller();
    let status = system.take(Process::Controller).wait().expect("it ends");
    assert!(!status.success());
    let said = system.log(Process::Controller);
    assert!(said.contains("repository.key"), "{said}");
    assert_ne!(system.nsctl(&restore).code, 0);
    assert!(!key.exists(), "no new one is made in its place");
    untouched();
    fs::rename(&away, &key).expect("it comes back");
    system.start_controller();
    system.await_agent();
    system.run(&restore);
    assert_eq!((app.value().as_str(), app.starts()), ("one", 2));
}
