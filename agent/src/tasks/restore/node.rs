//! Plans of restores into an IPFS node, and such restores.

use std::sync::Arc;

use proto::failure::reason;
use proto::{Failure, v1};
use repository::archive::path::EntryPath;
use runtime::steps;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    Counters, Users, Watched, no_record, not_readable, open_archive, pass_on, progress_now, still_so, wire,
};
use crate::connection::Agent;
use crate::limits::Pace;
use crate::nodes::end_at_node;
use crate::platform::Found;
use crate::restore::{ArchiveEntries, BlobMap, RemoteBlobs, Window, WireBlobs};
use crate::served::Served;
use crate::sources::ipfs::node::{Kept, Pin, free_bytes};
use crate::sources::ipfs::rpc::Rpc;
use crate::steps::Step;
use crate::targets::CancelFlag;
use crate::targets::files::RestorePlan;
use crate::targets::ipfs::{self, Changes, NodeError, Tools, Wanted};
use crate::tasks::order::{Into, RestoreOrder};
use crate::tasks::{TaskContext, blocking, order, telling};

/// The served source that an order goes into, if that is a node.
pub(super) fn target(agent: &Agent, order: &RestoreOrder) -> Result<Option<Served>, Failure> {
    match &order.into {
        Into::Served(source) => {
            let served = order::served(agent, source)?;
            Ok(served.node().is_some().then(|| served.clone()))
        }
        Into::Folder(_) => Ok(None),
    }
}

/// What a restore into the node would do, and what is in its way. Nothing is changed.
pub(super) async fn plan(
    context: &Arc<TaskContext>,
    task_id: String,
    order: RestoreOrder,
    served: Served,
    cancel: &CancellationToken,
) -> Result<v1::RestorePlanned, Failure> {
    let node = NodeRestore::open(context, &task_id, order, served, cancel).await?;
    let (pages, data) = (node.blobs(context, Window::PAGES).await?, node.blobs(context, Window::DATA).await?);
    let tell = || progress_now(&task_id, "planning", &Counters::default());
    let (agent, runtime, flag) = (context.agent.clone(), Handle::current(), CancelFlag::default());
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let planned = blocking(move || {
        let mut data = data;
        node.end_interrupted(&agent, &runtime)?;
        let plan = node.plan(&agent, &runtime, pages, &mut data, &flag).map(|(_, plan)| plan);
        steps::reach(Step::PlanTried);
        plan
    });
    let plan = telling(&context.up, tell, planned).await??;
    Ok(v1::RestorePlanned { task_id, plan: Some(plan) })
}

