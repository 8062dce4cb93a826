//! Restore plans: what would be done, confirmed by a digest.
//!
//! Must stay true: nothing is restored that was not planned and confirmed; a plan is made anew before it is
//! carried out, and one that no longer says the same is refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use proto::Failure;
use proto::convert::{self, BackupChoice};
use proto::failure::reason;
use proto::plan::changes;
use proto::v1::SourcePlan;
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Outcome};
use repository::error::RepositoryError;
use repository::ids::hex;
use repository::names::{BackupName, Component};
use repository::read::ArchiveReader;
use repository::work::WorkKind;
use runtime::steps;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::Code;

use crate::app::jobs::not_submitted;
use crate::app::{App, catalog_failure};
use crate::depot::Depot;
use crate::ids::{AgentId, JobId};
use crate::ingest::{repository_failure, thread_died};
use crate::jobs::Job;
use crate::jobs::confirmed::Confirmed;
use crate::jobs::job::{Allowance, Databases, JobState, MONGODB, Order, PartResult, RestorePlace};
use crate::jobs::restore::NoPlan;
use crate::jobs::safety::Safety;
use crate::steps::Step;

/// What somebody wants to have restored.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// From which backup.
    pub backup: BackupChoice,
    /// Which components; none: all that the backup holds.
    pub components: Vec<Component>,
    /// Which entries, by pattern; none: all.
    pub globs: Vec<String>,
    /// Which collections of a server's databases.
    pub databases: Databases,
    /// Into this folder; none: in place.
    pub folder: Option<String>,
    /// By this agent (id or name); none: the one that serves the source.
    pub agent: Option<String>,
    /// What gives somebody rights (setuid and the like) is left out.
    pub without_privileges: bool,
    /// What is replaced is not backed up before.
    pub without_safety_backup: bool,
    /// The backup may be incomplete or damaged.
    pub accept_doubts: bool,
    /// Takes this restore back; of the rest only the three flags count.
    pub undo_of: Option<JobId>,
}

/// What would be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Confirms it.
    pub digest: String,
    /// From this backup.
    pub backup: BackupName,
    /// By source.
    pub sources: Vec<SourcePlan>,
    /// Sealed bytes that would be fetched, at most.
    pub fetch_bytes: u64,
    /// What the backup lacks, a line each.
    pub doubts: Vec<String>,
    /// What is backed up before.
    pub safety_components: Vec<Component>,
    /// By how long the last restores took; 0: there was none.
    pub estimated_seconds: u64,
    /// What a person should know before.
    pub remarks: Vec<String>,
    places: Vec<RestorePlace>,
}

/// The plans that were shown last, by their digests: so that it can be told what has changed since. A plan
/// that is not here any more is refused without that.
#[derive(Debug, Default)]
pub struct ShownPlans(Mutex<VecDeque<(String, Vec<SourcePlan>)>>);

impl ShownPlans {
    /// So many are remembered.
    const MAX: usize = 32;

    fn show(&self, plan: &Plan) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.iter().any(|(digest, _)| *digest == plan.digest) {
            return;
        }
        if shown.len() == Self::MAX {
            shown.pop_front();
        }
        shown.push_back((plan.digest.clone(), plan.sources.clone()));
    }

    /// What the new plan says that the one with this digest did not.
    fn changes(&self, digest: &str, now: &[SourcePlan]) -> Vec<String> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, before)) = shown.iter().find(|(known, _)| known == digest) else { return Vec::new() };
        let of_source = |plan: &SourcePlan| {
            let was = before.iter().find(|was| was.source == plan.source)?;
            let source = plan.source.clone().unwrap_or_default();
            let name = format!("{}/{}", source.component, source.name);
            Some(changes(was, plan).into_iter().map(move |line| format!("{name}: {line}")))
        };
        now.iter().filter_map(of_source).flatten().collect()
    }
}

