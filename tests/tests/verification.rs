//! Verification by a budget as people use it: everything is read in as many runs as the budget says, what was
//! proven before a kill is not read again, rot comes to light when its turn comes, and no figure says more
//! than was done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, copy};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::{System, wait_for};

/// What each backup adds, in bytes; it does not shrink.
const EACH: u64 = 3 << 20;
const IN_PART: i32 = 3;
const DAMAGED: i32 = 4;

/// Backups that share nothing, so that each pack is needed by one of them alone.
struct Story {
    system: System,
    _folder: tempfile::TempDir,
    backups: Vec<String>,
}

impl Story {
    fn begin(backups: usize, settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("made");
        let mut system = System::prepare_held(&[("models", &data)]);
        system.configure_controller(settings);
        system.start_controller();
        system.invite();
        system.start_agent();
        system.await_agent();
        let back_up = |_| {
            let mut noise = File::open("/dev/urandom").expect("the random source").take(EACH);
            copy(&mut noise, &mut File::create(data.join("weights")).expect("made")).expect("written");
            system.run(&["backup"])["backup"].as_str().expect("a name").to_owned()
        };
        let backups = (0..backups).map(back_up).collect();
        Self { system, _folder: folder, backups }
    }

    fn newest(&self) -> &str {
        self.backups.last().expect("there is one")
    }

    /// A verification that ended with this exit code.
    fn verify(&self, flags: &[&str], code: i32) -> Value {
        let words = [&["verify", "-o", "json"], flags].concat();
        self.system.nsctl(&words).expect(code).json()
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = self.system.repository().join("repository/packs");
        let folders = fs::read_dir(packs).expect("listed").map(|folder| folder.expect("read").path());
        folders
            .flat_map(|folder| fs::read_dir(folder).expect("listed"))
            .map(|pack| pack.expect("read").path())
            .collect()
    }

    /// How a job ended whose controller was killed when the first proof was kept; then this pack rotted.
    fn killed_at_its_first_proof(&mut self, order: &[&str], rots: &Path) -> Value {
        let steps = self.system.steps().clone();
        steps.ask("proofs-kept");
        let job = self.system.start_job(order);
        wait_for("a first proof", 60, || steps.reached("proofs-kept"));
        self.system.kill_controller();
        assert!(!steps.is_passed("proofs-kept"), "the kill came too late");
        steps.clear("proofs-kept");
        flip(rots);
        self.system.start_controller();
        self.system.await_end(&job)
    }

    fn size(&self) -> u64 {
        self.packs().iter().map(|pack| pack.metadata().expect("there").len()).sum()
    }
}

/// Flips a bit; once more, it is as it was.
fn flip(pack: &Path) {
    let mut bytes = fs::read(pack).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(pack, bytes).expect("damaged");
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key}: {value:#}"))
}

/// Bytes that a job has read; of what the backup needs: those that are proven now, were earlier, never were.
fn figures(job: &Value) -> [u64; 4] {
    let part = &job["parts"][0];
    let proven = &part["proven"];
    [
        number(part, "done_bytes"),
        number(proven, "now_bytes"),
        number(proven, "earlier_bytes"),
        number(proven, "unread_bytes"),
    ]
}

#[test]
fn a_budget_reads_everything_in_the_runs_that_it_says_and_finds_rot_when_its_turn_comes() {
    let story = Story::begin(4, "verification: { budget: 4MiB, everything_within: 30d }\n");
    let (total, budget) = (story.size(), 4 << 20);
    let runs = total.div_ceil(budget);
    assert_eq!(runs, 4, "{total}");
    let (mut read, mut needed) = (0, 0);
    for run in 1..=runs {
        let job = story.verify(&["--depth", "hashed"], 0);
        let [now, proven_now, earlier, unread] = figures(&job);
        read += now;
        // Up to the end of a pack.
        assert!((budget..budget + 2 * EACH).contains(&now), "run {run}: {job:#}");
        // What the newest backup needs goes before what only older ones do.
        assert_eq!(unread, 0, "run {run}: {job:#}");
        if run == 1 {
            assert_eq!(earlier, 0, "nothing was read before: {job:#}");
            needed = proven_now;
        }
        // Read now or before, and each byte counted once; later runs come round to it again.
        assert_eq!(proven_now + earlier, needed, "run {run}: {job:#}");
        assert!(run != 2 || earlier > 0, "the second run reads what the first did not: {job:#}");
    }
    assert!(read >= total, "{read} of {total}");

    // A bit flips in each pack of an old backup whose turn is over for now.
    let story_of = |name: &str| story.system.nsctl(&["show", name, "-o", "json"]).expect(0).json();
    let packs = story.packs();
    let mut damaged = BTreeSet::new();
    for pack in packs.iter().filter(|pack| pack.metadata().expect("there").len() > EACH) {
        flip(pack);
        damaged.insert(pack.file_name().expect("named").to_string_lossy().into_owned());
    }
    let (mut named, mut blamed) = (BTreeSet::new(), String::new());
    for _ in 0..runs {
        let job = story.system.nsctl(&["verify", "--depth", "hashed", "-o", "json"]).json();
        let findings = job["parts"][0]["findings"].to_string();
        let found: Vec<&String> = damaged.iter().filter(|pack| findings.contains(*pack)).collect();
        named.extend(found.into_iter().cloned());
        blamed.push_str(&findings);
    }
    assert_eq!(named, damaged, "all of them came to light within the window");
    for backup in &story.backups[..3] {
        assert!(blamed.contains(&format!("backup {backup} models/models: pack ")), "{backup}: {blamed}");
        let shown = story_of(backup);
        assert_eq!(shown["archives"][0]["verifications"][0]["intact"], false, "{shown:#}");
    }
    // Known damage is told again, and never counts as proven.
    story.verify(&["--depth", "hashed"], DAMAGED);
    story.verify(&["--all"], DAMAGED);
    let listed = story.system.nsctl(&["list"]).expect(0).out;
    assert_eq!(listed.matches("damaged").count(), 4, "{listed}");
}

