//! Plans of restores into a server, and these restores.

use std::sync::Arc;

use proto::failure::{chain, reason};
use proto::{Failure, convert, v1};
use runtime::steps;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Counters, Users, Watched, not_readable, open_archive, pass_on, progress_now, still_so, wire};
use crate::connection::Agent;
use crate::limits::Pace;
use crate::restore::{ArchiveEntries, BlobMap, RemoteBlobs, Window, WireBlobs};
use crate::resume::end_at_server;
use crate::served::Served;
use crate::sources::SourceError;
use crate::sources::mongodb::server::Server;
use crate::steps::Step;
use crate::targets::CancelFlag;
use crate::targets::files::PathPatterns;
use crate::targets::mongodb::archive::{self, Contents};
use crate::targets::mongodb::plan::{Plan, plan};
use crate::targets::mongodb::select::{Name, Wanted};
use crate::targets::mongodb::{self, RestoreError};
use crate::tasks::order::RestoreOrder;
use crate::tasks::{TaskContext, blocking, telling};

/// What a restore into a server would do, and what is in its way.
pub(super) async fn planned(
    context: &Arc<TaskContext>,
    task_id: String,
    order: RestoreOrder,
    served: Served,
    cancel: &CancellationToken,
) -> Result<v1::RestorePlanned, Failure> {
    let archive = Archive::open(context, &task_id, order, served, cancel).await?;
    let (pages, data) = (archive.pages(context).await?, archive.data(context).await?);
    let (agent, runtime, flag) = (context.agent.clone(), Handle::current(), CancelFlag::default());
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || progress_now(&task_id, "planning", &Counters::default());
    let planned = blocking(move || {
        let server = archive.connect()?;
        end_at_server(&agent, &runtime, &server, &mut Vec::new())
            .map_err(|error| archive.not_restored(&error))?;
        let planned = archive.plan(&agent, &runtime, &server, pages, data, &flag);
        steps::reach(Step::PlanTried);
        planned.map(|(_, wire)| wire)
    });
    let plan = telling(&context.up, tell, planned).await??;
    Ok(v1::RestorePlanned { task_id, plan: Some(plan) })
}

/// Restores, and returns when all of it is live and what ran runs again, or nothing has changed.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    wire: v1::StartRestore,
    order: RestoreOrder,
    served: Served,
    cancel: &CancellationToken,
) -> Result<v1::RestoreFinished, Failure> {
    let v1::StartRestore { task_id, allowance, confirmed, .. } = wire;
    let allowance = super::order::allowance(allowance.as_ref())?;
    let archive = Archive::open(context, &task_id, order, served, cancel).await?;
    let (pages, data) = (archive.pages(context).await?, archive.data(context).await?);
    let (entry_pages, mut documents) = (archive.pages(context).await?, archive.data(context).await?);
    let counters = Arc::new(Counters::default());
    let flag = CancelFlag::default();
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || progress_now(&task_id, counters.step(), &counters);
    let restored = {
        let counters = Arc::clone(&counters);
        let (agent, runtime) = (context.agent.clone(), Handle::current());
        blocking(move || {
            let server = archive.connect()?;
            end_at_server(&agent, &runtime, &server, &mut Vec::new())
                .map_err(|error| archive.not_restored(&error))?;
            // What was ended just now may have been an earlier attempt at this one.
            let ended = agent.state.runs().ended(&archive.order.restore_id);
            if let Some(report) = ended.map_err(|error| super::no_record(&error))? {
                return Ok(report);
            }
            let (plan, now) = archive.plan(&agent, &runtime, &server, pages, data, &flag)?;
            let confirmed = confirmed.unwrap_or_else(|| now.clone());
            still_so(&archive.place, &confirmed, &now)?;
            if now.entries > allowance.entries || now.bytes > allowance.bytes {
                let more = "the archive holds more than the confirmed plan says".to_owned();
                return Err(archive.not_restored(&RestoreError::Refused(more)));
            }
            let id = &archive.order.restore_id;
            let record = agent.state.restore(id);
            let mut planned = wire::planned(&now);
            planned.names = plan.replaced.iter().chain(&plan.removed).map(ToString::to_string).collect();
            let users = Users::of(&agent, runtime, id, planned).at(&archive.served.id);
            let users = users.expecting(&now);
            let component = archive.served.id.component.to_string();
            let of_whom = (Some(component.as_str()), None);
            let progress = Watched { counters: &counters, record: &record, users: &users, of_whom };
            let entries = ArchiveEntries::open(entry_pages, &archive.order.root);
            let entries = entries.map_err(|error| not_readable(&error))?;
            let mut contents =
                Contents { blobs: &mut documents, id_key: &archive.order.keys.id_key, cancel: &flag };
            let owner = agent.key.name();
            match mongodb::restore(&server, (id, &owner), &plan, entries, &mut contents, &progress) {
                Ok(report) => Ok(users.end(|kept| {
                    (kept.entries, kept.bytes) = (report.collections, report.bytes);
                    (kept.replaced, kept.created) = (report.replaced, report.created);
                    kept.removed = report.removed;
                    kept.notes.extend(report.notes);
                })),
                Err(RestoreError::TakenBack(cause)) => Ok(users.undone(&cause)),
                // The next start ends it, or the next task at this server, and starts what ran.
                Err(error @ RestoreError::Interrupted(_)) => Err(archive.not_restored(&error)),
                Err(error) => {
                    let troubles = users.start_again();
                    users.settle();
                    let failure = archive.not_restored(&error);
                    Err(match troubles.is_empty() {
                        true => failure,
                        false => failure.hint(troubles.join("; ")),
                    })
                }
            }
        })
    };
    let report = telling(&context.up, tell, restored).await??;
    Ok(wire::report(task_id, report))
}

