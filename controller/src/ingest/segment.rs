//! One sealed segment: from the wire into a pack.

use std::sync::Arc;

use bytes::Bytes;
use proto::v1::{PutSegmentRequest, PutSegmentResponse};
use proto::{Failure, convert};
use repository::error::RepositoryError;
use repository::ids::{DomainId, SegmentId};
use repository::ingest::Receive;
use repository::repo::Repository;
use runtime::steps;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::ingest::{Allowance, Pace, next_message, repository_failure, thread_died};
use crate::steps::Step;

/// Messages between the wire and the writing thread.
const QUEUE: usize = 4;
const WHAT: &str = "the segment could not be taken in";

/// What the writing thread is told.
enum Piece {
    Data(Bytes),
    /// The stream has ended as it should: what was written may count.
    End,
}

/// Takes in the segment whose stream begins with `first`.
pub async fn put_segment(
    repository: Arc<Repository>,
    domain: DomainId,
    first: PutSegmentRequest,
    mut stream: Streaming<PutSegmentRequest>,
    allowance: &Allowance,
) -> Result<PutSegmentResponse, Failure> {
    let segment: SegmentId = convert::id("segment_id", &first.segment_id)?;
    let (pieces, taken) = mpsc::channel(QUEUE);
    let writer =
        tokio::task::spawn_blocking(move || write(&repository, &domain, segment, first.length, taken));
    let fed = feed(&pieces, first.data, &mut stream, allowance).await;
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
    allowance: &Allowance,
) -> Result<(), Failure> {
    let mut next = Some(first);
    let mut pace = Pace::new();
    while let Some(data) = next {
        pace.took(data.len())?;
        allowance.keep_pace(data.len()).await;
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
