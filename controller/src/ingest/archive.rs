//! The beginning and the end of an archive: which blobs there are, and which of them it needs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proto::failure::reason;
use proto::v1::entry_problem::Kind;
use proto::v1::finish_archive_request::Part;
use proto::v1::{self, ArchiveSummary, FinishArchiveRequest, FinishArchiveResponse};
use proto::{Failure, convert};
use repository::backup::manifest::{ArchiveManifest, FORMAT, Outcome, SignedHeight};
use repository::ids::BlobId;
use repository::ingest::BlobTable;
use repository::listed::ListMark;
use repository::pack::blob::BlobKind;
use repository::refs::Refs;
use repository::repo::Repository;
use runtime::{atomic_file, steps};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::fleet::{ArchiveTask, Ended};
use crate::ingest::{Pace, Place, hand_on, next_message, repository_failure, thread_died, too_slow};
use crate::jobs::job::{Problem, ProblemKind};
use crate::steps::Step;

/// The longest refs file: some 250 million blobs.
const MAX_REFS: usize = 64 << 20;
/// The end of an archive holds one of few places: so long, at most.
const REFS_WITHIN: Duration = Duration::from_secs(600);
/// The most missing blobs that an answer names.
const MAX_MISSING: usize = 1_000;
/// The most problems that a job shows.
const MAX_PROBLEMS: usize = 100;
/// The most remarks that a manifest takes.
const MAX_REMARKS: usize = 8;
const QUEUE: usize = 16;
/// A message with several segments is sent when their ids are longer than this, in bytes.
const TABLES_TOGETHER: usize = 256 << 10;

/// Sends every blob that the domain holds, small segments together; without those that came with an earlier
/// list, which `listed` marks, where that list still counts.
pub fn list_blobs(
    repository: Arc<Repository>,
    task: Arc<ArchiveTask>,
    listed: Bytes,
    places: (Place, Place),
) -> mpsc::Receiver<Result<v1::BlobTables, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let _places = places;
        let earlier = ListMark::decode(&listed);
        match repository.blob_tables_for(&task.work, &task.domain.domain, earlier.as_ref()) {
            Ok(list) => {
                let (listed, goes_on) = (list.mark.encode().to_vec().into(), list.goes_on);
                let mut together = v1::BlobTables { listed, goes_on, tables: Vec::new() };
                let mut bytes = 0;
                for table in list.tables {
                    let table = to_wire(&table);
                    bytes += table.blob_ids.len() + table.segment_id.len();
                    together.tables.push(table);
                    if bytes >= TABLES_TOGETHER {
                        if !hand_on(&sender, Ok(std::mem::take(&mut together))) {
                            return;
                        }
                        bytes = 0;
                    }
                }
                if !together.tables.is_empty() || !together.listed.is_empty() {
                    hand_on(&sender, Ok(together));
                }
            }
            Err(error) => {
                let failure = repository_failure("the domain's blobs cannot be listed", &error);
                // An agent that has gone away asks again.
                hand_on(&sender, Err(failure.into()));
            }
        }
    });
    receiver
}

fn to_wire(table: &BlobTable) -> v1::BlobTable {
    let mut ids = Vec::with_capacity(table.blobs.len() * 32);
    table.blobs.iter().for_each(|line| ids.extend_from_slice(line.id.as_bytes()));
    let absent = table.blobs.iter().zip(0u32..).filter(|(line, _)| line.absent).map(|(_, ordinal)| ordinal);
    v1::BlobTable {
        segment_id: table.segment.as_bytes().to_vec().into(),
        blob_ids: ids.into(),
        lengths: table.blobs.iter().map(|line| line.plain_length).collect(),
        absent: absent.collect(),
    }
}

/// Takes the end of an archive: the answer, and `Some` end of its task if it was accepted (its refs are
/// kept then) or can never be.
pub async fn finish_archive(
    repository: Arc<Repository>,
    task: Arc<ArchiveTask>,
    summary: ArchiveSummary,
    mut stream: Streaming<FinishArchiveRequest>,
    places: (Place, Place),
    (signer, now): (Option<String>, Timestamp),
) -> Result<(Result<FinishArchiveResponse, Failure>, Option<Ended>), Failure> {
    let (mut manifest, problems) = read_summary(&task, &summary, now)?;
    manifest.signer = signer;
    let reading = tokio::time::timeout(REFS_WITHIN, read_refs(&mut stream)).await;
    let refs = reading.unwrap_or_else(|_| Err(too_slow(MAX_REFS as u64 / REFS_WITHIN.as_secs())))?;
    let (root, list) = (manifest.root, manifest.problems);
    let kept = tokio::task::spawn_blocking(move || {
        let _places = places;
        keep_refs(&repository, &task, root, list, &refs)
    });
    Ok(match kept.await.map_err(|error| thread_died(&error))?? {
        Kept::Missing(missing) => (Ok(FinishArchiveResponse { accepted: false, missing }), None),
        Kept::Whole => {
            let accepted = FinishArchiveResponse { accepted: true, missing: Vec::new() };
            (Ok(accepted), Some(Ended::Archived { manifest: Box::new(manifest), problems }))
        }
        Kept::Wrong(reason) => {
            (Err(Failure::invalid(reason.clone())), Some(Ended::Failed { reason, retryable: false }))
        }
    })
}

