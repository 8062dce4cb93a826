//! A controller's life, step by step, and what its users were told meanwhile: the same story for power cuts
//! that are worked out, real ones, and disks that fail.
//!
//! What must hold at any moment, however it ended ([`survives`]): what was told is true, nothing half-done
//! shows, and the next start, the next attempt and the next backup need no hand.
#![allow(unreachable_pub, dead_code)] // each test program compiles this module and uses its part

mod survives;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use repository::backup::commit::{CommitStep, Guard};
use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::ingest::PackVerdict;
use repository::keys::{KeyRing, RecoveryKey};
use repository::names::BackupName;
use repository::parity::Strength;
use repository::progress::{CancelFlag, Silent};
use repository::prune::{PruneOrder, PruneReport, PruneSettings, Retirement, Watch};
use repository::repair::Repair;
use repository::repo::Repository;
use repository::store::Store;
use repository::store::lease::{DEFAULT_TTL, Holder, Lease, LeaseError};
use repository::store::local::LocalStore;
use repository::store::probe::probe;
use repository::work::WorkKind;
use uuid::Uuid;

use crate::support::*;

pub use survives::survives;

pub type Answer<T> = Result<T, Box<dyn std::error::Error>>;

/// Where the repository lies: opened anew by each controller.
pub type Storage<'a> = &'a dyn Fn() -> Answer<Arc<dyn Store>>;

/// A folder of a disk.
pub fn local(root: &Path) -> impl Fn() -> Answer<Arc<dyn Store>> + '_ {
    || Ok(Arc::new(LocalStore::open(root)?))
}

/// What somebody was told, and what may be there without anybody's having been told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The first start ended well.
    pub started: bool,
    /// Each was shown to its owner.
    pub recovery_keys: Vec<RecoveryKey>,
    /// Somebody proved to have one of them.
    pub is_confirmed: bool,
    pub backups: BTreeMap<BackupName, (Arc<Files>, Fate)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its job runs.
    Begun,
    /// It was reported complete.
    Complete,
    /// It is being retired.
    Leaving,
    /// It was reported to be retired.
    Retired,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A controller starts: for the first time, or again.
    Start,
    /// It backs up these files at this second.
    BackUp(i64, Files),
    /// It shows a new recovery key.
    AddRecoveryKey,
    /// The owner of the newest one proves to have it.
    Confirm,
    /// A verification calls each pack damaged, and another one sound.
    Doubt,
    /// A verification finds all that was told to be complete intact.
    Verify,
    RebuildIndex,
    /// `nsctl repository check --repair`: everything is read, what rotted is made good.
    Repair,
    /// The backup of this second is retired.
    Retire(i64),
    /// What no backup needs is collected.
    Prune(Pace),
    RenewLease,
    /// It stops in an orderly way.
    Stop,
}

/// How prune goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// From the mark to the deletion in one run.
    AtOnce,
    /// One stage in each run, without any time between them.
    InStages,
}

impl Pace {
    fn order(self) -> PruneOrder {
        let none = SignedDuration::ZERO;
        let settings = PruneSettings {
            grace: none,
            trash_for: none,
            young: none,
            copy_at_most: 4 << 30,
            ballast: 4_096,
        };
        PruneOrder { settings, now: self == Pace::AtOnce, approved: true, without: Vec::new() }
    }
}

impl Step {
    pub fn in_short(&self) -> String {
        match self {
            Step::BackUp(second, files) => format!("BackUp at {second} of {} files", files.len()),
            other => format!("{other:?}"),
        }
    }
}

