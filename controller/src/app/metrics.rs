//! Metrics as they are told, and whether the controller can do its work.
//!
//! Must stay true: a scrape reads the catalog at most once in [`KEPT_FOR`], whoever asks and however often;
//! the sizes of packs are read at most once in [`SIZED_EVERY`]; what cannot be read is left out, and the
//! rest is told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proto::Failure;
use proto::v1::DescribeResponse;
use repository::backup::manifest::{BackupRecord, Outcome};
use repository::store::location::Location;
use tokio::sync::Mutex;

use crate::alerts::silence::longest_objective;
use crate::app::storage_look::PATIENCE;
use crate::app::verified::newest_verified;
use crate::app::{App, catalog_failure};
use crate::catalog::RunState;
use crate::depot::Depot;
use crate::jobs::job::JobState;
use crate::jobs::safety::Safety;
use crate::metrics::{Page, families as f};

/// Backups among which the newest complete one of a component is looked for.
const LOOKED_AT: u32 = 100;

const KEPT_FOR: Duration = Duration::from_secs(2);
const SIZED_EVERY: Duration = Duration::from_secs(15 * 60);

/// What was told last, and how large the repository was.
#[derive(Debug, Default)]
pub(crate) struct Told {
    page: Mutex<Option<(Instant, Arc<str>)>>,
    size: std::sync::Mutex<Measured>,
}

#[derive(Debug, Default)]
struct Measured {
    looked: Option<Instant>,
    packs_and_bytes: Option<(u64, u64)>,
}