/// How many entries an archive has, as its agent counted them.
pub fn entries(counts: &v1::ArchiveCounts) -> u64 {
    [counts.files, counts.folders, counts.links, counts.specials]
        .iter()
        .fold(0, |all, more| all.saturating_add(*more))
}

/// What the controller thinks of an archive's refs.
enum Kept {
    /// The archive can be read from them, and they are kept.
    Whole,
    /// The repository lacks these.
    Missing(Vec<v1::BlobAddress>),
    /// What the archive begins with is not in them: sending it again would change nothing.
    Wrong(String),
}

async fn read_refs(stream: &mut Streaming<FinishArchiveRequest>) -> Result<Vec<u8>, Failure> {
    let mut refs = Vec::new();
    let mut pace = Pace::new();
    while let Some(message) = next_message(stream).await? {
        let Some(Part::Refs(piece)) = message.part else {
            return Err(Failure::invalid("the end of an archive is a summary and then its refs"));
        };
        if refs.len() + piece.len() > MAX_REFS {
            return Err(Failure::new(
                Code::ResourceExhausted,
                reason::INVALID_REQUEST,
                "the refs are too long",
            )
            .hint("split the source into several"));
        }
        pace.took(piece.len())?;
        refs.extend_from_slice(&piece);
    }
    Ok(refs)
}

/// Blocks. Resolves every blob, and keeps the refs once none is missing.
fn keep_refs(
    repository: &Repository,
    task: &ArchiveTask,
    root: Option<BlobId>,
    problems: Option<BlobId>,
    file: &[u8],
) -> Result<Kept, Failure> {
    let refs =
        Refs::decode(file).map_err(|error| Failure::invalid("the refs cannot be read").caused_by(&error))?;
    if refs.domain() != task.domain.domain {
        return Err(Failure::invalid("the refs are of another domain"));
    }
    let missing = repository
        .resolve_for(&task.work, &task.domain.domain, &refs)
        .map_err(|error| repository_failure("the archive's blobs cannot be looked up", &error))?;
    if !missing.is_empty() {
        return Ok(Kept::Missing(missing.iter().take(MAX_MISSING).map(convert::to_wire_address).collect()));
    }
    for (what, blob, kind) in
        [("page table", root, BlobKind::PageTable), ("list of problems", problems, BlobKind::Problems)]
    {
        let Some(blob) = blob else { continue };
        let found = repository
            .kind_of(&task.domain.domain, &refs, &blob)
            .map_err(|error| repository_failure("the archive's blobs cannot be looked up", &error))?;
        if found != Some(kind) {
            return Ok(Kept::Wrong(format!(
                "the archive's {what} is not among the blobs that it needs; this is a bug of the agent, please report it"
            )));
        }
    }
    atomic_file::write(&task.refs_file, file, atomic_file::PRIVATE).map_err(|error| {
        Failure::new(Code::Internal, reason::STORAGE, "the refs cannot be kept")
            .caused_by(&error)
            .hint("check space and permissions of the controller's state folder")
    })?;
    steps::reach(Step::RefsKept);
    Ok(Kept::Whole)
}

fn read_summary(
    task: &ArchiveTask,
    summary: &ArchiveSummary,
    now: Timestamp,
) -> Result<(ArchiveManifest, Vec<Problem>), Failure> {
    let counts = convert::counts(convert::required("counts", summary.counts.as_ref())?);
    let problems_blob = match summary.problems_blob.as_ref() {
        [] => None,
        bytes => Some(convert::id("problems_blob", bytes)?),
    };
    let incomplete = counts.unreadable > 0;
    let manifest = ArchiveManifest {
        format: FORMAT,
        source: task.source.clone(),
        kind: task.kind.clone(),
        outcome: if incomplete { Outcome::Incomplete } else { Outcome::Complete },
        reason: incomplete.then(|| format!("{} entries could not be read", counts.unreadable)),
        consistency: convert::consistency(summary.consistency()),
        quiesce: convert::quiesce(summary.quiesce.as_ref()),
        remarks: summary.remarks.iter().take(MAX_REMARKS).map(|remark| plain(remark)).collect(),
        signed: convert::signed(summary.signed.as_ref()).map(|(height, round, step)| SignedHeight {
            height,
            round,
            step,
        }),
        signer: None,
        domain: task.domain.domain,
        root: Some(convert::id("root", &summary.root)?),
        problems: problems_blob,
        agent: Some(task.agent_name.clone()),
        started_at: task.started_at,
        ended_at: now,
        counts,
        segments: 0,
        blobs: 0,
    };
    Ok((manifest, summary.problems.iter().take(MAX_PROBLEMS).filter_map(problem).collect()))
}

/// A line of bounded length.
fn plain(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A problem for people; one of a kind that this program does not know is left out.
fn problem(wire: &v1::EntryProblem) -> Option<Problem> {
    let kind = match wire.kind() {
        Kind::Unspecified => return None,
        Kind::Unreadable => ProblemKind::Unreadable,
        Kind::Vanished => ProblemKind::Vanished,
        Kind::Changed => ProblemKind::Changed,
        Kind::LeftOut => ProblemKind::LeftOut,
        Kind::Suspect => ProblemKind::Suspect,
    };
    let cause = plain(&wire.cause);
    Some(Problem { kind, path: wire.path.iter().take(4_096).copied().collect(), cause })
}
