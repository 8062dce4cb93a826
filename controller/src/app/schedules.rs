//! Schedules: list, set, remove, pause, resume, run now.
//!
//! Must stay true: what the configuration declares is changed there alone; no change runs anything by itself.

use proto::Failure;
use proto::failure::reason;
use tonic::Code;

use crate::app::{App, catalog_failure};
use crate::catalog::{CatalogError, Claim, RunRecord, ScheduleOrigin, ScheduleRecord};
use crate::config::{Schedule, is_schedule_name};
use crate::jobs::Job;
use crate::jobs::job::Order;
use crate::schedule::defined::{declare, defined, timing};
use crate::schedule::keeper::{newest, verification};
use crate::schedule::plan::{Facts, Next};

/// The most schedules that there may be.
const MOST: usize = 100;

/// A schedule, and what became and will become of it.
#[derive(Debug, Clone)]
pub struct ScheduleView {
    /// What, and when.
    pub record: ScheduleRecord,
    /// Which comes next; none while it is paused.
    pub next: Option<Next>,
    /// Its newest run.
    pub last: Option<RunRecord>,
    /// The job of that.
    pub job: Option<Job>,
    /// The retention after that.
    pub retention: Option<Job>,
}

impl App {
    /// Makes the schedules those that the configuration says, and keeps those that were set beside them.
    pub async fn declare_schedules(&self) -> Result<(), CatalogError> {
        declare(&self.catalog, &self.config, self.now()).await
    }

    /// All schedules, by name.
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, Failure> {
        let failed = |error| catalog_failure(&error);
        let mut views = Vec::new();
        for record in self.catalog.schedules().await.map_err(failed)? {
            views.push(self.view(record).await.map_err(failed)?);
        }
        Ok(views)
    }

    async fn view(&self, record: ScheduleRecord) -> Result<ScheduleView, CatalogError> {
        let records = self.catalog.decided(&record.name).await?;
        let facts = Facts {
            now: self.now(),
            owed_from: record.owed_from,
            behind_for: jiff::SignedDuration::ZERO,
            paused: record.paused_at.is_some(),
            busy: false,
            records: &records,
        };
        let next = timing(&record, self.repository_id()).ok().and_then(|timing| timing.decide(&facts).next);
        let last = self.catalog.last_run(&record.name).await?;
        let (mut job, mut retention) = (None, None);
        if let Some(run) = &last {
            for (id, found) in [(run.job, &mut job), (run.retention_job, &mut retention)] {
                if let Some(id) = id {
                    *found = self.catalog.job(id).await?;
                }
            }
        }
        Ok(ScheduleView { record, next, last, job, retention })
    }

    /// Makes a schedule, or another one of it.
    pub async fn set_schedule(&self, name: &str, definition: Schedule) -> Result<ScheduleView, Failure> {
        if !is_schedule_name(name) {
            return Err(Failure::invalid("no name for a schedule")
                .hint("lower-case letters, digits, - and _, starting with a letter, at most 64"));
        }
        definition.check().map_err(|(key, why)| Failure::invalid(format!("{key}: {why}")))?;
        let _turn = self.scheduler.turn().await;
        let there = self.catalog.schedules().await.map_err(|error| catalog_failure(&error))?;
        let before = there.iter().find(|record| record.name == name);
        if let Some(record) = before {
            changeable(record)?;
        } else if there.len() >= MOST {
            let full = format!("there are {MOST} schedules already");
            return Err(Failure::new(Code::ResourceExhausted, reason::BUSY, full).hint("remove one of them"));
        }
        let record = defined(name, ScheduleOrigin::Set, definition, &self.config, before, self.now());
        self.changed(record).await
    }