impl App {
    /// What a restore would do.
    pub async fn plan_restore(&self, request: &RestoreRequest) -> Result<Plan, Failure> {
        let undo;
        let (request, taken_back) = match request.undo_of {
            Some(restore) => {
                undo = self.undo_of(restore, request).await?;
                (&undo.0, Some(&undo.1))
            }
            None => (request, None),
        };
        let record = self.newest_complete(&request.backup, &request.components).await?;
        let _held = self.hold(&record.name, WorkKind::Restore).await?;
        let mut archives = chosen_archives(&record, &components_of(request, &record)?)?;
        for part in taken_back.into_iter().flatten() {
            if archives.iter().all(|archive| archive.source != part.source) {
                let what = format!("backup {} holds nothing usable of {}", record.name, part.source);
                return Err(Failure::not_found(what).hint("`nsctl list` shows which backups do"));
            }
        }
        archives.retain(|archive| {
            taken_back.is_none_or(|parts| parts.iter().any(|part| part.source == archive.source))
        });
        let mut places = Vec::new();
        for archive in &archives {
            let component = &archive.source.component;
            let siblings =
                record.archives.iter().filter(|other| other.source.component == *component).count();
            let mut place = self.place(request, archive, siblings).await?;
            place.takes_back = taken_back.is_some();
            let part = taken_back.and_then(|parts| parts.iter().find(|part| part.source == archive.source));
            if let Some(part) = part {
                (place.globs, place.databases) = (part.globs.clone(), part.databases.clone());
            }
            places.push(place);
        }
        let mut asking = JoinSet::new();
        for (at, place) in places.iter().enumerate() {
            let (app, record, place) = (self.clone(), record.clone(), place.clone());
            asking.spawn(async move { app.ask_for_plan(record, place).await.map(|plan| (at, plan)) });
        }
        let mut plans = Vec::new();
        while let Some(answer) = asking.join_next().await {
            plans.push(answer.map_err(|error| thread_died(&error))??);
        }
        plans.sort_by_key(|(at, _)| *at);
        let mut sources: Vec<SourcePlan> = plans.into_iter().map(|(_, plan)| plan).collect();
        for (archive, plan) in archives.iter().zip(&mut sources) {
            if request.databases.drop_others && may_lose(archive, plan) {
                plan.obstacles.push(format!(
                    "the backup of {} is incomplete: what it lacks may be what --drop-others would remove; leave \
                     it out, or choose a backup that is complete",
                    archive.source
                ));
            }
        }
        for (place, plan) in places.iter_mut().zip(&sources) {
            place.allowance = allowance(plan, request.without_privileges);
        }
        let fetch_bytes = self.fetch_bytes(&record, &places).await?;
        let doubts = self.doubts(&record, &archives).await?;
        let replaces = |plan: &&SourcePlan| plan.in_place && plan.replaced_count + plan.removed_count > 0;
        // What was not there before is taken back by a backup that does not have it.
        let makes_some = |plan: &SourcePlan, place: &RestorePlace| {
            plan.in_place && plan.created_count > 0 && goes_by_undo(place)
        };
        let mut safety_components: Vec<Component> = match request.without_safety_backup {
            true => Vec::new(),
            false => (sources.iter().zip(&places))
                .filter(|(plan, place)| replaces(plan) || makes_some(plan, place))
                .map(|(_, place)| place.source.component.clone())
                .collect(),
        };
        safety_components.sort();
        safety_components.dedup();
        let mut remarks = Vec::new();
        if request.without_safety_backup && sources.iter().any(|plan| replaces(&plan)) {
            remarks
                .push("what is replaced is NOT backed up before: it cannot be taken back later".to_owned());
        }
        // A folder is what it was; other collections of a server stay, and so do listed files and objects.
        let in_part = places
            .iter()
            .any(|place| place.kind == MONGODB || (!place.globs.is_empty() && !goes_by_undo(place)));
        if request.undo_of.is_some() && in_part {
            remarks.push("entries that the restore has created stay".to_owned());
        }
        remarks.extend(stopped_more_than_once(&sources, &places));
        let estimated_seconds = self.estimate(sources.iter().map(|plan| plan.bytes).sum()).await?;
        let seen = Seen { backup: &record.name, doubts: &doubts, safety: &safety_components };
        let digest = digest_of(&seen, &places, &sources);
        for (place, plan) in places.iter_mut().zip(&sources) {
            place.confirmed = Some(Confirmed::from(plan));
        }
        steps::reached(Step::RestorePlanned).await;
        let plan = Plan {
            digest,
            backup: record.name,
            sources,
            fetch_bytes,
            doubts,
            safety_components,
            estimated_seconds,
            remarks,
            places,
        };
        self.plans.show(&plan);
        Ok(plan)
    }

