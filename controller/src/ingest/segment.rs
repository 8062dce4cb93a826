//! One sealed segment: from the wire into a pack.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::v1::{PutSegmentRequest, PutSegmentResponse};
use proto::{Failure, convert};
use repository::error::RepositoryError;
use repository::ids::{DomainId, SegmentId};
use repository::ingest::{MAX_SEGMENT, Receive};
use repository::repo::Repository;
use runtime::steps;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::ingest::quota::Reserved;
use crate::ingest::{Place, STALLED_AFTER, next_message, repository_failure, thread_died, too_slow};
use crate::steps::Step;

/// Messages between the wire and the writing thread.
const QUEUE: usize = 4;
/// Bytes that a segment has to bring in a second, on average: who holds a place of all agents uses it.
const LEAST_RATE: u64 = 32 << 10;
const WHAT: &str = "the segment could not be taken in";

/// What the writing thread is told.
enum Piece {
    Data(Bytes),
    /// The stream has ended as it should: what was written may count.
    End,
}

/// The length of the segment whose stream begins with `head`, which no segment exceeds.
pub fn length(head: &PutSegmentRequest) -> Result<u64, Failure> {
    match head.length {
        length if length <= MAX_SEGMENT => Ok(length),
        _ => Err(Failure::invalid("the segment is longer than any segment may be")),
    }
}

/// Takes in the segment whose stream begins with `first`.
pub async fn put_segment(
    repository: Arc<Repository>,
    domain: DomainId,
    first: PutSegmentRequest,
    mut stream: Streaming<PutSegmentRequest>,
    (reserved, places): (Reserved, (Place, Place)),
) -> Result<PutSegmentResponse, Failure> {
    let segment: SegmentId = convert::id("segment_id", &first.segment_id)?;
    let (pieces, taken) = mpsc::channel(QUEUE);
    let writer = tokio::task::spawn_blocking(move || {
        let _places = places;
        let existed = write(&repository, &domain, segment, first.length, taken)?;
        if !existed {
            reserved.keep();
        }
        Ok(existed)
    });
    let patience = STALLED_AFTER + Duration::from_secs(first.length / LEAST_RATE);
    let feeding = feed(&pieces, first.data, &mut stream);
    let fed = tokio::time::timeout(patience, feeding).await.unwrap_or_else(|_| Err(too_slow(LEAST_RATE)));
    // A writer that meets the channel's end before `End` throws away what it has.
    drop(pieces);
    let written = writer.await.map_err(|error| thread_died(&error))?;
    match (fed, written) {
        // The writer's own error says more than that it stopped listening.
        (_, Err(error)) if !matches!(error, RepositoryError::Cancelled) => {
            Err(repository_failure(WHAT, &error))
        }
        (Err(failure), _) => Err(failure),
        (Ok(()), written) => {
            let existed = written.map_err(|error| repository_failure(WHAT, &error))?;
            Ok(PutSegmentResponse { existed })
        }
    }
}

/// Passes the stream's data on until its end, or until the writer needs no more.
async fn feed(
    pieces: &mpsc::Sender<Piece>,
    first: Bytes,
    stream: &mut Streaming<PutSegmentRequest>,
) -> Result<(), Failure> {
    let mut next = Some(first);
    while let Some(data) = next {
        if !data.is_empty() && pieces.send(Piece::Data(data)).await.is_err() {
            return Ok(());
        }
        next = next_message(stream).await?.map(|message| message.data);
    }
    // The writer may have answered already, because it had the segment.
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

/// On a thread of its own. True if the segment was durable before.
fn write(
    repository: &Repository,
    domain: &DomainId,
    segment: SegmentId,
    length: u64,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<bool, RepositoryError> {
    let mut receiver = match repository.receive(domain, segment, length)? {
        Receive::Existed => return Ok(true),
        Receive::New(receiver) => receiver,
    };
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(data)) => receiver.write(&data)?,
            Some(Piece::End) => break,
            None => return Err(RepositoryError::Cancelled),
        }
    }
    steps::reach(Step::SegmentReceived);
    receiver.finish()?;
    steps::reach(Step::SegmentDurable);
    Ok(false)
}