/// Everything that a repository is asked to do in its life.
pub fn story() -> Vec<Step> {
    let files =
        |names: &[&'static str]| names.iter().map(|name| (*name, noise(name, 900))).collect::<Files>();
    vec![
        Step::Start,
        Step::BackUp(100, files(&["a", "b", "c/d"])),
        Step::AddRecoveryKey,
        Step::Confirm,
        Step::BackUp(200, files(&["a", "b2", "c/d", "e"])),
        Step::RenewLease,
        Step::Doubt,
        Step::Verify,
        Step::BackUp(300, files(&["a", "f"])),
        Step::RebuildIndex,
        Step::Repair,
        Step::Stop,
        Step::Start,
        Step::Retire(100),
        Step::Prune(Pace::InStages),
        Step::BackUp(400, files(&["b2", "f", "g"])),
        Step::Prune(Pace::InStages),
        Step::Prune(Pace::InStages),
        Step::Retire(300),
        Step::Prune(Pace::AtOnce),
        Step::Verify,
        Step::Stop,
    ]
}

/// A controller on the repository in a folder.
#[derive(Debug)]
pub struct Controller {
    pub repository: Arc<Repository>,
    pub keys: KeyRing,
    lease: Lease,
}

fn holder() -> Holder {
    Holder { id: Uuid::from_u128(1), host: "the-only-one".to_owned() }
}

impl Controller {
    /// What `controller/src/depot.rs` does at a start.
    pub fn start(
        storage: Storage<'_>,
        second: i64,
        parity: Option<Strength>,
    ) -> Answer<(Self, Option<RecoveryKey>)> {
        let store = storage()?;
        let opened = match Repository::open(store.clone()) {
            Err(RepositoryError::NotARepository { .. }) => None,
            answer => Some(answer?),
        };
        probe(&*store)?;
        let lease = Lease::acquire(store.clone(), &holder(), at(second), DEFAULT_TTL)?;
        let (mut repository, keys, shown) = match opened {
            Some(repository) => {
                let keys = repository.unlock(&secret())?;
                (repository, keys, None)
            }
            None => {
                let made = Repository::init(store, &secret(), at(second))?;
                (made.repository, made.keys, Some(made.recovery_key))
            }
        };
        repository.set_parity(parity);
        repository.keep_config_twice()?;
        repository.end_left_overs()?;
        repository.find_unindexed()?;
        repository.complete_chain(&keys, at(second))?;
        repository.finish_retiring(&Overseer(&lease))?;
        Ok((Self { repository: Arc::new(repository), keys, lease }, shown))
    }

    /// A backup that re-uses what is there, as an agent does.
    pub fn back_up(&self, name: BackupName, files: &Files) -> Result<BackupRecord, RepositoryError> {
        let domain = self.keys.domain_keys(&source());
        let job = format!("job-{}", name.as_str().replace('_', "-"));
        let work = job.parse().expect("letters, digits and dashes");
        let work = self.repository.begin_work(&work, WorkKind::Backup, &[], now())?;
        let archive = archive_reusing(&self.repository, &domain, files, 2)?;
        send(&self.repository, &domain, &archive.segments)?;
        let time = name.time();
        let overseer = Overseer(&self.lease);
        let record =
            self.repository.commit(&draft(name, &job, archive.draft), &self.keys, time, &overseer)?;
        work.end();
        Ok(record)
    }

    fn retire(&self, name: &BackupName) -> Answer<()> {
        let which = [Retirement { name: name.clone(), rule: "its time has come".to_owned() }];
        let report = self.repository.retire(&which, &self.keys, &Overseer(&self.lease))?;
        assert!(report.in_use.is_empty() && report.pinned.is_empty(), "nobody uses it: {report:?}");
        Ok(())
    }

    pub fn prune(&self, pace: Pace) -> Result<PruneReport, RepositoryError> {
        self.repository.prune(&pace.order(), &Overseer(&self.lease))
    }

    /// What it leaves may be what a write that was cut off has left: what backups need is looked at after it.
    fn repair(&self) -> Result<(), RepositoryError> {
        let may_write = || self.lease.check();
        let repair = Repair {
            repository: &self.repository,
            keys: Some(&self.keys),
            secret: Some(&secret()),
            may_write: Some(&may_write),
            give_up: &[],
            reads_packs: true,
            progress: &Silent,
            cancel: &CancelFlag::new(),
            now: now(),
        };
        repair.run().map(|_| ())
    }

    fn doubt(&self, record: &BackupRecord) -> Result<(), RepositoryError> {
        let verdicts = verdicts(&self.repository, record)?;
        for is_sound in [false, true] {
            let verdicts: Vec<PackVerdict> =
                verdicts.iter().map(|verdict| PackVerdict { is_sound, ..*verdict }).collect();
            self.repository.keep_verdicts(&verdicts)?;
        }
        Ok(())
    }
}

/// The storage's clock is the machine's, and so is ours.
fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "prune compares the two")]
    Timestamp::now()
}

/// The right to write.
struct Overseer<'a>(&'a Lease);