impl App {
    /// Why the controller cannot do its work now; none: it can.
    pub(crate) async fn unready(&self) -> Option<&'static str> {
        if self.shutdown.token().is_cancelled() {
            return Some("the controller stops");
        }
        if self.depot.lease().is_lost() {
            return Some("another controller writes this repository");
        }
        self.catalog.backups_before(None, 1).await.err().map(|_| "the catalog cannot be read")
    }

    /// Everything that Prometheus is told.
    pub(crate) async fn metrics_text(&self) -> Arc<str> {
        let mut told = self.told.page.lock().await;
        if let Some((at, text)) = &*told
            && at.elapsed() < KEPT_FOR
        {
            return text.clone();
        }
        let text: Arc<str> = self.metrics_page().await.text().into();
        *told = Some((Instant::now(), text.clone()));
        text
    }

    /// What somebody who helps needs to know. The configuration's own types leave secrets out.
    pub(crate) async fn describe(&self) -> DescribeResponse {
        let configuration = serde_json::to_string_pretty(&self.config);
        DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: runtime::host::hostname(),
            started_at: Some(proto::convert::to_wire_time(self.started_at)),
            configuration: configuration.expect("settings have text keys and no failing serializers"),
            metrics: self.metrics_text().await.to_string(),
        }
    }

    async fn metrics_page(&self) -> Page {
        let mut page = Page::default();
        page.flag(&f::BUILD, &[env!("CARGO_PKG_VERSION")], true);
        page.time(&f::STARTED, &[], self.started_at);
        page.flag(&f::READY, &[], self.unready().await.is_none());
        page.flag(&f::AUDIT, &[], self.audit.damage().await.is_none());
        page.flag(&f::WRITABLE, &[], !self.depot.lease().is_lost());
        self.metrics.put_into(&mut page);
        let now = self.now();
        for part in [
            self.put_jobs(&mut page).await,
            self.put_components(&mut page, now).await,
            self.put_schedules(&mut page).await,
            self.put_agents(&mut page).await,
            self.put_alerts(&mut page).await,
        ] {
            if let Err(failure) = part {
                tracing::warn!(why = failure.why, "some metrics cannot be told: {}", failure.what);
            }
        }
        self.put_storage(&mut page).await;
        page
    }

    async fn put_jobs(&self, page: &mut Page) -> Result<(), Failure> {
        let alive = self.catalog.alive_jobs().await.map_err(|error| catalog_failure(&error))?;
        for (word, state) in [
            ("queued", JobState::Queued),
            ("running", JobState::Running),
            ("committing", JobState::Committing),
        ] {
            page.count(&f::JOBS_ALIVE, &[word], alive.iter().filter(|job| job.state == state).count() as u64);
        }
        Ok(())
    }

    /// What is known of components and of what expires, as the look for silence sees it.
    async fn put_components(&self, page: &mut Page, now: Timestamp) -> Result<(), Failure> {
        let failed = |error| catalog_failure(&error);
        let open = self.catalog.open_alerts().await.map_err(failed)?;
        let facts = self.facts(now, &open).await?;
        for (component, since) in &facts.verified {
            let alerts = &self.config.alerts;
            let objective = alerts.objectives.get(component).unwrap_or(&alerts.objective).get();
            page.put(&f::OBJECTIVE, &[component], objective.as_secs_f64());
            if let Ok(from) = since.checked_add(objective) {
                page.time(&f::OVERDUE, &[component], from);
            }
        }
        for (token, ends_at) in &facts.tokens {
            page.time(&f::TOKEN, &[token], *ends_at);
        }
        page.flag(&f::RECOVERY_KEY, &[], facts.unconfirmed_since.is_none());
        page.time(&f::CERTIFICATE, &[], self.server_certificate.ends_at());
        if let Some(free) = facts.free {
            page.count(&f::FREE, &[], free);
        }
        page.count(&f::BACKUPS, &[], self.catalog.count_backups().await.map_err(failed)?);
        let backups = self.catalog.backups_before(None, LOOKED_AT).await.map_err(failed)?;
        for (component, (at, _)) in newest_complete(&backups) {
            page.time(&f::COMPLETE, &[&component], at);
        }
        for (component, bytes) in newest_size(&backups) {
            page.count(&f::SIZE, &[&component], bytes);
        }
        let served = facts.verified.keys().cloned().collect();
        let longest = longest_objective(&self.config.alerts);
        for (component, at) in newest_verified(&self.catalog, served, longest, now).await.map_err(failed)? {
            page.time(&f::VERIFIED, &[&component], at);
        }
        Ok(())
    }

    async fn put_schedules(&self, page: &mut Page) -> Result<(), Failure> {
        for view in self.schedules().await? {
            let name = [view.record.name.as_str()];
            page.flag(&f::PAUSED, &name, view.record.paused_at.is_some());
            let missed = view.last.as_ref().is_some_and(|run| run.state == RunState::Missed);
            page.flag(&f::MISSED, &name, missed);
            if let Some(next) = &view.next {
                page.time(&f::NEXT, &name, next.due_at);
            }
            if let Some(run) = &view.last {
                page.time(&f::LAST, &name, run.ran_at);
            }
        }
        Ok(())
    }

    async fn put_agents(&self, page: &mut Page) -> Result<(), Failure> {
        let agents = self.agents().await?;
        let (mut expected, mut connected) = (0, 0);
        for agent in agents.iter().filter(|agent| agent.revoked_at.is_none()) {
            let is_up = self.fleet.is_connected(agent.id);
            (expected, connected) = (expected + 1, connected + u64::from(is_up));
            page.flag(&f::AGENT_UP, &[&agent.name], is_up);
            page.time(&f::AGENT_CERTIFICATE, &[&agent.name], agent.certificate_ends_at);
        }
        page.count(&f::AGENTS_EXPECTED, &[], expected);
        page.count(&f::AGENTS_CONNECTED, &[], connected);
        Ok(())
    }

    async fn put_alerts(&self, page: &mut Page) -> Result<(), Failure> {
        let alerts = self.alerts_now().await?;
        let mut open: HashMap<&str, u64> =
            crate::alerts::Kind::ALL.iter().map(|kind| (kind.word(), 0)).collect();
        for alert in &alerts.open {
            *open.entry(alert.event.kind.word()).or_default() += 1;
        }
        let open: BTreeMap<_, _> = open.into_iter().collect();
        open.into_iter().for_each(|(kind, count)| page.count(&f::OPEN_ALERTS, &[kind], count));
        for (sink, state) in &alerts.sinks {
            page.count(&f::ALERT_QUEUE, &[sink], state.waiting);
            if let Some(since) = state.failing_since {
                page.time(&f::ALERT_FAILING, &[sink], since);
            }
        }
        Ok(())
    }

    async fn put_storage(&self, page: &mut Page) {
        page.count(&f::LOW, &[], self.config.alerts.low_space.bytes());
        let (repository, state) = (self.config.repository.clone(), self.config.state.clone());
        let look = move || {
            let of = |path: &std::path::Path| rustix::fs::statvfs(path).ok();
            let of_folder = match &repository {
                Location::Folder(folder) => of(folder),
                _ => None,
            };
            let total = of_folder.map(|stat| stat.f_blocks.saturating_mul(stat.f_frsize));
            (total, of(&state).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)))
        };
        // What does not answer has no figure.
        let (total, free) = self.storages.lock().await.room.look(PATIENCE, look).await.unwrap_or_default();
        total.into_iter().for_each(|total| page.count(&f::TOTAL, &[], total));
        free.into_iter().for_each(|free| page.count(&f::STATE_FREE, &[], free));
        if let Some((packs, bytes)) = self.repository_size() {
            page.count(&f::PACKS, &[], packs);
            page.count(&f::REPOSITORY, &[], bytes);
        }
    }

    /// How many packs there are, and their bytes, as far as known. Never waited for: reading every index of
    /// a large repository takes its time.
    pub(crate) fn repository_size(&self) -> Option<(u64, u64)> {
        let mut size = self.told.size();
        let known = size.packs_and_bytes;
        if size.looked.is_none_or(|at| at.elapsed() >= SIZED_EVERY) {
            size.looked = Some(Instant::now());
            let (told, depot) = (self.told.clone(), self.depot.clone());
            tokio::task::spawn_blocking(move || {
                if let Some(found) = packs_and_bytes(&depot) {
                    told.size().packs_and_bytes = Some(found);
                }
            });
        }
        known
    }
}

