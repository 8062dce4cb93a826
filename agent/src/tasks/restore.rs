//! Plans of restores, and restores.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::failure::reason;
use proto::{Failure, convert, v1};
use repository::archive::path::EntryPath;
use repository::content::IdKey;
use runtime::steps;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::order::{Into, RestoreOrder};
use super::{TaskContext, blocking, order, telling, until};
use crate::limits::Pace;
use crate::restore::{ArchiveEntries, ArchiveKeys, BlobMap, BlobMapBuilder, RemoteBlobs, Window, WireBlobs};
use crate::state::RestoreRecord;
use crate::steps::Step;
use crate::targets::files::{
    self, InProduction, PathPatterns, Place, RestoreError, RestorePlan, RestoreReport, RestoreRequest,
    Selection, Tools,
};
use crate::targets::{CancelFlag, Progress};

/// Names that a plan lists of each kind.
const TOLD_NAMES: usize = 100;
/// Warnings that a result lists.
const TOLD_WARNINGS: usize = 100;

/// What a restore would do, and what is in its way. Tries for real, and leaves nothing behind.
pub(super) async fn plan(
    context: &Arc<TaskContext>,
    wire: v1::PlanRestore,
    cancel: &CancellationToken,
) -> Result<v1::RestorePlanned, Failure> {
    let v1::PlanRestore { task_id, order } = wire;
    let archive = Archive::open(context, &task_id, order.as_ref(), cancel).await?;
    let pages = archive.blobs(context, Window::PAGES).await?;
    let tell = || progress_now(&task_id, "planning", &Counters::default());
    let planned = blocking(move || {
        let Archive { order, request, place, .. } = archive;
        let entries = ArchiveEntries::open(pages, &order.root).map_err(|error| not_readable(&error))?;
        let facts = files::survey(&request, entries).map_err(|error| not_restored(&place, &error))?;
        let plan = files::plan(&facts);
        let obstacles = files::preflight(&facts, &request.restore_id, &InProduction);
        steps::reach(Step::PlanTried);
        Ok::<_, Failure>(to_wire_plan(&order, place, plan, obstacles))
    });
    let plan = telling(&context.up, tell, planned).await??;
    Ok(v1::RestorePlanned { task_id, plan: Some(plan) })
}

/// Restores, and returns when all of it is live and durable, or nothing has changed.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    wire: v1::StartRestore,
    cancel: &CancellationToken,
) -> Result<v1::RestoreFinished, Failure> {
    let v1::StartRestore { task_id, order, allowance, .. } = wire;
    let allowance = order::allowance(allowance.as_ref())?;
    let archive = Archive::open(context, &task_id, order.as_ref(), cancel).await?;
    let pages = archive.blobs(context, Window::PAGES).await?;
    let mut data = archive.blobs(context, Window::DATA).await?;
    let counters = Arc::new(Counters::default());
    let flag = CancelFlag::default();
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || {
        let step = if counters.swapping.load(Ordering::Relaxed) { "swapping" } else { "staging" };
        progress_now(&task_id, step, &counters)
    };
    let restored = {
        let counters = Arc::clone(&counters);
        let record = context.agent.state.restore(&archive.request.restore_id);
        blocking(move || {
            let Archive { order, request, place, .. } = archive;
            let entries = ArchiveEntries::open(pages, &order.root).map_err(|error| not_readable(&error))?;
            let id_key: &IdKey = &order.keys.id_key;
            let progress = Watched { counters: &counters, record: &record };
            let tools = Tools { id_key, progress: &progress, cancel: &flag, steps: &InProduction };
            let restored = files::restore(&request, allowance, entries, &mut data, tools);
            if !matches!(restored, Err(RestoreError::Interrupted { .. })) {
                record.ended();
            }
            steps::reach(Step::OffRecord);
            restored.map_err(|error| not_restored(&place, &error))
        })
    };
    let report = telling(&context.up, tell, restored).await??;
    Ok(to_wire_report(task_id, report))
}

/// An archive that can be read, and where it goes.
struct Archive {
    task_id: String,
    order: RestoreOrder,
    request: RestoreRequest,
    place: String,
    map: Arc<BlobMap>,
    /// That of the source whose archive it is.
    pace: Option<Pace>,
    cancel: CancellationToken,
}

impl Archive {
    async fn open(
        context: &TaskContext,
        task_id: &str,
        wire: Option<&v1::RestoreOrder>,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let order = RestoreOrder::check(wire)?;
        let (place, shown) = match &order.into {
            Into::Served(source) => {
                let served = order::served(&context.agent, source)?;
                (served.place(), served.location())
            }
            Into::Folder(path) => {
                order::check_folder(&context.agent, path)?;
                (Place::NewFolder { path: path.clone() }, path.display().to_string())
            }
        };
        let selection = match order.globs.as_slice() {
            [] => Selection::Whole,
            globs => Selection::Paths(PathPatterns::new(globs).map_err(|error| {
                Failure::invalid("a path pattern cannot be understood").caused_by(&error)
            })?),
        };
        let request = RestoreRequest { restore_id: order.restore_id.clone(), place, selection };
        let of = context.agent.served.iter().find(|served| served.id == order.source);
        let pace = of.and_then(|served| served.limits.download.clone());
        let map = Arc::new(open_archive(context, task_id, &order, cancel).await?);
        Ok(Self {
            task_id: task_id.to_owned(),
            order,
            request,
            place: shown,
            map,
            pace,
            cancel: cancel.clone(),
        })
    }

