//! Plans of restores into a Kubernetes cluster, and these restores.

use std::io;
use std::path::Path;
use std::sync::Arc;

use proto::failure::reason;
use proto::{Failure, convert, v1};
use runtime::steps;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Counters, Users, Watched, not_readable, open_archive, pass_on, progress_now, still_so, wire};
use crate::connection::Agent;
use crate::kubernetes::Cluster;
use crate::limits::Pace;
use crate::platform::Found;
use crate::restore::{ArchiveEntries, BlobMap, RemoteBlobs, Window, WireBlobs};
use crate::served::Served;
use crate::state::Run;
use crate::steps::Step;
use crate::targets::files::{Allowance, PathPatterns};
use crate::targets::mongodb::archive::Contents;
use crate::targets::objects::{self, ObjectsError, Plan, Tools, Wanted};
use crate::targets::{CancelFlag, Progress};
use crate::tasks::order::{Into, RestoreOrder};
use crate::tasks::{TaskContext, blocking, order, telling};

/// What somebody has seen and said yes to.
pub(super) struct Confirmed {
    pub(super) plan: Option<v1::SourcePlan>,
    pub(super) allowance: Allowance,
}

/// The served source that an order goes into, if that is objects of a cluster.
pub(super) fn target(agent: &Agent, order: &RestoreOrder) -> Result<Option<Served>, Failure> {
    match &order.into {
        Into::Served(source) => {
            let served = order::served(agent, source)?;
            Ok(served.objects().is_some().then(|| served.clone()))
        }
        Into::Folder(_) => Ok(None),
    }
}

/// What a restore into the cluster would do, and what is in its way. Nothing is changed.
pub(super) async fn plan(
    context: &Arc<TaskContext>,
    task_id: String,
    order: RestoreOrder,
    served: Served,
    cancel: &CancellationToken,
) -> Result<v1::RestorePlanned, Failure> {
    let archive = Archive::open(context, &task_id, order, served, cancel).await?;
    let (pages, data) =
        (archive.blobs(context, Window::PAGES).await?, archive.blobs(context, Window::DATA).await?);
    let (agent, runtime, flag) = (context.agent.clone(), Handle::current(), CancelFlag::default());
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || progress_now(&task_id, "planning", &Counters::default());
    let planned = blocking(move || {
        let cluster = archive.connect(&runtime)?;
        let planned = archive.plan((&agent, &runtime, &cluster), (pages, data), &flag);
        steps::reach(Step::PlanTried);
        planned.map(|(_, wire)| wire)
    });
    let plan = telling(&context.up, tell, planned).await??;
    Ok(v1::RestorePlanned { task_id, plan: Some(plan) })
}