impl Told {
    fn size(&self) -> MutexGuard<'_, Measured> {
        // Whatever panicked has left a whole value.
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn packs_and_bytes(depot: &Depot) -> Option<(u64, u64)> {
    let domains = depot.repository().indexed_packs();
    let domains = domains.inspect_err(|error| {
        tracing::warn!(error = proto::failure::chain(error), "the size of the repository is not known");
    });
    let domains = domains.ok()?;
    let packs = || domains.iter().flat_map(|domain| &domain.packs);
    Some((packs().count() as u64, packs().map(|(_, bytes)| bytes).sum()))
}

/// By component: when the newest backup was begun that holds all of its sources complete, and its name.
pub(super) fn newest_complete(
    backups: &[BackupRecord],
) -> BTreeMap<String, (Timestamp, repository::names::BackupName)> {
    let mut newest = BTreeMap::new();
    // A safety backup holds what somebody wanted to be rid of.
    for backup in backups.iter().filter(|backup| Safety::of(backup).is_none()) {
        let mut components: BTreeMap<String, bool> = BTreeMap::new();
        for archive in &backup.archives {
            let is_complete = archive.outcome == Outcome::Complete;
            *components.entry(archive.source.component.to_string()).or_insert(true) &= is_complete;
        }
        for (component, _) in components.into_iter().filter(|(_, complete)| *complete) {
            newest.entry(component).or_insert((backup.started_at, backup.name.clone()));
        }
    }
    newest
}

/// By component: the bytes of its files in the newest backup that has it.
fn newest_size(backups: &[BackupRecord]) -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::new();
    for backup in backups {
        let mut of_this: BTreeMap<String, u64> = BTreeMap::new();
        for archive in backup.archives.iter().filter(|archive| archive.outcome != Outcome::Failed) {
            *of_this.entry(archive.source.component.to_string()).or_default() += archive.counts.bytes;
        }
        for (component, bytes) in of_this {
            sizes.entry(component).or_insert(bytes);
        }
    }
    sizes
}