    /// Why somebody should think twice before restoring these archives.
    async fn doubts(
        &self,
        record: &BackupRecord,
        archives: &[ArchiveRecord],
    ) -> Result<Vec<String>, Failure> {
        let mut doubts = Vec::new();
        for archive in archives.iter().filter(|archive| archive.outcome == Outcome::Incomplete) {
            let reason = archive.reason.as_deref().unwrap_or("no reason was recorded");
            doubts.push(format!("{} is incomplete: {reason}", archive.source));
        }
        let verified =
            self.catalog.verifications(&record.name).await.map_err(|error| catalog_failure(&error))?;
        for archive in archives {
            let of_it = verified.iter().filter(|result| result.source == archive.source);
            let Some(newest) = of_it.max_by_key(|result| result.at).filter(|result| !result.intact) else {
                continue;
            };
            let finding = newest.findings.first().map_or("", String::as_str);
            doubts.push(format!("{} was found damaged at {}: {finding}", archive.source, newest.at));
        }
        Ok(doubts)
    }

    /// How long a restore of so many bytes will take, by what the last ones took. 0: there was none.
    async fn estimate(&self, bytes: u64) -> Result<u64, Failure> {
        const LOOKED_AT: u32 = 200;
        let jobs = self.catalog.jobs(LOOKED_AT).await.map_err(|error| catalog_failure(&error))?;
        Ok(estimate(&jobs, bytes))
    }

    /// Carries out a plan, if it still says what `digest` confirmed.
    pub async fn start_restore(
        &self,
        request: &RestoreRequest,
        digest: &str,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        // A second plan would tell of what the first call has changed since.
        if let Some(job) = self.ordered_before(request_id).await? {
            return Ok(job);
        }
        let plan = self.plan_restore(request).await?;
        if plan.digest != digest {
            return Err(Failure::new(
                Code::FailedPrecondition,
                reason::PLAN_CHANGED,
                "the plan is out of date",
            )
            .because(match self.plans.changes(digest, &plan.sources).as_slice() {
                [] => "what the restore would do has changed since it was planned".to_owned(),
                changes => changes.join("; "),
            })
            .hint("look at the new plan, then restore again"));
        }
        let obstacles = plan.sources.iter().flat_map(|source| &source.obstacles);
        if let Some(first) = obstacles.clone().next() {
            return Err(Failure::new(
                Code::FailedPrecondition,
                reason::OBSTACLES,
                "the restore cannot go ahead",
            )
            .because(match obstacles.count() {
                1 => first.clone(),
                count => format!("{first} (and {} more)", count - 1),
            })
            .hint("clear what is in its way, or restore elsewhere with --to FOLDER"));
        }
        if !plan.doubts.is_empty() && !request.accept_doubts {
            let what = format!("the backup {} is not whole; nothing was changed", plan.backup);
            return Err(Failure::new(Code::FailedPrecondition, reason::NOT_APPROVED, what)
                .because(plan.doubts.join("; "))
                .hint("choose another backup, or restore this one with --accept-doubts"));
        }
        self.order_restore(request, plan, request_id).await
    }