    /// A reader of its blobs on a stream of its own.
    async fn blobs(&self, context: &TaskContext, window: Window) -> Result<RemoteBlobs<WireBlobs>, Failure> {
        let stream =
            WireBlobs::open(context.gateway.clone(), &self.task_id, self.cancel.clone(), self.pace.clone())
                .await?;
        Ok(RemoteBlobs::new(Arc::clone(&self.map), stream, window))
    }
}

async fn open_archive(
    context: &TaskContext,
    task_id: &str,
    order: &RestoreOrder,
    cancel: &CancellationToken,
) -> Result<BlobMap, Failure> {
    let mut gateway = context.gateway.clone();
    let request = v1::OpenArchiveRequest { task_id: task_id.to_owned() };
    let mut segments = until(cancel, gateway.open_archive(request)).await?.into_inner();
    let keys = ArchiveKeys {
        repository: context.pin.id,
        domain: order.keys.domain,
        id_key: order.keys.id_key.clone(),
    };
    let mut map = BlobMapBuilder::new(keys);
    while let Some(segment) = until(cancel, segments.message()).await? {
        map.add(&segment)?;
    }
    let map = blocking(|| map.finish()).await?;
    steps::reached(Step::KeysKnown).await;
    Ok(map)
}

/// Cancels `flag` when `cancel` is cancelled, for as long as what is returned lives.
fn pass_on(cancel: CancellationToken, flag: CancelFlag) -> tokio_util::task::AbortOnDropHandle<()> {
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        cancel.cancelled().await;
        flag.cancel();
    }))
}

/// How far a restore is.
#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    entries: AtomicU64,
    swapping: AtomicBool,
}

/// Counts, and keeps on record where a crash would leave something.
struct Watched<'a> {
    counters: &'a Counters,
    record: &'a RestoreRecord,
}

impl Progress for Watched<'_> {
    fn writes_in(&self, folder: &Path) -> io::Result<()> {
        self.record.note(folder)
    }

    fn bytes_written(&self, count: u64) {
        self.counters.bytes.fetch_add(count, Ordering::Relaxed);
    }

    fn entry_written(&self) {
        self.counters.entries.fetch_add(1, Ordering::Relaxed);
    }

    fn swap_begins(&self) {
        self.counters.swapping.store(true, Ordering::Relaxed);
    }
}

fn progress_now(task_id: &str, step: &str, counters: &Counters) -> v1::TaskProgress {
    v1::TaskProgress {
        task_id: task_id.to_owned(),
        step: step.to_owned(),
        done_bytes: counters.bytes.load(Ordering::Relaxed),
        total_bytes: 0,
        done_entries: counters.entries.load(Ordering::Relaxed),
        sent_bytes: 0,
    }
}

fn to_wire_plan(
    order: &RestoreOrder,
    place: String,
    plan: RestorePlan,
    obstacles: Vec<String>,
) -> v1::SourcePlan {
    let names = |paths: &[EntryPath]| paths.iter().take(TOLD_NAMES).map(EntryPath::to_string).collect();
    v1::SourcePlan {
        source: Some(convert::to_wire_source(&order.source)),
        place,
        entries: plan.entries,
        bytes: plan.bytes_to_write,
        free_bytes: plan.free_space,
        replaced: names(&plan.overwritten),
        created: names(&plan.created),
        removed: names(&plan.removed),
        replaced_count: plan.overwritten_count,
        created_count: plan.created_count,
        removed_count: plan.removed_count,
        obstacles,
        privileges: (plan.privileges.iter())
            .map(|(privilege, held)| v1::PrivilegedEntries {
                privilege: order::to_wire_privilege(*privilege).into(),
                count: held.count,
                names: names(&held.paths),
            })
            .collect(),
    }
}

fn to_wire_report(task_id: String, report: RestoreReport) -> v1::RestoreFinished {
    let RestoreReport { entries, bytes, old, notes, .. } = report;
    let old: Vec<String> = old.iter().map(|path| path.display().to_string()).collect();
    v1::RestoreFinished {
        task_id,
        entries,
        bytes,
        previous_state: old.join(", "),
        warnings: notes.into_iter().take(TOLD_WARNINGS).collect(),
    }
}

fn not_readable(error: &dyn std::error::Error) -> Failure {
    Failure::new(Code::DataLoss, reason::DAMAGED, "the archive cannot be read")
        .caused_by(error)
        .hint("run `nsctl verify` on this backup, and restore from another one")
}

fn not_restored(place: &str, error: &RestoreError) -> Failure {
    let what = format!("the restore to {place} did not happen");
    let failure = |code, reason, hint: &str| Failure::new(code, reason, &*what).caused_by(error).hint(hint);
    match error {
        RestoreError::Cancelled => super::cancelled(),
        RestoreError::Refused { .. } => {
            failure(Code::FailedPrecondition, reason::OBSTACLES, "see to it, then plan again")
        }
        RestoreError::Archive { .. } | RestoreError::Entries(_) | RestoreError::Blob { .. } => failure(
            Code::DataLoss,
            reason::DAMAGED,
            "run `nsctl verify` on this backup, and restore from another one; the live data is as it was",
        ),
        RestoreError::Io { .. } => failure(
            Code::FailedPrecondition,
            reason::OBSTACLES,
            "check space and permissions there; the live data is as it was",
        ),
        RestoreError::Interrupted { .. } => Failure::new(
            Code::Internal,
            reason::INTERNAL,
            format!("the restore to {place} stopped in the middle of its swap"),
        )
        .caused_by(error)
        .hint("see to the cause, then restart the agent: it finishes or undoes the swap"),
    }
}
