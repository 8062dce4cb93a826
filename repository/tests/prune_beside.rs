//! A backup beside a prune beside a verification beside a restore, on one repository whose storage dies at
//! some call; then a start on what is there. Everything that a kept backup refers to is there, and nobody
//! noticed the others while it lasted.
//!
//! Eight seeds in the gate; 200 with `NEURASHIELD_PRUNE=long`, from `NEURASHIELD_FIRST_SEED` on.

mod scene;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::prune::{PruneError, PruneOrder, PruneSettings};
use repository::repo::Repository;
use repository::store::faulty::{Fault, FaultyStore};
use repository::store::memory::MemoryStore;
use repository::verify::Depth;
use repository::work::WorkKind;
use scene::*;
use support::*;

/// So many backups are always kept.
const KEPT: usize = 3;
/// So often each of the four does its work, unless the storage dies before.
const ROUNDS: u32 = 6;

struct Theatre {
    disk: MemoryStore,
    faulty: FaultyStore<MemoryStore>,
    repository: Arc<Repository>,
    keys: KeyRing,
    order: PruneOrder,
    seed: u64,
    number: AtomicU32,
    /// What each job backs up; written down before it begins.
    jobs: Mutex<BTreeMap<String, Files>>,
    /// Acknowledged, and not asked to be retired.
    kept: Mutex<Vec<BackupRecord>>,
    is_over: AtomicBool,
}

/// Files that come and go by chance, so that much is shared and much becomes garbage.
fn some_files(dice: &mut Dice) -> Files {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let content =
        |dice: &mut Dice, name| noise(&format!("{name} {}", dice.below(4)), 200 + dice.below(3) * 400);
    let mut files = Files::from([("always", noise("always", 300))]);
    for name in names {
        if dice.below(3) > 0 {
            files.insert(name, content(dice, name));
        }
    }
    files
}

impl Theatre {
    fn open(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let disk = MemoryStore::new();
        disk.set_time(at(0));
        let (_, keys) = init(disk.clone());
        let faulty = FaultyStore::new(disk.clone());
        let repository = Arc::new(Repository::open(Arc::new(faulty.clone())).expect("opens"));
        let trash_for = SignedDuration::from_hours([0, 1_000][dice.below(2)]);
        let settings = PruneSettings {
            grace: SignedDuration::ZERO,
            trash_for,
            young: SignedDuration::ZERO,
            ballast: 0,
            ..PruneSettings::default()
        };
        let order = PruneOrder { settings, approved: true, now: dice.below(3) == 0, ..PruneOrder::default() };
        let theatre = Self {
            disk,
            faulty,
            repository,
            keys,
            order,
            seed,
            number: AtomicU32::new(0),
            jobs: Mutex::default(),
            kept: Mutex::default(),
            is_over: AtomicBool::new(false),
        };
        (0..4).for_each(|_| theatre.back_up(&mut dice).expect("nothing goes wrong yet"));
        // Some end without a death.
        theatre.faulty.fail(Fault::crash_at(1 + dice.below(1_200) as u64));
        theatre
    }

    fn is_dead(&self) -> bool {
        self.faulty.unfired() == 0
    }

    fn rounds(&self, role: u64, mut act: impl FnMut(&mut Dice) -> Result<(), RepositoryError>) {
        let mut dice = Dice::new(self.seed * 1_000 + role);
        let mut round = 0;
        while !self.is_dead() && !self.is_over.load(Ordering::SeqCst) && (role > 1 || round < ROUNDS) {
            round += 1;
            if let Err(error) = act(&mut dice) {
                assert!(self.is_dead(), "seed {}, role {role}: {error:?}", self.seed);
            }
        }
    }

    fn back_up(&self, dice: &mut Dice) -> Result<(), RepositoryError> {
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        let files = some_files(dice);
        self.jobs.lock().expect("not poisoned").insert(format!("job-{number}"), files.clone());
        let record = back_up_reusing(&self.repository, &self.keys, &files, number, number.into())?;
        self.kept.lock().expect("not poisoned").push(record);
        Ok(())
    }

    fn prune(&self, dice: &mut Dice) -> Result<(), RepositoryError> {
        let which: Vec<_> = {
            let mut kept = self.kept.lock().expect("not poisoned");
            let spare = kept.len().saturating_sub(KEPT);
            let count = spare.min(dice.below(3));
            kept.drain(..count).map(|record| retirement(&record.name)).collect()
        };
        let eye = Eye::at(at(0));
        let report = self.repository.retire(&which, &self.keys, &eye)?;
        let in_use: Vec<BackupRecord> =
            report.in_use.iter().map(|name| self.repository.backup(name)).collect::<Result<_, _>>()?;
        {
            let mut kept = self.kept.lock().expect("not poisoned");
            in_use.into_iter().rev().for_each(|record| kept.insert(0, record));
        }
        let report = self.repository.prune(&self.order, &eye)?;
        assert_eq!(report.brought_back, 0, "seed {}", self.seed);
        assert_eq!(report.plan.missing_blobs, 0, "seed {}", self.seed);
        Ok(())
    }

