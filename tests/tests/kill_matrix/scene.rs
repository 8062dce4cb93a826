//! A small system with data, and what is ordered from it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tests::{Answer, System, assert_equal_folders, compare_folders, wait_for};

/// An order that gets no answer is given again for this long.
const PATIENCE: Duration = Duration::from_secs(100);

/// A system that can be held and cut, with two sources.
pub(crate) struct Scene {
    pub(crate) system: System,
    folder: TempDir,
    /// What was ordered so far, each counted once however often it was given.
    orders: usize,
    serial: u32,
    /// Every backup that was reported complete, and whether it was verified since.
    complete: BTreeSet<String>,
}

impl Scene {
    /// Both processes run; the agent has joined unless `alone`; there is no backup.
    pub(crate) fn set(alone: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("neurashield-scene-").tempdir().expect("a folder");
        let [models, configs] = ["models", "configs"].map(|name| folder.path().join("data").join(name));
        fs::create_dir_all(models.join("d/deep")).expect("made");
        fs::create_dir_all(&configs).expect("made");
        let system = System::prepare_held(&[("models", &models), ("configs", &configs)]);
        let mut scene = Self { system, folder, orders: 0, serial: 0, complete: BTreeSet::new() };
        scene.change();
        scene.system.start_controller();
        scene.system.invite();
        if !alone {
            scene.system.start_agent();
            scene.system.await_agent();
        }
        scene
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.folder.path().join("data/models")
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// New data in both sources, so that the next backup has something to send.
    pub(crate) fn change(&mut self) {
        self.serial += 1;
        let models = self.models();
        fs::create_dir_all(models.join("d/deep")).expect("made");
        for (name, length) in
            [("a", 100), ("b", 2_000), ("c", 30_000), ("d/deep/file", 5_000), ("weights", 90_000)]
        {
            fs::write(models.join(name), noise(length)).expect("written");
        }
        fs::write(self.folder.path().join("data/configs/settings"), noise(3_000)).expect("written");
    }

    /// What was there is gone, as when a disk is not mounted.
    pub(crate) fn lose_everything(&mut self) {
        fs::write(self.models().join("large"), noise(1_200_000)).expect("written");
        self.back_up();
        fs::remove_dir_all(self.models()).expect("removed");
        fs::create_dir(self.models()).expect("made");
    }

    /// A backup of what is there, and then other data: what a restore replaces.
    pub(crate) fn back_up_and_spoil(&mut self) {
        for extra in ["extra", "large"] {
            // Of an earlier run, if at all.
            let _ = fs::remove_file(self.models().join(extra));
        }
        self.change();
        self.back_up();
        self.keep("new");
        let models = self.models();
        fs::write(models.join("a"), format!("old {}", self.serial)).expect("written");
        fs::write(models.join("d/deep/file"), "old").expect("written");
        fs::write(models.join("extra"), "not in the backup").expect("written");
        fs::remove_file(models.join("b")).expect("removed");
        self.keep("old");
    }

    fn keep(&self, name: &str) {
        let to = self.kept(name);
        if to.exists() {
            fs::remove_dir_all(&to).expect("removed");
        }
        let copied = Command::new("cp").arg("-a").arg(self.models()).arg(&to).status().expect("cp runs");
        assert!(copied.success());
        for entry in fs::read_dir(&to).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".neurashield-")) {
                fs::remove_dir_all(path).expect("removed");
            }
        }
        let same = Command::new("touch").arg("-r").arg(self.models()).arg(&to).status().expect("touch runs");
        assert!(same.success());
    }

    /// A backup that nothing disturbs.
    pub(crate) fn back_up(&mut self) {
        self.orders += 1;
        let job = self.system.run(&["backup"]);
        self.acknowledge(&job);
    }

    /// Notes the backup that a job has reported complete, or those that it has reported removed.
    pub(crate) fn acknowledge(&mut self, job: &Value) {
        for removed in job["cleared"]["backups"].as_array().into_iter().flatten() {
            // Those of earlier cells are not noted any more.
            self.complete.remove(removed.as_str().expect("a name"));
        }
        if job["kind"] == "backup" && job["state"] == "complete" {
            self.complete.insert(job["backup"].as_str().expect("a name").to_owned());
        }
    }

    /// More backups than the rules keep, and the newest is verified.
    pub(crate) fn outgrow(&mut self) {
        self.system.nsctl(&["retention", "set", "--keep-last", "1", "--keep-complete", "1"]).expect(0);
        for _ in 0..2 {
            self.change();
            self.back_up();
        }
        self.orders += 1;
        self.system.run(&["verify"]);
    }

    /// A retention that nothing disturbs.
    pub(crate) fn retain(&mut self) {
        self.orders += 1;
        let job = self.system.run(&["retention", "apply", "--yes", "--approve"]);
        self.acknowledge(&job);
    }

    /// What is there against what was before the restore: the time of the target itself aside, which
    /// changes when a staging folder comes and a crash lets it go later.
    fn compare_with_old(&self) -> Result<(), String> {
        let (models, old) = (self.models(), self.kept("old"));
        let touched = Command::new("touch").arg("-r").arg(&models).arg(&old).status();
        assert!(touched.is_ok_and(|status| status.success()));
        compare_folders(&models, &old)
    }

    /// While no restore is at work, the target is as it was or as it will be, but for staging folders.
    pub(crate) fn assert_old_or_new(&self) {
        let models = self.models();
        let Err(from_old) = self.compare_with_old() else { return };
        let Err(from_new) = compare_folders(&models, &self.kept("new")) else { return };
        panic!("neither old nor new.\nfrom the old:\n{from_old}\nfrom the new:\n{from_new}");
    }

    /// The target at the end of a restore.
    pub(crate) fn assert_restored(&self, complete: bool) {
        if complete {
            assert_equal_folders(&self.models(), &self.kept("new"));
        } else if let Err(said) = self.compare_with_old() {
            panic!("the target is not as it was:\n{said}");
        }
        let staging: Vec<PathBuf> = (fs::read_dir(self.models()).expect("listed"))
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.file_name().expect("a name").to_string_lossy().starts_with(".neurashield-"))
            .collect();
        for folder in &staging {
            assert!(!folder.join("new").exists(), "{} is left", folder.join("new").display());
            assert!(!folder.to_string_lossy().ends_with(".preflight"), "{} is left", folder.display());
        }
        if complete {
            let replaced = format!("old {}", self.serial);
            let kept = |folder: &PathBuf| fs::read_to_string(folder.join("old/a")).ok();
            assert!(
                staging.iter().any(|folder| kept(folder).as_ref() == Some(&replaced)),
                "the state from before the restore is kept; there is {staging:?}"
            );
        }
    }

    /// Everything that was reported complete opens, the next backup needs no hand and restores equal, and
    /// nothing half-done is left.
    pub(crate) fn assert_sound(&mut self) {
        self.back_up();
        for name in std::mem::take(&mut self.complete) {
            self.orders += 1;
            self.system.nsctl(&["verify", "--timestamp", &name]).expect(0);
        }
        let place = self.kept("elsewhere");
        self.orders += 1;
        let to = place.to_str().expect("UTF-8");
        self.system.run(&["restore", "--timestamp", "latest", "--to", to, "--yes"]);
        assert_equal_folders(&self.models(), &place.join("models"));
        fs::remove_dir_all(&place).expect("removed");
        let staging = self.system.repository().join("repository/staging");
        assert_eq!(fs::read_dir(staging).map_or(0, Iterator::count), 0, "staging is empty");
        let listing = self.system.nsctl(&["list", "-o", "json"]).expect(0).json();
        for backup in listing["backups"].as_array().expect("a list") {
            assert_eq!(backup["outcome"], "complete", "{backup:#}");
        }
        let jobs = self.system.nsctl(&["jobs", "--limit", "1000", "-o", "json"]).expect(0).json();
        let jobs = jobs["jobs"].as_array().expect("a list").len();
        assert_eq!(jobs, self.orders, "as many jobs as were ordered");
    }
}

