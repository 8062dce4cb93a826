//! What a restore takes and where it puts it: the archives that are meant, the agent and the place of each, and
//! what each agent says of its own.
//!
//! Must stay true: whoever asks for all gets all, or is told what is not there; no archive goes to an agent that
//! does not serve its source, unless somebody named another folder.

use proto::Failure;
use proto::failure::reason;
use proto::v1::SourcePlan;
use repository::backup::manifest::{ArchiveRecord, BackupRecord, Outcome};
use repository::error::RepositoryError;
use repository::names::Component;
use repository::read::ArchiveReader;
use tokio::task::JoinSet;
use tonic::Code;

use super::RestoreRequest;
use crate::app::App;
use crate::app::undo::TakenBack;
use crate::depot::Depot;
use crate::ids::AgentId;
use crate::ingest::{repository_failure, thread_died};
use crate::jobs::job::{Allowance, MONGODB, RestorePlace};
use crate::jobs::restore::NoPlan;

impl App {
    /// Where each archive goes. A restore is taken back in the parts in which it was done.
    pub(super) async fn places(
        &self,
        request: &RestoreRequest,
        record: &BackupRecord,
        archives: &[ArchiveRecord],
        taken_back: Option<&[TakenBack]>,
    ) -> Result<Vec<RestorePlace>, Failure> {
        let mut places = Vec::new();
        for archive in archives {
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
        Ok(places)
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

    /// What each agent would do at its place, in the order of the places.
    pub(super) async fn ask_for_plans(
        &self,
        record: &BackupRecord,
        places: &[RestorePlace],
    ) -> Result<Vec<SourcePlan>, Failure> {
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
        Ok(plans.into_iter().map(|(_, plan)| plan).collect())
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

    pub(super) async fn fetch_bytes(
        &self,
        record: &BackupRecord,
        places: &[RestorePlace],
    ) -> Result<u64, Failure> {
        let (depot, record, places) = (self.depot.clone(), record.clone(), places.to_vec());
        let summed = tokio::task::spawn_blocking(move || sealed_bytes(&depot, &record, &places)).await;
        summed
            .map_err(|error| thread_died(&error))?
            .map_err(|error| repository_failure("the archive cannot be opened", &error))
    }
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
pub(super) fn components_of(
    request: &RestoreRequest,
    record: &BackupRecord,
) -> Result<Vec<Component>, Failure> {
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

/// The archives to restore: every asked component has at least one, and none of them failed; if something is
/// taken back, those of its parts.
pub(super) fn chosen_archives(
    record: &BackupRecord,
    components: &[Component],
    taken_back: Option<&[TakenBack]>,
) -> Result<Vec<ArchiveRecord>, Failure> {
    let mut chosen = usable_archives(record, components)?;
    let Some(parts) = taken_back else { return Ok(chosen) };
    if let Some(part) = parts.iter().find(|part| chosen.iter().all(|archive| archive.source != part.source)) {
        let what = format!("backup {} holds nothing usable of {}", record.name, part.source);
        return Err(Failure::not_found(what).hint("`nsctl list` shows which backups do"));
    }
    chosen.retain(|archive| parts.iter().any(|part| part.source == archive.source));
    Ok(chosen)
}

fn usable_archives(record: &BackupRecord, components: &[Component]) -> Result<Vec<ArchiveRecord>, Failure> {
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
