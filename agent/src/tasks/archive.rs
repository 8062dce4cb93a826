//! An archive: the domain's blobs are listed, the pipeline runs, the controller accepts the end.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proto::convert::{self, Invalid};
use proto::failure::{chain, reason};
use proto::v1::finish_archive_request::Part;
use proto::{Failure, v1};
use repository::backup::manifest::Consistency;
use repository::check::Subject;
use repository::ids::DomainId;
use runtime::steps;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::uplink::{WireUplink, slices};
use super::{TaskContext, blocking, occasion, order, telling, until};
use crate::cache::{CacheOwner, CacheReader, CacheWriter, Day, PendingCache};
use crate::connection::{Agent, PART_BYTES};
use crate::hooks::{self, Kind, Stage};
use crate::limits::{SlowSource, Window};
use crate::pipeline::{
    self, ArchiveJob, ArchiveProgress, Archived, Caches, Input, KnownBlobs, KnownBlobsBuilder, PipelineError,
    Remembered,
};
use crate::resume::end_at_server;
use crate::served::{OpenError, Served};
use crate::sources::SourceError;
use crate::sources::mongodb::server::Server;
use crate::steps::Step;
use crate::targets::mongodb::RestoreError;

/// How often an archive is made when blobs that it builds on are lost meanwhile.
const RUNS: usize = 3;
/// Problems that the summary itself tells.
const TOLD_PROBLEMS: usize = 100;
const SECONDS_PER_DAY: i64 = 86_400;

/// Makes the archive that was ordered and returns when the controller has accepted it; not outside of the
/// source's window, and not for longer.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    wire: v1::StartArchive,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    order::check_pin(&context.pin, wire.repository_key.as_ref())?;
    let source = convert::source_id("source", wire.source.as_ref())?;
    let mut served = order::served(&context.agent, &source)?.clone();
    if !wire.import.is_empty() {
        // What lies in a dump does not change with what is stopped for a backup.
        served = served.without_hooks();
    }
    let Some(window) = &served.limits.window else { return archive(context, &wire, &served, cancel).await };
    let clock = &*context.agent.clock;
    if window.open_until(clock.now()).is_none() {
        return Err(out_of_window(&served, window, "it is not open now"));
    }
    let within = cancel.child_token();
    let mut made = std::pin::pin!(archive(context, &wire, &served, &within));
    tokio::select! {
        biased;
        made = &mut made => return made,
        () = window.closed(clock) => within.cancel(),
    }
    match made.await {
        Err(_) if !cancel.is_cancelled() => {
            Err(out_of_window(&served, window, "it closed before everything was read"))
        }
        ended => ended,
    }
}

fn out_of_window(served: &Served, window: &Window, why: &str) -> Failure {
    let what = format!("{} was not backed up: its window is {window}", served.id);
    Failure::new(Code::FailedPrecondition, reason::TOO_LATE, what).because(why).hint(
        "the next backup within it goes on with what was sent; let the schedule begin earlier, or the agent's \
         configuration give the source a longer `window` or higher `limits`",
    )
}

async fn archive(
    context: &Arc<TaskContext>,
    wire: &v1::StartArchive,
    served: &Served,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let keys = order::domain_keys(wire.domain.as_ref())?;
    let progress = Arc::new(ArchiveProgress::default());
    let tell = || to_wire_progress(wire, &progress);
    for _ in 0..RUNS {
        let known = list_blobs(context, &wire.task_id, keys.domain, cancel).await?;
        steps::reached(Step::BlobsKnown).await;
        let now = context.agent.clock.now();
        let job = ArchiveJob {
            repository: context.pin.id,
            domain: keys.domain,
            id_key: keys.id_key.clone(),
            gear_key: keys.gear_key.clone(),
            public_key: context.pin.key,
            room: context.agent.room.clone(),
            segment_bytes: wire.segment_bytes,
            today: Day(u32::try_from(now.as_second() / SECONDS_PER_DAY).unwrap_or(0)),
            read_start: now.as_second(),
            threads: served.limits.threads,
            is_before_restore: wire.before_restore,
        };
        let made = make(context, served, job, known, wire, &progress, cancel);
        let made = telling(&context.up, tell, made);
        let occasion = occasion(Kind::Backup, served, (&wire.task_id, &wire.job_id, &wire.backup), now)?;
        let stage = Stage { journal: context.agent.state.hooks(), up: &context.up, cancel };
        let mut archived = hooks::between(stage, served, occasion, made).await?;
        steps::reached(Step::ArchiveMade).await;
        let cache = archived.0.cache.take();
        match finish(context, &wire.task_id, &archived, cancel).await? {
            0 => return keep(cache).await,
            missing => tracing::warn!(missing, "blobs were lost meanwhile: once more"),
        }
    }
    let what = format!("the archive of {} cannot be finished", served.id);
    Err(Failure::new(Code::Aborted, reason::DAMAGED, what)
        .because(format!("the repository lost blobs that it builds on, {RUNS} times"))
        .hint("run `nsctl verify --depth hashed` to see what is missing from the repository, then back up again"))
}

