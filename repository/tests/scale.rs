//! Very many backups in one repository: what one costs must not depend on how many there are.
//!
//! In the gate some hundred backups, whose calls to the store are counted: those of the last are those of an
//! early one. `NEURASHIELD_BACKUPS=10000` is the real thing, as the suite `scale` runs it: times too, in a
//! folder of `TMPDIR`, and what the repository weighs. docs/scale.md says what the figures were.

#[path = "support/many.rs"]
mod many;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use many::Many;
use repository::check::Checks;
use repository::progress::{CancelFlag, Silent};
use repository::repo::Repository;
use repository::store::Store;
use repository::store::faulty::FaultyStore;
use repository::store::local::LocalStore;
use repository::store::memory::MemoryStore;
use repository::verify::{Depth, Verification};
use support::*;

const SOURCES: [&str; 5] = ["blockchain/main", "configs/main", "database/main", "ipfs/main", "models/main"];
/// How much more the last backup may cost than the hundredth.
const GROWTH: f64 = 1.2;
/// How many backups around the one that is named a figure is the median of.
const AROUND: usize = 41;

fn scene<S: Store + Clone + 'static>(store: &S) -> Many {
    let (repository, keys) = init(store.clone());
    Many::new(repository, keys, &SOURCES, at(0))
}

/// The calls since the last time, by operation.
fn counted(store: &FaultyStore<impl Store>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call in store.take_calls() {
        *counts.entry(format!("{:?}", call.operation)).or_default() += 1;
    }
    counts
}

fn wanted() -> Option<usize> {
    std::env::var("NEURASHIELD_BACKUPS")
        .ok()
        .map(|text| text.parse().expect("NEURASHIELD_BACKUPS is a number"))
}

/// CPU time of this thread; everything runs on it.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let nanos = text.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}

/// What a backup cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    calls: usize,
}

/// Files and bytes below a folder.
fn weight(folder: &Path) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).expect("listed") {
        let entry = entry.expect("read");
        if entry.file_type().expect("known").is_dir() {
            let (more_files, more_bytes) = weight(&entry.path());
            (files, bytes) = (files + more_files, bytes + more_bytes);
        } else {
            (files, bytes) = (files + 1, bytes + entry.metadata().expect("known").len());
        }
    }
    (files, bytes)
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let (began, before) = (Instant::now(), cpu());
    let done = act();
    println!("{what}: {:.1} ms, CPU {:.1} ms", ms(began.elapsed()), ms(cpu() - before));
    done
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[test]
fn a_late_backup_makes_the_calls_that_an_early_one_makes() {
    let store = FaultyStore::new(MemoryStore::new());
    let mut scene = scene(&store);
    let mut calls = Vec::new();
    for _ in 0..240 {
        store.take_calls();
        scene.back_up();
        calls.push(counted(&store));
    }
    let sum = |from: usize| calls[from..from + 64].iter().map(|of_one| of_one.values().sum::<usize>()).sum();
    let (early, late): (usize, usize) = (sum(40), sum(176));
    // Index files are merged at times, so that a few calls more or less are no growth.
    assert!(
        late * 100 <= early * 104,
        "64 backups: {early} calls early, {late} late; the last: {:?}",
        calls[239]
    );
    assert_eq!(calls[239].get("List"), calls[39].get("List"), "nothing is listed that grows");
    let most = calls.iter().map(|of_one| of_one.values().sum::<usize>()).max().unwrap_or(0);
    assert!(most < 500, "a backup with merges in it made {most} calls");
    let newest = &scene.repository.list().expect("listed").backups[0];
    let opened = findings(&scene.repository, Some(&scene.keys), newest, Depth::Opened);
    assert_eq!(opened, Vec::<String>::new());
    let restarted = Repository::open(scene.repository.store().clone()).expect("opens");
    assert_eq!(restarted.find_unindexed().expect("searched"), 0, "the merged index names every pack");
    for source in &scene.sources {
        let files = store.list(Some(&repository::layout::index(&source.keys.domain))).expect("listed");
        assert!(files.len() < 28, "{} index files", files.len());
    }
}

#[test]
fn the_ten_thousandth_backup_costs_what_the_hundredth_does() {
    let Some(wanted) = wanted() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let store = FaultyStore::new(LocalStore::open_or_make(folder.path()).expect("a store"));
    let mut scene = scene(&store);
    let mut costs = Vec::with_capacity(wanted);
    for _ in 0..wanted + AROUND / 2 {
        store.take_calls();
        let (began, before) = (Instant::now(), cpu());
        scene.back_up();
        costs.push(Cost { wall: began.elapsed(), cpu: cpu() - before, calls: store.take_calls().len() });
    }
    let around = |nth: usize, of: fn(&Cost) -> f64| {
        let about = &costs[nth - AROUND / 2..(nth + AROUND / 2).min(costs.len())];
        let mut values: Vec<f64> = about.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("backup: wall ms, CPU ms, calls (median of {AROUND}); mean CPU ms of the hundred before it");
    for nth in [100, 1_000, 3_000, 10_000, 30_000].into_iter().filter(|nth| *nth <= wanted) {
        let mean = costs[nth - 100..nth].iter().map(|cost| ms(cost.cpu)).sum::<f64>() / 100.0;
        println!(
            "{nth}: {:.1}, {:.1}, {}; {mean:.1}",
            around(nth, |cost| ms(cost.wall)),
            around(nth, |cost| ms(cost.cpu)),
            around(nth, |cost| cost.calls as f64)
        );
    }
    let worst = costs.iter().map(|cost| cost.calls).max().unwrap_or(0);
    println!("most calls of one backup: {worst}");
    let (files, bytes) = weight(folder.path());
    println!(
        "each backup takes {} files and {} bytes",
        files / costs.len() as u64,
        bytes / costs.len() as u64
    );

    let opened = Arc::new(timed("open", || Repository::open(Arc::new(store.clone())).expect("opens")));
    timed("start: find what no index names", || opened.find_unindexed().expect("searched"));
    timed("start: complete the chain", || opened.complete_chain(&scene.keys, at(0)).expect("completed"));
    store.take_calls();
    let listing = timed("list, every description proven", || opened.list().expect("listed"));
    println!("calls to list: {:?}", counted(&store));
    assert_eq!(listing.backups.len(), costs.len());
    let check = Verification {
        repository: &opened,
        keys: None,
        depth: Depth::Listed,
        checks: Checks::NONE,
        progress: &Silent,
        cancel: &CancelFlag::new(),
    };
    let report =
        timed("verify the newest, listed", || check.run(&listing.backups[0], |_| true).expect("done"));
    println!("calls to verify: {:?}", counted(&store));
    assert!(report.is_intact());

    for (what, of) in [("CPU", (|cost| ms(cost.cpu)) as fn(&Cost) -> f64), ("wall", |cost| ms(cost.wall))] {
        let (early, late) = (around(100, of), around(wanted, of));
        println!("{what} of the last one: {:.2} × that of the hundredth", late / early);
        assert!(late <= early * GROWTH, "{what}: {late:.1} ms after {early:.1} ms");
    }
}