    /// Orders the safety backup and, behind it, the restore.
    async fn order_restore(
        &self,
        request: &RestoreRequest,
        plan: Plan,
        request_id: Option<&str>,
    ) -> Result<Job, Failure> {
        let mut id = JobId::fresh();
        let mut safety = None;
        if !plan.safety_components.is_empty() {
            let kept = self.config.restores.keep_safety_backup.get();
            let pin = Some(Safety::now(id, self.now(), kept).to_string());
            let order = Order::Backup { components: plan.safety_components, pin, import: None };
            let of_safety = request_id.map(|request| format!("{request} (safety backup)"));
            let job = self.submit(order, of_safety.as_deref()).await?;
            // One that a call before this one has ordered names the restore that it is for.
            id = Safety::of_order(&job.order).map_or(id, |known| known.restore);
            safety = Some(job.id);
        }
        let order = Order::Restore {
            backup: plan.backup,
            places: plan.places,
            safety,
            undo_of: request.undo_of,
            digest: plan.digest,
        };
        let submitted = self.runner.submit_as(id, order, request_id).await;
        if let (Err(_), Some(safety)) = (&submitted, safety) {
            // Nobody waits for it any more; if it cannot be cancelled it is a backup like others.
            let _ = self.runner.cancel(safety).await;
        }
        submitted.map_err(|error| not_submitted(&error))
    }

    /// Which agent restores an archive, and where to: elsewhere means a folder for each component, and below
    /// it one for each source where the backup has `siblings` of that component.
    async fn place(
        &self,
        request: &RestoreRequest,
        archive: &ArchiveRecord,
        siblings: usize,
    ) -> Result<RestorePlace, Failure> {
        let agent = match &request.agent {
            Some(which) => self.find_agent(which).await?.id,
            None => self.serving_agent(archive, request.folder.is_some())?,
        };
        let name = &archive.source;
        let folder = request.folder.as_ref().map(|folder| {
            let folder = format!("{}/{}", folder.trim_end_matches('/'), name.component);
            if siblings == 1 { folder } else { format!("{folder}/{}", name.name) }
        });
        Ok(RestorePlace {
            source: archive.source.clone(),
            kind: archive.kind.clone(),
            agent,
            folder,
            globs: request.globs.clone(),
            databases: request.databases.clone(),
            allowance: Allowance::default(),
            confirmed: None,
            takes_back: false,
        })
    }

    /// The connected agent that serves the source. For another folder any agent will do if there is but one.
    fn serving_agent(&self, archive: &ArchiveRecord, elsewhere: bool) -> Result<AgentId, Failure> {
        let connected = self.fleet.connected();
        let serves =
            connected.iter().find(|agent| agent.sources.iter().any(|served| served.source == archive.source));
        match (serves, connected.as_slice()) {
            (Some(agent), _) => Ok(agent.agent),
            (None, [only]) if elsewhere => Ok(only.agent),
            _ => Err(Failure::new(
                Code::FailedPrecondition,
                reason::AGENT_AWAY,
                format!("no connected agent serves {}", archive.source),
            )
            .hint(match self.runner.restore_pod_of(&archive.source).filter(|_| !elsewhere) {
                // A sidecar is away with what it stands beside.
                Some(pod) => format!(
                    "start what it runs beside, or bring its restore pod up, which serves the source until the restore has \
                     ended: `kubectl scale {pod} --replicas=1`"
                ),
                None => "start its agent, or name another one with --to-agent and --to FOLDER".to_owned(),
            })),
        }
    }

