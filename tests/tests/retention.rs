//! Retention and prune as people use them: rules, plans, pins, space that is really freed, a controller
//! killed in the middle, a disk without a free byte, and those who may not.

use std::fs::{self, File};
use std::io::{Read, Write, copy};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{Answer, System, assert_equal_folders, wait_for};

/// What each backup adds, in bytes; it does not shrink.
const EACH: u64 = 3 << 20;

/// A source whose content changes for each backup, and what it was at each of them.
struct Story {
    system: System,
    folder: tempfile::TempDir,
    /// The backups so far, oldest first.
    backups: Vec<String>,
}

impl Story {
    fn begin(prepare: impl FnOnce(&[(&str, &Path)]) -> System) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("made");
        fs::write(data.join("same"), "the same in all of them").expect("written");
        let mut system = prepare(&[("models", &data)]);
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        Self { system, folder, backups: Vec::new() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn back_up(&mut self) {
        let mut noise = File::open("/dev/urandom").expect("the random source").take(EACH);
        copy(&mut noise, &mut File::create(self.data().join("weights")).expect("made")).expect("written");
        let job = self.system.run(&["backup"]);
        let name = job["backup"].as_str().expect("a name").to_owned();
        let kept = self.folder.path().join(&name);
        let copied = Command::new("cp").arg("-a").arg(self.data()).arg(kept).status().expect("cp runs");
        assert!(copied.success());
        self.backups.push(name);
    }

    fn there(&self) -> Vec<String> {
        let listing = self.system.nsctl(&["list", "-o", "json"]).expect(0).json();
        let mut names: Vec<String> =
            array(&listing["backups"]).iter().map(|one| text(&one["name"])).collect();
        names.sort();
        names
    }

    /// The backups with these places in the story.
    fn nth(&self, places: &[usize]) -> Vec<String> {
        places.iter().map(|place| self.backups[*place].clone()).collect()
    }

    /// What a plan would remove, oldest first.
    fn goes(&self) -> Vec<String> {
        let plan = self.plan();
        let goes = array(&plan["backups"]).iter().filter(|backup| backup["goes"] == true);
        let mut names: Vec<String> = goes.map(|backup| text(&backup["name"])).collect();
        names.sort();
        names
    }

    fn plan(&self) -> Value {
        self.system.nsctl(&["retention", "apply", "--plan", "-o", "json"]).expect(0).json()
    }

    /// Every backup that is left opens, comes back byte for byte, and is all that the chain misses nothing of.
    fn assert_survivors_come_back(&self) {
        for name in self.there() {
            self.system.nsctl(&["verify", "--timestamp", &name]).expect(0);
            let to = self.folder.path().join("restored");
            let place = to.to_str().expect("UTF-8");
            self.system.run(&["restore", "--timestamp", &name, "--to", place, "--yes"]);
            assert_equal_folders(&to.join("models"), &self.folder.path().join(&name));
            fs::remove_dir_all(&to).expect("removed");
        }
        let doctor = self.system.nsctl(&["doctor", "-o", "json"]).json();
        let lost = |finding: &&Value| text(&finding["finding"]).contains("is gone from");
        assert_eq!(array(&doctor["findings"]).iter().filter(lost).count(), 0, "{doctor:#}");
    }

    /// The end of a job that was killed with its controller at this step, once.
    fn killed_at(&mut self, step: &str, order: &[&str]) -> Value {
        let steps = self.system.steps().clone();
        steps.ask(step);
        let job = self.system.start_job(order);
        wait_for(&format!("{step} to be reached"), 60, || steps.reached(step));
        self.system.kill_controller();
        assert!(!steps.is_passed(step), "the kill came after {step}");
        steps.clear(step);
        self.system.start_controller();
        self.system.await_agent();
        let ended = self.system.await_end(&job);
        assert_eq!(ended["state"], "complete", "{ended:#}");
        ended
    }

    fn size(&self) -> u64 {
        let output = Command::new("du").arg("-sb").arg(self.system.repository()).output().expect("du runs");
        let text = String::from_utf8(output.stdout).expect("numbers");
        text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
    }
}

fn array(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("a list: {value:#}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text: {value:#}")).to_owned()
}

