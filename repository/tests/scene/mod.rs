//! A repository in memory with a clock of its own, to retire and prune in.
#![allow(unreachable_pub, dead_code)] // each test program compiles this module and uses its part

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::names::BackupName;
use repository::prune::{PruneOrder, PruneReport, PruneSettings, PruneStep, RetireReport, Retirement, Watch};
use repository::repo::Repository;
use repository::store::Store;
use repository::store::lease::LeaseError;
use repository::store::memory::MemoryStore;
use repository::verify::Depth;
use repository::work::{Work, WorkId, WorkKind};

use crate::support::*;

/// Knows the time and remembers the steps.
pub struct Eye {
    pub now: Mutex<Timestamp>,
    pub steps: Mutex<Vec<PruneStep>>,
    pub is_fenced: AtomicBool,
}

impl Eye {
    pub fn at(now: Timestamp) -> Self {
        Self { now: Mutex::new(now), steps: Mutex::default(), is_fenced: AtomicBool::new(false) }
    }
}

impl Watch for Eye {
    fn now(&self) -> Timestamp {
        *self.now.lock().expect("not poisoned")
    }

    fn may_write(&self) -> Result<(), LeaseError> {
        if self.is_fenced.load(Ordering::SeqCst) { Err(LeaseError::Lost { fence: 1 }) } else { Ok(()) }
    }

    fn done(&self, step: PruneStep) {
        self.steps.lock().expect("not poisoned").push(step);
    }
}

pub struct Scene {
    pub disk: MemoryStore,
    pub repository: Arc<Repository>,
    pub keys: KeyRing,
    pub eye: Eye,
    pub settings: PruneSettings,
}

pub const HOUR: i64 = 3_600;
pub const DAY: i64 = 24 * HOUR;

impl Scene {
    pub fn new() -> Self {
        let disk = MemoryStore::new();
        disk.set_time(at(0));
        let (repository, keys) = init(disk.clone());
        let settings = PruneSettings { young: SignedDuration::ZERO, ballast: 0, ..PruneSettings::default() };
        Self { disk, repository, keys, eye: Eye::at(at(0)), settings }
    }

    /// Sets both clocks.
    pub fn clock(&self, second: i64) {
        *self.eye.now.lock().expect("not poisoned") = at(second);
        self.disk.set_time(at(second));
    }

    pub fn back_up(&self, files: &Files, number: u32, second: i64) -> BackupRecord {
        back_up_reusing(&self.repository, &self.keys, files, number, second).expect("committed")
    }

    pub fn retire(&self, records: &[&BackupRecord]) -> RetireReport {
        let which: Vec<Retirement> = records.iter().map(|record| retirement(&record.name)).collect();
        self.repository.retire(&which, &self.keys, &self.eye).expect("retired")
    }

    pub fn order(&self) -> PruneOrder {
        PruneOrder { settings: self.settings, approved: true, ..PruneOrder::default() }
    }

    pub fn prune(&self) -> PruneReport {
        self.repository.prune(&self.order(), &self.eye).expect("pruned")
    }

    pub fn prune_now(&self) -> PruneReport {
        self.repository.prune(&PruneOrder { now: true, ..self.order() }, &self.eye).expect("pruned at once")
    }

    pub fn try_prune(&self) -> Result<PruneReport, RepositoryError> {
        self.repository.prune(&self.order(), &self.eye)
    }

    /// What a controller finds that starts now.
    pub fn reopened(&self) -> Arc<Repository> {
        Arc::new(Repository::open(Arc::new(self.disk.clone())).expect("opens"))
    }

    /// Every backup is there, in this process and for one that starts now, and every byte of it opens.
    pub fn assert_intact(&self, backups: &[(&BackupRecord, &Files)]) {
        for repository in [&self.repository, &self.reopened()] {
            let listing = repository.list().expect("listed");
            assert!(listing.lost.is_empty() && listing.damaged.is_empty(), "{listing:?}");
            assert_eq!(listing.backups.len(), backups.len());
            for (record, files) in backups {
                let findings = findings(repository, Some(&self.keys), record, Depth::Opened);
                assert_eq!(findings, Vec::<String>::new(), "{}", record.name);
                assert_holds(repository, &self.keys, record, files);
            }
        }
    }

    pub fn packs(&self) -> usize {
        count(&self.disk, "repository/packs")
    }

    pub fn trash(&self) -> usize {
        count(&self.disk, "repository/trash")
    }

    pub fn work(&self, id: &str, kind: WorkKind, backups: &[BackupName]) -> Work {
        self.repository.begin_work(&work_id(id), kind, backups, self.eye.now()).expect("begun")
    }
}

pub fn work_id(id: &str) -> WorkId {
    id.parse().expect("valid")
}

pub fn retirement(name: &BackupName) -> Retirement {
    Retirement { name: name.clone(), rule: "a test".to_owned() }
}

/// Objects two folders deep.
fn count(store: &impl Store, folder: &str) -> usize {
    let folder = repository::store::ObjectPath::new(folder);
    let inner = store.list(Some(&folder)).expect("listed");
    inner.iter().map(|inner| store.list(Some(&folder.join(&inner.name))).expect("listed").len()).sum()
}

/// A backup as an agent makes it: what is there is not sent again. Under the lease of its job.
pub fn back_up_reusing(
    repository: &Repository,
    keys: &KeyRing,
    files: &Files,
    number: u32,
    second: i64,
) -> Result<BackupRecord, RepositoryError> {
    let job = format!("job-{number}");
    let _work = repository.begin_work(&work_id(&job), WorkKind::Backup, &[], at(second))?;
    let name = repository.reserve_name(at(second), &Default::default())?;
    let domain = keys.domain_keys(&source());
    let archive = archive_reusing(repository, &domain, files, 4)?;
    send(repository, &domain, &archive.segments)?;
    repository.commit(&draft(name, &job, archive.draft), keys, at(second), &Unfenced)
}

/// Files of which each backup has some of its own and shares others with its neighbours.
pub fn generation(number: u32) -> Files {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let content = |(nth, name): (u32, &'static str)| {
        // File `nth` changes every `nth + 1` backups.
        let version = number / (nth + 1);
        (name, noise(&format!("{name} {version}"), 500 + 300 * nth as usize))
    };
    (0u32..).zip(names).map(content).collect()
}