/// Restores, and returns when all of it is live and what ran runs again, or nothing has changed.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    task_id: String,
    (order, served): (RestoreOrder, Served),
    confirmed: Confirmed,
    cancel: &CancellationToken,
) -> Result<v1::RestoreFinished, Failure> {
    let archive = Archive::open(context, &task_id, order, served, cancel).await?;
    let (pages, data) =
        (archive.blobs(context, Window::PAGES).await?, archive.blobs(context, Window::DATA).await?);
    let (entry_pages, mut objects) =
        (archive.blobs(context, Window::PAGES).await?, archive.blobs(context, Window::DATA).await?);
    let counters = Arc::new(Counters::default());
    let flag = CancelFlag::default();
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || progress_now(&task_id, counters.step(), &counters);
    let restored = {
        let counters = Arc::clone(&counters);
        let (agent, runtime) = (context.agent.clone(), Handle::current());
        blocking(move || {
            let id = &archive.order.restore_id;
            let begun = begun(&agent, id)?;
            let cluster = archive.connect(&runtime)?;
            let (plan, now) = archive.plan((&agent, &runtime, &cluster), (pages, data), &flag)?;
            // What was applied before its process died is no change of the plan.
            let confirmed_plan = match &begun {
                Some(_) => now.clone(),
                None => confirmed.plan.unwrap_or_else(|| now.clone()),
            };
            still_so(&archive.place, &confirmed_plan, &now)?;
            if now.entries > confirmed.allowance.entries || now.bytes > confirmed.allowance.bytes {
                let more = "the archive holds more than the confirmed plan says".to_owned();
                return Err(archive.not_restored(&ObjectsError::Refused(more)));
            }
            let is_first = begun.is_none();
            let users = match begun {
                Some(run) => Users::resumed(&agent, runtime.clone(), id, run),
                None => Users::of(&agent, runtime.clone(), id, wire::planned(&now)),
            };
            let users = users.at(&archive.served.id).expecting(&now);
            let record = agent.state.restore(id);
            let component = archive.served.id.component.to_string();
            // Elsewhere nothing is stopped.
            let of_whom = (archive.in_place().then_some(component.as_str()), None);
            let watched = Watched { counters: &counters, record: &record, users: &users, of_whom };
            let progress = Applying { watched, users: &users };
            let entries = ArchiveEntries::open(entry_pages, &archive.order.root);
            let entries = entries.map_err(|error| not_readable(&error))?;
            let mut contents =
                Contents { blobs: &mut objects, id_key: &archive.order.keys.id_key, cancel: &flag };
            let mut tools = Tools { cluster: &cluster, runtime: &runtime, contents: &mut contents };
            match objects::restore(&archive.wanted()?, &plan, entries, &mut tools, &progress) {
                Ok(done) => Ok(users.end(|report| {
                    if is_first {
                        (report.entries, report.bytes) = (done.objects, done.bytes);
                        (report.replaced, report.created) = (done.changed, done.created);
                    }
                })),
                // What an earlier attempt has applied is not among what was taken back.
                Err(error) if !is_first => {
                    let left = vec!["what an attempt before this one has applied".to_owned()];
                    let half = ObjectsError::Half { cause: error.to_string(), left };
                    let troubles = users.start_again();
                    users.remember();
                    let failure = archive.not_restored(&half);
                    Err(match troubles.is_empty() {
                        true => failure,
                        false => failure.hint(troubles.join("; ")),
                    })
                }
                Err(ObjectsError::TakenBack(cause)) => Ok(users.undone(&cause)),
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

/// The run of this restore, if a process has died while it applied it.
fn begun(agent: &Agent, id: &str) -> Result<Option<Run>, Failure> {
    let runs = agent.state.runs().all().map_err(|error| super::no_record(&error))?;
    Ok(runs.into_iter().find(|(of, run)| of == id && run.applying).map(|(_, run)| run))
}

/// Puts on record that it begins, once all is stopped.
struct Applying<'a> {
    watched: Watched<'a>,
    users: &'a Users<'a>,
}

impl Progress for Applying<'_> {
    fn writes_in(&self, folder: &Path) -> io::Result<()> {
        self.watched.writes_in(folder)
    }

    fn bytes_written(&self, count: u64) {
        self.watched.bytes_written(count);
    }

    fn entry_written(&self) {
        self.watched.entry_written();
    }

    fn staged(&self) -> Result<(), String> {
        self.watched.staged()?;
        self.users.applying()
    }

    fn swap_begins(&self) {
        self.watched.swap_begins();
    }

    fn swapped(&self) -> Result<(), String> {
        self.watched.swapped()
    }
}

/// An archive that can be read, and the cluster into which it goes.
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
        if !order.renames.is_empty() || order.drops_others {
            return Err(Failure::invalid(format!("{} is not restored into a database server", order.source))
                .because("--rename and --drop-others are about the collections of one")
                .hint(
                    "objects go elsewhere with --to-namespace, and those that are not in the backup stay",
                ));
        }
        let map = Arc::new(open_archive(context, task_id, &order, cancel).await?);
        let place = match &order.to_namespace {
            Some(namespace) => format!("the namespace {namespace}"),
            None => served.location(),
        };
        let (pace, task_id, cancel) = (served.limits.download.clone(), task_id.to_owned(), cancel.clone());
        Ok(Self { task_id, order, served, place, map, pace, cancel })
    }

    async fn blobs(&self, context: &TaskContext, window: Window) -> Result<Blobs, Failure> {
        let (gateway, cancel) = (context.gateway.clone(), self.cancel.clone());
        let stream = WireBlobs::open(gateway, &self.task_id, cancel, self.pace.clone()).await?;
        Ok(RemoteBlobs::new(Arc::clone(&self.map), stream, window))
    }

    fn connect(&self, runtime: &Handle) -> Result<Cluster, Failure> {
        let (_, settings) = self.served.objects().expect("restores into clusters alone come here");
        runtime.block_on(Cluster::connect(settings)).map_err(|trouble| {
            let what = format!("nothing can be restored into {}; nothing was changed", self.place);
            let failure = Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what);
            failure.because(trouble.to_string()).hint(trouble.hint())
        })
    }

    fn in_place(&self) -> bool {
        self.order.to_namespace.is_none()
    }

    fn wanted(&self) -> Result<Wanted, Failure> {
        let paths = match self.order.globs.as_slice() {
            [] => None,
            globs => Some(PathPatterns::new(globs).map_err(|error| {
                Failure::invalid("a path pattern cannot be understood").caused_by(&error)
            })?),
        };
        Ok(Wanted {
            include: self.order.include.clone(),
            paths,
            to_namespace: self.order.to_namespace.clone(),
            force: self.order.force_conflicts,
            held: self.served.objects().map(|(held, _)| held.clone()).filter(|_| self.in_place()),
        })
    }

    /// What it would do, what would be stopped for it, and what is in its way. Blocks.
    fn plan(
        &self,
        (agent, runtime, cluster): (&Agent, &Handle, &Cluster),
        (pages, mut data): (Blobs, Blobs),
        cancel: &CancelFlag,
    ) -> Result<(Plan, v1::SourcePlan), Failure> {
        let order = &self.order;
        let entries = ArchiveEntries::open(pages, &order.root).map_err(|error| not_readable(&error))?;
        let mut contents = Contents { blobs: &mut data, id_key: &order.keys.id_key, cancel };
        let mut tools = Tools { cluster, runtime, contents: &mut contents };
        let plan =
            objects::plan(&self.wanted()?, entries, &mut tools).map_err(|error| self.not_restored(&error))?;
        let mut obstacles = plan.obstacles.clone();
        let mut found = Found::default();
        if self.in_place() {
            let component = self.served.id.component.as_str();
            match runtime.block_on(agent.platform.using(component, None)) {
                Ok(using) => found = using,
                Err(error) => obstacles.push(format!("it cannot be said what uses {component}: {error}")),
            }
        }
        let mut remarks = plan.remarks.clone();
        if plan.same > 0 {
            remarks.push(format!("{} objects are as they were backed up", plan.same));
        }
        let none = Vec::new();
        let told = v1::SourcePlan {
            source: Some(convert::to_wire_source(&order.source)),
            place: self.place.clone(),
            entries: plan.planned.len() as u64,
            bytes: plan.bytes,
            needed_bytes: 0,
            free_bytes: u64::MAX,
            replaced_count: plan.changed.len() as u64,
            created_count: plan.created.len() as u64,
            removed_count: 0,
            ground: wire::ground_of([&plan.changed, &plan.created, &none]).to_vec().into(),
            replaced: wire::first(plan.changed.clone()),
            created: wire::first(plan.created.clone()),
            removed: none,
            obstacles,
            privileges: Vec::new(),
            stops: wire::stops(found.applications),
            leaves: "objects that are not in the backup".to_owned(),
            remarks: remarks.into_iter().chain(found.remarks).collect(),
            in_place: self.in_place(),
            leaves_keys: false,
        };
        Ok((plan, told))
    }

    fn not_restored(&self, error: &ObjectsError) -> Failure {
        const UNTOUCHED: &str = "what is live is as it was";
        let what = format!("the restore to {} did not happen", self.place);
        let failure = |code, reason, hint: String| {
            Failure::new(code, reason, &*what).because(error.to_string()).hint(hint)
        };
        let refused = |hint: String| failure(Code::FailedPrecondition, reason::OBSTACLES, hint);
        match error {
            ObjectsError::Cancelled => crate::tasks::cancelled(),
            ObjectsError::Damaged(_) | ObjectsError::Archive(_) => failure(
                Code::DataLoss,
                reason::DAMAGED,
                format!("run `nsctl verify` on this backup, and restore from another one; {UNTOUCHED}"),
            ),
            ObjectsError::NotStopped(_) => {
                refused(format!("see to it; {UNTOUCHED}, and what was stopped is started again"))
            }
            ObjectsError::TakenBack(_) => refused(UNTOUCHED.to_owned()),
            ObjectsError::Refused(_) => refused(format!("see to it, then plan again; {UNTOUCHED}")),
            ObjectsError::Cluster { trouble, .. } => refused(format!("{}; {UNTOUCHED}", trouble.hint())),
            ObjectsError::Half { .. } => refused(
                "see to the cluster, then restore again; the safety backup (`nsctl list`) has what was there before"
                    .to_owned(),
            ),
        }
    }
}
