//! Very many backups, seen through the programs: the list comes in pages, and a backup, an answer and a start
//! do not take longer because of them.
//!
//! In the gate some hundred backups, as many as make the list longer than a page. With
//! `NEURASHIELD_BACKUPS=10000`, as the suite `scale` runs it, the times and the CPU time of both daemons are
//! measured around the hundredth backup and around that one. The backups between are made by the library,
//! with the keys of this repository: what agent and controller meet afterwards is the same.

#[path = "../../repository/tests/support/many.rs"]
mod many;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use many::{CHANGED, FILES, Many};
use repository::keys::SlotSecret;
use repository::repo::Repository;
use repository::store::local::LocalStore;
use serde_json::Value;
use tests::{Process, System};
use zeroize::Zeroizing;

const COMPONENTS: [&str; 5] = ["blockchain", "configs", "database", "ipfs", "models"];
const IN_THE_GATE: usize = 230;
/// How much more the last backup may cost than the hundredth.
const GROWTH: f64 = 1.2;
/// How many backups a figure is the median of.
const MEASURED: usize = 31;

fn wanted() -> Option<usize> {
    std::env::var("NEURASHIELD_BACKUPS")
        .ok()
        .map(|text| text.parse().expect("NEURASHIELD_BACKUPS is a number"))
}

/// Five folders of small files.
struct Sources(Vec<PathBuf>);

impl Sources {
    fn make(root: &Path) -> Self {
        let folders: Vec<PathBuf> = COMPONENTS.iter().map(|component| root.join(component)).collect();
        for folder in &folders {
            fs::create_dir_all(folder).expect("made");
            (0..FILES).for_each(|file| write(folder, file, 0));
        }
        Self(folders)
    }

    fn change(&self, nth: usize) {
        for folder in &self.0 {
            (0..CHANGED).for_each(|of| write(folder, (nth * CHANGED + of) % FILES, nth + 1));
        }
    }
}

fn write(folder: &Path, file: usize, seed: usize) {
    let mut bytes = [0; 600];
    let seed = format!("{} {file} {seed}", folder.display());
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    fs::write(folder.join(format!("file-{file:02}")), bytes).expect("written");
}

#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    agent: Duration,
    controller: Duration,
}