    /// Takes a lease on some backup that is there once it has it.
    fn with_some_backup(
        &self,
        dice: &mut Dice,
        role: &str,
        kind: WorkKind,
        act: impl FnOnce(&BackupRecord) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let record = {
            let kept = self.kept.lock().expect("not poisoned");
            kept[dice.below(kept.len())].clone()
        };
        let id = work_id(&format!("{role}-{}", dice.below(1 << 30)));
        let _work = self.repository.begin_work(&id, kind, std::slice::from_ref(&record.name), at(0))?;
        if self.repository.list()?.backups.contains(&record) { act(&record) } else { Ok(()) }
    }

    fn verify(&self, dice: &mut Dice) -> Result<(), RepositoryError> {
        self.with_some_backup(dice, "verify", WorkKind::Verification, |record| {
            let found = try_findings(&self.repository, Some(&self.keys), record, Depth::Opened)?;
            assert!(found.is_empty() || self.is_dead(), "seed {}: {found:?}", self.seed);
            Ok(())
        })
    }

    fn restore(&self, dice: &mut Dice) -> Result<(), RepositoryError> {
        self.with_some_backup(dice, "restore", WorkKind::Restore, |record| {
            let files = read_back(&self.repository, &self.keys, record)?;
            assert_eq!(files, self.expected(record), "seed {}", self.seed);
            Ok(())
        })
    }

    fn expected(&self, record: &BackupRecord) -> Vec<(String, Vec<u8>)> {
        let jobs = self.jobs.lock().expect("not poisoned");
        jobs[&record.job].iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect()
    }

    fn play(&self) {
        std::thread::scope(|scope| {
            let backing_up = scope.spawn(|| self.rounds(0, |dice| self.back_up(dice)));
            let pruning = scope.spawn(|| self.rounds(1, |dice| self.prune(dice)));
            let verifying = scope.spawn(|| self.rounds(2, |dice| self.verify(dice)));
            let restoring = scope.spawn(|| self.rounds(3, |dice| self.restore(dice)));
            let ended = [backing_up.join(), pruning.join()];
            self.is_over.store(true, Ordering::SeqCst);
            let ended = ended.into_iter().chain([verifying.join(), restoring.join()]);
            ended.for_each(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        });
    }

    /// A start on what is there; a prune; and everything is looked at.
    fn check(&self) {
        let repository = Arc::new(Repository::open(Arc::new(self.disk.clone())).expect("opens"));
        let eye = Eye::at(at(0));
        repository.find_unindexed().expect("searched");
        repository.complete_chain(&self.keys, at(0)).expect("completed");
        repository.finish_retiring(&eye).expect("finished");
        for _ in 0..3 {
            let listing = repository.list().expect("listed");
            assert!(listing.lost.is_empty() && listing.damaged.is_empty(), "seed {}: {listing:?}", self.seed);
            for record in self.kept.lock().expect("not poisoned").iter() {
                assert!(listing.backups.contains(record), "seed {}: {} is gone", self.seed, record.name);
            }
            for record in &listing.backups {
                let found = findings(&repository, Some(&self.keys), record, Depth::Opened);
                assert_eq!(found, Vec::<String>::new(), "seed {}: {}", self.seed, record.name);
                let files = read_back(&repository, &self.keys, record).expect("readable");
                assert_eq!(files, self.expected(record), "seed {}: {}", self.seed, record.name);
            }
            // The leases of the dead expire first, then nothing holds the rest of the garbage.
            let late = Eye::at(at(2 * DAY));
            self.disk.set_time(at(2 * DAY));
            let order = PruneOrder { now: true, ..self.order.clone() };
            let report = repository.prune(&order, &late).expect("the next run needs no hand");
            assert_eq!((report.brought_back, report.waiting), (0, None), "seed {}", self.seed);
        }
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn a_backup_beside_a_prune_beside_a_verification_beside_a_restore() {
    let is_long = env("NEURASHIELD_PRUNE").is_some_and(|form| form == "long");
    let first: u64 = env("NEURASHIELD_FIRST_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let seeds = if is_long { 200 } else { 8 };
    let mut deaths = 0;
    for seed in first..first + seeds {
        let theatre = Theatre::open(seed);
        theatre.play();
        deaths += u64::from(theatre.is_dead());
        theatre.check();
    }
    assert!(deaths * 3 >= seeds, "only {deaths} of {seeds} were killed");
    println!("{seeds} seeds from {first}, {deaths} of them with a kill");
}

#[test]
fn a_run_that_is_killed_leaves_no_lock() {
    let theatre = Theatre::open(7);
    theatre.faulty.heal();
    theatre.faulty.fail(Fault::crash_at(3));
    let eye = Eye::at(at(0));
    theatre.repository.prune(&theatre.order, &eye).expect_err("killed");
    theatre.faulty.heal();
    let again = theatre.repository.prune(&theatre.order, &eye);
    assert!(!matches!(again, Err(RepositoryError::Prune(PruneError::Running))), "{again:?}");
}