impl Guard for Overseer<'_> {
    fn may_write(&self) -> Result<(), LeaseError> {
        self.0.check()
    }

    fn done(&self, _step: CommitStep) {}
}

impl Watch for Overseer<'_> {
    fn now(&self) -> Timestamp {
        now()
    }

    fn may_write(&self) -> Result<(), LeaseError> {
        self.0.check()
    }
}

/// Packs that prune worked on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub copied: u64,
    pub swept: u64,
    pub deleted: u64,
}

/// A controller that runs or not, and what its users know.
#[derive(Debug, Default)]
pub struct World {
    pub told: Told,
    pub collected: Collected,
    /// What packs get for the day on which they rot.
    pub parity: Option<Strength>,
    controller: Option<Controller>,
}

impl World {
    /// As it goes on from `told`, with a controller or without.
    pub fn resumed(storage: Storage<'_>, told: &Told, runs: bool) -> Self {
        let controller = runs.then(|| Controller::start(storage, 0, None).expect("starts").0);
        Self { told: told.clone(), controller, ..Self::default() }
    }

    /// False after it stopped, or failed to.
    pub fn runs(&self) -> bool {
        self.controller.is_some()
    }

    /// The controller is killed.
    pub fn dies(&mut self) {
        self.controller = None;
    }

    pub fn has_complete(&self) -> bool {
        self.told.backups.values().any(|(_, fate)| *fate == Fate::Complete)
    }

    /// Says what is not as it was told, as far as the running controller can see.
    pub fn check(&self) -> Result<(), String> {
        self.controller.as_ref().map_or(Ok(()), |controller| survives::check(controller, &self.told))
    }

    /// Takes one step. `tell` hears of what may be there from now on before it is begun, and of what was
    /// acknowledged when it is. After an error the same step may be taken again.
    pub fn take(&mut self, storage: Storage<'_>, step: &Step, tell: &mut dyn FnMut(&Told)) -> Answer<()> {
        if let Step::Start = step {
            let (controller, shown) = Controller::start(storage, 0, self.parity)?;
            self.controller = Some(controller);
            self.told.started = true;
            self.told.recovery_keys.extend(shown);
            tell(&self.told);
            return Ok(());
        }
        let controller = self.controller.as_mut().expect("a controller runs");
        match step {
            Step::Start => unreachable!("taken above"),
            Step::BackUp(second, files) => {
                let (name, files) = (BackupName::from_time(at(*second)), Arc::new(files.clone()));
                self.told.backups.insert(name.clone(), (files.clone(), Fate::Begun));
                tell(&self.told);
                controller.back_up(name.clone(), &files)?;
                self.told.backups.insert(name, (files, Fate::Complete));
            }
            Step::AddRecoveryKey => {
                let (_, key) = controller.repository.add_recovery(&secret(), at(0))?;
                self.told.recovery_keys.push(key);
            }
            Step::Confirm => {
                let key = self.told.recovery_keys.last().expect("one was shown");
                controller.repository.confirm_recovery(key, at(0))?;
                self.told.is_confirmed = true;
            }
            Step::Doubt => {
                let mut listing = controller.repository.list()?;
                // A disk that is gone may still know the names, and says of each backup that it cannot be read.
                let Some(newest) = listing.backups.first() else {
                    return Err(listing.damaged.pop().expect("one is complete").1.into());
                };
                controller.doubt(newest)?;
            }
            Step::Verify => survives::check(controller, &self.told)?,
            Step::RebuildIndex => {
                controller.repository.rebuild_index()?;
            }
            Step::Repair => controller.repair()?,
            Step::Retire(second) => {
                let name = BackupName::from_time(at(*second));
                let (files, _) = self.told.backups[&name].clone();
                self.told.backups.insert(name.clone(), (files.clone(), Fate::Leaving));
                tell(&self.told);
                controller.retire(&name)?;
                self.told.backups.insert(name, (files, Fate::Retired));
            }
            Step::Prune(pace) => {
                let report = controller.prune(*pace)?;
                self.collected.copied += report.copied.packs;
                self.collected.swept += report.swept.packs;
                self.collected.deleted += report.deleted.packs;
            }
            Step::RenewLease => controller.lease.renew(at(1), DEFAULT_TTL)?,
            Step::Stop => {
                self.controller.take().expect("it runs").lease.release()?;
            }
        }
        tell(&self.told);
        Ok(())
    }
}