/// Restores into the node; returns when all of it is there and what ran runs again.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    order: RestoreOrder,
    served: Served,
    (task_id, confirmed): (String, Option<v1::SourcePlan>),
    cancel: &CancellationToken,
) -> Result<v1::RestoreFinished, Failure> {
    let node = NodeRestore::open(context, &task_id, order, served, cancel).await?;
    let (pages, mut data) =
        (node.blobs(context, Window::PAGES).await?, node.blobs(context, Window::DATA).await?);
    let counters = Arc::new(Counters::default());
    let flag = CancelFlag::default();
    let _passed_on = pass_on(cancel.clone(), flag.clone());
    let tell = || progress_now(&task_id, counters.step(), &counters);
    let restored = {
        let counters = Arc::clone(&counters);
        let (agent, runtime) = (context.agent.clone(), Handle::current());
        blocking(move || {
            let id = node.order.restore_id.clone();
            node.end_interrupted(&agent, &runtime)?;
            // What was ended just now may have been an earlier attempt at this one.
            let ended = agent.state.runs().ended(&id).map_err(|error| no_record(&error))?;
            if let Some(report) = ended {
                return Ok(report);
            }
            let (wanted, now) = node.plan(&agent, &runtime, pages, &mut data, &flag)?;
            let place = node.served.location();
            still_so(&place, &confirmed.unwrap_or_else(|| now.clone()), &now)?;
            let record = agent.state.restore(&id);
            let users = Users::of(&agent, runtime, &id, wire::planned(&now)).at(&node.served.id);
            let component = node.served.id.component.to_string();
            let of_whom = (Some(component.as_str()), None);
            let progress = Watched { counters: &counters, record: &record, users: &users, of_whom };
            let tools =
                Tools { rpc: &node.rpc, id_key: &node.order.keys.id_key, progress: &progress, cancel: &flag };
            let source = node.served.file_name();
            let restored = ipfs::restore(&wanted, &mut data, &tools, (&agent.config.state, &source, &id));
            match restored {
                Ok(done) => Ok(users.end(|report| {
                    report.entries = done.pins + done.keys + u64::from(done.files);
                    report.bytes = done.bytes;
                    report.replaced = u64::from(done.files);
                    report.created = done.pins + done.keys;
                    if done.files {
                        report.notes.push(format!("the root of the files was {}", done.former));
                    }
                    report.notes.extend(done.notes);
                })),
                Err(NodeError::TakenBack(cause)) => Ok(users.undone(&cause)),
                // The next start ends it, or the next task at this node, and starts what ran.
                Err(error @ NodeError::Interrupted(_)) => Err(not_restored(&place, error)),
                Err(error) => {
                    let troubles = users.start_again();
                    users.settle();
                    let failure = not_restored(&place, error);
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

/// An archive that can be read, and the node that it goes into.
struct NodeRestore {
    task_id: String,
    order: RestoreOrder,
    served: Served,
    rpc: Arc<Rpc>,
    map: Arc<BlobMap>,
    pace: Option<Pace>,
    cancel: CancellationToken,
}

impl NodeRestore {
    async fn open(
        context: &TaskContext,
        task_id: &str,
        order: RestoreOrder,
        served: Served,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let rpc = Rpc::new(served.node().expect("the target is a node")).stopped_by(cancel);
        let rpc = Arc::new(rpc);
        let map = Arc::new(open_archive(context, task_id, &order, cancel).await?);
        let pace = served.limits.download.clone();
        Ok(Self { task_id: task_id.to_owned(), order, served, rpc, map, pace, cancel: cancel.clone() })
    }

    /// Ends what an earlier process has left at the node. Blocks.
    fn end_interrupted(&self, agent: &Agent, runtime: &Handle) -> Result<(), Failure> {
        let ended = end_at_node(agent, runtime, &self.rpc, &self.served.file_name());
        ended.map(drop).map_err(|error| not_restored(&self.served.location(), error))
    }

    async fn blobs(&self, context: &TaskContext, window: Window) -> Result<RemoteBlobs<WireBlobs>, Failure> {
        let (gateway, cancel, pace) = (context.gateway.clone(), self.cancel.clone(), self.pace.clone());
        let stream = WireBlobs::open(gateway, &self.task_id, cancel, pace).await?;
        Ok(RemoteBlobs::new(Arc::clone(&self.map), stream, window))
    }

    /// What the archive holds, and what would become of it. Blocks.
    fn plan(
        &self,
        agent: &Agent,
        runtime: &Handle,
        pages: RemoteBlobs<WireBlobs>,
        data: &mut RemoteBlobs<WireBlobs>,
        cancel: &CancelFlag,
    ) -> Result<(Wanted, v1::SourcePlan), Failure> {
        let place = self.served.location();
        let entries = ArchiveEntries::open(pages, &self.order.root).map_err(|error| not_readable(&error))?;
        let wanted = Wanted::read(entries, data, &self.order.keys.id_key, cancel);
        let wanted = wanted.map_err(|error| not_restored(&place, error))?;
        let now = Kept::look(&self.rpc).map_err(|trouble| not_restored(&place, trouble.into()))?;
        let Changes { recursive, direct, files, remarks } = ipfs::changes(&wanted, &now);
        let mut obstacles = Vec::new();
        if !self.order.globs.is_empty() {
            obstacles.push(
                "a part of a node cannot be restored into it: leave `--path` out, or restore to a folder"
                    .to_owned(),
            );
        }
        let mut found = Found::default();
        match runtime.block_on(agent.platform.using(self.served.id.component.as_str(), None)) {
            Ok(applications) => found = applications,
            Err(error) => obstacles.push(format!("it cannot be said what uses the node: {error}")),
        }
        let created = names("pins/recursive", &recursive).chain(names("pins/direct", &direct));
        let replaced: Vec<EntryPath> =
            files.then(|| EntryPath::new(b"mfs").expect("a name")).into_iter().collect();
        let mut plan = RestorePlan {
            entries: (recursive.len() + direct.len()) as u64 + u64::from(files),
            bytes_to_write: wanted.bytes(),
            needed: wanted.bytes(),
            created: created.collect(),
            created_count: (recursive.len() + direct.len()) as u64,
            overwritten_count: replaced.len() as u64,
            overwritten: replaced,
            free_space: free_bytes(&self.rpc).unwrap_or(0),
            leaves: "every pin and key that the node has",
            ..RestorePlan::default()
        };
        plan.remarks.extend(remarks);
        if !wanted.keys.is_empty() {
            let keys = ipfs::key_names(&wanted.keys).collect::<Vec<_>>().join(", ");
            plan.remarks
                .push(format!("keys that the node does not have are imported; the backup has {keys}"));
        }
        Ok((wanted, wire::plan(&self.order, place, plan, found, obstacles, true)))
    }
}

fn names<'a>(folder: &'a str, pins: &'a [Pin]) -> impl Iterator<Item = EntryPath> + 'a {
    let path =
        move |pin: &Pin| EntryPath::new(format!("{folder}/{}", pin.cid).as_bytes()).expect("a CID is a name");
    pins.iter().map(path)
}

fn not_restored(place: &str, error: NodeError) -> Failure {
    let what = format!("the restore into {place} did not happen");
    let failure = |code, reason, hint: &str| Failure::new(code, reason, &*what).caused_by(&error).hint(hint);
    match &error {
        NodeError::Cancelled => crate::tasks::cancelled(),
        NodeError::Archive(_) | NodeError::Blob(_) => failure(
            Code::DataLoss,
            reason::DAMAGED,
            "run `nsctl verify` on this backup, and restore from another one; no pin and no file was removed",
        ),
        NodeError::Node(trouble) => failure(Code::FailedPrecondition, reason::OBSTACLES, trouble.hint()),
        NodeError::Partly { trouble, .. } => {
            let what = format!("the restore into {place} came to no end; the files are as they were");
            let failure = Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what).caused_by(&error);
            failure.hint(format!("{}; another restore does what is left", trouble.hint()))
        }
        NodeError::Interrupted(_) => {
            let what = format!("the restore into {place} stopped while it replaced the files");
            let failure = Failure::new(Code::Internal, reason::INTERNAL, what).caused_by(&error);
            failure.hint("see to the node, then restart the agent: it finishes that or takes it back")
        }
        NodeError::NotStopped(_) | NodeError::TakenBack(_) => failure(
            Code::FailedPrecondition,
            reason::OBSTACLES,
            "see to it; the files are as they were, and what was stopped is started again",
        ),
    }
}