/// The reasons that a plan gives for a backup.
fn reasons(plan: &Value, name: &str) -> String {
    let found = array(&plan["backups"]).iter().find(|backup| backup["name"] == name);
    array(&found.unwrap_or_else(|| panic!("{name}: {plan:#}"))["reasons"])
        .iter()
        .map(text)
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn backups_of_a_schedule_with_rules_of_its_own_go_by_these_and_each_reason_says_whose() {
    let mut story = Story::begin(System::prepare);
    let nsctl = |story: &Story, words: &[&str], code| story.system.nsctl(words).expect(code);
    let often =
        ["schedule", "set", "often", "--backup", "0 0 1 1 *", "--keep-last", "1", "--keep-complete", "1"];
    let set = nsctl(&story, &[&often[..], &["-o", "json"]].concat(), 0).json();
    assert_eq!((&set["keeps"]["keep_last"], &set["retention"]), (&1.into(), &Value::Null), "{set:#}");
    nsctl(&story, &["schedule", "set", "check", "--verify", "0 0 1 1 *", "--keep-last", "1"], 2);
    nsctl(&story, &["retention", "set", "--keep-within", "30d", "--keep-complete", "1"], 0);
    // Two by hand, then three by the schedule, all verified.
    for by_schedule in [false, false, true, true, true] {
        let words: &[&str] = if by_schedule { &["schedule", "run", "often"] } else { &["backup"] };
        let job = story.system.run(words);
        story.backups.push(text(&job["backup"]));
        nsctl(&story, &["verify", "--timestamp", &text(&job["backup"])], 0);
    }
    let shown = nsctl(&story, &["retention", "show"], 0).out;
    assert!(shown.contains("Instead, of backups by the schedule often:"), "{shown}");
    let shown = nsctl(&story, &["retention", "show", "-o", "json"], 0).json();
    assert_eq!(shown["schedules"]["often"]["keep_last"], 1, "{shown:#}");

    assert_eq!(story.goes(), story.nth(&[2, 3]));
    let plan = story.plan();
    let reasons = |place: usize| {
        let backups = array(&plan["backups"]);
        let one =
            backups.iter().find(|one| one["name"] == story.backups[place].as_str()).expect("it is there");
        array(&one["reasons"]).iter().map(text).collect::<Vec<_>>().join("; ")
    };
    assert!(reasons(0).contains("within 30d") && !reasons(0).contains("schedule"), "{}", reasons(0));
    assert!(reasons(4).contains("the newest (schedule often)"), "{}", reasons(4));
    assert!(reasons(2).contains("kept by no rule (schedule often: last 1, 1 complete)"), "{}", reasons(2));
    story.system.run(&["retention", "apply", "--yes"]);
    assert_eq!(story.there(), story.nth(&[0, 1, 4]));
    // Without rules of its own they go by those of all.
    nsctl(&story, &["schedule", "set", "often", "--backup", "0 0 1 1 *"], 0);
    assert_eq!(story.goes(), Vec::<String>::new());
    let plan = story.plan().to_string();
    assert!(!plan.contains("schedule often"), "{plan}");
}

#[test]
fn what_no_rule_keeps_goes_its_space_with_it_and_the_rest_comes_back_whatever_is_killed() {
    let mut story = Story::begin(System::prepare_held);
    (0..4).for_each(|_| story.back_up());

    let shown = story.system.nsctl(&["retention", "show", "-o", "json"]).expect(0).json();
    assert_eq!((&shown["keep_within_seconds"], &shown["managed"]), (&2_592_000.into(), &false.into()));
    let set = ["retention", "set", "--keep-last", "1", "--keep-complete", "1"];
    story.system.nsctl(&set).expect(0);
    assert_eq!(story.goes(), story.nth(&[]), "nothing newer is verified");
    let plan = story.plan();
    assert!(reasons(&plan, &story.backups[0]).contains("no newer verified one of models/models"), "{plan:#}");

    story.system.nsctl(&["verify"]).expect(0);
    story.system.nsctl(&["pin", &story.backups[1], "--reason", "before the audit"]).expect(0);
    assert_eq!(story.goes(), story.nth(&[0, 2]));
    let plan = story.plan();
    assert_eq!(reasons(&plan, &story.backups[1]), "pinned: before the audit");
    assert!(plan["freed_bytes"].as_u64() >= Some(2 * EACH), "{plan:#}");
    let table = story.system.nsctl(&["retention", "apply", "--plan"]).expect(0).out;
    assert!(table.contains("REMOVE") && table.contains("2 of 4 backups would be removed"), "{table}");

    let unasked = story.system.nsctl(&["retention", "apply"]).expect(2);
    assert!(unasked.err.contains("--yes"), "{}", unasked.err);
    // Half of the data goes: more than the brake lets go unseen.
    let braked = story.system.nsctl(&["retention", "apply", "--yes"]).expect(1);
    assert!(braked.err.contains("--approve"), "{}", braked.err);
    assert_eq!(story.there().len(), 4, "nothing was removed so far");

    // Killed with one of the two removed: it goes on by itself.
    let ended = story.killed_at("backup-retired", &["retention", "apply", "--yes", "--approve"]);
    assert_eq!(array(&ended["cleared"]["backups"]).len(), 2, "{ended:#}");
    assert_eq!(story.there(), story.nth(&[1, 3]));

    let before = story.size();
    let planned = story.system.nsctl(&["prune", "--plan", "-o", "json"]).expect(0).json();
    assert_eq!(planned["freed_bytes"], 0, "it is too young, or waits for its grace: {planned:#}");
    let [young, waiting] =
        ["young_bytes", "waiting_bytes"].map(|key| planned[key].as_u64().expect("a number"));
    assert!(young + waiting >= 2 * EACH, "{planned:#}");
    story.killed_at("prune-marked", &["prune", "--now", "--yes", "--approve"]);
    assert!(before - story.size() >= 2 * EACH, "{before} - {} on the disk", story.size());
    story.assert_survivors_come_back();

    // A lost catalog knows the pin, and nothing of verifications: nothing goes.
    story.back_up();
    story.system.kill_controller();
    for suffix in ["", "-wal", "-shm"] {
        // Not each of them is always there.
        let _ = fs::remove_file(story.system.root().join(format!("controller/catalog.sqlite{suffix}")));
    }
    story.system.start_controller();
    let plan = story.plan();
    assert_eq!(story.goes(), story.nth(&[]), "{plan:#}");
    assert!(reasons(&plan, &story.backups[1]).starts_with("pinned: before the audit"), "{plan:#}");
    let rules = story.system.nsctl(&["retention", "show", "-o", "json"]).expect(0).json();
    assert_eq!(rules["keep_last"], 1, "the rules lie in the repository, too");

    story.system.nsctl(&["verify"]).expect(0);
    story.system.nsctl(&["unpin", &story.backups[1]]).expect(0);
    assert_eq!(story.goes(), story.nth(&[1, 3]));
    let audit = story.system.nsctl(&["audit", "--limit", "200", "-o", "json"]).expect(0).json();
    for call in ["SetRetention", "StartRetention", "StartPrune", "PinBackup", "UnpinBackup"] {
        let call = format!("Retention/{call}");
        assert!(array(&audit["entries"]).iter().any(|entry| entry["call"] == call.as_str()), "{call}");
    }
}

#[test]
fn rules_of_the_configuration_are_managed_and_a_viewer_removes_nothing() {
    let mut story = Story::begin(|sources| {
        let system = System::prepare(sources);
        system.configure_controller("retention: { keep_last: 2, keep_complete: 1 }\n");
        system
    });
    story.back_up();
    let shown = story.system.nsctl(&["retention", "show", "-o", "json"]).expect(0).json();
    assert_eq!((&shown["keep_last"], &shown["managed"]), (&2.into(), &true.into()));
    let refused = story.system.nsctl(&["retention", "set", "--keep-last", "9"]).expect(1);
    assert!(refused.err.contains("configuration declares"), "{}", refused.err);

    let server = format!("https://localhost:{}", story.system.grpc_port());
    let by = |role: &str, arguments: &[&str]| -> Answer {
        let made =
            story.system.nsctl(&["token", "create", role, "--role", role, "-o", "json"]).expect(0).json();
        let mut command = Command::new(tests::programs().join("nsctl"));
        command.args(["--server", &server]).args(arguments).env("NSCTL_TOKEN", text(&made["token"]));
        Answer::of(&command.stdin(std::process::Stdio::null()).output().expect("nsctl runs"))
    };
    by("viewer", &["retention", "show"]).expect(0);
    let pin = ["pin", "latest", "--reason", "mine"];
    for denied in [
        &["retention", "apply", "--yes"][..],
        &["prune", "--plan"],
        &pin,
        &["retention", "set", "--keep-last", "1"],
    ] {
        by("viewer", denied).expect(6);
    }
    by("operator", &["retention", "apply", "--plan"]).expect(0);
    by("operator", &pin).expect(0);
    assert_eq!(
        text(&story.system.nsctl(&["show", "latest", "-o", "json"]).expect(0).json()["pinned"]),
        "mine"
    );
    // What makes something go is an admin's.
    by("operator", &["unpin", "latest"]).expect(6);
    by("operator", &["prune", "--yes"]).expect(6);
    by("admin", &["unpin", "latest"]).expect(0);
    by("admin", &["prune", "--yes"]).expect(0);
}

/// A file system of its own, of so many MiB.
struct Mounted(PathBuf);

impl Mounted {
    fn at(folder: &Path, mib: u32) -> Self {
        fs::create_dir_all(folder).expect("made");
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(folder).status();
        assert!(mounted.is_ok_and(|status| status.success()), "mounting needs root");
        Self(folder.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_repository_without_a_free_byte_can_still_be_cleared() {
    let mut mounted = None;
    let mut story = Story::begin(|sources| {
        let system = System::prepare(sources);
        mounted = Some(Mounted::at(&system.repository(), 700));
        system
    });
    (0..4).for_each(|_| story.back_up());
    story.system.nsctl(&["retention", "set", "--keep-last", "1", "--keep-complete", "1"]).expect(0);
    story.system.nsctl(&["verify"]).expect(0);
    // The first run makes the ballast that a full disk needs.
    story.system.run(&["prune", "--yes"]);
    let mut filler = File::create(story.system.repository().join("somebody-elses-film")).expect("made");
    for piece in [vec![7; 1 << 20], vec![7; 4096], vec![7]] {
        while filler.write_all(&piece).is_ok() {}
    }
    let full = story.system.nsctl(&["backup"]);
    assert_ne!(full.code, 0, "the disk is full: {full:?}");

    story.system.run(&["retention", "apply", "--yes", "--approve"]);
    story.system.run(&["prune", "--now", "--yes", "--approve"]);
    assert_eq!(story.there(), story.nth(&[3]));
    story.back_up();
    story.assert_survivors_come_back();
}