    /// Removes a schedule that was set. One of the program's own is what it was again.
    pub async fn remove_schedule(&self, name: &str) -> Result<(), Failure> {
        let _turn = self.scheduler.turn().await;
        let record = self.schedule_named(name).await?;
        changeable(&record)?;
        let failed = |error| catalog_failure(&error);
        match self.config.schedules.get(name) {
            Some(_) if record.origin == ScheduleOrigin::Default => {
                return Err(Failure::invalid(format!("{name} is the program's own schedule"))
                    .hint(format!("`nsctl schedule pause {name}` keeps it from running")));
            }
            Some(own) => {
                let origin = ScheduleOrigin::Default;
                let record = defined(name, origin, own.clone(), &self.config, Some(&record), self.now());
                self.catalog.put_schedule(&record).await.map_err(failed)?;
            }
            None => self.catalog.remove_schedule(name, self.now()).await.map_err(failed)?,
        }
        tracing::info!(schedule = name, "schedule removed");
        self.scheduler.wake().notify_one();
        Ok(())
    }

    /// Starts nothing by this schedule until it is resumed; what runs goes on.
    pub async fn pause_schedule(&self, name: &str) -> Result<ScheduleView, Failure> {
        let _turn = self.scheduler.turn().await;
        let record = self.schedule_named(name).await?;
        let paused_at = record.paused_at.or(Some(self.now()));
        self.changed(ScheduleRecord { paused_at, ..record }).await
    }

    /// Starts what comes from now on; what came in between is not made up for.
    pub async fn resume_schedule(&self, name: &str) -> Result<ScheduleView, Failure> {
        let _turn = self.scheduler.turn().await;
        let record = self.schedule_named(name).await?;
        let owed_from = if record.paused_at.is_some() { self.now() } else { record.owed_from };
        self.changed(ScheduleRecord { paused_at: None, owed_from, ..record }).await
    }

    /// Runs it now, beside its planned times.
    pub async fn run_schedule(&self, name: &str, request_id: Option<&str>) -> Result<Job, Failure> {
        if let Some(job) =
            self.ordered_before(request_id, |job| job.schedule.as_deref() == Some(name)).await?
        {
            return Ok(job);
        }
        let _turn = self.scheduler.turn().await;
        let record = self.schedule_named(name).await?;
        let failed = |error| catalog_failure(&error);
        let open = self.catalog.open_runs().await.map_err(failed)?;
        if open.iter().any(|run| run.schedule == name) {
            return Err(Failure::new(
                Code::FailedPrecondition,
                reason::BUSY,
                format!("{name} cannot be run now"),
            )
            .because("an earlier run of it still goes on")
            .hint("`nsctl jobs` shows it; try again when it has ended"));
        }
        let order = match &record.definition {
            Schedule::Backup(_) => {
                Order::Backup { components: record.definition.components(), pin: None, import: None }
            }
            Schedule::Verify(verify) => {
                let backup = newest(self, &record).await.map_err(failed)?.ok_or_else(|| {
                    Failure::not_found("there is no backup to verify").hint("`nsctl backup` makes one")
                })?;
                verification(self, &record, verify, backup).await.map_err(failed)?
            }
        };
        let claim = Claim::Run { schedule: name.to_owned(), planned_at: None, replaces: None };
        self.order_for(name, order, request_id, claim).await
    }

    /// A schedule by its name.
    async fn schedule_named(&self, name: &str) -> Result<ScheduleRecord, Failure> {
        let there = self.catalog.schedules().await.map_err(|error| catalog_failure(&error))?;
        there.into_iter().find(|record| record.name == name).ok_or_else(|| {
            Failure::not_found(format!("there is no schedule {name:?}"))
                .hint("`nsctl schedule list` shows them")
        })
    }

    async fn changed(&self, record: ScheduleRecord) -> Result<ScheduleView, Failure> {
        let failed = |error| catalog_failure(&error);
        self.catalog.put_schedule(&record).await.map_err(failed)?;
        tracing::info!(
            schedule = record.name,
            cron = record.definition.cron().as_str(),
            zone = record.time_zone,
            paused = record.paused_at.is_some(),
            "schedule changed"
        );
        self.scheduler.wake().notify_one();
        self.view(record).await.map_err(failed)
    }
}

fn changeable(record: &ScheduleRecord) -> Result<(), Failure> {
    if record.origin != ScheduleOrigin::Declared {
        return Ok(());
    }
    let what = format!("schedule {} cannot be changed here", record.name);
    Err(Failure::new(Code::FailedPrecondition, reason::MANAGED, what)
        .because("the controller's configuration declares it")
        .hint("change `schedules` in its file or environment and restart it, or take it out there"))
}