/// A server between two renames is not backed up: what a restore has left there is ended first.
fn end_restores(agent: &Agent, served: &Served) -> Result<(), Failure> {
    let Some(uri) = served.server() else { return Ok(()) };
    let server = Server::connect(&uri).map_err(|error| not_opened(served, &error.into()))?;
    end_at_server(agent, &Handle::current(), &server, &mut Vec::new()).map_err(|error| {
        let what = format!("{} cannot be backed up between two steps of a restore", served.id);
        let failure = Failure::new(Code::FailedPrecondition, reason::OBSTACLES, what);
        let hint = match &error {
            RestoreError::Server { source, .. } => source.hint,
            _ => "see to that: the next backup tries again to end it",
        };
        failure.because(chain(&error)).hint(hint)
    })
}

/// The blobs that the domain holds, as of now: those that were listed for the archive before, as long as the
/// controller says that they still count, and those that are new.
async fn list_blobs(
    context: &TaskContext,
    task_id: &str,
    domain: DomainId,
    cancel: &CancellationToken,
) -> Result<KnownBlobs, Failure> {
    let before = context.agent.listed.of(&domain);
    let mut gateway = context.gateway.clone();
    let request = v1::ListBlobsRequest { task_id: task_id.to_owned(), listed: before.mark };
    let mut tables = until(cancel, gateway.list_blobs(request)).await?.into_inner();
    let mut new = KnownBlobsBuilder::default();
    let (mut mark, mut goes_on) = (Bytes::new(), false);
    while let Some(answer) = until(cancel, tables.message()).await? {
        if !answer.listed.is_empty() {
            (mark, goes_on) = (answer.listed, answer.goes_on);
        }
        for table in answer.tables {
            let segment = convert::id("segment_id", &table.segment_id)?;
            let blobs = convert::ids32("blob_ids", &table.blob_ids)?;
            let wrong = |error: pipeline::WrongListing| Invalid::new("blob_ids", error.to_string());
            new.add(segment, &blobs, &table.lengths, &table.absent).map_err(wrong)?;
        }
    }
    let before = if goes_on { before.blobs } else { KnownBlobs::default() };
    let blobs = blocking(|| new.finish(before)).await?;
    context.agent.listed.keep(domain, Remembered { mark, blobs: blobs.clone() });
    Ok(blobs)
}

/// Runs the pipeline on threads of its own; with the archive comes how far it is one point in time.
async fn make(
    context: &TaskContext,
    served: &Served,
    job: ArchiveJob,
    known: KnownBlobs,
    order: &v1::StartArchive,
    progress: &Arc<ArchiveProgress>,
    cancel: &CancellationToken,
) -> Result<(Archived, Consistency), Failure> {
    let uplink = WireUplink {
        runtime: Handle::current(),
        gateway: context.gateway.clone(),
        task_id: order.task_id.clone(),
        cancel: cancel.clone(),
        pace: served.limits.upload.clone(),
    };
    let place = context.agent.state.cache(&served.id);
    let owner = CacheOwner { repository: job.repository, domain: job.domain };
    let (served, progress, cancel) = (served.clone(), Arc::clone(progress), cancel.clone());
    let (state, now) = (context.agent.config.state.clone(), context.agent.clock.now());
    let agent = Arc::clone(&context.agent);
    let (is_new, dump) = (order.is_new, (!order.import.is_empty()).then(|| PathBuf::from(&order.import)));
    blocking(move || {
        let opened = match &dump {
            Some(folder) => served.open_dump(folder, &state, now),
            None => {
                end_restores(&agent, &served)?;
                served.open_for_backup(&state, now, is_new, &cancel)
            }
        };
        let mut source = opened.map_err(|error| not_opened(&served, &error))?;
        let consistency = source.consistency();
        if let Some(pace) = &served.limits.read {
            source = Box::new(SlowSource::new(source, pace.clone(), Handle::current(), cancel.clone()));
        }
        let new = CacheWriter::begin(&place, &owner).inspect_err(
            |error| tracing::warn!(%error, cache = %place.display(), "cannot write the no-change cache"),
        );
        let caches = Caches { old: CacheReader::open(&place, &owner), new: new.ok() };
        let component = served.id.component.as_str();
        let check = formats::check_of_backup(&Subject { kind: served.kind.as_str(), component, now });
        let input = Input { source, check };
        let run = || pipeline::run(&job, input, caches, known, &uplink, &progress, &cancel);
        let archived = served.limits.at_its_priority(run).map_err(|error| not_made(&served, error))?;
        Ok((archived, consistency))
    })
    .await?
}

/// Ends the archive; returns how many of its blobs the repository no longer has.
async fn finish(
    context: &TaskContext,
    task_id: &str,
    (archived, consistency): &(Archived, Consistency),
    cancel: &CancellationToken,
) -> Result<usize, Failure> {
    let summary = Part::Summary(summary(task_id, archived, *consistency));
    let refs = slices(Bytes::from(archived.refs.encode()), PART_BYTES).map(Part::Refs);
    let parts = std::iter::once(summary).chain(refs);
    let parts: Vec<_> = parts.map(|part| v1::FinishArchiveRequest { part: Some(part) }).collect();
    let mut gateway = context.gateway.clone();
    let call = gateway.finish_archive(tokio_stream::iter(parts));
    let answer = until(cancel, call).await?.into_inner();
    match (answer.accepted, answer.missing.len()) {
        (true, _) => Ok(0),
        (false, 0) => {
            Err(Failure::internal("the controller refused the archive without saying what is missing"))
        }
        (false, missing) => Ok(missing),
    }
}