/// An archive that can be read, and the server into which it goes.
struct Archive {
    task_id: String,
    order: RestoreOrder,
    served: Served,
    place: String,
    map: Arc<BlobMap>,
    pace: Option<Pace>,
    cancel: CancellationToken,
}

type Blobs = RemoteBlobs<WireBlobs>;

impl Archive {
    async fn open(
        context: &TaskContext,
        task_id: &str,
        order: RestoreOrder,
        served: Served,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let map = Arc::new(open_archive(context, task_id, &order, cancel).await?);
        let (place, pace) = (served.location(), served.limits.download.clone());
        let (task_id, cancel) = (task_id.to_owned(), cancel.clone());
        Ok(Self { task_id, order, served, place, map, pace, cancel })
    }

    async fn pages(&self, context: &TaskContext) -> Result<Blobs, Failure> {
        self.blobs(context, Window::PAGES).await
    }

    async fn data(&self, context: &TaskContext) -> Result<Blobs, Failure> {
        self.blobs(context, Window::DATA).await
    }

    async fn blobs(&self, context: &TaskContext, window: Window) -> Result<Blobs, Failure> {
        let (gateway, cancel) = (context.gateway.clone(), self.cancel.clone());
        let stream = WireBlobs::open(gateway, &self.task_id, cancel, self.pace.clone()).await?;
        Ok(RemoteBlobs::new(Arc::clone(&self.map), stream, window))
    }

