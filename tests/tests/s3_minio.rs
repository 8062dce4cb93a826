//! The system on MinIO, under what can happen to a server, to the way there and to a controller
//! (`tests/run s3`).
//!
//! Must stay true after each: what was reported complete opens and restores equal, no name stands for two
//! backups, nothing unfinished shows, and the next backup needs no hand.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tests::s3::{Minio, Proxy, SECRET, TestBucket};
use tests::{Process, System, assert_equal_folders, wait_for};

const SOON: u64 = 8 << 20;

/// A server, a way to it that can be harmed, and data that takes some seconds.
struct Scene {
    minio: Minio,
    proxy: Proxy,
    bucket: TestBucket,
    folder: TempDir,
    key: PathBuf,
}

impl Scene {
    fn set() -> Self {
        let minio = Minio::start();
        minio.make_bucket(TestBucket::NAME);
        let proxy = Proxy::to(minio.port());
        let bucket = TestBucket::at(proxy.port());
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        fs::write(&key, noise(64)).expect("written");
        let scene = Self { minio, proxy, bucket, folder, key };
        fs::create_dir_all(scene.data()).expect("made");
        fs::write(scene.data().join("first"), "first").expect("written");
        scene
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data/models")
    }

    fn add(&self, name: &str, megabytes: u64) {
        for file in 0..megabytes.div_ceil(16) {
            fs::write(self.data().join(format!("{name}-{file}")), noise(16 << 20)).expect("written");
        }
        for file in 0..50 {
            fs::write(self.data().join(format!("{name}-small-{file}")), noise(3000)).expect("written");
        }
    }

    /// A system on the bucket, nothing started. All of them have one key.
    fn prepare(&self) -> System {
        let data = self.data();
        let system = System::prepare_in(Some(self.bucket.clone()), &[("models", &data)]);
        system.configure_controller(&format!("key: {{ file: {} }}\n", self.key.display()));
        system
    }

    fn start(&self) -> System {
        let mut system = self.prepare();
        system.start_controller();
        join(&mut system);
        system
    }

    /// All that was reported complete opens; the newest is what the source is now.
    fn assert_sound(&self, system: &System, complete: &BTreeSet<String>) {
        self.proxy.heal();
        let newest = back_up(system);
        let listing = system.nsctl(&["list", "-o", "json"]).expect(0).json();
        let backups = listing["backups"].as_array().expect("a list");
        let names: Vec<&str> =
            backups.iter().map(|backup| backup["name"].as_str().expect("a name")).collect();
        let distinct: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(distinct.len(), names.len(), "a name stands for two backups: {names:?}");
        for name in complete {
            assert!(distinct.contains(name.as_str()), "{name} was reported complete and is not in {names:?}");
        }
        for name in names {
            system.nsctl(&["verify", "--timestamp", name]).expect(0);
        }
        let to = self.folder.path().join(format!("restored-{newest}"));
        system.run(&["restore", "--timestamp", "latest", "--to", to.to_str().expect("UTF-8"), "--yes"]);
        assert_equal_folders(&self.data(), &to.join("models"));
        fs::remove_dir_all(&to).expect("removed");
        let listed = system.offline("list", &["-o", "json"]).expect(0).json();
        let nothing = serde_json::json!([]);
        assert_eq!((&listed["legacy"], &listed["damaged"]), (&nothing, &nothing), "{listed:#}");
        assert!(!system.log(Process::Controller).contains(SECRET), "the secret is in the log");
    }
}

fn noise(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let source = fs::File::open("/dev/urandom").expect("the random source");
    source.take(length).read_to_end(&mut bytes).expect("read");
    bytes
}

fn join(system: &mut System) {
    system.invite();
    system.start_agent();
    system.await_agent();
}

fn back_up(system: &System) -> String {
    system.run(&["backup"])["backup"].as_str().expect("a name").to_owned()
}

fn signal(system: &System, signal: Signal) {
    let pid = i32::try_from(system.pid(Process::Controller)).expect("a process id");
    kill_process(Pid::from_raw(pid).expect("not 0"), signal).expect("signalled");
}