#[test]
fn a_first_run_that_cannot_read_everything_says_so_and_proves_nothing_yet() {
    let story = Story::begin(2, "");
    story.system.nsctl(&["retention", "set", "--keep-last", "1", "--keep-complete", "1"]).expect(0);
    // One pack, whichever is first: metadata lies in packs of its own, so that it is never all.
    let first = story.verify(&["--budget", "1B"], IN_PART);
    let [read, now, earlier, unread] = figures(&first);
    assert_eq!((read, earlier), (now, 0), "{first:#}");
    assert!(now > 0 && unread > 0, "{first:#}");
    let needed = now + unread;
    assert_eq!(first["state"], "incomplete");
    let told = story.system.nsctl(&["show", "latest"]).expect(0).out;
    assert!(told.contains("not read yet"), "{told}");
    let listed = story.system.nsctl(&["list"]).expect(0).out;
    assert!(listed.contains("opened") && listed.contains(" % "), "{listed}");
    let plan = || story.system.nsctl(&["retention", "apply", "--plan"]).expect(0).out;
    assert!(!plan().contains("REMOVE"), "what was read in part lets nothing go: {}", plan());

    let second = story.verify(&["--budget", "1GiB"], 0);
    let [_, now, earlier, unread] = figures(&second);
    assert_eq!((now + earlier, unread), (needed, 0), "{second:#}");
    assert!(plan().contains("REMOVE"), "{}", plan());
    let notes = second["parts"][0]["proven"]["notes"].to_string();
    assert!(notes.contains("puts the files together"), "what was not done is said: {notes}");
    let whole = story.verify(&["--all"], 0);
    assert_eq!(figures(&whole), [needed, needed, 0, 0], "{whole:#}");
    story.system.nsctl(&["verify", "--all", "--budget", "1GiB"]).expect(2);
}

#[test]
fn what_was_proven_before_a_kill_is_not_read_again_and_the_job_goes_on_with_the_rest() {
    let mut story = Story::begin(3, "");
    let (total, newest) = (story.size(), story.newest().to_owned());
    let in_order = |packs: Vec<PathBuf>| {
        let named = packs.into_iter().map(|pack| (pack.file_name().expect("named").to_owned(), pack));
        named.collect::<BTreeMap<_, _>>()
    };
    let packs = in_order(story.packs());
    // Packs are read in the order of their names. The first is proven; then it rots, so that whoever reads it
    // once more finds that out.
    let first = packs.values().next().expect("a pack").clone();
    let hashed = ["verify", "--timestamp", &newest, "--budget", "1GiB", "--depth", "hashed"];
    let ended = story.killed_at_its_first_proof(&hashed, &first);
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(figures(&ended)[0], total, "both lives together have read everything: {ended:#}");
    story.system.nsctl(&hashed).expect(DAMAGED);
    flip(&first);
    story.system.nsctl(&hashed).expect(0);

    // Without a budget, too.
    let needed = story.verify(&["--all"], 0);
    let largest = packs.into_values().max_by_key(|pack| pack.metadata().expect("there").len());
    let ended = story.killed_at_its_first_proof(&["verify", "--all"], &largest.expect("a pack"));
    assert_eq!(ended["state"], "complete", "{ended:#}");
    assert_eq!(figures(&ended), figures(&needed), "{ended:#}");
}

#[test]
fn a_cancelled_verification_has_proven_what_it_has_read() {
    let story = Story::begin(2, "");
    let steps = story.system.steps();
    steps.ask("proofs-kept");
    let job = story.system.start_job(&["verify", "--budget", "1GiB"]);
    wait_for("a first proof", 60, || steps.reached("proofs-kept"));
    story.system.nsctl(&["cancel", &job]).expect(0);
    steps.let_go("proofs-kept");
    assert_eq!(story.system.await_end(&job)["state"], "cancelled");
    let next = story.verify(&["--budget", "1GiB"], 0);
    assert_eq!(next["state"], "complete", "{next:#}");
    let budget = (story.size() / 2).to_string() + "B";
    // Two runs by the half: what the cancelled one has read is older than the rest.
    let half = story.verify(&["--budget", &budget], 0);
    assert!(figures(&half)[0] < story.size(), "{half:#}");
}
