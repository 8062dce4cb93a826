//! Plans of restores, and restores.

mod drill;
mod node;
mod objects;
mod server;
mod settle;
mod users;
mod wire;

pub(super) use drill::drill;
pub(super) use settle::settle;
pub(crate) use users::Users;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::failure::reason;
use proto::{Failure, v1};
use repository::archive::path::EntryPath;
use repository::content::IdKey;
use repository::names::SourceId;
use runtime::steps;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::order::{Into, RestoreOrder};
use super::{TaskContext, blocking, order, telling, until};
use crate::connection::Agent;
use crate::limits::Pace;
use crate::platform::{Found, Other, writers};
use crate::restore::{
    ArchiveEntries, ArchiveKeys, BlobMap, BlobMapBuilder, EntriesError, RemoteBlobs, Window, WireBlobs,
};
use crate::served::Served;
use crate::sources::files::Rules;
use crate::sources::mongodb::folder::is_in_use;
use crate::state::{Report, RestoreRecord};
use crate::steps::Step;
use crate::targets::files::{
    self, InProduction, PathPatterns, Place, RestoreError, RestorePlan, RestoreRequest, Selection, Tools,
};
use crate::targets::{BlobError, CancelFlag, Progress};

/// What a restore would do, and what is in its way. Tries for real, and leaves nothing behind.
pub(super) async fn plan(
    context: &Arc<TaskContext>,
    wire: v1::PlanRestore,
    cancel: &CancellationToken,
) -> Result<v1::RestorePlanned, Failure> {
    let v1::PlanRestore { task_id, order } = wire;
    let checked = RestoreOrder::check(order.as_ref())?;
    if let Some(served) = objects::target(&context.agent, &checked)? {
        return Box::pin(objects::plan(context, task_id, checked, served, cancel)).await;
    }
    if let Some(served) = node::target(&context.agent, &checked)? {
        return Box::pin(node::plan(context, task_id, checked, served, cancel)).await;
    }
    if let Some((order, served)) = into_server(context, order.as_ref())? {
        return Box::pin(server::planned(context, task_id, order, served, cancel)).await;
    }
    let archive = Archive::open(context, &task_id, order.as_ref(), cancel).await?;
    let pages = archive.blobs(context, Window::PAGES).await?;
    let tell = || progress_now(&task_id, "planning", &Counters::default());
    let (agent, runtime) = (context.agent.clone(), Handle::current());
    let planned = blocking(move || {
        let plan = archive.plan(&agent, &runtime, pages).map(|(plan, _)| plan);
        steps::reach(Step::PlanTried);
        plan
    });
    let plan = telling(&context.up, tell, planned).await??;
    Ok(v1::RestorePlanned { task_id, plan: Some(plan) })
}