    async fn ask_for_plan(&self, record: BackupRecord, place: RestorePlace) -> Result<SourcePlan, Failure> {
        let what = format!("the restore of {} cannot be planned", place.source);
        let away = || {
            Failure::new(Code::FailedPrecondition, reason::AGENT_AWAY, what.clone())
                .because("the connection to its agent broke")
                .hint("see `nsctl agent list`, then try again")
        };
        let failed = |why: String| {
            Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what.clone())
                .because(why)
                .hint("see to that, then restore again")
        };
        self.runner.ask_for_plan(record, place).await.map_err(|no_plan| match no_plan {
            NoPlan::Away => away(),
            NoPlan::Failed(why) => failed(why),
        })
    }

    async fn fetch_bytes(&self, record: &BackupRecord, places: &[RestorePlace]) -> Result<u64, Failure> {
        let (depot, record, places) = (self.depot.clone(), record.clone(), places.to_vec());
        let summed = tokio::task::spawn_blocking(move || sealed_bytes(&depot, &record, &places)).await;
        summed
            .map_err(|error| thread_died(&error))?
            .map_err(|error| repository_failure("the archive cannot be opened", &error))
    }
}

/// True if the undo of a restore of paths removes what that restore has made there: in folders it does.
fn goes_by_undo(place: &RestorePlace) -> bool {
    const CONFIGS: &str = "configs";
    !place.globs.is_empty() && place.kind != MONGODB && place.kind != CONFIGS
}

/// Programs that use several of the places: each place is swapped by itself, with its own stop and start.
fn stopped_more_than_once(sources: &[SourcePlan], places: &[RestorePlace]) -> Option<String> {
    let mut stops: BTreeMap<(AgentId, &str), usize> = BTreeMap::new();
    for (plan, place) in sources.iter().zip(places).filter(|(plan, _)| plan.in_place) {
        for one in plan.stops.iter().filter(|one| one.running) {
            *stops.entry((place.agent, one.name.as_str())).or_default() += 1;
        }
    }
    let mut names: Vec<&str> =
        stops.iter().filter(|(_, count)| **count > 1).map(|((_, name), _)| *name).collect();
    names.dedup();
    (!names.is_empty()).then(|| {
        format!(
            "stopped and started for each place, one after the other, so that it runs in between on what is restored in part: \
             {}; stop it yourself before, and start it after, where it does not bear that",
            names.join(", ")
        )
    })
}

fn sealed_bytes(
    depot: &Depot,
    record: &BackupRecord,
    places: &[RestorePlace],
) -> Result<u64, RepositoryError> {
    let mut sum = 0;
    for place in places {
        let reader = ArchiveReader::open(depot.repository(), depot.keys(), record, &place.source)?;
        for segment in reader.segments() {
            sum += segment?.blobs.iter().map(|(_, line)| u64::from(line.stored_length)).sum::<u64>();
        }
    }
    Ok(sum)
}

/// The components that are meant: whoever chooses collections means databases, and who chooses objects, configs.
fn components_of(request: &RestoreRequest, record: &BackupRecord) -> Result<Vec<Component>, Failure> {
    let Some(kind) = request.databases.of_kind().filter(|_| request.components.is_empty()) else {
        return Ok(request.components.clone());
    };
    let of_kind = record.archives.iter().filter(|archive| archive.kind == kind);
    let mut components: Vec<Component> = of_kind.map(|archive| archive.source.component.clone()).collect();
    components.dedup();
    let what = match kind {
        MONGODB => "databases of a server",
        _ => "configs",
    };
    match components.is_empty() {
        false => Ok(components),
        true => Err(Failure::not_found(format!("backup {} holds no {what}", record.name))
            .hint("`nsctl list` shows what each backup holds")),
    }
}