    fn connect(&self) -> Result<Server, Failure> {
        let uri = self.served.server().expect("restores into servers alone come here");
        Server::connect(&uri).map_err(|error| {
            let hint = match &error {
                SourceError::Server { hint, .. } => hint,
                _ => "",
            };
            let what = format!("nothing can be restored into {}; nothing was changed", self.place);
            Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what).caused_by(&error).hint(hint)
        })
    }

    /// What it would do, what would be stopped for it, and what is in its way. Blocks.
    fn plan(
        &self,
        agent: &Agent,
        runtime: &Handle,
        server: &Server,
        pages: Blobs,
        mut data: Blobs,
        cancel: &CancelFlag,
    ) -> Result<(Plan, v1::SourcePlan), Failure> {
        let order = &self.order;
        let paths = match order.globs.as_slice() {
            [] => None,
            globs => Some(PathPatterns::new(globs).map_err(|error| {
                Failure::invalid("a path pattern cannot be understood").caused_by(&error)
            })?),
        };
        let wanted = Wanted {
            include: order.include.clone(),
            renames: order.renames.clone(),
            paths,
            drops_others: order.drops_others,
        };
        let entries = ArchiveEntries::open(pages, &order.root).map_err(|error| not_readable(&error))?;
        let mut contents = Contents { blobs: &mut data, id_key: &order.keys.id_key, cancel };
        let surveyed = archive::read(entries, &mut contents)
            .and_then(|archived| mongodb::survey(server, archived))
            .map_err(|error| self.not_restored(&error))?;
        let mut plan = plan(&wanted, &surveyed);
        let mut obstacles = std::mem::take(&mut plan.obstacles);
        let mut free = None;
        if obstacles.is_empty() {
            (obstacles, free) = mongodb::preflight(server, &plan);
        }
        let component = self.served.id.component.as_str();
        let found = runtime.block_on(agent.platform.using(component, None)).unwrap_or_else(|error| {
            obstacles.push(format!(
                "it cannot be said what uses {component}: {error}; see to it, or to `applications` and \
                 `docker` in the agent's configuration"
            ));
            Default::default()
        });
        let names = |names: &[Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (replaced, created, removed) =
            (names(&plan.replaced), names(&plan.created), names(&plan.removed));
        let count = |names: &[String]| names.len() as u64;
        let stops = wire::stops(found.applications);
        let remarks = plan.remarks.iter().cloned().chain(found.remarks).collect();
        let told = v1::SourcePlan {
            source: Some(convert::to_wire_source(&order.source)),
            place: self.place.clone(),
            entries: plan.restored.len() as u64,
            bytes: plan.bytes,
            needed_bytes: plan.bytes,
            free_bytes: free.unwrap_or(u64::MAX),
            replaced_count: count(&replaced),
            created_count: count(&created),
            removed_count: count(&removed),
            ground: wire::ground_of([&replaced, &created, &removed]).to_vec().into(),
            replaced: wire::first(replaced),
            created: wire::first(created),
            removed: wire::first(removed),
            obstacles,
            privileges: Vec::new(),
            stops,
            leaves: plan.leaves.to_owned(),
            remarks,
            in_place: true,
            leaves_keys: false,
        };
        Ok((plan, told))
    }

    fn not_restored(&self, error: &RestoreError) -> Failure {
        const UNTOUCHED: &str = "what is live is as it was";
        let what = format!("the restore to {} did not happen", self.place);
        let failure =
            |code, reason, hint: String| Failure::new(code, reason, &*what).caused_by(error).hint(hint);
        let refused = |hint: String| failure(Code::FailedPrecondition, reason::OBSTACLES, hint);
        match error {
            RestoreError::Cancelled => crate::tasks::cancelled(),
            RestoreError::NotStopped(_) => {
                refused(format!("see to it; {UNTOUCHED}, and what was stopped is started again"))
            }
            RestoreError::TakenBack(_) => refused(UNTOUCHED.to_owned()),
            RestoreError::Refused(_) => refused(format!("see to it, then plan again; {UNTOUCHED}")),
            RestoreError::Lost(_) => {
                refused(format!("see how that agent has ended it, then plan again; {UNTOUCHED}"))
            }
            RestoreError::Server { source, .. } => refused(format!("{}; {UNTOUCHED}", source.hint)),
            RestoreError::Duplicates(_) => refused(format!(
                "the backup was made while the data changed: restore another one, or leave that collection out \
                 with --include; {UNTOUCHED}"
            )),
            RestoreError::Archive { .. } | RestoreError::Entries(_) | RestoreError::Blob { .. } => {
                let hint =
                    format!("run `nsctl verify` on this backup, and restore from another one; {UNTOUCHED}");
                failure(Code::DataLoss, reason::DAMAGED, hint)
            }
            RestoreError::Differs(_) => {
                refused(format!("see to the server's log, then restore again; {UNTOUCHED}"))
            }
            RestoreError::Interrupted(source) => {
                let what = format!("the restore to {} stopped in the middle of its swap", self.place);
                let failure = Failure::new(Code::Internal, reason::INTERNAL, what).because(chain(&**source));
                failure
                    .hint("see to the cause, then restart the agent: it finishes the swap or takes it back")
            }
        }
    }
}