/// CPU time of all threads of a process.
fn cpu(system: &System, of: Process) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", system.pid(of))).expect("listed");
    let nanos = tasks.map(|task| {
        // A thread may end meanwhile; what it took is in none of the others.
        let text = fs::read_to_string(task.expect("read").path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> Duration) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(|cost| ms(of(cost))).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Backups of changed sources, one after the other.
fn back_up(system: &System, sources: &Sources, first: usize, count: usize) -> Vec<Cost> {
    let one = |nth| {
        sources.change(nth);
        let before = [Process::Agent, Process::Controller].map(|of| cpu(system, of));
        let began = Instant::now();
        system.run(&["backup"]);
        let wall = began.elapsed();
        let [agent, controller] = [(Process::Agent, before[0]), (Process::Controller, before[1])]
            .map(|(of, before)| cpu(system, of).saturating_sub(before));
        Cost { wall, agent, controller }
    };
    (first..first + count).map(one).collect()
}

/// Makes backups behind the controller's back, while it does not run.
fn fill(system: &System, count: usize) {
    let key = fs::read(system.root().join("controller/repository.key")).expect("the key file");
    let store = LocalStore::open(&system.repository()).expect("a store");
    let repository = Arc::new(Repository::open(Arc::new(store)).expect("opens"));
    let keys = repository.unlock(&SlotSecret::KeyFile(Zeroizing::new(key))).expect("unlocks");
    repository.find_unindexed().expect("searched");
    let sources = COMPONENTS.map(|component| format!("{component}/{component}"));
    let first: Timestamp = "2020-01-01T00:00:00Z".parse().expect("a time");
    let mut many = Many::new(repository, keys, &sources.each_ref().map(String::as_str), first);
    (0..count).for_each(|_| drop(many.back_up()));
}

fn timed(system: &System, what: &str, arguments: &[&str]) -> (Value, Duration) {
    system.forget_peak(Process::Controller);
    let (began, before) = (Instant::now(), cpu(system, Process::Controller));
    let answer = system.nsctl(&[arguments, &["-o", "json"]].concat()).expect(0).json();
    let wall = began.elapsed();
    let cpu = cpu(system, Process::Controller).saturating_sub(before);
    let peak = system.proc(Process::Controller, "status", "VmHWM") >> 10;
    println!("{what}: {:.0} ms, CPU of the controller {:.0} ms, its peak {peak} MiB", ms(wall), ms(cpu));
    (answer, wall)
}

/// MiB below a folder, but for what only keeps room.
fn size(folder: &Path) -> u64 {
    let output =
        Command::new("du").args(["-sm", "--exclude", "ballast"]).arg(folder).output().expect("du runs");
    let text = String::from_utf8(output.stdout).expect("numbers");
    text.split_whitespace().next().and_then(|mebibytes| mebibytes.parse().ok()).expect("a number")
}

/// Nine of ten backups go, and the space that they took.
fn thin_out(system: &System, all: usize) {
    let keep = all / 10;
    let set = ["retention", "set", "--keep-last", &keep.to_string(), "--keep-complete", "1"];
    system.nsctl(&set).expect(0);
    system.run(&["verify", "--depth", "opened"]);
    let (plan, _) = timed(system, "plan of the retention", &["retention", "apply", "--plan"]);
    let going = plan["backups"].as_array().expect("a list").iter().filter(|backup| backup["goes"] == true);
    assert_eq!(going.count(), all - keep);
    let before = size(&system.repository());
    timed(system, "retention", &["retention", "apply", "--yes", "--approve"]);
    timed(system, "plan of the prune", &["prune", "--plan", "--now"]);
    timed(system, "prune", &["prune", "--now", "--yes", "--approve"]);
    let (listing, _) = timed(system, "list after it", &["list"]);
    assert_eq!(listing["backups"].as_array().expect("a list").len(), keep);
    let left = size(&system.repository());
    println!("{} backups went: {before} MiB before, {left} MiB after", all - keep);
    assert!(left * 2 < before, "{left} of {before} MiB are left");
    system.run(&["verify", "--depth", "opened"]);
}

#[test]
fn a_backup_a_list_and_a_start_do_not_mind_how_many_backups_there_are() {
    let home = tempfile::tempdir().expect("a folder");
    let sources = Sources::make(home.path());
    let served: Vec<(&str, &Path)> =
        COMPONENTS.iter().copied().zip(sources.0.iter().map(PathBuf::as_path)).collect();
    let mut system = System::start(&served);
    let count = wanted().unwrap_or(IN_THE_GATE);
    let is_measured = wanted().is_some();
    let early = match is_measured {
        false => back_up(&system, &sources, 0, 2),
        true => {
            back_up(&system, &sources, 0, 100 - MEASURED / 2);
            back_up(&system, &sources, 100 - MEASURED / 2, MEASURED)
        }
    };
    let before = system.proc(Process::Controller, "status", "VmRSS") >> 10;
    let made =
        system.nsctl(&["list", "-o", "json"]).expect(0).json()["backups"].as_array().expect("a list").len();
    system.kill_controller();
    fill(&system, count - made);
    let began = Instant::now();
    system.start_controller();
    println!("start with {count} backups: {:.0} ms", ms(began.elapsed()));
    system.await_agent();
    // The first after a start gives the agent all blobs of all domains.
    let first = back_up(&system, &sources, 300, 1);
    let late = back_up(&system, &sources, 301, if is_measured { MEASURED } else { 2 });
    let all = count + 1 + late.len();

    let (listing, _) = timed(&system, "list", &["list"]);
    let listed = listing["backups"].as_array().expect("a list");
    let sequences: Vec<u64> = listed.iter().filter_map(|backup| backup["sequence"].as_u64()).collect();
    assert_eq!(sequences, (1..=all as u64).rev().collect::<Vec<_>>(), "each backup once, the newest first");
    let (page, _) = timed(&system, "list of the newest 20", &["list", "--limit", "20"]);
    assert_eq!(page["backups"].as_array().expect("a list"), &listed[..20]);
    let (beyond, _) = timed(&system, "list of the newest 210", &["list", "--limit", "210"]);
    assert_eq!(beyond["backups"].as_array().expect("a list"), &listed[..210]);
    let (shown, _) = timed(&system, "show latest", &["show", "latest"]);
    assert_eq!(shown["sequence"], all);
    let (job, _) = timed(&system, "verify the latest, listed", &["verify", "--depth", "listed"]);
    assert_eq!(job["state"], "complete", "{job:#}");
    let oldest = listed[all - 1]["name"].as_str().expect("a name");
    timed(&system, "verify the oldest, opened", &["verify", "--timestamp", oldest, "--depth", "opened"]);

    println!("backup: wall ms, CPU of the agent ms, of the controller ms (median of {MEASURED})");
    for (what, costs) in [("100th", &early), ("first after the start", &first), ("last", &late)] {
        let of = [|cost: &Cost| cost.wall, |cost: &Cost| cost.agent, |cost: &Cost| cost.controller];
        println!(
            "{what}: {:.0}, {:.0}, {:.0}",
            median(costs, of[0]),
            median(costs, of[1]),
            median(costs, of[2])
        );
    }
    let after = system.proc(Process::Controller, "status", "VmRSS") >> 10;
    println!("memory of the controller (VmRSS): {before} MiB after {made} backups, {after} MiB after {all}");
    if is_measured {
        thin_out(&system, all);
        system.kill_controller();
        let began = Instant::now();
        system.start_controller();
        println!("start after it: {:.0} ms", ms(began.elapsed()));
    }
    system.kill_agent();
    system.kill_controller();
    if is_measured {
        let both = |cost: &Cost| cost.agent + cost.controller;
        for (what, early, late) in [
            ("wall", median(&early, |cost| cost.wall), median(&late, |cost| cost.wall)),
            ("CPU", median(&early, both), median(&late, both)),
        ] {
            println!("{what} of the last one: {:.2} × that of the hundredth", late / early);
            assert!(late <= early * GROWTH, "{what}: {late:.1} ms after {early:.1} ms");
        }
    }
}