#[test]
fn the_server_is_killed_in_the_middle_of_a_backup_and_comes_back() {
    let mut scene = Scene::set();
    let system = scene.start();
    let mut complete = BTreeSet::from([back_up(&system)]);
    scene.add("one", 160);
    let job = system.start_job(&["backup"]);
    system.await_progress(&job, SOON);
    scene.minio.kill();
    scene.minio.run();
    let ended = system.await_end(&job);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    complete.insert(ended["backup"].as_str().expect("a name").to_owned());
    scene.assert_sound(&system, &complete);
}

#[test]
fn controller_and_agent_are_killed_in_the_middle_of_a_backup() {
    let scene = Scene::set();
    let mut system = scene.start();
    let mut complete = BTreeSet::from([back_up(&system)]);
    for who in [Process::Controller, Process::Agent] {
        scene.add(&format!("{who:?}"), 128);
        let job = system.start_job(&["backup"]);
        system.await_progress(&job, SOON);
        match who {
            Process::Controller => {
                system.kill_controller();
                system.start_controller();
            }
            Process::Agent => {
                system.kill_agent();
                system.start_agent();
            }
        }
        let ended = system.await_end(&job);
        assert_eq!(ended["state"], "complete", "{ended:#}");
        complete.insert(ended["backup"].as_str().expect("a name").to_owned());
    }
    scene.assert_sound(&system, &complete);
}

#[test]
fn requests_that_come_to_harm_all_the_time_cost_time_and_nothing_else() {
    let scene = Scene::set();
    let system = scene.start();
    let mut complete = BTreeSet::new();
    for seed in 0..6 {
        scene.add(&format!("seed-{seed}"), 32);
        scene.proxy.harm_at_random(8, seed);
        let job = system.await_end(&system.start_job(&["backup"]));
        match job["state"].as_str() {
            Some("complete") => drop(complete.insert(job["backup"].as_str().expect("a name").to_owned())),
            // It may give up; then it says why, and the next one needs no hand.
            state => println!("seed {seed}: {state:?}: {}", job["failure"]),
        }
        let verified = system.await_end(&system.start_job(&["verify"]));
        println!("seed {seed}: {} requests harmed, verified: {}", scene.proxy.harmed(), verified["state"]);
    }
    assert!(scene.proxy.harmed() > 50, "{}", scene.proxy.harmed());
    assert!(complete.len() >= 4, "{complete:?}");
    scene.assert_sound(&system, &complete);
}

#[test]
fn a_controller_that_slept_while_another_took_over_does_no_damage() {
    let scene = Scene::set();
    let mut first = scene.start();
    let mut complete = BTreeSet::from([back_up(&first)]);
    scene.add("of-the-first", 96);
    let slept_through = first.start_job(&["backup"]);
    first.await_progress(&slept_through, SOON);
    signal(&first, Signal::STOP);

    let mut second = scene.prepare();
    second.begin_controller();
    wait_for("the second to wait", 30, || {
        second.log(Process::Controller).contains("waiting for the repository").then_some(())
    });
    // The lease of the sleeper ends after 90 seconds.
    wait_for("the second to take over", 120, || (second.nsctl(&["list"]).code == 0).then_some(()));
    first.kill_agent();
    join(&mut second);
    complete.insert(back_up(&second));
    scene.add("of-the-second", 32);
    let running = second.start_job(&["backup"]);
    signal(&first, Signal::CONT);
    first.start_agent();
    let ended = second.await_end(&running);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    complete.insert(ended["backup"].as_str().expect("a name").to_owned());
    let late = first.await_end(&slept_through);
    assert_eq!(late["state"], "failed", "who lost the lease commits nothing: {late:#}");
    first.kill_agent();
    first.kill_controller();
    scene.assert_sound(&second, &complete);
}

#[test]
fn two_controllers_that_take_turns_by_force_give_no_name_twice() {
    let scene = Scene::set();
    let mut complete = BTreeSet::new();
    let mut last: Option<System> = None;
    for round in 0..4 {
        // Another state folder each time: another controller, which waits for the lease of the dead one.
        let system = match last.take() {
            Some(mut system) if round % 2 == 1 => {
                system.kill_controller();
                system.start_controller();
                system
            }
            other => {
                if let Some(mut before) = other {
                    before.kill_agent();
                    let mut stopped = before.take(Process::Controller);
                    let pid = Pid::from_child(&stopped);
                    kill_process(pid, Signal::TERM).expect("stopped");
                    stopped.wait().expect("reaped");
                }
                scene.start()
            }
        };
        scene.add(&format!("round-{round}"), 16);
        complete.insert(back_up(&system));
        last = Some(system);
    }
    assert_eq!(complete.len(), 4);
    scene.assert_sound(&last.expect("one runs"), &complete);
}