/// Restores, and returns when all of it is live and durable and what ran runs again, or nothing has changed.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    wire: v1::StartRestore,
    cancel: &CancellationToken,
) -> Result<v1::RestoreFinished, Failure> {
    let checked = RestoreOrder::check(wire.order.as_ref())?;
    let id = checked.restore_id.clone();
    if !wire.take_back.is_empty() {
        return taken_back(context, wire, &checked).await;
    }
    // An earlier attempt came to its end, and its answer was lost.
    let ended = context.agent.state.runs().ended(&id);
    if let Some(report) = ended.map_err(|error| no_record(&error))? {
        return Ok(wire::report(wire.task_id, report));
    }
    if let Some(served) = objects::target(&context.agent, &checked)? {
        let v1::StartRestore { task_id, allowance, confirmed, .. } = wire;
        let allowance = order::allowance(allowance.as_ref())?;
        let confirmed = objects::Confirmed { plan: confirmed, allowance };
        return Box::pin(objects::run(context, task_id, (checked, served), confirmed, cancel)).await;
    }
    if let Some(served) = node::target(&context.agent, &checked)? {
        return Box::pin(node::run(context, checked, served, (wire.task_id, wire.confirmed), cancel)).await;
    }
    if let Some((order, served)) = into_server(context, wire.order.as_ref())? {
        return Box::pin(server::run(context, wire, order, served, cancel)).await;
    }
    let v1::StartRestore { task_id, order, allowance, confirmed, .. } = wire;
    let mut allowance = order::allowance(allowance.as_ref())?;
    let archive = Archive::open(context, &task_id, order.as_ref(), cancel).await?;
    let pages = archive.blobs(context, Window::PAGES).await?;
    let pages_to_plan = archive.blobs(context, Window::PAGES).await?;
    let mut data = archive.blobs(context, Window::CONTENTS).await?;
    let counters = Arc::new(Counters::default());
    let flag = CancelFlag::default();
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || progress_now(&task_id, counters.step(), &counters);
    let restored = {
        let counters = Arc::clone(&counters);
        let (agent, runtime) = (context.agent.clone(), Handle::current());
        blocking(move || {
            let (now, strays) = archive.plan(&agent, &runtime, pages_to_plan)?;
            let confirmed = confirmed.unwrap_or_else(|| now.clone());
            still_so(&archive.place, &confirmed, &now)?;
            allowance.takes_away = strays;
            let record = agent.state.restore(&id);
            let users = Users::of(&agent, runtime, &id, wire::planned(&now)).expecting(&now);
            let Archive { order, request, place, component, folder, .. } = archive;
            let entries = ArchiveEntries::open(pages, &order.root).map_err(|error| not_readable(&error))?;
            let id_key: &IdKey = &order.keys.id_key;
            let of_whom = (component.as_deref(), folder);
            let progress = Watched { counters: &counters, record: &record, users: &users, of_whom };
            let tools = Tools { id_key, progress: &progress, cancel: &flag, steps: &InProduction };
            let restored = files::restore(&request, allowance, entries, &mut data, tools);
            if !matches!(restored, Err(RestoreError::Interrupted { .. })) {
                record.ended();
            }
            steps::reach(Step::OffRecord);
            match restored {
                Ok(report) => Ok(users.end(|kept| wire::add(kept, report))),
                Err(RestoreError::TakenBack(cause)) => Ok(users.undone(&cause)),
                // The next start ends it, and starts what ran.
                Err(error @ RestoreError::Interrupted { .. }) => Err(not_restored(&place, &error)),
                Err(error) => {
                    let troubles = users.start_again();
                    users.settle();
                    let failure = not_restored(&place, &error);
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

/// Takes back a restore of this agent's, or of the agent that was here before it, which has ended: by the old state
/// that it has kept.
async fn taken_back(
    context: &Arc<TaskContext>,
    wire: v1::StartRestore,
    order: &RestoreOrder,
) -> Result<v1::RestoreFinished, Failure> {
    let v1::StartRestore { task_id, take_back: cause, .. } = wire;
    let cause = proto::convert::text("take_back", &cause, 4_096)?;
    let Into::Served(source) = &order.into else {
        return Err(Failure::invalid("only a restore in place is taken back"));
    };
    let served = order::served(&context.agent, source)?;
    let place = served.location();
    let Some(folder) = served.folder().map(Path::to_owned) else {
        return Err(Failure::invalid(format!("{place} is no folder: nothing is kept beside it")));
    };
    let (id, of_id) = (order.restore_id.clone(), order.restore_id.clone());
    let state = context.agent.config.state.clone();
    let taken =
        blocking(move || files::take_back_ended(&folder, &of_id, &InProduction, Some(&state))).await?;
    let taken = taken.map_err(|error| not_restored(&place, &error))?;
    let replaced = taken.len() as u64;
    let mut report = Report { undone: Some(cause.clone()), replaced, ..Report::default() };
    report.did("undone", context.agent.clock.now(), cause);
    if taken.is_empty() {
        report.notes.push(
            "no old state of it was left: it was taken back before, or it had replaced nothing".to_owned(),
        );
    }
    if let Err(error) = context.agent.state.runs().end(&id, &report) {
        tracing::error!(restore = id, %error, "how a restore ended cannot be kept");
    }
    Ok(wire::report(task_id, report))
}

/// The order of a restore into a server; none: it is one into folders.
fn into_server(
    context: &TaskContext,
    wire: Option<&v1::RestoreOrder>,
) -> Result<Option<(RestoreOrder, Served)>, Failure> {
    let order = RestoreOrder::check(wire)?;
    if let Into::Served(source) = &order.into {
        let served = order::served(&context.agent, source)?;
        if served.server().is_some() {
            let served = served.clone();
            return Ok(Some((order, served)));
        }
    }
    let is_plain = order.include.is_empty() && order.renames.is_empty() && order.to_namespace.is_none();
    match is_plain && !order.drops_others {
        true => Ok(None),
        false => Err(Failure::invalid(format!("{} is not restored into a server", order.source))
            .because("--include, --rename, --drop-others and --to-namespace are about what lies in one")
            .hint("choose entries with --path instead; in a dump these are DB/COLLECTION.bson")),
    }
}

/// Refuses what is not any more what somebody has confirmed, and what cannot go ahead.
fn still_so(place: &str, confirmed: &v1::SourcePlan, now: &v1::SourcePlan) -> Result<(), Failure> {
    let changes = proto::plan::changes(confirmed, now);
    if !changes.is_empty() {
        let what = format!("the restore to {place} is not the one that was confirmed; nothing was changed");
        return Err(Failure::new(Code::FailedPrecondition, reason::PLAN_CHANGED, what)
            .because(changes.join("; "))
            .hint("look at the new plan, then restore again"));
    }
    if !now.obstacles.is_empty() {
        let what = format!("the restore to {place} cannot go ahead; nothing was changed");
        return Err(Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what)
            .because(now.obstacles.join("; "))
            .hint("clear what is in its way, then restore again"));
    }
    Ok(())
}

fn no_record(error: &io::Error) -> Failure {
    Failure::new(Code::FailedPrecondition, reason::OBSTACLES, "the agent cannot read what it has done")
        .caused_by(error)
        .hint("see to the agent's state folder, then restore again")
}

/// An archive that can be read, and where it goes.
struct Archive {
    task_id: String,
    order: RestoreOrder,
    request: RestoreRequest,
    place: String,
    /// The component whose users are stopped; none of a restore elsewhere, and where the controller stops them.
    component: Option<String>,
    /// The live folder that is replaced, if it is one.
    folder: Option<PathBuf>,
    /// It is the data folder of a database's server.
    is_database: bool,
    /// What comes is opened where live data may be: no link of it may lead there.
    is_drill: bool,
    map: Arc<BlobMap>,
    /// That of the source whose archive it is.
    pace: Option<Pace>,
    cancel: CancellationToken,
}

/// Nobody can give a process that runs another environment.
fn not_by_itself(served: &Served) -> Failure {
    let what = format!("what {} holds cannot be put back by itself", served.id);
    let failure = Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what);
    failure.because("a process has the environment that it was started with").hint(
        "restore it to a folder (`--to FOLDER`), and follow what each file says: `env_file` of Compose, `EnvironmentFile` \
         of systemd",
    )
}

impl Archive {
    async fn open(
        context: &TaskContext,
        task_id: &str,
        wire: Option<&v1::RestoreOrder>,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let order = RestoreOrder::check(wire)?;
        let mut is_database = false;
        let (place, shown, component, folder) = match &order.into {
            Into::Served(source) => {
                let served = order::served(&context.agent, source)?;
                // Where the controller sees to what uses it, nobody is looked for.
                let component = (!order.users_elsewhere).then(|| source.component.to_string());
                is_database = served.database().is_some();
                let place = served.place().ok_or_else(|| not_by_itself(served))?;
                (place, served.location(), component, served.folder().map(Path::to_owned))
            }
            Into::Folder(path) => {
                order::check_folder(&context.agent, path)?;
                (Place::NewFolder { path: path.clone() }, path.display().to_string(), None, None)
            }
        };
        let selection = match order.globs.as_slice() {
            [] => Selection::Whole,
            globs => Selection::Paths(PathPatterns::new(globs).map_err(|error| {
                Failure::invalid("a path pattern cannot be understood").caused_by(&error)
            })?),
        };
        let (restore_id, keeps_older) = (order.restore_id.clone(), order.keeps_older);
        let (signer_height, signer_seen, signer_seen_here) =
            (order.signer_height, order.signer_seen, order.signer_seen_here);
        let stays = match &order.into {
            Into::Served(source) => Some(stays(&context.agent, source)?),
            Into::Folder(_) => None,
        };
        let request = RestoreRequest {
            restore_id,
            place,
            selection,
            keeps_older,
            stays,
            signer_height,
            signer_seen,
            signer_seen_here,
            leaves_keys: order.leaves_keys,
        };
        let of = context.agent.served.iter().find(|served| served.id == order.source);
        let pace = of.and_then(|served| served.limits.download.clone());
        let map = Arc::new(open_archive(context, task_id, &order, cancel).await?);
        let (task_id, cancel) = (task_id.to_owned(), cancel.clone());
        Ok(Self {
            task_id,
            order,
            request,
            place: shown,
            component,
            folder,
            is_database,
            is_drill: false,
            map,
            pace,
            cancel,
        })
    }

    /// What it would do, what would be stopped for it, and what is in its way; and all that a restore which it takes
    /// back has made. Blocks.
    fn plan(
        &self,
        agent: &Agent,
        runtime: &Handle,
        pages: RemoteBlobs<WireBlobs>,
    ) -> Result<(v1::SourcePlan, Vec<EntryPath>), Failure> {
        let entries = ArchiveEntries::open(pages, &self.order.root).map_err(|error| not_readable(&error))?;
        let facts = files::survey(&self.request, &self.order.keys.id_key, entries)
            .map_err(|error| not_restored(&self.place, &error))?;
        let mut plan = files::plan(&facts);
        let strays = std::mem::take(&mut plan.strays);
        let mut obstacles = files::preflight(&facts, &self.request.restore_id, &InProduction);
        let mut found = Found::default();
        if let Some(component) = &self.component {
            match runtime.block_on(agent.platform.using(component, self.folder.as_deref())) {
                Ok(applications) => found = applications,
                Err(error) => obstacles.push(format!(
                    "it cannot be said what uses {component}: {error}; see to it, or to `applications` and \
                     `docker` in the agent's configuration"
                )),
            }
            obstacles.extend(self.in_use(&found, &plan));
        }
        obstacles.extend(self.of_database(&found));
        obstacles.extend(self.is_drill.then(|| links_out(&facts)).flatten());
        let in_place = matches!(self.order.into, Into::Served(_));
        Ok((wire::plan(&self.order, self.place.clone(), plan, found, obstacles, in_place), strays))
    }

    /// Who uses the folder and would not be stopped.
    fn in_use(&self, found: &Found, plan: &RestorePlan) -> Vec<String> {
        let (Some(folder), place) = (&self.folder, &self.place) else { return Vec::new() };
        let mounted = found.others.iter().map(|Other { name, mark, key }| {
            format!(
                "{name} has {place} mounted and would not be stopped; stop it, or give it {mark} {key}={}",
                self.order.source.component
            )
        });
        let mut told: Vec<String> = mounted.collect();
        if found.applications.iter().any(|one| one.runs) {
            return told;
        }
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let changes = |file: &Path| {
            let Ok(below) = file.strip_prefix(&real) else { return true };
            let Ok(path) = EntryPath::new(below.as_os_str().as_bytes()) else { return true };
            let mut moved = plan.overwritten.iter().chain(&plan.removed);
            moved.any(|moved| path.is_within(moved))
        };
        let writing = writers(folder).into_iter().filter(|writer| changes(&writer.file)).map(|writer| {
            format!(
                "{writer}; stop it, or say under `applications` in the agent's configuration how that is done"
            )
        });
        told.extend(writing);
        told
    }

    /// Why the data folder of a database does not take it.
    fn of_database(&self, found: &Found) -> Option<String> {
        let folder = self.folder.as_ref().filter(|_| self.is_database)?;
        if !self.order.globs.is_empty() {
            return Some("a database's folder is restored as a whole: leave out --path".to_owned());
        }
        let is_stopped = self.order.users_elsewhere || found.applications.iter().any(|one| one.runs);
        (!is_stopped && is_in_use(folder)).then(|| {
            format!(
                "a server has {} in use: stop it, say under `applications` in the agent's configuration how that is \
                 done, or give the source a `uri` instead of its `path`, by which it is restored while it runs",
                self.place
            )
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

/// What this source leaves out of its backups.
fn stays(agent: &Agent, source: &SourceId) -> Result<Rules, Failure> {
    order::served(agent, source)?
        .rules(&agent.config.state)
        .map_err(|error| Failure::invalid("what the source excludes cannot be understood").caused_by(&error))
}

/// Why an archive with such links is opened nowhere.
fn links_out(facts: &files::Facts) -> Option<String> {
    let first = facts.links_out.paths.first()?;
    let count = facts.links_out.count;
    Some(format!(
        "{count} links lead out of the folder, or may, {first} first: whatever opens it could change what is live behind them, \
         or find there what this backup does not hold"
    ))
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
    starting: AtomicBool,
}

impl Counters {
    fn step(&self) -> &'static str {
        match (self.starting.load(Ordering::Relaxed), self.swapping.load(Ordering::Relaxed)) {
            (true, _) => "starting",
            (false, true) => "swapping",
            (false, false) => "staging",
        }
    }
}

/// Counts, keeps on record where a crash would leave something, and stops and starts what uses the data.
struct Watched<'a> {
    counters: &'a Counters,
    record: &'a RestoreRecord,
    users: &'a Users<'a>,
    /// The component and its folder; nothing of a restore elsewhere.
    of_whom: (Option<&'a str>, Option<PathBuf>),
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

    fn staged(&self) -> Result<(), String> {
        let (component, folder) = &self.of_whom;
        self.users.stop(*component, folder.clone())?;
        match folder.as_deref().filter(|folder| is_in_use(folder)) {
            None => Ok(()),
            Some(folder) => Err(format!(
                "a server of MongoDB has {} in use, although everything known to use it is stopped; stop it, or give \
                 the source a `uri` instead of its `path`",
                folder.display()
            )),
        }
    }

    fn swap_begins(&self) {
        self.counters.swapping.store(true, Ordering::Relaxed);
    }

    fn swapped(&self) -> Result<(), String> {
        self.counters.starting.store(true, Ordering::Relaxed);
        self.users.start()?;
        // Before what the swap needs to be taken back goes: from here on it counts as done.
        self.users.end(|_| ());
        Ok(())
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

/// Something of it could not be fetched: that says nothing about the archive.
fn is_broken_off(error: &RestoreError) -> bool {
    match error {
        RestoreError::Blob { source: BlobError::Fetch { .. }, .. } => true,
        RestoreError::Entries(error) => error.downcast_ref().is_some_and(EntriesError::is_broken_off),
        _ => false,
    }
}

fn not_readable(error: &EntriesError) -> Failure {
    if error.is_broken_off() {
        return Failure::new(Code::Unavailable, reason::UNREACHABLE, "the archive could not be fetched")
            .caused_by(error)
            .hint(
                "see that the controller runs and can be reached, then try once more; nothing was changed",
            );
    }
    Failure::new(Code::DataLoss, reason::DAMAGED, "the archive cannot be read")
        .caused_by(error)
        .hint("run `nsctl verify` on this backup, and restore from another one")
}

fn not_restored(place: &str, error: &RestoreError) -> Failure {
    let what = format!("the restore to {place} did not happen");
    let failure = |code, reason, hint: &str| Failure::new(code, reason, &*what).caused_by(error).hint(hint);
    match error {
        RestoreError::Cancelled => super::cancelled(),
        error if is_broken_off(error) => failure(
            Code::Unavailable,
            reason::UNREACHABLE,
            "see that the controller runs and can be reached, then restore once more; the live data is as it was",
        ),
        RestoreError::NotStopped(_) => failure(
            Code::FailedPrecondition,
            reason::OBSTACLES,
            "see to it; the live data is as it was, and what was stopped is started again",
        ),
        RestoreError::TakenBack(_) => {
            failure(Code::FailedPrecondition, reason::OBSTACLES, "the live data is as it was")
        }
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