/// The archive was accepted: the cache that describes it takes its place. Without it the next archive
/// reads more, no worse.
async fn keep(cache: Option<PendingCache>) -> Result<(), Failure> {
    steps::reached(Step::ArchiveAnswered).await;
    let kept = blocking(|| cache.map_or(Ok(()), PendingCache::commit)).await?;
    steps::reached(Step::CacheKept).await;
    if let Err(error) = kept {
        tracing::warn!(%error, "cannot keep the no-change cache: the next backup reads more than it must");
    }
    Ok(())
}

fn summary(task_id: &str, archived: &Archived, consistency: Consistency) -> v1::ArchiveSummary {
    let Archived { root, counts, problems, problems_blob, told: of_source, .. } = archived;
    let told = problems.kept().iter().take(TOLD_PROBLEMS).map(|problem| v1::EntryProblem {
        kind: i32::from(pipeline::problem_code(problem.kind)),
        path: problem.path.as_bytes().to_vec().into(),
        cause: problem.cause.clone(),
    });
    v1::ArchiveSummary {
        task_id: task_id.to_owned(),
        root: root.as_bytes().to_vec().into(),
        counts: Some(v1::ArchiveCounts {
            files: counts.files,
            folders: counts.folders,
            links: counts.links,
            specials: counts.specials,
            bytes: counts.bytes,
            unreadable: problems.unreadable,
            vanished: problems.vanished,
            changed: problems.changed,
            read_bytes: counts.read_bytes,
            stored_bytes: counts.stored_bytes,
            reused_files: counts.reused_files,
        }),
        consistency: convert::to_wire_consistency(Some(consistency)).into(),
        problems: told.collect(),
        problems_blob: problems_blob.map(|id| id.as_bytes().to_vec()).unwrap_or_default().into(),
        quiesce: of_source.quiesce.map(convert::to_wire_quiesce),
        remarks: of_source.remarks.clone(),
        signed: of_source.signed.map(|signed| {
            let (height, round, step) = signed.parts();
            v1::SignedHeight { height, round, step, address: of_source.signer.clone().unwrap_or_default() }
        }),
    }
}

fn to_wire_progress(order: &v1::StartArchive, progress: &ArchiveProgress) -> v1::TaskProgress {
    let now = progress.now();
    v1::TaskProgress {
        task_id: order.task_id.clone(),
        step: "reading".to_owned(),
        done_bytes: now.done_bytes,
        total_bytes: order.expected_bytes,
        done_entries: now.done_entries,
        sent_bytes: now.sent_bytes,
    }
}

fn not_opened(served: &Served, error: &OpenError) -> Failure {
    let (code, reason) = match error {
        OpenError::Source(SourceError::Again { .. }) => (Code::Aborted, reason::DAMAGED),
        _ => (Code::FailedPrecondition, reason::NOT_FOUND),
    };
    let failure = Failure::new(code, reason, format!("the source {} cannot be read", served.id));
    failure.caused_by(error).hint(match error {
        OpenError::Source(
            SourceError::Server { hint, .. }
            | SourceError::Again { hint, .. }
            | SourceError::Unfit { hint, .. },
        ) => (*hint).to_owned(),
        _ => format!("check that {} is there and that the agent may read it", served.for_manifests()),
    })
}

fn not_made(served: &Served, error: PipelineError) -> Failure {
    match error {
        PipelineError::Upload(failure) => failure,
        PipelineError::Cancelled => super::cancelled(),
        PipelineError::Source(error) => not_opened(served, &OpenError::Source(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Kind, SourceConfig, SourceData};

    #[test]
    fn a_failed_archive_of_listed_files_names_none_of_them() {
        let config = SourceConfig {
            component: "configs".into(),
            name: "configs".into(),
            kind: Kind::Configs,
            data: SourceData::Listed { files: vec!["/etc/secret-plans.txt".into()] },
            exclude: vec!["[z-a]".into()],
            exclude_caches: false,
            one_file_system: true,
            profile: Default::default(),
            quiesce: Vec::new(),
            imports: None,
            fsync_lock: None,
            limits: Default::default(),
            window: None,
            hooks: Default::default(),
        };
        let served = Served::new(&config).expect("a source");
        let Err(error) = served.open(std::path::Path::new("/nowhere"), jiff::Timestamp::UNIX_EPOCH) else {
            panic!("the exclude pattern is wrong")
        };
        let failure = not_opened(&served, &error);
        let text = format!("{failure} {} {}", failure.why, failure.hint);
        assert!(!text.contains("secret-plans"), "{text}");
        assert!(text.contains("configs/configs"), "{text}");
    }
}