/// The archives to restore: every asked component has at least one, and none of them failed.
fn chosen_archives(record: &BackupRecord, components: &[Component]) -> Result<Vec<ArchiveRecord>, Failure> {
    let is_usable = |archive: &&ArchiveRecord| archive.outcome != Outcome::Failed;
    // Nobody who asks for all of it should have to find out by himself what was not there.
    if let (true, Some(lacking)) = (components.is_empty(), record.archives.iter().find(|one| !is_usable(one)))
    {
        let reason = lacking.reason.as_deref().unwrap_or("no reason was recorded");
        return Err(Failure::new(
            Code::FailedPrecondition,
            reason::NOT_FOUND,
            format!("backup {} holds nothing of {}", record.name, lacking.source),
        )
        .because(reason.to_owned())
        .hint("name what to restore with --components, or choose another backup"));
    }
    let usable = record.archives.iter().filter(is_usable);
    let asked = |component: &Component| components.is_empty() || components.contains(component);
    let chosen: Vec<ArchiveRecord> =
        usable.filter(|archive| asked(&archive.source.component)).cloned().collect();
    let holds = |component: &Component| chosen.iter().any(|archive| archive.source.component == *component);
    match components.iter().find(|component| !holds(component)) {
        Some(missing) => {
            Err(Failure::not_found(format!("backup {} holds nothing usable of {missing}", record.name))
                .hint("`nsctl list` shows which backups do"))
        }
        None => Ok(chosen),
    }
}

/// True if this plan would remove from a server what may be missing only because its backup is incomplete.
fn may_lose(archive: &ArchiveRecord, plan: &SourcePlan) -> bool {
    archive.kind == MONGODB && archive.outcome == Outcome::Incomplete && plan.removed_count > 0
}

/// What confirming this plan allows: what it shows, and no more.
fn allowance(plan: &SourcePlan, without_privileges: bool) -> Allowance {
    let shown = plan.privileges.iter().filter(|_| !without_privileges);
    let privileges =
        shown.map(|shown| (convert::privilege_word(shown.privilege()).to_owned(), shown.count)).collect();
    Allowance { entries: plan.entries, bytes: plan.bytes, privileges }
}

/// How long a restore of so many bytes takes, by what those among `jobs` took that brought enough to tell.
fn estimate(jobs: &[Job], bytes: u64) -> u64 {
    const ENOUGH: u64 = 1 << 20;
    let (mut taken, mut brought) = (0.0, 0);
    for job in jobs.iter().filter(|job| job.state == JobState::Complete) {
        let restored = job.parts.iter().map(|part| match &part.result {
            Some(PartResult::Restored { bytes, .. }) => *bytes,
            _ => 0,
        });
        let restored: u64 = restored.sum();
        if let (Some(began), Some(ended), true) = (job.started_at, job.ended_at, restored >= ENOUGH) {
            taken += ended.duration_since(began).as_secs_f64();
            brought += restored;
        }
    }
    match brought {
        0 => 0,
        brought => ((taken * bytes as f64 / brought as f64).ceil() as u64).max(1),
    }
}

/// What a plan says beside its places.
#[derive(Serialize)]
struct Seen<'a> {
    backup: &'a BackupName,
    doubts: &'a [String],
    safety: &'a [Component],
}

/// SHA-256 over what matters of a plan, in one notation.
fn digest_of(seen: &Seen<'_>, places: &[RestorePlace], sources: &[SourcePlan]) -> String {
    #[derive(Serialize)]
    struct Facts<'a> {
        seen: &'a Seen<'a>,
        places: Vec<Planned<'a>>,
    }
    #[derive(Serialize)]
    struct Planned<'a> {
        place: &'a RestorePlace,
        at: &'a str,
        counts: [u64; 5],
        ground: String,
        stops: Vec<&'a str>,
    }
    let of_source = |plan: &SourcePlan| {
        [plan.entries, plan.bytes, plan.replaced_count, plan.created_count, plan.removed_count]
    };
    let places = places.iter().zip(sources).map(|(place, plan)| {
        let stops = plan.stops.iter().map(|one| one.name.as_str()).collect();
        let (at, counts, ground) = (plan.place.as_str(), of_source(plan), hex(&plan.ground));
        Planned { place, at, counts, ground, stops }
    });
    let facts = Facts { seen, places: places.collect() };
    let json = serde_json::to_vec(&facts).expect("the facts of a plan have a JSON form");
    hex(digest::digest(&digest::SHA256, &json).as_ref())
}