fn noise(length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let source = fs::File::open("/dev/urandom").expect("the random source");
    source.take(length).read_to_end(&mut bytes).expect("read");
    bytes
}

/// Something ordered by `nsctl`, again and again under one name until there is an answer.
pub(crate) struct Order {
    arguments: Vec<String>,
    child: Option<Child>,
    /// Another call about the same job, whose answer may be lost instead.
    pub(crate) aside: Option<Child>,
    since: Instant,
    pub(crate) job: Option<String>,
    is_given: bool,
}

impl Order {
    pub(crate) fn give(scene: &mut Scene, arguments: &[&str]) -> Self {
        let mut order = Self::later(arguments);
        order.give_now(scene);
        order
    }

    /// An order that is not given yet.
    pub(crate) fn later(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self { arguments, child: None, aside: None, since: Instant::now(), job: None, is_given: false }
    }

    /// Gives it, if it was not and the agent is there.
    pub(crate) fn give_late(&mut self, scene: &mut Scene) {
        if !self.is_given && scene.system.is_agent_there() {
            self.give_now(scene);
        }
    }

    fn give_now(&mut self, scene: &mut Scene) {
        self.is_given = true;
        scene.orders += 1;
        let name = format!("order-{}", scene.orders);
        let more = ["--request-id", &name, "--detach", "-o", "json"];
        self.arguments.extend(more.map(ToOwned::to_owned));
        self.give_again(&scene.system);
    }

    fn give_again(&mut self, system: &System) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.child = Some(spawn(system, &arguments));
    }

    /// Sees whether there is an answer; without one it is given again.
    pub(crate) fn look(&mut self, system: &System) {
        let Some(child) = &mut self.child else { return };
        if child.try_wait().expect("it can be waited for").is_none() {
            return;
        }
        let output = self.child.take().expect("it is there").wait_with_output().expect("its output");
        let answer = Answer::of(&output);
        if answer.code == 0 {
            self.job = Some(answer.json()["id"].as_str().expect("an id").to_owned());
            return;
        }
        assert!(self.since.elapsed() < PATIENCE, "never answered: {}", answer.err);
        self.give_again(system);
    }

    /// The answer, waited for.
    pub(crate) fn await_answer(&mut self, system: &System) -> String {
        wait_for("an answer to the order", 60, || {
            self.look(system);
            self.job.clone()
        })
    }

    /// Whoever ordered hears no answer, and asks again.
    pub(crate) fn hang_up(&mut self, system: &System) {
        if let Some(mut aside) = self.aside.take() {
            end(&mut aside);
            return;
        }
        let mut child = self.child.take().expect("it waits for its answer");
        assert!(child.try_wait().expect("it can be waited for").is_none(), "it has its answer already");
        end(&mut child);
        self.give_again(system);
    }

    /// The job, once it has ended.
    pub(crate) fn ended(&mut self, system: &System) -> Option<Value> {
        self.look(system);
        let job = system.job(self.job.as_ref()?)?;
        let has_ended = !job["ended_at"].is_null();
        has_ended.then_some(job)
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.child.iter_mut().chain(&mut self.aside).for_each(end);
    }
}

/// Starts `nsctl` and does not wait for it.
pub(crate) fn spawn(system: &System, arguments: &[&str]) -> Child {
    let mut command = system.nsctl_command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsctl starts")
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().expect("it can be reaped");
}

/// Tells how far the matrix is, past the capture of the test program.
pub(crate) fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").expect("written");
}