/// Bytes of everything in the bucket.
fn stored(system: &System) -> u64 {
    let output = std::process::Command::new("du").arg("-sb").arg(system.repository()).output();
    let text = String::from_utf8(output.expect("du runs").stdout).expect("numbers");
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

#[test]
fn retention_and_prune_get_there_while_requests_come_to_harm_and_the_controller_is_killed() {
    let scene = Scene::set();
    let mut system = scene.start();
    for round in 0..3 {
        // The one file is other bytes each time: what an earlier backup had of it goes with that backup.
        fs::write(scene.data().join("weights"), noise(12 << 20)).expect("written");
        scene.add(&format!("round-{round}"), 0);
        back_up(&system);
    }
    system.nsctl(&["retention", "set", "--keep-last", "1", "--keep-complete", "1"]).expect(0);
    system.nsctl(&["verify"]).expect(0);
    let kept = system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["name"].clone();
    let before = stored(&system);
    let orders =
        [&["retention", "apply", "--yes", "--approve"][..], &["prune", "--now", "--yes", "--approve"]];
    for (order, seed) in orders.into_iter().zip(1..) {
        scene.proxy.harm_at_random(6, seed);
        let mut tries = 0;
        let job = wait_for("an order to be taken", 120, || {
            tries += 1;
            let answer = system.nsctl(&[order, &["--detach", "-o", "json"]].concat());
            // Harm at the moment of the plan is told, and nothing is done.
            (answer.code == 0).then(|| answer.json()["id"].as_str().expect("an id").to_owned())
        });
        system.kill_controller();
        // Who is killed again and again at its start would be started again by the service manager.
        scene.proxy.heal();
        system.start_controller();
        scene.proxy.harm_at_random(6, seed);
        let ended = system.await_end(&job);
        println!(
            "{order:?}: taken at try {tries}, {} requests harmed, {}",
            scene.proxy.harmed(),
            ended["state"]
        );
        scene.proxy.heal();
        if ended["state"] != "complete" {
            // It gave up, and says why; the next one needs no hand.
            assert!(ended["failure"].is_object(), "{ended:#}");
            system.run(order);
        }
    }
    assert!(scene.proxy.harmed() > 10, "{}", scene.proxy.harmed());
    let after = stored(&system);
    assert!(before - after > 20 << 20, "{before} bytes before, {after} after");
    let listing = system.nsctl(&["list", "-o", "json"]).expect(0).json();
    assert_eq!(listing["backups"].as_array().map(Vec::len), Some(1), "{listing:#}");
    scene.assert_sound(&system, &BTreeSet::from([kept.as_str().expect("a name").to_owned()]));
    system.offline("check", &[]).expect(0);
}

fn tls(folder: &Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
                  -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
                  -keyout private.key -out public.crt 2>/dev/null";
    let status = std::process::Command::new("bash").args(["-c", script]).current_dir(folder).status();
    assert!(status.expect("bash runs").success(), "openssl made no certificate");
}

#[test]
fn a_server_with_a_certificate_of_its_own_is_trusted_by_the_file_that_names_it() {
    let certificates = tempfile::tempdir().expect("a folder");
    tls(certificates.path());
    let minio = Minio::start_with_tls(certificates.path());
    minio.make_bucket(TestBucket::NAME);
    let bucket = TestBucket::with_tls(minio.port());
    let asked = |ca: Option<&Path>| {
        let mut command = std::process::Command::new(tests::programs().join("nsctl"));
        command.args(["repository", "list", "--repository", &bucket.location()]).envs(bucket.variables());
        command.env("NEURASHIELD_S3__ALLOW_HTTP", "false");
        command.envs(ca.map(|ca| ("NEURASHIELD_S3__CA_FILE", ca)));
        tests::Answer::of(&command.output().expect("nsctl runs"))
    };
    let refused = asked(None);
    assert!(refused.err.contains("cannot be reached"), "{refused:?}");
    let trusted = asked(Some(&certificates.path().join("public.crt")));
    assert!(trusted.err.contains("there is no repository"), "{trusted:?}");
}