#[cfg(test)]
mod tests {
    use proto::v1::{Privilege, PrivilegedEntries};

    use super::*;

    fn place(source: &str) -> RestorePlace {
        RestorePlace {
            source: source.parse().expect("a source"),
            kind: "files".into(),
            agent: "01970000-0000-7000-8000-000000000000".parse().expect("an agent"),
            folder: None,
            globs: Vec::new(),
            databases: Databases::default(),
            allowance: Allowance::default(),
            confirmed: None,
            takes_back: false,
        }
    }

    fn seen(backup: &BackupName) -> Seen<'_> {
        Seen { backup, doubts: &[], safety: &[] }
    }

    #[test]
    fn an_incomplete_backup_is_in_the_way_of_what_a_server_would_lose_and_of_nothing_else() {
        let archive = |kind: &str, outcome: &str| -> ArchiveRecord {
            serde_json::from_value(serde_json::json!({
                "component": "database", "source": "database", "kind": kind, "outcome": outcome,
                "reason": null, "consistency": null, "counts": {}, "manifest": "00".repeat(32), "refs": null,
            }))
            .expect("an archive")
        };
        let removing = |removed_count| SourcePlan { removed_count, ..SourcePlan::default() };
        assert!(may_lose(&archive(MONGODB, "incomplete"), &removing(1)));
        for (kind, outcome, removed) in
            [("files", "incomplete", 1), (MONGODB, "complete", 1), (MONGODB, "incomplete", 0)]
        {
            assert!(!may_lose(&archive(kind, outcome), &removing(removed)), "{kind} {outcome} {removed}");
        }
    }

    #[test]
    fn a_plan_grants_the_privileges_that_it_shows_and_confirms_them() {
        let setuid = |count| PrivilegedEntries {
            privilege: Privilege::Setuid.into(),
            count,
            names: vec!["bin/su".into()],
        };
        let plan = |count| SourcePlan { entries: 3, privileges: vec![setuid(count)], ..Default::default() };
        assert_eq!(allowance(&plan(2), false).privileges, [("setuid".to_owned(), 2)].into());
        assert_eq!(allowance(&plan(2), true).privileges, [].into());
        let name = "20260101_010000".parse().expect("a name");
        let digest = |count, without| {
            let place = RestorePlace { allowance: allowance(&plan(count), without), ..place("models/a") };
            digest_of(&seen(&name), &[place], &[plan(count)])
        };
        assert_eq!(digest(2, false), digest(2, false));
        assert_ne!(digest(2, false), digest(3, false));
        assert_ne!(digest(2, false), digest(2, true));
    }

    #[test]
    fn a_plan_that_would_do_something_else_has_another_digest() {
        let name = "20260101_010000".parse().expect("a name");
        let (places, plan) =
            (vec![place("models/a")], SourcePlan { place: "/data".into(), entries: 3, ..Default::default() });
        let digest = |places: &[RestorePlace], plan: &SourcePlan| {
            digest_of(&seen(&name), places, std::slice::from_ref(plan))
        };
        let first = digest(&places, &plan);
        assert_eq!(
            first,
            digest(&places, &SourcePlan { free_bytes: 99, ..plan.clone() }),
            "free space comes and goes"
        );
        for other in [
            SourcePlan { place: "/other".into(), ..plan.clone() },
            SourcePlan { removed_count: 1, ..plan.clone() },
            SourcePlan { entries: 4, ..plan.clone() },
            SourcePlan { ground: vec![1].into(), ..plan.clone() },
            SourcePlan {
                stops: vec![proto::v1::Application { name: "api".into(), ..Default::default() }],
                ..plan.clone()
            },
        ] {
            assert_ne!(first, digest(&places, &other));
        }
        assert_ne!(first, digest(&[RestorePlace { globs: vec!["*.db".into()], ..place("models/a") }], &plan));
    }
}
