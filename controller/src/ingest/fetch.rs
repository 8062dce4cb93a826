//! The way back: keys and tables of an archive's segments, then its sealed blobs.

use std::sync::Arc;
use std::time::Duration;

use proto::v1::{self, FetchBlobsRequest, FetchedBlob};
use proto::{Failure, convert};
use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::read::ArchiveReader;
use repository::repo::Repository;
use runtime::steps;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::fleet::RestoreTask;
use crate::ingest::{Place, hand_on, repository_failure, thread_died};
use crate::steps::Step;

const QUEUE: usize = 16;
/// Sealed blobs that may wait for the wire: with blobs of a few MiB at most some tens of MiB.
const BLOBS_AHEAD: usize = 8;
/// Requests that may wait for the reading thread.
const REQUESTS_AHEAD: usize = 64;
/// A stream on which nothing is asked for this long is ended. An agent that copies what is live says that more will come.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(3_600);
/// The most blobs that one request may name.
const MAX_BLOBS: usize = 1_024;

fn open(repository: &Arc<Repository>, keys: &KeyRing, task: &RestoreTask) -> Result<ArchiveReader, Failure> {
    ArchiveReader::open(repository, keys, &task.backup, &task.source)
        .map_err(|error| repository_failure("the archive cannot be opened", &error))
}

/// Sends what is needed to open the archive, a segment at a time.
pub fn open_archive(
    repository: Arc<Repository>,
    keys: KeyRing,
    task: Arc<RestoreTask>,
    places: (Place, Place),
) -> mpsc::Receiver<Result<v1::OpenedSegment, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let _places = places;
        let reader = match open(&repository, &keys, &task) {
            Ok(reader) => reader,
            Err(failure) => {
                // An agent that has gone away asks again.
                hand_on(&sender, Err(failure.into()));
                return;
            }
        };
        for segment in reader.segments() {
            let message = segment
                .map(|segment| to_wire(&segment))
                .map_err(|error| repository_failure("a segment cannot be opened", &error).into());
            if !hand_on(&sender, message) {
                return;
            }
        }
        steps::reach(Step::ArchiveOpened);
    });
    receiver
}

fn to_wire(opened: &repository::read::OpenedSegment) -> v1::OpenedSegment {
    let blobs = opened.blobs.iter().map(|(ordinal, line)| v1::BlobLine {
        ordinal: *ordinal,
        blob_id: line.id.as_bytes().to_vec().into(),
        kind: line.kind.code().into(),
        codec: line.codec.code().into(),
        plain_length: line.plain_length,
        stored_length: line.stored_length,
    });
    v1::OpenedSegment {
        segment_id: opened.segment.as_bytes().to_vec().into(),
        key: opened.key.expose().to_vec().into(),
        blobs: blobs.collect(),
    }
}

/// Answers each asked-for blob in order. A blob that cannot be had is answered with its problem, and the
/// stream goes on.
pub fn fetch_blobs(
    repository: Arc<Repository>,
    keys: KeyRing,
    task: Arc<RestoreTask>,
    first: FetchBlobsRequest,
    mut stream: Streaming<FetchBlobsRequest>,
    places: (Place, Place),
) -> mpsc::Receiver<Result<FetchedBlob, Status>> {
    let (asked, requests) = mpsc::channel::<FetchBlobsRequest>(REQUESTS_AHEAD);
    let (answers, receiver) = mpsc::channel(BLOBS_AHEAD);
    let failed = answers.clone();
    let reader = tokio::task::spawn_blocking(move || {
        let _places = places;
        answer(&repository, &keys, &task, requests, &answers)
    });
    tokio::spawn(async move {
        let mut next = Some(first);
        // An agent that writes its files may ask for nothing for long: its heartbeat says that it lives.
        while let Some(request) = next {
            if asked.send(request).await.is_err() {
                break;
            }
            next = tokio::select! {
                next = stream.message() => next.unwrap_or(None),
                () = failed.closed() => None,
            };
        }
        drop(asked);
        let failure = match reader.await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure,
            Err(error) => thread_died(&error),
        };
        // An agent that has gone away asks again.
        let _ = failed.send(Err(failure.into())).await;
    });
    receiver
}

/// Blocks until nobody asks or listens any more.
fn answer(
    repository: &Arc<Repository>,
    keys: &KeyRing,
    task: &RestoreTask,
    mut requests: mpsc::Receiver<FetchBlobsRequest>,
    answers: &mpsc::Sender<Result<FetchedBlob, Status>>,
) -> Result<(), Failure> {
    let reader = open(repository, keys, task)?;
    let next = |requests: &mut mpsc::Receiver<FetchBlobsRequest>| {
        let asked = tokio::time::timeout(ASKED_AGAIN_WITHIN, requests.recv());
        Handle::current().block_on(async { asked.await.unwrap_or(None) })
    };
    while let Some(request) = next(&mut requests) {
        if request.blobs.len() > MAX_BLOBS {
            return Err(Failure::invalid(format!("a request names more than {MAX_BLOBS} blobs")));
        }
        for wire in request.blobs {
            let address = convert::blob_address("blobs", &wire)?;
            let (sealed, problem) = match reader.sealed(&address) {
                Ok(sealed) => (sealed.into(), String::new()),
                Err(RepositoryError::BlobMissing(_)) => (Default::default(), "missing".to_owned()),
                Err(error) => (Default::default(), proto::failure::chain(&error)),
            };
            steps::reach(Step::BlobRead);
            if !hand_on(answers, Ok(FetchedBlob { address: Some(wire), sealed, problem })) {
                return Ok(());
            }
        }
    }
    Ok(())
}
